/* What the loop asks of the engine's thread because only that thread may touch the cache: dropping
 * cached prefixes, and what one request holds head by head. Answered between two steps; see
 * engine.h. */
#include <stdio.h>
#include <string.h>

#include "engine/serve/engine_private.h"

void engine_ask(struct engine *e, struct engine_ask *ask)
{
    pthread_mutex_lock(&e->asks_lock);
    struct engine_ask **at = &e->asks;
    while (*at)
        at = &(*at)->next;
    ask->next = NULL;
    *at = ask;
    pthread_mutex_unlock(&e->asks_lock);
    engine_wake(e);
}

void engine_forget(struct engine *e, struct engine_ask *ask)
{
    pthread_mutex_lock(&e->asks_lock);
    for (struct engine_ask **at = &e->asks; *at; at = &(*at)->next)
        if (*at == ask) {
            *at = ask->next;
            break;
        }
    pthread_mutex_unlock(&e->asks_lock);
}

/* ---- engine thread */

static const struct generation *find(const struct generation_list *list,
                                     const struct engine_ask *ask)
{
    for (const struct generation *g = list->first; g; g = g->next)
        if (!strcmp(g->request.id, ask->id) && (ask->all || g->request.owner_key == ask->owner_key))
            return g;
    return NULL;
}

static void describe(struct engine *e, struct engine_ask *ask)
{
    struct scheduler *s = &e->scheduler;
    uint64_t now = clock_ns();
    const struct generation *g = find(&s->running, ask);
    g = g ? g : find(&s->queue, ask);
    const struct request_record *ended =
        g ? history_of(&s->history, g->order)
          : history_find(&s->history, ask->id, ask->owner_key, ask->all, now);
    ask->found = g || ended;
    if (!ask->found)
        return;
    snprintf(ask->state, sizeof ask->state, "%s", g ? generation_phase(g) : "done");
    if (ended) {
        ask->record = *ended;
        memcpy(ask->heads, history_heads(&s->history, ended), s->n_heads * sizeof *ask->heads);
    } else {
        scheduler_describe(s, g, &ask->record, ask->heads);
    }
    ask->age_ms = (double)(now - ask->record.submitted_ns) / 1e6;
    ask->ended_ms_ago = g ? -1 : (double)(now - ask->record.ended_ns) / 1e6;
}

void engine_answer(struct engine *e)
{
    pthread_mutex_lock(&e->asks_lock);
    for (struct engine_ask *ask; (ask = e->asks);) {
        e->asks = ask->next;
        if (ask->kind == ENGINE_ASK_REQUEST) {
            describe(e, ask);
        } else {
            cache_set_time(e->scheduler.cache, clock_ns());
            ask->pages_freed = prefix_give_up(e->scheduler.cache, UINT32_MAX);
            engine_publish(e); /* whoever is told finds it in the next snapshot */
        }
        ask->done(ask);
    }
    pthread_mutex_unlock(&e->asks_lock);
}
