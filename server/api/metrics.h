/* GET /metrics in the Prometheus text format 0.0.4. Reads atomics and counters of the loop, and never
 * waits for the engine. Loop thread. */
#ifndef WINNOW_SERVER_API_METRICS_H
#define WINNOW_SERVER_API_METRICS_H

#include "server/api/api.h"
#include "server/http/transport.h"

/* The context of the handler. */
struct metrics_page {
    const struct config *config; /* --metrics-compat */
    const struct transport *transport;
    const struct api *api;
};
void handle_metrics(struct http_request *x, void *metrics_page);

#endif
