/* The emulation against plain arithmetic on the host: every primitive that kernels use, the
 * register layouts of matrix products, the order of threads, and that mistakes in kernels are
 * reported. */
#include "tests/cuda_emu/device_array.h"
#include "cuda/emulated/fibers.h"
#include "tests/cuda_emu/kernels.cu"
#include "tests/suite.h"

#include <algorithm>
#include <random>
#include <string>

static const uint64_t seeds[] = {0, 1, 2, 3, 99};
static std::mt19937 numbers;

static int number(int low, int high)
{
    return std::uniform_int_distribution<int>(low, high)(numbers);
}

static std::string last_fault;
static void remember_fault(const char *message, void *)
{
    last_fault = message;
}
static bool reported(const char *part)
{
    return last_fault.find(part) != std::string::npos;
}

START_TEST(every_thread_knows_its_coordinates)
{
    dim3 grid(3, 2, 4), block(5, 3, 7);
    device_array<unsigned> out(24 * 105);
    emu_set_seed(seeds[_i]);
    LAUNCH(coordinates, grid, block, 0, nullptr, out.device);
    out.download();
    size_t i = 0;
    for (unsigned b = 0; b < 24; b++) {
        for (unsigned t = 0; t < 105; t++, i++) {
            unsigned expected =
                b % 3 | b / 3 % 2 << 4 | b / 6 << 8 | t % 5 << 12 | t / 5 % 3 << 20 | t / 15 << 26;
            ck_assert_uint_eq(out.host[i], expected);
        }
    }
}
END_TEST

START_TEST(a_grid_that_does_not_divide_stays_in_bounds)
{
    int n = 1000;
    device_array<float> a(n), b(n), out(n);
    for (int i = 0; i < n; i++) {
        a.host[i] = i;
        b.host[i] = 0.5f * i;
    }
    LAUNCH(add_vectors, 8, 128, 0, nullptr, out.device, a.upload(), b.upload(), n);
    out.download();
    for (int i = 0; i < n; i++)
        ck_assert_float_eq(out.host[i], 1.5f * i);
}
END_TEST

START_TEST(blocks_sum_through_shared_memory_in_any_order)
{
    int n_blocks = 7, n = 333;
    device_array<int> in(n_blocks * n), out(n_blocks);
    for (int &v : in.host)
        v = number(-1000, 1000);
    in.upload();
    emu_set_seed(seeds[_i]);
    MUST(launch_sum_blocks(out.device, in.device, n_blocks, n, nullptr));
    out.download();
    for (int b = 0; b < n_blocks; b++) {
        int sum = 0;
        for (int i = 0; i < n; i++)
            sum += in.host[b * n + i];
        ck_assert_int_eq(out.host[b], sum);
    }
}
END_TEST

START_TEST(warp_primitives_agree_with_loops)
{
    const unsigned masks[] = {0xffffffffu, 0x0000ffffu, 0x80000001u, 0x00f0f0f0u, 0x00000010u};
    device_array<lane_answers> out(32);
    device_array<int> v(32);
    emu_set_seed(seeds[_i]);
    for (unsigned mask : masks) {
        for (int &x : v.host)
            x = number(0, 40);
        LAUNCH(warp_primitives, 1, 32, 0, nullptr, out.device, v.upload(), mask);
        out.download();
        const std::vector<int> &x = v.host;
        unsigned ballot = 0, bits_and = ~0u, bits_or = 0;
        int first = -1, add = 0, smallest = 1000, largest = -1;
        bool any = false;
        for (int l = 0; l < 32; l++) {
            if (!(mask >> l & 1))
                continue;
            first = first < 0 ? l : first;
            ballot |= (unsigned)(x[l] & 1) << l;
            any |= x[l] == 7;
            add += x[l];
            smallest = std::min(smallest, x[l]);
            largest = std::max(largest, x[l]);
            bits_and &= (unsigned)x[l];
            bits_or |= (unsigned)x[l];
        }
        for (int l = 0; l < 32; l++) {
            if (!(mask >> l & 1))
                continue;
            const lane_answers &a = out.host[l];
            unsigned match = 0;
            for (int o = 0; o < 32; o++)
                match |= (mask >> o & 1) && x[o] % 3 == x[l] % 3 ? 1u << o : 0;
            ck_assert_int_eq(a.index, x[first]);
            ck_assert_double_eq(a.wide, x[first] + 0.25);
            ck_assert_uint_eq(a.ballot, ballot);
            ck_assert_uint_eq(a.match, match);
            ck_assert_int_eq(a.any, any);
            ck_assert_int_eq(a.all, 1);
            ck_assert_int_eq(a.add, add);
            ck_assert_int_eq(a.smallest, smallest);
            ck_assert_int_eq(a.largest, largest);
            ck_assert_uint_eq(a.bits_and, bits_and);
            ck_assert_uint_eq(a.bits_or, bits_or);
            if (mask != 0xffffffffu)
                continue;
            ck_assert_int_eq(a.up, x[l >= 3 ? l - 3 : l]);
            ck_assert_int_eq(a.down, x[l + 5 < 32 ? l + 5 : l]);
            ck_assert_int_eq(a.exclusive_or, x[l ^ 9]);
            ck_assert_int_eq(a.index8, x[l / 8 * 8 + 2]);
            ck_assert_int_eq(a.down8, x[l % 8 + 3 < 8 ? l + 3 : l]);
        }
    }
}
END_TEST

