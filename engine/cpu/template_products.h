/* The integer products of one instruction set, written once over its lanes: included at the end of
 * products_{plain,avx2,avxvnni,avx512vnni}.c, never on its own. The includer defines
 *
 *     LANES            rows in a vector, 4, 8 or 16
 *     vf, vi           vectors of LANES floats, of LANES int32
 *     vw               vectors of 2 * LANES int16, two columns of each row
 *     vi_dot           (sum, w, x): adds the products of both columns
 *     TILE_X           rows of x whose sums its registers hold
 *     quantise_block   32 floats to 16 bits, their scale and sums
 *     PRODUCTS, PRODUCTS_ISA, PRODUCTS_NAME: the table to define
 */
#include <string.h>

#define ALWAYS static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#define ROW_VECTORS (PACKED_ROWS / LANES)

/* What the integers of a block count from. */
#define ZERO(bits, kind)                                                                           \
    ((kind) == SCALES_6 ? 32 : (kind) == SCALES_ONE && (bits) < 8 ? 1 << ((bits)-1) : 0)

/* What a block of 32 columns of LANES rows has beside its integers. */
struct block_scales {
    vf scale[2], minimum; /* scale[1]: of columns 16..31 */
};

/* A block whose integers are 16 bits already and count from 0: [two columns][rows]. */
struct wide_block {
    vw w[16][ROW_VECTORS];
    struct block_scales scales[ROW_VECTORS];
};

/* Pair p of the block's columns, of the rows of a vector. values: the block's, from the vector's
 * first row on. What is four bits of a word becomes 16 by shifting and masking alone. */
ALWAYS vw columns(const int bits, const uint8_t *values, const int p)
{
    if (bits == 8)
        return vw_from_int8((const int8_t *)values + p * 32);
    vw q = vw_field(vw_load(values + p / 4 * 64), p % 4 * 4, 15);
    if (bits == 5)
        q = vw_or(q, vw_shift_left(vw_field(vw_load(values + 256), p, 1), 4));
    else if (bits == 6)
        q = vw_or(q, vw_shift_left(vw_field(vw_load(values + 256 + p / 8 * 64), p % 8 * 2, 3), 4));
    return q;
}

/* Of the block's integers, where those of vector v begin. */
#define VECTOR_AT(bits, v) ((v)*LANES * ((bits) == 8 ? 2 : 4))

ALWAYS void load_scales(const enum weight_scales kind, const uint8_t *scales, uint32_t block,
                        uint32_t row, struct block_scales *s)
{
    const uint32_t super = block / PACKED_SUPER, part = block % PACKED_SUPER;
    const uint8_t *at, *small;
    switch (kind) {
    case SCALES_NONE: /* never packed */
        break;
    case SCALES_ONE:
        s->scale[0] = v_from_half(scales + block * 32 + row * 2);
        break;
    case SCALES_MIN:
        s->scale[0] = v_from_half(scales + block * 64 + row * 2);
        s->minimum = v_from_half(scales + block * 64 + 32 + row * 2);
        break;
    case SCALES_K:
        at = scales + super * (64 + PACKED_SUPER * 32);
        small = at + 64 + part * 32 + row;
        s->scale[0] = v_mul(v_from_half(at + row * 2), v_from_u8(small));
        s->minimum = v_minus(v_mul(v_from_half(at + 32 + row * 2), v_from_u8(small + 16)));
        break;
    case SCALES_6:
        at = scales + super * (32 + PACKED_SUPER * 32);
        small = at + 32 + part * 32 + row;
        s->scale[0] = v_mul(v_from_half(at + row * 2), v_from_int8(small));
        s->scale[1] = v_mul(v_from_half(at + row * 2), v_from_int8(small + 16));
        break;
    }
}

/* A group of rows: packed, or its current block widened. */
struct source {
    const uint8_t *scales, *values;
    const struct wide_block *wide; /* or NULL */
};

/* So many groups are multiplied with few rows of x together. Some of them share the loads of x, as
 * registers allow: as many sums as TILE_X rows have. */
