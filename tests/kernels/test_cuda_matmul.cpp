/* Matrix products of the CUDA backend, every type of weight, against double precision, and the
 * promise that an output depends on its own row of x. */
#include "cuda/kernels/kernels.h"
#include "cuda/kernels/matmul.h"

extern "C" {
#include "tests/kernels/weight_cases.h"
}
#include "tests/kernels/device_buffer.h"
#include "tests/suite.h"

typedef std::vector<float> numbers;

/* A weight as in the file, and on the device. */
struct matrix {
    enum tensor_type type;
    uint32_t rows, cols;
    std::vector<uint8_t> file;
    device_buffer<uint8_t> packed;

    matrix(enum tensor_type t, uint32_t r, uint32_t c)
        : type(t), rows(r), cols(c), file(random_file(t, r, c)), packed(pack())
    {
    }
    device_weight weight() const
    {
        return {(uint32_t)type, rows, cols, packed.data, packed.n};
    }
    const uint8_t *block(uint32_t row, uint32_t col) const
    {
        const struct tensor_type_info *info = tensor_type_info(type);
        return file.data() +
               ((size_t)row * (cols / info->block_values) + col / info->block_values) *
                   info->block_bytes;
    }

  private:
    static std::vector<uint8_t> random_file(enum tensor_type t, uint32_t r, uint32_t c)
    {
        const struct tensor_type_info *info = tensor_type_info(t);
        const size_t blocks = (size_t)r * (c / info->block_values);
        std::vector<uint8_t> bytes(blocks * info->block_bytes);
        fill_random_blocks(t, bytes.data(), blocks);
        return bytes;
    }
    std::vector<uint8_t> pack() const
    {
        std::vector<uint8_t> to(device_weight_bytes(type, rows, cols));
        device_weight_pack(to.data(), file.data(), type, rows, cols);
        return to;
    }
};

/* The value of a weight, and the size of the terms that it is the sum of (a scaled code and a
 * minimum): roundings are relative to those. */
static void value_and_size(const matrix &m, uint32_t row, uint32_t col, double *value, double *size)
{
    const struct tensor_type_info *info = tensor_type_info(m.type);
    const uint8_t *block = m.block(row, col);
    const uint32_t i = col % info->block_values;
    *value = block_value(m.type, block, i);
    *size = fabs(*value);
    const int codes = info->scales == SCALES_MIN ? 4 : info->scales == SCALES_K ? 16 : 0;
    if (codes != 0) {
        uint8_t without[256] = {0};
        memcpy(without, block, codes);
        const double minimum = block_value(m.type, without, i);
        *size = fabs(minimum) + fabs(*value - minimum);
    }
}

/* How far a product may be from the truth, for each unit of sum |w| |x|, of sum |w|, of sum |x|. */
struct tolerance {
    double both, weights, xs;
};

static tolerance tolerance_of(const matrix &m, uint32_t n, float size_of_x)
{
    /* Sums in fp32: along a chain of at most cols / 16 products of the tensor cores and as many
     * scaled additions, or cols / 4 fused multiply-adds (cols of them in the tiles of F32), and 40
     * to fold them, each within 2^-23 (tensor cores cut where others round) of what has been added
     * up so far. */
    if (m.type == TENSOR_F32)
        return {(m.cols + 40) * 0x1p-24, 0, 0};
    const double sums = (m.cols / 4 + 40) * 0x1p-23;
    if (n <= 16) /* x in three parts of 8 bits, or two of 11 of which the second may be subnormal */
        return m.type == TENSOR_BF16 ? tolerance{sums + 0x1p-23, 0, 0}
                                     : tolerance{sums + 0x1p-21, 0x1p-29, 0};
    /* x as halves, subnormal ones after rows were scaled. Weights become halves: quantised ones
     * round their scale, their minimum and the result, and subnormal scales are multiplied by codes
     * up to 31. */
    const double subnormal = 0x1p-25 * fmax(1, size_of_x * 0x1p-12);
    const double roundings = m.type == TENSOR_F16 || m.type == TENSOR_BF16 ? 1 : 4;
    return {sums + roundings * 0x1p-11, subnormal, 33 * 0x1p-25};
}

