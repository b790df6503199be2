/* Numbers and strings as Python writes and reads them. */
#ifndef WINNOW_ENGINE_JINJA_LITERAL_H
#define WINNOW_ENGINE_JINJA_LITERAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decodes the escapes inside a string literal. `out` has room for `length` bytes. False: an escape
 * that is no character. */
bool literal_string(const char *text, size_t length, char *out, size_t *out_length);

struct literal_number {
    bool is_float;
    int64_t integer;
    double number;
};
/* The number literal at `text`, which starts with a digit: its length, or 0 when an integer does
 * not fit. */
size_t literal_number_read(const char *text, size_t length, bool allow_float,
                           struct literal_number *out);

/* int(text, base) and float(text) of Python: the whole text, white space around it allowed. */
bool literal_parse_int(const char *text, size_t length, int base, int64_t *out);
bool literal_parse_float(const char *text, size_t length, double *out);

/* repr(float): the shortest text that reads back as the same number. */
enum { LITERAL_FLOAT_BYTES = 32 };
size_t literal_write_float(char out[LITERAL_FLOAT_BYTES], double d);

#endif