#define WALKS PRODUCTS_WALKS
#define TOGETHER(n_x)                                                                              \
    (ROW_VECTORS > 2 || TILE_X <= (n_x) ? 1 : TILE_X / (n_x) < WALKS ? TILE_X / (n_x) : WALKS)

/* sums[g][v][i] = the integer dot products of pairs [first, last) of block b: at most 32 * 128 *
 * 32767 < 2^31. */
ALWAYS void dots(const int bits, const struct source *from, const int n_g, uint32_t b,
                 const int16_t *x, const int first, const int last, const int n_x,
                 vi sums[WALKS][ROW_VECTORS][TILE_X])
{
    UNROLL
    for (int g = 0; g < n_g; g++) {
        UNROLL
        for (int v = 0; v < ROW_VECTORS; v++) {
            UNROLL
            for (int i = 0; i < n_x; i++)
                sums[g][v][i] = vi_zero();
        }
    }
    UNROLL
    for (int p = first; p < last; p++) {
        vw xs[TILE_X];
        UNROLL
        for (int i = 0; i < n_x; i++)
            xs[i] = vw_set2(x + (p * n_x + i) * 2);
        UNROLL
        for (int g = 0; g < n_g; g++) {
            UNROLL
            for (int v = 0; v < ROW_VECTORS; v++) {
                vw w = from[g].wide
                           ? from[g].wide->w[p][v]
                           : columns(bits,
                                     from[g].values + (size_t)b * PACKED_BLOCK_BYTES(bits) +
                                         VECTOR_AT(bits, v),
                                     p);
                UNROLL
                for (int i = 0; i < n_x; i++)
                    sums[g][v][i] = vi_dot(sums[g][v][i], w, xs[i]);
            }
        }
    }
}

/* acc[g][v][i] += block b of n_g groups' rows, times n_x rows of x. */
ALWAYS void add_block(const int bits, const enum weight_scales kind, const struct source *from,
                      const int n_g, uint32_t b, const struct quantised *x, uint32_t x0,
                      const int n_x, vf (*acc)[ROW_VECTORS][TILE_X])
{
    const int n_parts = kind == SCALES_6 ? 2 : 1; /* of a block, each with its own scale */
    const size_t at = (size_t)x0 * x->n_blocks + b * (uint32_t)n_x; /* the block of x0 */
    UNROLL
    for (int part = 0; part < n_parts; part++) {
        vi sums[WALKS][ROW_VECTORS][TILE_X];
        dots(bits, from, n_g, b, x->values + at * PACKED_COLS, part * 16 / n_parts,
             (part + 1) * 16 / n_parts, n_x, sums);
        UNROLL
        for (int g = 0; g < n_g; g++) {
            const int32_t zero = from[g].wide ? 0 : ZERO(bits, kind);
            struct block_scales scales[ROW_VECTORS];
            UNROLL
            for (int v = 0; v < ROW_VECTORS; v++) {
                if (from[g].wide)
                    scales[v] = from[g].wide->scales[v];
                else
                    load_scales(kind, from[g].scales, b, (uint32_t)(v * LANES), &scales[v]);
            }
            UNROLL
            for (int i = 0; i < n_x; i++) {
                const vf dx = v_set1(x->scales[at + (size_t)i]);
                const int32_t *sum = x->sums + 2 * (at + (size_t)i),
                              all = n_parts == 2 ? sum[part] : sum[0] + sum[1];
                UNROLL
                for (int v = 0; v < ROW_VECTORS; v++) {
                    vi whole = sums[g][v][i];
                    vf *to = &acc[g][v][i];
                    if (zero != 0)
                        whole = vi_sub(whole, vi_set1(zero * all));
                    *to = v_fma(v_from_ints(whole), v_mul(scales[v].scale[part], dx), *to);
                    if (kind == SCALES_MIN || kind == SCALES_K)
                        *to = v_fma(scales[v].minimum, v_mul(dx, v_set1((float)all)), *to);
                }
            }
        }
    }
}

ALWAYS void put(vf sum, const float *bias, float *out, uint32_t n)
{
    float at[LANES];
    if (n >= LANES) {
        v_store(out, bias ? v_add(sum, v_load(bias)) : sum);
        return;
    }
    v_store(at, sum);
    for (uint32_t r = 0; r < n; r++)
        out[r] = bias ? at[r] + bias[r] : at[r];
}

