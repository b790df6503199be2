/* The KV pool of the CPU backend: allocates, writes, copies and reads pages, and cuts attention
 * into pieces for the threads. The layout of a page is in page.h. Engine thread. */
#include "engine/cpu/kernels.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Floats that kv_alloc always allocates for attention: enough for a row of 20,000 heads. */
#define LEAST_ROOM 65536

/* Grows by more than needed, so that a context that grows by a token per step rarely
 * reallocates. */
static bool has_room(struct cpu *c, size_t floats)
{
    if (floats <= c->softmax_room)
        return true;
    size_t more = floats + floats / 2;
    float *room = aligned_alloc(64, (more * sizeof *room + 63) / 64 * 64);
    if (room == NULL)
        return false;
    free(c->softmax);
    c->softmax = room;
    c->softmax_room = more;
    return true;
}

void cpu_kv_set_storage(void *self, enum plan_storage storage)
{
    struct cpu *c = self;
    c->storage = storage;
}

size_t cpu_page_bytes(void *self, uint32_t head_dim)
{
    const struct cpu *c = self;
    return page_shape_of(head_dim, c->storage, 1).bytes;
}

bool cpu_kv_alloc(void *self, uint32_t n_pages, uint32_t head_dim, struct error *e)
{
    struct cpu *c = self;
    if (head_dim < 1 || head_dim > HEAD_DIM_MAX)
        return error_set(e, "invalid_model", "head_dim",
                         "a head has %u dimensions; the CPU backend can do 1 to %d", head_dim,
                         HEAD_DIM_MAX);
    cpu_kv_free(c);
    if (!has_room(c, LEAST_ROOM))
        return error_set_memory(e, "attention", LEAST_ROOM * sizeof(float));
    struct page_shape shape = page_shape_of(head_dim, c->storage, n_pages);
    size_t bytes;
    if (__builtin_mul_overflow(shape.bytes, (size_t)n_pages, &bytes))
        return error_set_memory(e, "the KV pool", UINT64_MAX);
    if (bytes == 0)
        return error_set(e, "invalid_value", "--kv-memory", "the KV pool has no page");
    /* Only reserved: the system gives memory as pages are first written. */
    void *pool = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pool == MAP_FAILED)
        return error_set_memory(e, "the KV pool", bytes);
    madvise(pool, bytes, MADV_HUGEPAGE); /* a hint: fewer address translations */
    c->pool = pool;
    c->positions = (int32_t *)(c->pool + n_pages * (shape.k_bytes + shape.v_bytes));
    c->pool_bytes = bytes;
    c->shape = shape;
    c->n_pages = n_pages;
    c->head_dim = head_dim;
    return true;
}

void cpu_kv_free(void *self)
{
    struct cpu *c = self;
    if (c->pool != NULL)
        munmap(c->pool, c->pool_bytes);
    c->pool = NULL;
    c->n_pages = 0;
}

void cpu_kv_copy(void *self, const uint32_t *from, const uint32_t *to, uint32_t n)
{
    struct cpu *c = self;
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *source = cpu_page(c, from[i]);
        uint8_t *copy = cpu_page(c, to[i]);
        memcpy(copy, source, c->shape.k_bytes);
        memcpy(copy + c->shape.v_at, source + c->shape.v_at, c->shape.v_bytes);
        memcpy(cpu_positions(c, to[i]), cpu_positions(c, from[i]),
               PAGE_SLOTS * sizeof *c->positions);
    }
}

/* page_write for f16, the usual storage, vectorised. */
static void write_halves(const struct cpu *c, uint8_t *page, uint32_t index, const float *k,
                         const float *v)
{
    const uint32_t d = c->head_dim;
    uint16_t column[HEAD_DIM_MAX], *to = (uint16_t *)page + index;
    c->kernels->to_half(column, k, d);
    for (uint32_t i = 0; i < d; i++)
        to[i * PAGE_SLOTS] = column[i];
    c->kernels->to_half((uint16_t *)(page + c->shape.v_at) + index * d, v, d);
}

void cpu_add_key(const struct cpu *c, double *sum, uint32_t page, uint32_t index, double times)
{
    float k[HEAD_DIM_MAX];
    double squares = 0;
    page_read(&c->shape, cpu_page(c, page), index, k, NULL);
    for (uint32_t i = 0; i < c->head_dim; i++)
        squares += (double)k[i] * (double)k[i];
    for (uint32_t i = 0; squares > 0 && i < c->head_dim; i++)
        sum[i] += times * ((double)k[i] / sqrt(squares));
}

