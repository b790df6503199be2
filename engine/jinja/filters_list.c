/* Filters on sequences and dicts. Where Jinja returns a generator, these return a list. */
#include <string.h>

#include "engine/jinja/character.h"
#include "engine/jinja/native.h"
#include "engine/jinja/text.h"

static bool give_list(struct list *list, struct value *out)
{
    if (list)
        *out = value_list(list);
    return list != NULL;
}

static bool nothing(struct value *out)
{
    *out = (struct value){.kind = VALUE_UNDEFINED, .text = TEXT_LITERAL("an element of nothing")};
    return true;
}

enum { FIRST, LAST };

static bool filter_end(struct runtime *r, const struct call *c, struct value *out)
{
    struct list *items;
    if (!value_iterate(r, &c->self, &items))
        return false;
    if (items->count == 0)
        return nothing(out);
    *out = items->items[c->which == LAST ? items->count - 1 : 0];
    return true;
}

static struct list *copy(struct runtime *r, const struct value *v)
{
    struct list *items, *list;
    if (!value_iterate(r, v, &items) || !(list = list_new(r, items->count)))
        return NULL;
    for (size_t i = 0; i < items->count; i++)
        if (!list_push(r, list, &items->items[i]))
            return NULL;
    return list;
}

static bool filter_list(struct runtime *r, const struct call *c, struct value *out)
{
    return give_list(copy(r, &c->self), out);
}

static bool filter_reverse(struct runtime *r, const struct call *c, struct value *out)
{
    if (c->self.kind == VALUE_STRING) {
        struct value none = value_none(), step = value_int(-1, JINJA_MARK_TEMPLATE);
        return value_slice(r, &c->self, &none, &none, &step, out);
    }
    struct list *list = copy(r, &c->self);
    for (size_t i = 0; list && i < list->count / 2; i++) {
        struct value swap = list->items[i];
        list->items[i] = list->items[list->count - 1 - i];
        list->items[list->count - 1 - i] = swap;
    }
    return give_list(list, out);
}

static bool filter_join(struct runtime *r, const struct call *c, struct value *out)
{
    struct list *items;
    struct text separator = TEXT_LITERAL("");
    bool path = c->argument[1].kind != VALUE_ABSENT && c->argument[1].kind != VALUE_NONE;
    if (!value_iterate(r, &c->self, &items) ||
        (c->argument[0].kind != VALUE_ABSENT && !value_string(r, &c->argument[0], &separator)))
        return false;
    struct builder b = {0};
    for (size_t i = 0; i < items->count; i++) {
        struct value item = items->items[i];
        struct text t;
        if (path && !value_path(r, &items->items[i], &c->argument[1], NULL, &item))
            return false;
        if (!runtime_charge(r, 1) || (i > 0 && !builder_add(r, &b, &separator)) ||
            !value_string(r, &item, &t) || !builder_add(r, &b, &t))
            return false;
    }
    *out = value_text(builder_text(&b));
    return true;
}

/* ---- sorting */

/* The key to sort by: the item or its attribute; strings in lower case unless asked otherwise. */
static bool sort_key(struct runtime *r, const struct value *item, const struct value *path,
                     bool case_sensitive, struct value *key)
{
    *key = *item;
    if (path->kind != VALUE_ABSENT && path->kind != VALUE_NONE &&
        !value_path(r, item, path, NULL, key))
        return false;
    if (key->kind != VALUE_STRING || case_sensitive)
        return true;
    struct text lower;
    if (!text_change_case(r, &key->text, CASE_LOWER, &lower))
        return false;
    *key = value_text(lower);
    return true;
}

struct keyed {
    struct value key, item;
};

