/* Every kernel of the CUDA backend as a function that launches it on a stream. All pointers among
 * the arguments are to device memory. Nothing here allocates, waits or copies to the host, so a
 * decode step can be captured as a graph; errors stay in the runtime until the end of the step.
 * Called by the engine thread. Shapes as in engine/compute/backend.h, row-major floats.
 *
 * "bucket": the launch is sized for that many rows; rows at or beyond header->n_rows are skipped
 * (in row-wise kernels they may be computed: their buffers exist and nobody reads them). */
#ifndef WINNOW_CUDA_KERNELS_KERNELS_H
#define WINNOW_CUDA_KERNELS_KERNELS_H

#include "cuda/kernels/portable.h"
#include "cuda/kernels/step.h"
#include "engine/compute/token_pick.h"

/* ---- rows.cu */

/* A weight matrix on the device. Quantised ones keep their bits in another order; F32, F16 and BF16
 * are as in the file, each row padded to 16 bytes: weight_layout.h. */
struct device_weight {
    uint32_t type; /* enum tensor_type */
    uint32_t rows, cols;
    uint8_t *data; /* n_bytes, device; owner: whoever uploaded it */
    uint64_t n_bytes;
};

/* out[i][w.cols] = row tokens[i] of w as floats. */
void launch_embed(cudaStream_t stream, float *out, const struct device_weight *w,
                  const int32_t *tokens, uint32_t n);
void launch_rms_norm(cudaStream_t stream, float *out, const float *x, const float *gain, uint32_t n,
                     uint32_t width, float eps);
/* out[n][n_pairs][2] = (cos, sin) of positions[row] / scale * frequencies[pair], in double. */
void launch_rope_angles(cudaStream_t stream, float *out, const int32_t *positions,
                        const double *frequencies, double scale, uint32_t n, uint32_t n_pairs);
/* x[n][n_heads][head_dim] in place; angles[n][rope_dim / 2][2]. */
void launch_rope(cudaStream_t stream, float *x, const float *angles, uint32_t n, uint32_t n_heads,
                 uint32_t head_dim, uint32_t rope_dim, bool neox);
void launch_add(cudaStream_t stream, float *x, const float *y, uint64_t n);
void launch_swiglu(cudaStream_t stream, float *out, const float *gate, const float *up, uint64_t n);
/* out[i] = x[rows[i]], i < n */
void launch_gather(cudaStream_t stream, float *out, const float *x, const uint32_t *rows,
                   uint32_t n, uint32_t width);

/* ---- matmul*.cu */

/* Bytes of a weight on the device, and the conversion on the host from the file's rows to the
 * device's layout (to: n_bytes, host). Types: all of enum tensor_type. */
uint64_t device_weight_bytes(uint32_t type, uint32_t rows, uint32_t cols);
void device_weight_pack(uint8_t *to, const void *from, uint32_t type, uint32_t rows, uint32_t cols);

/* out[n][w.rows] = x[n][w.cols] * w^T (+ bias). */
struct matmul_job {
    float *out;
    const struct device_weight *w;
    const float *bias; /* [w.rows] or NULL */
};
#define MATMUL_JOBS 4 /* that share a launch, at most */

/* Scratch that launch_products needs for at most max_n rows of x and weights of max_rows x max_cols
 * (activations as 16-bit numbers, split sums). 256-byte aligned. */
uint64_t matmul_scratch_bytes(uint32_t max_n, uint32_t max_rows, uint32_t max_cols);

/* Products of the same x [n][cols]. Weights of one type share a launch, as many as scratch has
 * room for, since small ones do not fill a GPU. Few rows: one pass over the weight's bytes, each
 * read once in 16-byte loads for all n. Many rows: tensor cores, or cuBLAS where it was found
 * (blas may be NULL). F32 weights are multiplied in fp32 for any n. The order in which an output
 * is summed depends on the weight's shape and on the kernel that is chosen, never on the other
 * rows or jobs. */
struct blas;
void launch_products(cudaStream_t stream, struct blas *blas, const struct matmul_job *jobs,
                     uint32_t n_jobs, const float *x, uint32_t n, uint8_t *scratch);

/* blas.cu: cuBLAS, loaded with dlopen where it is installed. Else NULL, and *reason is a static
 * string for the caller to log. Not in emulation. */
struct blas *blas_open(cudaStream_t stream, const char **reason);
void blas_close(struct blas *b);

/* ---- kv_write.cu, attention*.cu, score.cu: segments [first, first + n) of a step's layer */

