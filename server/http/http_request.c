/* One request and its answer: see HTTP request.h. Loop thread.
 *
 *   reply:   the response is made, and queued from the access handler: at once when we are in it,
 * else after the connection was resumed (libmicrohttpd then calls the handler again) stream: writes
 * go to the HTTP request's buffer, libmicrohttpd takes them from there through `read_stream`, which
 *            suspends the connection when the buffer is empty; the next write resumes it */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/http/transport.h"

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
    *length = x->body ? x->body_length : 0;
    return x->body ? x->body : "";
}

uint32_t http_request_key(const struct http_request *x)
{
    return x->key;
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

void http_request_add_header(struct http_request *x, const char *name, const char *value)
{
    if (x->answered || x->committed || x->n_headers == sizeof x->headers / sizeof *x->headers ||
        strpbrk(value, "\r\n"))
        return;
    snprintf(x->headers[x->n_headers].name, sizeof x->headers[0].name, "%s", name);
    snprintf(x->headers[x->n_headers].value, sizeof x->headers[0].value, "%s", value);
    x->n_headers++;
}

/* ---- the end
 * --------------------------------------------------------------------------------------------- */

static void free_timer(uv_handle_t *handle)
{
    free(handle);
}

void http_request_finish(struct http_request *x, enum http_request_end end)
{
    if (x->ended)
        return;
    x->ended = true;
    x->transport->n_http_requests--;
    if (x->ping) {
        uv_close((uv_handle_t *)x->ping, free_timer);
        x->ping = NULL;
    }
    if (x->link->watch)
        uv_poll_stop(x->link->watch);
    if (x->on_end)
        x->on_end(x->context, end);
    x->on_end = NULL;
    x->on_drain = NULL;
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
    free(x->tail);
    free(x->body);
    free(x->cors_origin);
    free(x->buffer);
    free(x);
}

/* ---- hang-up
 * --------------------------------------------------------------------------------------------- */

static void on_hang_up(uv_poll_t *handle, int status, int events)
{
    struct link *k = handle->data;
    (void)status;
    (void)events;
    uv_poll_stop(handle); /* the event stays true */
    struct http_request *x = k ? k->http_request : NULL;
    if (x && !x->answered && !x->stream_ended)
        http_request_hang_up(x, HTTP_REQUEST_CLIENT_LEFT);
}

/* libmicrohttpd's epoll set does not hold a suspended connection, so ours does, from the first wait
 * of a request to its end. */
void link_watch(struct link *k)
{
    if (!k->watch) {
        k->watch = malloc(sizeof *k->watch);
        if (!k->watch || uv_poll_init(k->transport->loop, k->watch, k->fd)) {
            free(k->watch);
            k->watch = NULL;
            return; /* out of memory: the hang-up is noticed at the next write */
        }
        k->watch->data = k;
    }
    if (!uv_is_active((uv_handle_t *)k->watch))
        uv_poll_start(k->watch, UV_DISCONNECT, on_hang_up);
}

void link_close(struct link *k)
{
    if (!k->watch)
        return;
    k->watch->data = NULL;
    uv_poll_stop(k->watch);
    uv_close((uv_handle_t *)k->watch, free_timer);
    k->watch = NULL;
}

/* ---- whole answers
 * --------------------------------------------------------------------------------------------- */

static void add_common_headers(struct http_request *x, const char *content_type)
{
    struct MHD_Response *r = x->response;
    if (content_type)
        MHD_add_response_header(r, "Content-Type", content_type);
    MHD_add_response_header(r, "X-Request-Id", x->id);
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

void http_request_reply(struct http_request *x, unsigned status, const char *content_type,
                        const void *body, size_t length)
{
    if (x->answered || x->committed || x->ended)
        return;
    x->streaming = false; /* a stream that never got to its first byte may still be refused */
    x->status = status;
    x->response =
        MHD_create_response_from_buffer(length, (void *)(uintptr_t)body, MHD_RESPMEM_MUST_COPY);
    if (!x->response) {
        http_request_hang_up(x, HTTP_REQUEST_CLIENT_LEFT); /* no memory for any answer */
        return;
    }
    add_common_headers(x, content_type);
    x->answered = true;
    http_request_send(x);
}

void http_request_reply_json(struct http_request *x, unsigned status, json_t *value)
{
    static const char failure[] =
        "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\",\"param\":null,"
        "\"code\":\"internal_error\"}}";
    char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
    if (text)
        http_request_reply(x, status, "application/json", text, strlen(text));
    else
        http_request_reply(x, 500, "application/json", failure, sizeof failure - 1);
    free(text);
    json_decref(value);
}

/* ---- streams
 * --------------------------------------------------------------------------------------------- */

static ssize_t read_stream(void *context, uint64_t position, char *out, size_t room)
{
    struct http_request *x = context;
    size_t n = x->buffer_end - x->buffer_start;
    (void)position;
    if (x->gone)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (n == 0) {
        if (x->stream_ended)
            return x->stream_clean ? MHD_CONTENT_READER_END_OF_STREAM
                                   : MHD_CONTENT_READER_END_WITH_ERROR;
        x->suspended = true;
        MHD_suspend_connection(x->connection);
        return 0;
    }
    if (n > room)
        n = room;
    memcpy(out, x->buffer + x->buffer_start, n);
    x->buffer_start += n;
    if (x->buffer_start == x->buffer_end)
        x->buffer_start = x->buffer_end = 0;
    if (x->above_half && http_request_stream_waiting(x) < HTTP_REQUEST_STREAM_HIGH / 2) {
        x->above_half = false;
        if (x->on_drain)
            x->on_drain(x->context);
    }
    return (ssize_t)n;
}

static bool commit(struct http_request *x)
{
    x->status = 200;
    x->response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, read_stream, x, NULL);
    if (!x->response)
        return false;
    add_common_headers(x, "text/event-stream; charset=utf-8");
    MHD_add_response_header(x->response, "Cache-Control", "no-cache");
    MHD_add_response_header(x->response, "X-Accel-Buffering", "no");
    x->committed = true;
    return true;
}

static void on_ping(uv_timer_t *timer)
{
    struct http_request *x = timer->data;
    if (uv_now(timer->loop) - x->last_write_ms >= x->ping_ms && http_request_stream_waiting(x) == 0)
        http_request_stream_write(x, ": ping\n\n", 8);
}

void http_request_stream_start(struct http_request *x, uint64_t ping_ms)
{
    x->streaming = true;
    x->ping_ms = ping_ms;
    x->last_write_ms = uv_now(x->transport->loop);
    if (!ping_ms || x->ping || x->ended)
        return;
    x->ping = malloc(sizeof *x->ping);
    if (!x->ping)
        return; /* no pings then */
    uv_timer_init(x->transport->loop, x->ping);
    x->ping->data = x;
    uint64_t look = ping_ms > 2000 ? 1000 : (ping_ms + 1) / 2;
    uv_timer_start(x->ping, on_ping, look, look);
}

bool http_request_stream_committed(const struct http_request *x)
{
    return x->committed;
}

bool http_request_stream_write(struct http_request *x, const void *bytes, size_t length)
{
    if (x->ended || x->stream_ended || x->answered)
        return false;
    if (x->buffer_end + length > x->buffer_capacity) {
        size_t waiting = x->buffer_end - x->buffer_start;
        if (waiting)
            memmove(x->buffer, x->buffer + x->buffer_start, waiting);
        x->buffer_start = 0;
        x->buffer_end = waiting;
        if (waiting + length > x->buffer_capacity) {
            size_t capacity = 2 * (waiting + length) < 1024 ? 1024 : 2 * (waiting + length);
            char *grown = realloc(x->buffer, capacity);
            if (!grown)
                return false;
            x->buffer = grown;
            x->buffer_capacity = capacity;
        }
    }
    if (!x->committed && !commit(x))
        return false;
    memcpy(x->buffer + x->buffer_end, bytes, length);
    x->buffer_end += length;
    x->last_write_ms = uv_now(x->transport->loop);
    if (http_request_stream_waiting(x) >= HTTP_REQUEST_STREAM_HIGH / 2)
        x->above_half = true;
    http_request_send(x);
    return true;
}

size_t http_request_stream_waiting(const struct http_request *x)
{
    return x->buffer_end - x->buffer_start;
}

void http_request_stream_on_drain(struct http_request *x, void (*on_drain)(void *context))
{
    x->on_drain = on_drain;
}

void http_request_stream_end(struct http_request *x, bool clean)
{
    if (x->stream_ended || x->ended)
        return;
    if (!x->committed && !commit(x)) {
        http_request_hang_up(x, HTTP_REQUEST_STOPPED);
        return;
    }
    x->stream_ended = true;
    x->stream_clean = clean;
    http_request_send(x);
}

/* ---- the thread pool
 * --------------------------------------------------------------------------------------------- */

struct work {
    uv_work_t request;
    void (*work)(void *context);
    void (*done)(void *context);
    void *context;
};

static void do_work(uv_work_t *request)
{
    struct work *w = request->data;
    w->work(w->context);
}

static void work_done(uv_work_t *request, int status)
{
    struct work *w = request->data;
    (void)status; /* nothing is cancelled */
    w->done(w->context);
    free(w);
}

bool http_request_work(struct http_request *x, void (*work)(void *), void (*done)(void *),
                       void *context)
{
    struct work *w = malloc(sizeof *w);
    if (!w)
        return false;
    *w = (struct work){.work = work, .done = done, .context = context};
    w->request.data = w;
    if (uv_queue_work(x->transport->loop, &w->request, do_work, work_done)) {
        free(w);
        return false;
    }
    return true;
}
