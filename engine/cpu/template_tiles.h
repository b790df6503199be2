/* Part of template_kernels.h: the two products of attention, queries x K and weights x V, in
 * register tiles. Many queries read pages that were widened to floats once. The heads of one row
 * read pages as stored, each number once for all heads. In both cases an output is one chain of
 * sums:
 *
 *   logit   over the dimensions in order, then times the scale
 *   value   over the visible slots in order
 */

/* ---- widened pages */

/* out[which[j]] [PAGE_SLOTS] = q[which[j]] . k * scale, rows of out `stride` apart; k
 * [head_dim][PAGE_SLOTS]. */
ALWAYS void logits_tile(const float *k, uint32_t head_dim, float scale, const float *const *queries,
                        float *out, uint32_t stride, const uint32_t *which, int n)
{
    if (n > TILE_QUERIES)
        return; /* never: it spares the compiler what no registers hold */
    vf sums[TILE_QUERIES][SLOT_VECTORS];
    const float *q[TILE_QUERIES];
    UNROLL
    for (int j = 0; j < n; j++) {
        q[j] = queries[which[j]];
        UNROLL
        for (int i = 0; i < SLOT_VECTORS; i++)
            sums[j][i] = v_zero();
    }
    UNROLL_4
    for (uint32_t d = 0; d < head_dim; d++) {
        vf x[TILE_QUERIES];
        UNROLL
        for (int j = 0; j < n; j++)
            x[j] = v_set1(q[j][d]);
        UNROLL
        for (int i = 0; i < SLOT_VECTORS; i++) { /* one at a time: 16 registers hold no more */
            vf ks = v_load(k + d * PAGE_SLOTS + i * LANES);
            UNROLL
            for (int j = 0; j < n; j++)
                sums[j][i] = v_fma(x[j], ks, sums[j][i]);
        }
    }
    UNROLL
    for (int j = 0; j < n; j++) {
        UNROLL
        for (int i = 0; i < SLOT_VECTORS; i++)
            v_store(out + which[j] * stride + i * LANES, v_mul(sums[j][i], v_set1(scale)));
    }
}

/* Prefetches the page `next`, if there is one. */
static void logits_widened(const float *k, uint32_t head_dim, float scale,
                           const float *const *queries, float *out, uint32_t stride,
                           const uint32_t *which, uint32_t n, const struct page_shape *s,
                           const uint8_t *next)
{
    const size_t to_ask = next ? s->k_bytes + s->v_bytes : 0;
    size_t asked = 0;
    for (uint32_t i = 0; i < n;) {
        uint32_t step = n - i < TILE_QUERIES ? n - i : TILE_QUERIES;
        for (; asked < to_ask * (i + step) / n; asked += 64)
            __builtin_prefetch(next + asked + (asked < s->k_bytes ? 0 : s->v_at - s->k_bytes), 0,
                               2);
        FOR_TILE(step, logits_tile, k, head_dim, scale, queries, out, stride, which + i)
        i += step;
    }
}

/* sums[j] += w[j][slot] * v, n_d vectors of it. */
ALWAYS void add_slot(const float *v, const float *const *w, uint32_t slot, vf sums[TILE_QUERIES][4],
                     int n, int n_d)
{
    vf weight[TILE_QUERIES];
    UNROLL
    for (int j = 0; j < n; j++)
        weight[j] = v_set1(w[j][slot]);
    UNROLL
    for (int i = 0; i < n_d; i++) {
        vf vs = v_load(v + i * LANES);
        UNROLL
        for (int j = 0; j < n; j++)
            sums[j][i] = v_fma(weight[j], vs, sums[j][i]);
    }
}

/* n_d vectors of dimensions from d on: sums[which[j]] += weights[which[j]] * v over the slots
 * `bits`. */
ALWAYS void values_block(const float *v, uint32_t width, const float *weights, uint32_t stride,
                         float *values, const uint32_t *which, uint32_t bits, uint32_t d, int n,
                         int n_d)
{
    vf sums[TILE_QUERIES][4];
    const float *w[TILE_QUERIES];
    UNROLL
    for (int j = 0; j < n; j++) {
        w[j] = weights + which[j] * stride;
        UNROLL
        for (int i = 0; i < n_d; i++)
            sums[j][i] = v_load(values + which[j] * width + d + i * LANES);
    }
    if (bits == UINT32_MAX) {
        UNROLL_4
        for (uint32_t slot = 0; slot < PAGE_SLOTS; slot++)
            add_slot(v + slot * width + d, w, slot, sums, n, n_d);
    } else {
        for (; bits != 0; bits &= bits - 1) {
            const uint32_t slot = (uint32_t)__builtin_ctz(bits);
            add_slot(v + slot * width + d, w, slot, sums, n, n_d);
        }
    }
    UNROLL
    for (int j = 0; j < n; j++) {
        UNROLL
        for (int i = 0; i < n_d; i++)
            v_store(values + which[j] * width + d + i * LANES, sums[j][i]);
    }
}

