/* Products of packed weights (packed.h) with rows of x that were rounded to 16 bits: the table that
 * each instruction set fills, and how the best one is found. Inside the CPU backend.
 *
 * For output (row of x, row r of w), over the blocks of 32 columns in rising order, in float:
 *
 *   sum += float(integer dot product of the block) * (scale of w * scale of x)
 *   sum += minimum of w * (scale of x * sum of the block's x)         where there is one
 *
 * The integers are exact, so nothing depends on how the work was cut; machines with fused
 * multiply-add agree to the bit, plain C rounds the product first. */
#ifndef WINNOW_ENGINE_CPU_PRODUCTS_H
#define WINNOW_ENGINE_CPU_PRODUCTS_H

#include "engine/cpu/packed.h"

/* Up to here rows of x are few: multiplying them takes less than reading the weights. Few rows are
 * a walk through memory. A core fetches ahead on each of a few walks, and so more on several at
 * once: on Zen 3 a thread reads 21 GB/s by four walks, 16 by one. So many groups are best asked
 * for. */
#define PRODUCTS_FEW_ROWS 2
#define PRODUCTS_WALKS    4

struct cpu_products {
    const char *isa;  /* the kernels (kernels.h) it goes with: "plain", "avx2", "avx512" */
    const char *name; /* of what it adds, for people; "" where nothing */
    /* Rows [first, last) of x [n][to->cols], laid out as multiply wants n of them: a table's own
     * affair, see packed.h. */
    void (*quantise)(const struct quantised *to, const float *x, uint32_t n, uint32_t first,
                     uint32_t last);
    /* Groups [first, last) of w against the n rows of x: out[i][r] for the group's rows r,
     * out_stride floats apart. bias [w->rows] or NULL. */
    void (*multiply)(const struct packed *w, const struct quantised *x, uint32_t n, uint32_t first,
                     uint32_t last, const float *bias, float *out, size_t out_stride);
};

extern const struct cpu_products cpu_products_plain;
#if defined(__x86_64__)
/* multiply is NULL in those that the compiler did not know. */
extern const struct cpu_products cpu_products_avx2, cpu_products_avxvnni, cpu_products_avx512vnni;
#endif

#endif
