/* Slots of KV pages, one at a time: see page.h. */
#include "engine/cpu/page.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "config/base/half.h"

static bool has_scales(enum plan_storage storage)
{
    return storage == STORAGE_Q8 || storage == STORAGE_Q4;
}

/* The next multiple of 64. */
static size_t whole_lines(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

struct page_shape page_shape_of(uint32_t head_dim, enum plan_storage storage, uint32_t n_pages)
{
    struct page_shape s = {.head_dim = head_dim,
                           .n_groups = (head_dim + PAGE_GROUP - 1) / PAGE_GROUP,
                           .n_key_groups = (head_dim + PAGE_KEY_GROUP - 1) / PAGE_KEY_GROUP,
                           .storage = storage,
                           .k_values = head_dim,
                           .v_values = head_dim};
    size_t size = has_scales(storage) ? 1 : sizeof(uint16_t);
    if (storage == STORAGE_Q8)
        s.k_scales = s.v_scales = s.n_groups;
    if (storage == STORAGE_Q4) {
        uint32_t pairs = (head_dim + 1) / 2, fifths = (head_dim + 7) / 8;
        s.fifths_at = (size_t)pairs * PAGE_SLOTS;
        s.extremes_at = s.fifths_at + (size_t)fifths * PAGE_SLOTS;
        s.k_values = pairs + fifths + PAGE_EXTREMES * s.n_key_groups;
        s.k_scales = (2 + PAGE_EXTREMES) * s.n_key_groups;
        s.v_values = pairs;
        s.v_scales = 2 * s.n_groups;
    }
    s.k_scales_at = s.k_values * size * PAGE_SLOTS;
    s.k_bytes = whole_lines(s.k_scales_at + s.k_scales * sizeof(uint16_t) * PAGE_SLOTS);
    s.v_scales_at = s.v_values * size * PAGE_SLOTS; /* from V on, as yet */
    s.v_bytes = whole_lines(s.v_scales_at + s.v_scales * sizeof(uint16_t) * PAGE_SLOTS);
    const bool apart = s.k_bytes == s.v_bytes;
    s.stride = apart ? s.k_bytes : s.k_bytes + s.v_bytes;
    s.v_at = apart ? n_pages * s.stride : s.k_bytes;
    s.v_scales_at += s.v_at;
    s.bytes = PAGE_SLOTS * sizeof(int32_t) + s.k_bytes + s.v_bytes;
    return s;
}

/* Where dimension d of a slot is: values are `stride` apart, and so are the scales of its
 * groups. */
struct row {
    uint8_t *values;
    uint16_t *scales;
    size_t value_stride, scale_stride, least_at; /* in elements */
};

static struct row k_row(const struct page_shape *s, uint8_t *page, uint32_t index)
{
    size_t size = has_scales(s->storage) ? 1 : sizeof(uint16_t);
    return (struct row){page + index * size, (uint16_t *)(page + s->k_scales_at) + index,
                        PAGE_SLOTS, PAGE_SLOTS, (size_t)s->n_groups * PAGE_SLOTS};
}

static struct row v_row(const struct page_shape *s, uint8_t *page, uint32_t index)
{
    size_t bytes = s->v_values * (has_scales(s->storage) ? 1 : sizeof(uint16_t));
    return (struct row){page + s->v_at + index * bytes,
                        (uint16_t *)(page + s->v_scales_at) + (size_t)index * s->n_groups, 1, 1,
                        (size_t)s->n_groups * PAGE_SLOTS};
}

/* K of one slot in q4: every pointer to its first element, PAGE_SLOTS elements apart. */
struct key {
    uint8_t *pairs, *fifths, *places;
    uint16_t *scales, *least, *extremes;
};

static struct key key_of(const struct page_shape *s, uint8_t *page, uint32_t index)
{
    uint16_t *scales = (uint16_t *)(page + s->k_scales_at) + index;
    size_t groups = (size_t)s->n_key_groups * PAGE_SLOTS;
    return (struct key){
        page + index,    page + s->fifths_at + index, page + s->extremes_at + index, scales,
        scales + groups, scales + 2 * groups};
}

/* Rounds to the nearest even; infinities stay infinities, NaN stays NaN. */
static uint16_t to_bf16(float x)
{
    uint32_t bits = half_bits_of_float(x);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 64);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* A NaN is stored as the largest value is, so that it does not spread to other numbers. The forward
 * pass reports NaN in its own results. */
static int32_t nearest(float x, float least, float scale, int32_t from, int32_t to)
{
    float q = scale > 0 ? (x - least) / scale : 0;
    return !(q > (float)from) ? from : q > (float)to ? to : (int32_t)lrintf(q);
}

static void write_group(const struct row *r, enum plan_storage storage, const float *x,
                        uint32_t first, uint32_t n)
{
    float largest = -INFINITY, smallest = INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        largest = fmaxf(largest, x[first + i]);
        smallest = fminf(smallest, x[first + i]);
    }
    uint16_t *scale_at = r->scales + first / PAGE_GROUP * r->scale_stride;
    if (storage == STORAGE_Q8) {
        *scale_at = half_from_float(fminf(fmaxf(largest, -smallest) / 127, PAGE_Q8_MOST));
        float scale = half_to_float(*scale_at);
        for (uint32_t i = 0; i < n; i++)
            ((int8_t *)r->values)[(first + i) * r->value_stride] =
                (int8_t)nearest(x[first + i], 0, scale, -127, 127);
        return;
    }
    scale_at[r->least_at] = half_from_float(smallest);
    float least = half_to_float(scale_at[r->least_at]);
    *scale_at = half_from_float((fminf(largest, PAGE_Q4_MOST) - least) / 15);
    float scale = half_to_float(*scale_at);
    for (uint32_t i = 0; i < n; i += 2) {
        int32_t low = nearest(x[first + i], least, scale, 0, 15),
                high = i + 1 < n ? nearest(x[first + i + 1], least, scale, 0, 15) : 0;
        r->values[(first + i) / 2 * r->value_stride] = (uint8_t)(low | high << 4);
    }
}

