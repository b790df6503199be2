/* Server-sent events: their framing. Pure.
 *
 * An event is one "data:" line with compact JSON and a blank line. There are no "id:", "event:" or
 * "retry:" lines: after an "id:" line OpenAI's Python client takes every blank line for an event and
 * fails on its empty data. JSON has no raw line breaks, so a value is always one line. */
#ifndef WINNOW_SERVER_HTTP_SSE_H
#define WINNOW_SERVER_HTTP_SSE_H

#include <jansson.h>

#include "config/base/bytes.h"

/* Appends "data: VALUE\n\n". False: memory is short or the value is NULL; `out` is unchanged. */
bool sse_event(struct bytes *out, const json_t *value);
/* Appends "data: [DONE]\n\n", the end of a complete answer. */
bool sse_done(struct bytes *out);
/* Appends a comment line, which keeps proxies from closing a silent connection. Clients ignore it. */
bool sse_ping(struct bytes *out);
/* Appends compact JSON. False: as for sse_event. */
bool json_add(struct bytes *out, const json_t *value);

#endif
