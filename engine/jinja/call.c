/* Calls: binding arguments to the parameters of C functions and of macros. */
#include <string.h>

#include "engine/jinja/native.h"
#include "engine/jinja/text.h"

const struct native *native_find(const struct native *table, const char *name, size_t length)
{
    for (; table->name; table++)
        if (strlen(table->name) == length && memcmp(table->name, name, length) == 0)
            return table;
    return NULL;
}

const struct native *filter_find(const char *name, size_t length)
{
    const struct native *const tables[] = {native_text_filters, native_list_filters,
                                           native_value_filters};
    for (int i = 0; i < 3; i++) {
        const struct native *found = native_find(tables[i], name, length);
        if (found)
            return found;
    }
    return NULL;
}

/* Place of `name` in the list of words `parameters`, or the number of words. */
static unsigned parameter_index(const char *parameters, const struct text *name)
{
    unsigned index = 0;
    for (const char *word = parameters; *word; index++) {
        size_t n = strcspn(word, " ");
        if (name && text_is(name, word, n))
            return index;
        word += n + (word[n] == ' ');
    }
    return index;
}

static bool bind(struct runtime *r, const struct native *native, const struct arguments *arguments,
                 struct call *call)
{
    unsigned n = parameter_index(native->parameters, NULL);
    if (arguments->n_positional > n)
        return runtime_fail(r, "%s takes at most %u arguments (%zu given)", native->name, n,
                            arguments->n_positional);
    for (size_t i = 0; i < arguments->n_positional; i++)
        call->argument[i] = arguments->positional[i];
    for (size_t i = 0; i < arguments->n_keywords; i++) {
        const struct text *name = &arguments->keywords[i].name;
        unsigned index = parameter_index(native->parameters, name);
        char excerpt[80];
        if (index == n)
            return runtime_fail(r, "%s has no argument named '%s'", native->name,
                                error_excerpt(excerpt, name->bytes, name->length));
        if (call->argument[index].kind != VALUE_ABSENT)
            return runtime_fail(r, "%s got two values for its argument '%s'", native->name,
                                error_excerpt(excerpt, name->bytes, name->length));
        call->argument[index] = arguments->keywords[i].value;
    }
    for (unsigned i = 0; i < native->n_required; i++)
        if (call->argument[i].kind == VALUE_ABSENT)
            return runtime_fail(r, "%s misses its argument %u of %u", native->name, i + 1,
                                native->n_required);
    return true;
}

bool native_call(struct runtime *r, const struct native *native, const struct value *self,
                 const struct arguments *arguments, struct value *out)
{
    struct call call = {.self = *self, .raw = arguments, .which = native->which};
    if (native->parameters && !bind(r, native, arguments, &call))
        return false;
    /* map('map', 'map', ...) recurses here. */
    if (r->depth == JINJA_MAX_CALL_DEPTH)
        return runtime_fail_limit(r, "nested calls", JINJA_MAX_CALL_DEPTH);
    r->depth++;
    bool ok = native->function(r, &call, out);
    r->depth--;
    return ok;
}

/* ---- macros */

static const struct value *keyword_named(const struct arguments *arguments, const struct text *name)
{
    for (size_t i = 0; i < arguments->n_keywords; i++)
        if (text_is(name, arguments->keywords[i].name.bytes, arguments->keywords[i].name.length))
            return &arguments->keywords[i].value;
    return NULL;
}

