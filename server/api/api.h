/* The OpenAI API over an engine: the endpoints of API.md sections 2 to 8, and their routes.
 *
 * Made once by the composition root; the engine arrives when it has loaded. Loop thread, except what
 * a handler puts on the thread pool (JSON, template, tokenizer). */
#ifndef WINNOW_SERVER_API_API_H
#define WINNOW_SERVER_API_API_H

#include "config/config.h"
#include "engine/serve/engine.h"
#include "server/http/http_request.h"

struct api;

/* NULL: a bad --kv-policy and the like. The config outlives it. */
struct api *api_new(const struct config *c, uv_loop_t *loop, struct error *e);
/* Appends the API's routes. False: they are more than fit into `most`. */
bool api_add_routes(struct api *a, struct route *routes, uint32_t *n, uint32_t most);
/* The engine has loaded (not owned). False: the default policy does not fit its context. */
bool api_set_engine(struct api *a, struct engine *engine, struct error *e);
/* Ends everything that is still running: error events or 503 (code "draining"). */
void api_stop_all(struct api *a);
uint32_t api_running(const struct api *a); /* HTTP requests that wait for the engine */
/* Closes its handles, when nothing runs any more; api_free once the loop has closed them. */
void api_close(struct api *a);
void api_free(struct api *a);

/* What /metrics shows of it, beside the engine's own counters. */
const char *api_model_name(const struct api *a);
struct engine *api_engine(const struct api *a); /* NULL until it has loaded */
/* Requests admitted under a preset (preset_at) with a plan from a source (enum plan_source). */
uint64_t api_policy_requests(const struct api *a, uint32_t preset, uint32_t source);

#endif
