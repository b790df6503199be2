/* Log probabilities of a row of raw logits: log-softmax in double, before bias, penalties,
 * temperature and masks. Engine thread; pure. */
#ifndef WINNOW_ENGINE_COMPUTE_LOGPROBS_H
#define WINNOW_ENGINE_COMPUTE_LOGPROBS_H

#include "engine/compute/sampler.h"

#define LOGPROBS_MAX_TOP 20

/* True when every logit is a finite number. */
bool logits_are_finite(const float *logits, uint32_t n_vocab);

/* The log probability of `token` and the n_top <= LOGPROBS_MAX_TOP best tokens (descending, lower
 * id first on ties) in top[n_top + 1]. `token` is in the list when n_top >= 1: appended at the end
 * if it is not among the best. *n_out is the length of the list. Every value is finite, and that of
 * `token` is the same float in both places. */
float logprobs_of(const float *logits, uint32_t n_vocab, int32_t token, uint32_t n_top,
                  struct top_logprob *top, uint32_t *n_out);

#endif
