/* One step of the engine as the GPU sees it: which rows belong to which sequence, where each head's
 * pages and scores are, where new tokens go. The host fills the arrays in pinned memory
 * (backend_step.cu) and sends them in one copy. Everything that changes from step to step is behind
 * these pointers, whose addresses never change, so that a captured graph can be launched again: a
 * kernel reads the number of rows from the header, and blocks without work return at once.
 *
 * heads[(segment * n_layers + layer) * n_kv_heads + kv_head]
 *
 * The host's struct step (engine/compute/step.h) says the same, in pointers to the host's memory. */
#ifndef WINNOW_CUDA_KERNELS_STEP_H
#define WINNOW_CUDA_KERNELS_STEP_H

#include <stdint.h>

#include "cache/pages/head_state.h"
#include "cuda/kernels/portable.h"

/* Pages that hold n_slots of one head: pages_of_slots (cache/policy/slot.h) for kernels. */
static __host__ __device__ inline uint32_t page_count(uint32_t n_slots)
{
    return (n_slots + PAGE_SLOTS - 1) / PAGE_SLOTS;
}

/* One (sequence, layer, KV head). All pointers are device memory; NULL where the plan needs none.
 */
struct device_head {
    const uint32_t *pages;          /* [ceil(n_slots / PAGE_SLOTS)] page numbers */
    float *scores;                  /* [whole pages of slots] */
    uint32_t *history;              /* [whole pages of slots][HISTORY_WORDS] */
    double *key_sum;                /* [2][head_dim] as in struct head_state */
    float *summary;                 /* [2][head_dim] mean K, mean V of what was dropped */
    uint32_t *holes;                /* stack of slots that were dropped */
    struct head_counters *counters; /* of holes and of the summary; never NULL */
    uint32_t n_slots;               /* used slots, those of this step's rows included */
    uint32_t n_drop;                /* slots that this step drops after it has attended */
    uint32_t n_sinks, window;       /* visibility: p <= t && (p < n_sinks || t - p < window) */
    uint32_t
        write_slot; /* slot of the segment's first row; the others follow. Or SLOT_OF_HOLE: the newest of the head's holes. */
    uint32_t ring;  /* > 0: the token of position p goes to p if p < n_sinks, else to
                      n_sinks + (p - n_sinks) % ring */
    uint32_t
        votes; /* share `layer`: 1 where this head's scores count in the layer's mean. Without such a head in the layer all count. */
};

/* What choosing slots needs to know of the plan and of the moment: struct select_job
 * (cache/policy/select_job.h) for the device. Enums of cache/policy/plan.h as numbers. */
struct step_choice {
    uint32_t scorer; /* the scorer that decides now */
    uint32_t allocation, share, pooling, remnant;
    uint32_t vote_queries, kernel;
    uint32_t n_tokens, sinks, recent;
    int64_t seed;
};

/* Rows of one sequence that are written together and then attend. */
struct device_segment {
    uint32_t first_row, n_rows;
    uint32_t sink_query;   /* 1: slots with p < n_sinks are read with q_sink */
    uint32_t score;        /* enum cache_score ... */
    uint32_t first_scored; /* ... of rows [first_scored, n_rows) */
    uint32_t evicts; /* 1: a decode step under a plan that drops (heads[].n_drop may still be 0) */
    struct step_choice choice; /* if it evicts */
};

struct device_header {
    uint32_t n_rows, n_segments, n_outputs;
};

/* Passed to kernels by value. */
struct device_step {
    const struct device_header *header;
    const int32_t *tokens, *positions;     /* [rows] */
    const int32_t *sink_positions;         /* [rows] */
    const uint32_t *output_rows;           /* [n_outputs] */
    const struct device_segment *segments; /* sorted by wave */
    const struct device_head *heads;
    uint32_t n_layers, n_heads, n_kv_heads, head_dim;
    /* The pool; layout of a page: page.h */
    uint8_t *pool;
    uint64_t page_bytes;
    uint32_t storage; /* enum plan_storage */
    /* [n_heads] The logit of one more slot per query head, which has no value, in the current
     * layer; or NULL. */
    const float *sink_logits;
};

/* What one head keeps at the end of a prompt. */
struct device_job {
    struct device_head head; /* n_slots: used by then */
    struct step_choice choice;
    uint32_t layer, kv_head;
    uint32_t budget; /* slots to keep (under `adaptive` the mean over the layer); UINT32_MAX: all */
    uint32_t forgets; /* 1: scores of what is kept restart at 0 */
};

#endif
