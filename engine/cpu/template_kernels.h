/* The kernels of one instruction set, written once over its lanes: included at the end of
 * kernels_{plain,avx2,avx512}.c, never on its own. The includer defines
 *
 *   LANES, vf, vi     how many floats (or 32-bit integers) a vector holds, and its types
 *   v_..., vi_...     arithmetic on them; v_fma(a, b, c) is a * b + c, rounded once if possible;
 *                     v_max(a, b) and v_min(a, b) return b when either is NaN
 *   v_sum             adds lanes l and l + n/2, then l and l + n/4, ..: a fixed tree
 *   bytes, b_...      32 small integers of a quantised block, widened by v_from_bytes
 *   TILE_ROWS, TILE_QUERIES, TILE_SUMS     how many sums its registers hold
 *   KERNELS           the name of the table to define
 *
 * Instruction sets may differ from each other in the last bits. Within one, a number does not
 * depend on how the work is cut. */
#include <string.h>

#define STEP         32             /* weights that are unpacked together */
#define STEP_VECTORS (STEP / LANES) /* vectors that hold them */
#define SLOT_VECTORS (PAGE_SLOTS / LANES)
#define ALWAYS       static inline __attribute__((always_inline))

/* Loops over vectors must be unrolled; otherwise arrays of vectors are in memory. */
#if defined(__clang__)
#define UNROLL   _Pragma("clang loop unroll(full)")
#define UNROLL_4 _Pragma("clang loop unroll_count(4)")
#else
#define UNROLL   _Pragma("GCC unroll 32")
#define UNROLL_4 _Pragma("GCC unroll 4") /* of a long loop: fewer steps to count */
#endif

/* Calls f(.., n) with n, 1 to 6, as a constant: the rows or queries of a register tile. */
#define FOR_TILE(n, f, ...)                                                                        \
    switch (n) {                                                                                   \
    case 1:                                                                                        \
        f(__VA_ARGS__, 1);                                                                         \
        break;                                                                                     \
    case 2:                                                                                        \
        f(__VA_ARGS__, 2);                                                                         \
        break;                                                                                     \
    case 3:                                                                                        \
        f(__VA_ARGS__, 3);                                                                         \
        break;                                                                                     \
    case 4:                                                                                        \
        f(__VA_ARGS__, 4);                                                                         \
        break;                                                                                     \
    case 5:                                                                                        \
        f(__VA_ARGS__, 5);                                                                         \
        break;                                                                                     \
    case 6:                                                                                        \
        f(__VA_ARGS__, 6);                                                                         \
        break;                                                                                     \
    }

#include "engine/cpu/template_decode.h"
#include "engine/cpu/template_matmul.h"
#include "engine/cpu/template_rows.h"
#include "engine/cpu/template_pages.h"
#include "engine/cpu/template_tiles.h"
#include "engine/cpu/template_attention.h"
#include "engine/cpu/template_score.h"

const struct cpu_kernels KERNELS = {
    .isa = KERNELS_ISA,
    .name = KERNELS_NAME,
    .dequantise = dequantise,
    .matmul = matmul,
    .rms_norm = rms_norm,
    .rope = rope,
    .add = add,
    .swiglu = swiglu,
    .to_half = to_half,
    .attend = attend,
    .attend_span = attend_span,
    .attend_merge = attend_merge,
    .score = score,
    .key_dots = key_dots,
    .worst = worst,
};
