/* The inside of a batch, shared by batch.c, which fills it, and forward.c, which computes it. */
#ifndef WINNOW_ENGINE_COMPUTE_BATCH_H
#define WINNOW_ENGINE_COMPUTE_BATCH_H

#include "engine/compute/forward.h"

/* Rows of one sequence that are written together and then attend. A plan with a ring needs its rows
 * in waves: those of wave w attend before wave w + 1 is written. Plans without one have all rows in
 * wave 0. */
struct batch_segment {
    struct cache_sequence *sequence;
    uint32_t first_row, n_rows, wave;
    size_t first_slot; /* in write_slots: [n_layers][n_rows][n_kv_heads] */
    size_t first_view; /* in views and n_drop: [n_layers][n_kv_heads] */
};

struct batch {
    struct cache *cache;
    const struct model *model;
    uint32_t max_rows, max_logits, n_rows, n_logits, n_segments, max_segments, n_waves;
    bool sink_query;                /* some segment rotates its queries a second time */
    int32_t *tokens, *positions;    /* [max_rows] */
    float *angles, *sink_angles;    /* [max_rows][rope_dim/2][2], host memory */
    uint32_t *logit_rows;           /* [max_logits] */
    struct batch_segment *segments; /* [max_segments] in the order of adding */
    uint32_t *write_slots;          /* [n_layers][max_rows][n_kv_heads] in all */
    size_t n_slots, slots_capacity;
    struct head_view *views;    /* [max_segments][n_layers][n_kv_heads] */
    uint32_t *n_drop;           /* likewise: slots that go after the segment has attended */
    struct kv_segment *wave;    /* [max_segments] scratch: the segments of a wave in one layer */
    struct head_state **states; /* [max_segments][n_kv_heads] likewise */
    struct select_job *drops;   /* [max_segments][n_kv_heads] likewise */
    struct select_job *jobs;    /* [n_kv_heads] likewise: one compression */
    uint32_t *n_kept;           /* [n_kv_heads] likewise */
    uint64_t policy_ns;         /* spent on choosing and dropping since batch_clear */
};

/* The segments of wave w as layer l sees them, in b->wave. Returns how many. */
uint32_t batch_wave(struct batch *b, uint32_t layer, uint32_t wave);
/* Tells a device all that the step will read. *recorded: it needs no operations (may_replay allows
 * that), only step_end. Backends that plan nothing are told nothing. False: "engine_fault". */
bool batch_plan(struct batch *b, const struct backend *backend, bool may_replay, bool *recorded,
                struct error *e);
/* After the n segments of b->wave have attended: what their policies drop goes. False:
 * "out_of_memory". */
bool batch_drop(struct batch *b, const struct backend *backend, uint32_t layer, uint32_t wave,
                uint32_t n_segments, struct error *e);

#endif
