/* See metrics.h. */
#include "server/api/metrics.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache/policy/plan.h"
#include "cache/policy/preset.h"
#include "config/base/version.h"
#include "server/api/metrics_text.h"

/* Our own families. `name` is the part after "winnow_". */
static void head(struct metrics_text *t, const char *name, const char *type, const char *help)
{
    char full[96];
    snprintf(full, sizeof full, "winnow_%s", name);
    metrics_head(t, full, type, help);
}

static void single(struct metrics_text *t, const char *name, const char *type, const char *help,
                   double value)
{
    char full[96];
    snprintf(full, sizeof full, "winnow_%s", name);
    metrics_single(t, full, type, help, "", value);
}

static void by_policy(struct metrics_text *t, const char *name, const char *help,
                      const atomic_uint_fast64_t *values)
{
    head(t, name, "counter", help);
    for (uint32_t i = 0; i < preset_count(); i++)
        metrics_put(t, "winnow_%s{policy=\"%s\"} %.17g\n", name, preset_at(i)->name,
                    metrics_count(&values[i]));
}

static void histogram(struct metrics_text *t, const char *name, const char *help,
                      const struct histogram *h)
{
    char full[96];
    head(t, name, "histogram", help);
    snprintf(full, sizeof full, "winnow_%s", name);
    metrics_buckets(t, full, "", h);
}

static void put_requests(struct metrics_text *t, const struct metrics_page *page)
{
    const struct transport_counts *c = transport_counts(page->transport);
    head(t, "requests_total", "counter",
         "HTTP requests by endpoint and status; 499: the client left before the answer.");
    for (uint32_t i = 0; i < MAX_ENDPOINTS; i++)
        for (uint32_t k = 0; k < MAX_STATUSES && c->requests[i][k].status; k++)
            metrics_put(t, "winnow_requests_total{endpoint=\"%s\",code=\"%u\"} %llu\n",
                        transport_endpoint(page->transport, i), c->requests[i][k].status,
                        (unsigned long long)c->requests[i][k].count);
    head(t, "rejected_total", "counter", "Requests refused, by error code.");
    for (uint32_t i = 0; i < MAX_REASONS && c->rejected[i].reason[0]; i++)
        metrics_put(t, "winnow_rejected_total{reason=\"%s\"} %llu\n", c->rejected[i].reason,
                    (unsigned long long)c->rejected[i].count);
    single(t, "connections", "gauge", "Open client connections.", (double)c->connections_open);
    single(t, "body_bytes", "gauge",
           "Bytes of bodies of unfinished requests, beyond 64 KiB of each.", (double)c->body_bytes);
    single(t, "body_bytes_max", "gauge", "The limit of body_bytes (--max-body-memory).",
           (double)c->body_bytes_max);
    single(t, "connections_refused_total", "counter", "Connections over --max-connections.",
           (double)c->connections_refused);
    head(t, "kv_policy_requests_total", "counter",
         "Requests by the policy they got and where it came from.");
    for (uint32_t i = 0; i < preset_count(); i++)
        for (uint32_t k = SOURCE_DEFAULT; k <= SOURCE_SESSION; k++) {
            unsigned long long n = api_policy_requests(page->api, i, k);
            if (n)
                metrics_put(t,
                            "winnow_kv_policy_requests_total{policy=\"%s\",source=\"%s\"} %llu\n",
                            preset_at(i)->name, plan_source_name(k), n);
        }
}

/* Each limit that holds a product, and what is in use of it. */
static void put_budgets(struct metrics_text *t, const struct metrics_page *page)
{
    const struct api_budgets b = api_budgets(page->api);
    const struct config *c = page->config;
    single(t, "work_waiting", "gauge", "Bodies that wait for the thread pool.", b.work_waiting);
    single(t, "work_running", "gauge", "Bodies and long answers in the thread pool.",
           b.work_running);
    single(t, "work_bytes", "gauge", "Bytes of bodies in the thread pool and before it.",
           (double)b.work_bytes);
    single(t, "work_limit_bytes", "gauge", "The most of them (--max-work); half for one caller.",
           (double)c->max_work_bytes);
    single(t, "work_refused_total", "counter", "Bodies refused because of this limit.",
           (double)b.work_refused);
    single(t, "answer_bytes", "gauge", "Bytes of answers in the making that are no streams.",
           (double)b.answer_bytes);
    single(t, "answer_limit_bytes", "gauge", "The most of one answer (--max-answer).",
           (double)c->max_answer_bytes);
    single(t, "request_limit_tokens", "gauge",
           "The most tokens of one request (--max-request-tokens).", c->max_request_tokens);
    single(t, "requests_partly_submitted", "gauge",
           "Requests with prompts that wait outside the queue.", b.prompts_held);
}

