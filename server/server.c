/* The server's life: see server.h. One thread runs the loop. Another one loads the model, so that
 * probes are answered meanwhile. */
#include "server/server.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/base/size.h"
#include "config/base/version.h"
#include "server/api/api.h"
#include "server/api/health.h"
#include "server/api/metrics.h"
#include "server/devices.h"
#include "server/http/transport.h"
#include "server/page/page.h"

enum { WATCH_MS = 50, FLUSH_MS = 1000, MAX_ROUTES = MAX_ENDPOINTS - 1 };

struct server {
    const struct config *config;
    uv_loop_t loop;
    struct transport *transport;
    struct api *api;
    struct route routes[MAX_ROUTES];
    uint32_t n_routes;
    struct health health; /* contexts of handlers */
    struct metrics_page metrics;
    struct page page;

    uv_thread_t loader;
    bool file_changed; /* and the log has said so */
    bool loading;      /* the loader thread must be joined */
    struct engine *engine;
    struct engine *loaded_engine; /* set by the loader, taken by the loop in on_loaded */
    struct error load_error;
    _Atomic uint32_t load_permille;
    uv_async_t loaded;
    uint32_t logged_percent;

    uv_signal_t on_term, on_int, on_hup, on_usr1, on_usr2;
    bool had_terminal;
    uv_timer_t watch; /* drain, engine faults, load progress */
    uint64_t drain_end_ms, flush_end_ms;
    bool draining, stopping;
    int exit_code;
};

/* ---- routes */

static void add(struct server *s, const char *path, http_request_handler handler, void *context,
                bool plain_path_only, const char *name)
{
    s->routes[s->n_routes++] = (struct route){.method = "GET",
                                              .path = path,
                                              .handler = handler,
                                              .context = context,
                                              .public = true,
                                              .plain_path_only = plain_path_only,
                                              .name = name};
}

static bool add_routes(struct server *s, struct error *e)
{
    add(s, "/", handle_page, &s->page, true, "page");
    add(s, "/page/*", handle_page_file, &s->page, true, "page");
    add(s, "/health", handle_health, &s->health, false, "health");
    add(s, "/livez", handle_live, &s->health, true, "livez");
    add(s, "/readyz", handle_ready, &s->health, true, "readyz");
    add(s, "/metrics", handle_metrics, &s->metrics, true, "metrics");
    return api_add_routes(s->api, s->routes, &s->n_routes, MAX_ROUTES) ||
           error_set(e, "internal_error", "", "more than %d routes", MAX_ROUTES);
}

/* ---- loading */

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
        .no_mmap = c->no_mmap,
        .gpu_memory_share = c->gpu_memory_share,
        .isa = c->isa,
        .n_threads = c->threads,
        .n_ctx = c->ctx_size,
        .max_num_seqs = c->max_num_seqs,
        .max_batched_tokens = c->max_batched_tokens,
        .max_queue = c->max_queue,
        .max_generate = c->max_generate,
        .kv_memory_bytes = c->kv_memory.bytes,
        .kv_memory_share = c->kv_memory.share,
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
    log_line(LOG_INFO, "policy: %s for requests that name none", s->config->kv_policy);
    const struct head_profile *profile = engine_plan_limits(s->engine).profile;
    if (profile)
        log_line(LOG_INFO, "head profile: %u of %u KV heads look things up",
                 head_profile_n_whole(profile, 0.5), profile->n_layers * profile->n_kv_heads);
    log_line(LOG_INFO, "ready at %s", transport_address(s->transport, 0));
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
    s->health.engine = s->engine;
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

/* Logs a line for each tenth of a long load. */
static void log_loading(struct server *s)
{
    uint32_t permille = atomic_load(&s->load_permille), percent = permille / 100 * 10;
    transport_set_loading(s->transport, permille / 1000.0);
    if (percent > s->logged_percent && percent < 100) {
        s->logged_percent = percent;
        log_line(LOG_INFO, "loading: %u %%", percent);
    }
}

/* ---- ending */

static void close_handles(struct server *s)
{
    uv_close((uv_handle_t *)&s->watch, NULL);
    uv_signal_t *handles[] = {&s->on_term, &s->on_int, &s->on_hup, &s->on_usr1, &s->on_usr2};
    for (size_t i = 0; i < sizeof handles / sizeof *handles; i++) {
        int number = handles[i]->signum;
        uv_close((uv_handle_t *)handles[i], NULL);
        /* closing restored the default action, but the server is already ending */
        signal(number, SIG_IGN);
    }
    uv_close((uv_handle_t *)&s->loaded, NULL);
    api_close(s->api);
    transport_close(s->transport);
}

/* Running requests get an error. Then the last bytes have a moment to be sent. */
static void begin_stop(struct server *s)
{
    if (s->stopping)
        return;
    s->stopping = true;
    transport_set_draining(s->transport);
    api_stop_all(s->api);
    s->flush_end_ms = uv_now(&s->loop) + FLUSH_MS;
}

static void drain(struct server *s)
{
    if (s->draining)
        return;
    s->draining = true;
    transport_set_draining(s->transport);
    s->drain_end_ms = uv_now(&s->loop) + s->config->shutdown_timeout_ms;
    log_line(LOG_INFO, "draining: %u requests have at most %.0f s to finish",
             transport_running(s->transport), (double)s->config->shutdown_timeout_ms / 1e3);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct server *s = handle->data;
    (void)number;
    if (s->draining)
        begin_stop(s);
    else
        drain(s);
}

