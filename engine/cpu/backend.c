/* The CPU backend: struct backend over the kernels of an instruction set, with the work cut into
 * pieces for the threads. Opened by the main thread, called by the engine thread. */
#include "engine/compute/backend.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cpu/kernels.h"
#include "engine/compute/machine.h"

#define MAX_THREADS 1024

static float *aligned_floats(size_t n, struct error *e)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, sizeof(float), &bytes) || bytes > SIZE_MAX - 63) {
        error_set_memory(e, "a buffer of the CPU backend", UINT64_MAX);
        return NULL;
    }
    bytes = bytes == 0 ? 64 : (bytes + 63) / 64 * 64;
    float *buffer = aligned_alloc(64, bytes);
    if (buffer == NULL) {
        error_set_memory(e, "a buffer of the CPU backend", bytes);
        return NULL;
    }
    memset(buffer, 0, bytes);
    return buffer;
}

static float *cpu_alloc(void *self, size_t n_floats, struct error *e)
{
    (void)self;
    return aligned_floats(n_floats, e);
}

static void cpu_free(void *self, float *buffer)
{
    (void)self;
    free(buffer);
}

static void cpu_copy(void *self, float *to, const float *from, size_t n_floats)
{
    (void)self;
    memcpy(to, from, n_floats * sizeof *to);
}

static bool cpu_download(void *self, float *to, const float *from, size_t n_floats, struct error *e)
{
    (void)e;
    cpu_copy(self, to, from, n_floats);
    return true;
}

static void *cpu_host_alloc(void *self, size_t bytes, struct error *e)
{
    (void)self;
    return aligned_floats(bytes / sizeof(float) + 1, e);
}

static void cpu_host_free(void *self, void *p)
{
    (void)self;
    free(p);
}

static uint64_t cpu_memory_free(void *self)
{
    (void)self;
    return machine_available_bytes("");
}

static void cpu_embed(void *self, float *out, const struct weight *w, const struct step *step)
{
    struct cpu *c = self;
    const size_t row_bytes = cpu_row_bytes(w);
    for (uint32_t i = 0; i < step->n_rows; i++)
        c->kernels->dequantise(w, (const uint8_t *)w->data + (size_t)step->tokens[i] * row_bytes,
                               out + (size_t)i * w->cols);
}

/* Operations on rows (or single floats), cut into equal parts. */
struct row_work {
    const struct cpu *cpu;
    void (*part)(const struct row_work *w, size_t first, size_t n);
    size_t n;
    float *out;
    const float *x, *y;
    const uint32_t *rows;
    uint32_t width, n_heads, rope_dim;
    float eps;
    bool neox;
};

static void row_thread(void *context, uint32_t thread)
{
    const struct row_work *w = context;
    const size_t threads = threads_count(w->cpu->threads);
    size_t first = w->n * thread / threads, last = w->n * (thread + 1) / threads;
    if (last > first)
        w->part(w, first, last - first);
}

static void run_rows(const struct cpu *c, struct row_work *w, size_t floats_per_row)
{
    if (w->n * floats_per_row < WORTH_THREADS)
        w->part(w, 0, w->n);
    else
        threads_run(c->threads, row_thread, w);
}

static void rms_norm_part(const struct row_work *w, size_t first, size_t n)
{
    size_t at = first * w->width;
    w->cpu->kernels->rms_norm(w->out + at, w->x + at, w->y, (uint32_t)n, w->width, w->eps);
}

static void cpu_rms_norm(void *self, float *out, const float *x, const float *gain, uint32_t n,
                         uint32_t width, float eps)
{
    struct row_work w = {.cpu = self,
                         .part = rms_norm_part,
                         .n = n,
                         .out = out,
                         .x = x,
                         .y = gain,
                         .width = width,
                         .eps = eps};
    run_rows(self, &w, width);
}

struct angle_work {
    const struct cpu *cpu;
    const struct rope_table *table;
    const int32_t *positions;
    uint32_t n_rows;
    float *out;
};

