/* Reads JSON text. Everything that parses JSON goes through here, so that a failed allocation is not
 * reported as wrong syntax. Any thread. */
#ifndef WINNOW_CONFIG_JSON_READ_H
#define WINNOW_CONFIG_JSON_READ_H

#include <jansson.h>
#include <stddef.h>

#include "config/base/error.h"

/* Parses `length` bytes. `flags` are jansson's. The caller owns the reference. NULL fills *e (which
 * may be NULL): "out_of_memory", or `code` and `where` with the sentence "<what> is not JSON: line L,
 * column C: ...". */
json_t *json_read(const char *text, size_t length, size_t flags, const char *code,
                  const char *where, const char *what, struct error *e);

#endif
