/* Queries of the loop thread that the engine thread answers between two steps, because it alone may
 * touch the cache: freeing cached prefixes, and what a request holds head by head. See engine.h. */
#include <stdio.h>
#include <string.h>

#include "config/base/clock.h"
#include "engine/serve/engine_private.h"

void engine_query(struct engine *e, struct engine_query *query)
{
    pthread_mutex_lock(&e->queries_lock);
    TAILQ_INSERT_TAIL(&e->queries, query, link);
    pthread_mutex_unlock(&e->queries_lock);
    engine_wake(e);
}

void engine_forget(struct engine *e, struct engine_query *query)
{
    pthread_mutex_lock(&e->queries_lock);
    struct engine_query *waiting;
    TAILQ_FOREACH(waiting, &e->queries, link)
        if (waiting == query) {
            TAILQ_REMOVE(&e->queries, query, link);
            break;
        }
    pthread_mutex_unlock(&e->queries_lock);
}

/* ---- engine thread */

static const struct request *find(const struct request_list *list, const struct engine_query *query)
{
    const struct request *request;
    TAILQ_FOREACH(request, list, link)
        if (!strcmp(request->options.id, query->id) &&
            (query->all || request->options.owner_key == query->owner_key))
            return request;
    return NULL;
}

static void describe(struct engine *e, struct engine_query *query)
{
    struct scheduler *s = e->scheduler;
    struct request_history *history = scheduler_history(s);
    uint64_t now = clock_ns();
    const struct request *request = find(scheduler_running(s), query);
    request = request ? request : find(scheduler_queue(s), query);
    const struct request_record *ended =
        request ? history_of(history, request->order)
                : history_find(history, query->id, query->owner_key, query->all, now);
    query->found = request || ended;
    if (!query->found)
        return;
    snprintf(query->state, sizeof query->state, "%s", request ? request_phase(request) : "done");
    if (ended) {
        query->record = *ended;
        memcpy(query->heads, history_heads(history, ended),
               scheduler_n_heads(s) * sizeof *query->heads);
    } else {
        scheduler_describe(s, request, &query->record, query->heads);
    }
    query->age_ms = (double)(now - query->record.submitted_ns) / 1e6;
    query->ended_ms_ago = request ? -1 : (double)(now - query->record.ended_ns) / 1e6;
}

void engine_answer(struct engine *e)
{
    pthread_mutex_lock(&e->queries_lock);
    for (struct engine_query *query; (query = TAILQ_FIRST(&e->queries));) {
        TAILQ_REMOVE(&e->queries, query, link);
        if (query->kind == ENGINE_QUERY_REQUEST) {
            describe(e, query);
        } else {
            cache_set_time(e->runtime.cache, clock_ns());
            query->pages_freed = prefix_give_up(e->runtime.cache, UINT32_MAX);
            engine_publish(e); /* a snapshot taken after `done` shows it */
        }
        query->done(query);
    }
    pthread_mutex_unlock(&e->queries_lock);
}
