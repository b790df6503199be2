/* Picks the next token from logits: bias, penalties, masks, temperature, top-k, typical, top-p,
 * min-p, and a draw.
 *
 * The draw for the i-th token of a choice comes from a counter-based generator over (seed, choice,
 * i), so a sequence that was preempted and recomputed continues with the same tokens. Engine
 * thread; one sampler per choice. */
#ifndef WINNOW_ENGINE_SAMPLER_H
#define WINNOW_ENGINE_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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

#endif
