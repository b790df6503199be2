/* Timed prompts and decode steps: see bench.h. */
#include "engine/measure/bench.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/compute/device.h"
#include "engine/compute/machine.h"
#include "engine/model/model_hash.h"
#include "engine/compute/sampler.h"

struct bench {
    struct model *model;
    struct head_profile *profile;
    struct backend backend;
    struct forward *forward;
    struct sampler_scratch *scratch;
    struct sampler *sampler; /* greedy */
    uint32_t max_rows, max_sequences;

    enum plan_storage storage;
    double page_bytes;
    struct cache *cache;
    struct batch *batch;

    struct cache_sequence **sequences; /* [max_sequences] of a decode run */
    int32_t *next;                     /* [max_sequences] their newest tokens */
    struct token_pick *picks;          /* [max_sequences] */
};

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int32_t position_of(void *context, uint32_t page, uint32_t index)
{
    const struct bench *b = context;
    return b->backend.kv_read(b->backend.self, page, index, b->model->head_dim, NULL, NULL);
}

/* ---- opening */

static bool load_profile(struct bench *b, const char *path, struct error *e)
{
    char hash[65];
    const struct model *m = b->model;
    if (!path)
        return true;
    b->profile = head_profile_load(path, e);
    return b->profile && model_hash(m, hash, e) &&
           head_profile_check(b->profile, m->n_layers, m->n_kv_heads, hash, e);
}

static bool open_machine(struct bench *b, const struct bench_options *o, struct error *e)
{
    const char *no_gpu;
    struct device_options device = {.n_threads = o->n_threads,
                                    .isa = o->isa,
                                    .max_logits = o->max_sequences,
                                    .max_slots = b->model->n_ctx_train};
    if (!device_pick(o->device, &device.kind, &no_gpu, e))
        return false;
    b->max_rows = o->max_rows ? o->max_rows : device.kind == DEVICE_CUDA ? 2048 : 256;
    b->max_rows = b->max_rows > o->max_sequences ? b->max_rows : o->max_sequences;
    device.max_rows = b->max_rows;
    if (!device_open(&b->backend, &device, b->model, e))
        return false;
    b->forward = forward_new(&b->backend, b->model, b->max_rows, o->max_sequences, e);
    return b->forward != NULL;
}

static bool allocate(struct bench *b, struct error *e)
{
    static const struct sampling greedy = {.top_p = 1, .typical_p = 1, .repetition_penalty = 1};
    b->sequences = calloc(b->max_sequences, sizeof *b->sequences);
    b->next = calloc(b->max_sequences, sizeof *b->next);
    b->picks = calloc(b->max_sequences, sizeof *b->picks);
    if (!b->sequences || !b->next || !b->picks)
        return error_set_memory(e, "sequences", b->max_sequences * sizeof *b->sequences);
    b->scratch = sampler_scratch_new(b->model->n_vocab, e);
    b->sampler = b->scratch ? sampler_new(&greedy, 0, b->model->n_vocab, NULL, 0, e) : NULL;
    return b->sampler != NULL;
}

struct bench *bench_open(const struct bench_options *o, struct error *e)
{
    struct bench *b = calloc(1, sizeof *b);
    if (!b) {
        error_set_memory(e, "the measurement", sizeof *b);
        return NULL;
    }
    b->max_sequences = o->max_sequences;
    b->model = model_open(o->model_path, NULL, NULL, e);
    if (b->model && load_profile(b, o->head_profile, e) && open_machine(b, o, e) && allocate(b, e))
        return b;
    bench_close(b);
    return NULL;
}

static void free_pool(struct bench *b)
{
    batch_free(b->batch);
    cache_free(b->cache);
    b->batch = NULL;
    b->cache = NULL;
    if (b->page_bytes > 0)
        b->backend.kv_free(b->backend.self);
    b->page_bytes = 0;
}

void bench_close(struct bench *b)
{
    if (!b)
        return;
    forward_free(b->forward);
    if (b->cache || b->batch)
        free_pool(b);
    if (b->backend.close)
        b->backend.close(b->backend.self);
    sampler_free(b->sampler);
    sampler_scratch_free(b->scratch);
    head_profile_free(b->profile);
    model_close(b->model);
    free(b->sequences);
    free(b->next);
    free(b->picks);
    free(b);
}

const struct model *bench_model(const struct bench *b)
{
    return b->model;
}

const struct backend *bench_backend(const struct bench *b)
{
    return &b->backend;
}

uint32_t bench_max_rows(const struct bench *b)
{
    return b->max_rows;
}

struct plan_limits bench_limits(const struct bench *b)
{
    return (struct plan_limits){
        .n_ctx_train = b->model->n_ctx_train, .profile = b->profile, .storage = b->storage};
}