static bool has_terminal(void)
{
    int fd = open("/dev/tty", O_RDONLY | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* Reads the certificate again, as daemons do. When the terminal has been closed, the server ends. */
static void on_hang_up(uv_signal_t *handle, int number)
{
    struct server *s = handle->data;
    struct error e;
    if (s->had_terminal && !has_terminal())
        on_signal(handle, number);
    else if (!s->config->tls_cert)
        log_line(LOG_INFO, "SIGHUP: there is no --tls-cert to read again");
    else if (transport_reload_tls(s->transport, &e))
        log_line(LOG_INFO, "SIGHUP: new connections get the certificate of %s as it is now",
                 s->config->tls_cert);
    else
        log_line(LOG_ERROR, "SIGHUP: the certificate stays as it was: %s", e.message);
}

/* Their default action ends the process at once, and other servers have uses for them. */
static void on_user_signal(uv_signal_t *handle, int number)
{
    (void)handle;
    log_line(LOG_INFO, "SIGUSR%d does nothing here", number == SIGUSR1 ? 1 : 2);
}

static void catch_signals(struct server *s)
{
    const struct {
        uv_signal_t *handle;
        uv_signal_cb call;
        int number;
    } caught[] = {{&s->on_term, on_signal, SIGTERM},
                  {&s->on_int, on_signal, SIGINT},
                  {&s->on_hup, on_hang_up, SIGHUP},
                  {&s->on_usr1, on_user_signal, SIGUSR1},
                  {&s->on_usr2, on_user_signal, SIGUSR2}};
    /* under nohup the terminal's end means nothing */
    struct sigaction before;
    s->had_terminal =
        !sigaction(SIGHUP, NULL, &before) && before.sa_handler != SIG_IGN && has_terminal();
    for (size_t i = 0; i < sizeof caught / sizeof *caught; i++) {
        uv_signal_init(&s->loop, caught[i].handle);
        caught[i].handle->data = s;
        uv_signal_start(caught[i].handle, caught[i].call, caught[i].number);
    }
}

static void on_watch(uv_timer_t *timer)
{
    struct server *s = timer->data;
    bool idle = transport_running(s->transport) == 0 && api_running(s->api) == 0;
    if (s->loading)
        log_loading(s);
    if (s->engine && !s->stopping && !engine_alive(s->engine)) {
        log_line(LOG_ERROR,
                 "the device has failed; the server ends so that a supervisor can restart it");
        s->exit_code = 1;
        begin_stop(s);
    }
    struct error changed;
    if (s->engine && !s->file_changed &&
        !source_unchanged(engine_model(s->engine)->source, &changed)) {
        log_line(LOG_WARNING,
                 "%s: the model file was changed while it is served; restart the "
                 "server, because its answers may be wrong",
                 s->config->model);
        s->file_changed = true;
    }
    if (s->draining && !s->stopping && (idle || uv_now(&s->loop) >= s->drain_end_ms))
        begin_stop(s);
    if (s->stopping && !s->loading && (idle || uv_now(&s->loop) >= s->flush_end_ms))
        close_handles(s);
}

/* False: the handles that it has opened are closing. */
static bool start(struct server *s, struct error *e)
{
    /* Before an address is announced. */
    if (access(s->config->model, R_OK))
        return error_set(e, "file_not_found", s->config->model,
                         "%s: cannot open the model file: %s", s->config->model, strerror(errno));
    s->api = api_new(s->config, &s->loop, e);
    if (!s->api)
        return false;
    if (!add_routes(s, e) ||
        !(s->transport = transport_new(s->config, &s->loop, s->routes, s->n_routes, e))) {
        api_close(s->api);
        return false;
    }
    s->page = (struct page){.api_prefix = s->config->api_prefix};
    s->health = (struct health){.transport = s->transport};
    s->metrics =
        (struct metrics_page){.config = s->config, .transport = s->transport, .api = s->api};
    uv_async_init(&s->loop, &s->loaded, on_loaded);
    uv_timer_init(&s->loop, &s->watch);
    s->loaded.data = s->watch.data = s;
    uv_timer_start(&s->watch, on_watch, WATCH_MS, WATCH_MS);
    catch_signals(s);
    return true;
}

static void log_start(const struct server *s)
{
    const struct transport *t = s->transport;
    log_line(LOG_INFO, "winnow %s (%s) is listening at %s and loading %s", version_string(),
             version_commit(), transport_address(t, 0), s->config->model);
    for (uint32_t i = 1; i < transport_n_addresses(t); i++)
        log_line(LOG_INFO, "also listening at %s", transport_address(t, i));
    if (!transport_is_local(t) && s->config->n_api_keys == 0)
        log_line(LOG_WARNING, "no --api-key is set: everybody who can connect to %s may use it",
                 transport_address(t, 0));
    if (s->config->cors_origins.count == 0)
        log_line(LOG_INFO, "web pages of localhost, at any port, may call (--cors-origins)");
}

static void start_loading(struct server *s)
{
    struct error e;
    s->loading = true;
    if (!uv_thread_create(&s->loader, load, s))
        return;
    s->loading = false;
    error_set_memory(&e, "a thread", 0);
    fail(s, &e);
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
    if (start(s, &e)) {
        log_start(s);
        start_loading(s);
    } else {
        log_line(LOG_ERROR, "%s", e.message);
        s->exit_code = 1;
    }
    /* Each part closes its handles. Only this call waits for them. */
    uv_run(&s->loop, UV_RUN_DEFAULT);
    int status = s->exit_code;
    bool started = s->transport != NULL;
    if (s->engine)
        engine_close(s->engine);
    if (s->api)
        api_free(s->api);
    uv_loop_close(&s->loop);
    if (started)
        log_line(LOG_INFO, "ended");
    free(s);
    return status;
}
