/* The JSON of generated answers: chat and completions, whole and in chunks (API.md sections 4, 5, 7.4
 * and 8.1). New references; NULL: out of memory. Loop thread. */
#ifndef WINNOW_SERVER_API_ANSWER_H
#define WINNOW_SERVER_API_ANSWER_H

#include "server/api/job.h"

json_t *answer_whole(struct job *j);
/* A chunk with one choice (-1: none). Takes the references to `delta` (for completions the text) and
 * `logprobs`. */
json_t *answer_chunk(const struct job *j, int32_t choice, json_t *delta, json_t *logprobs,
                     bool finished);
json_t *answer_usage(const struct job *j);
json_t *answer_kv_cache(const struct job *j);
json_t *answer_timings(const struct job *j);
json_t *answer_kv_trace(const struct job *j);

/* The log probabilities of an event's tokens: {"content":[...]}, or the lists of completions.
 * json_null() when not asked for. Advances the choice's offset. */
json_t *answer_logprobs(struct job *j, struct answer_choice *c, const struct request_event *e,
                        bool prompt);
/* Appends `more` to *all, which may be NULL, and takes the reference. */
bool answer_join_logprobs(json_t **all, json_t *more);

#endif
