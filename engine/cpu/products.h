/* Products of packed weights (packed.h) with rows of x that were rounded to 16 bits: the table that
 * each instruction set fills. Inside the CPU backend.
 *
 * For output (row of x, row r of w), over the blocks of 32 columns in rising order, in float:
 *
 *   sum += float(integer dot product of the block) * (scale of w * scale of x)
 *   sum += minimum of w * (scale of x * sum of the block's x)         where there is one
 *
 * The integers are exact, so the result does not depend on how the work was cut. Instruction sets
 * with fused multiply-add agree to the bit; plain C rounds the product before it adds. */
#ifndef WINNOW_ENGINE_CPU_PRODUCTS_H
#define WINNOW_ENGINE_CPU_PRODUCTS_H

#include "engine/cpu/packed.h"

/* FEW_ROWS: up to this many rows of x, reading the weights takes longer than multiplying. WALKS:
 * then a thread reads that many streams of weights at once, because a core prefetches each of them:
 * on Zen 3 a thread reads 21 GB/s from four streams and 16 from one. */
#define PRODUCTS_FEW_ROWS 2
#define PRODUCTS_WALKS    4

struct cpu_products {
    const char *isa;  /* the kernels (kernels.h) it goes with: "plain", "avx2", "avx512" */
    const char *name; /* of the instructions that it adds, for people; may be "" */
    /* Rounds rows [first, last) of x [n][to->cols] into the layout that multiply needs for n rows;
     * the layout is the table's own, see packed.h. */
    void (*quantise)(const struct quantised *to, const float *x, uint32_t n, uint32_t first,
                     uint32_t last);
    /* Groups [first, last) of w against the n rows of x: out[i][r] for the group's rows r,
     * out_stride floats apart. bias [w->rows] or NULL. */
    void (*multiply)(const struct packed *w, const struct quantised *x, uint32_t n, uint32_t first,
                     uint32_t last, const float *bias, float *out, size_t out_stride);
};

extern const struct cpu_products cpu_products_plain;
#if defined(__x86_64__)
/* multiply is NULL where the compiler does not support the instruction set. */
extern const struct cpu_products cpu_products_avx2, cpu_products_avxvnni, cpu_products_avx512vnni;
#endif

#endif
