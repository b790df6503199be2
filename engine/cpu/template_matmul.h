/* Part of template_kernels.h: out = x * w^T.
 *
 * All kernels sum in the same order: an output has one vector of LANES sums; lane l adds the
 * products of columns l, l + LANES, l + 2 LANES, .. in that order, and v_sum adds the lanes. They
 * differ only in what stays in registers: one row of x is multiplied with weights as they are
 * decoded; many rows are multiplied with a panel of weight rows that was decoded into the scratch
 * once. */

/* sums[NW]: NW weight rows from `row` on against one row of x. */
ALWAYS void dot_fused(decode_step *decode, size_t value_bytes, const uint8_t *row, size_t row_bytes,
                      const float *x, size_t cols, int n_rows, vf *sums)
{
    UNROLL
    for (int r = 0; r < n_rows; r++)
        sums[r] = v_zero();
    size_t steps = cols / STEP, rest = value_bytes == 0 ? 0 : cols % STEP;
    for (size_t s = 0; s < steps; s++) {
        vf w[STEP_VECTORS];
        UNROLL
        for (int r = 0; r < n_rows; r++) {
            decode(row + r * row_bytes, s, w);
            UNROLL
            for (int i = 0; i < STEP_VECTORS; i++)
                sums[r] = v_fma(w[i], v_load(x + s * STEP + i * LANES), sums[r]);
        }
    }
    if (rest == 0)
        return;
    x += steps * STEP;
    for (int r = 0; r < n_rows; r++) {
        vf w[STEP_VECTORS];
        decode_tail(decode, value_bytes, row + r * row_bytes, steps * STEP, rest, w);
        UNROLL
        for (size_t i = 0; i < STEP_VECTORS; i++)
            if (i * LANES < rest)
                sums[r] = v_fma(w[i], v_load_n(x + i * LANES, rest - i * LANES), sums[r]);
    }
}

ALWAYS void one_row(decode_step *decode, size_t value_bytes, const struct matmul_job *job,
                    const float *x, float *out, uint32_t first, uint32_t last)
{
    const uint8_t *row = (const uint8_t *)job->w->data + first * job->row_bytes;
    uint32_t r = first;
    for (; r + 4 <= last; r += 4, row += 4 * job->row_bytes) {
        vf sums[4];
        dot_fused(decode, value_bytes, row, job->row_bytes, x, job->w->cols, 4, sums);
        v_sum4(out + r, sums[0], sums[1], sums[2], sums[3]);
    }
    for (; r < last; r++, row += job->row_bytes) {
        vf sum;
        dot_fused(decode, value_bytes, row, job->row_bytes, x, job->w->cols, 1, &sum);
        out[r] = v_sum(sum);
    }
}

static void matmul_one_row(const struct matmul_job *job, const float *x, float *out, uint32_t first,
                           uint32_t last){FOR_TYPE(job->w->type, one_row, job, x, out, first, last)}

/* n_w panel rows against n_x rows of x, all sums in registers. out has rows of out_stride. */
ALWAYS void tile(const float *panel, size_t panel_stride, const float *x, size_t cols, float *out,
                 size_t out_stride, int n_w, int n_x)
{
    vf sums[4][TILE_ROWS];
    UNROLL
    for (int j = 0; j < n_w; j++) {
        UNROLL
        for (int i = 0; i < n_x; i++)
            sums[j][i] = v_zero();
    }
    size_t k = 0;
    for (; k + LANES <= cols; k += LANES) {
        vf xs[TILE_ROWS];
        UNROLL
        for (int i = 0; i < n_x; i++)
            xs[i] = v_load(x + i * cols + k);
        UNROLL
        for (int j = 0; j < n_w; j++) {
            vf w = v_load(panel + j * panel_stride + k);
            UNROLL
            for (int i = 0; i < n_x; i++)
                sums[j][i] = v_fma(w, xs[i], sums[j][i]);
        }
    }
    if (k < cols) {
        UNROLL
        for (int i = 0; i < n_x; i++) {
            vf xt = v_load_n(x + i * cols + k, cols - k);
            UNROLL
            for (int j = 0; j < n_w; j++)
                sums[j][i] = v_fma(v_load(panel + j * panel_stride + k), xt, sums[j][i]);
        }
    }
    UNROLL
    for (int i = 0; i < n_x; i++) {
        if (n_w == 4)
            v_sum4(out + i * out_stride, sums[0][i], sums[1][i], sums[2][i], sums[3][i]);
        else
            out[i * out_stride] = v_sum(sums[0][i]);
    }
}

/* All panel rows against n_x rows of x. */
ALWAYS void tile_column(const float *panel, size_t panel_stride, uint32_t panel_rows,
                        const float *x, size_t cols, float *out, size_t out_stride, int n_x)
{
    if (n_x > TILE_ROWS)
        return; /* never: it spares the compiler what no registers hold */
    uint32_t j = 0;
    for (; j + 4 <= panel_rows; j += 4)
        tile(panel + j * panel_stride, panel_stride, x, cols, out + j, out_stride, 4, n_x);
    for (; j < panel_rows; j++)
        tile(panel + j * panel_stride, panel_stride, x, cols, out + j, out_stride, 1, n_x);
}

static void matmul_panel(const struct matmul_job *job, const float *panel, size_t panel_stride,
                         uint32_t panel_rows, float *out)
{
    const size_t cols = job->w->cols, rows = job->w->rows;
    for (uint32_t i = 0; i < job->n;) {
        const float *x = job->x + i * cols;
        float *to = out + i * rows;
        uint32_t n = job->n - i < TILE_ROWS ? job->n - i : TILE_ROWS;
        FOR_TILE(n, tile_column, panel, panel_stride, panel_rows, x, cols, to, rows)
        i += n;
    }
}

static void add_bias(const struct matmul_job *job, uint32_t first, uint32_t last)
{
    for (uint32_t i = 0; i < job->n; i++) {
        float *out = job->out + (size_t)i * job->w->rows;
        for (uint32_t r = first; r < last; r++)
            out[r] += job->bias[r];
    }
}

static void matmul(const struct matmul_job *job, uint32_t first, uint32_t last, float *scratch)
{
    const size_t cols = job->w->cols, stride = (cols + LANES - 1) / LANES * LANES;
    if (job->n == 1 || stride > SCRATCH_FLOATS) {
        for (uint32_t i = 0; i < job->n; i++)
            matmul_one_row(job, job->x + i * cols, job->out + (size_t)i * job->w->rows, first,
                           last);
    } else {
        uint32_t fit = (uint32_t)(SCRATCH_FLOATS / stride);
        fit = fit > 16 ? 16 : fit > 4 ? fit / 4 * 4 : fit;
        for (uint32_t r = first; r < last; r += fit) {
            uint32_t n = last - r < fit ? last - r : fit;
            for (uint32_t j = 0; j < n; j++)
                decode_rows(job->w->type, (const uint8_t *)job->w->data + (r + j) * job->row_bytes,
                            cols, true, scratch + j * stride);
            matmul_panel(job, scratch, stride, n, job->out + r);
        }
    }
    if (job->bias != NULL)
        add_bias(job, first, last);
}
