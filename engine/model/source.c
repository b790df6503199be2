/* Typed reads over any format: see source.h. A format finds values; what kind they are and whether
 * they are in range is checked here once. */
#include "engine/model/source.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/gguf.h"
#include "engine/model/source_format.h"

struct model_source *source_open(const char *path, struct error *e)
{
    return source_open_as(path, SOURCE_MAPPED, e);
}

struct model_source *source_open_as(const char *path, enum source_use use, struct error *e)
{
    return gguf_open(path, use, e);
}

bool source_unchanged(const struct model_source *s, struct error *e)
{
    return s->format->unchanged(s->file) ||
           error_set(e, "invalid_model", "", "the file was changed after it was opened");
}

struct model_source *source_new(const struct source_format *format, void *file, struct error *e)
{
    struct model_source *s = malloc(sizeof *s);
    if (!s) {
        format->close(file);
        error_set_memory(e, "a model file", sizeof *s);
        return NULL;
    }
    *s = (struct model_source){format, file};
    return s;
}

void source_name_in_error(const char *path, struct error *e)
{
    if (!e || strcmp(e->code, "invalid_model") != 0)
        return;
    struct error why = *e;
    error_set(e, why.code, why.where, "%s: %s", path, why.message);
}

void source_close(struct model_source *s)
{
    if (s)
        s->format->close(s->file);
    free(s);
}

const char *source_describe(const struct model_source *s, char out[64])
{
    s->format->describe(s->file, out);
    return out;
}

size_t source_bytes(const struct model_source *s)
{
    return s->format->bytes(s->file);
}

uint64_t source_n_tensors(const struct model_source *s)
{
    return s->format->n_tensors(s->file);
}

const struct source_tensor *source_tensor_at(const struct model_source *s, uint64_t index)
{
    return s->format->tensor_at(s->file, index);
}

uint64_t source_tensor_index(const struct model_source *s, const char *name)
{
    return s->format->tensor_index(s->file, name);
}

const struct source_tensor *source_tensor(const struct model_source *s, const char *name)
{
    uint64_t index = source_tensor_index(s, name);
    return index < source_n_tensors(s) ? source_tensor_at(s, index) : NULL;
}

uint64_t source_n_keys(const struct model_source *s)
{
    return s->format->n_keys(s->file);
}

struct source_value source_value_at(const struct model_source *s, uint64_t index)
{
    return *s->format->value_at(s->file, index);
}

static const struct source_value *find(const struct model_source *s, const char *key)
{
    return s->format->find(s->file, key);
}

bool source_value(const struct model_source *s, const char *key, struct source_value *out)
{
    const struct source_value *v = find(s, key);
    if (v)
        *out = *v;
    return v != NULL;
}

bool source_has(const struct model_source *s, const char *key)
{
    return find(s, key) != NULL;
}

const char *source_spell(const struct model_source *s, const char *key, char out[SOURCE_KEY_BYTES])
{
    return s->format->spell(s->file, key, out);
}

bool source_text_is(struct source_text text, const char *word)
{
    return text.length == strlen(word) && memcmp(text.data, word, text.length) == 0;
}

/* ---- numbers */

uint32_t source_type_bytes(uint32_t type)
{
    static const uint8_t bytes[] = {
        [SOURCE_UINT8] = 1,  [SOURCE_INT8] = 1,  [SOURCE_UINT16] = 2,  [SOURCE_INT16] = 2,
        [SOURCE_UINT32] = 4, [SOURCE_INT32] = 4, [SOURCE_FLOAT32] = 4, [SOURCE_BOOL] = 1,
        [SOURCE_UINT64] = 8, [SOURCE_INT64] = 8, [SOURCE_FLOAT64] = 8};
    return type < sizeof bytes ? bytes[type] : 0;
}

