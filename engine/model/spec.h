/* A model as facts: a layer_spec per layer, and rope sets that layers share. The architecture's row
 * (arch.h) fills them; the list of weights and the forward pass read them. README.md says where the
 * facts of further architectures go. */
#ifndef WINNOW_ENGINE_MODEL_SPEC_H
#define WINNOW_ENGINE_MODEL_SPEC_H

#include <stdbool.h>
#include <stdint.h>

/* Whether a model has a weight. */
enum weight_presence {
    WEIGHT_ABSENT,   /* a tensor of that name is not used */
    WEIGHT_OPTIONAL, /* used where the file has it */
    WEIGHT_REQUIRED
};

/* A rotation of queries and keys. Pair i of a head turns by
 * position / scale * base^(-2 i / dim) / factors[i]. */
struct rope_set {
    uint32_t dim; /* even; the dimensions of a head from dim on stay as they are */
    bool neox;    /* pairs are (i, i + dim / 2); otherwise (2 i, 2 i + 1) */
    double base, scale;
    enum weight_presence factors_presence;
    const float *factors; /* [dim / 2] > 0, or NULL: all 1. Set when the weights are loaded. */
};

/* Known models have a set for local and one for global layers, each with factors for short or for
 * long contexts. */
enum { MOST_ROPE_SETS = 4 };
#define ROPE_NONE UINT32_MAX

struct layer_spec {
    uint32_t n_heads, n_kv_heads; /* n_heads is a multiple of n_kv_heads */
    uint32_t key_size, value_size;
    uint32_t rope; /* index of a rope set, or ROPE_NONE */
    enum weight_presence qkv_bias, output_bias;
    enum weight_presence qk_norm; /* an RMS norm of each head's query and key */
    uint32_t n_ff;                /* width of the gated feed-forward (SiLU) */
};

/* The angle by which a pair < dim / 2 turns per position, before division by the scale. Any
 * thread. */
double rope_frequency(const struct rope_set *rope, uint32_t pair);

#endif
