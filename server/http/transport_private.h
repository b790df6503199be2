/* The inside of the HTTP transport: the libuv loop runs libmicrohttpd. Loop thread.
 *
 *   listener       one address: a libmicrohttpd daemon in external epoll mode. A uv_poll_t has its
 *                  epoll descriptor, a uv_timer_t its timeout. A uv_idle_t runs the daemon again after
 *                  a connection was resumed.
 *   link           one client connection. libmicrohttpd does not watch the socket of a suspended
 *                  connection, so a uv_poll_t of the link does.
 *   http_request   one request on a link: see http_request.h. */
#ifndef WINNOW_SERVER_HTTP_TRANSPORT_PRIVATE_H
#define WINNOW_SERVER_HTTP_TRANSPORT_PRIVATE_H

#include <microhttpd.h>
#include <sys/queue.h>

#include "config/base/bytes.h"
#include "server/http/listen.h"
#include "server/http/transport.h"

struct listener {
    struct transport *transport;
    struct listen_socket socket; /* the daemon owns its descriptor while there is one */
    struct MHD_Daemon *daemon;   /* NULL: not open */
    uv_poll_t poll;
    uv_timer_t timer;
    uv_idle_t again;
    bool metrics_only;
};

struct transport {
    const struct config *config;
    uv_loop_t *loop;
    const struct route *routes;
    uint32_t n_routes;
    struct listener *listeners; /* [n_listeners], those of --host first */
    uint32_t n_listeners, n_addresses;
    uv_timer_t sweep;   /* every second: ends requests that arrive too slowly */
    uint32_t n_handles; /* open handles; the memory is freed when all have closed */
    LIST_HEAD(link_list, link) links;
    uint32_t n_links,
        max_links;            /* max_links: --max-connections, or fewer if descriptors are short */
    uint32_t n_http_requests; /* not answered yet */
    bool tls;
    bool ready, draining, stopping;
    bool loopback; /* every address of --host is a loopback address */
    double loading;
    char unix_path[108];
    struct transport_counts counts;
};

/* One client connection. */
struct link {
    struct transport *transport;
    struct listener *listener;
    struct MHD_Connection *connection;
    int fd;
    /* The sweep looks at these. A kept connection reads its next request from the moment when the last
     * answer was complete, because libmicrohttpd does not tell when the first byte has arrived. */
    uint64_t since_ns; /* start of the connection, of the wait for a request, or of its body */
    bool reading;      /* a request is awaited or being read */
    bool kept;         /* the connection has answered a request, and nothing of the next is known */
    /* The request's target as it was sent, before libmicrohttpd decodes it in place. NULL: its first line
     * has not arrived. */
    char *target;
    const char *target_at;
    struct http_request *http_request;
    uv_poll_t *watch; /* for a hang-up while a request waits; NULL before the first wait */
    LIST_ENTRY(link) entry;
};

/* The body of a streamed answer. */
struct stream {
    bool open, committed, ended, clean;
    struct bytes buffer; /* bytes to send: [start, buffer.length) */
    size_t start;
    bool above_half; /* on_drain is called when less than half of STREAM_HIGH is left */
    uint64_t ping_ms, last_write_ms;
    uv_timer_t *ping; /* for pings, or for an answer that waits */
    void (*on_drain)(void *context);
};

struct http_request {
    struct transport *transport;
    struct link *link;
    struct MHD_Connection *connection;
    const struct route *route;
    const char *method;   /* libmicrohttpd's */
    uint32_t route_index; /* n_routes: no route */
    char id[136];
    char *path, *tail;
    char *host; /* NULL: HTTP/1.0 without Host */
    uint32_t key;
    bool admin, wrong_key, lacks_slash;
    bool close; /* the connection ends after the answer */
    uint64_t started_ns;

    struct bytes body; /* has a NUL after its length; empty once taken */
    uint64_t n_body;   /* bytes that arrived, kept or not */
    uint64_t n_held;   /* bytes of the body that count for transport_counts.body_bytes */
    bool expects_continue;

    struct error refusal; /* code[0] != 0: the answer once the body has arrived; for the log also
                             the error of a handler */
    char allow[48];
    char *cors_origin;

    bool in_handler, suspended, dispatched;
    bool answered; /* there is a reply, or the stream has ended */
    bool queued;   /* libmicrohttpd has the response */
    bool gone;     /* the connection is to be closed */
    bool ended;    /* on_end was called */
    unsigned status;
    struct MHD_Response *response;
    struct stream stream;

    struct {
        char name[32];
        char value[256];
    } headers[8];
    uint32_t n_headers;

    void *context;
    void (*on_end)(void *context, enum http_request_end end);

    uint32_t prompt_tokens, completion_tokens;
    char policy[24], finish[16];
    bool has_tokens;
};

/* transport.c */
void transport_count_rejected(struct transport *t, const char *reason);
/* Asks the loop to run the daemon again. */
void listener_again(struct listener *l);

/* transport_request.c: what libmicrohttpd calls for each part of a request. */
void *transport_target(void *listener, const char *target, struct MHD_Connection *connection);
enum MHD_Result transport_access(void *listener, struct MHD_Connection *connection, const char *url,
                                 const char *method, const char *version, const char *upload,
                                 size_t *upload_size, void **slot);
void transport_completed(void *listener, struct MHD_Connection *connection, void **slot,
                         enum MHD_RequestTerminationCode code);
void transport_connection(void *listener, struct MHD_Connection *connection, void **slot,
                          enum MHD_ConnectionNotificationCode code);

/* http_request.c */
enum MHD_Result http_request_queue(struct http_request *x); /* in the access handler */
/* There is something to send: resumes the connection unless its handler is running. */
void http_request_send(struct http_request *x);
void http_request_add_common_headers(struct http_request *x, const char *content_type);
void http_request_finish(struct http_request *x, enum http_request_end end); /* on_end, once */
void http_request_hang_up(struct http_request *x, enum http_request_end end);
void http_request_free(struct http_request *x);
/* The body has been taken or dropped: its bytes count no more. */
void http_request_release_body(struct http_request *x);

/* http_stream.c */
void stream_close_timer(struct stream *s);

/* link.c: starts to watch the connection for a hang-up; frees the watch when the connection closes. */
void link_watch(struct link *k);
void link_close(struct link *k);

/* access_log.c */
void access_log(struct http_request *x, const char *how);

#endif
