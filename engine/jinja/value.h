/* What a template computes with: Python's values, as far as templates can make them.
 *
 * Values are small and copied; strings point into the request, the template or the arena and never
 * change; lists, dicts and namespaces are shared by reference, as in Python.
 *
 * Every byte of a string has a mark (see jinja.h). A string whose bytes all have the same mark
 * stores it once; a mixed string has an array beside its bytes:
 *
 *      bytes  < | u s e r | > H i            bytes  H e l l o
 *      marks  1 1 1 1 1 1 1 1 0 0            marks  NULL, mark 0
 *
 * Numbers have a mark too, so that a request's number that a template prints inside the text of a
 * token does not pass as the template's own. */
#ifndef WINNOW_ENGINE_JINJA_VALUE_H
#define WINNOW_ENGINE_JINJA_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum value_kind {
    VALUE_ABSENT, /* an argument that was not given; never seen by a template */
    VALUE_UNDEFINED,
    VALUE_NONE,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_FLOAT,
    VALUE_STRING,
    VALUE_LIST,
    VALUE_TUPLE,
    VALUE_DICT,
    VALUE_NAMESPACE,
    VALUE_MACRO,
    VALUE_FUNCTION,
    VALUE_METHOD,
    VALUE_LOOP,
    VALUE_CYCLER,
    VALUE_JOINER,
};

/* A buffer of bytes: a string that ends where the buffer's used part ends can grow in place. */
struct text_buffer {
    char *bytes;
    uint8_t *marks; /* NULL: all `mark` */
    size_t used, capacity;
    uint8_t mark;
};

struct text {
    const char *bytes;
    size_t length;
    const uint8_t *marks;       /* [length] or NULL: all `mark` */
    struct text_buffer *buffer; /* NULL: not growable */
    uint8_t mark;
};

struct value {
    uint8_t kind;
    uint8_t mark; /* of a bool, int or float */
    union {
        bool boolean;
        int64_t integer;
        double number;
        struct text text; /* string; for undefined: what was missing */
        struct list *list;
        struct dict *dict; /* dict and namespace */
        struct macro *macro;
        const struct native *function;
        struct method *method;
        struct loop *loop;
        struct cycler *cycler;
    };
};

struct list {
    struct value *items;
    size_t count, capacity;
};

struct dict_entry {
    struct value key, value;
};
struct dict {
    struct dict_entry *entries; /* in the order of insertion */
    size_t count, capacity;
};

/* `{% macro %}`: its code and the scope where it was defined. */
struct macro {
    const struct node *node;
    struct scope *scope;
};
/* A method taken from its object: `text.strip`. */
struct method {
    struct value self;
    const struct native *native;
};
struct loop {
    struct list *items;
    size_t index;         /* from 0 */
    struct value changed; /* what loop.changed() saw last */
};
/* cycler(...) and joiner(...). */
struct cycler {
    struct list *items;
    size_t position;
};

/* -- constructors -- */
static inline struct value value_none(void)
{
    return (struct value){.kind = VALUE_NONE};
}
static inline struct value value_bool(bool b, uint8_t mark)
{
    return (struct value){.kind = VALUE_BOOL, .mark = mark, .boolean = b};
}
static inline struct value value_int(int64_t i, uint8_t mark)
{
    return (struct value){.kind = VALUE_INT, .mark = mark, .integer = i};
}
static inline struct value value_float(double d, uint8_t mark)
{
    return (struct value){.kind = VALUE_FLOAT, .mark = mark, .number = d};
}
static inline struct value value_text(struct text t)
{
    return (struct value){.kind = VALUE_STRING, .text = t};
}
static inline struct text text_of(const char *bytes, size_t length, uint8_t mark)
{
    return (struct text){.bytes = bytes, .length = length, .mark = mark};
}
static inline struct value value_list(struct list *list)
{
    return (struct value){.kind = VALUE_LIST, .list = list};
}
static inline struct value value_tuple(struct list *list)
{
    return (struct value){.kind = VALUE_TUPLE, .list = list};
}
static inline bool value_is_sequence(const struct value *v)
{
    return v->kind == VALUE_LIST || v->kind == VALUE_TUPLE;
}
static inline bool value_is_integral(const struct value *v)
{
    return v->kind == VALUE_INT || v->kind == VALUE_BOOL;
}
static inline bool value_is_number(const struct value *v)
{
    return value_is_integral(v) || v->kind == VALUE_FLOAT;
}
static inline int64_t value_integer(const struct value *v) /* of an integral one */
{
    return v->kind == VALUE_BOOL ? v->boolean : v->integer;
}
static inline double value_double(const struct value *v) /* of a number */
{
    return v->kind == VALUE_FLOAT ? v->number : (double)value_integer(v);
}

/* Python's name of the type, for messages. */
const char *value_type_name(const struct value *v);
bool value_true(const struct value *v);

struct runtime;
/* -- things that need memory or steps: false after setting the runtime's error -- */
struct list *list_new(struct runtime *r, size_t capacity);
bool list_push(struct runtime *r, struct list *list, const struct value *v);
struct dict *dict_new(struct runtime *r, size_t capacity);
/* Sets or replaces. The key must be hashable, else an error. */
bool dict_set(struct runtime *r, struct dict *dict, const struct value *key, const struct value *v);
/* The same for a key that is known to be new and hashable. */
bool dict_append(struct runtime *r, struct dict *dict, const struct value *key,
                 const struct value *v);
/* `*found` is NULL when there is no such key. */
bool dict_get(struct runtime *r, const struct dict *dict, const struct value *key,
              struct value **found);
bool dict_get_name(struct runtime *r, const struct dict *dict, const char *name,
                   struct value **found);
bool value_equal(struct runtime *r, const struct value *a, const struct value *b, bool *equal);
/* Python's ordering: *order is negative, 0 or positive; an error for types that do not order.
 * `operator` is for its message. NaN: *order is 2. */
bool value_order(struct runtime *r, const struct value *a, const struct value *b,
                 const char *operator_name, int *order);
/* The items that a `for` sees: characters, elements or keys. A list is returned without a copy. */
bool value_iterate(struct runtime *r, const struct value *v, struct list **items);

#endif
