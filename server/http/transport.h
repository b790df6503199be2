/* The HTTP transport: listens, reads requests, and calls the routes' handlers (http_request.h). This is
 * what server.c and the handlers of /health and /metrics see of it. Loop thread. */
#ifndef WINNOW_SERVER_HTTP_TRANSPORT_H
#define WINNOW_SERVER_HTTP_TRANSPORT_H

#include "server/http/error_reply.h"
#include "server/http/http_request.h"

/* Counts for /metrics. The row of `requests` is the index of the route; the last row is for requests
 * without a route. */
enum { MAX_ENDPOINTS = 40, MAX_STATUSES = 24, MAX_REASONS = ERROR_CODES_MOST };
struct transport_counts {
    struct {
        unsigned status; /* 0 = not used yet */
        uint64_t count;
    } requests[MAX_ENDPOINTS][MAX_STATUSES];
    struct {
        char reason[48]; /* an error code; "" = not used yet */
        uint64_t count;
    } rejected[MAX_REASONS];
    uint64_t connections_open, connections_refused;
    uint64_t body_bytes,
        body_bytes_max; /* of bodies that no handler has taken yet; --max-body-memory */
};

/* Listens on every address of --host, on --port and --metrics-port. Routes and config must outlive it.
 * NULL: "address_in_use", "address_error", "invalid_value"; handles that were opened close when the
 * loop runs. */
struct transport *transport_new(const struct config *c, uv_loop_t *loop, const struct route *routes,
                                uint32_t n_routes, struct error *e);
/* Closes listeners and connections. The memory is freed when the loop has closed the handles. */
void transport_close(struct transport *t);

/* Routes that need the model answer 503 until the model is ready, and while the server drains. */
void transport_set_ready(struct transport *t, bool ready);
void transport_set_loading(struct transport *t, double share); /* 0..1 */
void transport_set_draining(struct transport *t);
bool transport_is_ready(const struct transport *t);
bool transport_is_draining(const struct transport *t);
double transport_loading(const struct transport *t);

uint32_t transport_running(const struct transport *t); /* HTTP requests without an answer yet */
/* The addresses of --host: "http://127.0.0.1:8080" or "unix:/path". */
uint32_t transport_n_addresses(const struct transport *t);
const char *transport_address(const struct transport *t, uint32_t index);
/* Whether only programs on this machine can connect. */
bool transport_is_local(const struct transport *t);
/* Reads the files of --tls-cert and --tls-key again, for connections that come later. False: the old ones
 * stay in use. */
bool transport_reload_tls(struct transport *t, struct error *e);

const struct transport_counts *transport_counts(const struct transport *t);
/* The name of a row of the counts: the route's, or "other". */
const char *transport_endpoint(const struct transport *t, uint32_t row);

#endif
