/* Numbers with units as people write them on a command line. Any thread. */
#ifndef WINNOW_CONFIG_BASE_SIZE_H
#define WINNOW_CONFIG_BASE_SIZE_H

#include <stdbool.h>
#include <stdint.h>

/* "4G", "512M", "16MiB", "1.5G" or "65536" to bytes; units are powers of 1024. False: anything else,
 * or more than 2^62. */
bool size_parse(const char *text, uint64_t *bytes);
/* "0.5", "30" or "1e3" seconds to milliseconds; 0 to 1e9 seconds. */
bool seconds_parse(const char *text, uint64_t *ms);
/* Digits only; a value from min to max. */
bool whole_number_parse(const char *text, uint64_t min, uint64_t max, uint64_t *value);
/* A finite decimal number without a sign. */
bool number_parse(const char *text, double *value);
/* "1.5 GiB" into out; returns out. */
const char *size_format(char out[32], uint64_t bytes);

#endif
