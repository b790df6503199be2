/* Part of template_kernels.h: 32 weights of each type as floats.
 *
 * decode_TYPE(row, step, w) writes the weights [32 step, 32 step + 32) of a row as STEP_VECTORS
 * vectors. The block layouts are those of GGUF files. A scale (11 bits, or 19 with its quantised
 * factor) times a small integer needs at most 24 bits, or 22 where an offset follows. So there is
 * at most one rounding, and every instruction set decodes to the same bits. */

#include "engine/model/weight_block.h"

typedef void decode_step(const uint8_t *row, size_t step, vf *w);

ALWAYS float half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return f_half(h);
}

ALWAYS void scaled(bytes q, float scale, vf *w)
{
    vf s = v_set1(scale);
    v_from_bytes(q, w);
    UNROLL
    for (int i = 0; i < STEP_VECTORS; i++)
        w[i] = v_mul(w[i], s);
}

ALWAYS void scaled_offset(bytes q, float scale, float offset, vf *w)
{
    vf s = v_set1(scale), o = v_set1(offset);
    v_from_bytes(q, w);
    UNROLL
    for (int i = 0; i < STEP_VECTORS; i++)
        w[i] = v_fma(w[i], s, o);
}

ALWAYS void decode_f32(const uint8_t *row, size_t step, vf *w)
{
    UNROLL
    for (int i = 0; i < STEP_VECTORS; i++)
        w[i] = v_load((const float *)row + step * STEP + i * LANES);
}

ALWAYS void decode_f16(const uint8_t *row, size_t step, vf *w)
{
    UNROLL
    for (int i = 0; i < STEP_VECTORS; i++)
        w[i] = v_from_half((const uint16_t *)row + step * STEP + i * LANES);
}

ALWAYS void decode_bf16(const uint8_t *row, size_t step, vf *w)
{
    UNROLL
    for (int i = 0; i < STEP_VECTORS; i++)
        w[i] = v_from_bfloat((const uint16_t *)row + step * STEP + i * LANES);
}

/* { f16 d; int8 q[32] }: d q */
ALWAYS void decode_q8_0(const uint8_t *row, size_t step, vf *w)
{
    const uint8_t *block = row + step * 34;
    scaled(b_load(block + 2), half_at(block), w);
}

/* { f16 d; nibbles[16] }: d (q - 8) */
ALWAYS void decode_q4_0(const uint8_t *row, size_t step, vf *w)
{
    const uint8_t *block = row + step * 18;
    scaled(b_minus(b_nibbles(block + 2), 8), half_at(block), w);
}

/* { f16 d, m; nibbles[16] }: d q + m */
ALWAYS void decode_q4_1(const uint8_t *row, size_t step, vf *w)
{
    const uint8_t *block = row + step * 20;
    scaled_offset(b_nibbles(block + 4), half_at(block), half_at(block + 2), w);
}

/* The fifth bits of 32 values, and then their nibbles. */
ALWAYS bytes five_bits(const uint8_t *p)
{
    uint32_t fifth;
    memcpy(&fifth, p, sizeof fifth);
    return b_join(b_nibbles(p + 4), b_bits(fifth), 4);
}

/* { f16 d; fifth bits, nibbles }: d (q - 16) */
ALWAYS void decode_q5_0(const uint8_t *row, size_t step, vf *w)
{
    const uint8_t *block = row + step * 22;
    scaled(b_minus(five_bits(block + 2), 16), half_at(block), w);
}

/* { f16 d, m; fifth bits, nibbles }: d q + m */
ALWAYS void decode_q5_1(const uint8_t *row, size_t step, vf *w)
{
    const uint8_t *block = row + step * 24;
    scaled_offset(five_bits(block + 4), half_at(block), half_at(block + 2), w);
}

/* { f16 d, dmin; scales[12]; .. }: d scale q - dmin minimum */
ALWAYS void scaled_pair(const uint8_t *block, size_t part, bytes q, vf *w)
{
    uint32_t scale, minimum;
    weight_block_six_bits(block + 4, part, &scale, &minimum);
    scaled_offset(q, half_at(block) * (float)scale, -(half_at(block + 2) * (float)minimum), w);
}

/* .. { nibbles[4][32] }: 32 low nibbles, then 32 high nibbles, four times */
ALWAYS void decode_q4_k(const uint8_t *row, size_t step, vf *w)
{
    const uint8_t *block = row + step / 8 * 144;
    size_t part = step % 8;
    bytes q = b_field(b_load(block + 16 + part / 2 * 32), part % 2 * 4, 15);
    scaled_pair(block, part, q, w);
}

/* .. { fifth[32]; nibbles[4][32] }: bit p of fifth[i] belongs to value i of part p */
ALWAYS void decode_q5_k(const uint8_t *row, size_t step, vf *w)
{
    const uint8_t *block = row + step / 8 * 176;
    uint32_t part = step % 8;
    bytes q = b_field(b_load(block + 48 + part / 2 * 32), part % 2 * 4, 15);
    scaled_pair(block, part, b_join(q, b_field(b_load(block + 16), part, 1), 4), w);
}

