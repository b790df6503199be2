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
    uint32_t *pages;          /* [n_kv_heads][n_pages] */
    struct head_slots *slots; /* [n_kv_heads] */
    struct head_state *states;
    struct ring sees; /* of length 0: slots are in any order */
    struct placement placed;
};

struct scene {
    struct backend b;
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t n_sequences;
    struct sequence sequences[MAX_SEGMENTS];
    uint32_t n_rows; /* of all sequences */
    struct step_segment segments[MAX_SEGMENTS];
    int32_t *positions;
    float *q, *q_sink;
    const float *sink_logits;
    bool sink_query;
};

/* Segments of one wave in the only layer. */
struct small_step {
    struct step step;
    uint32_t first_of_wave[2];
};

static const struct step *make_step(struct small_step *s, const struct step_segment *segments,
                                    uint32_t n, const int32_t *positions, uint32_t n_kv_heads)
{
    s->first_of_wave[0] = 0;
    s->first_of_wave[1] = n;
    s->step = (struct step){.n_waves = 1,
                            .n_segments = n,
                            .n_layers = 1,
                            .n_kv_heads = n_kv_heads,
                            .positions = positions,
                            .segments = segments,
                            .first_of_wave = s->first_of_wave};
    return &s->step;
}

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

/* One token's k, v [n_kv_heads][head_dim] into the slots of its heads: slots [n_kv_heads]. */
static void write_token(const struct backend *b, struct head_state *states, const uint32_t *slots,
                        uint32_t n_kv_heads, uint32_t head_dim, int32_t position, const float *k,
                        const float *v)
{
    static const struct ring none = {.window = UINT32_MAX};
    struct head_slots used[8] = {{0}};
    struct small_step step;
    ck_assert_uint_le(n_kv_heads, 8);
    for (uint32_t h = 0; h < n_kv_heads; h++)
        used[h].n_slots = slots[h] + 1;
    struct placement placed = {.n = 1, .slots = used, .states = states, .rings = &none};
    struct step_segment one = {.placed = &placed, .n_rows = 1};
    const struct kv_rows rows = {k, v, n_kv_heads, head_dim};
    b->write(b->self, make_step(&step, &one, 1, &position, n_kv_heads), 0, 0, &rows);
}

/* Writes all n_slots tokens of a sequence, each head into its own random order. */
static void write_tokens(struct scene *s, struct sequence *q, float v_scale)
{
    const uint32_t width = s->n_kv_heads * s->head_dim;
    float *k = floats((size_t)q->n_slots * width), *v = floats((size_t)q->n_slots * width);
    fill_normal(k, (size_t)q->n_slots * width);
    fill_normal(v, (size_t)q->n_slots * width);
    for (uint32_t i = 0; i < q->n_slots * width; i++)
        v[i] *= v_scale;
    for (uint32_t i = 0; i < q->n_slots; i++)
        write_token(&s->b, q->states, q->slot_of + (size_t)i * s->n_kv_heads, s->n_kv_heads,
                    s->head_dim, (int32_t)i, k + (size_t)i * width, v + (size_t)i * width);
    free(k);
    free(v);
}

