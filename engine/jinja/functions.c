/* Functions that every template can call. */
#include <string.h>
#include <time.h>

#include "engine/jinja/native.h"
#include "engine/jinja/text.h"

static bool function_range(struct runtime *r, const struct call *c, struct value *out)
{
    int64_t start = 0, stop, step;
    uint8_t mark = JINJA_MARK_TEMPLATE;
    bool one = c->argument[1].kind == VALUE_ABSENT;
    if ((!one && !argument_int(r, c, 0, 0, &start)) || !argument_int(r, c, one ? 0 : 1, 0, &stop) ||
        !argument_int(r, c, 2, 1, &step))
        return false;
    if (step == 0)
        return runtime_fail(r, "range() arg 3 must not be zero");
    for (int i = 0; i < 3; i++)
        if (c->argument[i].kind != VALUE_ABSENT && c->argument[i].mark != JINJA_MARK_TEMPLATE)
            mark = JINJA_MARK_USER;
    uint64_t span = 0, stride = step > 0 ? (uint64_t)step : -(uint64_t)step;
    if (step > 0 ? stop > start : stop < start)
        span = step > 0 ? (uint64_t)stop - (uint64_t)start : (uint64_t)start - (uint64_t)stop;
    uint64_t count = span ? (span - 1) / stride + 1 : 0;
    if (count > JINJA_MAX_RANGE)
        return runtime_fail_limit(r, "elements of a range", JINJA_MAX_RANGE);
    struct list *list = list_new(r, count);
    for (uint64_t i = 0; list && i < count; i++) {
        struct value v = value_int((int64_t)((uint64_t)start + i * (uint64_t)step), mark);
        if (!list_push(r, list, &v))
            return false;
    }
    if (list)
        *out = value_list(list);
    return list != NULL;
}

/* dict(...) and namespace(...): a mapping or pairs, then keywords. */
static bool make_dict(struct runtime *r, const struct call *c, enum value_kind kind,
                      struct value *out)
{
    struct dict *dict = dict_new(r, 0);
    const struct arguments *given = c->raw;
    if (!dict)
        return false;
    if (given->n_positional > 1)
        return runtime_fail(r, "at most 1 argument expected, got %zu", given->n_positional);
    const struct value *from = given->n_positional ? given->positional : NULL;
    if (from && from->kind == VALUE_DICT) {
        for (size_t i = 0; i < from->dict->count; i++)
            if (!dict_append(r, dict, &from->dict->entries[i].key, &from->dict->entries[i].value))
                return false;
    } else if (from) {
        struct list *items, *pair;
        if (!value_iterate(r, from, &items))
            return false;
        for (size_t i = 0; i < items->count; i++) {
            if (!value_iterate(r, &items->items[i], &pair))
                return false;
            if (pair->count != 2)
                return runtime_fail(r, "dictionary update sequence element has not 2 items");
            if (!dict_set(r, dict, &pair->items[0], &pair->items[1]))
                return false;
        }
    }
    for (size_t i = 0; i < given->n_keywords; i++) {
        struct value key = value_text(given->keywords[i].name);
        if (!dict_set(r, dict, &key, &given->keywords[i].value))
            return false;
    }
    *out = (struct value){.kind = (uint8_t)kind, .dict = dict};
    return true;
}
static bool function_dict(struct runtime *r, const struct call *c, struct value *out)
{
    return make_dict(r, c, VALUE_DICT, out);
}
static bool function_namespace(struct runtime *r, const struct call *c, struct value *out)
{
    return make_dict(r, c, VALUE_NAMESPACE, out);
}

static bool make_cycler(struct runtime *r, const struct value *items, size_t n,
                        enum value_kind kind, struct value *out)
{
    struct cycler *cycler = runtime_take(r, sizeof *cycler);
    struct list *list = list_new(r, n);
    if (!cycler || !list)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!list_push(r, list, &items[i]))
            return false;
    *cycler = (struct cycler){.items = list};
    *out = (struct value){.kind = (uint8_t)kind, .cycler = cycler};
    return true;
}
static bool function_cycler(struct runtime *r, const struct call *c, struct value *out)
{
    if (c->raw->n_positional == 0)
        return runtime_fail(r, "at least one item has to be provided");
    return make_cycler(r, c->raw->positional, c->raw->n_positional, VALUE_CYCLER, out);
}
static bool function_joiner(struct runtime *r, const struct call *c, struct value *out)
{
    struct text separator;
    if (!argument_text(r, c, 0, ", ", &separator))
        return false;
    struct value v = value_text(separator);
    return make_cycler(r, &v, 1, VALUE_JOINER, out);
}

static bool function_raise_exception(struct runtime *r, const struct call *c, struct value *out)
{
    struct text t;
    (void)out;
    if (!value_string(r, &c->argument[0], &t))
        return false;
    return runtime_fail(r, "%.*s", (int)(t.length < 600 ? t.length : 600), t.bytes);
}

static bool function_strftime_now(struct runtime *r, const struct call *c, struct value *out)
{
    struct text format;
    char pattern[256], date[1024];
    struct tm tm;
    time_t now = (time_t)r->now_unix;
    if (!argument_text(r, c, 0, "", &format))
        return false;
    if (format.length >= sizeof pattern || !gmtime_r(&now, &tm))
        return runtime_fail(r,
                            "strftime_now: the format is longer than %zu bytes or the time is "
                            "out of range",
                            sizeof pattern - 1);
    memcpy(pattern, format.bytes, format.length);
    pattern[format.length] = 0;
    size_t n = strftime(date, sizeof date, pattern, &tm);
    char *copy = runtime_take(r, n + 1);
    if (!copy)
        return false;
    memcpy(copy, date, n);
    *out = value_text(text_of(copy, n, JINJA_MARK_USER));
    return true;
}

const struct native native_functions[] = {
    {"range", "start stop step", 1, function_range, 0},
    {"dict", NULL, 0, function_dict, 0},
    {"namespace", NULL, 0, function_namespace, 0},
    {"cycler", NULL, 0, function_cycler, 0},
    {"joiner", "sep", 0, function_joiner, 0},
    {"raise_exception", "message", 1, function_raise_exception, 0},
    {"strftime_now", "format", 1, function_strftime_now, 0},
    {0},
};
