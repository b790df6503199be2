/* a.b, a[b] and a[b:c:d]. */
#include <string.h>

#include "engine/jinja/character.h"
#include "engine/jinja/literal.h"
#include "engine/jinja/native.h"
#include "engine/jinja/text.h"

static bool undefined(struct value *out, struct text name)
{
    *out = (struct value){.kind = VALUE_UNDEFINED, .text = name};
    return true;
}

static bool loop_attribute(const struct loop *l, const struct text *name, struct value *out)
{
    const struct list *items = l->items;
    size_t i = l->index, n = items->count;
    const struct {
        const char *name;
        int64_t value;
    } numbers[] = {
        {"index", (int64_t)i + 1},
        {"index0", (int64_t)i},
        {"revindex", (int64_t)(n - i)},
        {"revindex0", (int64_t)(n - i) - 1},
        {"length", (int64_t)n},
        {"depth", 1},
        {"depth0", 0},
    };
    for (size_t k = 0; k < sizeof numbers / sizeof numbers[0]; k++)
        if (text_is(name, numbers[k].name, strlen(numbers[k].name))) {
            *out = value_int(numbers[k].value, JINJA_MARK_TEMPLATE);
            return true;
        }
    if (text_is(name, "first", 5) || text_is(name, "last", 4)) {
        *out = value_bool(name->length == 5 ? i == 0 : i + 1 == n, JINJA_MARK_TEMPLATE);
        return true;
    }
    bool previous = text_is(name, "previtem", 8);
    if (!previous && !text_is(name, "nextitem", 8))
        return false;
    if (previous ? i > 0 : i + 1 < n)
        *out = items->items[previous ? i - 1 : i + 1];
    else
        undefined(out, *name);
    return true;
}

static const struct native *methods_of(const struct value *v)
{
    switch (v->kind) {
    case VALUE_STRING:
        return native_string_methods;
    case VALUE_LIST:
        return native_list_methods;
    case VALUE_TUPLE:
        return native_tuple_methods;
    case VALUE_DICT:
        return native_dict_methods;
    case VALUE_LOOP:
        return native_loop_methods;
    case VALUE_CYCLER:
        return native_cycler_methods + 2;
    default:
        return NULL;
    }
}

/* A property or method of the value's type. False: the type has none of that name. */
static bool own_attribute(struct runtime *r, const struct value *v, const struct text *name,
                          struct value *out)
{
    if (v->kind == VALUE_LOOP && loop_attribute(v->loop, name, out))
        return true;
    if (v->kind == VALUE_CYCLER && text_is(name, "current", 7)) {
        *out = v->cycler->items->items[v->cycler->position];
        return true;
    }
    if (v->kind == VALUE_MACRO && text_is(name, "name", 4)) {
        *out = v->macro->node->constant;
        return true;
    }
    const struct native *methods = methods_of(v);
    const struct native *native = methods ? native_find(methods, name->bytes, name->length) : NULL;
    struct method *method = native ? runtime_take(r, sizeof *method) : NULL;
    if (!method)
        return false;
    *method = (struct method){.self = *v, .native = native};
    *out = (struct value){.kind = VALUE_METHOD, .method = method};
    return true;
}

static bool dict_item(struct runtime *r, const struct value *v, const struct value *key,
                      struct value *out, bool *found)
{
    struct value *item;
    if (!dict_get(r, v->dict, key, &item))
        return false;
    *found = item != NULL;
    if (item)
        *out = *item;
    return true;
}

bool value_attribute(struct runtime *r, const struct value *v, const struct text *name,
                     struct value *out)
{
    if (v->kind == VALUE_UNDEFINED)
        return runtime_fail_undefined(r, v);
    if (own_attribute(r, v, name, out) || r->failed)
        return !r->failed;
    bool found = false;
    if (v->kind == VALUE_DICT || v->kind == VALUE_NAMESPACE) {
        struct value key = value_text(*name);
        if (!dict_item(r, v, &key, out, &found))
            return false;
    }
    return found || undefined(out, *name);
}

/* The element that a Python index means in a sequence of `n`, or SIZE_MAX. */
static size_t place(int64_t index, size_t n)
{
    if (index < 0)
        index = index < -(int64_t)n ? -1 : index + (int64_t)n;
    return index < 0 || (uint64_t)index >= n ? SIZE_MAX : (size_t)index;
}

static bool character_at(struct runtime *r, const struct text *t, int64_t index, struct value *out)
{
    if (!runtime_charge_bytes(r, t->length))
        return false;
    size_t at = place(index, character_count(t->bytes, t->length));
    if (at == SIZE_MAX)
        return undefined(out, TEXT_LITERAL("a character behind the end"));
    size_t start = character_offset(t->bytes, t->length, at);
    size_t n = character_read(t->bytes + start, t->length - start, NULL);
    *out = value_text(text_cut(t, start, start + n));
    return true;
}

bool value_item(struct runtime *r, const struct value *v, const struct value *key,
                struct value *out)
{
    if (v->kind == VALUE_UNDEFINED)
        return runtime_fail_undefined(r, v);
    if (v->kind == VALUE_DICT) {
        bool found;
        if (!dict_item(r, v, key, out, &found) || found)
            return !r->failed;
    } else if (value_is_integral(key)) {
        int64_t index = value_integer(key);
        if (v->kind == VALUE_STRING)
            return character_at(r, &v->text, index, out);
        size_t at = value_is_sequence(v) ? place(index, v->list->count) : SIZE_MAX;
        if (at == SIZE_MAX)
            return undefined(out, TEXT_LITERAL("an element behind the end"));
        *out = v->list->items[at];
        return true;
    }
    if (key->kind != VALUE_STRING)
        return undefined(out, TEXT_LITERAL("an element"));
    return value_attribute(r, v, &key->text, out);
}

