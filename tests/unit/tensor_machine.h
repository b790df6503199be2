/* The engine's lower half without a model: cache, batch and CPU backend, fed with queries, keys and
 * values that a test draws, in the order in which forward.c calls them. Every layer is on its own
 * here (nothing of its output goes into the next), so each can be compared alone. */
#ifndef WINNOW_TESTS_TENSOR_MACHINE_H
#define WINNOW_TESTS_TENSOR_MACHINE_H

#include "engine/compute/batch.h"
#include "cache/policy/preset.h"
#include "tests/kernels/kernel_cases.h"
#include "tests/unit/test_device.h"

#define MOST_MATES 4

/* An assertion for loops: Check writes every one of its own to a file, holding or not. */
#define require(holds, ...)                                                                        \
    do {                                                                                           \
        if (!(holds))                                                                              \
            ck_abort_msg(__VA_ARGS__);                                                             \
    } while (0)

struct shape {
    uint32_t n_layers, n_kv_heads, group, head_dim;
    enum plan_storage storage;
};

/* What the projections of a model would give for n tokens. */
struct tensors {
    uint32_t n, n_layers, q_width, kv_width; /* heads * head_dim */
    float *q, *q_sink;                       /* [n_layers][n][n_heads][head_dim] */
    float *k, *v;                            /* [n_layers][n][n_kv_heads][head_dim] */
};

enum kind {
    ORDINARY,
    EQUAL,   /* every logit is 0, every key the same */
    STEEP,   /* logits of some 40: probabilities from 1 to what float can just hold */
    HUGE_K,  /* keys around the largest half, some beyond */
    TINY_K,  /* keys among the subnormal halves */
    NAN_KEY, /* one number of one early key of every head is NaN */
    N_KINDS
};

static const char *const kind_names[] = {"ordinary", "equal", "steep", "huge", "tiny", "NaN"};

static inline void scale(float *x, size_t n, float by)
{
    for (size_t i = 0; i < n; i++)
        x[i] *= by;
}

static inline struct tensors tensors_draw(const struct shape *s, uint32_t n, enum kind kind)
{
    static const float q_scale[] = {1.5f, 0, 12, 5e-5f, 100, 1.5f};
    static const float k_scale[] = {1, 0, 1, 4e4f, 1e-5f, 1};
    struct tensors t = {.n = n,
                        .n_layers = s->n_layers,
                        .q_width = s->n_kv_heads * s->group * s->head_dim,
                        .kv_width = s->n_kv_heads * s->head_dim};
    size_t n_q = (size_t)s->n_layers * n * t.q_width, n_kv = (size_t)s->n_layers * n * t.kv_width;
    float **all[] = {&t.q, &t.q_sink, &t.k, &t.v};
    for (unsigned i = 0; i < 4; i++) {
        *all[i] = floats(i < 2 ? n_q : n_kv);
        fill_normal(*all[i], i < 2 ? n_q : n_kv);
    }
    scale(t.q, n_q, q_scale[kind]);
    scale(t.q_sink, n_q, q_scale[kind]);
    scale(t.k, n_kv, k_scale[kind]);
    for (size_t i = 0; kind == EQUAL && i < n_kv; i++)
        t.k[i] = 1 + (float)(i % s->head_dim);
    for (uint32_t i = 0; kind == NAN_KEY && i < s->n_layers * s->n_kv_heads; i++) {
        uint32_t l = i / s->n_kv_heads, h = i % s->n_kv_heads,
                 token = random_below(n < 40 ? n : 40);
        t.k[((size_t)l * n + token) * t.kv_width + h * s->head_dim + random_below(s->head_dim)] =
            NAN;
    }
    return t;
}

static inline void tensors_free(struct tensors *t)
{
    free(t->q);
    free(t->q_sink);
    free(t->k);
    free(t->v);
}

struct machine {
    struct shape shape;
    struct model model; /* only the numbers that a batch asks for */
    struct backend backend;
    struct cache *cache;
    struct batch *batch;
    float *q, *q_sink, *k, *v, *out; /* [max_rows][width] of the layer at hand */
};

