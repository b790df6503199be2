/* UTF-8 as in Unicode's table 3-7: no overlong forms, no surrogates, nothing above U+10FFFF. Any
 * thread; no allocation. */
#ifndef WINNOW_CONFIG_BASE_UTF8_H
#define WINNOW_CONFIG_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* U+FFFD, the replacement character: 3 bytes. */
#define UTF8_REPLACEMENT "\xEF\xBF\xBD"

/* The length of the character at `s`, 1 to 4 bytes. 0: the `left` bytes there, at least 1, do not
 * begin with a whole character. */
size_t utf8_length(const char *s, size_t left);
/* The same, but also 0 for control characters (U+0000 to U+001F, U+007F to U+009F). */
size_t utf8_printable_length(const char *s, size_t left);
/* The code point of the character at `s`, which has n bytes as utf8_length says. */
uint32_t utf8_code(const char *s, size_t n);
/* Whether the whole text is valid. */
bool utf8_valid(const char *text, size_t length);

/* For bytes that arrive one by one: the length of a character whose first byte is `first` (0: no
 * character begins so), and whether `second` may follow it. Later bytes are 0x80 to 0xBF. */
size_t utf8_length_by_first(uint8_t first);
bool utf8_may_follow(uint8_t first, uint8_t second);

#endif
