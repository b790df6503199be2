/* The CUDA backend: opening a device, buffers, weights, and the operations on rows. See
 * engine/compute/backend.h. Every launch goes to one stream. An error is noted and ends its
 * step. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/host/backend_private.h"

extern "C" {
#include "config/base/log.h"
}

/* ---- errors */

bool cuda_check(struct cuda_backend *c, cudaError_t error, const char *doing)
{
    if (error != cudaSuccess && c->failed == cudaSuccess) {
        c->failed = error;
        c->failed_at = doing;
    }
    return c->failed == cudaSuccess;
}

bool cuda_fail(const struct cuda_backend *c, struct error *e)
{
    return error_set(e, c->failed == cudaErrorMemoryAllocation ? "out_of_memory" : "engine_fault",
                     "", "the GPU failed while %s: %s", c->failed_at,
                     cudaGetErrorString(c->failed));
}

bool cuda_take_raw(struct cuda_backend *c, void *pointer, uint64_t bytes, const char *what,
                   struct error *e)
{
    void *memory = NULL;
    size_t n_free = 0, total = 0;
    cudaError_t error = cudaMalloc(&memory, bytes ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError(); /* not a failure of the device */
        cudaMemGetInfo(&n_free, &total);
        return error_set(e, "out_of_memory", "--kv-memory",
                         "%s needs %.1f MiB of GPU memory and %.1f of %.1f MiB are free", what,
                         (double)bytes / 1048576, (double)n_free / 1048576,
                         (double)total / 1048576);
    }
    if (!cuda_check(c, error, "taking memory")) { /* or an earlier failure */
        cudaFree(memory);
        return cuda_fail(c, e);
    }
    memcpy(pointer, &memory, sizeof memory);
    return true;
}

bool cuda_take(struct cuda_backend *c, void *pointer, uint64_t bytes, const char *what,
               struct error *e)
{
    void *memory;
    if (!cuda_take_raw(c, pointer, bytes, what, e))
        return false;
    memcpy(&memory, pointer, sizeof memory);
    if (cuda_check(c, cudaMemsetAsync(memory, 0, bytes, c->stream), "clearing memory"))
        return true;
    cudaFree(memory);
    memset(pointer, 0, sizeof memory);
    return cuda_fail(c, e);
}

/* ---- buffers */

static float *cuda_alloc(void *self, size_t n_floats, struct error *e)
{
    float *buffer = NULL;
    if (n_floats > SIZE_MAX / sizeof *buffer) {
        error_set_memory(e, "a buffer on the GPU", UINT64_MAX);
        return NULL;
    }
    cuda_take((struct cuda_backend *)self, &buffer, n_floats * sizeof *buffer, "a buffer", e);
    return buffer;
}

static void cuda_free(void *self, float *buffer)
{
    (void)self;
    cudaFree(buffer);
}

static void cuda_upload(void *self, float *to, const float *from, size_t n_floats)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    const size_t bytes = n_floats * sizeof *to;
    if (bytes > c->mailbox.half_bytes) {
        cuda_check(c, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, c->stream),
                   "sending to the device");
        cuda_check(c, cudaStreamSynchronize(c->stream), "sending to the device");
        return;
    }
    const void *sent = mailbox_send(c, from, bytes);
    cuda_check(c, cudaMemcpyAsync(to, sent, bytes, cudaMemcpyDeviceToDevice, c->stream),
               "sending to the device");
}

static bool cuda_download(void *self, float *to, const float *from, size_t n_floats,
                          struct error *e)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    cuda_check(c,
               cudaMemcpyAsync(to, from, n_floats * sizeof *to, cudaMemcpyDeviceToHost, c->stream),
               "reading results");
    cuda_check(c, cudaStreamSynchronize(c->stream), "computing a step");
    return !c->failed || cuda_fail(c, e);
}

static void *cuda_host_alloc(void *self, size_t bytes, struct error *e)
{
    void *p = NULL;
    (void)self;
    if (cudaMallocHost(&p, bytes ? bytes : 1) == cudaSuccess)
        return p;
    cudaGetLastError();
    error_set_memory(e, "pinned memory for results", bytes);
    return NULL;
}

static void cuda_host_free(void *self, void *p)
{
    (void)self;
    cudaFreeHost(p);
}

