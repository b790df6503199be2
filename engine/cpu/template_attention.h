/* Part of template_kernels.h: attention over pages, a span of SPAN_PAGES at a time
 * (flash-decoding's split of one row over its slots; the merging of softmaxes is Milakov and
 * Gimelshein's, arXiv 1805.02867).
 *
 * The result for a query depends on its own position and slots only:
 *
 *   span    logits (template_tiles.h) times log2 e, maximum of those it sees, 2^(logit - maximum),
 *           their sum (one chain for each place in a page, then a fixed tree), the sum of values
 *   row     the spans with visible slots, merged in order
 *
 * So one thread may compute all spans of a row, or many threads one span each, with the same bits.
 * Masked and unused slots may contain anything: their lanes are replaced, and their rows of V are
 * not read. */

struct attend {
    const struct attention_job *job;
    const struct step_segment *segment;
    struct head_view view;          /* of a list: whole pages of it */
    const struct step_list *list;   /* NULL: the whole table */
    uint32_t kv_head, row0, n_rows; /* row0: of the batch */
    uint32_t head, n_heads;         /* of the group */
    uint32_t head_dim, width;       /* width: head_dim rounded up to whole vectors */
    float scale;                    /* of logits: log2 e / sqrt(head_dim) */
    uint32_t n;                     /* queries: n_rows x n_heads */
    const float *q[ATTEND_QUERIES]; /* [head_dim] */
    const float *q_sink[ATTEND_QUERIES];

    /* The span at hand. */
    struct pages pages;
    uint32_t first_slot;
    uint32_t seen[ATTEND_QUERIES][SPAN_PAGES]; /* by row */
    uint32_t any[SPAN_PAGES], sinks[SPAN_PAGES];
    float *panel; /* K or V of a page, widened */
    /* [n] `stride` apart, [SPAN_SLOTS]; logits first. `own`, or where they are kept. */
    float *weights, *own;
    uint32_t stride;
    float *kept_maxima; /* [n] of the span, or NULL */
    float *values;      /* [n][width] */
    float span_maximum[ATTEND_QUERIES], span_sum[ATTEND_QUERIES];

    /* The spans merged so far. */
    float maximum[ATTEND_QUERIES], sum[ATTEND_QUERIES];
    uint32_t n_seen[ATTEND_QUERIES]; /* by row: slots */
    float *totals;                   /* [n][width] */
};

/* The place in the head's table of the page that is read as number `at`. */
static uint32_t place_of(const struct attend *a, uint32_t at)
{
    return a->list ? a->list->places[at] : at;
}

static const uint8_t *page_of(const struct attend *a, uint32_t at)
{
    return a->job->pool + a->view.pages[place_of(a, at)] * a->job->shape->stride;
}

static const int32_t *positions_of(const struct attend *a, uint32_t at)
{
    return a->job->slot_positions + (size_t)a->view.pages[place_of(a, at)] * PAGE_SLOTS;
}

/* The slots, among the first `used` of a page, that a query at position t sees: p <= t &&
 * (p < n_sinks || t - p < window). Numbers are unsigned: for a later slot t - p is above 2^31. */
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

/* ---- one span */

/* Where the visible slots of a decode row's open span are kept; NULL: nowhere. */
static uint32_t *kept_seen(const struct attend *a)
{
    const struct attention_cut *cut = &a->job->cuts[a->segment - a->job->segments];
    return cut->seen
               ? cut->seen +
                     ((size_t)a->kv_head * cut->n_spans + a->first_slot / SPAN_SLOTS) * SPAN_PAGES
               : NULL;
}

/* False: no query sees a slot of the span. */
static bool open_span(struct attend *a, uint32_t span)
{
    const struct head_view *view = &a->view;
    uint32_t any_page = 0;
    a->first_slot = span * SPAN_SLOTS;
    a->pages.n = 0;
    for (uint32_t first = a->first_slot; a->pages.n < SPAN_PAGES && first < view->n_slots;
         first += PAGE_SLOTS) {
        const uint32_t at = a->pages.n++;
        const int32_t *positions = positions_of(a, first / PAGE_SLOTS);
        a->pages.page[at] = page_of(a, first / PAGE_SLOTS);
        a->any[at] = 0;
        for (uint32_t row = 0; row < a->n_rows; row++) {
            a->seen[row][at] = visible_slots(positions, view->n_slots - first,
                                             a->job->positions[a->row0 + row], view);
            if (a->list)
                a->seen[row][at] &= a->list->slots[first / PAGE_SLOTS];
            a->any[at] |= a->seen[row][at];
        }
        a->sinks[at] =
            a->segment->placed->sink_query ? a->any[at] & sink_slots(positions, view->n_sinks) : 0;
        any_page |= a->any[at];
    }
    uint32_t *kept = kept_seen(a);
    for (uint32_t at = 0; kept && at < SPAN_PAGES; at++)
        kept[at] = at < a->pages.n ? a->seen[0][at] : 0;
    return any_page != 0;
}

