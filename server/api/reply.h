/* Sends the events of a job's requests to its client, as a whole answer or a stream of chunks. Loop
 * thread. */
#ifndef WINNOW_SERVER_API_REPLY_H
#define WINNOW_SERVER_API_REPLY_H

#include "server/api/job.h"

/* Takes one event. False: out of memory, or the client has gone; the caller fails the job. */
bool reply_take(struct prompt *p, const struct request_event *e);
/* Sends an error answer, or an error event if the stream has begun, and ends the job's work. */
void reply_fail(struct job *j, const struct error *e);

#endif
