/* Part of template_kernels.h: K and V of a page as floats, whatever they are stored as. The number
 * that a lane gets is that of page_read: whether it is multiplied at once or laid down for many
 * queries first (widen_...) changes no bit of a sum.
 *
 * `storage` is a constant wherever these are inlined. */

#define FOR_STORAGE(storage, f, ...)                                                               \
    switch (storage) {                                                                             \
    case STORAGE_F16:                                                                              \
        f(STORAGE_F16, __VA_ARGS__);                                                               \
        break;                                                                                     \
    case STORAGE_BF16:                                                                             \
        f(STORAGE_BF16, __VA_ARGS__);                                                              \
        break;                                                                                     \
    case STORAGE_Q8:                                                                               \
        f(STORAGE_Q8, __VA_ARGS__);                                                                \
        break;                                                                                     \
    case STORAGE_Q4:                                                                               \
        f(STORAGE_Q4, __VA_ARGS__);                                                                \
        break;                                                                                     \
    }

/* K of a page: lanes are slots, so scales are lanes too. */
struct keys {
    const struct page_shape *shape;
    const uint8_t *page;
    float scale[PAGE_SLOTS], least[PAGE_SLOTS]; /* of the group of dimensions at hand */
    float extreme[PAGE_EXTREMES][PAGE_SLOTS];   /* q4 */
    uint64_t places;                            /* q4: dimensions of the group that are extremes */
};

/* Dimensions that share scales. */
ALWAYS uint32_t keys_group(const struct page_shape *s, enum plan_storage storage)
{
    return storage == STORAGE_Q8   ? PAGE_GROUP
           : storage == STORAGE_Q4 ? PAGE_KEY_GROUP
                                   : s->head_dim;
}

ALWAYS void widen_lanes(float *to, const uint16_t *halves)
{
    UNROLL
    for (int i = 0; i < SLOT_VECTORS; i++)
        v_store(to + i * LANES, v_from_half(halves + i * LANES));
}

ALWAYS void open_group(enum plan_storage storage, struct keys *k, uint32_t group)
{
    const struct page_shape *s = k->shape;
    const uint16_t *scales = (const uint16_t *)(k->page + s->k_scales_at);
    if (storage == STORAGE_F16 || storage == STORAGE_BF16)
        return;
    widen_lanes(k->scale, scales + group * PAGE_SLOTS);
    if (storage == STORAGE_Q8)
        return;
    widen_lanes(k->least, scales + (s->n_key_groups + group) * PAGE_SLOTS);
    k->places = 0;
    for (uint32_t e = 0; e < PAGE_EXTREMES; e++) {
        const uint32_t at = group * PAGE_EXTREMES + e;
        const uint8_t *places = k->page + s->extremes_at + at * PAGE_SLOTS;
        widen_lanes(k->extreme[e], scales + (2 * s->n_key_groups + at) * PAGE_SLOTS);
        for (uint32_t slot = 0; slot < PAGE_SLOTS; slot++) /* an unwritten one may hold anything */
            k->places |= UINT64_C(1) << (places[slot] & 63);
    }
}

/* A scale of 11 bits times 5 bits is exact, so every instruction set rounds once. */
ALWAYS void load_q4_keys(const struct keys *k, uint32_t d, int first, int n, vf *out)
{
    const struct page_shape *s = k->shape;
    bytes low = b_field(b_load(k->page + s->k_at + d / 2 * PAGE_SLOTS), d % 2 * 4, 15);
    bytes fifth = b_field(b_load(k->page + s->fifths_at + d / 8 * PAGE_SLOTS), d % 8, 1);
    vf code[SLOT_VECTORS];
    v_from_bytes(b_join(low, fifth, 4), code);
    UNROLL
    for (int i = 0; i < n; i++)
        out[i] = v_fma(code[first + i], v_load(k->scale + (first + i) * LANES),
                       v_load(k->least + (first + i) * LANES));
    if (!(k->places >> d % PAGE_KEY_GROUP & 1))
        return;
    const uint8_t *places =
        k->page + s->extremes_at + d / PAGE_KEY_GROUP * PAGE_EXTREMES * PAGE_SLOTS;
    for (uint32_t e = 0; e < PAGE_EXTREMES; e++) {
        uint32_t here = b_equal(places + e * PAGE_SLOTS, (uint8_t)(d % PAGE_KEY_GROUP));
        UNROLL
        for (int i = 0; i < n; i++)
            out[i] = v_select(here >> (first + i) * LANES,
                              v_load(k->extreme[e] + (first + i) * LANES), out[i]);
    }
}

/* out[n] = dimension d of the slots in the vectors [first, first + n) of the page; open_group has
 * seen d's group. */
