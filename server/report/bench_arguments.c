/* See bench_arguments.h. */
#include "server/api/plan_json.h"
#include "server/report/bench_arguments.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Inserts a value into a sorted list, unless it is there. */
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

/* Whole numbers in [min, max], sorted, each once. */
static bool parse_sizes(const char *flag, const char *text, uint32_t min, uint32_t max,
                        uint32_t *out, uint32_t *n, struct error *e)
{
    double values[BENCH_MOST];
    uint32_t n_values;
    if (!options_numbers(flag, text, min, max, BENCH_MOST, values, &n_values, e))
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

/* The same, with a default; "none" is an empty list. */
static bool parse_list(const char *flag, const char *text, const char *initial, uint32_t min,
                       uint32_t max, uint32_t *out, uint32_t *n, struct error *e)
{
    *n = 0;
    return (text && !strcmp(text, "none")) ||
           parse_sizes(flag, text ? text : initial, min, max, out, n, e);
}

/* The next item of a comma-separated list; false at the end. */
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
    if (!plan_parse_suffix(name, strlen(name), "--policies", &c->policy, e))
        return false;
    snprintf(c->name, sizeof c->name, "%s", name);
    a->n_cases++;
    return true;
}

/* Pairs each policy without its own budget with each budget. */
static bool parse_cases(struct bench_arguments *a, const char *policies, const char *budgets,
                        struct error *e)
{
    double values[BENCH_MOST];
    uint32_t n;
    char name[64], full_name[BENCH_NAME];
    a->cases = calloc(BENCH_MOST, sizeof *a->cases);
    if (!a->cases)
        return error_set_memory(e, "policies", BENCH_MOST * sizeof *a->cases);
    if (!options_numbers("--budgets", budgets, 1e-6, 1 << 24, BENCH_MOST, values, &n, e))
        return false;
    for (bool there; next_piece(&policies, name, sizeof name, "--policies", &there, e);) {
        const struct preset *preset = preset_find(name);
        if (!there)
            return true;
        if (!preset || !preset->axes.has_budget) {
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

bool bench_arguments_read(struct bench_arguments *a, struct error *e)
{
    const struct bench_settings *s = &a->said;
    const uint32_t most = 1 << 24;
    a->contexts_are_default = !s->contexts;
    a->prompts_are_default = !s->prompts;
    return parse_list("--contexts", s->contexts, "0,1024,2048,4096,8192", 0, most, a->contexts,
                      &a->n_contexts, e) &&
           parse_list("--prompt", s->prompts, "512", 1, most, a->prompts, &a->n_prompts, e) &&
           parse_sizes("--batch", s->batches, 1, 1024, a->batches, &a->n_batches, e) &&
           parse_storages(a, s->storages, e) && parse_cases(a, s->policies, s->budgets, e);
}

void bench_arguments_clear(struct bench_arguments *a)
{
    options_clear(OPTION_BENCH, &a->said);
    free(a->cases);
    a->cases = NULL;
}

/* Limits a sorted list to values up to `most`: cuts a default list, refuses another. */
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
    snprintf(why, sizeof why, "the model was trained for %u, and --tokens %u follow", n_ctx,
             a->said.n_tokens);
    if (a->n_contexts == 0 && a->n_prompts == 0)
        return error_set(e, "invalid_value", "--contexts", "neither contexts nor prompts are left");
    if (a->said.n_tokens >= n_ctx)
        return error_set(e, "invalid_value", "--tokens", "%u are more than the model's context",
                         a->said.n_tokens);
    if (!cut("--contexts", a->contexts, &a->n_contexts, n_ctx - a->said.n_tokens,
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
