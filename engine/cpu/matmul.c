/* Matrix products of the CPU backend, cut into pieces for the threads. Quantised weights are packed
 * once (packed.h) and multiplied as integers with rows of x that were rounded to 16 bits. Other
 * weights, and weights that were not prepared, are multiplied as floats. Engine thread. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cpu/kernels.h"

/* The same for multiplications of integers, which are faster. */
#define WORTH_THREADS_INT 65536

size_t cpu_row_bytes(const struct weight *w)
{
    const struct tensor_type_info *info = tensor_type_info(w->type);
    return w->cols / info->block_values * (size_t)info->block_bytes;
}

/* ---- packing */

struct packing {
    const struct packed *packed;
    uint8_t *to;
    const struct weight *w;
    _Atomic uint32_t next;
};

static void pack_thread(void *context, uint32_t thread)
{
    struct packing *k = context;
    (void)thread;
    for (;;) {
        uint32_t first = atomic_fetch_add_explicit(&k->next, 8, memory_order_relaxed);
        if (first >= k->packed->n_groups)
            return;
        uint32_t last = first + 8 < k->packed->n_groups ? first + 8 : k->packed->n_groups;
        packed_write(k->packed, k->to, k->w->type, k->w->data, cpu_row_bytes(k->w), first, last);
    }
}

bool cpu_weight_prepare(void *self, struct weight *w, bool multiplied, struct error *e)
{
    struct cpu *c = self;
    struct packed_format format;
    w->prepared = NULL;
    if (!multiplied || !packed_format_of(w->type, &format) || w->cols % PACKED_COLS != 0)
        return true;
    struct packed *packed = malloc(sizeof *packed);
    if (packed == NULL)
        return error_set_memory(e, "a weight", sizeof *packed);
    *packed = packed_shape(&format, w->rows, w->cols);
    uint8_t *data = weight_memory_take(&c->weights, packed_bytes(packed), e);
    if (data == NULL) {
        free(packed);
        return false;
    }
    packed->data = data;
    struct packing work = {.packed = packed, .to = data, .w = w};
    threads_run(c->threads, pack_thread, &work);
    w->prepared = packed;
    return true;
}

void cpu_weight_release(void *self, struct weight *w)
{
    struct cpu *c = self;
    struct packed *packed = w->prepared;
    w->prepared = NULL;
    if (packed != NULL)
        weight_memory_give(&c->weights, packed->data);
    free(packed);
}

/* ---- floats */

/* A matrix product in pieces of weight rows. Threads take pieces from a counter, so a thread that
 * is delayed takes fewer. */
struct matmul_work {
    const struct cpu *cpu;
    struct matmul_job job;
    uint32_t rows_at_once;
    _Atomic uint32_t next;
};

static void matmul_thread(void *context, uint32_t thread)
{
    struct matmul_work *w = context;
    const uint32_t rows = w->job.w->rows;
    for (;;) {
        uint32_t piece = atomic_fetch_add_explicit(&w->next, 1, memory_order_relaxed);
        uint64_t first = (uint64_t)piece * w->rows_at_once;
        if (first >= rows)
            return;
        uint64_t last = first + w->rows_at_once;
        w->cpu->kernels->matmul(&w->job, (uint32_t)first, (uint32_t)(last < rows ? last : rows),
                                cpu_scratch(w->cpu, thread));
    }
}

static void multiply_floats(struct cpu *c, float *out, const struct weight *w, const float *x,
                            uint32_t n, const float *bias)
{
    struct matmul_work work = {
        .cpu = c,
        .job = {.w = w, .row_bytes = cpu_row_bytes(w), .x = x, .n = n, .bias = bias, .out = out},
    };
    /* Some four pieces a thread, of whole panels of 16 rows. */
    const uint32_t pieces = 4 * threads_count(c->threads);
    work.rows_at_once = (w->rows / pieces + 16) / 16 * 16;
    if ((uint64_t)w->rows * w->cols * n < WORTH_THREADS)
        matmul_thread(&work, 0);
    else
        threads_run(c->threads, matmul_thread, &work);
}

/* ---- integers */

/* Makes room for n rounded rows of x. False: memory is short; the product is then done in floats,
 * which needs no room. */
