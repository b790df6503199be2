/* Bandwidth and peak of the machine: see bench_machine.h.
 *
 * All threads begin a pass together; the pass ends with the last thread. The best of several passes
 * counts, because other programs slow down some of them. */
#include "engine/measure/bench_machine.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "config/base/clock.h"
#include "engine/compute/machine.h"

#define LEAST_BYTES (UINT64_C(256) << 20)

enum { READ_PASSES = 15, MULTIPLY_PASSES = 15, MULTIPLY_ROUNDS = 1 << 21 };

/* One kind of multiply-adds: runs `rounds` rounds, each of so many operations. */
struct multiplier {
    const char *isa, *name;
    bool (*is_there)(void);
    float (*run)(uint32_t rounds);
    double operations_per_round;
};

/* 12 independent sums: more than latency times throughput of a fused multiply-add on any core, and
 * few enough for 16 registers. The result is returned so that the compiler omits nothing. */
#define SUMS 12
#define MULTIPLY(vector, zero, multiply_add)                                                       \
    vector sums[SUMS];                                                                             \
    for (int i = 0; i < SUMS; i++)                                                                 \
        sums[i] = zero + (float)i;                                                                 \
    const vector factor = zero + 0.999f, term = zero + 0.001f;                                     \
    for (uint32_t r = 0; r < rounds; r++)                                                          \
        _Pragma("GCC unroll 12") for (int i = 0; i < SUMS; i++) sums[i] = multiply_add;            \
    float all = 0;                                                                                 \
    for (int i = 0; i < SUMS; i++)                                                                 \
        all += sums[i][0];                                                                         \
    return all

typedef float floats4 __attribute__((vector_size(16)));

static bool is_anywhere(void)
{
    return true;
}

static float multiply_plain(uint32_t rounds)
{
    MULTIPLY(floats4, (floats4){0}, sums[i] * factor + term);
}

#if defined(__x86_64__)
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f");
}

__attribute__((target("avx2,fma"))) static float multiply_avx2(uint32_t rounds)
{
    MULTIPLY(__m256, _mm256_setzero_ps(), _mm256_fmadd_ps(sums[i], factor, term));
}

__attribute__((target("avx512f"))) static float multiply_avx512(uint32_t rounds)
{
    MULTIPLY(__m512, _mm512_setzero_ps(), _mm512_fmadd_ps(sums[i], factor, term));
}
#endif

/* Best first. */
static const struct multiplier multipliers[] = {
#if defined(__x86_64__)
    {"avx512", "AVX-512", has_avx512, multiply_avx512, 2.0 * SUMS * 16},
    {"avx2", "AVX2", has_avx2, multiply_avx2, 2.0 * SUMS * 8},
#endif
    {"plain", "plain", is_anywhere, multiply_plain, 2.0 * SUMS * 4}};
enum { N_MULTIPLIERS = sizeof multipliers / sizeof *multipliers };

static const struct multiplier *pick_multiplier(const char *isa)
{
    for (int i = 0; i < N_MULTIPLIERS; i++)
        if (isa ? !strcmp(isa, multipliers[i].isa) : multipliers[i].is_there())
            return &multipliers[i];
    return &multipliers[N_MULTIPLIERS - 1];
}

/* ---- threads */

struct measurement {
    const struct multiplier *multiplier;
    uint8_t *buffer;
    size_t part_bytes; /* of a thread */
    uint32_t n_threads;
    pthread_barrier_t barrier;
    pthread_mutex_t gate; /* held until all threads have started or one could not */
    bool is_off;
};

struct worker {
    struct measurement *of;
    uint32_t number;
    pthread_t thread;
    volatile float result;                 /* not used; kept so that the compiler omits no work */
    double read_seconds, multiply_seconds; /* of the best pass; thread 0's alone count */
};

/* A thread reads several streams at once, as the matrix products read weights, because a core
 * prefetches each of them. One stream does not reach the memory's bandwidth. */
enum { WALKS = 4 };

static float read_part(const uint8_t *from, size_t n_bytes)
{
    typedef uint32_t words4 __attribute__((vector_size(16)));
    const size_t n = n_bytes / WALKS / 64 * 4; /* 64 bytes of each stream at a time */
    const words4 *at = (const words4 *)from;
    words4 sums[2 * WALKS] = {{0}};
    for (size_t i = 0; i < n; i += 4)
        _Pragma("GCC unroll 4") for (size_t k = 0; k < WALKS; k++)
        {
            sums[2 * k] ^= at[k * n + i] ^ at[k * n + i + 2];
            sums[2 * k + 1] ^= at[k * n + i + 1] ^ at[k * n + i + 3];
        }
    for (int k = 1; k < 2 * WALKS; k++)
        sums[0] ^= sums[k];
    return (float)(sums[0][0] ^ sums[0][1] ^ sums[0][2] ^ sums[0][3]);
}