/* Stable merge sort of [0, n); `spare` has room for n. */
static bool merge_sort(struct runtime *r, struct keyed *items, struct keyed *spare, size_t n,
                       bool descending)
{
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t start = 0; start < n; start += 2 * width) {
            size_t middle = start + width < n ? start + width : n;
            size_t end = start + 2 * width < n ? start + 2 * width : n;
            for (size_t a = start, b = middle, k = start; k < end; k++) {
                int order = 0;
                if (!runtime_charge(r, 1))
                    return false;
                if (a < middle && b < end &&
                    !value_order(r, &items[b].key, &items[a].key, "<", &order))
                    return false;
                bool second = descending ? order == 1 : order == -1;
                bool take_second = a == middle || (b < end && second);
                spare[k] = items[take_second ? b++ : a++];
            }
        }
        memcpy(items, spare, n * sizeof *items);
    }
    return true;
}

static bool sorted(struct runtime *r, struct list *list, const struct value *path,
                   bool case_sensitive, bool descending)
{
    struct keyed *keyed = runtime_take_array(r, list->count, 2 * sizeof *keyed);
    if (!keyed)
        return false;
    for (size_t i = 0; i < list->count; i++) {
        keyed[i].item = list->items[i];
        if (!sort_key(r, &list->items[i], path, case_sensitive, &keyed[i].key))
            return false;
    }
    if (!merge_sort(r, keyed, keyed + list->count, list->count, descending))
        return false;
    for (size_t i = 0; i < list->count; i++)
        list->items[i] = keyed[i].item;
    return true;
}

static bool filter_sort(struct runtime *r, const struct call *c, struct value *out)
{
    bool descending, case_sensitive;
    argument_bool(r, c, 0, false, &descending);
    argument_bool(r, c, 1, false, &case_sensitive);
    struct list *list = copy(r, &c->self);
    return list && sorted(r, list, &c->argument[2], case_sensitive, descending) &&
           give_list(list, out);
}

static struct list *pairs(struct runtime *r, const struct value *v)
{
    if (v->kind == VALUE_UNDEFINED)
        return list_new(r, 0);
    if (v->kind != VALUE_DICT) {
        runtime_fail(r, "can only get the items of a mapping, not of %s", value_type_name(v));
        return NULL;
    }
    struct list *list = list_new(r, v->dict->count);
    for (size_t i = 0; list && i < v->dict->count; i++) {
        struct list *pair = list_new(r, 2);
        struct value tuple;
        if (!pair || !list_push(r, pair, &v->dict->entries[i].key) ||
            !list_push(r, pair, &v->dict->entries[i].value))
            return NULL;
        tuple = value_tuple(pair);
        if (!list_push(r, list, &tuple))
            return NULL;
    }
    return list;
}

static bool filter_items(struct runtime *r, const struct call *c, struct value *out)
{
    return give_list(pairs(r, &c->self), out);
}

static bool filter_dictsort(struct runtime *r, const struct call *c, struct value *out)
{
    bool case_sensitive, descending;
    struct text by;
    argument_bool(r, c, 0, false, &case_sensitive);
    argument_bool(r, c, 2, false, &descending);
    if (!argument_text(r, c, 1, "key", &by))
        return false;
    bool by_value = text_is(&by, "value", 5);
    if (!by_value && !text_is(&by, "key", 3))
        return runtime_fail(r, "you can only sort by either \"key\" or \"value\"");
    if (c->self.kind == VALUE_UNDEFINED)
        return runtime_fail_undefined(r, &c->self);
    struct list *list = pairs(r, &c->self);
    struct value index = value_int(by_value, JINJA_MARK_TEMPLATE);
    return list && sorted(r, list, &index, case_sensitive, descending) && give_list(list, out);
}

static bool filter_unique(struct runtime *r, const struct call *c, struct value *out)
{
    bool case_sensitive;
    argument_bool(r, c, 0, false, &case_sensitive);
    struct list *items, *list = list_new(r, 0), *keys = list_new(r, 0);
    if (!list || !keys || !value_iterate(r, &c->self, &items))
        return false;
    for (size_t i = 0; i < items->count; i++) {
        struct value key, seen = value_list(keys);
        bool known;
        if (!sort_key(r, &items->items[i], &c->argument[1], case_sensitive, &key) ||
            !value_contains(r, &seen, &key, &known))
            return false;
        if (!known && (!list_push(r, keys, &key) || !list_push(r, list, &items->items[i])))
            return false;
    }
    return give_list(list, out);
}

