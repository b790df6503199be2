/* Binds a model's tensors by name and checks their shapes: see model_bind.h. Matrices stay in the
 * map; vectors become owned float arrays, because their few values are used in every step and exist
 * in three types. */
#include "engine/model/model_bind.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023;
    float value;
    if (exponent == 0) {
        value = ldexpf((float)mantissa, -24);
        return sign ? -value : value;
    }
    uint32_t bits = exponent == 31 ? sign | 0x7F800000u | mantissa << 13
                                   : sign | (exponent + 112) << 23 | mantissa << 13;
    memcpy(&value, &bits, 4);
    return value;
}

static float vector_value(const struct gguf_tensor *t, uint64_t i)
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

static bool wrong_shape(const struct gguf_tensor *t, const char *name, uint64_t cols, uint64_t rows,
                        struct error *e)
{
    return error_set(
        e, "invalid_model", name,
        "tensor '%s' has shape [%llu, %llu, %llu, %llu]; this model needs [%llu, %llu]", name,
        (unsigned long long)t->shape[0], (unsigned long long)t->shape[1],
        (unsigned long long)t->shape[2], (unsigned long long)t->shape[3], (unsigned long long)cols,
        (unsigned long long)rows);
}

static bool missing(const char *name, struct error *e)
{
    return error_set(e, "invalid_model", name, "the tensor '%s' is missing", name);
}

/* A vector of n values; *out stays NULL when it is absent and optional. */
static bool bind_vector(struct model *m, const char *name, uint32_t n, bool optional, float **out,
                        struct error *e)
{
    const struct gguf_tensor *t = gguf_tensor_find(m->file, name);
    if (!t)
        return optional || missing(name, e);
    if (t->shape[0] != n || t->shape[1] != 1 || t->shape[2] != 1 || t->shape[3] != 1)
        return wrong_shape(t, name, n, 1, e);
    if (t->type != TENSOR_F32 && t->type != TENSOR_F16 && t->type != TENSOR_BF16)
        return error_set(e, "invalid_model", name,
                         "tensor '%s' has type %s; a vector must be F32, F16 or BF16", name,
                         tensor_type_name(t->type));
    float *values = malloc((size_t)n * sizeof *values);
    if (!values)
        return error_set_memory(e, name, (uint64_t)n * sizeof *values);
    for (uint32_t i = 0; i < n; i++) {
        values[i] = vector_value(t, i);
        if (!isfinite(values[i])) {
            free(values);
            return error_set(e, "invalid_model", name,
                             "tensor '%s' holds a number that is not finite at index %u", name, i);
        }
    }
    *out = values;
    return true;
}

static bool bind_matrix(struct model *m, const char *name, uint32_t rows, uint32_t cols,
                        struct weight *out, struct error *e)
{
    const struct gguf_tensor *t = gguf_tensor_find(m->file, name);
    if (!t)
        return missing(name, e);
    if (t->shape[0] != cols || t->shape[1] != rows || t->shape[2] != 1 || t->shape[3] != 1)
        return wrong_shape(t, name, cols, rows, e);
    *out = (struct weight){.type = t->type, .rows = rows, .cols = cols, .data = t->data};
    return true;
}

/* The names of a layer's tensors share a prefix: "blk.3.attn_q.weight". */
struct binder {
    struct model *m;
    uint32_t layer;
    struct error *e;
};

static const char *layer_name(const struct binder *b, char out[64], const char *part)
{
    snprintf(out, 64, "blk.%u.%s", b->layer, part);
    return out;
}

static bool layer_vector(const struct binder *b, const char *part, uint32_t n, bool optional,
                         float **out)
{
    char name[64];
    return bind_vector(b->m, layer_name(b, name, part), n, optional, out, b->e);
}

static bool layer_matrix(const struct binder *b, const char *part, uint32_t rows, uint32_t cols,
                         struct weight *out)
{
    char name[64];
    return bind_matrix(b->m, layer_name(b, name, part), rows, cols, out, b->e);
}

