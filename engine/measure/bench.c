/* Timed prompts and decode steps: see bench.h. */
#include "engine/measure/bench.h"

#include <stdlib.h>
#include <string.h>

#include "config/base/clock.h"
#include "config/base/random.h"
#include "engine/compute/sampler.h"
#include "engine/measure/runtime.h"

struct bench {
    struct runtime runtime;
    struct sampler_scratch *scratch;
    struct sampler *sampler; /* greedy */
    uint32_t max_sequences;
    struct cache_sequence **sequences; /* [max_sequences] of a decode run */
    int32_t *next;                     /* [max_sequences] their newest tokens */
    struct token_pick *picks;          /* [max_sequences] */
};

/* ---- opening */

static bool allocate(struct bench *b, struct error *e)
{
    static const struct sampling greedy = {.top_p = 1, .typical_p = 1, .repetition_penalty = 1};
    b->sequences = calloc(b->max_sequences, sizeof *b->sequences);
    b->next = calloc(b->max_sequences, sizeof *b->next);
    b->picks = calloc(b->max_sequences, sizeof *b->picks);
    if (!b->sequences || !b->next || !b->picks)
        return error_set_memory(e, "sequences", b->max_sequences * sizeof *b->sequences);
    b->scratch = sampler_scratch_new(b->runtime.model->n_vocab, e);
    b->sampler = b->scratch ? sampler_new(&greedy, 0, b->runtime.model->n_vocab, NULL, 0, e) : NULL;
    return b->sampler != NULL;
}

struct bench *bench_open(const struct bench_options *o, struct error *e)
{
    struct bench *b = calloc(1, sizeof *b);
    if (!b) {
        error_set_memory(e, "the measurement", sizeof *b);
        return NULL;
    }
    uint32_t rows = o->max_rows > o->max_sequences ? o->max_rows : o->max_sequences;
    const struct runtime_options runtime = {.model_path = o->model_path,
                                            .head_profile = o->head_profile,
                                            .device = o->device,
                                            .n_threads = o->n_threads,
                                            .isa = o->isa,
                                            .max_rows = o->max_rows ? rows : 0,
                                            .max_logits = o->max_sequences};
    b->max_sequences = o->max_sequences;
    if (runtime_load(&b->runtime, &runtime, e) && runtime_start(&b->runtime, e) && allocate(b, e))
        return b;
    bench_close(b);
    return NULL;
}

void bench_close(struct bench *b)
{
    if (!b)
        return;
    runtime_close(&b->runtime);
    sampler_free(b->sampler);
    sampler_scratch_free(b->scratch);
    free(b->sequences);
    free(b->next);
    free(b->picks);
    free(b);
}

const struct model *bench_model(const struct bench *b)
{
    return b->runtime.model;
}

const struct backend *bench_backend(const struct bench *b)
{
    return &b->runtime.backend;
}

uint32_t bench_max_rows(const struct bench *b)
{
    return b->runtime.options.max_rows;
}

struct plan_limits bench_limits(const struct bench *b)
{
    return runtime_limits(&b->runtime);
}

bool bench_set_pool(struct bench *b, enum plan_storage storage, uint32_t max_tokens,
                    struct error *e)
{
    struct runtime *r = &b->runtime;
    /* 2 more pages per head: a last page that is not full, and a spare one of a stream. */
    uint64_t n_pages = (max_tokens / PAGE_SLOTS + 2) * (uint64_t)r->model->n_layers *
                       r->model->n_kv_heads * (b->max_sequences + 1);
    runtime_set_storage(r, storage);
    return runtime_has_room(r, n_pages, "", "choose shorter contexts or smaller batches", e) &&
           runtime_set_pool(r, n_pages, e);
}

/* ---- what a step must read and compute */

static double bytes_of(const struct weight *w)
{
    return (double)weight_bytes(w);
}

static double size_of(const struct weight *w)
{
    return (double)w->rows * w->cols;
}