enum { LEAST, GREATEST };

static bool filter_extreme(struct runtime *r, const struct call *c, struct value *out)
{
    const int wanted = c->which == LEAST ? -1 : 1;
    bool case_sensitive;
    struct list *items;
    struct value best_key, key;
    argument_bool(r, c, 0, false, &case_sensitive);
    if (!value_iterate(r, &c->self, &items))
        return false;
    if (items->count == 0)
        return nothing(out);
    *out = items->items[0];
    if (!sort_key(r, out, &c->argument[1], case_sensitive, &best_key))
        return false;
    for (size_t i = 1; i < items->count; i++) {
        int order;
        if (!runtime_charge(r, 1) ||
            !sort_key(r, &items->items[i], &c->argument[1], case_sensitive, &key) ||
            !value_order(r, &key, &best_key, wanted < 0 ? "<" : ">", &order))
            return false;
        if (order == wanted) {
            best_key = key;
            *out = items->items[i];
        }
    }
    return true;
}

static bool filter_sum(struct runtime *r, const struct call *c, struct value *out)
{
    struct list *items;
    bool path = c->argument[0].kind != VALUE_ABSENT && c->argument[0].kind != VALUE_NONE;
    if (!value_iterate(r, &c->self, &items))
        return false;
    *out = c->argument[1].kind == VALUE_ABSENT ? value_int(0, JINJA_MARK_TEMPLATE) : c->argument[1];
    for (size_t i = 0; i < items->count; i++) {
        struct value item = items->items[i], total = *out;
        if (!runtime_charge(r, 1) ||
            (path && !value_path(r, &items->items[i], &c->argument[0], NULL, &item)) ||
            !operate(r, '+', &total, &item, out))
            return false;
    }
    return true;
}

/* ---- map, select, reject: of a value that is false (None, 0, "") they give nothing, as Jinja2's do,
 * and look at none of their arguments. */

/* Takes the first argument, a name, out of the arguments. */
static bool take_name(struct runtime *r, struct arguments *rest, const char *what,
                      struct text *name)
{
    if (rest->n_positional == 0 || rest->positional[0].kind != VALUE_STRING)
        return runtime_fail(r, "the name of a %s is missing", what);
    *name = rest->positional[0].text;
    rest->positional++;
    rest->n_positional--;
    return true;
}

static const struct native *find_test(struct runtime *r, const struct text *name)
{
    const struct native *test = native_find(native_tests, name->bytes, name->length);
    char excerpt[80];
    if (!test)
        runtime_fail(r, "there is no test named '%s'",
                     error_excerpt(excerpt, name->bytes, name->length));
    return test;
}

static bool map_attribute(struct runtime *r, const struct list *items,
                          const struct arguments *arguments, struct value *out)
{
    const struct value *path = NULL, *fallback = NULL;
    for (size_t i = 0; i < arguments->n_keywords; i++) {
        const struct keyword_value *k = &arguments->keywords[i];
        if (text_is(&k->name, "attribute", 9))
            path = &k->value;
        else if (text_is(&k->name, "default", 7))
            fallback = &k->value;
        else
            return runtime_fail(r, "map has no such keyword argument");
    }
    struct list *list = list_new(r, items->count);
    for (size_t i = 0; list && i < items->count; i++) {
        struct value v;
        if (!value_path(r, &items->items[i], path, fallback, &v))
            return false;
        if (!list_push(r, list, &v))
            return false;
    }
    return give_list(list, out);
}

