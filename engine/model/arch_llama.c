/* Facts of decoders like Llama: see arch.h. Scalings of RoPE that the forward pass does not compute
 * (YaRN) are refused here, other features by arch_neutral.c. */
#include <stdlib.h>

#include "engine/model/arch.h"

/* Far above every published model, and so small that products of them do not overflow uint64_t. */
enum {
    MOST_LAYERS = 1024,
    MOST_WIDTH = 1 << 20,
    MOST_HEADS = 4096,
    LARGEST_HEAD_DIM = 512,
    MOST_CONTEXT = 1 << 30
};

static bool read_rope_scaling(const struct model_source *s, struct rope_set *rope, struct error *e)
{
    static const char key[] = ".rope.scaling.type";
    struct source_text type = {"none", 4};
    char spelt[SOURCE_KEY_BYTES], shown[80];
    /* A factor alone scales linearly, as in llama.cpp. */
    if (source_has(s, ".rope.scaling.factor"))
        type = (struct source_text){"linear", 6};
    if (!source_optional_double(s, ".rope.scale_linear", 1e-3, 1e6, &rope->scale, e) ||
        !source_optional_text(s, key, &type, e))
        return false;
    if (source_text_is(type, "none"))
        return true;
    if (source_text_is(type, "linear"))
        return source_optional_double(s, ".rope.scaling.factor", 1e-3, 1e6, &rope->scale, e);
    if (source_text_is(type, "llama3")) {
        rope->factors_presence = WEIGHT_REQUIRED;
        return true;
    }
    return error_set(e, "invalid_model", source_spell(s, key, spelt),
                     "the RoPE scaling is '%s'; winnow runs none, linear and llama3",
                     error_excerpt(shown, type.data, type.length));
}

static bool read_rope(const struct model_source *s, const struct arch *arch, uint32_t key_size,
                      struct rope_set *rope, struct error *e)
{
    static const char key[] = ".rope.dimension_count";
    char spelt[SOURCE_KEY_BYTES];
    *rope = (struct rope_set){.dim = key_size,
                              .neox = arch->rope_neox,
                              .base = 10000,
                              .scale = 1,
                              .factors_presence = WEIGHT_OPTIONAL};
    if (!source_optional_u32(s, key, 2, key_size, &rope->dim, e) ||
        !source_optional_double(s, ".rope.freq_base", 1, 1e12, &rope->base, e))
        return false;
    if (rope->dim % 2)
        return error_set(e, "invalid_model", source_spell(s, key, spelt),
                         "%s is %u; it must be even", source_spell(s, key, spelt), rope->dim);
    return read_rope_scaling(s, rope, e);
}

/* Sizes of keys and values: what the file says, else the width divided by the heads. */
static bool read_head_sizes(const struct model *m, uint32_t layer, struct layer_spec *l,
                            struct error *e)
{
    if (!source_has(m->source, ".attention.key_length")) {
        if (m->n_embd % l->n_heads)
            return error_set(e, "invalid_model", "embedding_length",
                             "a width of %u cannot be split over %u heads", m->n_embd, l->n_heads);
        l->key_size = m->n_embd / l->n_heads;
    } else if (!source_get_layer_u32(m->source, ".attention.key_length", layer, 1, LARGEST_HEAD_DIM,
                                     &l->key_size, e)) {
        return false;
    }
    l->value_size = l->key_size;
    if (!source_optional_layer_u32(m->source, ".attention.value_length", layer, 1, LARGEST_HEAD_DIM,
                                   &l->value_size, e))
        return false;
    if (l->key_size > LARGEST_HEAD_DIM || l->key_size % 2 || l->value_size != l->key_size)
        return error_set(e, "invalid_model", "attention.key_length",
                         "the head dimension is %u for keys and %u for values; it must be the same "
                         "even number up to %d",
                         l->key_size, l->value_size, LARGEST_HEAD_DIM);
    return true;
}

static bool read_layer(const struct arch *arch, const struct model *m, uint32_t layer,
                       struct layer_spec *l, struct error *e)
{
    const struct model_source *s = m->source;
    *l = (struct layer_spec){
        .qkv_bias = arch->qkv_bias, .output_bias = WEIGHT_OPTIONAL, .qk_norm = arch->qk_norm};
    if (!source_get_layer_u32(s, ".feed_forward_length", layer, 1, MOST_WIDTH * 8, &l->n_ff, e) ||
        !source_get_layer_u32(s, ".attention.head_count", layer, 1, MOST_HEADS, &l->n_heads, e))
        return false;
    l->n_kv_heads = l->n_heads;
    if (!source_optional_layer_u32(s, ".attention.head_count_kv", layer, 1, l->n_heads,
                                   &l->n_kv_heads, e))
        return false;
    if (l->n_heads % l->n_kv_heads)
        return error_set(e, "invalid_model", "attention.head_count_kv",
                         "%u query heads cannot share %u KV heads evenly", l->n_heads,
                         l->n_kv_heads);
    return read_head_sizes(m, layer, l, e);
}

bool arch_llama_read(const struct arch *arch, struct model *m, struct error *e)
{
    const struct model_source *s = m->source;
    double eps = 1e-5;
    if (!source_get_u32(s, ".block_count", 1, MOST_LAYERS, &m->n_layers, e) ||
        !source_get_u32(s, ".embedding_length", 1, MOST_WIDTH, &m->n_embd, e) ||
        !source_get_u32(s, ".context_length", 1, MOST_CONTEXT, &m->n_ctx_train, e) ||
        !source_optional_double(s, ".attention.layer_norm_rms_epsilon", 1e-12, 1e-2, &eps, e))
        return false;
    m->norm_eps = (float)eps;
    m->layers = calloc(m->n_layers, sizeof *m->layers);
    if (!m->layers)
        return error_set_memory(e, "the layers", (uint64_t)m->n_layers * sizeof *m->layers);
    for (uint32_t i = 0; i < m->n_layers; i++)
        if (!read_layer(arch, m, i, &m->layers[i], e))
            return false;
    if (!arch_refuse_others(m, e))
        return false;
    m->n_rope_sets = 1;
    return read_rope(s, arch, m->layers[0].key_size, &m->rope_sets[0], e);
}