/* The slot of a new token: `slot`, or the head's newest hole. Clears its score and history. */
static uint32_t open_slot(const struct head_state *head, uint32_t slot)
{
    if (slot == SLOT_OF_HOLE)
        slot = head->holes[--head->counters->n_holes];
    if (head->scores)
        head->scores[slot] = 0;
    if (head->history)
        memset(head->history + (size_t)slot * HISTORY_WORDS, 0,
               HISTORY_WORDS * sizeof *head->history);
    return slot;
}

/* Writes K and V of one token and head. */
static void write_token(struct cpu *c, const struct head_state *head, uint32_t slot,
                        int32_t position, const float *k, const float *v)
{
    slot = open_slot(head, slot);
    const uint32_t page = head->pages[slot / PAGE_SLOTS];
    if (c->storage == STORAGE_F16)
        write_halves(c, cpu_page(c, page), slot % PAGE_SLOTS, k, v);
    else
        page_write(&c->shape, cpu_page(c, page), slot % PAGE_SLOTS, k, v);
    cpu_positions(c, page)[slot % PAGE_SLOTS] = position;
    if (head->key_sum)
        cpu_add_key(c, head->key_sum, page, slot % PAGE_SLOTS, 1);
}

void cpu_write(void *self, const struct step *step, uint32_t layer, uint32_t wave,
               const struct kv_rows *rows)
{
    uint32_t n;
    const struct step_segment *segments = step_wave(step, wave, &n);
    for (const struct step_segment *s = segments; s < segments + n; s++)
        for (uint32_t i = 0; i < s->n_rows; i++)
            for (uint32_t h = 0; h < rows->n_kv_heads; h++) {
                const uint32_t row = s->first_row + i, head = step_head(step, layer) + h;
                const size_t at = ((size_t)row * rows->n_kv_heads + h) * rows->head_dim;
                write_token(self, &s->placed->states[head],
                            placement_slot(s->placed, head, step_token(s, i)), step->positions[row],
                            rows->k + at, rows->v + at);
            }
}

int32_t cpu_kv_read(void *self, uint32_t page_number, uint32_t index, uint32_t head_dim, float *k,
                    float *v)
{
    struct cpu *c = self;
    (void)head_dim; /* that of kv_alloc */
    page_read(&c->shape, cpu_page(c, page_number), index, k, v);
    return cpu_positions(c, page_number)[index];
}

/* Attention in pieces, handed out by a counter: (segment, KV head, some rows) of a long prompt,
 * (segment, KV head, span) where one piece has all the rows, so that a single decoding row is
 * shared by all threads. Neither changes a bit (template_attention.h). */
struct attention_work {
    const struct cpu *cpu;
    struct attention_job job;
    uint32_t rows_at_once;
    bool scored;
    struct attention_cut *cuts; /* [n_segments] job.cuts */
    _Atomic uint32_t *left;     /* [n_segments][n_kv_heads] spans that are not done */
    _Atomic uint32_t next;
};

static uint32_t row_pieces(const struct attention_work *w, const struct step_segment *s)
{
    return (s->n_rows + w->rows_at_once - 1) / w->rows_at_once;
}

static uint32_t attention_pieces(const struct attention_work *w, uint32_t segment, uint32_t kv_head)
{
    const struct step_segment *s = &w->job.segments[segment];
    return w->cuts[segment].partials ? spans_of(walked_slots(&w->job, s, kv_head))
                                     : row_pieces(w, s);
}

static void attend_piece(struct attention_work *w, uint32_t segment, uint32_t kv_head,
                         uint32_t piece, float *scratch)
{
    const struct step_segment *s = &w->job.segments[segment];
    const struct cpu_kernels *kernels = w->cpu->kernels;
    if (w->cuts[segment].partials) {
        _Atomic uint32_t *left = &w->left[segment * w->job.n_kv_heads + kv_head];
        kernels->attend_span(&w->job, s, kv_head, piece, scratch);
        if (atomic_fetch_sub_explicit(left, 1, memory_order_acq_rel) == 1)
            kernels->attend_merge(&w->job, s, kv_head, scratch);
        return;
    }
    /* The last rows of a prompt see the most slots. They come first, so that no thread ends
     * late. */
    uint32_t first = (row_pieces(w, s) - 1 - piece) * w->rows_at_once, rest = s->n_rows - first;
    kernels->attend(&w->job, s, kv_head, first, rest < w->rows_at_once ? rest : w->rows_at_once,
                    scratch);
}

