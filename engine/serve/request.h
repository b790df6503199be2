/* One request inside the engine: its choices, and the events for its owner.
 *
 * The owner (loop thread) and the engine each hold a request; the last to drop it frees it. Each
 * group of fields says who may touch it. */
#ifndef WINNOW_ENGINE_SERVE_REQUEST_H
#define WINNOW_ENGINE_SERVE_REQUEST_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "engine/serve/events.h"
#include "engine/serve/choice.h"

enum request_place { PLACE_QUEUED, PLACE_PREFILL, PLACE_DECODE, PLACE_PAUSED, PLACE_DONE };

struct request {
    /* Fixed at submission. */
    struct request_options options;
    struct stop_set *stops;
    int32_t *ends; /* [n_ends] tokens that end a choice: the model's and the request's */
    uint32_t n_ends;
    uint32_t max_new;       /* most tokens a choice may generate */
    uint64_t reserve_pages; /* the most that all choices hold together; 0 for growing plans */
    uint64_t settled_pages; /* likewise, after the prompt was compressed */
    uint32_t policy;        /* index of the preset, for metrics */
    uint64_t order;         /* of submission: younger requests have higher numbers */
    uint64_t submitted_ns, deadline_ns; /* 0 = no deadline */
    void (*wake)(void *engine);         /* valid while not `ended` */
    void *engine;

    /* Crossing threads. */
    pthread_mutex_t lock;
    bool released, ended; /* under the lock */
    atomic_uint holders;
    atomic_bool cancelled, client_left, paused;
    atomic_int place;
    struct event_buffer events;
    struct request_event last; /* written once, before `has_last` */
    atomic_bool has_last;

    /* The owner's. */
    bool last_taken;

    /* The engine's, from submission to `ended`. */
    TAILQ_ENTRY(request) link; /* in the inbox, queue, running or ended, one at a time */
    struct choice *choices;    /* [n_choices] made at the first admission, else NULL */
    bool admitted;             /* at least once */
    bool forked;               /* every choice that has not ended has its own cache sequence */
    bool in_batch;             /* has rows in the step that is being filled */
    uint64_t reserved_pages;   /* promised while running */
    struct prefix_name chain;  /* name of the first n_chained tokens, which are listed for reuse */
    uint32_t n_chained;
    uint64_t held_pages;      /* taken from the pool */
    uint32_t prompt_reported; /* prompt tokens emitted with log probabilities */
    uint32_t prompt_done;     /* prompt tokens reported by EVENT_PROGRESS */
    bool measured;            /* the first token was sampled and its time noted */
    uint64_t admitted_ns, first_token_ns;
    uint64_t paused_ns; /* since when it is paused */
    struct request_usage usage;
    enum finish_reason finish; /* of choice 0 */
    struct error error;
    char *trace; /* JSON text of what choice 0 kept, or NULL */
    bool trace_truncated;
};

TAILQ_HEAD(request_list, request);

/* Loop thread. Moves the options into a new request; the caller fills the other fixed fields. NULL:
 * "out_of_memory", and the options are cleared. */
struct request *request_new(struct request_options *request, struct error *e);
/* Ends one holder's hold. */
void request_drop(struct request *request);

/* Engine thread. Adds an event and notifies; false when memory is short. */
bool request_emit(struct request *request, const struct request_event *event);
/* Sends the last event: EVENT_DONE, or EVENT_ERROR with request->error. Needs no memory. Afterwards
 * the owner cannot wake the engine through the request. */
void request_end(struct request *request, enum event_kind kind);

bool request_is_full(const struct request *request);      /* the event buffer is at its limit */
bool request_has_room(const struct request *request);     /* it is below half of its limit */
uint32_t request_n_living(const struct request *request); /* choices that have not ended */
/* NULL: all have ended. Only after the choices were made. */
struct choice *request_first_living(const struct request *request);
/* Whether every choice that has not ended has one token left to compute: the one it sampled
 * last. */
bool request_decodes(const struct request *request);
/* Frees the choices with their caches. */
void request_free_choices(struct request *request);
bool request_is_growing(const struct request *request); /* only the context bounds its pages */

static inline void request_set_place(struct request *request, enum request_place place)
{
    atomic_store(&request->place, place);
}

static inline bool request_is_done(const struct request *request)
{
    return atomic_load(&request->place) == PLACE_DONE;
}

#endif
