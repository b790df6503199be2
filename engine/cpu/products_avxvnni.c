/* Integer products with AVX-VNNI: vpdpbusd multiplies and adds four bytes of a lane at once.
 * Compiles to a table without functions where the compiler does not know it. */
#include "engine/cpu/products.h"

#if defined(__x86_64__) && defined(__AVXVNNI__)

#define PRODUCTS      cpu_products_avxvnni
#define PRODUCTS_ISA  "avx2"
#define PRODUCTS_NAME "VNNI"

#include "engine/cpu/products_256.h"

typedef __m256i vs;

#define SHORT_RUN(bits) 8

static inline vs vs_zero(void)
{
    return _mm256_setzero_si256();
}

static inline vs vs_dot(vs sum, vb w, vb x)
{
    return _mm256_dpbusd_avx_epi32(sum, w, x);
}

static inline vi vs_wide(vi sum, vs wide)
{
    return _mm256_add_epi32(sum, wide);
}

/* w + 128 is unsigned. */
static inline vi vi_dot_signed(vi sum, vb w, vb x)
{
    return _mm256_dpbusd_avx_epi32(sum, _mm256_xor_si256(w, _mm256_set1_epi8(-128)), x);
}

#define SIGNED_ZERO 128

#include "engine/cpu/quantise_256.h"
#include "engine/cpu/template_products.h"

#elif defined(__x86_64__)
const struct cpu_products cpu_products_avxvnni = {.isa = "avx2", .name = "VNNI"};
#else
typedef int products_avxvnni_are_for_x86_64;
#endif
