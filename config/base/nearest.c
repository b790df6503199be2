/* See nearest.h. */
#include "config/base/nearest.h"

#include <string.h>

enum { MOST_EDITS = 3, LONGEST_NAME = 40 };

/* The Levenshtein distance of two words of at most LONGEST_NAME bytes. */
static uint32_t edits(const char *a, size_t n_a, const char *b, size_t n_b)
{
    uint32_t row[LONGEST_NAME + 1];
    for (size_t j = 0; j <= n_b; j++)
        row[j] = (uint32_t)j;
    for (size_t i = 1; i <= n_a; i++) {
        uint32_t diagonal = row[0];
        row[0] = (uint32_t)i;
        for (size_t j = 1; j <= n_b; j++) {
            uint32_t replace = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            uint32_t other = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            row[j] = replace < other ? replace : other;
        }
    }
    return row[n_b];
}

const char *nearest_name(const char *word, const char *(*name)(uint32_t), uint32_t n)
{
    const size_t length = strlen(word);
    const char *best = NULL;
    uint32_t fewest = MOST_EDITS + 1;
    if (length > LONGEST_NAME)
        return NULL;
    for (uint32_t i = 0; i < n; i++) {
        const char *candidate = name(i);
        size_t m = strlen(candidate), longer = m > length ? m : length;
        if (m > LONGEST_NAME)
            continue;
        uint32_t d = edits(word, length, candidate, m);
        if (d < fewest && 2 * d <= longer) {
            fewest = d;
            best = candidate;
        }
    }
    return best;
}
