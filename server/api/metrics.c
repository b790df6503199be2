/* GET /metrics: the Prometheus text format 0.0.4, in one pass over counters that are atomics or the
 * loop's own. Never waits for the engine. Loop thread. */
#include <dirent.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "cache/policy/plan.h"
#include "config/base/version.h"
#include "server/server_state.h"

/* About 45 KiB with names of usual length; the longest alias is in every line of --metrics-compat.
 */
enum { PAGE_BYTES = 256 * 1024 };

struct text {
    char *bytes;
    size_t length;
};

__attribute__((format(printf, 2, 3))) static void put(struct text *t, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(t->bytes + t->length, PAGE_BYTES - t->length, format, arguments);
    va_end(arguments);
    if (n > 0 && (size_t)n < PAGE_BYTES - t->length)
        t->length += (size_t)n;
}

static void head(struct text *t, const char *name, const char *type, const char *help)
{
    put(t, "# HELP winnow_%s %s\n# TYPE winnow_%s %s\n", name, help, name, type);
}

static void single(struct text *t, const char *name, const char *type, const char *help,
                   double value)
{
    head(t, name, type, help);
    put(t, "winnow_%s %.17g\n", name, value);
}

static void label(char *out, size_t size, const char *value)
{
    size_t n = 0;
    for (; *value && n + 3 < size; value++) {
        if (*value == '\\' || *value == '"')
            out[n++] = '\\';
        if ((unsigned char)*value >= 32)
            out[n++] = *value;
    }
    out[n] = 0;
}

static double count(const atomic_uint_fast64_t *value)
{
    return (double)atomic_load_explicit(value, memory_order_relaxed);
}

static void by_policy(struct text *t, const char *name, const char *help,
                      const atomic_uint_fast64_t *values)
{
    head(t, name, "counter", help);
    for (uint32_t i = 0; i < preset_count(); i++)
        put(t, "winnow_%s{policy=\"%s\"} %.17g\n", name, preset_at(i)->name, count(&values[i]));
}

/* Bucket lines of one series; `labels` is "" or `policy="sink"`. */
static void buckets(struct text *t, const char *name, const char *labels, const struct histogram *h)
{
    const char *comma = *labels ? "," : "";
    double sum = 0;
    for (uint32_t i = 0; i <= h->n_edges; i++) {
        sum += count(&h->buckets[i]);
        if (i < h->n_edges)
            put(t, "%s_bucket{%s%sle=\"%g\"} %.17g\n", name, labels, comma, h->edges[i], sum);
        else
            put(t, "%s_bucket{%s%sle=\"+Inf\"} %.17g\n", name, labels, comma, sum);
    }
    const char *open = *labels ? "{" : "", *close = *labels ? "}" : "";
    put(t, "%s_sum%s%s%s %.17g\n", name, open, labels, close, count(&h->sum_micro) / 1e6);
    put(t, "%s_count%s%s%s %.17g\n", name, open, labels, close, sum);
}

static double observations(const struct histogram *h)
{
    double sum = 0;
    for (uint32_t i = 0; i <= h->n_edges; i++)
        sum += count(&h->buckets[i]);
    return sum;
}

static void histogram(struct text *t, const char *name, const char *help, const struct histogram *h)
{
    char full[96];
    head(t, name, "histogram", help);
    snprintf(full, sizeof full, "winnow_%s", name);
    buckets(t, full, "", h);
}

static void put_requests(struct text *t, const struct server *s)
{
    const struct transport_metrics *c = &s->transport->counts;
    head(t, "requests_total", "counter",
         "HTTP requests by endpoint and status; 499: the client left first.");
    for (uint32_t i = 0; i < MAX_ENDPOINTS; i++)
        for (uint32_t k = 0; k < MAX_STATUSES && c->requests[i][k].status; k++)
            put(t, "winnow_requests_total{endpoint=\"%s\",code=\"%u\"} %llu\n",
                i < s->n_routes ? s->routes[i].name : "other", c->requests[i][k].status,
                (unsigned long long)c->requests[i][k].count);
    head(t, "rejected_total", "counter", "Requests refused, by error code.");
    for (size_t i = 0; i < sizeof c->rejected / sizeof *c->rejected && c->rejected[i].reason[0];
         i++)
        put(t, "winnow_rejected_total{reason=\"%s\"} %llu\n", c->rejected[i].reason,
            (unsigned long long)c->rejected[i].count);
    single(t, "connections", "gauge", "Open client connections.", (double)c->connections_open);
    single(t, "connections_refused_total", "counter", "Connections over --max-connections.",
           (double)c->connections_refused);
    const struct api_metrics *a = api_metrics(s->api);
    head(t, "kv_policy_requests_total", "counter",
         "Requests by the policy they got and where it came from.");
    for (uint32_t i = 0; i < preset_count(); i++)
        for (uint32_t k = SOURCE_DEFAULT; k <= SOURCE_SESSION; k++)
            if (a->policy_requests[i][k])
                put(t, "winnow_kv_policy_requests_total{policy=\"%s\",source=\"%s\"} %llu\n",
                    preset_at(i)->name, plan_source_name(k),
                    (unsigned long long)a->policy_requests[i][k]);
}