/* An integer of any width at `data`; false for other types and for what int64 cannot hold. */
static bool load_int(enum source_type type, const uint8_t *data, int64_t *out)
{
    uint64_t raw = 0;
    uint32_t bytes = source_type_bytes(type);
    if (bytes == 0 || type == SOURCE_FLOAT32 || type == SOURCE_FLOAT64 || type == SOURCE_BOOL)
        return false;
    memcpy(&raw, data, bytes); /* little-endian machine: the low bytes */
    switch (type) {
    case SOURCE_INT8:
        *out = (int8_t)raw;
        return true;
    case SOURCE_INT16:
        *out = (int16_t)raw;
        return true;
    case SOURCE_INT32:
        *out = (int32_t)raw;
        return true;
    case SOURCE_UINT64:
        if (raw > INT64_MAX)
            return false;
        *out = (int64_t)raw;
        return true;
    default:
        *out = (int64_t)raw;
        return true;
    }
}

static bool load_double(enum source_type type, const uint8_t *data, double *out)
{
    float single;
    if (type == SOURCE_FLOAT32) {
        memcpy(&single, data, 4);
        *out = (double)single;
    } else if (type == SOURCE_FLOAT64) {
        memcpy(out, data, 8);
    } else {
        return false;
    }
    return true;
}

bool source_value_int(const struct source_value *v, int64_t *out)
{
    return load_int(v->type, v->data, out);
}

bool source_value_double(const struct source_value *v, double *out)
{
    return load_double(v->type, v->data, out);
}

static bool has_element(const struct source_value *v, uint64_t index)
{
    return v->type == SOURCE_ARRAY && index < v->count;
}

static const uint8_t *element_at(const struct source_value *v, uint64_t index)
{
    return v->data + index * source_type_bytes(v->element);
}

bool source_element_int(const struct source_value *v, uint64_t index, int64_t *out)
{
    return has_element(v, index) && v->data && load_int(v->element, element_at(v, index), out);
}

bool source_element_double(const struct source_value *v, uint64_t index, double *out)
{
    return has_element(v, index) && v->data && load_double(v->element, element_at(v, index), out);
}

bool source_element_text(const struct source_value *v, uint64_t index, struct source_text *out)
{
    if (!has_element(v, index) || !v->texts)
        return false;
    *out = v->texts[index];
    return true;
}

/* ---- reads that say why they fail */

static bool absent(const struct model_source *s, const char *key, struct error *e)
{
    char spelt[SOURCE_KEY_BYTES];
    key = source_spell(s, key, spelt);
    return error_set(e, "invalid_model", key, "the metadata key '%s' is missing", key);
}

static bool other_kind(const struct model_source *s, const char *key, const char *wanted,
                       struct error *e)
{
    char spelt[SOURCE_KEY_BYTES];
    key = source_spell(s, key, spelt);
    return error_set(e, "invalid_model", key, "the metadata key '%s' does not hold %s", key,
                     wanted);
}

static bool check_int(const struct model_source *s, const char *key, int64_t value, int64_t min,
                      int64_t max, struct error *e)
{
    char spelt[SOURCE_KEY_BYTES];
    if (value >= min && value <= max)
        return true;
    key = source_spell(s, key, spelt);
    return error_set(e, "invalid_model", key, "%s is %lld; it must be %lld to %lld", key,
                     (long long)value, (long long)min, (long long)max);
}

bool source_get_int(const struct model_source *s, const char *key, int64_t min, int64_t max,
                    int64_t *out, struct error *e)
{
    const struct source_value *v = find(s, key);
    int64_t value;
    if (!v)
        return absent(s, key, e);
    if (!source_value_int(v, &value))
        return other_kind(s, key, "a whole number", e);
    if (!check_int(s, key, value, min, max, e))
        return false;
    *out = value;
    return true;
}

bool source_get_u32(const struct model_source *s, const char *key, uint32_t min, uint32_t max,
                    uint32_t *out, struct error *e)
{
    int64_t value;
    if (!source_get_int(s, key, min, max, &value, e))
        return false;
    *out = (uint32_t)value;
    return true;
}

