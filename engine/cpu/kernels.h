/* Inside the CPU backend: the table of kernels that each instruction set fills, and the backend's
 * state. Only engine/cpu/ and its tests include it.
 *
 * Kernels do not know threads: backend.c, matmul.c and kv.c cut the work and call them with a range
 * and the thread's scratch. No kernel's result depends on how the work was cut. */
#ifndef WINNOW_ENGINE_CPU_KERNELS_H
#define WINNOW_ENGINE_CPU_KERNELS_H

#include "engine/compute/backend.h"
#include "engine/cpu/page.h"
#include "engine/cpu/products.h"
#include "engine/cpu/threads.h"
#include "engine/cpu/weight_memory.h"

/* Each thread's scratch: a panel of weight rows as floats, or K or V of one page as floats with the
 * sums of attend_queries() queries. 256 KiB fit any L2 cache. */
#define SCRATCH_FLOATS 65536

#define HEAD_DIM_MAX 512

/* Fewer multiplications (or floats touched) than this are not worth waking the workers. */
#define WORTH_THREADS 16384

/* The most queries (rows x heads of a group) that read pages together. */
#define ATTEND_QUERIES 48

/* Attention sums over one span at a time and then merges the spans. The length fixes the order of a
 * row's sums, so it is the same on every machine and for every number of threads. Spans are so long
 * that merging is negligible (1 of 256 additions), and so short that 64 threads can share a context
 * of 8,192 tokens. */
#define SPAN_PAGES 8
#define SPAN_SLOTS (SPAN_PAGES * PAGE_SLOTS)

static inline uint32_t spans_of(uint32_t n_slots)
{
    return (n_slots + SPAN_SLOTS - 1) / SPAN_SLOTS;
}

/* As many queries as fit the scratch with a page of K or V, weights of a span, and values of a span
 * and of the row so far. head_dim is rounded up to whole vectors of any instruction set. */
static inline uint32_t attend_queries(uint32_t head_dim)
{
    const uint32_t width = (head_dim + 15) / 16 * 16,
                   most = (SCRATCH_FLOATS - ATTEND_QUERIES * SPAN_SLOTS - PAGE_SLOTS * width) /
                          (2 * width);
    return most < ATTEND_QUERIES ? most : ATTEND_QUERIES;
}

/* What a span leaves of a query for merging: three numbers, then head_dim sums in whole vectors.
 * Rounded up to cache lines, because each span may be another thread's. */
enum { PARTIAL_MAXIMUM, PARTIAL_SUM, PARTIAL_SEEN, PARTIAL_VALUES = 16 };

static inline uint32_t partial_floats(uint32_t head_dim)
{
    return PARTIAL_VALUES + (head_dim + 15) / 16 * 16;
}

/* The arguments of backend.matmul, for all threads. */
struct matmul_job {
    const struct weight *w;
    size_t row_bytes; /* of w */
    const float *x;   /* [n][w->cols] */
    uint32_t n;
    const float *bias; /* [w->rows] or NULL */
    float *out;        /* [n][w->rows] */
};

/* How the attention of one segment is cut. */
struct attention_cut {
    uint32_t n_spans; /* of its longest head */
    float *partials; /* [n_kv_heads][n_spans][n_rows * group][partial_floats]; NULL: not by spans */
    /* Of its only row, kept for scoring, or NULL: what softmax_span (template_attention.h) makes.
     */
    float *weights; /* [n_heads][n_spans * SPAN_SLOTS] */
    float *maxima;  /* [n_spans][n_heads] */
    uint32_t *seen; /* [n_kv_heads][n_spans][SPAN_PAGES] slots of each page */
};

