/* Merging pairs of tokens by rank: see tokenizer_merge.h. */
#include "engine/text/tokenizer_merge.h"

#include <stdlib.h>
#include <string.h>

#include "engine/text/tokenizer_vocab.h"

/* Words up to this many symbols are merged by scanning: at most 32 * 32 comparisons, and no heap.
 */
#define SHORT_WORD 32
#define NO_LINK    UINT32_MAX

/* A pair that can merge. It is stale once its symbol or the one after has changed. */
struct merge_candidate {
    uint32_t rank, position;
    int32_t left, right;
};

static struct merge *slot_of(const struct merge_table *table, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint64_t slot = vocab_mix(key ^ table->seed) & table->mask;
    while (table->slots[slot].left >= 0 &&
           (table->slots[slot].left != left || table->slots[slot].right != right))
        slot = (slot + 1) & table->mask;
    return &table->slots[slot];
}

/* NULL when the two do not merge. */
static const struct merge *find(const struct merge_table *table, int32_t left, int32_t right)
{
    if (left < 0 || right < 0)
        return NULL;
    const struct merge *slot = slot_of(table, left, right);
    return slot->left >= 0 ? slot : NULL;
}

static bool allocate_slots(struct merge_table *table, uint64_t n_slots)
{
    table->slots = malloc(n_slots * sizeof *table->slots);
    if (!table->slots)
        return false;
    memset(table->slots, 0xFF, n_slots * sizeof *table->slots);
    table->mask = n_slots - 1;
    return true;
}

bool merge_table_init(struct merge_table *table, uint64_t n_expected)
{
    uint64_t n_slots = 64;
    while (n_slots < n_expected * 2)
        n_slots *= 2;
    table->count = 0;
    table->seed = vocab_random_seed();
    return allocate_slots(table, n_slots);
}

static bool grow(struct merge_table *table)
{
    struct merge_table old = *table;
    if (!allocate_slots(table, (old.mask + 1) * 2)) {
        *table = old;
        return false;
    }
    for (uint64_t i = 0; i <= old.mask; i++)
        if (old.slots[i].left >= 0)
            *slot_of(table, old.slots[i].left, old.slots[i].right) = old.slots[i];
    free(old.slots);
    return true;
}

bool merge_table_add(struct merge_table *table, int32_t left, int32_t right, uint32_t rank,
                     int32_t merged)
{
    if ((table->count + 1) * 3 > table->mask * 2 && !grow(table))
        return false;
    struct merge *slot = slot_of(table, left, right);
    if (slot->left >= 0 && slot->rank <= rank)
        return true;
    table->count += slot->left < 0;
    *slot = (struct merge){left, right, rank, merged};
    return true;
}

void merge_table_free(struct merge_table *table)
{
    free(table->slots);
    memset(table, 0, sizeof *table);
}

bool merge_scratch_push(struct merge_scratch *scratch, int32_t token, uint32_t start)
{
    if (scratch->count == scratch->capacity) {
        size_t capacity = scratch->capacity ? scratch->capacity * 2 : 256;
        struct merge_symbol *symbols = realloc(scratch->symbols, capacity * sizeof *symbols);
        if (!symbols)
            return false;
        scratch->symbols = symbols;
        scratch->capacity = capacity;
    }
    scratch->symbols[scratch->count++] = (struct merge_symbol){token, start};
    return true;
}

void merge_scratch_free(struct merge_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->next);
    free(scratch->previous);
    free(scratch->heap);
    memset(scratch, 0, sizeof *scratch);
}

/* pair[i] is what symbols i and i + 1 merge into. A merge changes only the two pairs beside it. */
static void merge_short(const struct merge_table *table, struct merge_symbol *symbols,
                        size_t *count)
{
    const struct merge *pair[SHORT_WORD];
    size_t n = *count;
    for (size_t i = 0; i + 1 < n; i++)
        pair[i] = find(table, symbols[i].token, symbols[i + 1].token);
    for (;;) {
        size_t best = SIZE_MAX;
        for (size_t i = 0; i + 1 < n; i++)
            if (pair[i] && (best == SIZE_MAX || pair[i]->rank < pair[best]->rank))
                best = i;
        if (best == SIZE_MAX)
            break;
        symbols[best].token = pair[best]->merged;
        n--;
        memmove(&symbols[best + 1], &symbols[best + 2], (n - best - 1) * sizeof *symbols);
        memmove(&pair[best], &pair[best + 1], (n - best - 1) * sizeof *pair);
        if (best > 0)
            pair[best - 1] = find(table, symbols[best - 1].token, symbols[best].token);
        if (best + 1 < n)
            pair[best] = find(table, symbols[best].token, symbols[best + 1].token);
    }
    *count = n;
}

