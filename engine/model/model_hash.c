/* Hashing a model's metadata and tensor table: see model_hash.h. Every item is preceded by its type
 * and length, so that no two files feed the hash the same bytes. */
#include "engine/model/model_hash.h"

#include <stdlib.h>
#include <string.h>

#include "config/base/sha256.h"

/* Changes when what is hashed changes. */
static const char domain[] = "winnow model 1";

static void add_string(struct sha256 *s, struct gguf_string text)
{
    sha256_add_u64(s, text.length);
    sha256_add(s, text.data, text.length);
}

/* As 64 bits; a number that does not fit (over 2^63, or not finite) counts as 0. */
static void add_double(struct sha256 *s, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    sha256_add_u64(s, bits);
}

static void add_array(struct sha256 *s, const struct gguf *g, const char *key,
                      enum gguf_type element, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        int64_t whole = 0;
        double number = 0;
        struct gguf_string text = {"", 0};
        if (element == GGUF_STRING) {
            gguf_array_string(g, key, i, &text);
            add_string(s, text);
        } else if (element == GGUF_FLOAT32 || element == GGUF_FLOAT64) {
            gguf_array_double(g, key, i, &number);
            add_double(s, number);
        } else {
            gguf_array_int(g, key, i, &whole);
            sha256_add_u64(s, (uint64_t)whole);
        }
    }
}

static void add_value(struct sha256 *s, const struct gguf *g, const char *key)
{
    enum gguf_type type = GGUF_UINT8, element = GGUF_UINT8;
    uint64_t count = 0;
    int64_t whole = 0;
    double number = 0;
    bool flag = false;
    struct gguf_string text = {"", 0};
    if (!gguf_type_of(g, key, &type, &element, &count))
        return;
    sha256_add_u64(s, type);
    if (type == GGUF_ARRAY) {
        sha256_add_u64(s, element);
        sha256_add_u64(s, count);
        add_array(s, g, key, element, count);
    } else if (type == GGUF_STRING) {
        gguf_get_string(g, key, &text, NULL);
        add_string(s, text);
    } else if (type == GGUF_BOOL) {
        gguf_get_bool(g, key, &flag, NULL);
        sha256_add_u64(s, flag);
    } else if (type == GGUF_FLOAT32 || type == GGUF_FLOAT64) {
        gguf_get_double(g, key, &number, NULL);
        add_double(s, number);
    } else {
        gguf_get_int(g, key, INT64_MIN, INT64_MAX, &whole, NULL);
        sha256_add_u64(s, (uint64_t)whole);
    }
}

bool model_hash(const struct model *m, char out[65], struct error *e)
{
    const struct gguf *g = m->file;
    struct sha256 s;
    sha256_init(&s);
    sha256_add(&s, domain, sizeof domain);
    sha256_add_u64(&s, gguf_n_keys(g));
    for (uint64_t i = 0; i < gguf_n_keys(g); i++) {
        struct gguf_string key = gguf_key_at(g, i);
        char *name = strndup(key.data, key.length);
        if (!name)
            return error_set_memory(e, "a key", key.length);
        add_string(&s, key);
        add_value(&s, g, name);
        free(name);
    }
    sha256_add_u64(&s, gguf_n_tensors(g));
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        add_string(&s, t->name);
        sha256_add_u64(&s, t->type);
        sha256_add_u64(&s, t->n_dims);
        for (uint32_t d = 0; d < 4; d++)
            sha256_add_u64(&s, t->shape[d]);
    }
    uint8_t digest[32];
    sha256_finish(&s, digest);
    sha256_hex(digest, out);
    return true;
}