/* The arguments of backend.attend, and the pool. */
struct attention_job {
    const float *q, *q_sink;  /* [row][n_heads][head_dim] */
    const float *sink_logits; /* [n_heads] or NULL */
    const int32_t *positions;
    const struct step_segment *segments; /* of one wave */
    uint32_t first_head;                 /* the layer's, among a sequence's */
    uint32_t n_segments, n_heads, n_kv_heads, head_dim;
    float *out; /* [row][n_heads][head_dim] */
    const uint8_t *pool;
    const struct page_shape *shape;
    const int32_t *slot_positions;    /* [page][PAGE_SLOTS] */
    const struct attention_cut *cuts; /* [n_segments] */
    /* What scoring needs of attention; NULL when no segment is scored. */
    uint32_t softmax_row; /* the step's row that these begin with */
    float *softmax;       /* [row][n_heads][2] largest logit, 1 / sum of 2^(logit - largest) */
    uint32_t *n_seen;     /* [row][n_kv_heads] slots that the query saw */
};

static inline const struct head_state *
state_of(const struct attention_job *job, const struct step_segment *segment, uint32_t kv_head)
{
    return &segment->placed->states[job->first_head + kv_head];
}

/* The list of slots that a segment's queries read of a head; NULL: the whole table. */
static inline const struct step_list *list_of(const struct attention_job *job,
                                              const struct step_segment *segment, uint32_t kv_head)
{
    const struct step_list *list =
        segment->lists ? &segment->lists[job->first_head + kv_head] : NULL;
    return list && list->n > 0 ? list : NULL;
}

/* The slots that attention reads: those of the table, or of whole pages of the list. */
static inline uint32_t walked_slots(const struct attention_job *job,
                                    const struct step_segment *segment, uint32_t kv_head)
{
    const struct step_list *list = list_of(job, segment, kv_head);
    return list ? list->n * PAGE_SLOTS
                : placement_n_slots(segment->placed, job->first_head + kv_head, segment->n_behind);
}

struct cpu_kernels {
    const char *isa;  /* as in backend_cpu_open */
    const char *name; /* for people */

    /* out[cols] = the row as floats. */
    void (*dequantise)(const struct weight *w, const uint8_t *row, float *out);
    /* Computes columns [first, last) of out: those weight rows times all n rows of x. */
    void (*matmul)(const struct matmul_job *job, uint32_t first, uint32_t last, float *scratch);
    void (*rms_norm)(float *out, const float *x, const float *gain, uint32_t n, uint32_t width,
                     float eps);
    void (*rope)(float *x, const float *angles, uint32_t n, uint32_t n_heads, uint32_t head_dim,
                 uint32_t rope_dim, bool neox);
    void (*add)(float *x, const float *y, size_t n);
    void (*swiglu)(float *out, const float *gate, const float *up, size_t n);
    /* Rounds to the nearest even; beyond +-65504 becomes +-65504, NaN stays NaN. */
    void (*to_half)(uint16_t *out, const float *x, uint32_t n);
    /* Rows [first, first + n) of a segment (counted from its first_row), one KV head, all query
     * heads of its group. n * group <= attend_queries(), or n == 1. segment is one of job's. */
    void (*attend)(const struct attention_job *job, const struct step_segment *segment,
                   uint32_t kv_head, uint32_t first, uint32_t n, float *scratch);
    /* The same for all rows of a segment that is cut by spans: first each span, in any order, then
     * the merging of all. */
    void (*attend_span)(const struct attention_job *job, const struct step_segment *segment,
                        uint32_t kv_head, uint32_t span, float *scratch);
    void (*attend_merge)(const struct attention_job *job, const struct step_segment *segment,
                         uint32_t kv_head, float *scratch);
    /* Scores of the slots in a span of one KV head, from the scored rows of a segment that has
     * attended. */
    void (*score)(const struct attention_job *job, const struct step_segment *segment,
                  uint32_t kv_head, uint32_t span, float *scratch);
    /* dots[slot] = k . x, squares[slot] = k . k of the slots of a page; x [head_dim] may be NULL:
     * no dots then. */
    void (*key_dots)(const struct page_shape *shape, const uint8_t *page, const float *x,
                     float *dots, float *squares);
    /* The first of select_victims (cache/policy/select.h). Of the first n slots (whole pages) that
     * are not holes and whose position is at least `sinks` and below `newest`: the one with the
     * lowest score (NaN is the lowest), of equal scores the earliest position. UINT32_MAX: none. */
    uint32_t (*worst)(const float *scores, const int32_t *positions, uint32_t n, uint32_t sinks,
                      uint32_t newest);
};

