/* Weights of every type: decoding against the formula, products against double precision, and the
 * promise that an output's bits depend on its row of x and of w alone. */
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "tests/kernels/kernel_cases.h"
#include "tests/suite.h"

/* A number of columns that the type allows, sometimes one that does not fill a vector. */
static uint32_t some_cols(enum tensor_type type)
{
    uint32_t block = tensor_type_info(type)->block_values;
    return block == 1 ? 1 + random_below(200) : block * (1 + random_below(block == 32 ? 12 : 4));
}

/* Each row has a guard of NaN behind it: a kernel that reads beyond the last row gets it. */
static float *guarded_rows(uint32_t n, uint32_t cols, size_t shift)
{
    float *x = floats(n * (size_t)cols + 64 + shift) + shift;
    fill_normal(x, n * (size_t)cols);
    for (int i = 0; i < 64; i++)
        x[n * (size_t)cols + i] = NAN;
    return x;
}

START_TEST(decoding_is_the_formula_to_the_bit)
{
    struct backend b;
    if (!open_isa(&b, _i, 1))
        return;
    random_state = 11;
    for (int t = 0; t < N_TYPES; t++) {
        for (int round = 0; round < 20; round++) {
            struct weight w = random_weight(all_types[t], 3, some_cols(all_types[t]));
            float *out = floats(2 * w.cols + 1);
            out[2 * w.cols] = 12345;
            const int32_t tokens[2] = {2, 0};
            const struct step step = {.n_rows = 2, .tokens = tokens};
            b.embed(b.self, out, &w, &step);
            for (uint32_t i = 0; i < 2 * w.cols; i++) {
                /* In double nothing is rounded, so the conversion is the only rounding. */
                float want = (float)weight_value(&w, (uint32_t)tokens[i / w.cols], i % w.cols);
                ck_assert_msg(out[i] == want || (isnan(want) && isnan(out[i])),
                              "%s[%u] is %.9g, should be %.9g", tensor_type_info(w.type)->name, i,
                              (double)out[i], (double)want);
            }
            ck_assert_float_eq(out[2 * w.cols], 12345);
            free(out);
            free((void *)w.data);
        }
    }
    b.close(b.self);
}
END_TEST

static void prepare(const struct backend *b, struct weight *w)
{
    struct error e;
    ck_assert(b->weight_prepare(b->self, w, true, &e));
}

/* What a prepared weight may multiply in place of x: blocks of 32 columns in 16 bits, the
 * largest magnitude as 32767. */
static double rounded(const float *x, uint32_t c)
{
    const float *block = x + c / 32 * 32;
    float largest = 0;
    for (int i = 0; i < 32; i++)
        largest = fmaxf(largest, fabsf(block[i]));
    return largest > 0 ? (double)(largest / 32767) * (double)nearbyintf(x[c] * (32767 / largest))
                       : 0;
}

static void check_product(const struct backend *b, const struct weight *w, uint32_t n,
                          bool with_bias)
{
    const bool in_blocks = w->prepared && tensor_type_info(w->type)->block_values > 1;
    size_t shift = random_below(4);
    float *x = guarded_rows(n, w->cols, shift), *bias = floats(w->rows);
    float *out = floats((size_t)n * w->rows + 1);
    fill_normal(bias, w->rows);
    out[(size_t)n * w->rows] = 12345;
    b->matmul(b->self, out, w, x, n, with_bias ? bias : NULL);
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t r = 0; r < w->rows; r++) {
            double want = with_bias ? bias[r] : 0, size = fabs(want);
            for (uint32_t c = 0; c < w->cols; c++) {
                const float *row = x + (size_t)i * w->cols;
                double product =
                    weight_value(w, r, c) * (in_blocks ? rounded(row, c) : (double)row[c]);
                want += product;
                size += fabs(product);
            }
            /* At most cols/4 + 1 additions in a lane, each after a rounded product in plain C, 4 to
             * fold the lanes, 1 for the bias, 1 for the weight's own rounding: every one errs by
             * less than 2^-24 of what it adds up to, which is never more than `size`. */
            double bound = (2 * (w->cols / 4 + 1) + 6) * 0x1p-24 * size;
            double got = out[(size_t)i * w->rows + r];
            ck_assert_msg(fabs(got - want) <= bound,
                          "%s %ux%u n=%u: out[%u][%u] is %.9g, should be %.9g +- %.3g",
                          tensor_type_info(w->type)->name, w->rows, w->cols, n, i, r, got, want,
                          bound);
        }
    }
    ck_assert_float_eq(out[(size_t)n * w->rows], 12345);
    free(x - shift);
    free(bias);
    free(out);
}

