/* The inside of an opened GGUF file: gguf_read.c fills it, gguf.c searches it. */
#ifndef WINNOW_ENGINE_MODEL_GGUF_FILE_H
#define WINNOW_ENGINE_MODEL_GGUF_FILE_H

#include <sys/stat.h>

#include "engine/model/source_format.h"

struct gguf {
    const uint8_t *bytes;
    size_t n_bytes;
    bool mapped; /* bytes came from mmap: of the file, or of memory that holds a copy */
    int fd;      /* of the mapped file, else -1 */
    struct stat opened;
    uint32_t version;
    struct source_text architecture; /* general.architecture; empty when there is none */
    struct source_value *values;     /* [n_values]; their `texts` are owned */
    uint64_t n_values;
    uint32_t *values_by_key; /* [n_values] indices, sorted by the bytes of the keys */
    struct source_tensor *tensors;
    uint64_t n_tensors;
    uint32_t *tensors_by_name; /* [n_tensors] */
};

/* Parses and checks g->bytes and fills the other fields. After false, g can be closed. */
bool gguf_read(struct gguf *g, struct error *e);

/* The value of a key, spelt as in the file; or NULL. */
const struct source_value *gguf_find(const struct gguf *g, const char *key);
int gguf_text_compare(const struct source_text *a, const struct source_text *b);

#endif
