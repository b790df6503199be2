/* Integer products with vpdpwssd, which multiplies and adds at once: the common part of
 * products_avxvnni.c and products_avx512vnni.c, which alone include it. DPWSSD is the instruction
 * at the width of LANES. Where the compiler does not know it, it is undefined and the table has no
 * functions. */
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
