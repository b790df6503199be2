/* What libmicrohttpd calls while a request arrives: checks, the body, the call of the route's handler.
 * Loop thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "server/http/auth.h"
#include "server/http/error_reply.h"
#include "server/http/framing.h"
#include "server/http/origin.h"
#include "server/http/router.h"
#include "server/http/transport_private.h"

enum {
    MAX_HEADER_BYTES = 16 * 1024,
    MAX_FIELDS = 200,
    MAX_ARGUMENTS = 64,
    WRONG_KEY_MS = 500,
    /* A body's first bytes are always taken, so that short requests pass while long ones use up
     * --max-body-memory. */
    FREE_BODY_BYTES = 64 * 1024,
    /* Whether libmicrohttpd leaves the head where it was received and only overwrites separators.
     * Later versions check the separators by themselves. They also check chunks, which earlier ones do
     * not do strictly, so a connection is not used again after a chunked body. */
    HEAD_IS_IN_PLACE = MHD_VERSION < 0x00097701
};

static const char *header(struct MHD_Connection *c, const char *name)
{
    return MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
}

static bool id_is_good(const char *id)
{
    size_t n = strlen(id);
    return n >= 1 && n <= 128 &&
           strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-") == n;
}

static void set_id(struct http_request *x)
{
    const char *given = header(x->connection, "X-Request-Id");
    if (given && id_is_good(given)) {
        snprintf(x->id, sizeof x->id, "%s", given);
        return;
    }
    unsigned char bytes[12] = {0};
    if (getrandom(bytes, sizeof bytes, GRND_NONBLOCK) < 0)
        memcpy(bytes, &x->started_ns, sizeof x->started_ns);
    size_t at = (size_t)snprintf(x->id, sizeof x->id, "req-");
    for (size_t i = 0; i < sizeof bytes; i++)
        at += (size_t)snprintf(x->id + at, sizeof x->id - at, "%02x", bytes[i]);
}

/* ---- the head, as it was sent */

struct head {
    struct framing_field fields[MAX_FIELDS];
    size_t n_fields;
    bool too_many;
};

static enum MHD_Result add_field(void *context, enum MHD_ValueKind kind, const char *name,
                                 size_t n_name, const char *value, size_t n_value)
{
    struct head *head = context;
    (void)kind;
    head->too_many = head->n_fields == MAX_FIELDS;
    if (head->too_many)
        return MHD_NO;
    head->fields[head->n_fields++] = (struct framing_field){{name, n_name}, {value, n_value}};
    return MHD_YES;
}

static bool head_fits(struct http_request *x, const char *method, const char *version,
                      struct framing_facts *facts)
{
    const struct link *k = x->link;
    struct head head = {.n_fields = 0};
    MHD_get_connection_values_n(x->connection, MHD_HEADER_KIND, add_field, &head);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    size_t bytes = info ? info->header_size : 0;
    if (head.too_many || bytes > MAX_HEADER_BYTES)
        return error_set(
            &x->refusal, "headers_too_large", "",
            "the request's headers have %zu bytes; at most %d bytes and %d headers are "
            "read",
            bytes, MAX_HEADER_BYTES, MAX_FIELDS);
    if (!k->target)
        return error_set_memory(&x->refusal, "a path", bytes);
    struct framing_head h = {.method = {method, strlen(method)},
                             .target = {k->target, strlen(k->target)},
                             .target_at = k->target_at,
                             .version = {version, strlen(version)},
                             .fields = head.fields,
                             .n_fields = head.n_fields};
    if (HEAD_IS_IN_PLACE && bytes)
        h.end = method + bytes;
    return framing_check(&h, facts, &x->refusal);
}

static bool origin_fits(struct http_request *x)
{
    const struct transport *t = x->transport;
    const char *host = x->host, *origin = header(x->connection, "Origin");
    char shown[80];
    if (!host_is_allowed(t->config, t->loopback, host))
        return error_set(
            &x->refusal, "origin_not_allowed", "",
            "the Host '%s' is not one of this server's names; name it in --allowed-hosts",
            error_excerpt(shown, host, strlen(host)));
    if (!origin_is_allowed(t->config, origin, host))
        return error_set(
            &x->refusal, "origin_not_allowed", "",
            "web pages of '%s' may not call this server; name the origin in --cors-origins",
            error_excerpt(shown, origin, strlen(origin)));
    if (origin && origin_is_listed(t->config, origin))
        x->cors_origin = strdup(origin);
    return true;
}