/* A block is one page of each head: 32 tokens of a full cache. */
static double n_blocks(const struct model *m, double pages)
{
    return floor(pages / ((double)m->n_layers * m->n_kv_heads));
}

static void put_cache(struct metrics_text *t, const struct metrics_page *page,
                      const struct engine_metrics *m)
{
    const struct model *model = engine_model(api_engine(page->api));
    double pages = metrics_count(&m->kv_pages), used = metrics_count(&m->kv_pages_used),
           bytes = metrics_count(&m->page_bytes);
    single(t, "kv_pages", "gauge", "Pages of the KV cache pool.", pages);
    single(t, "kv_pages_used", "gauge", "Pages that running requests hold.", used);
    single(t, "kv_pages_cached", "gauge", "Pages of cached prefixes that can be dropped.",
           metrics_count(&m->kv_pages_cached));
    single(t, "kv_usage_ratio", "gauge", "Share of the pool in use, 0 to 1.",
           pages > 0 ? used / pages : 0);
    single(t, "kv_bytes", "gauge", "Bytes of the pool.", pages * bytes);
    single(t, "kv_bytes_used", "gauge", "Bytes of pages in use.", used * bytes);
    head(t, "kv_cache_info", "gauge",
         "The shape of the cache; blocks are pages over layers times KV heads.");
    metrics_put(
        t,
        "winnow_kv_cache_info{page_slots=\"32\",pages=\"%.0f\",blocks=\"%.0f\",layers=\"%u\",kv_"
        "heads=\"%u\",storage=\"%s\"} 1\n",
        pages, n_blocks(model, pages), model->n_layers, model->n_kv_heads,
        plan_storage_name(engine_plan_limits(api_engine(page->api)).storage));
    by_policy(t, "kv_evicted_slots_total", "Slots evicted.", m->evicted_slots);
    by_policy(t, "kv_pages_returned_total", "Pages freed while their request was running.",
              m->pages_returned);
    by_policy(t, "kv_tokens_seen_total",
              "Tokens of finished requests, with those that were dropped.", m->tokens_seen);
    by_policy(t, "kv_slots_kept_total", "Slots that finished requests held at the end.",
              m->slots_kept);
    head(t, "page_lifetime_seconds", "histogram",
         "How long a page was held, by the policy that freed it; measured in whole steps.");
    for (uint32_t i = 0; i < preset_count(); i++) {
        char labels[48];
        if (metrics_observations(&m->page_lifetime[i]) == 0) /* leaves out 24 lines of zeros */
            continue;
        snprintf(labels, sizeof labels, "policy=\"%s\"", preset_at(i)->name);
        metrics_buckets(t, "winnow_page_lifetime_seconds", labels, &m->page_lifetime[i]);
    }
}

