/* /health, /livez and /readyz, for load balancers and kubelets. Never waits for the engine. Loop
 * thread. */
#ifndef WINNOW_SERVER_API_HEALTH_H
#define WINNOW_SERVER_API_HEALTH_H

#include "engine/serve/engine.h"
#include "server/http/transport.h"

/* The context of the handlers. */
struct health {
    const struct transport *transport;
    const struct engine *engine; /* NULL until it has loaded */
};
void handle_health(struct http_request *x, void *health);
void handle_live(struct http_request *x, void *health);
void handle_ready(struct http_request *x, void *health);

#endif
