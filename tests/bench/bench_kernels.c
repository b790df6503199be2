/* What the CPU kernels reach: for each instruction set, bytes of weights read a second by a matrix
 * product of one row, operations a second with many rows, and attention of one decoding row over a
 * long context. Medians; `bench_kernels [threads]`, all cores if not said. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/backend.h"

#define RUNS 15

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void *allocate(size_t bytes)
{
    void *p = calloc(1, bytes);
    if (p == NULL) {
        fprintf(stderr, "out of memory: %zu bytes\n", bytes);
        exit(1);
    }
    return p;
}

/* Median seconds of one product. */
static double time_matmul(const struct backend *b, const struct weight *w, const float *x,
                          uint32_t n, float *out)
{
    double seconds[RUNS];
    int repeat = 1;
    for (int run = -3; run < RUNS; run++) {
        double start = now();
        for (int i = 0; i < repeat; i++)
            b->matmul(b->self, out, w, x, n, NULL);
        double took = (now() - start) / repeat;
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
    static const enum tensor_type types[] = {TENSOR_F32,  TENSOR_F16,  TENSOR_BF16, TENSOR_Q8_0,
                                             TENSOR_Q4_0, TENSOR_Q4_1, TENSOR_Q5_0, TENSOR_Q5_1,
                                             TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K};
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
        double one = time_matmul(b, &w, x, 1, out);
        double all = time_matmul(b, &w, x, many, out);
        printf("  %-5s one row %6.2f GB/s %6.2f Gweights/s   %u rows %7.1f GFLOP/s\n", info->name,
               (double)bytes / one * 1e-9, (double)rows * cols / one * 1e-9, many,
               2.0 * rows * cols * many / all * 1e-9);
        free(data);
    }
    free(x);
    free(out);
}

/* 9 query heads on 3 KV heads of 64, as in a small model; 8 layers' worth of pages, walked in turn.
 */
static void bench_attention(const struct backend *b, enum plan_storage storage, uint32_t n_slots)
{
    enum { KV_HEADS = 3, HEADS = 9, DIM = 64, LAYERS = 8 };
    const uint32_t n_pages = (n_slots + PAGE_SLOTS - 1) / PAGE_SLOTS;
    struct error e;
    b->kv_set_storage(b->self, storage);
    if (!b->kv_alloc(b->self, n_pages * KV_HEADS * LAYERS, DIM, &e)) {
        fprintf(stderr, "%s\n", e.message);
        exit(1);
    }
    uint32_t *pages = allocate((size_t)n_pages * KV_HEADS * LAYERS * sizeof *pages);
    uint32_t *slots = allocate((size_t)n_slots * KV_HEADS * sizeof *slots);
    int32_t *positions = allocate(n_slots * sizeof *positions);
    float *k = allocate((size_t)n_slots * KV_HEADS * DIM * sizeof *k);
    float *q = allocate(HEADS * DIM * sizeof *q), *out = allocate(HEADS * DIM * sizeof *out);
    struct head_view heads[LAYERS][KV_HEADS];
    for (size_t i = 0; i < (size_t)n_slots * KV_HEADS * DIM; i++)
        k[i] = (float)(i * 7919 % 101) / 50 - 1;
    for (uint32_t i = 0; i < n_pages * KV_HEADS * LAYERS; i++)
        pages[i] = i;
    for (uint32_t i = 0; i < n_slots; i++) {
        positions[i] = (int32_t)i;
        for (uint32_t h = 0; h < KV_HEADS; h++)
            slots[i * KV_HEADS + h] = i;
    }
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t h = 0; h < KV_HEADS; h++)
            heads[l][h] = (struct head_view){.pages = pages + (l * KV_HEADS + h) * n_pages,
                                             .n_slots = n_slots,
                                             .window = UINT32_MAX};
        struct kv_segment all = {.n_rows = n_slots, .heads = heads[l], .write_slots = slots};
        b->kv_write(b->self, k, k, positions, &all, 1, KV_HEADS, DIM);
    }
    double seconds[RUNS];
    const int32_t last = positions[n_slots - 1];
    for (int run = -2; run < RUNS; run++) {
        double start = now();
        for (uint32_t l = 0; l < LAYERS; l++) {
            struct kv_segment one = {.n_rows = 1, .heads = heads[l]};
            b->attention(b->self, out, q, NULL, &last, &one, 1, HEADS, KV_HEADS, DIM);
        }
        if (run >= 0)
            seconds[run] = now() - start;
    }
    qsort(seconds, RUNS, sizeof *seconds, by_value);
    double bytes = (double)n_pages * KV_HEADS * LAYERS * (double)b->page_bytes(b->self, DIM);
    printf("  attention, one row, %4s, %5u slots: %6.2f GB/s, %7.1f us a layer\n",
           plan_storage_name(storage), n_slots, bytes / seconds[RUNS / 2] * 1e-9,
           seconds[RUNS / 2] / LAYERS * 1e6);
    b->kv_free(b->self);
    free(pages);
    free(slots);
    free(positions);
    free(k);
    free(q);
    free(out);
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
        bench_matmul(&b);
        for (enum plan_storage s = STORAGE_F16; s <= STORAGE_Q4; s++)
            for (uint32_t n_slots = 1024; n_slots <= 4096; n_slots *= 4)
                bench_attention(&b, s, n_slots);
        b.close(b.self);
    }
    return 0;
}
