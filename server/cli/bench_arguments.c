/* Flags and their checks: see bench_arguments.h. */
#include "server/cli/bench_arguments.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/size.h"
#include "server/cli/command_line.h"
#include "server/cli/eval_arguments.h"

const char bench_usage[] =
    "usage: winnow bench MODEL [options]\n"
    "\n"
    "Speed of prompts and of decoding behind them, and how near it comes to what this machine's\n"
    "memory and multipliers can do; both are measured in the same run. Lists are separated by\n"
    "commas.\n"
    "\n"
    "  -m, --model FILE        the model (or as the first argument)\n"
    "      --contexts A,B      tokens in the cache before decoding begins (default\n"
    "                          0,1024,2048,4096,8192, as far as the model goes), or none\n"
    "      --prompt A,B        lengths of timed prompts, or none (default 512 and all contexts)\n"
    "      --batch A,B         sequences that decode together (default 1,8)\n"
    "      --policies A,B      full, snapkv, ... or with a budget of its own, sink:256 (default "
    "full)\n"
    "      --budgets A,B       slots or shares of the context, for policies without one (default\n"
    "                          1024)\n"
    "      --kv-storage A,B    f16, bf16, q8, q4 (default f16)\n"
    "      --tokens N          tokens that every sequence decodes in a run (default 32)\n"
    "      --repeats N         runs of each point; the median counts (default 5)\n"
    "      --max-seconds S     a point is not run again once its runs took so long (default 60)\n"
    "      --json FILE         all runs of all points\n"
    "      --svg FILE          a picture: speed over context, a line for each policy\n"
    "      --head-profile FILE which heads look things up, for razor, duo and compresskv\n"
    "      --max-batched-tokens N  rows of a step while a prompt is read (default: the server's)\n"
    "  -t, --threads N         threads (default: physical cores)\n"
    "      --device NAME       auto, cpu or cuda (default auto: a GPU where one can be used)\n"
    "      --isa NAME          plain, avx2 or avx512 (default: the best there is)\n";

enum flag {
    FLAG_CONTEXTS = 256,
    FLAG_PROMPT,
    FLAG_BATCH,
    FLAG_POLICIES,
    FLAG_BUDGETS,
    FLAG_STORAGE,
    FLAG_TOKENS,
    FLAG_REPEATS,
    FLAG_SECONDS,
    FLAG_JSON,
    FLAG_SVG,
    FLAG_PROFILE,
    FLAG_ROWS,
    FLAG_DEVICE,
    FLAG_ISA
};

static const struct option long_options[] = {
    {"model", required_argument, NULL, 'm'},
    {"contexts", required_argument, NULL, FLAG_CONTEXTS},
    {"prompt", required_argument, NULL, FLAG_PROMPT},
    {"batch", required_argument, NULL, FLAG_BATCH},
    {"policies", required_argument, NULL, FLAG_POLICIES},
    {"budgets", required_argument, NULL, FLAG_BUDGETS},
    {"kv-storage", required_argument, NULL, FLAG_STORAGE},
    {"tokens", required_argument, NULL, FLAG_TOKENS},
    {"repeats", required_argument, NULL, FLAG_REPEATS},
    {"max-seconds", required_argument, NULL, FLAG_SECONDS},
    {"json", required_argument, NULL, FLAG_JSON},
    {"svg", required_argument, NULL, FLAG_SVG},
    {"head-profile", required_argument, NULL, FLAG_PROFILE},
    {"max-batched-tokens", required_argument, NULL, FLAG_ROWS},
    {"threads", required_argument, NULL, 't'},
    {"device", required_argument, NULL, FLAG_DEVICE},
    {"isa", required_argument, NULL, FLAG_ISA},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0}};

/* Lists as written, until all flags are known. */
struct lists {
    const char *contexts, *prompts, *batches, *policies, *budgets, *storages;
};

static bool parse_seconds(const char *text, double *out, struct error *e)
{
    char shown[80];
    uint64_t ms;
    bool good = seconds_parse(text, &ms);
    *out = good ? (double)ms / 1000 : 0;
    return good || error_set(e, "invalid_value", "--max-seconds", "\"%s\" is not a time in seconds",
                             error_excerpt(shown, text, strlen(text)));
}

