/* What a sequence keeps of each head beside its pages: memory and copies of it. Engine thread. */
#include <stdlib.h>
#include <string.h>

#include "cache/pages/sequence_tables.h"

/* Takes state memory for one head; false when there is no more. Scores and histories need no
 * clearing: they begin when a slot is written. */
static bool take(const struct cache_sequence *s, void *pointer, size_t bytes)
{
    const struct state_memory *m = &s->cache->memory;
    void *memory = m->take(m->context, bytes);
    memcpy(pointer, &memory, sizeof memory);
    return memory != NULL;
}

static bool take_zeroed(const struct cache_sequence *s, void *pointer, size_t bytes)
{
    const struct state_memory *m = &s->cache->memory;
    void *memory;
    if (!take(s, pointer, bytes))
        return false;
    memcpy(&memory, pointer, sizeof memory);
    m->clear(m->context, memory, bytes);
    return true;
}

static bool init_head(struct cache_sequence *s, uint32_t layer, uint32_t kv_head)
{
    const struct plan *p = s->plan;
    const uint32_t head = layer * s->cache->n_kv_heads + kv_head;
    struct head_slots *slots = &s->slots[head];
    struct head_state *state = &s->states[head];
    uint32_t d = s->cache->head_dim;
    const struct budget_shape shape = cache_shape(s->cache);
    const struct budget_ring ring = budget_ring_of(&shape, p, layer, kv_head);
    if (ring.ring) {
        s->rings[1] = (struct ring){ring.sinks, ring.window, ring.ring}; /* a plan has one */
        s->n_ring_heads++;
        slots->ring = 1;
    }
    slots->is_whole = budget_head_is_whole(&shape, p, layer, kv_head);
    slots->votes = budget_head_votes(&shape, p, layer, kv_head);
    slots->budget = UINT32_MAX;
    if (!take_zeroed(s, &state->counters, sizeof *state->counters))
        return false;
    if (slots->ring || slots->is_whole)
        return true;
    if (p->decode == DECODE_EVICT) {
        slots->budget = budget_even(p);
        if (!take(s, &state->holes, p->interval * sizeof *state->holes))
            return false;
    }
    if (scorer_of(p)->reads == SCORER_READS_DIRECTION &&
        !take_zeroed(s, &state->key_sum, (size_t)2 * d * sizeof *state->key_sum))
        return false;
    return p->remnant == REMNANT_NONE ||
           take_zeroed(s, &state->summary, (size_t)2 * d * sizeof *state->summary);
}

/* In a layer where no head votes all heads do. */
static void let_someone_vote(struct head_slots *layer, uint32_t n)
{
    uint32_t n_voters = 0;
    for (uint32_t h = 0; h < n; h++)
        n_voters += layer[h].votes;
    for (uint32_t h = 0; h < n && n_voters == 0; h++)
        layer[h].votes = true;
}

bool heads_init(struct cache_sequence *s, struct error *e)
{
    const uint32_t n_kv_heads = s->cache->n_kv_heads, n = cache_n_heads(s->cache);
    s->rings[0] = (struct ring){.window = UINT32_MAX};
    s->slots = calloc(n, sizeof *s->slots);
    s->states = calloc(n, sizeof *s->states);
    bool ok = s->slots && s->states;
    for (uint32_t l = 0; l < s->cache->n_layers && ok; l++) {
        for (uint32_t h = 0; h < n_kv_heads && ok; h++)
            ok = init_head(s, l, h);
        let_someone_vote(s->slots + (size_t)l * n_kv_heads, n_kv_heads);
    }
    return ok || error_set_memory(e, "a sequence", n * (sizeof *s->slots + sizeof *s->states));
}

void heads_clear(struct cache_sequence *s)
{
    const struct state_memory *m = &s->cache->memory;
    for (uint32_t h = 0; s->states && h < cache_n_heads(s->cache); h++) {
        struct head_state *head = &s->states[h];
        void *taken[] = {head->table,   head->counters, head->holes,  head->scores,
                         head->history, head->key_sum,  head->summary};
        free(head->pages);
        for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
            m->give(m->context, taken[i]);
    }
    free(s->slots);
    free(s->states);
}

/* Grows the array at `pointer` and keeps its first `used` bytes; false leaves it. */
static bool grow(const struct cache_sequence *s, void *pointer, size_t used, size_t bytes)
{
    const struct state_memory *m = &s->cache->memory;
    void *old, *bigger;
    memcpy(&old, pointer, sizeof old);
    if (!take(s, &bigger, bytes))
        return false;
    if (old && used)
        m->copy(m->context, bigger, old, used);
    m->give(m->context, old);
    memcpy(pointer, &bigger, sizeof bigger);
    return true;
}

