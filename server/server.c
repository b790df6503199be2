/* The front end's life: see server.h. One thread runs the loop; the model is loaded on another, so
 * that probes are answered meanwhile. */
#include "server/server.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/base/size.h"
#include "config/base/version.h"
#include "server/devices.h"
#include "server/server_state.h"

enum { WATCH_MS = 50, FLUSH_MS = 1000 };

static const struct route own_routes[] = {
    {.method = "GET",
     .path = "/",
     .handler = handle_page,
     .public = true,
     .plain_path_only = true,
     .name = "page"},
    {.method = "GET",
     .path = "/page/*",
     .handler = handle_page_file,
     .public = true,
     .plain_path_only = true,
     .name = "page"},
    {.method = "GET",
     .path = "/health",
     .handler = handle_health,
     .public = true,
     .name = "health"},
    {.method = "GET",
     .path = "/livez",
     .handler = handle_live,
     .public = true,
     .plain_path_only = true,
     .name = "livez"},
    {.method = "GET",
     .path = "/readyz",
     .handler = handle_ready,
     .public = true,
     .plain_path_only = true,
     .name = "readyz"},
    {.method = "GET",
     .path = "/metrics",
     .handler = handle_metrics,
     .public = true,
     .plain_path_only = true,
     .name = "metrics"},
};

static void add_routes(struct server *s)
{
    for (size_t i = 0; i < sizeof own_routes / sizeof *own_routes; i++) {
        s->routes[s->n_routes] = own_routes[i];
        s->routes[s->n_routes++].context = s;
    }
    for (uint32_t i = 0; i < n_api_routes && s->n_routes < MAX_ROUTES; i++) {
        s->routes[s->n_routes] = api_routes[i];
        s->routes[s->n_routes++].context = s->api;
    }
}

/* ---- loading
 * --------------------------------------------------------------------------------------------- */

static void on_progress(void *context, const char *what, double share)
{
    struct server *s = context;
    (void)what;
    atomic_store(&s->load_permille, (uint32_t)(share * 1000));
}

static void load(void *context)
{
    struct server *s = context;
    const struct config *c = s->config;
    struct engine_options options = {
        .model_path = c->model,
        .gpu_memory_share = c->gpu_memory_share,
        .isa = c->isa,
        .n_threads = c->threads,
        .n_ctx = c->ctx_size,
        .max_num_seqs = c->max_num_seqs,
        .max_batched_tokens = c->max_batched_tokens,
        .max_queue = c->max_queue,
        .max_generate = c->max_generate,
        .kv_memory_bytes = c->kv_memory_bytes,
        .kv_memory_share = c->kv_memory_share,
        .chat_template = c->chat_template,
        .head_profile = c->head_profile,
        .audit = c->audit,
        .session_ttl_ms = c->session_ttl_ms,
        .queue_timeout_ms = c->queue_timeout_ms,
        .progress = on_progress,
        .progress_context = s,
    };
    plan_storage_parse(c->kv_storage, &options.kv_storage); /* the option table knows the names */
    if (device_pick(&server_devices, c->device, &options.device, &s->load_error))
        s->loaded_engine = engine_open(&options, &s->load_error);
    uv_async_send(&s->loaded);
}

static void print_facts(const struct server *s)
{
    const struct model *m = engine_model(s->engine);
    char size[32], pool[32];
    uint64_t page = engine_page_bytes(s->engine), pages = engine_n_pages(s->engine);
    size_format(size, m->size_bytes);
    size_format(pool, page * pages);
    log_line(LOG_INFO, "model: %s, %s, %s, %.1f M parameters, %s", api_model_name(s->api),
             m->architecture, m->quantisation, (double)m->n_parameters / 1e6, size);
    log_line(LOG_INFO, "device: %s", engine_backend_description(s->engine));
    log_line(LOG_INFO, "threads: %u", engine_n_threads(s->engine));
    log_line(LOG_INFO, "context: %u tokens (trained: %u)", engine_n_ctx(s->engine), m->n_ctx_train);
    log_line(LOG_INFO, "pages: %llu of %llu bytes (%s), %llu tokens of full cache",
             (unsigned long long)pages, (unsigned long long)page, pool,
             (unsigned long long)(pages / ((uint64_t)m->n_layers * m->n_kv_heads) * 32));
    log_line(LOG_INFO, "policy: %s unless a request says otherwise", s->config->kv_policy);
    log_line(LOG_INFO, "ready at %s", transport_address(s->transport));
}

static void begin_stop(struct server *s);

static void fail(struct server *s, const struct error *e)
{
    bool named = !e->where[0] || strstr(e->message, e->where);
    log_line(LOG_ERROR, "%s%s%s", named ? "" : e->where, named ? "" : ": ", e->message);
    s->exit_code = 1;
    begin_stop(s);
}

static void on_loaded(uv_async_t *handle)
{
    struct server *s = handle->data;
    struct error e;
    if (!s->loading)
        return;
    uv_thread_join(&s->loader);
    s->loading = false;
    s->engine = s->loaded_engine;
    if (s->stopping)
        return;
    if (!s->engine) {
        fail(s, &s->load_error);
        return;
    }
    if (!api_set_engine(s->api, s->engine, &e)) {
        fail(s, &e);
        return;
    }
    print_facts(s);
    transport_set_ready(s->transport, true);
}

