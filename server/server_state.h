/* The inside of the front end, for the handlers that look at all of it (metrics, health, page).
 * Loop thread. */
#ifndef WINNOW_SERVER_SERVER_STATE_H
#define WINNOW_SERVER_SERVER_STATE_H

#include <stdatomic.h>

#include "server/api/api.h"
#include "server/http/transport.h"

enum { MAX_ROUTES = MAX_ENDPOINTS - 1 };

struct server {
    const struct config *config;
    uv_loop_t loop;
    struct transport *transport;
    struct api *api;
    struct route routes[MAX_ROUTES];
    uint32_t n_routes;

    uv_thread_t loader;
    bool loading; /* the loader thread is to be joined */
    struct engine *engine;
    struct engine *loaded_engine; /* the loader's; the loop takes it when `loaded` tells */
    struct error load_error;
    _Atomic uint32_t load_permille;
    uv_async_t loaded;
    uint32_t told_percent;

    uv_signal_t on_term, on_int;
    uv_timer_t watch; /* drain, engine faults, load progress */
    uint64_t drain_end_ms, flush_end_ms;
    bool draining, stopping;
    int exit_code;
};

/* server.c: begins to drain, as SIGTERM does. */
void server_drain(struct server *s);

/* Handlers; the context is the server. */
void handle_metrics(struct http_request *x, void *server);
void handle_health(struct http_request *x, void *server);
void handle_live(struct http_request *x, void *server);
void handle_ready(struct http_request *x, void *server);
void handle_page(struct http_request *x, void *server);
void handle_page_file(struct http_request *x, void *server);

#endif