static void put_engine(struct metrics_text *t, const struct metrics_page *page,
                       struct engine_metrics *m)
{
    static const char *const finishes[] = {"stop", "length", "tool_calls", "abort", "error"};
    static const char *const phases[] = {"queued", "prefill", "decode", "paused"};
    single(t, "requests_running", "gauge", "Requests in the batch.",
           metrics_count(&m->requests_running));
    single(t, "requests_waiting", "gauge", "Requests in the queue.",
           metrics_count(&m->requests_waiting));
    single(t, "requests_paused", "gauge", "Requests whose client reads too slowly.",
           metrics_count(&m->requests_paused));
    single(t, "sessions", "gauge", "Sessions that are waiting for their next turn.",
           metrics_count(&m->sessions));
    single(t, "session_pages", "gauge", "Pages of waiting sessions.",
           metrics_count(&m->session_pages));
    head(t, "request_finished_total", "counter", "Finished choices by the reason of their end.");
    for (uint32_t f = 0; f < METRICS_FINISH_COUNT; f++)
        for (uint32_t i = 0; i < preset_count(); i++)
            metrics_put(t, "winnow_request_finished_total{reason=\"%s\",policy=\"%s\"} %.17g\n",
                        finishes[f], preset_at(i)->name, metrics_count(&m->finished[f][i]));
    head(t, "client_disconnects_total", "counter",
         "Clients that left before their answer was complete.");
    for (uint32_t i = 0; i < METRICS_PHASE_COUNT; i++)
        metrics_put(t, "winnow_client_disconnects_total{phase=\"%s\"} %.17g\n", phases[i],
                    metrics_count(&m->disconnects[i]));
    single(t, "prompt_tokens_total", "counter", "Prompt tokens taken in.",
           metrics_count(&m->prompt_tokens));
    single(t, "generation_tokens_total", "counter", "Tokens generated.",
           metrics_count(&m->generation_tokens));
    single(t, "prefix_query_tokens_total", "counter",
           "Prompt tokens looked up in the prefix cache.", metrics_count(&m->prefix_query_tokens));
    single(t, "prefix_hit_tokens_total", "counter", "Prompt tokens found in the prefix cache.",
           metrics_count(&m->prefix_hit_tokens));
    single(t, "preemptions_total", "counter",
           "Requests that lost their pages to others and started again.",
           metrics_count(&m->preemptions));
    put_cache(t, page, m);
    histogram(t, "time_to_first_token_seconds", "From arrival to the first token.",
              &m->time_to_first_token);
    histogram(t, "inter_token_latency_seconds", "Between tokens of one choice.",
              &m->inter_token_latency);
    histogram(t, "request_duration_seconds", "From arrival to the end.", &m->request_duration);
    histogram(t, "queue_time_seconds", "From arrival to admission.", &m->queue_time);
    histogram(t, "prefill_time_seconds", "From admission to the first token.", &m->prefill_time);
    histogram(t, "decode_time_seconds", "From the first token to the last.", &m->decode_time);
    histogram(t, "step_time_seconds", "Time of one step of the batch.", &m->step_time);
    histogram(t, "policy_time_seconds", "Time of cache policies in one step.", &m->policy_time);
    histogram(t, "request_prompt_tokens", "Prompt tokens per request.", &m->request_prompt_tokens);
    histogram(t, "request_generation_tokens", "Generated tokens per request.",
              &m->request_generation_tokens);
    histogram(t, "step_batch_tokens", "Tokens in a step.", &m->step_batch_tokens);
    char name[300];
    const struct model *model = engine_model(api_engine(page->api));
    metrics_label(name, sizeof name, api_model_name(page->api));
    head(t, "model_info", "gauge", "The model that is served.");
    metrics_put(t, "winnow_model_info{model_name=\"%s\",arch=\"%s\",quant=\"%s\"} 1\n", name,
                model->architecture, model->quantisation);
}

/* ---- vLLM's names, for dashboards and endpoint pickers that know them (--metrics-compat vllm) */

static void twin(struct metrics_text *t, const char *name, const char *type, const char *model,
                 double value)
{
    metrics_put(t, "# HELP vllm:%s As vLLM names it.\n# TYPE vllm:%s %s\n", name, name, type);
    metrics_put(t, "vllm:%s{model_name=\"%s\",engine=\"0\"} %.17g\n", name, model, value);
}

static void twin_histogram(struct metrics_text *t, const char *name, const char *model,
                           const struct histogram *h)
{
    char labels[360], full[96];
    snprintf(labels, sizeof labels, "model_name=\"%s\",engine=\"0\"", model);
    snprintf(full, sizeof full, "vllm:%s", name);
    metrics_put(t, "# HELP %s As vLLM names it.\n# TYPE %s histogram\n", full, full);
    metrics_buckets(t, full, labels, h);
}

/* The sum over all policies, because vLLM's families have one series each. */
static void put_block_lifetimes(struct metrics_text *t, const char *model,
                                const struct engine_metrics *m)
{
    struct histogram all = {.edges = m->page_lifetime[0].edges,
                            .n_edges = m->page_lifetime[0].n_edges};
    for (uint32_t i = 0; i < preset_count(); i++) {
        const struct histogram *h = &m->page_lifetime[i];
        for (uint32_t k = 0; k <= h->n_edges; k++)
            atomic_fetch_add_explicit(&all.buckets[k], atomic_load(&h->buckets[k]),
                                      memory_order_relaxed);
        atomic_fetch_add_explicit(&all.sum_micro, atomic_load(&h->sum_micro), memory_order_relaxed);
    }
    twin_histogram(t, "kv_block_lifetime_seconds", model, &all);
}