/* Prefetches the positions of the next span, which open_span reads first. */
static void expect_span(const struct attend *a)
{
    const struct head_view *view = &a->view;
    const uint32_t first = a->first_slot / PAGE_SLOTS + SPAN_PAGES,
                   n_pages = (uint32_t)pages_of_slots(view->n_slots);
    for (uint32_t at = first; at < n_pages && at < first + SPAN_PAGES; at++) {
        const int32_t *positions = positions_of(a, at);
        for (uint32_t i = 0; i < PAGE_SLOTS; i += 16) /* of a cache line */
            __builtin_prefetch(positions + i);
    }
}

static uint32_t slots_seen(const struct attend *a, uint32_t row)
{
    uint32_t n = 0;
    for (uint32_t at = 0; at < a->pages.n; at++)
        n += (uint32_t)__builtin_popcount(a->seen[row][at]);
    return n;
}

/* Queries that see a slot of a page. */
static uint32_t list_queries(const struct attend *a, uint32_t at, uint32_t *which)
{
    uint32_t n = 0;
    for (uint32_t row = 0; row < a->n_rows; row++)
        for (uint32_t i = 0; a->seen[row][at] != 0 && i < a->n_heads; i++)
            which[n++] = row * a->n_heads + i;
    return n;
}

/* Few queries of one row read pages as they are stored. */
static bool is_fused(const struct attend *a)
{
    return a->n_rows == 1 && a->n <= 2 * FUSED_QUERIES;
}

/* Logits, with one of their two rotations, of all queries that see a slot of page `at`. The panel
 * has the page, unless there are so few queries that they read it as stored. */
static void page_logits(const struct attend *a, uint32_t at, const float *const *q,
                        const uint32_t *which, uint32_t n)
{
    float *out = a->weights + at * PAGE_SLOTS;
    if (!is_fused(a)) {
        const uint32_t next = a->first_slot / PAGE_SLOTS + at + 1;
        const bool last = next * PAGE_SLOTS >= a->view.n_slots;
        logits_widened(a->panel, a->head_dim, a->scale, q, out, a->stride, which, n, a->job->shape,
                       last ? NULL : page_of(a, next));
        return;
    }
    /* Prefetches the span's next keys, or after the last ones its first values. */
    const uint8_t *next =
        at + 1 < a->pages.n ? a->pages.page[at + 1] : a->pages.page[0] + a->job->shape->v_at;
    for (uint32_t i = 0; i < n;) { /* which is 0 .. n - 1 */
        uint32_t step = n - i <= FUSED_QUERIES ? n - i : (n - i + 1) / 2;
        step = step < FUSED_QUERIES ? step : FUSED_QUERIES;
        logits_stored(a->job->shape, a->pages.page[at], next, a->scale, q + i, out + i * a->stride,
                      a->stride, step);
        i += step;
    }
}

/* For sinks the query has a second rotation: their lanes come from a second pass. */
static void ask_sinks(const struct attend *a, uint32_t at, const uint32_t *which, uint32_t n)
{
    float ordinary[ATTEND_QUERIES][PAGE_SLOTS], *out = a->weights + at * PAGE_SLOTS;
    for (uint32_t i = 0; i < n; i++)
        memcpy(ordinary[i], out + which[i] * a->stride, sizeof *ordinary);
    page_logits(a, at, a->q_sink, which, n);
    for (uint32_t i = 0; i < n; i++) {
        float *to = out + which[i] * a->stride;
        UNROLL
        for (int j = 0; j < SLOT_VECTORS; j++)
            v_store(to + j * LANES, v_select(a->sinks[at] >> j * LANES, v_load(to + j * LANES),
                                             v_load(ordinary[i] + j * LANES)));
    }
}

