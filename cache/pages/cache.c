/* Sequences over the page pool: see cache.h for the picture. Engine thread. */
#include "cache/pages/cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "cache/pages/sequence_tables.h"

/* Slots [first, end) that new tokens are written to. */
struct span {
    uint32_t first, end;
};

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
    assert(!c->first);
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

static uint32_t n_heads(const struct cache *c)
{
    return c->n_layers * c->n_kv_heads;
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
    s->next = c->first;
    if (c->first)
        c->first->previous = s;
    c->first = s;
    if (heads_init(s, e))
        return s;
    cache_sequence_free(s);
    return NULL;
}

void cache_sequence_set_prompt(struct cache_sequence *s, uint32_t end)
{
    s->prompt_from = s->n_tokens;
    s->prompt_end = end;
    /* Another window votes on its own. */
    for (uint32_t h = 0; scorer_has_window(scorer_of(s->plan)) && h < n_heads(s->cache); h++)
        heads_forget(s, &s->tables[h].state);
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
        for (uint32_t h = 0; h < n_heads(c); h++) /* it holds nothing yet */
            s->tables[h].state.n_pages = 0;
        cache_sequence_free(s);
        return NULL;
    }
    for (uint32_t h = 0; h < n_heads(c); h++) {
        const struct head_state *head = &s->tables[h].state;
        for (uint32_t i = 0; i < head->n_pages; i++)
            pool_share(&c->pool, head->pages[i]);
        s->n_pages += head->n_pages;
    }
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
    for (uint32_t h = 0; s->tables && h < n_heads(c); h++)
        for (uint32_t i = 0; i < s->tables[h].state.n_pages; i++)
            pool_drop(&c->pool, s->tables[h].state.pages[i], s->policy);
    heads_clear(s);
    if (s->previous)
        s->previous->next = s->next;
    else
        c->first = s->next;
    if (s->next)
        s->next->previous = s->previous;
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
    return &s->tables[layer * s->cache->n_kv_heads + kv_head].state;
}

/* ---- appending */

/* Whether the next tokens are decode steps that may each drop others. */
static bool evicts_now(const struct cache_sequence *s)
{
    return s->n_tokens >= s->prompt_end && plan_evicts(s->plan) &&
           s->plan->decode == DECODE_EVICT && s->plan->prefill == PREFILL_FULL;
}

uint32_t cache_wave_rows(const struct cache_sequence *s)
{
    return s->has_ring ? PAGE_SLOTS : evicts_now(s) ? 1 : UINT32_MAX;
}

uint32_t cache_rows_of_prompt(const struct cache_sequence *s)
{
    return s->n_tokens < s->prompt_end ? s->prompt_end - s->n_tokens : UINT32_MAX;
}

/* The slots of n new tokens of a head as at most three runs. Of a ring: sinks, the ring up to its
 * end, the ring from its start. Of a head that drops: all its slots, for anyone may become a hole.
 */
