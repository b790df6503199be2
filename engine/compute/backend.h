/* The seam between the transformer and the machine that computes it: one struct of functions over
 * buffers that the backend owns. engine/cpu implements it for the CPU, cuda/host for CUDA. The
 * forward pass (forward.c) calls nothing else.
 *
 * Float buffers come from `alloc` and may be device memory: forward.c passes pointers to them (plus
 * offsets in floats) and never reads or writes through them. Arrays are row-major, the last index
 * is contiguous. Called by the engine thread only; a backend may use threads of its own inside a
 * call.
 *
 * Determinism: on the CPU every output number is summed in an order that depends only on the model
 * and on the token's own position and slots, never on n_rows, other rows or the number of
 * threads. */
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

/* One of several products of the same x. */
struct product {
    float *out; /* [n][w->rows] */
    const struct weight *w;
    const float *bias; /* [w->rows] or NULL */
};

/* A rope set: pair i of a row at position p turns by p / scale * frequencies[i]. */
struct rope_table {
    const double *frequencies; /* [n_pairs] in backend memory */
    double scale;
    uint32_t n_pairs;
};

/* The buffers of `write`: rows of the whole step. K is rotated. */
struct kv_rows {
    const float *k, *v; /* [n_rows][n_kv_heads][head_dim] */
    uint32_t n_kv_heads, head_dim;
};

/* The buffers and the shape of `attend`. n_heads is a multiple of n_kv_heads; query head g uses KV
 * head g / (n_heads / n_kv_heads). */
struct attention {
    const float *q;      /* [n_rows][n_heads][head_dim] */
    const float *q_sink; /* the same shape, rotated for sinks; NULL when no segment asks for it */
    float *out;          /* the same shape */
    /* [n_heads] logits in backend memory, or NULL: one more slot per query head that takes part in
     * the softmax and has no value (gpt-oss's sink). */
    const float *sink_logits;
    uint32_t n_heads, n_kv_heads, head_dim;
};

/* A page holds K and V rows of PAGE_SLOTS slots of one (layer, KV head), and their positions. Its
 * layout is private to the backend. Pages are numbered from 0; a head whose pages have consecutive
 * numbers is read fastest. */
struct backend {
    const char *name;      /* "cpu" */
    char description[160]; /* "AVX-512, 2 threads", for the start-up line */
    void *self;
    const struct state_memory *state_memory; /* for scores, holes and summaries */

    /* Called before and after the operations of a step. step_begin sends the whole step to the
     * device and may set step->recorded; step_end computes what the operations asked for, or
     * replays the recorded step. False: "engine_fault" or "out_of_memory". Both NULL where
     * operations read the step themselves. */
    bool (*step_begin)(void *self, struct step *step, struct error *e);
    bool (*step_end)(void *self, struct error *e);

    /* Buffers: zeroed, 64-byte aligned, n floats (n may be 0). NULL with "out_of_memory". */
    float *(*alloc)(void *self, size_t n_floats, struct error *e);
    void (*free)(void *self, float *buffer);
    void (*upload)(void *self, float *to, const float *from, size_t n_floats);
    /* Waits for earlier operations. False: "engine_fault", also of an earlier operation. */
    bool (*download)(void *self, float *to, const float *from, size_t n_floats, struct error *e);
    /* Host memory that is fast to download to. NULL with "out_of_memory". */
    void *(*host_alloc)(void *self, size_t bytes, struct error *e);
    void (*host_free)(void *self, void *p);
    /* Bytes that a KV pool could take now, 0 = unknown. */
    uint64_t (*memory_free)(void *self);

    /* May build a private copy of a matrix. weight_release undoes it. `multiplied`: products use
     * it, not only embed. False: "out_of_memory". */
    bool (*weight_prepare)(void *self, struct weight *w, bool multiplied, struct error *e);
    void (*weight_release)(void *self, struct weight *w);

    /* out[n_rows][w.cols] = rows tokens[i] of w, as floats. Tokens are in range. */
    void (*embed)(void *self, float *out, const struct weight *w, const struct step *step);

    /* out[i] = x[i] / sqrt(mean(x[i]^2) + eps) * gain, for n rows of `width`; out may be x. For
     * norms of heads the rows are n * n_heads rows of head_dim. */
    void (*rms_norm)(void *self, float *out, const float *x, const float *gain, uint32_t n,
                     uint32_t width, float eps);

    /* out[n][w.rows] = x[n][w.cols] * w^T (+ bias[w.rows] when not NULL). out must not overlap x.
     * Where w is quantised and prepared, a backend may round x to 16 bits in blocks of 32
     * columns. */
    void (*matmul)(void *self, float *out, const struct weight *w, const float *x, uint32_t n,
                   const float *bias);

