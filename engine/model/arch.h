/* Architectures as rows of one table (arch.c): the only place that compares names of architectures.
 * A row turns a source into facts; an architecture that is like Llama is a row with flags, one that
 * is not brings a read function of its own (arch_NAME.c). Any thread. */
#ifndef WINNOW_ENGINE_MODEL_ARCH_H
#define WINNOW_ENGINE_MODEL_ARCH_H

#include "engine/model/model.h"

struct arch {
    const char *name; /* general.architecture */
    /* Fills the facts of `m`: sizes, rope sets, m->layers. NULL where winnow knows the architecture's
     * vocabulary and cannot run it. False: "invalid_model" or "out_of_memory". */
    bool (*read)(const struct arch *arch, struct model *m, struct error *e);
    /* What arch_llama_read reads. */
    bool rope_neox;
    enum weight_presence qkv_bias, qk_norm;
    /* The white space after a special token belongs to it. GGUF cannot say so. */
    bool special_takes_space;
};

/* The row that the source names, or NULL. */
const struct arch *arch_find(const struct model_source *source);
/* The same for a model that is to be run. NULL with "invalid_model": absent or none of ours. */
const struct arch *arch_to_run(const struct model_source *source, struct error *e);

/* Decoders like Llama: RMSNorm, rotary positions, grouped queries, a gated feed-forward, the same in
 * all layers; arrays with an element per layer are read as such. Refuses what it does not compute. */
bool arch_llama_read(const struct arch *arch, struct model *m, struct error *e);

#endif
