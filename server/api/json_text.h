/* Bytes of a model as JSON text. Pure. */
#ifndef WINNOW_SERVER_API_JSON_TEXT_H
#define WINNOW_SERVER_API_JSON_TEXT_H

#include <jansson.h>
#include <stddef.h>

/* U+FFFD stands where the bytes are not UTF-8. New reference, NULL: out of memory. */
json_t *json_text(const char *bytes, size_t length);

#endif