static void span_logits(struct attend *a)
{
    uint32_t which[ATTEND_QUERIES];
    for (uint32_t at = 0; at < a->pages.n; at++) {
        if (a->any[at] == 0)
            continue;
        uint32_t n = list_queries(a, at, which);
        if (!is_fused(a))
            widen_keys(a->panel, a->job->shape, a->pages.page[at]);
        page_logits(a, at, a->q, which, n);
        if (a->sinks[at] != 0)
            ask_sinks(a, at, which, n);
    }
}

/* Logits of one query become weights. A NaN among them makes the sum NaN and with it the output. */
static void softmax_span(struct attend *a, uint32_t query)
{
    const uint32_t *seen = a->seen[query / a->n_heads];
    float *weights = a->weights + query * a->stride;
    vf largest[SLOT_VECTORS], total[SLOT_VECTORS];
    UNROLL
    for (int i = 0; i < SLOT_VECTORS; i++) {
        largest[i] = v_set1(-__builtin_inff());
        total[i] = v_zero();
    }
    for (uint32_t at = 0; at < a->pages.n; at++) {
        if (seen[at] == 0)
            continue;
        vf logit[SLOT_VECTORS];
        UNROLL
        for (int i = 0; i < SLOT_VECTORS; i++)
            logit[i] = v_load(weights + at * PAGE_SLOTS + i * LANES);
        if (seen[at] != UINT32_MAX) {
            UNROLL
            for (int i = 0; i < SLOT_VECTORS; i++)
                logit[i] = v_select(seen[at] >> i * LANES, logit[i], v_set1(-__builtin_inff()));
        }
        UNROLL
        for (int i = 0; i < SLOT_VECTORS; i++)
            largest[i] = v_max(logit[i], largest[i]);
    }
    UNROLL
    for (int i = 1; i < SLOT_VECTORS; i++)
        largest[0] = v_max(largest[0], largest[i]);
    a->span_maximum[query] = v_largest(largest[0]);
    const vf maximum = v_set1(a->span_maximum[query]);
    for (uint32_t at = 0; at < a->pages.n; at++) {
        if (seen[at] == 0)
            continue;
        vf weight[SLOT_VECTORS];
        UNROLL
        for (int i = 0; i < SLOT_VECTORS; i++)
            weight[i] = v_sub(v_load(weights + at * PAGE_SLOTS + i * LANES), maximum);
        v_exp2_weights(weight, SLOT_VECTORS);
        if (seen[at] != UINT32_MAX) {
            UNROLL
            for (int i = 0; i < SLOT_VECTORS; i++)
                weight[i] = v_select(seen[at] >> i * LANES, weight[i], v_zero());
        }
        UNROLL
        for (int i = 0; i < SLOT_VECTORS; i++) {
            v_store(weights + at * PAGE_SLOTS + i * LANES, weight[i]);
            total[i] = v_add(total[i], weight[i]);
        }
    }
    UNROLL
    for (int n = SLOT_VECTORS / 2; n > 0; n /= 2) {
        UNROLL
        for (int i = 0; i < n; i++)
            total[i] = v_add(total[i], total[i + n]);
    }
    a->span_sum[query] = v_sum(total[0]);
}

/* Neighbouring queries with the same mask, such as the heads of a row, share the loads of V. */
static void values_widened(const struct attend *a, uint32_t at)
{
    uint32_t which[ATTEND_QUERIES], n_which = list_queries(a, at, which);
    for (uint32_t i = 0; i < n_which;) {
        const uint32_t bits = a->seen[which[i] / a->n_heads][at];
        uint32_t n = 1;
        while (n < TILE_QUERIES && i + n < n_which &&
               a->seen[which[i + n] / a->n_heads][at] == bits)
            n++;
        FOR_TILE(n, values_tile, a->panel, a->width, a->weights + at * PAGE_SLOTS, a->stride,
                 a->values, which + i, bits)
        i += n;
    }
}

