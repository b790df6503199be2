/* Speed of the CPU kernels. For each instruction set: bytes of weights read per second by a
 * matrix product of one row, operations per second with many rows, and attention of decoding
 * rows and of prompts over long contexts. `bench_kernels [threads [matmul|attention]]`; the
 * default is all cores and both. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/base/clock.h"
#include "engine/compute/backend.h"

#define RUNS 15

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void give_up(const char *why)
{
    fprintf(stderr, "bench_kernels: %s\n", why);
    exit(1);
}

static void *allocate(size_t bytes)
{
    void *p = calloc(1, bytes);
    if (p == NULL)
        give_up("out of memory");
    return p;
}

/* Median seconds of one product. */
static double time_matmul(const struct backend *b, const struct weight *w, const float *x,
                          uint32_t n, float *out)
{
    double seconds[RUNS];
    int repeat = 1;
    for (int run = -3; run < RUNS; run++) {
        double start = clock_seconds();
        for (int i = 0; i < repeat; i++)
            b->matmul(b->self, out, w, x, n, NULL);
        double took = (clock_seconds() - start) / repeat;
        if (run < 0)
            repeat = took > 2e-3 ? 1 : (int)(2e-3 / took) + 1;
        else
            seconds[run] = took;
    }
    qsort(seconds, RUNS, sizeof *seconds, by_value);
    return seconds[RUNS / 2];
}

/* 64 MB of floats' worth of weights: more than any second-level cache holds, in the shape of a
 * feed-forward layer. Bytes are 0x11, so all scales are small ordinary numbers. */
static void bench_matmul(const struct backend *b)
{
#define TYPE_OF_ROW(name, ...) TENSOR_##name,
    static const enum tensor_type types[] = {TENSOR_TYPES(TYPE_OF_ROW)};
    const uint32_t rows = 8192, cols = 2048, many = 128;
    float *x = allocate((size_t)many * cols * sizeof *x);
    float *out = allocate((size_t)many * rows * sizeof *out);
    for (size_t i = 0; i < (size_t)many * cols; i++)
        x[i] = (float)(i % 17) - 8;
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        const struct tensor_type_info *info = tensor_type_info(types[t]);
        size_t bytes = (size_t)rows * (cols / info->block_values) * info->block_bytes;
        void *data = allocate(bytes);
        memset(data, 0x11, bytes);
        struct weight w = {.type = types[t], .rows = rows, .cols = cols, .data = data};
        struct error e;
        if (!b->weight_prepare(b->self, &w, true, &e))
            give_up(e.message);
        double one = time_matmul(b, &w, x, 1, out);
        double all = time_matmul(b, &w, x, many, out);
        printf("  %-5s one row %6.2f GB/s %6.2f Gweights/s   %u rows %7.1f GFLOP/s\n", info->name,
               (double)bytes / one * 1e-9, (double)rows * cols / one * 1e-9, many,
               2.0 * rows * cols * many / all * 1e-9);
        b->weight_release(b->self, &w);
        free(data);
    }
    free(x);
    free(out);
}

/* ---- attention */

struct heads_shape {
    uint32_t n_kv_heads, group, head_dim;
};

/* Layers of one sequence in a pool, all slots written, too many for any CPU cache. */
struct context {
    const struct backend *b;
    struct heads_shape shape;
    uint32_t n_layers, n_slots, n_pages;
    struct head_slots *slots;  /* [n_layers][n_kv_heads] */
    struct head_state *states; /* [n_layers][n_kv_heads] */
    uint32_t *pages;
    int32_t *positions;
    double bytes; /* of K and V and positions in a layer */
};

static const struct ring sees_everything = {.window = UINT32_MAX};

/* The last n_rows rows of all layers as one segment. */
struct last_rows {
    struct placement placed;
    struct step_segment segment;
    uint32_t first_of_wave[2];
    struct step step;
};

static void last_rows_open(struct last_rows *r, const struct context *c, uint32_t n_rows,
                           enum cache_score score)
{
    *r = (struct last_rows){.placed = {.n = n_rows,
                                       .slots = c->slots,
                                       .states = c->states,
                                       .rings = &sees_everything,
                                       .score = score},
                            .first_of_wave = {0, 1}};
    r->segment = (struct step_segment){.placed = &r->placed, .n_rows = n_rows};
    r->step = (struct step){.n_rows = n_rows,
                            .n_waves = 1,
                            .n_segments = 1,
                            .n_layers = c->n_layers,
                            .n_kv_heads = c->shape.n_kv_heads,
                            .positions = c->positions + c->n_slots - n_rows,
                            .segments = &r->segment,
                            .first_of_wave = r->first_of_wave};
}

