/* Slots of KV pages, one at a time: see page.h. */
#include "engine/cpu/page.h"

#include <math.h>
#include <string.h>

#include "engine/cpu/half.h"

struct page_shape page_shape_of(uint32_t head_dim, enum plan_storage storage)
{
    struct page_shape s = {.head_dim = head_dim,
                           .n_groups = (head_dim + PAGE_GROUP - 1) / PAGE_GROUP,
                           .storage = storage,
                           .k_at = PAGE_SLOTS * sizeof(int32_t)};
    size_t values = storage == STORAGE_Q8   ? head_dim
                    : storage == STORAGE_Q4 ? (head_dim + 1) / 2
                                            : head_dim * sizeof(uint16_t);
    size_t scales = storage == STORAGE_Q8   ? s.n_groups * sizeof(uint16_t)
                    : storage == STORAGE_Q4 ? 2 * s.n_groups * sizeof(uint16_t)
                                            : 0;
    s.v_at = s.k_at + values * PAGE_SLOTS;
    s.k_scales_at = s.v_at + values * PAGE_SLOTS;
    s.v_scales_at = s.k_scales_at + scales * PAGE_SLOTS;
    s.bytes = (s.v_scales_at + scales * PAGE_SLOTS + 63) / 64 * 64;
    return s;
}

/* Where dimension d of a slot lies: values `stride` apart, scales of its group likewise. */
struct row {
    uint8_t *values;
    uint16_t *scales;
    size_t value_stride, scale_stride, least_at; /* in elements */
};

static struct row k_row(const struct page_shape *s, uint8_t *page, uint32_t index)
{
    size_t size = s->storage == STORAGE_Q8 || s->storage == STORAGE_Q4 ? 1 : sizeof(uint16_t);
    return (struct row){page + s->k_at + index * size, (uint16_t *)(page + s->k_scales_at) + index,
                        PAGE_SLOTS, PAGE_SLOTS, (size_t)s->n_groups * PAGE_SLOTS};
}

static struct row v_row(const struct page_shape *s, uint8_t *page, uint32_t index)
{
    size_t bytes = s->storage == STORAGE_Q8   ? s->head_dim
                   : s->storage == STORAGE_Q4 ? (s->head_dim + 1) / 2
                                              : s->head_dim * sizeof(uint16_t);
    return (struct row){page + s->v_at + index * bytes,
                        (uint16_t *)(page + s->v_scales_at) + (size_t)index * s->n_groups, 1, 1,
                        (size_t)s->n_groups * PAGE_SLOTS};
}

/* Rounded to the nearest even; infinities and NaN stay what they are. */
static uint16_t to_bf16(float x)
{
    uint32_t bits = half_bits_of_float(x);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 64);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* A NaN is stored as the largest value would be: as nothing that spreads. The forward pass reports
 * its own. */
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
        *scale_at = half_from_float(fmaxf(largest, -smallest) / 127);
        float scale = half_to_float(*scale_at);
        for (uint32_t i = 0; i < n; i++)
            ((int8_t *)r->values)[(first + i) * r->value_stride] =
                (int8_t)nearest(x[first + i], 0, scale, -127, 127);
        return;
    }
    scale_at[r->least_at] = half_from_float(smallest);
    float least = half_to_float(scale_at[r->least_at]);
    *scale_at = half_from_float((largest - least) / 15);
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

void page_write(const struct page_shape *shape, uint8_t *page, uint32_t index, const float *k,
                const float *v, int32_t position)
{
    write_row(shape, k_row(shape, page, index), k);
    write_row(shape, v_row(shape, page, index), v);
    page_positions(page)[index] = position;
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
    if (k != NULL)
        read_row(shape, k_row(shape, p, index), k);
    if (v != NULL)
        read_row(shape, v_row(shape, p, index), v);
}

static void move_row(const struct page_shape *s, struct row to, struct row from)
{
    if (s->storage == STORAGE_F16 || s->storage == STORAGE_BF16) {
        for (uint32_t d = 0; d < s->head_dim; d++)
            ((uint16_t *)to.values)[d * to.value_stride] =
                ((const uint16_t *)from.values)[d * from.value_stride];
        return;
    }
    uint32_t n = s->storage == STORAGE_Q8 ? s->head_dim : (s->head_dim + 1) / 2;
    for (uint32_t i = 0; i < n; i++)
        to.values[i * to.value_stride] = from.values[i * from.value_stride];
    for (uint32_t g = 0; g < s->n_groups; g++) {
        to.scales[g * to.scale_stride] = from.scales[g * from.scale_stride];
        if (s->storage == STORAGE_Q4)
            to.scales[g * to.scale_stride + to.least_at] =
                from.scales[g * from.scale_stride + from.least_at];
    }
}

void page_move(const struct page_shape *shape, uint8_t *to, uint32_t to_index, const uint8_t *from,
               uint32_t from_index)
{
    uint8_t *source = (uint8_t *)(uintptr_t)from;
    move_row(shape, k_row(shape, to, to_index), k_row(shape, source, from_index));
    move_row(shape, v_row(shape, to, to_index), v_row(shape, source, from_index));
    page_positions(to)[to_index] = page_positions(source)[from_index];
}
