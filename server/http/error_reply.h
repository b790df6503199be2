/* Errors as HTTP answers: the table of codes with their statuses and types (API.md section 6). A code
 * without a row becomes internal_error. Pure. */
#ifndef WINNOW_SERVER_HTTP_ERROR_REPLY_H
#define WINNOW_SERVER_HTTP_ERROR_REPLY_H

#include <jansson.h>
#include <stddef.h>

#include "config/base/error.h"

/* Every code has a row in the counts of refused requests (transport.h), however many there will be. */
enum { ERROR_CODES_MOST = 64 };
uint32_t error_n_codes(void);
const char *error_code_at(uint32_t index);

unsigned error_status(const struct error *e);
const char *error_code(const struct error *e); /* as the client sees it */

/* {"error":{"message", "type", "param", "code", and the numbers that the code carries}}. New reference;
 * NULL: out of memory. */
json_t *error_to_json(const struct error *e);

/* For Retry-After: 1000 to 60000 for statuses 429 and 503, else 0. */
int64_t error_retry_after_ms(const struct error *e);
/* Whether the answer has X-Should-Retry: false, because the request would fail again. */
bool error_forbids_retry(const struct error *e);

/* A whole HTTP/1.1 answer that closes the connection, for a request that libmicrohttpd has not read
 * completely. Returns its length; 0: it does not fit or memory is short. */
size_t error_raw_answer(const struct error *e, const char *reason, char *out, size_t size);

#endif
