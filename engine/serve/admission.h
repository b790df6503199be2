/* Admission: which queued requests start, and which requests end because they were cancelled or ran
 * out of time. Engine thread, between two steps. */
#ifndef WINNOW_ENGINE_SERVE_ADMISSION_H
#define WINNOW_ENGINE_SERVE_ADMISSION_H

#include "engine/serve/scheduler_private.h"

/* Ends every request that was cancelled or whose deadline or queue timeout has passed. */
void admission_expire(struct scheduler *s, uint64_t now_ns);
/* When the next deadline or queue timeout passes, or other_ns if that is earlier; 0 = never. */
uint64_t admission_next_expiry(const struct scheduler *s, uint64_t other_ns);

/* Starts requests in the queue's order while their pages and choices fit: a small request never
 * overtakes the first one. Only a request whose session is still used by the turn before is passed
 * over. Each choice of running requests that grow keeps a free page per head, so that the new
 * request is not preempted within a few steps.
 *
 * A request that starts gets its choices, and a cache: its session's, or a cached prefix, or an
 * empty one. */
void admission_admit(struct scheduler *s, uint64_t now_ns);

#endif
