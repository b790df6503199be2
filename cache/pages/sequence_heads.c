/* The memory of what a sequence keeps of each head beside its pages. Engine thread. */
#include <stdlib.h>
#include <string.h>

#include "cache/pages/sequence_tables.h"

static uint32_t n_heads(const struct cache_sequence *s)
{
    return s->cache->n_layers * s->cache->n_kv_heads;
}

/* Takes state memory for one head; false when there is no more. */
static bool take(const struct cache_sequence *s, void *pointer, size_t bytes)
{
    const struct state_memory *m = &s->cache->memory;
    void *memory = m->take(m->context, bytes);
    memcpy(pointer, &memory, sizeof memory);
    return memory != NULL;
}

static bool init_head(struct cache_sequence *s, uint32_t layer, uint32_t kv_head)
{
    const struct plan *p = s->plan;
    struct table *t = &s->tables[layer * s->cache->n_kv_heads + kv_head];
    struct head_state *head = &t->state;
    uint32_t d = s->cache->head_dim;
    const struct budget_shape shape = cache_shape(s->cache);
    const struct budget_ring ring = budget_ring_of(&shape, p, layer, kv_head);
    t->placement = (struct placement){ring.sinks, ring.window, ring.ring};
    s->has_ring |= t->placement.ring > 0;
    t->whole = budget_head_is_whole(&shape, p, layer, kv_head);
    t->votes = budget_head_votes(&shape, p, layer, kv_head);
    head->budget = UINT32_MAX;
    if (!take(s, &head->counters, sizeof *head->counters))
        return false;
    if (t->placement.ring || t->whole)
        return true;
    if (p->decode == DECODE_EVICT) {
        head->budget = budget_even(p);
        if (!take(s, &head->holes, p->interval * sizeof *head->holes))
            return false;
    }
    if (scorer_of(p)->reads == SCORER_READS_DIRECTION &&
        !take(s, &head->key_sum, d * sizeof *head->key_sum))
        return false;
    return p->remnant == REMNANT_NONE ||
           take(s, &head->summary, (size_t)2 * d * sizeof *head->summary);
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
    const struct state_memory *m = &s->cache->memory;
    for (uint32_t h = 0; s->tables && h < n_heads(s); h++) {
        struct head_state *head = &s->tables[h].state;
        void *taken[] = {head->table,   head->counters, head->holes,  head->scores,
                         head->history, head->key_sum,  head->summary};
        free(head->pages);
        for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
            m->give(m->context, taken[i]);
    }
    free(s->tables);
}

/* More room for what `pointer` points to, its first `used` bytes kept; false leaves it. */
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

/* The mirror is written from the host's list: changes of the old one may still be on their way. */
static bool grow_table(const struct cache_sequence *s, struct head_state *head, uint32_t capacity)
{
    const struct state_memory *m = &s->cache->memory;
    if (!m->mirrors_tables)
        return true;
    if (!grow(s, &head->table, 0, capacity * sizeof *head->table))
        return false;
    for (uint32_t i = 0; i < head->n_pages; i++)
        m->set_page(m->context, head->table + i, head->pages[i]);
    return true;
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
    size_t slots = (size_t)capacity * PAGE_SLOTS, used = (size_t)head->capacity * PAGE_SLOTS,
           scores = sizeof *head->scores, history = HISTORY_WORDS * sizeof *head->history;
    if (!grow_table(s, head, capacity))
        return false;
    if (scorer_keeps_sums(scorer_of(s->plan)) &&
        !grow(s, &head->scores, used * scores, slots * scores))
        return false;
    if (scorer_of(s->plan)->reads == SCORER_READS_HISTORY &&
        !grow(s, &head->history, used * history, slots * history))
        return false;
    head->capacity = capacity;
    return true;
}

void head_set_page(struct cache_sequence *s, struct head_state *head, uint32_t index, uint32_t page)
{
    const struct state_memory *m = &s->cache->memory;
    head->pages[index] = page;
    if (m->mirrors_tables)
        m->set_page(m->context, head->table + index, page);
}

bool heads_copy(struct cache_sequence *to, const struct cache_sequence *from, struct error *e)
{
    const struct state_memory *m = &to->cache->memory;
    size_t d = to->cache->head_dim;
    /* Under another budget there are no holes yet. */
    uint32_t n_holes =
        to->plan->interval < from->plan->interval ? to->plan->interval : from->plan->interval;
    for (uint32_t h = 0; h < n_heads(to); h++) {
        const struct head_state *a = &from->tables[h].state;
        struct head_state *b = &to->tables[h].state;
        if (!heads_reserve(to, b, a->n_pages))
            return error_set_memory(e, "a page table", a->n_pages * sizeof *a->pages);
        const struct {
            void *to;
            const void *from;
            size_t bytes;
        } all[] = {
            {b->counters, a->counters, sizeof *a->counters},
            {b->holes, a->holes, n_holes * sizeof *a->holes},
            {b->scores, a->scores, a->n_slots * sizeof *a->scores},
            {b->history, a->history, (size_t)a->n_slots * HISTORY_WORDS * sizeof *a->history},
            {b->key_sum, a->key_sum, d * sizeof *a->key_sum},
            {b->summary, a->summary, 2 * d * sizeof *a->summary}};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            if (all[i].to && all[i].from && all[i].bytes)
                m->copy(m->context, all[i].to, all[i].from, all[i].bytes);
        for (uint32_t i = 0; i < a->n_pages; i++)
            head_set_page(to, b, i, a->pages[i]);
        b->n_pages = a->n_pages;
        b->n_slots = a->n_slots;
        if (from->compressed) /* before that it is the plan's own */
            b->budget = a->budget;
        b->n_holes_due = a->n_holes_due;
    }
    return true;
}

void heads_forget(struct cache_sequence *s, struct head_state *head)
{
    const struct state_memory *m = &s->cache->memory;
    if (head->scores && head->n_slots)
        m->clear(m->context, head->scores, head->n_slots * sizeof *head->scores);
    if (head->history && head->n_slots)
        m->clear(m->context, head->history,
                 (size_t)head->n_slots * HISTORY_WORDS * sizeof *head->history);
}
