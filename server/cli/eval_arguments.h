/* The command line of `winnow eval`. Main thread. */
#ifndef WINNOW_SERVER_CLI_EVAL_ARGUMENTS_H
#define WINNOW_SERVER_CLI_EVAL_ARGUMENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "config/base/error.h"

enum { EVAL_MOST = 64 }; /* policies, budgets, contexts, depths: of each */

/* What was asked for; strings are borrowed from argv, NULL where nothing was said. */
struct eval_arguments {
    const char *model_path, *text_path, *directory, *policies, *budgets, *contexts, *depths, *tasks,
        *head_profile, *storage, *isa, *device;
    uint64_t n_threads, n_steps, n_samples, n_trials, n_stream, seed;
    bool no_sharing, help;
};

extern const char eval_usage[];

/* Fills *out with defaults and what argv says. False: "invalid_value" with the flag. */
bool eval_arguments_parse(struct eval_arguments *out, int argc, char **argv, struct error *e);
/* Numbers between commas, each within [min, max], at most EVAL_MOST. */
bool eval_arguments_numbers(const char *flag, const char *text, double min, double max, double *out,
                            uint32_t *n, struct error *e);

#endif
