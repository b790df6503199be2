/* Part of template_kernels.h: attention over pages, with the running maximum of Milakov and
 * Gimelshein (arXiv 1805.02867).
 *
 * The queries of one KV head (rows x heads of the group) walk the pages together, so that K and V
 * of a page are widened to floats once. What is computed for a query depends on its own positions
 * and slots only:
 *
 *   logits   lane = slot, sum over head_dim in order
 *   page     maximum of the visible logits, e^(logit - maximum), their sum by a fixed tree
 *   values   lane = dimension, sum over visible slots in slot order, page after page
 *
 * A page that a query sees nothing of leaves no trace in its sums. Masked and unused slots may hold
 * anything: their lanes are replaced, and their rows of V are not touched. */

struct attend {
    uint32_t head_dim, width; /* width: head_dim rounded up to whole vectors */
    float scale;
    uint32_t n;                     /* queries */
    const float *q[ATTEND_QUERIES]; /* [head_dim] */
    const float *q_sink[ATTEND_QUERIES];
    uint32_t visible[ATTEND_QUERIES]; /* slots of the page at hand */
    uint32_t n_active;
    uint32_t active[ATTEND_QUERIES]; /* queries that see any of it */
    float maximum[ATTEND_QUERIES], sum[ATTEND_QUERIES];
    uint32_t n_seen[ATTEND_QUERIES]; /* slots seen so far */
    float *k;                        /* [head_dim][PAGE_SLOTS] */
    float *v;                        /* [PAGE_SLOTS][width] */
    float *weights;                  /* [n][PAGE_SLOTS] logits, then e^(logit - maximum) */
    float *values;                   /* [n][width] weighted sums */
};

_Static_assert(2 * PAGE_SLOTS * HEAD_DIM_MAX + ATTEND_QUERIES * (HEAD_DIM_MAX + PAGE_SLOTS) <=
                   SCRATCH_FLOATS,
               "the scratch holds the largest head");

/* Slots of a page, of which the first `used` are used, that a query at position t sees: p <= t &&
 * (p < n_sinks || t - p < window). As unsigned numbers, t - p of a later slot is beyond 2^31. */
ALWAYS uint32_t visible_slots(const int32_t *positions, uint32_t used, int32_t t,
                              const struct head_view *view)
{
    const uint32_t future = UINT32_C(1) << 31;
    vi now = vi_set1((uint32_t)t), sinks = vi_set1(view->n_sinks), past = vi_set1(future);
    vi window = vi_set1(view->window < future ? view->window : future);
    uint32_t bits = 0;
    UNROLL
    for (int i = 0; i < SLOT_VECTORS; i++) {
        vi p = vi_load(positions + i * LANES), age = vi_sub(now, p);
        bits |= (vi_below(age, window) | (vi_below(age, past) & vi_below(p, sinks))) << i * LANES;
    }
    return used >= PAGE_SLOTS ? bits : bits & ((UINT32_C(1) << used) - 1);
}

ALWAYS uint32_t sink_slots(const int32_t *positions, uint32_t n_sinks)
{
    uint32_t bits = 0;
    UNROLL
    for (int i = 0; i < SLOT_VECTORS; i++)
        bits |= vi_below(vi_load(positions + i * LANES), vi_set1(n_sinks)) << i * LANES;
    return bits;
}

ALWAYS void logits_tile(const struct attend *a, const float *const *queries, const uint32_t *which,
                        int n)
{
    vf sums[TILE_QUERIES][SLOT_VECTORS];
    UNROLL
    for (int j = 0; j < n; j++) {
        UNROLL
        for (int i = 0; i < SLOT_VECTORS; i++)
            sums[j][i] = v_zero();
    }
    const float *q[TILE_QUERIES];
    for (int j = 0; j < n; j++)
        q[j] = queries[which[j]];
    for (uint32_t d = 0; d < a->head_dim; d++) {
        vf k[SLOT_VECTORS];
        UNROLL
        for (int i = 0; i < SLOT_VECTORS; i++)
            k[i] = v_load(a->k + d * PAGE_SLOTS + i * LANES);
        UNROLL
        for (int j = 0; j < n; j++) {
            UNROLL
            for (int i = 0; i < SLOT_VECTORS; i++)
                sums[j][i] = v_fma(v_set1(q[j][d]), k[i], sums[j][i]);
        }
    }
    UNROLL
    for (int j = 0; j < n; j++) {
        UNROLL
        for (int i = 0; i < SLOT_VECTORS; i++)
            v_store(a->weights + which[j] * PAGE_SLOTS + i * LANES,
                    v_mul(sums[j][i], v_set1(a->scale)));
    }
}

