/* Opens a model file: hyperparameters checked against what the forward pass can do, then tensors
 * (model_bind.c). What would change the answer and is not done here (YaRN, experts, sliding
 * windows) is refused with a sentence. */
#include "engine/model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/model_bind.h"

/* Far above every published model, far below where products of them could overflow uint64_t. */
enum {
    MOST_LAYERS = 1024,
    MOST_WIDTH = 1 << 20,
    MOST_HEADS = 4096,
    LARGEST_HEAD_DIM = 512,
    MOST_VOCAB = 1 << 24,
    MOST_CONTEXT = 1 << 30
};

/* "llama.block_count" of the model's own architecture. */
static const char *key_of(const struct model *m, char out[96], const char *part)
{
    snprintf(out, 96, "%s.%s", m->architecture, part);
    return out;
}

static bool get_number(const struct model *m, const char *part, int64_t min, int64_t max,
                       uint32_t *out, struct error *e)
{
    char key[96];
    int64_t value;
    if (!gguf_get_int(m->file, key_of(m, key, part), min, max, &value, e))
        return false;
    *out = (uint32_t)value;
    return true;
}

/* As above; leaves *out when the key is absent. */
static bool get_optional(const struct model *m, const char *part, int64_t min, int64_t max,
                         uint32_t *out, struct error *e)
{
    char key[96];
    return !gguf_has(m->file, key_of(m, key, part)) || get_number(m, part, min, max, out, e);
}

static bool get_positive(const struct model *m, const char *part, double low, double high,
                         double *out, struct error *e)
{
    char key[96];
    double value;
    if (!gguf_has(m->file, key_of(m, key, part)))
        return true;
    if (!gguf_get_double(m->file, key, &value, e))
        return false;
    if (value < low || value > high)
        return error_set(e, "invalid_model", key, "%s is %g; it must be %g to %g", key, value, low,
                         high);
    *out = value;
    return true;
}

static bool read_architecture(struct model *m, struct error *e)
{
    static const char *const known[] = {"llama", "qwen2", "qwen3"};
    struct gguf_string name;
    char shown[80];
    if (!gguf_get_string(m->file, "general.architecture", &name, e))
        return false;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (name.length == strlen(known[i]) && !memcmp(name.data, known[i], name.length))
            snprintf(m->architecture, sizeof m->architecture, "%s", known[i]);
    if (!m->architecture[0])
        return error_set(e, "invalid_model", "general.architecture",
                         "the architecture is '%s'; winnow runs llama, qwen2 and qwen3",
                         error_excerpt(shown, name.data, name.length));
    m->rope_neox = strcmp(m->architecture, "llama") != 0;
    return true;
}

/* Keys whose presence with a value above 0 means another computation than ours. */
static bool refuse_what_differs(const struct model *m, struct error *e)
{
    static const struct {
        const char *part, *what;
    } other[] = {{"expert_count", "a mixture of experts"},
                 {"attention.sliding_window", "sliding-window attention"},
                 {"attention.causal_disabled", "attention that is not causal"}};
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        char key[96];
        int64_t value = 0;
        if (gguf_has(m->file, key_of(m, key, other[i].part)) &&
            gguf_get_int(m->file, key, INT64_MIN, INT64_MAX, &value, NULL) && value > 0)
            return error_set(e, "invalid_model", key,
                             "%s is %lld: %s is not something winnow can run", key,
                             (long long)value, other[i].what);
    }
    return true;
}

