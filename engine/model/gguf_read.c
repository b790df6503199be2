/* Parses and checks a GGUF file's header, metadata and tensor table. gguf_open calls it once, on
 * the opening thread. Memory for a count of entries is allocated only if the rest of the file can
 * hold that many.
 *
 *   magic, version, n_tensors, n_keys
 *   key, type, value                      of each key
 *   name, n_dims, shape, type, offset     of each tensor
 *   padding, data */
#include <stdlib.h>
#include <string.h>

#include "engine/model/gguf_file.h"

enum {
    SMALLEST_VALUE = 8 + 1 + 4 + 1, /* key length, a key byte, type, a value byte */
    SMALLEST_TENSOR =
        8 + 1 + 4 + 8 + 4 + 8, /* name length, a byte, n_dims, one dimension, type, offset */
    LONGEST_NAME = 65535,
    MOST_DIMENSIONS = 4,
    DEFAULT_ALIGNMENT = 32,
    SMALLEST_ALIGNMENT = 8, /* the format's; kernels need 4 to load floats */
    LARGEST_ALIGNMENT = 1 << 20
};
/* The most elements of a tensor: so few that sums of sizes cannot wrap either. */
static const uint64_t MOST_ELEMENTS = 1ull << 48;
static const uint64_t MOST_ENTRIES = 1ull << 24;

/* What is left to read. */
struct cursor {
    const uint8_t *bytes;
    size_t at, end;
    struct error *e;
};

static bool broken(struct cursor *c, const char *what, uint64_t value, const char *wanted)
{
    return error_set(c->e, "invalid_model", "", "byte %zu: %s is %llu; %s", c->at, what,
                     (unsigned long long)value, wanted);
}

static bool ends_early(struct cursor *c, const char *what)
{
    return error_set(c->e, "invalid_model", "",
                     "byte %zu: the file ends inside %s (it has %zu bytes)", c->at, what, c->end);
}

static bool take(struct cursor *c, void *out, size_t n, const char *what)
{
    if (c->end - c->at < n)
        return ends_early(c, what);
    memcpy(out, c->bytes + c->at, n);
    c->at += n;
    return true;
}

static bool take_string(struct cursor *c, struct source_text *out, const char *what)
{
    uint64_t length = 0;
    if (!take(c, &length, 8, what))
        return false;
    if (length > c->end - c->at)
        return broken(c, "the length of a string", length, "the file is shorter than that");
    out->data = (const char *)c->bytes + c->at;
    out->length = (size_t)length;
    c->at += (size_t)length;
    return true;
}

static bool take_name(struct cursor *c, struct source_text *out, const char *what)
{
    if (!take_string(c, out, what))
        return false;
    if (out->length == 0 || out->length > LONGEST_NAME)
        return broken(c, "the length of a name", out->length, "names have 1 to 65535 bytes");
    return true;
}

static bool check_bools(struct cursor *c, const uint8_t *data, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        if (data[i] > 1)
            return broken(c, "a boolean", data[i], "it must be 0 or 1");
    return true;
}

static bool read_array(struct cursor *c, struct source_value *v)
{
    uint32_t element;
    if (!take(c, &element, 4, "an array") || !take(c, &v->count, 8, "an array"))
        return false;
    v->element = (enum source_type)element;
    uint32_t bytes = source_type_bytes(element);
    if (bytes == 0 && element != SOURCE_STRING)
        return broken(c, "the element type of an array", element,
                      "it must be a number type, a boolean or a string");
    uint64_t smallest = bytes ? bytes : 8; /* a string has at least its length */
    if (v->count > (c->end - c->at) / smallest)
        return broken(c, "the count of an array", v->count,
                      "the rest of the file cannot hold that many");
    if (bytes) {
        v->data = c->bytes + c->at;
        c->at += (size_t)(v->count * bytes);
        return element != SOURCE_BOOL || check_bools(c, v->data, v->count);
    }
    struct source_text *texts = calloc(v->count ? (size_t)v->count : 1, sizeof *texts);
    if (!texts)
        return error_set_memory(c->e, "an array of strings", v->count * sizeof *texts);
    v->texts = texts;
    for (uint64_t i = 0; i < v->count; i++)
        if (!take_string(c, &texts[i], "an array of strings"))
            return false;
    return true;
}

static bool read_value(struct cursor *c, struct source_value *v)
{
    uint32_t type;
    if (!take_name(c, &v->key, "a metadata key") || !take(c, &type, 4, "a metadata type"))
        return false;
    v->type = (enum source_type)type;
    if (type == SOURCE_STRING)
        return take_string(c, &v->text, "a metadata string");
    if (type == SOURCE_ARRAY)
        return read_array(c, v);
    uint32_t bytes = source_type_bytes(type);
    if (bytes == 0)
        return broken(c, "a metadata type", type, "known types are 0 to 12");
    if (c->end - c->at < bytes)
        return ends_early(c, "a metadata value");
    v->data = c->bytes + c->at;
    c->at += bytes;
    return type != SOURCE_BOOL || check_bools(c, v->data, 1);
}

