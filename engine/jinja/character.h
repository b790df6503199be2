/* Unicode characters in UTF-8 text, as far as Python's string methods need them.
 *
 * Every function accepts invalid UTF-8: a byte that starts no whole character counts as one
 * character, so a walk always advances and stays within the text. */
#ifndef WINNOW_ENGINE_JINJA_CHARACTER_H
#define WINNOW_ENGINE_JINJA_CHARACTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the character at `text` (of `length` >= 1 bytes), 1 to 4; `*code` (may be NULL) is its
 * number, or 0xFFFD for a stray byte. */
size_t character_read(const char *text, size_t length, uint32_t *code);
/* The same for the character that ends at text + length, length >= 1. */
size_t character_read_back(const char *text, size_t length, uint32_t *code);
/* Writes 1 to 4 bytes; returns how many. */
size_t character_write(char out[4], uint32_t code);
/* Number of characters, and the byte offset of character `index` (or `length` when there are
 * fewer). */
size_t character_count(const char *text, size_t length);
size_t character_offset(const char *text, size_t length, size_t index);

/* str.isspace(), str.upper() and str.lower() of one character. Case: Latin, Greek, Cyrillic and
 * Armenian letters whose other case is one character. */
bool character_is_space(uint32_t code);
bool character_is_alpha(uint32_t code);
uint32_t character_upper(uint32_t code);
uint32_t character_lower(uint32_t code);

#endif