/* ---- slices */

static bool slice_part(struct runtime *r, const struct value *v, bool *given, int64_t *out)
{
    *given = v->kind != VALUE_NONE;
    if (!*given)
        return true;
    if (!value_is_integral(v))
        return runtime_fail(r, "slice indices must be integers or None, not %s",
                            value_type_name(v));
    *out = value_integer(v);
    return true;
}

static int64_t clamp(int64_t index, int64_t n, int64_t low, int64_t high)
{
    if (index < 0)
        index = index < -n ? -1 : index + n;
    return index < low ? low : index > high ? high : index;
}

struct slice {
    int64_t start, step;
    size_t count;
};

/* What start:stop:step means for `n` elements. */
static bool slice_resolve(struct runtime *r, const struct value *part[3], size_t n,
                          struct slice *out)
{
    bool given[3];
    int64_t start = 0, stop = 0, step = 1, length = (int64_t)n;
    if (!slice_part(r, part[0], &given[0], &start) || !slice_part(r, part[1], &given[1], &stop) ||
        !slice_part(r, part[2], &given[2], &step))
        return false;
    if (step == 0)
        return runtime_fail(r, "slice step cannot be zero");
    /* A step beyond the length takes one element; it is clipped so that the sums below stay in
     * range. */
    if (step > length + 1)
        step = length + 1;
    if (step < -length - 1)
        step = -length - 1;
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? length : length - 1;
    start = given[0] ? clamp(start, length, low, high) : step > 0 ? low : high;
    stop = given[1] ? clamp(stop, length, low, high) : step > 0 ? high : low;
    int64_t span = step > 0 ? stop - start : start - stop, stride = step > 0 ? step : -step;
    *out = (struct slice){start, step, span > 0 ? (size_t)((span - 1) / stride + 1) : 0};
    return true;
}

static bool slice_text(struct runtime *r, const struct text *t, const struct value *part[3],
                       struct value *out)
{
    struct slice s;
    if (!runtime_charge_bytes(r, t->length) ||
        !slice_resolve(r, part, character_count(t->bytes, t->length), &s))
        return false;
    size_t first = character_offset(t->bytes, t->length, s.count ? (size_t)s.start : 0);
    if (s.step == 1) {
        size_t n = character_offset(t->bytes + first, t->length - first, s.count);
        *out = value_text(text_cut(t, first, first + n));
        return true;
    }
    struct builder b = {0};
    for (size_t i = 0, at = first; i < s.count; i++) {
        size_t n = character_read(t->bytes + at, t->length - at, NULL);
        struct text one = text_cut(t, at, at + n);
        if (!builder_add(r, &b, &one))
            return false;
        for (int64_t k = 0; k < s.step && at < t->length; k++)
            at += character_read(t->bytes + at, t->length - at, NULL);
        for (int64_t k = 0; k > s.step && at > 0; k--)
            at -= character_read_back(t->bytes, at, NULL);
    }
    *out = value_text(builder_text(&b));
    return true;
}

bool value_slice(struct runtime *r, const struct value *v, const struct value *start,
                 const struct value *stop, const struct value *step, struct value *out)
{
    const struct value *part[3] = {start, stop, step};
    struct slice s;
    if (v->kind == VALUE_UNDEFINED)
        return runtime_fail_undefined(r, v);
    if (v->kind == VALUE_STRING)
        return slice_text(r, &v->text, part, out);
    if (!value_is_sequence(v))
        return undefined(out, TEXT_LITERAL("a slice"));
    if (!slice_resolve(r, part, v->list->count, &s))
        return false;
    struct list *list = list_new(r, s.count);
    for (size_t i = 0; list && i < s.count; i++)
        if (!list_push(r, list, &v->list->items[s.start + (int64_t)i * s.step]))
            return false;
    *out = v->kind == VALUE_LIST ? value_list(list) : value_tuple(list);
    return list != NULL;
}

/* ---- paths */

bool value_path(struct runtime *r, const struct value *v, const struct value *path,
                const struct value *fallback, struct value *out)
{
    *out = *v;
    if (value_is_integral(path)) {
        if (!value_item(r, v, path, out))
            return false;
        if (fallback && out->kind == VALUE_UNDEFINED)
            *out = *fallback;
        return true;
    }
    if (path->kind != VALUE_STRING)
        return runtime_fail(r, "an attribute must be a string or an integer, not %s",
                            value_type_name(path));
    const struct text *t = &path->text;
    for (size_t start = 0; start <= t->length;) {
        const char *dot = memchr(t->bytes + start, '.', t->length - start);
        size_t end = dot ? (size_t)(dot - t->bytes) : t->length;
        struct value here = *out, key = value_text(text_cut(t, start, end));
        int64_t index;
        bool digits = end > start && t->bytes[start] >= '0' && t->bytes[start] <= '9';
        if (digits && literal_parse_int(t->bytes + start, end - start, 10, &index))
            key = value_int(index, JINJA_MARK_TEMPLATE);
        if (!runtime_charge(r, 1) || !value_item(r, &here, &key, out))
            return false;
        if (fallback && out->kind == VALUE_UNDEFINED)
            *out = *fallback;
        start = end + 1;
    }
    return true;
}
