/* Listeners, and libmicrohttpd on the libuv loop: see transport.h. Loop thread. */
#include "server/http/transport.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    /* libmicrohttpd's pool of a connection holds the request's header block, which is limited to 16
     * KiB by request.c with an answer of ours, and the buffers for writing. */
    CONNECTION_MEMORY = 64 * 1024,
    BACKLOG = 511
};

static void run_daemon(struct listener *l);

static void on_epoll(uv_poll_t *handle, int status, int events)
{
    (void)status;
    (void)events;
    run_daemon(handle->data);
}

static void on_timeout(uv_timer_t *handle)
{
    run_daemon(handle->data);
}

static void on_again(uv_idle_t *handle)
{
    uv_idle_stop(handle);
    run_daemon(handle->data);
}

static void run_daemon(struct listener *l)
{
    MHD_UNSIGNED_LONG_LONG ms;
    if (!l->open)
        return;
    MHD_run(l->daemon);
    if (MHD_get_timeout(l->daemon, &ms) != MHD_YES)
        uv_timer_stop(&l->timer);
    else if (ms == 0)
        listener_again(l);
    else
        uv_timer_start(&l->timer, on_timeout, ms, 0);
}

void listener_again(struct listener *l)
{
    if (l->open)
        uv_idle_start(&l->again, on_again);
}

static enum MHD_Result accept_policy(void *context, const struct sockaddr *address,
                                     socklen_t length)
{
    struct listener *l = context;
    struct transport *t = l->transport;
    (void)address;
    (void)length;
    if (t->n_links < t->config->max_connections)
        return MHD_YES;
    t->counts.connections_refused++;
    return MHD_NO;
}

static void log_from_daemon(void *context, const char *format, va_list arguments)
{
    char line[256];
    (void)context;
    vsnprintf(line, sizeof line, format, arguments);
    size_t n = strlen(line);
    while (n && line[n - 1] == '\n')
        line[--n] = 0;
    log_line(LOG_DEBUG, "libmicrohttpd: %s", line);
}

/* ---- sockets
 * --------------------------------------------------------------------------------------------- */

static bool cannot_listen(const char *address, struct error *e)
{
    if (errno == EADDRINUSE)
        return error_set(e, "address_in_use", "--port",
                         "%s is in use by another program; choose another with --port", address);
    return error_set(e, "address_error", "--host", "cannot listen on %s: %s", address,
                     strerror(errno));
}

/* A leftover socket file is removed, one that somebody answers on is not. */
static int listen_unix(struct transport *t, const char *path, struct error *e)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat status;
    if (strlen(path) == 0 || strlen(path) >= sizeof address.sun_path) {
        error_set(e, "invalid_value", "--host", "--host: a Unix socket's path has 1 to %zu bytes",
                  sizeof address.sun_path - 1);
        return -1;
    }
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        cannot_listen(path, e);
        return -1;
    }
    if (!lstat(path, &status)) {
        if (!S_ISSOCK(status.st_mode)) {
            error_set(e, "address_in_use", "--host", "%s exists and is not a socket", path);
            goto fail;
        }
        if (!connect(fd, (struct sockaddr *)&address, sizeof address) || errno != ECONNREFUSED) {
            errno = EADDRINUSE;
            cannot_listen(path, e);
            goto fail;
        }
        unlink(path);
        close(fd);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    }
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, BACKLOG)) {
        cannot_listen(path, e);
        goto fail;
    }
    snprintf(t->unix_path, sizeof t->unix_path, "%s", path);
    return fd;
fail:
    if (fd >= 0)
        close(fd);
    return -1;
}

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

/* What the socket is really bound to (the port may have been 0), as a URL. */
static void describe(int fd, struct listener *l, bool *loopback)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    char host[64] = "?", port[16] = "?";
    getsockname(fd, (struct sockaddr *)&address, &length);
    getnameinfo((struct sockaddr *)&address, length, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    bool v6 = address.ss_family == AF_INET6;
    snprintf(l->address, sizeof l->address, "http://%s%s%s:%s", v6 ? "[" : "", host, v6 ? "]" : "",
             port);
    *loopback = is_loopback((struct sockaddr *)&address);
}