static void context_open(struct context *c, const struct backend *b, struct heads_shape shape,
                         enum plan_storage storage, uint32_t n_slots)
{
    struct error e;
    b->kv_set_storage(b->self, storage);
    *c = (struct context){.b = b, .shape = shape, .n_slots = n_slots};
    c->n_pages = (uint32_t)pages_of_slots(n_slots);
    c->bytes =
        (double)c->n_pages * shape.n_kv_heads * (double)b->page_bytes(b->self, shape.head_dim);
    c->n_layers = (uint32_t)(100e6 / c->bytes) + 1;
    const uint32_t heads = c->n_layers * shape.n_kv_heads,
                   width = shape.n_kv_heads * shape.head_dim;
    if (!b->kv_alloc(b->self, c->n_pages * heads, shape.head_dim, &e))
        give_up(e.message);
    c->slots = allocate(heads * sizeof *c->slots);
    c->states = allocate(heads * sizeof *c->states);
    c->pages = allocate((size_t)c->n_pages * heads * sizeof *c->pages);
    c->positions = allocate(n_slots * sizeof *c->positions);
    float *k = allocate((size_t)n_slots * width * sizeof *k);
    for (uint32_t i = 0; i < n_slots * width; i++)
        k[i] = (float)(i * 7919 % 101) / 50 - 1;
    for (uint32_t i = 0; i < c->n_pages * heads; i++)
        c->pages[i] = i;
    for (uint32_t i = 0; i < n_slots; i++)
        c->positions[i] = (int32_t)i;
    for (uint32_t i = 0; i < heads; i++) {
        c->slots[i].n_slots = n_slots;
        c->states[i].pages = c->pages + (size_t)i * c->n_pages;
    }
    struct last_rows all;
    last_rows_open(&all, c, n_slots, CACHE_SCORE_NONE);
    b->write(b->self, &all.step, 0, 0, &(struct kv_rows){k, k, shape.n_kv_heads, shape.head_dim});
    for (uint32_t i = shape.n_kv_heads * c->n_pages; i < c->n_pages * heads; i++) {
        const uint32_t from = i % (shape.n_kv_heads * c->n_pages);
        b->kv_copy(b->self, &from, &i, 1);
    }
    free(k);
}

static void context_close(struct context *c)
{
    c->b->kv_free(c->b->self);
    free(c->slots);
    free(c->states);
    free(c->pages);
    free(c->positions);
}

/* Seconds for the last n_rows rows of a layer, the best of several walks over the layers: the
 * speed of an otherwise idle machine. */
static double time_attention(const struct context *c, uint32_t n_rows, enum cache_score score)
{
    const struct heads_shape s = c->shape;
    const size_t n = (size_t)n_rows * s.n_kv_heads * s.group * s.head_dim;
    float *q = allocate(n * sizeof *q), *out = allocate(n * sizeof *out);
    double best = 1e9;
    const struct attention a = {.q = q,
                                .out = out,
                                .n_heads = s.n_kv_heads * s.group,
                                .n_kv_heads = s.n_kv_heads,
                                .head_dim = s.head_dim};
    struct last_rows rows;
    last_rows_open(&rows, c, n_rows, score);
    for (size_t i = 0; i < n; i++)
        q[i] = (float)(i * 104729 % 203) / 100 - 1;
    for (int run = 0; run < (n_rows == 1 ? RUNS : 3); run++) {
        double start = clock_seconds();
        for (uint32_t l = 0; l < (n_rows == 1 ? c->n_layers : 1); l++)
            c->b->attend(c->b->self, &rows.step, l, 0, &a);
        double took = (clock_seconds() - start) / (n_rows == 1 ? c->n_layers : 1);
        best = took < best ? took : best;
    }
    free(q);
    free(out);
    return best;
}

/* The same with the scores that attention_sum asks for; all layers share theirs. */
static double time_scored(const struct context *c, uint32_t n_rows)
{
    const uint32_t n = c->shape.n_kv_heads;
    for (uint32_t i = 0; i < c->n_layers * n; i++)
        c->states[i].scores = i < n ? allocate((size_t)c->n_pages * PAGE_SLOTS * sizeof(float))
                                    : c->states[i - n].scores;
    double seconds = time_attention(c, n_rows, CACHE_SCORE_SUM);
    for (uint32_t i = 0; i < c->n_layers * n; i++) {
        if (i < n)
            free(c->states[i].scores);
        c->states[i].scores = NULL;
    }
    return seconds;
}

