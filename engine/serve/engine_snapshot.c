/* The snapshot for /v1/kv/stats: the engine thread fills it between two steps, so its sums agree;
 * readers copy it. */
#include <stdlib.h>
#include <string.h>

#include "config/base/clock.h"
#include "engine/serve/engine_private.h"

static void describe(const struct request *request, uint64_t now, struct engine_sequence_info *info)
{
    memset(info, 0, sizeof *info);
    memcpy(info->id, request->options.id, sizeof info->id);
    memcpy(info->state, request_phase(request), strlen(request_phase(request)));
    info->policy = request->options.plan->preset->name;
    info->owner_key = request->options.owner_key;
    info->age_ms = (double)(now - request->submitted_ns) / 1e6;
    info->pages = (uint32_t)request->held_pages;
    double kept = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; request->choices && i < request->options.n_choices; i++) {
        if (!request->choices[i].cache)
            continue;
        const struct cache_sequence_counts *c = &request->choices[i].counted;
        kept += c->slots_kept;
        info->tokens_seen = c->tokens_seen > info->tokens_seen ? c->tokens_seen : info->tokens_seen;
        if (c->slots_kept_max > info->slots_kept_max)
            info->slots_kept_max = c->slots_kept_max;
        n++;
    }
    info->slots_kept = n ? kept / n : 0;
    info->share_kept = info->tokens_seen ? info->slots_kept / info->tokens_seen : 1;
}

static void list(struct engine *e, const struct request_list *requests, uint64_t now)
{
    struct engine_snapshot *s = &e->snapshot;
    const struct request *request;
    TAILQ_FOREACH(request, requests, link)
        if (s->n_sequences < SNAPSHOT_MAX_SEQUENCES)
            describe(request, now, &s->sequences[s->n_sequences++]);
}

static void count_running(struct engine *e)
{
    uint32_t n_running = 0, n_paused = 0, n_preempted = 0;
    struct scheduler *s = e->scheduler;
    const struct request *request;
    TAILQ_FOREACH(request, scheduler_running(s), link) {
        n_running++;
        n_paused += atomic_load(&request->place) == PLACE_PAUSED;
        for (uint32_t i = 0; i < request->options.n_choices; i++)
            if (request->choices[i].cache)
                scheduler_count(s, &request->choices[i]);
    }
    TAILQ_FOREACH(request, scheduler_queue(s), link)
        n_preempted += request->admitted;
    struct engine_metrics *m = &e->metrics;
    struct cache_counts counts = cache_counts(e->runtime.cache);
    atomic_store(&m->requests_running, n_running);
    atomic_store(&m->requests_waiting, scheduler_n_waiting(s) + n_preempted);
    atomic_store(&m->requests_paused, n_paused);
    atomic_store(&m->kv_pages_used, counts.used);
    atomic_store(&m->kv_pages_cached, counts.cached);
    atomic_store(&m->sessions, scheduler_sessions(s)->count);
    atomic_store(&m->session_pages, scheduler_sessions(s)->pages);
}

void engine_publish(struct engine *e)
{
    count_running(e);
    struct cache_counts counts = cache_counts(e->runtime.cache);
    uint64_t now = clock_ns();
    pthread_mutex_lock(&e->snapshot_lock);
    struct engine_snapshot *s = &e->snapshot;
    s->page_bytes = e->runtime.page_bytes;
    s->pages_total = counts.n_pages;
    s->pages_used = counts.used;
    s->n_sessions = scheduler_sessions(e->scheduler)->count;
    s->session_pages = scheduler_sessions(e->scheduler)->pages;
    s->pages_cached = counts.cached;
    s->pages_free = counts.free;
    s->evicted_slots = counts.evicted_slots_total;
    s->pages_returned = counts.pages_returned_total;
    s->preemptions = atomic_load(&e->metrics.preemptions);
    s->n_sequences = 0;
    list(e, scheduler_running(e->scheduler), now);
    list(e, scheduler_queue(e->scheduler), now);
    pthread_mutex_unlock(&e->snapshot_lock);
}

bool engine_snapshot(struct engine *e, struct engine_snapshot *out, struct error *error)
{
    memset(out, 0, sizeof *out);
    struct engine_sequence_info *sequences = calloc(SNAPSHOT_MAX_SEQUENCES, sizeof *sequences);
    if (!sequences)
        return error_set_memory(error, "a snapshot", SNAPSHOT_MAX_SEQUENCES * sizeof *sequences);
    /* Requests in the inbox count as queued. The inbox lock is taken first, so that each request is
     * found in exactly one place. */
    pthread_mutex_lock(&e->inbox_lock);
    pthread_mutex_lock(&e->snapshot_lock);
    *out = e->snapshot;
    memcpy(sequences, e->snapshot.sequences, out->n_sequences * sizeof *sequences);
    pthread_mutex_unlock(&e->snapshot_lock);
    out->sequences = sequences;
    uint64_t now = clock_ns();
    const struct request *request;
    TAILQ_FOREACH(request, &e->inbox, link)
        if (out->n_sequences < SNAPSHOT_MAX_SEQUENCES)
            describe(request, now, &sequences[out->n_sequences++]);
    pthread_mutex_unlock(&e->inbox_lock);
    return true;
}

void engine_snapshot_clear(struct engine_snapshot *s)
{
    free(s->sequences);
    memset(s, 0, sizeof *s);
}