START_TEST(products_match_double_precision)
{
    struct backend b;
    if (!open_isa(&b, _i, 2))
        return;
    random_state = 12;
    for (int t = 0; t < N_TYPES; t++) {
        for (int round = 0; round < 24; round++) {
            struct weight w =
                random_weight(all_types[t], 1 + random_below(70), some_cols(all_types[t]));
            if (round >= 2)
                prepare(&b, &w);
            check_product(&b, &w, round < 6 ? 1 : 1 + random_below(20), round % 2);
            b.weight_release(b.self, &w);
            free((void *)w.data);
        }
    }
    b.close(b.self);
}
END_TEST

START_TEST(a_row_has_the_same_bits_alone_and_in_a_crowd)
{
    static const uint32_t crowds[] = {2, 3, 4, 5, 6, 7, 13, 31};
    struct backend b;
    if (!open_isa(&b, _i, 1))
        return;
    random_state = 13;
    for (int t = 0; t < N_TYPES; t++) {
        for (int c = 0; c < 16; c++) {
            uint32_t n = crowds[c % 8];
            struct weight w =
                random_weight(all_types[t], 1 + random_below(50), some_cols(all_types[t]));
            if (c >= 8)
                prepare(&b, &w);
            float *x = guarded_rows(n, w.cols, 1);
            float *together = floats((size_t)n * w.rows), *alone = floats((size_t)n * w.rows);
            b.matmul(b.self, together, &w, x, n, NULL);
            for (uint32_t i = 0; i < n; i++)
                b.matmul(b.self, alone + (size_t)i * w.rows, &w, x + (size_t)i * w.cols, 1, NULL);
            assert_same_bits(together, alone, n * w.rows);
            b.weight_release(b.self, &w);
            free(x - 1);
            free(together);
            free(alone);
            free((void *)w.data);
        }
    }
    b.close(b.self);
}
END_TEST

START_TEST(the_number_of_threads_changes_no_bit)
{
    static const uint32_t counts[] = {1, 2, 5};
    random_state = 14;
    for (int t = 0; t < N_TYPES; t++) {
        struct weight w = random_weight(all_types[t], 301, 512);
        for (uint32_t n = 1; n <= 9; n += 8) {
            float *x = floats((size_t)n * w.cols), *out[3];
            fill_normal(x, (size_t)n * w.cols);
            for (int c = 0; c < 3; c++) {
                struct backend b;
                if (!open_isa(&b, _i, counts[c])) {
                    free(x);
                    free((void *)w.data);
                    return;
                }
                out[c] = floats((size_t)n * w.rows);
                if (n > 1 || t % 2)
                    prepare(&b, &w);
                b.matmul(b.self, out[c], &w, x, n, NULL);
                b.weight_release(b.self, &w);
                b.close(b.self);
            }
            assert_same_bits(out[0], out[1], n * w.rows);
            assert_same_bits(out[0], out[2], n * w.rows);
            for (int c = 0; c < 3; c++)
                free(out[c]);
            free(x);
        }
        free((void *)w.data);
    }
}
END_TEST

/* Also where one of them has a type that is multiplied as floats, so that all are. */
START_TEST(products_with_one_x_are_those_of_each_alone)
{
    struct backend b;
    if (!open_isa(&b, _i, 3))
        return;
    random_state = 16;
    for (int round = 0; round < 30; round++) {
        const uint32_t cols = 256 * (1 + random_below(3)), n = 1 + random_below(9);
        float *x = guarded_rows(n, cols, 0), *bias = floats(200);
        fill_normal(bias, 200);
        struct weight w[3];
        struct product products[3];
        float *alone[3];
        for (int i = 0; i < 3; i++) {
            w[i] = random_weight(
                all_types[round < 20 ? 3 + random_below(N_TYPES - 3) : (uint32_t)round % N_TYPES],
                1 + random_below(200), cols);
            prepare(&b, &w[i]);
        }
        bool all_packed = w[0].prepared && w[1].prepared && w[2].prepared;
        for (int i = 0; i < 3; i++) {
            if (!all_packed)
                b.weight_release(b.self, &w[i]);
            products[i] = (struct product){floats(n * w[i].rows), &w[i], i == 1 ? bias : NULL};
            alone[i] = floats(n * w[i].rows);
            b.matmul(b.self, alone[i], &w[i], x, n, products[i].bias);
        }
        b.products(b.self, products, 3, x, n);
        for (int i = 0; i < 3; i++) {
            assert_same_bits(products[i].out, alone[i], n * w[i].rows);
            free(products[i].out);
            free(alone[i]);
            b.weight_release(b.self, &w[i]);
            free((void *)w[i].data);
        }
        free(x);
        free(bias);
    }
    b.close(b.self);
}
END_TEST

