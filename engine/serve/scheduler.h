/* The scheduler decides which requests run, which wait, which are preempted, and what the next step
 * computes. Engine thread, except where noted.
 *
 *   submitted -> queue (in order, preempted ones first) -> running (by age) -> ended
 *                  ^                                          |
 *                  +---------------- preempted ---------------+
 *
 * The parts of a step, by file:
 *
 *   admission.c   ends requests that were cancelled or timed out; starts queued ones
 *   rows.c        chooses rows: one for every choice that decodes, chunks of prompts in the rest
 *   forward       (engine/compute) computes them
 *   pick.c        fetches tokens that the device picked, and the other rows' logits
 *   output.c      samples, sends events, ends choices and requests
 *
 * pages.c counts pages for all of them. */
#ifndef WINNOW_ENGINE_SERVE_SCHEDULER_H
#define WINNOW_ENGINE_SERVE_SCHEDULER_H

#include "engine/measure/runtime.h"
#include "engine/serve/request.h"

struct scheduler;

struct scheduler_options {
    struct engine_metrics *metrics; /* outlives the scheduler */
    uint32_t max_num_seqs; /* choices of running requests; one that has ended counts until its
                              request ends */
    uint64_t queue_timeout_ns, session_ttl_ns; /* 0 = off */
    bool audit; /* cache_audit after every step; a broken cache aborts the program */
};

/* The runtime has a tokenizer and a pool, and outlives the scheduler. Main thread. NULL:
 * "out_of_memory". */
struct scheduler *scheduler_new(struct runtime *runtime, const struct scheduler_options *options,
                                struct error *e);
/* Ends every request with this error. After the engine thread has ended. NULL is allowed. */
void scheduler_free(struct scheduler *s, const char *code, const char *message);

/* Appends a request to the queue. scheduler_expect was called for it. */
void scheduler_take(struct scheduler *s, struct request *request);
/* One step. False: nothing could run; *wake_ns says when to try again, 0 = when woken. */
bool scheduler_step(struct scheduler *s, uint64_t *wake_ns);

/* ---- any thread */

/* Counts a submitted request as waiting; scheduler_take follows. */
void scheduler_expect(struct scheduler *s);
/* Requests that were submitted and never admitted. */
uint32_t scheduler_n_waiting(const struct scheduler *s);
/* The device has failed; every request has ended with "engine_fault". */
bool scheduler_has_failed(const struct scheduler *s);
/* Estimate of the time until half of n_waiting requests are admitted, within 1 to 60 s. */
int64_t scheduler_retry_after_ms(const struct scheduler *s, uint32_t n_waiting);
struct session_store *scheduler_sessions(struct scheduler *s);
uint32_t scheduler_n_heads(const struct scheduler *s); /* layers times KV heads */

/* ---- between two steps */

const struct request_list *scheduler_running(const struct scheduler *s); /* oldest first */
const struct request_list *scheduler_queue(const struct scheduler *s);   /* next first */
struct request_history *scheduler_history(struct scheduler *s);

/* Adds to the metrics what the choice's cache has evicted and returned since the last call. */
void scheduler_count(struct scheduler *s, struct choice *q);
/* Describes what the first choice holds now: heads [n_heads] are zero without a cache, ended_ns is
 * 0.
 */
void scheduler_describe(const struct scheduler *s, const struct request *request,
                        struct request_record *record, struct cache_head_counts *heads);

#endif
