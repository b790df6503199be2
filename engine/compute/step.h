/* A step: everything that the operations of one forward pass read beside their own buffers. Filled
 * once by the batch, from rows and from what the cache has placed; the backend's operations take it
 * with a layer and a wave, and nothing else that it says.
 *
 *   rows      0 1 2 3 4 5 | 6 | 7 8        tokens, positions
 *   segments  [A: 6 rows ] [B] [C  ]       rows of one sequence that are written together, then
 *                                          attend; each points to its sequence's placement
 *   waves     0 0 0 0 1 1   0   0 0        segments are sorted by wave: those of wave w have
 *                                          attended in a layer before those of w + 1 are written
 *
 * Made by the engine thread; read by it and by the backend's threads inside a call. Pointers are
 * borrowed and valid until the batch is cleared. */
#ifndef WINNOW_ENGINE_COMPUTE_STEP_H
#define WINNOW_ENGINE_COMPUTE_STEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/pages/placement.h"

/* What an output row leaves: its logits, or the hidden state that they would be made of (after the
 * output norm). */
enum step_output { STEP_LOGITS, STEP_HIDDEN };

/* The slots that the queries of a segment read of one head, instead of all of its table: made
 * between write and attend of a layer, by whoever selects. Places are indices of the page table,
 * rising; bit i of slots[] is slot i of that page. All of a head's pages with all of their used
 * slots give the same bits as no list. */
struct step_list {
    const uint32_t *places, *slots; /* [n] */
    uint32_t n;                     /* 0: no list */
};

struct step_segment {
    const struct placement *placed;
    uint32_t first_row, n_rows;    /* of the step; n_rows >= 1 */
    uint32_t n_behind;             /* tokens of the placement behind these rows: see placement.h */
    uint32_t first_scored;         /* rows [first_scored, n_rows) leave placed->score */
    const struct step_list *lists; /* [n_heads of placed]; NULL: every query reads whole tables.
                                      Of a sequence's heads several may share one's arrays */
};

struct step {
    uint32_t n_rows, n_waves, n_segments;
    uint32_t n_layers, n_kv_heads;
    const int32_t *tokens, *positions; /* [n_rows] */
    const int32_t *sink_positions;     /* [n_rows] of the query's second rotation */
    bool sink_query;                   /* some segment has one */
    uint32_t n_logits, n_hidden;
    const uint32_t *output_rows; /* [n_logits + n_hidden] rows that leave logits, then others */
    const struct step_segment *segments; /* [n_segments] */
    const uint32_t *first_of_wave;       /* [n_waves + 1] segments */
    bool is_decode;                      /* one row a segment, one wave, nothing is compressed */
    bool may_record;                     /* nobody looks at what operations leave between them */
    bool recorded; /* set by the backend's step_begin: it does the step in step_end, from what it
                        recorded of one like it; no operation may be called, and results are in the
                        same buffers as last time */
};

/* The number of a layer's first head. */
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

/* The token of the placement that is the segment's row i. */
static inline uint32_t step_token(const struct step_segment *s, uint32_t i)
{
    return s->placed->n - s->n_behind - s->n_rows + i;
}

/* What goes once the segment has attended; rows that others follow wait for them. */
static inline enum cache_work step_work(const struct step_segment *s)
{
    return s->n_behind > 0 ? CACHE_WORK_NONE : s->placed->work;
}

#endif
