/* The inside of struct scheduler, for scheduler.c, admission.c, pages.c, rows.c, pick.c and
 * output.c. Engine thread, except where noted. */
#ifndef WINNOW_ENGINE_SERVE_SCHEDULER_PRIVATE_H
#define WINNOW_ENGINE_SERVE_SCHEDULER_PRIVATE_H

#include "engine/serve/scheduler.h"

/* Rows of one choice in the current step. */
struct step_rows {
    struct choice *sequence;
    uint32_t first, n; /* tokens [first, first + n) of the sequence */
    uint32_t n_logits; /* the last n_logits rows leave logits */
    uint32_t logits_row;
};

struct scheduler {
    struct runtime *runtime;
    struct scheduler_options options;
    uint32_t n_heads;       /* layers times KV heads: pages that PAGE_SLOTS tokens take */
    size_t max_token_bytes; /* of the longest token's text */

    /* Requests. */
    struct request_list queue, running;
    struct request_list ended; /* in this step; freed at its end, because rows point to them */
    uint32_t n_running;
    uint32_t n_choices; /* of running requests, including choices that have ended */
    struct session_store sessions;
    struct request_history history;
    /* The current step. */
    struct step_rows *rows; /* [max_num_seqs] */
    uint32_t n_rows;
    uint32_t step_rows;     /* the most rows that this step may have */
    bool audit_was_skipped; /* and the log has said so */
    double row_ns;          /* time per row in large batches, a moving mean; 0: not known */

    /* Scratch of a step. */
    struct sampler_scratch *scratch;
    struct event_token *prompt_tokens; /* [max_rows + 1] for EVENT_PROMPT_TOKENS */
    struct top_logprob *prompt_tops;   /* [max_rows + 1][LOGPROBS_MAX_TOP + 1] */
    struct token_pick *picks;          /* [max_num_seqs] what the device is asked to pick */
    struct choice **pickers;           /* [max_num_seqs] whose pick it is */
    int32_t *picked;                   /* [max_num_seqs] the tokens */
    uint32_t n_picks;

    /* Any thread. */
    /* The time between admissions. They come in bursts, so they are counted over a second or more. */
    atomic_uint_fast64_t admission_interval_ns; /* a moving mean; 0: not known */
    atomic_uint_fast64_t admissions_since_ns;   /* the count's beginning; 0: none yet */
    atomic_uint n_admissions;                   /* since then */
    atomic_uint n_waiting;                      /* submitted and never admitted */
    atomic_bool faulted;                        /* the device failed */
};

/* Adds a request that is in no list to the running ones, and removes it. */
void scheduler_start(struct scheduler *s, struct request *request);
void scheduler_stop(struct scheduler *s, struct request *request);
/* Removes a request from its list and frees its pages. It stays readable until the end of the step.
 * Called before request_end. */
void scheduler_remove(struct scheduler *s, struct request *request);

#endif