/* Bytes per second that one thread reads of 256 MB, the best of a few. */
static double read_bandwidth(void)
{
    const size_t n = (size_t)32 << 20;
    uint64_t *p = allocate(n * sizeof *p);
    double best = 0;
    memset(p, 1, n * sizeof *p);
    for (int run = 0; run < 5; run++) {
        uint64_t sums[8] = {0};
        double start = clock_seconds();
        for (size_t i = 0; i < n; i += 8)
            for (int j = 0; j < 8; j++)
                sums[j] += p[i + (size_t)j];
        double rate = (double)(n * sizeof *p) / (clock_seconds() - start);
        for (int j = 1; j < 8; j++)
            sums[0] += sums[j];
        best = sums[0] != 0 && rate > best
                   ? rate
                   : best; /* the sum is used, or the compiler would drop it */
    }
    free(p);
    return best;
}

static void bench_decode(const struct backend *b, long threads, struct heads_shape shape,
                         enum plan_storage storage, uint32_t n_slots, double bandwidth)
{
    struct context c;
    context_open(&c, b, shape, storage, n_slots);
    double plain = time_attention(&c, 1, CACHE_SCORE_NONE), scored = time_scored(&c, 1);
    printf(
        "  decode %u x %u heads of %3u, %4s, %5u slots: %6.2f GB/s a thread, %3.0f %% of reading, "
        "%8.1f us a layer, scored %+5.1f %%\n",
        shape.n_kv_heads, shape.group, shape.head_dim, plan_storage_name(storage), n_slots,
        c.bytes / plain / (double)threads * 1e-9,
        100 * c.bytes / plain / (double)threads / bandwidth, plain * 1e6,
        100 * (scored / plain - 1));
    context_close(&c);
}

/* The last 256 tokens of a prompt; an operation is a multiplication or an addition. */
static void bench_prefill(const struct backend *b, long threads, struct heads_shape shape,
                          enum plan_storage storage, uint32_t n_slots)
{
    const uint32_t n = 256;
    struct context c;
    context_open(&c, b, shape, storage, n_slots);
    double plain = time_attention(&c, n, CACHE_SCORE_NONE), scored = time_scored(&c, n);
    double pairs = ((double)n_slots - (n - 1) / 2.0) * n;
    printf(
        "  prefill %u x %u heads of %3u, %4s, %u rows at %5u slots: %6.1f GFLOP/s a thread, scored "
        "%+5.1f %%\n",
        shape.n_kv_heads, shape.group, shape.head_dim, plan_storage_name(storage), n, n_slots,
        4 * pairs * shape.n_kv_heads * shape.group * shape.head_dim / plain / (double)threads *
            1e-9,
        100 * (scored / plain - 1));
    context_close(&c);
}

static void bench_attention(const struct backend *b, long threads)
{
    static const struct heads_shape shapes[] = {{3, 3, 64}, {8, 4, 128}};
    const double bandwidth = read_bandwidth();
    printf("  one thread reads %.1f GB/s\n", bandwidth * 1e-9);
    for (int i = 0; i < 2; i++)
        for (enum plan_storage s = STORAGE_F16; s <= STORAGE_Q4; s++) {
            for (uint32_t n_slots = 512; n_slots <= 32768; n_slots *= 4)
                bench_decode(b, threads, shapes[i], s, n_slots, bandwidth);
            bench_prefill(b, threads, shapes[i], s, 8192);
        }
}

int main(int argc, char **argv)
{
    static const char *const isas[] = {"avx512", "avx2", "plain"};
    long threads = argc > 1 ? atol(argv[1]) : sysconf(_SC_NPROCESSORS_ONLN);
    for (int i = 0; i < 3; i++) {
        struct backend b;
        struct error e;
        if (!backend_cpu_open(&b, (uint32_t)threads, isas[i], &e)) {
            printf("%s: %s\n", isas[i], e.message);
            continue;
        }
        printf("%s\n", b.description);
        if (argc < 3 || strcmp(argv[2], "matmul") == 0)
            bench_matmul(&b);
        if (argc < 3 || strcmp(argv[2], "attention") == 0)
            bench_attention(&b, threads);
        b.close(b.self);
    }
    return 0;
}