static void *work(void *argument)
{
    struct worker *w = argument;
    struct measurement *m = w->of;
    uint8_t *part = m->buffer + w->number * m->part_bytes;
    float result = 0;
    pthread_mutex_lock(&m->gate);
    bool is_off = m->is_off;
    pthread_mutex_unlock(&m->gate);
    if (is_off)
        return NULL;
    w->read_seconds = w->multiply_seconds = 1e9;
    memset(part, 1, m->part_bytes); /* memory is near the core that touches it first */
    for (int pass = 0; pass < READ_PASSES + MULTIPLY_PASSES; pass++) {
        bool reads = pass < READ_PASSES;
        double *best = reads ? &w->read_seconds : &w->multiply_seconds;
        pthread_barrier_wait(&m->barrier);
        double start = clock_seconds();
        result += reads ? read_part(part, m->part_bytes) : m->multiplier->run(MULTIPLY_ROUNDS);
        pthread_barrier_wait(&m->barrier);
        double took = clock_seconds() - start;
        *best = took < *best ? took : *best;
    }
    w->result = result;
    return NULL;
}

/* The calling thread is number 0. */
static bool run_workers(struct measurement *m, struct worker *workers, struct error *e)
{
    uint32_t n = 1;
    workers[0] = (struct worker){.of = m, .number = 0};
    for (uint32_t i = 1; i < m->n_threads; i++)
        workers[i] = (struct worker){.of = m, .number = i};
    pthread_mutex_lock(&m->gate);
    while (n < m->n_threads && pthread_create(&workers[n].thread, NULL, work, &workers[n]) == 0)
        n++;
    m->is_off = n < m->n_threads;
    pthread_mutex_unlock(&m->gate);
    work(&workers[0]);
    for (uint32_t i = 1; i < n; i++)
        pthread_join(workers[i].thread, NULL);
    return !m->is_off ||
           error_set(e, "engine_fault", "", "the system gave %u of %u threads", n, m->n_threads);
}

/* The size of the last-level cache. The kernel is asked before the C library, which on some virtual
 * machines adds up the caches of the whole host. */
static uint64_t cache_bytes(void)
{
    unsigned long long kib = 0;
    FILE *file = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "re");
    bool known = file && fscanf(file, "%lluK", &kib) == 1;
    if (file)
        fclose(file);
    long bytes = known ? 0 : sysconf(_SC_LEVEL3_CACHE_SIZE);
    return known ? kib * 1024 : bytes > 0 ? (uint64_t)bytes : 0;
}

static uint64_t buffer_bytes(void)
{
    uint64_t bytes = 8 * cache_bytes(), available = machine_available_bytes("");
    bytes = bytes > LEAST_BYTES ? bytes : LEAST_BYTES;
    return available > 0 && bytes > available / 4 ? available / 4 : bytes;
}

bool bench_machine_measure(uint32_t n_threads, const char *isa, struct bench_machine *out,
                           struct error *e)
{
    struct measurement m = {.multiplier = pick_multiplier(isa),
                            .n_threads = n_threads,
                            .gate = PTHREAD_MUTEX_INITIALIZER};
    m.part_bytes = (size_t)(buffer_bytes() / n_threads) / 4096 * 4096;
    size_t bytes = m.part_bytes * n_threads;
    struct worker *workers = calloc(n_threads, sizeof *workers);
    if (!workers)
        return error_set_memory(e, "threads", n_threads * sizeof *workers);
    m.buffer = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m.buffer == MAP_FAILED) {
        free(workers);
        return error_set_memory(e, "a buffer to measure memory with", bytes);
    }
    madvise(m.buffer, bytes, MADV_HUGEPAGE);
    bool done = pthread_barrier_init(&m.barrier, NULL, n_threads) == 0 ||
                error_set_memory(e, "a barrier", sizeof m.barrier);
    if (done) {
        done = run_workers(&m, workers, e);
        pthread_barrier_destroy(&m.barrier);
    }
    if (done)
        *out = (struct bench_machine){.n_threads = n_threads,
                                      .buffer_bytes = bytes,
                                      .read_bytes = (double)bytes / workers[0].read_seconds,
                                      .operations = m.multiplier->operations_per_round *
                                                    MULTIPLY_ROUNDS * n_threads /
                                                    workers[0].multiply_seconds,
                                      .instructions = m.multiplier->name};
    munmap(m.buffer, bytes);
    free(workers);
    return done;
}
