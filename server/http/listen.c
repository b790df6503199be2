/* See listen.h. */
#include "server/http/listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "config/base/log.h"

enum {
    BACKLOG = 511,
    /* With port 0 the first address gets a free port, which may be taken on another address. */
    PORT_TRIES = 16
};

static bool cannot_listen(const char *address, const char *flag, struct error *e)
{
    if (errno == EADDRINUSE)
        return error_set(e, "address_in_use", flag,
                         "%s is in use by another program; choose another with %s", address, flag);
    return error_set(e, "address_error", "--host", "cannot listen on %s: %s", address,
                     strerror(errno));
}

/* ---- Unix sockets */

static int unix_socket(void)
{
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* Removes a socket file that no program answers on. */
static bool remove_leftover(const struct sockaddr_un *address, struct error *e)
{
    struct stat status;
    if (lstat(address->sun_path, &status))
        return true;
    if (!S_ISSOCK(status.st_mode))
        return error_set(e, "address_in_use", "--host", "%s exists and is not a socket",
                         address->sun_path);
    int fd = unix_socket();
    if (fd < 0)
        return cannot_listen(address->sun_path, "--host", e);
    bool silent =
        connect(fd, (const struct sockaddr *)address, sizeof *address) && errno == ECONNREFUSED;
    close(fd);
    if (silent)
        return !unlink(address->sun_path) || cannot_listen(address->sun_path, "--host", e);
    errno = EADDRINUSE;
    return cannot_listen(address->sun_path, "--host", e);
}

int listen_unix(const char *path, struct error *e)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) == 0 || strlen(path) >= sizeof address.sun_path) {
        error_set(e, "invalid_value", "--host",
                  "--host: a Unix socket's path must have 1 to %zu bytes",
                  sizeof address.sun_path - 1);
        return -1;
    }
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (!remove_leftover(&address, e))
        return -1;
    int fd = unix_socket();
    if (fd >= 0 && !bind(fd, (struct sockaddr *)&address, sizeof address) && !listen(fd, BACKLOG))
        return fd;
    cannot_listen(path, "--host", e);
    if (fd >= 0)
        close(fd);
    return -1;
}

/* ---- TCP */

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr) >> 24 ==
               127;
    if (address->sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(
            &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
    return false;
}

static void describe(const struct sockaddr *address, socklen_t length, char *out, size_t size)
{
    char host[64] = "?", port[16] = "?";
    bool v6 = address->sa_family == AF_INET6;
    getnameinfo(address, length, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(out, size, "http://%s%s%s:%s", v6 ? "[" : "", host, v6 ? "]" : "", port);
}

static void set_port(struct sockaddr *address, uint32_t port)
{
    if (address->sa_family == AF_INET)
        ((struct sockaddr_in *)(void *)address)->sin_port = htons((uint16_t)port);
    else if (address->sa_family == AF_INET6)
        ((struct sockaddr_in6 *)(void *)address)->sin6_port = htons((uint16_t)port);
}

static uint32_t port_of(const struct sockaddr *address)
{
    return ntohs(address->sa_family == AF_INET6
                     ? ((const struct sockaddr_in6 *)(const void *)address)->sin6_port
                     : ((const struct sockaddr_in *)(const void *)address)->sin_port);
}

/* False with errno. The address is described in both cases. */
static bool open_one(struct listen_socket *s, const struct addrinfo *at, bool alone, uint32_t port)
{
    struct sockaddr_storage storage = {0};
    struct sockaddr *address = (struct sockaddr *)&storage;
    socklen_t length = at->ai_addrlen;
    int one = 1;
    memcpy(address, at->ai_addr, length);
    set_port(address, port);
    describe(address, length, s->address, sizeof s->address);
    s->fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->fd < 0)
        return false;
    /* With other addresses, [::] is for IPv6 only, so that 0.0.0.0 can have a socket too. */
    bool only_v6 = at->ai_family == AF_INET6 && !alone;
    if (setsockopt(s->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        (only_v6 && setsockopt(s->fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one)) ||
        bind(s->fd, address, length) || listen(s->fd, BACKLOG) ||
        getsockname(s->fd, address, &length)) {
        int failure = errno;
        close(s->fd);
        errno = failure;
        return false;
    }
    s->port = port_of(address);
    s->loopback = is_loopback(address);
    describe(address, length, s->address, sizeof s->address);
    return true;
}

/* A name can have the same address twice. */
static bool is_first(const struct addrinfo *all, const struct addrinfo *at)
{
    for (; all != at; all = all->ai_next)
        if (all->ai_addrlen == at->ai_addrlen && !memcmp(all->ai_addr, at->ai_addr, at->ai_addrlen))
            return false;
    return true;
}

static bool is_absent(int failure)
{
    return failure == EADDRNOTAVAIL || failure == EAFNOSUPPORT;
}

/* Listens on one port of all addresses. False with errno: *n sockets are open, and out[*n] failed. */
static bool open_all(const struct addrinfo *all, uint32_t port, struct listen_socket *out,
                     uint32_t *n)
{
    int absent = 0;
    for (const struct addrinfo *at = all; at; at = at->ai_next) {
        if (!is_first(all, at))
            continue;
        if (open_one(&out[*n], at, all->ai_next == NULL, port)) {
            port = out[*n].port;
            ++*n;
        } else if (is_absent(errno)) {
            absent = errno;
            log_line(LOG_WARNING, "%s is left out: %s", out[*n].address, strerror(errno));
        } else {
            return false;
        }
    }
    errno = absent;
    return *n > 0;
}

static struct addrinfo *look_up(const char *host, struct error *e)
{
    struct addrinfo wanted = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    char name[256];
    size_t n = strlen(host);
    bool in_brackets = n > 2 && host[0] == '[' && host[n - 1] == ']'; /* [::1] as in URLs */
    snprintf(name, sizeof name, "%.*s", (int)(in_brackets ? n - 2 : n), host + in_brackets);
    int failure = getaddrinfo(name, NULL, &wanted, &found);
    if (!failure)
        return found;
    error_set(e, "address_error", "--host",
              "--host: '%.100s' is not an address or a known name (%s)", host,
              gai_strerror(failure));
    return NULL;
}

bool listen_addresses(const struct addrinfo *all, uint32_t port, const char *port_flag,
                      struct listen_socket **out, uint32_t *n, struct error *e)
{
    uint32_t most = 0;
    for (const struct addrinfo *at = all; at; at = at->ai_next)
        most++;
    *n = 0;
    *out = calloc(most, sizeof **out);
    if (!*out)
        return error_set_memory(e, "addresses", most * sizeof **out);
    for (int tries = PORT_TRIES;; tries--) {
        if (open_all(all, port, *out, n))
            return true;
        bool again = port == 0 && errno == EADDRINUSE && tries > 1;
        if (!again)
            cannot_listen((*out)[*n].address + strlen("http://"), port_flag, e);
        while (*n)
            close((*out)[--*n].fd);
        if (!again) {
            free(*out);
            *out = NULL;
            return false;
        }
    }
}

bool listen_tcp(const char *host, uint32_t port, const char *port_flag, struct listen_socket **out,
                uint32_t *n, struct error *e)
{
    struct addrinfo *all = look_up(host, e);
    if (!all)
        return false;
    bool ok = listen_addresses(all, port, port_flag, out, n, e);
    freeaddrinfo(all);
    return ok;
}

void listen_close(struct listen_socket *sockets, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (sockets[i].fd >= 0)
            close(sockets[i].fd);
    free(sockets);
}
