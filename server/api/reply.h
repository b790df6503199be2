/* Sends the events of a job's requests to its client, as a whole answer or a stream of chunks. Loop
 * thread. */
#ifndef WINNOW_SERVER_API_REPLY_H
#define WINNOW_SERVER_API_REPLY_H

#include "server/api/job.h"

enum reply {
    REPLY_DONE,  /* the event is taken */
    REPLY_MORE,  /* a piece of it is; call again with the same event */
    REPLY_FAILED /* over a limit, out of memory, or the client has gone: fail the job with *e */
};
/* Takes a piece of the prompt's event: at most a millisecond's work. */
enum reply reply_take(struct prompt *p, struct error *e);
/* Sends an error answer, or an error event if the stream has begun, and ends the job's work. */
void reply_fail(struct job *j, const struct error *e);

#endif