/* A row with NaN or infinity must show it, and must not change its batch mates. */
START_TEST(a_row_that_is_not_finite_gives_nothing_finite_and_harms_no_other)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY};
    struct backend b;
    if (!open_isa(&b, _i, 1))
        return;
    random_state = 17;
    for (int i = 0; i < 3; i++) {
        struct weight w = random_weight(i ? TENSOR_Q8_0 : TENSOR_Q4_1, 37, 96);
        float *x = guarded_rows(5, w.cols, 0), *good = floats(5 * 37), *out = floats(5 * 37);
        prepare(&b, &w);
        b.matmul(b.self, good, &w, x, 5, NULL);
        x[2 * 96 + 50] = odd[i];
        b.matmul(b.self, out, &w, x, 5, NULL);
        assert_same_bits(out, good, 2 * 37);
        assert_same_bits(out + 3 * 37, good + 3 * 37, 2 * 37);
        for (int r = 0; r < 37; r++)
            ck_assert_msg(!isfinite(out[2 * 37 + r]), "row %d is %g", r, (double)out[2 * 37 + r]);
        b.weight_release(b.self, &w);
        free((void *)w.data);
        free(x);
        free(good);
        free(out);
    }
    b.close(b.self);
}
END_TEST

START_TEST(tiny_and_huge_numbers_survive_rounding)
{
    static const float sizes[] = {0, 1e-44f, 1e-38f, 1e-30f, 1e30f, 3e38f};
    struct backend b;
    if (!open_isa(&b, _i, 1))
        return;
    random_state = 18;
    struct weight w = random_weight(TENSOR_Q8_0, 16, 32);
    for (int r = 0; r < 16; r++) /* 1 in the first column, 0 elsewhere */
        for (int c = -2; c < 32; c++)
            ((uint8_t *)w.data)[r * 34 + 2 + c] = c == -1 ? 0x3c : c == 0;
    prepare(&b, &w);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        float x[32] = {sizes[i]}, out[16];
        b.matmul(b.self, out, &w, x, 1, NULL);
        ck_assert_float_le(fabsf(out[3] - sizes[i]), sizes[i] < 1e-37f ? 1e-37f : sizes[i] / 32767);
    }
    b.weight_release(b.self, &w);
    free((void *)w.data);
    b.close(b.self);
}
END_TEST

#if defined(__x86_64__)
/* On any machine: the ways to multiply bytes differ in speed alone. */
START_TEST(all_integer_products_have_the_same_bits)
{
    const struct cpu_products *const others[] = {&cpu_products_avxvnni, &cpu_products_avx512vnni};
    unsigned a = 0, bx, cx, d;
    struct backend b;
    if (!open_isa(&b, 1, 1))
        return;
    b.close(b.self);
    const bool can[] = {__get_cpuid_count(7, 1, &a, &bx, &cx, &d) && a & 1 << 4,
                        __builtin_cpu_supports("avx512vnni") &&
                            __builtin_cpu_supports("avx512vl") &&
                            __builtin_cpu_supports("avx512bw")};
    random_state = 19;
    for (int o = 0; o < 2; o++) {
        if (!others[o]->multiply || !can[o]) {
            printf("SKIPPED: %s with %s (this machine or compiler has none)\n", others[o]->isa,
                   others[o]->name);
            continue;
        }
        for (int t = 3; t < N_TYPES; t++)
            for (uint32_t n = 1; n < 20; n += 3) {
                struct weight w = random_weight(all_types[t], 1 + random_below(70), 512);
                struct packed_format f;
                ck_assert(packed_format_of(w.type, &f));
                struct packed p = packed_shape(&f, w.rows, w.cols);
                uint8_t *data = aligned_alloc(64, packed_bytes(&p));
                memset(data, 0, packed_bytes(&p));
                packed_write(&p, data, w.type, w.data,
                             w.cols / tensor_type_info(w.type)->block_values *
                                 tensor_type_info(w.type)->block_bytes,
                             0, p.n_groups);
                p.data = data;
                float *x = guarded_rows(n, 512, 0), *out[2];
                for (int i = 0; i < 2; i++) {
                    const struct cpu_products *by = i ? others[o] : &cpu_products_avx2;
                    struct quantised q = {512, 16, calloc(n, 2 * 512), floats(n * 16),
                                          calloc(n * 32, sizeof(int32_t))};
                    out[i] = floats(n * w.rows);
                    by->quantise(&q, x, n, 0, n);
                    by->multiply(&p, &q, n, 0, p.n_groups, NULL, out[i], w.rows);
                    free(q.values);
                    free(q.scales);
                    free(q.sums);
                }
                assert_same_bits(out[0], out[1], n * w.rows);
                free(out[0]);
                free(out[1]);
                free(x);
                free(data);
                free((void *)w.data);
            }
    }
}
END_TEST
#endif

