/* The list of weights: see weights.h. Names are GGUF's. */
#include "engine/model/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/model.h"

struct walk {
    const struct model *m;
    weight_visitor *visit;
    void *context;
    struct error *e;
    uint32_t layer;
};

static bool visit(const struct walk *k, const char *name, struct weight_item item)
{
    char full[64];
    if (item.presence == WEIGHT_ABSENT)
        return true;
    if (k->layer != WEIGHT_NO_LAYER) {
        snprintf(full, sizeof full, "blk.%u.%s", k->layer, name);
        name = full;
    }
    item.name = name;
    item.layer = k->layer;
    return k->visit(k->context, &item, k->e);
}

static bool matrix(const struct walk *k, const char *name, uint32_t rows, uint32_t cols,
                   struct weight *w)
{
    return visit(k, name,
                 (struct weight_item){.rows = rows,
                                      .cols = cols,
                                      .use = WEIGHT_MULTIPLIED,
                                      .presence = WEIGHT_REQUIRED,
                                      .weight = w});
}

static bool vector(const struct walk *k, const char *name, uint32_t n,
                   enum weight_presence presence, struct weight *w)
{
    return visit(
        k, name,
        (struct weight_item){
            .rows = 1, .cols = n, .use = WEIGHT_VECTOR, .presence = presence, .weight = w});
}

static bool visit_attention(const struct walk *k, const struct layer_spec *s,
                            struct layer_weights *l)
{
    uint32_t n_embd = k->m->n_embd, n_q = s->n_heads * s->key_size,
             n_k = s->n_kv_heads * s->key_size, n_v = s->n_kv_heads * s->value_size,
             n_out = s->n_heads * s->value_size;
    return vector(k, "attn_norm.weight", n_embd, WEIGHT_REQUIRED, &l->attn_norm) &&
           matrix(k, "attn_q.weight", n_q, n_embd, &l->wq) &&
           matrix(k, "attn_k.weight", n_k, n_embd, &l->wk) &&
           matrix(k, "attn_v.weight", n_v, n_embd, &l->wv) &&
           matrix(k, "attn_output.weight", n_embd, n_out, &l->wo) &&
           vector(k, "attn_q.bias", n_q, s->qkv_bias, &l->bq) &&
           vector(k, "attn_k.bias", n_k, s->qkv_bias, &l->bk) &&
           vector(k, "attn_v.bias", n_v, s->qkv_bias, &l->bv) &&
           vector(k, "attn_output.bias", n_embd, s->output_bias, &l->bo) &&
           vector(k, "attn_q_norm.weight", s->key_size, s->qk_norm, &l->q_norm) &&
           vector(k, "attn_k_norm.weight", s->key_size, s->qk_norm, &l->k_norm);
}

static bool visit_feed_forward(const struct walk *k, const struct layer_spec *s,
                               struct layer_weights *l)
{
    uint32_t n_embd = k->m->n_embd;
    return vector(k, "ffn_norm.weight", n_embd, WEIGHT_REQUIRED, &l->ffn_norm) &&
           matrix(k, "ffn_gate.weight", s->n_ff, n_embd, &l->w_gate) &&
           matrix(k, "ffn_up.weight", s->n_ff, n_embd, &l->w_up) &&
           matrix(k, "ffn_down.weight", n_embd, s->n_ff, &l->w_down);
}

static bool visit_rope_factors(const struct walk *k, struct weights *w)
{
    for (uint32_t i = 0; i < k->m->n_rope_sets; i++) {
        const struct rope_set *rope = &k->m->rope_sets[i];
        if (!visit(k, "rope_freqs.weight",
                   (struct weight_item){.rows = 1,
                                        .cols = rope->dim / 2,
                                        .use = WEIGHT_ON_HOST,
                                        .presence = rope->factors_presence,
                                        .weight = &w->rope_factors[i]}))
            return false;
    }
    return true;
}

bool weights_visit(const struct model *m, struct weights *w, weight_visitor *visitor, void *context,
                   struct error *e)
{
    struct walk k = {m, visitor, context, e, WEIGHT_NO_LAYER};
    if (!visit(&k, "token_embd.weight",
               (struct weight_item){.rows = m->n_vocab,
                                    .cols = m->n_embd,
                                    .use = WEIGHT_LOOKED_UP,
                                    .presence = WEIGHT_REQUIRED,
                                    .weight = &w->token_embd}) ||
        !vector(&k, "output_norm.weight", m->n_embd, WEIGHT_REQUIRED, &w->output_norm) ||
        !visit_rope_factors(&k, w) ||
        !visit(&k, "output.weight",
               (struct weight_item){.rows = m->n_vocab,
                                    .cols = m->n_embd,
                                    .use = WEIGHT_MULTIPLIED,
                                    .presence = WEIGHT_OPTIONAL,
                                    .weight = &w->output}))
        return false;
    for (uint32_t i = 0; i < m->n_layers; i++) {
        k.layer = i;
        if (!visit_attention(&k, &m->layers[i], &w->layers[i]) ||
            !visit_feed_forward(&k, &m->layers[i], &w->layers[i]))
            return false;
    }
    return true;
}

static size_t size_of(uint32_t n_layers)
{
    return sizeof(struct weights) + n_layers * sizeof(struct layer_weights);
}

struct weights *weights_new(uint32_t n_layers, struct error *e)
{
    struct weights *w = calloc(1, size_of(n_layers));
    if (!w)
        error_set_memory(e, "the list of weights", size_of(n_layers));
    return w;
}

struct weights *weights_copy(const struct weights *w, uint32_t n_layers, struct error *e)
{
    struct weights *copy = weights_new(n_layers, e);
    if (copy)
        memcpy(copy, w, size_of(n_layers));
    return copy;
}

uint64_t weight_bytes(const struct weight *w)
{
    const struct tensor_type_info *info = tensor_type_info(w->type);
    return (uint64_t)w->rows * (w->cols / info->block_values) * info->block_bytes;
}

struct largest {
    uint32_t rows, cols;
};

static bool see_size(void *context, const struct weight_item *item, struct error *e)
{
    struct largest *l = context;
    (void)e;
    if (item->use == WEIGHT_LOOKED_UP || item->use == WEIGHT_MULTIPLIED) {
        l->rows = item->rows > l->rows ? item->rows : l->rows;
        l->cols = item->cols > l->cols ? item->cols : l->cols;
    }
    return true;
}

void weights_largest(const struct model *m, uint32_t *rows, uint32_t *cols)
{
    struct largest l = {0, 0};
    if (m->weights)
        weights_visit(m, m->weights, see_size, &l, NULL);
    *rows = l.rows;
    *cols = l.cols;
}
