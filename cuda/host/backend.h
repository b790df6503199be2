/* The CUDA backend: struct backend of engine/compute/backend.h on one GPU. A binary built without nvcc has
 * absent.c instead, which says so. */
#ifndef WINNOW_CUDA_HOST_BACKEND_H
#define WINNOW_CUDA_HOST_BACKEND_H

#ifdef __cplusplus
extern "C" {
#endif

#include "engine/compute/backend.h"

/* What the backend must know of the model and the server when it opens the device: every buffer
 * of a step is allocated then. */
struct cuda_options {
    uint32_t device; /* number of the GPU */
    uint32_t n_layers, n_heads, n_kv_heads, head_dim, rope_dim;
    uint32_t max_matrix_rows, max_matrix_cols; /* of any weight */
    uint32_t max_rows, max_logits;             /* of a step */
    uint32_t max_slots;                        /* of any head */
    uint32_t n_vocab;                          /* of logits that tokens are picked from */
    double memory_share;                       /* of the GPU's memory that may be used, 0..1 */
};

/* Number of GPUs that this process could use. 0: *reason, a static string, says why: no driver,
 * a driver that is too old, no device, built without CUDA. Any thread. */
uint32_t cuda_device_count(const char **reason);

/* False: "device_unavailable" or "out_of_memory", with a sentence that names the cause. Main
 * thread; afterwards the engine thread's. */
bool backend_cuda_open(struct backend *b, const struct cuda_options *options, struct error *e);

#ifdef __cplusplus
}
#endif
#endif
