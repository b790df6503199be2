/* Slots of a page in every number format: what is read back is as close as the format promises,
 * a slot is written and moved without touching its neighbours, and widening gives the same
 * numbers as reading. */
#include "engine/cpu/page.h"
#include "tests/kernels/kernel_cases.h"
#include "tests/suite.h"

#define MOST 260

static const uint32_t head_dims[] = {1, 2, 3, 5, 16, 24, 63, 64, 65, 80, 96, 97, 128, 160, 256};
enum { N_HEAD_DIMS = sizeof head_dims / sizeof *head_dims };

/* The middle one of three pages. */
enum { POOL_PAGES = 3 };

static uint8_t *new_page(const struct page_shape *s)
{
    uint8_t *pool = aligned_alloc(64, POOL_PAGES * s->bytes);
    ck_assert_ptr_nonnull(pool);
    memset(pool, 0xa5, POOL_PAGES * s->bytes);
    return pool + s->stride;
}

/* Its neighbours are unchanged. */
static void free_page(const struct page_shape *s, uint8_t *page)
{
    uint8_t *pool = page - s->stride;
    const size_t k = s->stride, v = s->stride + s->v_at;
    size_t n_written = 0;
    for (size_t i = 0; i < POOL_PAGES * s->bytes; i++)
        n_written +=
            (i < k || i >= k + s->k_bytes) && (i < v || i >= v + s->v_bytes) && pool[i] != 0xa5;
    ck_assert_uint_eq(n_written, 0);
    free(pool);
}