static void angle_rows(const struct angle_work *w, uint32_t first, uint32_t last)
{
    const uint32_t n_pairs = w->table->n_pairs;
    for (uint32_t row = first; row < last; row++) {
        const double at = (double)w->positions[row] / w->table->scale;
        float *out = w->out + (size_t)row * n_pairs * 2;
        for (uint32_t i = 0; i < n_pairs; i++) {
            const double angle = at * w->table->frequencies[i];
            out[2 * i] = (float)cos(angle);
            out[2 * i + 1] = (float)sin(angle);
        }
    }
}

static void angle_thread(void *context, uint32_t thread)
{
    const struct angle_work *w = context;
    const uint64_t threads = threads_count(w->cpu->threads);
    angle_rows(w, (uint32_t)(w->n_rows * thread / threads),
               (uint32_t)(w->n_rows * (thread + (uint64_t)1) / threads));
}

/* Fewer angles than this are not worth waking the workers. */
enum { ANGLES_WORTH_THREADS = 1024 };

static void cpu_rope_angles(void *self, float *out, const struct rope_table *table,
                            const struct step *step, bool of_sinks)
{
    struct cpu *c = self;
    struct angle_work w = {.cpu = c,
                           .table = table,
                           .positions = of_sinks ? step->sink_positions : step->positions,
                           .n_rows = step->n_rows,
                           .out = out};
    if ((uint64_t)w.n_rows * table->n_pairs < ANGLES_WORTH_THREADS)
        angle_rows(&w, 0, w.n_rows);
    else
        threads_run(c->threads, angle_thread, &w);
}

static void rope_part(const struct row_work *w, size_t first, size_t n)
{
    w->cpu->kernels->rope(w->out + first * w->n_heads * w->width, w->y + first * w->rope_dim,
                          (uint32_t)n, w->n_heads, w->width, w->rope_dim, w->neox);
}

static void cpu_rope(void *self, float *x, const float *angles, uint32_t n, uint32_t n_heads,
                     uint32_t head_dim, uint32_t rope_dim, bool neox)
{
    struct row_work w = {.cpu = self,
                         .part = rope_part,
                         .n = n,
                         .out = x,
                         .y = angles,
                         .width = head_dim,
                         .n_heads = n_heads,
                         .rope_dim = rope_dim,
                         .neox = neox};
    run_rows(self, &w, (size_t)n_heads * head_dim);
}

static void add_part(const struct row_work *w, size_t first, size_t n)
{
    w->cpu->kernels->add(w->out + first, w->y + first, n);
}

static void cpu_add(void *self, float *x, const float *y, size_t n)
{
    struct row_work w = {.cpu = self, .part = add_part, .n = n, .out = x, .y = y};
    run_rows(self, &w, 1);
}

static void swiglu_part(const struct row_work *w, size_t first, size_t n)
{
    w->cpu->kernels->swiglu(w->out + first, w->x + first, w->y + first, n);
}

static void cpu_swiglu(void *self, float *out, const float *gate, const float *up, size_t n)
{
    struct row_work w = {.cpu = self, .part = swiglu_part, .n = n, .out = out, .x = gate, .y = up};
    run_rows(self, &w, 1);
}

static void cpu_gather(void *self, float *out, const float *x, const struct step *step,
                       uint32_t width)
{
    (void)self;
    for (uint32_t i = 0; i < step->n_logits + step->n_hidden; i++)
        memcpy(out + (size_t)i * width, x + (size_t)step->output_rows[i] * width,
               width * sizeof *out);
}

static void cpu_close(void *self)
{
    struct cpu *c = self;
    if (c == NULL)
        return;
    cpu_kv_free(c);
    threads_free(c->threads);
    free(c->scratch);
    free(c->softmax);
    free(c->select);
    free(c->jobs);
    cpu_matmul_close(c);
    free(c);
}

#if defined(__x86_64__)
/* The builtins check the CPU and whether the system saves the registers. f16c is checked by hand,
 * because clang's builtin does not know it; its registers are AVX's. */
