/* The settings of `winnow bench` with their lists parsed. Main thread. */
#ifndef WINNOW_SERVER_REPORT_BENCH_ARGUMENTS_H
#define WINNOW_SERVER_REPORT_BENCH_ARGUMENTS_H

#include "cache/policy/preset.h"
#include "config/options.h"

enum { BENCH_MOST = 64, BENCH_MOST_REPEATS = 100, BENCH_NAME = 96 };

/* A cache policy. Its plan depends on the prompt's length. */
struct bench_case {
    char name[BENCH_NAME]; /* "full", "snapkv:1024" */
    struct plan_asked policy;
};

struct bench_arguments {
    struct bench_settings said;
    uint32_t contexts[BENCH_MOST], prompts[BENCH_MOST], batches[BENCH_MOST];
    uint32_t n_contexts, n_prompts, n_batches;
    bool contexts_are_default, prompts_are_default;
    enum plan_storage storages[BENCH_MOST];
    uint32_t n_storages;
    struct bench_case *cases; /* [n_cases] owned */
    uint32_t n_cases;
};

/* Parses the lists of a->said. False: "invalid_value" with the flag, also for unknown policies. */
bool bench_arguments_read(struct bench_arguments *a, struct error *e);
/* Also frees the settings. */
void bench_arguments_clear(struct bench_arguments *a);
/* Removes default lengths that do not fit a model of n_ctx tokens, and adds the contexts to the
 * prompts. False: "invalid_value": a requested length does not fit. */
bool bench_arguments_fit(struct bench_arguments *a, uint32_t n_ctx, struct error *e);

#endif
