/* Keys that change the computation, with the values that leave it as the forward pass has it. A file
 * that says anything else would be answered wrongly without a sign, so it is refused by key and
 * value. */
#include <math.h>

#include "engine/model/arch.h"

struct neutral {
    const char *key;
    double value, also; /* both leave the computation as it is */
    const char *what;
};

static const struct neutral neutral_keys[] = {
    {".expert_count", 0, 0, "a mixture of experts"},
    {".expert_shared_count", 0, 0, "a mixture of experts"},
    {".leading_dense_block_count", 0, 0, "a mixture of experts"},
    {".nextn_predict_layers", 0, 0, "layers that predict further tokens"},
    {".attention.causal", 1, 1, "attention that is not causal"},
    {".attention.clamp_kqv", 0, 0, "clamped queries, keys and values"},
    {".attention.max_alibi_bias", 0, 0, "ALiBi"},
    {".attention.temperature_scale", 0, 0, "attention with a temperature"},
    {".attention.temperature_length", 0, 0, "attention with a temperature"},
    {".attention.shared_kv_layers", 0, 0, "layers that share keys and values"},
    {".attention.q_lora_rank", 0, 0, "latent attention"},
    {".attention.kv_lora_rank", 0, 0, "latent attention"},
    {".attn_logit_softcapping", 0, 0, "soft caps of logits"},
    {".final_logit_softcapping", 0, 0, "soft caps of logits"},
    {".router_logit_softcapping", 0, 0, "soft caps of logits"},
    {".logit_scale", 1, 0, "scaled logits"}, /* 0 is written for "not scaled" */
    {".embedding_scale", 1, 0, "scaled embeddings"},
    {".residual_scale", 1, 0, "a scaled residual stream"},
    {".use_parallel_residual", 0, 0, "parallel attention and feed-forward"},
    {".swin_norm", 0, 0, "norms after attention and feed-forward"},
    {".embedding_length_per_layer_input", 0, 0, "embeddings of each layer"},
    {".rope.scaling.attn_factor", 1, 0, "a factor on rotated queries and keys"},
    {".rope.scaling.yarn_log_multiplier", 0, 0, "a factor on rotated queries and keys"},
};

/* A number or boolean. */
static bool number_at(const struct source_value *v, uint64_t i, double *out)
{
    int64_t whole;
    enum source_type type = v->type == SOURCE_ARRAY ? v->element : v->type;
    if (type == SOURCE_BOOL) {
        *out = v->data[i];
        return true;
    }
    bool found =
        v->type == SOURCE_ARRAY ? source_element_int(v, i, &whole) : source_value_int(v, &whole);
    if (found) {
        *out = (double)whole;
        return true;
    }
    return v->type == SOURCE_ARRAY ? source_element_double(v, i, out) : source_value_double(v, out);
}

/* Whether all values of a key pass; *out is the first that does not. */
static bool all_neutral(const struct source_value *v, const struct neutral *n, double *out)
{
    uint64_t count = v->type == SOURCE_ARRAY ? v->count : 1;
    for (uint64_t i = 0; i < count; i++) {
        *out = NAN;
        if (!number_at(v, i, out) || !(fabs(*out - n->value) < 1e-6 || fabs(*out - n->also) < 1e-6))
            return false;
    }
    return true;
}

static bool refuse(const struct model *m, const char *key, double value, const char *what,
                   struct error *e)
{
    char spelt[SOURCE_KEY_BYTES];
    key = source_spell(m->source, key, spelt);
    if (isnan(value))
        return error_set(e, "invalid_model", key,
                         "%s is not the number that winnow expects: winnow cannot run %s", key,
                         what);
    return error_set(e, "invalid_model", key, "%s is %g: winnow cannot run %s", key, value, what);
}

static bool check(const struct model *m, const struct neutral *n, struct error *e)
{
    struct source_value v;
    double value;
    return !source_value(m->source, n->key, &v) || all_neutral(&v, n, &value) ||
           refuse(m, n->key, value, n->what, e);
}

/* A window of the whole context hides nothing. */
static bool check_window(const struct model *m, struct error *e)
{
    static const char key[] = ".attention.sliding_window";
    struct source_value v;
    double value;
    if (!source_value(m->source, key, &v))
        return true;
    for (uint64_t i = 0; i < (v.type == SOURCE_ARRAY ? v.count : 1); i++) {
        value = NAN;
        if (!number_at(&v, i, &value) || !(value <= 0 || value >= m->n_ctx_train))
            return refuse(m, key, value, "sliding-window attention", e);
    }
    return true;
}

bool arch_refuse_others(const struct model *m, struct error *e)
{
    for (size_t i = 0; i < sizeof neutral_keys / sizeof *neutral_keys; i++)
        if (!check(m, &neutral_keys[i], e))
            return false;
    double root = 1 / sqrt(m->layers[0].key_size);
    const struct neutral scale = {".attention.scale", root, 0, "attention with a scale of its own"};
    return check(m, &scale, e) && check_window(m, e);
}
