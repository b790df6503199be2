/* The inside of struct gguf, shared by the reader (gguf_read.c) and the lookups (gguf.c). */
#ifndef WINNOW_ENGINE_MODEL_GGUF_FILE_H
#define WINNOW_ENGINE_MODEL_GGUF_FILE_H

#include "engine/model/gguf.h"

/* A metadata entry. `data` points at the value's bytes in the file, unaligned. */
struct gguf_value {
    struct gguf_string key;
    enum gguf_type type;
    enum gguf_type element; /* arrays */
    uint64_t count;         /* arrays */
    const uint8_t
        *data; /* scalars, arrays of fixed-size elements; NULL for strings and their arrays */
    struct gguf_string string;   /* GGUF_STRING */
    struct gguf_string *strings; /* arrays of strings: [count], owned */
};

struct gguf {
    const uint8_t *bytes;
    size_t n_bytes;
    bool mapped; /* bytes came from mmap */
    uint32_t version;
    struct gguf_value *values;
    uint64_t n_values;
    uint32_t *values_by_key; /* [n_values] indexes in the order of their keys' bytes */
    struct gguf_tensor *tensors;
    uint64_t n_tensors;
    uint32_t *tensors_by_name; /* [n_tensors] */
};

/* Parses and checks g->bytes into the rest. False leaves g fit for gguf_close. */
bool gguf_read(struct gguf *g, struct error *e);

/* Bytes of a scalar of this type, 0 for strings, arrays and unknown numbers. */
uint32_t gguf_type_bytes(uint32_t type);
int gguf_string_compare(const struct gguf_string *a, const struct gguf_string *b);

#endif
