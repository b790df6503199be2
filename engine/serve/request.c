/* Requests: see request.h, and engine.h for the owner's side. */
#include "engine/serve/request.h"

#include <stdlib.h>
#include <string.h>

void request_options_clear(struct request_options *r)
{
    free(r->prompt);
    for (uint32_t i = 0; i < r->n_stops; i++)
        free(r->stops[i].bytes);
    free(r->stops);
    free(r->stop_tokens);
    free(r->sampling.bias);
    free(r->session_id);
    plan_release(r->plan);
    r->plan = NULL;
    r->prompt = NULL;
    r->session_id = NULL;
    r->stops = NULL;
    r->stop_tokens = NULL;
    r->sampling.bias = NULL;
    r->n_prompt = r->n_stops = r->n_stop_tokens = r->sampling.n_bias = 0;
}

struct request *request_new(struct request_options *request, struct error *e)
{
    struct request *g = calloc(1, sizeof *g);
    if (!g) {
        request_options_clear(request);
        error_set_memory(e, "a request", sizeof *g);
        return NULL;
    }
    g->options = *request;
    memset(request, 0, sizeof *request);
    if (!event_buffer_init(&g->events, e)) {
        request_options_clear(&g->options);
        free(g);
        return NULL;
    }
    if (pthread_mutex_init(&g->lock, NULL) != 0) {
        event_buffer_clear(&g->events);
        request_options_clear(&g->options);
        free(g);
        error_set(e, "out_of_memory", "", "cannot make a lock for a request");
        return NULL;
    }
    atomic_init(&g->holders, 1);
    g->usage.prompt_tokens = g->options.n_prompt;
    return g;
}

void request_drop(struct request *g)
{
    if (atomic_fetch_sub(&g->holders, 1) != 1)
        return;
    request_free_choices(g);
    event_buffer_clear(&g->events);
    pthread_mutex_destroy(&g->lock);
    stop_set_free(g->stops);
    free(g->ends);
    free(g->trace);
    request_options_clear(&g->options);
    free(g);
}

/* Under the lock, so that no notify runs once request_release has returned. */
static void notify(struct request *g)
{
    if (!g->released && g->options.notify)
        g->options.notify(g->options.notify_context);
}

bool request_emit(struct request *g, const struct request_event *event)
{
    bool was_empty = false;
    if (!event_buffer_push(&g->events, event, &was_empty))
        return false;
    if (was_empty) {
        pthread_mutex_lock(&g->lock);
        notify(g);
        pthread_mutex_unlock(&g->lock);
    }
    return true;
}

void request_end(struct request *g, enum event_kind kind)
{
    g->last = (struct request_event){.kind = kind,
                                     .stop_token = -1,
                                     .stop_string = -1,
                                     .usage = &g->usage,
                                     .error = kind == EVENT_ERROR ? &g->error : NULL,
                                     .kv_trace = g->trace,
                                     .n_kv_trace = g->trace ? (uint32_t)strlen(g->trace) : 0,
                                     .kv_trace_truncated = g->trace_truncated};
    atomic_store(&g->place, PLACE_DONE);
    pthread_mutex_lock(&g->lock);
    g->ended = true;
    atomic_store(&g->has_last, true);
    notify(g);
    pthread_mutex_unlock(&g->lock);
}

bool request_is_full(const struct request *g)
{
    return event_buffer_waiting(&g->events) >= EVENT_BUFFER_LIMIT;
}

bool request_has_room(const struct request *g)
{
    return event_buffer_waiting(&g->events) < EVENT_BUFFER_LIMIT / 2;
}

uint32_t request_n_living(const struct request *g)
{
    uint32_t n = 0;
    for (uint32_t i = 0; g->choices && i < g->options.n_choices; i++)
        n += !g->choices[i].done;
    return g->choices ? n : g->options.n_choices;
}

struct choice *request_first_living(const struct request *g)
{
    for (uint32_t i = 0; i < g->options.n_choices; i++)
        if (!g->choices[i].done)
            return &g->choices[i];
    return NULL;
}

bool request_decodes(const struct request *g)
{
    if (!g->measured || !g->forked)
        return false;
    for (uint32_t i = 0; i < g->options.n_choices; i++) {
        const struct choice *q = &g->choices[i];
        if (!q->done && choice_n_tokens(q) - cache_tokens_seen(q->cache) != 1)
            return false;
    }
    return true;
}

void request_free_choices(struct request *g)
{
    for (uint32_t i = 0; g->choices && i < g->options.n_choices; i++)
        choice_clear(&g->choices[i]);
    free(g->choices);
    g->choices = NULL;
}

bool request_is_growing(const struct request *g)
{
    return g->reserve_pages == 0;
}

/* ---- the owner's side */

static void wake_engine(struct request *g)
{
    pthread_mutex_lock(&g->lock);
    if (!g->ended)
        g->wake(g->engine);
    pthread_mutex_unlock(&g->lock);
}

struct request_event request_next(struct request *g)
{
    /* Asked before the buffer: all that came before the last event is in the buffer by then. */
    bool has_last = atomic_load(&g->has_last);
    struct request_event event = event_buffer_next(&g->events);
    if (atomic_load(&g->paused) && request_has_room(g))
        wake_engine(g);
    if (event.kind == EVENT_NONE && has_last && !g->last_taken) {
        g->last_taken = true;
        return g->last;
    }
    return event;
}

size_t request_waiting_bytes(const struct request *g)
{
    size_t last = atomic_load(&g->has_last) && !g->last_taken ? sizeof g->last : 0;
    return event_buffer_waiting(&g->events) + last;
}

void request_cancel(struct request *g, bool client_left)
{
    if (client_left)
        atomic_store(&g->client_left, true);
    atomic_store(&g->cancelled, true);
    wake_engine(g);
}

void request_release(struct request *g)
{
    if (!g)
        return;
    atomic_store(&g->cancelled, true);
    pthread_mutex_lock(&g->lock);
    g->released = true;
    if (!g->ended)
        g->wake(g->engine);
    pthread_mutex_unlock(&g->lock);
    request_drop(g);
}

const char *request_phase(const struct request *g)
{
    static const char *const names[] = {[PLACE_QUEUED] = "queued",
                                        [PLACE_PREFILL] = "prefill",
                                        [PLACE_DECODE] = "decode",
                                        [PLACE_PAUSED] = "paused",
                                        [PLACE_DONE] = "done"};
    return names[atomic_load(&g->place)];
}
