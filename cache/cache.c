/* Sequences over the page pool: see cache.h for the picture. Engine thread. */
#include "cache/cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "cache/sequence_tables.h"

/* Slots [first, end) that new tokens are written to. */
struct span {
    uint32_t first, end;
};

struct cache *cache_new(uint32_t n_layers, uint32_t n_kv_heads, uint32_t n_pages, struct error *e)
{
    struct cache *c = calloc(1, sizeof *c);
    if (!c) {
        error_set_memory(e, "the cache", sizeof *c);
        return NULL;
    }
    c->n_layers = n_layers;
    c->n_kv_heads = n_kv_heads;
    if (!pool_init(&c->pool, n_pages, e)) {
        free(c);
        return NULL;
    }
    return c;
}

void cache_free(struct cache *c)
{
    if (!c)
        return;
    assert(!c->first);
    pool_clear(&c->pool);
    free(c->copy_from);
    free(c->copy_to);
    free(c);
}

static uint32_t n_heads(const struct cache *c)
{
    return c->n_layers * c->n_kv_heads;
}

static struct placement placement_of(const struct plan *plan)
{
    if (plan->decode == DECODE_GROW)
        return (struct placement){0};
    uint32_t window = plan->budget - plan->sinks;
    return (struct placement){plan->sinks, window, window + PAGE_SLOTS};
}

struct cache_sequence *cache_sequence_new(struct cache *c, const struct plan *plan, struct error *e)
{
    struct cache_sequence *s = calloc(1, sizeof *s);
    struct table *tables = calloc(n_heads(c), sizeof *tables);
    if (!s || !tables) {
        free(s);
        free(tables);
        error_set_memory(e, "a sequence", n_heads(c) * sizeof *tables);
        return NULL;
    }
    s->cache = c;
    s->plan = *plan;
    s->placement = placement_of(plan);
    s->tables = tables;
    s->next = c->first;
    if (c->first)
        c->first->previous = s;
    c->first = s;
    return s;
}

/* Room for n page numbers; false leaves the table as it was. */
static bool table_reserve(struct table *t, uint32_t n)
{
    if (n <= t->capacity)
        return true;
    uint32_t capacity = t->capacity * 2 > n ? t->capacity * 2 : n;
    uint32_t *pages = realloc(t->pages, (size_t)capacity * sizeof *pages);
    if (!pages)
        return false;
    t->pages = pages;
    t->capacity = capacity;
    return true;
}

struct cache_sequence *cache_sequence_fork(struct cache_sequence *of, struct error *e)
{
    struct cache *c = of->cache;
    struct cache_sequence *s = cache_sequence_new(c, &of->plan, e);
    if (!s)
        return NULL;
    for (uint32_t h = 0; h < n_heads(c); h++) {
        const struct table *from = &of->tables[h];
        struct table *to = &s->tables[h];
        if (!table_reserve(to, from->n_pages)) {
            cache_sequence_free(s);
            error_set_memory(e, "a page table", from->n_pages * sizeof *from->pages);
            return NULL;
        }
        for (uint32_t i = 0; i < from->n_pages; i++) {
            to->pages[i] = from->pages[i];
            pool_share(&c->pool, to->pages[i]);
        }
        to->n_pages = from->n_pages;
        to->n_slots = from->n_slots;
        s->n_pages += to->n_pages;
    }
    s->n_tokens = of->n_tokens;
    s->n_pages_peak = s->n_pages;
    return s;
}

void cache_sequence_free(struct cache_sequence *s)
{
    if (!s)
        return;
    struct cache *c = s->cache;
    for (uint32_t h = 0; h < n_heads(c); h++) {
        for (uint32_t i = 0; i < s->tables[h].n_pages; i++)
            pool_drop(&c->pool, s->tables[h].pages[i]);
        free(s->tables[h].pages);
    }
    if (s->previous)
        s->previous->next = s->next;
    else
        c->first = s->next;
    if (s->next)
        s->next->previous = s->previous;
    free(s->tables);
    free(s);
}

const struct plan *cache_sequence_plan(const struct cache_sequence *s)
{
    return &s->plan;
}

uint32_t cache_tokens_seen(const struct cache_sequence *s)
{
    return s->n_tokens;
}

static uint64_t pages_of_slots(uint64_t n_slots)
{
    return (n_slots + PAGE_SLOTS - 1) / PAGE_SLOTS;
}

uint64_t cache_bound_pages(const struct cache *c, const struct plan *plan, uint64_t n_tokens)
{
    struct placement p = placement_of(plan);
    uint64_t slots = n_tokens;
    if (p.ring && slots > (uint64_t)p.sinks + p.ring)
        slots = (uint64_t)p.sinks + p.ring;
    return pages_of_slots(slots) * n_heads(c);
}