static bool read_rope(struct model *m, struct error *e)
{
    struct gguf_string type = {"none", 4};
    char key[96], shown[80];
    m->rope_dim = m->head_dim;
    m->rope_base = 10000;
    m->rope_scale = 1;
    if (!get_optional(m, "rope.dimension_count", 2, m->head_dim, &m->rope_dim, e) ||
        !get_positive(m, "rope.freq_base", 1, 1e12, &m->rope_base, e))
        return false;
    if (m->rope_dim % 2)
        return error_set(e, "invalid_model", key_of(m, key, "rope.dimension_count"),
                         "%s is %u; it must be even", key_of(m, key, "rope.dimension_count"),
                         m->rope_dim);
    if (gguf_has(m->file, key_of(m, key, "rope.scale_linear"))) {
        m->rope_scaling = ROPE_SCALING_LINEAR;
        if (!get_positive(m, "rope.scale_linear", 1e-3, 1e6, &m->rope_scale, e))
            return false;
    }
    if (gguf_has(m->file, key_of(m, key, "rope.scaling.type")) &&
        !gguf_get_string(m->file, key, &type, e))
        return false;
    if (type.length == 6 && !memcmp(type.data, "linear", 6)) {
        m->rope_scaling = ROPE_SCALING_LINEAR;
        return get_positive(m, "rope.scaling.factor", 1e-3, 1e6, &m->rope_scale, e);
    }
    if (type.length == 6 && !memcmp(type.data, "llama3", 6)) {
        m->rope_scaling = ROPE_SCALING_LLAMA3;
        return true;
    }
    if (type.length == 4 && !memcmp(type.data, "none", 4))
        return true;
    return error_set(e, "invalid_model", key_of(m, key, "rope.scaling.type"),
                     "the RoPE scaling is '%s'; winnow runs none, linear and llama3",
                     error_excerpt(shown, type.data, type.length));
}

static bool read_vocabulary_size(struct model *m, struct error *e)
{
    const struct gguf_tensor *t = gguf_tensor_find(m->file, "token_embd.weight");
    enum gguf_type type;
    uint64_t count;
    if (!t)
        return error_set(e, "invalid_model", "token_embd.weight",
                         gguf_n_tensors(m->file)
                             ? "the tensor 'token_embd.weight' is missing"
                             : "the file has no tensors: it is a vocabulary, not a model");
    if (t->shape[1] > MOST_VOCAB)
        return error_set(e, "invalid_model", "token_embd.weight",
                         "the vocabulary has %llu tokens; at most %d",
                         (unsigned long long)t->shape[1], MOST_VOCAB);
    m->n_vocab = (uint32_t)t->shape[1];
    if (gguf_type_of(m->file, "tokenizer.ggml.tokens", &type, NULL, &count) && type == GGUF_ARRAY &&
        count != m->n_vocab)
        return error_set(e, "invalid_model", "token_embd.weight",
                         "the vocabulary has %llu tokens, but token_embd.weight has %u rows",
                         (unsigned long long)count, m->n_vocab);
    return true;
}

static bool read_hyperparameters(struct model *m, struct error *e)
{
    double eps = 1e-5;
    if (!read_architecture(m, e) || !refuse_what_differs(m, e) ||
        !get_number(m, "block_count", 1, MOST_LAYERS, &m->n_layers, e) ||
        !get_number(m, "embedding_length", 1, MOST_WIDTH, &m->n_embd, e) ||
        !get_number(m, "feed_forward_length", 1, MOST_WIDTH * 8, &m->n_ff, e) ||
        !get_number(m, "context_length", 1, MOST_CONTEXT, &m->n_ctx_train, e) ||
        !get_number(m, "attention.head_count", 1, MOST_HEADS, &m->n_heads, e))
        return false;
    m->n_kv_heads = m->n_heads;
    if (!get_optional(m, "attention.head_count_kv", 1, m->n_heads, &m->n_kv_heads, e))
        return false;
    if (m->n_heads % m->n_kv_heads)
        return error_set(e, "invalid_model", "attention.head_count_kv",
                         "%u query heads cannot share %u KV heads evenly", m->n_heads,
                         m->n_kv_heads);
    char key[96];
    if (!gguf_has(m->file, key_of(m, key, "attention.key_length"))) {
        if (m->n_embd % m->n_heads)
            return error_set(e, "invalid_model", "embedding_length",
                             "a width of %u cannot be split over %u heads", m->n_embd, m->n_heads);
        m->head_dim = m->n_embd / m->n_heads;
    } else if (!get_number(m, "attention.key_length", 1, LARGEST_HEAD_DIM, &m->head_dim, e)) {
        return false;
    }
    uint32_t value_length = m->head_dim;
    if (!get_optional(m, "attention.value_length", 1, LARGEST_HEAD_DIM, &value_length, e))
        return false;
    if (m->head_dim > LARGEST_HEAD_DIM || m->head_dim % 2 || value_length != m->head_dim)
        return error_set(e, "invalid_model", "attention.key_length",
                         "the head dimension is %u for keys and %u for values; it must be the same "
                         "even number up to %d",
                         m->head_dim, value_length, LARGEST_HEAD_DIM);
    if (!get_positive(m, "attention.layer_norm_rms_epsilon", 1e-12, 1e-2, &eps, e))
        return false;
    m->norm_eps = (float)eps;
    return read_rope(m, e) && read_vocabulary_size(m, e);
}

