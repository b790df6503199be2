/* Integer products with vpdpwssd, which multiplies and adds at once: the rest of
 * products_avxvnni.c and products_avx512vnni.c, and included by them only. DPWSSD is the
 * instruction at the width of LANES, undefined where the compiler does not know it: the table has no
 * functions then. */
#if defined(__x86_64__) && defined(DPWSSD)

#include "engine/cpu/products_x86.h"

static inline vi vi_dot(vi sum, vw w, vw x)
{
    return DPWSSD(sum, w, x);
}

#include "engine/cpu/quantise_256.h"
#include "engine/cpu/template_products.h"

#elif defined(__x86_64__)
const struct cpu_products PRODUCTS = {.isa = PRODUCTS_ISA, .name = PRODUCTS_NAME};
#else
typedef int products_vnni_is_for_x86_64;
#endif
