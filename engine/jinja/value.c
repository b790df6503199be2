/* Lists, dicts, truth, equality and order of values: see value.h. */
#include "engine/jinja/value.h"

#include <math.h>
#include <string.h>

#include "engine/jinja/character.h"
#include "engine/jinja/runtime.h"
#include "engine/jinja/text.h"

const char *value_type_name(const struct value *v)
{
    static const char *const names[] = {
        [VALUE_ABSENT] = "absent",
        [VALUE_UNDEFINED] = "Undefined",
        [VALUE_NONE] = "NoneType",
        [VALUE_BOOL] = "bool",
        [VALUE_INT] = "int",
        [VALUE_FLOAT] = "float",
        [VALUE_STRING] = "str",
        [VALUE_LIST] = "list",
        [VALUE_TUPLE] = "tuple",
        [VALUE_DICT] = "dict",
        [VALUE_NAMESPACE] = "namespace",
        [VALUE_MACRO] = "macro",
        [VALUE_FUNCTION] = "function",
        [VALUE_METHOD] = "method",
        [VALUE_LOOP] = "loop",
        [VALUE_CYCLER] = "cycler",
        [VALUE_JOINER] = "joiner",
    };
    return names[v->kind];
}

bool value_true(const struct value *v)
{
    switch (v->kind) {
    case VALUE_ABSENT:
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return false;
    case VALUE_BOOL:
        return v->boolean;
    case VALUE_INT:
        return v->integer != 0;
    case VALUE_FLOAT:
        return v->number != 0;
    case VALUE_STRING:
        return v->text.length > 0;
    case VALUE_LIST:
    case VALUE_TUPLE:
        return v->list->count > 0;
    case VALUE_DICT:
        return v->dict->count > 0;
    default:
        return true;
    }
}

/* ---- lists and dicts */

struct list *list_new(struct runtime *r, size_t capacity)
{
    struct list *list = runtime_take(r, sizeof *list);
    if (!list)
        return NULL;
    *list = (struct list){.capacity = capacity};
    if (capacity > 0) {
        list->items = runtime_take_array(r, capacity, sizeof *list->items);
        if (!list->items)
            return NULL;
    }
    return list;
}

bool list_push(struct runtime *r, struct list *list, const struct value *v)
{
    if (!runtime_charge(r, 1))
        return false;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 4;
        struct value *items = runtime_take_array(r, capacity, sizeof *items);
        if (!items)
            return false;
        if (list->count)
            memcpy(items, list->items, list->count * sizeof *items);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = *v;
    return true;
}

struct dict *dict_new(struct runtime *r, size_t capacity)
{
    struct dict *dict = runtime_take(r, sizeof *dict);
    if (!dict)
        return NULL;
    *dict = (struct dict){.capacity = capacity};
    if (capacity > 0) {
        dict->entries = runtime_take_array(r, capacity, sizeof *dict->entries);
        if (!dict->entries)
            return NULL;
    }
    return dict;
}

static bool hashable(const struct value *v)
{
    if (v->kind == VALUE_TUPLE) {
        /* Tuples of tuples are refused as keys: no template uses them, and hashing needs no
         * recursion. */
        for (size_t i = 0; i < v->list->count; i++)
            if (v->list->items[i].kind >= VALUE_LIST)
                return false;
        return true;
    }
    return v->kind < VALUE_LIST || v->kind >= VALUE_NAMESPACE;
}

bool dict_get(struct runtime *r, const struct dict *dict, const struct value *key,
              struct value **found)
{
    *found = NULL;
    if (!hashable(key) || !runtime_charge(r, 1 + dict->count / 8))
        return !r->failed;
    for (size_t i = 0; i < dict->count && !r->failed; i++) {
        struct dict_entry *entry = &dict->entries[i];
        bool same = false;
        bool texts = entry->key.kind == VALUE_STRING && key->kind == VALUE_STRING;
        if (texts && entry->key.text.length == key->text.length &&
            (key->text.length < JINJA_STEP_BYTES || runtime_charge_bytes(r, key->text.length)))
            same = text_is(&entry->key.text, key->text.bytes, key->text.length);
        else if (entry->key.kind != VALUE_STRING && !value_equal(r, &entry->key, key, &same))
            return false;
        if (same) {
            *found = &entry->value;
            return true;
        }
    }
    return !r->failed;
}

bool dict_get_name(struct runtime *r, const struct dict *dict, const char *name,
                   struct value **found)
{
    struct value key = value_text(text_of(name, strlen(name), JINJA_MARK_TEMPLATE));
    return dict_get(r, dict, &key, found);
}

bool dict_append(struct runtime *r, struct dict *dict, const struct value *key,
                 const struct value *v)
{
    if (dict->count == dict->capacity) {
        size_t capacity = dict->capacity ? dict->capacity * 2 : 4;
        struct dict_entry *entries = runtime_take_array(r, capacity, sizeof *entries);
        if (!entries)
            return false;
        if (dict->count)
            memcpy(entries, dict->entries, dict->count * sizeof *entries);
        dict->entries = entries;
        dict->capacity = capacity;
    }
    dict->entries[dict->count++] = (struct dict_entry){*key, *v};
    return true;
}

bool dict_set(struct runtime *r, struct dict *dict, const struct value *key, const struct value *v)
{
    if (!hashable(key))
        return runtime_fail(r, "unhashable type: '%s'", value_type_name(key));
    struct value *found;
    if (!dict_get(r, dict, key, &found))
        return false;
    if (found) {
        *found = *v;
        return true;
    }
    return dict_append(r, dict, key, v);
}

/* ---- equality and order */

static bool equal_at(struct runtime *r, const struct value *a, const struct value *b,
                     unsigned depth, bool *equal);

