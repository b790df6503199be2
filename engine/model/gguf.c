/* Opening, closing and looking things up in a GGUF file: see gguf.h. The parsing is in gguf_read.c.
 */
#include "engine/model/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/model/gguf_file.h"

static struct gguf *finish_open(struct gguf *g, struct error *e)
{
    if (gguf_read(g, e))
        return g;
    gguf_close(g);
    return NULL;
}

static struct gguf *new_gguf(struct error *e)
{
    struct gguf *g = calloc(1, sizeof *g);
    if (!g)
        error_set_memory(e, "a model file", sizeof *g);
    return g;
}

struct gguf *gguf_open_memory(const void *bytes, size_t n_bytes, struct error *e)
{
    struct gguf *g = new_gguf(e);
    if (!g)
        return NULL;
    g->bytes = bytes;
    g->n_bytes = n_bytes;
    return finish_open(g, e);
}

struct gguf *gguf_open(const char *path, struct error *e)
{
    struct stat status;
    struct gguf *g = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        error_set(e, errno == ENOENT ? "file_not_found" : "file_error", path,
                  "cannot open the file: %s", strerror(errno));
        return NULL;
    }
    if (fstat(fd, &status) || !S_ISREG(status.st_mode)) {
        error_set(e, "file_error", path, "not a regular file");
        goto out;
    }
    if (status.st_size < 24) {
        error_set(e, "invalid_model", path, "the file has %lld bytes; a GGUF header alone has 24",
                  (long long)status.st_size);
        goto out;
    }
    g = new_gguf(e);
    if (!g)
        goto out;
    g->n_bytes = (size_t)status.st_size;
    void *map = mmap(NULL, g->n_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) {
        error_set(e, "file_error", path, "cannot map the file: %s", strerror(errno));
        free(g);
        g = NULL;
        goto out;
    }
    g->bytes = map;
    g->mapped = true;
    g = finish_open(g, e);
out:
    close(fd);
    return g;
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    for (uint64_t i = 0; i < g->n_values; i++)
        free(g->values[i].strings);
    free(g->values);
    free(g->values_by_key);
    free(g->tensors);
    free(g->tensors_by_name);
    if (g->mapped)
        munmap((void *)(uintptr_t)g->bytes, g->n_bytes);
    free(g);
}

uint32_t gguf_version(const struct gguf *g)
{
    return g->version;
}

size_t gguf_file_bytes(const struct gguf *g)
{
    return g->n_bytes;
}

