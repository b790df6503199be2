/* The seam between the transformer and the machine that computes it: one struct of functions over
 * buffers that the backend owns. The CPU implements it in engine/cpu/, CUDA will in cuda/. The
 * forward pass (forward.c) calls nothing else and never looks at a policy.
 *
 * Float buffers come from `alloc`; forward.c passes the pointers (plus offsets in floats) around
 * and never reads or writes through them: on a GPU they are device memory. Row-major, last index
 * contiguous. Called by the engine thread only; a backend may use threads of its own inside a call.
 *
 * Determinism: every output number is summed in an order that depends only on the model and the
 * token's own position and slots, never on n_rows, on other rows, or on the number of threads. */
#ifndef WINNOW_ENGINE_COMPUTE_BACKEND_H
#define WINNOW_ENGINE_COMPUTE_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "cache/pages/cache.h"
#include "cache/policy/select_job.h"
#include "cache/pages/state_memory.h"
#include "config/base/error.h"
#include "engine/model/weight.h"
#include "engine/compute/step.h"
#include "engine/compute/token_pick.h"

/* One of the products that share their x. */
struct product {
    float *out; /* [n][w->rows] */
    const struct weight *w;
    const float *bias; /* [w->rows] or NULL */
};

/* Rotary positions: pair i of a row at position p turns by p / scale * frequencies[i]. */
struct rope_table {
    const double *frequencies; /* [n_pairs] in backend memory */
    double scale;
    uint32_t n_pairs;
};

/* The buffers of `write`: rows of the whole step, K rotated. */
struct kv_rows {
    const float *k, *v; /* [n_rows][n_kv_heads][head_dim] */
    uint32_t n_kv_heads, head_dim;
};

/* The buffers and the shape of `attend`. n_heads is a multiple of n_kv_heads; query head g uses KV
 * head g / (n_heads / n_kv_heads). */
struct attention {
    const float *q;      /* [n_rows][n_heads][head_dim] */
    const float *q_sink; /* likewise; NULL when no segment asks for it */
    float *out;          /* likewise */
    /* One more slot per query head that takes part in the softmax and has no value: gpt-oss's sink.
     * [n_heads] logits in backend memory, or NULL. */
    const float *sink_logits;
    uint32_t n_heads, n_kv_heads, head_dim;
};

/* A page: K and V rows of PAGE_SLOTS slots of one (layer, KV head), and their positions. Where
 * they lie is private to the backend; they are numbered from 0, and a head is read fastest whose
 * pages have consecutive numbers. */
struct backend {
    const char *name;      /* "cpu" */
    char description[160]; /* "AVX-512, 2 threads", for the start-up line */
    void *self;
    const struct state_memory *state_memory; /* where what policies remember lies */

    /* Around the operations of a step, which take the same one. step_begin gives a device
     * everything that the step reads, in one piece, and may set step->recorded; step_end computes
     * what was asked for, or the recorded step. False: "engine_fault" or "out_of_memory". Both NULL
     * where operations read the step themselves. */
    bool (*step_begin)(void *self, struct step *step, struct error *e);
    bool (*step_end)(void *self, struct error *e);

    /* Buffers: zeroed, 64-byte aligned, n floats (n may be 0). NULL with "out_of_memory". */
    float *(*alloc)(void *self, size_t n_floats, struct error *e);
    void (*free)(void *self, float *buffer);
    void (*upload)(void *self, float *to, const float *from, size_t n_floats);
    /* Waits for what was asked for before. False: "engine_fault". */
    bool (*download)(void *self, float *to, const float *from, size_t n_floats, struct error *e);
    /* Host memory that downloads reach fastest. NULL with "out_of_memory". */
    void *(*host_alloc)(void *self, size_t bytes, struct error *e);
    void (*host_free)(void *self, void *p);
    /* Bytes that a KV pool could take now, 0 where nobody knows. */
    uint64_t (*memory_free)(void *self);

    /* May build a private copy of a matrix; may do nothing. weight_release undoes it. `multiplied`:
     * it will be in products, not only looked up by embed. False: "out_of_memory". */
    bool (*weight_prepare)(void *self, struct weight *w, bool multiplied, struct error *e);
    void (*weight_release)(void *self, struct weight *w);

    /* out[n_rows][w.cols] = rows tokens[i] of w, as floats. Tokens are in range. */
    void (*embed)(void *self, float *out, const struct weight *w, const struct step *step);

    /* out[i] = x[i] / sqrt(mean(x[i]^2) + eps) * gain, for n rows of `width`, out may be x. Rows
     * are packed: per-head norms run over n * n_heads rows of head_dim. */
    void (*rms_norm)(void *self, float *out, const float *x, const float *gain, uint32_t n,
                     uint32_t width, float eps);

    /* out[n][w.rows] = x[n][w.cols] * w^T (+ bias[w.rows] when not NULL). out must not overlap x.
     * A backend may round x to 16 bits in blocks of 32 columns where w is quantised and prepared.
     */
    void (*matmul)(void *self, float *out, const struct weight *w, const float *x, uint32_t n,
                   const float *bias);

    /* matmul of several weights with the same x: products of
     * their own. Each comes out as matmul alone would compute it. */
    void (*products)(void *self, const struct product *products, uint32_t n_products,
                     const float *x, uint32_t n);