static bool read_tensor(struct cursor *c, struct source_tensor *t, uint64_t *offset)
{
    uint32_t type;
    if (!take_name(c, &t->name, "a tensor's name") ||
        !take(c, &t->n_dims, 4, "a tensor's dimensions"))
        return false;
    if (t->n_dims < 1 || t->n_dims > MOST_DIMENSIONS)
        return broken(c, "a tensor's number of dimensions", t->n_dims, "it must be 1 to 4");
    uint64_t elements = 1;
    for (uint32_t i = 0; i < MOST_DIMENSIONS; i++) {
        t->shape[i] = 1;
        if (i < t->n_dims && !take(c, &t->shape[i], 8, "a tensor's dimensions"))
            return false;
        if (t->shape[i] == 0 || __builtin_mul_overflow(elements, t->shape[i], &elements) ||
            elements > MOST_ELEMENTS)
            return broken(c, "a tensor's dimension", t->shape[i],
                          "a tensor has 1 to 2^48 elements");
    }
    if (!take(c, &type, 4, "a tensor's type") || !take(c, offset, 8, "a tensor's offset"))
        return false;
    t->type = (enum tensor_type)type;
    const struct tensor_type_info *info = tensor_type_info(type);
    if (!info) {
        char shown[80];
        return error_set(c->e, "invalid_model", "",
                         "byte %zu: tensor '%s' has type %u (%s); winnow reads F32, F16, BF16, "
                         "Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K",
                         c->at, error_excerpt(shown, t->name.data, t->name.length), type,
                         tensor_type_name(type));
    }
    if (t->shape[0] % info->block_values)
        return broken(c, "the row length of a quantised tensor", t->shape[0],
                      "it must be a whole number of blocks");
    t->size_bytes = (size_t)(elements / info->block_values * info->block_bytes); /* < 2^48 * 4 */
    return true;
}

int gguf_text_compare(const struct source_text *a, const struct source_text *b)
{
    size_t shorter = a->length < b->length ? a->length : b->length;
    int order = memcmp(a->data, b->data, shorter);
    return order ? order : (a->length > b->length) - (a->length < b->length);
}

static int by_key(const void *a, const void *b, void *context)
{
    const struct source_value *values = context;
    return gguf_text_compare(&values[*(const uint32_t *)a].key, &values[*(const uint32_t *)b].key);
}

static int by_name(const void *a, const void *b, void *context)
{
    const struct source_tensor *tensors = context;
    return gguf_text_compare(&tensors[*(const uint32_t *)a].name,
                             &tensors[*(const uint32_t *)b].name);
}

static int by_offset(const void *a, const void *b, void *context)
{
    const struct source_tensor *tensors = context;
    const uint8_t *x = tensors[*(const uint32_t *)a].data, *y = tensors[*(const uint32_t *)b].data;
    return (x > y) - (x < y);
}

static uint32_t *sorted(uint64_t n, int (*compare)(const void *, const void *, void *),
                        void *context, struct error *e)
{
    uint32_t *index = malloc((size_t)(n ? n : 1) * sizeof *index);
    if (!index) {
        error_set_memory(e, "the index of a model file", n * sizeof *index);
        return NULL;
    }
    for (uint64_t i = 0; i < n; i++)
        index[i] = (uint32_t)i;
    qsort_r(index, (size_t)n, sizeof *index, compare, context);
    return index;
}

static bool twice(struct error *e, const char *what, const struct source_text *name)
{
    char shown[80];
    return error_set(e, "invalid_model", "", "the %s '%s' occurs twice", what,
                     error_excerpt(shown, name->data, name->length));
}

static bool read_values(struct gguf *g, struct cursor *c)
{
    for (uint64_t i = 0; i < g->n_values; i++)
        if (!read_value(c, &g->values[i]))
            return false;
    g->values_by_key = sorted(g->n_values, by_key, g->values, c->e);
    if (!g->values_by_key)
        return false;
    for (uint64_t i = 1; i < g->n_values; i++) {
        const struct source_text *key = &g->values[g->values_by_key[i]].key;
        if (!gguf_text_compare(&g->values[g->values_by_key[i - 1]].key, key))
            return twice(c->e, "metadata key", key);
    }
    const struct source_value *architecture = gguf_find(g, "general.architecture");
    if (architecture && architecture->type == SOURCE_STRING)
        g->architecture = architecture->text;
    return true;
}

static bool read_alignment(struct gguf *g, struct cursor *c, uint64_t *alignment)
{
    static const char key[] = "general.alignment";
    const struct source_value *given = gguf_find(g, key);
    int64_t value = DEFAULT_ALIGNMENT;
    if (given && !source_value_int(given, &value))
        return error_set(c->e, "invalid_model", key,
                         "the metadata key '%s' does not hold a whole number", key);
    if (value < SMALLEST_ALIGNMENT || value > LARGEST_ALIGNMENT)
        return error_set(c->e, "invalid_model", key, "%s is %lld; it must be %d to %d", key,
                         (long long)value, SMALLEST_ALIGNMENT, LARGEST_ALIGNMENT);
    if (value & (value - 1))
        return broken(c, key, (uint64_t)value, "it must be a power of two");
    *alignment = (uint64_t)value;
    return true;
}

