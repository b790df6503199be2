/* A model bound from a GGUF file: checked hyperparameters, and every tensor with its shape
 * verified.
 *
 * Architectures: "llama" (Llama 1-3, Mistral, SmolLM, TinyLlama), "qwen2" (query/key/value biases),
 * "qwen3" (norms of queries and keys per head). Weights stay in the map; vectors are converted to
 * F32 and owned here. Built by the main thread, then read only. */
#ifndef WINNOW_ENGINE_MODEL_MODEL_H
#define WINNOW_ENGINE_MODEL_MODEL_H

#include "engine/compute/backend.h"
#include "engine/model/gguf.h"

enum rope_scaling { ROPE_SCALING_NONE, ROPE_SCALING_LINEAR, ROPE_SCALING_LLAMA3 };

struct model_layer {
    float *attn_norm;             /* [n_embd] */
    struct weight wq, wk, wv, wo; /* [n_heads*head_dim][n_embd], [n_kv_heads*head_dim][n_embd] x2,
                                     [n_embd][n_heads*head_dim] */
    float *bq, *bk, *bv, *bo;     /* biases or NULL */
    float *q_norm, *k_norm;       /* [head_dim] or NULL (qwen3) */
    float *ffn_norm;              /* [n_embd] */
    struct weight w_gate, w_up, w_down; /* [n_ff][n_embd], [n_ff][n_embd], [n_embd][n_ff] */
};

struct model {
    struct gguf *file;     /* owned */
    char architecture[32]; /* "llama" */
    char name[128];        /* general.name, valid UTF-8, or the file's name */
    char quantisation[32]; /* most common type of the matrices, "Q4_1" */
    char fingerprint[17]; /* 16 hex digits: a hash of metadata and tensor table, not of the weights'
                             bytes */
    uint64_t n_parameters;
    uint64_t size_bytes; /* of all tensors */

    uint32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab, n_ctx_train;
    float norm_eps;
    uint32_t rope_dim; /* even, <= head_dim */
    bool rope_neox;
    double rope_base;
    enum rope_scaling rope_scaling;
    double rope_scale;   /* linear: positions are divided by it */
    float *rope_factors; /* [rope_dim/2] divisors of the frequencies (llama3), or NULL */

    struct weight token_embd;   /* [n_vocab][n_embd] */
    struct model_layer *layers; /* [n_layers] */
    float *output_norm;         /* [n_embd] */
    struct weight output;       /* [n_vocab][n_embd]; the same data as token_embd when tied */
};

/* Opens, checks and binds. progress(context, share 0..1) may be NULL; it is called while pages are
 * touched. NULL with "invalid_model" (missing tensor, wrong shape, unknown architecture,
 * unsupported rope scaling or tensor type: the message says which and what would be right). */
struct model *model_open(const char *path, void (*progress)(void *context, double share),
                         void *context, struct error *e);
/* The same over an opened file, which it owns from here on, also when it fails. */
struct model *model_from_gguf(struct gguf *file, const char *fallback_name, struct error *e);
void model_close(struct model *m);

/* out[rope_dim / 2]: what pair i of a row turns by for each rope_scale positions. Any thread. */
void model_rope_frequencies(const struct model *m, double *out);

#endif
