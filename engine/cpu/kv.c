/* The KV pool of the CPU backend: pages are taken, written, copied and read here, and attention is
 * cut into pieces for the threads. Layout of a page: kernels.h. Engine thread. */
#include "engine/cpu/kernels.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Fewer multiplications than this are not worth waking the workers. */
#define WORTH_THREADS 16384

void cpu_kv_set_storage(void *self, enum plan_storage storage)
{
    struct cpu *c = self;
    c->storage = storage;
}

size_t cpu_page_bytes(void *self, uint32_t head_dim)
{
    const struct cpu *c = self;
    return page_shape_of(head_dim, c->storage).bytes;
}

bool cpu_kv_alloc(void *self, uint32_t n_pages, uint32_t head_dim, struct error *e)
{
    struct cpu *c = self;
    if (head_dim < 1 || head_dim > HEAD_DIM_MAX)
        return error_set(e, "invalid_model", "head_dim",
                         "a head has %u dimensions; the CPU backend can do 1 to %d", head_dim,
                         HEAD_DIM_MAX);
    cpu_kv_free(c);
    struct page_shape shape = page_shape_of(head_dim, c->storage);
    size_t bytes;
    if (__builtin_mul_overflow(shape.bytes, (size_t)n_pages, &bytes))
        return error_set_memory(e, "the KV pool", UINT64_MAX);
    if (bytes == 0)
        return error_set(e, "invalid_value", "--kv-memory", "the KV pool has no page");
    /* Reserved, not touched: memory is taken as pages are first written. */
    void *pool = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pool == MAP_FAILED)
        return error_set_memory(e, "the KV pool", bytes);
    c->pool = pool;
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
    for (uint32_t i = 0; i < n; i++)
        memcpy(cpu_page(c, to[i]), cpu_page(c, from[i]), c->shape.bytes);
}

/* page_write for f16, vectorised: the format of nearly everybody. */
static void write_halves(const struct cpu *c, uint8_t *page, uint32_t index, const float *k,
                         const float *v, int32_t position)
{
    const uint32_t d = c->head_dim;
    uint16_t column[HEAD_DIM_MAX], *to = (uint16_t *)(page + c->shape.k_at) + index;
    c->kernels->to_half(column, k, d);
    for (uint32_t i = 0; i < d; i++)
        to[i * PAGE_SLOTS] = column[i];
    c->kernels->to_half((uint16_t *)(page + c->shape.v_at) + index * d, v, d);
    page_positions(page)[index] = position;
}

/* KeyDiff's mean: of the key as it was stored, so that pages alone tell it again. */
static void add_key(struct cpu *c, double *sum, uint32_t page, uint32_t index)
{
    float k[HEAD_DIM_MAX];
    double squares = 0;
    page_read(&c->shape, cpu_page(c, page), index, k, NULL);
    for (uint32_t i = 0; i < c->head_dim; i++)
        squares += (double)k[i] * (double)k[i];
    for (uint32_t i = 0; squares > 0 && i < c->head_dim; i++)
        sum[i] += (double)k[i] / sqrt(squares);
}

/* Where a new token goes: a slot of its own, or the head's newest hole. Nothing has been said of it
 * yet. */
static uint32_t place_token(struct head_state *head, uint32_t slot)
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

void cpu_kv_write(void *self, const float *k, const float *v, const int32_t *positions,
                  const struct kv_segment *segments, uint32_t n_segments, uint32_t n_kv_heads,
                  uint32_t head_dim)
{
    struct cpu *c = self;
    for (const struct kv_segment *s = segments; s < segments + n_segments; s++) {
        for (uint32_t i = 0; i < s->n_rows; i++) {
            uint32_t row = s->first_row + i;
            for (uint32_t h = 0; h < n_kv_heads; h++) {
                uint32_t slot = s->write_slots[(size_t)i * n_kv_heads + h];
                if (s->states)
                    slot = place_token(s->states[h], slot);
                uint32_t page = s->heads[h].pages[slot / PAGE_SLOTS];
                size_t at = ((size_t)row * n_kv_heads + h) * head_dim;
                if (c->storage == STORAGE_F16)
                    write_halves(c, cpu_page(c, page), slot % PAGE_SLOTS, k + at, v + at,
                                 positions[row]);
                else
                    page_write(&c->shape, cpu_page(c, page), slot % PAGE_SLOTS, k + at, v + at,
                               positions[row]);
                if (s->states && s->states[h]->key_sum)
                    add_key(c, s->states[h]->key_sum, page, slot % PAGE_SLOTS);
            }
        }
    }
}

int32_t cpu_kv_read(void *self, uint32_t page_number, uint32_t index, uint32_t head_dim, float *k,
                    float *v)
{
    struct cpu *c = self;
    uint8_t *page = cpu_page(c, page_number);
    (void)head_dim; /* that of kv_alloc */
    page_read(&c->shape, page, index, k, v);
    return page_positions(page)[index];
}

/* Attention in pieces of (segment, KV head, some rows), handed out by a counter. */
struct attention_work {
    const struct cpu *cpu;
    struct attention_job job;
    uint32_t rows_at_once;
    _Atomic uint32_t next;
};

static uint32_t pieces_of(const struct attention_work *w, const struct kv_segment *s)
{
    return (s->n_rows + w->rows_at_once - 1) / w->rows_at_once;
}

