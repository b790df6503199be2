/* One request and its answer: see http_request.h. Loop thread.
 *
 * libmicrohttpd takes an answer only in its access handler. If the handler is not running, the
 * connection is resumed, which makes libmicrohttpd call it again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <netinet/in.h>

#include "server/http/error_reply.h"
#include "server/http/sse.h"
#include "server/http/transport_private.h"

const char *http_request_id(const struct http_request *x)
{
    return x->id;
}

const char *http_request_method(const struct http_request *x)
{
    return x->method;
}

const char *http_request_path(const struct http_request *x)
{
    return x->path;
}

const char *http_request_path_tail(const struct http_request *x)
{
    return x->tail ? x->tail : "";
}

bool http_request_lacks_slash(const struct http_request *x)
{
    return x->lacks_slash;
}

const char *http_request_query(const struct http_request *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_GET_ARGUMENT_KIND, name);
}

const char *http_request_header(const struct http_request *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

const char *http_request_body(const struct http_request *x, size_t *length)
{
    *length = x->body.length;
    return x->body.data ? x->body.data : "";
}

void http_request_release_body(struct http_request *x)
{
    x->transport->counts.body_bytes -= x->n_held;
    x->n_held = 0;
}

char *http_request_take_body(struct http_request *x, size_t *length)
{
    char *body = x->body.data ? x->body.data : calloc(1, 1);
    *length = x->body.length;
    http_request_release_body(x);
    x->body = (struct bytes){0};
    return body;
}

uint32_t http_request_key(const struct http_request *x)
{
    return x->key;
}

uint64_t http_request_caller(const struct http_request *x)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *address = info ? info->client_addr : NULL;
    uint64_t caller = 0;
    if (x->key || !address)
        return x->key;
    if (address->sa_family == AF_INET)
        caller = ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr);
    else if (address->sa_family == AF_INET6)
        memcpy(&caller, ((const struct sockaddr_in6 *)(const void *)address)->sin6_addr.s6_addr,
               sizeof caller);
    return caller ^ UINT64_C(1) << 63; /* not the number of a key */
}

bool http_request_is_admin(const struct http_request *x)
{
    return x->admin;
}

uint64_t http_request_started_ns(const struct http_request *x)
{
    return x->started_ns;
}

uv_loop_t *http_request_loop(const struct http_request *x)
{
    return x->transport->loop;
}

bool http_request_draining(const struct http_request *x)
{
    return x->transport->draining;
}

void http_request_set_context(struct http_request *x, void *context,
                              void (*on_end)(void *, enum http_request_end))
{
    x->context = context;
    x->on_end = on_end;
}

void http_request_log_tokens(struct http_request *x, uint32_t prompt_tokens,
                             uint32_t completion_tokens, const char *policy, const char *finish)
{
    x->prompt_tokens = prompt_tokens;
    x->completion_tokens = completion_tokens;
    snprintf(x->policy, sizeof x->policy, "%s", policy ? policy : "");
    snprintf(x->finish, sizeof x->finish, "%s", finish ? finish : "");
    x->has_tokens = true;
}

void http_request_log_error(struct http_request *x, const struct error *e)
{
    if (!x->refusal.code[0])
        x->refusal = *e;
}

void http_request_add_header(struct http_request *x, const char *name, const char *value)
{
    if (x->answered || x->stream.committed ||
        x->n_headers == sizeof x->headers / sizeof *x->headers || strpbrk(value, "\r\n"))
        return;
    snprintf(x->headers[x->n_headers].name, sizeof x->headers[0].name, "%s", name);
    snprintf(x->headers[x->n_headers].value, sizeof x->headers[0].value, "%s", value);
    x->n_headers++;
}

/* ---- the end */

void http_request_finish(struct http_request *x, enum http_request_end end)
{
    if (x->ended)
        return;
    x->ended = true;
    x->transport->n_http_requests--;
    stream_close_timer(&x->stream);
    if (x->link->watch)
        uv_poll_stop(x->link->watch);
    if (x->on_end)
        x->on_end(x->context, end);
    x->on_end = NULL;
    x->stream.on_drain = NULL;
}

static void resume(struct http_request *x)
{
    if (!x->suspended)
        return;
    x->suspended = false;
    MHD_resume_connection(x->connection);
    listener_again(x->link->listener);
}

void http_request_hang_up(struct http_request *x, enum http_request_end end)
{
    x->gone = true;
    http_request_finish(x, end);
    resume(x);
}

void http_request_free(struct http_request *x)
{
    struct link *k = x->link;
    if (k->http_request == x)
        k->http_request = NULL;
    if (x->response)
        MHD_destroy_response(x->response);
    free(x->path);
    free(x->host);
    free(x->tail);
    http_request_release_body(x);
    bytes_clear(&x->body);
    free(x->cors_origin);
    bytes_clear(&x->stream.buffer);
    free(x);
}

/* ---- whole answers */

void http_request_add_common_headers(struct http_request *x, const char *content_type)
{
    struct MHD_Response *r = x->response;
    if (content_type)
        MHD_add_response_header(r, "Content-Type", content_type);
    MHD_add_response_header(r, "X-Request-Id", x->id);
    if (x->close)
        MHD_add_response_header(r, "Connection", "close");
    if (x->cors_origin) {
        MHD_add_response_header(r, "Access-Control-Allow-Origin", x->cors_origin);
        MHD_add_response_header(r, "Access-Control-Expose-Headers",
                                "X-Request-Id, X-KV-Policy, Retry-After");
        MHD_add_response_header(r, "Vary", "Origin");
    }
    for (uint32_t i = 0; i < x->n_headers; i++)
        MHD_add_response_header(r, x->headers[i].name, x->headers[i].value);
}

