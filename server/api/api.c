/* The API's life, its table of routes, and what its handlers share: see api.h and api_private.h. */
#include "server/api/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>

#include "config/base/version.h"
#include "server/api/api_private.h"

#define API(m, p, h, n)                                                                            \
    {                                                                                              \
        .method = m, .path = p, .handler = h, .name = n, .needs_model = true                       \
    }
const struct route api_routes[] = {
    API("POST", "/chat/completions", handle_chat, "chat_completions"),
    API("POST", "/completions", handle_completion, "completions"),
    API("GET", "/models", handle_models, "models"),
    API("GET", "/models/*", handle_model, "models"),
    API("POST", "/embeddings", handle_embeddings, "embeddings"),
    API("POST", "/chat/completions/input_tokens", handle_input_tokens, "input_tokens"),
    API("POST", "/tokenize", handle_tokenize, "tokenize"),
    API("POST", "/detokenize", handle_detokenize, "detokenize"),
    API("POST", "/apply-template", handle_apply_template, "apply_template"),
    API("GET", "/tokenizer_info", handle_tokenizer_info, "tokenizer_info"),
    API("GET", "/kv/policies", handle_policies, "kv_policies"),
    API("POST", "/kv/policies/resolve", handle_resolve, "kv_resolve"),
    API("GET", "/kv/stats", handle_stats, "kv_stats"),
    API("GET", "/kv/requests/*", handle_kv_request, "kv_requests"),
    API("POST", "/kv/flush", handle_flush, "kv_flush"),
    API("GET", "/kv/sessions", handle_sessions, "kv_sessions"),
    API("GET", "/kv/sessions/*", handle_session, "kv_sessions"),
    API("DELETE", "/kv/sessions/*", handle_session_delete, "kv_sessions"),
    API("GET", "/props", handle_props, "props"),
    {.method = "GET", .path = "/version", .handler = handle_version, .name = "version"},
};
const uint32_t n_api_routes = sizeof api_routes / sizeof *api_routes;

bool bytes_add(struct bytes *b, const void *data, size_t length)
{
    if (b->length + length > b->capacity) {
        size_t capacity = 2 * (b->length + length) + 64;
        char *grown = realloc(b->data, capacity);
        if (!grown)
            return false;
        b->data = grown;
        b->capacity = capacity;
    }
    if (length)
        memcpy(b->data + b->length, data, length);
    b->length += length;
    return true;
}

/* ---- policies
 * --------------------------------------------------------------------------------------------- */

bool api_pick_plan(const struct api *a, const struct plan *body, const char *header,
                   const char *suffix, struct plan *out, struct error *e)
{
    *out = a->default_plan;
    out->source = SOURCE_DEFAULT;
    if (body) {
        *out = *body;
        out->source = SOURCE_REQUEST;
    } else if (header) {
        if (!plan_parse_text(header, strlen(header), "X-KV-Policy", out, e))
            return false;
        out->source = SOURCE_HEADER;
    } else if (suffix) {
        if (!plan_parse_suffix(suffix, strlen(suffix), "model", out, e))
            return false;
        out->source = SOURCE_MODEL;
    }
    return true;
}

static bool is_allowed(const struct config *c, const struct preset *preset)
{
    for (uint32_t i = 0; i < c->kv_policy_allow.count; i++)
        if (preset_find(c->kv_policy_allow.items[i]) == preset)
            return true;
    return c->kv_policy_allow.count == 0;
}

bool api_may_query(const struct api *a, const struct preset *preset)
{
    return !a->config->kv_policy_lock && is_allowed(a->config, preset);
}

bool api_resolve_plan(const struct api *a, struct plan *plan, uint32_t n_prompt, struct error *e)
{
    const struct config *c = a->config;
    struct plan_limits limits = engine_plan_limits(a->engine);
    if (plan->source == SOURCE_SESSION)
        return true; /* resolved when the session was made, under the same rules */
    limits.max_budget = plan->source == SOURCE_DEFAULT ? 0 : c->kv_policy_max_budget;
    if (plan->source != SOURCE_DEFAULT && c->kv_policy_lock)
        return error_set(e, "kv_policy_not_allowed", "kv_policy",
                         "this server's cache policy is fixed to '%s'",
                         a->default_plan.preset->name);
    if (plan->source != SOURCE_DEFAULT && !is_allowed(c, plan->preset))
        return error_set(e, "kv_policy_not_allowed", "kv_policy",
                         "this server does not offer the cache policy '%s'", plan->preset->name);
    return plan_resolve(plan, n_prompt, &limits, e);
}

