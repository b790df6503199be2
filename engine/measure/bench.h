/* Times a model's prompts and decode steps on this machine, with the server's forward pass, cache,
 * plans and batches but without its scheduler. Any thread, one call at a time; a backend uses
 * threads of its own inside. Used by `winnow bench`. */
#ifndef WINNOW_ENGINE_MEASURE_BENCH_H
#define WINNOW_ENGINE_MEASURE_BENCH_H

#include "engine/compute/device.h"
#include "engine/compute/forward.h"

struct bench;

struct bench_options {
    const char *model_path;
    const struct device_kind *device;
    const char *isa;          /* NULL = best */
    const char *head_profile; /* as in runtime_options (runtime.h) */
    uint32_t n_threads;       /* >= 1 */
    uint32_t max_rows;        /* of a step; 0 = the device's usual rows */
    uint32_t max_sequences;   /* the most that decode together, >= 1 */
};

/* Loads the model. NULL: "invalid_model", "invalid_value", "out_of_memory", ... */
struct bench *bench_open(const struct bench_options *options, struct error *e);
void bench_close(struct bench *b);
const struct model *bench_model(const struct bench *b);
const struct backend *bench_backend(const struct bench *b);
uint32_t bench_max_rows(const struct bench *b);
/* After bench_set_pool. */
struct plan_limits bench_limits(const struct bench *b);

/* Makes a new pool for max_sequences + 1 sequences of max_tokens; every prompt must be freed
 * before. False: "out_of_memory", also if the machine has less memory free. */
bool bench_set_pool(struct bench *b, enum plan_storage storage, uint32_t max_tokens,
                    struct error *e);

/* What one run took and what work it was. */
struct bench_sample {
    double seconds;
    double weight_bytes; /* that a decode step must read: all matrices, and an embedding per row */
    double kv_bytes;     /* K, V and positions that a decode step must read, mean over the steps */
    double operations;   /* multiplications and additions of the run: 2 per weight and row, 4 per
                            dimension of a query head and slot */
};

/* A computed prompt and the token that follows it. */
struct bench_prompt {
    struct cache_sequence *sequence;
    int32_t next;
    double kv_held_bytes; /* of its pages */
};
void bench_prompt_free(struct bench_prompt *p);

/* Computes a prompt of n tokens (the same for equal n) in chunks of max_rows and picks the next
 * token. The plan is resolved for n. False: "kv_pool_empty", "engine_fault", "out_of_memory". */
bool bench_prefill(struct bench *b, const struct plan *plan, uint32_t n,
                   struct bench_prompt *prompt, struct bench_sample *sample, struct error *e);

/* n_steps greedy steps of n_sequences copies of the prompt, each with a cache of its own (no page
 * is shared). The prompt does not change. */
bool bench_decode(struct bench *b, const struct bench_prompt *prompt, uint32_t n_sequences,
                  uint32_t n_steps, struct bench_sample *sample, struct error *e);

#endif
