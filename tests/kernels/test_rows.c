/* Norms, RoPE, SwiGLU, sums, half precision, and the threads: each against its definition in
 * double precision, and with the same bits for an element at any place. */
#include "tests/kernels/kernel_cases.h"
#include "tests/suite.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

START_TEST(rms_norm_matches_double_precision)
{
    struct backend b;
    if (!open_isa(&b, _i, 3))
        return;
    random_state = 31;
    for (int round = 0; round < 60; round++) {
        uint32_t n = round % 7 == 0 ? 90 : 1 + random_below(5), width = 1 + random_below(700);
        float *x = floats((size_t)n * width), *gain = floats(width);
        float *out = floats((size_t)n * width);
        fill_normal(x, (size_t)n * width);
        fill_normal(gain, width);
        float size = ldexpf(1, (int)random_below(60) - 30), eps = round % 2 ? 1e-5f : 1e-6f;
        for (size_t i = 0; i < (size_t)n * width; i++)
            x[i] *= size;
        b.rms_norm(b.self, out, x, gain, n, width, eps);
        for (uint32_t row = 0; row < n; row++) {
            double sum = 0;
            for (uint32_t i = 0; i < width; i++)
                sum += (double)x[row * width + i] * x[row * width + i];
            for (uint32_t i = 0; i < width; i++) {
                double want = x[row * width + i] / sqrt(sum / width + (double)eps) * gain[i];
                /* Three roundings: the factor and two products. */
                ck_assert_msg(fabs(out[row * width + i] - want) <= 4 * 0x1p-24 * fabs(want),
                              "row %u[%u] is %.9g, should be %.9g", row, i,
                              (double)out[row * width + i], want);
            }
        }
        float *in_place = floats((size_t)n * width), *alone = floats(width);
        memcpy(in_place, x, (size_t)n * width * sizeof *x);
        b.rms_norm(b.self, in_place, in_place, gain, n, width, eps);
        assert_same_bits(out, in_place, n * width);
        b.rms_norm(b.self, alone, x + (n - 1) * width, gain, 1, width, eps);
        assert_same_bits(out + (n - 1) * width, alone, width);
        free(x);
        free(gain);
        free(out);
        free(in_place);
        free(alone);
    }
    b.close(b.self);
}
END_TEST

START_TEST(rope_turns_pairs_and_leaves_the_rest)
{
    struct backend b;
    if (!open_isa(&b, _i, 2))
        return;
    random_state = 32;
    for (int round = 0; round < 60; round++) {
        bool neox = round % 2;
        uint32_t n = round % 9 == 0 ? 60 : 1 + random_below(4), n_heads = 1 + random_below(5);
        uint32_t head_dim = 2 + 2 * random_below(80),
                 rope_dim = 2 * (1 + random_below(head_dim / 2));
        size_t size = (size_t)n * n_heads * head_dim;
        float *x = floats(size), *y = floats(size), *angles = floats((size_t)n * rope_dim);
        fill_normal(x, size);
        memcpy(y, x, size * sizeof *x);
        for (uint32_t i = 0; i < n * rope_dim / 2; i++) {
            double angle = random_below(1000);
            angles[2 * i] = (float)cos(angle);
            angles[2 * i + 1] = (float)sin(angle);
        }
        b.rope(b.self, y, angles, n, n_heads, head_dim, rope_dim, neox);
        for (size_t head = 0; head < (size_t)n * n_heads; head++) {
            const float *was = x + head * head_dim, *is = y + head * head_dim;
            const float *turn = angles + head / n_heads * rope_dim;
            for (uint32_t i = 0; i < rope_dim / 2; i++) {
                uint32_t j = neox ? i : 2 * i, k = neox ? i + rope_dim / 2 : 2 * i + 1;
                double c = turn[2 * i], s = turn[2 * i + 1];
                double bound = 2 * 0x1p-24 * (fabs(was[j]) + fabs(was[k])); /* two roundings */
                ck_assert(fabs(is[j] - (was[j] * c - was[k] * s)) <= bound);
                ck_assert(fabs(is[k] - (was[j] * s + was[k] * c)) <= bound);
            }
            assert_same_bits(was + rope_dim, is + rope_dim, head_dim - rope_dim);
        }
        free(x);
        free(y);
        free(angles);
    }
    b.close(b.self);
}
END_TEST

/* e^-x is within 2 units in the last place (2^-22 of it at most), and the sum, the quotient and the
 * product round once each. */