ALWAYS void put_tile(const struct packed *w, uint32_t first_row, uint32_t x0, const int n_x,
                     vf acc[ROW_VECTORS][TILE_X], const float *bias, float *out, size_t out_stride)
{
    UNROLL
    for (int v = 0; v < ROW_VECTORS; v++) {
        const uint32_t r = first_row + (uint32_t)v * LANES;
        if (r >= w->rows)
            continue;
        UNROLL
        for (int i = 0; i < n_x; i++)
            put(acc[v][i], bias ? bias + r : NULL, out + (size_t)(x0 + i) * out_stride + r,
                w->rows - r);
    }
}

/* n_walks groups, 1 or WALKS, times n_x rows of x: `first` and the following ones, `apart` groups
 * from each other. The sums of integers stay in registers; acc is in memory and is updated once per
 * block. */
ALWAYS void tile(const struct packed *w, const int bits, const enum weight_scales kind,
                 const int n_walks, uint32_t first, uint32_t apart, const struct quantised *x,
                 uint32_t x0, const int n_x, const float *bias, float *out, size_t out_stride)
{
    const int n_g = n_walks < TOGETHER(n_x) ? n_walks : TOGETHER(n_x);
    const uint32_t n_blocks = w->n_blocks;
    struct source from[WALKS];
    vf acc[WALKS][ROW_VECTORS][TILE_X];
    UNROLL
    for (int g = 0; g < n_walks; g++) {
        const uint8_t *group = w->data + (first + (uint32_t)g * apart) * w->group_bytes;
        from[g] = (struct source){group, group + w->scales_bytes, NULL};
        UNROLL
        for (int v = 0; v < ROW_VECTORS; v++) {
            UNROLL
            for (int i = 0; i < n_x; i++)
                acc[g][v][i] = v_zero();
        }
    }
    for (uint32_t b = 0; b < n_blocks; b++) {
        for (int g = 0; g < n_walks; g += n_g)
            add_block(bits, kind, from + g, n_g, b, x, x0, n_x, acc + g);
    }
    UNROLL
    for (int g = 0; g < n_walks; g++)
        put_tile(w, (first + (uint32_t)g * apart) * PACKED_ROWS, x0, n_x, acc[g], bias, out,
                 out_stride);
}

#define FEW_ROWS PRODUCTS_FEW_ROWS

/* call for n rows in tiles of `most`, which is TILE_X or FEW_ROWS, or fewer: tile t has rows [i, i
 * + n_x), n_x a constant. */
#define EACH_TILE(n, most, call)                                                                   \
    {                                                                                              \
        uint32_t i = 0, t = 0;                                                                     \
        for (; i + (most) <= (n); i += (most), t++) {                                              \
            enum { n_x = (most) };                                                                 \
            call;                                                                                  \
        }                                                                                          \
        if ((most) > 4 && i + 4 <= (n)) {                                                          \
            enum { n_x = (most) > 4 ? 4 : 1 };                                                     \
            call;                                                                                  \
            i += n_x, t++;                                                                         \
        }                                                                                          \
        if ((most) > 2 && i + 2 <= (n)) {                                                          \
            enum { n_x = (most) > 2 ? 2 : 1 };                                                     \
            call;                                                                                  \
            i += n_x, t++;                                                                         \
        }                                                                                          \
        for (; i < (n); i++, t++) {                                                                \
            enum { n_x = 1 };                                                                      \
            call;                                                                                  \
        }                                                                                          \
    }

/* Blocks that are made wide together: small enough to stay in the first-level cache beside x. */
#define PANEL_BLOCKS 8

/* Rows of x that pass a panel, and how much of them: they stay in the second-level cache while all
 * groups pass. */
#define X_AT_ONCE       256
#define X_AT_ONCE_BYTES 262144

