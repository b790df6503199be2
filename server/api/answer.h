/* The JSON of generated answers: chat and completions, whole and in chunks (API.md sections 4, 5, 7.4
 * and 8.1). New references; NULL: out of memory. Loop thread, and answer_write on the pool too. */
#ifndef WINNOW_SERVER_API_ANSWER_H
#define WINNOW_SERVER_API_ANSWER_H

#include "server/api/job.h"

/* Appends the whole answer. It only reads the job. False: out of memory. */
bool answer_write(const struct job *j, struct bytes *out);
/* A chunk with one choice (-1: none). Takes the references to `delta` (for completions the text) and
 * `logprobs`. */
json_t *answer_chunk(const struct job *j, int32_t choice, json_t *delta, json_t *logprobs,
                     bool finished);
json_t *answer_usage(const struct job *j);
json_t *answer_kv_cache(const struct job *j);
json_t *answer_timings(const struct job *j);
json_t *answer_kv_trace(const struct job *j);

/* The log probabilities of an event's tokens: {"content":[...]}, or the lists of completions.
 * json_null() when not asked for. Advances *n_offset, the characters before the next token. */
json_t *answer_logprobs(const struct job *j, uint32_t *n_offset, const struct request_event *e,
                        bool prompt);
/* Appends `more`, a value of answer_logprobs, and takes the reference. False: also over a limit. */
bool answer_add_logprobs(struct job *j, struct logprob_lists *lists, json_t *more, struct error *e);
/* Appends the entries of a list of ids. Any thread. False: out of memory. */
bool answer_add_ids(struct bytes *out, const int32_t *tokens, size_t n);

#endif
