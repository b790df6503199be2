/* JSON text: a model's output bytes as strings, and values of any kind. Pure. */
#ifndef WINNOW_SERVER_API_JSON_TEXT_H
#define WINNOW_SERVER_API_JSON_TEXT_H

#include <jansson.h>
#include <stddef.h>

#include "config/base/bytes.h"

/* Bytes that are not UTF-8 become U+FFFD. New reference; NULL: out of memory. */
json_t *json_text(const char *bytes, size_t length);

/* These append compact JSON. False: out of memory or NULL; `out` is unchanged. */
bool json_add_any(struct bytes *out, const json_t *value); /* also strings and numbers */
bool json_add_text(struct bytes *out, const char *bytes, size_t length);
/* Appends C text as it is. */
bool json_add_raw(struct bytes *out, const char *text);
/* Appends the entries of an array, with a comma before each where `out` is not empty. */
bool json_add_entries(struct bytes *out, const json_t *array);

#endif