ALWAYS void widen(const int bits, const enum weight_scales kind, const uint8_t *scales,
                  const uint8_t *values, uint32_t b, struct wide_block *to)
{
    values += (size_t)b * PACKED_BLOCK_BYTES(bits);
    UNROLL
    for (int v = 0; v < ROW_VECTORS; v++) {
        load_scales(kind, scales, b, (uint32_t)(v * LANES), &to->scales[v]);
        UNROLL
        for (int p = 0; p < 16; p++)
            to->w[p][v] = vw_minus(columns(bits, values + VECTOR_AT(bits, v), p), ZERO(bits, kind));
    }
}

/* Blocks [first, last) of a group. With the first rows of x it prefetches the bytes that follow,
 * ahead_bytes per block. */
struct panel {
    uint32_t first, last, ahead_bytes;
    const uint8_t *ahead;
    struct wide_block blocks[PANEL_BLOCKS];
};

/* acc += a panel times n_x rows of x. */
ALWAYS void tile_of_panel(const enum weight_scales kind, const struct panel *p, bool ahead,
                          const struct quantised *x, uint32_t x0, const int n_x,
                          vf (*acc)[ROW_VECTORS][TILE_X])
{
    for (uint32_t b = p->first; b < p->last; b++) {
        const uint8_t *next = p->ahead + (b - p->first) * p->ahead_bytes;
        for (uint32_t i = 0; ahead && i < p->ahead_bytes; i += 64)
            __builtin_prefetch(next + i);
        const struct source from = {NULL, NULL, &p->blocks[b - p->first]};
        add_block(16, kind, &from, 1, b, x, x0, n_x, acc);
    }
}

/* acc[tile] += a panel times n rows of x. */
#define TIMES_PANEL(name, kind)                                                                    \
    static void name(const struct panel *p, const struct quantised *x, uint32_t n,                 \
                     vf(*acc)[ROW_VECTORS][TILE_X])                                                \
    {                                                                                              \
        EACH_TILE(n, TILE_X, tile_of_panel(kind, p, i == 0, x, i, n_x, acc + t))                   \
    }
TIMES_PANEL(times_panel, SCALES_ONE)
TIMES_PANEL(times_panel_min, SCALES_MIN)
TIMES_PANEL(times_panel_halves, SCALES_6)

/* Many rows of x, X_AT_ONCE at most, against one group. A panel of its blocks is made 16 bits wide
 * once for all of them. */
ALWAYS void times_many(const struct packed *w, const int bits, const enum weight_scales kind,
                       uint32_t group, const struct quantised *x, uint32_t n, const float *bias,
                       float *out, size_t out_stride)
{
    const uint8_t *scales = w->data + group * w->group_bytes, *values = scales + w->scales_bytes;
    struct panel p;
    p.first = 0;
    p.ahead_bytes = PACKED_BLOCK_BYTES(bits);
    vf acc[X_AT_ONCE / TILE_X + 3][ROW_VECTORS][TILE_X];
    memset(acc, 0, (n / TILE_X + 3) * sizeof acc[0]);
    for (; p.first < w->n_blocks; p.first = p.last) {
        p.last = w->n_blocks - p.first < PANEL_BLOCKS ? w->n_blocks : p.first + PANEL_BLOCKS;
        p.ahead = values + (size_t)p.last * PACKED_BLOCK_BYTES(bits);
        for (uint32_t b = p.first; b < p.last; b++)
            widen(bits, kind, scales, values, b, &p.blocks[b - p.first]);
        (kind == SCALES_ONE ? times_panel
         : kind == SCALES_6 ? times_panel_halves
                            : times_panel_min)(&p, x, n, acc);
    }
    EACH_TILE(n, TILE_X, put_tile(w, group * PACKED_ROWS, i, n_x, acc[t], bias, out, out_stride))
}

