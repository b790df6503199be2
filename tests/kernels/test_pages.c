/* Slots of a page in every number format: what is read back is as near as the format promises, a
 * slot is written and moved without its neighbours, and widening gives the numbers that reading
 * gives. */
#include "engine/cpu/page.h"
#include "tests/kernels/kernel_cases.h"

#define MOST 140

static uint8_t *new_page(const struct page_shape *s)
{
    uint8_t *page = aligned_alloc(64, s->bytes);
    ck_assert_ptr_nonnull(page);
    memset(page, 0xa5, s->bytes);
    return page;
}

/* How far a number may be from what was written, by its group's largest and smallest. */
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

START_TEST(a_slot_reads_back_within_its_formats_step)
{
    random_state = 41 + (uint64_t)_i;
    for (uint32_t d = 1; d <= MOST; d += 1 + random_below(9)) {
        struct page_shape s = page_shape_of(d, (enum plan_storage)_i);
        uint8_t *page = new_page(&s), *other = new_page(&s);
        float k[MOST], v[MOST], k_back[MOST], v_back[MOST], k_moved[MOST], v_moved[MOST];
        uint32_t index = random_below(PAGE_SLOTS), to = random_below(PAGE_SLOTS);
        ck_assert_uint_eq(s.bytes % 64, 0);
        fill_normal(k, d);
        fill_normal(v, d);
        page_write(&s, page, index, k, v, 77);
        page_read(&s, page, index, k_back, v_back);
        for (uint32_t i = 0; i < d; i++) {
            ck_assert_msg(fabs((double)k_back[i] - (double)k[i]) <= allowed(s.storage, k, d, i),
                          "K %u of %u: %g for %g", i, d, (double)k_back[i], (double)k[i]);
            ck_assert_msg(fabs((double)v_back[i] - (double)v[i]) <= allowed(s.storage, v, d, i),
                          "V %u of %u: %g for %g", i, d, (double)v_back[i], (double)v[i]);
        }
        page_move(&s, other, to, page, index);
        page_read(&s, other, to, k_moved, v_moved);
        ck_assert_mem_eq(k_moved, k_back, d * sizeof *k_back);
        ck_assert_mem_eq(v_moved, v_back, d * sizeof *v_back);
        ck_assert_int_eq(page_positions(other)[to], 77);
        free(page);
        free(other);
    }
}
END_TEST

START_TEST(writing_a_slot_leaves_its_neighbours_alone)
{
    random_state = 42 + (uint64_t)_i;
    for (uint32_t d = 1; d <= MOST; d += 1 + random_below(9)) {
        struct page_shape s = page_shape_of(d, (enum plan_storage)_i);
        uint8_t *page = new_page(&s);
        float kept[PAGE_SLOTS][2][MOST], k[MOST], v[MOST];
        for (uint32_t i = 0; i < PAGE_SLOTS; i++) {
            fill_normal(k, d);
            fill_normal(v, d);
            page_write(&s, page, i, k, v, (int32_t)i);
            page_read(&s, page, i, kept[i][0], kept[i][1]);
        }
        uint32_t index = random_below(PAGE_SLOTS);
        fill_normal(k, d);
        fill_normal(v, d);
        page_write(&s, page, index, k, v, 1000);
        for (uint32_t i = 0; i < PAGE_SLOTS; i++) {
            page_read(&s, page, i, k, v);
            ck_assert_int_eq(page_positions(page)[i], i == index ? 1000 : (int32_t)i);
            if (i == index)
                continue;
            ck_assert_mem_eq(k, kept[i][0], d * sizeof *k);
            ck_assert_mem_eq(v, kept[i][1], d * sizeof *v);
        }
        free(page);
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
        for (uint32_t d = 1; d <= MOST; d += 1 + random_below(19)) {
            struct page_shape s = page_shape_of(d, (enum plan_storage)storage);
            uint8_t *page = new_page(&s);
            float k[MOST], v[MOST], x[MOST] = {0}, dots[PAGE_SLOTS], squares[PAGE_SLOTS];
            uint32_t at = random_below(d);
            x[at] = 1;
            for (uint32_t i = 0; i < PAGE_SLOTS; i++) {
                fill_normal(k, d);
                page_write(&s, page, i, k, k, 0);
            }
            c->kernels->key_dots(&s, page, x, dots, squares, c->scratch);
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
            free(page);
        }
    b.close(b.self);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pages");
    TCase *tc = tcase_create("pages");
    tcase_add_loop_test(tc, a_slot_reads_back_within_its_formats_step, 0, 4);
    tcase_add_loop_test(tc, writing_a_slot_leaves_its_neighbours_alone, 0, 4);
    tcase_add_loop_test(tc, widened_keys_are_the_keys_that_are_read, 0, N_ISAS);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed;
}