static uint64_t cuda_memory_free(void *self)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    size_t n_free = 0, total = 0;
    if (!cuda_check(c, cudaMemGetInfo(&n_free, &total), "asking for memory"))
        return 0;
    uint64_t kept = (uint64_t)((double)total * (1 - c->o.memory_share));
    return n_free > kept ? state_leaves(n_free - kept, cuda_page_bytes(c, c->o.head_dim)) : 0;
}

/* ---- weights */

/* Rows that are the same in the file need no packing. */
static bool upload_weight(struct cuda_backend *c, struct device_weight *to, const struct weight *w,
                          struct error *e)
{
    const struct tensor_type_info *info = tensor_type_info(w->type);
    uint64_t raw = (uint64_t)w->rows * (w->cols / info->block_values) * info->block_bytes;
    uint8_t *packed = NULL;
    to->type = w->type;
    to->rows = w->rows;
    to->cols = w->cols;
    to->n_bytes = device_weight_bytes(w->type, w->rows, w->cols);
    if (!cuda_take(c, &to->data, to->n_bytes, "a weight matrix", e))
        return false;
    const void *from = w->data;
    if (info->block_values > 1 || raw != to->n_bytes) {
        packed = (uint8_t *)malloc(to->n_bytes);
        if (!packed)
            return error_set_memory(e, "packing a weight matrix", to->n_bytes);
        device_weight_pack(packed, w->data, w->type, w->rows, w->cols);
        from = packed;
    }
    cuda_check(c, cudaMemcpyAsync(to->data, from, to->n_bytes, cudaMemcpyHostToDevice, c->stream),
               "sending weights to the device");
    cuda_check(c, cudaStreamSynchronize(c->stream), "sending weights to the device");
    free(packed);
    return !c->failed || cuda_fail(c, e);
}

static bool cuda_weight_prepare(void *self, struct weight *w, bool multiplied, struct error *e)
{
    (void)multiplied; /* a copy serves both */
    struct cuda_backend *c = (struct cuda_backend *)self;
    for (struct weight_copy *k = c->weights; k; k = k->next)
        if (k->data == w->data && k->w.type == w->type && k->w.rows == w->rows) {
            k->n_users++;
            w->prepared = k;
            return true;
        }
    struct weight_copy *k = (struct weight_copy *)calloc(1, sizeof *k);
    if (!k)
        return error_set_memory(e, "a weight", sizeof *k);
    if (!upload_weight(c, &k->w, w, e)) {
        cudaFree(k->w.data);
        free(k);
        return false;
    }
    k->data = w->data;
    k->n_users = 1;
    k->next = c->weights;
    c->weights = k;
    w->prepared = k;
    return true;
}

static void cuda_weight_release(void *self, struct weight *w)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    struct weight_copy *k = (struct weight_copy *)w->prepared, **at = &c->weights;
    w->prepared = NULL;
    if (!k || --k->n_users > 0)
        return;
    while (*at != k)
        at = &(*at)->next;
    *at = k->next;
    cudaFree(k->w.data);
    free(k);
}

static const struct device_weight *on_device(const struct weight *w)
{
    return &((const struct weight_copy *)w->prepared)->w;
}

/* ---- row by row; while a step is recorded n becomes its bucket's (step_rows) */

static void cuda_embed(void *self, float *out, const struct weight *w, const struct step *step)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    launch_embed(c->stream, out, on_device(w), c->step.tokens,
                 (uint32_t)step_rows(c, step->n_rows));
}

static void cuda_rms_norm(void *self, float *out, const float *x, const float *gain, uint32_t n,
                          uint32_t width, float eps)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    launch_rms_norm(c->stream, out, x, gain, (uint32_t)step_rows(c, n), width, eps);
}

static void cuda_products(void *self, const struct product *products, uint32_t n_products,
                          const float *x, uint32_t n)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    struct matmul_job jobs[MATMUL_JOBS];
    for (uint32_t done = 0, some = 0; done < n_products; done += some) {
        some = n_products - done < MATMUL_JOBS ? n_products - done : MATMUL_JOBS;
        for (uint32_t i = 0; i < some; i++) {
            const struct product *p = &products[done + i];
            jobs[i] = (struct matmul_job){p->out, on_device(p->w), p->bias};
        }
        launch_products(c->stream, c->blas, jobs, some, x, (uint32_t)step_rows(c, n),
                        c->matmul_scratch);
    }
}

static void cuda_matmul(void *self, float *out, const struct weight *w, const float *x, uint32_t n,
                        const float *bias)
{
    const struct product one = {out, w, bias};
    cuda_products(self, &one, 1, x, n);
}

