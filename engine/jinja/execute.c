/* Statements: what they write and which variables they set. */
#include "engine/jinja/native.h"
#include "engine/jinja/text.h"

static bool assign_tuple(struct runtime *r, const struct node *target, const struct value *v)
{
    struct list *items;
    if (!value_iterate(r, v, &items))
        return false;
    if (items->count != target->n_items)
        return runtime_fail(r, "cannot unpack %zu values into %u names", items->count,
                            (unsigned)target->n_items);
    for (uint32_t i = 0; i < target->n_items; i++) {
        struct value item = items->items[i];
        if (!assign(r, target->items[i], &item))
            return false;
    }
    return true;
}

bool assign(struct runtime *r, const struct node *target, const struct value *v)
{
    if (target->kind == NODE_TUPLE)
        return assign_tuple(r, target, v);
    if (target->kind == NODE_NAME)
        return scope_set(r, r->scope, target->name, v);
    struct value object;
    if (!evaluate(r, target->a, &object))
        return false;
    if (object.kind != VALUE_NAMESPACE)
        return runtime_fail(r, "cannot assign attribute on non-namespace object");
    return dict_set(r, object.dict, &target->constant, v);
}

bool execute_captured(struct runtime *r, const struct node *body, struct value *out)
{
    size_t start = r->output.used;
    return execute(r, body) != FLOW_FAILED && output_take_back(r, start, out);
}

static enum flow execute_body(struct runtime *r, const struct node *n)
{
    for (uint32_t i = 0; i < n->n_items; i++) {
        enum flow flow = execute(r, n->items[i]);
        if (flow != FLOW_NEXT)
            return flow;
    }
    return FLOW_NEXT;
}

static bool execute_output(struct runtime *r, const struct node *n)
{
    struct value v;
    struct text t;
    return evaluate(r, n->a, &v) && value_string(r, &v, &t) && output_write(r, &t);
}

static enum flow execute_if(struct runtime *r, const struct node *n)
{
    for (uint32_t i = 0; i + 1 < n->n_items; i += 2) {
        struct value condition;
        if (!evaluate(r, n->items[i], &condition))
            return FLOW_FAILED;
        if (value_true(&condition))
            return execute(r, n->items[i + 1]);
    }
    return n->c ? execute(r, n->c) : FLOW_NEXT;
}

/* ---- loops */

/* The items that pass the loop's own `if`, which sees the loop variables but not `loop`. */
static bool filter_items(struct runtime *r, const struct node *n, struct list **items)
{
    struct list *kept = list_new(r, 0);
    struct scope *outer = r->scope;
    r->scope = scope_new(r, outer);
    bool ok = kept && r->scope;
    for (size_t i = 0; ok && i < (*items)->count; i++) {
        struct value item = (*items)->items[i], condition;
        ok = assign(r, n->a, &item) && evaluate(r, n->c, &condition) &&
             (!value_true(&condition) || list_push(r, kept, &item));
    }
    r->scope = outer;
    *items = kept;
    return ok;
}

/* Each iteration has new variables, in the same scope unless a macro refers to it. */
static bool next_round(struct runtime *r, struct scope *outer, struct value loop)
{
    if (r->scope == outer || r->scope->captured)
        r->scope = scope_new(r, outer);
    if (!r->scope)
        return false;
    r->scope->count = 0;
    return scope_set(r, r->scope, r->program->name_loop, &loop);
}

static enum flow execute_rounds(struct runtime *r, const struct node *n, struct list *items)
{
    struct scope *outer = r->scope;
    struct loop *loop = runtime_take(r, sizeof *loop);
    enum flow flow = loop ? FLOW_NEXT : FLOW_FAILED;
    if (loop)
        *loop = (struct loop){.items = items};
    /* The count is read again each time: the body may append to the list, as in Python. */
    for (size_t i = 0; flow != FLOW_FAILED && flow != FLOW_BREAK && i < items->count; i++) {
        loop->index = i;
        struct value item = items->items[i];
        struct value self = {.kind = VALUE_LOOP, .loop = loop};
        if (!next_round(r, outer, self) || !assign(r, n->a, &item))
            flow = FLOW_FAILED;
        else
            flow = execute(r, n->items[0]);
    }
    r->scope = outer;
    return flow == FLOW_FAILED ? flow : FLOW_NEXT;
}

