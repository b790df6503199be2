/* "Did you mean": the name that a misspelled word stands for. Any thread; no allocation. */
#ifndef WINNOW_CONFIG_BASE_NEAREST_H
#define WINNOW_CONFIG_BASE_NEAREST_H

#include <stdint.h>

/* Of name(0) .. name(n - 1) the one that the fewest edits (insert, delete, replace a byte) make out
 * of `word`, the first of those. NULL when that takes more than three edits or more than half of
 * the longer one's bytes: it is another word then, not a slip. */
const char *nearest_name(const char *word, const char *(*name)(uint32_t), uint32_t n);

#endif