static void cuda_rope_angles(void *self, float *out, const struct rope_table *table,
                             const struct step *step, bool of_sinks)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    launch_rope_angles(c->stream, out, of_sinks ? c->step.sink_positions : c->step.positions,
                       table->frequencies, table->scale, (uint32_t)step_rows(c, step->n_rows),
                       table->n_pairs);
}

static void cuda_rope(void *self, float *x, const float *angles, uint32_t n, uint32_t n_heads,
                      uint32_t head_dim, uint32_t rope_dim, bool neox)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    launch_rope(c->stream, x, angles, (uint32_t)step_rows(c, n), n_heads, head_dim, rope_dim, neox);
}

static void cuda_add(void *self, float *x, const float *y, size_t n)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    launch_add(c->stream, x, y, step_rows(c, n));
}

static void cuda_swiglu(void *self, float *out, const float *gate, const float *up, size_t n)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    launch_swiglu(c->stream, out, gate, up, step_rows(c, n));
}

static void cuda_copy(void *self, float *out, const float *x, size_t n)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    cuda_check(
        c,
        cudaMemcpyAsync(out, x, step_rows(c, n) * sizeof *x, cudaMemcpyDeviceToDevice, c->stream),
        "copying queries");
}

static void cuda_gather(void *self, float *out, const float *x, const struct step *step,
                        uint32_t width)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    launch_gather(c->stream, out, x, c->step.output_rows,
                  (uint32_t)step_rows(c, step->n_logits + step->n_hidden), width);
}

/* ---- opening and closing */

static void cuda_close(void *self)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    if (c->stream)
        cudaStreamSynchronize(c->stream);
    cuda_kv_free(c);
    pick_close(c);
    step_close(c);
    mailbox_close(c);
    blas_close(c->blas);
    void *buffers[] = {c->matmul_scratch, c->select_scratch, c->attention_memory,
                       c->n_kept,         c->read_k,         c->read_position};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        cudaFree(buffers[i]);
    if (c->stream)
        cudaStreamDestroy(c->stream);
    free(c);
}

static bool take_buffers(struct cuda_backend *c, struct error *e)
{
    const struct cuda_options *o = &c->o;
    /* A step of 32 sequences of up to 131072 tokens takes 540 MB of it, a hundredth of a large
     * GPU. With less, attention is launched for fewer rows at a time. */
    const uint64_t least = UINT64_C(256) << 20, share = c->memory_bytes / 64,
                   enough = share > least ? share : least;
    uint64_t matmul = matmul_scratch_bytes(o->max_rows, o->max_matrix_rows, o->max_matrix_cols);
    /* A prompt is compressed alone; of decode rows many drop at once, from short heads. */
    uint64_t compress = select_scratch_bytes(&c->step, 1, o->max_slots),
             evict = select_scratch_bytes(&c->step, o->max_logits,
                                          o->max_slots < 4096 ? o->max_slots : 4096);
    c->select_bytes = compress > evict ? compress : evict;
    uint32_t n_decode = o->max_rows;
    while (n_decode > 1 &&
           attention_workspace_bytes(&c->step, o->max_rows, n_decode, o->max_slots) > enough)
        n_decode = (n_decode + 1) / 2;
    uint64_t attention = attention_workspace_bytes(&c->step, o->max_rows, n_decode, o->max_slots);
    if (!cuda_take(c, &c->matmul_scratch, matmul, "working memory of products", e) ||
        !cuda_take(c, &c->select_scratch, c->select_bytes, "working memory of choosing", e) ||
        !cuda_take(c, &c->attention_memory, attention, "working memory of attention", e) ||
        !cuda_take(c, &c->n_kept, o->n_kv_heads * sizeof *c->n_kept, "a list", e) ||
        !cuda_take(c, &c->read_k, 2 * o->head_dim * sizeof *c->read_k, "a slot", e) ||
        !cuda_take(c, &c->read_position, sizeof *c->read_position, "a slot", e))
        return false;
    attention_workspace_place(&c->attention, &c->step, c->attention_memory, o->max_rows, n_decode,
                              o->max_slots);
    return true;
}