/* How far a number may be from what was written, given its group's largest and smallest. */
static double allowed(enum plan_storage storage, const float *x, uint32_t d, uint32_t i)
{
    uint32_t first = i / PAGE_GROUP * PAGE_GROUP, end = first + PAGE_GROUP;
    double largest = -INFINITY, smallest = INFINITY;
    for (uint32_t k = first; k < end && k < d; k++) {
        largest = fmax(largest, (double)x[k]);
        smallest = fmin(smallest, (double)x[k]);
    }
    double size = fmax(fabs(largest), fabs(smallest));
    switch (storage) {
    case STORAGE_F16:
        return fabs((double)x[i]) * 0x1p-11 + 0x1p-25;
    case STORAGE_BF16:
        return fabs((double)x[i]) * 0x1p-8;
    case STORAGE_Q8: /* half a step, and the scale's own rounding to f16 over 127 steps */
        return size / 127 * 0.5 + size * 0x1p-11 + 1e-6;
    default: /* half a step of 15; the least value and the scale are rounded to f16 */
        return (largest - smallest) / 15 * 0.5 + 2 * size * 0x1p-10 + 1e-6;
    }
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The same for K in q4: a half's error where x[i] is an extreme; else half a step of 31 over the
 * smallest range that the group has without two of its numbers. */
static double allowed_in_q4_key(const float *x, uint32_t d, uint32_t i)
{
    uint32_t first = i / PAGE_KEY_GROUP * PAGE_KEY_GROUP, n = 0;
    float sorted[PAGE_KEY_GROUP], least_range = INFINITY, size = 0;
    for (uint32_t k = first; k < first + PAGE_KEY_GROUP && k < d; k++)
        sorted[n++] = x[k];
    qsort(sorted, n, sizeof *sorted, by_value);
    double half_error = fabs((double)x[i]) * 0x1p-11 + 0x1p-25;
    if (n <= PAGE_EXTREMES)
        return half_error;
    for (uint32_t low = 0; low <= PAGE_EXTREMES; low++) {
        float from = sorted[low], to = sorted[n - 1 - (PAGE_EXTREMES - low)];
        if (to - from >= least_range)
            continue;
        least_range = to - from;
        size = fmaxf(fabsf(from), fabsf(to));
    }
    return fmax(half_error, (double)least_range / 31 * 0.5 + 2 * (double)size * 0x1p-10 + 1e-6);
}

static double allowed_in_key(enum plan_storage storage, const float *x, uint32_t d, uint32_t i)
{
    return storage == STORAGE_Q4 ? allowed_in_q4_key(x, d, i) : allowed(storage, x, d, i);
}

/* A key as models have them: some dimensions far off zero. */
static void fill_key(float *k, uint32_t d)
{
    fill_normal(k, d);
    for (uint32_t i = random_below(40); i < d; i += 1 + random_below(60))
        k[i] += random_below(2) ? 30 : -12;
}

START_TEST(a_slot_reads_back_within_its_formats_step)
{
    random_state = 41 + (uint64_t)_i;
    for (uint32_t round = 0; round < 3 * N_HEAD_DIMS; round++) {
        const uint32_t d = head_dims[round % N_HEAD_DIMS];
        struct page_shape s = page_shape_of(d, (enum plan_storage)_i, POOL_PAGES);
        uint8_t *page = new_page(&s), *other = new_page(&s);
        float k[MOST], v[MOST], k_back[MOST], v_back[MOST], k_moved[MOST], v_moved[MOST];
        uint32_t index = random_below(PAGE_SLOTS), to = random_below(PAGE_SLOTS);
        ck_assert_uint_eq(s.bytes % 64, 0);
        fill_key(k, d);
        fill_normal(v, d);
        page_write(&s, page, index, k, v);
        page_read(&s, page, index, k_back, v_back);
        for (uint32_t i = 0; i < d; i++) {
            ck_assert_msg(fabs((double)k_back[i] - (double)k[i]) <=
                              allowed_in_key(s.storage, k, d, i),
                          "K %u of %u: %g for %g", i, d, (double)k_back[i], (double)k[i]);
            ck_assert_msg(fabs((double)v_back[i] - (double)v[i]) <= allowed(s.storage, v, d, i),
                          "V %u of %u: %g for %g", i, d, (double)v_back[i], (double)v[i]);
        }
        page_move(&s, other, to, page, index);
        page_read(&s, other, to, k_moved, v_moved);
        ck_assert_mem_eq(k_moved, k_back, d * sizeof *k_back);
        ck_assert_mem_eq(v_moved, v_back, d * sizeof *v_back);
        free_page(&s, page);
        free_page(&s, other);
    }
}
END_TEST

START_TEST(writing_a_slot_leaves_its_neighbours_alone)
{
    random_state = 42 + (uint64_t)_i;
    for (uint32_t d = 1; d <= MOST; d += 1 + random_below(9)) {
        struct page_shape s = page_shape_of(d, (enum plan_storage)_i, POOL_PAGES);
        uint8_t *page = new_page(&s);
        float kept[PAGE_SLOTS][2][MOST], k[MOST], v[MOST];
        for (uint32_t i = 0; i < PAGE_SLOTS; i++) {
            fill_normal(k, d);
            fill_normal(v, d);
            page_write(&s, page, i, k, v);
            page_read(&s, page, i, kept[i][0], kept[i][1]);
        }
        uint32_t index = random_below(PAGE_SLOTS);
        fill_normal(k, d);
        fill_normal(v, d);
        page_write(&s, page, index, k, v);
        for (uint32_t i = 0; i < PAGE_SLOTS; i++) {
            page_read(&s, page, i, k, v);
            if (i == index)
                continue;
            ck_assert_mem_eq(k, kept[i][0], d * sizeof *k);
            ck_assert_mem_eq(v, kept[i][1], d * sizeof *v);
        }
        free_page(&s, page);
    }
}
END_TEST

/* The rounding of a token depends on the token alone: neither on the slot nor on what was there. */
START_TEST(a_slot_rounds_the_same_wherever_it_is_written)
{
    random_state = 44 + (uint64_t)_i;
    for (uint32_t round = 0; round < N_HEAD_DIMS; round++) {
        const uint32_t d = head_dims[round];
        struct page_shape s = page_shape_of(d, (enum plan_storage)_i, POOL_PAGES);
        uint8_t *page = new_page(&s);
        float k[MOST], v[MOST], other[MOST], first[2][MOST], again[2][MOST];
        fill_key(k, d);
        fill_normal(v, d);
        page_write(&s, page, random_below(PAGE_SLOTS), k, v);
        for (uint32_t i = 0; i < PAGE_SLOTS; i++) {
            fill_key(other, d);
            page_write(&s, page, i, other, other);
            page_write(&s, page, i, k, v);
            page_read(&s, page, i, again[0], again[1]);
            if (i == 0)
                memcpy(first, again, sizeof first);
            ck_assert_mem_eq(again[0], first[0], d * sizeof *k);
            ck_assert_mem_eq(again[1], first[1], d * sizeof *v);
        }
        free_page(&s, page);
    }
}
END_TEST

/* Two dimensions of a group may be far off: the others do not get coarser, and these two keep a
 * half's precision. */
START_TEST(two_far_dimensions_of_a_key_cost_the_others_nothing_in_q4)
{
    random_state = 45;
    for (uint32_t round = 0; round < 4 * N_HEAD_DIMS; round++) {
        const uint32_t d = head_dims[round % N_HEAD_DIMS];
        struct page_shape s = page_shape_of(d, STORAGE_Q4, POOL_PAGES);
        uint8_t *page = new_page(&s);
        float k[MOST], plain[MOST] = {0}, back[MOST];
        fill_normal(plain, d);
        memcpy(k, plain, sizeof k);
        bool far[MOST] = {false};
        for (uint32_t first = 0; first < d; first += PAGE_KEY_GROUP) {
            uint32_t n = d - first < PAGE_KEY_GROUP ? d - first : PAGE_KEY_GROUP;
            for (int i = 0; i < 2; i++) {
                uint32_t at = first + random_below(n);
                k[at] = (random_below(2) ? 1000 : -300) + plain[at];
                far[at] = true;
            }
        }
        page_write(&s, page, 7, k, k);
        page_read(&s, page, 7, back, NULL);
        for (uint32_t i = 0; i < d; i++)
            /* Numbers of random_normal lie within +-4.3: half a step is below 8.6 / 62. */
            ck_assert_msg(fabs((double)back[i] - (double)k[i]) <=
                              (far[i] ? fabs((double)k[i]) * 0x1p-11 : 0.15),
                          "%u of %u: %g for %g", i, d, (double)back[i], (double)k[i]);
        free_page(&s, page);
    }
}
END_TEST

/* NaN and infinity, equal numbers, and all of them together stay in their slot and page. */
START_TEST(odd_numbers_stay_in_their_dimension)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, 1e30f, 0, 2};
    random_state = 46;
    for (uint32_t round = 0; round < 60 * N_HEAD_DIMS; round++) {
        const uint32_t d = head_dims[round % N_HEAD_DIMS], n_odd = random_below(4);
        struct page_shape s = page_shape_of(d, STORAGE_Q4, POOL_PAGES);
        uint8_t *page = new_page(&s);
        float k[MOST], k_back[MOST], v_back[MOST];
        bool same = round % 3 == 0;
        fill_normal(k, d);
        for (uint32_t i = 0; same && i < d; i++)
            k[i] = odd[round / 3 % 6];
        page_write(&s, page, 8, k, k);
        for (uint32_t i = 0; !same && i < n_odd; i++)
            k[random_below(d)] = odd[random_below(4)];
        page_write(&s, page, 9, k, k);
        page_read(&s, page, 9, k_back, v_back);
        uint32_t n_huge = 0;
        for (uint32_t i = 0; i < d; i++) {
            n_huge += fabsf(k[i]) > 65504;
            ck_assert_msg(isfinite(k_back[i]), "%u of %u: %g", i, d, (double)k_back[i]);
            if (same && i >= PAGE_EXTREMES && odd[round / 3 % 6] == 2)
                ck_assert_float_eq(k_back[i], 2);
        }
        for (uint32_t i = 0; !same && n_huge <= PAGE_EXTREMES && i < d; i++)
            if (fabsf(k[i]) < 5)
                ck_assert_msg(fabs((double)k_back[i] - (double)k[i]) < 0.15, "%u of %u: %g for %g",
                              i, d, (double)k_back[i], (double)k[i]);
        free_page(&s, page);
    }
}
END_TEST

