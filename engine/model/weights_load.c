/* Binds the weights of a model to the tensors of its file: see weights.h. Matrices stay in the
 * mapped file. Vectors become float arrays that the model owns, because files have them in three
 * types. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/half.h"
#include "engine/model/model.h"

/* State of loading. */
struct loading {
    struct model *m;
    uint64_t bytes_of_type[64]; /* of matrices */
};

static float vector_value(const struct source_tensor *t, uint64_t i)
{
    const uint8_t *data = t->data;
    float value;
    uint16_t half;
    if (t->type == TENSOR_F32) {
        memcpy(&value, data + 4 * i, 4);
        return value;
    }
    memcpy(&half, data + 2 * i, 2);
    if (t->type == TENSOR_F16)
        return half_to_float(half);
    uint32_t bits = (uint32_t)half << 16;
    memcpy(&value, &bits, 4);
    return value;
}

static bool check_shape(const struct source_tensor *t, const struct weight_item *item,
                        struct error *e)
{
    if (t->shape[0] == item->cols && t->shape[1] == item->rows && t->shape[2] == 1 &&
        t->shape[3] == 1)
        return true;
    return error_set(
        e, "invalid_model", item->name,
        "tensor '%s' has shape [%llu, %llu, %llu, %llu]; this model needs [%llu, %llu]", item->name,
        (unsigned long long)t->shape[0], (unsigned long long)t->shape[1],
        (unsigned long long)t->shape[2], (unsigned long long)t->shape[3],
        (unsigned long long)item->cols, (unsigned long long)item->rows);
}

/* The values of a vector as owned floats, or NULL. */
static float *convert(const struct source_tensor *t, const char *name, uint32_t n, struct error *e)
{
    if (t->type != TENSOR_F32 && t->type != TENSOR_F16 && t->type != TENSOR_BF16) {
        error_set(e, "invalid_model", name,
                  "tensor '%s' has type %s; a vector must be F32, F16 or BF16", name,
                  tensor_type_name(t->type));
        return NULL;
    }
    float *values = malloc((size_t)n * sizeof *values);
    if (!values) {
        error_set_memory(e, name, (uint64_t)n * sizeof *values);
        return NULL;
    }
    for (uint32_t i = 0; i < n; i++) {
        values[i] = vector_value(t, i);
        if (!isfinite(values[i])) {
            free(values);
            error_set(e, "invalid_model", name,
                      "tensor '%s' holds a number that is not finite at index %u", name, i);
            return NULL;
        }
    }
    return values;
}

static bool is_vector(const struct weight_item *item)
{
    return item->use == WEIGHT_VECTOR || item->use == WEIGHT_ON_HOST;
}

static void count(struct loading *l, uint64_t index, const struct source_tensor *t)
{
    struct model *m = l->m;
    if (m->tensor_used[index])
        return;
    m->tensor_used[index] = true;
    m->size_bytes += t->size_bytes;
    m->n_parameters += t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3];
    if (t->n_dims > 1)
        l->bytes_of_type[t->type % 64] += t->size_bytes;
}

static bool load(void *context, const struct weight_item *item, struct error *e)
{
    struct loading *l = context;
    const struct model_source *source = l->m->source;
    uint64_t index = source_tensor_index(source, item->name);
    if (index == source_n_tensors(source))
        return item->presence == WEIGHT_OPTIONAL ||
               error_set(e, "invalid_model", item->name, "the tensor '%s' is missing", item->name);
    const struct source_tensor *t = source_tensor_at(source, index);
    if (!check_shape(t, item, e))
        return false;
    struct weight w = {.type = t->type, .rows = item->rows, .cols = item->cols, .data = t->data};
    if (is_vector(item)) {
        w.type = TENSOR_F32;
        if (!(w.data = convert(t, item->name, item->cols, e)))
            return false;
    }
    *item->weight = w;
    count(l, index, t);
    return true;
}

/* Whether leaving a tensor out changes nothing: old converters wrote the frequencies of the rotation
 * beside the key that gives them. */
static bool is_harmless(struct source_text name)
{
    static const char *const ends[] = {".attn_rot_embd", ".attn_rot_embd.weight",
                                       ".rotary_emb.inv_freq"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t n = strlen(ends[i]);
        if (name.length > n && !memcmp(name.data + name.length - n, ends[i], n))
            return true;
    }
    return false;
}

/* A tensor that nothing reads means that the model computes something else than the forward pass:
 * its answers would be wrong without any other sign. */
static bool refuse_unread_tensors(const struct model *m, struct error *e)
{
    uint64_t n = 0, first = 0;
    for (uint64_t i = source_n_tensors(m->source); i-- > 0;)
        if (!m->tensor_used[i] && !is_harmless(source_tensor_at(m->source, i)->name)) {
            first = i;
            n++;
        }
    if (n == 0)
        return true;
    char shown[80], more[40] = "";
    const struct source_text name = source_tensor_at(m->source, first)->name;
    error_excerpt(shown, name.data, name.length);
    if (n > 1)
        snprintf(more, sizeof more, " and %llu more", (unsigned long long)(n - 1));
    return error_set(
        e, "invalid_model", shown,
        "the file has the tensor '%s'%s, which winnow does not compute with in a model "
        "of %u layers of the architecture '%s'; without it the answers would be wrong",
        shown, more, m->n_layers, m->architecture);
}

static bool set_rope_factors(struct model *m, struct error *e)
{
    for (uint32_t i = 0; i < m->n_rope_sets; i++) {
        struct rope_set *rope = &m->rope_sets[i];
        rope->factors = m->weights->rope_factors[i].data;
        for (uint32_t k = 0; rope->factors && k < rope->dim / 2; k++)
            if (rope->factors[k] <= 0)
                return error_set(
                    e, "invalid_model", "rope_freqs.weight",
                    "tensor 'rope_freqs.weight' holds %g at index %u; it must be above 0",
                    (double)rope->factors[k], k);
    }
    return true;
}

bool weights_load(struct model *m, struct error *e)
{
    struct loading l = {.m = m};
    uint64_t n_tensors = source_n_tensors(m->source);
    if (!(m->weights = weights_new(m->n_layers, e)))
        return false;
    if (!(m->tensor_used = calloc(n_tensors, sizeof *m->tensor_used)))
        return error_set_memory(e, "the tensor table", n_tensors * sizeof *m->tensor_used);
    if (!weights_visit(m, m->weights, load, &l, e) || !refuse_unread_tensors(m, e) ||
        !set_rope_factors(m, e))
        return false;
    if (!m->weights->output.data)
        m->weights->output = m->weights->token_embd;
    uint32_t most = 0;
    for (uint32_t i = 1; i < 64; i++)
        if (l.bytes_of_type[i] > l.bytes_of_type[most])
            most = i;
    snprintf(m->quantisation, sizeof m->quantisation, "%s", tensor_type_name(most));
    return true;
}

static bool free_vector(void *context, const struct weight_item *item, struct error *e)
{
    (void)context;
    (void)e;
    if (is_vector(item))
        free((void *)(uintptr_t)item->weight->data);
    return true;
}

void weights_free(struct model *m)
{
    if (m->weights)
        weights_visit(m, m->weights, free_vector, NULL, NULL);
    free(m->weights);
    free(m->tensor_used);
}