static bool parse_flag(struct bench_arguments *a, struct lists *lists, int flag, const char *text,
                       struct error *e)
{
    const char **texts[] = {['m'] = &a->model_path,
                            [FLAG_CONTEXTS] = &lists->contexts,
                            [FLAG_PROMPT] = &lists->prompts,
                            [FLAG_BATCH] = &lists->batches,
                            [FLAG_POLICIES] = &lists->policies,
                            [FLAG_BUDGETS] = &lists->budgets,
                            [FLAG_STORAGE] = &lists->storages,
                            [FLAG_JSON] = &a->json_path,
                            [FLAG_SVG] = &a->svg_path,
                            [FLAG_PROFILE] = &a->head_profile,
                            [FLAG_DEVICE] = &a->device,
                            [FLAG_ISA] = &a->isa};
    switch (flag) {
    case 'h':
        a->help = true;
        return true;
    case 't':
        return flag_whole_number("--threads", text, 1, 1024, &a->n_threads, e);
    case FLAG_TOKENS:
        return flag_whole_number("--tokens", text, 1, 65536, &a->n_tokens, e);
    case FLAG_REPEATS:
        return flag_whole_number("--repeats", text, 1, BENCH_MOST_REPEATS, &a->n_repeats, e);
    case FLAG_ROWS:
        return flag_whole_number("--max-batched-tokens", text, 1, 65536, &a->max_rows, e);
    case FLAG_SECONDS:
        return parse_seconds(text, &a->max_seconds, e);
    case '?':
    case ':':
        return error_set(e, "invalid_value", "", "unknown option or missing value");
    default:
        *texts[flag] = text;
        return true;
    }
}

/* ---- lists */

/* Puts a value into a rising list where it is not there yet. */
static void insert_size(uint32_t *sizes, uint32_t *n, uint32_t value)
{
    uint32_t at = 0;
    while (at < *n && sizes[at] < value)
        at++;
    if (at < *n && sizes[at] == value)
        return;
    memmove(sizes + at + 1, sizes + at, (*n - at) * sizeof *sizes);
    sizes[at] = value;
    ++*n;
}

/* Whole numbers in [min, max], in rising order, each once. */
static bool parse_sizes(const char *flag, const char *text, uint32_t min, uint32_t max,
                        uint32_t *out, uint32_t *n, struct error *e)
{
    double values[EVAL_MOST];
    uint32_t n_values;
    if (!eval_arguments_numbers(flag, text, min, max, values, &n_values, e))
        return false;
    *n = 0;
    for (uint32_t i = 0; i < n_values; i++) {
        uint32_t value = (uint32_t)values[i];
        if ((double)value != values[i])
            return error_set(e, "invalid_value", flag, "%g is not a whole number", values[i]);
        insert_size(out, n, value);
    }
    return true;
}

/* The same, with a default, and "none" for an empty list. */
static bool parse_list(const char *flag, const char *text, const char *initial, uint32_t min,
                       uint32_t max, uint32_t *out, uint32_t *n, struct error *e)
{
    *n = 0;
    return (text && !strcmp(text, "none")) ||
           parse_sizes(flag, text ? text : initial, min, max, out, n, e);
}

/* The next piece between commas; false at the end. */
static bool next_piece(const char **text, char *out, size_t room, const char *flag, bool *there,
                       struct error *e)
{
    size_t n = strcspn(*text, ",");
    if (!(*there = **text != 0))
        return true;
    if (n == 0 || n >= room || ((*text)[n] == ',' && (*text)[n + 1] == 0))
        return error_set(e, "invalid_value", flag, "\"%.60s\" is not a list of names", *text);
    memcpy(out, *text, n);
    out[n] = 0;
    *text += n + ((*text)[n] == ',');
    return true;
}

static bool parse_storages(struct bench_arguments *a, const char *text, struct error *e)
{
    char name[32];
    for (bool there; next_piece(&text, name, sizeof name, "--kv-storage", &there, e);) {
        if (!there)
            return true;
        enum plan_storage storage;
        if (!plan_storage_parse(name, &storage))
            return error_set(e, "invalid_value", "--kv-storage",
                             "\"%s\" is not one of f16, bf16, q8, q4", name);
        for (uint32_t i = 0; i < a->n_storages; i++)
            if (a->storages[i] == storage)
                return error_set(e, "invalid_value", "--kv-storage", "%s is there twice", name);
        a->storages[a->n_storages++] = storage;
    }
    return false;
}

static bool add_case(struct bench_arguments *a, const char *name, struct error *e)
{
    if (a->n_cases == BENCH_MOST)
        return error_set(e, "invalid_value", "--policies", "more than %d policies with budgets",
                         BENCH_MOST);
    struct bench_case *c = &a->cases[a->n_cases];
    if (!plan_parse_suffix(name, strlen(name), "--policies", &c->plan, e))
        return false;
    snprintf(c->name, sizeof c->name, "%s", name);
    a->n_cases++;
    return true;
}