/* key_dots widens K; a query that is a unit vector picks one dimension out of it. */
START_TEST(widened_keys_are_the_keys_that_are_read)
{
    struct backend b;
    random_state = 43;
    if (!open_isa(&b, _i, 1))
        return;
    const struct cpu *c = b.self;
    for (uint32_t storage = 0; storage < 4; storage++)
        for (uint32_t round = 0; round < N_HEAD_DIMS; round++) {
            const uint32_t d = head_dims[round];
            struct page_shape s = page_shape_of(d, (enum plan_storage)storage, POOL_PAGES);
            uint8_t *page = new_page(&s);
            float k[MOST], v[MOST], x[MOST] = {0}, dots[PAGE_SLOTS], squares[PAGE_SLOTS];
            uint32_t at = random_below(d);
            x[at] = 1;
            for (uint32_t i = 0; i < PAGE_SLOTS; i++) {
                fill_key(k, d);
                page_write(&s, page, i, k, k);
            }
            c->kernels->key_dots(&s, page, x, dots, squares);
            for (uint32_t i = 0; i < PAGE_SLOTS; i++) {
                double square = 0;
                page_read(&s, page, i, k, v);
                for (uint32_t dim = 0; dim < d; dim++)
                    square += (double)k[dim] * (double)k[dim];
                ck_assert_msg(fabs((double)dots[i] - (double)k[at]) <=
                                  4e-7 * (1 + fabs((double)k[at])),
                              "%s, d %u: %.9g for %.9g", plan_storage_name(s.storage), d,
                              (double)dots[i], (double)k[at]);
                ck_assert(fabs((double)squares[i] - square) <= 1e-5 * (1 + square));
            }
            free_page(&s, page);
        }
    b.close(b.self);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pages");
    TCase *tc = suite_case(suite, "pages", 60);
    tcase_add_loop_test(tc, a_slot_reads_back_within_its_formats_step, 0, 4);
    tcase_add_loop_test(tc, writing_a_slot_leaves_its_neighbours_alone, 0, 4);
    tcase_add_loop_test(tc, a_slot_rounds_the_same_wherever_it_is_written, 0, 4);
    tcase_add_test(tc, two_far_dimensions_of_a_key_cost_the_others_nothing_in_q4);
    tcase_add_test(tc, odd_numbers_stay_in_their_dimension);
    tcase_add_loop_test(tc, widened_keys_are_the_keys_that_are_read, 0, N_ISAS);
    return suite_run(suite);
}