static void attention_thread(void *context, uint32_t thread)
{
    struct attention_work *w = context;
    uint32_t before = 0, piece = atomic_fetch_add_explicit(&w->next, 1, memory_order_relaxed);
    for (uint32_t i = 0; i < w->job.n_segments; i++)
        for (uint32_t h = 0; h < w->job.n_kv_heads; h++) {
            uint32_t n = attention_pieces(w, i, h);
            for (; piece - before < n;
                 piece = atomic_fetch_add_explicit(&w->next, 1, memory_order_relaxed))
                attend_piece(w, i, h, piece - before, cpu_scratch(w->cpu, thread));
            before += n;
        }
}

/* Scoring in pieces of (segment, KV head, span): each slot belongs to one piece, so its sum has one
 * order. */
static uint32_t score_pieces(const struct attention_job *job, const struct step_segment *s,
                             uint32_t kv_head)
{
    const struct head_state *state = state_of(job, s, kv_head);
    if (s->placed->score == CACHE_SCORE_NONE || s->first_scored >= s->n_rows ||
        (!state->scores && !state->history))
        return 0;
    return spans_of(walked_slots(job, s, kv_head));
}

static void score_thread(void *context, uint32_t thread)
{
    struct attention_work *w = context;
    const struct attention_job *job = &w->job;
    uint32_t before = 0, piece = atomic_fetch_add_explicit(&w->next, 1, memory_order_relaxed);
    for (uint32_t i = 0; i < job->n_segments; i++)
        for (uint32_t h = 0; h < job->n_kv_heads; h++) {
            const struct step_segment *s = &job->segments[i];
            uint32_t n = score_pieces(job, s, h);
            for (; piece - before < n;
                 piece = atomic_fetch_add_explicit(&w->next, 1, memory_order_relaxed))
                w->cpu->kernels->score(job, s, h, piece - before, cpu_scratch(w->cpu, thread));
            before += n;
        }
}

static bool is_scored(const struct attention_job *job, const struct step_segment *s)
{
    for (uint32_t h = 0; h < job->n_kv_heads; h++)
        if (score_pieces(job, s, h) > 0)
            return true;
    return false;
}

static uint32_t longest_spans(const struct attention_job *job, const struct step_segment *s)
{
    uint32_t n_slots = 0;
    for (uint32_t h = 0; h < job->n_kv_heads; h++) {
        const uint32_t its = walked_slots(job, s, h);
        n_slots = its > n_slots ? its : n_slots;
    }
    return spans_of(n_slots);
}

/* The next n floats of `room`, on a cache line. NULL if `room` is NULL and floats are only
 * counted. */
static float *take_floats(float *room, size_t *used, size_t n)
{
    float *at = room ? room + *used : NULL;
    *used += (n + 15) / 16 * 16;
    return at;
}

/* Lays out what attention keeps in `room`: how segments are cut, and softmaxes for scoring. With
 * `quick` also partial results of spans and the weights of decode rows; without them attention is
 * slower and gives the same bits. Returns the floats that this takes. room NULL: only counts
 * them. */
static size_t lay_out(struct attention_work *w, float *room, bool quick)
{
    struct attention_job *job = &w->job;
    const uint32_t group = job->n_heads / job->n_kv_heads;
    const size_t n_cuts = (size_t)job->n_segments * sizeof *w->cuts / sizeof(float);
    size_t used = 0, rows = 0;
    w->cuts = (struct attention_cut *)take_floats(room, &used, n_cuts);
    w->left = (_Atomic uint32_t *)take_floats(room, &used, job->n_segments * job->n_kv_heads);
    job->cuts = w->cuts;
    for (uint32_t i = 0; i < job->n_segments; i++) {
        const struct step_segment *s = &job->segments[i];
        struct attention_cut cut = {.n_spans = longest_spans(job, s)};
        size_t end = (size_t)s->first_row + s->n_rows - job->softmax_row;
        rows = end > rows ? end : rows;
        if (quick && cut.n_spans > 1 && s->n_rows <= w->rows_at_once &&
            threads_count(w->cpu->threads) > 1)
            cut.partials = take_floats(room, &used,
                                       (size_t)job->n_kv_heads * cut.n_spans * s->n_rows * group *
                                           partial_floats(job->head_dim));
        if (quick && s->n_rows == 1 && is_scored(job, s)) {
            cut.weights = take_floats(room, &used, (size_t)job->n_heads * cut.n_spans * SPAN_SLOTS);
            cut.maxima = take_floats(room, &used, (size_t)job->n_heads * cut.n_spans);
            cut.seen = (uint32_t *)take_floats(room, &used,
                                               (size_t)job->n_kv_heads * cut.n_spans * SPAN_PAGES);
        }
        for (uint32_t h = 0; room && h < job->n_kv_heads; h++)
            atomic_init(&w->left[i * job->n_kv_heads + h], spans_of(walked_slots(job, s, h)));
        if (room)
            w->cuts[i] = cut;
    }
    if (w->scored) {
        job->softmax = take_floats(room, &used, rows * job->n_heads * 2);
        job->n_seen = (uint32_t *)take_floats(room, &used, rows * job->n_kv_heads);
    }
    return used;
}

