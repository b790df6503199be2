/* Part of template_kernels.h: K and V of a page as floats, in every storage. A lane gets the number
 * that page_read gives. Whether it is multiplied at once or first stored for many queries
 * (widen_...) changes no bit of a sum.
 *
 * `storage` is a constant wherever these functions are inlined. */

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
    const uint8_t *page, *next;                 /* next: the codes that are read after these */
    float scale[PAGE_SLOTS], least[PAGE_SLOTS]; /* of the current group of dimensions */
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
        for (uint32_t slot = 0; slot < PAGE_SLOTS; slot++) /* unwritten: arbitrary */
            k->places |= UINT64_C(1) << (places[slot] & 63);
    }
}

/* One dimension of a page in q4, before scales; nothing otherwise. */
struct key_codes {
    bytes codes;
    bool any_extreme;
    uint32_t extreme[PAGE_EXTREMES]; /* slots that have one in this dimension */
};

ALWAYS struct key_codes load_codes(enum plan_storage storage, const struct keys *k, uint32_t d)
{
    struct key_codes c;
    const struct page_shape *s = k->shape;
    if (storage != STORAGE_Q4) {
        c.any_extreme = false;
        /* cppcheck-suppress uninitvar ; nobody looks at the codes then */
        return c;
    }
    bytes low = b_field(b_load(k->page + d / 2 * PAGE_SLOTS), d % 2 * 4, 15);
    bytes fifth = b_field(b_load(k->page + s->fifths_at + d / 8 * PAGE_SLOTS), d % 8, 1);
    c.codes = b_join(low, fifth, 4);
    c.any_extreme = k->places >> d % PAGE_KEY_GROUP & 1;
    if (c.any_extreme) {
        const uint8_t *places =
            k->page + s->extremes_at + d / PAGE_KEY_GROUP * PAGE_EXTREMES * PAGE_SLOTS;
        for (uint32_t e = 0; e < PAGE_EXTREMES; e++)
            c.extreme[e] = b_equal(places + e * PAGE_SLOTS, (uint8_t)(d % PAGE_KEY_GROUP));
    }
    return c;
}

/* Dimension d of the slots in vector v of the page. open_group was called for d's group. In q4 a
 * scale of 11 bits times 5 bits is exact, so every instruction set rounds once. */
ALWAYS vf load_key(enum plan_storage storage, const struct keys *k, const struct key_codes *c,
                   uint32_t d, int v)
{
    const uint32_t at = d * PAGE_SLOTS + (uint32_t)v * LANES;
    const uint8_t *from = k->page;
    if (storage == STORAGE_F16)
        return v_from_half((const uint16_t *)from + at);
    if (storage == STORAGE_BF16)
        return v_from_bfloat((const uint16_t *)from + at);
    if (storage == STORAGE_Q8)
        return v_mul(v_from_int8((const int8_t *)from + at), v_load(k->scale + v * LANES));
    vf code[SLOT_VECTORS];
    v_from_bytes(c->codes, code);
    vf key = v_fma(code[v], v_load(k->scale + v * LANES), v_load(k->least + v * LANES));
    for (uint32_t e = 0; c->any_extreme && e < PAGE_EXTREMES; e++)
        key = v_select(c->extreme[e] >> v * LANES, v_load(k->extreme[e] + v * LANES), key);
    return key;
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
            struct key_codes codes = load_codes(storage, &k, d);
            UNROLL
            for (int i = 0; i < SLOT_VECTORS; i++)
                v_store(to + d * PAGE_SLOTS + i * LANES, load_key(storage, &k, &codes, d, i));
        }
    }
}

/* to [head_dim][PAGE_SLOTS] */
static void widen_keys(float *to, const struct page_shape *s, const uint8_t *page)
{
    FOR_STORAGE(s->storage, widen_stored_keys, to, s, page)
}

/* Some dimensions of V of one slot. */
struct value_row {
    const uint8_t *from;
    const uint16_t *scales;
    size_t least_at; /* q4: halves between a scale and the least value of its group */
    vf scale, least;
    uint16_t last[LANES];
};

/* For dimensions [d, d + n * LANES); d is a multiple of n * LANES, or n is 1. Numbers beyond
 * head_dim are arbitrary. */
ALWAYS void open_row(enum plan_storage storage, struct value_row *r, const struct page_shape *s,
                     const uint8_t *page, uint32_t slot, uint32_t d, int n)
{
    const uint32_t bits = storage == STORAGE_Q8 ? 8 : storage == STORAGE_Q4 ? 4 : 16;
    r->from = page + s->v_at + slot * ((s->head_dim * bits + 7) / 8) + d * bits / 8;
    r->scales = (const uint16_t *)(page + s->v_scales_at) + slot * s->n_groups + d / PAGE_GROUP;
    r->least_at = (size_t)s->n_groups * PAGE_SLOTS;
    if (n == 1 && d + LANES > s->head_dim) { /* behind it a page may end */
        memset(r->last, 0, sizeof r->last);
        memcpy(r->last, r->from, ((s->head_dim - d) * bits + 7) / 8);
        r->from = (const uint8_t *)r->last;
    }
}

/* Its vector i, after those before it. */
ALWAYS vf load_value(enum plan_storage storage, struct value_row *r, int i)
{
    if (storage == STORAGE_F16)
        return v_from_half((const uint16_t *)r->from + i * LANES);
    if (storage == STORAGE_BF16)
        return v_from_bfloat((const uint16_t *)r->from + i * LANES);
    if (i * LANES % PAGE_GROUP == 0) {
        const uint16_t *scale = r->scales + i * LANES / PAGE_GROUP;
        r->scale = v_set1_half(scale);
        if (storage == STORAGE_Q4)
            r->least = v_set1_half(scale + r->least_at);
    }
    return storage == STORAGE_Q8
               ? v_mul(v_from_int8((const int8_t *)r->from + i * LANES), r->scale)
               : v_fma(v_from_nibbles(r->from + i * LANES / 2), r->scale, r->least);
}

ALWAYS void widen_stored_values(enum plan_storage storage, float *to, uint32_t width,
                                const struct page_shape *s, const uint8_t *page)
{
    for (uint32_t slot = 0; slot < PAGE_SLOTS; slot++, to += width) {
        uint32_t d = 0;
        for (; d + 4 * LANES <= s->head_dim; d += 4 * LANES) {
            struct value_row row;
            open_row(storage, &row, s, page, slot, d, 4);
            UNROLL
            for (int i = 0; i < 4; i++)
                v_store(to + d + i * LANES, load_value(storage, &row, i));
        }
        for (; d < s->head_dim; d += LANES) {
            struct value_row row;
            open_row(storage, &row, s, page, slot, d, 1);
            v_store(to + d, load_value(storage, &row, 0));
        }
    }
}

/* to [PAGE_SLOTS][width], width: head_dim rounded up to whole vectors. */
static void widen_values(float *to, uint32_t width, const struct page_shape *s, const uint8_t *page)
{
    FOR_STORAGE(s->storage, widen_stored_values, to, width, s, page)
}
