/* The CUDA kernels beside the limits of the GPU: decode attention and products of few rows against
 * the bandwidth of a copy, prefill attention and products of many rows against the rate of cuBLAS.
 * `make bench-cuda`; medians of CUDA events around a graph of launches, as in a decode step, over
 * random numbers (zeros are faster: the GPU may clock higher). Shapes are those of Llama-3-8B (32
 * query heads on 8 KV heads of 128 dimensions, 4096 wide, feed-forward 14336). Under emulation
 * everything is tiny and the numbers mean nothing, but the program runs. */
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "cuda/host/backend.h"
#include "cuda/kernels/kernels.h"
#include "cuda/kernels/page.h"

#ifdef WINNOW_CUDA_EMULATED
enum {
    SEQUENCES = 2,
    SLOTS = 96,
    ROWS = 32,
    WIDTH = 256,
    BETWEEN = 512,
    REPEATS = 1,
    COPY_MB = 1,
    COPIES = 2
};
#else
enum {
    SEQUENCES = 32,
    SLOTS = 8192,
    ROWS = 2048,
    WIDTH = 4096,
    BETWEEN = 14336,
    REPEATS = 15,
    COPY_MB = 2048,
    COPIES = 8 /* of a weight, so that none stays in the L2 cache from one product to the next */
};
#endif
enum { HEADS = 32, KV_HEADS = 8, DIM = 128 };

static void must(cudaError_t error, const char *what)
{
    if (error == cudaSuccess)
        return;
    fprintf(stderr, "bench_cuda: %s: %s\n", what, cudaGetErrorString(error));
    exit(1);
}

static cudaStream_t stream;

static void *device(size_t bytes)
{
    void *p = NULL;
    must(cudaMalloc(&p, bytes), "taking memory");
    must(cudaMemset(p, 0, bytes), "clearing memory");
    return p;
}

/* Random bytes in which every half and bfloat16 is a number, repeated from one piece that is
 * sent once. */
static void *device_noise(size_t bytes)
{
    const size_t piece = (size_t)1 << 20;
    std::vector<uint8_t> some(bytes < piece ? bytes : piece);
    uint32_t state = 7;
    for (uint8_t &b : some)
        b = (uint8_t)((state = state * 1664525u + 1013904223u) >> 24 & 0xbb);
    uint8_t *p = (uint8_t *)device(bytes);
    for (size_t at = 0; at < bytes; at += some.size())
        must(cudaMemcpyAsync(p + at, at == 0 ? some.data() : p, std::min(some.size(), bytes - at),
                             cudaMemcpyDefault, stream),
             "filling memory");
    must(cudaStreamSynchronize(stream), "filling memory");
    return p;
}

template <class T> static T *upload(const std::vector<T> &from)
{
    T *p = (T *)device(from.size() * sizeof(T));
    must(cudaMemcpy(p, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice), "uploading");
    return p;
}

/* Milliseconds, the median of REPEATS after one that warms up. */
static double median_ms(const std::function<void()> &work)
{
    std::vector<double> times;
    cudaEvent_t from, to;
    must(cudaEventCreate(&from), "events");
    must(cudaEventCreate(&to), "events");
    for (int i = 0; i <= REPEATS; i++) {
        float ms = 0;
        must(cudaEventRecord(from, stream), "timing");
        work();
        must(cudaEventRecord(to, stream), "timing");
        must(cudaEventSynchronize(to), "computing");
        must(cudaEventElapsedTime(&ms, from, to), "timing");
        if (i > 0)
            times.push_back((double)ms);
    }
    must(cudaGetLastError(), "computing");
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

/* The same for launches that a graph can hold, which is how a decode step runs them. */
static double graph_ms(const std::function<void()> &work)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    work(); /* set-up of a first launch */
    must(cudaStreamSynchronize(stream), "computing");
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "recording");
    work();
    must(cudaStreamEndCapture(stream, &graph), "recording");
    must(cudaGraphInstantiate(&exec, graph, 0), "recording");
    double ms = median_ms([&] { must(cudaGraphLaunch(exec, stream), "replaying"); });
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    return ms;
}

static double copy_gb_per_s()
{
    size_t bytes = (size_t)COPY_MB << 20;
    void *a = device(bytes), *b = device(bytes);
    double ms = median_ms(
        [&] { must(cudaMemcpyAsync(b, a, bytes, cudaMemcpyDeviceToDevice, stream), "copying"); });
    cudaFree(a);
    cudaFree(b);
    return 2 * (double)bytes / ms / 1e6;
}

