/* A file format: a constant struct of functions over the format's own `file`. Private to this
 * folder.
 *
 * A format understands the names of source.h. Where its files use other names (config.json and
 * *.safetensors have "num_hidden_layers" and "model.layers.0.self_attn.q_proj.weight"), it
 * translates them in find, tensor_index and the lists. */
#ifndef WINNOW_ENGINE_MODEL_SOURCE_FORMAT_H
#define WINNOW_ENGINE_MODEL_SOURCE_FORMAT_H

#include "engine/model/source.h"

struct source_format {
    void (*describe)(const void *file, char out[64]);
    size_t (*bytes)(const void *file);
    const char *(*spell)(const void *file, const char *key, char out[SOURCE_KEY_BYTES]);
    /* NULL when there is no such key. */
    const struct source_value *(*find)(const void *file, const char *key);
    uint64_t (*n_keys)(const void *file);
    const struct source_value *(*value_at)(const void *file, uint64_t index);
    uint64_t (*n_tensors)(const void *file);
    const struct source_tensor *(*tensor_at)(const void *file, uint64_t index);
    uint64_t (*tensor_index)(const void *file, const char *name); /* n_tensors: none */
    bool (*unchanged)(const void *file);
    void (*close)(void *file);
};

struct model_source {
    const struct source_format *format;
    void *file;
};

/* A source over an opened file, which it owns from here on, also when it fails. NULL:
 * "out_of_memory".
 */
struct model_source *source_new(const struct source_format *format, void *file, struct error *e);

/* Puts the file's name before the message of an error about the file. */
void source_name_in_error(const char *path, struct error *e);

/* Bytes of a number or boolean, 0 for strings, arrays and unknown types. */
uint32_t source_type_bytes(uint32_t type);

#endif