static bool lists_equal(struct runtime *r, const struct list *a, const struct list *b,
                        unsigned depth, bool *equal)
{
    *equal = a->count == b->count;
    for (size_t i = 0; *equal && i < a->count && i < b->count; i++)
        if (!equal_at(r, &a->items[i], &b->items[i], depth, equal))
            return false;
    return true;
}

static bool dicts_equal(struct runtime *r, const struct dict *a, const struct dict *b,
                        unsigned depth, bool *equal)
{
    *equal = a->count == b->count;
    for (size_t i = 0; *equal && i < a->count; i++) {
        struct value *other;
        if (!dict_get(r, b, &a->entries[i].key, &other))
            return false;
        *equal = other != NULL;
        if (other && !equal_at(r, &a->entries[i].value, other, depth, equal))
            return false;
    }
    return true;
}

static bool equal_at(struct runtime *r, const struct value *a, const struct value *b,
                     unsigned depth, bool *equal)
{
    if (depth > JINJA_MAX_VALUE_DEPTH)
        return runtime_fail_limit(r, "nested lists and objects", JINJA_MAX_VALUE_DEPTH);
    if (!runtime_charge(r, 1))
        return false;
    if (value_is_number(a) && value_is_number(b)) {
        *equal = value_is_integral(a) && value_is_integral(b) ? value_integer(a) == value_integer(b)
                                                              : value_double(a) == value_double(b);
        return true;
    }
    *equal = false;
    if (a->kind != b->kind)
        return true;
    switch (a->kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        *equal = true;
        return true;
    case VALUE_STRING:
        *equal = text_is(&a->text, b->text.bytes, b->text.length);
        return a->text.length != b->text.length || runtime_charge_bytes(r, a->text.length);
    case VALUE_LIST:
    case VALUE_TUPLE:
        return lists_equal(r, a->list, b->list, depth + 1, equal);
    case VALUE_DICT:
        return dicts_equal(r, a->dict, b->dict, depth + 1, equal);
    case VALUE_METHOD:
        return true;
    default:
        *equal = a->list == b->list; /* the same object */
        return true;
    }
}

bool value_equal(struct runtime *r, const struct value *a, const struct value *b, bool *equal)
{
    return equal_at(r, a, b, 0, equal);
}

static int order_of(double a, double b)
{
    return isnan(a) || isnan(b) ? 2 : (a > b) - (a < b);
}

static bool order_at(struct runtime *r, const struct value *a, const struct value *b,
                     const char *operator_name, unsigned depth, int *order)
{
    if (depth > JINJA_MAX_VALUE_DEPTH)
        return runtime_fail_limit(r, "nested lists and objects", JINJA_MAX_VALUE_DEPTH);
    if (!runtime_charge(r, 1))
        return false;
    if (value_is_integral(a) && value_is_integral(b)) {
        int64_t x = value_integer(a), y = value_integer(b);
        *order = (x > y) - (x < y);
        return true;
    }
    if (value_is_number(a) && value_is_number(b)) {
        *order = order_of(value_double(a), value_double(b));
        return true;
    }
    if (a->kind == VALUE_STRING && b->kind == VALUE_STRING) {
        size_t shorter = a->text.length < b->text.length ? a->text.length : b->text.length;
        int c = memcmp(a->text.bytes, b->text.bytes, shorter);
        *order = c ? (c > 0) - (c < 0)
                   : (a->text.length > b->text.length) - (a->text.length < b->text.length);
        return runtime_charge_bytes(r, shorter);
    }
    if (value_is_sequence(a) && a->kind == b->kind) {
        for (size_t i = 0; i < a->list->count && i < b->list->count; i++) {
            bool equal;
            if (!value_equal(r, &a->list->items[i], &b->list->items[i], &equal))
                return false;
            if (!equal)
                return order_at(r, &a->list->items[i], &b->list->items[i], operator_name, depth + 1,
                                order);
        }
        *order = (a->list->count > b->list->count) - (a->list->count < b->list->count);
        return true;
    }
    if (a->kind == VALUE_UNDEFINED || b->kind == VALUE_UNDEFINED) {
        return runtime_fail_undefined(r, a->kind == VALUE_UNDEFINED ? a : b);
    }
    return runtime_fail(r, "'%s' not supported between instances of '%s' and '%s'", operator_name,
                        value_type_name(a), value_type_name(b));
}

bool value_order(struct runtime *r, const struct value *a, const struct value *b,
                 const char *operator_name, int *order)
{
    return order_at(r, a, b, operator_name, 0, order);
}

/* ---- iteration */

static bool characters_of(struct runtime *r, const struct text *t, struct list *list)
{
    for (size_t i = 0; i < t->length;) {
        size_t n = character_read(t->bytes + i, t->length - i, NULL);
        struct value one = value_text(text_cut(t, i, i + n));
        if (!list_push(r, list, &one))
            return false;
        i += n;
    }
    return true;
}

bool value_iterate(struct runtime *r, const struct value *v, struct list **items)
{
    if (value_is_sequence(v)) {
        *items = v->list;
        return true;
    }
    *items = list_new(r, v->kind == VALUE_DICT ? v->dict->count : 0);
    if (!*items)
        return false;
    switch (v->kind) {
    case VALUE_STRING:
        return characters_of(r, &v->text, *items);
    case VALUE_DICT:
        for (size_t i = 0; i < v->dict->count; i++)
            if (!list_push(r, *items, &v->dict->entries[i].key))
                return false;
        return true;
    case VALUE_UNDEFINED:
        return true;
    default:
        return runtime_fail(r, "'%s' object is not iterable", value_type_name(v));
    }
}
