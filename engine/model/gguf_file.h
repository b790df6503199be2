/* The inside of an opened GGUF file, shared by the reader (gguf_read.c) and the lookups (gguf.c). */
#ifndef WINNOW_ENGINE_MODEL_GGUF_FILE_H
#define WINNOW_ENGINE_MODEL_GGUF_FILE_H

#include "engine/model/source_format.h"

struct gguf {
    const uint8_t *bytes;
    size_t n_bytes;
    bool mapped; /* bytes came from mmap */
    uint32_t version;
    struct source_text architecture; /* general.architecture; empty when there is none */
    struct source_value *values;     /* [n_values]; their `texts` are owned */
    uint64_t n_values;
    uint32_t *values_by_key; /* [n_values] indexes in the order of their keys' bytes */
    struct source_tensor *tensors;
    uint64_t n_tensors;
    uint32_t *tensors_by_name; /* [n_tensors] */
};

/* Parses and checks g->bytes into the rest. False leaves g fit for gguf_close. */
bool gguf_read(struct gguf *g, struct error *e);

/* The value of a key as the file spells it, or NULL. */
const struct source_value *gguf_find(const struct gguf *g, const char *key);
int gguf_text_compare(const struct source_text *a, const struct source_text *b);

#endif