static void span_values(struct attend *a)
{
    if (is_fused(a)) {
        a->pages.seen = a->seen[0];
        memset(a->values, 0, (size_t)a->n * a->width * sizeof *a->values);
        for (uint32_t i = 0; i < a->n;) {
            uint32_t step = a->n - i <= FUSED_QUERIES ? a->n - i : (a->n - i + 1) / 2;
            step = step < FUSED_QUERIES ? step : FUSED_QUERIES;
            values_stored(a->job->shape, &a->pages, a->weights + i * a->stride, a->stride,
                          a->values + i * a->width, a->width, step);
            i += step;
        }
        return;
    }
    memset(a->values, 0, (size_t)a->n * a->width * sizeof *a->values);
    for (uint32_t at = 0; at < a->pages.n; at++) {
        if (a->any[at] == 0)
            continue;
        widen_values(a->panel, a->width, a->job->shape, a->pages.page[at]);
        values_widened(a, at);
    }
}

/* The weights of the open span: where they are kept, or a buffer of the thread. */
static void place_weights(struct attend *a)
{
    const struct attention_cut *cut = &a->job->cuts[a->segment - a->job->segments];
    const uint32_t head = a->kv_head * (a->job->n_heads / a->job->n_kv_heads) + a->head;
    a->weights = a->own;
    a->stride = SPAN_SLOTS;
    a->kept_maxima = NULL;
    if (cut->weights) {
        a->stride = cut->n_spans * SPAN_SLOTS;
        a->weights = cut->weights + (size_t)head * a->stride + a->first_slot;
        a->kept_maxima =
            cut->maxima + (size_t)(a->first_slot / SPAN_SLOTS) * a->job->n_heads + head;
    }
}

/* Fills weights, span_maximum and span_sum of the span that is open. */
static void weigh_open_span(struct attend *a)
{
    span_logits(a);
    for (uint32_t i = 0; i < a->n; i++)
        softmax_span(a, i);
}

/* The same and values. */
static void attend_open_span(struct attend *a)
{
    place_weights(a);
    weigh_open_span(a);
    if (a->kept_maxima)
        memcpy(a->kept_maxima, a->span_maximum, a->n * sizeof *a->kept_maxima);
    expect_span(a);
    span_values(a);
}

/* ---- merging */

static float exp2_weight(float x)
{
    float e[LANES];
    vf v = v_set1(x);
    v_exp2_weights(&v, 1);
    v_store(e, v);
    return e[0];
}

/* Merges a span of which the query sees a slot. */
static void merge_span(struct attend *a, uint32_t query, float maximum, float sum,
                       const float *values)
{
    float *totals = a->totals + query * a->width;
    const bool larger = maximum > a->maximum[query];
    const float smaller =
                    exp2_weight(larger ? a->maximum[query] - maximum : maximum - a->maximum[query]),
                before = larger ? smaller : 1, now = larger ? 1 : smaller;
    if (larger)
        a->maximum[query] = maximum;
    a->sum[query] = a->sum[query] * before + sum * now;
    for (uint32_t d = 0; d < a->width; d += LANES)
        v_store(totals + d,
                v_fma(v_load(values + d), v_set1(now), v_mul(v_load(totals + d), v_set1(before))));
}

/* Heads [head, head + n_heads) of the group of `kv_head` for rows [first, first + n) of a segment.
 */
static void name_queries(struct attend *a, uint32_t first, uint32_t n, uint32_t head,
                         uint32_t n_heads)
{
    const struct attention_job *job = a->job;
    const uint32_t group = job->n_heads / job->n_kv_heads;
    a->row0 = a->segment->first_row + first;
    a->n_rows = n;
    a->head = head;
    a->n_heads = n_heads;
    a->n = n * n_heads;
    for (uint32_t i = 0; i < a->n; i++) {
        size_t query = (size_t)(a->row0 + i / n_heads) * job->n_heads + a->kv_head * group + head +
                       i % n_heads;
        a->q[i] = job->q + query * a->head_dim;
        a->q_sink[i] = a->segment->placed->sink_query ? job->q_sink + query * a->head_dim : NULL;
    }
}

/* They, and nothing merged yet. */
static void open_queries(struct attend *a, uint32_t first, uint32_t n, uint32_t head,
                         uint32_t n_heads)
{
    name_queries(a, first, n, head, n_heads);
    for (uint32_t i = 0; i < a->n; i++) {
        a->maximum[i] = -__builtin_inff();
        a->sum[i] = 0;
        a->n_seen[i / n_heads] = 0;
    }
    memset(a->totals, 0, (size_t)a->n * a->width * sizeof *a->totals);
}

