/* Part of template_kernels.h: scores that attention leaves behind. A query's probabilities are
 * known only when it has seen every page: the logits of a decoding row were kept until then, those
 * of a prompt's rows are computed a second time, by the same function as in attention (keeping them
 * would take rows x slots numbers). A slot's sum grows row by row, so no cut of the prompt changes
 * it. */

/* Some rows of a segment against one page. */
struct scoring {
    const struct attention_job *job;
    const struct kv_segment *segment;
    uint32_t kv_head, page, row, n; /* row: of the segment */
    float scale, *panel, *logits;   /* K of the page, widened; [ATTEND_QUERIES][PAGE_SLOTS] */
};

/* mean[PAGE_SLOTS] += probabilities of one query; logit [PAGE_SLOTS]. */
ALWAYS void add_probability(vf mean[SLOT_VECTORS], const float *logit, const float *softmax)
{
    vf maximum = v_set1(softmax[0]), share = v_set1(softmax[1]);
    UNROLL
    for (int i = 0; i < SLOT_VECTORS; i++)
        mean[i] = v_add(mean[i], v_mul(v_exp(v_sub(v_load(logit + i * LANES), maximum)), share));
}

static void leave_history(struct head_state *state, uint32_t slot0, const float *mean,
                          uint32_t visible, int32_t position, uint32_t n_seen)
{
    const uint32_t at = (uint32_t)position % HISTORY_QUERIES, bit = UINT32_C(1) << at % 32;
    const float threshold = 1 / (float)n_seen;
    for (uint32_t bits = visible; bits != 0; bits &= bits - 1) {
        uint32_t i = (uint32_t)__builtin_ctz(bits);
        uint32_t *word = state->history + (size_t)(slot0 + i) * HISTORY_WORDS + at / 32;
        *word = mean[i] > threshold ? *word | bit : *word & ~bit;
    }
}

/* One row's sums of one page go where the policy wants their means over the group. */
ALWAYS void leave_score(const struct scoring *s, uint32_t row, const vf sum[SLOT_VECTORS],
                        uint32_t visible)
{
    const struct attention_job *job = s->job;
    struct head_state *state = s->segment->states[s->kv_head];
    const uint32_t slot0 = s->page * PAGE_SLOTS, at = s->segment->first_row + row;
    const vf group = v_set1((float)(job->n_heads / job->n_kv_heads));
    float *scores = state->scores + slot0, mean[PAGE_SLOTS]; /* room for whole pages */
    vf m[SLOT_VECTORS];
    UNROLL
    for (int i = 0; i < SLOT_VECTORS; i++)
        m[i] = v_select(visible >> i * LANES, v_div(sum[i], group), v_zero());
    switch (s->segment->score) {
    case CACHE_SCORE_HISTORY:
        UNROLL
        for (int i = 0; i < SLOT_VECTORS; i++)
            v_store(mean + i * LANES, m[i]);
        leave_history(state, slot0, mean, visible, job->positions[at],
                      job->n_seen[(at - job->softmax_row) * job->n_kv_heads + s->kv_head]);
        break;
    case CACHE_SCORE_LAST:
        UNROLL
        for (int i = 0; i < SLOT_VECTORS; i++)
            v_store(scores + i * LANES, m[i]);
        break;
    default: /* beyond the used slots scores mean nothing, so they may grow by 0 */
        UNROLL
        for (int i = 0; i < SLOT_VECTORS; i++)
            v_store(scores + i * LANES, v_add(v_load(scores + i * LANES), m[i]));
    }
}

/* The logits of heads [head, head + n_heads) of the rows that see something, [row][head] behind one
 * another in s->logits; of the slots `sinks` by the second rotation, as in attention. */
