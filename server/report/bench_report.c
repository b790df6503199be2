/* Points as a table and as JSON: see bench_points.h. */
#include "server/report/bench_points.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/version.h"

struct bench_point *bench_points_add(struct bench_points *p, struct error *e)
{
    if (p->n == p->capacity) {
        uint32_t capacity = p->capacity ? 2 * p->capacity : 64;
        struct bench_point *at = realloc(p->at, capacity * sizeof *at);
        if (!at) {
            error_set_memory(e, "points", capacity * sizeof *at);
            return NULL;
        }
        p->at = at;
        p->capacity = capacity;
    }
    memset(&p->at[p->n], 0, sizeof *p->at);
    return &p->at[p->n++];
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void bench_point_settle(struct bench_point *p)
{
    double sorted[BENCH_MOST_REPEATS];
    memcpy(sorted, p->runs, p->n_runs * sizeof *sorted);
    qsort(sorted, p->n_runs, sizeof *sorted, by_value);
    p->best = sorted[0];
    p->worst = sorted[p->n_runs - 1];
    p->median = (sorted[(p->n_runs - 1) / 2] + sorted[p->n_runs / 2]) / 2;
}

double bench_point_tokens(const struct bench_point *p)
{
    return p->test == BENCH_PREFILL ? p->context : (double)p->n_steps * p->batch;
}

double bench_point_step_bytes(const struct bench_point *p)
{
    return p->work.weight_bytes + p->work.kv_bytes;
}

static double step_seconds(const struct bench_point *p)
{
    return p->median / (p->test == BENCH_PREFILL ? 1 : p->n_steps);
}

static const char *test_name(const struct bench_point *p)
{
    return p->test == BENCH_PREFILL ? "prefill" : "decode";
}

/* ---- the terminal */

void bench_print_head(const struct bench_setting *s, FILE *out)
{
    const struct bench_machine *m = &s->before;
    fprintf(out, "%.60s, %s, %.0f MB of weights; %s: %s\n", s->model->name, s->model->quantisation,
            (double)s->model->size_bytes / 1e6, s->backend->name, s->backend->description);
    if (s->has_machine)
        fprintf(
            out,
            "this machine reads %.1f GB/s and computes %.0f GFLOP/s of multiply-adds (%s), with "
            "%u thread%s\n",
            m->read_bytes / 1e9, m->operations / 1e9, m->instructions, m->n_threads,
            m->n_threads == 1 ? "" : "s");
    fprintf(out, "\n%-8s %-18s %-4s %8s %6s %5s %11s %7s %10s %12s %12s  %s\n", "test", "policy",
            "kv", "context", "batch", "runs", "tokens/s", "+-", "ms", "work", "rate",
            s->has_machine ? "of the machine" : "");
}

static void print_share(const struct bench_setting *s, double rate, double most, const char *what,
                        FILE *out)
{
    if (s->has_machine)
        fprintf(out, " %5.1f%% of %s", 100 * rate / most, what);
    fputc('\n', out);
}

/* The speed of a prompt is compared with multiplications, that of decoding with reading. */
void bench_print_point(const struct bench_setting *s, const struct bench_point *p, FILE *out)
{
    fprintf(out, "%-8s %-18.60s %-4s %8u %6u ", test_name(p), p->policy,
            plan_storage_name(p->storage), p->context, p->batch);
    if (*p->skipped) {
        fprintf(out, "skipped: %s\n", p->skipped);
        return;
    }
    char ms[32], work[32], rate[32];
    double seconds = step_seconds(p), tokens = bench_point_tokens(p);
    snprintf(ms, sizeof ms, seconds < 1 ? "%.2f" : "%.0f", 1e3 * seconds);
    fprintf(out, "%5u %11.2f %6.1f%% %10s", p->n_runs, tokens / p->median,
            50 * (p->worst - p->best) / p->median, ms);
    if (p->test == BENCH_PREFILL) {
        double operations = p->work.operations / p->median;
        snprintf(work, sizeof work, "%.1f MF/tok", p->work.operations / tokens / 1e6);
        snprintf(rate, sizeof rate, "%.1f GF/s", operations / 1e9);
        fprintf(out, " %12s %12s ", work, rate);
        print_share(s, operations, s->before.operations, "multiplying", out);
    } else {
        double bytes = bench_point_step_bytes(p) / seconds;
        snprintf(work, sizeof work, "%.1f MB", bench_point_step_bytes(p) / 1e6);
        snprintf(rate, sizeof rate, "%.2f GB/s", bytes / 1e9);
        fprintf(out, " %12s %12s ", work, rate);
        print_share(s, bytes, s->before.read_bytes, "reading", out);
    }
    fflush(out);
}

/* ---- JSON */

static json_t *machine_json(const struct bench_setting *s)
{
    const struct bench_machine *m = &s->before;
    if (!s->has_machine)
        return json_null();
    return json_pack("{s:i, s:I, s:f, s:f, s:s, s:f, s:f}", "threads", (int)m->n_threads,
                     "buffer_bytes", (json_int_t)m->buffer_bytes, "read_bytes_per_second",
                     m->read_bytes, "operations_per_second", m->operations, "instructions",
                     m->instructions, "read_bytes_per_second_after", s->after.read_bytes,
                     "operations_per_second_after", s->after.operations);
}

static void add_shares(json_t *row, const struct bench_setting *s, const struct bench_point *p)
{
    double operations = p->work.operations / p->median;
    json_object_set_new(row, "operations_per_second", json_real(operations));
    if (s->has_machine)
        json_object_set_new(row, "share_of_operations",
                            json_real(operations / s->before.operations));
    if (p->test == BENCH_PREFILL)
        return;
    double bytes = bench_point_step_bytes(p) / step_seconds(p);
    json_object_update_new(
        row, json_pack("{s:f, s:f, s:f, s:f}", "weight_bytes_per_step", p->work.weight_bytes,
                       "kv_bytes_per_step", p->work.kv_bytes, "bytes_per_token",
                       bench_point_step_bytes(p) / p->batch, "read_bytes_per_second", bytes));
    if (s->has_machine)
        json_object_set_new(row, "share_of_read", json_real(bytes / s->before.read_bytes));
}

static json_t *point_json(const struct bench_setting *s, const struct bench_point *p)
{
    json_t *row = json_pack("{s:s, s:s, s:s, s:i, s:i, s:i}", "test", test_name(p), "policy",
                            p->policy, "kv_storage", plan_storage_name(p->storage), "context",
                            (int)p->context, "batch", (int)p->batch, "steps", (int)p->n_steps);
    if (*p->skipped) {
        json_object_set_new(row, "skipped", json_string(p->skipped));
        return row;
    }
    json_t *runs = json_array();
    for (uint32_t i = 0; i < p->n_runs; i++)
        json_array_append_new(runs, json_real(p->runs[i]));
    double tokens = bench_point_tokens(p);
    json_object_update_new(row, json_pack("{s:o, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "seconds",
                                          runs, "median", p->median, "best", p->best, "worst",
                                          p->worst, "tokens_per_second", tokens / p->median,
                                          "ms_per_step", 1e3 * step_seconds(p),
                                          "operations_per_token", p->work.operations / tokens,
                                          "kv_held_bytes", p->kv_held_bytes));
    add_shares(row, s, p);
    return row;
}

bool bench_write_json(const struct bench_setting *s, const struct bench_points *p, const char *path,
                      struct error *e)
{
    const struct model *m = s->model;
    const struct bench_arguments *a = s->arguments;
    json_t *points = json_array();
    for (uint32_t i = 0; i < p->n; i++)
        json_array_append_new(points, point_json(s, &p->at[i]));
    json_t *all = json_pack(
        "{s:s, s:s, s:{s:s, s:s, s:I, s:I, s:i}, s:{s:s, s:s, s:i}, s:o, s:{s:i, s:i, s:f}, s:o}",
        "version", version_string(), "commit", version_commit(), "model", "name", m->name,
        "quantisation", m->quantisation, "parameters", (json_int_t)m->n_parameters, "bytes",
        (json_int_t)m->size_bytes, "context", (int)m->n_ctx_train, "backend", "name",
        s->backend->name, "description", s->backend->description, "threads", (int)a->said.n_threads,
        "machine", machine_json(s), "settings", "tokens", (int)a->said.n_tokens, "repeats",
        (int)a->said.n_repeats, "max_seconds", (double)a->said.max_ms / 1e3, "points", points);
    if (!all)
        return error_set_memory(e, "the results", 4096);
    bool done = json_dump_file(all, path, JSON_INDENT(1)) == 0;
    json_decref(all);
    return done ||
           error_set(e, "file_error", "--json", "%s cannot be written: %s", path, strerror(errno));
}
