/* Part of template_kernels.h: scores that attention leaves behind. The logits are computed a second
 * time, by the same function as in attention, for a query's probabilities are known only when it
 * has seen every page. A slot's sum grows row by row, so no cut of the prompt changes it. */

/* mean[PAGE_SLOTS] = probabilities of one row's queries, which begin at `first` among a's, averaged
 * over the heads of the group; 0 for slots that it does not see. */
ALWAYS void mean_probability(const struct attend *a, uint32_t first, uint32_t n_heads,
                             uint32_t visible, vf mean[SLOT_VECTORS])
{
    UNROLL
    for (int i = 0; i < SLOT_VECTORS; i++)
        mean[i] = v_zero();
    for (uint32_t j = first; j < first + n_heads; j++) {
        const float *logit = a->weights + j * PAGE_SLOTS;
        vf maximum = v_set1(a->maximum[j]), share = v_set1(a->sum[j]);
        UNROLL
        for (int i = 0; i < SLOT_VECTORS; i++)
            mean[i] =
                v_add(mean[i], v_mul(v_exp(v_sub(v_load(logit + i * LANES), maximum)), share));
    }
    UNROLL
    for (int i = 0; i < SLOT_VECTORS; i++)
        mean[i] = v_select(visible >> i * LANES, mean[i], v_zero());
}

/* One row's means of one page go where the policy wants them. */
ALWAYS void leave_score(const struct kv_segment *segment, struct head_state *state, uint32_t slot0,
                        const vf mean[SLOT_VECTORS], float group, uint32_t visible,
                        int32_t position, uint32_t n_seen)
{
    float m[PAGE_SLOTS];
    UNROLL
    for (int i = 0; i < SLOT_VECTORS; i++)
        v_store(m + i * LANES, v_div(mean[i], v_set1(group)));
    if (segment->score == CACHE_SCORE_HISTORY) {
        uint32_t at = (uint32_t)position % HISTORY_QUERIES, bit = UINT32_C(1) << at % 32;
        float threshold = 1 / (float)n_seen;
        for (uint32_t bits = visible; bits != 0; bits &= bits - 1) {
            uint32_t i = (uint32_t)__builtin_ctz(bits);
            uint32_t *word = state->history + (size_t)(slot0 + i) * HISTORY_WORDS + at / 32;
            *word = m[i] > threshold ? *word | bit : *word & ~bit;
        }
        return;
    }
    float *scores = state->scores + slot0; /* room for whole pages */
    if (segment->score == CACHE_SCORE_LAST)
        memcpy(scores, m, sizeof m);
    else
        for (uint32_t bits = visible; bits != 0; bits &= bits - 1) {
            uint32_t i = (uint32_t)__builtin_ctz(bits);
            scores[i] += m[i];
        }
}

/* Rows [row, row + n) of the segment against one page, whose keys are widened. */
static void score_rows(const struct attention_job *job, const struct kv_segment *segment,
                       uint32_t kv_head, uint32_t row, uint32_t n, uint32_t slot0,
                       const int32_t *page_position, struct attend *a)
{
    const uint32_t group = job->n_heads / job->n_kv_heads,
                   at_once = group < ATTEND_QUERIES ? group : ATTEND_QUERIES;
    const struct head_view *view = &segment->heads[kv_head];
    uint32_t visible[ATTEND_QUERIES];
    vf mean[ATTEND_QUERIES][SLOT_VECTORS];
    uint32_t any = 0;
    for (uint32_t r = 0; r < n; r++) {
        visible[r] = visible_slots(page_position, view->n_slots - slot0,
                                   job->positions[segment->first_row + row + r], view);
        any |= visible[r];
        for (int i = 0; i < SLOT_VECTORS; i++)
            mean[r][i] = v_zero();
    }
    if (any == 0)
        return;
    for (uint32_t head = 0; head < group; head += at_once) {
        uint32_t n_heads = group - head < at_once ? group - head : at_once;
        a->n_active = 0;
        for (uint32_t r = 0; r < n; r++)
            for (uint32_t h = 0; visible[r] != 0 && h < n_heads; h++) {
                uint32_t j = r * n_heads + h;
                size_t query = (size_t)(segment->first_row + row + r) * job->n_heads +
                               kv_head * group + head + h;
                a->q[j] = job->q + query * a->head_dim;
                a->maximum[j] = job->softmax[2 * query];
                a->sum[j] = job->softmax[2 * query + 1];
                a->active[a->n_active++] = j;
            }
        logits(a, a->q);
        for (uint32_t r = 0; r < n; r++) {
            vf part[SLOT_VECTORS];
            if (visible[r] == 0)
                continue;
            mean_probability(a, r * n_heads, n_heads, visible[r], part);
            for (int i = 0; i < SLOT_VECTORS; i++)
                mean[r][i] = v_add(mean[r][i], part[i]);
        }
    }
    for (uint32_t r = 0; r < n; r++) {
        uint32_t at = segment->first_row + row + r;
        if (visible[r] != 0)
            leave_score(segment, segment->states[kv_head], slot0, mean[r], (float)group, visible[r],
                        job->positions[at], job->n_seen[at * job->n_kv_heads + kv_head]);
    }
}

static void score(const struct attention_job *job, const struct kv_segment *segment,
                  uint32_t kv_head, uint32_t first, uint32_t n, float *scratch)
{
    const uint32_t group = job->n_heads / job->n_kv_heads,
                   rows = group < ATTEND_QUERIES ? ATTEND_QUERIES / group : 1;
    const struct head_view *view = &segment->heads[kv_head];
    struct attend a = {.head_dim = job->head_dim,
                       .width = (job->head_dim + LANES - 1) / LANES * LANES,
                       .scale = 1 / __builtin_sqrtf((float)job->head_dim)};
    a.k = scratch;
    a.weights = a.k + a.head_dim * PAGE_SLOTS;
    for (uint32_t p = first; p < first + n; p++) {
        uint8_t *page = job->pool + view->pages[p] * job->shape->bytes;
        widen_keys(a.k, job->shape, page);
        for (uint32_t row = segment->first_scored; row < segment->n_rows; row += rows) {
            uint32_t left = segment->n_rows - row;
            score_rows(job, segment, kv_head, row, left < rows ? left : rows, p * PAGE_SLOTS,
                       page_positions(page), &a);
        }
    }
}

static void key_dots(const struct page_shape *shape, const uint8_t *page, const float *x,
                     float *dots, float *squares, float *scratch)
{
    widen_keys(scratch, shape, page);
    UNROLL
    for (int i = 0; i < SLOT_VECTORS; i++) {
        vf dot = v_zero(), square = v_zero();
        for (uint32_t d = 0; d < shape->head_dim; d++) {
            vf k = v_load(scratch + d * PAGE_SLOTS + i * LANES);
            square = v_fma(k, k, square);
            if (x)
                dot = v_fma(v_set1(x[d]), k, dot);
        }
        v_store(squares + i * LANES, square);
        if (x)
            v_store(dots + i * LANES, dot);
    }
}
