/* API keys. Pure functions. */
#ifndef WINNOW_SERVER_HTTP_AUTH_H
#define WINNOW_SERVER_HTTP_AUTH_H

#include "config/config.h"

/* The key in these three headers, each of which may be NULL. NULL: there is none. */
const char *auth_key_of(const char *authorization, const char *x_api_key, const char *api_key);

/* The 1-based index of the API key; 0: it is none of them. The time does not tell where keys differ. */
uint32_t auth_find(const struct config *c, const char *key, bool *is_admin);

#endif
