/* What a policy wants done and when, and the tables after it was done: the end of a prompt gives
 * pages back, a decode step turns slots into holes. The choosing itself is the backend's
 * (cache/policy/select.c says how). Engine thread. */
#include <assert.h>

#include "cache/pages/prefix.h"
#include "cache/pages/sequence_tables.h"

/* What attention has to leave in the head's state for this scorer. */
static enum cache_score score_of(enum plan_scorer scorer)
{
    switch (scorer_at(scorer)->reads) {
    case SCORER_READS_SUM:
        return CACHE_SCORE_SUM;
    case SCORER_READS_LAST:
        return CACHE_SCORE_LAST;
    case SCORER_READS_HISTORY:
        return CACHE_SCORE_HISTORY;
    case SCORER_READS_POSITIONS:
    case SCORER_READS_KEYS:
    case SCORER_READS_DIRECTION:
        break;
    }
    return CACHE_SCORE_NONE;
}

/* The first position of the prompt whose query leaves a score. */
static uint32_t first_voter(const struct cache_sequence *s)
{
    uint32_t voters = scorer_voters(s->plan);
    uint32_t first = s->prompt_end > voters ? s->prompt_end - voters : 0;
    return first > s->prompt_from ? first : s->prompt_from;
}

struct cache_work cache_work(const struct cache_sequence *s, uint32_t first, uint32_t n)
{
    struct cache_work w = {.first_scored = n};
    const struct plan *p = s->plan;
    if (!plan_evicts(p) || p->prefill == PREFILL_STREAM || s->prompt_end == UINT32_MAX)
        return w;
    if (first >= s->prompt_end) {
        if (p->decode != DECODE_EVICT)
            return w;
        w.score = score_of(scorer_at(p->scorer)->after_prompt);
        w.first_scored = 0;
        w.step = CACHE_STEP_EVICT;
        return w;
    }
    uint32_t voter = first_voter(s);
    w.score = score_of(p->scorer);
    w.first_scored = voter > first ? (voter - first < n ? voter - first : n) : 0;
    if (first + n == s->prompt_end)
        w.step = CACHE_STEP_COMPRESS;
    return w;
}

uint32_t foresee_eviction(struct cache_sequence *s, struct table *t)
{
    const struct plan *p = s->plan;
    struct head_state *head = &t->state;
    uint32_t recent = budget_recent(p, s->n_tokens), budget = head->budget;
    if (t->placement.ring || budget == UINT32_MAX)
        return 0;
    if (recent != p->recent) /* a window that has grown since the plan was resolved */
        budget = p->sinks + recent;
    if (head->n_slots - head->n_holes_due <= budget)
        return 0;
    /* A small head cannot drop as many at once as the others. */
    uint32_t free_choice = budget > p->sinks + recent ? budget - p->sinks - recent : 1;
    uint32_t n = p->interval < free_choice ? p->interval : free_choice;
    head->n_holes_due += n;
    s->compressed = true;
    s->cache->evicted_slots += n;
    return n;
}

void cache_select_job(struct cache_sequence *s, uint32_t layer, uint32_t kv_head, uint32_t n_tokens,
                      uint32_t n_slots, uint32_t n_drop, struct select_job *out)
{
    struct table *t = &s->tables[layer * s->cache->n_kv_heads + kv_head];
    const struct plan *p = s->plan;
    const struct budget_shape shape = cache_shape(s->cache);
    *out = (struct select_job){.plan = p,
                               .head = &t->state,
                               .layer = layer,
                               .kv_head = kv_head,
                               .n_tokens = n_tokens,
                               .n_slots = n_slots,
                               .budget = UINT32_MAX,
                               .n_drop = n_drop,
                               .at_end = n_tokens == s->prompt_end,
                               .votes = t->votes};
    if (out->at_end && !t->placement.ring && !t->whole && budget_is_exceeded(p, n_tokens))
        out->budget = budget_of_head(&shape, p, layer, n_tokens);
}

