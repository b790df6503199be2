/* Sequences over the page pool: see cache.h for the picture. Engine thread. */
#include "cache/pages/cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "cache/pages/sequence_tables.h"

struct cache *cache_new(uint32_t n_layers, uint32_t n_kv_heads, uint32_t head_dim, uint32_t n_pages,
                        struct error *e)
{
    struct cache *c = calloc(1, sizeof *c);
    if (!c) {
        error_set_memory(e, "the cache", sizeof *c);
        return NULL;
    }
    c->n_layers = n_layers;
    c->n_kv_heads = n_kv_heads;
    c->head_dim = head_dim;
    c->memory = *state_memory_host();
    TAILQ_INIT(&c->sequences);
    TAILQ_INIT(&c->prefixes.by_age);
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
    assert(TAILQ_EMPTY(&c->sequences));
    prefix_clear(c);
    pool_clear(&c->pool);
    free(c->copy_from);
    free(c->copy_to);
    free(c);
}

void cache_set_profile(struct cache *c, const struct head_profile *profile)
{
    c->profile = profile;
}

void cache_set_memory(struct cache *c, const struct state_memory *memory)
{
    assert(TAILQ_EMPTY(&c->sequences));
    c->memory = *memory;
}

void cache_set_time(struct cache *c, uint64_t now_ns)
{
    c->pool.now_ns = now_ns;
}

void cache_set_lifetimes(struct cache *c, cache_lifetime_observer *observe, void *context)
{
    c->pool.on_free = observe;
    c->pool.free_context = context;
}

void cache_set_reader(struct cache *c, cache_position_reader *position_of, void *context)
{
    c->position_of = position_of;
    c->reader_context = context;
}

/* ---- sequences */

struct cache_sequence *cache_sequence_new(struct cache *c, const struct plan *plan, struct error *e)
{
    struct cache_sequence *s = calloc(1, sizeof *s);
    if (!s) {
        error_set_memory(e, "a sequence", sizeof *s);
        return NULL;
    }
    s->cache = c;
    s->plan = plan_hold(plan);
    s->policy = plan->preset ? preset_index(plan->preset) : 0;
    s->prompt_end = UINT32_MAX;
    TAILQ_INSERT_HEAD(&c->sequences, s, of_cache);
    if (heads_init(s, e))
        return s;
    cache_sequence_free(s);
    return NULL;
}

void cache_sequence_set_prompt(struct cache_sequence *s, uint32_t end)
{
    s->prompt_from = s->n_tokens;
    s->prompt_end = end;
    s->room = 0;
    /* Votes of an earlier prompt's window do not count in this one. */
    for (uint32_t h = 0; scorer_has_window(scorer_of(s->plan)) && h < cache_n_heads(s->cache); h++)
        heads_forget(s, h);
}

struct cache_sequence *cache_sequence_fork(struct cache_sequence *of, struct error *e)
{
    return cache_sequence_fork_under(of, of->plan, e);
}

struct cache_sequence *cache_sequence_fork_under(struct cache_sequence *of, const struct plan *plan,
                                                 struct error *e)
{
    struct cache *c = of->cache;
    assert(plan == of->plan || !of->compressed);
    struct cache_sequence *s = cache_sequence_new(c, plan, e);
    if (!s)
        return NULL;
    if (!heads_copy(s, of, e)) {
        for (uint32_t h = 0; h < cache_n_heads(c); h++) /* it holds no reference yet */
            s->slots[h].n_pages = 0;
        cache_sequence_free(s);
        return NULL;
    }
    for (uint32_t h = 0; h < cache_n_heads(c); h++) {
        const uint32_t n_pages = s->slots[h].n_pages;
        for (uint32_t i = 0; i < n_pages; i++)
            pool_share(&c->pool, s->states[h].pages[i]);
        s->slots[h].own_from = of->slots[h].own_from = n_pages;
        s->n_pages += n_pages;
    }
    of->room = 0;
    s->n_tokens = of->n_tokens;
    s->starved = of->starved;
    s->prompt_end = of->prompt_end;
    s->prompt_from = of->prompt_from;
    s->compressed = of->compressed;
    s->n_pages_peak = s->n_pages;
    return s;
}

void cache_sequence_free(struct cache_sequence *s)
{
    if (!s)
        return;
    struct cache *c = s->cache;
    for (uint32_t h = 0; s->slots && s->states && h < cache_n_heads(c); h++)
        for (uint32_t i = 0; i < s->slots[h].n_pages; i++)
            pool_drop(&c->pool, s->states[h].pages[i], s->policy);
    heads_clear(s);
    TAILQ_REMOVE(&c->sequences, s, of_cache);
    plan_release(s->plan);
    free(s);
}

/* ---- bounds */

uint64_t cache_bound_pages(const struct cache *c, const struct plan *plan, uint64_t n_prompt,
                           uint64_t n_tokens)
{
    const struct budget_shape shape = cache_shape(c);
    return budget_bound_pages(&shape, plan, n_prompt, n_tokens);
}

