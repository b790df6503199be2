/* Weights of every type: decoding against the formula, products against double precision, and the
 * promise that an output's bits depend on its row of x and of w alone. */
#include "tests/kernels/kernel_cases.h"

/* A number of columns that the type allows, among them such as fill no vector. */
static uint32_t some_cols(enum tensor_type type)
{
    uint32_t block = tensor_type_info(type)->block_values;
    return block == 1 ? 1 + random_below(200) : block * (1 + random_below(block == 32 ? 12 : 4));
}

/* Each row is taken with a guard of NaN behind it: a kernel that looks beyond the last row sees it.
 */
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
            b.embed(b.self, out, &w, tokens, 2);
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

static void check_product(const struct backend *b, const struct weight *w, uint32_t n,
                          bool with_bias)
{
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
                double product = weight_value(w, r, c) * (double)x[(size_t)i * w->cols + c];
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
        for (int round = 0; round < 12; round++) {
            struct weight w =
                random_weight(all_types[t], 1 + random_below(70), some_cols(all_types[t]));
            check_product(&b, &w, round < 4 ? 1 : 1 + random_below(20), round % 2);
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
        for (int c = 0; c < 8; c++) {
            uint32_t n = crowds[c];
            struct weight w =
                random_weight(all_types[t], 1 + random_below(50), some_cols(all_types[t]));
            float *x = guarded_rows(n, w.cols, 1);
            float *together = floats((size_t)n * w.rows), *alone = floats((size_t)n * w.rows);
            b.matmul(b.self, together, &w, x, n, NULL);
            for (uint32_t i = 0; i < n; i++)
                b.matmul(b.self, alone + (size_t)i * w.rows, &w, x + (size_t)i * w.cols, 1, NULL);
            assert_same_bits(together, alone, n * w.rows);
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
                b.matmul(b.self, out[c], &w, x, n, NULL);
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

/* Rows of which few or none fit into the scratch. */
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
    TCase *tc = tcase_create("matmul");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, decoding_is_the_formula_to_the_bit, 0, N_ISAS);
    tcase_add_loop_test(tc, products_match_double_precision, 0, N_ISAS);
    tcase_add_loop_test(tc, a_row_has_the_same_bits_alone_and_in_a_crowd, 0, N_ISAS);
    tcase_add_loop_test(tc, the_number_of_threads_changes_no_bit, 0, N_ISAS);
    tcase_add_loop_test(tc, very_wide_matrices_work_too, 0, N_ISAS);
    tcase_add_test(tc, unknown_instruction_sets_and_thread_counts_are_refused);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed;
}
