/* POST /v1/chat/completions and /v1/completions: takes a job through its stations.
 *
 *   handler (loop)     the body becomes a job's
 *   prepare (pool)     JSON -> struct api_request -> tokens of every prompt
 *   prepared (loop)    admission, and the first header of the answer
 *   pump (loop)        at every letter of the engine, and when the client has caught up
 *
 * Loop thread, except `prepare`. */
#ifndef WINNOW_SERVER_API_GENERATE_H
#define WINNOW_SERVER_API_GENERATE_H

#include "server/api/job.h"

/* Takes what the engine has for a prompt, as far as the client keeps up: what stays in the engine's
 * buffer pauses the sequence there. The on_events of struct jobs. */
void generate_pump(struct prompt *p);
/* Ends every job with an error. */
void generate_stop_all(struct jobs *jobs, const struct error *e);

#endif