extern const struct cpu_kernels cpu_kernels_plain;
#if defined(__x86_64__)
extern const struct cpu_kernels cpu_kernels_avx2, cpu_kernels_avx512;
#endif

struct cpu {
    const struct cpu_kernels *kernels;
    struct threads *threads;
    float *scratch; /* [n_threads][SCRATCH_FLOATS] */

    const struct cpu_products *multiplier;
    struct weight_memory weights; /* of packed ones */
    struct quantised quantised;   /* room for x of a product, see matmul.c */
    size_t quantised_room;        /* floats of x */

    uint8_t *pool; /* K and V (page.h), then positions */
    int32_t *positions;
    size_t pool_bytes;
    enum plan_storage storage; /* of the next kv_alloc */
    struct page_shape shape;
    uint32_t n_pages, head_dim;

    float *softmax; /* [softmax_room] what attention keeps between its parts, see kv.c */
    size_t softmax_room;
    void *select; /* [select_room] bytes, see policy.c */
    size_t select_room;
    struct select_job *jobs; /* [jobs_room] of a layer's heads */
    size_t jobs_room;
};

static inline uint8_t *cpu_page(const struct cpu *c, uint32_t number)
{
    return c->pool + number * c->shape.stride;
}

/* Of its slots. */
static inline int32_t *cpu_positions(const struct cpu *c, uint32_t number)
{
    return c->positions + (size_t)number * PAGE_SLOTS;
}

/* sum [head_dim] += times * k / |k| of the key in a slot, as it is stored: KeyDiff's sum of the keys
 * that a head holds. */
void cpu_add_key(const struct cpu *c, double *sum, uint32_t page, uint32_t index, double times);

/* A thread's part of the scratch. */
static inline float *cpu_scratch(const struct cpu *c, uint32_t thread)
{
    return c->scratch + (size_t)thread * SCRATCH_FLOATS;
}

/* matmul.c: the functions of struct backend with the same names, and one that frees their
 * memory. */
size_t cpu_row_bytes(const struct weight *w);
bool cpu_weight_prepare(void *self, struct weight *w, bool multiplied, struct error *e);
void cpu_weight_release(void *self, struct weight *w);
void cpu_matmul(void *self, float *out, const struct weight *w, const float *x, uint32_t n,
                const float *bias);
void cpu_products(void *self, const struct product *products, uint32_t n_products, const float *x,
                  uint32_t n);
void cpu_matmul_close(struct cpu *c);

/* policy.c */
bool cpu_drop(void *self, const struct step *step, uint32_t layer, uint32_t wave, struct error *e);
bool cpu_compress(void *self, struct select_job *jobs, uint32_t n_jobs, struct error *e);

/* kv.c: the functions of struct backend with the same names. */
void cpu_kv_set_storage(void *self, enum plan_storage storage);
size_t cpu_page_bytes(void *self, uint32_t head_dim);
bool cpu_kv_alloc(void *self, uint32_t n_pages, uint32_t head_dim, struct error *e);
void cpu_kv_free(void *self);
void cpu_kv_copy(void *self, const uint32_t *from, const uint32_t *to, uint32_t n);
void cpu_write(void *self, const struct step *step, uint32_t layer, uint32_t wave,
               const struct kv_rows *rows);
int32_t cpu_kv_read(void *self, uint32_t page, uint32_t index, uint32_t head_dim, float *k,
                    float *v);
void cpu_attend(void *self, const struct step *step, uint32_t layer, uint32_t wave,
                const struct attention *a);

#endif