/* Sets the data pointer of each tensor; offsets count from the first aligned byte after the tensor
 * table. */
static bool place_tensors(struct gguf *g, struct cursor *c, const uint64_t *offsets,
                          uint64_t alignment)
{
    uint64_t start = (c->at + alignment - 1) / alignment * alignment;
    uint64_t room = start <= c->end ? c->end - start : 0;
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        struct source_tensor *t = &g->tensors[i];
        char shown[80];
        error_excerpt(shown, t->name.data, t->name.length);
        if (offsets[i] % alignment)
            return error_set(
                c->e, "invalid_model", "",
                "tensor '%s' begins at offset %llu, which is not a multiple of the alignment %llu",
                shown, (unsigned long long)offsets[i], (unsigned long long)alignment);
        if (offsets[i] > room || t->size_bytes > room - offsets[i])
            return error_set(c->e, "invalid_model", "",
                             "tensor '%s' needs %zu bytes at offset %llu of the data, which has "
                             "%llu: the file is cut "
                             "short or damaged",
                             shown, t->size_bytes, (unsigned long long)offsets[i],
                             (unsigned long long)room);
        t->data = g->bytes + start + offsets[i];
    }
    return true;
}

static bool check_overlap(struct gguf *g, struct error *e)
{
    uint32_t *order = sorted(g->n_tensors, by_offset, g->tensors, e);
    if (!order)
        return false;
    bool ok = true;
    for (uint64_t i = 1; ok && i < g->n_tensors; i++) {
        const struct source_tensor *a = &g->tensors[order[i - 1]], *b = &g->tensors[order[i]];
        char first[80], second[80];
        if ((const uint8_t *)a->data + a->size_bytes > (const uint8_t *)b->data)
            ok = error_set(e, "invalid_model", "", "the tensors '%s' and '%s' overlap",
                           error_excerpt(first, a->name.data, a->name.length),
                           error_excerpt(second, b->name.data, b->name.length));
    }
    free(order);
    return ok;
}

static bool read_tensors(struct gguf *g, struct cursor *c)
{
    uint64_t alignment = DEFAULT_ALIGNMENT,
             *offsets = malloc((size_t)(g->n_tensors ? g->n_tensors : 1) * sizeof *offsets);
    bool ok = offsets != NULL;
    if (!ok)
        error_set_memory(c->e, "the tensor table", g->n_tensors * sizeof *offsets);
    for (uint64_t i = 0; ok && i < g->n_tensors; i++)
        ok = read_tensor(c, &g->tensors[i], &offsets[i]);
    ok = ok && read_alignment(g, c, &alignment) && place_tensors(g, c, offsets, alignment);
    free(offsets);
    if (!ok)
        return false;
    g->tensors_by_name = sorted(g->n_tensors, by_name, g->tensors, c->e);
    if (!g->tensors_by_name)
        return false;
    for (uint64_t i = 1; i < g->n_tensors; i++) {
        const struct source_text *name = &g->tensors[g->tensors_by_name[i]].name;
        if (!gguf_text_compare(&g->tensors[g->tensors_by_name[i - 1]].name, name))
            return twice(c->e, "tensor", name);
    }
    return check_overlap(g, c->e);
}

bool gguf_read(struct gguf *g, struct error *e)
{
    struct cursor c = {g->bytes, 0, g->n_bytes, e};
    uint64_t n_tensors = 0, n_values = 0;
    char magic[4] = {0};
    if (!take(&c, magic, 4, "the header"))
        return false;
    if (memcmp(magic, "GGUF", 4))
        return error_set(e, "invalid_model", "",
                         "byte 0: the file does not begin with GGUF; it is not a GGUF model file");
    if (!take(&c, &g->version, 4, "the header"))
        return false;
    if (g->version >> 16 && !(g->version & 0xFFFF))
        return error_set(e, "invalid_model", "",
                         "byte 4: the file is big-endian; winnow reads little-endian GGUF");
    if (g->version != 2 && g->version != 3)
        return broken(&c, "the GGUF version", g->version, "winnow reads versions 2 and 3");
    if (!take(&c, &n_tensors, 8, "the header") || !take(&c, &n_values, 8, "the header"))
        return false;
    if (n_values > (c.end - c.at) / SMALLEST_VALUE || n_values > MOST_ENTRIES)
        return broken(&c, "the number of metadata entries", n_values,
                      "the file cannot hold that many");
    if (n_tensors > (c.end - c.at) / SMALLEST_TENSOR || n_tensors > MOST_ENTRIES)
        return broken(&c, "the number of tensors", n_tensors, "the file cannot hold that many");
    g->values = calloc(n_values ? (size_t)n_values : 1, sizeof *g->values);
    g->tensors = calloc(n_tensors ? (size_t)n_tensors : 1, sizeof *g->tensors);
    if (!g->values || !g->tensors)
        return error_set_memory(e, "the tables of a model file",
                                (n_values + n_tensors) * sizeof *g->values);
    g->n_values = n_values;
    g->n_tensors = n_tensors;
    return read_values(g, &c) && read_tensors(g, &c);
}