static unsigned spans_of(const struct cache_sequence *s, const struct table *t, uint32_t n,
                         struct span out[3])
{
    const struct placement *p = &t->placement;
    uint32_t from = s->n_tokens, to = s->n_tokens + n;
    unsigned count = 0;
    if (p->ring == 0) {
        bool drops = evicts_now(s) && t->state.budget != UINT32_MAX;
        out[0] = (struct span){drops ? 0 : t->state.n_slots, t->state.n_slots + n};
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

/* Held pages of the head that the spans write to and that others hold too, each counted once. */
static uint32_t shared_pages(const struct cache_sequence *s, const struct head_state *head,
                             const struct span *spans, unsigned n_spans)
{
    uint32_t shared = 0;
    for (unsigned i = 0; i < n_spans; i++)
        for (uint32_t page = spans[i].first / PAGE_SLOTS;
             page <= (spans[i].end - 1) / PAGE_SLOTS && page < head->n_pages; page++)
            if (!met_before(spans, i, page))
                shared += s->cache->pool.refs[head->pages[page]] > 1;
    return shared;
}

/* Slots that a head uses once n more tokens are there. Holes are filled first, by tokens that come
 * one at a time. */
static uint32_t slots_after(const struct cache_sequence *s, const struct table *t, uint32_t n)
{
    if (t->placement.ring)
        return placement_slots_used(&t->placement, s->n_tokens + n);
    if (!evicts_now(s) || t->state.budget == UINT32_MAX)
        return t->state.n_slots + n;
    /* Several steps ahead: it grows up to its budget and one more, and not beyond. */
    uint32_t holes = t->state.n_holes_due, grown = t->state.n_slots + (n > holes ? n - holes : 0);
    uint32_t budget = budget_recent(s->plan, s->n_tokens + n) != s->plan->recent
                          ? s->plan->sinks + budget_recent(s->plan, s->n_tokens + n)
                          : t->state.budget;
    uint32_t most = budget + 1 > t->state.n_slots ? budget + 1 : t->state.n_slots;
    return n == 1 || grown < most ? grown : most;
}

uint64_t cache_pages_to_append(const struct cache_sequence *s, uint32_t n)
{
    if (n == 0)
        return 0;
    struct span spans[3];
    uint64_t pages = 0;
    for (uint32_t h = 0; h < n_heads(s->cache); h++) {
        const struct table *t = &s->tables[h];
        uint32_t within = t->placement.ring && n > PAGE_SLOTS ? PAGE_SLOTS : n;
        unsigned n_spans = spans_of(s, t, within, spans);
        uint32_t after = (uint32_t)pages_of_slots(slots_after(s, t, n));
        pages += after > t->state.n_pages ? after - t->state.n_pages : 0;
        pages += shared_pages(s, &t->state, spans, n_spans);
        /* More than a wave over shared pages may come to write any of them. */
        for (uint32_t i = 0; within < n && i < t->state.n_pages; i++)
            pages += s->cache->pool.refs[t->state.pages[i]] > 1;
    }
    return pages;
}

bool copies_reserve(struct cache *c, uint64_t more)
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

/* A page for place `index` of a head that will have n at least. */
static uint32_t page_for(struct cache *c, const struct head_state *head, uint32_t index, uint32_t n)
{
    return pool_take(&c->pool, index > 0 ? head->pages[index - 1] : POOL_NO_PAGE, n);
}

void page_make_own(struct cache_sequence *s, struct head_state *head, uint32_t index)
{
    struct cache *c = s->cache;
    uint32_t held = head->pages[index], own = page_for(c, head, index, head->n_pages);
    c->copy_from[c->n_copies] = held;
    c->copy_to[c->n_copies++] = own;
    pool_drop(&c->pool, held, s->policy);
    head_set_page(s, head, index, own);
}

bool cache_sequence_own_pages(struct cache_sequence *s, struct error *e)
{
    struct cache *c = s->cache;
    uint64_t needed = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t h = 0; h < n_heads(c); h++) {
            struct head_state *head = &s->tables[h].state;
            for (uint32_t i = 0; i < head->n_pages; i++) {
                if (c->pool.refs[head->pages[i]] < 2)
                    continue;
                needed += pass == 0;
                if (pass == 1)
                    page_make_own(s, head, i);
            }
        }
        if (pass == 0 && needed > c->pool.n_free)
            return error_set(e, "kv_pool_empty", "", "%llu pages are needed and %u are free",
                             (unsigned long long)needed, c->pool.n_free);
        if (pass == 0 && !copies_reserve(c, needed))
            return error_set_memory(e, "page copies", needed * sizeof(uint32_t));
    }
    return true;
}

/* Gives the head pages of its own where the spans write, and new ones up to `after`. The pool has
 * enough. */
static void table_prepare(struct cache_sequence *s, struct head_state *head,
                          const struct span *spans, unsigned n_spans, uint32_t after)
{
    struct cache *c = s->cache;
    for (unsigned i = 0; i < n_spans; i++)
        for (uint32_t page = spans[i].first / PAGE_SLOTS;
             page <= (spans[i].end - 1) / PAGE_SLOTS && page < head->n_pages; page++)
            if (c->pool.refs[head->pages[page]] > 1)
                page_make_own(s, head, page);
    while (head->n_pages < after) {
        const uint32_t page = page_for(c, head, head->n_pages, after);
        head_set_page(s, head, head->n_pages++, page);
        s->n_pages++;
    }
}

uint32_t head_n_held(const struct cache_sequence *s, const struct table *t)
{
    if (t->placement.ring)
        return s->n_tokens - placement_evicted(&t->placement, s->n_tokens);
    return t->state.n_slots - t->state.n_holes_due;
}

static void append_to_head(struct cache_sequence *s, uint32_t index, uint32_t n, bool evicting,
                           uint32_t *write_slots)
{
    struct cache *c = s->cache;
    struct table *t = &s->tables[index];
    struct head_state *head = &t->state;
    uint32_t layer = index / c->n_kv_heads, used = slots_after(s, t, n);
    uint32_t *to = write_slots + (size_t)layer * n * c->n_kv_heads + index % c->n_kv_heads;
    if (t->placement.ring) {
        for (uint32_t i = 0; i < n; i++)
            to[(size_t)i * c->n_kv_heads] = placement_slot(&t->placement, s->n_tokens + i);
        c->evicted_slots += placement_evicted(&t->placement, s->n_tokens + n) -
                            placement_evicted(&t->placement, s->n_tokens);
    } else if (evicting && head->budget != UINT32_MAX && head->n_holes_due > 0) {
        to[0] = SLOT_OF_HOLE; /* n is 1 */
        head->n_holes_due--;
    } else {
        for (uint32_t i = 0; i < n; i++)
            to[(size_t)i * c->n_kv_heads] = head->n_slots + i;
    }
    head->n_slots = used;
}