static void write_row(const struct page_shape *s, struct row r, const float *x)
{
    uint16_t *halves = (uint16_t *)r.values;
    if (s->storage == STORAGE_F16) {
        for (uint32_t d = 0; d < s->head_dim; d++)
            halves[d * r.value_stride] = half_from_float(x[d]);
    } else if (s->storage == STORAGE_BF16) {
        for (uint32_t d = 0; d < s->head_dim; d++)
            halves[d * r.value_stride] = to_bf16(x[d]);
    } else {
        for (uint32_t d = 0; d < s->head_dim; d += PAGE_GROUP)
            write_group(&r, s->storage, x, d,
                        s->head_dim - d < PAGE_GROUP ? s->head_dim - d : PAGE_GROUP);
    }
}

/* Chooses the extremes of a group: the PAGE_EXTREMES of n numbers without which the others lie
 * closest together. *least and *largest: of the others, 0 without others. NaN is chosen only
 * where there is nothing else; with fewer numbers than places, a place says the same as the one
 * before. */
static void choose_extremes(const float *x, uint32_t n, uint32_t places[PAGE_EXTREMES],
                            float *least, float *largest)
{
    enum { ENDS = PAGE_EXTREMES + 1 };
    uint32_t low[ENDS], high[ENDS], n_numbers = 0; /* the smallest and the largest numbers */
    for (uint32_t i = 0; i < n; i++) {
        if (isnan(x[i]))
            continue;
        uint32_t filled = n_numbers < ENDS ? n_numbers : ENDS, at;
        for (at = filled; at > 0 && x[i] < x[low[at - 1]]; at--)
            if (at < ENDS)
                low[at] = low[at - 1];
        if (at < ENDS)
            low[at] = i;
        for (at = filled; at > 0 && x[i] > x[high[at - 1]]; at--)
            if (at < ENDS)
                high[at] = high[at - 1];
        if (at < ENDS)
            high[at] = i;
        n_numbers++;
    }
    *least = *largest = 0;
    if (n_numbers <= PAGE_EXTREMES) {
        for (uint32_t i = 0; i < PAGE_EXTREMES; i++)
            places[i] = i < n_numbers ? low[i] : i > 0 ? places[i - 1] : 0;
        return;
    }
    float range = INFINITY;
    for (uint32_t n_low = 0; n_low < ENDS; n_low++) {
        float from = x[low[n_low]], to = x[high[PAGE_EXTREMES - n_low]];
        if (n_low > 0 && !(to - from < range))
            continue;
        range = to - from;
        *least = from;
        *largest = to;
        for (uint32_t i = 0; i < PAGE_EXTREMES; i++)
            places[i] = i < n_low ? low[i] : high[i - n_low];
    }
}

static void write_key_group(const struct page_shape *s, const struct key *k, const float *x,
                            uint32_t group)
{
    const uint32_t first = group * PAGE_KEY_GROUP, left = s->head_dim - first,
                   n = left < PAGE_KEY_GROUP ? left : PAGE_KEY_GROUP;
    uint32_t places[PAGE_EXTREMES];
    uint8_t codes[PAGE_KEY_GROUP] = {0};
    float smallest, largest;
    choose_extremes(x + first, n, places, &smallest, &largest);
    k->least[group * PAGE_SLOTS] = half_from_float(smallest);
    float least = half_to_float(k->least[group * PAGE_SLOTS]);
    k->scales[group * PAGE_SLOTS] = half_from_float((fminf(largest, PAGE_Q4_MOST) - least) / 31);
    float scale = half_to_float(k->scales[group * PAGE_SLOTS]);
    for (uint32_t i = 0; i < n; i++)
        codes[i] = (uint8_t)nearest(x[first + i], least, scale, 0, 31);
    for (uint32_t i = 0; i < PAGE_EXTREMES; i++) {
        size_t at = ((size_t)group * PAGE_EXTREMES + i) * PAGE_SLOTS;
        k->places[at] = (uint8_t)places[i];
        k->extremes[at] = half_from_float(isnan(x[first + places[i]]) ? 0 : x[first + places[i]]);
        codes[places[i]] = 0;
    }
    for (uint32_t i = 0; i < n; i += 2)
        k->pairs[(first + i) / 2 * PAGE_SLOTS] =
            (uint8_t)((codes[i] & 15) | (codes[i + 1] & 15) << 4);
    for (uint32_t i = 0; i < n; i += 8) {
        uint32_t bits = 0;
        for (uint32_t j = 0; j < 8; j++)
            bits |= (uint32_t)(codes[i + j] >> 4) << j;
        k->fifths[(first + i) / 8 * PAGE_SLOTS] = (uint8_t)bits;
    }
}

