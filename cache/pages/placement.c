/* Takes slots and pages for new tokens: see placement.h. One walk over the heads does everything; a
 * second one, over the heads' counts only, comes before it when some head may need a page. Engine
 * thread. */
#include "cache/pages/placement.h"

#include <assert.h>
#include <stdlib.h>

#include "cache/pages/sequence_tables.h"

/* Slots [first, end) that new tokens are written to. */
struct span {
    uint32_t first, end;
};

bool sequence_evicts_now(const struct cache_sequence *s)
{
    return s->n_tokens >= s->prompt_end && plan_evicts(s->plan) &&
           s->plan->decode == DECODE_EVICT && s->plan->prefill == PREFILL_FULL;
}

uint32_t cache_wave_rows(const struct cache_sequence *s)
{
    return s->n_ring_heads ? PAGE_SLOTS : sequence_evicts_now(s) ? 1 : UINT32_MAX;
}

uint32_t cache_rows_of_prompt(const struct cache_sequence *s)
{
    return s->n_tokens < s->prompt_end ? s->prompt_end - s->n_tokens : UINT32_MAX;
}

/* ---- pages that others hold too */

static bool is_shared(const struct cache_sequence *s, uint32_t head, uint32_t index)
{
    return s->cache->pool.refs[s->states[head].pages[index]] > 1;
}

