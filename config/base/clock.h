/* The monotonic clock: it never goes back, and its zero means nothing. Any thread. */
#ifndef WINNOW_CONFIG_BASE_CLOCK_H
#define WINNOW_CONFIG_BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_ns(void);
/* The same in seconds, for rates and progress. */
double clock_seconds(void);

#endif
