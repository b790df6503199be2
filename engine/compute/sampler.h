/* Picks the next token from logits: bias, penalties, masks, temperature, top-k, typical, top-p,
 * min-p, and a draw.
 *
 * The draw for the i-th token of a choice comes from a counter-based generator over (seed, choice,
 * i), so a sequence that was preempted and recomputed continues with the same tokens. Engine
 * thread; one sampler per choice. */
#ifndef WINNOW_ENGINE_COMPUTE_SAMPLER_H
#define WINNOW_ENGINE_COMPUTE_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/base/error.h"
#include "engine/compute/token_pick.h"

struct logit_bias {
    int32_t token;
    float bias; /* -100 bans */
};

/* Ranges are those of API.md 3.2; the server checks them before. */
struct sampling {
    double temperature;                         /* 0: argmax, lowest id on ties */
    double top_p;                               /* (0,1]; 1 off; 0 is argmax */
    double min_p, typical_p;                    /* 0 off, 1 off */
    int32_t top_k;                              /* <= 0 off */
    double presence_penalty, frequency_penalty; /* over generated tokens */
    double repetition_penalty;                  /* over prompt and output; 1 off */
    struct logit_bias *bias;                    /* [n_bias], owned by the request */
    uint32_t n_bias;
    uint64_t seed;
};

struct top_logprob {
    int32_t token;
    float logprob;
};

/* Working memory for one pick over n_vocab logits; one serves all samplers of a thread. NULL:
 * "out_of_memory". */
struct sampler_scratch;
struct sampler_scratch *sampler_scratch_new(uint32_t n_vocab, struct error *e);
void sampler_scratch_free(struct sampler_scratch *scratch);

/* The sampler of one choice. `sampling` and `prompt` [n_prompt] belong to the request and outlive
 * it; the prompt is read once, for the repetition penalty. NULL: "out_of_memory". */
struct sampler;
struct sampler *sampler_new(const struct sampling *sampling, uint32_t choice, uint32_t n_vocab,
                            const int32_t *prompt, uint32_t n_prompt, struct error *e);
void sampler_free(struct sampler *s);

/* The index-th token of the choice from finite logits [n_vocab]. `masked` [n_masked] cannot be
 * picked. When bans and masks leave nothing, the best of all tokens is picked. Changes nothing. */
int32_t sampler_pick(const struct sampler *s, struct sampler_scratch *scratch, const float *logits,
                     const int32_t *masked, uint32_t n_masked, uint64_t index);
/* The same pick for a device, all but its row. False: the choice needs more than a device does
 * (bias, penalties, typical_p), *pick is not touched. */
bool sampler_describe(const struct sampler *s, uint64_t index, struct token_pick *pick);
/* Counts a generated token for the penalties. */
void sampler_accept(struct sampler *s, int32_t token);

/* The draw in [0, 1): SplitMix64's finaliser over seed, then choice, then index, each added with an
 * odd constant of its own; the upper 53 bits. */
double sampler_uniform(uint64_t seed, uint32_t choice, uint64_t index);

#endif