uint64_t gguf_n_tensors(const struct gguf *g)
{
    return g->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, uint64_t index)
{
    return &g->tensors[index];
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name)
{
    struct gguf_string wanted = {name, strlen(name)};
    uint64_t low = 0, high = g->n_tensors;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        const struct gguf_tensor *t = &g->tensors[g->tensors_by_name[middle]];
        int order = gguf_string_compare(&wanted, &t->name);
        if (order == 0)
            return t;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static const struct gguf_value *find(const struct gguf *g, const char *key)
{
    struct gguf_string wanted = {key, strlen(key)};
    uint64_t low = 0, high = g->values_by_key ? g->n_values : 0;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        const struct gguf_value *v = &g->values[g->values_by_key[middle]];
        int order = gguf_string_compare(&wanted, &v->key);
        if (order == 0)
            return v;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

uint64_t gguf_n_keys(const struct gguf *g)
{
    return g->n_values;
}

struct gguf_string gguf_key_at(const struct gguf *g, uint64_t index)
{
    return g->values[index].key;
}

bool gguf_has(const struct gguf *g, const char *key)
{
    return find(g, key) != NULL;
}

bool gguf_type_of(const struct gguf *g, const char *key, enum gguf_type *type,
                  enum gguf_type *element, uint64_t *count)
{
    const struct gguf_value *v = find(g, key);
    if (!v)
        return false;
    if (type)
        *type = v->type;
    if (element)
        *element = v->element;
    if (count)
        *count = v->count;
    return true;
}

static bool absent(const char *key, struct error *e)
{
    return error_set(e, "invalid_model", key, "the metadata key '%s' is missing", key);
}

/* An integer of any width at `data`; false for other types and for what int64 cannot hold. */
static bool load_int(enum gguf_type type, const uint8_t *data, int64_t *out)
{
    uint64_t raw = 0;
    uint32_t bytes = gguf_type_bytes(type);
    if (bytes == 0 || type == GGUF_FLOAT32 || type == GGUF_FLOAT64 || type == GGUF_BOOL)
        return false;
    memcpy(&raw, data, bytes); /* little-endian machine: the low bytes */
    switch (type) {
    case GGUF_INT8:
        *out = (int8_t)raw;
        return true;
    case GGUF_INT16:
        *out = (int16_t)raw;
        return true;
    case GGUF_INT32:
        *out = (int32_t)raw;
        return true;
    case GGUF_UINT64:
        if (raw > INT64_MAX)
            return false;
        *out = (int64_t)raw;
        return true;
    default:
        *out = (int64_t)raw;
        return true;
    }
}

static bool load_double(enum gguf_type type, const uint8_t *data, double *out)
{
    float single;
    if (type == GGUF_FLOAT32) {
        memcpy(&single, data, 4);
        *out = (double)single;
    } else if (type == GGUF_FLOAT64) {
        memcpy(out, data, 8);
    } else {
        return false;
    }
    return true;
}

bool gguf_get_int(const struct gguf *g, const char *key, int64_t min, int64_t max, int64_t *out,
                  struct error *e)
{
    const struct gguf_value *v = find(g, key);
    if (!v)
        return absent(key, e);
    int64_t value;
    if (!load_int(v->type, v->data, &value))
        return error_set(e, "invalid_model", key,
                         "the metadata key '%s' does not hold a whole number", key);
    if (value < min || value > max)
        return error_set(e, "invalid_model", key, "%s is %lld; it must be %lld to %lld", key,
                         (long long)value, (long long)min, (long long)max);
    *out = value;
    return true;
}

bool gguf_get_double(const struct gguf *g, const char *key, double *out, struct error *e)
{
    const struct gguf_value *v = find(g, key);
    if (!v)
        return absent(key, e);
    double value;
    if (!load_double(v->type, v->data, &value))
        return error_set(e, "invalid_model", key,
                         "the metadata key '%s' does not hold a floating-point number", key);
    if (!isfinite(value))
        return error_set(e, "invalid_model", key, "%s is not a finite number", key);
    *out = value;
    return true;
}

bool gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct error *e)
{
    const struct gguf_value *v = find(g, key);
    if (!v)
        return absent(key, e);
    if (v->type != GGUF_BOOL)
        return error_set(e, "invalid_model", key, "the metadata key '%s' does not hold a boolean",
                         key);
    *out = v->data[0] != 0;
    return true;
}

bool gguf_get_string(const struct gguf *g, const char *key, struct gguf_string *out,
                     struct error *e)
{
    const struct gguf_value *v = find(g, key);
    if (!v)
        return absent(key, e);
    if (v->type != GGUF_STRING)
        return error_set(e, "invalid_model", key, "the metadata key '%s' does not hold a string",
                         key);
    *out = v->string;
    return true;
}

/* The array of `key` when it has an element `index`. */
static const struct gguf_value *element_of(const struct gguf *g, const char *key, uint64_t index)
{
    const struct gguf_value *v = find(g, key);
    return v && v->type == GGUF_ARRAY && index < v->count ? v : NULL;
}

bool gguf_array_int(const struct gguf *g, const char *key, uint64_t index, int64_t *out)
{
    const struct gguf_value *v = element_of(g, key, index);
    return v && v->data && load_int(v->element, v->data + index * gguf_type_bytes(v->element), out);
}

bool gguf_array_double(const struct gguf *g, const char *key, uint64_t index, double *out)
{
    const struct gguf_value *v = element_of(g, key, index);
    return v && v->data &&
           load_double(v->element, v->data + index * gguf_type_bytes(v->element), out);
}

bool gguf_array_string(const struct gguf *g, const char *key, uint64_t index,
                       struct gguf_string *out)
{
    const struct gguf_value *v = element_of(g, key, index);
    if (!v || !v->strings)
        return false;
    *out = v->strings[index];
    return true;
}

bool gguf_get_array(const struct gguf *g, const char *key, enum gguf_type element,
                    struct gguf_array *out, struct error *e)
{
    const struct gguf_value *v = find(g, key);
    if (!v)
        return absent(key, e);
    if (v->type != GGUF_ARRAY || v->element != element)
        return error_set(e, "invalid_model", key,
                         "the metadata key '%s' does not hold an array of the right type", key);
    *out = (struct gguf_array){element, v->count, v->data, v->strings};
    return true;
}
