/* What portable.h writes in PTX for the device, for emulated kernels: matrix products of a warp,
 * ldmatrix, cp.async, cached loads. Register layouts are those of the PTX ISA manual, chapter
 * "Warp Level Matrix Multiply-Accumulate Instructions". Included by emulated.h. */
#ifndef TESTS_CUDA_EMU_TENSOR_CORE_H
#define TESTS_CUDA_EMU_TENSOR_CORE_H

namespace emu
{
struct mma_slot {
    const uint32_t *a, *b;
    void *d;
};

/* D += A B with A [16][k] by rows, B [k][8] by columns. Element i of a lane's registers is, with
 * group = lane / 4, t = lane % 4 and `per` elements to a register:
 * A row group + 8 * (register & 1), column t * per + 4 * per * (register / 2);
 * B row t * per + 4 * per * register, column group; D row group + 8 * (i / 2), column 2 t + i % 2.
 */
template <class Element, class Sum, class Accumulator, int per, Sum (*load)(Element)>
void mma_combine(void *const lanes[32], unsigned, where)
{
    constexpr int k = 8 * per;
    Sum a[16][k], b[8][k];
    for (int lane = 0; lane < 32; lane++) {
        const mma_slot *s = (const mma_slot *)lanes[lane];
        int group = lane / 4, t = lane % 4;
        for (int r = 0; r < 4; r++) {
            Element e[per];
            memcpy(e, &s->a[r], 4);
            for (int i = 0; i < per; i++)
                a[group + 8 * (r & 1)][t * per + 4 * per * (r / 2) + i] = load(e[i]);
            if (r >= 2)
                continue;
            memcpy(e, &s->b[r], 4);
            for (int i = 0; i < per; i++)
                b[group][t * per + 4 * per * r + i] = load(e[i]);
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        Accumulator *d = (Accumulator *)((const mma_slot *)lanes[lane])->d;
        for (int i = 0; i < 4; i++) {
            const Sum *row = a[lane / 4 + 8 * (i / 2)], *column = b[2 * (lane % 4) + i % 2];
            Sum sum = 0;
            for (int x = 0; x < k; x++)
                sum += row[x] * column[x];
            d[i] = (Accumulator)(sum + (Sum)d[i]);
        }
    }
}
static inline double load_half(uint16_t v)
{
    return half_decode(v);
}
static inline double load_bfloat(uint16_t v)
{
    return bfloat_decode(v);
}
static inline int64_t load_int8(int8_t v)
{
    return v;
}

struct ldmatrix_slot {
    const void *row;
    uint32_t *out;
};
/* Lane 8 m + r gives the address of row r of matrix m: 8 numbers of 16 bits. Lane l receives, of
 * each matrix, row l / 4 and columns 2 (l % 4) and the next; transposed, rows and columns swap. */
template <int n, bool transposed> void ldmatrix_combine(void *const lanes[32], unsigned, where at)
{
    for (int m = 0; m < n; m++) {
        uint16_t matrix[8][8];
        for (int r = 0; r < 8; r++) {
            const void *row = ((const ldmatrix_slot *)lanes[8 * m + r])->row;
            if ((uintptr_t)row % 16)
                fault(at, "ldmatrix: the row address of lane %d, %p, is not a multiple of 16",
                      8 * m + r, row);
            memcpy(matrix[r], row, 16);
        }
        for (int l = 0; l < 32; l++) {
            int i = l / 4, j = 2 * (l % 4);
            uint32_t low = transposed ? matrix[j][i] : matrix[i][j];
            uint32_t high = transposed ? matrix[j + 1][i] : matrix[i][j + 1];
            ((const ldmatrix_slot *)lanes[l])->out[m] = low | high << 16;
        }
    }
}
template <int n, bool transposed> void ldmatrix(uint32_t *r, const void *row, where at)
{
    ldmatrix_slot mine{row, r};
    meet("ldmatrix", 0xffffffffu, ldmatrix_combine<n, transposed>, &mine, leavers::fault, at);
}
} // namespace emu

static inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                    emu::where at = emu::where())
{
    emu::mma_slot mine{a, b, d};
    emu::meet("mma_m16n8k16_f16", 0xffffffffu,
              emu::mma_combine<uint16_t, double, float, 2, emu::load_half>, &mine,
              emu::leavers::fault, at);
}
static inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                     emu::where at = emu::where())
{
    emu::mma_slot mine{a, b, d};
    emu::meet("mma_m16n8k16_bf16", 0xffffffffu,
              emu::mma_combine<uint16_t, double, float, 2, emu::load_bfloat>, &mine,
              emu::leavers::fault, at);
}
static inline void mma_m16n8k32_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                   emu::where at = emu::where())
{
    emu::mma_slot mine{a, b, d};
    emu::meet("mma_m16n8k32_s8", 0xffffffffu,
              emu::mma_combine<int8_t, int64_t, int, 4, emu::load_int8>, &mine, emu::leavers::fault,
              at);
}

#define EMU_LDMATRIX(name, n, transposed)                                                          \
    static inline void name(uint32_t(&r)[n], const void *row, emu::where at = emu::where())        \
    {                                                                                              \
        emu::ldmatrix<n, transposed>(r, row, at);                                                  \
    }
EMU_LDMATRIX(ldmatrix_x1, 1, false)
EMU_LDMATRIX(ldmatrix_x2, 2, false)
EMU_LDMATRIX(ldmatrix_x4, 4, false)
EMU_LDMATRIX(ldmatrix_x1_trans, 1, true)
EMU_LDMATRIX(ldmatrix_x2_trans, 2, true)
EMU_LDMATRIX(ldmatrix_x4_trans, 4, true)
#undef EMU_LDMATRIX

static inline void cp_async_16(void *to, const void *from, emu::where at = emu::where())
{
    emu::copy_later(to, from, 16, at);
}
static inline void cp_async_16_zero(void *to, const void *from, unsigned n_bytes,
                                    emu::where at = emu::where())
{
    emu::copy_later(to, from, n_bytes, at);
}
static inline void cp_async_commit()
{
    emu::copies_commit();
}
template <int groups_left> void cp_async_wait()
{
    emu::copies_wait(groups_left);
}

static inline uint4 load_16_stream(const void *p)
{
    return *(const uint4 *)p;
}
static inline uint4 load_16_cached(const void *p)
{
    return *(const uint4 *)p;
}
static inline float2 fma_f32x2(float2 a, float2 b, float2 c)
{
    return {fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y)};
}

#endif