/* Rows of x of which few or none fit into the scratch. */
START_TEST(very_wide_matrices_work_too)
{
    static const uint32_t widths[] = {SCRATCH_FLOATS / 4 + 32, SCRATCH_FLOATS, SCRATCH_FLOATS + 64};
    struct backend b;
    if (!open_isa(&b, _i, 1))
        return;
    random_state = 15;
    for (int i = 0; i < 3; i++) {
        struct weight w = random_weight(i == 1 ? TENSOR_F32 : TENSOR_Q8_0, 7, widths[i]);
        check_product(&b, &w, 1, false);
        check_product(&b, &w, 3, true);
        float *x = guarded_rows(3, w.cols, 0), *together = floats(21), *alone = floats(21);
        b.matmul(b.self, together, &w, x, 3, NULL);
        for (uint32_t r = 0; r < 3; r++)
            b.matmul(b.self, alone + r * 7, &w, x + (size_t)r * w.cols, 1, NULL);
        assert_same_bits(together, alone, 21);
        free(x);
        free(together);
        free(alone);
        free((void *)w.data);
    }
    b.close(b.self);
}
END_TEST

START_TEST(unknown_instruction_sets_and_thread_counts_are_refused)
{
    struct backend b;
    struct error e;
    ck_assert(!backend_cpu_open(&b, 1, "sse9", &e));
    ck_assert_str_eq(e.code, "unsupported_value");
    ck_assert_ptr_nonnull(strstr(e.message, "plain"));
    ck_assert(!backend_cpu_open(&b, 0, NULL, &e));
    ck_assert_str_eq(e.code, "invalid_value");
    ck_assert(!backend_cpu_open(&b, 1u << 20, NULL, &e));
    ck_assert_str_eq(e.code, "invalid_value");
    ck_assert(backend_cpu_open(&b, 3, NULL, &e));
    ck_assert_ptr_nonnull(strstr(b.description, "3 threads"));
    b.close(b.self);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("matmul");
    TCase *tc = suite_case(suite, "matmul", 120);
    tcase_add_loop_test(tc, decoding_is_the_formula_to_the_bit, 0, N_ISAS);
    tcase_add_loop_test(tc, products_match_double_precision, 0, N_ISAS);
    tcase_add_loop_test(tc, a_row_has_the_same_bits_alone_and_in_a_crowd, 0, N_ISAS);
    tcase_add_loop_test(tc, the_number_of_threads_changes_no_bit, 0, N_ISAS);
    tcase_add_loop_test(tc, products_with_one_x_are_those_of_each_alone, 0, N_ISAS);
    tcase_add_loop_test(tc, a_row_that_is_not_finite_gives_nothing_finite_and_harms_no_other, 0,
                        N_ISAS);
    tcase_add_loop_test(tc, tiny_and_huge_numbers_survive_rounding, 0, N_ISAS);
#if defined(__x86_64__)
    tcase_add_test(tc, all_integer_products_have_the_same_bits);
#endif
    tcase_add_loop_test(tc, very_wide_matrices_work_too, 0, N_ISAS);
    tcase_add_test(tc, unknown_instruction_sets_and_thread_counts_are_refused);
    return suite_run(suite);
}