static inline int32_t machine_position(void *context, uint32_t page, uint32_t index)
{
    const struct machine *m = context;
    return m->backend.kv_read(m->backend.self, page, index, m->shape.head_dim, NULL, NULL);
}

static inline void machine_open(struct machine *m, const struct shape *s,
                                const struct head_profile *profile, const char *isa,
                                uint32_t n_threads, uint32_t n_pages, uint32_t max_rows)
{
    struct error e = {.message = ""};
    uint32_t d = s->head_dim, n_heads = s->n_kv_heads * s->group;
    *m = (struct machine){.shape = *s,
                          .model = {.n_layers = s->n_layers,
                                    .n_heads = n_heads,
                                    .n_kv_heads = s->n_kv_heads,
                                    .head_dim = d,
                                    .n_rope_sets = 1,
                                    .rope_sets = {{.dim = 2, .base = 10000, .scale = 1}}}};
    test_device_open(&m->backend, &m->model, isa, n_threads, max_rows, n_pages * PAGE_SLOTS);
    m->backend.kv_set_storage(m->backend.self, s->storage);
    ck_assert_msg(m->backend.kv_alloc(m->backend.self, n_pages, d, &e), "%s", e.message);
    m->cache = cache_new(s->n_layers, s->n_kv_heads, d, n_pages, &e);
    cache_set_memory(m->cache, m->backend.state_memory);
    cache_set_profile(m->cache, profile);
    cache_set_reader(m->cache, machine_position, m);
    m->batch = batch_new(m->cache, &m->model, max_rows, 1, &e);
    ck_assert_ptr_nonnull(m->batch);
    float **const buffers[] = {&m->q, &m->q_sink, &m->out, &m->k, &m->v};
    for (uint32_t i = 0; i < 5; i++) {
        uint32_t heads = i < 3 ? n_heads : s->n_kv_heads;
        *buffers[i] = m->backend.alloc(m->backend.self, (size_t)max_rows * heads * d, &e);
        ck_assert_msg(*buffers[i] != NULL, "%s", e.message);
    }
}

static inline void machine_close(struct machine *m)
{
    ck_assert_uint_eq(cache_counts(m->cache).used, 0);
    batch_free(m->batch);
    cache_free(m->cache);
    float *const buffers[] = {m->q, m->q_sink, m->out, m->k, m->v};
    for (uint32_t i = 0; i < 5; i++)
        m->backend.free(m->backend.self, buffers[i]);
    m->backend.kv_free(m->backend.self);
    m->backend.close(m->backend.self);
}

/* A sequence that reads its tensors from the first token to the last. */
struct reader {
    struct machine *machine;
    const struct tensors *tensors;
    struct plan plan;
    struct cache_sequence *s;
    uint32_t n_prompt, done;
    float *out;      /* [n_layers][n][n_heads][head_dim] what attention gave */
    float *k, *v;    /* [n_layers][n][n_kv_heads][head_dim] as stored */
    uint32_t n_next; /* rows of the coming step */
    uint32_t first_row;
};

static inline void reader_open(struct reader *r, struct machine *m, const struct tensors *t,
                               const struct plan *plan, uint32_t n_prompt)
{
    struct error e = {.message = ""};
    *r = (struct reader){.machine = m, .tensors = t, .plan = *plan, .n_prompt = n_prompt};
    r->s = cache_sequence_new(m->cache, &r->plan, &e);
    require(r->s != NULL, "%s", e.message);
    cache_sequence_set_prompt(r->s, n_prompt);
    r->out = floats((size_t)t->n_layers * t->n * t->q_width);
    r->k = floats((size_t)t->n_layers * t->n * t->kv_width);
    r->v = floats((size_t)t->n_layers * t->n * t->kv_width);
}

static inline void reader_close(struct reader *r)
{
    cache_sequence_free(r->s);
    free(r->out);
    free(r->k);
    free(r->v);
}

