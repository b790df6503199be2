/* What `winnow bench` measures: its settings with their lists taken apart. Main thread. */
#ifndef WINNOW_SERVER_REPORT_BENCH_ARGUMENTS_H
#define WINNOW_SERVER_REPORT_BENCH_ARGUMENTS_H

#include "cache/policy/preset.h"
#include "config/options.h"

enum { BENCH_MOST = 64, BENCH_MOST_REPEATS = 100, BENCH_NAME = 96 };

/* One way to keep a cache; which plan it comes to takes a prompt's length. */
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

/* Takes the lists of a->said apart. False: "invalid_value" with the flag, also for policies that do
 * not exist. */
bool bench_arguments_read(struct bench_arguments *a, struct error *e);
/* Frees the settings too. */
void bench_arguments_clear(struct bench_arguments *a);
/* Leaves out of the defaults what a model of n_ctx tokens cannot hold, and adds the contexts to the
 * prompts. False: "invalid_value" when what was asked for does not fit. */
bool bench_arguments_fit(struct bench_arguments *a, uint32_t n_ctx, struct error *e);

#endif
