/* Strings with marks: cutting, joining, building. Offsets are bytes unless a name says characters.
 */
#ifndef WINNOW_ENGINE_JINJA_TEXT_H
#define WINNOW_ENGINE_JINJA_TEXT_H

#include "engine/jinja/runtime.h"

#define TEXT_LITERAL(s) text_of(s, sizeof(s) - 1, JINJA_MARK_TEMPLATE)

static inline bool text_is(const struct text *t, const char *bytes, size_t length)
{
    return t->length == length && __builtin_memcmp(t->bytes, bytes, length) == 0;
}
/* Bytes [start, end) of it, sharing its memory. */
struct text text_cut(const struct text *t, size_t start, size_t end);
bool text_concatenate(struct runtime *r, const struct text *a, const struct text *b,
                      struct text *out);
bool text_repeat(struct runtime *r, const struct text *t, int64_t times, struct text *out);
/* First or last place of `needle` in [start, end) of `t`, or SIZE_MAX. */
size_t text_find(const struct text *t, const struct text *needle, size_t start, size_t end);
size_t text_find_last(struct runtime *r, const struct text *t, const struct text *needle,
                      size_t start, size_t end);
/* The mark of what is computed from the text: JINJA_MARK_TEMPLATE if all bytes have it, else
 * JINJA_MARK_USER. */
uint8_t text_common_mark(const struct text *t);

enum { STRIP_LEFT = 1, STRIP_RIGHT = 2, STRIP_BOTH = 3 };
/* Without `characters` (NULL): white space. */
struct text text_strip(const struct text *t, const struct text *characters, int sides);
/* The same, and pays for it. */
bool text_strip_paid(struct runtime *r, const struct text *t, const struct text *characters,
                     int sides, struct text *out);

enum text_case { CASE_UPPER, CASE_LOWER, CASE_CAPITALIZE, CASE_TITLE, CASE_TITLE_WORDS, CASE_SWAP };
/* CASE_TITLE is Python's (every run of letters), CASE_TITLE_WORDS Jinja's filter (after spaces and
 * brackets). */
bool text_change_case(struct runtime *r, const struct text *t, enum text_case to, struct text *out);
/* str.isupper() or islower(): some letter has a case, and all letters with a case have this one. */
bool text_has_case(struct runtime *r, const struct text *t, enum text_case wanted, bool *has);
bool text_replace(struct runtime *r, const struct text *t, const struct text *old,
                  const struct text *new, int64_t max, struct text *out);

/* Appends pieces; the finished text is in the arena. Starts as all zeros. */
struct builder {
    struct text_buffer *buffer;
};
bool builder_add(struct runtime *r, struct builder *b, const struct text *t);
bool builder_add_bytes(struct runtime *r, struct builder *b, const char *bytes, size_t length,
                       uint8_t mark);
struct text builder_text(const struct builder *b);

#endif
