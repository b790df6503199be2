/* Integer products with AVX-VNNI: vpdpwssd multiplies and adds at once. Compiles to a table without
 * functions where the compiler does not know it. */
#include "engine/cpu/products.h"

#if defined(__x86_64__) && defined(__AVXVNNI__)

#define PRODUCTS      cpu_products_avxvnni
#define PRODUCTS_ISA  "avx2"
#define PRODUCTS_NAME "VNNI"

#include "engine/cpu/products_256.h"

static inline vi vi_dot(vi sum, vw w, vw x)
{
    return _mm256_dpwssd_avx_epi32(sum, w, x);
}

#include "engine/cpu/quantise_256.h"
#include "engine/cpu/template_products.h"

#elif defined(__x86_64__)
const struct cpu_products cpu_products_avxvnni = {.isa = "avx2", .name = "VNNI"};
#else
typedef int products_avxvnni_are_for_x86_64;
#endif
