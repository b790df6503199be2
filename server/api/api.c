/* See api.h: the table of routes, and the contexts of their handlers. */
#include "server/api/api.h"

#include <stdlib.h>

#include "server/api/admission.h"
#include "server/api/generate.h"
#include "server/api/handlers.h"
#include "server/api/query.h"

struct api {
    struct mailbox mailbox;
    struct service service;
    struct jobs jobs;
    struct queries queries;
    struct work_queue work;
};

/* ---- routes */

/* The context that a handler gets. */
enum part { SERVICE, JOBS, QUERIES };

static const struct {
    const char *method, *path;
    http_request_handler handler;
    const char *name; /* the endpoint's name in metrics */
    enum part part;
} rows[] = {
    {"POST", "/chat/completions", handle_chat, "chat_completions", JOBS},
    {"POST", "/completions", handle_completion, "completions", JOBS},
    {"GET", "/models", handle_models, "models", SERVICE},
    {"GET", "/models/*", handle_model, "models", SERVICE},
    {"POST", "/embeddings", handle_embeddings, "embeddings", SERVICE},
    {"POST", "/chat/completions/input_tokens", handle_input_tokens, "input_tokens", SERVICE},
    {"POST", "/tokenize", handle_tokenize, "tokenize", SERVICE},
    {"POST", "/detokenize", handle_detokenize, "detokenize", SERVICE},
    {"POST", "/apply-template", handle_apply_template, "apply_template", SERVICE},
    {"GET", "/tokenizer_info", handle_tokenizer_info, "tokenizer_info", SERVICE},
    {"GET", "/kv/policies", handle_policies, "kv_policies", SERVICE},
    {"POST", "/kv/policies/resolve", handle_resolve, "kv_resolve", SERVICE},
    {"GET", "/kv/stats", handle_stats, "kv_stats", SERVICE},
    {"GET", "/kv/requests/*", handle_kv_request, "kv_requests", QUERIES},
    {"POST", "/kv/flush", handle_flush, "kv_flush", QUERIES},
    {"GET", "/kv/sessions", handle_sessions, "kv_sessions", SERVICE},
    {"GET", "/kv/sessions/*", handle_session, "kv_sessions", SERVICE},
    {"DELETE", "/kv/sessions/*", handle_session_delete, "kv_sessions", SERVICE},
    {"GET", "/props", handle_props, "props", SERVICE},
    {"GET", "/version", handle_version, "version", SERVICE},
};

bool api_add_routes(struct api *a, struct route *routes, uint32_t *n, uint32_t most)
{
    void *const parts[] = {[SERVICE] = &a->service, [JOBS] = &a->jobs, [QUERIES] = &a->queries};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (*n == most)
            return false;
        routes[(*n)++] = (struct route){.method = rows[i].method,
                                        .path = rows[i].path,
                                        .handler = rows[i].handler,
                                        .context = parts[rows[i].part],
                                        .needs_model = rows[i].handler != handle_version,
                                        .name = rows[i].name};
    }
    return true;
}

/* ---- life */

struct api *api_new(const struct config *c, uv_loop_t *loop, struct error *e)
{
    struct api *a = calloc(1, sizeof *a);
    if (!a) {
        error_set_memory(e, "the API", sizeof *a);
        return NULL;
    }
    /* The handle is made last, because only the loop can remove it. */
    if (!service_init(&a->service, c, e) ||
        !jobs_init(&a->jobs, &a->service, &a->mailbox, generate_pump, e)) {
        free(a);
        return NULL;
    }
    a->service.work = &a->work;
    a->jobs.room.deliver = generate_feed;
    queries_init(&a->queries, &a->service, &a->mailbox);
    if (mailbox_init(&a->mailbox, loop, e)) {
        work_queue_init(&a->work, loop, c->max_work_bytes);
        return a;
    }
    jobs_clear(&a->jobs);
    free(a);
    return NULL;
}

bool api_set_engine(struct api *a, struct engine *engine, struct error *e)
{
    service_set_engine(&a->service, engine);
    const struct plan_asked *asked = &a->service.default_policy;
    struct error bad;
    if (asked->axes.budget_share > 0)
        return true; /* the prompt's length is not known yet */
    const struct plan *plan = admission_resolve_plan(&a->service, asked, 1, &bad);
    if (!plan)
        return error_set(e, bad.code, "--kv-policy", "--kv-policy: %.500s", bad.message);
    plan_release(plan);
    return true;
}

void api_stop_all(struct api *a)
{
    struct error e;
    error_set(&e, "draining", "", "the server is shutting down");
    e.retry_after_ms = 5000;
    work_queue_stop(&a->work);
    generate_stop_all(&a->jobs, &e);
    queries_stop_all(&a->queries, &e);
}

uint32_t api_running(const struct api *a)
{
    return a->jobs.n_running + a->queries.n_waiting;
}

void api_close(struct api *a)
{
    mailbox_close(&a->mailbox);
    work_queue_close(&a->work);
}

void api_free(struct api *a)
{
    mailbox_clear(&a->mailbox);
    jobs_clear(&a->jobs);
    free(a);
}

/* ---- for /metrics */

const char *api_model_name(const struct api *a)
{
    return a->service.name;
}

struct engine *api_engine(const struct api *a)
{
    return a->service.engine;
}

uint64_t api_policy_requests(const struct api *a, uint32_t preset, uint32_t source)
{
    return a->jobs.by_policy[(size_t)preset * N_SOURCES + source];
}

struct api_budgets api_budgets(const struct api *a)
{
    return (struct api_budgets){.work_waiting = a->work.n_waiting,
                                .work_running = a->work.n_running,
                                .work_bytes = a->work.bytes,
                                .work_refused = a->work.refused,
                                .answer_bytes = a->jobs.answer_bytes,
                                .prompts_held = a->jobs.n_hungry};
}
