/* Integer products with AVX-512 VNNI: a vector holds two columns of all 16 rows of a group. */
#include "engine/cpu/products.h"

#define PRODUCTS      cpu_products_avx512vnni
#define PRODUCTS_ISA  "avx512"
#define PRODUCTS_NAME "VNNI"

#define LANES  16
#define TILE_X 8
#if defined(__AVX512VNNI__)
#define DPWSSD _mm512_dpwssd_epi32
#endif

#include "engine/cpu/products_vnni.h"
