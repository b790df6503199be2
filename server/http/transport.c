/* Listeners, and libmicrohttpd on the libuv loop: see transport.h. Loop thread. */
#include "server/http/transport_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/http/descriptors.h"
#include "server/http/error_reply.h"
#include "server/http/tls.h"

enum {
    /* libmicrohttpd's memory per connection: the request's headers, which transport_request.c limits to
     * 16 KiB, and the buffers for writing. */
    CONNECTION_MEMORY = 64 * 1024,
    HANDLES_OF_A_LISTENER = 3
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
    if (!l->daemon)
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
    if (l->daemon)
        uv_idle_start(&l->again, on_again);
}

static enum MHD_Result accept_policy(void *context, const struct sockaddr *address,
                                     socklen_t length)
{
    struct listener *l = context;
    struct transport *t = l->transport;
    (void)address;
    (void)length;
    if (t->n_links < t->max_links)
        return MHD_YES;
    t->counts.connections_refused++;
    return MHD_NO;
}

/* Past libmicrohttpd. It may be cut off when the socket's buffer is full: the client had its chance. */
static void write_raw(struct link *k, const char *text, size_t length)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(k->connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    ssize_t written;
    if (info && info->tls_session) /* before the end of the handshake this does nothing */
        written = gnutls_record_send(info->tls_session, text, length);
    else
        written = send(k->fd, text, length, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)written;
}

/* Ends a connection with an answer of ours while its request is being read. */
static void answer_raw(struct link *k, const struct error *e, const char *reason)
{
    char answer[512];
    size_t length = error_raw_answer(e, reason, answer, sizeof answer);
    k->reading = false;
    write_raw(k, answer, length);
    shutdown(k->fd, SHUT_RDWR); /* libmicrohttpd notices it */
    transport_count_rejected(k->transport, e->code);
    listener_again(k->listener);
}

/* libmicrohttpd is about to answer a request that it could not read, with a page in HTML. It does not
 * say which connection that is, so an answer of ours goes first only where there is no doubt: one
 * connection is being read. */
static void answer_instead(struct listener *l, unsigned status)
{
    static const struct {
        unsigned status;
        const char *code, *reason;
    } rows[] = {{413, "body_too_large", "Content Too Large"},
                {414, "uri_too_long", "URI Too Long"},
                {431, "headers_too_large", "Request Header Fields Too Large"},
                {505, "http_version_not_supported", "HTTP Version Not Supported"},
                {400, "bad_framing", "Bad Request"}};
    struct link *k, *only = NULL;
    struct error e;
    uint32_t n = 0;
    size_t i = 0;
    bool in_first_line = status == 414 || status == 505;
    LIST_FOREACH(k, &l->transport->links, entry)
    if (k->listener == l && k->reading && !k->target == in_first_line) {
        only = k;
        n++;
    }
    while (rows[i].status != status && rows[i].status != 400)
        i++;
    if (n != 1 || rows[i].status != status)
        return;
    error_set(&e, rows[i].code, "", "the request is not valid HTTP: %s",
              status == 400 ? "a header or a chunk cannot be read" : rows[i].reason);
    answer_raw(only, &e, rows[i].reason);
}

static void log_from_daemon(void *context, const char *format, va_list arguments)
{
    static const char refused[] = "Error processing request (HTTP response code is %u";
    char line[256];
    va_list again;
    va_copy(again, arguments);
    vsnprintf(line, sizeof line, format, arguments);
    size_t n = strlen(line);
    while (n && line[n - 1] == '\n')
        line[--n] = 0;
    log_line(LOG_DEBUG, "libmicrohttpd: %s", line);
    if (!strncmp(format, refused, strlen(refused)))
        answer_instead(context, va_arg(again, unsigned));
    va_end(again);
}

