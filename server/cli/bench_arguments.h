/* The command line of `winnow bench`. Main thread. */
#ifndef WINNOW_SERVER_CLI_BENCH_ARGUMENTS_H
#define WINNOW_SERVER_CLI_BENCH_ARGUMENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/policy/plan.h"

enum { BENCH_MOST = 64, BENCH_MOST_REPEATS = 100, BENCH_NAME = 96 };

/* One way to keep a cache. The plan is not resolved: that takes a prompt's length. */
struct bench_case {
    char name[BENCH_NAME]; /* "full", "snapkv:1024" */
    struct plan plan;
};

/* What was asked for; strings are borrowed from argv, NULL where nothing was said. */
struct bench_arguments {
    const char *model_path, *head_profile, *isa, *device, *json_path, *svg_path;
    uint64_t n_threads, n_tokens, n_repeats, max_rows; /* 0: as the server */
    double max_seconds;
    uint32_t contexts[BENCH_MOST], prompts[BENCH_MOST], batches[BENCH_MOST];
    uint32_t n_contexts, n_prompts, n_batches;
    bool contexts_are_default, prompts_are_default;
    enum plan_storage storages[BENCH_MOST];
    uint32_t n_storages;
    struct bench_case *cases; /* [n_cases] owned */
    uint32_t n_cases;
    bool help;
};

extern const char bench_usage[];

/* Fills *out with defaults and what argv says. False: "invalid_value" with the flag, also for
 * policies that do not exist. */
bool bench_arguments_parse(struct bench_arguments *out, int argc, char **argv, struct error *e);
void bench_arguments_clear(struct bench_arguments *a);
/* Leaves out of the defaults what a model of n_ctx tokens cannot hold, and adds the contexts to the
 * prompts. False: "invalid_value" when what was asked for does not fit. */
bool bench_arguments_fit(struct bench_arguments *a, uint32_t n_ctx, struct error *e);

#endif