static int listen_tcp(struct listener *l, const char *host, uint32_t port, bool *loopback,
                      struct error *e)
{
    struct addrinfo wanted = {.ai_family = AF_UNSPEC,
                              .ai_socktype = SOCK_STREAM,
                              .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    char service[16], shown[128];
    int one = 1, fd = -1;
    snprintf(service, sizeof service, "%u", port);
    snprintf(shown, sizeof shown, "%.100s:%u", host, port);
    size_t n = strlen(host);
    char name[256];
    snprintf(name, sizeof name, "%s", host);
    if (n > 2 && host[0] == '[' && host[n - 1] == ']') /* [::1] as in URLs */
        snprintf(name, sizeof name, "%.*s", (int)(n - 2), host + 1);
    int failure = getaddrinfo(name, service, &wanted, &found);
    if (failure) {
        error_set(e, "address_error", "--host",
                  "--host: '%.100s' is not an address or a known name (%s)", host,
                  gai_strerror(failure));
        return -1;
    }
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        bind(fd, found->ai_addr, found->ai_addrlen) || listen(fd, BACKLOG)) {
        cannot_listen(shown, e);
        if (fd >= 0)
            close(fd);
        freeaddrinfo(found);
        return -1;
    }
    freeaddrinfo(found);
    describe(fd, l, loopback);
    return fd;
}

static bool listener_open(struct listener *l, int fd, struct error *e)
{
    struct transport *t = l->transport;
    /* libmicrohttpd's silent close comes after the sweep's 408, which has a second's grain */
    uint64_t ms = t->config->http_timeout_ms;
    unsigned timeout = ms ? (unsigned)((ms + 2999) / 1000) : 0;
    l->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, accept_policy, l,
        transport_access, l, MHD_OPTION_EXTERNAL_LOGGER, log_from_daemon, NULL,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, t->config->max_connections + 16,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
        MHD_OPTION_CONNECTION_TIMEOUT, timeout, MHD_OPTION_NOTIFY_COMPLETED, transport_completed, l,
        MHD_OPTION_NOTIFY_CONNECTION, transport_connection, l, MHD_OPTION_END);
    if (!l->daemon) {
        close(fd);
        return error_set(e, "address_error", "--host", "the HTTP server could not be started");
    }
    int epoll = MHD_get_daemon_info(l->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    uv_poll_init(t->loop, &l->poll, epoll);
    uv_timer_init(t->loop, &l->timer);
    uv_idle_init(t->loop, &l->again);
    l->poll.data = l->timer.data = l->again.data = l;
    l->open = true;
    uv_poll_start(&l->poll, UV_READABLE, on_epoll);
    return true;
}

/* ---- the sweep
 * --------------------------------------------------------------------------------------------- */

/* A request that does not arrive in time gets its 408 written past libmicrohttpd, which can answer
 * only after it has read the request; the socket is shut then, so that it sees the end. */
static void end_slow_request(struct link *k)
{
    static const char answer[] =
        "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nContent-Length: "
        "153\r\nConnection: close\r\n\r\n"
        "{\"error\":{\"message\":\"the request did not arrive in time "
        "(--http-timeout)\",\"type\":\"timeout_error\",\"param\":null,"
        "\"code\":\"request_read_timeout\"}}     \n";
    k->reading = false;
    ssize_t written = send(k->fd, answer, sizeof answer - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)written; /* the client has had its time */
    shutdown(k->fd, SHUT_RDWR);
    transport_count_rejected(k->transport, "request_read_timeout");
    listener_again(k->listener);
}

static void on_sweep(uv_timer_t *timer)
{
    struct transport *t = timer->data;
    uint64_t now = uv_hrtime(), limit = t->config->http_timeout_ms * 1000000;
    for (struct link *k = t->links; limit && k; k = k->next)
        if (k->reading && now - k->since_ns > limit)
            end_slow_request(k);
}