static std::vector<float> numbers(size_t n)
{
    std::vector<float> x(n);
    uint32_t state = 1;
    for (float &v : x)
        v = (float)((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1;
    return x;
}

/* Sequences of n_rows new rows each over SLOTS slots of one layer, pages all over the pool. */
struct scene {
    device_step s{};
    attention_workspace w{};
    float *q, *out;
    uint32_t n_rows, max_slots = SLOTS;

    scene(uint32_t n_sequences, uint32_t rows_each, uint32_t storage, bool scored, uint32_t n_drop)
        : n_rows(n_sequences * rows_each)
    {
        const uint32_t n_pages_head = SLOTS / PAGE_SLOTS, n_heads = n_sequences * KV_HEADS,
                       n_pages = n_pages_head * n_heads;
        page_layout layout = page_layout_of(DIM, storage);
        s.n_layers = 1;
        s.n_heads = HEADS;
        s.n_kv_heads = KV_HEADS;
        s.head_dim = DIM;
        s.page_bytes = layout.bytes;
        s.storage = storage;
        s.pool = (uint8_t *)device_noise((size_t)n_pages * layout.bytes);
        std::vector<uint32_t> pages(n_pages);
        for (uint32_t i = 0; i < n_pages; i++)
            pages[i] = (uint32_t)((uint64_t)i * 2654435761u % n_pages);
        /* The multiplier is odd and no factor of n_pages: a permutation. */
        uint32_t *tables = upload(pages);
        std::vector<device_head> heads(n_heads);
        std::vector<device_segment> segments(n_sequences);
        std::vector<int32_t> positions(n_rows);
        for (uint32_t i = 0; i < n_sequences; i++) {
            device_segment &g = segments[i];
            memset(&g, 0, sizeof g);
            g.first_row = i * rows_each;
            g.n_rows = rows_each;
            g.score = scored ? CACHE_SCORE_SUM : CACHE_SCORE_NONE;
            g.evicts = n_drop > 0;
            g.choice.scorer = SCORER_ATTENTION_SUM;
            g.choice.n_tokens = SLOTS;
            g.choice.recent = 32;
            for (uint32_t r = 0; r < rows_each; r++)
                positions[i * rows_each + r] = (int32_t)(SLOTS - rows_each + r);
        }
        for (uint32_t i = 0; i < n_heads; i++) {
            device_head &h = heads[i];
            memset(&h, 0, sizeof h);
            h.pages = tables + (size_t)i * n_pages_head;
            h.scores = scored ? (float *)device(SLOTS * sizeof(float)) : NULL;
            h.holes = (uint32_t *)device(64 * sizeof(uint32_t));
            h.counters = (head_counters *)device(sizeof(head_counters));
            h.n_slots = SLOTS;
            h.n_drop = n_drop;
            h.window = UINT32_MAX;
            h.write_slot = SLOTS - rows_each;
        }
        s.header = upload(std::vector<device_header>{{n_rows, n_sequences, 0}});
        s.positions = upload(positions);
        s.segments = upload(segments);
        s.heads = upload(heads);
        q = upload(numbers((size_t)n_rows * HEADS * DIM));
        out = (float *)device((size_t)n_rows * HEADS * DIM * sizeof(float));
        fill_positions(pages, n_pages_head, n_heads);
        uint64_t bytes = attention_workspace_bytes(&s, n_rows, n_sequences, SLOTS);
        attention_workspace_place(&w, &s, (uint8_t *)device(bytes), n_rows, n_sequences, SLOTS);
    }

    void fill_positions(const std::vector<uint32_t> &pages, uint32_t per_head, uint32_t n_heads)
    {
        for (uint32_t i = 0; i < n_heads; i++)
            for (uint32_t p = 0; p < per_head; p++) {
                int32_t at[PAGE_SLOTS];
                for (int32_t k = 0; k < PAGE_SLOTS; k++)
                    at[k] = (int32_t)(p * PAGE_SLOTS) + k;
                must(cudaMemcpy(s.pool + pages[(size_t)i * per_head + p] * s.page_bytes, at,
                                sizeof at, cudaMemcpyHostToDevice),
                     "positions");
            }
    }
};

static void decode_attention(double copy)
{
    const char *names[] = {"f16", "bf16", "q8", "q4"};
    double plain = 0;
    for (uint32_t storage = 0; storage < 4; storage++) {
        scene a(SEQUENCES, 1, storage, false, 0);
        double ms = graph_ms([&] {
            launch_attention_decode(stream, &a.s, 0, 0, SEQUENCES, a.q, NULL, a.out, &a.w);
        });
        double bytes = (double)SEQUENCES * KV_HEADS * SLOTS / PAGE_SLOTS * (double)a.s.page_bytes;
        printf("decode attention %-4s %d x %d slots: %.3f ms, %.0f GB/s, %.0f %% of a copy\n",
               names[storage], SEQUENCES, SLOTS, ms, bytes / ms / 1e6, bytes / ms / 1e4 / copy);
        plain = storage == 0 ? ms : plain;
    }
    scene b(SEQUENCES, 1, 0, true, 0);
    double scored = graph_ms(
        [&] { launch_attention_decode(stream, &b.s, 0, 0, SEQUENCES, b.q, NULL, b.out, &b.w); });
    scene c(SEQUENCES, 1, 0, true, 1);
    uint8_t *scratch = (uint8_t *)device(select_scratch_bytes(&c.s, SEQUENCES, SLOTS));
    double evict = graph_ms([&] { launch_evict(stream, &c.s, 0, 0, SEQUENCES, SLOTS, scratch); });
    printf("scores while attending: +%.1f %%; choosing and dropping one of %d slots a head: +%.1f "
           "%%\n",
           100 * (scored / plain - 1), SLOTS, 100 * evict / plain);
}

static void prefill_attention()
{
    scene a(1, ROWS < SLOTS ? ROWS : SLOTS, 0, false, 0);
    double ms = median_ms(
        [&] { launch_attention_prefill(stream, &a.s, 0, 0, 1, a.n_rows, a.q, NULL, a.out, &a.w); });
    double flop = 4.0 * HEADS * DIM * a.n_rows * (SLOTS - a.n_rows / 2.0);
    printf("prefill attention f16, the last %u of %d tokens: %.3f ms, %.1f TFLOP/s\n", a.n_rows,
           SLOTS, ms, flop / ms / 1e9);
}

static const struct {
    uint32_t type;
    const char *name;
} weight_types[] = {{TENSOR_BF16, "BF16"}, {TENSOR_Q8_0, "Q8_0"}, {TENSOR_Q4_K, "Q4_K"}};

/* COPIES copies of one weight. */
struct weights {
    device_weight w[COPIES];

    weights(uint32_t type, uint32_t rows, uint32_t cols)
    {
        for (device_weight &one : w) {
            one = {type, rows, cols, NULL, device_weight_bytes(type, rows, cols)};
            one.data = (uint8_t *)device_noise(one.n_bytes);
        }
    }
    ~weights()
    {
        for (device_weight &one : w)
            cudaFree(one.data);
    }
};

/* For each shape, the time of a product and the share of a copy's bandwidth at which it reads
 * the weight. */
static void products_of_few(double copy, uint8_t *scratch, const float *x, float *out)
{
    const uint32_t shapes[][2] = {
        {BETWEEN, WIDTH}, {WIDTH, BETWEEN}, {WIDTH, WIDTH}, {WIDTH / 4, WIDTH}};
    const uint32_t n_rows[] = {1, 2, 4, 8, 16, 32, 64};
    for (const auto &t : weight_types)
        for (const auto &shape : shapes) {
            weights w(t.type, shape[0], shape[1]);
            printf("product %s %5u x %5u, rows: us, %% of a copy ", t.name, shape[0], shape[1]);
            for (uint32_t n : n_rows) {
                double ms = graph_ms([&] {
                    for (const device_weight &one : w.w) {
                        const matmul_job job = {out, &one, NULL};
                        launch_products(stream, NULL, &job, 1, x, n, scratch);
                    }
                });
                ms /= COPIES;
                printf(" | %u: %5.1f, %2.0f", n, ms * 1e3,
                       (double)w.w[0].n_bytes / ms / 1e4 / copy);
            }
            printf("\n");
        }
}

static void products_of_many(struct blas *blas, uint8_t *scratch, const float *x, float *out)
{
    for (const auto &t : weight_types) {
        weights w(t.type, BETWEEN, WIDTH);
        const matmul_job job = {out, &w.w[0], NULL};
        double many = median_ms([&] { launch_products(stream, blas, &job, 1, x, ROWS, scratch); });
        double own = median_ms([&] { launch_products(stream, NULL, &job, 1, x, ROWS, scratch); });
        double flop = 2.0 * BETWEEN * WIDTH * ROWS;
        printf("product %s %d x %d: %d rows %.1f TFLOP/s (own kernel %.1f)\n", t.name, BETWEEN,
               WIDTH, ROWS, flop / many / 1e9, flop / own / 1e9);
    }
}

static void products(double copy)
{
    const char *reason;
    struct blas *blas = blas_open(stream, &reason);
    uint8_t *scratch = (uint8_t *)device(matmul_scratch_bytes(ROWS, BETWEEN, BETWEEN));
    float *x = upload(numbers((size_t)ROWS * BETWEEN)),
          *out = (float *)device((size_t)ROWS * BETWEEN * sizeof(float));
    products_of_few(copy, scratch, x, out);
    products_of_many(blas, scratch, x, out);
    blas_close(blas);
}

int main()
{
    const char *reason;
    if (cuda_device_count(&reason) == 0) {
        fprintf(stderr, "bench_cuda: %s\n", reason);
        return 1;
    }
    cudaDeviceProp properties;
    must(cudaGetDeviceProperties(&properties, 0), "asking the GPU");
    must(cudaStreamCreate(&stream), "a stream");
    double copy = copy_gb_per_s();
    printf("%s: a copy moves %.0f GB/s (read and written)\n", properties.name, copy);
    decode_attention(copy);
    prefill_attention();
    products(copy);
    return 0;
}