bool cache_append(struct cache_sequence *s, uint32_t n, uint32_t *write_slots, uint32_t *n_drop,
                  struct error *e)
{
    struct cache *c = s->cache;
    struct span spans[3];
    assert(n > 0 && n <= cache_wave_rows(s) && n <= cache_rows_of_prompt(s));
    bool evicting = evicts_now(s);
    uint64_t needed = cache_pages_to_append(s, n);
    if (needed > c->pool.n_free)
        return error_set(e, "kv_pool_empty", "", "%llu pages are needed and %u are free",
                         (unsigned long long)needed, c->pool.n_free);
    bool room = copies_reserve(c, needed);
    for (uint32_t h = 0; h < n_heads(c) && room; h++)
        room = heads_reserve(s, &s->tables[h].state,
                             (uint32_t)pages_of_slots(slots_after(s, &s->tables[h], n)));
    if (!room)
        return error_set_memory(e, "page tables", needed * sizeof(uint32_t));
    for (uint32_t h = 0; h < n_heads(c); h++) {
        struct table *t = &s->tables[h];
        unsigned n_spans = spans_of(s, t, n, spans);
        table_prepare(s, &t->state, spans, n_spans, (uint32_t)pages_of_slots(slots_after(s, t, n)));
        append_to_head(s, h, n, evicting, write_slots);
    }
    s->n_tokens += n;
    for (uint32_t h = 0; h < n_heads(c); h++) {
        uint32_t drops = evicting ? foresee_eviction(s, &s->tables[h]) : 0;
        if (n_drop)
            n_drop[h] = drops;
    }
    if (s->n_pages > s->n_pages_peak)
        s->n_pages_peak = s->n_pages;
    return true;
}

/* ---- looking */

struct cache_view cache_view(const struct cache_sequence *s, uint32_t layer, uint32_t kv_head)
{
    const struct table *t = &s->tables[layer * s->cache->n_kv_heads + kv_head];
    const uint32_t *pages = s->cache->memory.mirrors_tables ? t->state.table : t->state.pages;
    if (t->placement.ring == 0)
        return (struct cache_view){pages, t->state.n_slots, 0, UINT32_MAX};
    return (struct cache_view){pages, t->state.n_slots, t->placement.sinks, t->placement.window};
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
    uint32_t n = n_heads(s->cache);
    uint64_t kept = 0;
    struct cache_sequence_counts out = {.tokens_seen = s->n_tokens,
                                        .slots_kept_min = UINT32_MAX,
                                        .pages = s->n_pages,
                                        .pages_peak = s->n_pages_peak,
                                        .pages_full = pages_of_slots(s->n_tokens) * n,
                                        .pages_returned = s->n_pages_returned};
    for (uint32_t h = 0; h < n; h++) {
        uint32_t held = head_n_held(s, &s->tables[h]);
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

/* Positions that lie in the pages of a head, ascending, holes left out; malloc'ed. */
static int32_t *read_positions(const struct cache_sequence *s, const struct head_state *head,
                               uint32_t *n)
{
    const struct cache *c = s->cache;
    int32_t *positions = malloc((head->n_slots ? head->n_slots : 1) * sizeof *positions);
    *n = 0;
    for (uint32_t i = 0; positions && i < head->n_slots; i++) {
        int32_t p = c->position_of(c->reader_context, head->pages[i / PAGE_SLOTS], i % PAGE_SLOTS);
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
    const struct table *t = &s->tables[layer * s->cache->n_kv_heads + kv_head];
    uint32_t n = s->n_tokens, n_read;
    if (n == 0)
        return;
    if (head_n_held(s, t) == n) {
        range(context, 0, (int32_t)n - 1);
        return;
    }
    if (t->placement.ring) {
        if (t->placement.sinks)
            range(context, 0, (int32_t)t->placement.sinks - 1);
        range(context, (int32_t)(n - t->placement.window), (int32_t)n - 1);
        return;
    }
    if (!s->cache->position_of)
        return;
    int32_t *positions = read_positions(s, &t->state, &n_read);
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
    const struct table *t = &s->tables[layer * s->cache->n_kv_heads + kv_head];
    uint32_t held = head_n_held(s, t);
    return (struct cache_head_counts){
        .slots = held, .pages = t->state.n_pages, .evicted = s->n_tokens - held};
}

uint32_t cache_n_layers(const struct cache *c)
{
    return c->n_layers;
}

uint32_t cache_n_kv_heads(const struct cache *c)
{
    return c->n_kv_heads;
}