static bool route_fits(struct http_request *x, const char *method, bool had_v1)
{
    struct transport *t = x->transport;
    const char *tail;
    x->route = router_find(t->routes, t->n_routes, x->path, had_v1, method, &tail);
    if (x->route) {
        x->route_index = (uint32_t)(x->route - t->routes);
        x->tail = strdup(tail);
        if (x->link->listener->metrics_only && strcmp(x->route->path, "/metrics"))
            return error_set(&x->refusal, "not_found", "", "this port serves /metrics only");
        return x->tail || error_set_memory(&x->refusal, "a path", strlen(tail));
    }
    char shown[80];
    const char *hint = router_hint(x->path);
    router_allow(t->routes, t->n_routes, x->path, had_v1, x->allow, sizeof x->allow);
    error_excerpt(shown, x->path, strlen(x->path));
    if (x->allow[0])
        return error_set(&x->refusal, "method_not_allowed", "",
                         "%s does not take %.20s; it takes %s", shown, method, x->allow);
    return error_set(&x->refusal, "not_found", "", "there is no %s here%s%s", shown,
                     hint ? ": " : "", hint ? hint : "");
}

static bool key_fits(struct http_request *x)
{
    const struct config *c = x->transport->config;
    const char *key =
        auth_key_of(header(x->connection, "Authorization"), header(x->connection, "X-Api-Key"),
                    header(x->connection, "Api-Key"));
    x->key = auth_find(c, key, &x->admin);
    bool metrics = !strcmp(x->route->path, "/metrics");
    bool needed = metrics ? c->metrics_require_key : !x->route->public;
    if (!needed || c->n_api_keys == 0 || x->key || x->admin)
        return true;
    x->wrong_key = key != NULL;
    return error_set(&x->refusal, "invalid_api_key", "",
                     key ? "the API key is wrong"
                         : "the API key is missing: send it as 'Authorization: Bearer KEY'");
}

static bool type_fits(struct http_request *x)
{
    const char *type = header(x->connection, "Content-Type"),
               *encoding = header(x->connection, "Content-Encoding");
    char shown[80];
    if (encoding && strcasecmp(encoding, "identity"))
        return error_set(&x->refusal, "unsupported_media_type", "",
                         "the body's Content-Encoding is '%s'; send it as it is",
                         error_excerpt(shown, encoding, strlen(encoding)));
    if (type && !strncasecmp(type, "multipart/", 10))
        return error_set(&x->refusal, "unsupported_media_type", "",
                         "the body is '%s'; send application/json",
                         error_excerpt(shown, type, strlen(type)));
    return true;
}

static bool state_fits(struct http_request *x)
{
    const struct transport *t = x->transport;
    if (!x->route->needs_model)
        return true;
    if (t->draining) {
        error_set(&x->refusal, "draining", "", "the server is shutting down");
        x->refusal.retry_after_ms = 5000;
        return false;
    }
    if (!t->ready) {
        error_set(&x->refusal, "model_loading", "", "the model is still loading (%.0f %%)",
                  t->loading * 100);
        x->refusal.retry_after_ms = 2000;
        return false;
    }
    return true;
}

static bool body_fits(struct http_request *x, uint64_t length)
{
    uint64_t limit = x->transport->config->max_body_bytes;
    if (length <= limit)
        return true;
    return error_set(&x->refusal, "body_too_large", "",
                     "the body has %llu bytes; at most %llu are read (--max-body)",
                     (unsigned long long)length, (unsigned long long)limit);
}

static bool length_fits(struct http_request *x)
{
    const char *length = header(x->connection, "Content-Length");
    return !length || body_fits(x, strtoull(length, NULL, 10));
}