/* Products of small whole numbers are exact in every format, so a number in a wrong place shows. */
template <int type, bool b_by_rows> static void check_product_16_bits()
{
    device_array<uint16_t> a(16 * 16), b(16 * 8);
    device_array<float> c(16 * 8);
    std::vector<int> wa(16 * 16), wb(16 * 8); /* wb[k][column] */
    for (size_t i = 0; i < wa.size(); i++) {
        wa[i] = number(-100, 100);
        a.host[i] = type == 0 ? __half_as_ushort(__half(wa[i]))
                              : __bfloat16_as_ushort(__nv_bfloat16(wa[i]));
    }
    for (int k = 0; k < 16; k++) {
        for (int n = 0; n < 8; n++) {
            int v = wb[k * 8 + n] = number(-100, 100);
            b.host[b_by_rows ? k * 8 + n : n * 16 + k] =
                type == 0 ? __half_as_ushort(__half(v)) : __bfloat16_as_ushort(__nv_bfloat16(v));
        }
    }
    LAUNCH((multiply_16_bits<type, b_by_rows>), 1, 32, 0, nullptr, c.device, a.upload(),
           b.upload());
    c.download();
    for (int m = 0; m < 16; m++) {
        for (int n = 0; n < 8; n++) {
            int sum = 0;
            for (int k = 0; k < 16; k++)
                sum += wa[m * 16 + k] * wb[k * 8 + n];
            ck_assert_float_eq(c.host[m * 8 + n], (float)sum);
        }
    }
}

START_TEST(fragments_multiply_as_matrices)
{
    emu_set_seed(seeds[_i]);
    check_product_16_bits<0, false>();
    check_product_16_bits<0, true>();
    check_product_16_bits<1, false>();
    check_product_16_bits<1, true>();

    device_array<int8_t> a(16 * 32), b(8 * 32);
    device_array<int> c(16 * 8);
    for (int8_t &v : a.host)
        v = (int8_t)number(-128, 127);
    for (int8_t &v : b.host)
        v = (int8_t)number(-128, 127);
    for (int &v : c.host)
        v = number(-100000, 100000);
    std::vector<int> before = c.host;
    LAUNCH(multiply_8_bits, 1, 32, 0, nullptr, c.upload(), a.upload(), b.upload());
    c.download();
    for (int m = 0; m < 16; m++) {
        for (int n = 0; n < 8; n++) {
            int sum = before[m * 8 + n];
            for (int k = 0; k < 32; k++)
                sum += a.host[m * 32 + k] * b.host[n * 32 + k];
            ck_assert_int_eq(c.host[m * 8 + n], sum);
        }
    }
}
END_TEST