/* FNV-1a over names, types, shapes and the small metadata: names the model without reading its
 * gigabytes. */
static uint64_t mix(uint64_t hash, const void *data, size_t n)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ bytes[i]) * 0x100000001B3ull;
    return hash;
}

static void read_facts(struct model *m, const char *fallback_name)
{
    uint64_t hash = 0xCBF29CE484222325ull, bytes_of_type[64] = {0};
    for (uint64_t i = 0; i < gguf_n_keys(m->file); i++) {
        struct gguf_string key = gguf_key_at(m->file, i);
        hash = mix(hash, key.data, key.length);
    }
    for (uint64_t i = 0; i < gguf_n_tensors(m->file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->file, i);
        hash = mix(hash, t->name.data, t->name.length);
        hash = mix(hash, t->shape, sizeof t->shape);
        hash = mix(hash, &t->type, sizeof t->type);
        hash = mix(hash, t->data, t->size_bytes < 64 ? t->size_bytes : 64);
        m->size_bytes += t->size_bytes;
        m->n_parameters += t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3];
        if (t->n_dims > 1)
            bytes_of_type[t->type % 64] += t->size_bytes;
    }
    uint32_t most = 0;
    for (uint32_t i = 1; i < 64; i++)
        if (bytes_of_type[i] > bytes_of_type[most])
            most = i;
    snprintf(m->quantisation, sizeof m->quantisation, "%s", tensor_type_name(most));
    snprintf(m->fingerprint, sizeof m->fingerprint, "%016llx", (unsigned long long)hash);
    struct gguf_string name = {fallback_name, strlen(fallback_name)};
    struct gguf_string given;
    if (gguf_get_string(m->file, "general.name", &given, NULL) && given.length)
        name = given;
    char shown[80];
    snprintf(m->name, sizeof m->name, "%s", error_excerpt(shown, name.data, name.length));
}

/* Reads one byte of every page, so that the first request does not wait for the disk. */
static void touch(const struct model *m, void (*progress)(void *, double), void *context)
{
    const size_t page = 4096, step = 16u << 20;
    const struct gguf_tensor *first = gguf_tensor_at(m->file, 0);
    const uint8_t *from = first->data, *to = from;
    for (uint64_t i = 0; i < gguf_n_tensors(m->file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->file, i);
        const uint8_t *data = t->data;
        from = data < from ? data : from;
        to = data + t->size_bytes > to ? data + t->size_bytes : to;
    }
    size_t n = (size_t)(to - from);
    volatile uint8_t sink = 0;
    for (size_t at = 0; at < n; at += page) {
        sink = (uint8_t)(sink + from[at]);
        if (at % step == 0)
            progress(context, (double)at / (double)n);
    }
    progress(context, 1);
}

struct model *model_from_gguf(struct gguf *file, const char *fallback_name, struct error *e)
{
    struct model *m = calloc(1, sizeof *m);
    if (!m) {
        gguf_close(file);
        error_set_memory(e, "the model", sizeof *m);
        return NULL;
    }
    m->file = file;
    if (read_hyperparameters(m, e) && model_bind(m, e)) {
        read_facts(m, fallback_name);
        return m;
    }
    model_close(m);
    return NULL;
}

struct model *model_open(const char *path, void (*progress)(void *context, double share),
                         void *context, struct error *e)
{
    struct gguf *file = gguf_open(path, e);
    if (!file)
        return NULL;
    const char *slash = strrchr(path, '/');
    struct model *m = model_from_gguf(file, slash ? slash + 1 : path, e);
    if (m && progress)
        touch(m, progress, context);
    return m;
}

void model_close(struct model *m)
{
    if (!m)
        return;
    model_unbind(m);
    gguf_close(m->file);
    free(m);
}

void model_rope_frequencies(const struct model *m, double *out)
{
    for (uint32_t i = 0; i < m->rope_dim / 2; i++) {
        double frequency = pow(m->rope_base, -2.0 * i / m->rope_dim);
        out[i] = m->rope_factors ? frequency / (double)m->rope_factors[i] : frequency;
    }
}
