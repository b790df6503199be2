/* One weight of a model: what the loader binds, and what a backend makes of it. */
#ifndef WINNOW_ENGINE_MODEL_WEIGHT_H
#define WINNOW_ENGINE_MODEL_WEIGHT_H

#include <stdint.h>

#include "engine/model/tensor_type.h"

/* A matrix [rows][cols]: row r starts at data + r * cols / block_values * block_bytes, in the
 * mapped model file. A vector (norm gain, bias) has rows = 1 and type F32; the loader converted its
 * data, which the model owns. data NULL: the model has no such weight.
 *
 * `prepared` is a backend's own form: for a matrix what weight_prepare made, or NULL; for a vector
 * its floats in backend memory. It is set in the copy of the weights that a forward pass keeps,
 * never in the model's. */
struct weight {
    enum tensor_type type;
    uint32_t rows, cols;
    const void *data;
    void *prepared;
};

/* A vector in backend memory [w->cols], or NULL where the model has none. */
static inline const float *weight_vector(const struct weight *w)
{
    return (const float *)w->prepared;
}

#endif