START_TEST(ldmatrix_transposes)
{
    device_array<uint16_t> in(256);
    device_array<uint32_t> out(160);
    for (uint16_t &v : in.host)
        v = (uint16_t)number(0, 65535);
    LAUNCH(transpose_matrices, 1, 32, 0, nullptr, out.device, in.upload());
    out.download();
    for (int m = 0; m < 5; m++) {
        const uint16_t *matrix = &in.host[64 * (m < 4 ? m : 2)];
        for (int l = 0; l < 32; l++) { /* lane l holds row l / 4 of the transposed matrix */
            int row = l / 4, column = 2 * (l % 4);
            uint32_t expected = matrix[column * 8 + row] | (uint32_t)matrix[(column + 1) * 8 + row]
                                                               << 16;
            ck_assert_uint_eq(out.host[32 * m + l], expected);
        }
    }
}
END_TEST

template <bool waits> static bool pipeline_copies(unsigned tail)
{
    int n = 5;
    device_array<uint4> in(32 * n), out(32 * n);
    unsigned next = 1;
    for (uint4 &v : in.host)
        v = {next++, next++, next++, next++};
    LAUNCH((copy_pipeline<waits>), 1, 32, 0, nullptr, out.device, in.upload(), n, tail);
    out.download();
    std::vector<uint4> expected = in.host;
    for (int i = 32 * (n - 1); i < 32 * n; i++)
        memset((char *)&expected[i] + tail, 0, 16 - tail);
    return !memcmp(expected.data(), out.host.data(), expected.size() * sizeof(uint4));
}

START_TEST(asynchronous_copies_arrive_at_the_wait_that_covers_them)
{
    ck_assert(pipeline_copies<true>(16));
    ck_assert(pipeline_copies<true>(4));
    ck_assert(pipeline_copies<true>(0));
    ck_assert_msg(!pipeline_copies<false>(16), "a forgotten wait went unnoticed");
}
END_TEST

START_TEST(atomics_count_every_thread)
{
    unsigned n_blocks = 5, n_threads = 70, n = n_blocks * n_threads, bits_xor = 0;
    device_array<totals> t(1);
    t.host[0] = {};
    t.host[0].smallest = 1000;
    t.host[0].bits_and = ~0u;
    emu_set_seed(seeds[_i]);
    LAUNCH(count_with_atomics, n_blocks, n_threads, 0, nullptr, t.upload());
    t.download();
    for (unsigned i = 0; i < n; i++)
        bits_xor ^= i;
    ck_assert_int_eq(t.host[0].add, (int)(n * (n - 1) / 2));
    ck_assert_int_eq(t.host[0].smallest, 0);
    ck_assert_int_eq(t.host[0].largest, (int)n - 1);
    ck_assert_uint_eq(t.host[0].bits_or, ~0u);
    ck_assert_uint_eq(t.host[0].bits_and, ~0x7fu);
    ck_assert_uint_eq(t.host[0].bits_xor, bits_xor);
    ck_assert_uint_eq(t.host[0].increments, n % 10);
    ck_assert_uint_eq(t.host[0].wide >> 32, n);
    ck_assert_float_eq(t.host[0].real, 0.5f * n);
    ck_assert_double_eq(t.host[0].real_wide, 0.25 * n);
    ck_assert_int_eq(t.host[0].swapped, (int)(2 * n));
}
END_TEST

START_TEST(barriers_count_predicates)
{
    int n = 96 + 7; /* the last warp is not full */
    device_array<int> flags(n), counts(3);
    emu_set_seed(seeds[_i]);
    for (int set : {0, 1, 50, n}) {
        for (int i = 0; i < n; i++)
            flags.host[i] = i < set ? 4 : 0;
        LAUNCH(vote_block, 1, n, 0, nullptr, counts.device, flags.upload());
        counts.download();
        ck_assert_int_eq(counts.host[0], set);
        ck_assert_int_eq(counts.host[1], set == n);
        ck_assert_int_eq(counts.host[2], set > 0);
    }
}
END_TEST

START_TEST(shared_memory_starts_unknown_in_every_block)
{
    device_array<unsigned> out(2 * 6);
    LAUNCH(read_unwritten, 6, 1, 32 * sizeof(unsigned), nullptr, out.device);
    for (unsigned v : out.download())
        ck_assert_uint_eq(v, 0xffffffffu);
}
END_TEST