static bool machine_has_avx2(void)
{
    unsigned a, b, c = 0, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool machine_has_avx512(void)
{
    return machine_has_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq");
}
#endif

static const struct cpu_kernels *choose_kernels(const char *isa, struct error *e)
{
    const struct cpu_kernels *known[3];
    size_t n = 0;
#if defined(__x86_64__)
    if (machine_has_avx512())
        known[n++] = &cpu_kernels_avx512;
    if (machine_has_avx2())
        known[n++] = &cpu_kernels_avx2;
#endif
    known[n++] = &cpu_kernels_plain;
    if (isa == NULL)
        return known[0];
    char list[64] = "";
    for (size_t i = 0; i < n; i++) {
        if (strcmp(isa, known[i]->isa) == 0)
            return known[i];
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i == 0 ? "" : ", ", known[i]->isa);
    }
    char shown[80];
    error_set(e, "unsupported_value", "isa", "this machine does not run %s kernels; it has %s",
              error_excerpt(shown, isa, strlen(isa)), list);
    return NULL;
}

/* The integer products that go with the kernels. */
static const struct cpu_products *choose_products(const struct cpu_kernels *kernels)
{
#if defined(__x86_64__)
    unsigned a, b, c, d;
    if (kernels == &cpu_kernels_avx512 && cpu_products_avx512vnni.multiply &&
        __builtin_cpu_supports("avx512vnni"))
        return &cpu_products_avx512vnni;
    if (kernels != &cpu_kernels_plain) {
        /* Leaf 7.1: AVX-VNNI is bit 4 of eax. It uses AVX2's registers, which the system saves. */
        if (cpu_products_avxvnni.multiply && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a & 1 << 4)
            return &cpu_products_avxvnni;
        return &cpu_products_avx2;
    }
#endif
    (void)kernels;
    return &cpu_products_plain;
}

bool backend_cpu_open(struct backend *b, uint32_t n_threads, const char *isa, struct error *e)
{
    if (n_threads < 1 || n_threads > MAX_THREADS)
        return error_set(e, "invalid_value", "--threads", "%u CPU threads; 1 to %d are possible",
                         n_threads, MAX_THREADS);
    struct cpu *c = calloc(1, sizeof *c);
    if (c == NULL)
        return error_set_memory(e, "the CPU backend", sizeof *c);
    c->kernels = choose_kernels(isa, e);
    if (c->kernels == NULL)
        goto fail;
    c->multiplier = choose_products(c->kernels);
    c->scratch = aligned_floats((size_t)n_threads * SCRATCH_FLOATS, e);
    if (c->scratch == NULL)
        goto fail;
    c->threads = threads_new(n_threads, e);
    if (c->threads == NULL)
        goto fail;
    *b = (struct backend){
        .name = "cpu",
        .self = c,
        .state_memory = state_memory_host(),
        .alloc = cpu_alloc,
        .free = cpu_free,
        .upload = cpu_copy,
        .download = cpu_download,
        .host_alloc = cpu_host_alloc,
        .host_free = cpu_host_free,
        .memory_free = cpu_memory_free,
        .weight_prepare = cpu_weight_prepare,
        .weight_release = cpu_weight_release,
        .embed = cpu_embed,
        .rms_norm = cpu_rms_norm,
        .matmul = cpu_matmul,
        .products = cpu_products,
        .rope_angles = cpu_rope_angles,
        .rope = cpu_rope,
        .add = cpu_add,
        .swiglu = cpu_swiglu,
        .copy = cpu_copy,
        .gather = cpu_gather,
        .kv_set_storage = cpu_kv_set_storage,
        .page_bytes = cpu_page_bytes,
        .kv_alloc = cpu_kv_alloc,
        .kv_free = cpu_kv_free,
        .kv_copy = cpu_kv_copy,
        .write = cpu_write,
        .attend = cpu_attend,
        .drop = cpu_drop,
        .compress = cpu_compress,
        .kv_read = cpu_kv_read,
        .close = cpu_close,
    };
    snprintf(b->description, sizeof b->description, "%s%s%s, %u thread%s", c->kernels->name,
             c->multiplier->name[0] ? " with " : "", c->multiplier->name, n_threads,
             n_threads == 1 ? "" : "s");
    return true;
fail:
    cpu_close(c);
    return false;
}
