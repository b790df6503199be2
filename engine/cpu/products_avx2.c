/* Integer products with AVX2: vpmaddwd multiplies pairs of 16-bit numbers into 32 bits. Compiles to
 * nothing on other machines. */
#include "engine/cpu/products.h"

#if defined(__x86_64__)

#define PRODUCTS      cpu_products_avx2
#define PRODUCTS_ISA  "avx2"
#define PRODUCTS_NAME ""

#define LANES  8
#define TILE_X 4
#include "engine/cpu/products_x86.h"

/* Keeps the sum a chain: the compiler would make a tree of the integer additions, whose leaves do
 * not fit the registers. */
static inline vi vi_dot(vi sum, vw w, vw x)
{
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(w, x));
    __asm__("" : "+x"(sum));
    return sum;
}

#include "engine/cpu/quantise_256.h"
#include "engine/cpu/template_products.h"

#else
typedef int products_avx2_are_for_x86_64;
#endif