/* ---- models
 * --------------------------------------------------------------------------------------------- */

const char *api_model_name(const struct api *a)
{
    return a->name;
}

bool api_model_fits(const struct api *a, const char *model, const char *suffix, struct error *e)
{
    char shown[80];
    size_t n = suffix ? (size_t)(suffix - model) - 1 : strlen(model);
    if (!a->config->strict_model || n == 0 || (n == strlen(a->name) && !memcmp(model, a->name, n)))
        return true;
    return error_set(e, "model_not_found", "model",
                     "the model '%s' does not exist here; this server has '%s'",
                     error_excerpt(shown, model, n), a->name);
}

static const char *token_text(const struct tokenizer *t, int32_t token, char out[128])
{
    size_t length;
    if (token < 0)
        return NULL;
    const char *text = tokenizer_text(t, token, &length);
    if (length >= 128)
        return NULL;
    memcpy(out, text, length);
    out[length] = 0;
    return out;
}

bool api_encode_chat(const struct api *a, const json_t *messages, const json_t *kwargs,
                     bool add_generation_prompt, bool continue_final_message, struct tokens *out,
                     struct chat_text *shown, struct error *e)
{
    const struct tokenizer *t = engine_tokenizer(a->engine);
    char bos[128], eos[128];
    struct chat_text text = {0};
    struct chat_render_input in = {.messages = messages,
                                   .kwargs = kwargs,
                                   .add_generation_prompt = add_generation_prompt,
                                   .continue_final_message = continue_final_message,
                                   .bos_token = token_text(t, tokenizer_bos(t), bos),
                                   .eos_token = token_text(t, tokenizer_eos(t), eos),
                                   .now_unix = time(NULL)};
    if (!chat_render(engine_chat_template(a->engine), &in, &text, e))
        return false;
    bool ok = true;
    if (tokenizer_adds_bos(t) && tokenizer_bos(t) >= 0 &&
        !chat_text_starts_with(&text, in.bos_token))
        ok = tokens_push(out, tokenizer_bos(t)) || error_set_memory(e, "tokens", 4);
    ok = ok && tokenizer_encode(t, text.text, text.length, text.marks, out, e);
    if (shown && ok)
        *shown = text;
    else
        chat_text_free(&text);
    return ok;
}

/* ---- jobs
 * --------------------------------------------------------------------------------------------- */

void part_release(struct part *p)
{
    struct api *a = p->job->api;
    if (!p->request)
        return;
    request_release(p->request); /* no notify after this, so it cannot come back to the list */
    p->request = NULL;
    pthread_mutex_lock(&a->ready_lock);
    for (struct part **at = &a->ready; *at; at = &(*at)->next_ready)
        if (*at == p) {
            *at = p->next_ready;
            break;
        }
    pthread_mutex_unlock(&a->ready_lock);
}

void job_stop_work(struct job *j, bool client_left)
{
    for (uint32_t i = 0; i < j->n_parts; i++) {
        if (!j->parts[i].job)
            continue; /* the pool did not get that far */
        if (j->parts[i].request)
            request_cancel(j->parts[i].request, client_left);
        part_release(&j->parts[i]);
    }
}

void job_fail(struct job *j, const struct error *e)
{
    struct http_request *x = j->http_request;
    job_stop_work(j, false);
    if (!x)
        return;
    http_request_log_tokens(x, j->n_parts ? (uint32_t)j->parts[0].tokens.count : 0, 0,
                            j->plan.preset ? j->plan.preset->name : "", "error");
    if (!http_request_stream_committed(x)) {
        http_request_reply_error(x, e);
        return;
    }
    json_t *value = error_to_json(e);
    char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
    bool told = text && http_request_stream_write(x, "data: ", 6) &&
                http_request_stream_write(x, text, strlen(text)) &&
                http_request_stream_write(x, "\n\n", 2);
    http_request_stream_end(x, told);
    free(text);
    json_decref(value);
}