static void score_logits(const struct scoring *s, uint32_t head, uint32_t n_heads,
                         const uint32_t *visible, uint32_t sinks)
{
    const struct attention_job *job = s->job;
    const uint32_t group = job->n_heads / job->n_kv_heads;
    const float *q[ATTEND_QUERIES];
    uint32_t which[ATTEND_QUERIES], n = 0;
    for (uint32_t r = 0; r < s->n; r++)
        for (uint32_t h = 0; visible[r] != 0 && h < n_heads; h++) {
            size_t query = (size_t)(s->segment->first_row + s->row + r) * job->n_heads +
                           s->kv_head * group + head + h;
            q[r * n_heads + h] = (sinks ? job->q_sink : job->q) + query * job->head_dim;
            which[n++] = r * n_heads + h;
        }
    logits_widened(s->panel, job->head_dim, s->scale, q, s->logits, PAGE_SLOTS, which, n);
    if (sinks == 0)
        return;
    float by_sinks[ATTEND_QUERIES][PAGE_SLOTS];
    for (uint32_t i = 0; i < n; i++)
        memcpy(by_sinks[i], s->logits + which[i] * PAGE_SLOTS, sizeof *by_sinks);
    score_logits(s, head, n_heads, visible, 0);
    for (uint32_t i = 0; i < n; i++) {
        float *to = s->logits + which[i] * PAGE_SLOTS;
        UNROLL
        for (int v = 0; v < SLOT_VECTORS; v++)
            v_store(to + v * LANES, v_select(sinks >> v * LANES, v_load(by_sinks[i] + v * LANES),
                                             v_load(to + v * LANES)));
    }
}

/* Where a kept logit of the segment's only row lies, [PAGE_SLOTS] for each head of the group. */
static const float *kept_logits(const struct scoring *s, uint32_t head)
{
    const struct attention_cut *cut = &s->job->cuts[s->segment - s->job->segments];
    const uint32_t group = s->job->n_heads / s->job->n_kv_heads;
    return cut->logits + (size_t)(s->kv_head * group + head) * cut->n_spans * SPAN_SLOTS +
           s->page * PAGE_SLOTS;
}

static void score_rows(const struct scoring *s, const int32_t *page_position, bool kept)
{
    const struct attention_job *job = s->job;
    const struct head_view *view = &s->segment->heads[s->kv_head];
    const uint32_t group = job->n_heads / job->n_kv_heads,
                   at_once = group < ATTEND_QUERIES ? group : ATTEND_QUERIES;
    uint32_t visible[ATTEND_QUERIES], any = 0;
    vf mean[ATTEND_QUERIES][SLOT_VECTORS];
    for (uint32_t r = 0; r < s->n; r++) {
        visible[r] = visible_slots(page_position, view->n_slots - s->page * PAGE_SLOTS,
                                   job->positions[s->segment->first_row + s->row + r], view);
        any |= visible[r];
        UNROLL
        for (int i = 0; i < SLOT_VECTORS; i++)
            mean[r][i] = v_zero();
    }
    if (any == 0)
        return;
    const uint32_t sinks =
        s->segment->sink_query ? any & sink_slots(page_position, view->n_sinks) : 0;
    for (uint32_t head = 0; head < group; head += at_once) {
        const uint32_t n_heads = group - head < at_once ? group - head : at_once;
        if (!kept)
            score_logits(s, head, n_heads, visible, sinks);
        for (uint32_t r = 0; r < s->n; r++) {
            size_t row = s->segment->first_row + s->row + r - job->softmax_row;
            const float *softmax =
                job->softmax + 2 * (row * job->n_heads + s->kv_head * group + head);
            for (uint32_t h = 0; visible[r] != 0 && h < n_heads; h++)
                add_probability(mean[r],
                                kept ? kept_logits(s, head + h)
                                     : s->logits + (r * n_heads + h) * PAGE_SLOTS,
                                softmax + 2 * h);
        }
    }
    for (uint32_t r = 0; r < s->n; r++)
        if (visible[r] != 0)
            leave_score(s, s->row + r, mean[r], visible[r]);
}