    /* out[n_rows][n_pairs][2] = (cos, sin) of the rows' positions, or of their sink_positions;
     * angles are made in double. */
    void (*rope_angles)(void *self, float *out, const struct rope_table *table,
                        const struct step *step, bool of_sinks);

    /* x[n][n_heads][head_dim] rotated in place by angles[n][rope_dim / 2][2] of rope_angles. neox: pairs are (i, i + rope_dim/2); otherwise (2i, 2i+1). Dimensions
     * from rope_dim on stay. */
    void (*rope)(void *self, float *x, const float *angles, uint32_t n, uint32_t n_heads,
                 uint32_t head_dim, uint32_t rope_dim, bool neox);

    /* x += y, n floats. */
    void (*add)(void *self, float *x, const float *y, size_t n);

    /* out[i] = gate[i] / (1 + exp(-gate[i])) * up[i], n floats; out may be gate. */
    void (*swiglu)(void *self, float *out, const float *gate, const float *up, size_t n);

    /* out = x, n floats. */
    void (*copy)(void *self, float *out, const float *x, size_t n);

    /* Copies row output_rows[i] of x[.][width] to out[i], for all output rows. */
    void (*gather)(void *self, float *out, const float *x, const struct step *step, uint32_t width);

    /* tokens[i] (host) of logits row picks[i].row, i < n, rows of n_vocab logits in backend memory:
     * the best (lowest id on ties) if temperature or top_p is 0; else, of p = e^((logit - best) /
     * temperature) over the top_k best logits, the fewest best that reach top_p of their mass
     * (lower ids first on ties), of those that have at least min_p times the best one's p, the
     * first by id at which the mass passes draw * all. PICK_NOT_FINITE where a logit of the row is not
     * finite. After step_end; waits for the device. False: "engine_fault". A token depends on its
     * row and its pick alone, and is the host's (sampler_pick) unless a draw or a cut is within
     * rounding of a boundary. NULL where logits are as good as on the host. */
    bool (*pick)(void *self, int32_t *tokens, const float *logits, uint32_t n_vocab,
                 const struct token_pick *picks, uint32_t n, struct error *e);

    /* The pool: one allocation at start. kv_set_storage (before; f16 without it) says as what K and
     * V are stored; page_bytes is a function of head_dim and that. */
    void (*kv_set_storage)(void *self, enum plan_storage storage);
    size_t (*page_bytes)(void *self, uint32_t head_dim);
    bool (*kv_alloc)(void *self, uint32_t n_pages, uint32_t head_dim, struct error *e);
    void (*kv_free)(void *self);
    /* Copies whole pages (copy on write). */
    void (*kv_copy)(void *self, const uint32_t *from, const uint32_t *to, uint32_t n);

    /* K and V of a wave's rows go into the slots that were placed for them, with their positions;
     * SLOT_OF_HOLE takes the head's newest hole. The score and history of a written slot begin at
     * 0. Adds k / |k| to the key sums of states that have one, in order of rows, from the keys as
     * stored. */
    void (*write)(void *self, const struct step *step, uint32_t layer, uint32_t wave,
                  const struct kv_rows *rows);

    /* out = softmax(q . K / sqrt(head_dim)) V over the visible slots, for a wave's rows. Slots are
     * walked page by page in slot order (of a list's, in its order) with a running maximum, so the
     * result is independent of chunking. A summary of n tokens counts as one more slot whose logit
     * has log n added.
     *
     * Then, for segments that ask: m[slot] = mean over the query heads of the group of their
     * probabilities; in rising order of rows, SUM adds it to the slot's score, LAST replaces the
     * score, HISTORY sets bit position % HISTORY_QUERIES of the slot to m > 1 / (slots seen). */
    void (*attend)(void *self, const struct step *step, uint32_t layer, uint32_t wave,
                   const struct attention *a);

    /* Of a wave's segments that drop: n_drop slots of every head; the worst by score become holes
     * (position HOLE, listed in head_state.holes), and join the summary where there is one. False:
     * "out_of_memory". */
    bool (*drop)(void *self, const struct step *step, uint32_t layer, uint32_t wave,
                 struct error *e);
    /* The heads of one layer of one sequence keep at most job.budget slots each, moved to the
     * front; fills job.n_kept. Jobs of budget UINT32_MAX stay as they are. Holes are gone
     * afterwards, and with job.forget scores are 0. False: "out_of_memory". */
    bool (*compress)(void *self, struct select_job *jobs, uint32_t n_jobs, struct error *e);

    /* Reads one slot back as floats (tests, audit, trace): k, v [head_dim] may be NULL. Returns its
     * position. */
    int32_t (*kv_read)(void *self, uint32_t page, uint32_t index, uint32_t head_dim, float *k,
                       float *v);

    void (*close)(void *self);
};

/* The CPU backend with `n_threads` >= 1 threads. isa: NULL = best of this machine, or "plain",
 * "avx2", "avx512" (refused with "unsupported_value" where the machine lacks it). Fills *b. */
bool backend_cpu_open(struct backend *b, uint32_t n_threads, const char *isa, struct error *e);

#endif