bool bench_set_pool(struct bench *b, enum plan_storage storage, uint32_t max_tokens,
                    struct error *e)
{
    const struct model *m = b->model;
    const struct backend *be = &b->backend;
    /* 2 pages more for each head: its last is begun, and a stream has a spare one. */
    uint64_t n_pages = (max_tokens / PAGE_SLOTS + 2) * (uint64_t)m->n_layers * m->n_kv_heads *
                       (b->max_sequences + 1),
             available = be->memory_free(be->self);
    free_pool(b);
    be->kv_set_storage(be->self, storage);
    uint64_t page_bytes = be->page_bytes(be->self, m->head_dim);
    if (n_pages > UINT32_MAX / 2 || (available > 0 && n_pages * page_bytes > available))
        return error_set(e, "out_of_memory", "",
                         "%u sequences of %u tokens need %llu MiB of KV memory; %llu MiB are free: "
                         "choose shorter contexts or smaller batches",
                         b->max_sequences + 1, max_tokens,
                         (unsigned long long)(n_pages * page_bytes >> 20),
                         (unsigned long long)(available >> 20));
    if (!be->kv_alloc(be->self, (uint32_t)n_pages, m->head_dim, e))
        return false;
    b->page_bytes = (double)page_bytes;
    b->storage = storage;
    b->cache = cache_new(m->n_layers, m->n_kv_heads, m->head_dim, (uint32_t)n_pages, e);
    if (!b->cache)
        return false;
    cache_set_memory(b->cache, be->state_memory);
    cache_set_profile(b->cache, b->profile);
    cache_set_reader(b->cache, position_of, b);
    b->batch = batch_new(b->cache, m, b->max_rows, b->max_sequences, e);
    return b->batch != NULL;
}

/* ---- what a step must read and compute */

static double bytes_of(const struct weight *w)
{
    const struct tensor_type_info *info = tensor_type_info(w->type);
    return (double)w->rows * (w->cols / info->block_values) * info->block_bytes;
}

static double size_of(const struct weight *w)
{
    return (double)w->rows * w->cols;
}

/* Over the matrices of all layers. */
static double sum_of_layers(const struct model *m, double (*of)(const struct weight *w))
{
    double sum = 0;
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const struct model_layer *l = &m->layers[i];
        const struct weight *const all[] = {&l->wq,     &l->wk,   &l->wv,    &l->wo,
                                            &l->w_gate, &l->w_up, &l->w_down};
        for (size_t k = 0; k < sizeof all / sizeof *all; k++)
            sum += of(all[k]);
    }
    return sum;
}

/* Of a decode step of n rows: the output matrix is read too, and of the embeddings a row each. */
static double step_weight_bytes(const struct model *m, uint32_t n)
{
    return sum_of_layers(m, bytes_of) + bytes_of(&m->output) +
           n * bytes_of(&m->token_embd) / m->token_embd.rows;
}

/* Queries against `slots` slots in all heads of all layers: a product with K and one with V. */
static double attention_operations(const struct model *m, double slots)
{
    return 4.0 * m->n_layers * m->n_heads * m->head_dim * slots;
}

/* Slots that the queries of a prompt of n see, summed over them: all before, or a stream's window.
 */
static double slots_seen(const struct plan *plan, uint32_t n)
{
    double all = n, most = plan->prefill == PREFILL_STREAM && plan->has_budget ? plan->budget : all;
    if (all <= most)
        return all * (all + 1) / 2;
    return most * (most + 1) / 2 + (all - most) * most;
}

/* ---- runs */

static bool is_starved(const struct cache_sequence *s, struct error *e)
{
    return cache_is_starved(s) &&
           !error_set(e, "kv_pool_empty", "", "the cache has no page left for a compression");
}

/* The tokens of the step's n logit rows, as the server picks them. */
static bool pick(struct bench *b, uint32_t n, int32_t *tokens, struct error *e)
{
    if (forward_can_pick(b->forward)) {
        for (uint32_t i = 0; i < n; i++) {
            sampler_describe(b->sampler, 0, &b->picks[i]);
            b->picks[i].row = i;
        }
        if (!forward_pick(b->forward, b->picks, n, tokens, e))
            return false;
    } else {
        const float *logits = forward_logits(b->forward, 0, n, e);
        for (uint32_t i = 0; logits && i < n; i++)
            tokens[i] = sampler_pick(b->sampler, b->scratch, logits + (size_t)i * b->model->n_vocab,
                                     NULL, 0, 0);
        if (!logits)
            return false;
    }
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] < 0)
            return error_set(e, "engine_fault", "", "the model's logits are not finite");
    return true;
}

void bench_prompt_free(struct bench_prompt *p)
{
    cache_sequence_free(p->sequence);
    *p = (struct bench_prompt){0};
}

/* splitmix64's finaliser over the position: ids spread over the whole vocabulary. */
static int32_t token_at(uint32_t position, uint32_t n_vocab)
{
    uint64_t z = (position + 1) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (int32_t)((z ^ z >> 31) % n_vocab);
}

