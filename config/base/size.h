/* Numbers with units as people write them on a command line. Any thread. */
#ifndef WINNOW_CONFIG_BASE_SIZE_H
#define WINNOW_CONFIG_BASE_SIZE_H

#include <stdbool.h>
#include <stdint.h>

/* "4G", "512M", "16MiB", "1.5G", "65536": bytes, units of 1024. False when it is anything else or
 * over 2^62. */
bool size_parse(const char *text, uint64_t *bytes);
/* "0.5", "30", "1e3": seconds to milliseconds, 0 <= value <= 1e9. */
bool seconds_parse(const char *text, uint64_t *ms);
/* Digits only, min <= value <= max. */
bool whole_number_parse(const char *text, uint64_t min, uint64_t max, uint64_t *value);
/* A plain decimal number, finite. */
bool number_parse(const char *text, double *value);
/* "1.5 GiB" into out; returns out. */
const char *size_format(char out[32], uint64_t bytes);

#endif