static numbers random_numbers(size_t n, float size)
{
    numbers x(n);
    for (float &v : x)
        v = random_normal() * size;
    return x;
}

static numbers product(const matrix &m, const numbers &x, uint32_t n, const numbers *bias)
{
    device_buffer<float> dx(x), out((size_t)n * m.rows), dbias(bias ? *bias : numbers(1));
    device_buffer<uint8_t> scratch(matmul_scratch_bytes(n, m.rows, m.cols));
    const device_weight w = m.weight();
    const matmul_job job = {out.data, &w, bias ? dbias.data : NULL};
    launch_products(0, NULL, &job, 1, dx.data, n, scratch.data);
    return out.read();
}

static void check_product(enum tensor_type type, uint32_t rows, uint32_t cols, uint32_t n,
                          bool with_bias, float size_of_x)
{
    const matrix m(type, rows, cols);
    const numbers x = random_numbers((size_t)n * cols, size_of_x),
                  bias = random_numbers(rows, size_of_x);
    const numbers out = product(m, x, n, with_bias ? &bias : NULL);
    const tolerance t = tolerance_of(m, n, size_of_x);
    std::vector<double> values(cols), sizes(cols);
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t c = 0; c < cols; c++)
            value_and_size(m, r, c, &values[c], &sizes[c]);
        for (uint32_t i = 0; i < n; i++) {
            double want = with_bias ? bias[r] : 0, size = fabs(want), weights = 0, xs = 0;
            for (uint32_t c = 0; c < cols; c++) {
                const double xc = x[(size_t)i * cols + c];
                want += values[c] * xc;
                size += sizes[c] * fabs(xc);
                weights += sizes[c];
                xs += fabs(xc);
            }
            const double bound = t.both * size + t.weights * weights + t.xs * xs;
            const double got = out[(size_t)i * rows + r];
            ck_assert_msg(fabs(got - want) <= bound,
                          "%s %ux%u n=%u: out[%u][%u] is %.9g, should be %.9g +- %.3g",
                          tensor_type_info(type)->name, rows, cols, n, i, r, got, want, bound);
        }
    }
}

/* Numbers of columns that the type allows; for unquantised types also such that do not fill 16
 * bytes. */
static uint32_t some_cols(enum tensor_type type, uint32_t most_blocks)
{
    const uint32_t block = tensor_type_info(type)->block_values;
    return block == 1
               ? 1 + random_below(most_blocks * 32)
               : block * (1 + random_below(block == 32 ? most_blocks : (most_blocks + 7) / 8));
}

START_TEST(products_of_few_rows_match_double_precision)
{
    static const uint32_t counts[] = {1, 2, 3, 4, 5, 7, 8, 9, 13, 16};
    const enum tensor_type type = all_types[_i];
    random_state = 100 + (uint64_t)_i;
    for (uint32_t n : counts)
        check_product(type, 1 + random_below(75), some_cols(type, 20), n, n % 2 == 0, 1);
}
END_TEST

START_TEST(products_of_many_rows_match_double_precision)
{
    static const uint32_t counts[] = {17, 33, 64, 65, 131};
    const enum tensor_type type = all_types[_i];
    random_state = 200 + (uint64_t)_i;
    for (uint32_t n : counts)
        check_product(type, 1 + random_below(150), some_cols(type, 10), n, n % 2 == 0, 1);
}
END_TEST