/* The first call for a request: its headers have arrived. */
static struct http_request *http_request_new(struct link *k, const char *method,
                                             const char *version)
{
    struct transport *t = k->transport;
    struct http_request *x = calloc(1, sizeof *x);
    struct framing_facts facts;
    bool had_v1 = false;
    if (!x)
        return NULL;
    x->transport = t;
    x->link = k;
    x->connection = k->connection;
    x->route_index = t->n_routes;
    x->started_ns = uv_hrtime();
    x->method = method;
    x->expects_continue = header(k->connection, "Expect") != NULL;
    k->http_request = x;
    k->since_ns = x->started_ns;
    t->n_http_requests++;
    k->reading = true; /* its body; the time for it begins now */
    k->kept = false;
    set_id(x);
    if (!head_fits(x, method, version, &facts)) {
        x->close = true;
        return x;
    }
    x->close = facts.chunked && HEAD_IS_IN_PLACE;
    x->path = router_normalise(facts.path.at, facts.path.length, t->config->api_prefix, &had_v1,
                               &x->refusal);
    if (facts.host.at && !(x->host = strndup(facts.host.at, facts.host.length)))
        error_set_memory(&x->refusal, "a host's name", facts.host.length);
    if (x->refusal.code[0])
        return x;
    x->lacks_slash = facts.path.length == strlen(t->config->api_prefix) &&
                     !memcmp(facts.path.at, t->config->api_prefix, facts.path.length);
    if (!origin_fits(x))
        return x;
    if (!strcmp(method, "OPTIONS")) {
        router_allow(t->routes, t->n_routes, x->path, had_v1, x->allow, sizeof x->allow);
        return x;
    }
    (void)(route_fits(x, method, had_v1) && key_fits(x) && type_fits(x) && state_fits(x) &&
           length_fits(x));
    return x;
}

/* Counts the bytes of all bodies together: connections that send large bodies slowly must not take the
 * machine's memory. */
static bool memory_fits(struct http_request *x)
{
    struct transport_counts *c = &x->transport->counts;
    if (x->n_body <= FREE_BODY_BYTES)
        return true;
    uint64_t more = x->n_body - FREE_BODY_BYTES - x->n_held;
    if (c->body_bytes + more <= c->body_bytes_max) {
        c->body_bytes += more;
        x->n_held += more;
        return true;
    }
    error_set(&x->refusal, "body_memory_full", "",
              "the bodies of unfinished requests fill %llu bytes; send this one again later "
              "(--max-body-memory)",
              (unsigned long long)c->body_bytes_max);
    x->refusal.retry_after_ms = 2000;
    return false;
}

/* Collects the body. After a refusal the bytes are read and dropped, because many clients read the
 * answer only after they have sent everything. */
static enum MHD_Result take_body(struct http_request *x, const char *bytes, size_t n)
{
    x->n_body += n;
    if (x->refusal.code[0] || !body_fits(x, x->n_body) || !memory_fits(x)) {
        http_request_release_body(x);
        bytes_clear(&x->body);
        return x->n_body > 2 * x->transport->config->max_body_bytes ? MHD_NO : MHD_YES;
    }
    /* A NUL follows the last byte. It is not counted, and the next bytes overwrite it. */
    if (!bytes_reserve(&x->body, n + 1)) {
        error_set_memory(&x->refusal, "the body", x->n_body);
        return MHD_YES;
    }
    bytes_add(&x->body, bytes, n);
    x->body.data[x->body.length] = 0;
    return MHD_YES;
}

static void answer_options(struct http_request *x)
{
    http_request_add_header(x, "Allow", x->allow[0] ? x->allow : "GET, HEAD, POST, OPTIONS");
    if (x->cors_origin) {
        http_request_add_header(x, "Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS");
        http_request_add_header(x, "Access-Control-Allow-Headers", "*, Authorization");
        http_request_add_header(x, "Access-Control-Max-Age", "600");
    }
    http_request_reply(x, 204, NULL, "", 0);
}

static void refuse(struct http_request *x)
{
    unsigned status = error_status(&x->refusal);
    if (status == 405)
        http_request_add_header(x, "Allow", x->allow);
    if (status == 413)
        x->close = true;
    http_request_reply_error(x, &x->refusal);
}

static void refuse_now(uv_timer_t *timer)
{
    struct http_request *x = timer->data;
    stream_close_timer(&x->stream);
    refuse(x);
}

/* Who tries keys gets two answers a second on each connection. False: there is no timer. */
static bool refuse_later(struct http_request *x)
{
    struct stream *s = &x->stream; /* its timer is closed when the request ends */
    s->ping = malloc(sizeof *s->ping);
    if (!s->ping)
        return false;
    uv_timer_init(x->transport->loop, s->ping);
    s->ping->data = x;
    uv_timer_start(s->ping, refuse_now, WRONG_KEY_MS, 0);
    return true;
}

