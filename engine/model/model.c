/* Opens a model: the architecture's row reads the facts, the facts are checked against what winnow
 * can run, and the list of weights is bound. */
#include "engine/model/model.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/hash.h"
#include "engine/model/arch.h"
#include "engine/model/source_format.h"

enum { MOST_VOCAB = 1 << 24 };

static bool read_vocabulary_size(struct model *m, struct error *e)
{
    const struct source_tensor *t = source_tensor(m->source, "token_embd.weight");
    struct source_value tokens;
    if (!t)
        return error_set(e, "invalid_model", "token_embd.weight",
                         source_n_tensors(m->source)
                             ? "the tensor 'token_embd.weight' is missing"
                             : "the file has no tensors: it is a vocabulary, not a model");
    if (t->shape[1] > MOST_VOCAB)
        return error_set(e, "invalid_model", "token_embd.weight",
                         "the vocabulary has %llu tokens; at most %d",
                         (unsigned long long)t->shape[1], MOST_VOCAB);
    m->n_vocab = (uint32_t)t->shape[1];
    if (source_value(m->source, "tokenizer.ggml.tokens", &tokens) && tokens.type == SOURCE_ARRAY &&
        tokens.count > m->n_vocab)
        return error_set(e, "invalid_model", "token_embd.weight",
                         "the vocabulary has %llu tokens, but token_embd.weight has only %u rows",
                         (unsigned long long)tokens.count, m->n_vocab);
    return true;
}

/* The cache and the kernels know one shape of heads for all layers. */
static bool check_layers(struct model *m, struct error *e)
{
    const struct layer_spec *first = &m->layers[0];
    assert(m->n_rope_sets <= MOST_ROPE_SETS); /* an architecture's row chooses it, never a file */
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const struct layer_spec *l = &m->layers[i];
        assert(l->rope == ROPE_NONE || l->rope < m->n_rope_sets);
        if (l->n_heads != first->n_heads || l->n_kv_heads != first->n_kv_heads ||
            l->key_size != first->key_size)
            return error_set(e, "invalid_model", "block_count",
                             "layer %u has %u heads on %u KV heads of dimension %u and layer 0 has "
                             "%u on %u of %u; winnow runs models whose layers have the same",
                             i, l->n_heads, l->n_kv_heads, l->key_size, first->n_heads,
                             first->n_kv_heads, first->key_size);
    }
    m->n_heads = first->n_heads;
    m->n_kv_heads = first->n_kv_heads;
    m->head_dim = first->key_size;
    return true;
}

/* A part of a split model lacks tensors, and perhaps all keys; no other message would say why. */
static bool refuse_parts(const struct model_source *s, struct error *e)
{
    int64_t count = 0, number = 0;
    if (!source_get_int(s, "split.count", 0, UINT16_MAX, &count, NULL) || count <= 1)
        return true;
    source_get_int(s, "split.no", 0, UINT16_MAX, &number, NULL);
    return error_set(e, "invalid_model", "split.count",
                     "the file is part %lld of %lld of a split model; winnow reads models in one "
                     "file. Join the parts first: llama-gguf-split --merge FIRST_PART MODEL.gguf",
                     (long long)number + 1, (long long)count);
}

static bool read_facts(struct model *m, struct error *e)
{
    const struct arch *arch = refuse_parts(m->source, e) ? arch_to_run(m->source, e) : NULL;
    if (!arch)
        return false;
    m->architecture = arch->name;
    return arch->read(arch, m, e) && check_layers(m, e) && read_vocabulary_size(m, e);
}