static bool filter_map(struct runtime *r, const struct call *c, struct value *out)
{
    struct list *items;
    struct text name = TEXT_LITERAL("");
    struct arguments rest = *c->raw;
    if (!value_true(&c->self))
        return give_list(list_new(r, 0), out);
    if (!value_iterate(r, &c->self, &items))
        return false;
    if (rest.n_positional == 0) {
        for (size_t i = 0; i < rest.n_keywords; i++)
            if (text_is(&rest.keywords[i].name, "attribute", 9))
                return map_attribute(r, items, c->raw, out);
    }
    if (!take_name(r, &rest, "filter", &name))
        return false;
    const struct native *filter = filter_find(name.bytes, name.length);
    char excerpt[80];
    if (!filter)
        return runtime_fail(r, "there is no filter named '%s'",
                            error_excerpt(excerpt, name.bytes, name.length));
    struct list *list = list_new(r, items->count);
    for (size_t i = 0; list && i < items->count; i++) {
        struct value v;
        if (!native_call(r, filter, &items->items[i], &rest, &v) || !list_push(r, list, &v))
            return false;
    }
    return give_list(list, out);
}

/* select, reject, selectattr and rejectattr: keeps the items that pass (or fail) a test, by default
 * their truth, on the item or on one of its attributes. */
enum { KEEP_TRUE = 1, BY_ATTRIBUTE = 2 };

static bool filter_choose(struct runtime *r, const struct call *c, struct value *out)
{
    const bool wanted = c->which & KEEP_TRUE, by_attribute = c->which & BY_ATTRIBUTE;
    struct list *items, *list = list_new(r, 0);
    struct arguments rest = *c->raw;
    struct value path = value_none();
    const struct native *test = NULL;
    struct text name = TEXT_LITERAL("");
    if (!list || !value_true(&c->self))
        return give_list(list, out);
    if (!value_iterate(r, &c->self, &items))
        return false;
    if (by_attribute) {
        if (rest.n_positional == 0)
            return runtime_fail(r, "the name of an attribute is missing");
        path = *rest.positional++;
        rest.n_positional--;
    }
    if (rest.n_positional > 0 &&
        (!take_name(r, &rest, "test", &name) || !(test = find_test(r, &name))))
        return false;
    for (size_t i = 0; i < items->count; i++) {
        struct value v = items->items[i], passed;
        if (!runtime_charge(r, 1) ||
            (by_attribute && !value_path(r, &items->items[i], &path, NULL, &v)))
            return false;
        passed = v;
        if (test && !native_call(r, test, &v, &rest, &passed))
            return false;
        if (value_true(&passed) == wanted && !list_push(r, list, &items->items[i]))
            return false;
    }
    return give_list(list, out);
}

const struct native native_list_filters[] = {
    {"first", "", 0, filter_end, FIRST},
    {"last", "", 0, filter_end, LAST},
    {"list", "", 0, filter_list, 0},
    {"reverse", "", 0, filter_reverse, 0},
    {"join", "d attribute", 0, filter_join, 0},
    {"sort", "reverse case_sensitive attribute", 0, filter_sort, 0},
    {"items", "", 0, filter_items, 0},
    {"dictsort", "case_sensitive by reverse", 0, filter_dictsort, 0},
    {"unique", "case_sensitive attribute", 0, filter_unique, 0},
    {"min", "case_sensitive attribute", 0, filter_extreme, LEAST},
    {"max", "case_sensitive attribute", 0, filter_extreme, GREATEST},
    {"sum", "attribute start", 0, filter_sum, 0},
    {"map", NULL, 0, filter_map, 0},
    {"select", NULL, 0, filter_choose, KEEP_TRUE},
    {"reject", NULL, 0, filter_choose, 0},
    {"selectattr", NULL, 0, filter_choose, KEEP_TRUE | BY_ATTRIBUTE},
    {"rejectattr", NULL, 0, filter_choose, BY_ATTRIBUTE},
    {0},
};