/* Every policy without a budget of its own with every budget. */
static bool parse_cases(struct bench_arguments *a, const char *policies, const char *budgets,
                        struct error *e)
{
    double values[EVAL_MOST];
    uint32_t n;
    char name[64], full_name[BENCH_NAME];
    a->cases = calloc(BENCH_MOST, sizeof *a->cases);
    if (!a->cases)
        return error_set_memory(e, "policies", BENCH_MOST * sizeof *a->cases);
    if (!eval_arguments_numbers("--budgets", budgets, 1e-6, 1 << 24, values, &n, e))
        return false;
    for (bool there; next_piece(&policies, name, sizeof name, "--policies", &there, e);) {
        const struct preset *preset = preset_find(name);
        if (!there)
            return true;
        if (!preset || !preset->defaults.has_budget) {
            if (!add_case(a, name, e))
                return false;
            continue;
        }
        for (uint32_t i = 0; i < n; i++) {
            snprintf(full_name, sizeof full_name, values[i] < 1 ? "%s:%.6g" : "%s:%.0f", name,
                     values[i]);
            if (!add_case(a, full_name, e))
                return false;
        }
    }
    return false;
}

static bool parse_lists(struct bench_arguments *a, const struct lists *l, struct error *e)
{
    const uint32_t most = 1 << 24;
    a->contexts_are_default = !l->contexts;
    a->prompts_are_default = !l->prompts;
    if (!parse_list("--contexts", l->contexts, "0,1024,2048,4096,8192", 0, most, a->contexts,
                    &a->n_contexts, e) ||
        !parse_list("--prompt", l->prompts, "512", 1, most, a->prompts, &a->n_prompts, e) ||
        !parse_sizes("--batch", l->batches ? l->batches : "1,8", 1, 1024, a->batches, &a->n_batches,
                     e))
        return false;
    return parse_storages(a, l->storages ? l->storages : "f16", e) &&
           parse_cases(a, l->policies ? l->policies : "full", l->budgets ? l->budgets : "1024", e);
}

bool bench_arguments_parse(struct bench_arguments *a, int argc, char **argv, struct error *e)
{
    int flag;
    struct lists lists = {0};
    *a = (struct bench_arguments){.n_tokens = 32, .n_repeats = 5, .max_seconds = 60};
    optind = 1;
    while ((flag = getopt_long(argc, argv, "m:t:h", long_options, NULL)) != -1)
        if (!parse_flag(a, &lists, flag, optarg, e))
            return false;
    if (!command_line_model(argc, argv, a->help, &a->model_path, e))
        return false;
    if (a->help)
        return true;
    return parse_lists(a, &lists, e);
}

void bench_arguments_clear(struct bench_arguments *a)
{
    free(a->cases);
    a->cases = NULL;
}

/* Of a rising list what is at most `most`; a default list is cut there, another refused. */
static bool cut(const char *flag, uint32_t *sizes, uint32_t *n, uint32_t most, bool is_default,
                const char *why, struct error *e)
{
    uint32_t keep = 0;
    while (keep < *n && sizes[keep] <= most)
        keep++;
    if (keep < *n && !is_default)
        return error_set(e, "invalid_value", flag, "%u tokens are more than %u: %s", sizes[keep],
                         most, why);
    *n = keep;
    return true;
}

bool bench_arguments_fit(struct bench_arguments *a, uint32_t n_ctx, struct error *e)
{
    char why[120];
    snprintf(why, sizeof why, "the model was trained for %u, and --tokens %llu follow", n_ctx,
             (unsigned long long)a->n_tokens);
    if (a->n_contexts == 0 && a->n_prompts == 0)
        return error_set(e, "invalid_value", "--contexts", "neither contexts nor prompts are left");
    if (a->n_tokens >= n_ctx)
        return error_set(e, "invalid_value", "--tokens", "%llu are more than the model's context",
                         (unsigned long long)a->n_tokens);
    if (!cut("--contexts", a->contexts, &a->n_contexts, n_ctx - (uint32_t)a->n_tokens,
             a->contexts_are_default, why, e))
        return false;
    snprintf(why, sizeof why, "the model was trained for no more");
    if (!cut("--prompt", a->prompts, &a->n_prompts, n_ctx, a->prompts_are_default, why, e))
        return false;
    for (uint32_t i = 0; a->prompts_are_default && i < a->n_contexts; i++)
        if (a->contexts[i] > 0 && a->n_prompts < BENCH_MOST)
            insert_size(a->prompts, &a->n_prompts, a->contexts[i]);
    return true;
}
