/* The inside of a batch: batch.c fills it, forward.c computes it. */
#ifndef WINNOW_ENGINE_COMPUTE_BATCH_H
#define WINNOW_ENGINE_COMPUTE_BATCH_H

#include "engine/compute/forward.h"
#include "engine/compute/step.h"

/* One cache_place of the step. A sequence whose tokens each evict another is placed once per row.
 * Each placement but its last keeps a copy of the counts in `frozen`, because the next one changes
 * the sequence's own. */
struct batch_placement {
    struct placement placed;
    size_t frozen; /* in batch.frozen; SIZE_MAX: the sequence's own counts */
};

struct batch {
    struct cache *cache;
    const struct model *model;
    uint32_t max_rows, max_outputs;
    int32_t *tokens, *positions, *sink_positions; /* [max_rows] */
    uint32_t *logit_rows, *hidden_rows;           /* [max_outputs] in the order of adding */
    uint32_t *output_rows;                        /* [max_outputs] logit_rows, hidden_rows */
    struct batch_placement *placements;           /* [max_rows] */
    struct step_segment *segments, *sorted;       /* [max_rows] as added, and by wave */
    uint32_t *waves;                              /* [max_rows] wave of each segment as added */
    uint32_t *first_of_wave;                      /* [max_rows + 1] */
    uint32_t n_placements;
    struct head_slots *frozen; /* [frozen_capacity] */
    size_t n_frozen, frozen_capacity;
    struct select_job *jobs; /* [n_kv_heads] scratch of a compression */
    uint64_t policy_ns;      /* spent on choosing and dropping slots since batch_clear */
    struct step step;
};

/* Completes the step of the added rows. Nothing may be added until batch_clear. */
struct step *batch_step(struct batch *b);
/* Drops what the policies of a wave's segments drop, after these have attended in a layer. False:
 * "out_of_memory" or "engine_fault". */
bool batch_drop(struct batch *b, const struct backend *backend, uint32_t layer, uint32_t wave,
                struct error *e);

#endif
