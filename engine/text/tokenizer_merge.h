/* Merging, for both families: which two neighbouring tokens become one, and in which order.
 *
 * A table maps a pair of tokens to (rank, merged token). The lowest rank merges first, of equal
 * ranks the leftmost. BPE files list the pairs in order of rank. SentencePiece files give scores to
 * tokens instead: every way to cut a token into two tokens is a pair, ranked by falling score.
 *
 * A word of n symbols takes O(n log n): a heap of candidate pairs over a linked list of symbols.
 * Short words, which are nearly all, scan an array instead. The finished table is read only (any
 * thread); a scratch belongs to one call at a time. */
#ifndef WINNOW_ENGINE_TEXT_TOKENIZER_MERGE_H
#define WINNOW_ENGINE_TEXT_TOKENIZER_MERGE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "config/base/error.h"

struct merge {
    int32_t left, right; /* left -1: empty slot */
    uint32_t rank;
    int32_t merged;
};

struct merge_table {
    struct merge *slots; /* open addressing */
    uint64_t mask, count, seed;
};

bool merge_table_init(struct merge_table *table, uint64_t n_expected);
/* Grows as needed. A pair that is added twice keeps its lower rank. False: out of memory. */
bool merge_table_add(struct merge_table *table, int32_t left, int32_t right, uint32_t rank,
                     int32_t merged);
void merge_table_free(struct merge_table *table);

/* One symbol of a word: its token (-1 for a character without one) and where it starts in the text.
 * It ends where the next one starts. */
struct merge_symbol {
    int32_t token;
    uint32_t start;
};

struct merge_scratch {
    struct merge_symbol *symbols;
    size_t count, capacity;
    uint32_t *next, *previous; /* [link_capacity], of long words only */
    size_t link_capacity;
    struct merge_candidate *heap;
    size_t heap_count, heap_capacity;
    const atomic_bool *stop; /* ends the merging of a long word; may be NULL */
};

bool merge_scratch_push(struct merge_scratch *scratch, int32_t token, uint32_t start);
void merge_scratch_free(struct merge_scratch *scratch);

/* Merges scratch->symbols until nothing more can be merged; count shrinks. False: out of memory, or
 * stopped. */
bool merge_word(const struct merge_table *table, struct merge_scratch *scratch);

#endif
