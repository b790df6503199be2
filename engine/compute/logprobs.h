/* Log probabilities of a row of logits: log-softmax in double, before bias, penalties, temperature
 * and masks. Pure functions; any thread. */
#ifndef WINNOW_ENGINE_COMPUTE_LOGPROBS_H
#define WINNOW_ENGINE_COMPUTE_LOGPROBS_H

#include "engine/compute/sampler.h"

#define LOGPROBS_MAX_TOP 20

/* True when every logit is a finite number. */
bool logits_are_finite(const float *logits, uint32_t n_vocab);

/* Returns the log probability of `token`. Fills top[n_top + 1] with the n_top <= LOGPROBS_MAX_TOP
 * best tokens, descending, lower id first on ties; if n_top >= 1 and `token` is not among them, it
 * is appended. *n_out is the length of the list. All values are finite; `token` has the same float
 * in the list as is returned. */
float logprobs_of(const float *logits, uint32_t n_vocab, int32_t token, uint32_t n_top,
                  struct top_logprob *top, uint32_t *n_out);

#endif