/* ---- life
 * ----------------------------------------------------------------------------------------------------
 */

struct transport *transport_new(const struct config *c, uv_loop_t *loop, const struct route *routes,
                                uint32_t n_routes, struct error *e)
{
    struct transport *t = calloc(1, sizeof *t);
    bool ignored;
    if (!t) {
        error_set_memory(e, "the transport", sizeof *t);
        return NULL;
    }
    *t = (struct transport){.config = c, .loop = loop, .routes = routes, .n_routes = n_routes};
    t->main.transport = t->metrics.transport = t;
    t->metrics.metrics_only = true;
    int fd;
    if (!strncmp(c->host, "unix:", 5)) {
        fd = listen_unix(t, c->host + 5, e);
        snprintf(t->main.address, sizeof t->main.address, "%.150s", c->host);
    } else {
        fd = listen_tcp(&t->main, c->host, c->port, &t->loopback, e);
    }
    if (fd < 0 || !listener_open(&t->main, fd, e)) {
        free(t);
        return NULL;
    }
    const char *metrics_host = t->unix_path[0] ? "127.0.0.1" : c->host;
    if (c->metrics_port &&
        ((fd = listen_tcp(&t->metrics, metrics_host, c->metrics_port, &ignored, e)) < 0 ||
         !listener_open(&t->metrics, fd, e))) {
        transport_close(t);
        uv_run(loop, UV_RUN_DEFAULT);
        return NULL;
    }
    uv_timer_init(loop, &t->sweep);
    t->sweep.data = t;
    t->sweep_open = true;
    uv_timer_start(&t->sweep, on_sweep, 1000, 1000);
    return t;
}

static void maybe_free(struct transport *t)
{
    if (t->stopping && !t->main.closing && !t->metrics.closing && !t->sweep_open)
        free(t);
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct listener *l = handle->data;
    l->closing--;
    maybe_free(l->transport);
}

static void on_sweep_closed(uv_handle_t *handle)
{
    struct transport *t = handle->data;
    t->sweep_open = false;
    maybe_free(t);
}

static void listener_close(struct listener *l)
{
    if (!l->open)
        return;
    uv_poll_stop(&l->poll);
    l->closing = 3;
    uv_close((uv_handle_t *)&l->poll, on_listener_closed);
    uv_close((uv_handle_t *)&l->timer, on_listener_closed);
    uv_close((uv_handle_t *)&l->again, on_listener_closed);
    l->open = false;
    MHD_stop_daemon(l->daemon); /* closes the connections, with transport_completed for each */
}

void transport_close(struct transport *t)
{
    /* libmicrohttpd wants every suspended connection resumed before the daemon stops. */
    for (struct link *k = t->links; k; k = k->next)
        if (k->http_request)
            http_request_hang_up(k->http_request, HTTP_REQUEST_STOPPED);
    if (t->main.open)
        MHD_run(t->main.daemon);
    listener_close(&t->main);
    listener_close(&t->metrics);
    if (t->unix_path[0])
        unlink(t->unix_path);
    t->stopping = true;
    if (t->sweep_open)
        uv_close((uv_handle_t *)&t->sweep, on_sweep_closed);
}

void transport_set_ready(struct transport *t, bool ready)
{
    t->ready = ready;
}

void transport_set_loading(struct transport *t, double share)
{
    t->loading = share;
}

void transport_set_draining(struct transport *t)
{
    t->draining = true;
}

uint32_t transport_running(const struct transport *t)
{
    return t->n_http_requests;
}

const char *transport_address(const struct transport *t)
{
    return t->main.address;
}

void transport_count_rejected(struct transport *t, const char *reason)
{
    for (size_t i = 0; i < sizeof t->counts.rejected / sizeof *t->counts.rejected; i++) {
        if (!t->counts.rejected[i].reason[0])
            snprintf(t->counts.rejected[i].reason, sizeof t->counts.rejected[i].reason, "%s",
                     reason);
        if (!strcmp(t->counts.rejected[i].reason, reason)) {
            t->counts.rejected[i].count++;
            return;
        }
    }
}