/* Sets the macro's parameters in r->scope, which is the macro's own. */
static bool bind_macro(struct runtime *r, const struct node *n, const struct arguments *arguments)
{
    size_t used = 0;
    char excerpt[80];
    if (arguments->n_positional > n->n_items)
        return runtime_fail(r, "macro '%s' takes not more than %u argument(s)",
                            error_excerpt(excerpt, n->constant.text.bytes, n->constant.text.length),
                            (unsigned)n->n_items);
    /* Each parameter is looked for among the keywords. */
    if (!runtime_charge(r, (uint64_t)n->n_items * arguments->n_keywords / 8))
        return false;
    for (uint32_t i = 0; i < n->n_items; i++) {
        const struct node *parameter = n->items[i];
        const struct value *named = keyword_named(arguments, &parameter->constant.text);
        struct value v = {.kind = VALUE_UNDEFINED, .text = parameter->constant.text};
        used += named != NULL;
        if (i < arguments->n_positional && named)
            return runtime_fail(
                r, "macro '%s' got two values for one argument",
                error_excerpt(excerpt, n->constant.text.bytes, n->constant.text.length));
        if (i < arguments->n_positional)
            v = arguments->positional[i];
        else if (named)
            v = *named;
        else if (parameter->a && !evaluate(r, parameter->a, &v))
            return false;
        if (!scope_set(r, r->scope, parameter->name, &v))
            return false;
    }
    if (used < arguments->n_keywords)
        return runtime_fail(
            r, "macro '%s' takes no keyword argument of that name",
            error_excerpt(excerpt, n->constant.text.bytes, n->constant.text.length));
    return true;
}

static bool macro_call(struct runtime *r, const struct macro *macro,
                       const struct arguments *arguments, struct value *out)
{
    struct scope *caller = r->scope;
    r->scope = scope_new(r, macro->scope);
    bool ok = r->scope && bind_macro(r, macro->node, arguments) &&
              execute_captured(r, macro->node->b, out);
    r->scope = caller;
    return ok;
}

bool value_call(struct runtime *r, const struct value *callee, const struct arguments *arguments,
                struct value *out)
{
    switch (callee->kind) {
    case VALUE_FUNCTION:
        return native_call(r, callee->function, callee, arguments, out);
    case VALUE_METHOD:
        return native_call(r, callee->method->native, &callee->method->self, arguments, out);
    case VALUE_MACRO:
        return macro_call(r, callee->macro, arguments, out);
    case VALUE_CYCLER:
        return native_call(r, &native_cycler_methods[0], callee, arguments, out);
    case VALUE_JOINER:
        return native_call(r, &native_cycler_methods[1], callee, arguments, out);
    case VALUE_LOOP:
        return runtime_fail(r, "recursive loops are not supported");
    case VALUE_UNDEFINED:
        return runtime_fail_undefined(r, callee);
    default:
        return runtime_fail(r, "'%s' object is not callable", value_type_name(callee));
    }
}

/* ---- argument readers */

bool argument_int(struct runtime *r, const struct call *c, unsigned i, int64_t fallback,
                  int64_t *out)
{
    const struct value *v = &c->argument[i];
    *out = fallback;
    if (v->kind == VALUE_ABSENT)
        return true;
    if (v->kind == VALUE_UNDEFINED)
        return runtime_fail_undefined(r, v);
    if (!value_is_integral(v))
        return runtime_fail(r, "'%s' object cannot be interpreted as an integer",
                            value_type_name(v));
    *out = value_integer(v);
    return true;
}

bool argument_bool(struct runtime *r, const struct call *c, unsigned i, bool fallback, bool *out)
{
    (void)r;
    *out = c->argument[i].kind == VALUE_ABSENT ? fallback : value_true(&c->argument[i]);
    return true;
}

bool argument_text(struct runtime *r, const struct call *c, unsigned i, const char *fallback,
                   struct text *out)
{
    const struct value *v = &c->argument[i];
    if (v->kind == VALUE_ABSENT) {
        *out = text_of(fallback, strlen(fallback), JINJA_MARK_TEMPLATE);
        return true;
    }
    if (v->kind == VALUE_UNDEFINED)
        return runtime_fail_undefined(r, v);
    if (v->kind != VALUE_STRING)
        return runtime_fail(r, "expected a string, not '%s'", value_type_name(v));
    *out = v->text;
    return true;
}