START_TEST(swiglu_is_within_its_error_everywhere)
{
    struct backend b;
    if (!open_isa(&b, _i, 2))
        return;
    const uint32_t n = 400000;
    float *gate = floats(n), *up = floats(n), *out = floats(n);
    double worst = 0;
    for (uint32_t i = 0; i < n; i++) {
        gate[i] = -87 + 187 * (float)i / (float)n;
        up[i] = 1;
    }
    b.swiglu(b.self, out, gate, up, n);
    for (uint32_t i = 0; i < n; i++) {
        double want = gate[i] / (1 + exp(-(double)gate[i]));
        worst = fmax(worst, want == 0 ? 0 : fabs(out[i] - want) / fabs(want));
    }
    printf("%s: swiglu is off by %.3g at most\n", all_isas[_i], worst);
    ck_assert_msg(worst <= 0x1p-22 + 3 * 0x1p-24, "off by %.3g", worst);
    free(gate);
    free(up);
    free(out);
    b.close(b.self);
}
END_TEST

START_TEST(swiglu_handles_the_ends_of_the_range)
{
    struct backend b;
    if (!open_isa(&b, _i, 1))
        return;
    float gate[] = {-88, -95, -103, -120, -1e30f, 120, 1e30f, 0, NAN, INFINITY};
    float up[] = {1, 1, 1, 1, 1, 2, 2, 5, 1, 1}, out[10];
    b.swiglu(b.self, out, gate, up, 10);
    for (int i = 0; i < 4; i++) {
        double want = gate[i] / (1 + exp(-(double)gate[i]));
        /* e^-x overflows from 88.7 on; the result lost there is far below the smallest normal
         * number. */
        ck_assert_msg(fabs(out[i] - want) <= 1e-36, "%g: %g, should be %g", (double)gate[i],
                      (double)out[i], want);
    }
    ck_assert_float_eq(out[4], 0);
    ck_assert_float_eq(out[5], 240);
    ck_assert_float_eq(out[6], 2e30f);
    ck_assert_float_eq(out[7], 0);
    ck_assert(isnan(out[8]));
    ck_assert(isinf(out[9]));
    b.close(b.self);
}
END_TEST

START_TEST(elements_do_not_depend_on_their_place)
{
    struct backend b;
    if (!open_isa(&b, _i, 2))
        return;
    random_state = 33;
    float x[130], y[130], all[130], one;
    fill_normal(x, 130);
    fill_normal(y, 130);
    for (uint32_t n = 1; n <= 130; n++) {
        all[n - 1] = 0;
        b.swiglu(b.self, all, x, y, n);
        for (uint32_t i = 0; i < n; i++) {
            b.swiglu(b.self, &one, x + i, y + i, 1);
            assert_same_bits(&one, all + i, 1);
        }
        float sum[131];
        memcpy(sum, x, sizeof x);
        sum[n] = 77;
        b.add(b.self, sum, y, n);
        for (uint32_t i = 0; i < n; i++)
            ck_assert_float_eq(sum[i], x[i] + y[i]);
        ck_assert_float_eq(sum[n], 77);
    }
    const uint32_t rows[3] = {4, 0, 4};
    const struct step step = {.n_logits = 2, .n_hidden = 1, .output_rows = rows};
    b.gather(b.self, all, x, &step, 13);
    assert_same_bits(all, x + 52, 13);
    assert_same_bits(all + 13, x, 13);
    assert_same_bits(all + 26, x + 52, 13);
    b.close(b.self);
}
END_TEST

/* Every half and its neighbourhood: the value itself, the points half-way to the next one (which go
 * to the even fraction) and the floats beside them. */
START_TEST(half_precision_rounds_to_the_nearest_even)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        uint8_t bytes[2] = {(uint8_t)h, (uint8_t)(h >> 8)};
        double value = half_value(bytes);
        float f = half_to_float((uint16_t)h);
        if (isnan(value)) {
            ck_assert(isnan(f) && (half_from_float(f) & 0x7fff) > 0x7c00);
            continue;
        }
        ck_assert_double_eq(f, value);
        if (isinf(value))
            ck_assert_uint_eq(half_from_float(f), 0x7bff | (h & 0x8000));
        else
            ck_assert_uint_eq(half_from_float(f), h);
        if ((h & 0x7fff) >= 0x7bff)
            continue;
        float next = half_to_float((uint16_t)(h + 1)), middle = (f + next) / 2;
        ck_assert_uint_eq(half_from_float(middle), h % 2 ? h + 1 : h);
        ck_assert_uint_eq(half_from_float(nextafterf(middle, f)), h);
        ck_assert_uint_eq(half_from_float(nextafterf(middle, next)), h + 1);
    }
}
END_TEST