static bool reserve_quantised(struct cpu *c, uint32_t n, uint32_t cols)
{
    const size_t room = (size_t)n * cols, n_blocks = room / PACKED_COLS;
    struct quantised *q = &c->quantised;
    if (room > c->quantised_room) {
        const size_t bytes = (room * 2 + n_blocks * 12 + 63) / 64 * 64;
        int16_t *values = aligned_alloc(64, bytes);
        if (values == NULL)
            return false;
        free(q->values);
        q->values = values;
        c->quantised_room = room;
    }
    q->cols = cols;
    q->n_blocks = cols / PACKED_COLS;
    q->scales = (float *)(q->values + c->quantised_room);
    q->sums = (int32_t *)(q->scales + c->quantised_room / PACKED_COLS);
    return true;
}

void cpu_matmul_close(struct cpu *c)
{
    free(c->quantised.values);
}

struct integer_work {
    const struct cpu *cpu;
    const float *x;
    uint32_t n;
    const struct product *products;
    uint32_t n_products, n_groups;
    _Atomic uint32_t next;
};

static void quantise_thread(void *context, uint32_t thread)
{
    const struct integer_work *w = context;
    const uint64_t threads = threads_count(w->cpu->threads);
    uint32_t first = (uint32_t)(w->n * thread / threads),
             last = (uint32_t)(w->n * (thread + 1ull) / threads);
    w->cpu->multiplier->quantise(&w->cpu->quantised, w->x, w->n, first, last);
}

/* The next groups of a thread, from *first on. Returns how many; 0: none are left. Pieces are long
 * while much is left, because long ones read memory best, and short at the end, because a thread
 * may be delayed. */
static uint32_t take_groups(struct integer_work *w, uint32_t *first)
{
    const uint32_t least = w->n <= PRODUCTS_FEW_ROWS ? PRODUCTS_WALKS : 1,
                   share = 2 * threads_count(w->cpu->threads);
    uint32_t next = atomic_load_explicit(&w->next, memory_order_relaxed), n;
    do {
        const uint32_t left = w->n_groups - next;
        n = left / share / least * least;
        if (n < least)
            n = least < left ? least : left;
    } while (!atomic_compare_exchange_weak_explicit(&w->next, &next, next + n, memory_order_relaxed,
                                                    memory_order_relaxed));
    *first = next;
    return n;
}

/* The groups of all products form one list. */
static void multiply_thread(void *context, uint32_t thread)
{
    struct integer_work *w = context;
    (void)thread;
    for (;;) {
        uint32_t first, left = take_groups(w, &first), before = 0;
        if (left == 0)
            return;
        for (uint32_t i = 0; i < w->n_products && left > 0; i++) {
            const struct product *p = &w->products[i];
            const struct packed *packed = p->w->prepared;
            uint32_t end = before + packed->n_groups;
            if (first < end) {
                uint32_t n = end - first < left ? end - first : left;
                w->cpu->multiplier->multiply(packed, &w->cpu->quantised, w->n, first - before,
                                             first - before + n, p->bias, p->out, p->w->rows);
                first += n;
                left -= n;
            }
            before = end;
        }
    }
}

static bool are_packed(const struct product *products, uint32_t n_products)
{
    for (uint32_t i = 0; i < n_products; i++)
        if (products[i].w->prepared == NULL)
            return false;
    return true;
}

void cpu_products(void *self, const struct product *products, uint32_t n_products, const float *x,
                  uint32_t n)
{
    struct cpu *c = self;
    if (n == 0)
        return;
    if (!are_packed(products, n_products) || !reserve_quantised(c, n, products[0].w->cols)) {
        for (uint32_t i = 0; i < n_products; i++)
            multiply_floats(c, products[i].out, products[i].w, x, n, products[i].bias);
        return;
    }
    struct integer_work work = {
        .cpu = c, .x = x, .n = n, .products = products, .n_products = n_products};
    const uint32_t cols = products[0].w->cols;
    for (uint32_t i = 0; i < n_products; i++)
        work.n_groups += ((const struct packed *)products[i].w->prepared)->n_groups;
    if ((uint64_t)n * cols < WORTH_THREADS)
        c->multiplier->quantise(&c->quantised, x, n, 0, n);
    else
        threads_run(c->threads, quantise_thread, &work);
    if ((uint64_t)work.n_groups * PACKED_ROWS * cols * n < WORTH_THREADS_INT)
        multiply_thread(&work, 0);
    else
        threads_run(c->threads, multiply_thread, &work);
}

void cpu_matmul(void *self, float *out, const struct weight *w, const float *x, uint32_t n,
                const float *bias)
{
    const struct product one = {out, w, bias};
    cpu_products(self, &one, 1, x, n);
}