/* The most slots that a head of the layer may keep. */
static uint32_t most_kept(const struct cache_sequence *s, const struct select_job *job)
{
    bool compete = job->plan->allocation == ALLOCATION_ADAPTIVE && job->budget != UINT32_MAX;
    uint64_t most = compete ? (uint64_t)job->budget * s->cache->n_kv_heads : job->budget;
    return most < job->head->n_slots ? (uint32_t)most : job->head->n_slots;
}

/* Pages that sequences hold: what the scheduler's accounts are about. */
static int64_t n_used(const struct cache *c)
{
    return (int64_t)c->pool.n_pages - c->pool.n_free - c->pool.n_idle;
}

bool cache_begin_compress(struct cache_sequence *s, uint32_t layer, struct error *e)
{
    struct cache *c = s->cache;
    uint64_t needed = 0;
    int64_t before = n_used(c);
    for (uint32_t pass = 0; pass < 2; pass++) {
        for (uint32_t h = 0; h < c->n_kv_heads; h++) {
            struct select_job job;
            cache_select_job(s, layer, h, s->prompt_end, cache_head(s, layer, h)->n_slots, 0, &job);
            struct head_state *head = job.head;
            if (job.budget == UINT32_MAX || head->n_slots <= job.budget)
                continue;
            uint32_t n_pages = (most_kept(s, &job) + PAGE_SLOTS - 1) / PAGE_SLOTS;
            for (uint32_t i = 0; i < n_pages; i++) {
                if (c->pool.refs[head->pages[i]] < 2)
                    continue;
                needed += pass == 0;
                if (pass == 1)
                    page_make_own(s, head, i);
            }
        }
        /* Prefixes in the way go; where they were the other holder, there is nothing to copy. */
        if (pass == 0 && needed > c->pool.n_free && c->prefixes.oldest) {
            if (prefix_give_up(c, (uint32_t)(needed - c->pool.n_free)) == 0)
                prefix_clear(c);
            return cache_begin_compress(s, layer, e);
        }
        s->starved |= pass == 0 && needed > c->pool.n_free;
        if (s->starved)
            return error_set(e, "kv_pool_empty", "", "%llu pages are needed and %u are free",
                             (unsigned long long)needed, c->pool.n_free);
        if (pass == 0 && !copies_reserve(c, needed))
            return error_set_memory(e, "page copies", needed * sizeof(uint32_t));
    }
    s->balance += n_used(c) - before;
    return true;
}

void cache_end_compress(struct cache_sequence *s, uint32_t layer, const uint32_t *n_kept)
{
    struct cache *c = s->cache;
    for (uint32_t h = 0; h < c->n_kv_heads; h++) {
        struct select_job job;
        cache_select_job(s, layer, h, s->prompt_end, cache_head(s, layer, h)->n_slots, 0, &job);
        struct head_state *head = job.head;
        if (job.budget == UINT32_MAX)
            continue;
        uint32_t held = head->n_slots - head->n_holes_due;
        int64_t before = n_used(c);
        assert(n_kept[h] <= held);
        c->evicted_slots += held - n_kept[h];
        s->compressed |= held > n_kept[h];
        if (head->budget != UINT32_MAX) /* decode drops: from here on this is what it holds */
            head->budget = s->plan->allocation == ALLOCATION_ADAPTIVE ? n_kept[h] : job.budget;
        head->n_slots = n_kept[h];
        head->n_holes_due = 0;
        uint32_t n_pages = (n_kept[h] + PAGE_SLOTS - 1) / PAGE_SLOTS;
        while (head->n_pages > n_pages) {
            pool_drop(&c->pool, head->pages[--head->n_pages], s->policy);
            s->n_pages--;
            s->n_pages_returned++;
            c->pages_returned++;
        }
        s->balance += n_used(c) - before;
    }
}

bool cache_is_starved(const struct cache_sequence *s)
{
    return s->starved;
}

int64_t cache_take_balance(struct cache_sequence *s)
{
    int64_t balance = s->balance;
    s->balance = 0;
    return balance;
}
