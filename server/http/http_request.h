/* One HTTP request and its answer: what handlers see of the transport.
 *
 * The transport accepts connections, reads and limits the body, checks Host, Origin, content type
 * and key, gives the request its id, and calls the route's handler on the LOOP thread with the whole
 * body. The handler answers at once, or later from the loop thread (work on the thread pool, events
 * of the engine). Every function here is for the loop thread unless it says otherwise.
 *
 * An HTTP request lives until its answer has been sent or the client has gone; `on_end` is called
 * exactly once then, and nothing of it may be used afterwards. */
#ifndef WINNOW_SERVER_HTTP_HTTP_REQUEST_H
#define WINNOW_SERVER_HTTP_HTTP_REQUEST_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "config/base/bytes.h"
#include "config/config.h"

struct http_request;
struct transport;

enum http_request_end {
    HTTP_REQUEST_ANSWERED, /* all was written to the socket, or the client left after the last byte
                               * was ready */
    HTTP_REQUEST_CLIENT_LEFT, /* hang-up, half-close, write stall */
    HTTP_REQUEST_STOPPED      /* the server is stopping */
};

/* ---- the request; strings live as long as it does */

const char *http_request_id(const struct http_request *x); /* echoed as X-Request-Id */
const char *http_request_method(const struct http_request *x);
/* Without --api-prefix, "/v1", query and trailing slash. */
const char *http_request_path(const struct http_request *x);
/* What a starred route's path has in place of the star, percent-decoded; "" otherwise. */
const char *http_request_path_tail(const struct http_request *x);
/* Whether the URL is --api-prefix without a slash behind it, against which a browser resolves
 * relative links wrongly. */
bool http_request_lacks_slash(const struct http_request *x);
/* A decoded query argument, or NULL. */
const char *http_request_query(const struct http_request *x, const char *name);
/* Case-insensitive; NULL when absent. */
const char *http_request_header(const struct http_request *x, const char *name);
/* [*length] and a NUL behind it. */
const char *http_request_body(const struct http_request *x, size_t *length);
/* The same, moved to the caller, who frees it. NULL: out of memory. */
char *http_request_take_body(struct http_request *x, size_t *length);
uint32_t http_request_key(const struct http_request *x); /* 1-based index, 0 = none */
bool http_request_is_admin(const struct http_request *x);
uint64_t http_request_started_ns(const struct http_request *x); /* uv_hrtime at the headers */
uv_loop_t *http_request_loop(const struct http_request *x);
bool http_request_draining(const struct http_request *x);

/* The owner's context, and what to call when the HTTP request ends before or after the answer. */
void http_request_set_context(struct http_request *x, void *context,
                              void (*on_end)(void *context, enum http_request_end end));

/* Adds a header to the answer; before any reply. Values are checked for CR, LF and NUL. */
void http_request_add_header(struct http_request *x, const char *name, const char *value);

/* ---- whole answers; each HTTP request gets exactly one, or a stream */

/* Copies the body; for small texts. `content_type` may be NULL. */
void http_request_reply(struct http_request *x, unsigned status, const char *content_type,
                        const void *body, size_t length);
/* A body that lives as long as the program. */
void http_request_reply_static(struct http_request *x, unsigned status, const char *content_type,
                               const void *body, size_t length);
/* Takes the bytes: *body is empty afterwards. */
void http_request_reply_bytes(struct http_request *x, unsigned status, const char *content_type,
                              struct bytes *body);
/* Takes the reference; 500 when it is NULL or memory is short. */
void http_request_reply_json(struct http_request *x, unsigned status, json_t *value);
/* {"error":{...}} with status and headers from the code (error_reply.h), and counts it. */
void http_request_reply_error(struct http_request *x, const struct error *e);

/* ---- streams of events (sse.h) */

/* Arms the stream: status 200 and headers go out with the first event, or with the first ping after
 * ping_ms of silence (0 = never). Until then http_request_reply_error still answers with a real
 * status. */
void http_request_stream_start(struct http_request *x, uint64_t ping_ms);
/* Whether the headers are out: errors must be events now. */
bool http_request_stream_committed(const struct http_request *x);
/* Writes an event to the connection's buffer; takes the reference. False when the client has gone,
 * memory is short or the value is NULL. */
bool http_request_stream_event(struct http_request *x, json_t *value);
/* Ends a whole answer: [DONE], then the terminating chunk. */
bool http_request_stream_done(struct http_request *x);
/* Bytes written but not yet taken by the socket. A writer stops at HTTP_REQUEST_STREAM_HIGH and goes
 * on when on_drain is called with the owner's context: less than half of that waits then. */
enum { HTTP_REQUEST_STREAM_HIGH = 256 * 1024 };
size_t http_request_stream_waiting(const struct http_request *x);
void http_request_stream_on_drain(struct http_request *x, void (*on_drain)(void *context));
/* Ends the body. clean = true: with the terminating chunk; false: the connection is reset, so that no
 * client takes what it got for a whole answer. */
void http_request_stream_end(struct http_request *x, bool clean);

/* ---- the thread pool, the log */

/* Runs work(context) on the thread pool and then done(context) on the loop. `done` is called even
 * if the HTTP request has ended meanwhile; the caller tracks that by on_end. False: could not be
 * queued. */
bool http_request_work(struct http_request *x, void (*work)(void *context),
                       void (*done)(void *context), void *context);

/* Facts for the access log line and metrics, set by handlers that know them. */
void http_request_log_tokens(struct http_request *x, uint32_t prompt_tokens,
                             uint32_t completion_tokens, const char *policy, const char *finish);

/* ---- routes */

typedef void (*http_request_handler)(struct http_request *x, void *context);

struct route {
    const char *method; /* "GET" (also answers HEAD), "POST" or "DELETE" */
    const char *path; /* "/chat/completions"; a star at the end takes any tail that is not empty */
    http_request_handler handler;
    void *context;
    bool public;          /* no key needed */
    bool plain_path_only; /* not under "/v1" too, as "/metrics" */
    bool needs_model;     /* the transport answers 503 model_loading until the model is ready */
    const char *name;     /* metrics label `endpoint`: "chat_completions" */
};

#endif