/* Writes k, v [rows][n_kv_heads][head_dim] into the slots of the segments' rows, with their
 * positions; at most max_rows_of_segment rows in one of them. SLOT_OF_HOLE takes the top of the
 * head's holes. The written slot's score and history begin at 0. Adds k / |k| (as stored) to the
 * key sum, in order of rows, in double. */
void launch_kv_write(cudaStream_t stream, const struct device_step *step, uint32_t layer,
                     uint32_t first, uint32_t n, uint32_t max_rows_of_segment, const float *k,
                     const float *v);

/* Working memory of attention, allocated once at start for max_rows rows (of which max_decode may
 * be alone in their segment) and heads of at most max_slots slots. A launch may be given fewer
 * max_slots, whole pages of them. */
struct attention_workspace {
    float *partial; /* decode: split results, see attention_decode.cu */
    float *
        weights; /* decode, scored: logits (base 2) per query head and slot, which the merge turns into scores */
    float *softmax;   /* [rows][n_heads][2] largest logit, 1 / sum: what scoring needs of prefill */
    uint32_t *n_seen; /* [rows][n_kv_heads] */
    uint32_t max_rows, max_decode, max_slots;
};
uint64_t attention_workspace_bytes(const struct device_step *shape, uint32_t max_rows,
                                   uint32_t max_decode, uint32_t max_slots);
void attention_workspace_place(struct attention_workspace *w, const struct device_step *shape,
                               uint8_t *memory, uint32_t max_rows, uint32_t max_decode,
                               uint32_t max_slots);

/* out[row][n_heads][head_dim]. Segments of one row (decode), with their scores fused; the number
 * of splits of a head depends on its n_slots alone. n <= max_decode. Segments of several rows
 * are skipped here and done by the two functions below, which skip these. At most 16 query heads
 * share a KV head (GROUP_MAX). */
void launch_attention_decode(cudaStream_t stream, const struct device_step *step, uint32_t layer,
                             uint32_t first, uint32_t n, const float *q, const float *q_sink,
                             float *out, const struct attention_workspace *w);
/* Segments of several rows (prefill), tiles of queries by pages of slots on tensor cores; at most
 * max_rows_of_segment rows in one of them. q_sink NULL: no segment asks for it. */
void launch_attention_prefill(cudaStream_t stream, const struct device_step *step, uint32_t layer,
                              uint32_t first, uint32_t n, uint32_t max_rows_of_segment,
                              const float *q, const float *q_sink, float *out,
                              const struct attention_workspace *w);
/* The second pass of segments of several rows that score: column sums, last query, history. */
void launch_score_prefill(cudaStream_t stream, const struct device_step *step, uint32_t layer,
                          uint32_t first, uint32_t n, uint32_t max_slots, const float *q,
                          const struct attention_workspace *w);

/* Copies whole pages. */
void launch_kv_copy(cudaStream_t stream, uint8_t *pool, uint64_t page_bytes, const uint32_t *from,
                    const uint32_t *to, uint32_t n);
/* *address[i] = page[i]: page tables follow the host's. */
struct table_change {
    uint32_t *address;
    uint32_t page, unused;
};
void launch_table_changes(cudaStream_t stream, const struct table_change *changes, uint32_t n);

/* ---- select.cu, evict.cu, compress.cu */

/* After decode rows have attended: every head of the segments with n_drop > 0 turns its worst slots
 * into holes (position HOLE in the page, slot pushed onto holes), which join the summary if
 * `remnant`. */
void launch_evict(cudaStream_t stream, const struct device_step *step, uint32_t layer,
                  uint32_t first, uint32_t n, uint32_t max_slots, uint8_t *scratch);
/* The heads of one layer of one sequence keep at most their budgets; survivors move to the front
 * and n_kept [n_jobs] is written. jobs: device memory, n_jobs = n_kv_heads. max_slots: the most
 * of any job. */
void launch_compress(cudaStream_t stream, const struct device_step *shape,
                     const struct device_job *jobs, uint32_t n_jobs, uint32_t max_slots,
                     uint32_t *n_kept, uint8_t *scratch);
/* For both, n_jobs heads at a time. */
uint64_t select_scratch_bytes(const struct device_step *shape, uint32_t max_segments,
                              uint32_t max_slots);

/* ---- sample.cu */

/* tokens[i] as picks[i] says of logits[picks[i].row][n_vocab], i < n, all in device memory; ties:
 * the lowest id. PICK_NOT_FINITE where a logit of the row is not finite. */
void launch_sample(cudaStream_t stream, int32_t *tokens, const float *logits, uint32_t n,
                   uint32_t n_vocab, const struct token_pick *picks, uint8_t *scratch);
uint64_t sample_scratch_bytes(uint32_t max_n, uint32_t n_vocab);

#endif