/* v [PAGE_SLOTS][width]; weights [..] `stride` apart, values [..][width]. */
ALWAYS void values_tile(const float *v, uint32_t width, const float *weights, uint32_t stride,
                        float *values, const uint32_t *which, uint32_t bits, int n)
{
    uint32_t d = 0;
    if (n > TILE_QUERIES)
        return; /* never, see logits_tile */
    for (; d + 4 * LANES <= width; d += 4 * LANES)
        values_block(v, width, weights, stride, values, which, bits, d, n, 4);
    for (; d < width; d += LANES)
        values_block(v, width, weights, stride, values, which, bits, d, n, 1);
}

/* ---- pages as stored */

/* Vectors that n queries use at once, as registers allow. Scales and codes need some too. */
#define FUSED_QUERIES 6
#define FUSED_SUMS(storage)                                                                        \
    (TILE_SUMS > 12 || (storage) == STORAGE_F16 || (storage) == STORAGE_BF16 ? TILE_SUMS : 8)
#define FUSED_VECTORS(storage, n)                                                                  \
    (FUSED_SUMS(storage) / (n) >= 8   ? 8                                                          \
     : FUSED_SUMS(storage) / (n) >= 4 ? 4                                                          \
     : FUSED_SUMS(storage) / (n) >= 2 ? 2                                                          \
                                      : 1)

/* sums[n][n_v] += x[n] * y[n_v]: the shorter of x and y stays in registers. The order is written
 * out, because compilers keep a given order even if sums spill to memory. */
#define FUSED_PRODUCT(sums, n, n_v, x_of, y_of)                                                    \
    do {                                                                                           \
        if ((n_v) >= (n)) {                                                                        \
            vf x_[FUSED_QUERIES];                                                                  \
            UNROLL                                                                                 \
            for (int j = 0; j < (n); j++)                                                          \
                x_[j] = x_of;                                                                      \
            UNROLL                                                                                 \
            for (int i = 0; i < (n_v); i++) {                                                      \
                vf y_ = y_of;                                                                      \
                UNROLL                                                                             \
                for (int j = 0; j < (n); j++)                                                      \
                    sums[j][i] = v_fma(x_[j], y_, sums[j][i]);                                     \
            }                                                                                      \
        } else {                                                                                   \
            vf y_[8];                                                                              \
            UNROLL                                                                                 \
            for (int i = 0; i < (n_v); i++)                                                        \
                y_[i] = y_of;                                                                      \
            UNROLL                                                                                 \
            for (int j = 0; j < (n); j++) {                                                        \
                vf x_ = x_of;                                                                      \
                UNROLL                                                                             \
                for (int i = 0; i < (n_v); i++)                                                    \
                    sums[j][i] = v_fma(x_, y_[i], sums[j][i]);                                     \
            }                                                                                      \
        }                                                                                          \
    } while (0)

ALWAYS void logits_block(enum plan_storage storage, struct keys *k, float scale,
                         const float *const *q, float *out, uint32_t stride, int first, int n,
                         int n_v)
{
    const uint32_t head_dim = k->shape->head_dim, group = keys_group(k->shape, storage);
    const size_t row_bytes = storage == STORAGE_Q4   ? PAGE_SLOTS / 2
                             : storage == STORAGE_Q8 ? PAGE_SLOTS
                                                     : PAGE_SLOTS * 2;
    vf sums[FUSED_QUERIES][8];
    UNROLL
    for (int j = 0; j < n; j++) {
        UNROLL
        for (int i = 0; i < n_v; i++)
            sums[j][i] = v_zero();
    }
    for (uint32_t from = 0; from < head_dim; from += group) {
        const uint32_t end = from + group < head_dim ? from + group : head_dim;
        open_group(storage, k, from / group);
        for (uint32_t d = from; d < end; d++) {
            struct key_codes codes = load_codes(storage, k, d);
            if (first == 0)
                __builtin_prefetch(k->next + d * row_bytes);
            FUSED_PRODUCT(sums, n, n_v, v_set1(q[j][d]),
                          load_key(storage, k, &codes, d, first + i));
        }
    }
    UNROLL
    for (int j = 0; j < n; j++) {
        UNROLL
        for (int i = 0; i < n_v; i++)
            v_store(out + (uint32_t)j * stride + (first + i) * LANES,
                    v_mul(sums[j][i], v_set1(scale)));
    }
}

ALWAYS void logits_stored_tile(enum plan_storage storage, const struct page_shape *s,
                               const uint8_t *page, const uint8_t *next, float scale,
                               const float *const *q, float *out, uint32_t stride, int n)
{
    const int n_v =
        FUSED_VECTORS(storage, n) < SLOT_VECTORS ? FUSED_VECTORS(storage, n) : SLOT_VECTORS;
    struct keys k = {.shape = s, .page = page, .next = next};
    UNROLL
    for (int first = 0; first < SLOT_VECTORS; first += n_v)
        logits_block(storage, &k, scale, q, out, stride, first, n, n_v);
}

