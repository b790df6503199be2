/* What a model is read from: integers, numbers, strings, arrays and tensors by name. Code outside
 * this folder reads model files only through it. Only source_open and the format's own file know
 * the format (GGUF today).
 *
 * Names are GGUF's in every format: "general.name", "tokenizer.ggml.tokens", "blk.0.attn_q.weight".
 * A key that begins with a dot belongs to the model's architecture: ".block_count" is
 * "llama.block_count" in a GGUF file of a Llama. Messages spell keys as the file does.
 *
 * What these functions return points into the file and is valid until source_close. A source is
 * read only, so any thread may use it. The caller checks whether a value makes sense (a negative
 * layer count, a head count that does not divide). */
#ifndef WINNOW_ENGINE_MODEL_SOURCE_H
#define WINNOW_ENGINE_MODEL_SOURCE_H

#include <stddef.h>
#include <stdint.h>

#include "config/base/error.h"
#include "engine/model/tensor_type.h"

struct model_source;

/* Bytes of the file, not terminated; may contain NUL. */
struct source_text {
    const char *data;
    size_t length;
};

/* Types of values, numbered as in GGUF files. They are part of a model's hash (model_hash.h). */
enum source_type {
    SOURCE_UINT8,
    SOURCE_INT8,
    SOURCE_UINT16,
    SOURCE_INT16,
    SOURCE_UINT32,
    SOURCE_INT32,
    SOURCE_FLOAT32,
    SOURCE_BOOL,
    SOURCE_STRING,
    SOURCE_ARRAY,
    SOURCE_UINT64,
    SOURCE_INT64,
    SOURCE_FLOAT64
};

struct source_value {
    struct source_text key; /* as the file spells it */
    enum source_type type;
    enum source_type element;        /* arrays */
    uint64_t count;                  /* arrays */
    const uint8_t *data;             /* numbers and booleans, packed, possibly unaligned */
    struct source_text text;         /* SOURCE_STRING */
    const struct source_text *texts; /* [count] arrays of strings */
};

struct source_tensor {
    struct source_text name;
    enum tensor_type type;
    uint32_t n_dims;   /* 1..4 */
    uint64_t shape[4]; /* shape[0] is the contiguous one; unused ones are 1; none is 0 */
    const void *data;
    size_t size_bytes; /* what type and shape need; all of it is inside the file */
};

/* How a file is held: mapped, so that the system reads what is touched and may drop it again, or
 * copied into memory, so that the file may change afterwards. */
enum source_use { SOURCE_MAPPED, SOURCE_COPIED };

/* Opens and checks a model file. Messages name it. NULL: "invalid_model" with the file's defect, "file_not_found",
 * "file_error" or "out_of_memory". */
struct model_source *source_open(const char *path, struct error *e); /* mapped */
struct model_source *source_open_as(const char *path, enum source_use use, struct error *e);
/* Whether a mapped file is still as it was when it was opened (its size and time of change). False:
 * "invalid_model". */
bool source_unchanged(const struct model_source *s, struct error *e);
void source_close(struct model_source *s); /* NULL: nothing */

/* "GGUF version 3" */
const char *source_describe(const struct model_source *s, char out[64]);
size_t source_bytes(const struct model_source *s);

/* Tensors in the order of the file. */
uint64_t source_n_tensors(const struct model_source *s);
const struct source_tensor *source_tensor_at(const struct model_source *s, uint64_t index);
/* The index of the tensor of that name; source_n_tensors if there is none. */
uint64_t source_tensor_index(const struct model_source *s, const char *name);
/* The same as a pointer, or NULL. */
const struct source_tensor *source_tensor(const struct model_source *s, const char *name);

/* Values in the order of the file, and by key. False: the key is absent. */
uint64_t source_n_keys(const struct model_source *s);
struct source_value source_value_at(const struct model_source *s, uint64_t index);
bool source_value(const struct model_source *s, const char *key, struct source_value *out);
bool source_has(const struct model_source *s, const char *key);

/* The file's spelling of a key, for messages. Returns `out` or `key`. */
#define SOURCE_KEY_BYTES 128
const char *source_spell(const struct model_source *s, const char *key, char out[SOURCE_KEY_BYTES]);

/* Typed reads. Each returns false with "invalid_model" when the key is absent, of another kind, or
 * out of [min, max]. Integers of any width are integers, float32 and float64 are numbers, and
 * nothing else is. A number must be finite. */
bool source_get_int(const struct model_source *s, const char *key, int64_t min, int64_t max,
                    int64_t *out, struct error *e);
bool source_get_u32(const struct model_source *s, const char *key, uint32_t min, uint32_t max,
                    uint32_t *out, struct error *e);
bool source_get_double(const struct model_source *s, const char *key, double *out, struct error *e);
bool source_get_bool(const struct model_source *s, const char *key, bool *out, struct error *e);
bool source_get_text(const struct model_source *s, const char *key, struct source_text *out,
                     struct error *e);
/* An array of that element type. */
bool source_get_array(const struct model_source *s, const char *key, enum source_type element,
                      struct source_value *out, struct error *e);

/* The same, but *out keeps its value, the default, when the key is absent. */
bool source_optional_u32(const struct model_source *s, const char *key, uint32_t min, uint32_t max,
                         uint32_t *out, struct error *e);
bool source_optional_double(const struct model_source *s, const char *key, double min, double max,
                            double *out, struct error *e);
bool source_optional_bool(const struct model_source *s, const char *key, bool *out,
                          struct error *e);
bool source_optional_text(const struct model_source *s, const char *key, struct source_text *out,
                          struct error *e);

/* Both for a fact that a file gives once for all layers or as an array with one element a layer. */
bool source_get_layer_u32(const struct model_source *s, const char *key, uint32_t layer,
                          uint32_t min, uint32_t max, uint32_t *out, struct error *e);
bool source_optional_layer_u32(const struct model_source *s, const char *key, uint32_t layer,
                               uint32_t min, uint32_t max, uint32_t *out, struct error *e);

/* The number in a value that is no array, and elements of an array: false when the value is of
 * another kind or the index is not below the count. O(1). */
bool source_value_int(const struct source_value *v, int64_t *out);
bool source_value_double(const struct source_value *v, double *out); /* perhaps not finite */
bool source_element_int(const struct source_value *v, uint64_t index, int64_t *out);
bool source_element_double(const struct source_value *v, uint64_t index, double *out);
bool source_element_text(const struct source_value *v, uint64_t index, struct source_text *out);

bool source_text_is(struct source_text text, const char *word);

#endif
