/* Pages of requests: promised, held, and given up for others. See pages.h. */
#include "engine/serve/pages.h"

/* ---- held and promised */

uint32_t pages_begin(const struct scheduler *s)
{
    return cache_counts(s->runtime->cache).used;
}

void pages_end(const struct scheduler *s, struct request *request, uint32_t before)
{
    /* Unsigned: a difference below 0 wraps, and the sum wraps back. */
    request->held_pages += (uint64_t)cache_counts(s->runtime->cache).used - before;
}

void pages_free(const struct scheduler *s, struct request *request)
{
    uint32_t before = pages_begin(s);
    for (uint32_t i = 0; request->choices && i < request->options.n_choices; i++) {
        cache_sequence_free(request->choices[i].cache);
        request->choices[i].cache = NULL;
    }
    pages_end(s, request, before);
    request->reserved_pages = 0;
}

static uint64_t promised(const struct request *request)
{
    return request->reserved_pages > request->held_pages
               ? request->reserved_pages - request->held_pages
               : 0;
}

uint64_t pages_for(const struct scheduler *s, const struct request *request)
{
    struct cache_counts counts = cache_counts(s->runtime->cache);
    uint64_t others = 0, n_free = (uint64_t)counts.free + counts.cached + s->sessions.pages;
    const struct request *r;
    TAILQ_FOREACH(r, &s->running, link)
        others += r == request ? 0 : promised(r);
    return n_free > others ? n_free - others : 0;
}

uint64_t pages_growing(const struct cache *cache, const struct plan *plan, uint32_t n_tokens,
                       uint32_t n_choices)
{
    uint64_t n_heads = (uint64_t)cache_n_layers(cache) * cache_n_kv_heads(cache);
    return cache_bound_pages(cache, plan, n_tokens, (uint64_t)n_tokens + 1) +
           (n_choices - 1) * n_heads;
}

uint64_t pages_to_admit(const struct scheduler *s, const struct request *request)
{
    if (!request_is_growing(request))
        return request->reserve_pages;
    const struct request_options *options = &request->options;
    uint64_t need = pages_growing(s->runtime->cache, options->plan, options->n_prompt,
                                  request_n_living(request));
    uint64_t prompt =
        cache_bound_pages(s->runtime->cache, options->plan, options->n_prompt, options->n_prompt);
    for (uint32_t i = 0; request->choices && i < options->n_choices; i++)
        if (!request->choices[i].done)
            need += cache_bound_pages(s->runtime->cache, options->plan, options->n_prompt,
                                      choice_n_tokens(&request->choices[i])) -
                    prompt;
    return need;
}

/* ---- giving up: prefixes, then sessions, then the youngest request */

void pages_give_up(struct scheduler *s, uint64_t need)
{
    struct cache *cache = s->runtime->cache;
    uint64_t n_free = cache_counts(cache).free;
    if (need > n_free)
        prefix_give_up(cache, (uint32_t)(need - n_free));
    while (need > (n_free = cache_counts(cache).free) && session_give_up(&s->sessions))
        prefix_give_up(cache, (uint32_t)(need - n_free));
}

void pages_preempt(struct scheduler *s, struct request *request)
{
    pages_free(s, request);
    request->forked = false;
    request->usage.n_preemptions++;
    scheduler_stop(s, request);
    request_set_place(request, PLACE_QUEUED);
    atomic_store(&request->paused, false);
    TAILQ_INSERT_HEAD(&s->queue, request, link);
    atomic_fetch_add(&s->options.metrics->preemptions, 1);
}

enum pages_answer pages_secure(struct scheduler *s, struct request *request, uint64_t need)
{
    while (need > pages_for(s, request)) {
        if (s->n_running == 1)
            return PAGES_ALONE;
        struct request *youngest = TAILQ_LAST(&s->running, request_list), *victim = youngest;
        while (victim && victim->in_batch)
            victim = TAILQ_PREV(victim, request_list, link);
        if (!victim || (victim == request && request != youngest))
            return PAGES_LATER;
        pages_preempt(s, victim);
        if (victim == request)
            return PAGES_LATER;
    }
    return PAGES_READY;
}

void pages_settle(struct scheduler *s)
{
    for (uint32_t i = 0; i < s->n_rows; i++) {
        struct choice *q = s->rows[i].sequence;
        struct request *request = q->owner;
        request->held_pages += (uint64_t)cache_take_balance(q->cache); /* wraps likewise */
        if (!cache_is_starved(q->cache))
            continue;
        for (uint32_t k = 0; k < s->n_rows; k++) /* its choices' rows too */
            if (k > i && s->rows[k].sequence->owner == request)
                s->rows[k--] = s->rows[--s->n_rows];
        pages_preempt(s, request);
        session_give_up(&s->sessions);
        s->rows[i--] = s->rows[--s->n_rows];
    }
}
