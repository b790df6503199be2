/* Checks the invariants of the whole cache; for tests and --audit. Linear in pages and, with
 * positions, in slots. */
#include <stdlib.h>

#include "cache/pages/sequence_tables.h"

struct audit {
    const struct cache *cache;
    uint32_t *counted; /* [n_pages] times a table was seen to hold the page */
    int32_t (*position_of)(void *context, uint32_t page, uint32_t index);
    void *context;
    struct error *e;
};

static bool broken(struct audit *a, const char *what, uint64_t got, uint64_t wanted)
{
    return error_set(a->e, "internal_error", "cache_audit", "%s: %llu instead of %llu", what,
                     (unsigned long long)got, (unsigned long long)wanted);
}

static int32_t position_in(const struct audit *a, const struct cache_sequence *s, uint32_t head,
                           uint32_t slot)
{
    return a->position_of(a->context, s->states[head].pages[slot / PAGE_SLOTS], slot % PAGE_SLOTS);
}

static bool audit_ring(struct audit *a, const struct cache_sequence *s, uint32_t head)
{
    for (uint32_t slot = 0; slot < s->slots[head].n_slots; slot++) {
        uint32_t wanted = ring_position(head_ring(s, head), slot, s->n_tokens);
        int32_t got = position_in(a, s, head, slot);
        if (got < 0 || (uint32_t)got != wanted)
            return broken(a, "a slot holds another position than its plan says", (uint64_t)got,
                          wanted);
    }
    return true;
}

/* Each token is there at most once, none is there that was not seen, and the protected are
 * there. */
static bool audit_set(struct audit *a, const struct cache_sequence *s, uint32_t head)
{
    const struct head_slots *h = &s->slots[head];
    uint32_t n = s->n_tokens, held = head_n_held(s, head), seen = 0, holes = 0;
    uint8_t *there = calloc(n ? n : 1, 1);
    bool ok = there || error_set_memory(a->e, "the audit", n);
    for (uint32_t slot = 0; slot < h->n_slots && ok; slot++) {
        int32_t p = position_in(a, s, head, slot);
        if (p == HOLE)
            holes++;
        else if (p < 0 || (uint32_t)p >= n)
            ok = broken(a, "a position, not below the tokens seen", (uint64_t)p, n);
        else if (there[p]++)
            ok = broken(a, "slots of one position", 2, 1);
        else
            seen++;
    }
    if (ok && holes != h->n_holes)
        ok = broken(a, "holes in a head", holes, h->n_holes);
    if (ok && seen != held)
        ok = broken(a, "positions in a head", seen, held);
    uint32_t recent = held < n ? budget_recent(s->plan, n) : n;
    for (uint32_t p = 0; p < n && ok; p++)
        if ((p < s->plan->sinks || n - p <= recent) && !there[p] && s->n_tokens >= s->prompt_end)
            ok = broken(a, "a protected position that is gone", p, p);
    free(there);
    return ok;
}

/* Heads that choose together must hold the same tokens in the same slots: their scores are added
 * slot by slot. */
static bool audit_choice(struct audit *a, const struct cache_sequence *s, uint32_t layer)
{
    const uint32_t first = layer * a->cache->n_kv_heads, n_slots = s->slots[first].n_slots;
    for (uint32_t head = first + 1; head < first + a->cache->n_kv_heads; head++) {
        if (s->slots[head].n_slots != n_slots)
            return broken(a, "slots of a head that shares its choice", s->slots[head].n_slots,
                          n_slots);
        for (uint32_t slot = 0; slot < n_slots; slot++) {
            int32_t p = position_in(a, s, head, slot), wanted = position_in(a, s, first, slot);
            if (p != wanted)
                return broken(a, "a position in a head that shares its choice", (uint64_t)p,
                              (uint64_t)wanted);
        }
    }
    return true;
}

/* Pages that a head counts as held by nobody else. */
static bool audit_own(struct audit *a, const struct cache_sequence *s, uint32_t head)
{
    const struct head_slots *h = &s->slots[head];
    for (uint32_t i = h->own_from; i < h->n_pages; i++) {
        uint32_t holders = a->cache->pool.refs[s->states[head].pages[i]];
        if (holders != 1)
            return broken(a, "holders of a page that a head counts as its own", holders, 1);
    }
    return h->own_from <= h->n_pages ||
           broken(a, "pages that may be shared, more than the head has", h->own_from, h->n_pages);
}