static void add_sequence(struct scene *s, uint32_t n_slots, uint32_t n_rows, uint32_t n_sinks,
                         uint32_t window, uint32_t *next_page, const uint32_t *page_order)
{
    struct sequence *q = &s->sequences[s->n_sequences++];
    const uint32_t n_pages = (n_slots + PAGE_SLOTS - 1) / PAGE_SLOTS;
    q->n_slots = n_slots;
    q->n_rows = n_rows;
    q->slots = calloc(s->n_kv_heads, sizeof *q->slots);
    q->states = calloc(s->n_kv_heads, sizeof *q->states);
    q->pages = calloc((size_t)s->n_kv_heads * n_pages, sizeof *q->pages);
    q->slot_of = calloc((size_t)n_slots * s->n_kv_heads, sizeof *q->slot_of);
    q->sees = (struct ring){.sinks = n_sinks, .window = window};
    q->placed = (struct placement){.n = n_rows,
                                   .n_heads = s->n_kv_heads,
                                   .slots = q->slots,
                                   .states = q->states,
                                   .rings = &q->sees,
                                   .sink_query = s->sink_query};
    for (uint32_t h = 0; h < s->n_kv_heads; h++) {
        for (uint32_t i = 0; i < n_pages; i++)
            q->pages[h * n_pages + i] = page_order[(*next_page)++];
        q->states[h].pages = q->pages + h * n_pages;
        q->slots[h].n_slots = n_slots;
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
        s->segments[i] = (struct step_segment){
            .placed = &q->placed, .first_row = s->n_rows, .n_rows = q->n_rows};
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
        free(s->sequences[i].slots);
        free(s->sequences[i].states);
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

static void attend(const struct scene *s, const struct step_segment *segments, uint32_t n,
                   float *out)
{
    struct small_step step;
    const struct attention a = {.q = s->q,
                                .q_sink = s->sink_query ? s->q_sink : NULL,
                                .out = out,
                                .sink_logits = s->sink_logits,
                                .n_heads = s->n_heads,
                                .n_kv_heads = s->n_kv_heads,
                                .head_dim = s->head_dim};
    s->b.attend(s->b.self, make_step(&step, segments, n, s->positions, s->n_kv_heads), 0, 0, &a);
}

static float *attend_all(const struct scene *s)
{
    float *out = floats(out_floats(s));
    attend(s, s->segments, s->n_sequences, out);
    return out;
}

/* Whether a segment's queries read a slot of a head. */
static bool is_listed(const struct step_segment *segment, uint32_t kv_head, uint32_t slot)
{
    const struct step_list *list = segment->lists ? &segment->lists[kv_head] : NULL;
    if (!list || list->n == 0)
        return true;
    for (uint32_t i = 0; i < list->n; i++)
        if (list->places[i] == slot / PAGE_SLOTS)
            return list->slots[i] >> slot % PAGE_SLOTS & 1;
    return false;
}

/* One query by definition, from kv_read. probability [n_slots], or NULL. Returns a bound of the
 * error that the kernel may make, of a value; the largest value is *largest_v. */
static double reference(const struct scene *s, const struct step_segment *segment, uint32_t row,
                        uint32_t head, double *out, double *probability, double *largest_v)
{
    const uint32_t d = s->head_dim, kv_head = head / (s->n_heads / s->n_kv_heads);
    const struct head_view its = placement_view(segment->placed, kv_head, segment->n_behind),
                           *view = &its;
    const size_t at = ((size_t)row * s->n_heads + head) * d;
    const int32_t t = s->positions[row];
    double *logit = calloc(view->n_slots, sizeof *logit), largest = -INFINITY, largest_size = 0;
    float *k = floats(d), *v = floats(d);
    for (uint32_t slot = 0; slot < view->n_slots; slot++) {
        int32_t p =
            s->b.kv_read(s->b.self, view->pages[slot / PAGE_SLOTS], slot % PAGE_SLOTS, d, k, NULL);
        bool sink = p < (int64_t)view->n_sinks;
        bool visible = p <= t && (sink || (int64_t)t - p < (int64_t)view->window) &&
                       is_listed(segment, kv_head, slot);
        const float *q = (sink && segment->placed->sink_query ? s->q_sink : s->q) + at;
        double dot = 0, size = 0;
        for (uint32_t i = 0; i < d; i++) {
            dot += (double)q[i] * k[i];
            size += fabs((double)q[i] * k[i]);
        }
        logit[slot] = visible ? dot / sqrt(d) : -INFINITY;
        largest = fmax(largest, logit[slot]);
        largest_size = visible ? fmax(largest_size, size / sqrt(d)) : largest_size;
    }
    const struct head_state *state = &segment->placed->states[kv_head];
    const double n_summary = state->summary ? state->counters->n_summary : 0;
    double summary_logit = log(n_summary), total = 0;
    for (uint32_t i = 0; n_summary > 0 && i < d; i++)
        summary_logit += (double)s->q[at + i] * state->summary[i] / sqrt(d);
    largest = fmax(largest, summary_logit);
    if (s->sink_logits)
        largest = fmax(largest, (double)s->sink_logits[head]);
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
    if (s->sink_logits)
        total += exp((double)s->sink_logits[head] - largest);
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
        const struct step_segment *segment = &s->segments[i];
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
                struct step_segment part = s.segments[i];
                part.first_row += r;
                part.n_rows = 1 + random_below(round % 2 ? 1 : 9);
                if (part.n_rows > s.segments[i].n_rows - r)
                    part.n_rows = s.segments[i].n_rows - r;
                attend(&s, &part, 1, single);
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
    struct head_state states[MAX_SEGMENTS][3];
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
            state->pages = s->sequences[i].states[h].pages;
            state->counters = &m->counters[i][h];
            state->scores = floats(slots);
            state->history = calloc(slots * HISTORY_WORDS, sizeof *state->history);
            state->summary = floats(2 * s->head_dim);
            ck_assert_ptr_nonnull(state->history);
            for (uint32_t d = 0; d < 2 * s->head_dim; d++)
                state->summary[d] = (float)((d * 37 + h) % 19) / 10 - 0.9f;
            state->counters->n_summary = i == 1 ? 5 : 0;
        }
        s->sequences[i].placed.states = m->states[i];
        s->sequences[i].placed.score = score_kinds[i];
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
            struct step_segment part = s->segments[i];
            part.first_row += r;
            part.n_rows = part.n_rows - r < at_once ? part.n_rows - r : at_once;
            attend(s, &part, 1, out);
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
    const struct step_segment *segment = &s->segments[sequence];
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

/* ---- sinks without a value */

/* Logits from far below every other to far above, one per query head. */
static float *random_sinks(const struct scene *s)
{
    float *logits = floats(s->n_heads);
    for (uint32_t h = 0; h < s->n_heads; h++)
        logits[h] = (float)random_below(3000) / 100 - 15;
    return logits;
}

START_TEST(a_sink_logit_takes_its_share_and_gives_no_value)
{
    random_state = 31;
    for (int storage = 0; storage < 4; storage++)
        for (uint32_t round = 0; round < 3; round++) { /* of one page, of one span, of many */
            struct scene s;
            struct memory memory;
            struct shape shape = round < 2 ? random_shape(3) : long_shape(storage);
            shape.storage = storage;
            if (!scene_open(&s, _i, 1 + round % 2, shape))
                return;
            float *logits = random_sinks(&s);
            memory_open(&memory, &s);
            float *without = attend_all(&s);
            memory_close(&memory, &s);
            memory_open(&memory, &s);
            s.sink_logits = logits;
            check_scene(&s);
            check_last_scores(&s, &memory, 1);
            /* Far below everything it changes no bit, and far above it takes all. */
            for (uint32_t h = 0; h < s.n_heads; h++)
                logits[h] = h % 2 ? -INFINITY : 1e6f;
            float *out = attend_all(&s);
            for (size_t i = 0; i < out_floats(&s); i++)
                if (i / s.head_dim % s.n_heads % 2 ? out[i] != without[i] : fabsf(out[i]) > 1e-30f)
                    ck_abort_msg("head %zu: %g, %g without a sink", i / s.head_dim % s.n_heads,
                                 (double)out[i], (double)without[i]);
            free(out);
            free(without);
            free(logits);
            memory_close(&memory, &s);
            scene_close(&s);
        }
}
END_TEST

/* ---- lists of slots */

struct lists {
    struct step_list of[MAX_SEGMENTS][8];
    uint32_t places[MAX_SEGMENTS][8][64], slots[MAX_SEGMENTS][8][64];
};

/* All pages with all used slots, or some pages with some of their slots; the newest slot of every
 * head, and the page after it, are among them, so that every row sees something. */
static void make_lists(struct lists *l, struct scene *s, bool all)
{
    memset(l, 0, sizeof *l);
    ck_assert_uint_le(s->n_kv_heads, 8);
    for (uint32_t i = 0; i < s->n_sequences; i++) {
        const struct sequence *q = &s->sequences[i];
        for (uint32_t h = 0; h < s->n_kv_heads; h++) {
            struct step_list *list = &l->of[i][h];
            list->places = l->places[i][h];
            list->slots = l->slots[i][h];
            for (uint32_t first = 0; first < q->n_slots; first += PAGE_SLOTS) {
                const uint32_t rest = q->n_slots - first;
                uint32_t used = rest < PAGE_SLOTS ? (UINT32_C(1) << rest) - 1 : UINT32_MAX,
                         rows = 0;
                for (uint32_t r = 0; r < q->n_rows; r++) { /* their own slots */
                    uint32_t slot =
                        q->slot_of[(size_t)(q->n_slots - 1 - r) * s->n_kv_heads + h] - first;
                    rows |= slot < PAGE_SLOTS ? UINT32_C(1) << slot : 0;
                }
                if (!all && random_below(2) && rows == 0)
                    continue;
                ck_assert_uint_lt(list->n, 64);
                l->places[i][h][list->n] = first / PAGE_SLOTS;
                l->slots[i][h][list->n++] = all ? used : (used & ((uint32_t)random_bits() | rows));
            }
        }
        s->segments[i].lists = l->of[i];
    }
}

START_TEST(a_list_of_all_pages_changes_no_bit_of_outputs_and_scores)
{
    random_state = 32;
    for (int storage = 0; storage < 4; storage++)
        for (uint32_t threads = 1; threads <= 2; threads++) {
            struct scene s;
            struct memory whole, listed;
            static struct lists lists;
            if (!scene_open(&s, _i, threads, long_shape(storage)))
                return;
            memory_open(&whole, &s);
            float *a = attend_all(&s);
            memory_open(&listed, &s);
            make_lists(&lists, &s, true);
            float *b = attend_all(&s);
            assert_same_bits(a, b, out_floats(&s));
            assert_same_memory(&s, &whole, &listed);
            free(a);
            free(b);
            memory_close(&whole, &s);
            memory_close(&listed, &s);
            scene_close(&s);
        }
}
END_TEST

/* Nothing but the list's slots is read, and only they are scored. */
START_TEST(a_list_is_what_attention_reads_and_scores)
{
    random_state = 33;
    for (int storage = 0; storage < 4; storage++)
        for (uint32_t round = 0; round < 4; round++) {
            struct scene s;
            struct memory memory;
            static struct lists lists;
            struct shape shape = round < 2 ? random_shape(3) : long_shape(storage);
            shape.storage = storage;
            if (!scene_open(&s, _i, 1 + round % 2, shape))
                return;
            memory_open(&memory, &s);
            make_lists(&lists, &s, false);
            check_scene(&s);
            check_last_scores(&s, &memory, 1);
            for (uint32_t h = 0; h < s.n_kv_heads; h++)
                for (uint32_t i = 0; i < s.sequences[1].n_slots; i++)
                    if (!is_listed(&s.segments[1], h, i))
                        ck_assert(memory.states[1][h].scores[i] == 0);
            memory_close(&memory, &s);
            scene_close(&s);
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
    const uint32_t n = 70, d = s.head_dim, width = s.n_kv_heads * d;
    uint32_t pages[2][3] = {{0, 1, 2}, {3, 4, 5}};
    const struct ring sees = {.sinks = 4, .window = 40};
    struct head_state states[2] = {{.pages = pages[0]}, {.pages = pages[1]}};
    float *k = floats(n * width), *v = floats(n * width), *queries = floats(n * s.n_heads * d);
    float *at_once = floats(n * s.n_heads * d), *one_by_one = floats(n * s.n_heads * d);
    int32_t positions[70];
    fill_normal(k, n * width);
    fill_normal(v, n * width);
    fill_normal(queries, n * s.n_heads * d);
    for (uint32_t i = 0; i < n; i++)
        positions[i] = (int32_t)i;
    const struct kv_rows rows = {k, v, 2, d};
    struct attention a = {.q = queries, .n_heads = s.n_heads, .n_kv_heads = 2, .head_dim = d};
    for (int pass = 0; pass < 2; pass++) {
        poison(&s.b);
        a.out = pass == 0 ? at_once : one_by_one;
        for (uint32_t first = 0, step = pass == 0 ? n : 1; first < n; first += step) {
            struct head_slots slots[2] = {{.n_slots = first + step}, {.n_slots = first + step}};
            struct placement placed = {
                .first = first, .n = step, .slots = slots, .states = states, .rings = &sees};
            struct step_segment segment = {.placed = &placed, .first_row = first, .n_rows = step};
            struct small_step small;
            make_step(&small, &segment, 1, positions, 2);
            s.b.write(s.b.self, &small.step, 0, 0, &rows);
            s.b.attend(s.b.self, &small.step, 0, 0, &a);
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
    uint32_t pages[2] = {5, 2};
    struct head_state state = {.pages = pages};
    struct head_slots slots = {.n_slots = 40};
    const struct ring sees = {.sinks = 2, .window = 10};
    struct placement placed = {.n = 1, .slots = &slots, .states = &state, .rings = &sees};
    struct step_segment segment = {.placed = &placed, .n_rows = 1};
    float *k = floats(40 * d), *v = floats(40 * d), *out = floats(s.n_heads * d);
    fill_normal(k, 40 * d);
    fill_normal(v, 40 * d);
    const int32_t t = 37; /* sees 0, 1, 28 .. 37 */
    struct small_step step;
    make_step(&step, &segment, 1, &t, 1);
    const struct attention a = {
        .q = s.q, .out = out, .n_heads = s.n_heads, .n_kv_heads = 1, .head_dim = d};
    for (uint32_t nan_at = 0; nan_at < 40; nan_at++) {
        float k_was = k[nan_at * d + 3], v_was = v[nan_at * d + 5];
        for (int in_v = 0; in_v < 2; in_v++) {
            *(in_v ? &v[nan_at * d + 5] : &k[nan_at * d + 3]) = NAN;
            poison(&s.b);
            for (uint32_t i = 0; i < 40; i++) {
                const uint32_t slot = 39 - i;
                write_token(&s.b, &state, &slot, 1, d, (int32_t)i, k + i * d, v + i * d);
            }
            s.b.attend(s.b.self, &step.step, 0, 0, &a);
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
        struct head_state state = {.pages = pages};
        const int32_t position = 123456789;
        write_token(&b, &state, &slot, 1, d, position, k, v);
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
    tcase_add_loop_test(tc, a_sink_logit_takes_its_share_and_gives_no_value, 0, N_ISAS);
    tcase_add_loop_test(tc, a_list_of_all_pages_changes_no_bit_of_outputs_and_scores, 0, N_ISAS);
    tcase_add_loop_test(tc, a_list_is_what_attention_reads_and_scores, 0, N_ISAS);
    tcase_add_loop_test(tc, a_chunk_written_at_once_reads_as_if_written_token_by_token, 0, N_ISAS);
    tcase_add_loop_test(tc, nan_stays_behind_the_mask_and_passes_when_visible, 0, N_ISAS);
    tcase_add_loop_test(tc, slots_are_read_back_rounded_to_half_and_copied_whole, 0, N_ISAS);
    return suite_run(suite);
}