/* n rows of x, X_AT_ONCE at most, against groups [first, last). */
#define MULTIPLY(name, bits, kind)                                                                 \
    static void name(const struct packed *w, const struct quantised *x, uint32_t n,                \
                     uint32_t first, uint32_t last, const float *bias, float *out,                 \
                     size_t out_stride)                                                            \
    {                                                                                              \
        const uint32_t apart = n > FEW_ROWS ? 0 : (last - first) / WALKS, end = first + apart;     \
        for (; first < end; first++)                                                               \
            EACH_TILE(n, FEW_ROWS,                                                                 \
                      tile(w, bits, kind, WALKS, first, apart, x, i, n_x, bias, out, out_stride))  \
        for (first += (WALKS - 1) * apart; first < last; first++) {                                \
            if (n > FEW_ROWS)                                                                      \
                times_many(w, bits, kind, first, x, n, bias, out, out_stride);                     \
            else                                                                                   \
                EACH_TILE(n, FEW_ROWS,                                                             \
                          tile(w, bits, kind, 1, first, 0, x, i, n_x, bias, out, out_stride))      \
        }                                                                                          \
    }
MULTIPLY(multiply_8, 8, SCALES_ONE)
MULTIPLY(multiply_4, 4, SCALES_ONE)
MULTIPLY(multiply_5, 5, SCALES_ONE)
MULTIPLY(multiply_4_min, 4, SCALES_MIN)
MULTIPLY(multiply_5_min, 5, SCALES_MIN)
MULTIPLY(multiply_4_k, 4, SCALES_K)
MULTIPLY(multiply_5_k, 5, SCALES_K)
MULTIPLY(multiply_6_k, 6, SCALES_6)

static void multiply_all(const struct packed *w, const struct quantised *x, uint32_t n,
                         uint32_t first, uint32_t last, const float *bias, float *out,
                         size_t out_stride)
{
    const bool five = w->format.bits == 5;
    switch (w->format.scales) {
    case SCALES_NONE: /* never packed */
        break;
    case SCALES_ONE:
        (w->format.bits == 8 ? multiply_8
         : five              ? multiply_5
                             : multiply_4)(w, x, n, first, last, bias, out, out_stride);
        break;
    case SCALES_MIN:
        (five ? multiply_5_min : multiply_4_min)(w, x, n, first, last, bias, out, out_stride);
        break;
    case SCALES_K:
        (five ? multiply_5_k : multiply_4_k)(w, x, n, first, last, bias, out, out_stride);
        break;
    case SCALES_6:
        multiply_6_k(w, x, n, first, last, bias, out, out_stride);
        break;
    }
}

static void multiply(const struct packed *w, const struct quantised *x, uint32_t n, uint32_t first,
                     uint32_t last, const float *bias, float *out, size_t out_stride)
{
    uint32_t at_once = X_AT_ONCE_BYTES / 2 / w->cols / TILE_X * TILE_X;
    if (at_once < TILE_X)
        at_once = TILE_X;
    if (at_once > X_AT_ONCE)
        at_once = X_AT_ONCE;
    for (uint32_t i = 0; i < n; i += at_once) {
        struct quantised part = *x;
        part.values += (size_t)i * x->cols;
        part.scales += (size_t)i * x->n_blocks;
        part.sums += (size_t)i * x->n_blocks * 2;
        multiply_all(w, &part, n - i < at_once ? n - i : at_once, first, last, bias,
                     out + (size_t)i * out_stride, out_stride);
    }
}

/* The rows of [first, last) of x that are in the tile of n_x rows from x0 on. */
static void quantise_tile(const struct quantised *to, const float *x, uint32_t first, uint32_t last,
                          uint32_t x0, uint32_t n_x)
{
    for (uint32_t i = first > x0 ? first : x0; i < last && i < x0 + n_x; i++)
        for (uint32_t b = 0; b < to->n_blocks; b++) {
            const size_t tile = (size_t)x0 * to->n_blocks + b * n_x, at = tile + (i - x0);
            quantise_block(x + (size_t)i * to->cols + b * PACKED_COLS,
                           to->values + tile * PACKED_COLS + 2 * (i - x0), n_x, to->scales + at,
                           to->sums + 2 * at);
        }
}

static void quantise(const struct quantised *to, const float *x, uint32_t n, uint32_t first,
                     uint32_t last)
{
    EACH_TILE(n, TILE_X, quantise_tile(to, x, first, last, i, n_x))
}

const struct cpu_products PRODUCTS = {
    .isa = PRODUCTS_ISA, .name = PRODUCTS_NAME, .quantise = quantise, .multiply = multiply};