/* Several chunks of x, more units than the rings have stages, columns split over blocks. */
START_TEST(wide_matrices_work_too)
{
    const enum tensor_type type = all_types[_i];
    random_state = 300 + (uint64_t)_i;
    check_product(type, 33, 2816, 1, true, 1);
    check_product(type, 5, 2816, 8, false, 1);
    check_product(type, 5, 2816, 16, false, 1);
    check_product(type, 200, 768, 6, true, 1);
    check_product(type, 135, 2816, 16, true, 1);
    check_product(type, 37, 1280, 17, true, 1);
    check_product(type, 100, 768, 40, false, 1);
    check_product(type, 130, 768, 80, true, 1);
}
END_TEST

START_TEST(large_and_small_activations_keep_their_precision)
{
    const enum tensor_type type = all_types[_i];
    random_state = 400 + (uint64_t)_i;
    for (float size : {1e-3f, 30.0f, 1e5f}) {
        check_product(type, 40, 256, 3, false, size);
        check_product(type, 40, 256, 20, true, size);
    }
}
END_TEST

static void check_same_bits(const matrix &m, uint32_t n, uint32_t n_more)
{
    const numbers x = random_numbers((size_t)n_more * m.cols, 1),
                  together = product(m, x, n_more, NULL);
    for (uint32_t i = 0; i + n <= n_more; i += n + 2) {
        const numbers some(x.begin() + i * m.cols, x.begin() + (i + n) * m.cols);
        const numbers apart = product(m, some, n, NULL);
        for (size_t r = 0; r < (size_t)n * m.rows; r++)
            ck_assert_msg(apart[r] == together[(size_t)i * m.rows + r],
                          "%s: row %zu, output %zu is %.9g among %u and %.9g among %u",
                          tensor_type_info(m.type)->name, i + r / m.rows, r % m.rows,
                          (double)apart[r], n, (double)together[(size_t)i * m.rows + r], n_more);
    }
}

/* For each way that matmul.cu chooses from. */
START_TEST(a_row_has_the_same_bits_alone_and_in_a_crowd)
{
    const enum tensor_type type = all_types[_i];
    random_state = 500 + (uint64_t)_i;
    const matrix m(type, 45, 1280), wide(type, 150, 768), small(type, 45, 256);
    check_same_bits(m, 1, type == TENSOR_F32 ? 8 : 16);
    check_same_bits(wide, 1, type == TENSOR_F32 ? 8 : 7);
    check_same_bits(wide, 5, type == TENSOR_F32 ? 8 : 16);
    check_same_bits(small, type == TENSOR_F32 ? 9 : 17, 64);
    check_same_bits(small, 65, 150);
}
END_TEST

/* More tiles of rows than blocks at once: a block goes on to another tile, whose first weights
 * it has already fetched. */
START_TEST(tall_matrices_work_too)
{
    const enum tensor_type type = all_types[_i];
    random_state = 600 + (uint64_t)_i;
    check_product(type, 8704 + random_below(90), 512, 1, true, 1);
    check_product(type, 8704 + random_below(90), 512, 5, false, 1);
    check_product(type, 2400 + random_below(90), 768, 16, true, 1);
}
END_TEST

