/* What a model's steps cost on this machine: prompts and decode steps over the same forward pass,
 * cache, plans and batches as the server's, without its scheduler, with a clock around them. Any
 * thread, one call at a time; a backend uses threads of its own inside. Used by `winnow bench`. */
#ifndef WINNOW_ENGINE_MEASURE_BENCH_H
#define WINNOW_ENGINE_MEASURE_BENCH_H

#include "engine/compute/device.h"
#include "engine/compute/forward.h"

struct bench;

struct bench_options {
    const char *model_path;
    const struct device_kind *device;
    const char *isa;          /* NULL = best */
    const char *head_profile; /* NULL = none */
    uint32_t n_threads;       /* >= 1 */
    uint32_t max_rows;        /* of a step; 0 = the device's usual rows, as the server's */
    uint32_t max_sequences;   /* that decode together, >= 1 */
};

/* Loads the model. NULL: "invalid_model", "invalid_value", "out_of_memory", ... */
struct bench *bench_open(const struct bench_options *options, struct error *e);
void bench_close(struct bench *b);
const struct model *bench_model(const struct bench *b);
const struct backend *bench_backend(const struct bench *b);
uint32_t bench_max_rows(const struct bench *b);
/* After bench_set_pool. */
struct plan_limits bench_limits(const struct bench *b);

/* The pool anew, for max_sequences + 1 sequences of max_tokens; every prompt must be freed before.
 * False: "out_of_memory", also where the machine has less than that free. */
bool bench_set_pool(struct bench *b, enum plan_storage storage, uint32_t max_tokens,
                    struct error *e);

/* What one run took and had to do. */
struct bench_sample {
    double seconds;
    double weight_bytes; /* that a decode step must read: all matrices once, a row of embeddings */
    double kv_bytes;     /* of K and V, and their positions, that it must read: mean over steps */
    double operations;   /* floating-point multiplications and additions of the run, as the matrices
                            and the attention call for them: 2 for a weight and row, 4 for a query
                            head's dimension and slot */
};

/* A prompt that was read, and the token that follows it. */
struct bench_prompt {
    struct cache_sequence *sequence;
    int32_t next;
    double kv_held_bytes; /* of its pages */
};
void bench_prompt_free(struct bench_prompt *p);

/* Reads n random tokens (the same for each n) under a plan, resolved for n, in chunks of max_rows,
 * and picks the first token behind them. False: "kv_pool_empty", "engine_fault", "out_of_memory".
 */
bool bench_prefill(struct bench *b, const struct plan *plan, uint32_t n,
                   struct bench_prompt *prompt, struct bench_sample *sample, struct error *e);

/* n_steps greedy steps of n_sequences sequences that all stand where the prompt ends, each with a
 * cache of its own (no page is shared). The prompt stays as it was. */
bool bench_decode(struct bench *b, const struct bench_prompt *prompt, uint32_t n_sequences,
                  uint32_t n_steps, struct bench_sample *sample, struct error *e);

#endif
