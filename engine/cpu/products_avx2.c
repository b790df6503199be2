/* Integer products with AVX2: bytes are multiplied in pairs into 16 bits (vpmaddubsw), which holds
 * a few of them before they must become 32. Compiles to nothing on other machines. */
#include "engine/cpu/products.h"

#if defined(__x86_64__)

#define PRODUCTS      cpu_products_avx2
#define PRODUCTS_ISA  "avx2"
#define PRODUCTS_NAME ""

#include "engine/cpu/products_256.h"

typedef __m256i vs;

/* |w x| summed over a pair of columns: at most 2 * 127 * q for unsigned q below 2^bits. */
#define SHORT_RUN(bits) ((bits) == 4 ? 8 : (bits) == 5 ? 4 : 2)

static inline vs vs_zero(void)
{
    return _mm256_setzero_si256();
}

/* Sums stay sums: the compiler would turn a chain of integer additions into a tree, whose leaves do
 * not fit into the registers. */
#define IN_ORDER(sum) __asm__("" : "+x"(sum))

static inline vs vs_dot(vs sum, vb w, vb x)
{
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x));
    IN_ORDER(sum);
    return sum;
}

static inline vi vs_wide(vi sum, vs shorts)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(shorts, _mm256_set1_epi16(1)));
}

/* The sign of w goes to x, so that one side is unsigned; -128 is not among the signed weights that
 * programs write, and where a file has it |w| is 128 without a sign and the product still right. */
static inline vi vi_dot_signed(vi sum, vb w, vb x)
{
    vs pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    IN_ORDER(sum);
    return sum;
}

#define SIGNED_ZERO 0

#include "engine/cpu/quantise_256.h"
#include "engine/cpu/template_products.h"

#else
typedef int products_avx2_are_for_x86_64;
#endif