/* One more slot of a query, by its logit times log2 e: it joins the maximum and the sum. Returns
 * its weight. */
static float merge_logit(struct attend *a, uint32_t query, float logit)
{
    if (logit > a->maximum[query]) {
        float factor = exp2_weight(a->maximum[query] - logit), *to = a->totals + query * a->width;
        a->maximum[query] = logit;
        a->sum[query] *= factor;
        for (uint32_t d = 0; d < a->width; d += LANES)
            v_store(to + d, v_mul(v_load(to + d), v_set1(factor)));
    }
    float weight = exp2_weight(logit - a->maximum[query]);
    a->sum[query] += weight;
    return weight;
}

/* The summary: one slot that stands for n dropped ones (RazorAttention's compensation token). */
static void attend_summary(struct attend *a, const float *summary, uint32_t n_summary)
{
    const float *v = summary + a->head_dim;
    const float bonus = __builtin_log2f((float)n_summary);
    for (uint32_t query = 0; query < a->n; query++) {
        float dot = 0, *to = a->totals + query * a->width;
        for (uint32_t d = 0; d < a->head_dim; d++)
            dot = __builtin_fmaf(a->q[query][d], summary[d], dot);
        float weight = merge_logit(a, query, dot * a->scale + bonus);
        for (uint32_t d = 0; d < a->head_dim; d++)
            to[d] = __builtin_fmaf(weight, v[d], to[d]);
    }
}

/* A slot without a value, whose logit is the query head's own (gpt-oss's sink). */
static void attend_sink(struct attend *a)
{
    const struct attention_job *job = a->job;
    const float *logits =
        job->sink_logits + a->kv_head * (job->n_heads / job->n_kv_heads) + a->head;
    for (uint32_t query = 0; query < a->n; query++)
        merge_logit(a, query, logits[query % a->n_heads] * 0x1.715476p+0f);
}

/* After all spans are merged: writes the outputs and what scoring needs. */
static void close_queries(struct attend *a)
{
    const struct attention_job *job = a->job;
    const struct head_state *state = state_of(job, a->segment, a->kv_head);
    if (state->summary && state->counters->n_summary > 0)
        attend_summary(a, state->summary, state->counters->n_summary);
    if (job->sink_logits)
        attend_sink(a);
    for (uint32_t i = 0; job->softmax && i < a->n; i++) {
        const uint32_t row = a->row0 + i / a->n_heads - job->softmax_row;
        size_t query =
            (size_t)(a->q[i] - job->q) / a->head_dim - (size_t)job->softmax_row * job->n_heads;
        job->softmax[2 * query] = a->maximum[i];
        job->softmax[2 * query + 1] = 1 / a->sum[i];
        job->n_seen[row * job->n_kv_heads + a->kv_head] = a->n_seen[i / a->n_heads];
    }
    for (uint32_t i = 0; i < a->n; i++) {
        float *out = job->out + (a->q[i] - job->q);
        const float *totals = a->totals + i * a->width;
        for (uint32_t d = 0; d < a->head_dim; d += LANES)
            v_store_n(out + d, v_div(v_load(totals + d), v_set1(a->sum[i])), a->head_dim - d);
    }
}

static void set_up(struct attend *a, const struct attention_job *job,
                   const struct step_segment *segment, uint32_t kv_head, float *scratch)
{
    a->job = job;
    a->segment = segment;
    a->view = placement_view(segment->placed, job->first_head + kv_head, segment->n_behind);
    a->view.n_slots = walked_slots(job, segment, kv_head);
    a->list = list_of(job, segment, kv_head);
    a->kv_head = kv_head;
    a->head_dim = job->head_dim;
    a->width = (job->head_dim + LANES - 1) / LANES * LANES;
    a->scale = 0x1.715476p+0f / __builtin_sqrtf((float)job->head_dim);
    a->panel = scratch;
    a->own = a->panel + PAGE_SLOTS * a->width;
    a->values = a->own + ATTEND_QUERIES * SPAN_SLOTS;
    a->totals = a->values + attend_queries(job->head_dim) * a->width;
}

/* ---- the kernels */

