/* Filters, tests, methods and global functions written in C, and how a call reaches them. */
#ifndef WINNOW_ENGINE_JINJA_NATIVE_H
#define WINNOW_ENGINE_JINJA_NATIVE_H

#include "engine/jinja/runtime.h"

struct keyword_value {
    struct text name;
    struct value value;
};
/* Evaluated arguments. */
struct arguments {
    const struct value *positional;
    size_t n_positional;
    const struct keyword_value *keywords;
    size_t n_keywords;
};

enum { NATIVE_MAX_PARAMETERS = 5 };
struct call {
    struct value self; /* the filtered or tested value, the object of a method */
    struct value argument[NATIVE_MAX_PARAMETERS]; /* VALUE_ABSENT when not given */
    const struct arguments *raw;
    uint32_t which; /* of struct native */
};

typedef bool native_function(struct runtime *r, const struct call *call, struct value *out);
struct native {
    const char *name;
    const char *parameters; /* "first second": their names; NULL: takes anything, reads `raw` */
    unsigned n_required;
    native_function *function;
    uint32_t which; /* for functions that serve several names: which one this is; else 0 */
};

/* Tables end with a NULL name. */
const struct native *native_find(const struct native *table, const char *name, size_t length);
bool native_call(struct runtime *r, const struct native *native, const struct value *self,
                 const struct arguments *arguments, struct value *out);
/* Calls any callable value. `what` names it in messages. */
bool value_call(struct runtime *r, const struct value *callee, const struct arguments *arguments,
                struct value *out);

extern const struct native native_functions[];
extern const struct native native_tests[];
extern const struct native native_string_methods[];
extern const struct native native_list_methods[];
extern const struct native native_tuple_methods[];
extern const struct native native_dict_methods[];
extern const struct native native_loop_methods[];
extern const struct native native_cycler_methods[];
extern const struct native native_text_filters[];
extern const struct native native_list_filters[];
extern const struct native native_value_filters[];
const struct native *filter_find(const char *name, size_t length);

/* ---- argument readers: `fallback` when absent, an error for another type */
bool argument_int(struct runtime *r, const struct call *c, unsigned i, int64_t fallback,
                  int64_t *out);
bool argument_bool(struct runtime *r, const struct call *c, unsigned i, bool fallback, bool *out);
bool argument_text(struct runtime *r, const struct call *c, unsigned i, const char *fallback,
                   struct text *out);

#endif
