/* A Jinja interpreter for chat templates: the language and the settings that Hugging Face's
 * transformers uses (trim_blocks, lstrip_blocks, loop controls, `do`, `generation` blocks, tojson
 * without HTML escapes).
 *
 * A program is compiled once and rendered on any thread, also on several at once. Templates and
 * variables are hostile: nesting, steps, memory and output are limited, and an error names the
 * limit that was hit.
 *
 * Marks. Every byte of the output carries the mark that its origin had: JINJA_MARK_TEMPLATE for
 * text written in the template, and for variables whatever their binding said. All string
 * operations keep the marks of the bytes they move. Text made from numbers has the mark
 * JINJA_MARK_TEMPLATE only if all numbers involved had it. */
#ifndef WINNOW_ENGINE_JINJA_JINJA_H
#define WINNOW_ENGINE_JINJA_JINJA_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "config/base/error.h"

enum { JINJA_MARK_USER = 0, JINJA_MARK_TEMPLATE = 1 };

/* A string of a JSON variable that becomes a value of the template. The hook may replace its text,
 * which must be valid until jinja_render returns, and choose its mark. */
struct jinja_string {
    const char *variable; /* the variable it is part of */
    unsigned
        depth; /* of `object`: 0 if the variable is the object, 1 if it is an array of objects, ... */
    const json_t *object; /* the object that holds it, or NULL for an element of an array */
    const char *key;      /* its key there */
    const char *text;     /* in and out */
    size_t length;        /* in and out */
    uint8_t mark;         /* out; JINJA_MARK_USER at first */
};
typedef void jinja_string_hook(void *context, struct jinja_string *s);

/* One variable. Exactly one of `json` and `text` is set; with neither it is None. */
struct jinja_variable {
    const char *name;
    const json_t *json;
    const char *text; /* NUL-terminated, all bytes marked JINJA_MARK_TEMPLATE */
};

struct jinja_input {
    const struct jinja_variable *variables; /* of two with the same name the later one counts */
    size_t n_variables;
    const json_t *more; /* object or NULL: further variables, which do not replace the others */
    jinja_string_hook *string_hook; /* or NULL; not called for `more` */
    void *hook_context;
    int64_t now_unix; /* strftime_now, in UTC */
};

struct jinja_output {
    char *text;     /* malloc'ed, NUL behind it */
    uint8_t *marks; /* malloc'ed, [length] */
    size_t length;
};

struct jinja_program;

/* NULL: "template_error" with line and column in `where`, or "out_of_memory". */
struct jinja_program *jinja_compile(const char *source, size_t length, struct error *e);
void jinja_free(struct jinja_program *p);
/* Errors: "template_error" with "line N" in `where`, and the template's own message of
 * raise_exception, a message like Python's, or the limit that was hit; "out_of_memory". */
bool jinja_render(const struct jinja_program *p, const struct jinja_input *in,
                  struct jinja_output *out, struct error *e);

/* The limits, which error messages name. */
enum {
    JINJA_MAX_SOURCE_BYTES = 1 << 20,
    JINJA_MAX_COMPILED_BYTES = 256 << 20,
    JINJA_MAX_NESTING = 200,     /* blocks and brackets of the source */
    JINJA_MAX_TREE_DEPTH = 500,  /* of the syntax tree: a + b + c + ... */
    JINJA_MAX_CALL_DEPTH = 600,  /* of the evaluation, macros included */
    JINJA_MAX_VALUE_DEPTH = 250, /* of nested lists and objects */
    JINJA_MAX_STEPS = 10000000,  /* about a second; long strings cost a step per STEP_BYTES */
    JINJA_STEP_BYTES = 64,
    JINJA_MAX_RANGE = 100000, /* elements of one range() */
    JINJA_MEMORY_BYTES =
        64 << 20, /* plus JINJA_MEMORY_PER_INPUT_BYTE for each byte of the variables */
    JINJA_MEMORY_PER_INPUT_BYTE = 64,
    JINJA_OUTPUT_BYTES =
        4 << 20, /* plus JINJA_OUTPUT_PER_INPUT_BYTE for each byte of the variables */
    JINJA_OUTPUT_PER_INPUT_BYTE = 4,
};

#endif