    /* matmul of several weights with the same x. Each gives the same bits as matmul alone. */
    void (*products)(void *self, const struct product *products, uint32_t n_products,
                     const float *x, uint32_t n);

    /* out[n_rows][n_pairs][2] = (cos, sin) of the angles of the rows' positions, or of their
     * sink_positions. Angles are computed in double. */
    void (*rope_angles)(void *self, float *out, const struct rope_table *table,
                        const struct step *step, bool of_sinks);

    /* Rotates x[n][n_heads][head_dim] in place by angles[n][rope_dim / 2][2] of rope_angles. neox:
     * pairs are (i, i + rope_dim / 2), otherwise (2i, 2i + 1). Dimensions from rope_dim on stay. */
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

    /* Picks tokens[i] (host memory) from row picks[i].row of logits [][n_vocab] (backend memory),
     * i < n:
     *   1. If temperature or top_p is 0: the best logit, the lowest id on ties.
     *   2. Else p = e^((logit - best) / temperature) of the top_k best logits.
     *   3. Of these the fewest best that reach top_p of the mass, lower ids first on ties.
     *   4. Of these the ones with at least min_p times the best one's p.
     *   5. Of these the first, by id, at which the summed mass passes draw * (mass of all).
     * PICK_NOT_FINITE where a logit of the row is not finite. A token depends only on its row and
     * its pick. It is the token of sampler_pick unless a draw or a cut is within rounding of a
     * boundary. Called after step_end; waits for the device. False: "engine_fault". NULL where the
     * host reads logits as fast. */
    bool (*pick)(void *self, int32_t *tokens, const float *logits, uint32_t n_vocab,
                 const struct token_pick *picks, uint32_t n, struct error *e);

    /* The pool: one allocation. kv_set_storage comes before it and says how K and V are stored (f16
     * without it); page_bytes depends on it. */
    void (*kv_set_storage)(void *self, enum plan_storage storage);
    size_t (*page_bytes)(void *self, uint32_t head_dim);
    bool (*kv_alloc)(void *self, uint32_t n_pages, uint32_t head_dim, struct error *e);
    void (*kv_free)(void *self);
    /* Copies whole pages (copy on write). */
    void (*kv_copy)(void *self, const uint32_t *from, const uint32_t *to, uint32_t n);

    /* Writes K, V and positions of a wave's rows into the slots that were placed for them;
     * SLOT_OF_HOLE means the head's newest hole. Sets score and history of a written slot to 0.
     * Adds k / |k| of the stored keys, in order of rows, to the key sums of states that have
     * one. */
    void (*write)(void *self, const struct step *step, uint32_t layer, uint32_t wave,
                  const struct kv_rows *rows);

    /* out = softmax(q . K / sqrt(head_dim)) V over the visible slots, for a wave's rows. Slots are
     * read page by page in the order of the table (or list) with a running maximum, so the result
     * does not depend on chunking. A summary of n tokens is one more slot, whose logit gets + log
     * n.
     *
     * Then, for segments with a score: m[slot] is the mean, over the query heads of the group, of
     * their probabilities. In rising order of rows SUM adds m to the slot's score, LAST replaces
     * the score by m, and HISTORY sets bit position % HISTORY_QUERIES of the slot to m > 1 / (slots
     * seen). */
    void (*attend)(void *self, const struct step *step, uint32_t layer, uint32_t wave,
                   const struct attention *a);

    /* For a wave's segments that drop: the n_drop worst slots of every head, by score, become holes
     * (position HOLE, listed in head_state.holes) and are added to the summary where there is one.
     * False: "out_of_memory". */
    bool (*drop)(void *self, const struct step *step, uint32_t layer, uint32_t wave,
                 struct error *e);
    /* For the heads of one layer of one sequence: keeps at most job.budget slots of each, moves
     * them to the front and fills job.n_kept. Heads of budget UINT32_MAX stay as they are. No holes
     * are left; scores become 0 where select_job_forgets. False: "out_of_memory" or
     * "engine_fault". */
    bool (*compress)(void *self, struct select_job *jobs, uint32_t n_jobs, struct error *e);

    /* Returns the position of a slot and reads it as floats: k, v [head_dim] may be NULL. For
     * tests, audit and trace. */
    int32_t (*kv_read)(void *self, uint32_t page, uint32_t index, uint32_t head_dim, float *k,
                       float *v);

    void (*close)(void *self);
};

/* Fills *b with the CPU backend of n_threads >= 1 threads. isa: "plain", "avx2" or "avx512"; NULL =
 * the best that the machine has. False: "unsupported_value" where the machine lacks it,
 * "invalid_value", "out_of_memory" or "engine_fault". */
bool backend_cpu_open(struct backend *b, uint32_t n_threads, const char *isa, struct error *e);

#endif
