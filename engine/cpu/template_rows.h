/* Part of template_kernels.h: operations on rows of activations, element by element. An element
 * gets the same operations in a whole vector and in the last, partial one. */

#define EXP_SHIFT 0x1.8p23f /* adding it rounds to an integer, in the low bits */

/* e^x within 2 units in the last place (tests/kernels compares), 0 below -104, infinity above 88.8,
 * NaN for NaN. x = n ln 2 + r with |r| <= 0.35; e^r is its Taylor series to r^7 / 7!, whose
 * remainder is below 6e-9; 2^n is two factors, so that results below 2^-126 are right too. */
ALWAYS vf v_exp(vf x)
{
    x = v_min(v_set1(100), v_max(v_set1(-110), x));
    vf shifted = v_fma(x, v_set1(0x1.715476p+0f), v_set1(EXP_SHIFT));
    vf whole = v_sub(shifted, v_set1(EXP_SHIFT));
    /* ln 2 in two parts, the first of 9 bits: its multiples are exact. */
    vf r = v_fma(whole, v_set1(-0x1.63p-1f), x);
    r = v_fma(whole, v_set1(0x1.bd0106p-13f), r);
    vf p = v_set1(1.0f / 5040);
    p = v_fma(p, r, v_set1(1.0f / 720));
    p = v_fma(p, r, v_set1(1.0f / 120));
    p = v_fma(p, r, v_set1(1.0f / 24));
    p = v_fma(p, r, v_set1(1.0f / 6));
    p = v_fma(p, r, v_set1(0.5f));
    p = v_fma(p, r, v_set1(1));
    p = v_fma(p, r, v_set1(1));
    vi n = vi_sub(v_bits(shifted), v_bits(v_set1(EXP_SHIFT)));
    vi half = vi_sub(vi_half(vi_add(n, vi_set1(256))), vi_set1(128));
    vi other = vi_sub(n, half);
    p = v_mul(p, vi_float(vi_to_exponent(vi_add(half, vi_set1(127)))));
    return v_mul(p, vi_float(vi_to_exponent(vi_add(other, vi_set1(127)))));
}

/* 2^x of n vectors, x <= 0, within one unit in the last place; 2^-125 below -125, which is small
 * enough for a softmax whose largest weight is 1; NaN for NaN. x = m + r with |r| <= 1/2. Of the
 * polynomials of degree 6 that are 1 at 0, this one has the least maximum relative error for r,
 * 6e-9 (from a linear programme over 4,001 Chebyshev nodes). m has an exponent's bias in its low
 * bits. Several vectors are computed together, because a single chain of ten operations would leave
 * the multipliers idle. */
ALWAYS void v_exp2_weights(vf *x, const int n)
{
    const vf shift = v_set1(EXP_SHIFT + 127);
    const float factors[] = {0x1.40489p-13f,
                             0x1.5f8c34p-10f,
                             0x1.3b3022p-7f,
                             0x1.c6ae18p-5f,
                             0x1.ebfbd8p-3f,
                             0x1.62e432p-1f,
                             1};
    vf shifted[SLOT_VECTORS], p[SLOT_VECTORS];
    UNROLL
    for (int i = 0; i < n; i++) {
        x[i] = v_max(v_set1(-125), x[i]);
        shifted[i] = v_add(x[i], shift);
        x[i] = v_sub(x[i], v_sub(shifted[i], shift));
        p[i] = v_set1(factors[0]);
    }
    UNROLL
    for (int k = 1; k < 7; k++) {
        UNROLL
        for (int i = 0; i < n; i++)
            p[i] = v_fma(p[i], x[i], v_set1(factors[k]));
    }
    UNROLL
    for (int i = 0; i < n; i++)
        x[i] = v_mul(p[i], vi_float(vi_to_exponent(v_bits(shifted[i]))));
}

ALWAYS vf v_swiglu(vf gate, vf up)
{
    vf e = v_exp(v_sub(v_zero(), gate));
    return v_mul(v_div(gate, v_add(v_set1(1), e)), up);
}

