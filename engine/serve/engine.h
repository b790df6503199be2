/* The engine owns the model, the cache and one thread that runs steps until engine_close. The
 * server submits requests from its loop thread and reads their events there.
 *
 * Threads: "loop" is the caller's thread (one at a time), "engine" is ours. Data crosses between
 * them in these places only: the inbox of submitted requests, each request's event buffer (256 KiB;
 * while it is full the request pauses), the queries, the session store, and the snapshot. */
#ifndef WINNOW_ENGINE_SERVE_ENGINE_H
#define WINNOW_ENGINE_SERVE_ENGINE_H

#include <sys/queue.h>

#include "cache/policy/plan.h"
#include "cache/pages/prefix.h"
#include "engine/text/chat.h"
#include "engine/serve/metrics.h"
#include "engine/model/model.h"
#include "engine/serve/history.h"
#include "engine/compute/device.h"
#include "engine/compute/sampler.h"
#include "engine/serve/session.h"
#include "engine/text/stop.h"
#include "engine/text/tokenizer.h"

struct engine;

struct engine_options {
    const char *model_path;
    struct device device;         /* from device_pick */
    double gpu_memory_share;      /* the share of the GPU's memory that may be used; 0 = 0.9 */
    const char *isa;              /* NULL = best */
    uint32_t n_threads;           /* 0 = physical cores, within affinity and cgroup quota */
    uint32_t n_ctx;               /* 0 = trained context; more than trained is refused */
    uint32_t max_num_seqs;        /* choices that run at once */
    uint32_t max_batched_tokens;  /* rows of a step; 0 = the larger of the device's usual rows and
                                    max_num_seqs */
    uint32_t max_queue;           /* requests that may wait */
    uint32_t max_generate;        /* length of an answer that neither the request nor the context
                                    limits */
    uint64_t kv_memory_bytes;     /* 0 = use kv_memory_share */
    double kv_memory_share;       /* 0..1 of the memory that is free after loading. If this and
                                    kv_memory_bytes are 0, engine_load.c chooses */
    enum plan_storage kv_storage; /* of cached keys and values */
    const char *head_profile;     /* as in runtime_options (engine/measure/runtime.h) */
    const char *chat_template; /* a file or a built-in name; NULL = the model's own, else a guess */
    bool no_mmap;              /* copy the model file into memory instead of mapping it */
    bool audit; /* run cache_audit after every step; a broken cache aborts the program */
    uint64_t queue_timeout_ms; /* 0 = off */
    uint64_t session_ttl_ms;   /* how long a session waits for its next turn; 0 = none is kept */
    /* Called while loading, on any thread; may be NULL. */
    void (*progress)(void *context, const char *what, double share);
    void *progress_context;
};

/* Loads the model and starts the thread; returns when both are done. Copies what it needs of the
 * options. NULL: "invalid_model", "invalid_value", "out_of_memory" or what runtime_load says. */
struct engine *engine_open(const struct engine_options *options, struct error *e);
/* Stops after the current step. Requests that still run end with EVENT_ERROR "engine_stopped";
 * their owners must have released them before. */
void engine_close(struct engine *e);

const struct model *engine_model(const struct engine *e);
const struct tokenizer *engine_tokenizer(const struct engine *e);
const struct chat_template *engine_chat_template(const struct engine *e);
const char *engine_backend_description(const struct engine *e); /* "cpu: AVX-512, 2 threads" */
uint32_t engine_n_ctx(const struct engine *e);
struct plan_limits engine_plan_limits(const struct engine *e);
uint32_t engine_n_threads(const struct engine *e);
uint64_t engine_page_bytes(const struct engine *e);
uint32_t engine_n_pages(const struct engine *e);
/* The most pages that a request of n_prompt prompt tokens and n_tokens in all holds under a
 * plan. */
uint64_t engine_bound_pages(const struct engine *e, const struct plan *plan, uint64_t n_prompt,
                            uint64_t n_tokens);
struct engine_metrics *engine_metrics(struct engine *e); /* atomics, any thread */
/* False once the device has failed; engine_submit then refuses with "engine_fault". Any thread. */
bool engine_alive(const struct engine *e);

/* ---- one request */