static bool listener_open(struct listener *l, struct error *e)
{
    struct transport *t = l->transport;
    /* libmicrohttpd closes without an answer, so it must be later than the sweep, which runs once a
     * second and answers 408 */
    uint64_t ms = t->config->http_timeout_ms;
    unsigned timeout = ms ? (unsigned)((ms + 2999) / 1000) : 0;
    bool tls = t->tls && l->socket.port;
    struct MHD_OptionItem secure[] = {
        {MHD_OPTION_HTTPS_CERT_CALLBACK, 0, (void *)(uintptr_t)tls_choose},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t)TLS_PRIORITIES},
        {MHD_OPTION_END, 0, NULL}};
    struct MHD_OptionItem strict[] = {
#if MHD_VERSION >= 0x00097701 /* it then refuses more of what framing.h names by itself */
        {MHD_OPTION_CLIENT_DISCIPLINE_LVL, 1, NULL},
#endif
        {MHD_OPTION_END, 0, NULL}
    };
    l->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG | (tls ? MHD_USE_TLS : 0), 0,
        accept_policy, l, transport_access, l, MHD_OPTION_EXTERNAL_LOGGER, log_from_daemon, l,
        MHD_OPTION_LISTEN_SOCKET, l->socket.fd, MHD_OPTION_CONNECTION_LIMIT, t->max_links + 16,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
        MHD_OPTION_CONNECTION_TIMEOUT, timeout, MHD_OPTION_URI_LOG_CALLBACK, transport_target, l,
        MHD_OPTION_NOTIFY_COMPLETED, transport_completed, l, MHD_OPTION_NOTIFY_CONNECTION,
        transport_connection, l, MHD_OPTION_ARRAY, strict, MHD_OPTION_ARRAY,
        tls ? secure : secure + 2, MHD_OPTION_END);
    if (!l->daemon)
        return error_set(e, "address_error", "--host", "the HTTP server could not be started");
    l->socket.fd = -1; /* the daemon owns it now */
    int epoll = MHD_get_daemon_info(l->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    uv_poll_init(t->loop, &l->poll, epoll);
    uv_timer_init(t->loop, &l->timer);
    uv_idle_init(t->loop, &l->again);
    t->n_handles += HANDLES_OF_A_LISTENER;
    l->poll.data = l->timer.data = l->again.data = l;
    uv_poll_start(&l->poll, UV_READABLE, on_epoll);
    return true;
}

/* ---- the sweep */

/* libmicrohttpd can only answer requests that it has read, so the 408 goes past it. A kept connection on
 * which nothing has arrived ends without a word: its client might take a 408 for the answer to a request
 * that it is just sending. */
static void end_slow_request(struct link *k)
{
    struct error e;
    if (k->kept) {
        k->reading = false;
        shutdown(k->fd, SHUT_RDWR);
        listener_again(k->listener);
        return;
    }
    error_set(&e, "request_read_timeout", "",
              "the request did not arrive in time (--http-timeout)");
    answer_raw(k, &e, "Request Timeout");
}

static void on_sweep(uv_timer_t *timer)
{
    struct transport *t = timer->data;
    struct link *k;
    uint64_t now = uv_hrtime(), limit = t->config->http_timeout_ms * 1000000;
    LIST_FOREACH(k, &t->links, entry)
    if (limit && k->reading && now - k->since_ns > limit)
        end_slow_request(k);
    /* It listens again after descriptors ran out, which may have been those of somebody else. */
    for (uint32_t i = 0; i < t->n_listeners; i++)
        listener_again(&t->listeners[i]);
}

/* ---- life */

static bool add_sockets(struct transport *t, struct listen_socket *sockets, uint32_t n,
                        bool metrics_only, struct error *e)
{
    struct listener *grown = realloc(t->listeners, (t->n_listeners + n) * sizeof *t->listeners);
    if (!grown) {
        listen_close(sockets, n);
        return error_set_memory(e, "listeners", n * sizeof *grown);
    }
    t->listeners = grown;
    for (uint32_t i = 0; i < n; i++) {
        struct listener *l = &t->listeners[t->n_listeners++];
        *l = (struct listener){.transport = t, .socket = sockets[i], .metrics_only = metrics_only};
        if (t->tls && l->socket.port)
            snprintf(l->socket.address, sizeof l->socket.address, "https%.150s",
                     sockets[i].address + strlen("http"));
    }
    free(sockets);
    return true;
}

/* Opens all sockets before any handle is on the loop. */
static bool open_sockets(struct transport *t, struct error *e)
{
    const struct config *c = t->config;
    const char *metrics_host = c->host;
    struct listen_socket *sockets;
    uint32_t n = 1;
    if (!strncmp(c->host, "unix:", 5)) {
        const char *path = c->host + 5;
        metrics_host = "127.0.0.1";
        if (!(sockets = calloc(1, sizeof *sockets)))
            return error_set_memory(e, "a socket", sizeof *sockets);
        snprintf(sockets->address, sizeof sockets->address, "%.150s", c->host);
        if ((sockets->fd = listen_unix(path, e)) < 0) {
            free(sockets);
            return false;
        }
        snprintf(t->unix_path, sizeof t->unix_path, "%s", path);
    } else if (!listen_tcp(c->host, c->port, "--port", &sockets, &n, e)) {
        return false;
    }
    if (!add_sockets(t, sockets, n, false, e))
        return false;
    t->n_addresses = n;
    t->loopback = true;
    for (uint32_t i = 0; i < n; i++)
        t->loopback = t->loopback && t->listeners[i].socket.loopback;
    return !c->metrics_port ||
           (listen_tcp(metrics_host, c->metrics_port, "--metrics-port", &sockets, &n, e) &&
            add_sockets(t, sockets, n, true, e));
}