/* Pages over all heads: what holds 32 tokens of a full cache. */
static double n_blocks(const struct model *m, double pages)
{
    return floor(pages / ((double)m->n_layers * m->n_kv_heads));
}

static void put_cache(struct text *t, const struct server *s, const struct engine_metrics *m)
{
    const struct model *model = engine_model(s->engine);
    double pages = count(&m->kv_pages), used = count(&m->kv_pages_used),
           bytes = count(&m->page_bytes);
    single(t, "kv_pages", "gauge", "Pages of the KV cache pool.", pages);
    single(t, "kv_pages_used", "gauge", "Pages that running requests hold.", used);
    single(t, "kv_pages_cached", "gauge", "Pages of cached prefixes that can be dropped.",
           count(&m->kv_pages_cached));
    single(t, "kv_usage_ratio", "gauge", "Share of the pool in use, 0 to 1.",
           pages > 0 ? used / pages : 0);
    single(t, "kv_bytes", "gauge", "Bytes of the pool.", pages * bytes);
    single(t, "kv_bytes_used", "gauge", "Bytes of pages in use.", used * bytes);
    head(t, "kv_cache_info", "gauge",
         "The shape of the cache; blocks are pages over layers times KV heads.");
    put(t,
        "winnow_kv_cache_info{page_slots=\"32\",pages=\"%.0f\",blocks=\"%.0f\",layers=\"%u\",kv_"
        "heads=\"%u\",storage=\"%s\"} 1\n",
        pages, n_blocks(model, pages), model->n_layers, model->n_kv_heads,
        plan_storage_name(engine_plan_limits(s->engine).storage));
    by_policy(t, "kv_evicted_slots_total", "Slots evicted.", m->evicted_slots);
    by_policy(t, "kv_pages_returned_total", "Pages given back to the pool while their request ran.",
              m->pages_returned);
    by_policy(t, "kv_tokens_seen_total", "Tokens that finished requests had in all.",
              m->tokens_seen);
    by_policy(t, "kv_slots_kept_total", "Slots that finished requests held at their end.",
              m->slots_kept);
    head(t, "page_lifetime_seconds", "histogram",
         "How long a page was held, by the policy that gave it back; to the step.");
    for (uint32_t i = 0; i < preset_count(); i++) {
        char labels[48];
        if (observations(&m->page_lifetime[i]) == 0) /* 24 lines that would say nothing */
            continue;
        snprintf(labels, sizeof labels, "policy=\"%s\"", preset_at(i)->name);
        buckets(t, "winnow_page_lifetime_seconds", labels, &m->page_lifetime[i]);
    }
}

