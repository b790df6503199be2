/* A model's output bytes as a JSON string. Pure. */
#ifndef WINNOW_SERVER_API_JSON_TEXT_H
#define WINNOW_SERVER_API_JSON_TEXT_H

#include <jansson.h>
#include <stddef.h>

/* Bytes that are not UTF-8 become U+FFFD. New reference; NULL: out of memory. */
json_t *json_text(const char *bytes, size_t length);

#endif