static bool audit_head(struct audit *a, const struct cache_sequence *s, uint32_t head)
{
    const struct head_slots *h = &s->slots[head];
    const struct ring *ring = head_ring(s, head);
    const uint32_t *pages = s->states[head].pages;
    uint32_t wanted = ring_slots_used(ring, s->n_tokens);
    if (ring->length && h->n_slots != wanted)
        return broken(a, "used slots of a head", h->n_slots, wanted);
    if (h->n_slots - h->n_holes > s->n_tokens)
        return broken(a, "slots of a head, more than tokens", h->n_slots, s->n_tokens);
    if (h->n_pages != pages_of_slots(h->n_slots))
        return broken(a, "pages of a head", h->n_pages, pages_of_slots(h->n_slots));
    for (uint32_t i = 0; i < h->n_pages; i++) {
        if (pages[i] >= a->cache->pool.n_pages)
            return broken(a, "a page number, not below the pool's size", pages[i],
                          a->cache->pool.n_pages);
        a->counted[pages[i]]++;
    }
    if (!audit_own(a, s, head))
        return false;
    return !a->position_of || (ring->length ? audit_ring(a, s, head) : audit_set(a, s, head));
}

/* The room that a sequence has noted must exist: that many tokens need no page from the pool. */
static bool audit_room(struct audit *a, const struct cache_sequence *s)
{
    const uint32_t n = s->room < PAGE_SLOTS ? s->room : PAGE_SLOTS;
    struct cache_sequence looking = *s;
    looking.room = 0;
    const uint64_t pages = n > 0 ? cache_pages_to_place(&looking, n) : 0;
    return pages == 0 || broken(a, "pages for tokens that there is room for", pages, 0);
}

/* The ring that a run is in must match how many of its pages are free. */
static bool audit_runs(struct audit *a)
{
    const struct pool *p = &a->cache->pool;
    uint32_t n_expected = 0, n_found = 0;
    for (uint32_t run = 0; run < p->n_runs; run++)
        n_expected += p->free[run] != 0;
    for (uint32_t end = p->n_runs; end < p->n_runs + 2; end++)
        for (uint32_t run = p->links[end].next; run != end; run = p->links[run].next) {
            const bool is_whole = p->free[run] == UINT16_MAX;
            if (++n_found > n_expected || p->links[p->links[run].next].before != run ||
                p->free[run] == 0 || is_whole != (end == p->n_runs))
                return broken(a, "runs with free pages", n_found, n_expected);
        }
    return n_found == n_expected || broken(a, "runs with free pages", n_found, n_expected);
}

static bool audit_pool(struct audit *a)
{
    const struct pool *p = &a->cache->pool;
    uint32_t held = 0, idle = 0;
    for (uint32_t i = 0; i < p->n_pages; i++) {
        a->counted[i] += p->listed[i];
        idle += p->listed[i] && p->refs[i] == 1;
        if (a->counted[i] != p->refs[i])
            return broken(a, "holders of a page against its count", a->counted[i], p->refs[i]);
        held += p->refs[i] > 0;
    }
    if (idle != p->n_idle)
        return broken(a, "pages that only cached prefixes hold", p->n_idle, idle);
    if (held + p->n_free != p->n_pages)
        return broken(a, "free and used pages together", held + p->n_free, p->n_pages);
    for (uint32_t i = 0; i < p->n_pages; i++)
        if ((p->free[i / POOL_RUN] >> i % POOL_RUN & 1) != (p->refs[i] == 0))
            return broken(a, "a page's holders against its being free", p->refs[i], i);
    return audit_runs(a);
}

bool cache_audit(const struct cache *c, cache_position_reader *position_of, void *context,
                 struct error *e)
{
    struct audit a = {c, calloc(c->pool.n_pages, sizeof(uint32_t)), position_of, context, e};
    if (!a.counted)
        return error_set_memory(e, "the audit", c->pool.n_pages * sizeof(uint32_t));
    bool ok = true;
    const struct cache_sequence *s;
    TAILQ_FOREACH(s, &c->sequences, of_cache) {
        if (!ok)
            break;
        uint64_t pages = 0;
        for (uint32_t h = 0; h < c->n_layers * c->n_kv_heads && ok; h++) {
            ok = audit_head(&a, s, h);
            pages += s->slots[h].n_pages;
        }
        for (uint32_t l = 0; l < c->n_layers && ok && position_of && s->plan->share == SHARE_LAYER;
             l++)
            ok = audit_choice(&a, s, l);
        ok = ok && audit_room(&a, s);
        if (ok && pages != s->n_pages)
            ok = broken(&a, "pages of a sequence", s->n_pages, pages);
    }
    ok = ok && audit_pool(&a);
    free(a.counted);
    return ok;
}
