/* See origin.h. */
#include "server/http/origin.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

/* Compares host names without their ports. */
static bool same_name(const char *host, const char *name)
{
    size_t n = strlen(name);
    if (strncasecmp(host, name, n))
        return false;
    if (host[n] == 0)
        return true;
    if (host[n] != ':')
        return false;
    for (const char *c = host + n + 1; *c; c++)
        if (!isdigit((unsigned char)*c))
            return false;
    return true;
}

bool host_is_allowed(const struct config *c, bool bound_to_loopback, const char *host)
{
    static const char *const local[] = {"localhost", "127.0.0.1", "[::1]"};
    if (!bound_to_loopback || !host) /* HTTP/1.0 has no Host, and a browser always sends one */
        return true;
    for (size_t i = 0; i < sizeof local / sizeof *local; i++)
        if (same_name(host, local[i]))
            return true;
    for (uint32_t i = 0; i < c->allowed_hosts.count; i++)
        if (same_name(host, c->allowed_hosts.items[i]) ||
            !strcasecmp(host, c->allowed_hosts.items[i]))
            return true;
    return false;
}

bool origin_is_listed(const struct config *c, const char *origin)
{
    for (uint32_t i = 0; i < c->cors_origins.count; i++)
        if (!strcmp(c->cors_origins.items[i], "*") || !strcasecmp(c->cors_origins.items[i], origin))
            return true;
    return false;
}

bool origin_is_allowed(const struct config *c, const char *origin, const char *host)
{
    if (!origin)
        return true;
    const char *name = !strncasecmp(origin, "http://", 7)    ? origin + 7
                       : !strncasecmp(origin, "https://", 8) ? origin + 8
                                                             : NULL;
    if (name && host && !strcasecmp(name, host))
        return true;
    return origin_is_listed(c, origin);
}
