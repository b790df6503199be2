/* What a character of UTF-8 is: the sequences of Unicode's table 3-7, so no overlong forms, no
 * surrogates, nothing above U+10FFFF. Any thread; no allocation. */
#ifndef WINNOW_CONFIG_BASE_UTF8_H
#define WINNOW_CONFIG_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* U+FFFD, which stands for bytes that are no character: 3 bytes. */
#define UTF8_REPLACEMENT "\xEF\xBF\xBD"

/* Bytes of the character at `s`, 1 to 4; 0 when the `left` >= 1 bytes there do not begin with a
 * whole one. */
size_t utf8_length(const char *s, size_t left);
/* The same, but 0 for control characters too (U+0000 to U+001F, U+007F to U+009F). */
size_t utf8_printable_length(const char *s, size_t left);
/* The code point of the character of n bytes at `s`, n as utf8_length gives it. */
uint32_t utf8_code(const char *s, size_t n);
/* Whether the text is characters from beginning to end. */
bool utf8_valid(const char *text, size_t length);

/* For bytes that come one by one. How many bytes the character has that begins with `first`, or 0
 * when none does; and whether `second` may follow it. Bytes after these are 0x80 to 0xBF. */
size_t utf8_length_by_first(uint8_t first);
bool utf8_may_follow(uint8_t first, uint8_t second);

#endif