/* values[which] += weights * V over the slots `bits`, n_d vectors of dimensions from d on. */
ALWAYS void values_tile(const struct attend *a, const uint32_t *which, uint32_t bits, uint32_t d,
                        int n, int n_d)
{
    vf sums[TILE_QUERIES][4];
    const float *weights[TILE_QUERIES];
    UNROLL
    for (int j = 0; j < n; j++) {
        weights[j] = a->weights + which[j] * PAGE_SLOTS;
        UNROLL
        for (int i = 0; i < n_d; i++)
            sums[j][i] = v_load(a->values + which[j] * a->width + d + i * LANES);
    }
    for (; bits != 0; bits &= bits - 1) {
        uint32_t slot = (uint32_t)__builtin_ctz(bits);
        vf v[4];
        UNROLL
        for (int i = 0; i < n_d; i++)
            v[i] = v_load(a->v + slot * a->width + d + i * LANES);
        UNROLL
        for (int j = 0; j < n; j++) {
            vf weight = v_set1(weights[j][slot]);
            UNROLL
            for (int i = 0; i < n_d; i++)
                sums[j][i] = v_fma(weight, v[i], sums[j][i]);
        }
    }
    UNROLL
    for (int j = 0; j < n; j++) {
        UNROLL
        for (int i = 0; i < n_d; i++)
            v_store(a->values + which[j] * a->width + d + i * LANES, sums[j][i]);
    }
}

ALWAYS void values_tiles(const struct attend *a, const uint32_t *which, uint32_t bits, int n)
{
    uint32_t d = 0;
    for (; d + 4 * LANES <= a->width; d += 4 * LANES)
        values_tile(a, which, bits, d, n, 4);
    for (; d < a->width; d += LANES)
        values_tile(a, which, bits, d, n, 1);
}

#if TILE_QUERIES == 6
#define FOR_TILE(n, f, ...)                                                                        \
    switch (n) {                                                                                   \
    case 1:                                                                                        \
        f(__VA_ARGS__, 1);                                                                         \
        break;                                                                                     \
    case 2:                                                                                        \
        f(__VA_ARGS__, 2);                                                                         \
        break;                                                                                     \
    case 3:                                                                                        \
        f(__VA_ARGS__, 3);                                                                         \
        break;                                                                                     \
    case 4:                                                                                        \
        f(__VA_ARGS__, 4);                                                                         \
        break;                                                                                     \
    case 5:                                                                                        \
        f(__VA_ARGS__, 5);                                                                         \
        break;                                                                                     \
    case 6:                                                                                        \
        f(__VA_ARGS__, 6);                                                                         \
        break;                                                                                     \
    }
#elif TILE_QUERIES == 3
#define FOR_TILE(n, f, ...)                                                                        \
    switch (n) {                                                                                   \
    case 1:                                                                                        \
        f(__VA_ARGS__, 1);                                                                         \
        break;                                                                                     \
    case 2:                                                                                        \
        f(__VA_ARGS__, 2);                                                                         \
        break;                                                                                     \
    case 3:                                                                                        \
        f(__VA_ARGS__, 3);                                                                         \
        break;                                                                                     \
    }
#else
#define FOR_TILE(n, f, ...)                                                                        \
    do {                                                                                           \
        f(__VA_ARGS__, 1);                                                                         \
    } while (0);
#endif

static void logits(const struct attend *a, const float *const *queries)
{
    for (uint32_t i = 0; i < a->n_active;) {
        uint32_t n = a->n_active - i < TILE_QUERIES ? a->n_active - i : TILE_QUERIES;
        FOR_TILE(n, logits_tile, a, queries, a->active + i)
        i += n;
    }
}

