/* JSON of the request to values, and values to JSON text as Python's json.dumps writes it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/jinja/character.h"
#include "engine/jinja/literal.h"
#include "engine/jinja/text.h"

/* ---- reading */

struct reader {
    struct runtime *r;
    const char *variable;
    jinja_string_hook *hook;
    void *context;
};

static bool read_value(struct reader *reader, const json_t *json, const json_t *object,
                       const char *key, unsigned depth, struct value *out);

static bool read_array(struct reader *reader, const json_t *json, unsigned depth, struct value *out)
{
    struct list *list = list_new(reader->r, json_array_size(json));
    if (!list)
        return false;
    for (size_t i = 0; i < json_array_size(json); i++) {
        struct value item;
        if (!read_value(reader, json_array_get(json, i), NULL, NULL, depth + 1, &item))
            return false;
        list->items[list->count++] = item;
    }
    *out = value_list(list);
    return true;
}

static bool read_object(struct reader *reader, const json_t *json, unsigned depth,
                        struct value *out)
{
    struct dict *dict = dict_new(reader->r, json_object_size(json));
    if (!dict)
        return false;
    json_t *object = (json_t *)json; /* jansson's iterators take no const */
    for (void *i = json_object_iter(object); i; i = json_object_iter_next(object, i)) {
        const char *name = json_object_iter_key(i);
        struct value key = value_text(text_of(name, strlen(name), JINJA_MARK_USER)), value;
        if (!read_value(reader, json_object_iter_value(i), json, name, depth, &value) ||
            !dict_append(reader->r, dict, &key, &value))
            return false;
    }
    *out = (struct value){.kind = VALUE_DICT, .dict = dict};
    return true;
}

static bool read_value(struct reader *reader, const json_t *json, const json_t *object,
                       const char *key, unsigned depth, struct value *out)
{
    if (depth > JINJA_MAX_VALUE_DEPTH)
        return runtime_fail_limit(reader->r, "nested lists and objects", JINJA_MAX_VALUE_DEPTH);
    switch (json_typeof(json)) {
    case JSON_STRING: {
        struct jinja_string s = {.variable = reader->variable,
                                 .depth = depth,
                                 .object = object,
                                 .key = key,
                                 .text = json_string_value(json),
                                 .length = json_string_length(json),
                                 .mark = JINJA_MARK_USER};
        if (reader->hook)
            reader->hook(reader->context, &s);
        *out = value_text(text_of(s.text, s.length, s.mark));
        return true;
    }
    case JSON_INTEGER:
        *out = value_int(json_integer_value(json), JINJA_MARK_USER);
        return true;
    case JSON_REAL:
        *out = value_float(json_real_value(json), JINJA_MARK_USER);
        return true;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = value_bool(json_is_true(json), JINJA_MARK_USER);
        return true;
    case JSON_ARRAY:
        return read_array(reader, json, depth, out);
    case JSON_OBJECT:
        return read_object(reader, json, depth + (object != NULL), out);
    default:
        *out = value_none();
        return true;
    }
}

bool value_from_json(struct runtime *r, const char *variable, const json_t *json,
                     jinja_string_hook *hook, void *context, struct value *out)
{
    struct reader reader = {r, variable, hook, context};
    return read_value(&reader, json, NULL, NULL, 0, out);
}

/* ---- writing */

struct writer {
    struct runtime *r;
    const struct json_style *style;
    struct builder b;
};

static bool write_value(struct writer *w, const struct value *v, unsigned depth);

static bool add(struct writer *w, const char *bytes, size_t length)
{
    return builder_add_bytes(w->r, &w->b, bytes, length, JINJA_MARK_USER);
}

static size_t write_escape(char out[16], uint32_t code, bool ensure_ascii)
{
    static const char letters[] = "btnvfr"; /* 8 to 13; \v has no short form in JSON */
    if (code == '"' || code == '\\')
        return (size_t)snprintf(out, 16, "\\%c", (char)code);
    if (code >= 8 && code <= 13 && code != 11)
        return (size_t)snprintf(out, 16, "\\%c", letters[code - 8]);
    if (code < 0x20 || (ensure_ascii && code >= 0x7F && code < 0x10000))
        return code == 0x7F ? 0 : (size_t)snprintf(out, 16, "\\u%04x", (unsigned)code);
    if (ensure_ascii && code >= 0x10000)
        return (size_t)snprintf(out, 16, "\\u%04x\\u%04x",
                                (unsigned)(0xD800 + ((code - 0x10000) >> 10)),
                                (unsigned)(0xDC00 + (code & 0x3FF)));
    return 0;
}

static bool write_string(struct writer *w, const struct text *t)
{
    if (!add(w, "\"", 1))
        return false;
    size_t from = 0;
    for (size_t i = 0; i < t->length;) {
        uint32_t code;
        char escape[16];
        size_t n = character_read(t->bytes + i, t->length - i, &code);
        size_t used = write_escape(escape, code, w->style->ensure_ascii);
        if (used) {
            struct text plain = text_cut(t, from, i);
            if (!builder_add(w->r, &w->b, &plain) || !add(w, escape, used))
                return false;
            from = i + n;
        }
        i += n;
    }
    struct text rest = text_cut(t, from, t->length);
    return builder_add(w->r, &w->b, &rest) && add(w, "\"", 1);
}

