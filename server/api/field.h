/* The table of request fields: name, type, range, and what happens when a field is set. Both endpoints,
 * the parser and the tests use it. Pure. */
#ifndef WINNOW_SERVER_API_FIELD_H
#define WINNOW_SERVER_API_FIELD_H

#include <jansson.h>

#include "config/base/error.h"

enum field_type {
    FIELD_STRING,
    FIELD_INTEGER,
    FIELD_NUMBER,
    FIELD_BOOLEAN,
    FIELD_ARRAY,
    FIELD_OBJECT,
    FIELD_ANY
};
enum field_rule {
    FIELD_USED,     /* checked here, read by request.c */
    FIELD_IGNORED,  /* accepted with any type, has no effect */
    FIELD_REFUSED,  /* unsupported_parameter, unless it is null or a value of `off` */
    FIELD_NEAR_MISS /* unknown_parameter; `help` is the right spelling */
};

struct field_row {
    const char *name;
    enum field_type type;
    double min, max; /* numbers: value; strings: length in bytes; arrays: count */
    bool min_open;   /* min is not allowed itself */
    enum field_rule rule;
    bool chat, completion; /* the endpoints that have it */
    const char *off;       /* harmless values as JSON text, separated by '|' */
    const char *help;
};

extern const struct field_row field_rows[];
extern const unsigned n_field_rows;

/* Checks every known field of the object. False: e->where is the field. */
bool fields_check(const json_t *object, bool chat, struct error *e);

#endif