/* Sinks are asked by the query's second rotation: their lanes come from a second pass. */
static void logits_with_sinks(const struct attend *a, uint32_t sinks)
{
    float ordinary[ATTEND_QUERIES][PAGE_SLOTS];
    logits(a, a->q);
    for (uint32_t i = 0; i < a->n_active; i++)
        memcpy(ordinary[i], a->weights + a->active[i] * PAGE_SLOTS, sizeof *ordinary);
    logits(a, a->q_sink);
    for (uint32_t i = 0; i < a->n_active; i++) {
        float *to = a->weights + a->active[i] * PAGE_SLOTS;
        UNROLL
        for (int j = 0; j < SLOT_VECTORS; j++)
            v_store(to + j * LANES, v_select(sinks >> j * LANES, v_load(to + j * LANES),
                                             v_load(ordinary[i] + j * LANES)));
    }
}

/* Logits of one query become weights under its running maximum; earlier sums are scaled down when
 * the maximum grows. A NaN among them makes the sum NaN and with it the output. */
static void softmax_page(struct attend *a, uint32_t query)
{
    float *at = a->weights + query * PAGE_SLOTS;
    const uint32_t visible = a->visible[query];
    vf logit[SLOT_VECTORS], largest = v_set1(-__builtin_inff());
    UNROLL
    for (int i = 0; i < SLOT_VECTORS; i++) {
        logit[i] = v_load(at + i * LANES);
        largest = v_max(v_select(visible >> i * LANES, logit[i], largest), largest);
    }
    float page_maximum = v_largest(largest);
    if (page_maximum > a->maximum[query]) {
        float factor[LANES];
        v_store(factor, v_exp(v_set1(a->maximum[query] - page_maximum)));
        a->maximum[query] = page_maximum;
        a->sum[query] *= factor[0];
        float *values = a->values + query * a->width;
        for (uint32_t d = 0; d < a->width; d += LANES)
            v_store(values + d, v_mul(v_load(values + d), v_load(factor)));
    }
    vf maximum = v_set1(a->maximum[query]), total = v_zero();
    UNROLL
    for (int i = 0; i < SLOT_VECTORS; i++) {
        vf weight = v_select(visible >> i * LANES, v_exp(v_sub(logit[i], maximum)), v_zero());
        v_store(at + i * LANES, weight);
        total = v_add(total, weight);
    }
    a->sum[query] += v_sum(total);
}

/* Neighbours with the same mask (the heads of a group always have it) share the loads of V. */
static void values(const struct attend *a)
{
    for (uint32_t i = 0; i < a->n_active;) {
        const uint32_t bits = a->visible[a->active[i]];
        uint32_t n = 1;
        while (n < TILE_QUERIES && i + n < a->n_active && a->visible[a->active[i + n]] == bits)
            n++;
        FOR_TILE(n, values_tiles, a, a->active + i, bits)
        i += n;
    }
}

static void attend_page(struct attend *a, const struct page_shape *shape, uint8_t *page,
                        uint32_t sinks)
{
    widen_keys(a->k, shape, page);
    widen_values(a->v, a->width, shape, page);
    if (sinks != 0)
        logits_with_sinks(a, sinks);
    else
        logits(a, a->q);
    for (uint32_t i = 0; i < a->n_active; i++)
        softmax_page(a, a->active[i]);
    values(a);
}

/* All pages for the queries of n rows x n_heads heads. row0: of the batch. */
static void attend_queries(const struct attention_job *job, const struct kv_segment *segment,
                           const struct head_view *view, uint32_t row0, uint32_t n,
                           uint32_t n_heads, struct attend *a)
{
    a->n = n * n_heads;
    memset(a->values, 0, a->n * a->width * sizeof(float));
    for (uint32_t i = 0; i < a->n; i++) {
        a->maximum[i] = -__builtin_inff();
        a->sum[i] = 0;
        a->n_seen[i] = 0;
    }
    for (uint32_t first = 0; first < view->n_slots; first += PAGE_SLOTS) {
        uint8_t *page = job->pool + view->pages[first / PAGE_SLOTS] * job->shape->bytes;
        const int32_t *positions = page_positions(page);
        uint32_t any = 0;
        a->n_active = 0;
        for (uint32_t row = 0; row < n; row++) {
            uint32_t bits =
                visible_slots(positions, view->n_slots - first, job->positions[row0 + row], view);
            any |= bits;
            for (uint32_t i = row * n_heads; bits != 0 && i < (row + 1) * n_heads; i++) {
                a->visible[i] = bits;
                a->n_seen[i] += (uint32_t)__builtin_popcount(bits);
                a->active[a->n_active++] = i;
            }
        }
        if (any != 0)
            attend_page(a, job->shape, page,
                        segment->sink_query ? any & sink_slots(positions, view->n_sinks) : 0);
    }
}

