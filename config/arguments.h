/* The arguments of each command except `serve` (see config.h) as a struct that options_parse fills.
 * option_table.c has names, ranges and defaults. Strings are owned (options_clear), NULL when not
 * given. Main thread. */
#ifndef WINNOW_CONFIG_ARGUMENTS_H
#define WINNOW_CONFIG_ARGUMENTS_H

#include "config/config.h"

#define RUN_NO_TOP_K INT64_MIN

struct run_arguments {
    char *model_path, *device, *isa, *chat_template, *head_profile, *kv_policy, *kv_storage;
    struct memory_size kv_memory;
    uint32_t n_threads, n_ctx; /* 0: physical cores; as trained */
    char *prompt, *prompt_file, *system;
    bool chat, raw, ignore_eos;
    int64_t n_tokens; /* -1: as many as fit */
    /* NAN and RUN_NO_TOP_K, which the caller sets before parsing: not given */
    double temperature, top_p, min_p;
    double repetition_penalty;
    int64_t top_k, seed; /* seed -1: random */
};

struct tokenize_arguments {
    char *model_path, *text, *text_file;
    bool bos, special, ids;
};

struct inspect_arguments {
    char *model_path;
};

struct calibrate_arguments {
    char *model_path, *profile_path, *isa;
    uint32_t length; /* 0: chosen from the context */
    uint32_t induction_percent, echo_percent, n_threads;
    int64_t seed;
};

/* Lists are the text as written, separated by commas. */
struct eval_arguments {
    char *model_path, *text_path, *directory, *policies, *budgets, *contexts, *depths, *tasks,
        *head_profile, *storage, *isa, *device;
    uint32_t n_threads, n_steps, n_samples, n_trials, n_stream;
    int64_t seed;
    bool no_sharing;
};

struct bench_settings {
    char *model_path, *head_profile, *isa, *device, *json_path, *svg_path;
    char *contexts, *prompts, *batches, *policies, *budgets, *storages;
    uint32_t n_threads, n_tokens, n_repeats, max_rows; /* n_threads, max_rows 0: as in the server */
    uint64_t max_ms;
};

#endif
