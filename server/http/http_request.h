/* One HTTP request and its answer: what handlers see of the transport. Loop thread.
 *
 * The transport accepts connections, checks Host, Origin, content type and key, gives the request an
 * id, and reads the body up to its limit. Then it calls the route's handler, which answers at once or
 * later.
 *
 * An HTTP request lives until its answer has been sent or the client has gone. Then on_end is called
 * exactly once, and the request must not be used afterwards. */
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
    HTTP_REQUEST_ANSWERED,    /* the whole answer was sent, or was ready when the client left */
    HTTP_REQUEST_CLIENT_LEFT, /* it closed the connection, or did not read */
    HTTP_REQUEST_STOPPED      /* the server is stopping */
};

/* ---- the request: strings live as long as it does */

const char *http_request_id(const struct http_request *x); /* echoed as X-Request-Id */
const char *http_request_method(const struct http_request *x);
/* The path without --api-prefix, "/v1", query and trailing slash. */
const char *http_request_path(const struct http_request *x);
/* What matches the star at the end of the route's path, percent-decoded; "" without a star. */
const char *http_request_path_tail(const struct http_request *x);
/* Whether the URL is --api-prefix without a slash at the end. A browser resolves relative links
 * against that wrongly. */
bool http_request_lacks_slash(const struct http_request *x);
/* A decoded query argument, or NULL. */
const char *http_request_query(const struct http_request *x, const char *name);
/* Case-insensitive; NULL when absent. */
const char *http_request_header(const struct http_request *x, const char *name);
/* *length bytes, and a NUL after them. */
const char *http_request_body(const struct http_request *x, size_t *length);
/* Moves the body to the caller, who frees it. NULL: out of memory. */
char *http_request_take_body(struct http_request *x, size_t *length);
uint32_t http_request_key(const struct http_request *x); /* 1-based index of the API key; 0: none */
/* A number that tells callers apart: by key, else by address (of IPv6 the first half). */
uint64_t http_request_caller(const struct http_request *x);
bool http_request_is_admin(const struct http_request *x);
uint64_t
http_request_started_ns(const struct http_request *x); /* uv_hrtime when the headers had arrived */
uv_loop_t *http_request_loop(const struct http_request *x);
bool http_request_draining(const struct http_request *x);

/* The owner's context, and the function to call with it when the HTTP request ends. */
void http_request_set_context(struct http_request *x, void *context,
                              void (*on_end)(void *context, enum http_request_end end));

/* Adds a header to the answer. Call it before any reply. A value with CR or LF is left out. */
void http_request_add_header(struct http_request *x, const char *name, const char *value);

/* ---- whole answers: each HTTP request gets exactly one, or a stream */

/* Copies the body, so for small texts. `content_type` may be NULL. */
void http_request_reply(struct http_request *x, unsigned status, const char *content_type,
                        const void *body, size_t length);
/* Does not copy: the body must live as long as the program. */
void http_request_reply_static(struct http_request *x, unsigned status, const char *content_type,
                               const void *body, size_t length);
/* Takes the bytes; *body is empty afterwards. */
void http_request_reply_bytes(struct http_request *x, unsigned status, const char *content_type,
                              struct bytes *body);
/* Takes the reference. Answers 503 when it is NULL or memory is short. */
void http_request_reply_json(struct http_request *x, unsigned status, json_t *value);
/* Answers {"error":{...}} with the code's status and headers (error_reply.h), and counts the error. */
void http_request_reply_error(struct http_request *x, const struct error *e);

/* ---- streams of events (sse.h) */

/* Makes the answer a stream. Status 200 and headers are sent with the first event, or with the first
 * ping after ping_ms of silence (0 = no pings, else at least 100). Until then http_request_reply_error still works. */
void http_request_stream_start(struct http_request *x, uint64_t ping_ms);
/* Whether the headers have been sent, so that errors must be events. */
bool http_request_stream_committed(const struct http_request *x);
/* Writes an event to the connection's buffer and takes the reference. False: the client has gone,
 * memory is short or the value is NULL. */
bool http_request_stream_event(struct http_request *x, json_t *value);
/* Ends a complete answer: [DONE], then the last chunk. */
bool http_request_stream_done(struct http_request *x);
/* Bytes written but not yet sent. A writer stops at HTTP_REQUEST_STREAM_HIGH. on_drain is called with
 * the owner's context when less than half of that is left. */
enum { HTTP_REQUEST_STREAM_HIGH = 256 * 1024 };
size_t http_request_stream_waiting(const struct http_request *x);
void http_request_stream_on_drain(struct http_request *x, void (*on_drain)(void *context));
/* Ends the body. clean: with the last chunk. Not clean: the connection is closed without it, so that
 * no client takes the part for a whole answer. */
void http_request_stream_end(struct http_request *x, bool clean);

/* ---- log */

/* For the access log; handlers that know these facts set them. */
void http_request_log_tokens(struct http_request *x, uint32_t prompt_tokens,
                             uint32_t completion_tokens, const char *policy, const char *finish);

/* The error that ends a stream; http_request_reply_error logs its own. */
void http_request_log_error(struct http_request *x, const struct error *e);

/* ---- routes */

typedef void (*http_request_handler)(struct http_request *x, void *context);

struct route {
    const char *method; /* "GET" (also answers HEAD), "POST" or "DELETE" */
    const char *path;   /* "/chat/completions"; a star at the end matches any non-empty tail */
    http_request_handler handler;
    void *context;
    bool public;          /* needs no key */
    bool plain_path_only; /* not also below "/v1" */
    bool needs_model;     /* the transport answers 503 model_loading until the model is ready */
    const char *name;     /* metrics label `endpoint`: "chat_completions" */
};

#endif
