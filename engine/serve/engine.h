/* The engine: owns the model, the cache and one thread that runs steps for ever. The server submits
 * requests from its loop thread and reads their events there.
 *
 * Threads: "loop" = the caller's thread (any one thread at a time), "engine" = ours. Data crosses
 * in two places only: a queue of submitted requests, and each request's bounded event buffer
 * (256 KiB; when it is full the sequence is not stepped until the reader has caught up). */
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
    struct device device;    /* as device_pick found it */
    double gpu_memory_share; /* of the GPU's memory that may be used; 0 = 0.9 */
    const char *isa;         /* NULL = best */
    uint32_t n_threads;      /* 0 = physical cores, respecting affinity and cgroup quota */
    uint32_t n_ctx;          /* 0 = trained context; more than trained is refused */
    uint32_t max_num_seqs;   /* 64 */
    uint32_t
        max_batched_tokens;   /* 0 = the device's usual rows, or max_num_seqs where that is more */
    uint32_t max_queue;       /* 256 waiting requests */
    uint32_t max_generate;    /* 16384: length of unbounded plans when the request says nothing */
    uint64_t kv_memory_bytes; /* 0 = use kv_memory_share */
    double kv_memory_share;   /* of the memory that is free after loading, 0..1; 0 and 0 bytes = a
                                 default */
    enum plan_storage kv_storage; /* of cached keys and values */
    const char *head_profile;     /* a file of `winnow calibrate` or DuoAttention, NULL = none */
    const char *chat_template; /* a file, a built-in name, or NULL = the model's own or a guess */
    bool audit; /* run cache_audit after every step; a broken cache aborts the program */
    uint64_t queue_timeout_ms; /* 0 = off */
    uint64_t session_ttl_ms;   /* how long a session waits for its next turn; 0 = none is kept */
    void (*progress)(void *context, const char *what,
                     double share); /* while loading; any thread; may be NULL */
    void *progress_context;
};

/* Loads everything and starts the thread. Copies what it needs of the options. NULL:
 * "invalid_model", "invalid_value", "out_of_memory", ... Takes as long as reading the model takes.
 */
struct engine *engine_open(const struct engine_options *options, struct error *e);
/* Stops after the current step; requests still alive end with an EVENT_ERROR "engine_stopped"
 * and must have been released by their owners before. */
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
/* Most pages a plan would hold for a prompt of n_prompt tokens until n_tokens (API 7.3 resolve). */
uint64_t engine_bound_pages(const struct engine *e, const struct plan *plan, uint64_t n_prompt,
                            uint64_t n_tokens);
struct engine_metrics *engine_metrics(struct engine *e); /* atomics, any thread */
/* False once the device has failed: nothing is taken any more ("engine_fault"). Any thread. */
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
    bool show_control; /* put out the text of control tokens */
    uint32_t min_tokens;
    int64_t max_tokens;        /* -1 = rest of the context or max_generate; 0 = only the prompt */
    uint32_t n_choices;        /* 1..16 */
    int32_t n_logprobs;        /* -1 = none; 0..20 alternatives for generated tokens */
    int32_t n_prompt_logprobs; /* -1 = none; 0..20 for prompt tokens (echo) */
    bool progress;             /* EVENT_PROGRESS wanted */
    uint64_t timeout_ms;       /* 0 = none; queue time included */
    char *session_id;  /* owned; NULL = the cache goes when the answer is done. One choice then */
    bool reuse_prefix; /* take over computed prompts of the same root, and leave this one */
    struct prefix_name prefix_root; /* who may share them */
    uint32_t owner_key; /* index of the API key, 0 = none: who may see it in /v1/kv/stats */
    /* Called on the ENGINE thread whenever the event buffer turned from empty to not empty
     * (uv_async_send inside). Must not call back into the engine. */
    void (*notify)(void *context);
    void *notify_context;
};

/* Frees prompt, stops, stop_tokens, sampling.bias and lets go of the plan. For requests that were not submitted. */
void request_options_clear(struct request_options *options);

struct request;

/* Loop thread. Takes over the request's allocations on success AND on failure. NULL with
 * "queue_full" (retry_after_ms and queue_length filled), "context_length_exceeded"
 * (n_prompt_tokens, n_ctx; message by the server), "kv_memory_exceeded", "out_of_memory",
 * "draining". */
struct request *engine_submit(struct engine *e, struct request_options *options,
                              struct error *error);

enum finish_reason { FINISH_STOP, FINISH_LENGTH, FINISH_ABORT, FINISH_ERROR };

struct event_token {
    int32_t token;
    float logprob; /* log-softmax of the raw logits; 0 when not asked for */
    uint32_t n_top;
    const struct top_logprob
        *top; /* [n_top] descending; the sampled token is among the map's values when n >= 1 */
};