static bool comes_before(const struct merge_candidate *a, const struct merge_candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->position < b->position;
}

static bool heap_push(struct merge_scratch *s, struct merge_candidate candidate)
{
    if (s->heap_count == s->heap_capacity) {
        size_t capacity = s->heap_capacity ? s->heap_capacity * 2 : 256;
        struct merge_candidate *heap = realloc(s->heap, capacity * sizeof *heap);
        if (!heap)
            return false;
        s->heap = heap;
        s->heap_capacity = capacity;
    }
    size_t i = s->heap_count++;
    for (; i > 0 && comes_before(&candidate, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = candidate;
    return true;
}

static struct merge_candidate heap_pop(struct merge_scratch *s)
{
    struct merge_candidate top = s->heap[0], last = s->heap[--s->heap_count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= s->heap_count)
            break;
        if (child + 1 < s->heap_count && comes_before(&s->heap[child + 1], &s->heap[child]))
            child++;
        if (!comes_before(&s->heap[child], &last))
            break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return top;
}

static bool reserve_links(struct merge_scratch *s)
{
    if (s->count <= s->link_capacity)
        return true;
    uint32_t *next = realloc(s->next, s->count * sizeof *next);
    if (!next)
        return false;
    s->next = next;
    uint32_t *previous = realloc(s->previous, s->count * sizeof *previous);
    if (!previous)
        return false;
    s->previous = previous;
    s->link_capacity = s->count;
    return true;
}

static bool offer(const struct merge_table *table, struct merge_scratch *s, uint32_t left,
                  uint32_t right)
{
    const struct merge *pair = find(table, s->symbols[left].token, s->symbols[right].token);
    return !pair ||
           heap_push(s, (struct merge_candidate){pair->rank, left, pair->left, pair->right});
}

/* Absorbs the symbol after `position`: its token becomes -1, which makes its candidates stale. */
static void absorb_next(struct merge_scratch *s, uint32_t position, int32_t merged)
{
    uint32_t absorbed = s->next[position], after = s->next[absorbed];
    s->symbols[position].token = merged;
    s->symbols[absorbed].token = -1;
    s->next[position] = after;
    if (after != NO_LINK)
        s->previous[after] = position;
}

/* Looked at once in STOP_EVERY symbols, because another thread writes it. */
enum { STOP_EVERY = 4096 };

static bool is_stopped(const struct merge_scratch *s, size_t count)
{
    return count % STOP_EVERY == 0 && s->stop &&
           atomic_load_explicit(s->stop, memory_order_relaxed);
}

/* At most one candidate per pair at first and two more per merge, so the heap holds less than 3n.
 */
static bool merge_long(const struct merge_table *table, struct merge_scratch *s)
{
    if (!reserve_links(s))
        return false;
    uint32_t n = (uint32_t)s->count;
    s->heap_count = 0;
    for (uint32_t i = 0; i < n; i++) {
        s->previous[i] = i ? i - 1 : NO_LINK;
        s->next[i] = i + 1 < n ? i + 1 : NO_LINK;
        if ((i + 1 < n && !offer(table, s, i, i + 1)) || is_stopped(s, i))
            return false;
    }
    for (size_t n_popped = 0; s->heap_count > 0; n_popped++) {
        if (is_stopped(s, n_popped))
            return false;
        struct merge_candidate top = heap_pop(s);
        uint32_t i = top.position, right = s->next[i];
        if (s->symbols[i].token != top.left || right == NO_LINK ||
            s->symbols[right].token != top.right)
            continue;
        absorb_next(s, i, find(table, top.left, top.right)->merged);
        if (s->previous[i] != NO_LINK && !offer(table, s, s->previous[i], i))
            return false;
        if (s->next[i] != NO_LINK && !offer(table, s, i, s->next[i]))
            return false;
    }
    size_t kept = 0;
    for (uint32_t i = 0; i != NO_LINK; i = s->next[i])
        s->symbols[kept++] = s->symbols[i];
    s->count = kept;
    return true;
}

bool merge_word(const struct merge_table *table, struct merge_scratch *scratch)
{
    if (scratch->count > SHORT_WORD)
        return merge_long(table, scratch);
    merge_short(table, scratch->symbols, &scratch->count);
    return true;
}
