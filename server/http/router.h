/* Paths to routes. Pure functions. */
#ifndef WINNOW_SERVER_HTTP_ROUTER_H
#define WINNOW_SERVER_HTTP_ROUTER_H

#include "server/http/http_request.h"

/* The path without prefix, "/v1", and trailing slash, malloc'ed and percent-decoded; NULL when it
 * is not below the prefix or memory is short. *had_v1: it began with /v1. */
char *router_normalise(const char *url, const char *prefix, bool *had_v1);

/* The first route with this path (and method, unless NULL). *tail points into `path` for routes
 * ending in a star. */
const struct route *router_find(const struct route *routes, uint32_t n, const char *path,
                                bool had_v1, const char *method, const char **tail);

/* "GET, HEAD, OPTIONS" for a known path; "" for an unknown one. */
void router_allow(const struct route *routes, uint32_t n, const char *path, bool had_v1, char *out,
                  size_t size);

/* Why a well-known OpenAI path is not served, or NULL. */
const char *router_hint(const char *path);

#endif