bool source_get_double(const struct model_source *s, const char *key, double *out, struct error *e)
{
    const struct source_value *v = find(s, key);
    char spelt[SOURCE_KEY_BYTES];
    double value;
    if (!v)
        return absent(s, key, e);
    if (!source_value_double(v, &value))
        return other_kind(s, key, "a floating-point number", e);
    if (!isfinite(value)) {
        key = source_spell(s, key, spelt);
        return error_set(e, "invalid_model", key, "%s is not a finite number", key);
    }
    *out = value;
    return true;
}

bool source_get_bool(const struct model_source *s, const char *key, bool *out, struct error *e)
{
    const struct source_value *v = find(s, key);
    if (!v)
        return absent(s, key, e);
    if (v->type != SOURCE_BOOL)
        return other_kind(s, key, "a boolean", e);
    *out = v->data[0] != 0;
    return true;
}

bool source_get_text(const struct model_source *s, const char *key, struct source_text *out,
                     struct error *e)
{
    const struct source_value *v = find(s, key);
    if (!v)
        return absent(s, key, e);
    if (v->type != SOURCE_STRING)
        return other_kind(s, key, "a string", e);
    *out = v->text;
    return true;
}

bool source_get_array(const struct model_source *s, const char *key, enum source_type element,
                      struct source_value *out, struct error *e)
{
    const struct source_value *v = find(s, key);
    if (!v)
        return absent(s, key, e);
    if (v->type != SOURCE_ARRAY || v->element != element)
        return other_kind(s, key, "an array of the right type", e);
    *out = *v;
    return true;
}

bool source_optional_u32(const struct model_source *s, const char *key, uint32_t min, uint32_t max,
                         uint32_t *out, struct error *e)
{
    return !source_has(s, key) || source_get_u32(s, key, min, max, out, e);
}

bool source_optional_double(const struct model_source *s, const char *key, double min, double max,
                            double *out, struct error *e)
{
    char spelt[SOURCE_KEY_BYTES];
    double value;
    if (!source_has(s, key))
        return true;
    if (!source_get_double(s, key, &value, e))
        return false;
    if (value < min || value > max) {
        key = source_spell(s, key, spelt);
        return error_set(e, "invalid_model", key, "%s is %g; it must be %g to %g", key, value, min,
                         max);
    }
    *out = value;
    return true;
}

bool source_optional_bool(const struct model_source *s, const char *key, bool *out, struct error *e)
{
    return !source_has(s, key) || source_get_bool(s, key, out, e);
}

bool source_optional_text(const struct model_source *s, const char *key, struct source_text *out,
                          struct error *e)
{
    return !source_has(s, key) || source_get_text(s, key, out, e);
}

bool source_get_layer_u32(const struct model_source *s, const char *key, uint32_t layer,
                          uint32_t min, uint32_t max, uint32_t *out, struct error *e)
{
    const struct source_value *v = find(s, key);
    char spelt[SOURCE_KEY_BYTES];
    int64_t value;
    if (!v || v->type != SOURCE_ARRAY)
        return source_get_u32(s, key, min, max, out, e);
    if (layer >= v->count) {
        key = source_spell(s, key, spelt);
        return error_set(e, "invalid_model", key, "%s has %llu values and none for layer %u", key,
                         (unsigned long long)v->count, layer);
    }
    if (!source_element_int(v, layer, &value))
        return other_kind(s, key, "whole numbers", e);
    if (!check_int(s, key, value, min, max, e))
        return false;
    *out = (uint32_t)value;
    return true;
}

bool source_optional_layer_u32(const struct model_source *s, const char *key, uint32_t layer,
                               uint32_t min, uint32_t max, uint32_t *out, struct error *e)
{
    return !source_has(s, key) || source_get_layer_u32(s, key, layer, min, max, out, e);
}