/* Weights that share a launch have the bits that each has alone, in every way. */
START_TEST(products_of_one_x_do_not_meet)
{
    const enum tensor_type type = all_types[_i];
    random_state = 700 + (uint64_t)_i;
    const uint32_t cols = 768, rows[] = {70, 257, 33, 512, 1};
    std::vector<matrix *> weights;
    for (uint32_t r : rows)
        weights.push_back(new matrix(weights.size() == 2 ? TENSOR_Q6_K : type, r, cols));
    for (uint32_t n : {1u, 2u, 4u, 9u, 16u, 40u, 70u}) {
        const numbers x = random_numbers((size_t)n * cols, 1), bias = random_numbers(512, 1);
        device_buffer<float> dx(x), dbias(bias);
        device_buffer<uint8_t> scratch(matmul_scratch_bytes(n, 512, cols));
        std::vector<device_buffer<float> *> outs;
        std::vector<device_weight> on_device;
        std::vector<matmul_job> jobs;
        for (const matrix *m : weights) {
            on_device.push_back(m->weight());
            outs.push_back(new device_buffer<float>((size_t)n * m->rows));
        }
        for (size_t i = 0; i < weights.size(); i++)
            jobs.push_back({outs[i]->data, &on_device[i], i % 2 ? dbias.data : NULL});
        launch_products(0, NULL, jobs.data(), (uint32_t)jobs.size(), dx.data, n, scratch.data);
        for (size_t i = 0; i < weights.size(); i++) {
            const numbers some(bias.begin(), bias.begin() + rows[i]);
            const numbers together = outs[i]->read(),
                          alone = product(*weights[i], x, n, i % 2 ? &some : NULL);
            ck_assert_msg(memcmp(together.data(), alone.data(), alone.size() * 4) == 0,
                          "weight %zu, %u rows of x: not the bits that it has alone", i, n);
            delete outs[i];
        }
    }
    for (matrix *m : weights)
        delete m;
}
END_TEST

/* The input of cuBLAS: the weights, each rounded to a half. */
START_TEST(unpacked_weights_are_the_files_numbers)
{
    for (int i = 0; i < N_TYPES; i++) {
        const enum tensor_type type = all_types[i];
        if (tensor_type_info(type)->block_values == 1)
            continue;
        random_state = 800 + (uint64_t)i;
        const matrix m(type, 75, 768);
        const device_weight w = m.weight();
        for (uint32_t first : {0u, 32u}) {
            const uint32_t n = m.rows - first;
            device_buffer<uint16_t> out((size_t)n * m.cols);
            launch_matmul_unpack(0, out.data, &w, first, n);
            const std::vector<uint16_t> got = out.read();
            for (uint32_t r = 0; r < n; r++)
                for (uint32_t c = 0; c < m.cols; c++) {
                    const __half half = __ushort_as_half(got[(size_t)r * m.cols + c]);
                    double value, size;
                    value_and_size(m, first + r, c, &value, &size);
                    /* As in tolerance_of. */
                    const double bound = 4 * size * 0x1p-11 + 33 * 0x1p-25;
                    ck_assert_msg(fabs((double)__half2float(half) - value) <= bound,
                                  "%s: row %u, column %u is %g, not %g",
                                  tensor_type_info(type)->name, first + r, c,
                                  (double)__half2float(half), value);
                }
        }
    }
}
END_TEST

START_TEST(quantised_weights_take_the_files_bytes)
{
    for (int i = 0; i < N_TYPES; i++) {
        const struct tensor_type_info *info = tensor_type_info(all_types[i]);
        const uint64_t want = (uint64_t)64 * (768 / info->block_values) * info->block_bytes;
        ck_assert_uint_eq(device_weight_bytes(all_types[i], 64, 768), want);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda_matmul");
    TCase *tc = suite_case(suite, "cuda_matmul", 240);
    tcase_add_loop_test(tc, products_of_few_rows_match_double_precision, 0, N_TYPES);
    tcase_add_loop_test(tc, products_of_many_rows_match_double_precision, 0, N_TYPES);
    tcase_add_loop_test(tc, wide_matrices_work_too, 0, N_TYPES);
    tcase_add_loop_test(tc, large_and_small_activations_keep_their_precision, 0, N_TYPES);
    tcase_add_loop_test(tc, a_row_has_the_same_bits_alone_and_in_a_crowd, 0, N_TYPES);
    tcase_add_loop_test(tc, tall_matrices_work_too, 0, N_TYPES);
    tcase_add_loop_test(tc, products_of_one_x_do_not_meet, 0, N_TYPES);
    tcase_add_test(tc, unpacked_weights_are_the_files_numbers);
    tcase_add_test(tc, quantised_weights_take_the_files_bytes);
    return suite_run(suite);
}
