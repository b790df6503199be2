/* A model: facts read from a source, and all weights bound, with their shapes checked.
 *
 *     source -> arch row -> facts (specs, rope sets) -> list of weights -> forward pass
 *
 * Built by the main thread, then read only. README.md says how the parts fit together. */
#ifndef WINNOW_ENGINE_MODEL_MODEL_H
#define WINNOW_ENGINE_MODEL_MODEL_H

#include "engine/model/source.h"
#include "engine/model/spec.h"
#include "engine/model/weights.h"

/* Sampling values that the file recommends; negative where it recommends none. */
struct model_sampling {
    double temperature; /* 0..2 */
    double top_p;       /* above 0, to 1 */
    double min_p;       /* 0..1 */
    int32_t top_k;      /* 0..2^20 */
};

struct model {
    struct model_source *source; /* owned */
    const char *architecture;    /* "llama" */
    char name[128];              /* general.name, valid UTF-8, or the file's name */
    char fingerprint[17]; /* 16 hex digits: a hash of metadata and tensor table, not of the weights'
                             bytes */
    struct source_text chat_template; /* data NULL: the file has none */
    struct model_sampling recommended;

    uint32_t n_layers, n_embd, n_vocab, n_ctx_train;
    float norm_eps;
    struct layer_spec *layers; /* [n_layers] */
    struct rope_set rope_sets[MOST_ROPE_SETS];
    uint32_t n_rope_sets;
    /* Of every layer. The cache has one shape for all layers, so models whose layers differ are
     * refused. */
    uint32_t n_heads, n_kv_heads, head_dim;

    struct weights *weights; /* owned */
    /* Of the tensors that are bound. */
    uint64_t n_parameters, size_bytes;
    char quantisation[32]; /* most common type of the matrices, "Q4_1" */
    bool *tensor_used;     /* [source_n_tensors] whether the list of weights has the tensor */
};

/* Opens, checks and binds. progress(context, share 0..1) is called while the file is read into
 * memory; NULL skips that reading. Messages name the file. NULL: "invalid_model" (missing tensor, wrong shape, unknown
 * architecture, unsupported rope scaling or tensor type), "file_not_found", "file_error" or
 * "out_of_memory". */
struct model *model_open(const char *path, void (*progress)(void *context, double share),
                         void *context, struct error *e);
/* The same, mapped or copied into memory; model_open maps. */
struct model *model_open_as(const char *path, enum source_use use,
                            void (*progress)(void *context, double share), void *context,
                            struct error *e);
/* The same over an opened source, which it owns from here on, also when it fails. */
struct model *model_from_source(struct model_source *source, const char *fallback_name,
                                struct error *e);
void model_close(struct model *m);

#endif