struct sum {
    double (*of)(const struct weight *w);
    double value;
};

static bool add_matrix(void *context, const struct weight_item *item, struct error *e)
{
    struct sum *sum = context;
    (void)e;
    if (item->layer != WEIGHT_NO_LAYER && item->use == WEIGHT_MULTIPLIED)
        sum->value += sum->of(item->weight);
    return true;
}

/* Sums over the matrices of all layers. */
static double sum_of_layers(const struct model *m, double (*of)(const struct weight *w))
{
    struct sum sum = {of, 0};
    weights_visit(m, m->weights, add_matrix, &sum, NULL);
    return sum.value;
}

/* Bytes that a decode step of n rows reads: all matrices, the output matrix, and n embeddings. */
static double step_weight_bytes(const struct model *m, uint32_t n)
{
    return sum_of_layers(m, bytes_of) + bytes_of(&m->weights->output) +
           n * bytes_of(&m->weights->token_embd) / m->n_vocab;
}

/* Queries against `slots` slots in all heads of all layers: a product with K and one with V. */
static double attention_operations(const struct model *m, double slots)
{
    return 4.0 * m->n_layers * m->n_heads * m->head_dim * slots;
}

/* The slots that the queries of a prompt of n see, summed over the queries: all earlier ones, or a
 * stream's window. */
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

