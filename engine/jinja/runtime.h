/* One rendering in progress: the state that every part of the evaluator shares.
 *
 * Functions that can fail return false after runtime_fail; the first failure stays. One thread. */
#ifndef WINNOW_ENGINE_JINJA_RUNTIME_H
#define WINNOW_ENGINE_JINJA_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/jinja/arena.h"
#include "engine/jinja/ast.h"
#include "engine/jinja/jinja.h"
#include "engine/jinja/value.h"

struct binding {
    uint32_t name; /* number of the name in the program */
    struct value value;
};
/* Variables of one block; lookups go outwards. */
struct scope {
    struct scope *parent;
    struct binding *bindings;
    uint32_t count, capacity;
    bool captured; /* a macro refers to it, so it outlives its block */
};

struct output {
    char *bytes;
    uint8_t *marks;
    size_t used, capacity, limit;
};

struct runtime {
    const struct program *program;
    struct arena memory;
    struct scope *scope;
    struct output output;
    uint64_t steps;
    unsigned depth;
    int32_t line;          /* of the statement or expression being evaluated */
    struct value filtered; /* the text of a block on its way through the block's filters */
    int64_t now_unix;
    bool failed;
    struct error *error;
};

bool runtime_fail(struct runtime *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* As runtime_fail, for a limit: "template limit: ..." */
bool runtime_fail_limit(struct runtime *r, const char *what, unsigned long long limit);
/* "'name' is undefined" */
bool runtime_fail_undefined(struct runtime *r, const struct value *undefined);
/* Pays for work. */
bool runtime_charge(struct runtime *r, uint64_t steps);
bool runtime_charge_bytes(struct runtime *r, size_t bytes);
/* From the arena; NULL after setting the error. */
void *runtime_take(struct runtime *r, size_t bytes);
void *runtime_take_array(struct runtime *r, size_t count, size_t size);

/* -- evaluate.c, execute.c -- */
enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE, FLOW_FAILED };
bool evaluate(struct runtime *r, const struct node *n, struct value *out);
enum flow execute(struct runtime *r, const struct node *n);
/* Runs a body and returns what it wrote as a string instead of output. */
bool execute_captured(struct runtime *r, const struct node *body, struct value *out);
bool assign(struct runtime *r, const struct node *target, const struct value *v);

/* -- scope.c -- */
struct scope *scope_new(struct runtime *r, struct scope *parent);
bool scope_set(struct runtime *r, struct scope *s, uint32_t name, const struct value *v);
const struct value *scope_find(struct runtime *r, uint32_t name); /* NULL: no such variable */

/* -- output.c -- */
bool output_write(struct runtime *r, const struct text *t);
/* Cuts off what was written since `start` and returns it as a string. */
bool output_take_back(struct runtime *r, size_t start, struct value *out);

/* -- access.c -- */
bool value_attribute(struct runtime *r, const struct value *v, const struct text *name,
                     struct value *out);
bool value_item(struct runtime *r, const struct value *v, const struct value *key,
                struct value *out);
bool value_slice(struct runtime *r, const struct value *v, const struct value *start,
                 const struct value *stop, const struct value *step, struct value *out);
/* "a.b.0": what the `attribute` arguments of filters mean. `fallback`, if not NULL, stands for a
 * missing part. */
bool value_path(struct runtime *r, const struct value *v, const struct value *path,
                const struct value *fallback, struct value *out);

/* -- operators.c -- */
bool operate(struct runtime *r, unsigned op, const struct value *a, const struct value *b,
             struct value *out);
bool compare(struct runtime *r, unsigned op, const struct value *a, const struct value *b,
             bool *result);
bool value_negate(struct runtime *r, const struct value *v, struct value *out);
bool value_contains(struct runtime *r, const struct value *container, const struct value *v,
                    bool *result);

/* -- print.c, json.c -- */
/* Python's str() and repr(). A string is returned as it is by value_string. */
bool value_string(struct runtime *r, const struct value *v, struct text *out);
bool value_repr(struct runtime *r, const struct value *v, struct text *out);
bool value_from_json(struct runtime *r, const char *variable, const json_t *json,
                     jinja_string_hook *hook, void *context, struct value *out);
struct json_style {
    const char *item_separator, *key_separator;
    size_t item_separator_length, key_separator_length;
    const char *indent; /* NULL: on one line */
    size_t indent_length;
    bool ensure_ascii, sort_keys;
};
bool value_to_json(struct runtime *r, const struct value *v, const struct json_style *style,
                   struct text *out);

#endif
