/* Which machine computes: picks the backend by name and opens it with the sizes of a model. Main
 * thread, at start. */
#ifndef WINNOW_ENGINE_COMPUTE_DEVICE_H
#define WINNOW_ENGINE_COMPUTE_DEVICE_H

#include "engine/compute/backend.h"
#include "engine/model/model.h"

enum device_kind { DEVICE_CPU, DEVICE_CUDA };

/* "auto" (or NULL) is the GPU where one can be used, else the CPU, and *why then says why not (a
 * static string, "" otherwise). "cuda" without a GPU: false with "device_unavailable". */
bool device_pick(const char *name, enum device_kind *out, const char **why, struct error *e);

struct device_options {
    enum device_kind kind;
    uint32_t n_threads;            /* of the CPU */
    const char *isa;               /* of the CPU, NULL = best */
    double memory_share;           /* of the GPU's memory that may be used; 0 = 0.9 */
    uint32_t max_rows, max_logits; /* of a step */
    uint32_t max_slots;            /* of any head, beside the spare ones of a stream */
};

/* Fills *b, which the caller closes (b->close). False: "device_unavailable", "out_of_memory",
 * "unsupported_value"; b->close is NULL then. */
bool device_open(struct backend *b, const struct device_options *o, const struct model *m,
                 struct error *e);

#endif
