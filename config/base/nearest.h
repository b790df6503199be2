/* "Did you mean": the name nearest to a misspelled word. Any thread; no allocation. */
#ifndef WINNOW_CONFIG_BASE_NEAREST_H
#define WINNOW_CONFIG_BASE_NEAREST_H

#include <stdint.h>

/* The name among name(0) .. name(n - 1) that needs the fewest edits (insert, delete or replace a byte)
 * from `word`; the first one when several do. NULL when every name needs more than three edits, or
 * more edits than half the length of the longer word: then it is another word, not a misspelling. */
const char *nearest_name(const char *word, const char *(*name)(uint32_t), uint32_t n);

#endif
