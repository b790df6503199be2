/* Row-wise kernels of the CUDA backend, with the bits of plain C where that is promised. */
#include "cuda/kernels/kernels.h"

extern "C" {
#include "tests/kernels/weight_cases.h"
}
#include "tests/kernels/device_buffer.h"
#include "tests/suite.h"

typedef std::vector<float> numbers;

static numbers random_numbers(size_t n)
{
    numbers x(n);
    for (float &v : x)
        v = random_normal();
    return x;
}

/* Buffers begin `shift` floats behind an aligned address: 0 in every second case. */
static uint32_t some_shift()
{
    return random_below(2) ? random_below(4) : 0;
}

static numbers shifted(const numbers &x, uint32_t shift)
{
    numbers y(shift, 77.0f);
    y.insert(y.end(), x.begin(), x.end());
    y.insert(y.end(), 3, 77.0f); /* behind, where nothing may be written */
    return y;
}

static void check_guards(const numbers &y, uint32_t shift)
{
    for (uint32_t i = 0; i < shift; i++)
        ck_assert_float_eq(y[i], 77.0f);
    for (size_t i = y.size() - 3; i < y.size(); i++)
        ck_assert_float_eq(y[i], 77.0f);
}

START_TEST(embedding_is_the_formula_to_the_bit)
{
    const enum tensor_type type = all_types[_i];
    const struct tensor_type_info *info = tensor_type_info(type);
    random_state = 10 + (uint64_t)_i;
    for (int round = 0; round < 8; round++) {
        const uint32_t block = info->block_values, rows = 1 + random_below(70);
        const uint32_t cols =
            block == 1 ? 1 + random_below(300) : block * (1 + random_below(block == 32 ? 11 : 3));
        const size_t blocks = (size_t)rows * (cols / block);
        std::vector<uint8_t> file(blocks * info->block_bytes);
        fill_random_blocks(type, file.data(), blocks);
        std::vector<uint8_t> packed(device_weight_bytes(type, rows, cols));
        device_weight_pack(packed.data(), file.data(), type, rows, cols);
        const device_buffer<uint8_t> data(packed);
        std::vector<int32_t> tokens(1 + random_below(9));
        for (int32_t &t : tokens)
            t = (int32_t)random_below(rows);
        tokens[0] = (int32_t)rows - 1;
        const device_buffer<int32_t> device_tokens(tokens);
        const uint32_t shift = some_shift();
        device_buffer<float> out(shifted(numbers(tokens.size() * cols), shift));
        const device_weight w = {(uint32_t)type, rows, cols, data.data, data.n};
        launch_embed(0, out.data + shift, &w, device_tokens.data, (uint32_t)tokens.size());
        const numbers got = out.read();
        for (size_t i = 0; i < tokens.size() * cols; i++) {
            const size_t value = (size_t)tokens[i / cols] * cols + i % cols;
            const float want = (float)block_value(
                type, file.data() + value / block * info->block_bytes, (uint32_t)(value % block));
            ck_assert_msg(got[shift + i] == want, "%s %ux%u: [%zu][%zu] is %.9g, should be %.9g",
                          info->name, rows, cols, i / cols, i % cols, (double)got[shift + i],
                          (double)want);
        }
        check_guards(got, shift);
    }
}
END_TEST

/* The square root, division and the two products round 5 times by 2^-24; the sum of squares is in
 * double. */
START_TEST(rms_norm_divides_by_the_root_of_the_mean_square)
{
    static const uint32_t widths[] = {1, 7, 32, 64, 100, 128, 511, 512, 513, 576, 1030, 4096};
    random_state = 20 + (uint64_t)_i;
    for (uint32_t width : widths) {
        const uint32_t n = 1 + random_below(width < 600 ? 20 : 3), shift = some_shift();
        const bool in_place = random_below(2);
        const float eps = 1e-5f;
        const numbers x = random_numbers((size_t)n * width), gain = random_numbers(width);
        device_buffer<float> from(shifted(x, shift)), to(shifted(x, shift)), gains(gain);
        launch_rms_norm(0, (in_place ? from : to).data + shift, from.data + shift, gains.data, n,
                        width, eps);
        const numbers got = (in_place ? from : to).read();
        for (size_t i = 0; i < x.size(); i++) {
            double squares = 0;
            for (uint32_t c = 0; c < width; c++)
                squares += (double)x[i / width * width + c] * x[i / width * width + c];
            const double want = x[i] / sqrt(squares / width + eps) * gain[i % width];
            ck_assert_msg(fabs(got[shift + i] - want) <= fabs(want) * 5 * 0x1p-24,
                          "width %u, row %zu, element %zu: %.9g, should be %.9g", width, i / width,
                          i % width, (double)got[shift + i], want);
        }
        check_guards(got, shift);
    }
}
END_TEST