/* { low nibbles[2][64]; high pairs[2][32]; int8 scales[16]; f16 d }: d scale (q - 32), a scale for
 * 16 values. In each half, values 0..63 are in the low nibbles and 64..127 in the high ones. */
ALWAYS void decode_q6_k(const uint8_t *row, size_t step, vf *w)
{
    const uint8_t *block = row + step / 8 * 210;
    uint32_t half = step % 8 / 4, part = step % 4;
    bytes low = b_field(b_load(block + half * 64 + part % 2 * 32), part / 2 * 4, 15);
    bytes high = b_field(b_load(block + 128 + half * 32), part * 2, 3);
    v_from_bytes(b_minus(b_join(low, high, 4), 32), w);
    const int8_t *scales = (const int8_t *)block + 192 + step % 8 * 2;
    float d = half_at(block + 208);
    vf first = v_set1(d * (float)scales[0]), second = v_set1(d * (float)scales[1]);
    UNROLL
    for (int i = 0; i < STEP_VECTORS; i++)
        w[i] = v_mul(w[i], i < STEP_VECTORS / 2 ? first : second);
}

/* The last, incomplete step of a row of single values: copied, with zeros after it. */
ALWAYS void decode_tail(decode_step *decode, size_t value_bytes, const uint8_t *row, size_t from,
                        size_t n, vf *w)
{
    uint8_t copy[STEP * sizeof(float)] __attribute__((aligned(64))) = {0};
    memcpy(copy, row + from * value_bytes, n * value_bytes);
    decode(copy, 0, w);
}

/* Writes `cols` weights and, up to a whole vector, zeros when `padded`. */
ALWAYS void decode_row(decode_step *decode, size_t value_bytes, const uint8_t *row, size_t cols,
                       bool padded, float *out)
{
    size_t steps = cols / STEP, rest = value_bytes == 0 ? 0 : cols % STEP;
    for (size_t s = 0; s < steps; s++) {
        vf w[STEP_VECTORS];
        decode(row, s, w);
        UNROLL
        for (int i = 0; i < STEP_VECTORS; i++)
            v_store(out + s * STEP + i * LANES, w[i]);
    }
    if (rest == 0)
        return;
    vf w[STEP_VECTORS];
    decode_tail(decode, value_bytes, row, steps * STEP, rest, w);
    UNROLL
    for (size_t i = 0; i < STEP_VECTORS; i++)
        if (i * LANES < rest)
            v_store_n(out + steps * STEP + i * LANES, w[i], padded ? LANES : rest - i * LANES);
}

/* Calls f(decoder, bytes of a single value, ..) for the type; f is inlined for each. */
#define FOR_TYPE(type, f, ...)                                                                     \
    switch (type) {                                                                                \
    case TENSOR_F32:                                                                               \
        f(decode_f32, 4, __VA_ARGS__);                                                             \
        break;                                                                                     \
    case TENSOR_F16:                                                                               \
        f(decode_f16, 2, __VA_ARGS__);                                                             \
        break;                                                                                     \
    case TENSOR_BF16:                                                                              \
        f(decode_bf16, 2, __VA_ARGS__);                                                            \
        break;                                                                                     \
    case TENSOR_Q8_0:                                                                              \
        f(decode_q8_0, 0, __VA_ARGS__);                                                            \
        break;                                                                                     \
    case TENSOR_Q4_0:                                                                              \
        f(decode_q4_0, 0, __VA_ARGS__);                                                            \
        break;                                                                                     \
    case TENSOR_Q4_1:                                                                              \
        f(decode_q4_1, 0, __VA_ARGS__);                                                            \
        break;                                                                                     \
    case TENSOR_Q5_0:                                                                              \
        f(decode_q5_0, 0, __VA_ARGS__);                                                            \
        break;                                                                                     \
    case TENSOR_Q5_1:                                                                              \
        f(decode_q5_1, 0, __VA_ARGS__);                                                            \
        break;                                                                                     \
    case TENSOR_Q4_K:                                                                              \
        f(decode_q4_k, 0, __VA_ARGS__);                                                            \
        break;                                                                                     \
    case TENSOR_Q5_K:                                                                              \
        f(decode_q5_k, 0, __VA_ARGS__);                                                            \
        break;                                                                                     \
    case TENSOR_Q6_K:                                                                              \
        f(decode_q6_k, 0, __VA_ARGS__);                                                            \
        break;                                                                                     \
    }

static void decode_rows(enum tensor_type type, const uint8_t *row, size_t cols, bool padded,
                        float *out)
{
    FOR_TYPE(type, decode_row, row, cols, padded, out)
}

static void dequantise(const struct weight *w, const uint8_t *row, float *out)
{
    decode_rows(w->type, row, w->cols, false, out);
}
