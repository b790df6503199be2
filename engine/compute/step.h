/* A step: everything that the operations of a forward pass read beside their buffers. The batch
 * fills it once, from rows and from placements of the cache.
 *
 *   rows      0 1 2 3 4 5 | 6 | 7 8     tokens, positions
 *   segments  [A: 4 ] [A2] [B] [C  ]    rows of one sequence that are written together and then
 *                                       attend; each points to its sequence's placement
 *   waves     0 0 0 0 1 1   0   0 0     segments are sorted by wave: in each layer those of wave w
 *                                       attend before those of wave w + 1 are written
 *
 * The engine thread fills it; operations read it on the backend's threads too. Its pointers are
 * borrowed and valid until the batch is cleared. */
#ifndef WINNOW_ENGINE_COMPUTE_STEP_H
#define WINNOW_ENGINE_COMPUTE_STEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/pages/placement.h"

/* What an output row leaves: its logits, or its hidden state after the output norm. */
enum step_output { STEP_LOGITS, STEP_HIDDEN };

/* The slots of one head that the queries of a segment read, instead of the whole table. A selection
 * makes the list between write and attend of a layer. Places are rising indices of the page table;
 * bit i of slots[] is slot i of that page. A list of all used slots gives the same bits as no
 * list. */
struct step_list {
    const uint32_t *places, *slots; /* [n] */
    uint32_t n;                     /* 0: no list */
};

struct step_segment {
    const struct placement *placed;
    uint32_t first_row, n_rows;    /* of the step; n_rows >= 1 */
    uint32_t n_behind;             /* tokens of the placement that follow these rows */
    uint32_t first_scored;         /* rows [first_scored, n_rows) leave placed->score */
    const struct step_list *lists; /* [n_heads of placed]; NULL: queries read whole tables. Heads
                                      may share arrays */
};

struct step {
    uint32_t n_rows, n_waves, n_segments;
    uint32_t n_layers, n_kv_heads;
    const int32_t *tokens, *positions; /* [n_rows] */
    const int32_t *sink_positions;     /* [n_rows] of the query's second rotation, for sinks */
    bool sink_query;                   /* some segment has a second rotation */
    uint32_t n_logits, n_hidden;
    const uint32_t *output_rows; /* [n_logits + n_hidden] rows that leave logits, then the others */
    const struct step_segment *segments; /* [n_segments] */
    const uint32_t *first_of_wave;       /* [n_waves + 1] first segment of each wave, and the end */
    bool is_decode;                      /* one row a segment, one wave, nothing is compressed */
    bool may_record;                     /* no observer reads buffers between operations */
    bool recorded; /* set by step_begin: step_end replays a recorded step of the same shape, so no
                      operation may be called; results are in the same buffers as last time */
};

/* The index of a layer's first head. */
static inline uint32_t step_head(const struct step *step, uint32_t layer)
{
    return layer * step->n_kv_heads;
}

static inline const struct step_segment *step_wave(const struct step *step, uint32_t wave,
                                                   uint32_t *n_segments)
{
    *n_segments = step->first_of_wave[wave + 1] - step->first_of_wave[wave];
    return step->segments + step->first_of_wave[wave];
}

/* The index in the placement of the segment's row i. */
static inline uint32_t step_token(const struct step_segment *s, uint32_t i)
{
    return s->placed->n - s->n_behind - s->n_rows + i;
}

/* What happens after the segment has attended: the work of a placement follows its last segment. */
static inline enum cache_work step_work(const struct step_segment *s)
{
    return s->n_behind > 0 ? CACHE_WORK_NONE : s->placed->work;
}

#endif
