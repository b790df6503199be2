/* The limit of open files (ulimit -n), which every connection takes one of. Main thread. */
#ifndef WINNOW_SERVER_HTTP_DESCRIPTORS_H
#define WINNOW_SERVER_HTTP_DESCRIPTORS_H

#include <stdint.h>

/* Raises the soft limit for n connections, as far as the hard limit lets it. Returns how many fit, at least
 * 1; if they are fewer, warns. */
uint32_t descriptors_for(uint32_t n);

#endif
