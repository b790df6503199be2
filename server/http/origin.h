/* Which web pages and host names may talk to the server. Pure functions. */
#ifndef WINNOW_SERVER_HTTP_ORIGIN_H
#define WINNOW_SERVER_HTTP_ORIGIN_H

#include "config/config.h"

/* True if a request with this Host may be answered: always, unless bound to loopback, where the
 * name must be localhost, 127.0.0.1, [::1] or one of --allowed-hosts (a page on another name may
 * have been rebound to us). */
bool host_is_allowed(const struct config *c, bool bound_to_loopback, const char *host);

/* True if a request with this Origin (NULL = none) may be answered: same host, or in
 * --cors-origins. */
bool origin_is_allowed(const struct config *c, const char *origin, const char *host);
/* True if CORS headers should name it (only origins that --cors-origins lists). */
bool origin_is_listed(const struct config *c, const char *origin);

#endif
