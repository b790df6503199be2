/* What the kernels know of a weight type when they are compiled, and the one place where a type's
 * number becomes a template argument. Both come from TENSOR_TYPES: a type whose bits and scales
 * exist already needs nothing here. */
#ifndef WINNOW_CUDA_KERNELS_WEIGHT_TYPE_H
#define WINNOW_CUDA_KERNELS_WEIGHT_TYPE_H

#include "cuda/kernels/portable.h"

extern "C" {
#include "engine/model/tensor_type.h"
}

struct weight_traits {
    uint32_t bits; /* of a value or code */
    weight_scales scales;
    int zero; /* what codes count from, as weight_layout.h stores them */
};

static __host__ __device__ constexpr weight_traits weight_traits_of(uint32_t type)
{
    switch (type) {
#define ROW(name, number, values, bytes, bits, scales, zero)                                       \
    case TENSOR_##name:                                                                            \
        return {bits, scales, (bits) == 8 ? 128 : (zero)};
        TENSOR_TYPES(ROW)
#undef ROW
    }
    return {0, SCALES_NONE, 0};
}

static __host__ __device__ constexpr bool weight_is_quantised(uint32_t type)
{
    return weight_traits_of(type).scales != SCALES_NONE;
}

static __host__ __device__ constexpr bool weight_has_minimum(uint32_t type)
{
    return weight_traits_of(type).scales == SCALES_MIN || weight_traits_of(type).scales == SCALES_K;
}

template <uint32_t number> struct weight_type {
    static constexpr uint32_t type = number;
};

/* Calls f(weight_type<type>()) for one of enum tensor_type. f is a generic lambda; where not every
 * type has a kernel it asks with `if constexpr`. */
template <class F> static inline void for_weight_type(uint32_t type, F f)
{
    switch (type) {
#define ROW(name, ...)                                                                             \
    case TENSOR_##name:                                                                            \
        return f(weight_type<TENSOR_##name>());
        TENSOR_TYPES(ROW)
#undef ROW
    }
}

#endif