static bool reserve(struct cpu *c, struct attention_work *w)
{
    for (int quick = 1; quick >= 0; quick--)
        if (has_room(c, lay_out(w, NULL, quick))) {
            lay_out(w, c->softmax, quick);
            return true;
        }
    return false;
}

static void attend_and_score(struct attention_work *w)
{
    const struct attention_job *job = &w->job;
    struct threads *threads = w->cpu->threads;
    uint64_t work = 0;
    for (uint32_t i = 0; i < job->n_segments; i++)
        for (uint32_t h = 0; h < job->n_kv_heads; h++)
            work += (uint64_t)job->segments[i].n_rows * walked_slots(job, &job->segments[i], h) *
                    (job->n_heads / job->n_kv_heads) * job->head_dim;
    atomic_store(&w->next, 0);
    if (work < WORTH_THREADS)
        attention_thread(w, 0);
    else
        threads_run(threads, attention_thread, w);
    if (!w->scored)
        return;
    atomic_store(&w->next, 0);
    if (work < WORTH_THREADS)
        score_thread(w, 0);
    else
        threads_run(threads, score_thread, w);
}

/* For when memory is short: one segment after the other, as many rows at a time as fit what
 * kv_alloc has allocated. Gives the same bits. */
static void attend_in_slices(const struct cpu *c, struct attention_work *w,
                             const struct step_segment *segments, uint32_t n_segments)
{
    const uint32_t row = w->job.n_heads * 2 + w->job.n_kv_heads;
    const size_t room = c->softmax_room - w->job.n_kv_heads - 64; /* cuts, counters, rounding */
    const uint32_t most = room / row < 1024 ? (uint32_t)(room / row) : 1024;
    for (uint32_t i = 0; i < n_segments; i++)
        for (uint32_t first = 0; first < segments[i].n_rows; first += most) {
            struct step_segment s = segments[i];
            s.first_row += first;
            s.n_rows = s.n_rows - first < most ? s.n_rows - first : most;
            s.first_scored = s.first_scored > first ? s.first_scored - first : 0;
            w->job.segments = &s;
            w->job.n_segments = 1;
            w->job.softmax_row = s.first_row;
            w->scored = is_scored(&w->job, &s);
            w->job.softmax = NULL;
            lay_out(w, c->softmax, false);
            attend_and_score(w);
        }
}

void cpu_attend(void *self, const struct step *step, uint32_t layer, uint32_t wave,
                const struct attention *a)
{
    struct cpu *c = self;
    uint32_t n_segments;
    const struct step_segment *segments = step_wave(step, wave, &n_segments);
    const uint32_t group = a->n_heads / a->n_kv_heads, queries = attend_queries(a->head_dim);
    struct attention_work w = {
        .cpu = c,
        .job = {.q = a->q,
                .q_sink = a->q_sink,
                .sink_logits = a->sink_logits,
                .positions = step->positions,
                .segments = segments,
                .first_head = step_head(step, layer),
                .n_segments = n_segments,
                .n_heads = a->n_heads,
                .n_kv_heads = a->n_kv_heads,
                .head_dim = a->head_dim,
                .out = a->out,
                .pool = c->pool,
                .slot_positions = c->positions,
                .shape = &c->shape},
        .rows_at_once = group < queries ? queries / group : 1,
    };
    for (uint32_t i = 0; i < n_segments; i++)
        w.scored = w.scored || is_scored(&w.job, &segments[i]);
    if (reserve(c, &w))
        attend_and_score(&w);
    else
        attend_in_slices(c, &w, segments, n_segments);
}
