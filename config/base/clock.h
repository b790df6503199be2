/* The monotonic clock. It never goes back; only differences have a meaning. Any thread. */
#ifndef WINNOW_CONFIG_BASE_CLOCK_H
#define WINNOW_CONFIG_BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_ns(void);
/* The same time in seconds, for rates and progress. */
double clock_seconds(void);

#endif