static void swiglu(float *out, const float *gate, const float *up, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(out + i, v_swiglu(v_load(gate + i), v_load(up + i)));
    if (i < n) {
        vf last = v_swiglu(v_load_n(gate + i, n - i), v_load_n(up + i, n - i));
        v_store_n(out + i, last, n - i);
    }
}

static void add(float *x, const float *y, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(x + i, v_add(v_load(x + i), v_load(y + i)));
    for (; i < n; i++)
        x[i] += y[i];
}

/* In double, element i into partial sum i % 8. */
static double sum_of_squares(const float *x, uint32_t n)
{
    double sums[8] = {0};
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        UNROLL
        for (int j = 0; j < 8; j++)
            sums[j] += (double)x[i + j] * x[i + j];
    }
    for (int j = 0; i < n; i++, j++)
        sums[j] += (double)x[i] * x[i];
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) +
           ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

static void rms_norm(float *out, const float *x, const float *gain, uint32_t n, uint32_t width,
                     float eps)
{
    for (uint32_t row = 0; row < n; row++, x += width, out += width) {
        float scale = (float)(1 / __builtin_sqrt(sum_of_squares(x, width) / width + eps));
        vf s = v_set1(scale);
        uint32_t i = 0;
        for (; i + LANES <= width; i += LANES)
            v_store(out + i, v_mul(v_mul(v_load(x + i), s), v_load(gain + i)));
        for (; i < width; i++)
            out[i] = x[i] * scale * gain[i];
    }
}

/* One head, pairs (i, i + n_pairs). */
ALWAYS void rope_halves(float *x, const float *cosines, const float *sines, uint32_t n_pairs)
{
    float *y = x + n_pairs;
    uint32_t i = 0;
    for (; i + LANES <= n_pairs; i += LANES) {
        vf a = v_load(x + i), b = v_load(y + i);
        vf c = v_load(cosines + i), s = v_load(sines + i);
        v_store(x + i, v_sub(v_mul(a, c), v_mul(b, s)));
        v_store(y + i, v_add(v_mul(a, s), v_mul(b, c)));
    }
    for (; i < n_pairs; i++) {
        float a = x[i], b = y[i];
        x[i] = a * cosines[i] - b * sines[i];
        y[i] = a * sines[i] + b * cosines[i];
    }
}

/* One head, pairs (2i, 2i + 1). */
ALWAYS void rope_neighbours(float *x, const float *cosines, const float *sines, uint32_t n_pairs)
{
    for (uint32_t i = 0; i < n_pairs; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cosines[i] - b * sines[i];
        x[2 * i + 1] = a * sines[i] + b * cosines[i];
    }
}

static void rope(float *x, const float *angles, uint32_t n, uint32_t n_heads, uint32_t head_dim,
                 uint32_t rope_dim, bool neox)
{
    float cosines[HEAD_DIM_MAX / 2], sines[HEAD_DIM_MAX / 2];
    uint32_t n_pairs = rope_dim / 2;
    for (uint32_t row = 0; row < n; row++, angles += rope_dim) {
        for (uint32_t i = 0; i < n_pairs; i++) {
            cosines[i] = angles[2 * i];
            sines[i] = angles[2 * i + 1];
        }
        for (uint32_t head = 0; head < n_heads; head++, x += head_dim) {
            if (neox)
                rope_halves(x, cosines, sines, n_pairs);
            else
                rope_neighbours(x, cosines, sines, n_pairs);
        }
    }
}

static void to_half(uint16_t *out, const float *x, uint32_t n)
{
    const vf most = v_set1(65504), least = v_set1(-65504);
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_to_half(out + i, v_min(most, v_max(least, v_load(x + i))));
    if (i < n) {
        uint16_t last[LANES];
        v_to_half(last, v_min(most, v_max(least, v_load_n(x + i, n - i))));
        memcpy(out + i, last, (n - i) * sizeof *last);
    }
}
