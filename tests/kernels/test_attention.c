/* Attention over pages against double precision on what the pages really hold, and its promises:
 * bits depend on a row's own slots alone, and unused or masked slots may hold anything. */
#include "tests/kernels/kernel_cases.h"
#include "tests/suite.h"

#define MAX_SEGMENTS 4

/* One sequence in one layer: its pages per head in a shuffled pool, and for each slot the position.
 */
struct sequence {
    uint32_t n_slots, n_rows; /* the last n_rows slots, by position, are queries */
    uint32_t *slot_of;        /* [n_slots][n_kv_heads] by position */
    struct head_view *heads;  /* [n_kv_heads] */
    uint32_t *pages;          /* [n_kv_heads][n_pages] */
};

struct scene {
    struct backend b;
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t n_sequences;
    struct sequence sequences[MAX_SEGMENTS];
    uint32_t n_rows; /* of all sequences */
    struct kv_segment segments[MAX_SEGMENTS];
    int32_t *positions;
    float *q, *q_sink;
    bool sink_query;
};

static struct cpu *inside(const struct backend *b)
{
    return b->self;
}

/* Every byte 0xff is a NaN as half and as float, and position -1. */
static void poison(const struct backend *b)
{
    memset(inside(b)->pool, 0xff, inside(b)->pool_bytes);
}

