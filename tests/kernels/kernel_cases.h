/* Shared by the tests of the CPU's kernels: the instruction sets of this machine, and weights
 * (weight_cases.h) as the backend takes them. */
#ifndef WINNOW_TESTS_KERNEL_CASES_H
#define WINNOW_TESTS_KERNEL_CASES_H

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/compute/backend.h"
#include "engine/cpu/kernels.h"
#include "tests/kernels/weight_cases.h"

static const char *const all_isas[] = {"plain", "avx2", "avx512"};
#define N_ISAS 3

/* False where this machine lacks it, which is printed once. */
static inline bool open_isa(struct backend *b, int isa, uint32_t n_threads)
{
    struct error e;
    if (backend_cpu_open(b, n_threads, all_isas[isa], &e))
        return true;
    ck_assert_str_eq(e.code, "unsupported_value");
    printf("SKIPPED: %s (%s)\n", all_isas[isa], e.message);
    return false;
}

static inline float *floats(size_t n)
{
    float *p = calloc(n + 1, sizeof *p);
    ck_assert_ptr_nonnull(p);
    return p;
}

/* Released with free((void *)w.data). */
static inline struct weight random_weight(enum tensor_type type, uint32_t rows, uint32_t cols)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    size_t blocks = (size_t)rows * (cols / info->block_values);
    uint8_t *data = malloc(blocks * info->block_bytes);
    ck_assert_ptr_nonnull(data);
    fill_random_blocks(type, data, blocks);
    return (struct weight){.type = type, .rows = rows, .cols = cols, .data = data};
}

static inline double weight_value(const struct weight *w, uint32_t row, uint32_t col)
{
    const struct tensor_type_info *info = tensor_type_info(w->type);
    size_t block = (size_t)row * (w->cols / info->block_values) + col / info->block_values;
    return block_value(w->type, (const uint8_t *)w->data + block * info->block_bytes,
                       col % info->block_values);
}

#define assert_same_bits(a, b, n)                                                                  \
    do {                                                                                           \
        const float *a_ = (a), *b_ = (b);                                                          \
        for (size_t i_ = 0; i_ < (size_t)(n); i_++)                                                \
            ck_assert_msg(memcmp(a_ + i_, b_ + i_, sizeof *a_) == 0,                               \
                          "%s and %s differ at %zu of %zu: %.9g and %.9g", #a, #b, i_,             \
                          (size_t)(n), (double)a_[i_], (double)b_[i_]);                            \
    } while (0)

#endif