ALWAYS void logits_stored_any(enum plan_storage storage, const struct page_shape *s,
                              const uint8_t *page, const uint8_t *next, float scale,
                              const float *const *q, float *out, uint32_t stride, uint32_t n)
{
    FOR_TILE(n, logits_stored_tile, storage, s, page, next, scale, q, out, stride)
}

/* out[n][..] [PAGE_SLOTS] `stride` apart, n <= FUSED_QUERIES. */
static void logits_stored(const struct page_shape *s, const uint8_t *page, const uint8_t *next,
                          float scale, const float *const *q, float *out, uint32_t stride,
                          uint32_t n)
{
    FOR_STORAGE(s->storage, logits_stored_any, s, page, next, scale, q, out, stride, n)
}

/* Some pages, and their visible slots. */
struct pages {
    uint32_t n;
    const uint8_t *page[SPAN_PAGES];
    const uint32_t *seen; /* [n] */
};

/* Adds the slots `bits` of a page to the values. Prefetches the same place of `next`. */
ALWAYS void values_stored_block(enum plan_storage storage, const struct page_shape *s,
                                const uint8_t *page, const uint8_t *next, uint32_t bits,
                                const float *weights, uint32_t stride, float *values,
                                uint32_t width, uint32_t d, int n, int n_d)
{
    const int bits_each = storage == STORAGE_Q8 ? 8 : storage == STORAGE_Q4 ? 4 : 16;
    const uint32_t row_bytes = (s->head_dim * (uint32_t)bits_each + 7) / 8;
    const uint8_t *next_row = next + s->v_at + d * (uint32_t)bits_each / 8;
    vf sums[FUSED_QUERIES][8];
    UNROLL
    for (int j = 0; j < n; j++) {
        UNROLL
        for (int i = 0; i < n_d; i++)
            sums[j][i] = v_load(values + (uint32_t)j * width + d + i * LANES);
    }
    for (; bits != 0; bits &= bits - 1) {
        const uint32_t slot = (uint32_t)__builtin_ctz(bits);
        struct value_row row;
        open_row(storage, &row, s, page, slot, d, n_d);
        UNROLL
        for (int ahead = 0; ahead < n_d * LANES * bits_each / 8; ahead += 64)
            __builtin_prefetch(next_row + slot * row_bytes + ahead);
        FUSED_PRODUCT(sums, n, n_d, v_set1(weights[(uint32_t)j * stride + slot]),
                      load_value(storage, &row, i));
    }
    UNROLL
    for (int j = 0; j < n; j++) {
        UNROLL
        for (int i = 0; i < n_d; i++)
            v_store(values + (uint32_t)j * width + d + i * LANES, sums[j][i]);
    }
}

ALWAYS void values_stored_tile(enum plan_storage storage, const struct page_shape *s,
                               const struct pages *p, const float *weights, uint32_t stride,
                               float *values, uint32_t width, int n)
{
    for (uint32_t at = 0; at < p->n; at++, weights += PAGE_SLOTS) {
        const uint8_t *page = p->page[at], *next = at + 1 < p->n ? p->page[at + 1] : page;
        const uint32_t bits = p->seen[at];
        uint32_t d = 0;
        if (FUSED_VECTORS(storage, n) >= 8)
            for (; d + 8 * LANES <= s->head_dim; d += 8 * LANES)
                values_stored_block(storage, s, page, next, bits, weights, stride, values, width, d,
                                    n, 8);
        if (FUSED_VECTORS(storage, n) >= 4)
            for (; d + 4 * LANES <= s->head_dim; d += 4 * LANES)
                values_stored_block(storage, s, page, next, bits, weights, stride, values, width, d,
                                    n, 4);
        else
            for (; d + 2 * LANES <= s->head_dim; d += 2 * LANES)
                values_stored_block(storage, s, page, next, bits, weights, stride, values, width, d,
                                    n, 2);
        for (; d < s->head_dim; d += LANES)
            values_stored_block(storage, s, page, next, bits, weights, stride, values, width, d, n,
                                1);
    }
}

ALWAYS void values_stored_any(enum plan_storage storage, const struct page_shape *s,
                              const struct pages *p, const float *weights, uint32_t stride,
                              float *values, uint32_t width, uint32_t n)
{
    FOR_TILE(n, values_stored_tile, storage, s, p, weights, stride, values, width)
}

/* values[n][width] = weights[n] (`stride` apart, [pages][PAGE_SLOTS]) * V over the visible slots;
 * n <= FUSED_QUERIES. */
static void values_stored(const struct page_shape *s, const struct pages *p, const float *weights,
                          uint32_t stride, float *values, uint32_t width, uint32_t n)
{
    FOR_STORAGE(s->storage, values_stored_any, s, p, weights, stride, values, width, n)
}