static bool bind_layer(struct model *m, uint32_t index, struct error *e)
{
    const struct binder b = {m, index, e};
    struct model_layer *l = &m->layers[index];
    bool qwen2 = !strcmp(m->architecture, "qwen2"), qwen3 = !strcmp(m->architecture, "qwen3");
    uint32_t n_q = m->n_heads * m->head_dim, n_kv = m->n_kv_heads * m->head_dim;
    return layer_vector(&b, "attn_norm.weight", m->n_embd, false, &l->attn_norm) &&
           layer_matrix(&b, "attn_q.weight", n_q, m->n_embd, &l->wq) &&
           layer_matrix(&b, "attn_k.weight", n_kv, m->n_embd, &l->wk) &&
           layer_matrix(&b, "attn_v.weight", n_kv, m->n_embd, &l->wv) &&
           layer_matrix(&b, "attn_output.weight", m->n_embd, n_q, &l->wo) &&
           layer_vector(&b, "attn_q.bias", n_q, !qwen2, &l->bq) &&
           layer_vector(&b, "attn_k.bias", n_kv, !qwen2, &l->bk) &&
           layer_vector(&b, "attn_v.bias", n_kv, !qwen2, &l->bv) &&
           layer_vector(&b, "attn_output.bias", m->n_embd, true, &l->bo) &&
           (!qwen3 || (layer_vector(&b, "attn_q_norm.weight", m->head_dim, false, &l->q_norm) &&
                       layer_vector(&b, "attn_k_norm.weight", m->head_dim, false, &l->k_norm))) &&
           layer_vector(&b, "ffn_norm.weight", m->n_embd, false, &l->ffn_norm) &&
           layer_matrix(&b, "ffn_gate.weight", m->n_ff, m->n_embd, &l->w_gate) &&
           layer_matrix(&b, "ffn_up.weight", m->n_ff, m->n_embd, &l->w_up) &&
           layer_matrix(&b, "ffn_down.weight", m->n_embd, m->n_ff, &l->w_down);
}

static bool bind_rope_factors(struct model *m, struct error *e)
{
    if (!bind_vector(m, "rope_freqs.weight", m->rope_dim / 2, true, &m->rope_factors, e))
        return false;
    for (uint32_t i = 0; m->rope_factors && i < m->rope_dim / 2; i++)
        if (m->rope_factors[i] <= 0)
            return error_set(e, "invalid_model", "rope_freqs.weight",
                             "tensor 'rope_freqs.weight' holds %g at index %u; it must be above 0",
                             (double)m->rope_factors[i], i);
    if (m->rope_factors && m->rope_scaling == ROPE_SCALING_NONE)
        m->rope_scaling = ROPE_SCALING_LLAMA3;
    if (m->rope_scaling == ROPE_SCALING_LLAMA3 && !m->rope_factors)
        return missing("rope_freqs.weight", e);
    return true;
}

bool model_bind(struct model *m, struct error *e)
{
    if (!bind_matrix(m, "token_embd.weight", m->n_vocab, m->n_embd, &m->token_embd, e) ||
        !bind_vector(m, "output_norm.weight", m->n_embd, false, &m->output_norm, e) ||
        !bind_rope_factors(m, e))
        return false;
    if (!gguf_tensor_find(m->file, "output.weight"))
        m->output = m->token_embd;
    else if (!bind_matrix(m, "output.weight", m->n_vocab, m->n_embd, &m->output, e))
        return false;
    m->layers = calloc(m->n_layers, sizeof *m->layers);
    if (!m->layers)
        return error_set_memory(e, "the layers", (uint64_t)m->n_layers * sizeof *m->layers);
    for (uint32_t i = 0; i < m->n_layers; i++)
        if (!bind_layer(m, i, e))
            return false;
    return true;
}

void model_unbind(struct model *m)
{
    for (uint32_t i = 0; m->layers && i < m->n_layers; i++) {
        struct model_layer *l = &m->layers[i];
        float *vectors[] = {l->attn_norm, l->bq,     l->bk,     l->bv,
                            l->bo,        l->q_norm, l->k_norm, l->ffn_norm};
        for (size_t k = 0; k < sizeof vectors / sizeof *vectors; k++)
            free(vectors[k]);
    }
    free(m->layers);
    free(m->output_norm);
    free(m->rope_factors);
}
