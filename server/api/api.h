/* The OpenAI API over an engine: the endpoints of API.md sections 2 to 8, and their routes. server.c
 * makes one, and sets the engine when it has loaded. Loop thread, except the work that handlers put on
 * the thread pool (JSON, templates, tokenizers). */
#ifndef WINNOW_SERVER_API_API_H
#define WINNOW_SERVER_API_API_H

#include "config/config.h"
#include "engine/serve/engine.h"
#include "server/http/http_request.h"

struct api;

/* The config must outlive it. NULL: for example a wrong --kv-policy. */
struct api *api_new(const struct config *c, uv_loop_t *loop, struct error *e);
/* Appends the API's routes. False: together there are more than `most`. */
bool api_add_routes(struct api *a, struct route *routes, uint32_t *n, uint32_t most);
/* Sets the engine, which is not owned. False: the default policy does not fit its context. */
bool api_set_engine(struct api *a, struct engine *engine, struct error *e);
/* Ends all running requests with error events or 503 (code "draining"). */
void api_stop_all(struct api *a);
uint32_t api_running(const struct api *a); /* HTTP requests that wait for the engine */
/* Closes the handles when nothing runs any more. api_free comes after the loop has closed them. */
void api_close(struct api *a);
void api_free(struct api *a);

/* For /metrics. */
const char *api_model_name(const struct api *a);
struct engine *api_engine(const struct api *a); /* NULL until it has loaded */
/* Admitted requests by preset (an index of preset_at) and source of the plan (enum plan_source). */
uint64_t api_policy_requests(const struct api *a, uint32_t preset, uint32_t source);
/* What is in use of the budgets of work and answers. */
struct api_budgets {
    uint32_t work_waiting, work_running;
    uint64_t work_bytes, work_refused, answer_bytes;
    uint32_t prompts_held; /* jobs with prompts that the engine does not have yet */
};
struct api_budgets api_budgets(const struct api *a);

#endif
