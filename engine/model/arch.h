/* Architectures as rows of one table (arch.c), the only place that compares names of architectures.
 * A row turns a source into facts. An architecture like Llama is a row with flags; another one has
 * a read function of its own (arch_NAME.c). Any thread. */
#ifndef WINNOW_ENGINE_MODEL_ARCH_H
#define WINNOW_ENGINE_MODEL_ARCH_H

#include "engine/model/model.h"

struct arch {
    const char *name; /* general.architecture */
    /* Fills the facts of `m`: sizes, rope sets, m->layers. NULL: winnow knows the vocabulary of the
     * architecture but cannot run it. False: "invalid_model" or "out_of_memory". */
    bool (*read)(const struct arch *arch, struct model *m, struct error *e);
    /* Flags for arch_llama_read. */
    bool rope_neox;
    enum weight_presence qkv_bias, qk_norm;
    /* White space after a special token belongs to the token. GGUF has no key for it. */
    bool special_takes_space;
};

/* The row of the source's architecture, or NULL. */
const struct arch *arch_find(const struct model_source *source);
/* The same for a model to be run. NULL: "invalid_model", because the source names no architecture
 * or one that winnow does not run. */
const struct arch *arch_to_run(const struct model_source *source, struct error *e);

/* Decoders like Llama: RMSNorm, rotary positions, grouped queries, a gated feed-forward. Sizes may
 * be arrays with an element per layer. Refuses files whose keys ask for another computation. */
bool arch_llama_read(const struct arch *arch, struct model *m, struct error *e);

/* Refuses a file with a key that asks for another computation than that of decoders like Llama
 * (arch_neutral.c has the list). The layers and n_ctx_train have been read. */
bool arch_refuse_others(const struct model *m, struct error *e);

#endif
