/* Builds GGUF files in memory, byte by byte, so that tests can also write wrong ones. Every put_
 * function appends to the buffer; running out of memory or room ends the test program. */
#ifndef WINNOW_TESTS_UNIT_GGUF_BUILDER_H
#define WINNOW_TESTS_UNIT_GGUF_BUILDER_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/gguf.h"

struct builder {
    uint8_t *bytes;
    size_t n, capacity;
};

static inline void put(struct builder *b, const void *data, size_t n)
{
    if (b->capacity - b->n < n) {
        b->capacity = (b->n + n) * 2 + 64;
        b->bytes = realloc(b->bytes, b->capacity);
        if (!b->bytes)
            abort();
    }
    if (n)
        memcpy(b->bytes + b->n, data, n);
    b->n += n;
}

static inline void put_u8(struct builder *b, uint8_t v)
{
    put(b, &v, 1);
}

static inline void put_u32(struct builder *b, uint32_t v)
{
    put(b, &v, 4);
}

static inline void put_u64(struct builder *b, uint64_t v)
{
    put(b, &v, 8);
}

static inline void put_f32(struct builder *b, float v)
{
    put(b, &v, 4);
}

static inline void put_text(struct builder *b, const char *text)
{
    put_u64(b, strlen(text));
    put(b, text, strlen(text));
}

static inline void put_header(struct builder *b, uint32_t version, uint64_t n_tensors,
                              uint64_t n_keys)
{
    put(b, "GGUF", 4);
    put_u32(b, version);
    put_u64(b, n_tensors);
    put_u64(b, n_keys);
}

static inline void put_key(struct builder *b, const char *key, uint32_t type)
{
    put_text(b, key);
    put_u32(b, type);
}

static inline void put_key_u32(struct builder *b, const char *key, uint32_t v)
{
    put_key(b, key, SOURCE_UINT32);
    put_u32(b, v);
}

static inline void put_key_f32(struct builder *b, const char *key, float v)
{
    put_key(b, key, SOURCE_FLOAT32);
    put_f32(b, v);
}

static inline void put_key_text(struct builder *b, const char *key, const char *text)
{
    put_key(b, key, SOURCE_STRING);
    put_text(b, text);
}

static inline void put_tensor(struct builder *b, const char *name, uint32_t n_dims,
                              const uint64_t *shape, uint32_t type, uint64_t offset)
{
    put_text(b, name);
    put_u32(b, n_dims);
    for (uint32_t i = 0; i < n_dims; i++)
        put_u64(b, shape[i]);
    put_u32(b, type);
    put_u64(b, offset);
}

/* Zero bytes up to a multiple of `alignment`. */
static inline void put_padding(struct builder *b, size_t alignment)
{
    while (b->n % alignment)
        put_u8(b, 0);
}

static inline void put_zeros(struct builder *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        put_u8(b, 0);
}

/* A copy of exactly the built bytes, so that a sanitizer sees the first byte read past them.
 * Frees the builder's own buffer. */
static inline uint8_t *built(struct builder *b)
{
    uint8_t *exact = malloc(b->n ? b->n : 1);
    if (!exact)
        abort();
    if (b->n)
        memcpy(exact, b->bytes, b->n);
    free(b->bytes);
    b->bytes = NULL;
    return exact;
}

#endif
