/* Part of template_kernels.h: scores from attention. A query's probabilities are known only after
 * it has seen every page. The weights of a decode row are kept until then. Those of a prompt's rows
 * are computed a second time by the same functions, because keeping them would take rows x slots
 * numbers. A slot's sum grows row by row, so it does not depend on how the prompt is cut.
 *
 *   probability = weight in the span * (2^(the span's maximum - the row's) / the row's sum) */

/* One row's probabilities of a span, summed over heads. */
ALWAYS void add_probabilities(const struct attend *a, uint32_t query, float factor, float *sums)
{
    const float *weights = a->weights + query * a->stride;
    const uint32_t *seen = a->seen[query / a->n_heads];
    const vf f = v_set1(factor);
    for (uint32_t at = 0; at < a->pages.n; at++, sums += PAGE_SLOTS, weights += PAGE_SLOTS) {
        if (seen[at] == 0)
            continue;
        UNROLL
        for (int i = 0; i < SLOT_VECTORS; i++)
            v_store(sums + i * LANES,
                    v_add(v_load(sums + i * LANES), v_mul(v_load(weights + i * LANES), f)));
    }
}

static void leave_history(const struct head_state *state, uint32_t slot0, const float *mean,
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

/* Adds one row's sums of one page, as means over the group, to what the policy reads. */
ALWAYS void leave_score(const struct attend *a, uint32_t row, uint32_t page, const float *sums)
{
    const struct attention_job *job = a->job;
    const struct head_state *state = state_of(job, a->segment, a->kv_head);
    const uint32_t slot0 = place_of(a, a->first_slot / PAGE_SLOTS + page) * PAGE_SLOTS,
                   at = a->row0 + row, visible = a->seen[row][page];
    const vf group = v_set1((float)(job->n_heads / job->n_kv_heads));
    float *scores = state->scores + slot0, mean[PAGE_SLOTS]; /* room for whole pages */
    vf m[SLOT_VECTORS];
    UNROLL
    for (int i = 0; i < SLOT_VECTORS; i++)
        m[i] = v_select(visible >> i * LANES, v_div(v_load(sums + i * LANES), group), v_zero());
    switch (a->segment->placed->score) {
    case CACHE_SCORE_HISTORY:
        UNROLL
        for (int i = 0; i < SLOT_VECTORS; i++)
            v_store(mean + i * LANES, m[i]);
        leave_history(state, slot0, mean, visible, job->positions[at],
                      job->n_seen[(at - job->softmax_row) * job->n_kv_heads + a->kv_head]);
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

/* Like open_span, but a row whose weights were kept needs no page. */
static bool reopen_span(struct attend *a, uint32_t span)
{
    uint32_t any = 0;
    a->first_slot = span * SPAN_SLOTS;
    const uint32_t *kept = kept_seen(a);
    if (!kept)
        return open_span(a, span);
    a->pages.n = SPAN_PAGES;
    for (uint32_t at = 0; at < SPAN_PAGES; at++)
        any |= a->seen[0][at] = kept[at];
    return any != 0;
}

/* Adds some heads of some rows to sums [n_rows][SPAN_SLOTS]. False: no row sees a slot of the
 * span. */
static bool score_queries(struct attend *a, uint32_t span, float *sums)
{
    const struct attention_job *job = a->job;
    if (!reopen_span(a, span))
        return false;
    place_weights(a);
    if (a->kept_maxima)
        memcpy(a->span_maximum, a->kept_maxima, a->n * sizeof *a->kept_maxima);
    else
        weigh_open_span(a);
    for (uint32_t i = 0; i < a->n; i++) {
        const size_t query =
            (size_t)(a->q[i] - job->q) / a->head_dim - (size_t)job->softmax_row * job->n_heads;
        const float *softmax = job->softmax + 2 * query;
        add_probabilities(a, i, exp2_weight(a->span_maximum[i] - softmax[0]) * softmax[1],
                          sums + i / a->n_heads * SPAN_SLOTS);
    }
    return true;
}

static void score(const struct attention_job *job, const struct step_segment *segment,
                  uint32_t kv_head, uint32_t span, float *scratch)
{
    const uint32_t group = job->n_heads / job->n_kv_heads, most = attend_queries(job->head_dim),
                   rows = group < most ? most / group : 1, at_once = heads_at_once(job, rows);
    struct attend a;
    set_up(&a, job, segment, kv_head, scratch);
    float *sums = a.values; /* nobody asks for values here */
    for (uint32_t first = segment->first_scored; first < segment->n_rows; first += rows) {
        const uint32_t n = segment->n_rows - first < rows ? segment->n_rows - first : rows;
        bool any = true;
        memset(sums, 0, (size_t)n * SPAN_SLOTS * sizeof *sums);
        for (uint32_t head = 0; any && head < group; head += at_once) {
            name_queries(&a, first, n, head, group - head < at_once ? group - head : at_once);
            any = score_queries(&a, span, sums);
        }
        for (uint32_t row = 0; any && row < n; row++)
            for (uint32_t at = 0; at < a.pages.n; at++)
                if (a.seen[row][at] != 0)
                    leave_score(&a, row, at, sums + row * SPAN_SLOTS + at * PAGE_SLOTS);
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