enum event_kind {
    EVENT_NONE,          /* nothing is waiting */
    EVENT_PROGRESS,      /* n_done of n_total prompt tokens, time_ms since the start */
    EVENT_PROMPT_TOKENS, /* tokens[] = consecutive prompt tokens from index first_token, with
                            logprobs; index 0 has none (NAN) */
    EVENT_TEXT, /* text of `choice`: whole UTF-8 characters, and the tokens that it completes (>= 0)
                 */
    EVENT_CHOICE_END, /* `choice` ended: finish, stop */
    EVENT_DONE,       /* all choices ended; usage is final; the last event */
    EVENT_ERROR       /* failed as a whole: error; the last event */
};

struct request_usage {
    uint32_t prompt_tokens, completion_tokens; /* completion: all choices */
    uint32_t cached_tokens,
        cache_write_tokens; /* prompt tokens taken over, tokens left for others */
    /* kv cache, summed or maximised over choices as API.md 7.4 words it (of choice 0) */
    uint32_t tokens_seen;
    double reused_slots; /* mean per head of what was taken over: those of a session were fewer than
                            its tokens */
    double slots_kept;
    uint32_t slots_kept_min, slots_kept_max;
    double evicted; /* mean per head */
    uint64_t bytes, bytes_peak, bytes_full;
    uint32_t pages, pages_returned;
    bool exact;
    bool session_reused;  /* cached_tokens are those of the session */
    bool session_missed;  /* there was one, but its tokens do not begin this prompt, or its plan is
                                another */
    bool session_kept;    /* the cache waits for the next turn ... */
    int64_t session_ends; /* ... until then, Unix seconds */
    const char *policy;   /* that was used; NULL while nothing was computed */
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
    int32_t stop_token;  /* of the request's stop_tokens, the one that ended it; -1 = none */
    int32_t stop_string; /* index into the request's stops, -1 = none */
    uint32_t n_done, n_total;
    double time_ms;
    const struct request_usage *usage;
    const struct error *error;
    const char
        *kv_trace; /* EVENT_DONE: JSON text of kv_trace.kept, or NULL; `kv_trace_truncated` */
    uint32_t n_kv_trace;
    bool kv_trace_truncated;
};

/* Loop thread: takes the next event. Pointers live until the next call on this request. */
struct request_event request_next(struct request *request);
/* Bytes of generated text and events waiting (what the reader has not taken yet). */
size_t request_waiting_bytes(const struct request *request);
/* Loop thread: the client left or is answered. The engine stops the work before its next step and
 * gives the pages back. With client_left the phase is counted in the disconnects. The owner must
 * still release. */
void request_cancel(struct request *request, bool client_left);
/* Loop thread: forget it. Cancels if still running; notify is not called any more once this has
 * returned; the memory goes when the engine has let go too. */
void request_release(struct request *request);
/* Where it is: "queued", "prefill", "decode", "paused", "done". Any thread. */
const char *request_phase(const struct request *request);

/* ---- a consistent picture for /v1/kv/stats, taken between two steps */

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
/* Loop thread: the sessions that a key may see (session.h). */
struct session_store *engine_sessions(struct engine *e);
/* Loop thread: deletes one and wakes the engine, which gives the pages back. False: there is none.
 */
bool engine_session_delete(struct engine *e, const char *id, uint32_t owner_key, bool all,
                           uint32_t *pages);

/* What only the engine's thread may do or see. It answers between two steps, at once when it is
 * idle, and then calls `done` on its own thread, which must not call back into the engine. */
enum engine_query_kind {
    ENGINE_QUERY_FLUSH,  /* give up the cached prefixes that no sequence uses */
    ENGINE_QUERY_REQUEST /* what the first choice of a request holds, or held until lately */
};
struct engine_query {
    enum engine_query_kind kind;
    char id[64];        /* REQUEST: as in request_options ... */
    uint32_t owner_key; /* ... of this key ... */
    bool all;           /* ... or of any */
    void (*done)(struct engine_query *query);

    /* The answer. */
    uint32_t pages_freed; /* FLUSH */
    bool found;           /* REQUEST, and all below */
    char state[12];       /* "queued", "prefill", "decode", "paused", "done" */
    struct request_record record;
    struct cache_head_counts *heads; /* [n_layers][n_kv_heads] the caller's memory */
    double age_ms, ended_ms_ago;     /* ended: below 0 while it has not */

    TAILQ_ENTRY(engine_query) link; /* the engine's */
};
/* Loop thread. The query stays the caller's; it must live until `done` or engine_forget. */
void engine_query(struct engine *e, struct engine_query *query);
/* Loop thread: once this has returned, `done` has been called or will not be. */
void engine_forget(struct engine *e, struct engine_query *query);

bool engine_snapshot(struct engine *e, struct engine_snapshot *out, struct error *error);
void engine_snapshot_clear(struct engine_snapshot *s);

#endif