static void on_wake(uv_async_t *handle)
{
    struct api *a = handle->data;
    for (;;) {
        pthread_mutex_lock(&a->ready_lock);
        struct part *p = a->ready;
        if (p) {
            a->ready = p->next_ready;
            p->in_ready = false;
        }
        pthread_mutex_unlock(&a->ready_lock);
        if (!p)
            break;
        job_pump(p);
    }
    queries_reply(a);
}

/* ---- life
 * --------------------------------------------------------------------------------------------- */

struct api *api_new(const struct config *c, uv_loop_t *loop, struct error *e)
{
    struct api *a = calloc(1, sizeof *a);
    if (!a || !(a->running_of_key = calloc(c->n_api_keys + 1, sizeof *a->running_of_key))) {
        error_set_memory(e, "the API", sizeof *a);
        free(a);
        return NULL;
    }
    a->config = c;
    a->loop = loop;
    pthread_mutex_init(&a->ready_lock, NULL);
    uv_async_init(loop, &a->wake, on_wake);
    a->wake.data = a;
    struct error bad;
    bool ok =
        plan_parse_text(c->kv_policy, strlen(c->kv_policy), "--kv-policy", &a->default_plan, &bad);
    for (uint32_t i = 0; ok && i < c->kv_policy_allow.count; i++)
        ok = preset_find(c->kv_policy_allow.items[i]) ||
             error_set(&bad, "invalid_value", "--kv-policy-allow", "there is no policy '%.40s'",
                       c->kv_policy_allow.items[i]);
    if (!ok) {
        error_set(e, bad.code, bad.where, "%.64s: %.500s", bad.where, bad.message);
        api_close(a);
        uv_run(loop, UV_RUN_DEFAULT);
        api_free(a);
        return NULL;
    }
    a->default_sampling =
        (struct sampling){.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1};
    return a;
}

/* What the model file recommends, for --sampling-defaults model. */
static void read_sampling(struct api *a)
{
    const struct gguf *g = engine_model(a->engine)->file;
    struct sampling *s = &a->default_sampling;
    struct error ignored;
    double value;
    int64_t whole;
    if (gguf_get_double(g, "general.sampling.temp", &value, &ignored) && value >= 0 && value <= 2)
        s->temperature = value;
    if (gguf_get_double(g, "general.sampling.top_p", &value, &ignored) && value > 0 && value <= 1)
        s->top_p = value;
    if (gguf_get_double(g, "general.sampling.min_p", &value, &ignored) && value >= 0 && value <= 1)
        s->min_p = value;
    if (gguf_get_int(g, "general.sampling.top_k", 0, 1 << 20, &whole, &ignored))
        s->top_k = (int32_t)whole;
}

bool api_set_engine(struct api *a, struct engine *engine, struct error *e)
{
    const struct model *m = engine_model(engine);
    a->engine = engine;
    a->created = time(NULL);
    snprintf(a->name, sizeof a->name, "%s", a->config->alias ? a->config->alias : m->name);
    snprintf(a->fingerprint, sizeof a->fingerprint, "winnow-%s-%.8s", version_string(),
             m->fingerprint);
    if (a->config->sampling_defaults && !strcmp(a->config->sampling_defaults, "model"))
        read_sampling(a);
    struct plan plan = a->default_plan;
    struct error bad;
    if (plan.budget_share == 0 && !api_resolve_plan(a, &plan, 1, &bad))
        return error_set(e, bad.code, "--kv-policy", "--kv-policy: %.500s", bad.message);
    return true;
}

struct engine *api_engine(struct api *a)
{
    return a->engine;
}

void api_stop_all(struct api *a)
{
    struct error e;
    error_set(&e, "draining", "", "the server is shutting down");
    e.retry_after_ms = 5000;
    for (struct job *j = a->jobs, *next; j; j = next) {
        next = j->next;
        if (!j->in_pool)
            job_fail(j, &e);
    }
    queries_stop(a, &e);
}

uint32_t api_running(const struct api *a)
{
    return a->n_jobs + a->n_queries;
}

const struct api_metrics *api_metrics(const struct api *a)
{
    return &a->metrics;
}

void api_close(struct api *a)
{
    uv_close((uv_handle_t *)&a->wake, NULL);
}

void api_free(struct api *a)
{
    pthread_mutex_destroy(&a->ready_lock);
    free(a->running_of_key);
    free(a);
}
