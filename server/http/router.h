/* Finds the route of a path. Pure. */
#ifndef WINNOW_SERVER_HTTP_ROUTER_H
#define WINNOW_SERVER_HTTP_ROUTER_H

#include "server/http/http_request.h"

/* The path as it was sent, without trailing slashes, percent-decoded once, without prefix and "/v1"; the
 * caller frees it. *had_v1: it began with /v1. NULL: "not_found", because it is not below the prefix;
 * "invalid_request", because it decodes to a NUL, a control character or no UTF-8; "out_of_memory". */
char *router_normalise(const char *sent, size_t length, const char *prefix, bool *had_v1,
                       struct error *e);

/* The first route with this path, and this method unless it is NULL. *tail is the part of `path` that
 * matches the route's star. */
const struct route *router_find(const struct route *routes, uint32_t n, const char *path,
                                bool had_v1, const char *method, const char **tail);

/* The header Allow: "GET, HEAD, OPTIONS" for a known path, "" for an unknown one. */
void router_allow(const struct route *routes, uint32_t n, const char *path, bool had_v1, char *out,
                  size_t size);

/* Why a well-known OpenAI path is not served, or NULL. */
const char *router_hint(const char *path);

#endif