struct request_options {
    char id[64];     /* for logs and /v1/kv/stats */
    int32_t *prompt; /* [n_prompt] >= 1, every id in range */
    uint32_t n_prompt;
    const struct plan *plan; /* held */
    struct sampling sampling;
    struct stop_string *stops;
    uint32_t n_stops;
    int32_t *stop_tokens;
    uint32_t n_stop_tokens;
    bool include_stop_string, ignore_eos;
    bool show_control; /* the answer contains the text of control tokens */
    uint32_t min_tokens;
    int64_t max_tokens;        /* -1 = rest of the context or max_generate; 0 = only the prompt */
    uint32_t n_choices;        /* 1..16 */
    int32_t n_logprobs;        /* -1 = none; 0..20 alternatives for generated tokens */
    int32_t n_prompt_logprobs; /* -1 = none; 0..20 for prompt tokens (echo) */
    bool progress;             /* EVENT_PROGRESS wanted */
    uint64_t timeout_ms;       /* 0 = none; queue time included */
    char *session_id;  /* owned; needs n_choices 1. NULL = the cache is freed with the answer */
    bool reuse_prefix; /* use cached prompts of the same root, and add this one to them */
    struct prefix_name prefix_root; /* requests with the same root share prompts */
    uint32_t owner_key;             /* index of the API key that may see the request, 0 = none */
    bool accepted;                  /* a part of what was accepted before: never "queue_full" */
    /* Called on the engine thread whenever the event buffer turns from empty to not empty. Must not
     * call back into the engine; the server calls uv_async_send. */
    void (*notify)(void *context);
    void *notify_context;
};

/* Frees what the options own and releases the plan. For options that were not submitted. */
void request_options_clear(struct request_options *options);

struct request;

/* Whether a request with these options could ever run: engine_submit's checks of tokens, length and
 * memory. Keeps nothing. Any thread. */
bool engine_check(const struct engine *e, const struct request_options *options,
                  struct error *error);
/* Whether the queue takes one more request at this moment. Loop thread. */
bool engine_has_room(struct engine *e);
/* Loop thread. Owns what the options own from here on, also when it fails. NULL: "queue_full" (with
 * retry_after_ms and queue_length), "context_length_exceeded" (n_prompt_tokens, n_ctx),
 * "kv_memory_exceeded", "invalid_value", "out_of_memory", "draining" or "engine_fault". */
struct request *engine_submit(struct engine *e, struct request_options *options,
                              struct error *error);

enum finish_reason { FINISH_STOP, FINISH_LENGTH, FINISH_ABORT, FINISH_ERROR };

struct event_token {
    int32_t token;
    float logprob; /* log-softmax of the raw logits; 0 when not asked for */
    uint32_t n_top;
    const struct top_logprob *top; /* [n_top] descending */
};

enum event_kind {
    EVENT_NONE,          /* nothing is waiting */
    EVENT_PROGRESS,      /* n_done of n_total prompt tokens, time_ms since the start */
    EVENT_PROMPT_TOKENS, /* tokens[] = consecutive prompt tokens from index first_token, with
                            logprobs; index 0 has none (NAN) */
    EVENT_TEXT,       /* whole characters of `choice`, and the tokens that they complete, if any */
    EVENT_CHOICE_END, /* `choice` ended: finish, stop_token, stop_string */
    EVENT_DONE,       /* all choices ended; usage is final; the last event */
    EVENT_ERROR       /* the request failed: error; the last event */
};

struct request_usage {
    uint32_t prompt_tokens, completion_tokens; /* completion: all choices */
    uint32_t cached_tokens;                    /* prompt tokens that were not computed again */
    uint32_t cache_write_tokens;               /* tokens added to the cached prompts */
    /* Of choice 0, see server/API.md 7.4. */
    uint32_t tokens_seen;
    double reused_slots; /* of cached_tokens, mean per head; a session may have dropped some */
    double slots_kept;
    uint32_t slots_kept_min, slots_kept_max;
    double evicted; /* mean per head */
    uint64_t bytes, bytes_peak, bytes_full;
    uint32_t pages, pages_returned;
    bool exact;
    bool session_reused;     /* cached_tokens are those of the session */
    bool session_missed;     /* there is a session, but of another plan or another beginning */
    bool session_kept;       /* the cache waits for the next turn */
    int64_t session_ends;    /* of session_kept: until when, Unix seconds */
    const char *policy;      /* NULL while nothing was computed */
    enum plan_source source; /* of the plan */
    uint32_t budget;         /* 0 for full */
    double queue_ms, prompt_ms, predicted_ms, ttft_ms;
    uint32_t n_preemptions;
};

