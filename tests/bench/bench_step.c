/* Host time of a step: plans and walks through 64 sequences of a model of 32 layers x 8 KV
 * heads, of 2,000 to 8,000 tokens each, over a backend whose operations do nothing. What is left
 * is the cache's arithmetic, filling the step, and the calls. Times are of this thread's CPU, so
 * that other load on the machine counts little. `bench_step [steps]`; the default is 256. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache/policy/preset.h"
#include "engine/compute/forward.h"

enum { N_SEQUENCES = 64, N_LAYERS = 32, N_KV_HEADS = 8, N_HEADS = 32, HEAD_DIM = 128 };
enum { CHUNK = 2048, LEAST_PROMPT = 2000, MOST_PROMPT = 8000, PAGES_A_HEAD = 330 };
enum { WARM_UP = 8, ROUNDS = 3 };

static float nothing[64];

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static void give_up(const struct error *e)
{
    fprintf(stderr, "%s\n", e->message);
    exit(1);
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

/* ---- a backend that does nothing */

static float *no_alloc(void *self, size_t n, struct error *e)
{
    (void)self, (void)n, (void)e;
    return nothing;
}

static void no_free(void *self, float *buffer)
{
    (void)self, (void)buffer;
}

static void no_copy(void *self, float *to, const float *from, size_t n)
{
    (void)self, (void)to, (void)from, (void)n;
}

static void *no_host_alloc(void *self, size_t bytes, struct error *e)
{
    (void)self, (void)bytes, (void)e;
    return nothing;
}

static void no_host_free(void *self, void *p)
{
    (void)self, (void)p;
}

static bool no_prepare(void *self, struct weight *w, bool multiplied, struct error *e)
{
    (void)self, (void)w, (void)multiplied, (void)e;
    return true;
}

static void no_release(void *self, struct weight *w)
{
    (void)self, (void)w;
}

static void no_embed(void *self, float *out, const struct weight *w, const struct step *step)
{
    (void)self, (void)out, (void)w, (void)step;
}

static void no_norm(void *self, float *out, const float *x, const float *gain, uint32_t n,
                    uint32_t width, float eps)
{
    (void)self, (void)out, (void)x, (void)gain, (void)n, (void)width, (void)eps;
}

static void no_matmul(void *self, float *out, const struct weight *w, const float *x, uint32_t n,
                      const float *bias)
{
    (void)self, (void)out, (void)w, (void)x, (void)n, (void)bias;
}

static void no_products(void *self, const struct product *products, uint32_t n_products,
                        const float *x, uint32_t n)
{
    (void)self, (void)products, (void)n_products, (void)x, (void)n;
}

static void no_angles(void *self, float *out, const struct rope_table *table,
                      const struct step *step, bool of_sinks)
{
    (void)self, (void)out, (void)table, (void)step, (void)of_sinks;
}

static void no_rope(void *self, float *x, const float *angles, uint32_t n, uint32_t n_heads,
                    uint32_t head_dim, uint32_t rope_dim, bool neox)
{
    (void)self, (void)x, (void)angles, (void)n, (void)n_heads, (void)head_dim, (void)rope_dim;
    (void)neox;
}

static void no_swiglu(void *self, float *out, const float *gate, const float *up, size_t n)
{
    (void)self, (void)out, (void)gate, (void)up, (void)n;
}

static void no_gather(void *self, float *out, const float *x, const struct step *step,
                      uint32_t width)
{
    (void)self, (void)out, (void)x, (void)step, (void)width;
}

static void no_page_copy(void *self, const uint32_t *from, const uint32_t *to, uint32_t n)
{
    (void)self, (void)from, (void)to, (void)n;
}

static void no_write(void *self, const struct step *step, uint32_t layer, uint32_t wave,
                     const struct kv_rows *rows)
{
    (void)self, (void)step, (void)layer, (void)wave, (void)rows;
}

static void no_attend(void *self, const struct step *step, uint32_t layer, uint32_t wave,
                      const struct attention *a)
{
    (void)self, (void)step, (void)layer, (void)wave, (void)a;
}

static bool no_drop(void *self, const struct step *step, uint32_t layer, uint32_t wave,
                    struct error *e)
{
    (void)self, (void)step, (void)layer, (void)wave, (void)e;
    return true;
}

/* As many as may stay. */
static bool keep_most(void *self, struct select_job *jobs, uint32_t n_jobs, struct error *e)
{
    (void)self, (void)e;
    for (uint32_t i = 0; i < n_jobs; i++)
        jobs[i].n_kept = jobs[i].budget < jobs[i].n_slots ? jobs[i].budget : jobs[i].n_slots;
    return true;
}

static struct backend idle_backend(void)
{
    return (struct backend){.name = "idle",
                            .state_memory = state_memory_host(),
                            .alloc = no_alloc,
                            .free = no_free,
                            .upload = no_copy,
                            .host_alloc = no_host_alloc,
                            .host_free = no_host_free,
                            .weight_prepare = no_prepare,
                            .weight_release = no_release,
                            .embed = no_embed,
                            .rms_norm = no_norm,
                            .matmul = no_matmul,
                            .products = no_products,
                            .rope_angles = no_angles,
                            .rope = no_rope,
                            .add = no_copy,
                            .swiglu = no_swiglu,
                            .copy = no_copy,
                            .gather = no_gather,
                            .kv_copy = no_page_copy,
                            .write = no_write,
                            .attend = no_attend,
                            .drop = no_drop,
                            .compress = keep_most};
}

/* ---- what is measured */

struct bench {
    struct cache *cache;
    struct batch *batch;
    struct forward *forward;
    struct cache_sequence *sequences[N_SEQUENCES];
    double *chunks; /* [n_chunks] of CHUNK rows */
    uint32_t n_chunks;
    double *steps; /* [n_steps] */
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, uint32_t n)
{
    qsort(x, n, sizeof *x, by_value);
    return n > 0 ? x[n / 2] : 0;
}

