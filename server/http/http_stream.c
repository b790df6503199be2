/* The body of a streamed answer: see http_request.h. Loop thread.
 *
 *   http_request_stream_event -> buffer -> read_stream (libmicrohttpd) -> socket
 *
 * read_stream suspends the connection when the buffer is empty; the next write resumes it. */
#include <stdlib.h>
#include <string.h>

#include "server/http/sse.h"
#include "server/http/transport_private.h"

/* The most bytes that libmicrohttpd asks for at a time. */
enum {
    BLOCK_BYTES = 16384,
    LEAST_PING_MS = 100 /* a request may ask for less, which would only make work */
};

static ssize_t read_stream(void *context, uint64_t position, char *out, size_t room)
{
    struct http_request *x = context;
    struct stream *s = &x->stream;
    size_t n = http_request_stream_waiting(x);
    (void)position;
    if (x->gone)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (n == 0) {
        if (s->ended)
            return s->clean ? MHD_CONTENT_READER_END_OF_STREAM : MHD_CONTENT_READER_END_WITH_ERROR;
        x->suspended = true;
        MHD_suspend_connection(x->connection);
        return 0;
    }
    if (n > room)
        n = room;
    memcpy(out, s->buffer.data + s->start, n);
    s->start += n;
    if (s->start == s->buffer.length)
        s->start = s->buffer.length = 0;
    if (s->above_half && http_request_stream_waiting(x) < HTTP_REQUEST_STREAM_HIGH / 2) {
        s->above_half = false;
        if (s->on_drain)
            s->on_drain(x->context);
    }
    return (ssize_t)n;
}

static bool commit(struct http_request *x)
{
    if (x->stream.committed)
        return true;
    x->status = 200;
    x->response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, read_stream, x, NULL);
    if (!x->response)
        return false;
    http_request_add_common_headers(x, "text/event-stream; charset=utf-8");
    MHD_add_response_header(x->response, "Cache-Control", "no-cache");
    MHD_add_response_header(x->response, "X-Accel-Buffering", "no");
    x->stream.committed = true;
    return true;
}

/* Moves unsent bytes to the buffer's start, so that a long stream does not make the buffer grow. It
 * waits until they are at most half of the buffer, so that a byte is moved at most once on average. */
static void compact(struct stream *s)
{
    if (s->start == 0 || s->start < s->buffer.length - s->start)
        return;
    s->buffer.length -= s->start;
    memmove(s->buffer.data, s->buffer.data + s->start, s->buffer.length);
    s->start = 0;
}

static bool may_write(const struct http_request *x)
{
    return !x->ended && !x->stream.ended && !x->answered;
}

/* Sends what was added to the buffer, or removes it when that fails: the buffer had `before` bytes. */
static bool written(struct http_request *x, bool added, size_t before)
{
    struct stream *s = &x->stream;
    if (!added || !commit(x)) {
        s->buffer.length = before;
        return false;
    }
    s->last_write_ms = uv_now(x->transport->loop);
    if (http_request_stream_waiting(x) >= HTTP_REQUEST_STREAM_HIGH / 2)
        s->above_half = true;
    http_request_send(x);
    return true;
}

bool http_request_stream_event(struct http_request *x, json_t *value)
{
    struct stream *s = &x->stream;
    bool ok = false;
    if (may_write(x)) {
        compact(s);
        size_t before = s->buffer.length;
        ok = written(x, sse_event(&s->buffer, value), before);
    }
    json_decref(value);
    return ok;
}

bool http_request_stream_done(struct http_request *x)
{
    struct stream *s = &x->stream;
    if (!may_write(x))
        return false;
    compact(s);
    size_t before = s->buffer.length;
    if (!written(x, sse_done(&s->buffer), before))
        return false;
    http_request_stream_end(x, true);
    return true;
}

static void on_ping(uv_timer_t *timer)
{
    struct http_request *x = timer->data;
    struct stream *s = &x->stream;
    if (uv_now(timer->loop) - s->last_write_ms >= s->ping_ms &&
        http_request_stream_waiting(x) == 0 && may_write(x)) {
        size_t before = s->buffer.length;
        written(x, sse_ping(&s->buffer), before);
    }
}

void http_request_stream_start(struct http_request *x, uint64_t ping_ms)
{
    struct stream *s = &x->stream;
    s->open = true;
    if (ping_ms && ping_ms < LEAST_PING_MS)
        ping_ms = LEAST_PING_MS;
    s->ping_ms = ping_ms;
    s->last_write_ms = uv_now(x->transport->loop);
    if (!ping_ms || s->ping || x->ended)
        return;
    s->ping = malloc(sizeof *s->ping);
    if (!s->ping)
        return; /* then there are no pings */
    uv_timer_init(x->transport->loop, s->ping);
    s->ping->data = x;
    uint64_t look = ping_ms > 2000 ? 1000 : (ping_ms + 1) / 2;
    uv_timer_start(s->ping, on_ping, look, look);
}

bool http_request_stream_committed(const struct http_request *x)
{
    return x->stream.committed;
}

size_t http_request_stream_waiting(const struct http_request *x)
{
    return x->stream.buffer.length - x->stream.start;
}

void http_request_stream_on_drain(struct http_request *x, void (*on_drain)(void *context))
{
    x->stream.on_drain = on_drain;
}

void http_request_stream_end(struct http_request *x, bool clean)
{
    if (x->stream.ended || x->ended)
        return;
    if (!commit(x)) {
        http_request_hang_up(x, HTTP_REQUEST_STOPPED);
        return;
    }
    x->stream.ended = true;
    x->stream.clean = clean;
    http_request_send(x);
}

static void free_timer(uv_handle_t *handle)
{
    free(handle);
}

void stream_close_timer(struct stream *s)
{
    if (!s->ping)
        return;
    uv_close((uv_handle_t *)s->ping, free_timer);
    s->ping = NULL;
}
