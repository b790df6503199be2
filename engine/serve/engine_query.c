/* What the loop asks of the engine's thread because only that thread may touch the cache: dropping
 * cached prefixes, and what one request holds head by head. Answered between two steps; see
 * engine.h. */
#include <stdio.h>
#include <string.h>

#include "engine/serve/engine_private.h"

void engine_query(struct engine *e, struct engine_query *query)
{
    pthread_mutex_lock(&e->queries_lock);
    struct engine_query **at = &e->queries;
    while (*at)
        at = &(*at)->next;
    query->next = NULL;
    *at = query;
    pthread_mutex_unlock(&e->queries_lock);
    engine_wake(e);
}

void engine_forget(struct engine *e, struct engine_query *query)
{
    pthread_mutex_lock(&e->queries_lock);
    for (struct engine_query **at = &e->queries; *at; at = &(*at)->next)
        if (*at == query) {
            *at = query->next;
            break;
        }
    pthread_mutex_unlock(&e->queries_lock);
}

/* ---- engine thread */

static const struct request *find(const struct request_list *list, const struct engine_query *query)
{
    for (const struct request *g = list->first; g; g = g->next)
        if (!strcmp(g->options.id, query->id) &&
            (query->all || g->options.owner_key == query->owner_key))
            return g;
    return NULL;
}

static void describe(struct engine *e, struct engine_query *query)
{
    struct scheduler *s = &e->scheduler;
    uint64_t now = clock_ns();
    const struct request *g = find(&s->running, query);
    g = g ? g : find(&s->queue, query);
    const struct request_record *ended =
        g ? history_of(&s->history, g->order)
          : history_find(&s->history, query->id, query->owner_key, query->all, now);
    query->found = g || ended;
    if (!query->found)
        return;
    snprintf(query->state, sizeof query->state, "%s", g ? request_phase(g) : "done");
    if (ended) {
        query->record = *ended;
        memcpy(query->heads, history_heads(&s->history, ended), s->n_heads * sizeof *query->heads);
    } else {
        scheduler_describe(s, g, &query->record, query->heads);
    }
    query->age_ms = (double)(now - query->record.submitted_ns) / 1e6;
    query->ended_ms_ago = g ? -1 : (double)(now - query->record.ended_ns) / 1e6;
}

void engine_answer(struct engine *e)
{
    pthread_mutex_lock(&e->queries_lock);
    for (struct engine_query *query; (query = e->queries);) {
        e->queries = query->next;
        if (query->kind == ENGINE_QUERY_REQUEST) {
            describe(e, query);
        } else {
            cache_set_time(e->scheduler.cache, clock_ns());
            query->pages_freed = prefix_give_up(e->scheduler.cache, UINT32_MAX);
            engine_publish(e); /* whoever is told finds it in the next snapshot */
        }
        query->done(query);
    }
    pthread_mutex_unlock(&e->queries_lock);
}