static enum flow execute_for(struct runtime *r, const struct node *n)
{
    struct value iterable;
    struct list *items;
    if (!evaluate(r, n->b, &iterable) || !value_iterate(r, &iterable, &items))
        return FLOW_FAILED;
    if (n->c && !filter_items(r, n, &items))
        return FLOW_FAILED;
    if (items->count == 0)
        return n->items[1] ? execute(r, n->items[1]) : FLOW_NEXT;
    return execute_rounds(r, n, items);
}

/* ---- blocks that capture */

static enum flow in_scope(struct runtime *r, const struct node *body)
{
    struct scope *outer = r->scope;
    r->scope = scope_new(r, outer);
    enum flow flow = r->scope ? execute(r, body) : FLOW_FAILED;
    r->scope = outer;
    return flow;
}

/* The body's text in `out`, through the filters n->c. */
static bool captured_and_filtered(struct runtime *r, const struct node *n, struct value *out)
{
    size_t start = r->output.used;
    if (in_scope(r, n->b) == FLOW_FAILED || !output_take_back(r, start, out))
        return false;
    if (!n->c)
        return true;
    struct value outer = r->filtered;
    r->filtered = *out;
    bool ok = evaluate(r, n->c, out);
    r->filtered = outer;
    return ok;
}

static bool execute_filter_block(struct runtime *r, const struct node *n)
{
    struct value v;
    struct text t;
    return captured_and_filtered(r, n, &v) && value_string(r, &v, &t) && output_write(r, &t);
}

static enum flow execute_scope(struct runtime *r, const struct node *n)
{
    struct scope *outer = r->scope, *inner = scope_new(r, outer);
    bool ok = inner != NULL;
    for (uint32_t i = 0; ok && i + 1 < n->n_items; i += 2) {
        /* The values are evaluated in the outer scope. */
        struct value v;
        ok = evaluate(r, n->items[i + 1], &v);
        r->scope = inner;
        ok = ok && assign(r, n->items[i], &v);
        r->scope = outer;
    }
    r->scope = inner;
    enum flow flow = ok ? execute(r, n->b) : FLOW_FAILED;
    r->scope = outer;
    return flow;
}

static bool execute_macro(struct runtime *r, const struct node *n)
{
    struct macro *macro = runtime_take(r, sizeof *macro);
    if (!macro)
        return false;
    *macro = (struct macro){.node = n, .scope = r->scope};
    for (struct scope *s = r->scope; s && !s->captured; s = s->parent)
        s->captured = true;
    struct value v = {.kind = VALUE_MACRO, .macro = macro};
    return scope_set(r, r->scope, n->name, &v);
}

static enum flow execute_node(struct runtime *r, const struct node *n)
{
    struct value v;
    bool ok;
    switch (n->kind) {
    case NODE_BODY:
        return execute_body(r, n);
    case NODE_IF:
        return execute_if(r, n);
    case NODE_FOR:
        return execute_for(r, n);
    case NODE_SCOPE:
        return execute_scope(r, n);
    case NODE_BREAK:
        return FLOW_BREAK;
    case NODE_CONTINUE:
        return FLOW_CONTINUE;
    case NODE_TEXT:
        ok = output_write(r, &n->constant.text);
        break;
    case NODE_OUTPUT:
        ok = execute_output(r, n);
        break;
    case NODE_SET:
        ok = evaluate(r, n->b, &v) && assign(r, n->a, &v);
        break;
    case NODE_SET_BLOCK:
        ok = captured_and_filtered(r, n, &v) && assign(r, n->a, &v);
        break;
    case NODE_FILTER_BLOCK:
        ok = execute_filter_block(r, n);
        break;
    case NODE_MACRO:
        ok = execute_macro(r, n);
        break;
    default: /* NODE_DO */
        ok = evaluate(r, n->a, &v);
        break;
    }
    return ok ? FLOW_NEXT : FLOW_FAILED;
}

enum flow execute(struct runtime *r, const struct node *n)
{
    if (!runtime_charge(r, 1))
        return FLOW_FAILED;
    if (r->depth == JINJA_MAX_CALL_DEPTH) {
        runtime_fail_limit(r, "nested calls", JINJA_MAX_CALL_DEPTH);
        return FLOW_FAILED;
    }
    r->depth++;
    r->line = n->line;
    enum flow flow = execute_node(r, n);
    r->depth--;
    return flow;
}