static void attention_thread(void *context, uint32_t thread)
{
    struct attention_work *w = context;
    const struct attention_job *job = &w->job;
    const struct kv_segment *s = job->segments, *end = s + job->n_segments;
    uint32_t before = 0; /* pieces of the segments before s */
    for (;;) {
        uint32_t piece = atomic_fetch_add_explicit(&w->next, 1, memory_order_relaxed);
        while (s < end && piece - before >= pieces_of(w, s) * job->n_kv_heads)
            before += pieces_of(w, s++) * job->n_kv_heads;
        if (s == end)
            return;
        /* The last rows of a prompt see most: they come first, so that no thread ends late. */
        uint32_t at = piece - before, kv_head = at % job->n_kv_heads;
        uint32_t first = (pieces_of(w, s) - 1 - at / job->n_kv_heads) * w->rows_at_once;
        uint32_t n = s->n_rows - first < w->rows_at_once ? s->n_rows - first : w->rows_at_once;
        w->cpu->kernels->attend(job, s, kv_head, first, n, cpu_scratch(w->cpu, thread));
    }
}

/* Scoring in pieces of (segment, KV head, some pages): every slot is one thread's, so its sum has
 * one order. */
enum { SCORE_PAGES = 8 };

static uint32_t score_pieces(const struct kv_segment *s, uint32_t kv_head)
{
    if (s->score == CACHE_SCORE_NONE || s->first_scored >= s->n_rows || !s->states ||
        (!s->states[kv_head]->scores && !s->states[kv_head]->history))
        return 0;
    uint32_t n_pages = (s->heads[kv_head].n_slots + PAGE_SLOTS - 1) / PAGE_SLOTS;
    return (n_pages + SCORE_PAGES - 1) / SCORE_PAGES;
}

static void score_thread(void *context, uint32_t thread)
{
    struct attention_work *w = context;
    const struct attention_job *job = &w->job;
    uint32_t before = 0, piece = atomic_fetch_add_explicit(&w->next, 1, memory_order_relaxed);
    for (uint32_t i = 0; i < job->n_segments; i++)
        for (uint32_t h = 0; h < job->n_kv_heads; h++) {
            const struct kv_segment *s = &job->segments[i];
            uint32_t n = score_pieces(s, h),
                     n_pages = (s->heads[h].n_slots + PAGE_SLOTS - 1) / PAGE_SLOTS;
            for (; piece - before < n;
                 piece = atomic_fetch_add_explicit(&w->next, 1, memory_order_relaxed)) {
                uint32_t first = (piece - before) * SCORE_PAGES, left = n_pages - first;
                w->cpu->kernels->score(job, s, h, first, left < SCORE_PAGES ? left : SCORE_PAGES,
                                       cpu_scratch(w->cpu, thread));
            }
            before += n;
        }
}

static bool wants_scores(const struct kv_segment *segments, uint32_t n_segments,
                         uint32_t n_kv_heads)
{
    for (uint32_t i = 0; i < n_segments; i++)
        for (uint32_t h = 0; h < n_kv_heads; h++)
            if (score_pieces(&segments[i], h) > 0)
                return true;
    return false;
}

static bool reserve_softmax(struct cpu *c, struct attention_job *job)
{
    size_t rows = 0;
    for (uint32_t i = 0; i < job->n_segments; i++) {
        size_t end = (size_t)job->segments[i].first_row + job->segments[i].n_rows;
        rows = end > rows ? end : rows;
    }
    size_t n = rows * ((size_t)job->n_heads * 2 + job->n_kv_heads);
    if (n > c->softmax_room) {
        float *softmax = realloc(c->softmax, n * sizeof *softmax);
        if (softmax == NULL)
            return false;
        c->softmax = softmax;
        c->softmax_room = n;
    }
    job->softmax = c->softmax;
    job->n_seen = (uint32_t *)(c->softmax + rows * job->n_heads * 2);
    return true;
}

/* A single decode row has only its KV heads to share out; cutting its pages as well would need the
 * partial results merged in a fixed order. */
void cpu_attention(void *self, float *out, const float *q, const float *q_sink,
                   const int32_t *positions, const struct kv_segment *segments, uint32_t n_segments,
                   uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim)
{
    struct cpu *c = self;
    const uint32_t group = n_heads / n_kv_heads;
    struct attention_work w = {
        .cpu = c,
        .job = {.q = q,
                .q_sink = q_sink,
                .positions = positions,
                .segments = segments,
                .n_segments = n_segments,
                .n_heads = n_heads,
                .n_kv_heads = n_kv_heads,
                .head_dim = head_dim,
                .out = out,
                .pool = c->pool,
                .shape = &c->shape},
        .rows_at_once = group < ATTEND_QUERIES ? ATTEND_QUERIES / group : 1,
    };
    uint64_t work = 0;
    for (uint32_t i = 0; i < n_segments; i++)
        for (uint32_t h = 0; h < n_kv_heads; h++)
            work += (uint64_t)segments[i].n_rows * segments[i].heads[h].n_slots * group * head_dim;
    bool scored = wants_scores(segments, n_segments, n_kv_heads) && reserve_softmax(c, &w.job);
    if (work < WORTH_THREADS)
        attention_thread(&w, 0);
    else
        threads_run(c->threads, attention_thread, &w);
    if (!scored)
        return;
    atomic_store(&w.next, 0);
    if (work < WORTH_THREADS)
        score_thread(&w, 0);
    else
        threads_run(c->threads, score_thread, &w);
}
