/* The list of all weights of a model. It is written down once, in weights.c; loading, preparing,
 * releasing, freeing, counting and measuring walk it with a visitor.
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

/* Shapes are those of weights.c. What a layer has no use for stays empty (data NULL). */
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
    struct weight output; /* the data of token_embd where the file has no output matrix */
    struct weight rope_factors[MOST_ROPE_SETS];
    struct layer_weights layers[]; /* [n_layers] */
};

/* Who reads a weight. */
enum weight_use {
    WEIGHT_LOOKED_UP,  /* a matrix of which single rows are read (embed) */
    WEIGHT_MULTIPLIED, /* a matrix of products */
    WEIGHT_VECTOR,     /* a gain or bias, F32, in backend memory */
    WEIGHT_ON_HOST     /* a vector, F32, that the host alone reads */
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

/* Visits every weight that the specs of `m` say there is, model first, then layer by layer. `w` is
 * the model's own or a copy of it. False as soon as a visit is false. */
bool weights_visit(const struct model *m, struct weights *w, weight_visitor *visit, void *context,
                   struct error *e);

/* All empty; a copy, which shares the data. NULL: "out_of_memory". Release with free. */
struct weights *weights_new(uint32_t n_layers, struct error *e);
struct weights *weights_copy(const struct weights *w, uint32_t n_layers, struct error *e);

/* Binds m->weights from m->source: names, shapes, types and finite numbers are checked, vectors are
 * converted. Sets n_parameters, size_bytes, quantisation, tensor_used and the factors of rope sets.
 * False: "invalid_model" or "out_of_memory"; what was bound is freed by weights_free. */
bool weights_load(struct model *m, struct error *e);
/* Frees the model's own weights. */
void weights_free(struct model *m);

/* Bytes of a matrix or vector as stored. */
uint64_t weight_bytes(const struct weight *w);
/* The most rows and columns of any matrix of the model; 0 of facts that come without weights. */
void weights_largest(const struct model *m, uint32_t *rows, uint32_t *cols);

#endif