ALWAYS void load_keys(enum plan_storage storage, const struct keys *k, uint32_t d, int first, int n,
                      vf *out)
{
    const uint32_t at = d * PAGE_SLOTS + (uint32_t)first * LANES;
    const uint8_t *from = k->page + k->shape->k_at;
    if (storage == STORAGE_Q4) {
        load_q4_keys(k, d, first, n, out);
        return;
    }
    UNROLL
    for (int i = 0; i < n; i++) {
        if (storage == STORAGE_F16)
            out[i] = v_from_half((const uint16_t *)from + at + i * LANES);
        else if (storage == STORAGE_BF16)
            out[i] = v_from_bfloat((const uint16_t *)from + at + i * LANES);
        else
            out[i] = v_mul(v_from_int8((const int8_t *)from + at + i * LANES),
                           v_load(k->scale + (first + i) * LANES));
    }
}

ALWAYS void widen_stored_keys(enum plan_storage storage, float *to, const struct page_shape *s,
                              const uint8_t *page)
{
    struct keys k = {.shape = s, .page = page};
    const uint32_t group = keys_group(s, storage);
    for (uint32_t first = 0; first < s->head_dim; first += group) {
        const uint32_t end = first + group < s->head_dim ? first + group : s->head_dim;
        open_group(storage, &k, first / group);
        for (uint32_t d = first; d < end; d++) {
            vf out[SLOT_VECTORS];
            load_keys(storage, &k, d, 0, SLOT_VECTORS, out);
            UNROLL
            for (int i = 0; i < SLOT_VECTORS; i++)
                v_store(to + d * PAGE_SLOTS + i * LANES, out[i]);
        }
    }
}

/* to [head_dim][PAGE_SLOTS] */
static void widen_keys(float *to, const struct page_shape *s,
                       const uint8_t *page){FOR_STORAGE(s->storage, widen_stored_keys, to, s, page)}

/* out[n] = dimensions [d, d + n * LANES) of V of a slot; d is a multiple of n * LANES, or n is 1.
 * Beyond head_dim a vector holds numbers without meaning. */
ALWAYS void load_values(enum plan_storage storage, const struct page_shape *s, const uint8_t *page,
                        uint32_t slot, uint32_t d, int n, vf *out)
{
    const uint32_t bits = storage == STORAGE_Q8 ? 8 : storage == STORAGE_Q4 ? 4 : 16;
    const uint8_t *from = page + s->v_at + slot * ((s->head_dim * bits + 7) / 8) + d * bits / 8;
    const uint16_t *scales = (const uint16_t *)(page + s->v_scales_at) + slot * s->n_groups;
    uint16_t last[LANES];
    if (n == 1 && d + LANES > s->head_dim) { /* behind it a page may end */
        memset(last, 0, sizeof last);
        memcpy(last, from, ((s->head_dim - d) * bits + 7) / 8);
        from = (const uint8_t *)last;
    }
    vf scale = v_zero(), least = v_zero();
    UNROLL
    for (int i = 0; i < n; i++) {
        const uint8_t *at = from + i * LANES * bits / 8;
        if (storage == STORAGE_F16) {
            out[i] = v_from_half((const uint16_t *)at);
            continue;
        }
        if (storage == STORAGE_BF16) {
            out[i] = v_from_bfloat((const uint16_t *)at);
            continue;
        }
        if (i * LANES % PAGE_GROUP == 0) {
            const uint16_t *group = scales + (d + (uint32_t)i * LANES) / PAGE_GROUP;
            scale = v_set1_half(group);
            if (storage == STORAGE_Q4)
                least = v_set1_half(group + s->n_groups * PAGE_SLOTS);
        }
        out[i] = storage == STORAGE_Q8 ? v_mul(v_from_int8((const int8_t *)at), scale)
                                       : v_fma(v_from_nibbles(at), scale, least);
    }
}

ALWAYS void widen_stored_values(enum plan_storage storage, float *to, uint32_t width,
                                const struct page_shape *s, const uint8_t *page)
{
    for (uint32_t slot = 0; slot < PAGE_SLOTS; slot++, to += width) {
        uint32_t d = 0;
        vf out[4];
        for (; d + 4 * LANES <= s->head_dim; d += 4 * LANES) {
            load_values(storage, s, page, slot, d, 4, out);
            UNROLL
            for (int i = 0; i < 4; i++)
                v_store(to + d + i * LANES, out[i]);
        }
        for (; d < s->head_dim; d += LANES) {
            load_values(storage, s, page, slot, d, 1, out);
            v_store(to + d, out[0]);
        }
    }
}

/* to [PAGE_SLOTS][width], width: head_dim rounded up to whole vectors. */
static void widen_values(float *to, uint32_t width, const struct page_shape *s, const uint8_t *page)
{
    FOR_STORAGE(s->storage, widen_stored_values, to, width, s, page)
}
