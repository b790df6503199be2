/* Reads head profiles from files: see profile_file.h. Everything in them is checked. */
#include "engine/measure/profile_file.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/base/file.h"
#include "config/json_read.h"
#include "engine/model/model_hash.h"

/* Far above any model; they bound what a bad file can cause to be allocated. */
enum { MAX_FILE_BYTES = 16 * 1024 * 1024, MAX_LAYERS = 4096, MAX_KV_HEADS = 4096 };

#define BAD "invalid_head_profile"

/* ---- JSON */

static bool get_integer(const json_t *object, const char *key, json_int_t min, json_int_t max,
                        uint32_t *out, const char *path, struct error *e)
{
    const json_t *value = json_object_get(object, key);
    if (!value)
        return error_set(e, BAD, path, "\"%s\" is missing", key);
    if (!json_is_integer(value))
        return error_set(e, BAD, path, "\"%s\" is not an integer", key);
    json_int_t number = json_integer_value(value);
    if (number < min || number > max)
        return error_set(e, BAD, path, "\"%s\" is %" JSON_INTEGER_FORMAT ", not in %d to %d", key,
                         number, (int)min, (int)max);
    *out = (uint32_t)number;
    return true;
}

static bool is_hash(const char *text)
{
    return strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64;
}

static bool read_head(struct head_profile *p, const json_t *object, const char *path,
                      struct error *e)
{
    const char *format = json_string_value(json_object_get(object, "format"));
    const char *name = json_string_value(json_object_get(object, "model"));
    const char *hash = json_string_value(json_object_get(object, "model_hash"));
    uint32_t version;
    if (!format || strcmp(format, "winnow-head-profile") != 0)
        return error_set(e, BAD, path,
                         "\"format\" is not \"winnow-head-profile\": `winnow calibrate` makes such "
                         "files");
    if (!get_integer(object, "version", 1, 1, &version, path, e))
        return false;
    if (!name)
        return error_set(e, BAD, path, "\"model\" is missing or not a string");
    if (!hash || !is_hash(hash))
        return error_set(e, BAD, path, "\"model_hash\" is missing or not 64 hex digits");
    snprintf(p->model_name, sizeof p->model_name, "%s", name);
    snprintf(p->model_hash, sizeof p->model_hash, "%s", hash);
    return get_integer(object, "n_layers", 1, MAX_LAYERS, &p->n_layers, path, e) &&
           get_integer(object, "n_kv_heads", 1, MAX_KV_HEADS, &p->n_kv_heads, path, e);
}

/* Adds a head's part to its layer's mean. */
static void add_retrieval(struct head_profile *p, uint32_t layer, double score)
{
    p->retrieval[layer] += score / p->n_kv_heads;
}

static bool retrieval_init(struct head_profile *p, struct error *e)
{
    p->retrieval = calloc(p->n_layers, sizeof *p->retrieval);
    return p->retrieval || error_set_memory(e, "the head profile", p->n_layers * sizeof(double));
}

static bool read_scores(struct head_profile *p, const json_t *object, const char *key,
                        const char *path, struct error *e)
{
    const json_t *layers = json_object_get(object, key);
    if (!json_is_array(layers))
        return error_set(e, BAD, path, "\"%s\" is missing or not an array", key);
    if (json_array_size(layers) != p->n_layers)
        return error_set(e, BAD, path, "\"%s\" has %zu layers, not %u", key,
                         json_array_size(layers), p->n_layers);
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const json_t *values = json_array_get(layers, l);
        if (!json_is_array(values))
            return error_set(e, BAD, path, "\"%s\": layer %u is not an array", key, l);
        if (json_array_size(values) != p->n_kv_heads)
            return error_set(e, BAD, path, "\"%s\": layer %u has %zu values, not %u", key, l,
                             json_array_size(values), p->n_kv_heads);
        for (uint32_t h = 0; h < p->n_kv_heads; h++) {
            const json_t *value = json_array_get(values, h);
            double number = json_number_value(value);
            if (!json_is_number(value))
                return error_set(e, BAD, path, "\"%s\": layer %u, KV head %u is not a number", key,
                                 l, h);
            if (!(number >= 0 && number <= 1))
                return error_set(e, BAD, path, "\"%s\": layer %u, KV head %u is %g, not in 0 to 1",
                                 key, l, h, number);
            add_retrieval(p, l, number);
        }
    }
    return true;
}

