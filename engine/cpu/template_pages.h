/* Part of template_kernels.h: K and V of a page as floats, whatever they are stored as. */

/* [n] floats from halves; n is a multiple of LANES. */
ALWAYS void widen_halves(float *to, const uint16_t *from, uint32_t n, enum plan_storage storage)
{
    if (storage == STORAGE_F16)
        for (uint32_t i = 0; i < n; i += LANES)
            v_store(to + i, v_from_half(from + i));
    else
        for (uint32_t i = 0; i < n; i += LANES)
            v_store(to + i, v_from_bfloat(from + i));
}

/* One dimension of 32 slots each: the lanes are slots, so scales are lanes too. */
static void widen_q8_keys(float *to, const struct page_shape *s, const uint8_t *page)
{
    const uint16_t *scales = (const uint16_t *)(page + s->k_scales_at);
    const int8_t *values = (const int8_t *)(page + s->k_at);
    float scale[PAGE_SLOTS];
    for (uint32_t d = 0; d < s->head_dim; d++) {
        if (d % PAGE_GROUP == 0)
            widen_halves(scale, scales + d / PAGE_GROUP * PAGE_SLOTS, PAGE_SLOTS, STORAGE_F16);
        for (int i = 0; i < PAGE_SLOTS; i++)
            to[d * PAGE_SLOTS + i] = (float)values[d * PAGE_SLOTS + i] * scale[i];
    }
}

/* A scale of 11 bits times 5 bits is exact, so every instruction set rounds once. */
ALWAYS void widen_q4_key_group(float *to, const struct page_shape *s, const uint8_t *page,
                               uint32_t group)
{
    const uint16_t *scales = (const uint16_t *)(page + s->k_scales_at) + group * PAGE_SLOTS,
                   *offsets = scales + s->n_key_groups * PAGE_SLOTS;
    const uint32_t first = group * PAGE_KEY_GROUP, left = s->head_dim - first,
                   end = first + (left < PAGE_KEY_GROUP ? left : PAGE_KEY_GROUP);
    vf scale[SLOT_VECTORS], offset[SLOT_VECTORS];
    UNROLL
    for (int i = 0; i < SLOT_VECTORS; i++) {
        scale[i] = v_from_half(scales + i * LANES);
        offset[i] = v_from_half(offsets + i * LANES);
    }
    for (uint32_t d = first; d < end; d++) {
        bytes low = b_field(b_load(page + s->k_at + d / 2 * PAGE_SLOTS), d % 2 * 4, 15);
        bytes fifth = b_field(b_load(page + s->fifths_at + d / 8 * PAGE_SLOTS), d % 8, 1);
        vf code[SLOT_VECTORS];
        v_from_bytes(b_join(low, fifth, 4), code);
        UNROLL
        for (int i = 0; i < SLOT_VECTORS; i++)
            v_store(to + d * PAGE_SLOTS + i * LANES, v_fma(code[i], scale[i], offset[i]));
    }
}

static void widen_q4_keys(float *to, const struct page_shape *s, const uint8_t *page)
{
    const uint16_t *extremes =
        (const uint16_t *)(page + s->k_scales_at) + 2 * s->n_key_groups * PAGE_SLOTS;
    const uint8_t *places = page + s->extremes_at;
    for (uint32_t group = 0; group < s->n_key_groups; group++)
        widen_q4_key_group(to, s, page, group);
    for (uint32_t i = 0; i < PAGE_EXTREMES * s->n_key_groups; i++) {
        const uint32_t first = i / PAGE_EXTREMES * PAGE_KEY_GROUP;
        float extreme[PAGE_SLOTS];
        widen_halves(extreme, extremes + i * PAGE_SLOTS, PAGE_SLOTS, STORAGE_F16);
        for (uint32_t slot = 0; slot < PAGE_SLOTS; slot++) {
            uint32_t d = first + places[i * PAGE_SLOTS + slot];
            if (d < s->head_dim) /* a slot that nobody has written may hold anything */
                to[d * PAGE_SLOTS + slot] = extreme[slot];
        }
    }
}

static void widen_keys(float *to, const struct page_shape *s, const uint8_t *page)
{
    if (s->storage == STORAGE_Q8)
        widen_q8_keys(to, s, page);
    else if (s->storage == STORAGE_Q4)
        widen_q4_keys(to, s, page);
    else
        widen_halves(to, (const uint16_t *)(page + s->k_at), s->head_dim * PAGE_SLOTS, s->storage);
}

/* A group of dimensions of one slot: n floats. */
ALWAYS void widen_group(float *to, const struct page_shape *s, const uint8_t *page, uint32_t slot,
                        uint32_t group, uint32_t n)
{
    const uint16_t *scales = (const uint16_t *)(page + s->v_scales_at) + slot * s->n_groups + group;
    float both[LANES]; /* scale, least value */
    uint16_t pair[LANES] = {scales[0],
                            s->storage == STORAGE_Q4 ? scales[s->n_groups * PAGE_SLOTS] : 0};
    v_store(both, v_from_half(pair));
    if (s->storage == STORAGE_Q8) {
        const int8_t *q =
            (const int8_t *)(page + s->v_at) + slot * s->head_dim + group * PAGE_GROUP;
        for (uint32_t i = 0; i < n; i++)
            to[i] = (float)q[i] * both[0];
    } else {
        const uint8_t *q =
            page + s->v_at + slot * ((s->head_dim + 1) / 2) + group * (PAGE_GROUP / 2);
        for (uint32_t i = 0; i < n; i++)
            to[i] = both[1] + (float)(i % 2 ? q[i / 2] >> 4 : q[i / 2] & 15) * both[0];
    }
}

/* to [PAGE_SLOTS][width], 0 behind head_dim. */
static void widen_values(float *to, uint32_t width, const struct page_shape *s, const uint8_t *page)
{
    const uint32_t d = s->head_dim, whole = d / LANES * LANES, rest = d - whole;
    const uint16_t *v = (const uint16_t *)(page + s->v_at);
    for (uint32_t slot = 0; slot < PAGE_SLOTS; slot++, to += width) {
        if (s->storage == STORAGE_Q8 || s->storage == STORAGE_Q4) {
            for (uint32_t g = 0; g < s->n_groups; g++) {
                uint32_t first = g * PAGE_GROUP, left = d - first;
                widen_group(to + first, s, page, slot, g, left < PAGE_GROUP ? left : PAGE_GROUP);
            }
            for (uint32_t i = d; i < width; i++)
                to[i] = 0;
            continue;
        }
        widen_halves(to, v + slot * d, whole, s->storage);
        if (rest > 0) {
            uint16_t last[LANES] = {0};
            memcpy(last, v + slot * d + whole, rest * sizeof *last);
            widen_halves(to + whole, last, LANES, s->storage);
        }
    }
}