static void put_vllm(struct metrics_text *t, const struct metrics_page *page,
                     const struct engine_metrics *m)
{
    static const char *const finishes[] = {"stop", "length", "tool_calls", "abort", "error"};
    const struct model *shape = engine_model(api_engine(page->api));
    char model[300];
    metrics_label(model, sizeof model, api_model_name(page->api));
    double pages = metrics_count(&m->kv_pages),
           ratio = pages > 0 ? metrics_count(&m->kv_pages_used) / pages : 0;
    twin(t, "num_requests_running", "gauge", model, metrics_count(&m->requests_running));
    twin(t, "num_requests_waiting", "gauge", model, metrics_count(&m->requests_waiting));
    twin(t, "kv_cache_usage_perc", "gauge", model, ratio);
    if (page->config->metrics_compat_legacy)
        twin(t, "gpu_cache_usage_perc", "gauge", model, ratio);
    twin(t, "prompt_tokens_total", "counter", model, metrics_count(&m->prompt_tokens));
    twin(t, "generation_tokens_total", "counter", model, metrics_count(&m->generation_tokens));
    twin(t, "prefix_cache_queries_total", "counter", model, metrics_count(&m->prefix_query_tokens));
    twin(t, "prefix_cache_hits_total", "counter", model, metrics_count(&m->prefix_hit_tokens));
    twin(t, "num_preemptions_total", "counter", model, metrics_count(&m->preemptions));
    metrics_put(
        t, "# HELP vllm:request_success_total As vLLM names it.\n# TYPE vllm:request_success_total "
           "counter\n");
    for (uint32_t f = 0; f < METRICS_FINISH_COUNT; f++) {
        double sum = 0;
        for (uint32_t i = 0; i < preset_count(); i++)
            sum += metrics_count(&m->finished[f][i]);
        metrics_put(
            t,
            "vllm:request_success_total{model_name=\"%s\",engine=\"0\",finished_reason=\"%s\"} "
            "%.17g\n",
            model, finishes[f], sum);
    }
    metrics_put(
        t,
        "# HELP vllm:cache_config_info As vLLM names it.\n# TYPE vllm:cache_config_info gauge\n");
    metrics_put(
        t,
        "vllm:cache_config_info{model_name=\"%s\",engine=\"0\",block_size=\"32\",num_gpu_blocks=\"%"
        ".0f\"} 1\n",
        model, n_blocks(shape, pages));
    metrics_put(
        t,
        "# HELP vllm:lora_requests_info As vLLM names it.\n# TYPE vllm:lora_requests_info gauge\n");
    metrics_put(
        t,
        "vllm:lora_requests_info{max_lora=\"0\",running_lora_adapters=\"\",waiting_lora_adapters="
        "\"\"} %lld\n",
        (long long)time(NULL));
    twin_histogram(t, "time_to_first_token_seconds", model, &m->time_to_first_token);
    twin_histogram(t, "inter_token_latency_seconds", model, &m->inter_token_latency);
    twin_histogram(t, "e2e_request_latency_seconds", model, &m->request_duration);
    twin_histogram(t, "request_queue_time_seconds", model, &m->queue_time);
    twin_histogram(t, "request_prefill_time_seconds", model, &m->prefill_time);
    twin_histogram(t, "request_decode_time_seconds", model, &m->decode_time);
    twin_histogram(t, "request_prompt_tokens", model, &m->request_prompt_tokens);
    twin_histogram(t, "request_generation_tokens", model, &m->request_generation_tokens);
    twin_histogram(t, "iteration_tokens_total", model, &m->step_batch_tokens);
    put_block_lifetimes(t, model, m);
}

/* The backend's description is a sentence; the label has its first word, such as "cpu". */
static void put_build(struct metrics_text *t, const struct engine *engine)
{
    const char *described = engine ? engine_backend_description(engine) : "";
    char kind[32], label[64];
    snprintf(kind, sizeof kind, "%.*s", (int)strcspn(described, ": "), described);
    metrics_label(label, sizeof label, kind);
    metrics_put(t, "winnow_build_info{version=\"%s\",commit=\"%s\",backend=\"%s\"} 1\n",
                version_string(), version_commit(), label);
}

void handle_metrics(struct http_request *x, void *context)
{
    const struct metrics_page *page = context;
    struct engine *engine = api_engine(page->api);
    struct metrics_text t = {0};
    head(&t, "build_info", "gauge", "Version and backend of this binary.");
    put_build(&t, engine);
    put_requests(&t, page);
    put_budgets(&t, page);
    if (engine && transport_is_ready(page->transport)) {
        put_engine(&t, page, engine_metrics(engine));
        if (page->config->metrics_compat_vllm)
            put_vllm(&t, page, engine_metrics(engine));
    }
    metrics_process(&t);
    if (t.failed) {
        struct error e;
        error_set(&e, "out_of_memory", "", "the server is out of memory");
        http_request_reply_error(x, &e);
        bytes_clear(&t.bytes);
        return;
    }
    http_request_reply_bytes(x, 200, "text/plain; version=0.0.4; charset=utf-8", &t.bytes);
}