/* The heads of a group are split into parts that fit the scratch together with n rows. */
static uint32_t heads_at_once(const struct attention_job *job, uint32_t n_rows)
{
    const uint32_t group = job->n_heads / job->n_kv_heads,
                   most = attend_queries(job->head_dim) / n_rows;
    return group < most ? group : most;
}

static void attend(const struct attention_job *job, const struct step_segment *segment,
                   uint32_t kv_head, uint32_t first, uint32_t n, float *scratch)
{
    const uint32_t group = job->n_heads / job->n_kv_heads, at_once = heads_at_once(job, n),
                   n_spans = spans_of(walked_slots(job, segment, kv_head));
    struct attend a;
    set_up(&a, job, segment, kv_head, scratch);
    for (uint32_t head = 0; head < group; head += at_once) {
        open_queries(&a, first, n, head, group - head < at_once ? group - head : at_once);
        for (uint32_t span = 0; span < n_spans; span++) {
            if (!open_span(&a, span))
                continue;
            attend_open_span(&a);
            for (uint32_t row = 0; row < n; row++) {
                uint32_t n_seen = slots_seen(&a, row);
                a.n_seen[row] += n_seen;
                for (uint32_t i = row * a.n_heads; n_seen > 0 && i < (row + 1) * a.n_heads; i++)
                    merge_span(&a, i, a.span_maximum[i], a.span_sum[i], a.values + i * a.width);
            }
        }
        close_queries(&a);
    }
}

/* Where a span leaves what it found for query `i` (row by row, heads of the group within). */
static float *partial_of(const struct attention_job *job, const struct step_segment *segment,
                         uint32_t kv_head, uint32_t span, uint32_t i)
{
    const struct attention_cut *cut = &job->cuts[segment - job->segments];
    const size_t n = (size_t)segment->n_rows * (job->n_heads / job->n_kv_heads);
    return cut->partials +
           (((size_t)kv_head * cut->n_spans + span) * n + i) * partial_floats(job->head_dim);
}

static void attend_span(const struct attention_job *job, const struct step_segment *segment,
                        uint32_t kv_head, uint32_t span, float *scratch)
{
    const uint32_t group = job->n_heads / job->n_kv_heads, n = segment->n_rows,
                   at_once = heads_at_once(job, n);
    struct attend a;
    set_up(&a, job, segment, kv_head, scratch);
    for (uint32_t head = 0; head < group; head += at_once) {
        open_queries(&a, 0, n, head, group - head < at_once ? group - head : at_once);
        const bool sees = open_span(&a, span);
        if (sees)
            attend_open_span(&a);
        for (uint32_t i = 0; i < a.n; i++) {
            const uint32_t row = i / a.n_heads, n_seen = sees ? slots_seen(&a, row) : 0;
            float *to = partial_of(job, segment, kv_head, span, row * group + head + i % a.n_heads);
            to[PARTIAL_SEEN] = (float)n_seen;
            if (n_seen == 0)
                continue;
            to[PARTIAL_MAXIMUM] = a.span_maximum[i];
            to[PARTIAL_SUM] = a.span_sum[i];
            memcpy(to + PARTIAL_VALUES, a.values + i * a.width, a.width * sizeof *to);
        }
    }
}

static void attend_merge(const struct attention_job *job, const struct step_segment *segment,
                         uint32_t kv_head, float *scratch)
{
    const uint32_t group = job->n_heads / job->n_kv_heads, n = segment->n_rows,
                   at_once = heads_at_once(job, n),
                   n_spans = spans_of(walked_slots(job, segment, kv_head));
    struct attend a;
    set_up(&a, job, segment, kv_head, scratch);
    for (uint32_t head = 0; head < group; head += at_once) {
        open_queries(&a, 0, n, head, group - head < at_once ? group - head : at_once);
        for (uint32_t span = 0; span < n_spans; span++)
            for (uint32_t i = 0; i < a.n; i++) {
                const float *from = partial_of(job, segment, kv_head, span,
                                               i / a.n_heads * group + head + i % a.n_heads);
                if (from[PARTIAL_SEEN] == 0)
                    continue;
                if (i % a.n_heads == 0)
                    a.n_seen[i / a.n_heads] += (uint32_t)from[PARTIAL_SEEN];
                merge_span(&a, i, from[PARTIAL_MAXIMUM], from[PARTIAL_SUM], from + PARTIAL_VALUES);
            }
        close_queries(&a);
    }
}