/* A line at every tenth of a load that takes a while. */
static void tell_loading(struct server *s)
{
    uint32_t permille = atomic_load(&s->load_permille), percent = permille / 100 * 10;
    transport_set_loading(s->transport, permille / 1000.0);
    if (percent > s->told_percent && percent < 100) {
        s->told_percent = percent;
        log_line(LOG_INFO, "loading: %u %%", percent);
    }
}

/* ---- ending
 * --------------------------------------------------------------------------------------------- */

static void close_handles(struct server *s)
{
    uv_close((uv_handle_t *)&s->watch, NULL);
    uv_close((uv_handle_t *)&s->on_term, NULL);
    uv_close((uv_handle_t *)&s->on_int, NULL);
    signal(SIGTERM,
           SIG_IGN); /* closing gave them their default action back, and we are ending already */
    signal(SIGINT, SIG_IGN);
    uv_close((uv_handle_t *)&s->loaded, NULL);
    api_close(s->api);
    transport_close(s->transport);
}

/* Whoever still runs is told so; then the last bytes get a moment to go out. */
static void begin_stop(struct server *s)
{
    if (s->stopping)
        return;
    s->stopping = true;
    transport_set_draining(s->transport);
    api_stop_all(s->api);
    s->flush_end_ms = uv_now(&s->loop) + FLUSH_MS;
}

void server_drain(struct server *s)
{
    if (s->draining)
        return;
    s->draining = true;
    transport_set_draining(s->transport);
    s->drain_end_ms = uv_now(&s->loop) + s->config->shutdown_timeout_ms;
    log_line(LOG_INFO, "draining: %u requests run on, at most %.0f s",
             transport_running(s->transport), (double)s->config->shutdown_timeout_ms / 1e3);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct server *s = handle->data;
    (void)number;
    if (s->draining)
        begin_stop(s);
    else
        server_drain(s);
}

static void on_watch(uv_timer_t *timer)
{
    struct server *s = timer->data;
    bool idle = transport_running(s->transport) == 0 && api_running(s->api) == 0;
    if (s->loading)
        tell_loading(s);
    if (s->engine && !s->stopping && !engine_alive(s->engine)) {
        log_line(LOG_ERROR, "the device has failed; ending so that a supervisor can start anew");
        s->exit_code = 1;
        begin_stop(s);
    }
    if (s->draining && !s->stopping && (idle || uv_now(&s->loop) >= s->drain_end_ms))
        begin_stop(s);
    if (s->stopping && !s->loading && (idle || uv_now(&s->loop) >= s->flush_end_ms))
        close_handles(s);
}

static bool start(struct server *s, struct error *e)
{
    s->api = api_new(s->config, &s->loop, e);
    if (!s->api)
        return false;
    add_routes(s);
    s->transport = transport_new(s->config, &s->loop, s->routes, s->n_routes, e);
    if (!s->transport) {
        api_close(s->api);
        uv_run(&s->loop, UV_RUN_DEFAULT);
        api_free(s->api);
        return false;
    }
    uv_async_init(&s->loop, &s->loaded, on_loaded);
    uv_timer_init(&s->loop, &s->watch);
    uv_signal_init(&s->loop, &s->on_term);
    uv_signal_init(&s->loop, &s->on_int);
    s->loaded.data = s->watch.data = s->on_term.data = s->on_int.data = s;
    uv_timer_start(&s->watch, on_watch, WATCH_MS, WATCH_MS);
    uv_signal_start(&s->on_term, on_signal, SIGTERM);
    uv_signal_start(&s->on_int, on_signal, SIGINT);
    return true;
}

static void warn_of_open_door(const struct server *s)
{
    const struct transport *t = s->transport;
    if (!t->loopback && !t->unix_path[0] && s->config->n_api_keys == 0)
        log_line(LOG_WARNING, "no --api-key is set: whoever reaches %s may use it",
                 transport_address(t));
}

int server_run(const struct config *c)
{
    struct server *s = calloc(1, sizeof *s);
    struct error e;
    if (!s || uv_loop_init(&s->loop)) {
        fprintf(stderr, "winnow: out of memory\n");
        free(s);
        return 1;
    }
    s->config = c;
    log_setup(c->log_format, c->log_level);
    signal(SIGPIPE, SIG_IGN);
    if (!start(s, &e)) {
        log_line(LOG_ERROR, "%s", e.message);
        uv_loop_close(&s->loop);
        free(s);
        return 1;
    }
    log_line(LOG_INFO, "winnow %s (%s) listens at %s; loading %s", version_string(),
             version_commit(), transport_address(s->transport), c->model);
    warn_of_open_door(s);
    s->loading = true;
    if (uv_thread_create(&s->loader, load, s)) {
        s->loading = false;
        error_set_memory(&e, "a thread", 0);
        fail(s, &e);
    }
    uv_run(&s->loop, UV_RUN_DEFAULT);
    int status = s->exit_code;
    if (s->engine)
        engine_close(s->engine);
    api_free(s->api);
    uv_loop_close(&s->loop);
    log_line(LOG_INFO, "ended");
    free(s);
    return status;
}