static bool read_whole_heads(struct head_profile *p, const json_t *object, const char *path,
                             struct error *e)
{
    const json_t *heads = json_object_get(object, "retrieval_heads");
    if (!json_is_array(heads))
        return error_set(e, BAD, path, "\"retrieval_heads\" is missing or not an array");
    size_t n = (size_t)p->n_layers * p->n_kv_heads;
    p->whole = calloc(n, sizeof *p->whole);
    if (!p->whole)
        return error_set_memory(e, "the head profile", n * sizeof *p->whole);
    for (size_t i = 0; i < json_array_size(heads); i++) {
        const json_t *pair = json_array_get(heads, i);
        const json_t *layer = json_array_get(pair, 0), *kv_head = json_array_get(pair, 1);
        if (json_array_size(pair) != 2 || !json_is_integer(layer) || !json_is_integer(kv_head))
            return error_set(e, BAD, path, "\"retrieval_heads\"[%zu] is not [layer, kv_head]", i);
        json_int_t l = json_integer_value(layer), h = json_integer_value(kv_head);
        if (l < 0 || l >= p->n_layers || h < 0 || h >= p->n_kv_heads)
            return error_set(e, BAD, path,
                             "\"retrieval_heads\"[%zu] is [%" JSON_INTEGER_FORMAT
                             ", %" JSON_INTEGER_FORMAT "]; there are %u layers of %u KV heads",
                             i, l, h, p->n_layers, p->n_kv_heads);
        bool *whole = &p->whole[(size_t)l * p->n_kv_heads + (size_t)h];
        if (*whole)
            return error_set(e, BAD, path, "\"retrieval_heads\"[%zu] is there twice", i);
        *whole = true;
    }
    return true;
}

static bool read_json(struct head_profile *p, const char *text, size_t length, const char *path,
                      struct error *e)
{
    json_t *object =
        json_read(text, length, JSON_REJECT_DUPLICATES, BAD, path, "the head profile", e);
    if (!object)
        return false;
    bool ok = read_head(p, object, path, e) && retrieval_init(p, e) &&
              read_scores(p, object, "induction", path, e) &&
              read_scores(p, object, "echo", path, e) && read_whole_heads(p, object, path, e);
    json_decref(object);
    return ok;
}

/* ---- tab-separated values */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* Training does not keep the values within 0 to 1 (the published Llama-3 pattern has -0.00024), so
 * they are clipped, as in the authors' loader. A value more than 0.01 outside is refused. */
static bool read_value(const char *word, size_t length, double *value)
{
    char text[64], *end;
    if (length >= sizeof text || strspn(word, "+-.0123456789eE") < length)
        return false;
    memcpy(text, word, length);
    text[length] = 0;
    *value = strtod(text, &end);
    return *end == 0 && isfinite(*value);
}

