/* `winnow bench MODEL`: the speed of prompts and decode steps over contexts, batches and cache
 * policies, compared with what the machine can do. For each storage, policy and length it runs the
 * prompt several times, then decode steps after the last prompt for each batch. Main thread. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "engine/compute/machine.h"
#include "server/cli/command.h"
#include "server/cli/command_line.h"
#include "server/devices.h"
#include "server/report/bench_points.h"

/* An extra prompt and this many tokens warm up caches, threads and clock speed. */
enum { WARM_TOKENS = 64, WARM_STEPS = 4 };

struct run {
    struct bench_arguments arguments;
    struct bench_setting setting;
    struct bench *bench;
    struct bench_points points;
};

/* Set by SIGINT and SIGTERM: the current run is finished, and the results so far are written. */
static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

static bool has(const uint32_t *sizes, uint32_t n, uint32_t size)
{
    for (uint32_t i = 0; i < n; i++)
        if (sizes[i] == size)
            return true;
    return false;
}

static uint32_t largest(const uint32_t *sizes, uint32_t n)
{
    return n ? sizes[n - 1] : 0; /* they rise */
}

static struct bench_point *add_point(struct run *r, enum bench_test test,
                                     const struct bench_case *c, enum plan_storage storage,
                                     uint32_t context, uint32_t batch, struct error *e)
{
    struct bench_point *p = bench_points_add(&r->points, e);
    if (p) {
        p->test = test;
        p->policy = c->name;
        p->storage = storage;
        p->context = context;
        p->batch = batch;
        p->n_steps = test == BENCH_DECODE ? r->arguments.said.n_tokens : 0;
    }
    return p;
}

static bool wants_another(const struct run *r, const struct bench_point *p)
{
    double took = 0;
    for (uint32_t i = 0; i < p->n_runs; i++)
        took += p->runs[i];
    return !interrupted && p->n_runs < r->arguments.said.n_repeats &&
           (p->n_runs == 0 || took < (double)r->arguments.said.max_ms / 1e3);
}

/* A point without a finished run is removed. */
static void finish_point(struct run *r, struct bench_point *p)
{
    if (p->n_runs == 0) {
        r->points.n--;
        return;
    }
    bench_point_settle(p);
    bench_print_point(&r->setting, p, stdout);
}

/* Runs prompts of one length and keeps the last one. */
static bool measure_prefill(struct run *r, const struct bench_case *c, const struct plan *plan,
                            enum plan_storage storage, uint32_t n, struct bench_prompt *prompt,
                            struct error *e)
{
    struct bench_point *p = add_point(r, BENCH_PREFILL, c, storage, n, 1, e);
    if (!p)
        return false;
    while (wants_another(r, p)) {
        bench_prompt_free(prompt);
        if (!bench_prefill(r->bench, plan, n, prompt, &p->work, e))
            return false;
        p->runs[p->n_runs++] = p->work.seconds;
        p->kv_held_bytes = prompt->kv_held_bytes;
    }
    finish_point(r, p);
    return true;
}

static bool measure_decode(struct run *r, const struct bench_case *c, enum plan_storage storage,
                           uint32_t context, uint32_t batch, const struct bench_prompt *prompt,
                           struct error *e)
{
    struct bench_point *p = add_point(r, BENCH_DECODE, c, storage, context, batch, e);
    if (!p)
        return false;
    p->kv_held_bytes = batch * prompt->kv_held_bytes;
    while (wants_another(r, p)) {
        if (!bench_decode(r->bench, prompt, batch, p->n_steps, &p->work, e))
            return false;
        p->runs[p->n_runs++] = p->work.seconds;
    }
    finish_point(r, p);
    return true;
}

/* When a policy does not fit a length, the reason is printed and the next point is measured. */
static bool skip(struct run *r, enum bench_test test, const struct bench_case *c,
                 enum plan_storage storage, uint32_t size, const char *why, struct error *e)
{
    struct bench_point *p = add_point(r, test, c, storage, size, 1, e);
    if (!p)
        return false;
    snprintf(p->skipped, sizeof p->skipped, "%.190s", why);
    bench_print_point(&r->setting, p, stdout);
    return true;
}

static bool measure_size(struct run *r, const struct bench_case *c, enum plan_storage storage,
                         uint32_t size, struct error *e)
{
    const struct bench_arguments *a = &r->arguments;
    bool is_prompt = has(a->prompts, a->n_prompts, size),
         is_context = has(a->contexts, a->n_contexts, size);
    struct plan_limits limits = bench_limits(r->bench);
    struct error reason;
    uint32_t n = size ? size : 1; /* an empty context still has its first token */
    const struct plan *plan = plan_resolve(&c->policy, n, &limits, &reason);
    if (!plan)
        return skip(r, is_prompt ? BENCH_PREFILL : BENCH_DECODE, c, storage, size, reason.message,
                    e);
    struct bench_prompt prompt = {0};
    struct bench_sample unused;
    bool done = is_prompt ? measure_prefill(r, c, plan, storage, n, &prompt, e)
                          : bench_prefill(r->bench, plan, n, &prompt, &unused, e);
    for (uint32_t i = 0; done && is_context && !interrupted && i < a->n_batches; i++)
        done = measure_decode(r, c, storage, size, a->batches[i], &prompt, e);
    bench_prompt_free(&prompt);
    plan_release(plan);
    return done;
}