struct request_event {
    enum event_kind kind;
    uint32_t choice;
    const char *text; /* not terminated */
    uint32_t n_text;
    const struct event_token *tokens;
    uint32_t n_tokens, first_token;
    enum finish_reason finish;
    int32_t stop_token;  /* the one of the request's stop_tokens that ended the choice; -1 = none */
    int32_t stop_string; /* index into the request's stops; -1 = none */
    uint32_t n_done, n_total;
    double time_ms;
    const struct request_usage *usage;
    const struct error *error;
    const char *kv_trace; /* EVENT_DONE: JSON text of kv_trace.kept, or NULL */
    uint32_t n_kv_trace;
    bool kv_trace_truncated;
};

/* Loop thread: takes the next event. Its pointers are valid until the next call on this request. */
struct request_event request_next(struct request *request);
/* Bytes of the events that the reader has not taken. Loop thread. */
size_t request_waiting_bytes(const struct request *request);
/* Loop thread: the engine stops the request before its next step and frees its pages. client_left:
 * counts as a disconnect in the request's phase. The owner must still release it. */
void request_cancel(struct request *request, bool client_left);
/* Loop thread: the owner's last call. Cancels a request that still runs. Once this has returned,
 * notify is not called. */
void request_release(struct request *request);
/* "queued", "prefill", "decode", "paused" or "done". Any thread. */
const char *request_phase(const struct request *request);

/* ---- a snapshot for /v1/kv/stats, taken between two steps, so that its sums agree */

struct engine_sequence_info {
    char id[64];
    char state[12];
    const char *policy;
    uint32_t owner_key, tokens_seen, slots_kept_max, pages;
    double slots_kept, share_kept, age_ms;
};
struct engine_snapshot {
    uint64_t page_bytes;
    uint32_t pages_total, pages_used, pages_cached, pages_free;
    uint64_t evicted_slots, pages_returned, preemptions;
    uint32_t n_sessions, session_pages;
    uint32_t n_sequences;                   /* running and queued, at most 1024 listed */
    struct engine_sequence_info *sequences; /* malloc'ed */
};
/* Loop thread: for session_list and session_plan. */
struct session_store *engine_sessions(struct engine *e);
/* Loop thread: session_delete; wakes the engine, which frees the pages. False: there is none. */
bool engine_session_delete(struct engine *e, const char *id, uint32_t owner_key, bool all,
                           uint32_t *pages);

/* A question that only the engine thread can answer. It does so between two steps, and then calls
 * `done` on its own thread. `done` must not call back into the engine. */
enum engine_query_kind {
    ENGINE_QUERY_FLUSH,  /* frees the cached prefixes that no sequence uses */
    ENGINE_QUERY_REQUEST /* what the first choice of a request holds, or held when it ended */
};
struct engine_query {
    enum engine_query_kind kind;
    char id[64];        /* REQUEST: as in request_options */
    uint32_t owner_key; /* REQUEST: only of this key, unless `all` */
    bool all;
    void (*done)(struct engine_query *query);

    /* The answer. */
    uint32_t pages_freed; /* FLUSH */
    bool found;           /* REQUEST, and all below */
    char state[12];       /* "queued", "prefill", "decode", "paused", "done" */
    struct request_record record;
    struct cache_head_counts *heads; /* [n_layers][n_kv_heads] the caller's memory */
    double age_ms, ended_ms_ago;     /* ended_ms_ago < 0: it has not ended */

    TAILQ_ENTRY(engine_query) link; /* the engine's */
};
/* Loop thread. The caller owns the query and keeps it until `done` or engine_forget. */
void engine_query(struct engine *e, struct engine_query *query);
/* Loop thread: once this has returned, `done` has been called or will not be. */
void engine_forget(struct engine *e, struct engine_query *query);

bool engine_snapshot(struct engine *e, struct engine_snapshot *out, struct error *error);
void engine_snapshot_clear(struct engine_snapshot *s);

#endif
