/* Picks the next token from logits. The stages in order: bias, penalties, masks, top-k,
 * temperature, typical, top-p, min-p, a draw.
 *
 * The draw for the i-th token of a choice is a function of (seed, choice, i), so a choice that was
 * preempted and computed again continues with the same tokens. Engine thread; one sampler per
 * choice.
 */
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

/* Ranges are those of server/API.md 3.2, which the server checks. */
struct sampling {
    double temperature;                         /* 0: argmax, lowest id on ties */
    double top_p;                               /* 0..1; 1 off; 0: argmax */
    double min_p, typical_p;                    /* min_p 0 off, typical_p 1 off */
    int32_t top_k;                              /* <= 0 off */
    double presence_penalty, frequency_penalty; /* over generated tokens */
    double repetition_penalty;                  /* over prompt and output; 1 off */
    struct logit_bias *bias;                    /* [n_bias] owned by the request */
    uint32_t n_bias;
    uint64_t seed;
};

struct top_logprob {
    int32_t token;
    float logprob;
};

/* Scratch for one pick over n_vocab logits; the samplers of a thread share one. NULL:
 * "out_of_memory". */
struct sampler_scratch;
struct sampler_scratch *sampler_scratch_new(uint32_t n_vocab, struct error *e);
void sampler_scratch_free(struct sampler_scratch *scratch);

/* The sampler of one choice. The request owns `sampling`, which outlives the sampler. `prompt`
 * [n_prompt] is read here only, for the repetition penalty. NULL: "out_of_memory". */
struct sampler;
struct sampler *sampler_new(const struct sampling *sampling, uint32_t choice, uint32_t n_vocab,
                            const int32_t *prompt, uint32_t n_prompt, struct error *e);
void sampler_free(struct sampler *s);

/* Picks the index-th token of the choice from finite logits [n_vocab]. Tokens of `masked`
 * [n_masked] are not picked; if bans and masks leave none, the best of all tokens is. Does not
 * change the sampler. */
int32_t sampler_pick(const struct sampler *s, struct sampler_scratch *scratch, const float *logits,
                     const int32_t *masked, uint32_t n_masked, uint64_t index);
/* Describes the same pick for a device, except its row. False: the choice needs what a device does
 * not do (bias, penalties, typical_p), and *pick is unchanged. */
bool sampler_describe(const struct sampler *s, uint64_t index, struct token_pick *pick);
/* Counts a generated token for the penalties. */
void sampler_accept(struct sampler *s, int32_t token);

/* The draw in [0, 1): the upper 53 bits of a hash that applies SplitMix64's finaliser after adding
 * seed, choice and index in turn, each multiplied by an odd constant. */
double sampler_uniform(uint64_t seed, uint32_t choice, uint64_t index);

#endif
