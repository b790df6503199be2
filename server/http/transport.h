/* The inside of the HTTP transport: libmicrohttpd driven by the libuv loop. Loop thread throughout.
 *
 *   listener:  one libmicrohttpd daemon in external epoll mode; its epoll descriptor is a
 * uv_poll_t, its timeout a uv_timer_t. Resuming a connection asks for another run through a
 * uv_idle_t. link:      one client connection. libmicrohttpd does not look at the socket of a
 * suspended connection, so a uv_poll_t of ours watches it for hang-up while an HTTP request waits.
 *   HTTP request:  one request on it, see HTTP request.h. */
#ifndef WINNOW_SERVER_HTTP_TRANSPORT_H
#define WINNOW_SERVER_HTTP_TRANSPORT_H

#include <microhttpd.h>

#include "server/http/http_request.h"

struct listener {
    struct transport *transport;
    struct MHD_Daemon *daemon;
    uv_poll_t poll;
    uv_timer_t timer;
    uv_idle_t again;
    bool metrics_only;
    bool open;
    unsigned closing;  /* handles whose close callback is to come */
    char address[160]; /* "http://127.0.0.1:8080" */
};

/* What the transport counts for /metrics. */
enum { MAX_ENDPOINTS = 40, MAX_STATUSES = 24 };
struct transport_metrics {
    struct {
        unsigned status; /* 0 = not used yet */
        uint64_t count;
    } requests[MAX_ENDPOINTS][MAX_STATUSES];
    uint64_t connections_refused;
    struct {
        char reason[48];
        uint64_t count;
    } rejected[32];
    uint64_t connections_open;
};

struct transport {
    const struct config *config;
    uv_loop_t *loop;
    const struct route *routes;
    uint32_t n_routes;
    struct listener main, metrics;
    uv_timer_t sweep; /* every second: requests that are read too slowly */
    bool sweep_open;
    struct link *links;
    uint32_t n_links;
    uint32_t n_http_requests; /* not yet answered */
    bool ready, draining, loopback, stopping;
    double loading; /* 0..1 */
    char unix_path[108];
    struct transport_metrics counts;
};

/* One client connection. */
struct link {
    struct transport *transport;
    struct listener *listener;
    struct MHD_Connection *connection;
    int fd;
    uint64_t since_ns; /* start of the connection, or of the request being read */
    bool reading;      /* a request is being read: the sweep may end it with 408 */
    struct http_request *http_request;
    uv_poll_t
        *watch; /* tells of a hang-up while an HTTP request waits; NULL until the first does */
    struct link *previous, *next;
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
    uint32_t key;
    bool admin, head, lacks_slash;
    uint64_t started_ns;

    char *body;
    size_t body_length, body_capacity;
    bool expects_continue;

    struct error refusal; /* code[0] != 0: answer this once the body is in */
    char allow[48];
    char *cors_origin;

    bool in_handler, suspended, dispatched;
    bool answered; /* an answer is fixed: reply or end of stream */
    bool queued;   /* libmicrohttpd has the response */
    bool gone;     /* close the connection as soon as it runs */
    bool ended;    /* on_end was called */
    unsigned status;
    struct MHD_Response *response;

    bool streaming, committed, stream_ended, stream_clean;
    char *buffer; /* bytes for the socket: [buffer_start, buffer_end) */
    size_t buffer_start, buffer_end, buffer_capacity;
    bool above_half; /* on_drain is due when the buffer falls below half */
    uint64_t ping_ms;
    uv_timer_t *ping;
    uint64_t last_write_ms;

    struct {
        char name[32];
        char value[256];
    } headers[8];
    uint32_t n_headers;

    void *context;
    void (*on_end)(void *context, enum http_request_end end);
    void (*on_drain)(void *context);

    uint32_t prompt_tokens, completion_tokens;
    char policy[24], finish[16];
    bool has_tokens;
};

/* NULL: "address_in_use", "invalid_value", ... Routes and config outlive it. */
struct transport *transport_new(const struct config *c, uv_loop_t *loop, const struct route *routes,
                                uint32_t n_routes, struct error *e);
/* Closes listeners and connections; `closed` is called from the loop when all handles are gone,
 * then it is freed. */
void transport_close(struct transport *t);
void transport_set_ready(struct transport *t, bool ready);
void transport_set_loading(struct transport *t, double share);
void transport_set_draining(struct transport *t);
uint32_t transport_running(const struct transport *t); /* HTTP requests without an answer yet */
const char *transport_address(const struct transport *t);
void transport_count_rejected(struct transport *t, const char *reason);

/* Asks the loop to run the daemon once more. */
void listener_again(struct listener *l);

/* request.c side: what libmicrohttpd calls for each part of a request. */
enum MHD_Result transport_access(void *listener, struct MHD_Connection *connection, const char *url,
                                 const char *method, const char *version, const char *upload,
                                 size_t *upload_size, void **slot);
void transport_completed(void *listener, struct MHD_Connection *connection, void **slot,
                         enum MHD_RequestTerminationCode code);
void transport_connection(void *listener, struct MHD_Connection *connection, void **slot,
                          enum MHD_ConnectionNotificationCode code);

/* HTTP request.c side */
void http_request_send(
    struct http_request *x); /* gives the fixed answer to libmicrohttpd, resuming if needed */
enum MHD_Result http_request_queue(struct http_request *x); /* inside the access handler */
void http_request_finish(struct http_request *x, enum http_request_end end); /* on_end, once */
void http_request_hang_up(struct http_request *x, enum http_request_end end);
void http_request_free(struct http_request *x);
/* Watches the link for a hang-up from now on; and forgets it when the connection closes. */
void link_watch(struct link *k);
void link_close(struct link *k);

/* access_log.c */
void access_log(struct http_request *x, const char *how);

#endif
