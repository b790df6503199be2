/* What a policy drops and when, and the tables afterwards: the end of a prompt gives pages back,
 * a decode step turns slots into holes. The backend chooses the slots (cache/policy/select.c
 * says how). Engine thread. */
#include <assert.h>

#include "cache/pages/prefix.h"
#include "cache/pages/sequence_tables.h"

/* What attention must leave in the head's state for this scorer. */
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

void placement_set_work(struct placement *placed)
{
    const struct cache_sequence *s = placed->sequence;
    const struct plan *p = s->plan;
    const uint32_t first = placed->first, n = placed->n;
    if (!plan_evicts(p) || p->prefill == PREFILL_STREAM || s->prompt_end == UINT32_MAX)
        return;
    if (first >= s->prompt_end) {
        if (p->decode != DECODE_EVICT)
            return;
        placed->score = score_of(scorer_at(p->scorer)->after_prompt);
        placed->first_scored = 0;
        placed->work = CACHE_WORK_DROP;
        return;
    }
    uint32_t voter = first_voter(s);
    placed->score = score_of(p->scorer);
    placed->first_scored = voter > first ? (voter - first < n ? voter - first : n) : 0;
    if (first + n == s->prompt_end)
        placed->work = CACHE_WORK_COMPRESS;
}

/* The job of one head that uses n_slots after n_tokens. */
static void fill_job(const struct cache_sequence *s, uint32_t layer, uint32_t kv_head,
                     uint32_t n_tokens, uint32_t n_slots, uint32_t n_drop, struct select_job *out)
{
    const uint32_t head = layer * s->cache->n_kv_heads + kv_head;
    const struct head_slots *h = &s->slots[head];
    const struct plan *p = s->plan;
    const struct budget_shape shape = cache_shape(s->cache);
    *out = (struct select_job){.plan = p,
                               .head = &s->states[head],
                               .layer = layer,
                               .kv_head = kv_head,
                               .n_tokens = n_tokens,
                               .n_slots = n_slots,
                               .budget = UINT32_MAX,
                               .n_drop = n_drop,
                               .at_end = n_tokens == s->prompt_end,
                               .votes = h->votes};
    if (out->at_end && !h->ring && !h->is_whole && budget_is_exceeded(p, n_tokens))
        out->budget = budget_of_head(&shape, p, layer, n_tokens);
}

void cache_drop_job(const struct placement *p, uint32_t layer, uint32_t kv_head,
                    struct select_job *out)
{
    const struct head_slots *h = &p->slots[layer * p->sequence->cache->n_kv_heads + kv_head];
    fill_job(p->sequence, layer, kv_head, p->first + p->n, h->n_slots, h->n_drop, out);
}

uint32_t cache_drop_jobs(const struct placement *p, uint32_t layer, struct select_job *jobs)
{
    const uint32_t n_kv_heads = p->sequence->cache->n_kv_heads;
    const struct head_slots *slots = p->slots + (size_t)layer * n_kv_heads;
    uint32_t n_dropped = 0;
    for (uint32_t h = 0; h < n_kv_heads; h++)
        n_dropped += slots[h].n_drop;
    for (uint32_t h = 0; n_dropped > 0 && h < n_kv_heads; h++)
        cache_drop_job(p, layer, h, &jobs[h]);
    return n_dropped;
}

/* The most slots that a head of the layer may keep. */
static uint32_t most_kept(const struct cache_sequence *s, const struct select_job *job)
{
    uint64_t most =
        plan_competes(s->plan) ? (uint64_t)job->budget * s->cache->n_kv_heads : job->budget;
    return most < job->n_slots ? (uint32_t)most : job->n_slots;
}

/* Pages of a head that survivors move to; 0 where nothing is dropped. */
static uint32_t pages_kept(const struct cache_sequence *s, const struct select_job *job)
{
    if (job->budget == UINT32_MAX || job->n_slots <= job->budget)
        return 0;
    return (uint32_t)pages_of_slots(most_kept(s, job));
}

/* Pages that sequences hold, as the scheduler counts them. */
static int64_t n_used(const struct cache *c)
{
    return (int64_t)c->pool.n_pages - c->pool.n_free - c->pool.n_idle;
}

static uint64_t copies_needed(const struct cache_sequence *s, uint32_t layer,
                              const struct select_job *jobs)
{
    const uint32_t n_kv_heads = s->cache->n_kv_heads;
    uint64_t needed = 0;
    for (uint32_t h = 0; h < n_kv_heads; h++)
        needed += pages_shared(s, layer * n_kv_heads + h, pages_kept(s, &jobs[h]));
    return needed;
}

bool cache_begin_compress(struct cache_sequence *s, uint32_t layer, struct select_job *jobs,
                          struct error *e)
{
    struct cache *c = s->cache;
    const int64_t before = n_used(c);
    const uint32_t first = layer * c->n_kv_heads;
    for (uint32_t h = 0; h < c->n_kv_heads; h++)
        fill_job(s, layer, h, s->prompt_end, s->slots[first + h].n_slots, 0, &jobs[h]);
    uint64_t needed = copies_needed(s, layer, jobs);
    /* Cached prefixes give up pages. A page whose only other holder was a prefix needs no copy
     * then. */
    while (needed > c->pool.n_free && !TAILQ_EMPTY(&c->prefixes.by_age)) {
        if (prefix_give_up(c, (uint32_t)(needed - c->pool.n_free)) == 0)
            prefix_clear(c);
        needed = copies_needed(s, layer, jobs);
    }
    if (needed > c->pool.n_free) {
        s->starved = true;
        return error_set(e, "kv_pool_empty", "", "%llu pages are needed and %u are free",
                         (unsigned long long)needed, c->pool.n_free);
    }
    if (!copies_reserve(c, needed))
        return error_set_memory(e, "page copies", needed * sizeof(uint32_t));
    for (uint32_t h = 0; h < c->n_kv_heads; h++)
        pages_make_own(s, first + h, pages_kept(s, &jobs[h]));
    s->balance += n_used(c) - before;
    return true;
}

static void give_back_pages(struct cache_sequence *s, uint32_t head, uint32_t n_pages)
{
    struct cache *c = s->cache;
    struct head_slots *h = &s->slots[head];
    while (h->n_pages > n_pages) {
        pool_drop(&c->pool, s->states[head].pages[--h->n_pages], s->policy);
        s->n_pages--;
        s->n_pages_returned++;
        c->pages_returned++;
    }
    if (h->own_from > n_pages)
        h->own_from = n_pages;
}

void cache_settle(struct cache_sequence *s, uint32_t layer, const struct select_job *jobs)
{
    struct cache *c = s->cache;
    const int64_t before = n_used(c);
    s->room = 0;
    for (uint32_t i = 0; i < c->n_kv_heads; i++) {
        const uint32_t head = layer * c->n_kv_heads + i, n_kept = jobs[i].n_kept;
        struct head_slots *h = &s->slots[head];
        if (jobs[i].budget == UINT32_MAX)
            continue;
        const uint32_t held = h->n_slots - h->n_holes;
        assert(n_kept <= held);
        c->evicted_slots += held - n_kept;
        s->compressed |= held > n_kept;
        if (h->budget != UINT32_MAX) /* a plan that drops in decode holds this many from now on */
            h->budget = plan_competes(s->plan) ? n_kept : jobs[i].budget;
        h->n_slots = n_kept;
        h->n_holes = 0;
        give_back_pages(s, head, (uint32_t)pages_of_slots(n_kept));
    }
    s->balance += n_used(c) - before;
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