static bool new_line(struct writer *w, unsigned depth)
{
    if (!w->style->indent)
        return true;
    if (!add(w, "\n", 1))
        return false;
    for (unsigned i = 0; i < depth; i++)
        if (!add(w, w->style->indent, w->style->indent_length))
            return false;
    return true;
}

static bool write_list(struct writer *w, const struct list *list, unsigned depth)
{
    if (list->count == 0)
        return add(w, "[]", 2);
    if (!add(w, "[", 1))
        return false;
    for (size_t i = 0; i < list->count; i++) {
        if (i > 0 && !add(w, w->style->item_separator, w->style->item_separator_length))
            return false;
        if (!new_line(w, depth + 1) || !write_value(w, &list->items[i], depth + 1))
            return false;
    }
    return new_line(w, depth) && add(w, "]", 1);
}

static int by_key(const void *a, const void *b)
{
    const struct text *x = &((const struct dict_entry *)a)->key.text;
    const struct text *y = &((const struct dict_entry *)b)->key.text;
    int order = memcmp(x->bytes, y->bytes, x->length < y->length ? x->length : y->length);
    return order ? order : (x->length > y->length) - (x->length < y->length);
}

/* A copy in the order of the keys, which must be strings. */
static struct dict_entry *sorted_entries(struct writer *w, const struct dict *dict)
{
    for (size_t i = 0; i < dict->count; i++)
        if (dict->entries[i].key.kind != VALUE_STRING) {
            runtime_fail(w->r, "tojson sorts only keys that are strings");
            return NULL;
        }
    struct dict_entry *copy = runtime_take_array(w->r, dict->count, sizeof *copy);
    if (!copy || !runtime_charge(w->r, 16 * dict->count))
        return NULL;
    memcpy(copy, dict->entries, dict->count * sizeof *copy);
    qsort(copy, dict->count, sizeof *copy, by_key);
    return copy;
}

static bool write_key(struct writer *w, const struct value *key)
{
    if (key->kind == VALUE_STRING)
        return write_string(w, &key->text);
    if (key->kind > VALUE_STRING || key->kind == VALUE_UNDEFINED)
        return runtime_fail(w->r, "keys must be str, int, float, bool or None, not %s",
                            value_type_name(key));
    return add(w, "\"", 1) && write_value(w, key, 0) && add(w, "\"", 1);
}

static bool write_dict(struct writer *w, const struct dict *dict, unsigned depth)
{
    if (dict->count == 0)
        return add(w, "{}", 2);
    const struct dict_entry *entries = dict->entries;
    if (w->style->sort_keys && !(entries = sorted_entries(w, dict)))
        return false;
    if (!add(w, "{", 1))
        return false;
    for (size_t i = 0; i < dict->count; i++) {
        if (i > 0 && !add(w, w->style->item_separator, w->style->item_separator_length))
            return false;
        if (!new_line(w, depth + 1) || !write_key(w, &entries[i].key) ||
            !add(w, w->style->key_separator, w->style->key_separator_length) ||
            !write_value(w, &entries[i].value, depth + 1))
            return false;
    }
    return new_line(w, depth) && add(w, "}", 1);
}

static bool write_float(struct writer *w, double d)
{
    char number[LITERAL_FLOAT_BYTES];
    if (isnan(d))
        return add(w, "NaN", 3);
    if (isinf(d))
        return d > 0 ? add(w, "Infinity", 8) : add(w, "-Infinity", 9);
    return add(w, number, literal_write_float(number, d));
}

static bool write_value(struct writer *w, const struct value *v, unsigned depth)
{
    char number[32];
    if (depth > JINJA_MAX_VALUE_DEPTH)
        return runtime_fail_limit(w->r, "nested lists and objects", JINJA_MAX_VALUE_DEPTH);
    switch (v->kind) {
    case VALUE_NONE:
        return add(w, "null", 4);
    case VALUE_BOOL:
        return v->boolean ? add(w, "true", 4) : add(w, "false", 5);
    case VALUE_INT:
        return add(w, number,
                   (size_t)snprintf(number, sizeof number, "%lld", (long long)v->integer));
    case VALUE_FLOAT:
        return write_float(w, v->number);
    case VALUE_STRING:
        return write_string(w, &v->text);
    case VALUE_LIST:
    case VALUE_TUPLE:
        return write_list(w, v->list, depth);
    case VALUE_DICT:
        return write_dict(w, v->dict, depth);
    default:
        return runtime_fail(w->r, "Object of type %s is not JSON serializable", value_type_name(v));
    }
}

bool value_to_json(struct runtime *r, const struct value *v, const struct json_style *style,
                   struct text *out)
{
    struct writer w = {.r = r, .style = style};
    if (!write_value(&w, v, 0))
        return false;
    *out = builder_text(&w.b);
    return true;
}