static uint32_t *shuffled(uint32_t n)
{
    uint32_t *order = malloc((n + 1) * sizeof *order);
    ck_assert_ptr_nonnull(order);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = random_below(i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    return order;
}

/* Writes all n_slots tokens of a sequence through kv_write, each head into its own random order. */
static void write_tokens(struct scene *s, struct sequence *q, float v_scale)
{
    const uint32_t width = s->n_kv_heads * s->head_dim;
    float *k = floats((size_t)q->n_slots * width), *v = floats((size_t)q->n_slots * width);
    int32_t *positions = malloc(q->n_slots * sizeof *positions);
    fill_normal(k, (size_t)q->n_slots * width);
    fill_normal(v, (size_t)q->n_slots * width);
    for (uint32_t i = 0; i < q->n_slots * width; i++)
        v[i] *= v_scale;
    for (uint32_t i = 0; i < q->n_slots; i++)
        positions[i] = (int32_t)i;
    struct kv_segment all = {.n_rows = q->n_slots, .heads = q->heads, .write_slots = q->slot_of};
    s->b.kv_write(s->b.self, k, v, positions, &all, 1, s->n_kv_heads, s->head_dim);
    free(k);
    free(v);
    free(positions);
}

static void add_sequence(struct scene *s, uint32_t n_slots, uint32_t n_rows, uint32_t n_sinks,
                         uint32_t window, uint32_t *next_page, const uint32_t *page_order)
{
    struct sequence *q = &s->sequences[s->n_sequences++];
    const uint32_t n_pages = (n_slots + PAGE_SLOTS - 1) / PAGE_SLOTS;
    q->n_slots = n_slots;
    q->n_rows = n_rows;
    q->heads = calloc(s->n_kv_heads, sizeof *q->heads);
    q->pages = calloc((size_t)s->n_kv_heads * n_pages, sizeof *q->pages);
    q->slot_of = calloc((size_t)n_slots * s->n_kv_heads, sizeof *q->slot_of);
    for (uint32_t h = 0; h < s->n_kv_heads; h++) {
        for (uint32_t i = 0; i < n_pages; i++)
            q->pages[h * n_pages + i] = page_order[(*next_page)++];
        q->heads[h] = (struct head_view){
            .pages = q->pages + h * n_pages,
            .n_slots = n_slots,
            .n_sinks = n_sinks,
            .window = window,
        };
        uint32_t *order = shuffled(n_slots);
        for (uint32_t i = 0; i < n_slots; i++)
            q->slot_of[i * s->n_kv_heads + h] = order[i];
        free(order);
    }
}

struct shape {
    uint32_t n_kv_heads, group, head_dim, n_sequences;
    bool sink_query;
    uint32_t n_slots; /* 0: any that are few */
    int storage;      /* -1: any */
};

static bool scene_open(struct scene *s, int isa, uint32_t n_threads, struct shape shape)
{
    memset(s, 0, sizeof *s);
    if (!open_isa(&s->b, isa, n_threads))
        return false;
    struct error e;
    s->n_kv_heads = shape.n_kv_heads;
    s->n_heads = shape.n_kv_heads * shape.group;
    s->head_dim = shape.head_dim;
    s->sink_query = shape.sink_query;
    const uint32_t most = shape.n_slots ? shape.n_slots : 250,
                   n_pages = shape.n_sequences * shape.n_kv_heads * (most / PAGE_SLOTS + 1);
    const uint32_t any = random_below(4); /* read back as stored */
    s->b.kv_set_storage(s->b.self, shape.storage < 0 ? (enum plan_storage)any
                                                     : (enum plan_storage)shape.storage);
    ck_assert(s->b.kv_alloc(s->b.self, n_pages, s->head_dim, &e));
    poison(&s->b);
    uint32_t *order = shuffled(n_pages), next_page = 0;
    for (uint32_t i = 0; i < shape.n_sequences; i++) {
        uint32_t n_slots = shape.n_slots ? shape.n_slots - i * 37 : 1 + random_below(250),
                 n_rows = 1 + random_below(shape.n_slots ? 280 : n_slots);
        bool limited = random_below(2);
        add_sequence(s, n_slots, random_below(3) ? n_rows : 1, random_below(2) * random_below(40),
                     limited ? 1 + random_below(100) : UINT32_MAX, &next_page, order);
        write_tokens(s, &s->sequences[i], 1);
    }
    free(order);
    for (uint32_t i = 0; i < s->n_sequences; i++) {
        struct sequence *q = &s->sequences[i];
        s->segments[i] = (struct kv_segment){.first_row = s->n_rows,
                                             .n_rows = q->n_rows,
                                             .heads = q->heads,
                                             .sink_query = s->sink_query};
        s->n_rows += q->n_rows;
    }
    s->positions = calloc(s->n_rows, sizeof *s->positions);
    for (uint32_t i = 0; i < s->n_sequences; i++)
        for (uint32_t r = 0; r < s->sequences[i].n_rows; r++)
            s->positions[s->segments[i].first_row + r] =
                (int32_t)(s->sequences[i].n_slots - s->sequences[i].n_rows + r);
    size_t n = (size_t)s->n_rows * s->n_heads * s->head_dim;
    s->q = floats(n);
    s->q_sink = floats(n);
    fill_normal(s->q, n);
    fill_normal(s->q_sink, n);
    return true;
}

static void scene_close(struct scene *s)
{
    for (uint32_t i = 0; i < s->n_sequences; i++) {
        free(s->sequences[i].heads);
        free(s->sequences[i].pages);
        free(s->sequences[i].slot_of);
    }
    free(s->positions);
    free(s->q);
    free(s->q_sink);
    s->b.close(s->b.self);
}

static size_t out_floats(const struct scene *s)
{
    return (size_t)s->n_rows * s->n_heads * s->head_dim;
}

static float *attend_all(const struct scene *s)
{
    float *out = floats(out_floats(s));
    s->b.attention(s->b.self, out, s->q, s->sink_query ? s->q_sink : NULL, s->positions,
                   s->segments, s->n_sequences, s->n_heads, s->n_kv_heads, s->head_dim);
    return out;
}

/* One query by definition, from kv_read. probability [n_slots], or NULL. Returns a bound of the
 * error that the kernel may make, of a value; the largest value is *largest_v. */
static double reference(const struct scene *s, const struct kv_segment *segment, uint32_t row,
                        uint32_t head, double *out, double *probability, double *largest_v)
{
    const uint32_t d = s->head_dim, kv_head = head / (s->n_heads / s->n_kv_heads);
    const struct head_view *view = &segment->heads[kv_head];
    const size_t at = ((size_t)row * s->n_heads + head) * d;
    const int32_t t = s->positions[row];
    double *logit = calloc(view->n_slots, sizeof *logit), largest = -INFINITY, largest_size = 0;
    float *k = floats(d), *v = floats(d);
    for (uint32_t slot = 0; slot < view->n_slots; slot++) {
        int32_t p =
            s->b.kv_read(s->b.self, view->pages[slot / PAGE_SLOTS], slot % PAGE_SLOTS, d, k, NULL);
        bool sink = p < (int64_t)view->n_sinks;
        bool visible = p <= t && (sink || (int64_t)t - p < (int64_t)view->window);
        const float *q = (sink && segment->sink_query ? s->q_sink : s->q) + at;
        double dot = 0, size = 0;
        for (uint32_t i = 0; i < d; i++) {
            dot += (double)q[i] * k[i];
            size += fabs((double)q[i] * k[i]);
        }
        logit[slot] = visible ? dot / sqrt(d) : -INFINITY;
        largest = fmax(largest, logit[slot]);
        largest_size = visible ? fmax(largest_size, size / sqrt(d)) : largest_size;
    }
    const struct head_state *state = segment->states ? segment->states[kv_head] : NULL;
    const double n_summary = state ? state->counters->n_summary : 0;
    double summary_logit = log(n_summary), total = 0;
    for (uint32_t i = 0; n_summary > 0 && i < d; i++)
        summary_logit += (double)s->q[at + i] * state->summary[i] / sqrt(d);
    largest = fmax(largest, summary_logit);
    *largest_v = 0;
    memset(out, 0, d * sizeof *out);
    for (uint32_t slot = 0; slot < view->n_slots; slot++) {
        if (logit[slot] == -INFINITY)
            continue;
        double weight = exp(logit[slot] - largest);
        s->b.kv_read(s->b.self, view->pages[slot / PAGE_SLOTS], slot % PAGE_SLOTS, d, NULL, v);
        total += weight;
        for (uint32_t i = 0; i < d; i++) {
            out[i] += weight * v[i];
            *largest_v = fmax(*largest_v, fabs((double)v[i]));
        }
    }
    if (n_summary > 0) {
        double weight = exp(summary_logit - largest);
        total += weight;
        for (uint32_t i = 0; i < d; i++)
            out[i] += weight * state->summary[d + i];
    }
    for (uint32_t i = 0; i < d; i++)
        out[i] /= total;
    for (uint32_t slot = 0; probability && slot < view->n_slots; slot++)
        probability[slot] = exp(logit[slot] - largest) / total;
    free(logit);
    free(k);
    free(v);
    /* A logit sums head_dim products (two roundings each in plain C) and is scaled and shifted by
     * the maximum: (2 d + 3) 2^-24 of its size. A weight is off by that factor and 2 ulp of exp,
     * for each span (of one page at least) by one more rescaling (2 ulp + 1 rounding); both the sum
     * of weights and the sum of values then add up to n_slots rounded terms. */
    double logit_error = (2 * d + 3) * 0x1p-24 * (largest_size + fabs(largest));
    double pages = view->n_slots / PAGE_SLOTS + 1;
    double weight_error = logit_error + (5 + 5 * pages) * 0x1p-24;
    return 2 * (weight_error + 2 * view->n_slots * 0x1p-24) * fmax(*largest_v, 1);
}

static struct shape random_shape(uint32_t n_sequences)
{
    static const uint32_t dims[] = {2, 6, 8, 16, 24, 40, 64, 64, 80, 96, 128, 256};
    static const uint32_t groups[] = {1, 2, 3, 4, 5, 7, 8};
    return (struct shape){.n_kv_heads = 1 + random_below(3),
                          .group = groups[random_below(7)],
                          .head_dim = dims[random_below(12)],
                          .n_sequences = n_sequences,
                          .sink_query = random_below(2),
                          .storage = -1};
}

static void check_scene(const struct scene *s)
{
    float *out = attend_all(s);
    double *want = calloc(s->head_dim, sizeof *want), largest_v;
    for (uint32_t i = 0; i < s->n_sequences; i++) {
        const struct kv_segment *segment = &s->segments[i];
        for (uint32_t r = 0; r < segment->n_rows; r += 1 + random_below(9)) {
            for (uint32_t head = 0; head < s->n_heads; head += 1 + random_below(3)) {
                uint32_t row = segment->first_row + r;
                double bound = reference(s, segment, row, head, want, NULL, &largest_v);
                const float *got = out + ((size_t)row * s->n_heads + head) * s->head_dim;
                for (uint32_t d = 0; d < s->head_dim; d++)
                    ck_assert_msg(
                        fabs(got[d] - want[d]) <= bound,
                        "row %u of %u, head %u of %u, dimension %u of %u: %.9g, should be "
                        "%.9g +- %.3g",
                        r, segment->n_rows, head, s->n_heads, d, s->head_dim, (double)got[d],
                        want[d], bound);
            }
        }
    }
    free(out);
    free(want);
}

START_TEST(matches_double_precision_with_any_mask_in_a_poisoned_pool)
{
    random_state = 21;
    for (int round = 0; round < 14; round++) {
        struct scene s;
        if (!scene_open(&s, _i, 2, random_shape(1 + random_below(MAX_SEGMENTS))))
            return;
        check_scene(&s);
        scene_close(&s);
    }
}
END_TEST

START_TEST(the_largest_head_and_a_huge_group_fit_the_scratch)
{
    static const struct shape shapes[] = {{1, 2, 512, 1, true, 0, -1},
                                          {2, 50, 64, 1, true, 0, -1},
                                          {1, 97, 510, 1, false, 0, -1},
                                          {1, 48, 512, 1, true, 0, -1}};
    random_state = 22;
    for (int i = 0; i < 4; i++) {
        struct scene s;
        if (!scene_open(&s, _i, 1, shapes[i]))
            return;
        check_scene(&s);
        scene_close(&s);
    }
}
END_TEST

START_TEST(rows_and_batch_mates_and_threads_change_no_bit)
{
    random_state = 23;
    for (int round = 0; round < 8; round++) {
        struct scene s;
        struct shape shape = random_shape(1 + random_below(MAX_SEGMENTS));
        uint64_t state = random_state;
        if (!scene_open(&s, _i, 1, shape))
            return;
        float *whole = attend_all(&s), *single = floats(out_floats(&s));
        for (uint32_t i = 0; i < s.n_sequences; i++) {
            for (uint32_t r = 0; r < s.segments[i].n_rows;) {
                struct kv_segment part = s.segments[i];
                part.first_row += r;
                part.n_rows = 1 + random_below(round % 2 ? 1 : 9);
                if (part.n_rows > s.segments[i].n_rows - r)
                    part.n_rows = s.segments[i].n_rows - r;
                s.b.attention(s.b.self, single, s.q, s.q_sink, s.positions, &part, 1, s.n_heads,
                              s.n_kv_heads, s.head_dim);
                r += part.n_rows;
            }
        }
        assert_same_bits(whole, single, out_floats(&s));
        for (uint32_t threads = 2; threads <= 5; threads += 3) {
            struct scene other;
            random_state = state;
            ck_assert(scene_open(&other, _i, threads, shape));
            float *out = attend_all(&other);
            assert_same_bits(whole, out, out_floats(&s));
            free(out);
            scene_close(&other);
        }
        free(whole);
        free(single);
        scene_close(&s);
    }
}
END_TEST

/* ---- contexts of many spans */

/* 700 to 1,300 slots: three to six spans, the last one and its last page broken off. */
static struct shape long_shape(int storage)
{
    static const uint32_t dims[] = {64, 40, 128, 20}, groups[] = {3, 4, 1, 7, 6};
    return (struct shape){.n_kv_heads = 1 + random_below(3),
                          .group = groups[random_below(5)],
                          .head_dim = dims[random_below(4)],
                          .n_sequences = 3,
                          .sink_query = random_below(2),
                          .n_slots = 700 + random_below(600),
                          .storage = storage};
}

/* What scoring leaves and summaries hold: one head's state for every (sequence, KV head). */
struct memory {
    struct head_state states[MAX_SEGMENTS][3], *lists[MAX_SEGMENTS][3];
    struct head_counters counters[MAX_SEGMENTS][3];
};

static const enum cache_score score_kinds[] = {CACHE_SCORE_SUM, CACHE_SCORE_LAST,
                                               CACHE_SCORE_HISTORY, CACHE_SCORE_SUM};

static void memory_open(struct memory *m, struct scene *s)
{
    memset(m, 0, sizeof *m);
    for (uint32_t i = 0; i < s->n_sequences; i++) {
        const size_t slots = (s->sequences[i].n_slots + PAGE_SLOTS) / PAGE_SLOTS * PAGE_SLOTS;
        for (uint32_t h = 0; h < s->n_kv_heads; h++) {
            struct head_state *state = &m->states[i][h];
            m->lists[i][h] = state;
            state->counters = &m->counters[i][h];
            state->scores = floats(slots);
            state->history = calloc(slots * HISTORY_WORDS, sizeof *state->history);
            state->summary = floats(2 * s->head_dim);
            ck_assert_ptr_nonnull(state->history);
            for (uint32_t d = 0; d < 2 * s->head_dim; d++)
                state->summary[d] = (float)((d * 37 + h) % 19) / 10 - 0.9f;
            state->counters->n_summary = i == 1 ? 5 : 0;
        }
        s->segments[i].states = m->lists[i];
        s->segments[i].score = score_kinds[i];
    }
}

static void memory_close(struct memory *m, const struct scene *s)
{
    for (uint32_t i = 0; i < s->n_sequences; i++)
        for (uint32_t h = 0; h < s->n_kv_heads; h++) {
            free(m->states[i][h].scores);
            free(m->states[i][h].history);
            free(m->states[i][h].summary);
        }
}

/* The rows in calls of at most `at_once` rows of one sequence, 0: everything in one call. */
static float *attend_in_chunks(const struct scene *s, uint32_t at_once)
{
    if (at_once == 0)
        return attend_all(s);
    float *out = floats(out_floats(s));
    for (uint32_t i = 0; i < s->n_sequences; i++)
        for (uint32_t r = 0; r < s->segments[i].n_rows; r += at_once) {
            struct kv_segment part = s->segments[i];
            part.first_row += r;
            part.n_rows = part.n_rows - r < at_once ? part.n_rows - r : at_once;
            s->b.attention(s->b.self, out, s->q, s->sink_query ? s->q_sink : NULL, s->positions,
                           &part, 1, s->n_heads, s->n_kv_heads, s->head_dim);
        }
    return out;
}

static void assert_same_memory(const struct scene *s, const struct memory *a,
                               const struct memory *b)
{
    for (uint32_t i = 0; i < s->n_sequences; i++)
        for (uint32_t h = 0; h < s->n_kv_heads; h++) {
            const size_t n = s->sequences[i].n_slots;
            assert_same_bits(a->states[i][h].scores, b->states[i][h].scores, n);
            ck_assert_mem_eq(a->states[i][h].history, b->states[i][h].history,
                             n * HISTORY_WORDS * sizeof(uint32_t));
        }
}

/* The scores of a sequence of CACHE_SCORE_LAST: its last row's probabilities, averaged over the
 * heads of the group. */
static void check_last_scores(const struct scene *s, const struct memory *m, uint32_t sequence)
{
    const struct kv_segment *segment = &s->segments[sequence];
    const uint32_t n = s->sequences[sequence].n_slots, group = s->n_heads / s->n_kv_heads;
    double *probability = calloc(n, sizeof *probability), *mean = calloc(n, sizeof *mean);
    double *out = calloc(s->head_dim, sizeof *out), largest_v;
    for (uint32_t h = 0; h < s->n_kv_heads; h++) {
        double bound = 0;
        memset(mean, 0, n * sizeof *mean);
        for (uint32_t g = 0; g < group; g++) {
            double b = reference(s, segment, segment->first_row + segment->n_rows - 1,
                                 h * group + g, out, probability, &largest_v);
            bound = fmax(bound, b / fmax(largest_v, 1));
            for (uint32_t i = 0; i < n; i++)
                mean[i] += probability[i] / group;
        }
        for (uint32_t i = 0; i < n; i++)
            ck_assert_msg(mean[i] == 0 || /* pages that it sees nothing of are left alone */
                              fabs(m->states[sequence][h].scores[i] - mean[i]) <= bound * mean[i],
                          "slot %u of %u: %.9g, should be %.9g", i, n,
                          (double)m->states[sequence][h].scores[i], mean[i]);
    }
    free(probability);
    free(mean);
    free(out);
}

START_TEST(many_spans_match_double_precision_in_every_storage)
{
    random_state = 27;
    for (int storage = 0; storage < 4; storage++)
        for (uint32_t threads = 1; threads <= 2; threads++) {
            struct scene s;
            struct memory memory;
            if (!scene_open(&s, _i, threads, long_shape(storage)))
                return;
            memory_open(&memory, &s);
            check_scene(&s);
            check_last_scores(&s, &memory, 1);
            memory_close(&memory, &s);
            scene_close(&s);
        }
}
END_TEST

/* Outputs, scores and histories: alone or together, in whatever pieces, on however many threads;
 * the rows of each sequence are tokens that decode one by one, or a prompt. */
START_TEST(spans_chunks_and_threads_change_no_bit_of_outputs_and_scores)
{
    static const uint32_t threads[] = {1, 2, 3, 8}, chunks[] = {0, 1, 7, 256};
    random_state = 28;
    for (int storage = 0; storage < 4; storage++) {
        struct shape shape = long_shape(storage);
        uint64_t state = random_state;
        float *first = NULL;
        struct memory first_memory;
        struct scene first_scene;
        for (uint32_t run = 0; run < 16; run++) {
            struct scene s;
            struct memory memory;
            random_state = state;
            if (!scene_open(&s, _i, threads[run / 4], shape))
                return;
            memory_open(&memory, &s);
            float *out = attend_in_chunks(&s, chunks[run % 4]);
            if (first == NULL) {
                first = out;
                first_memory = memory;
                first_scene = s;
                continue;
            }
            assert_same_bits(first, out, out_floats(&s));
            assert_same_memory(&s, &first_memory, &memory);
            free(out);
            memory_close(&memory, &s);
            scene_close(&s);
        }
        free(first);
        memory_close(&first_memory, &first_scene);
        scene_close(&first_scene);
    }
}
END_TEST

/* A row must not notice that later tokens of its own sequence are already written. */
START_TEST(a_chunk_written_at_once_reads_as_if_written_token_by_token)
{
    struct scene s;
    random_state = 24;
    if (!scene_open(&s, _i, 1, (struct shape){2, 3, 64, 1, false, 0, -1}))
        return;
    s.segments[0].n_rows = s.sequences[0].n_rows = 1; /* look from the last token only */
    const uint32_t n = 70, d = s.head_dim, width = s.n_kv_heads * d;
    uint32_t pages[2][3] = {{0, 1, 2}, {3, 4, 5}};
    uint32_t write_slots[70][2];
    struct head_view heads[2];
    float *k = floats(n * width), *v = floats(n * width), *queries = floats(n * s.n_heads * d);
    float *at_once = floats(n * s.n_heads * d), *one_by_one = floats(n * s.n_heads * d);
    int32_t positions[70];
    fill_normal(k, n * width);
    fill_normal(v, n * width);
    fill_normal(queries, n * s.n_heads * d);
    for (uint32_t i = 0; i < n; i++) {
        positions[i] = (int32_t)i;
        write_slots[i][0] = write_slots[i][1] = i;
    }
    for (int pass = 0; pass < 2; pass++) {
        poison(&s.b);
        for (uint32_t first = 0, step = pass == 0 ? n : 1; first < n; first += step) {
            for (int h = 0; h < 2; h++)
                heads[h] = (struct head_view){pages[h], first + step, 4, 40};
            struct kv_segment segment = {.first_row = first,
                                         .n_rows = step,
                                         .heads = heads,
                                         .write_slots = write_slots[first]};
            s.b.kv_write(s.b.self, k, v, positions, &segment, 1, 2, d);
            s.b.attention(s.b.self, pass == 0 ? at_once : one_by_one, queries, NULL, positions,
                          &segment, 1, s.n_heads, 2, d);
        }
    }
    assert_same_bits(at_once, one_by_one, n * s.n_heads * d);
    free(k);
    free(v);
    free(queries);
    free(at_once);
    free(one_by_one);
    scene_close(&s);
}
END_TEST

/* NaN in K or V of a slot that a row may not see is harmless; in one it sees, it comes out. */
START_TEST(nan_stays_behind_the_mask_and_passes_when_visible)
{
    struct scene s;
    random_state = 25;
    if (!scene_open(&s, _i, 1, (struct shape){1, 3, 48, 1, false, 0, -1}))
        return;
    const uint32_t d = s.head_dim;
    uint32_t pages[2] = {5, 2}, slots[40];
    struct head_view head = {pages, 40, 2, 10};
    float *k = floats(40 * d), *v = floats(40 * d), *out = floats(s.n_heads * d);
    int32_t positions[40];
    fill_normal(k, 40 * d);
    fill_normal(v, 40 * d);
    for (uint32_t i = 0; i < 40; i++) {
        positions[i] = (int32_t)i;
        slots[i] = 39 - i;
    }
    for (uint32_t nan_at = 0; nan_at < 40; nan_at++) {
        float k_was = k[nan_at * d + 3], v_was = v[nan_at * d + 5];
        for (int in_v = 0; in_v < 2; in_v++) {
            *(in_v ? &v[nan_at * d + 5] : &k[nan_at * d + 3]) = NAN;
            poison(&s.b);
            struct kv_segment segment = {.n_rows = 40, .heads = &head, .write_slots = slots};
            s.b.kv_write(s.b.self, k, v, positions, &segment, 1, 1, d);
            const int32_t t = 37; /* sees 0, 1, 28 .. 37 */
            segment.n_rows = 1;
            s.b.attention(s.b.self, out, s.q, NULL, &t, &segment, 1, s.n_heads, 1, d);
            bool visible = nan_at < 2 || (nan_at >= 28 && nan_at <= 37);
            for (uint32_t i = 0; i < s.n_heads * d; i++)
                ck_assert_msg(!!isnan(out[i]) == (visible && (!in_v || i % d == 5)),
                              "NaN in %s of position %u: out[%u] is %g", in_v ? "v" : "k", nan_at,
                              i, (double)out[i]);
            k[nan_at * d + 3] = k_was;
            v[nan_at * d + 5] = v_was;
        }
    }
    free(k);
    free(v);
    free(out);
    scene_close(&s);
}
END_TEST

START_TEST(slots_are_read_back_rounded_to_half_and_copied_whole)
{
    struct backend b;
    struct error e;
    random_state = 26;
    if (!open_isa(&b, _i, 1))
        return;
    for (uint32_t d = 1; d <= 100; d += 3) {
        ck_assert(b.kv_alloc(b.self, 4, d, &e));
        ck_assert_uint_eq(b.page_bytes(b.self, d) % 64, 0);
        poison(&b);
        float k[100], v[100], k_back[100], v_back[100];
        fill_normal(k, d);
        fill_normal(v, d);
        k[0] = 1e6f;
        v[d - 1] = -INFINITY;
        k[d / 2] = NAN;
        uint32_t pages[3] = {3, 0, 1}, slot = 32 + d % 32;
        struct head_view head = {pages, slot + 1, 0, UINT32_MAX};
        struct kv_segment segment = {.n_rows = 1, .heads = &head, .write_slots = &slot};
        int32_t position = 123456789;
        b.kv_write(b.self, k, v, &position, &segment, 1, 1, d);
        const uint32_t from = 0, to = 2;
        b.kv_copy(b.self, &from, &to, 1);
        for (uint32_t page = 0; page <= 2; page += 2) {
            ck_assert_int_eq(b.kv_read(b.self, page, d % 32, d, k_back, v_back), position);
            for (uint32_t i = 0; i < d; i++) {
                uint8_t bytes[2];
                put_half(bytes, v[i]);
                ck_assert_double_eq(v_back[i], half_value(bytes));
                put_half(bytes, k[i]);
                ck_assert(isnan(k[i]) ? isnan(k_back[i]) : k_back[i] == half_value(bytes));
            }
            ck_assert(d == 1 || k_back[0] == 65504);
            ck_assert_float_eq(v_back[d - 1], -65504);
        }
        /* Its neighbours and the other pages still hold what they held. */
        b.kv_read(b.self, 0, (d + 1) % 32, d, k_back, v_back);
        ck_assert(isnan(k_back[0]) && isnan(v_back[d - 1]));
        for (uint32_t i = 0; i < 32; i++)
            ck_assert_int_eq(b.kv_read(b.self, 0, i, d, NULL, NULL), i == d % 32 ? position : -1);
        ck_assert_int_eq(b.kv_read(b.self, 1, d % 32, d, NULL, NULL), -1);
        b.kv_free(b.self);
    }
    ck_assert(!b.kv_alloc(b.self, 1, 513, &e));
    ck_assert(!b.kv_alloc(b.self, 0, 64, &e));
    b.close(b.self);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("attention");
    TCase *tc = suite_case(suite, "attention", 120);
    tcase_add_loop_test(tc, matches_double_precision_with_any_mask_in_a_poisoned_pool, 0, N_ISAS);
    tcase_add_loop_test(tc, the_largest_head_and_a_huge_group_fit_the_scratch, 0, N_ISAS);
    tcase_add_loop_test(tc, rows_and_batch_mates_and_threads_change_no_bit, 0, N_ISAS);
    tcase_add_loop_test(tc, many_spans_match_double_precision_in_every_storage, 0, N_ISAS);
    tcase_add_loop_test(tc, spans_chunks_and_threads_change_no_bit_of_outputs_and_scores, 0,
                        N_ISAS);
    tcase_add_loop_test(tc, a_chunk_written_at_once_reads_as_if_written_token_by_token, 0, N_ISAS);
    tcase_add_loop_test(tc, nan_stays_behind_the_mask_and_passes_when_visible, 0, N_ISAS);
    tcase_add_loop_test(tc, slots_are_read_back_rounded_to_half_and_copied_whole, 0, N_ISAS);
    return suite_run(suite);
}