struct transport *transport_new(const struct config *c, uv_loop_t *loop, const struct route *routes,
                                uint32_t n_routes, struct error *e)
{
    struct transport *t = calloc(1, sizeof *t);
    if (!t) {
        error_set_memory(e, "the transport", sizeof *t);
        return NULL;
    }
    *t = (struct transport){.config = c, .loop = loop, .routes = routes, .n_routes = n_routes};
    LIST_INIT(&t->links);
    t->max_links = descriptors_for(c->max_connections);
    t->counts.body_bytes_max = c->max_body_memory;
    t->tls = c->tls_cert != NULL;
    bool ok = (!t->tls || tls_load(c->tls_cert, c->tls_key, e)) && open_sockets(t, e);
    for (uint32_t i = 0; ok && i < t->n_listeners; i++)
        ok = listener_open(&t->listeners[i], e);
    if (!ok) {
        transport_close(t);
        return NULL;
    }
    uv_timer_init(loop, &t->sweep);
    t->n_handles++;
    t->sweep.data = t;
    uv_timer_start(&t->sweep, on_sweep, 1000, 1000);
    return t;
}

static void maybe_free(struct transport *t)
{
    if (!t->stopping || t->n_handles)
        return;
    tls_clear();
    free(t->listeners);
    free(t);
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct transport *t = ((struct listener *)handle->data)->transport;
    t->n_handles--;
    maybe_free(t);
}

static void on_sweep_closed(uv_handle_t *handle)
{
    struct transport *t = handle->data;
    t->n_handles--;
    maybe_free(t);
}

static void listener_close(struct listener *l)
{
    struct MHD_Daemon *daemon = l->daemon;
    if (l->socket.fd >= 0)
        close(l->socket.fd);
    if (!daemon)
        return;
    uv_poll_stop(&l->poll);
    uv_close((uv_handle_t *)&l->poll, on_listener_closed);
    uv_close((uv_handle_t *)&l->timer, on_listener_closed);
    uv_close((uv_handle_t *)&l->again, on_listener_closed);
    l->daemon = NULL;
    MHD_stop_daemon(daemon); /* closes the connections, with transport_completed for each */
}

void transport_close(struct transport *t)
{
    struct link *k;
    /* libmicrohttpd requires that every suspended connection is resumed before the daemon stops. */
    LIST_FOREACH(k, &t->links, entry)
    if (k->http_request)
        http_request_hang_up(k->http_request, HTTP_REQUEST_STOPPED);
    for (uint32_t i = 0; i < t->n_listeners; i++) {
        if (t->listeners[i].daemon)
            MHD_run(t->listeners[i].daemon);
        listener_close(&t->listeners[i]);
    }
    if (t->unix_path[0])
        unlink(t->unix_path);
    t->stopping = true;
    if (t->sweep.data)
        uv_close((uv_handle_t *)&t->sweep, on_sweep_closed);
    else
        maybe_free(t);
}

bool transport_reload_tls(struct transport *t, struct error *e)
{
    return tls_load(t->config->tls_cert, t->config->tls_key, e);
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

bool transport_is_ready(const struct transport *t)
{
    return t->ready;
}

bool transport_is_draining(const struct transport *t)
{
    return t->draining;
}

double transport_loading(const struct transport *t)
{
    return t->loading;
}

uint32_t transport_n_addresses(const struct transport *t)
{
    return t->n_addresses;
}

const char *transport_address(const struct transport *t, uint32_t index)
{
    return t->listeners[index].socket.address;
}

bool transport_is_local(const struct transport *t)
{
    return t->loopback || t->unix_path[0];
}

const struct transport_counts *transport_counts(const struct transport *t)
{
    return &t->counts;
}

const char *transport_endpoint(const struct transport *t, uint32_t row)
{
    return row < t->n_routes ? t->routes[row].name : "other";
}

void transport_count_rejected(struct transport *t, const char *reason)
{
    for (uint32_t i = 0; i < MAX_REASONS; i++) {
        if (!t->counts.rejected[i].reason[0])
            snprintf(t->counts.rejected[i].reason, sizeof t->counts.rejected[i].reason, "%s",
                     reason);
        if (!strcmp(t->counts.rejected[i].reason, reason)) {
            t->counts.rejected[i].count++;
            return;
        }
    }
}
