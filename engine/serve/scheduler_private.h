/* The inside of struct scheduler, for scheduler.c, admission.c, pages.c, rows.c, pick.c and
 * output.c. Engine thread, except where noted. */
#ifndef WINNOW_ENGINE_SERVE_SCHEDULER_PRIVATE_H
#define WINNOW_ENGINE_SERVE_SCHEDULER_PRIVATE_H

#include "engine/serve/scheduler.h"

/* Rows of one sequence in the step at hand. */
struct step_rows {
    struct choice *sequence;
    uint32_t first, n; /* tokens [first, first + n) of the sequence */
    uint32_t n_logits; /* of the last rows */
    uint32_t logits_row;
};

struct scheduler {
    struct runtime *runtime;
    struct scheduler_options options;
    uint32_t n_heads;       /* layers times KV heads: pages that 32 tokens take */
    size_t max_token_bytes; /* of the longest token's text */

    /* Requests. */
    struct request_list queue, running;
    struct request_list ended; /* in this step; freed at its end, for rows still name them */
    uint32_t n_running;
    uint32_t n_choices; /* of running requests, counted as n whether they live or not */
    struct session_store sessions;
    struct request_history history;
    uint64_t last_admission_ns;

    /* The step at hand. */
    struct step_rows *rows; /* [max_num_seqs] */
    uint32_t n_rows;
    uint32_t step_rows;     /* rows of the batch, at most */
    bool audit_was_skipped; /* and the log has said so */
    double row_ns;          /* what a row of a large batch takes, a moving mean; 0: not known */

    /* Scratch of a step. */
    struct sampler_scratch *scratch;
    struct event_token *prompt_tokens; /* [max_rows + 1] for EVENT_PROMPT_TOKENS */
    struct top_logprob *prompt_tops;   /* [max_rows + 1][LOGPROBS_MAX_TOP + 1] */
    struct token_pick *picks;          /* [max_num_seqs] tokens that the device picks ... */
    struct choice **pickers;           /* ... for whom ... */
    int32_t *picked;                   /* ... and which */
    uint32_t n_picks;

    /* Any thread. */
    atomic_uint_fast64_t admission_interval_ns; /* moving mean between admissions */
    atomic_uint n_waiting;                      /* submitted and never admitted */
    atomic_bool faulted;                        /* the device failed */
};

/* Into the running list and out of it; it must be in no other list, and is in none afterwards. */
void scheduler_start(struct scheduler *s, struct request *request);
void scheduler_stop(struct scheduler *s, struct request *request);
/* Takes a request out of its list and gives its pages back; it stays readable until the step's
 * end. Before request_end. */
void scheduler_remove(struct scheduler *s, struct request *request);

#endif
