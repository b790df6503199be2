/* The scheduler: which requests run, which wait, which are sent back to wait, and what runs in the
 * next step. Engine thread, except where noted.
 *
 *   submitted -> queue (first come, preempted in front) -> running (by age) -> ended
 *                  ^                                          |
 *                  +---------------- preempted ---------------+
 *
 * A step, and the file that does it:
 *
 *   admission.c   end what was cancelled or ran out of time; start from the head of the queue
 *   rows.c        a row for every choice that decodes, chunks of prompts in the rows left
 *   forward       (engine/compute)
 *   pick.c        tokens that the device picks, logits of the others
 *   output.c      sample, send events, end choices and requests
 *
 * pages.c keeps the account of pages for all of them. */
#ifndef WINNOW_ENGINE_SERVE_SCHEDULER_H
#define WINNOW_ENGINE_SERVE_SCHEDULER_H

#include "engine/measure/runtime.h"
#include "engine/serve/request.h"

struct scheduler;

struct scheduler_options {
    struct engine_metrics *metrics; /* outlives the scheduler */
    uint32_t max_num_seqs; /* choices that run at once, each counted whether it lives or not */
    uint64_t queue_timeout_ns, session_ttl_ns; /* 0 = off */
    bool audit; /* cache_audit after every step; a broken cache aborts the program */
};

/* The runtime has a tokenizer and a pool, and outlives the scheduler. Main thread. NULL:
 * "out_of_memory". */
struct scheduler *scheduler_new(struct runtime *runtime, const struct scheduler_options *options,
                                struct error *e);
/* Ends every request with this error. NULL is allowed. After the engine thread has ended. */
void scheduler_free(struct scheduler *s, const char *code, const char *message);

/* At the tail of the queue. scheduler_expect has counted it. */
void scheduler_take(struct scheduler *s, struct request *request);
/* One step. False: nothing could run; then *wake_ns is when to look again, 0 = when woken. */
bool scheduler_step(struct scheduler *s, uint64_t *wake_ns);

/* ---- any thread */

/* A request was submitted, which scheduler_take will get. */
void scheduler_expect(struct scheduler *s);
/* Requests that were submitted and never admitted. */
uint32_t scheduler_n_waiting(const struct scheduler *s);
/* The device has failed; every request has ended with "engine_fault". */
bool scheduler_has_failed(const struct scheduler *s);
/* How long until the queue has probably let n_waiting requests in, 1 to 60 s. */
int64_t scheduler_retry_after_ms(const struct scheduler *s, uint32_t n_waiting);
struct session_store *scheduler_sessions(struct scheduler *s);
uint32_t scheduler_n_heads(const struct scheduler *s); /* layers times KV heads */

/* ---- between two steps */

const struct request_list *scheduler_running(const struct scheduler *s); /* oldest first */
const struct request_list *scheduler_queue(const struct scheduler *s);   /* next first */
struct request_history *scheduler_history(struct scheduler *s);

/* Adds what the choice's cache has evicted and returned since the last time to the metrics. */
void scheduler_count(struct scheduler *s, struct choice *q);
/* What the first choice holds now, head by head: heads [n_heads], zero without a cache. ended_ns
 * stays 0. */
void scheduler_describe(const struct scheduler *s, const struct request *request,
                        struct request_record *record, struct cache_head_counts *heads);

#endif
