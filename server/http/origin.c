/* See origin.h. */
#include "server/http/origin.h"

#include <arpa/inet.h>
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

static bool is_local_name(const char *host)
{
    static const char *const local[] = {"localhost", "127.0.0.1", "[::1]"};
    for (size_t i = 0; i < sizeof local / sizeof *local; i++)
        if (same_name(host, local[i]))
            return true;
    return false;
}

/* Digits and dots, or brackets: what a browser does not ask a name server for. */
static bool is_address(const char *host)
{
    struct in6_addr address;
    char name[64];
    bool v6 = host[0] == '[';
    size_t n = v6 ? strcspn(++host, "]") : strcspn(host, ":");
    if (n == 0 || n >= sizeof name)
        return false;
    memcpy(name, host, n);
    name[n] = 0;
    return inet_pton(v6 ? AF_INET6 : AF_INET, name, &address) == 1;
}

bool host_is_allowed(const struct config *c, bool bound_to_loopback, const char *host)
{
    if (!host) /* HTTP/1.0 has no Host, and a browser always sends one */
        return true;
    if (!bound_to_loopback && (c->allowed_hosts.count == 0 || is_address(host)))
        return true;
    if (is_local_name(host))
        return true;
    for (uint32_t i = 0; i < c->allowed_hosts.count; i++)
        if (same_name(host, c->allowed_hosts.items[i]) ||
            !strcasecmp(host, c->allowed_hosts.items[i]))
            return true;
    return false;
}

/* A page of a program on the browser's own machine, such as a chat program at http://localhost:3000. */
static bool is_local_page(const char *origin)
{
    return (!strncasecmp(origin, "http://", 7) && is_local_name(origin + 7)) ||
           (!strncasecmp(origin, "https://", 8) && is_local_name(origin + 8));
}

bool origin_is_listed(const struct config *c, const char *origin)
{
    if (c->cors_origins.count == 0)
        return is_local_page(origin);
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
