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
static void widen_quantised_keys(float *to, const struct page_shape *s, const uint8_t *page)
{
    const uint16_t *scales = (const uint16_t *)(page + s->k_scales_at);
    const uint8_t *values = page + s->k_at;
    float scale[PAGE_SLOTS], least[PAGE_SLOTS];
    for (uint32_t d = 0; d < s->head_dim; d++) {
        float *row = to + d * PAGE_SLOTS;
        if (d % PAGE_GROUP == 0) {
            const uint16_t *at = scales + d / PAGE_GROUP * PAGE_SLOTS;
            widen_halves(scale, at, PAGE_SLOTS, STORAGE_F16);
            if (s->storage == STORAGE_Q4)
                widen_halves(least, at + s->n_groups * PAGE_SLOTS, PAGE_SLOTS, STORAGE_F16);
        }
        if (s->storage == STORAGE_Q8) {
            const int8_t *q = (const int8_t *)values + d * PAGE_SLOTS;
            for (int i = 0; i < PAGE_SLOTS; i++)
                row[i] = (float)q[i] * scale[i];
        } else {
            const uint8_t *q = values + d / 2 * PAGE_SLOTS;
            const int shift = d % 2 * 4;
            for (int i = 0; i < PAGE_SLOTS; i++)
                row[i] = least[i] + (float)(q[i] >> shift & 15) * scale[i];
        }
    }
}

static void widen_keys(float *to, const struct page_shape *s, const uint8_t *page)
{
    if (s->storage == STORAGE_Q8 || s->storage == STORAGE_Q4)
        widen_quantised_keys(to, s, page);
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