uint32_t cache_wave_rows(const struct cache_sequence *s)
{
    return s->placement.ring ? PAGE_SLOTS : UINT32_MAX;
}

/* The slots of n new tokens as at most three runs: sinks, the ring up to its end, the ring from its
 * start. */
static unsigned spans_of(const struct cache_sequence *s, uint32_t n, struct span out[3])
{
    const struct placement *p = &s->placement;
    uint32_t from = s->n_tokens, to = s->n_tokens + n;
    unsigned count = 0;
    if (p->ring == 0) {
        out[0] = (struct span){from, to};
        return 1;
    }
    if (from < p->sinks) {
        uint32_t end = to < p->sinks ? to : p->sinks;
        out[count++] = (struct span){from, end};
        from = end;
    }
    if (from == to)
        return count;
    uint32_t first = placement_slot(p, from), ring_end = p->sinks + p->ring;
    uint32_t fits = ring_end - first < to - from ? ring_end - first : to - from;
    out[count++] = (struct span){first, first + fits};
    if (fits < to - from)
        out[count++] = (struct span){p->sinks, p->sinks + (to - from - fits)};
    return count;
}

/* Whether page index `page` of a table was already met in an earlier span. */
static bool met_before(const struct span *spans, unsigned current, uint32_t page)
{
    for (unsigned i = 0; i < current; i++)
        if (page >= spans[i].first / PAGE_SLOTS && page <= (spans[i].end - 1) / PAGE_SLOTS)
            return true;
    return false;
}

/* Held pages of the table that the spans write to and that others hold too, each counted once. */
static uint32_t shared_pages(const struct cache_sequence *s, const struct table *t,
                             const struct span *spans, unsigned n_spans)
{
    uint32_t shared = 0;
    for (unsigned i = 0; i < n_spans; i++)
        for (uint32_t page = spans[i].first / PAGE_SLOTS;
             page <= (spans[i].end - 1) / PAGE_SLOTS && page < t->n_pages; page++)
            if (!met_before(spans, i, page))
                shared += s->cache->pool.refs[t->pages[page]] > 1;
    return shared;
}

uint64_t cache_pages_to_append(const struct cache_sequence *s, uint32_t n)
{
    if (n == 0)
        return 0;
    struct span spans[3];
    uint32_t within = s->placement.ring && n > PAGE_SLOTS ? PAGE_SLOTS : n;
    unsigned n_spans = spans_of(s, within, spans);
    uint64_t pages = 0;
    uint32_t after = (uint32_t)pages_of_slots(placement_slots_used(&s->placement, s->n_tokens + n));
    for (uint32_t h = 0; h < n_heads(s->cache); h++) {
        const struct table *t = &s->tables[h];
        pages += after - t->n_pages + shared_pages(s, t, spans, n_spans);
    }
    /* More than a wave over shared pages may come to write any of them. */
    if (within < n)
        for (uint32_t h = 0; h < n_heads(s->cache); h++)
            for (uint32_t i = 0; i < s->tables[h].n_pages; i++)
                pages += s->cache->pool.refs[s->tables[h].pages[i]] > 1;
    return pages;
}

static bool copies_reserve(struct cache *c, uint64_t more)
{
    uint64_t wanted = c->n_copies + more;
    if (wanted <= c->copies_capacity)
        return true;
    uint32_t *from = realloc(c->copy_from, (size_t)wanted * sizeof *from);
    if (from)
        c->copy_from = from;
    uint32_t *to = realloc(c->copy_to, (size_t)wanted * sizeof *to);
    if (to)
        c->copy_to = to;
    if (!from || !to)
        return false;
    c->copies_capacity = (uint32_t)wanted;
    return true;
}

/* Gives the table pages of its own where the spans write, and new ones up to `after`. The pool has
 * enough. */
static void table_prepare(struct cache_sequence *s, struct table *t, const struct span *spans,
                          unsigned n_spans, uint32_t after)
{
    struct cache *c = s->cache;
    for (unsigned i = 0; i < n_spans; i++)
        for (uint32_t page = spans[i].first / PAGE_SLOTS;
             page <= (spans[i].end - 1) / PAGE_SLOTS && page < t->n_pages; page++) {
            uint32_t held = t->pages[page];
            if (c->pool.refs[held] < 2)
                continue;
            uint32_t own = pool_take(&c->pool);
            c->copy_from[c->n_copies] = held;
            c->copy_to[c->n_copies++] = own;
            pool_drop(&c->pool, held);
            t->pages[page] = own;
        }
    while (t->n_pages < after) {
        t->pages[t->n_pages++] = pool_take(&c->pool);
        s->n_pages++;
    }
}

