/* Expressions to values. */
#include "engine/jinja/native.h"
#include "engine/jinja/text.h"

static bool evaluate_node(struct runtime *r, const struct node *n, struct value *out);

/* Every level of the tree and of macro calls is evaluated here, so this bounds the C stack. */
bool evaluate(struct runtime *r, const struct node *n, struct value *out)
{
    if (!runtime_charge(r, 1))
        return false;
    if (r->depth == JINJA_MAX_CALL_DEPTH)
        return runtime_fail_limit(r, "nested calls", JINJA_MAX_CALL_DEPTH);
    r->depth++;
    r->line = n->line;
    bool ok = evaluate_node(r, n, out);
    r->depth--;
    return ok;
}

static bool evaluate_name(struct runtime *r, const struct node *n, struct value *out)
{
    const struct value *found = scope_find(r, n->name);
    if (r->failed)
        return false;
    if (found) {
        *out = *found;
        return true;
    }
    const struct text *name = &n->constant.text;
    const struct native *function = native_find(native_functions, name->bytes, name->length);
    if (function)
        *out = (struct value){.kind = VALUE_FUNCTION, .function = function};
    else
        *out = (struct value){.kind = VALUE_UNDEFINED, .text = *name};
    return true;
}

static bool evaluate_items(struct runtime *r, const struct node *n, struct value *out)
{
    struct list *list = list_new(r, n->n_items);
    if (!list)
        return false;
    for (uint32_t i = 0; i < n->n_items; i++) {
        struct value item;
        if (!evaluate(r, n->items[i], &item) || !list_push(r, list, &item))
            return false;
    }
    *out = n->kind == NODE_LIST ? value_list(list) : value_tuple(list);
    return true;
}

static bool evaluate_dict(struct runtime *r, const struct node *n, struct value *out)
{
    struct dict *dict = dict_new(r, n->n_items / 2);
    if (!dict)
        return false;
    for (uint32_t i = 0; i + 1 < n->n_items; i += 2) {
        struct value key, value;
        if (!evaluate(r, n->items[i], &key) || !evaluate(r, n->items[i + 1], &value) ||
            !dict_set(r, dict, &key, &value))
            return false;
    }
    *out = (struct value){.kind = VALUE_DICT, .dict = dict};
    return true;
}

static bool evaluate_slice(struct runtime *r, const struct node *n, struct value *out)
{
    struct value object, part[3];
    if (!evaluate(r, n->a, &object))
        return false;
    for (int i = 0; i < 3; i++) {
        part[i] = value_none();
        if (n->items[i] && !evaluate(r, n->items[i], &part[i]))
            return false;
    }
    return value_slice(r, &object, &part[0], &part[1], &part[2], out);
}

static bool evaluate_arguments(struct runtime *r, const struct node *n, struct arguments *out)
{
    *out = (struct arguments){0};
    if (n->n_items) {
        struct value *positional = runtime_take_array(r, n->n_items, sizeof *positional);
        if (!positional)
            return false;
        for (uint32_t i = 0; i < n->n_items; i++)
            if (!evaluate(r, n->items[i], &positional[i]))
                return false;
        out->positional = positional;
        out->n_positional = n->n_items;
    }
    if (n->n_keywords) {
        struct keyword_value *keywords = runtime_take_array(r, n->n_keywords, sizeof *keywords);
        if (!keywords)
            return false;
        for (uint32_t i = 0; i < n->n_keywords; i++) {
            keywords[i].name = n->keywords[i].name;
            if (!evaluate(r, n->keywords[i].value, &keywords[i].value))
                return false;
        }
        out->keywords = keywords;
        out->n_keywords = n->n_keywords;
    }
    return true;
}