/* Reverses 128 numbers under each seed; returns how many seeds gave a wrong answer. */
template <bool with_barrier> static int wrong_reversals()
{
    int wrong = 0;
    device_array<int> data(128);
    for (uint64_t seed = 0; seed < 10; seed++) {
        emu_set_seed(seed);
        for (int i = 0; i < 128; i++)
            data.host[i] = 1000 + i;
        LAUNCH((reverse<with_barrier>), 1, 128, 0, nullptr, data.upload());
        data.download();
        bool right = true;
        for (int i = 0; i < 128; i++)
            right = right && data.host[i] == 1127 - i;
        wrong += !right;
    }
    return wrong;
}

START_TEST(a_missing_barrier_gives_wrong_numbers)
{
    ck_assert_int_eq(wrong_reversals<true>(), 0);
    ck_assert_int_eq(wrong_reversals<false>(), 10);
}
END_TEST

/* Runs one mistake; the device must be broken after it, and work again after emu_reset. */
static void make(mistake what, unsigned n_threads, int n)
{
    device_array<int> out(n_threads);
    last_fault.clear();
    emu_on_fault(remember_fault, nullptr);
    LAUNCH(make_mistake, dim3(1, 2), n_threads, 64 * sizeof(int), nullptr, what, out.device, n);
    cudaError_t error = cudaDeviceSynchronize();
    ck_assert_msg(!last_fault.empty(), "mistake %d went unnoticed", what);
    ck_assert_msg(reported("make_mistake"), "%s", last_fault.c_str());
    ck_assert_msg(error == cudaErrorLaunchFailure || error == cudaErrorIllegalAddress, "%s",
                  cudaGetErrorString(error));
    emu_reset();
    emu_on_fault(nullptr, nullptr);
    ck_assert_int_eq(wrong_reversals<true>(), 0); /* fibers and their stacks are fit for use */
}

START_TEST(mistakes_name_the_thread_and_the_fault)
{
    static const struct {
        mistake what;
        unsigned n_threads;
        const char *parts[2];
    } cases[] = {
        {barrier_in_two_branches, 64, {"barrier in divergent code", "__syncthreads"}},
        {barrier_of_a_few, 64, {"waits for ever", "__shfl_sync"}},
        {shuffle_names_a_lane_that_left, 32, {"lane 5", "has left"}},
        {shuffle_names_a_lane_that_left, 20, {"names lane", "never was"}},
        {shuffle_outside_its_mask, 32, {"lane 0", "not in its own mask"}},
        {shuffle_reads_an_unnamed_lane, 32, {"reads from lane", "does not name"}},
        {shuffle_never_met, 32, {"waits for ever", "__ballot_sync"}},
        {misaligned_copy, 32, {"cp.async", "multiples of 16"}},
        {misaligned_ldmatrix, 32, {"ldmatrix", "not a multiple of 16"}},
    };
    for (const auto &c : cases) {
        emu_set_seed(seeds[_i]);
        make(c.what, c.n_threads, 0);
        ck_assert_msg(reported("block (0,") && reported("thread (") && reported("kernels.cu:"),
                      "%s", last_fault.c_str());
        for (const char *part : c.parts)
            ck_assert_msg(reported(part), "'%s' is not in: %s", part, last_fault.c_str());
    }
}
END_TEST

/* With AddressSanitizer these end the process with its report; otherwise a changed guard byte is
 * found. */
START_TEST(a_write_past_dynamic_shared_memory_is_caught)
{
    make(shared_overrun, 32, 64);
    ck_assert(reported("past the end of dynamic shared memory"));
}
END_TEST

START_TEST(a_write_past_an_allocation_is_caught)
{
    make(global_overrun, 33, 33);
    ck_assert(reported("past the end of an allocation of 132 bytes"));
}
END_TEST

/* Sixteen-bit floats: every value survives conversion there and back; numbers in between go to
 * the nearer value, or the even one of two equally near. */
template <class T>
static void check_rounding(T (*from_code)(unsigned short), unsigned short infinity)
{
    for (unsigned code = 0; code < infinity; code++) {
        T low = from_code((unsigned short)code), high = from_code((unsigned short)(code + 1));
        ck_assert_uint_eq(T((float)low).__x, code);
        ck_assert_uint_eq(T(-(float)low).__x, code | 0x8000);
        if (code + 1 == infinity)
            break;
        double middle = ((double)(float)low + (double)(float)high) / 2;
        ck_assert_uint_eq(T(middle).__x, code + (code & 1));
        ck_assert_uint_eq(T(std::nextafter(middle, 0)).__x, code);
        ck_assert_uint_eq(T(std::nextafter(middle, 1e300)).__x, code + 1);
    }
    ck_assert_uint_eq(T(INFINITY).__x, infinity);
    ck_assert_uint_eq(T(-INFINITY).__x, infinity | 0x8000);
    ck_assert_uint_eq(T(1e300).__x, infinity);
    ck_assert(std::isnan((float)T(NAN)));
}