static bool read_prompt(struct bench *b, struct cache_sequence *s, const int32_t *tokens,
                        uint32_t n, int32_t *next, struct error *e)
{
    for (uint32_t done = 0, rows; done < n; done += rows) {
        rows = n - done < b->max_rows ? n - done : b->max_rows;
        batch_clear(b->batch);
        if (!batch_add(b->batch, s, tokens + done, rows, done + rows == n, NULL, e) ||
            !forward_compute(b->forward, b->batch, e) || is_starved(s, e))
            return false;
    }
    return pick(b, 1, next, e);
}

bool bench_prefill(struct bench *b, const struct plan *plan, uint32_t n,
                   struct bench_prompt *prompt, struct bench_sample *sample, struct error *e)
{
    const struct model *m = b->model;
    *prompt = (struct bench_prompt){0};
    int32_t *tokens = malloc((size_t)n * sizeof *tokens);
    if (!tokens)
        return error_set_memory(e, "a prompt", (size_t)n * sizeof *tokens);
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = token_at(i, m->n_vocab);
    prompt->sequence = cache_sequence_new(b->cache, plan, e);
    bool done = prompt->sequence != NULL;
    if (done) {
        cache_sequence_set_prompt(prompt->sequence, n);
        double start = seconds();
        done = read_prompt(b, prompt->sequence, tokens, n, &prompt->next, e);
        sample->seconds = seconds() - start;
    }
    free(tokens);
    if (!done) {
        bench_prompt_free(prompt);
        return false;
    }
    struct cache_sequence_counts c = cache_sequence_counts(prompt->sequence);
    prompt->kv_held_bytes = c.pages * b->page_bytes;
    sample->weight_bytes = sample->kv_bytes = 0;
    sample->operations = 2 * n * sum_of_layers(m, size_of) + 2 * size_of(&m->output) +
                         attention_operations(m, slots_seen(plan, n));
    return true;
}

/* Positions that the newest queries of the running sequences see, mean over heads, all summed. */
static double slots_held(const struct bench *b, uint32_t n_sequences)
{
    double slots = 0;
    for (uint32_t i = 0; i < n_sequences; i++)
        slots += cache_sequence_counts(b->sequences[i]).slots_kept;
    return slots;
}

static bool step(struct bench *b, uint32_t n_sequences, struct error *e)
{
    batch_clear(b->batch);
    for (uint32_t i = 0; i < n_sequences; i++)
        if (!batch_add(b->batch, b->sequences[i], &b->next[i], 1, 1, NULL, e))
            return false;
    if (!forward_compute(b->forward, b->batch, e))
        return false;
    for (uint32_t i = 0; i < n_sequences; i++)
        if (is_starved(b->sequences[i], e))
            return false;
    return pick(b, n_sequences, b->next, e);
}

/* Sequences with pages of their own: readers of shared ones would find them in the processor's
 * caches. */
static bool begin_decode(struct bench *b, const struct bench_prompt *prompt, uint32_t n_sequences,
                         struct error *e)
{
    for (uint32_t i = 0; i < n_sequences; i++) {
        b->sequences[i] = cache_sequence_fork(prompt->sequence, e);
        if (!b->sequences[i] || !cache_sequence_own_pages(b->sequences[i], e))
            return false;
        const uint32_t *from, *to;
        uint32_t n = cache_take_copies(b->cache, &from, &to);
        b->backend.kv_copy(b->backend.self, from, to, n);
        b->next[i] = prompt->next;
    }
    return true;
}

static bool run_decode(struct bench *b, uint32_t n_sequences, uint32_t n_steps,
                       struct bench_sample *sample, struct error *e)
{
    const struct model *m = b->model;
    double before = slots_held(b, n_sequences), start = seconds();
    for (uint32_t i = 0; i < n_steps; i++)
        if (!step(b, n_sequences, e))
            return false;
    sample->seconds = seconds() - start;
    /* Slots grow evenly or not at all; a step sees its own token too. */
    double slots = (before + n_sequences + slots_held(b, n_sequences)) / 2;
    sample->weight_bytes = step_weight_bytes(m, n_sequences);
    sample->kv_bytes = slots * m->n_layers * m->n_kv_heads * b->page_bytes / PAGE_SLOTS;
    sample->operations =
        n_steps * (2 * n_sequences * (sum_of_layers(m, size_of) + size_of(&m->output)) +
                   attention_operations(m, slots));
    return true;
}

bool bench_decode(struct bench *b, const struct bench_prompt *prompt, uint32_t n_sequences,
                  uint32_t n_steps, struct bench_sample *sample, struct error *e)
{
    /* One step before the clock starts: a GPU still copies pages and page tables by then (17 ms for
     * 32 sequences of 8192 tokens of an 8B model on an H200), and records the step. */
    bool done = begin_decode(b, prompt, n_sequences, e) && step(b, n_sequences, e) &&
                run_decode(b, n_sequences, n_steps, sample, e);
    for (uint32_t i = 0; i < n_sequences; i++) {
        cache_sequence_free(b->sequences[i]);
        b->sequences[i] = NULL;
    }
    return done;
}