/* What was dropped, as one slot that stands for n (RazorAttention's compensation token). */
static void attend_summary(struct attend *a, const float *summary, uint32_t n_summary)
{
    const float *v = summary + a->head_dim;
    const float bonus = __builtin_logf((float)n_summary);
    for (uint32_t query = 0; query < a->n; query++) {
        float dot = 0;
        for (uint32_t d = 0; d < a->head_dim; d++)
            dot = __builtin_fmaf(a->q[query][d], summary[d], dot);
        float logit = dot * a->scale + bonus, factor[LANES], weight[LANES];
        float *to = a->values + query * a->width;
        if (logit > a->maximum[query]) {
            v_store(factor, v_exp(v_set1(a->maximum[query] - logit)));
            a->maximum[query] = logit;
            a->sum[query] *= factor[0];
            for (uint32_t d = 0; d < a->width; d += LANES)
                v_store(to + d, v_mul(v_load(to + d), v_load(factor)));
        }
        v_store(weight, v_exp(v_set1(logit - a->maximum[query])));
        a->sum[query] += weight[0];
        for (uint32_t d = 0; d < a->head_dim; d++)
            to[d] = __builtin_fmaf(weight[0], v[d], to[d]);
    }
}

static void attend(const struct attention_job *job, const struct kv_segment *segment,
                   uint32_t kv_head, uint32_t first, uint32_t n, float *scratch)
{
    const uint32_t group = job->n_heads / job->n_kv_heads, row0 = segment->first_row + first;
    const uint32_t at_once = group < ATTEND_QUERIES ? group : ATTEND_QUERIES;
    struct attend a = {.head_dim = job->head_dim,
                       .width = (job->head_dim + LANES - 1) / LANES * LANES,
                       .scale = 1 / __builtin_sqrtf((float)job->head_dim)};
    a.k = scratch;
    a.v = a.k + a.head_dim * PAGE_SLOTS;
    a.weights = a.v + PAGE_SLOTS * a.width;
    a.values = a.weights + ATTEND_QUERIES * PAGE_SLOTS;
    for (uint32_t head = 0; head < group; head += at_once) {
        const uint32_t n_heads = group - head < at_once ? group - head : at_once;
        for (uint32_t i = 0; i < n * n_heads; i++) {
            size_t query =
                (size_t)(row0 + i / n_heads) * job->n_heads + kv_head * group + head + i % n_heads;
            a.q[i] = job->q + query * a.head_dim;
            a.q_sink[i] = segment->sink_query ? job->q_sink + query * a.head_dim : NULL;
        }
        attend_queries(job, segment, &segment->heads[kv_head], row0, n, n_heads, &a);
        const struct head_state *state = segment->states ? segment->states[kv_head] : NULL;
        if (state && state->summary && state->counters->n_summary > 0)
            attend_summary(&a, state->summary, state->counters->n_summary);
        for (uint32_t i = 0; job->softmax && i < a.n; i++) {
            size_t query = (size_t)(a.q[i] - job->q) / a.head_dim;
            job->softmax[2 * query] = a.maximum[i];
            job->softmax[2 * query + 1] = 1 / a.sum[i];
            job->n_seen[(row0 + i / n_heads) * job->n_kv_heads + kv_head] = a.n_seen[i];
        }
        for (uint32_t i = 0; i < a.n; i++) {
            float *out = job->out + (a.q[i] - job->q);
            const float *sums = a.values + i * a.width;
            for (uint32_t d = 0; d < a.head_dim; d += LANES)
                v_store_n(out + d, v_div(v_load(sums + d), v_set1(a.sum[i])), a.head_dim - d);
        }
    }
}