static void score(const struct attention_job *job, const struct kv_segment *segment,
                  uint32_t kv_head, uint32_t first, uint32_t n, float *scratch)
{
    const uint32_t group = job->n_heads / job->n_kv_heads,
                   rows = group < ATTEND_QUERIES ? ATTEND_QUERIES / group : 1;
    const bool kept = job->cuts[segment - job->segments].logits != NULL;
    struct scoring s = {.job = job,
                        .segment = segment,
                        .kv_head = kv_head,
                        .scale = 1 / __builtin_sqrtf((float)job->head_dim),
                        .panel = scratch,
                        .logits = scratch + job->head_dim * PAGE_SLOTS};
    for (s.page = first; s.page < first + n; s.page++) {
        uint8_t *page = job->pool + segment->heads[kv_head].pages[s.page] * job->shape->bytes;
        if (!kept)
            widen_keys(s.panel, job->shape, page);
        for (s.row = segment->first_scored; s.row < segment->n_rows; s.row += rows) {
            uint32_t left = segment->n_rows - s.row;
            s.n = left < rows ? left : rows;
            score_rows(&s, page_positions(page), kept);
        }
    }
}

ALWAYS void key_dots_stored(enum plan_storage storage, const struct page_shape *shape,
                            const uint8_t *page, const float *x, float *dots, float *squares)
{
    struct keys k = {.shape = shape, .page = page};
    const uint32_t group = keys_group(shape, storage);
    vf dot[SLOT_VECTORS], square[SLOT_VECTORS];
    UNROLL
    for (int i = 0; i < SLOT_VECTORS; i++)
        dot[i] = square[i] = v_zero();
    for (uint32_t first = 0; first < shape->head_dim; first += group) {
        const uint32_t end = first + group < shape->head_dim ? first + group : shape->head_dim;
        open_group(storage, &k, first / group);
        for (uint32_t d = first; d < end; d++) {
            struct key_codes codes = load_codes(storage, &k, d);
            vf xs = v_set1(x ? x[d] : 0);
            UNROLL
            for (int i = 0; i < SLOT_VECTORS; i++) {
                vf key = load_key(storage, &k, &codes, d, i);
                square[i] = v_fma(key, key, square[i]);
                dot[i] = v_fma(xs, key, dot[i]);
            }
        }
    }
    UNROLL
    for (int i = 0; i < SLOT_VECTORS; i++) {
        v_store(squares + i * LANES, square[i]);
        if (x)
            v_store(dots + i * LANES, dot[i]);
    }
}

static void key_dots(const struct page_shape *shape, const uint8_t *page, const float *x,
                     float *dots, float *squares){
    FOR_STORAGE(shape->storage, key_dots_stored, shape, page, x, dots, squares)}

/* Bits of the lanes from slot i on that may be dropped. */
ALWAYS uint32_t
    candidates(const int32_t *positions, uint32_t i, uint32_t n, uint32_t sinks, uint32_t newest)
{
    vi age = vi_sub(vi_load(positions + i), vi_set1(sinks));
    uint32_t bits = vi_below(age, vi_set1(newest - sinks));
    return n - i >= LANES ? bits : bits & ((UINT32_C(1) << (n - i)) - 1);
}

/* NaN as -infinity, -0 as 0. */
ALWAYS vf orderly(const float *score)
{
    return v_add(v_max(v_load(score), v_set1(-__builtin_inff())), v_zero());
}

static uint32_t worst(const float *scores, const int32_t *positions, uint32_t n, uint32_t sinks,
                      uint32_t newest)
{
    vf highest = v_set1(-__builtin_inff()); /* of minus the scores */
    uint32_t found = UINT32_MAX;
    if (newest <= sinks)
        return found;
    for (uint32_t i = 0; i < n; i += LANES) {
        uint32_t bits = candidates(positions, i, n, sinks, newest);
        highest = v_max(v_select(bits, v_sub(v_zero(), orderly(scores + i)), highest), highest);
    }
    vi lowest = v_bits(v_add(v_set1(-v_largest(highest)), v_zero()));
    for (uint32_t i = 0; i < n; i += LANES) {
        vi score = v_bits(orderly(scores + i));
        uint32_t bits = candidates(positions, i, n, sinks, newest) &
                        ~(vi_below(score, lowest) | vi_below(lowest, score));
        for (; bits != 0; bits &= bits - 1) {
            uint32_t slot = i + (uint32_t)__builtin_ctz(bits);
            if (found == UINT32_MAX || positions[slot] < positions[found])
                found = slot;
        }
    }
    return found;
}