static void read_key(const struct page_shape *s, const struct key *k, float *x)
{
    for (uint32_t d = 0; d < s->head_dim; d++) {
        size_t group = d / PAGE_KEY_GROUP * PAGE_SLOTS;
        int code = (k->pairs[d / 2 * PAGE_SLOTS] >> d % 2 * 4 & 15) |
                   (k->fifths[d / 8 * PAGE_SLOTS] >> d % 8 & 1) << 4;
        x[d] = half_to_float(k->least[group]) + half_to_float(k->scales[group]) * (float)code;
    }
    for (uint32_t i = 0; i < PAGE_EXTREMES * s->n_key_groups; i++) {
        uint32_t d = i / PAGE_EXTREMES * PAGE_KEY_GROUP + k->places[i * PAGE_SLOTS];
        if (d < s->head_dim) /* a slot that was never written may contain anything */
            x[d] = half_to_float(k->extremes[i * PAGE_SLOTS]);
    }
}

void page_write(const struct page_shape *shape, uint8_t *page, uint32_t index, const float *k,
                const float *v)
{
    if (shape->storage == STORAGE_Q4) {
        struct key key = key_of(shape, page, index);
        for (uint32_t g = 0; g < shape->n_key_groups; g++)
            write_key_group(shape, &key, k, g);
    } else {
        write_row(shape, k_row(shape, page, index), k);
    }
    write_row(shape, v_row(shape, page, index), v);
}

static void read_row(const struct page_shape *s, struct row r, float *x)
{
    const uint16_t *halves = (const uint16_t *)r.values;
    for (uint32_t d = 0; d < s->head_dim; d++) {
        const uint16_t *scale = r.scales + d / PAGE_GROUP * r.scale_stride;
        uint8_t pair = 0;
        switch (s->storage) {
        case STORAGE_F16:
            x[d] = half_to_float(halves[d * r.value_stride]);
            break;
        case STORAGE_BF16:
            x[d] = half_float_of_bits((uint32_t)halves[d * r.value_stride] << 16);
            break;
        case STORAGE_Q8:
            x[d] = half_to_float(*scale) * (float)((const int8_t *)r.values)[d * r.value_stride];
            break;
        case STORAGE_Q4:
            pair = r.values[d / 2 * r.value_stride];
            x[d] = half_to_float(scale[r.least_at]) +
                   half_to_float(*scale) * (float)(d % 2 ? pair >> 4 : pair & 15);
            break;
        }
    }
}

void page_read(const struct page_shape *shape, const uint8_t *page, uint32_t index, float *k,
               float *v)
{
    uint8_t *p = (uint8_t *)(uintptr_t)page; /* rows serve both ways; nothing is written */
    if (k != NULL && shape->storage == STORAGE_Q4) {
        struct key key = key_of(shape, p, index);
        read_key(shape, &key, k);
    } else if (k != NULL) {
        read_row(shape, k_row(shape, p, index), k);
    }
    if (v != NULL)
        read_row(shape, v_row(shape, p, index), v);
}

/* Moves elements with a stride of PAGE_SLOTS: K in every format. */
static void move_key(const struct page_shape *s, struct row to, struct row from)
{
    for (uint32_t i = 0; i < s->k_values; i++)
        if (has_scales(s->storage))
            to.values[i * PAGE_SLOTS] = from.values[i * PAGE_SLOTS];
        else
            ((uint16_t *)to.values)[i * PAGE_SLOTS] = ((uint16_t *)from.values)[i * PAGE_SLOTS];
    for (uint32_t i = 0; i < s->k_scales; i++)
        to.scales[i * PAGE_SLOTS] = from.scales[i * PAGE_SLOTS];
}

static void move_value(const struct page_shape *s, struct row to, struct row from)
{
    memcpy(to.values, from.values, s->v_values * (has_scales(s->storage) ? 1 : sizeof(uint16_t)));
    for (uint32_t first = 0; first < s->v_scales; first += s->n_groups)
        memcpy(to.scales + first * PAGE_SLOTS, from.scales + first * PAGE_SLOTS,
               s->n_groups * sizeof *to.scales);
}

void page_move(const struct page_shape *shape, uint8_t *to, uint32_t to_index, const uint8_t *from,
               uint32_t from_index)
{
    uint8_t *source = (uint8_t *)(uintptr_t)from;
    move_key(shape, k_row(shape, to, to_index), k_row(shape, source, from_index));
    move_value(shape, v_row(shape, to, to_index), v_row(shape, source, from_index));
}