/* The lengths of prompts and contexts, in rising order, each once. */
static bool measure_case(struct run *r, const struct bench_case *c, enum plan_storage storage,
                         struct error *e)
{
    const struct bench_arguments *a = &r->arguments;
    uint32_t i = 0, k = 0;
    while (!interrupted && (i < a->n_prompts || k < a->n_contexts)) {
        bool first = k == a->n_contexts || (i < a->n_prompts && a->prompts[i] <= a->contexts[k]);
        uint32_t size = first ? a->prompts[i] : a->contexts[k];
        if (!measure_size(r, c, storage, size, e))
            return false;
        i += i < a->n_prompts && a->prompts[i] == size;
        k += k < a->n_contexts && a->contexts[k] == size;
    }
    return true;
}

static bool warm_up(struct run *r, uint32_t most, struct error *e)
{
    const struct plan_asked full = plan_asked_of(preset_find("full"));
    struct plan_limits limits = bench_limits(r->bench);
    struct bench_prompt prompt;
    struct bench_sample sample;
    uint32_t n = most < WARM_TOKENS + WARM_STEPS ? 1 : WARM_TOKENS;
    const struct plan *plan = plan_resolve(&full, n, &limits, e);
    bool done = plan && bench_prefill(r->bench, plan, n, &prompt, &sample, e);
    plan_release(plan);
    if (!done)
        return false;
    done = most < n + WARM_STEPS || bench_decode(r->bench, &prompt, 1, WARM_STEPS, &sample, e);
    bench_prompt_free(&prompt);
    return done;
}

static bool measure_all(struct run *r, struct error *e)
{
    const struct bench_arguments *a = &r->arguments;
    uint32_t context = largest(a->contexts, a->n_contexts) + a->said.n_tokens,
             prompt = largest(a->prompts, a->n_prompts), most = context > prompt ? context : prompt;
    for (uint32_t s = 0; s < a->n_storages && !interrupted; s++) {
        if (!bench_set_pool(r->bench, a->storages[s], most, e) || (s == 0 && !warm_up(r, most, e)))
            return false;
        for (uint32_t c = 0; c < a->n_cases && !interrupted; c++)
            if (!measure_case(r, &a->cases[c], a->storages[s], e))
                return false;
    }
    return true;
}

static bool measure_machine(const struct run *r, struct bench_machine *out, struct error *e)
{
    uint32_t cores = machine_cores(""), asked = r->arguments.said.n_threads;
    return bench_machine_measure(asked > cores ? asked : cores, r->arguments.said.isa, out, e);
}

/* Opens the files first, so that a wrong path is reported before hours of work. */
static bool is_writable(const char *flag, const char *path, struct error *e)
{
    FILE *file = path ? fopen(path, "ae") : NULL;
    if (file)
        fclose(file);
    return !path || file ||
           error_set(e, "file_error", flag, "%s cannot be written: %s", path, strerror(errno));
}

static bool open_run(struct run *r, struct error *e)
{
    struct bench_arguments *a = &r->arguments;
    a->said.n_threads = a->said.n_threads ? a->said.n_threads : machine_cores("");
    struct device device;
    if (!is_writable("--json", a->said.json_path, e) ||
        !is_writable("--svg", a->said.svg_path, e) ||
        !device_pick(&server_devices, a->said.device, &device, e))
        return false;
    struct bench_options o = {.model_path = a->said.model_path,
                              .device = device.kind,
                              .isa = a->said.isa,
                              .head_profile = a->said.head_profile,
                              .n_threads = a->said.n_threads,
                              .max_rows = a->said.max_rows,
                              .max_sequences = largest(a->batches, a->n_batches)};
    r->bench = bench_open(&o, e);
    if (!r->bench || !bench_arguments_fit(a, bench_model(r->bench)->n_ctx_train, e))
        return false;
    r->setting =
        (struct bench_setting){.arguments = a,
                               .model = bench_model(r->bench),
                               .backend = bench_backend(r->bench),
                               .has_machine = !strcmp(bench_backend(r->bench)->name, "cpu")};
    return !r->setting.has_machine || measure_machine(r, &r->setting.before, e);
}

/* Measures the machine again at the end: if it was not as fast as at the start, the shares are not
 * reliable. */
static bool close_setting(struct run *r, struct error *e)
{
    struct bench_setting *s = &r->setting;
    if (!s->has_machine)
        return true;
    if (!measure_machine(r, &s->after, e))
        return false;
    double read = s->after.read_bytes / s->before.read_bytes,
           multiplied = s->after.operations / s->before.operations;
    if (read < 0.9 || read > 1.1 || multiplied < 0.9 || multiplied > 1.1)
        printf(
            "\nnote: after the last point the machine reads %.1f GB/s and computes %.0f GFLOP/s: "
            "its speed changed during the run\n",
            s->after.read_bytes / 1e9, s->after.operations / 1e9);
    return true;
}

static bool run_all(struct run *r, struct error *e)
{
    const struct bench_arguments *a = &r->arguments;
    bench_print_head(&r->setting, stdout);
    return measure_all(r, e) && close_setting(r, e) &&
           (!a->said.json_path ||
            bench_write_json(&r->setting, &r->points, a->said.json_path, e)) &&
           (!a->said.svg_path || bench_write_picture(&r->setting, &r->points, a->said.svg_path, e));
}

int command_bench(int argc, char **argv)
{
    struct error e = {.message = ""};
    struct run r = {0};
    struct sigaction action = {.sa_handler = on_interrupt};
    int status;
    if (!command_line_parse(OPTION_BENCH, &r.arguments.said, argc, argv, &status))
        return status;
    if (!bench_arguments_read(&r.arguments, &e)) {
        bench_arguments_clear(&r.arguments);
        return command_line_refuse(OPTION_BENCH, &e);
    }
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    bool done = open_run(&r, &e) && run_all(&r, &e);
    if (!done)
        command_line_print_error(OPTION_BENCH, &e);
    bench_close(r.bench);
    free(r.points.at);
    bench_arguments_clear(&r.arguments);
    return !done ? 1 : interrupted ? 130 : 0;
}
