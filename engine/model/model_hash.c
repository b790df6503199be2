/* Hashes a model's metadata and tensor table: see model_hash.h. Each item is preceded by its type
 * and length, so that different files give the hash different bytes. */
#include "engine/model/model_hash.h"

#include <math.h>
#include <string.h>

#include "config/base/sha256.h"

/* Changes when what is hashed changes. */
static const char domain[] = "winnow model 1";

static void add_string(struct sha256 *s, struct source_text text)
{
    sha256_add_u64(s, text.length);
    sha256_add(s, text.data, text.length);
}

/* Adds the 64 bits of the number. */
static void add_double(struct sha256 *s, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    sha256_add_u64(s, bits);
}

static void add_array(struct sha256 *s, const struct source_value *v)
{
    for (uint64_t i = 0; i < v->count; i++) {
        int64_t whole = 0;
        double number = 0;
        struct source_text text = {"", 0};
        if (v->element == SOURCE_STRING) {
            source_element_text(v, i, &text);
            add_string(s, text);
        } else if (v->element == SOURCE_FLOAT32 || v->element == SOURCE_FLOAT64) {
            source_element_double(v, i, &number);
            add_double(s, number);
        } else {
            source_element_int(v, i, &whole);
            sha256_add_u64(s, (uint64_t)whole);
        }
    }
}

static void add_value(struct sha256 *s, const struct source_value *v)
{
    int64_t whole = 0;
    double number = 0;
    sha256_add_u64(s, v->type);
    if (v->type == SOURCE_ARRAY) {
        sha256_add_u64(s, v->element);
        sha256_add_u64(s, v->count);
        add_array(s, v);
    } else if (v->type == SOURCE_STRING) {
        add_string(s, v->text);
    } else if (v->type == SOURCE_BOOL) {
        sha256_add_u64(s, v->data[0] != 0);
    } else if (source_value_double(v, &number)) {
        add_double(s, isfinite(number) ? number : 0);
    } else {
        source_value_int(v, &whole);
        sha256_add_u64(s, (uint64_t)whole);
    }
}

const char *model_hash(const struct model *m, char out[65])
{
    const struct model_source *source = m->source;
    struct sha256 s;
    sha256_init(&s);
    sha256_add(&s, domain, sizeof domain);
    sha256_add_u64(&s, source_n_keys(source));
    for (uint64_t i = 0; i < source_n_keys(source); i++) {
        struct source_value v = source_value_at(source, i);
        add_string(&s, v.key);
        add_value(&s, &v);
    }
    sha256_add_u64(&s, source_n_tensors(source));
    for (uint64_t i = 0; i < source_n_tensors(source); i++) {
        const struct source_tensor *t = source_tensor_at(source, i);
        add_string(&s, t->name);
        sha256_add_u64(&s, t->type);
        sha256_add_u64(&s, t->n_dims);
        for (uint32_t d = 0; d < 4; d++)
            sha256_add_u64(&s, t->shape[d]);
    }
    uint8_t digest[32];
    sha256_finish(&s, digest);
    sha256_hex(digest, out);
    return out;
}
