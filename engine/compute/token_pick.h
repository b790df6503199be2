/* How a device picks one token from one row of logits, as a small value: what engine/compute/sampler.h does
 * for rows without bias, penalties, masks and typical_p. Filled by sampler_describe; read by the
 * `pick` operation of backends. */
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
    PICK_NOT_FINITE = -1, /* instead of a token: some logit of the row is not a finite number */
    PICK_NONE = -2        /* nothing was picked (never from a backend) */
};

#endif