uint32_t pages_shared(const struct cache_sequence *s, uint32_t head, uint32_t n)
{
    const uint32_t end = s->slots[head].own_from < n ? s->slots[head].own_from : n;
    uint32_t shared = 0;
    for (uint32_t i = 0; i < end; i++)
        shared += is_shared(s, head, i);
    return shared;
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

/* Takes page `index` of a head that will have at least n. */
static uint32_t page_for(struct cache *c, const struct head_state *state, uint32_t index,
                         uint32_t n)
{
    return pool_take(&c->pool, index > 0 ? state->pages[index - 1] : POOL_NO_PAGE, n);
}

static void make_own(struct cache_sequence *s, uint32_t head, uint32_t index)
{
    struct cache *c = s->cache;
    const struct head_state *state = &s->states[head];
    uint32_t held = state->pages[index], own = page_for(c, state, index, s->slots[head].n_pages);
    c->copy_from[c->n_copies] = held;
    c->copy_to[c->n_copies++] = own;
    pool_drop(&c->pool, held, s->policy);
    head_set_page(s, head, index, own);
}

/* Lowers own_from past the pages at its end that nobody else holds any more. */
static void lower_own_from(struct cache_sequence *s, uint32_t head)
{
    struct head_slots *h = &s->slots[head];
    while (h->own_from > 0 && !is_shared(s, head, h->own_from - 1))
        h->own_from--;
}

void pages_make_own(struct cache_sequence *s, uint32_t head, uint32_t n)
{
    const uint32_t end = s->slots[head].own_from < n ? s->slots[head].own_from : n;
    for (uint32_t i = 0; i < end; i++)
        if (is_shared(s, head, i))
            make_own(s, head, i);
    lower_own_from(s, head);
}

bool cache_sequence_own_pages(struct cache_sequence *s, struct error *e)
{
    struct cache *c = s->cache;
    uint64_t needed = 0;
    for (uint32_t h = 0; h < cache_n_heads(c); h++)
        needed += pages_shared(s, h, UINT32_MAX);
    if (needed > c->pool.n_free)
        return error_set(e, "kv_pool_empty", "", "%llu pages are needed and %u are free",
                         (unsigned long long)needed, c->pool.n_free);
    if (!copies_reserve(c, needed))
        return error_set_memory(e, "page copies", needed * sizeof(uint32_t));
    for (uint32_t h = 0; h < cache_n_heads(c); h++)
        pages_make_own(s, h, UINT32_MAX);
    return true;
}

/* ---- what n tokens need */

/* Whether a head drops slots while it decodes. */
static bool drops(const struct head_slots *h, bool evicting)
{
    return evicting && h->budget != UINT32_MAX;
}

/* The slots of n new tokens of a head as at most three runs. Of a ring: sinks, the ring up to its
 * end, the ring from its start. Of a head that drops: all its slots, for any of them may become a
 * hole. */
static unsigned spans_of(const struct cache_sequence *s, uint32_t head, uint32_t n, bool evicting,
                         struct span out[3])
{
    const struct head_slots *h = &s->slots[head];
    const struct ring *r = head_ring(s, head);
    uint32_t from = s->n_tokens, to = s->n_tokens + n, end = r->sinks + r->length;
    unsigned count = 0;
    if (r->length == 0) {
        out[0] = (struct span){drops(h, evicting) ? 0 : h->n_slots, h->n_slots + n};
        return 1;
    }
    if (from < r->sinks) {
        uint32_t last = to < r->sinks ? to : r->sinks;
        out[count++] = (struct span){from, last};
        from = last;
    }
    if (from == to)
        return count;
    if (to - from >= r->length) {
        out[count++] = (struct span){r->sinks, end};
        return count;
    }
    uint32_t first = ring_slot(r, from), fits = end - first < to - from ? end - first : to - from;
    out[count++] = (struct span){first, first + fits};
    if (fits < to - from)
        out[count++] = (struct span){r->sinks, r->sinks + (to - from - fits)};
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

/* Shared pages of the head that n new tokens write to, each counted once. */
static uint32_t shared_writes(const struct cache_sequence *s, uint32_t head, uint32_t n,
                              bool evicting)
{
    struct span spans[3];
    const uint32_t own_from = s->slots[head].own_from;
    uint32_t shared = 0;
    if (own_from == 0)
        return 0;
    unsigned n_spans = spans_of(s, head, n, evicting, spans);
    for (unsigned i = 0; i < n_spans; i++)
        for (uint32_t page = spans[i].first / PAGE_SLOTS;
             page <= (spans[i].end - 1) / PAGE_SLOTS && page < own_from; page++)
            if (!met_before(spans, i, page))
                shared += is_shared(s, head, page);
    return shared;
}

/* Slots that a head uses once n more tokens are there. Holes are filled first, by tokens that come
 * one at a time. */
static uint32_t slots_after(const struct cache_sequence *s, uint32_t head, uint32_t n,
                            bool evicting)
{
    const struct head_slots *h = &s->slots[head];
    if (h->ring)
        return ring_slots_used(head_ring(s, head), s->n_tokens + n);
    if (!drops(h, evicting))
        return h->n_slots + n;
    /* Several tokens ahead: a head never uses more than its budget and one slot. */
    uint32_t grown = h->n_slots + (n > h->n_holes ? n - h->n_holes : 0),
             recent = budget_recent(s->plan, s->n_tokens + n),
             budget = recent != s->plan->recent ? s->plan->sinks + recent : h->budget,
             most = budget + 1 > h->n_slots ? budget + 1 : h->n_slots;
    return n == 1 || grown < most ? grown : most;
}

static uint32_t pages_after(const struct cache_sequence *s, uint32_t head, uint32_t n,
                            bool evicting)
{
    return (uint32_t)pages_of_slots(slots_after(s, head, n, evicting));
}

uint64_t cache_pages_to_place(const struct cache_sequence *s, uint32_t n)
{
    uint64_t pages = 0;
    if (n <= s->room)
        return 0;
    const bool evicting = sequence_evicts_now(s);
    for (uint32_t h = 0; h < cache_n_heads(s->cache); h++) {
        uint32_t after = pages_after(s, h, n, evicting);
        pages += after > s->slots[h].n_pages ? after - s->slots[h].n_pages : 0;
        pages += shared_writes(s, h, n, evicting);
    }
    return pages;
}

/* Tokens that a head takes before it may need a page. */
static uint32_t room_of(const struct head_slots *h, const struct ring *r, bool evicting)
{
    const bool is_dropping = drops(h, evicting);
    const uint32_t n = h->n_pages * PAGE_SLOTS;
    if (h->own_from > 0 && (r->length || is_dropping || h->own_from > h->n_slots / PAGE_SLOTS))
        return 0; /* it may have to copy */
    if (r->length && n >= r->sinks + r->length)
        return UINT32_MAX;
    return n - h->n_slots + (is_dropping ? h->n_holes : 0);
}

/* ---- placing */

/* Makes the pages that n tokens are written to the head's own and adds new ones behind. The pool
 * must have them. */
static void take_pages(struct cache_sequence *s, uint32_t head, uint32_t n, bool evicting)
{
    struct cache *c = s->cache;
    struct head_slots *h = &s->slots[head];
    struct span spans[3];
    unsigned n_spans = h->own_from > 0 ? spans_of(s, head, n, evicting, spans) : 0;
    for (unsigned i = 0; i < n_spans; i++)
        for (uint32_t page = spans[i].first / PAGE_SLOTS;
             page <= (spans[i].end - 1) / PAGE_SLOTS && page < h->own_from; page++)
            if (is_shared(s, head, page))
                make_own(s, head, page);
    lower_own_from(s, head);
    const uint32_t after = pages_after(s, head, n, evicting);
    while (h->n_pages < after) {
        const uint32_t page = page_for(c, &s->states[head], h->n_pages, after);
        head_set_page(s, head, h->n_pages++, page);
        s->n_pages++;
    }
}

/* Page tables and scores for n tokens. Where memory allows, for the rest of the prompt at once,
 * so that they need not grow with every chunk. */
static bool reserve(struct cache_sequence *s, uint32_t n, uint64_t needed, bool evicting,
                    struct error *e)
{
    const bool in_prompt = s->n_tokens < s->prompt_end && s->prompt_end != UINT32_MAX;
    const uint32_t ahead = in_prompt ? s->prompt_end - s->n_tokens : n;
    bool room = copies_reserve(s->cache, needed);
    for (uint32_t h = 0; h < cache_n_heads(s->cache) && room; h++)
        room = heads_reserve(s, h, pages_after(s, h, ahead, evicting)) ||
               heads_reserve(s, h, pages_after(s, h, n, evicting));
    return room || error_set_memory(e, "page tables", needed * sizeof(uint32_t));
}

/* The plan's numbers that a decode step under a plan that drops needs. */
struct dropping {
    uint32_t sinks, recent, interval;
    bool window_has_grown; /* since the plan was resolved; then sinks + recent is the budget */
};

/* How many slots the backend will drop after the row just placed, so that the next placement
 * need not wait for it. */
static uint32_t foresee_drop(struct head_slots *h, const struct dropping *d)
{
    const uint32_t budget = d->window_has_grown ? d->sinks + d->recent : h->budget;
    if (h->budget == UINT32_MAX || h->n_slots - h->n_holes <= budget)
        return 0;
    /* A small head cannot drop as many at once as the others. */
    const uint32_t free_choice = budget > d->sinks + d->recent ? budget - d->sinks - d->recent : 1,
                   n = d->interval < free_choice ? d->interval : free_choice;
    h->n_holes += n;
    return n;
}

/* A row after which heads drop slots. Returns how many go. */
static uint64_t place_dropping(struct cache_sequence *s)
{
    const struct plan *p = s->plan;
    const uint32_t n_heads = cache_n_heads(s->cache), recent = budget_recent(p, s->n_tokens + 1);
    const struct dropping d = {p->sinks, recent, p->interval, recent != p->recent};
    uint64_t n_dropped = 0;
    for (uint32_t i = 0; i < n_heads; i++) {
        struct head_slots *h = &s->slots[i];
        h->fills_hole = h->n_holes > 0; /* none where nothing is ever dropped */
        h->n_holes -= h->fills_hole;
        h->n_slots += !h->fills_hole;
        n_dropped += h->n_drop = foresee_drop(h, &d);
    }
    return n_dropped;
}

/* Rows that drop nothing. */
static void place_growing(struct cache_sequence *s, uint32_t n)
{
    const uint32_t n_heads = cache_n_heads(s->cache), after = s->n_tokens + n,
                   in_ring = ring_slots_used(&s->rings[1], after);
    for (uint32_t i = 0; i < n_heads; i++) {
        struct head_slots *h = &s->slots[i];
        h->n_slots = h->ring ? in_ring : h->n_slots + n;
        h->n_drop = 0;
        h->fills_hole = false;
    }
    s->cache->evicted_slots +=
        (uint64_t)s->n_ring_heads *
        (ring_evicted(&s->rings[1], after) - ring_evicted(&s->rings[1], s->n_tokens));
}

/* The room that is left; looks at every head. */
static uint32_t room_left(const struct cache_sequence *s)
{
    const bool evicting = sequence_evicts_now(s);
    uint32_t room = UINT32_MAX;
    for (uint32_t i = 0; i < cache_n_heads(s->cache); i++) {
        const uint32_t its = room_of(&s->slots[i], head_ring(s, i), evicting);
        room = its < room ? its : room;
    }
    return room;
}

static void describe(struct cache_sequence *s, uint32_t n)
{
    struct placement *p = &s->placed;
    *p = (struct placement){.sequence = s,
                            .first = s->n_tokens,
                            .n = n,
                            .wave_rows = cache_wave_rows(s),
                            .n_heads = cache_n_heads(s->cache),
                            .slots = s->slots,
                            .states = s->states,
                            .rings = s->rings,
                            .sink_query = cache_uses_sink_query(s),
                            .last_sink_position = (int32_t)s->plan->budget - 1,
                            .first_scored = n};
    placement_set_work(p);
}

const struct placement *cache_place(struct cache_sequence *s, uint32_t n, struct error *e)
{
    struct cache *c = s->cache;
    const bool evicting = sequence_evicts_now(s), is_roomy = n <= s->room;
    assert(n > 0 && n <= cache_rows_of_prompt(s) && (n == 1 || !evicting));
    if (!is_roomy) {
        uint64_t needed = cache_pages_to_place(s, n);
        if (needed > c->pool.n_free) {
            error_set(e, "kv_pool_empty", "", "%llu pages are needed and %u are free",
                      (unsigned long long)needed, c->pool.n_free);
            return NULL;
        }
        if (needed > 0 && !reserve(s, n, needed, evicting, e))
            return NULL;
        for (uint32_t h = 0; h < cache_n_heads(c); h++)
            take_pages(s, h, n, evicting);
    }
    describe(s, n);
    if (evicting) {
        const uint64_t n_dropped = place_dropping(s);
        c->evicted_slots += n_dropped;
        s->compressed |= n_dropped > 0;
    } else {
        place_growing(s, n);
    }
    s->n_tokens += n;
    s->room = is_roomy ? (s->room == UINT32_MAX ? UINT32_MAX : s->room - n) : room_left(s);
    if (s->n_pages > s->n_pages_peak)
        s->n_pages_peak = s->n_pages;
    return &s->placed;
}
