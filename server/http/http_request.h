/* One HTTP request and its answer: what handlers see of the transport.
 *
 * The transport (server.c, transport_*.c) accepts connections, reads and limits the body, checks
 * Host, Origin, content type and key, gives the request its id, and calls the route's handler on
 * the LOOP thread with the whole body. The handler answers at once, or later from the loop thread
 * (work on the thread pool, events of the engine). Every function here is for the loop thread
 * unless it says otherwise.
 *
 * An exchange lives until its answer has been sent or the client has gone; `on_end` is called
 * exactly once then, and nothing of it may be used afterwards. */
#ifndef WINNOW_SERVER_HTTP_HTTP_REQUEST_H
#define WINNOW_SERVER_HTTP_HTTP_REQUEST_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "config/config.h"

struct exchange;
struct transport;

enum exchange_end {
    EXCHANGE_ANSWERED,    /* everything was written to the socket (or the client left after the last
                             byte was ready) */
    EXCHANGE_CLIENT_LEFT, /* hang-up, half-close, write stall */
    EXCHANGE_STOPPED      /* the server is stopping */
};

/* The request. Strings live as long as the exchange. */
const char *exchange_id(const struct exchange *x); /* request id, echoed as X-Request-Id */
const char *exchange_method(const struct exchange *x);
const char *exchange_path(
    const struct exchange *x); /* normalised: without prefix, "/v1", query, trailing slash */
const char *exchange_path_tail(
    const struct exchange *x); /* after a starred route, percent-decoded; "" otherwise */
bool exchange_lacks_slash(
    const struct exchange *x); /* the URL is --api-prefix without a slash behind it, against which
                                  a browser resolves relative links wrongly */
const char *exchange_query(const struct exchange *x,
                           const char *name); /* decoded query argument or NULL */
const char *exchange_header(const struct exchange *x,
                            const char *name); /* case-insensitive, NULL when absent */
const char *exchange_body(const struct exchange *x, size_t *length);
uint32_t exchange_key(const struct exchange *x); /* 1-based index of the API key, 0 = none */
bool exchange_is_admin(const struct exchange *x);
uint64_t exchange_started_ns(const struct exchange *x); /* uv_hrtime when the headers had arrived */
uv_loop_t *exchange_loop(const struct exchange *x);
bool exchange_draining(const struct exchange *x);

/* The owner's context, and what to call when the exchange ends before or after the answer. */
void exchange_set_context(struct exchange *x, void *context,
                          void (*on_end)(void *context, enum exchange_end end));

/* Adds a header to the answer; before any reply. Values are checked for CR, LF and NUL. */
void exchange_add_header(struct exchange *x, const char *name, const char *value);

/* Whole answers; each exchange gets exactly one (or a stream). */
void exchange_reply(struct exchange *x, unsigned status, const char *content_type, const void *body,
                    size_t length);
/* Takes the reference; 500 when it cannot be dumped. */
void exchange_reply_json(struct exchange *x, unsigned status, json_t *value);
/* {"error":{...}} with status, type, Retry-After and X-Should-Retry from the code (API.md section
 * 6). */
void exchange_reply_error(struct exchange *x, const struct error *e);
/* The same object for an error event in a stream (new reference, NULL: out of memory), with
 * "request_id" kept out. */
json_t *error_to_json(const struct error *e);
unsigned error_status(const struct error *e);

/* Streams (text/event-stream). exchange_stream_start arms the stream: status 200 and headers go out
 * with the first write or with the first ping (": ping\n\n" every ping_ms of silence, 0 = never),
 * whichever is earlier. Until then exchange_reply_error still answers with a real status. */
void exchange_stream_start(struct exchange *x, uint64_t ping_ms);
bool exchange_stream_committed(
    const struct exchange *x); /* headers are out: errors must be events now */
/* Copies the bytes (whole events) to the connection's buffer. False when the client has gone or
 * memory is short. */
bool exchange_stream_write(struct exchange *x, const void *bytes, size_t length);
/* Bytes written but not yet taken by the socket. A writer stops at EXCHANGE_STREAM_HIGH and goes on
 * when on_drain is called (buffer below half). */
#define EXCHANGE_STREAM_HIGH (256 * 1024)
size_t exchange_stream_waiting(const struct exchange *x);
void exchange_stream_on_drain(struct exchange *x, void (*on_drain)(void *context));
/* Ends the body. clean = true: terminating chunk; false: the connection is reset, so that no client
 * takes what it got for a whole answer. */
void exchange_stream_end(struct exchange *x, bool clean);

/* Runs work(context) on the thread pool and then done(context) on the loop. `done` is called even
 * if the exchange has ended meanwhile; the caller tracks that by on_end. False: could not be
 * queued. */
bool exchange_work(struct exchange *x, void (*work)(void *context), void (*done)(void *context),
                   void *context);

/* Facts for the access log line and metrics, set by handlers that know them. */
void exchange_log_tokens(struct exchange *x, uint32_t prompt_tokens, uint32_t completion_tokens,
                         const char *policy, const char *finish);

/* ---- routes
 * --------------------------------------------------------------------------------------------- */

typedef void (*exchange_handler)(struct exchange *x, void *context);

struct route {
    const char *method; /* "GET" (also answers HEAD) or "POST" */
    const char *path;   /* "/chat/completions": served with and without "/v1"; a final star takes a
                           path tail */
    exchange_handler handler;
    void *context;
    bool public;          /* no key needed */
    bool plain_path_only; /* true: not under /v1 ("/metrics") */
    bool needs_model; /* answered 503 model_loading by the transport until transport_set_ready */
    const char *name; /* metrics label `endpoint`: "chat_completions" */
};

#endif
