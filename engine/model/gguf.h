/* Reads a GGUF file (version 2 or 3, little endian) by mmap and checks every byte that it uses:
 * counts, string lengths, types, dimensions, offsets, alignment, sizes and overlaps. After
 * gguf_open has succeeded, everything that these functions return may be used without further
 * checks of bounds; what it MEANS (a negative layer count, a head count that does not divide) is
 * the caller's to check.
 *
 * The map is private to one `struct gguf`; strings and tensors point into it and live as long as it
 * does. Read-only after opening, so any thread may use it. Format: the GGUF specification of ggml.
 */
#ifndef WINNOW_ENGINE_MODEL_GGUF_H
#define WINNOW_ENGINE_MODEL_GGUF_H

#include <stddef.h>
#include <stdint.h>

#include "config/base/error.h"
#include "engine/model/tensor_type.h"

struct gguf;

/* Bytes in the file, NOT terminated; may hold NUL. */
struct gguf_string {
    const char *data;
    size_t length;
};

struct gguf_tensor {
    struct gguf_string name;
    enum tensor_type type;
    uint32_t n_dims; /* 1..4 */
    uint64_t
        shape[4]; /* GGUF order: shape[0] is the contiguous one; unused ones are 1; none is 0 */
    const void *data;
    size_t size_bytes; /* exactly what type and shape need; inside the file */
};

/* Value types as numbered in the file. */
enum gguf_type {
    GGUF_UINT8,
    GGUF_INT8,
    GGUF_UINT16,
    GGUF_INT16,
    GGUF_UINT32,
    GGUF_INT32,
    GGUF_FLOAT32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_UINT64,
    GGUF_INT64,
    GGUF_FLOAT64
};

/* Opens and checks a file. NULL with code "invalid_model" and a message that names the file's
 * defect and its byte offset, or "file_not_found"/"file_error". Close with gguf_close. */
struct gguf *gguf_open(const char *path, struct error *e);

/* The same over bytes that the caller keeps alive (the fuzzer, tests). */
struct gguf *gguf_open_memory(const void *bytes, size_t n_bytes, struct error *e);
void gguf_close(struct gguf *g);

uint32_t gguf_version(const struct gguf *g);
size_t gguf_file_bytes(const struct gguf *g);

/* Tensors, in file order; gguf_tensor_find returns NULL when there is none of that name. O(1) on
 * average. */
uint64_t gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, uint64_t index);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name);

/* Metadata, in file order, for `inspect`; and by key. */
uint64_t gguf_n_keys(const struct gguf *g);
struct gguf_string gguf_key_at(const struct gguf *g, uint64_t index);
bool gguf_has(const struct gguf *g, const char *key);
/* The value's type, and for arrays the element type and count. False when the key is absent. */
bool gguf_type_of(const struct gguf *g, const char *key, enum gguf_type *type,
                  enum gguf_type *element, uint64_t *count);

/* Typed reads. Each returns false with "invalid_model" when the key is absent, of another kind, or
 * out of [min, max]; any integer width is accepted for int, float32 and float64 for double, but
 * nothing else. */
bool gguf_get_int(const struct gguf *g, const char *key, int64_t min, int64_t max, int64_t *out,
                  struct error *e);
bool gguf_get_double(const struct gguf *g, const char *key, double *out,
                     struct error *e); /* finite */
bool gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct error *e);
bool gguf_get_string(const struct gguf *g, const char *key, struct gguf_string *out,
                     struct error *e);

/* Array element reads: index must be below the count told by gguf_type_of. O(1) also for strings
 * (their places are indexed when the file is opened). Integer elements of any width; float elements
 * of both. */
bool gguf_array_int(const struct gguf *g, const char *key, uint64_t index, int64_t *out);
bool gguf_array_double(const struct gguf *g, const char *key, uint64_t index, double *out);
bool gguf_array_string(const struct gguf *g, const char *key, uint64_t index,
                       struct gguf_string *out);

/* A handle for arrays read in a loop, so that the key is looked up once. Elements as above. */
struct gguf_array {
    enum gguf_type type;
    uint64_t count;
    const void *data; /* packed elements in the file, perhaps unaligned; NULL for strings */
    const struct gguf_string *strings; /* [count] when type is GGUF_STRING */
};
bool gguf_get_array(const struct gguf *g, const char *key, enum gguf_type element,
                    struct gguf_array *out, struct error *e);

#endif