START_TEST(sixteen_bit_floats_round_to_nearest_even)
{
    check_rounding<__half>(__ushort_as_half, 0x7c00);
    check_rounding<__nv_bfloat16>(__ushort_as_bfloat16, 0x7f80);
    ck_assert_uint_eq(__half(65519.0f).__x, 0x7bff);
    ck_assert_uint_eq(__half(65520.0f).__x, 0x7c00);
    ck_assert_float_eq(__half(1.0f), 1.0f);
    ck_assert_float_eq(__ushort_as_half(0x3555), 0.333251953125f);
    ck_assert_float_eq(__ushort_as_half(1), 0x1p-24f);
    ck_assert_float_eq(__ushort_as_bfloat16(0x3eab), 0.333984375f);
}
END_TEST

START_TEST(half_arithmetic_rounds_once)
{
    half2 a(1.5f, -2.0f), b(3.0f, 0.25f), c(0.125f, 1.0f);
    float2 r = __half22float2(__hfma2(a, b, c));
    ck_assert_float_eq(r.x, 4.625f);
    ck_assert_float_eq(r.y, 0.5f);
    ck_assert_float_eq(__half2float(__hmul(__half(0.1f), __half(3.0f))),
                       (float)__half(3 * (float)__half(0.1f)));
    ck_assert_float_eq(__low2float(a + b), 4.5f);
    ck_assert_float_eq(__high2float(a - b), -2.25f);
    ck_assert_float_eq(__low2float(__hmax2(a, b)), 3.0f);
    ck_assert(__hlt(a.y, a.x) && a.x > a.y && __heq(a.x, __half(1.5f)));
    half2 packed = __float22half2_rn(make_float2(0.1f, 70000.0f));
    ck_assert_uint_eq(__half_as_ushort(__low2half(packed)), 0x2e66);
    ck_assert_uint_eq(__half_as_ushort(__high2half(packed)), 0x7c00);
    /* (1 + 2^-10)^2 + 2^-11 - 2^-20 lies halfway to nothing: a product rounded first would lose
     * 2^-20. */
    __half near_one(1 + 0x1p-10);
    ck_assert_float_eq(__hfma(near_one, near_one, __half(-1.0f)), (float)__half(0x1p-9 + 0x1p-20));
    nv_bfloat162 x = __floats2bfloat162_rn(1.0f, 3.0f);
    ck_assert_float_eq(__bfloat1622float2(__hfma2(x, x, x)).y, 12.0f);
}
END_TEST

START_TEST(fp8_rounds_to_nearest_even_and_saturates)
{
    float last = -1;
    for (unsigned code = 0; code < 0x7f; code++) {
        __nv_fp8_e4m3 v;
        v.__x = (unsigned char)code;
        int exponent = (int)code >> 3, mantissa = (int)code & 7;
        float expected = exponent ? ldexpf(8 + mantissa, exponent - 10) : ldexpf(mantissa, -9);
        ck_assert_float_eq((float)v, expected);
        ck_assert_uint_eq(__nv_fp8_e4m3(expected).__x, code);
        ck_assert_uint_eq(__nv_fp8_e4m3(-expected).__x, code | 0x80);
        if (code)
            ck_assert_uint_eq(__nv_fp8_e4m3((last + expected) / 2).__x,
                              code - 1 + ((code - 1) & 1));
        last = expected;
    }
    ck_assert_uint_eq(__nv_fp8_e4m3(1e9f).__x, 0x7e);
    ck_assert_uint_eq(__nv_fp8_e4m3(-1e9f).__x, 0xfe);
    ck_assert_uint_eq(__nv_cvt_float_to_fp8(1e9f, __NV_NOSAT, __NV_E4M3), 0x7f);
    ck_assert_uint_eq(__nv_fp8_e4m3(NAN).__x & 0x7f, 0x7f);
    ck_assert_uint_eq(__nv_cvt_float2_to_fp8x2({1.0f, -2.0f}, __NV_SATFINITE, __NV_E4M3), 0xc038);
}
END_TEST