/* One line of n values, or as many as there are while *n is 0. `room` values fit. */
static bool read_row(struct head_profile *p, const char *line, const char *end, size_t *room,
                     const char *path, struct error *e)
{
    char shown[80];
    uint32_t layer = p->n_layers, n = 0;
    for (const char *word = line, *after; word < end; word = after) {
        after = word;
        if (is_blank(*word)) {
            after++;
            continue;
        }
        while (after < end && !is_blank(*after))
            after++;
        double value;
        if (!read_value(word, (size_t)(after - word), &value))
            return error_set(e, BAD, path, "layer %u, value %u: \"%s\" is not a number", layer, n,
                             error_excerpt(shown, word, (uint64_t)(after - word)));
        if (value < -0.01 || value > 1.01)
            return error_set(e, BAD, path, "layer %u, value %u is %g, not in 0 to 1", layer, n,
                             value);
        if (n == MAX_KV_HEADS)
            return error_set(e, BAD, path, "layer %u has more than %d values", layer, MAX_KV_HEADS);
        size_t at = (size_t)layer * p->n_kv_heads + n;
        if (at == *room) {
            double *bigger = realloc(p->value, 2 * *room * sizeof *bigger);
            if (!bigger)
                return error_set_memory(e, "the head profile", 2 * *room * sizeof *bigger);
            p->value = bigger;
            *room *= 2;
        }
        p->value[at] = value < 0 ? 0 : value > 1 ? 1 : value;
        n++;
    }
    if (n == 0)
        return true; /* blank lines are allowed, as in numpy */
    if (layer > 0 && n != p->n_kv_heads)
        return error_set(e, BAD, path, "layer %u has %u values, not %u as layer 0", layer, n,
                         p->n_kv_heads);
    p->n_kv_heads = n;
    p->n_layers++;
    return true;
}

static bool read_pattern(struct head_profile *p, const char *text, size_t length, const char *path,
                         struct error *e)
{
    size_t room = 64;
    p->is_pattern = true;
    p->value = malloc(room * sizeof *p->value);
    if (!p->value)
        return error_set_memory(e, "the head profile", room * sizeof *p->value);
    for (const char *line = text, *end = text + length; line < end;) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        const char *line_end = newline ? newline : end;
        if (p->n_layers == MAX_LAYERS)
            return error_set(e, BAD, path, "there are more than %d lines", MAX_LAYERS);
        if (!read_row(p, line, line_end, &room, path, e))
            return false;
        line = newline ? newline + 1 : end;
    }
    if (p->n_layers == 0)
        return error_set(e, BAD, path, "the file is empty");
    if (!retrieval_init(p, e))
        return false;
    for (uint32_t l = 0; l < p->n_layers; l++)
        for (uint32_t h = 0; h < p->n_kv_heads; h++)
            add_retrieval(p, l, p->value[l * p->n_kv_heads + h]);
    return true;
}

/* ---- the file */

struct head_profile *profile_file_load(const char *path, struct error *e)
{
    struct file_wanted w = {.path = path,
                            .what = "the head profile",
                            .where = path,
                            .code = BAD,
                            .most = MAX_FILE_BYTES};
    size_t length;
    char *text = file_read(&w, &length, e);
    if (!text)
        return NULL;
    struct head_profile *p = calloc(1, sizeof *p);
    bool ok = p || error_set_memory(e, "the head profile", sizeof *p);
    if (ok)
        ok = text[strspn(text, " \t\r\n")] == '{' ? read_json(p, text, length, path, e)
                                                  : read_pattern(p, text, length, path, e);
    free(text);
    if (ok)
        return p;
    head_profile_free(p);
    return NULL;
}

struct head_profile *profile_file_open(const char *path, const struct model *model, struct error *e)
{
    char hash[65];
    struct head_profile *p = profile_file_load(path, e);
    if (p && head_profile_check(p, model->n_layers, model->n_kv_heads, model_hash(model, hash), e))
        return p;
    head_profile_free(p);
    return NULL;
}

char *profile_file_beside(const char *model_path)
{
    static const char suffix[] = ".gguf";
    size_t n = strlen(model_path), n_suffix = sizeof suffix - 1;
    char *path;
    if (n > n_suffix && !strcmp(model_path + n - n_suffix, suffix))
        n -= n_suffix;
    if (asprintf(&path, "%.*s.heads.json", (int)n, model_path) < 0)
        return NULL;
    if (access(path, R_OK) == 0)
        return path;
    free(path);
    return NULL;
}
