/* The scheduler: which rows run in the next step, who waits, who is sent back to wait. Engine
 * thread, except where noted.
 *
 *   submitted -> queue (FIFO, preempted in front) -> running (by age) -> ended
 *
 * A step: end what was cancelled or ran out of time; admit from the head of the queue by pages; one
 * row for every choice that decodes, then chunks of prompts in the budget that is left, a smaller
 * one while somebody decodes; forward; sample; tell the owners.
 *
 * Pages. Every running request has `reserved` (what it was promised) and `held` (what it took).
 * A plan with a budget reserves its bound: the prompt's until that is compressed, then its own. A
 * growing one reserves its prompt until it decodes, then nothing; when it needs a page that nobody
 * else was promised, the youngest running request is preempted: its pages go, its tokens stay,
 * and it is computed again later. */
#ifndef WINNOW_ENGINE_SERVE_SCHEDULER_H
#define WINNOW_ENGINE_SERVE_SCHEDULER_H

#include "engine/compute/forward.h"
#include "engine/serve/request.h"

/* Rows of one sequence in the step at hand. */
struct step_rows {
    struct choice *sequence;
    uint32_t first, n; /* tokens [first, first + n) of the sequence */
    uint32_t n_logits; /* of the last rows */
    uint32_t logits_row;
};

struct request_list {
    struct request *first, *last;
    uint32_t count;
};

struct scheduler {
    /* Filled by the engine, which owns them. */
    const struct backend *backend;
    const struct model *model;
    const struct tokenizer *tokenizer;
    struct cache *cache;
    struct batch *batch;
    struct forward *forward;
    struct engine_metrics *metrics;
    uint32_t max_num_seqs, max_batched_tokens;
    uint64_t queue_timeout_ns, session_ttl_ns;
    uint64_t page_bytes;
    bool audit;

    /* Its own. */
    uint32_t n_heads; /* layers times KV heads: pages that 32 tokens take */
    size_t max_token_bytes;
    struct sampler_scratch *scratch;
    struct event_token *prompt_tokens; /* [max_batched_tokens + 1] for EVENT_PROMPT_TOKENS */
    struct top_logprob *prompt_tops;   /* [max_batched_tokens + 1][LOGPROBS_MAX_TOP + 1] */
    struct step_rows *rows;            /* [max_num_seqs] */
    uint32_t n_rows;
    uint32_t step_rows;       /* rows of the batch at hand, at most */
    double row_ns;            /* what a row of a large batch takes, a moving mean; 0: not known */
    struct token_pick *picks; /* [max_num_seqs] tokens that the device picks in this step ... */
    struct choice **pickers;  /* ... for whom ... */
    int32_t *picked;          /* ... and which */
    uint32_t n_picks;
    struct request_list queue, running;
    struct session_store sessions;
    struct request_history history;
    bool has_sessions;     /* the store was initialised */
    struct request *ended; /* this step; let go of at its end, for rows still name them */
    uint32_t n_choices;    /* of running requests, counted as n whether they live or not */
    uint64_t last_admission_ns;
    atomic_uint_fast64_t admission_interval_ns; /* moving mean between admissions; any thread */
    atomic_uint n_waiting;                      /* submitted and never admitted; any thread */
    atomic_bool faulted;                        /* the device failed; any thread */
};

/* The fields of the first group are set. False: "out_of_memory". */
bool scheduler_init(struct scheduler *s, struct error *e);
/* Ends every request with this error and frees what is its own. */
void scheduler_clear(struct scheduler *s, const char *code, const char *message);

/* At the tail of the queue. */
void scheduler_take(struct scheduler *s, struct request *g);
/* One step. False: nothing could run; then *wake_ns is when to look again, 0 = when woken. */
bool scheduler_step(struct scheduler *s, uint64_t *wake_ns);

/* Any thread: how long until the queue has probably let n_waiting requests in, 1 to 60 s. */
int64_t scheduler_retry_after_ms(const struct scheduler *s, uint32_t n_waiting);
/* Any thread: pages that a growing request needs to get going. */
uint64_t scheduler_growing_pages(const struct cache *cache, const struct plan *plan,
                                 uint32_t n_tokens, uint32_t n_choices);

/* ---- engine_pick.c */

/* After the forward pass: the tokens that the device picks, in `picked` of their sequences, and the
 * logits of all other rows, as forward_logits returns them. NULL: "engine_fault". */
const float *output_fetch(struct scheduler *s, struct error *e);

/* ---- engine_output.c: what a step's rows mean */

/* For every group of rows in order, from what output_fetch brought. */
void output_rows(struct scheduler *s, const float *logits);
/* Ends one choice; the last one ends its request. */
void output_end_choice(struct scheduler *s, struct choice *choice, enum finish_reason reason,
                       int32_t stop_token);
/* Fails the whole request with g->error. */
void output_fail(struct scheduler *s, struct request *g);
/* Ends it as the owner wished. */
void output_cancel(struct scheduler *s, struct request *g);

/* ---- scheduler.c, for engine_output.c */

/* Adds what the choice's cache has evicted and returned since the last time to the metrics. */
void scheduler_count(struct scheduler *s, struct choice *q);

/* What the first choice holds now, head by head: heads [n_heads], zero without a cache. ended_ns
 * stays 0. */
void scheduler_describe(const struct scheduler *s, const struct request *g,
                        struct request_record *record, struct cache_head_counts *heads);

/* Calls cache operations of one request between these, so that held_pages stays exact. */
uint32_t pages_begin(const struct scheduler *s);
void pages_end(const struct scheduler *s, struct request *g, uint32_t before);
/* Takes a request out of its list and gives its pages back; it stays readable until the step's
 * end. Before request_end. */
void scheduler_remove(struct scheduler *s, struct request *g);

#endif
