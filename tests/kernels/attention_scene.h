/* Sequences over shuffled pages and slots in every storage, and attention over them in double
 * precision on what the pages hold. Shared by the tests of attention. */
#ifndef WINNOW_TESTS_ATTENTION_SCENE_H
#define WINNOW_TESTS_ATTENTION_SCENE_H

#include "tests/kernels/kernel_cases.h"

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

static inline const struct step *make_step(struct small_step *s,
                                           const struct step_segment *segments, uint32_t n,
                                           const int32_t *positions, uint32_t n_kv_heads)
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

static inline struct cpu *inside(const struct backend *b)
{
    return b->self;
}

/* Every byte 0xff is a NaN as half and as float, and position -1. */
static inline void poison(const struct backend *b)
{
    memset(inside(b)->pool, 0xff, inside(b)->pool_bytes);
}

static inline uint32_t *shuffled(uint32_t n)
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

/* Writes one token's k, v [n_kv_heads][head_dim] to the slots of its heads: slots [n_kv_heads]. */
static inline void write_token(const struct backend *b, struct head_state *states,
                               const uint32_t *slots, uint32_t n_kv_heads, uint32_t head_dim,
                               int32_t position, const float *k, const float *v)
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
static inline void write_tokens(struct scene *s, struct sequence *q, float v_scale)
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

static inline void add_sequence(struct scene *s, uint32_t n_slots, uint32_t n_rows,
                                uint32_t n_sinks, uint32_t window, uint32_t *next_page,
                                const uint32_t *page_order)
{
    struct sequence *q = &s->sequences[s->n_sequences++];
    const uint32_t n_pages = (uint32_t)pages_of_slots(n_slots);
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
    uint32_t n_slots; /* 0: a few */
    int storage;      /* -1: any */
};

static inline bool scene_open(struct scene *s, int isa, uint32_t n_threads, struct shape shape)
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

static inline void scene_close(struct scene *s)
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

static inline size_t out_floats(const struct scene *s)
{
    return (size_t)s->n_rows * s->n_heads * s->head_dim;
}

static inline void attend(const struct scene *s, const struct step_segment *segments, uint32_t n,
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

static inline float *attend_all(const struct scene *s)
{
    float *out = floats(out_floats(s));
    attend(s, s->segments, s->n_sequences, out);
    return out;
}

/* Whether a segment's queries read a slot of a head. */
static inline bool is_listed(const struct step_segment *segment, uint32_t kv_head, uint32_t slot)
{
    const struct step_list *list = segment->lists ? &segment->lists[kv_head] : NULL;
    if (!list || list->n == 0)
        return true;
    for (uint32_t i = 0; i < list->n; i++)
        if (list->places[i] == slot / PAGE_SLOTS)
            return list->slots[i] >> slot % PAGE_SLOTS & 1;
    return false;
}

/* One query by definition, from kv_read. probability [n_slots], or NULL. Returns the largest
 * error that the kernel may make in a value; *largest_v is the largest value. */
static inline double reference(const struct scene *s, const struct step_segment *segment,
                               uint32_t row, uint32_t head, double *out, double *probability,
                               double *largest_v)
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

static inline struct shape random_shape(uint32_t n_sequences)
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

static inline void check_scene(const struct scene *s)
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

/* 700 to 1,300 slots: three to six spans, of which the last one and its last page are not full. */
static inline struct shape long_shape(int storage)
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

/* The scores and summaries of a scene: one head's state for every (sequence, KV head). */
struct memory {
    struct head_state states[MAX_SEGMENTS][3];
    struct head_counters counters[MAX_SEGMENTS][3];
};

static const enum cache_score score_kinds[] = {CACHE_SCORE_SUM, CACHE_SCORE_LAST,
                                               CACHE_SCORE_HISTORY, CACHE_SCORE_SUM};

static inline void memory_open(struct memory *m, struct scene *s)
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

static inline void memory_close(struct memory *m, const struct scene *s)
{
    for (uint32_t i = 0; i < s->n_sequences; i++)
        for (uint32_t h = 0; h < s->n_kv_heads; h++) {
            free(m->states[i][h].scores);
            free(m->states[i][h].history);
            free(m->states[i][h].summary);
        }
}

/* Runs the rows in calls of at most `at_once` rows of one sequence; 0: all in one call. */
static inline float *attend_in_chunks(const struct scene *s, uint32_t at_once)
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

static inline void assert_same_memory(const struct scene *s, const struct memory *a,
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
static inline void check_last_scores(const struct scene *s, const struct memory *m,
                                     uint32_t sequence)
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

#endif