static double mean(const double *x, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += x[i];
    return sum / n;
}

/* Like the scheduler: asks what the rows need, then adds them. */
static void add(struct bench *b, struct cache_sequence *s, uint32_t n, uint32_t n_logits)
{
    static const int32_t tokens[CHUNK];
    struct error e;
    if (cache_pages_to_place(s, n) > cache_counts(b->cache).free ||
        !batch_add(b->batch, s, tokens, n, n_logits, NULL, &e))
        give_up(&e);
}

static void compute(struct bench *b)
{
    struct error e;
    if (!forward_compute(b->forward, b->batch, &e))
        give_up(&e);
}

static void read_prompt(struct bench *b, struct cache_sequence *s, uint32_t n_prompt)
{
    for (uint32_t done = 0; done < n_prompt;) {
        const uint32_t n = n_prompt - done < CHUNK ? n_prompt - done : CHUNK;
        const double start = now_ms();
        batch_clear(b->batch);
        add(b, s, n, done + n == n_prompt);
        compute(b);
        if (n == CHUNK && done + n < n_prompt) /* without the end's compression */
            b->chunks[b->n_chunks++] = now_ms() - start;
        done += n;
    }
}

static void open_sequences(struct bench *b, const char *policy)
{
    const struct plan_limits limits = {.n_ctx_train = 131072};
    const struct plan_asked asked = plan_asked_of(preset_find(policy));
    struct error e;
    for (uint32_t i = 0; i < N_SEQUENCES; i++) {
        const uint32_t n = LEAST_PROMPT + i * (MOST_PROMPT - LEAST_PROMPT) / (N_SEQUENCES - 1);
        const struct plan *plan = plan_resolve(&asked, n, &limits, &e);
        if (!plan || !(b->sequences[i] = cache_sequence_new(b->cache, plan, &e)))
            give_up(&e);
        plan_release(plan);
        cache_sequence_set_prompt(b->sequences[i], n);
        read_prompt(b, b->sequences[i], n);
    }
}

static void decode(struct bench *b, uint32_t n_steps)
{
    for (uint32_t i = 0; i < WARM_UP + n_steps; i++) {
        const double start = now_ms();
        batch_clear(b->batch);
        for (uint32_t k = 0; k < N_SEQUENCES; k++)
            add(b, b->sequences[k], 1, 1);
        compute(b);
        if (i >= WARM_UP)
            b->steps[i - WARM_UP] = now_ms() - start;
    }
}

static void measure(const struct backend *backend, const struct model *m, const char *policy,
                    uint32_t n_steps)
{
    struct bench b = {0};
    struct error e;
    b.chunks = allocate(N_SEQUENCES * (MOST_PROMPT / CHUNK + 1) * sizeof *b.chunks);
    b.steps = allocate(n_steps * sizeof *b.steps);
    b.cache = cache_new(N_LAYERS, N_KV_HEADS, HEAD_DIM,
                        N_SEQUENCES * N_LAYERS * N_KV_HEADS * PAGES_A_HEAD, &e);
    if (!b.cache || !(b.batch = batch_new(b.cache, m, CHUNK, N_SEQUENCES, &e)) ||
        !(b.forward = forward_new(backend, m, CHUNK, N_SEQUENCES, &e)))
        give_up(&e);
    open_sequences(&b, policy);
    decode(&b, n_steps);
    const double average = mean(b.steps, n_steps), middle = median(b.steps, n_steps);
    printf("  %-5s decode step of %d sequences: median %.3f, mean %.3f, longest %.3f ms; chunk of "
           "%d rows: median %.3f ms\n",
           policy, N_SEQUENCES, middle, average, b.steps[n_steps - 1], CHUNK,
           median(b.chunks, b.n_chunks));
    for (uint32_t i = 0; i < N_SEQUENCES; i++)
        cache_sequence_free(b.sequences[i]);
    forward_free(b.forward);
    batch_free(b.batch);
    cache_free(b.cache);
    free(b.chunks);
    free(b.steps);
}

int main(int argc, char **argv)
{
    static const char *const policies[] = {"full", "sink", "h2o"};
    const uint32_t n_steps = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 256;
    const struct backend backend = idle_backend();
    if (n_steps == 0) {
        fprintf(stderr, "usage: bench_step [steps]\n");
        return 2;
    }
    struct layer_spec layers[N_LAYERS];
    struct error e;
    for (int i = 0; i < N_LAYERS; i++)
        layers[i] = (struct layer_spec){.n_heads = N_HEADS,
                                        .n_kv_heads = N_KV_HEADS,
                                        .key_size = HEAD_DIM,
                                        .value_size = HEAD_DIM,
                                        .n_ff = 64};
    const struct model m = {
        .n_layers = N_LAYERS,
        .n_embd = 64,
        .n_vocab = 64,
        .norm_eps = 1e-5f,
        .layers = layers,
        .rope_sets = {{.dim = HEAD_DIM, .base = 500000, .scale = 1}},
        .n_rope_sets = 1,
        .n_heads = N_HEADS,
        .n_kv_heads = N_KV_HEADS,
        .head_dim = HEAD_DIM,
        .weights = weights_new(N_LAYERS, &e), /* of which none has data */
    };
    if (!m.weights)
        give_up(&e);
    printf("host time of a step, %d layers x %d KV heads, no kernels\n", N_LAYERS, N_KV_HEADS);
    for (int round = 0; round < ROUNDS; round++)
        for (size_t i = 0; i < sizeof policies / sizeof *policies; i++)
            measure(&backend, &m, policies[i], n_steps);
    free(m.weights);
    return 0;
}