/* Picks the tokens of the step's n logit rows as the server does. */
static bool pick(struct bench *b, uint32_t n, int32_t *tokens, struct error *e)
{
    if (forward_can_pick(b->runtime.forward)) {
        for (uint32_t i = 0; i < n; i++) {
            sampler_describe(b->sampler, 0, &b->picks[i]);
            b->picks[i].row = i;
        }
        if (!forward_pick(b->runtime.forward, b->picks, n, tokens, e))
            return false;
    } else {
        const float *logits = forward_logits(b->runtime.forward, 0, n, e);
        for (uint32_t i = 0; logits && i < n; i++)
            tokens[i] = sampler_pick(b->sampler, b->scratch,
                                     logits + (size_t)i * b->runtime.model->n_vocab, NULL, 0, 0);
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

/* Tokens spread over the whole vocabulary. */
static int32_t token_at(uint32_t position, uint32_t n_vocab)
{
    return (int32_t)(random_mix((position + 1) * RANDOM_STEP) % n_vocab);
}

static bool read_prompt(struct bench *b, struct cache_sequence *s, const int32_t *tokens,
                        uint32_t n, int32_t *next, struct error *e)
{
    for (uint32_t done = 0, rows; done < n; done += rows) {
        rows = n - done < b->runtime.options.max_rows ? n - done : b->runtime.options.max_rows;
        batch_clear(b->runtime.batch);
        if (!batch_add(b->runtime.batch, s, tokens + done, rows, done + rows == n, NULL, e) ||
            !forward_compute(b->runtime.forward, b->runtime.batch, e) || is_starved(s, e))
            return false;
    }
    return pick(b, 1, next, e);
}

bool bench_prefill(struct bench *b, const struct plan *plan, uint32_t n,
                   struct bench_prompt *prompt, struct bench_sample *sample, struct error *e)
{
    const struct model *m = b->runtime.model;
    *prompt = (struct bench_prompt){0};
    int32_t *tokens = malloc((size_t)n * sizeof *tokens);
    if (!tokens)
        return error_set_memory(e, "a prompt", (size_t)n * sizeof *tokens);
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = token_at(i, m->n_vocab);
    prompt->sequence = cache_sequence_new(b->runtime.cache, plan, e);
    bool done = prompt->sequence != NULL;
    if (done) {
        cache_sequence_set_prompt(prompt->sequence, n);
        double start = clock_seconds();
        done = read_prompt(b, prompt->sequence, tokens, n, &prompt->next, e);
        sample->seconds = clock_seconds() - start;
    }
    free(tokens);
    if (!done) {
        bench_prompt_free(prompt);
        return false;
    }
    struct cache_sequence_counts c = cache_sequence_counts(prompt->sequence);
    prompt->kv_held_bytes = c.pages * (double)b->runtime.page_bytes;
    sample->weight_bytes = sample->kv_bytes = 0;
    sample->operations = 2 * n * sum_of_layers(m, size_of) + 2 * size_of(&m->weights->output) +
                         attention_operations(m, slots_seen(plan, n));
    return true;
}

/* Slots that the newest queries of the running sequences see: mean over heads, summed over
 * sequences. */
static double slots_held(const struct bench *b, uint32_t n_sequences)
{
    double slots = 0;
    for (uint32_t i = 0; i < n_sequences; i++)
        slots += cache_sequence_counts(b->sequences[i]).slots_kept;
    return slots;
}

static bool step(struct bench *b, uint32_t n_sequences, struct error *e)
{
    batch_clear(b->runtime.batch);
    for (uint32_t i = 0; i < n_sequences; i++)
        if (!batch_add(b->runtime.batch, b->sequences[i], &b->next[i], 1, 1, NULL, e))
            return false;
    if (!forward_compute(b->runtime.forward, b->runtime.batch, e))
        return false;
    for (uint32_t i = 0; i < n_sequences; i++)
        if (is_starved(b->sequences[i], e))
            return false;
    return pick(b, n_sequences, b->next, e);
}

/* Sequences with pages of their own, because shared pages would be read from the processor's
 * caches. */
static bool begin_decode(struct bench *b, const struct bench_prompt *prompt, uint32_t n_sequences,
                         struct error *e)
{
    for (uint32_t i = 0; i < n_sequences; i++) {
        b->sequences[i] = cache_sequence_fork(prompt->sequence, e);
        if (!b->sequences[i] || !cache_sequence_own_pages(b->sequences[i], e))
            return false;
        const uint32_t *from, *to;
        uint32_t n = cache_take_copies(b->runtime.cache, &from, &to);
        b->runtime.backend.kv_copy(b->runtime.backend.self, from, to, n);
        b->next[i] = prompt->next;
    }
    return true;
}

static bool run_decode(struct bench *b, uint32_t n_sequences, uint32_t n_steps,
                       struct bench_sample *sample, struct error *e)
{
    const struct model *m = b->runtime.model;
    double before = slots_held(b, n_sequences), start = clock_seconds();
    for (uint32_t i = 0; i < n_steps; i++)
        if (!step(b, n_sequences, e))
            return false;
    sample->seconds = clock_seconds() - start;
    /* Slots grow evenly or not at all, so the mean of both ends is the mean of the steps; a step
     * also sees its own token. */
    double slots = (before + n_sequences + slots_held(b, n_sequences)) / 2;
    sample->weight_bytes = step_weight_bytes(m, n_sequences);
    sample->kv_bytes =
        slots * m->n_layers * m->n_kv_heads * (double)b->runtime.page_bytes / PAGE_SLOTS;
    sample->operations =
        n_steps * (2 * n_sequences * (sum_of_layers(m, size_of) + size_of(&m->weights->output)) +
                   attention_operations(m, slots));
    return true;
}

bool bench_decode(struct bench *b, const struct bench_prompt *prompt, uint32_t n_sequences,
                  uint32_t n_steps, struct bench_sample *sample, struct error *e)
{
    /* One step before the clock starts: in it a GPU still copies pages and page tables (17 ms for
     * 32 sequences of 8192 tokens of an 8B model on an H200), and records the step. */
    bool done = begin_decode(b, prompt, n_sequences, e) && step(b, n_sequences, e) &&
                run_decode(b, n_sequences, n_steps, sample, e);
    for (uint32_t i = 0; i < n_sequences; i++) {
        cache_sequence_free(b->sequences[i]);
        b->sequences[i] = NULL;
    }
    return done;
}