/* Reads the recommended sampling values that are within a request's limits. */
static void read_sampling(const struct model_source *s, struct model_sampling *out)
{
    double value;
    int64_t whole;
    *out = (struct model_sampling){-1, -1, -1, -1};
    if (source_get_double(s, "general.sampling.temp", &value, NULL) && value >= 0 && value <= 2)
        out->temperature = value;
    if (source_get_double(s, "general.sampling.top_p", &value, NULL) && value > 0 && value <= 1)
        out->top_p = value;
    if (source_get_double(s, "general.sampling.min_p", &value, NULL) && value >= 0 && value <= 1)
        out->min_p = value;
    if (source_get_int(s, "general.sampling.top_k", 0, 1 << 20, &whole, NULL))
        out->top_k = (int32_t)whole;
}

/* FNV-1a over the names of all keys, and over names, types, shapes and the first 64 bytes of all
 * tensors: it tells models apart without reading all of their bytes. */
static uint64_t fingerprint(const struct model_source *s)
{
    uint64_t hash = FNV_START;
    for (uint64_t i = 0; i < source_n_keys(s); i++) {
        struct source_value v = source_value_at(s, i);
        hash = fnv_add(hash, v.key.data, v.key.length);
    }
    for (uint64_t i = 0; i < source_n_tensors(s); i++) {
        const struct source_tensor *t = source_tensor_at(s, i);
        hash = fnv_add(hash, t->name.data, t->name.length);
        hash = fnv_add(hash, t->shape, sizeof t->shape);
        hash = fnv_add(hash, &t->type, sizeof t->type);
        hash = fnv_add(hash, t->data, t->size_bytes < 64 ? t->size_bytes : 64);
    }
    return hash;
}

static void read_names(struct model *m, const char *fallback_name)
{
    struct source_text name = {fallback_name, strlen(fallback_name)}, given;
    char shown[80];
    if (source_get_text(m->source, "general.name", &given, NULL) && given.length)
        name = given;
    snprintf(m->name, sizeof m->name, "%s", error_excerpt(shown, name.data, name.length));
    snprintf(m->fingerprint, sizeof m->fingerprint, "%016llx",
             (unsigned long long)fingerprint(m->source));
    source_optional_text(m->source, "tokenizer.chat_template", &m->chat_template, NULL);
    read_sampling(m->source, &m->recommended);
}

/* Reads one byte of every memory page, so that the first request does not wait for the disk. */
static void touch(const struct model *m, void (*progress)(void *, double), void *context)
{
    const size_t page = 4096, step = 16u << 20;
    const struct source_tensor *first = source_tensor_at(m->source, 0);
    const uint8_t *from = first->data, *to = from;
    for (uint64_t i = 0; i < source_n_tensors(m->source); i++) {
        const struct source_tensor *t = source_tensor_at(m->source, i);
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

struct model *model_from_source(struct model_source *source, const char *fallback_name,
                                struct error *e)
{
    struct model *m = calloc(1, sizeof *m);
    if (!m) {
        source_close(source);
        error_set_memory(e, "the model", sizeof *m);
        return NULL;
    }
    m->source = source;
    if (read_facts(m, e) && weights_load(m, e)) {
        read_names(m, fallback_name);
        return m;
    }
    model_close(m);
    return NULL;
}

struct model *model_open_as(const char *path, enum source_use use,
                            void (*progress)(void *context, double share), void *context,
                            struct error *e)
{
    struct model_source *source = source_open_as(path, use, e);
    if (!source)
        return NULL;
    const char *slash = strrchr(path, '/');
    struct model *m = model_from_source(source, slash ? slash + 1 : path, e);
    if (m && progress)
        touch(m, progress, context);
    if (m && !source_unchanged(m->source, e)) {
        model_close(m);
        m = NULL;
    }
    if (!m)
        source_name_in_error(path, e);
    return m;
}

struct model *model_open(const char *path, void (*progress)(void *context, double share),
                         void *context, struct error *e)
{
    return model_open_as(path, SOURCE_MAPPED, progress, context, e);
}

void model_close(struct model *m)
{
    if (!m)
        return;
    weights_free(m);
    free(m->layers);
    source_close(m->source);
    free(m);
}