enum MHD_Result http_request_queue(struct http_request *x)
{
    if (x->queued)
        return MHD_YES;
    if (!x->response)
        return MHD_NO;
    enum MHD_Result result = MHD_queue_response(x->connection, x->status, x->response);
    MHD_destroy_response(x->response);
    x->response = NULL;
    x->queued = true;
    return result;
}

void http_request_send(struct http_request *x)
{
    if (!x->in_handler)
        resume(x);
}

/* Answers with x->response, which may be NULL. */
static void answer(struct http_request *x, unsigned status, const char *content_type)
{
    x->stream.open = false; /* a stream without a first byte can still be refused */
    x->status = status;
    if (!x->response) {
        http_request_hang_up(x, HTTP_REQUEST_CLIENT_LEFT); /* there is no memory for an answer */
        return;
    }
    http_request_add_common_headers(x, content_type);
    x->answered = true;
    http_request_send(x);
}

static bool may_answer(const struct http_request *x)
{
    return !x->answered && !x->stream.committed && !x->ended;
}

static void reply_from(struct http_request *x, unsigned status, const char *content_type,
                       const void *body, size_t length, enum MHD_ResponseMemoryMode mode)
{
    x->response = MHD_create_response_from_buffer(length, (void *)(uintptr_t)body, mode);
    answer(x, status, content_type);
}

void http_request_reply(struct http_request *x, unsigned status, const char *content_type,
                        const void *body, size_t length)
{
    if (may_answer(x))
        reply_from(x, status, content_type, body, length, MHD_RESPMEM_MUST_COPY);
}

void http_request_reply_static(struct http_request *x, unsigned status, const char *content_type,
                               const void *body, size_t length)
{
    if (may_answer(x))
        reply_from(x, status, content_type, body, length, MHD_RESPMEM_PERSISTENT);
}

/* A long answer goes to the socket in blocks: sent from one buffer, each turn of the loop would copy
 * megabytes for every client. */
enum { LONG_ANSWER = 256 * 1024, ANSWER_BLOCK = 64 * 1024 };

static ssize_t read_answer(void *context, uint64_t position, char *out, size_t room)
{
    const struct bytes *body = context;
    size_t n = body->length - (size_t)position;
    n = n < room ? n : room;
    memcpy(out, body->data + position, n);
    return (ssize_t)n;
}

static void free_answer(void *context)
{
    struct bytes *body = context;
    bytes_clear(body);
    free(body);
}

static void reply_long(struct http_request *x, unsigned status, const char *content_type,
                       struct bytes *body)
{
    struct bytes *moved = malloc(sizeof *moved);
    x->response = moved ? MHD_create_response_from_callback(body->length, ANSWER_BLOCK, read_answer,
                                                            moved, free_answer)
                        : NULL;
    if (x->response) {
        *moved = *body;
        *body = (struct bytes){0};
    } else {
        free(moved);
    }
    answer(x, status, content_type);
}

void http_request_reply_bytes(struct http_request *x, unsigned status, const char *content_type,
                              struct bytes *body)
{
    if (may_answer(x) && body->length > LONG_ANSWER) {
        reply_long(x, status, content_type, body);
    } else if (may_answer(x)) {
        reply_from(x, status, content_type, body->data, body->length, MHD_RESPMEM_MUST_FREE);
        if (x->answered)
            *body = (struct bytes){0}; /* the response has it */
    }
    bytes_clear(body);
}

void http_request_reply_json(struct http_request *x, unsigned status, json_t *value)
{
    static const char failure[] =
        "{\"error\":{\"message\":\"out of memory\",\"type\":\"unavailable_error\",\"param\":"
        "null,\"code\":\"out_of_memory\"}}";
    struct bytes text = {0};
    if (json_add(&text, value))
        http_request_reply_bytes(x, status, "application/json", &text);
    else
        http_request_reply_static(x, 503, "application/json", failure, sizeof failure - 1);
    bytes_clear(&text);
    json_decref(value);
}

static void add_number_header(struct http_request *x, const char *name, int64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)value);
    http_request_add_header(x, name, text);
}

void http_request_reply_error(struct http_request *x, const struct error *e)
{
    unsigned status = error_status(e);
    int64_t retry_ms = error_retry_after_ms(e);
    http_request_log_error(x, e);
    transport_count_rejected(x->transport, error_code(e));
    if (retry_ms) {
        add_number_header(x, "Retry-After", (retry_ms + 999) / 1000);
        add_number_header(x, "Retry-After-Ms", retry_ms);
    }
    if (error_forbids_retry(e))
        http_request_add_header(x, "X-Should-Retry", "false");
    if (status == 401)
        http_request_add_header(x, "WWW-Authenticate", "Bearer");
    struct error shown = *e;
    if (status == 500)
        error_set(&shown, e->code, "", "%.480s (request %.100s)", e->message, http_request_id(x));
    http_request_reply_json(x, status, error_to_json(&shown));
}