bool cache_append(struct cache_sequence *s, uint32_t n, uint32_t *write_slots, struct error *e)
{
    struct cache *c = s->cache;
    struct span spans[3];
    assert(n > 0 && n <= cache_wave_rows(s));
    unsigned n_spans = spans_of(s, n, spans);
    uint64_t needed = cache_pages_to_append(s, n);
    uint32_t used = placement_slots_used(&s->placement, s->n_tokens + n),
             after = (uint32_t)pages_of_slots(used);
    if (needed > c->pool.n_free)
        return error_set(e, "kv_pool_empty", "", "%llu pages are needed and %u are free",
                         (unsigned long long)needed, c->pool.n_free);
    bool room = copies_reserve(c, needed);
    for (uint32_t h = 0; h < n_heads(c) && room; h++)
        room = table_reserve(&s->tables[h], after);
    if (!room)
        return error_set_memory(e, "page tables", needed * sizeof *s->tables->pages);
    for (uint32_t h = 0; h < n_heads(c); h++) {
        table_prepare(s, &s->tables[h], spans, n_spans, after);
        s->tables[h].n_slots = used;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t slot = placement_slot(&s->placement, s->n_tokens + i);
        for (uint32_t l = 0; l < c->n_layers; l++)
            for (uint32_t h = 0; h < c->n_kv_heads; h++)
                write_slots[((size_t)l * n + i) * c->n_kv_heads + h] = slot;
    }
    uint32_t evicted = placement_evicted(&s->placement, s->n_tokens + n) -
                       placement_evicted(&s->placement, s->n_tokens);
    c->evicted_slots += (uint64_t)evicted * n_heads(c);
    s->n_tokens += n;
    if (s->n_pages > s->n_pages_peak)
        s->n_pages_peak = s->n_pages;
    return true;
}

struct cache_view cache_view(const struct cache_sequence *s, uint32_t layer, uint32_t kv_head)
{
    const struct table *t = &s->tables[layer * s->cache->n_kv_heads + kv_head];
    if (s->placement.ring == 0)
        return (struct cache_view){t->pages, t->n_slots, 0, UINT32_MAX};
    return (struct cache_view){t->pages, t->n_slots, s->placement.sinks, s->placement.window};
}

bool cache_uses_sink_query(const struct cache_sequence *s)
{
    return s->plan.positions == POSITIONS_CACHE;
}

int32_t cache_sink_query_position(const struct cache_sequence *s, int32_t position)
{
    int32_t last = (int32_t)s->plan.budget - 1;
    return cache_uses_sink_query(s) && position > last ? last : position;
}

uint32_t cache_take_copies(struct cache *c, const uint32_t **from, const uint32_t **to)
{
    uint32_t n = c->n_copies;
    *from = c->copy_from;
    *to = c->copy_to;
    c->n_copies = 0;
    return n;
}

struct cache_counts cache_counts(const struct cache *c)
{
    return (struct cache_counts){.n_pages = c->pool.n_pages,
                                 .used = c->pool.n_pages - c->pool.n_free,
                                 .free = c->pool.n_free,
                                 .pages_returned_total = c->pages_returned,
                                 .evicted_slots_total = c->evicted_slots};
}

struct cache_sequence_counts cache_sequence_counts(const struct cache_sequence *s)
{
    uint32_t evicted = placement_evicted(&s->placement, s->n_tokens), kept = s->n_tokens - evicted;
    return (struct cache_sequence_counts){.tokens_seen = s->n_tokens,
                                          .slots_kept = kept,
                                          .slots_kept_min = kept,
                                          .slots_kept_max = kept,
                                          .pages = s->n_pages,
                                          .pages_peak = s->n_pages_peak,
                                          .pages_full =
                                              pages_of_slots(s->n_tokens) * n_heads(s->cache),
                                          .exact = evicted == 0};
}

void cache_kept_ranges(const struct cache_sequence *s, uint32_t layer, uint32_t kv_head,
                       void (*range)(void *context, int32_t first, int32_t last), void *context)
{
    (void)layer; /* every head keeps the same under the plans of this version */
    (void)kv_head;
    uint32_t n = s->n_tokens;
    if (n == 0)
        return;
    if (placement_evicted(&s->placement, n) == 0) {
        range(context, 0, (int32_t)n - 1);
        return;
    }
    if (s->placement.sinks)
        range(context, 0, (int32_t)s->placement.sinks - 1);
    range(context, (int32_t)(n - s->placement.window), (int32_t)n - 1);
}

uint32_t cache_n_layers(const struct cache *c)
{
    return c->n_layers;
}

uint32_t cache_n_kv_heads(const struct cache *c)
{
    return c->n_kv_heads;
}
