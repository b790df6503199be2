/* One weight of a model, as the loader binds it and as a backend computes with it. */
#ifndef WINNOW_ENGINE_MODEL_WEIGHT_H
#define WINNOW_ENGINE_MODEL_WEIGHT_H

#include <stdint.h>

#include "engine/model/tensor_type.h"

/* A matrix [rows][cols]: row r starts at data + r * cols / block_values * block_bytes, in the map of
 * the model file. A vector (norm gain, bias) has rows = 1 and type F32; its data was converted by
 * the loader and belongs to the model. data NULL: the model has none.
 *
 * `prepared` is a backend's own form: of a matrix what weight_prepare made, or NULL; of a vector its
 * floats in backend memory. It is set in the copy that a forward pass keeps, never in the model's.
 */
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