/* A filter, a test or a call. */
static bool evaluate_call(struct runtime *r, const struct node *n, struct value *out)
{
    struct value self;
    struct arguments arguments;
    if (!evaluate(r, n->a, &self))
        return false;
    if (n->kind != NODE_CALL && !n->native) {
        char name[80];
        error_excerpt(name, n->constant.text.bytes, n->constant.text.length);
        return runtime_fail(r, "there is no %s named '%s'",
                            n->kind == NODE_FILTER ? "filter" : "test", name);
    }
    if (!evaluate_arguments(r, n, &arguments))
        return false;
    r->line = n->line;
    if (n->kind == NODE_CALL)
        return value_call(r, &self, &arguments, out);
    return native_call(r, n->native, &self, &arguments, out);
}

static bool evaluate_compare(struct runtime *r, const struct node *n, struct value *out)
{
    struct value left, right;
    bool result = true;
    if (!evaluate(r, n->a, &left))
        return false;
    for (uint32_t i = 0; i < n->n_items && result; i++) {
        if (!evaluate(r, n->items[i], &right) || !compare(r, n->ops[i], &left, &right, &result))
            return false;
        left = right;
    }
    *out = value_bool(result, JINJA_MARK_TEMPLATE);
    return true;
}

static bool evaluate_choice(struct runtime *r, const struct node *n, struct value *out)
{
    struct value condition;
    if (!evaluate(r, n->b, &condition))
        return false;
    if (value_true(&condition))
        return evaluate(r, n->a, out);
    if (n->c)
        return evaluate(r, n->c, out);
    *out = (struct value){.kind = VALUE_UNDEFINED,
                          .text = TEXT_LITERAL("the value of an if without else")};
    return true;
}

static bool evaluate_two(struct runtime *r, const struct node *n, struct value *out)
{
    struct value a, b;
    if (!evaluate(r, n->a, &a) || !evaluate(r, n->b, &b))
        return false;
    r->line = n->line;
    return n->kind == NODE_ITEM ? value_item(r, &a, &b, out) : operate(r, n->op, &a, &b, out);
}

static bool evaluate_one(struct runtime *r, const struct node *n, struct value *out)
{
    struct value a;
    if (!evaluate(r, n->a, &a))
        return false;
    switch (n->kind) {
    case NODE_ATTRIBUTE:
        return value_attribute(r, &a, &n->constant.text, out);
    case NODE_NOT:
        *out = value_bool(!value_true(&a), JINJA_MARK_TEMPLATE);
        return true;
    case NODE_NEGATE:
        return value_negate(r, &a, out);
    case NODE_POSITIVE:
        if (a.kind == VALUE_UNDEFINED)
            return runtime_fail_undefined(r, &a);
        if (!value_is_number(&a))
            return runtime_fail(r, "bad operand type for unary +: '%s'", value_type_name(&a));
        *out = a.kind == VALUE_BOOL ? value_int(a.boolean, a.mark) : a;
        return true;
    case NODE_AND:
        if (value_true(&a))
            return evaluate(r, n->b, out);
        break;
    default: /* NODE_OR */
        if (!value_true(&a))
            return evaluate(r, n->b, out);
        break;
    }
    *out = a;
    return true;
}

static bool evaluate_node(struct runtime *r, const struct node *n, struct value *out)
{
    switch (n->kind) {
    case NODE_CONSTANT:
        *out = n->constant;
        return true;
    case NODE_NAME:
        return evaluate_name(r, n, out);
    case NODE_FILTERED:
        *out = r->filtered;
        return true;
    case NODE_LIST:
    case NODE_TUPLE:
        return evaluate_items(r, n, out);
    case NODE_DICT:
        return evaluate_dict(r, n, out);
    case NODE_SLICE:
        return evaluate_slice(r, n, out);
    case NODE_CALL:
    case NODE_FILTER:
    case NODE_TEST:
        return evaluate_call(r, n, out);
    case NODE_COMPARE:
        return evaluate_compare(r, n, out);
    case NODE_CHOICE:
        return evaluate_choice(r, n, out);
    case NODE_BINARY:
    case NODE_ITEM:
        return evaluate_two(r, n, out);
    default:
        return evaluate_one(r, n, out);
    }
}
