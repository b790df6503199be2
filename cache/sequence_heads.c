/* The memory of what a sequence keeps of each head beside its pages. Engine thread. */
#include <stdlib.h>
#include <string.h>

#include "cache/sequence_tables.h"

static uint32_t n_heads(const struct cache_sequence *s)
{
    return s->cache->n_layers * s->cache->n_kv_heads;
}

/* Scores that are kept from step to step; the others are made from keys or positions when needed.
 */
static bool keeps_scores(const struct plan *p)
{
    return p->scorer == SCORER_ATTENTION_SUM || p->scorer == SCORER_ATTENTION_MEAN ||
           p->scorer == SCORER_WINDOW_ATTENTION || p->scorer == SCORER_LAST_QUERY;
}

static bool init_head(struct cache_sequence *s, uint32_t layer, uint32_t kv_head)
{
    const struct plan *p = &s->plan;
    struct table *t = &s->tables[layer * s->cache->n_kv_heads + kv_head];
    struct head_state *head = &t->state;
    uint32_t d = s->cache->head_dim;
    t->placement = budget_placement(s->cache, p, layer, kv_head);
    s->has_ring |= t->placement.ring > 0;
    t->whole = budget_head_is_whole(s->cache, p, layer, kv_head);
    t->votes = budget_head_votes(s->cache, p, layer, kv_head);
    head->budget = UINT32_MAX;
    if (t->placement.ring || t->whole)
        return true;
    if (p->decode == DECODE_EVICT) {
        head->budget = budget_even(p);
        head->holes = malloc(p->interval * sizeof *head->holes);
        if (!head->holes)
            return false;
    }
    if (p->scorer == SCORER_KEY_DIFF && !(head->key_sum = calloc(d, sizeof *head->key_sum)))
        return false;
    return p->remnant == REMNANT_NONE ||
           (head->summary = calloc((size_t)2 * d, sizeof *head->summary)) != NULL;
}

/* A layer where nobody has a vote: everybody has. */
static void let_someone_vote(struct table *layer, uint32_t n)
{
    uint32_t n_voters = 0;
    for (uint32_t h = 0; h < n; h++)
        n_voters += layer[h].votes;
    for (uint32_t h = 0; h < n && n_voters == 0; h++)
        layer[h].votes = true;
}

bool heads_init(struct cache_sequence *s, struct error *e)
{
    uint32_t n_kv_heads = s->cache->n_kv_heads;
    s->tables = calloc(n_heads(s), sizeof *s->tables);
    bool ok = s->tables != NULL;
    for (uint32_t l = 0; l < s->cache->n_layers && ok; l++) {
        for (uint32_t h = 0; h < n_kv_heads && ok; h++)
            ok = init_head(s, l, h);
        let_someone_vote(s->tables + (size_t)l * n_kv_heads, n_kv_heads);
    }
    return ok || error_set_memory(e, "a sequence", n_heads(s) * sizeof *s->tables);
}

void heads_clear(struct cache_sequence *s)
{
    for (uint32_t h = 0; s->tables && h < n_heads(s); h++) {
        struct head_state *head = &s->tables[h].state;
        free(head->pages);
        free(head->holes);
        free(head->scores);
        free(head->history);
        free(head->key_sum);
        free(head->summary);
    }
    free(s->tables);
}

bool heads_reserve(struct cache_sequence *s, struct head_state *head, uint32_t n)
{
    if (n <= head->capacity)
        return true;
    uint32_t capacity =
        head->capacity + head->capacity / 2 > n ? head->capacity + head->capacity / 2 : n;
    uint32_t *pages = realloc(head->pages, (size_t)capacity * sizeof *pages);
    if (!pages)
        return false;
    head->pages = pages;
    size_t slots = (size_t)capacity * PAGE_SLOTS;
    if (plan_evicts(&s->plan) && keeps_scores(&s->plan)) {
        float *scores = realloc(head->scores, slots * sizeof *scores);
        if (!scores)
            return false;
        head->scores = scores;
    }
    if (s->plan.scorer == SCORER_PERSISTENCE) {
        uint32_t *history = realloc(head->history, slots * HISTORY_WORDS * sizeof *history);
        if (!history)
            return false;
        head->history = history;
    }
    head->capacity = capacity;
    return true;
}

/* A copy of n values into memory that is there already, where there is any. */
static void copy(void *to, const void *from, size_t bytes)
{
    if (to && from && bytes)
        memcpy(to, from, bytes);
}

bool heads_copy(struct cache_sequence *to, const struct cache_sequence *from, struct error *e)
{
    size_t d = to->cache->head_dim;
    for (uint32_t h = 0; h < n_heads(to); h++) {
        const struct head_state *a = &from->tables[h].state;
        struct head_state *b = &to->tables[h].state;
        if (!heads_reserve(to, b, a->n_pages))
            return error_set_memory(e, "a page table", a->n_pages * sizeof *a->pages);
        copy(b->pages, a->pages, a->n_pages * sizeof *a->pages);
        copy(b->holes, a->holes, a->n_holes * sizeof *a->holes);
        copy(b->scores, a->scores, a->n_slots * sizeof *a->scores);
        copy(b->history, a->history, (size_t)a->n_slots * HISTORY_WORDS * sizeof *a->history);
        copy(b->key_sum, a->key_sum, d * sizeof *a->key_sum);
        copy(b->summary, a->summary, 2 * d * sizeof *a->summary);
        b->n_pages = a->n_pages;
        b->n_slots = a->n_slots;
        if (from->compressed) /* before that it is the plan's own */
            b->budget = a->budget;
        b->n_holes = a->n_holes;
        b->n_holes_due = a->n_holes_due;
        b->n_summary = a->n_summary;
    }
    return true;
}

void heads_forget(struct head_state *head, uint32_t first, uint32_t n)
{
    if (head->scores)
        memset(head->scores + first, 0, n * sizeof *head->scores);
    if (head->history)
        memset(head->history + (size_t)first * HISTORY_WORDS, 0,
               (size_t)n * HISTORY_WORDS * sizeof *head->history);
}