/* At most `wanted` of the next tokens, and no more than a step may have. */
static inline uint32_t reader_rows(const struct reader *r, uint32_t wanted)
{
    uint32_t left = (r->done < r->n_prompt ? r->n_prompt : r->tensors->n) - r->done;
    return wanted < left ? wanted : left;
}

/* Rows of the batch from the tensors of its readers, or attention's output back to them. */
static inline void move_rows(struct machine *m, struct reader *const *readers, uint32_t n,
                             uint32_t layer, bool back)
{
    const struct backend *be = &m->backend;
    struct error e = {.message = ""};
    for (uint32_t i = 0; i < n; i++) {
        struct reader *r = readers[i];
        const struct tensors *t = r->tensors;
        size_t at = (size_t)layer * t->n + r->done, q = t->q_width, kv = t->kv_width;
        if (back) {
            require(r->n_next == 0 || be->download(be->self, r->out + at * q,
                                                   m->out + r->first_row * q, r->n_next * q, &e),
                    "%s", e.message);
            continue;
        }
        be->upload(be->self, m->q + r->first_row * q, t->q + at * q, r->n_next * q);
        be->upload(be->self, m->q_sink + r->first_row * q, t->q_sink + at * q, r->n_next * q);
        be->upload(be->self, m->k + r->first_row * kv, t->k + at * kv, r->n_next * kv);
        be->upload(be->self, m->v + r->first_row * kv, t->v + at * kv, r->n_next * kv);
    }
}

/* Where a token went that took the place of another. */
static inline uint32_t slot_of(const struct machine *m, const struct head_view *head,
                               int32_t position)
{
    uint32_t slot = 0;
    while (slot < head->n_slots &&
           m->backend.kv_read(m->backend.self, head->pages[slot / PAGE_SLOTS], slot % PAGE_SLOTS,
                              m->shape.head_dim, NULL, NULL) != position)
        slot++;
    require(slot < head->n_slots, "position %d is nowhere", position);
    return slot;
}

/* Tokens in the summary of head i = layer * n_kv_heads + KV head, and their means [2][head_dim]. */
static inline uint32_t summary_of(const struct reader *r, uint32_t i, float *means)
{
    const struct machine *m = r->machine;
    const struct backend *be = &m->backend;
    const struct head_state *head =
        cache_head(r->s, i / m->shape.n_kv_heads, i % m->shape.n_kv_heads);
    struct error e = {.message = ""};
    float bits[2];
    uint32_t n;
    if (!head->summary)
        return 0;
    require(be->download(be->self, means, head->summary, 2 * m->shape.head_dim, &e) &&
                be->download(be->self, bits, (const float *)head->counters, 2, &e),
            "%s", e.message);
    memcpy(&n, &bits[offsetof(struct head_counters, n_summary) / sizeof *bits], sizeof n);
    return n;
}

/* What the wave's tokens look like in their slots, before anything is dropped. */
static inline void read_back(struct machine *m, struct reader *const *readers, uint32_t n,
                             const struct step *step, uint32_t layer, uint32_t wave)
{
    uint32_t d = m->shape.head_dim, n_kv_heads = m->shape.n_kv_heads, n_segments;
    const struct step_segment *segments = step_wave(step, wave, &n_segments);
    for (uint32_t i = 0; i < n_segments; i++) {
        const struct step_segment *g = &segments[i];
        struct reader *r = NULL;
        for (uint32_t k = 0; k < n; k++)
            if (readers[k]->n_next && g->first_row >= readers[k]->first_row &&
                g->first_row < readers[k]->first_row + readers[k]->n_next)
                r = readers[k];
        require(r != NULL, "row %u is nobody's", g->first_row);
        for (uint32_t row = 0; row < g->n_rows; row++)
            for (uint32_t h = 0; h < n_kv_heads; h++) {
                const uint32_t head = step_head(step, layer) + h;
                const struct head_view view = placement_view(g->placed, head, g->n_behind);
                uint32_t position = (uint32_t)step->positions[g->first_row + row],
                         slot = placement_slot(g->placed, head, step_token(g, row));
                if (slot == SLOT_OF_HOLE)
                    slot = slot_of(m, &view, (int32_t)position);
                size_t at =
                    (((size_t)layer * r->tensors->n + position) * n_kv_heads + h) * (size_t)d;
                int32_t got = m->backend.kv_read(m->backend.self, view.pages[slot / PAGE_SLOTS],
                                                 slot % PAGE_SLOTS, d, r->k + at, r->v + at);
                require(got == (int32_t)position, "position %d in the slot of %u", got, position);
            }
    }
}

