/* Requests: see request.h, and engine.h for the owner's side. */
#include "engine/serve/request.h"

#include <stdlib.h>
#include <string.h>

void request_options_clear(struct request_options *options)
{
    free(options->prompt);
    for (uint32_t i = 0; i < options->n_stops; i++)
        free(options->stops[i].bytes);
    free(options->stops);
    free(options->stop_tokens);
    free(options->sampling.bias);
    free(options->session_id);
    plan_release(options->plan);
    options->plan = NULL;
    options->prompt = NULL;
    options->session_id = NULL;
    options->stops = NULL;
    options->stop_tokens = NULL;
    options->sampling.bias = NULL;
    options->n_prompt = options->n_stops = options->n_stop_tokens = options->sampling.n_bias = 0;
}

struct request *request_new(struct request_options *options, struct error *e)
{
    struct request *request = calloc(1, sizeof *request);
    if (!request) {
        request_options_clear(options);
        error_set_memory(e, "a request", sizeof *request);
        return NULL;
    }
    request->options = *options;
    memset(options, 0, sizeof *options);
    if (!event_buffer_init(&request->events, e)) {
        request_options_clear(&request->options);
        free(request);
        return NULL;
    }
    if (pthread_mutex_init(&request->lock, NULL) != 0) {
        event_buffer_clear(&request->events);
        request_options_clear(&request->options);
        free(request);
        error_set(e, "out_of_memory", "", "cannot make a lock for a request");
        return NULL;
    }
    atomic_init(&request->holders, 1);
    request->usage.prompt_tokens = request->options.n_prompt;
    return request;
}

void request_drop(struct request *request)
{
    if (atomic_fetch_sub(&request->holders, 1) != 1)
        return;
    request_free_choices(request);
    event_buffer_clear(&request->events);
    pthread_mutex_destroy(&request->lock);
    stop_set_free(request->stops);
    free(request->ends);
    free(request->trace);
    request_options_clear(&request->options);
    free(request);
}

/* Called under the lock, so that no notify runs after request_release has returned. */
static void notify(struct request *request)
{
    if (!request->released && request->options.notify)
        request->options.notify(request->options.notify_context);
}

bool request_emit(struct request *request, const struct request_event *event)
{
    bool was_empty = false;
    if (!event_buffer_push(&request->events, event, &was_empty))
        return false;
    if (was_empty) {
        pthread_mutex_lock(&request->lock);
        notify(request);
        pthread_mutex_unlock(&request->lock);
    }
    return true;
}

void request_end(struct request *request, enum event_kind kind)
{
    request->last =
        (struct request_event){.kind = kind,
                               .stop_token = -1,
                               .stop_string = -1,
                               .usage = &request->usage,
                               .error = kind == EVENT_ERROR ? &request->error : NULL,
                               .kv_trace = request->trace,
                               .n_kv_trace = request->trace ? (uint32_t)strlen(request->trace) : 0,
                               .kv_trace_truncated = request->trace_truncated};
    atomic_store(&request->place, PLACE_DONE);
    pthread_mutex_lock(&request->lock);
    request->ended = true;
    atomic_store(&request->has_last, true);
    notify(request);
    pthread_mutex_unlock(&request->lock);
}

bool request_is_full(const struct request *request)
{
    return event_buffer_waiting(&request->events) >= EVENT_BUFFER_LIMIT;
}

bool request_has_room(const struct request *request)
{
    return event_buffer_waiting(&request->events) < EVENT_BUFFER_LIMIT / 2;
}

uint32_t request_n_living(const struct request *request)
{
    uint32_t n = 0;
    for (uint32_t i = 0; request->choices && i < request->options.n_choices; i++)
        n += !request->choices[i].done;
    return request->choices ? n : request->options.n_choices;
}

struct choice *request_first_living(const struct request *request)
{
    for (uint32_t i = 0; i < request->options.n_choices; i++)
        if (!request->choices[i].done)
            return &request->choices[i];
    return NULL;
}

bool request_decodes(const struct request *request)
{
    if (!request->measured || !request->forked)
        return false;
    for (uint32_t i = 0; i < request->options.n_choices; i++) {
        const struct choice *q = &request->choices[i];
        if (!q->done && choice_n_tokens(q) - cache_tokens_seen(q->cache) != 1)
            return false;
    }
    return true;
}

void request_free_choices(struct request *request)
{
    for (uint32_t i = 0; request->choices && i < request->options.n_choices; i++)
        choice_clear(&request->choices[i]);
    free(request->choices);
    request->choices = NULL;
}

bool request_is_growing(const struct request *request)
{
    return request->reserve_pages == 0;
}

/* ---- the owner's side */

static void wake_engine(struct request *request)
{
    pthread_mutex_lock(&request->lock);
    if (!request->ended)
        request->wake(request->engine);
    pthread_mutex_unlock(&request->lock);
}

struct request_event request_next(struct request *request)
{
    /* Read before the buffer: if it is set, all earlier events are in the buffer. */
    bool has_last = atomic_load(&request->has_last);
    struct request_event event = event_buffer_next(&request->events);
    if (atomic_load(&request->paused) && request_has_room(request))
        wake_engine(request);
    if (event.kind == EVENT_NONE && has_last && !request->last_taken) {
        request->last_taken = true;
        return request->last;
    }
    return event;
}

size_t request_waiting_bytes(const struct request *request)
{
    size_t last =
        atomic_load(&request->has_last) && !request->last_taken ? sizeof request->last : 0;
    return event_buffer_waiting(&request->events) + last;
}

void request_cancel(struct request *request, bool client_left)
{
    if (client_left)
        atomic_store(&request->client_left, true);
    atomic_store(&request->cancelled, true);
    wake_engine(request);
}

void request_release(struct request *request)
{
    if (!request)
        return;
    atomic_store(&request->cancelled, true);
    pthread_mutex_lock(&request->lock);
    request->released = true;
    if (!request->ended)
        request->wake(request->engine);
    pthread_mutex_unlock(&request->lock);
    request_drop(request);
}

const char *request_phase(const struct request *request)
{
    static const char *const names[] = {[PLACE_QUEUED] = "queued",
                                        [PLACE_PREFILL] = "prefill",
                                        [PLACE_DECODE] = "decode",
                                        [PLACE_PAUSED] = "paused",
                                        [PLACE_DONE] = "done"};
    return names[atomic_load(&request->place)];
}