/* The request is complete, or was refused before its body: answers it or calls the route. */
static enum MHD_Result dispatch(struct http_request *x)
{
    x->dispatched = true;
    x->link->reading = false;
    x->in_handler = true;
    if (x->wrong_key && refuse_later(x))
        ;
    else if (x->refusal.code[0])
        refuse(x);
    else if (!x->route)
        answer_options(x);
    else
        x->route->handler(x, x->route->context);
    x->in_handler = false;
    if (x->answered || x->stream.committed)
        return http_request_queue(x);
    x->suspended = true;
    MHD_suspend_connection(x->connection);
    link_watch(x->link);
    return MHD_YES;
}

/* libmicrohttpd makes each argument of a query an entry in the connection's memory, and does not answer
 * at all when that is full. What follows the last argument that any endpoint could read is cut off. */
static void cut_arguments(char *target)
{
    char *at = strchr(target, '?');
    for (int n = 0; at && (at = strchr(at + 1, '&'));)
        if (++n == MAX_ARGUMENTS) {
            *at = 0;
            return;
        }
}

/* The first line has arrived. libmicrohttpd decodes the target in place afterwards. */
void *transport_target(void *context, const char *target, struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct link *k = info ? info->socket_context : NULL;
    (void)context;
    if (!k || !target)
        return NULL;
    free(k->target);
    k->target = strdup(target);
    k->target_at = target;
    k->kept = false;
    cut_arguments((char *)(uintptr_t)target);
    return NULL;
}

enum MHD_Result transport_access(void *context, struct MHD_Connection *connection, const char *url,
                                 const char *method, const char *version, const char *upload,
                                 size_t *upload_size, void **slot)
{
    struct http_request *x = *slot;
    (void)context;
    (void)url;
    if (!x) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        struct link *k = info ? info->socket_context : NULL;
        x = k ? http_request_new(k, method, version) : NULL;
        *slot = x;
        if (!x)
            return MHD_NO;
        /* libmicrohttpd closes the connection after an answer that comes before the body. */
        bool unreadable = x->close && !x->path;
        bool early = x->refusal.code[0] &&
                     (x->expects_continue || unreadable || error_status(&x->refusal) == 413);
        return early ? dispatch(x) : MHD_YES;
    }
    if (*upload_size) {
        size_t n = *upload_size;
        *upload_size = 0;
        return take_body(x, upload, n);
    }
    if (x->gone)
        return MHD_NO;
    return x->dispatched ? http_request_queue(x) : dispatch(x);
}

void transport_completed(void *context, struct MHD_Connection *connection, void **slot,
                         enum MHD_RequestTerminationCode code)
{
    struct http_request *x = *slot;
    (void)context;
    (void)connection;
    if (!x)
        return;
    *slot = NULL;
    bool whole = code == MHD_REQUEST_TERMINATED_COMPLETED_OK && !x->gone;
    bool decided = x->stream.open ? x->stream.ended : x->answered;
    enum http_request_end end = whole || decided ? HTTP_REQUEST_ANSWERED
                                : code == MHD_REQUEST_TERMINATED_DAEMON_SHUTDOWN
                                    ? HTTP_REQUEST_STOPPED
                                    : HTTP_REQUEST_CLIENT_LEFT;
    /* the time for the next request on this connection begins */
    x->link->reading = x->link->kept = true;
    x->link->since_ns = uv_hrtime();
    free(x->link->target);
    x->link->target = NULL;
    http_request_finish(x, end);
    access_log(x, whole ? "answered" : decided ? "closed" : "client_closed");
    http_request_free(x);
}

void transport_connection(void *context, struct MHD_Connection *connection, void **slot,
                          enum MHD_ConnectionNotificationCode code)
{
    struct listener *l = context;
    struct transport *t = l->transport;
    struct link *k = *slot;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        k = calloc(1, sizeof *k);
        if (!k)
            return; /* without a link, the first request closes the connection */
        k->transport = t;
        k->listener = l;
        k->connection = connection;
        k->fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        k->since_ns = uv_hrtime();
        k->reading = true;
        LIST_INSERT_HEAD(&t->links, k, entry);
        t->counts.connections_open = ++t->n_links;
        *slot = k;
        return;
    }
    if (!k)
        return;
    LIST_REMOVE(k, entry);
    t->counts.connections_open = --t->n_links;
    *slot = NULL;
    listener_again(k->listener); /* which may have stopped to accept, at a limit */
    link_close(k);
    free(k->target);
    free(k);
}
