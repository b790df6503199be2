/* The inside of `struct engine`, for engine*.c only. */
#ifndef WINNOW_ENGINE_SERVE_ENGINE_PRIVATE_H
#define WINNOW_ENGINE_SERVE_ENGINE_PRIVATE_H

#include "engine/serve/scheduler.h"

#define SNAPSHOT_MAX_SEQUENCES 1024

TAILQ_HEAD(query_list, engine_query);

struct engine {
    /* Fixed after engine_open. */
    struct engine_options options; /* its pointers are valid while engine_open runs */
    struct runtime runtime;
    struct chat_template *chat_template;
    char description[200];
    uint32_t n_ctx;
    int32_t *end_tokens; /* [n_end_tokens] of the model */
    uint32_t n_end_tokens;
    struct engine_metrics metrics;

    struct scheduler *scheduler; /* the engine thread's */
    pthread_t thread;

    /* From the loop to the engine. */
    pthread_mutex_t inbox_lock;
    pthread_cond_t inbox_filled;
    struct request_list inbox;
    uint64_t next_order;
    bool woken, stopping;

    /* In the order of engine_query. The engine holds the lock while it answers. */
    pthread_mutex_t queries_lock;
    struct query_list queries;

    /* For /v1/kv/stats; the engine writes it after each step. */
    pthread_mutex_t snapshot_lock;
    struct engine_snapshot snapshot; /* sequences: [SNAPSHOT_MAX_SEQUENCES] */
};

/* engine_load.c */
bool engine_load(struct engine *e, const struct engine_options *options, struct error *error);
void engine_unload(struct engine *e);
/* engine.c, any thread: an idle engine looks for work. */
void engine_wake(void *engine);
/* engine_query.c: engine thread, between two steps. */
void engine_answer(struct engine *e);
/* engine_snapshot.c: engine thread, between two steps. */
void engine_publish(struct engine *e);

#endif