uint64_t cache_settled_pages(const struct cache *c, const struct plan *plan, uint64_t n_prompt,
                             uint64_t n_tokens)
{
    const struct budget_shape shape = cache_shape(c);
    return budget_settled_pages(&shape, plan, n_prompt, n_tokens);
}

const struct plan *cache_sequence_plan(const struct cache_sequence *s)
{
    return s->plan;
}

uint32_t cache_tokens_seen(const struct cache_sequence *s)
{
    return s->n_tokens;
}

struct head_state *cache_head(struct cache_sequence *s, uint32_t layer, uint32_t kv_head)
{
    return &s->states[layer * s->cache->n_kv_heads + kv_head];
}

/* ---- looking */

struct head_view cache_view(const struct cache_sequence *s, uint32_t layer, uint32_t kv_head)
{
    const uint32_t head = layer * s->cache->n_kv_heads + kv_head;
    const struct ring *r = head_ring(s, head);
    return (struct head_view){s->states[head].pages, s->slots[head].n_slots, r->sinks, r->window};
}

bool cache_uses_sink_query(const struct cache_sequence *s)
{
    return s->plan->positions == POSITIONS_CACHE;
}

int32_t cache_sink_query_position(const struct cache_sequence *s, int32_t position)
{
    int32_t last = (int32_t)s->plan->budget - 1;
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
                                 .used = c->pool.n_pages - c->pool.n_free - c->pool.n_idle,
                                 .cached = c->pool.n_idle,
                                 .free = c->pool.n_free,
                                 .pages_returned_total = c->pages_returned,
                                 .evicted_slots_total = c->evicted_slots};
}

struct cache_sequence_counts cache_sequence_counts(const struct cache_sequence *s)
{
    uint32_t n = cache_n_heads(s->cache);
    uint64_t kept = 0;
    struct cache_sequence_counts out = {.tokens_seen = s->n_tokens,
                                        .slots_kept_min = UINT32_MAX,
                                        .pages = s->n_pages,
                                        .pages_peak = s->n_pages_peak,
                                        .pages_full = pages_of_slots(s->n_tokens) * n,
                                        .pages_returned = s->n_pages_returned};
    for (uint32_t h = 0; h < n; h++) {
        uint32_t held = head_n_held(s, h);
        kept += held;
        out.slots_kept_min = held < out.slots_kept_min ? held : out.slots_kept_min;
        out.slots_kept_max = held > out.slots_kept_max ? held : out.slots_kept_max;
    }
    out.slots_kept = (double)kept / n;
    out.exact = kept == (uint64_t)s->n_tokens * n;
    return out;
}

/* ---- positions */

static int by_number(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* The positions in the pages of a head, ascending, without holes; malloc'ed. */
static int32_t *read_positions(const struct cache_sequence *s, uint32_t head, uint32_t *n)
{
    const struct cache *c = s->cache;
    const uint32_t n_slots = s->slots[head].n_slots, *pages = s->states[head].pages;
    int32_t *positions = malloc((n_slots ? n_slots : 1) * sizeof *positions);
    *n = 0;
    for (uint32_t i = 0; positions && i < n_slots; i++) {
        int32_t p = c->position_of(c->reader_context, pages[i / PAGE_SLOTS], i % PAGE_SLOTS);
        if (p != HOLE)
            positions[(*n)++] = p;
    }
    if (positions)
        qsort(positions, *n, sizeof *positions, by_number);
    return positions;
}

void cache_kept_ranges(const struct cache_sequence *s, uint32_t layer, uint32_t kv_head,
                       void (*range)(void *context, int32_t first, int32_t last), void *context)
{
    const uint32_t head = layer * s->cache->n_kv_heads + kv_head, n = s->n_tokens;
    const struct ring *r = head_ring(s, head);
    uint32_t n_read;
    if (n == 0)
        return;
    if (head_n_held(s, head) == n) {
        range(context, 0, (int32_t)n - 1);
        return;
    }
    if (r->length) {
        if (r->sinks)
            range(context, 0, (int32_t)r->sinks - 1);
        range(context, (int32_t)(n - r->window), (int32_t)n - 1);
        return;
    }
    if (!s->cache->position_of)
        return;
    int32_t *positions = read_positions(s, head, &n_read);
    for (uint32_t i = 0, first = 0; positions && i < n_read; i++)
        if (i + 1 == n_read || positions[i + 1] != positions[i] + 1) {
            range(context, positions[first], positions[i]);
            first = i + 1;
        }
    free(positions);
}

struct cache_head_counts cache_head_counts(const struct cache_sequence *s, uint32_t layer,
                                           uint32_t kv_head)
{
    const uint32_t head = layer * s->cache->n_kv_heads + kv_head, held = head_n_held(s, head);
    return (struct cache_head_counts){
        .slots = held, .pages = s->slots[head].n_pages, .evicted = s->n_tokens - held};
}

uint32_t cache_n_layers(const struct cache *c)
{
    return c->n_layers;
}

uint32_t cache_n_kv_heads(const struct cache *c)
{
    return c->n_kv_heads;
}
