/* Integer products with AVX-VNNI: vectors of 256 bits. */
#include "engine/cpu/products.h"

#define PRODUCTS      cpu_products_avxvnni
#define PRODUCTS_ISA  "avx2"
#define PRODUCTS_NAME "VNNI"

#define LANES  8
#define TILE_X 4
#if defined(__AVXVNNI__)
#define DPWSSD _mm256_dpwssd_avx_epi32
#endif

#include "engine/cpu/products_vnni.h"
