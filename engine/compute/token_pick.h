/* How a device picks one token from one row of logits: as sampler.h does for choices without bias,
 * penalties, masks and typical_p. sampler_describe fills it; the `pick` operation of backends reads
 * it. */
#ifndef WINNOW_ENGINE_COMPUTE_TOKEN_PICK_H
#define WINNOW_ENGINE_COMPUTE_TOKEN_PICK_H

#include <stdint.h>

struct token_pick {
    uint32_t row;                     /* of the logits; several picks may share one */
    int32_t top_k;                    /* <= 0: off */
    double temperature, top_p, min_p; /* as in struct sampling */
    double draw;                      /* [0, 1): sampler_uniform of (seed, choice, index) */
};

enum {
    PICK_NOT_FINITE = -1, /* instead of a token: some logit of the row is not finite */
    PICK_NONE = -2        /* nothing was picked; no backend returns it */
};

#endif