/* One step: n_next rows of every reader that has any. */
static inline void machine_step(struct machine *m, struct reader *const *readers, uint32_t n)
{
    static const int32_t tokens[256];
    const struct backend *be = &m->backend;
    const uint32_t *from, *to;
    struct error e = {.message = ""};
    batch_clear(m->batch);
    for (uint32_t i = 0; i < n; i++) {
        readers[i]->first_row = batch_rows(m->batch);
        if (readers[i]->n_next)
            require(batch_add(m->batch, readers[i]->s, tokens, readers[i]->n_next, 0, NULL, &e),
                    "%s: %s", readers[i]->plan.preset->name, e.message);
    }
    uint32_t n_copies = cache_take_copies(m->cache, &from, &to);
    if (n_copies)
        be->kv_copy(be->self, from, to, n_copies);
    struct step *step = batch_step(m->batch);
    require(!be->step_begin || be->step_begin(be->self, step, &e), "%s", e.message);
    const struct kv_rows rows = {m->k, m->v, m->shape.n_kv_heads, m->shape.head_dim};
    const struct attention attention = {.q = m->q,
                                        .q_sink = step->sink_query ? m->q_sink : NULL,
                                        .out = m->out,
                                        .n_heads = m->shape.n_kv_heads * m->shape.group,
                                        .n_kv_heads = m->shape.n_kv_heads,
                                        .head_dim = m->shape.head_dim};
    for (uint32_t l = 0; l < m->shape.n_layers; l++) {
        move_rows(m, readers, n, l, false);
        for (uint32_t wave = 0; wave < step->n_waves; wave++) {
            be->write(be->self, step, l, wave, &rows);
            read_back(m, readers, n, step, l, wave);
            be->attend(be->self, step, l, wave, &attention);
            require(batch_drop(m->batch, be, l, wave, &e), "%s", e.message);
        }
        move_rows(m, readers, n, l, true);
    }
    require(!be->step_end || be->step_end(be->self, &e), "%s", e.message);
    for (uint32_t i = 0; i < n; i++) {
        readers[i]->done += readers[i]->n_next;
        readers[i]->n_next = 0;
    }
}

static inline void machine_audit(struct machine *m, const char *what)
{
    struct error e = {.message = ""};
    require(cache_audit(m->cache, machine_position, m, &e), "%s: %s", what, e.message);
}

/* ---- what is held */

struct held {
    uint32_t n;
    bool *at; /* [n] by position */
};

static inline void held_range(void *context, int32_t first, int32_t last)
{
    struct held *h = context;
    require(first >= 0 && last < (int32_t)h->n, "%d to %d of %u", first, last, h->n);
    for (int32_t p = first; p <= last; p++)
        h->at[p] = true;
}

/* [n_layers * n_kv_heads][n], n = tokens of the tensors; freed by the caller. */
static inline bool *reader_held(const struct reader *r, const struct shape *s)
{
    uint32_t n = r->tensors->n;
    bool *at = calloc((size_t)s->n_layers * s->n_kv_heads * n, sizeof *at);
    ck_assert_ptr_nonnull(at);
    for (uint32_t i = 0; i < s->n_layers * s->n_kv_heads; i++)
        cache_kept_ranges(r->s, i / s->n_kv_heads, i % s->n_kv_heads, held_range,
                          &(struct held){n, at + (size_t)i * n});
    return at;
}

#endif
