/* Finds the route of a path. Pure. */
#ifndef WINNOW_SERVER_HTTP_ROUTER_H
#define WINNOW_SERVER_HTTP_ROUTER_H

#include "server/http/http_request.h"

/* The path without prefix, "/v1" and trailing slash, percent-decoded; the caller frees it. NULL: it is
 * not below the prefix, or memory is short. *had_v1: it began with /v1. */
char *router_normalise(const char *url, const char *prefix, bool *had_v1);

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
