/* The engine's thread, opening and closing, and facts: see engine.h. engine_load.c loads,
 * engine_submit.c submits, scheduler.c schedules. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/serve/engine_private.h"

/* ---- the thread */

void engine_wake(void *context)
{
    struct engine *e = context;
    pthread_mutex_lock(&e->inbox_lock);
    e->woken = true;
    pthread_cond_signal(&e->inbox_filled);
    pthread_mutex_unlock(&e->inbox_lock);
}

/* Moves submitted requests to the scheduler. With `idle`, first sleeps until a submission, a
 * wake-up or the time wake_ns (0 = never). False: the engine stops. */
static bool take_submitted(struct engine *e, bool idle, uint64_t wake_ns)
{
    pthread_mutex_lock(&e->inbox_lock);
    if (idle)
        engine_publish(e); /* the last step may have paused a request, and the sleep can be long */
    while (idle && !e->woken && !e->stopping && TAILQ_EMPTY(&e->inbox)) {
        struct timespec at = {.tv_sec = (time_t)(wake_ns / 1000000000u),
                              .tv_nsec = (long)(wake_ns % 1000000000u)};
        int status = wake_ns ? pthread_cond_timedwait(&e->inbox_filled, &e->inbox_lock, &at)
                             : pthread_cond_wait(&e->inbox_filled, &e->inbox_lock);
        if (status == ETIMEDOUT)
            break;
    }
    e->woken = false;
    for (struct request *request; (request = TAILQ_FIRST(&e->inbox));) {
        TAILQ_REMOVE(&e->inbox, request, link);
        scheduler_take(e->scheduler, request);
    }
    bool stopping = e->stopping;
    /* Under the lock, so that a snapshot finds each request in exactly one place. */
    engine_publish(e);
    pthread_mutex_unlock(&e->inbox_lock);
    return !stopping;
}

static void *run_engine(void *context)
{
    struct engine *e = context;
    bool idle = false;
    uint64_t wake_ns = 0;
    while (take_submitted(e, idle, wake_ns)) {
        engine_answer(e);
        idle = !scheduler_step(e->scheduler, &wake_ns);
    }
    return NULL;
}

/* ---- opening and closing */

static bool make_locks(struct engine *e, struct error *error)
{
    pthread_mutex_t *locks[] = {&e->inbox_lock, &e->snapshot_lock, &e->queries_lock};
    pthread_condattr_t attributes;
    unsigned n = 0;
    while (n < 3 && pthread_mutex_init(locks[n], NULL) == 0)
        n++;
    if (n == 3) {
        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        int status = pthread_cond_init(&e->inbox_filled, &attributes);
        pthread_condattr_destroy(&attributes);
        if (status == 0)
            return true;
    }
    while (n > 0)
        pthread_mutex_destroy(locks[--n]);
    return error_set(error, "out_of_memory", "", "cannot make the engine's locks");
}

static void free_engine(struct engine *e)
{
    engine_unload(e);
    free(e->snapshot.sequences);
    pthread_cond_destroy(&e->inbox_filled);
    pthread_mutex_destroy(&e->inbox_lock);
    pthread_mutex_destroy(&e->snapshot_lock);
    pthread_mutex_destroy(&e->queries_lock);
    free(e);
}

struct engine *engine_open(const struct engine_options *options, struct error *error)
{
    struct engine *e = calloc(1, sizeof *e);
    if (!e) {
        error_set_memory(error, "the engine", sizeof *e);
        return NULL;
    }
    TAILQ_INIT(&e->inbox);
    TAILQ_INIT(&e->queries);
    if (!make_locks(e, error)) {
        free(e);
        return NULL;
    }
    e->snapshot.sequences = calloc(SNAPSHOT_MAX_SEQUENCES, sizeof *e->snapshot.sequences);
    if (!e->snapshot.sequences) {
        error_set_memory(error, "snapshots",
                         SNAPSHOT_MAX_SEQUENCES * sizeof *e->snapshot.sequences);
        goto fail;
    }
    engine_metrics_init(&e->metrics);
    if (!engine_load(e, options, error))
        goto fail;
    engine_publish(e);
    if (pthread_create(&e->thread, NULL, run_engine, e) != 0) {
        error_set(error, "out_of_memory", "", "cannot start the engine's thread");
        goto fail;
    }
    return e;
fail:
    free_engine(e);
    return NULL;
}

void engine_close(struct engine *e)
{
    if (!e)
        return;
    pthread_mutex_lock(&e->inbox_lock);
    e->stopping = true;
    pthread_cond_signal(&e->inbox_filled);
    pthread_mutex_unlock(&e->inbox_lock);
    pthread_join(e->thread, NULL);
    free_engine(e);
}

/* ---- facts */

const struct model *engine_model(const struct engine *e)
{
    return e->runtime.model;
}

const struct tokenizer *engine_tokenizer(const struct engine *e)
{
    return e->runtime.tokenizer;
}

const struct chat_template *engine_chat_template(const struct engine *e)
{
    return e->chat_template;
}

const char *engine_backend_description(const struct engine *e)
{
    return e->description;
}

uint32_t engine_n_ctx(const struct engine *e)
{
    return e->n_ctx;
}

struct plan_limits engine_plan_limits(const struct engine *e)
{
    return runtime_limits(&e->runtime);
}

uint32_t engine_n_threads(const struct engine *e)
{
    return e->runtime.options.n_threads;
}

uint64_t engine_page_bytes(const struct engine *e)
{
    return e->runtime.page_bytes;
}

uint32_t engine_n_pages(const struct engine *e)
{
    return e->runtime.n_pages;
}

uint64_t engine_bound_pages(const struct engine *e, const struct plan *plan, uint64_t n_prompt,
                            uint64_t n_tokens)
{
    return cache_bound_pages(e->runtime.cache, plan, n_prompt, n_tokens);
}

struct engine_metrics *engine_metrics(struct engine *e)
{
    return &e->metrics;
}

struct session_store *engine_sessions(struct engine *e)
{
    return scheduler_sessions(e->scheduler);
}

bool engine_session_delete(struct engine *e, const char *id, uint32_t owner_key, bool all,
                           uint32_t *pages)
{
    if (!session_delete(scheduler_sessions(e->scheduler), id, owner_key, all, pages))
        return false;
    engine_wake(e);
    return true;
}

bool engine_alive(const struct engine *e)
{
    return !scheduler_has_failed(e->scheduler);
}