START_TEST(integer_intrinsics_follow_their_definition)
{
    ck_assert_int_eq(__popc(0xf00f0001u), 9);
    ck_assert_int_eq(__clz(1), 31);
    ck_assert_int_eq(__clz(0), 32);
    ck_assert_int_eq(__ffs(0), 0);
    ck_assert_int_eq(__ffs(8), 4);
    ck_assert_uint_eq(__brev(0x80000001u), 0x80000001u);
    ck_assert_uint_eq(__brev(0x00000006u), 0x60000000u);
    ck_assert_uint_eq(__byte_perm(0x33221100u, 0x77665544u, 0x7531u), 0x77553311u);
    ck_assert_uint_eq(__byte_perm(0x00008000u, 0, 0x9a09u), 0xff0000ffu);
    ck_assert_int_eq(__dp4a((int)0x80ff7f01u, (int)0x80020301u, -5), 16384 - 2 + 381 + 1 - 5);
    ck_assert_uint_eq(__dp4a(0x80ff7f01u, 0x01010101u, 1u), 128 + 255 + 127 + 1 + 1);
    ck_assert_uint_eq(__float_as_uint(1.0f), 0x3f800000u);
    ck_assert_float_eq(__uint_as_float(0x40490fdbu), (float)M_PI);
    ck_assert_int_eq(__float2int_rn(2.5f), 2);
    ck_assert_int_eq(__float2int_rd(-2.5f), -3);
    ck_assert_int_eq(__float2int_rn(1e20f), INT32_MAX);
    ck_assert_int_eq(__float2int_rn(NAN), 0);
    ck_assert_uint_eq(__funnelshift_r(0x11223344u, 0x55667788u, 8), 0x88112233u);
    ck_assert_uint_eq(__funnelshift_l(0x11223344u, 0x55667788u, 8), 0x66778811u);
    ck_assert_float_eq(rsqrtf(4.0f), 0.5f);
    ck_assert_float_eq_tol(__expf(1.0f), 2.7182818f, 1e-6f);
    ck_assert_float_eq(__fmaf_rn(2, 3, 4), 10);
    ck_assert_float_eq(min(1.0f, NAN), 1.0f);
    ck_assert_int_eq(max(-1, 2), 2);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda_emu");
    TCase *c = suite_case(suite, "primitives", 120);
    const int n_seeds = sizeof seeds / sizeof seeds[0], caught = emu::canary_bytes ? 0 : 1;
    tcase_add_loop_test(c, every_thread_knows_its_coordinates, 0, n_seeds);
    tcase_add_test(c, a_grid_that_does_not_divide_stays_in_bounds);
    tcase_add_loop_test(c, blocks_sum_through_shared_memory_in_any_order, 0, n_seeds);
    tcase_add_loop_test(c, warp_primitives_agree_with_loops, 0, n_seeds);
    tcase_add_loop_test(c, fragments_multiply_as_matrices, 0, n_seeds);
    tcase_add_test(c, ldmatrix_transposes);
    tcase_add_test(c, asynchronous_copies_arrive_at_the_wait_that_covers_them);
    tcase_add_loop_test(c, atomics_count_every_thread, 0, n_seeds);
    tcase_add_loop_test(c, barriers_count_predicates, 0, n_seeds);
    tcase_add_test(c, shared_memory_starts_unknown_in_every_block);
    tcase_add_test(c, a_missing_barrier_gives_wrong_numbers);
    tcase_add_loop_test(c, mistakes_name_the_thread_and_the_fault, 0, n_seeds);
    tcase_add_exit_test(c, a_write_past_dynamic_shared_memory_is_caught, caught);
    tcase_add_exit_test(c, a_write_past_an_allocation_is_caught, caught);
    tcase_add_test(c, sixteen_bit_floats_round_to_nearest_even);
    tcase_add_test(c, half_arithmetic_rounds_once);
    tcase_add_test(c, fp8_rounds_to_nearest_even_and_saturates);
    tcase_add_test(c, integer_intrinsics_follow_their_definition);
    return suite_run(suite);
}