static void put_engine(struct text *t, const struct server *s, struct engine_metrics *m)
{
    static const char *const finishes[] = {"stop", "length", "tool_calls", "abort", "error"};
    static const char *const phases[] = {"queued", "prefill", "decode", "paused"};
    single(t, "requests_running", "gauge", "Requests in the batch.", count(&m->requests_running));
    single(t, "requests_waiting", "gauge", "Requests in the queue.", count(&m->requests_waiting));
    single(t, "requests_paused", "gauge", "Requests whose reader is behind.",
           count(&m->requests_paused));
    single(t, "sessions", "gauge", "Sessions that wait for their next turn.", count(&m->sessions));
    single(t, "session_pages", "gauge", "Pages that they hold.", count(&m->session_pages));
    head(t, "request_finished_total", "counter", "Generations by how they ended.");
    for (uint32_t f = 0; f < METRICS_FINISH_COUNT; f++)
        for (uint32_t i = 0; i < preset_count(); i++)
            put(t, "winnow_request_finished_total{reason=\"%s\",policy=\"%s\"} %.17g\n",
                finishes[f], preset_at(i)->name, count(&m->finished[f][i]));
    head(t, "client_disconnects_total", "counter",
         "Clients that left before their answer was complete.");
    for (uint32_t i = 0; i < METRICS_PHASE_COUNT; i++)
        put(t, "winnow_client_disconnects_total{phase=\"%s\"} %.17g\n", phases[i],
            count(&m->disconnects[i]));
    single(t, "prompt_tokens_total", "counter", "Prompt tokens taken in.",
           count(&m->prompt_tokens));
    single(t, "generation_tokens_total", "counter", "Tokens generated.",
           count(&m->generation_tokens));
    single(t, "prefix_query_tokens_total", "counter",
           "Prompt tokens looked up in the prefix cache.", count(&m->prefix_query_tokens));
    single(t, "prefix_hit_tokens_total", "counter", "Prompt tokens found in the prefix cache.",
           count(&m->prefix_hit_tokens));
    single(t, "preemptions_total", "counter", "Requests put back to make room.",
           count(&m->preemptions));
    put_cache(t, s, m);
    histogram(t, "time_to_first_token_seconds", "From arrival to the first token.",
              &m->time_to_first_token);
    histogram(t, "inter_token_latency_seconds", "Between tokens of one choice.",
              &m->inter_token_latency);
    histogram(t, "request_duration_seconds", "From arrival to the end.", &m->request_duration);
    histogram(t, "queue_time_seconds", "Waiting for admission.", &m->queue_time);
    histogram(t, "prefill_time_seconds", "From admission to the first token.", &m->prefill_time);
    histogram(t, "decode_time_seconds", "From the first token to the last.", &m->decode_time);
    histogram(t, "step_time_seconds", "One step of the batch.", &m->step_time);
    histogram(t, "policy_time_seconds", "Work of cache policies in a step.", &m->policy_time);
    histogram(t, "request_prompt_tokens", "Prompt tokens of a request.", &m->request_prompt_tokens);
    histogram(t, "request_generation_tokens", "Generated tokens of a request.",
              &m->request_generation_tokens);
    histogram(t, "step_batch_tokens", "Tokens in a step.", &m->step_batch_tokens);
    char name[300];
    const struct model *model = engine_model(s->engine);
    label(name, sizeof name, api_model_name(s->api));
    head(t, "model_info", "gauge", "The model that is served.");
    put(t, "winnow_model_info{model_name=\"%s\",arch=\"%s\",quant=\"%s\"} 1\n", name,
        model->architecture, model->quantisation);
}

/* ---- vLLM's names, for dashboards and endpoint pickers that know them (--metrics-compat vllm) */

static void twin(struct text *t, const char *name, const char *type, const char *model,
                 double value)
{
    put(t, "# HELP vllm:%s As vLLM names it.\n# TYPE vllm:%s %s\n", name, name, type);
    put(t, "vllm:%s{model_name=\"%s\",engine=\"0\"} %.17g\n", name, model, value);
}

static void twin_histogram(struct text *t, const char *name, const char *model,
                           const struct histogram *h)
{
    char labels[360], full[96];
    snprintf(labels, sizeof labels, "model_name=\"%s\",engine=\"0\"", model);
    snprintf(full, sizeof full, "vllm:%s", name);
    put(t, "# HELP %s As vLLM names it.\n# TYPE %s histogram\n", full, full);
    buckets(t, full, labels, h);
}

/* Over all policies: one series, as every twin has. */
static void put_block_lifetimes(struct text *t, const char *model, const struct engine_metrics *m)
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