/* A driver that is missing or too old is not an error of ours: a sentence each. */
uint32_t cuda_device_count(const char **reason)
{
    int n = 0;
    cudaError_t error = cudaGetDeviceCount(&n);
    *reason = "";
    if (error == cudaSuccess && n > 0)
        return (uint32_t)n;
    cudaGetLastError();
    *reason = error == cudaErrorInsufficientDriver
                  ? "there is no NVIDIA driver, or one older than this winnow's CUDA"
              : error == cudaErrorNoDevice || error == cudaSuccess ? "there is no NVIDIA GPU"
                                                                   : cudaGetErrorString(error);
    return 0;
}

static bool open_device(struct cuda_backend *c, struct backend *b, struct error *e)
{
    cudaDeviceProp properties;
    const char *reason;
    uint32_t n = cuda_device_count(&reason);
    if (n == 0)
        return error_set(e, "device_unavailable", "--device", "no GPU can be used: %s", reason);
    if (c->o.device >= n)
        return error_set(e, "device_unavailable", "--device",
                         "GPU %u was asked for and there %s %u", c->o.device,
                         n == 1 ? "is only" : "are only", n);
    if (!cuda_check(c, cudaSetDevice((int)c->o.device), "choosing the GPU") ||
        !cuda_check(c, cudaGetDeviceProperties(&properties, (int)c->o.device), "asking the GPU") ||
        !cuda_check(c, cudaStreamCreate(&c->stream), "creating a stream"))
        return cuda_fail(c, e);
    if (properties.major < 8)
        return error_set(e, "device_unavailable", "--device",
                         "%s has compute capability %d.%d; 8.0 (Ampere) or newer is needed",
                         properties.name, properties.major, properties.minor);
    c->memory_bytes = properties.totalGlobalMem;
    snprintf(b->description, sizeof b->description, "%.100s, %.1f GiB", properties.name,
             (double)properties.totalGlobalMem / 1073741824);
    return true;
}

/* The most query heads of a KV head: the shape that the kernels of attention and of scores have
 * fragments for. */
enum { MOST_GROUP = 16 };

bool backend_cuda_open(struct backend *b, const struct cuda_options *options, struct error *e)
{
    struct cuda_backend *c = (struct cuda_backend *)calloc(1, sizeof *c);
    const char *reason = "";
    if (!c)
        return error_set_memory(e, "the CUDA backend", sizeof *c);
    if (options->n_heads / options->n_kv_heads > MOST_GROUP) {
        free(c);
        return error_set(
            e, "device_unavailable", "--device",
            "%u query heads share each KV head of this model; the GPU's kernels run at "
            "most %d. Use --device cpu",
            options->n_heads / options->n_kv_heads, MOST_GROUP);
    }
    c->o = *options;
    c->seen_page = UINT32_MAX;
    *b = (struct backend){};
    if (!open_device(c, b, e) || !mailbox_open(c, 1 << 20, e) || !step_open(c, e) ||
        !take_buffers(c, e) || !pick_open(c, e)) {
        cuda_close(c);
        return false;
    }
    c->blas = blas_open(c->stream, &reason);
    if (!c->blas)
        log_line(LOG_INFO, "cuBLAS is not used: %s", reason);
    b->name = "cuda";
    b->self = c;
    b->state_memory = &c->state_memory;
    b->step_begin = cuda_step_begin;
    b->step_end = cuda_step_end;
    b->alloc = cuda_alloc;
    b->free = cuda_free;
    b->upload = cuda_upload;
    b->download = cuda_download;
    b->host_alloc = cuda_host_alloc;
    b->host_free = cuda_host_free;
    b->memory_free = cuda_memory_free;
    b->weight_prepare = cuda_weight_prepare;
    b->weight_release = cuda_weight_release;
    b->embed = cuda_embed;
    b->rms_norm = cuda_rms_norm;
    b->matmul = cuda_matmul;
    b->products = cuda_products;
    b->rope_angles = cuda_rope_angles;
    b->rope = cuda_rope;
    b->add = cuda_add;
    b->swiglu = cuda_swiglu;
    b->copy = cuda_copy;
    b->gather = cuda_gather;
    b->pick = cuda_pick;
    b->kv_set_storage = cuda_kv_set_storage;
    b->page_bytes = cuda_page_bytes;
    b->kv_alloc = cuda_kv_alloc;
    b->kv_free = cuda_kv_free;
    b->kv_copy = cuda_kv_copy;
    b->write = cuda_write;
    b->attend = cuda_attend;
    b->drop = cuda_drop;
    b->compress = cuda_compress;
    b->kv_read = cuda_kv_read;
    b->close = cuda_close;
    return true;
}