/* The new mirror is written from the host's list: changes of the old one may still be under way. */
static bool grow_table(const struct cache_sequence *s, uint32_t head, uint32_t capacity)
{
    const struct state_memory *m = &s->cache->memory;
    struct head_state *state = &s->states[head];
    if (!m->mirrors_tables)
        return true;
    if (!grow(s, &state->table, 0, capacity * sizeof *state->table))
        return false;
    for (uint32_t i = 0; i < s->slots[head].n_pages; i++)
        m->set_page(m->context, state->table + i, state->pages[i]);
    return true;
}

bool heads_reserve(struct cache_sequence *s, uint32_t head, uint32_t n)
{
    struct head_slots *h = &s->slots[head];
    struct head_state *state = &s->states[head];
    if (n <= h->capacity)
        return true;
    uint32_t capacity = h->capacity + h->capacity / 2 > n ? h->capacity + h->capacity / 2 : n;
    uint32_t *pages = realloc(state->pages, (size_t)capacity * sizeof *pages);
    if (!pages)
        return false;
    state->pages = pages;
    size_t slots = (size_t)capacity * PAGE_SLOTS, used = (size_t)h->capacity * PAGE_SLOTS,
           scores = sizeof *state->scores, history = HISTORY_WORDS * sizeof *state->history;
    if (!grow_table(s, head, capacity))
        return false;
    if (scorer_keeps_sums(scorer_of(s->plan)) &&
        !grow(s, &state->scores, used * scores, slots * scores))
        return false;
    if (scorer_of(s->plan)->reads == SCORER_READS_HISTORY &&
        !grow(s, &state->history, used * history, slots * history))
        return false;
    h->capacity = capacity;
    return true;
}

void head_set_page(struct cache_sequence *s, uint32_t head, uint32_t index, uint32_t page)
{
    const struct state_memory *m = &s->cache->memory;
    struct head_state *state = &s->states[head];
    state->pages[index] = page;
    if (m->mirrors_tables)
        m->set_page(m->context, state->table + index, page);
}

bool heads_copy(struct cache_sequence *to, const struct cache_sequence *from, struct error *e)
{
    const struct state_memory *m = &to->cache->memory;
    size_t d = to->cache->head_dim;
    /* Under another budget there are no holes yet. */
    uint32_t n_holes =
        to->plan->interval < from->plan->interval ? to->plan->interval : from->plan->interval;
    for (uint32_t h = 0; h < cache_n_heads(to->cache); h++) {
        const struct head_slots *old = &from->slots[h];
        const struct head_state *a = &from->states[h];
        struct head_slots *new = &to->slots[h];
        struct head_state *b = &to->states[h];
        if (!heads_reserve(to, h, old->n_pages))
            return error_set_memory(e, "a page table", old->n_pages * sizeof *a->pages);
        const struct {
            void *to;
            const void *from;
            size_t bytes;
        } all[] = {
            {b->counters, a->counters, sizeof *a->counters},
            {b->holes, a->holes, n_holes * sizeof *a->holes},
            {b->scores, a->scores, old->n_slots * sizeof *a->scores},
            {b->history, a->history, (size_t)old->n_slots * HISTORY_WORDS * sizeof *a->history},
            {b->key_sum, a->key_sum, 2 * d * sizeof *a->key_sum},
            {b->summary, a->summary, 2 * d * sizeof *a->summary}};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            if (all[i].to && all[i].from && all[i].bytes)
                m->copy(m->context, all[i].to, all[i].from, all[i].bytes);
        for (uint32_t i = 0; i < old->n_pages; i++)
            head_set_page(to, h, i, a->pages[i]);
        new->n_pages = old->n_pages;
        new->n_slots = old->n_slots;
        if (from->compressed) /* before that it is the plan's own */
            new->budget = old->budget;
        new->n_holes = old->n_holes;
    }
    return true;
}

void heads_forget(struct cache_sequence *s, uint32_t head)
{
    const struct state_memory *m = &s->cache->memory;
    const uint32_t n_slots = s->slots[head].n_slots;
    struct head_state *state = &s->states[head];
    if (state->scores && n_slots)
        m->clear(m->context, state->scores, n_slots * sizeof *state->scores);
    if (state->history && n_slots)
        m->clear(m->context, state->history,
                 (size_t)n_slots * HISTORY_WORDS * sizeof *state->history);
}

const struct ring *head_ring(const struct cache_sequence *s, uint32_t head)
{
    return &s->rings[s->slots[head].ring];
}

uint32_t head_n_held(const struct cache_sequence *s, uint32_t head)
{
    const struct head_slots *h = &s->slots[head];
    return h->ring ? s->n_tokens - ring_evicted(head_ring(s, head), s->n_tokens)
                   : h->n_slots - h->n_holes;
}
