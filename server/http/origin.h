/* Which web pages may call the server, and under which host names. Pure. */
#ifndef WINNOW_SERVER_HTTP_ORIGIN_H
#define WINNOW_SERVER_HTTP_ORIGIN_H

#include "config/config.h"

/* Whether a request with this Host may be answered: a web page could point another name to us (DNS
 * rebinding). On loopback the name must be localhost, 127.0.0.1, [::1] or one of --allowed-hosts. On other
 * addresses --allowed-hosts counts when it is given, and numeric addresses are good too, because a page
 * cannot point those anywhere. */
bool host_is_allowed(const struct config *c, bool bound_to_loopback, const char *host);

/* Whether a request with this Origin may be answered: NULL (no Origin), the same host, or one that is
 * listed. */
bool origin_is_allowed(const struct config *c, const char *origin, const char *host);
/* Whether --cors-origins lists it, so that CORS headers name it. Without --cors-origins: whether it is a
 * page of the browser's own machine, at any port of localhost, 127.0.0.1 or [::1]. */
bool origin_is_listed(const struct config *c, const char *origin);

#endif
