/* POST /v1/chat/completions and /v1/completions: the steps of a job.
 *
 *   handler (loop)     moves the body into a job
 *   prepare (pool)     JSON -> struct api_request -> tokens of every prompt
 *   prepared (loop)    admission, and the answer's first header
 *   pump (loop)        after every letter of the engine, and when the client has caught up
 *
 * Loop thread, except `prepare`. */
#ifndef WINNOW_SERVER_API_GENERATE_H
#define WINNOW_SERVER_API_GENERATE_H

#include "server/api/job.h"

/* The on_events of struct jobs: takes a prompt's events from the engine while the client keeps up.
 * Otherwise they stay in the engine's buffer, and the engine pauses the sequence when that is full. */
void generate_pump(struct prompt *p);
/* Submits prompts of jobs that wait for room in the engine, the oldest job first: the deliver of the
 * jobs' `room`. */
void generate_feed(struct letter *room);
/* Ends every job with an error. */
void generate_stop_all(struct jobs *jobs, const struct error *e);

#endif
