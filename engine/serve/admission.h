/* Admission: which queued requests begin to run, and which requests end without an answer of the
 * model (cancelled, out of time). Engine thread, between two steps. */
#ifndef WINNOW_ENGINE_SERVE_ADMISSION_H
#define WINNOW_ENGINE_SERVE_ADMISSION_H

#include "engine/serve/scheduler_private.h"

/* Ends every request that was cancelled or whose deadline or queue timeout has passed. */
void admission_expire(struct scheduler *s, uint64_t now_ns);
/* When the next deadline or queue timeout passes, or other_ns if that is earlier; 0 = never. */
uint64_t admission_next_expiry(const struct scheduler *s, uint64_t other_ns);

/* Starts requests from the head of the queue while their pages and choices fit: the first in the
 * queue gets the next pages, however small the others are. Only a request whose session's turn
 * before still runs is passed over. Beside running requests that grow, a page per head is left for
 * each of their choices, so that the one that was admitted is not preempted by the next few steps.
 *
 * A request that starts gets its choices, and the cache of its session or of a prefix that earlier
 * prompts left, or an empty one. */
void admission_admit(struct scheduler *s, uint64_t now_ns);

#endif