static void put_vllm(struct text *t, const struct server *s, const struct engine_metrics *m)
{
    static const char *const finishes[] = {"stop", "length", "tool_calls", "abort", "error"};
    const struct model *shape = engine_model(s->engine);
    char model[300];
    label(model, sizeof model, api_model_name(s->api));
    double pages = count(&m->kv_pages), ratio = pages > 0 ? count(&m->kv_pages_used) / pages : 0;
    twin(t, "num_requests_running", "gauge", model, count(&m->requests_running));
    twin(t, "num_requests_waiting", "gauge", model, count(&m->requests_waiting));
    twin(t, "kv_cache_usage_perc", "gauge", model, ratio);
    if (s->config->metrics_compat_legacy)
        twin(t, "gpu_cache_usage_perc", "gauge", model, ratio);
    twin(t, "prompt_tokens_total", "counter", model, count(&m->prompt_tokens));
    twin(t, "generation_tokens_total", "counter", model, count(&m->generation_tokens));
    twin(t, "prefix_cache_queries_total", "counter", model, count(&m->prefix_query_tokens));
    twin(t, "prefix_cache_hits_total", "counter", model, count(&m->prefix_hit_tokens));
    twin(t, "num_preemptions_total", "counter", model, count(&m->preemptions));
    put(t, "# HELP vllm:request_success_total As vLLM names it.\n# TYPE vllm:request_success_total "
           "counter\n");
    for (uint32_t f = 0; f < METRICS_FINISH_COUNT; f++) {
        double sum = 0;
        for (uint32_t i = 0; i < preset_count(); i++)
            sum += count(&m->finished[f][i]);
        put(t,
            "vllm:request_success_total{model_name=\"%s\",engine=\"0\",finished_reason=\"%s\"} "
            "%.17g\n",
            model, finishes[f], sum);
    }
    put(t,
        "# HELP vllm:cache_config_info As vLLM names it.\n# TYPE vllm:cache_config_info gauge\n");
    put(t,
        "vllm:cache_config_info{model_name=\"%s\",engine=\"0\",block_size=\"32\",num_gpu_blocks=\"%"
        ".0f\"} 1\n",
        model, n_blocks(shape, pages));
    put(t,
        "# HELP vllm:lora_requests_info As vLLM names it.\n# TYPE vllm:lora_requests_info gauge\n");
    put(t,
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

/* ---- the process, as client libraries name it */

static void process_line(struct text *t, const char *name, const char *type, const char *help,
                         double value)
{
    put(t, "# HELP process_%s %s\n# TYPE process_%s %s\nprocess_%s %.17g\n", name, help, name, type,
        name, value);
}

static double start_time(void)
{
    static double started;
    if (started == 0) {
        struct timespec now, up;
        unsigned long long ticks = 0;
        FILE *f = fopen("/proc/self/stat", "re");
        char line[1024];
        size_t n = f ? fread(line, 1, sizeof line - 1, f) : 0;
        if (f)
            fclose(f);
        line[n] = 0;
        const char *rest = strrchr(line, ')'); /* the program's name may hold anything */
        if (rest)
            sscanf(
                rest + 1,
                " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
                &ticks);
        clock_gettime(CLOCK_REALTIME, &now);
        clock_gettime(CLOCK_BOOTTIME, &up);
        started =
            (double)now.tv_sec - (double)up.tv_sec + (double)ticks / (double)sysconf(_SC_CLK_TCK);
    }
    return started;
}

static void put_process(struct text *t)
{
    struct rusage usage;
    struct rlimit limit;
    unsigned long long size = 0, resident = 0;
    double fds = 0;
    getrusage(RUSAGE_SELF, &usage);
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%llu %llu", &size, &resident) != 2)
        resident = 0;
    if (f)
        fclose(f);
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d))
        fds++;
    if (d)
        closedir(d);
    double page = (double)sysconf(_SC_PAGESIZE);
    process_line(t, "cpu_seconds_total", "counter", "User and system time.",
                 (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
                     (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    process_line(t, "resident_memory_bytes", "gauge", "Resident memory.", (double)resident * page);
    process_line(t, "virtual_memory_bytes", "gauge", "Virtual memory.", (double)size * page);
    process_line(t, "open_fds", "gauge", "Open file descriptors.",
                 fds > 3 ? fds - 3 : 0); /* . and .. and itself */
    if (!getrlimit(RLIMIT_NOFILE, &limit))
        process_line(t, "max_fds", "gauge", "Limit of file descriptors.", (double)limit.rlim_cur);
    process_line(t, "start_time_seconds", "gauge", "When the process started, Unix time.",
                 start_time());
}

void handle_metrics(struct http_request *x, void *context)
{
    static char page[PAGE_BYTES]; /* the loop's own */
    const struct server *s = context;
    struct text t = {.bytes = page};
    head(&t, "build_info", "gauge", "What this binary is.");
    put(&t, "winnow_build_info{version=\"%s\",commit=\"%s\",backend=\"%s\"} 1\n", version_string(),
        version_commit(), s->engine ? engine_backend_description(s->engine) : "");
    put_requests(&t, s);
    if (s->engine && s->transport->ready) {
        put_engine(&t, s, engine_metrics(s->engine));
        if (s->config->metrics_compat_vllm)
            put_vllm(&t, s, engine_metrics(s->engine));
    }
    put_process(&t);
    http_request_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", t.bytes, t.length);
}
