/* The OpenAI API over an engine: the handlers of API.md sections 2 to 8, and their table of routes.
 *
 * Made once by the server; the engine arrives when it has loaded. All on the loop thread, except
 * what a handler puts on the thread pool (template and tokenizer). */
#ifndef WINNOW_SERVER_API_API_H
#define WINNOW_SERVER_API_API_H

#include "config/config.h"
#include "engine/serve/engine.h"
#include "server/http/http_request.h"

struct api;

/* NULL: bad --kv-policy and the like. The config outlives it. */
struct api *api_new(const struct config *c, uv_loop_t *loop, struct error *e);
/* The engine has loaded (not owned). Checks what needs the model (default policy against its
 * context); false: refused. */
bool api_set_engine(struct api *a, struct engine *engine, struct error *e);
struct engine *api_engine(struct api *a); /* NULL until then */
/* Ends everything that is still running: error events or 503 (code "draining"). */
void api_stop_all(struct api *a);
uint32_t api_running(const struct api *a); /* HTTP requests that wait for the engine */
/* Closes its handles; call when nothing runs any more, then let the loop turn once, then free. */
void api_close(struct api *a);
void api_free(struct api *a);

extern const struct route api_routes[];
extern const uint32_t n_api_routes;

/* What the API counts for /metrics, beside the engine's own counters: indexes as in preset_at() and
 * enum plan_source. */
struct api_metrics {
    uint64_t policy_requests[16][8]; /* [policy][source] */
};
const struct api_metrics *api_metrics(const struct api *a);

/* The model's public name: --alias, else general.name, else the file's name. */
const char *api_model_name(const struct api *a);

#endif