START_TEST(rope_turns_pairs_as_plain_c_does)
{
    random_state = 30 + (uint64_t)_i;
    for (int round = 0; round < 40; round++) {
        const bool neox = round % 2, round_sizes = round % 4 < 2;
        const uint32_t head_dim = round_sizes ? 64 : 2 * (1 + random_below(64));
        const uint32_t rope_dim = random_below(3) ? head_dim : 2 * random_below(head_dim / 2 + 1);
        const uint32_t n = 1 + random_below(5), n_heads = 1 + random_below(9), shift = some_shift();
        numbers x = random_numbers((size_t)n * n_heads * head_dim);
        const numbers angles = random_numbers((size_t)n * rope_dim);
        device_buffer<float> device_x(shifted(x, shift)), device_angles(angles);
        launch_rope(0, device_x.data + shift, device_angles.data, n, n_heads, head_dim, rope_dim,
                    neox);
        const numbers got = device_x.read();
        for (uint32_t h = 0; h < n * n_heads; h++) {
            for (uint32_t p = 0; p < rope_dim / 2; p++) {
                const float c = angles[(size_t)h / n_heads * rope_dim + 2 * p];
                const float s = angles[(size_t)h / n_heads * rope_dim + 2 * p + 1];
                float *a = &x[(size_t)h * head_dim + (neox ? p : 2 * p)];
                float *b = neox ? a + rope_dim / 2 : a + 1;
                /* Each product is rounded: no contraction. */
                const volatile float ac = *a * c, bs = *b * s, as = *a * s, bc = *b * c;
                *a = ac - bs;
                *b = as + bc;
            }
        }
        for (size_t i = 0; i < x.size(); i++)
            ck_assert_msg(
                got[shift + i] == x[i],
                "%s, %u of %u dimensions: head %zu, dimension %zu is %.9g, should be %.9g",
                neox ? "halves" : "neighbours", rope_dim, head_dim, i / head_dim, i % head_dim,
                (double)got[shift + i], (double)x[i]);
        check_guards(got, shift);
    }
}
END_TEST

START_TEST(add_adds_and_touches_nothing_else)
{
    random_state = 40;
    for (uint32_t n : {1u, 3u, 4u, 255u, 1024u, 1027u, 5000u}) {
        for (uint32_t shift : {0u, 1u}) {
            const numbers x = random_numbers(n), y = random_numbers(n);
            device_buffer<float> dx(shifted(x, shift)), dy(y);
            launch_add(0, dx.data + shift, dy.data, n);
            const numbers got = dx.read();
            for (uint32_t i = 0; i < n; i++)
                ck_assert_msg(got[shift + i] == x[i] + y[i], "%u of %u: %.9g, should be %.9g", i, n,
                              (double)got[shift + i], (double)(x[i] + y[i]));
            check_guards(got, shift);
        }
    }
}
END_TEST

START_TEST(swiglu_matches_double_precision)
{
    random_state = 50;
    for (uint32_t n : {1u, 3u, 4u, 255u, 1024u, 1027u, 5000u}) {
        for (uint32_t shift : {0u, 1u}) {
            numbers gate = random_numbers(n);
            const numbers up = random_numbers(n);
            for (uint32_t i = 0; i < n; i += 7)
                gate[i] *= 40; /* where e^-gate is infinite or nothing */
            device_buffer<float> dg(shifted(gate, shift)), du(up);
            launch_swiglu(0, dg.data + shift, dg.data + shift, du.data, n);
            const numbers got = dg.read();
            for (uint32_t i = 0; i < n; i++) {
                const double want = gate[i] / (1 + exp(-(double)gate[i])) * up[i];
                /* expf within 2 units in the last place, addition, division, product; results below
                 * the smallest normal number may become 0. */
                ck_assert_msg(fabs(got[shift + i] - want) <= fabs(want) * 7 * 0x1p-24 + 0x1p-120,
                              "swiglu(%g, %g) is %.9g, should be %.9g", (double)gate[i],
                              (double)up[i], (double)got[shift + i], want);
            }
            check_guards(got, shift);
        }
    }
}
END_TEST

START_TEST(gather_copies_the_rows_that_are_named)
{
    random_state = 60;
    for (uint32_t width : {1u, 7u, 64u, 576u, 1201u}) {
        for (uint32_t shift : {0u, 1u}) {
            const uint32_t n_rows = 1 + random_below(20);
            const numbers x = random_numbers((size_t)n_rows * width);
            std::vector<uint32_t> rows(1 + random_below(9));
            for (uint32_t &r : rows)
                r = random_below(n_rows);
            device_buffer<float> dx(x), out(shifted(numbers(rows.size() * width), shift));
            device_buffer<uint32_t> device_rows(rows);
            launch_gather(0, out.data + shift, dx.data, device_rows.data, (uint32_t)rows.size(),
                          width);
            const numbers got = out.read();
            for (size_t i = 0; i < rows.size() * width; i++)
                ck_assert_msg(got[shift + i] == x[(size_t)rows[i / width] * width + i % width],
                              "row %u of width %u differs at %zu", rows[i / width], width,
                              i % width);
            check_guards(got, shift);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda_rows");
    TCase *tc = suite_case(suite, "cuda_rows", 240);
    tcase_add_loop_test(tc, embedding_is_the_formula_to_the_bit, 0, N_TYPES);
    tcase_add_loop_test(tc, rms_norm_divides_by_the_root_of_the_mean_square, 0, 4);
    tcase_add_loop_test(tc, rope_turns_pairs_as_plain_c_does, 0, 2);
    tcase_add_test(tc, add_adds_and_touches_nothing_else);
    tcase_add_test(tc, swiglu_matches_double_precision);
    tcase_add_test(tc, gather_copies_the_rows_that_are_named);
    return suite_run(suite);
}