START_TEST(all_instruction_sets_round_to_half_alike)
{
    struct backend b;
    if (!open_isa(&b, _i, 1))
        return;
    const struct cpu_kernels *kernels = ((struct cpu *)b.self)->kernels;
    random_state = 34;
    for (int round = 0; round < 20000; round++) {
        float x[21];
        uint16_t out[22] = {[21] = 0x1234};
        uint32_t n = 1 + random_below(21);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t bits = (uint32_t)random_bits();
            memcpy(x + i, &bits, sizeof bits);
            if (round % 2)
                x[i] = ldexpf(random_normal(), (int)random_below(45) - 26);
        }
        out[n] = 0x1234;
        kernels->to_half(out, x, n);
        for (uint32_t i = 0; i < n; i++)
            ck_assert_msg(isnan(x[i]) ? (out[i] & 0x7fff) > 0x7c00
                                      : out[i] == half_from_float(x[i]),
                          "%.9g becomes %04x", (double)x[i], out[i]);
        ck_assert_uint_eq(out[n], 0x1234);
    }
    b.close(b.self);
}
END_TEST

START_TEST(buffers_are_zeroed_and_aligned)
{
    struct backend b;
    struct error e;
    ck_assert(backend_cpu_open(&b, 1, NULL, &e));
    for (size_t n = 0; n < 100; n += 33) {
        float *p = b.alloc(b.self, n, &e);
        ck_assert_ptr_nonnull(p);
        ck_assert_uint_eq((uintptr_t)p % 64, 0);
        for (size_t i = 0; i < n; i++)
            ck_assert_float_eq(p[i], 0);
        b.free(b.self, p);
    }
    ck_assert_ptr_null(b.alloc(b.self, SIZE_MAX / 2, &e));
    ck_assert_str_eq(e.code, "out_of_memory");
    b.close(b.self);
}
END_TEST

struct count_work {
    _Atomic uint32_t calls;
    uint32_t seen[8]; /* by thread; not atomic, so that TSan sees a missing hand-over */
    uint32_t round;
};

static void count_one(void *context, uint32_t thread)
{
    struct count_work *w = context;
    atomic_fetch_add(&w->calls, 1);
    w->seen[thread] += w->round;
}

START_TEST(every_thread_runs_once_a_call)
{
    struct error e;
    for (uint32_t n = 1; n <= 8; n++) {
        struct threads *t = threads_new(n, &e);
        ck_assert_ptr_nonnull(t);
        ck_assert_uint_eq(threads_count(t), n);
        struct count_work w = {0};
        for (w.round = 1; w.round <= 300; w.round++) {
            threads_run(t, count_one, &w);
            if (w.round % 100 == 0) /* let them fall asleep */
                nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        }
        ck_assert_uint_eq(w.calls, 300 * n);
        for (uint32_t i = 0; i < n; i++)
            ck_assert_uint_eq(w.seen[i], 300 * 301 / 2);
        threads_free(t);
    }
}
END_TEST

START_TEST(an_idle_pool_uses_no_processor)
{
    struct error e;
    struct threads *t = threads_new(6, &e);
    struct count_work w = {0};
    ck_assert_ptr_nonnull(t);
    threads_run(t, count_one, &w);
    clock_t before = clock();
    nanosleep(&(struct timespec){.tv_nsec = 400000000}, NULL);
    double used = (double)(clock() - before) / CLOCKS_PER_SEC;
    /* Five spinning workers would use 0.4 s on a single processor. */
    ck_assert_msg(used < 0.2, "%.3f s of processor time in 0.4 s of idling", used);
    threads_free(t);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("rows");
    TCase *tc = suite_case(suite, "rows", 120);
    tcase_add_loop_test(tc, rms_norm_matches_double_precision, 0, N_ISAS);
    tcase_add_loop_test(tc, rope_turns_pairs_and_leaves_the_rest, 0, N_ISAS);
    tcase_add_loop_test(tc, swiglu_is_within_its_error_everywhere, 0, N_ISAS);
    tcase_add_loop_test(tc, swiglu_handles_the_ends_of_the_range, 0, N_ISAS);
    tcase_add_loop_test(tc, elements_do_not_depend_on_their_place, 0, N_ISAS);
    tcase_add_test(tc, half_precision_rounds_to_the_nearest_even);
    tcase_add_loop_test(tc, all_instruction_sets_round_to_half_alike, 0, N_ISAS);
    tcase_add_test(tc, buffers_are_zeroed_and_aligned);
    tcase_add_test(tc, every_thread_runs_once_a_call);
    tcase_add_test(tc, an_idle_pool_uses_no_processor);
    return suite_run(suite);
}
