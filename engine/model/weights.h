/* The list of all weights of a model. weights.c has it once; loading, preparing, releasing, freeing
 * and counting walk it with a visitor.
 *
 *     weights.c: attn_q.weight  [n_heads * key_size][n_embd]  multiplied  -> layers[i].wq   ...
 *        |-- weights_load      finds, checks and converts   (weights_load.c)
 *        |-- forward_new       sends to the backend         (engine/compute/forward.c)
 *        `-- counts, sizes     bench, device, tests
 */
#ifndef WINNOW_ENGINE_MODEL_WEIGHTS_H
#define WINNOW_ENGINE_MODEL_WEIGHTS_H

#include "config/base/error.h"
#include "engine/model/spec.h"
#include "engine/model/weight.h"

struct model;

/* weights.c has the shapes. Weights that a layer does not have stay empty (data NULL). */
struct layer_weights {
    struct weight attn_norm;
    struct weight wq, wk, wv, wo;
    struct weight bq, bk, bv, bo;
    struct weight q_norm, k_norm;
    struct weight ffn_norm;
    struct weight w_gate, w_up, w_down;
};

struct weights {
    struct weight token_embd, output_norm;
    struct weight output; /* token_embd where the file has no output matrix */
    struct weight rope_factors[MOST_ROPE_SETS];
    struct layer_weights layers[]; /* [n_layers] */
};

/* How a weight is used. */
enum weight_use {
    WEIGHT_LOOKED_UP,  /* a matrix whose rows are looked up (embed) */
    WEIGHT_MULTIPLIED, /* a matrix of products */
    WEIGHT_VECTOR,     /* a gain or bias, F32, in backend memory */
    WEIGHT_ON_HOST     /* a vector, F32, that only the host reads */
};
#define WEIGHT_NO_LAYER UINT32_MAX

struct weight_item {
    const char *name; /* "blk.3.attn_q.weight"; valid during the visit */
    uint32_t layer;   /* or WEIGHT_NO_LAYER */
    uint32_t rows, cols;
    enum weight_use use;
    enum weight_presence presence; /* never WEIGHT_ABSENT */
    struct weight *weight;         /* where it is bound */
};

/* False ends the walk and fills *e. */
typedef bool weight_visitor(void *context, const struct weight_item *item, struct error *e);

/* Visits every weight that the specs of `m` have: first the model's, then layer by layer. `w` is
 * the model's own or a copy of it. Stops at the first visit that returns false. */
bool weights_visit(const struct model *m, struct weights *w, weight_visitor *visit, void *context,
                   struct error *e);

/* Empty weights, and a copy that shares the data. NULL: "out_of_memory". Free with free(). */
struct weights *weights_new(uint32_t n_layers, struct error *e);
struct weights *weights_copy(const struct weights *w, uint32_t n_layers, struct error *e);

/* Binds m->weights to m->source. Checks names, shapes and types, and that vectors are finite;
 * converts vectors; refuses files with a tensor that the list does not have and that changes the
 * answer. Sets n_parameters, size_bytes, quantisation, tensor_used and the factors of
 * rope sets. False: "invalid_model" or "out_of_memory"; weights_free is still needed. */
bool weights_load(struct model *m, struct error *e);
/* Frees the model's own weights. */
void weights_free(struct model *m);

/* Bytes of a matrix or vector as stored. */
uint64_t weight_bytes(const struct weight *w);
/* The most rows and the most columns of any matrix of the model; 0 if the model has no weights. */
void weights_largest(const struct model *m, uint32_t *rows, uint32_t *cols);

#endif
