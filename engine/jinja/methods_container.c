/* Methods of lists, tuples, dicts, loops and cyclers. */
#include <string.h>

#include "engine/jinja/native.h"
#include "engine/jinja/text.h"

/* ---- lists */

static bool method_append(struct runtime *r, const struct call *c, struct value *out)
{
    *out = value_none();
    return list_push(r, c->self.list, &c->argument[0]);
}

static bool method_extend(struct runtime *r, const struct call *c, struct value *out)
{
    struct list *items;
    if (!value_iterate(r, &c->argument[0], &items))
        return false;
    size_t count = items->count; /* a list may be extended by itself */
    for (size_t i = 0; i < count; i++) {
        struct value item = items->items[i];
        if (!list_push(r, c->self.list, &item))
            return false;
    }
    *out = value_none();
    return true;
}

static bool method_insert(struct runtime *r, const struct call *c, struct value *out)
{
    int64_t at;
    struct list *list = c->self.list;
    if (!argument_int(r, c, 0, 0, &at) || !runtime_charge(r, 1 + list->count / 8))
        return false;
    int64_t n = (int64_t)list->count;
    at = at < -n ? 0 : at < 0 ? at + n : at > n ? n : at;
    if (!list_push(r, list, &c->argument[1]))
        return false;
    memmove(list->items + at + 1, list->items + at, (size_t)(n - at) * sizeof *list->items);
    list->items[at] = c->argument[1];
    *out = value_none();
    return true;
}

static bool method_pop(struct runtime *r, const struct call *c, struct value *out)
{
    int64_t at;
    struct list *list = c->self.list;
    if (!argument_int(r, c, 0, -1, &at) || !runtime_charge(r, 1 + list->count / 8))
        return false;
    if (at < 0)
        at = at < -(int64_t)list->count ? -1 : at + (int64_t)list->count;
    if (at < 0 || (uint64_t)at >= list->count)
        return runtime_fail(r, "pop index out of range");
    *out = list->items[at];
    list->count--;
    memmove(list->items + at, list->items + at + 1,
            (list->count - (size_t)at) * sizeof *list->items);
    return true;
}

static bool method_index(struct runtime *r, const struct call *c, struct value *out)
{
    for (size_t i = 0; i < c->self.list->count; i++) {
        bool equal;
        if (!value_equal(r, &c->self.list->items[i], &c->argument[0], &equal))
            return false;
        if (equal) {
            *out = value_int((int64_t)i, JINJA_MARK_USER);
            return true;
        }
    }
    return runtime_fail(r, "the value is not in the list");
}

static bool method_count(struct runtime *r, const struct call *c, struct value *out)
{
    int64_t n = 0;
    for (size_t i = 0; i < c->self.list->count; i++) {
        bool equal;
        if (!value_equal(r, &c->self.list->items[i], &c->argument[0], &equal))
            return false;
        n += equal;
    }
    *out = value_int(n, JINJA_MARK_USER);
    return true;
}

/* ---- dicts */

static bool method_get(struct runtime *r, const struct call *c, struct value *out)
{
    struct value *found;
    if (!dict_get(r, c->self.dict, &c->argument[0], &found))
        return false;
    if (found)
        *out = *found;
    else
        *out = c->argument[1].kind == VALUE_ABSENT ? value_none() : c->argument[1];
    return true;
}

static bool method_keys(struct runtime *r, const struct call *c, struct value *out)
{
    struct list *list;
    if (!value_iterate(r, &c->self, &list))
        return false;
    *out = value_list(list);
    return true;
}

static bool method_values(struct runtime *r, const struct call *c, struct value *out)
{
    const struct dict *dict = c->self.dict;
    struct list *list = list_new(r, dict->count);
    for (size_t i = 0; list && i < dict->count; i++)
        if (!list_push(r, list, &dict->entries[i].value))
            return false;
    if (list)
        *out = value_list(list);
    return list != NULL;
}

static bool method_items(struct runtime *r, const struct call *c, struct value *out)
{
    return native_call(r, filter_find("items", 5), &c->self, c->raw, out);
}

/* ---- loops and cyclers */

static bool method_cycle(struct runtime *r, const struct call *c, struct value *out)
{
    if (c->raw->n_positional == 0)
        return runtime_fail(r, "no items for cycling given");
    *out = c->raw->positional[c->self.loop->index % c->raw->n_positional];
    return true;
}

static bool method_changed(struct runtime *r, const struct call *c, struct value *out)
{
    struct loop *loop = c->self.loop;
    struct list *now = list_new(r, c->raw->n_positional);
    bool same = false;
    for (size_t i = 0; now && i < c->raw->n_positional; i++)
        if (!list_push(r, now, &c->raw->positional[i]))
            return false;
    if (!now)
        return false;
    struct value seen = value_list(now);
    if (loop->changed.kind == VALUE_LIST && !value_equal(r, &loop->changed, &seen, &same))
        return false;
    loop->changed = seen;
    *out = value_bool(!same, JINJA_MARK_TEMPLATE);
    return true;
}

static bool method_next(struct runtime *r, const struct call *c, struct value *out)
{
    struct cycler *cycler = c->self.cycler;
    (void)r;
    *out = cycler->items->items[cycler->position];
    cycler->position = (cycler->position + 1) % cycler->items->count;
    return true;
}

/* An empty string the first time, then the separator. */
static bool method_joined(struct runtime *r, const struct call *c, struct value *out)
{
    struct cycler *joiner = c->self.cycler;
    (void)r;
    *out = joiner->position ? joiner->items->items[0] : value_text(TEXT_LITERAL(""));
    joiner->position = 1;
    return true;
}

static bool method_reset(struct runtime *r, const struct call *c, struct value *out)
{
    (void)r;
    c->self.cycler->position = 0;
    *out = value_none();
    return true;
}

const struct native native_list_methods[] = {
    {"append", "object", 1, method_append, 0},
    {"extend", "iterable", 1, method_extend, 0},
    {"insert", "index object", 2, method_insert, 0},
    {"pop", "index", 0, method_pop, 0},
    {"index", "value", 1, method_index, 0},
    {"count", "value", 1, method_count, 0},
    {0},
};
const struct native native_tuple_methods[] = {
    {"index", "value", 1, method_index, 0},
    {"count", "value", 1, method_count, 0},
    {0},
};
const struct native native_dict_methods[] = {
    {"get", "key default", 1, method_get, 0},
    {"keys", "", 0, method_keys, 0},
    {"values", "", 0, method_values, 0},
    {"items", "", 0, method_items, 0},
    {0},
};
const struct native native_loop_methods[] = {
    {"cycle", NULL, 0, method_cycle, 0},
    {"changed", NULL, 0, method_changed, 0},
    {0},
};
/* The first two are for calls of a cycler and a joiner; templates can name only the others. */
const struct native native_cycler_methods[] = {
    {"cycler", "", 0, method_next, 0},
    {"joiner", "", 0, method_joined, 0},
    {"next", "", 0, method_next, 0},
    {"reset", "", 0, method_reset, 0},
    {0},
};
