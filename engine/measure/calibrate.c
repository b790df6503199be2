/* Calibration: see calibrate.h.
 *
 * The forward pass runs over a cache that keeps everything. Its observer gets the rotated queries
 * of a layer before that layer's keys of the same step are in the pool. So a layer is scored when
 * the next one is observed, because its keys can be read back then. Each step costs one more
 * attention than the forward pass; four queries are scored at a time. */
#include "cache/policy/preset.h"
#include "engine/measure/calibrate.h"

#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/random.h"
#include "engine/cpu/threads.h"
#include "engine/measure/runtime.h"
#include "engine/model/model_hash.h"

enum {
    STEP_ROWS = 512, /* keys are read back once a step: more rows, fewer reads */
    LANES = 16,      /* keys side by side */
    QUERIES = 4,     /* queries that share a load of keys; 4 * 16 sums fit the registers of AVX2 */
    JOB_ROWS = 64,   /* rows of one head that a thread takes at once */
    MIN_LENGTH = 8
};

/* The same 16 lanes on every machine, and no fused multiply-add (-ffp-contract=off): the scores do
 * not depend on the instruction set. */
typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t int_lanes __attribute__((vector_size(LANES * sizeof(int32_t))));

/* The larger of each lane; b where a is NaN. A macro, because how vectors are passed to functions
 * depends on the instruction set. */
#define LARGER(a, b)                                                                               \
    ((lanes)(((int_lanes)(a) & (int_lanes)((a) > (b))) |                                           \
             ((int_lanes)(b) & ~(int_lanes)((a) > (b)))))

/* No clones under ThreadSanitizer: the function that picks one runs before TSan is ready. */
#if defined(__SANITIZE_THREAD__)
#define NO_CLONES
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define NO_CLONES
#endif
#endif
#if defined(__x86_64__) && !defined(NO_CLONES)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif

/* The sums of one job. Jobs are added in order, so the result does not depend on threads. */
struct sums {
    double echo, induction;
};

struct calibrator {
    const struct calibration_settings *settings;
    struct runtime runtime;
    struct cache_sequence *sequence;
    struct threads *threads;
    const int32_t *tokens; /* [n_tokens] the calibration's */
    int32_t *previous;     /* [n_tokens] the newest earlier position of the same token, or -1 */
    uint32_t n_tokens, n_tiles;

    /* The layer to be scored next. */
    float *queries;             /* [STEP_ROWS][n_heads][head_dim], divided by sqrt(head_dim) */
    uint32_t first_row, n_rows; /* position of the step's first query, and how many */
    float *keys;                /* [n_kv_heads][n_tiles][head_dim][LANES] */
    float *key;                 /* [head_dim] */
    float *scores;              /* [n_threads][QUERIES][n_tiles * LANES] */
    struct sums *parts;         /* [n_heads][STEP_ROWS / JOB_ROWS] */
    struct sums *heads;         /* [n_layers][n_heads] */
    bool slots_are_wrong;       /* a slot's position was never written */
    _Atomic uint32_t next_job;
};

/* ---- attention of four queries */

/* scores[q][tile * LANES + lane] = query q . key, for n_tiles tiles. */
CLONES static void score_keys(float *restrict scores, size_t stride, const float *const q[QUERIES],
                              const float *restrict keys, uint32_t n_tiles, uint32_t head_dim)
{
    const lanes *k = __builtin_assume_aligned(keys, 64);
    for (uint32_t tile = 0; tile < n_tiles; tile++, k += head_dim) {
        lanes s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        for (uint32_t i = 0; i < head_dim; i++) {
            s0 += q[0][i] * k[i];
            s1 += q[1][i] * k[i];
            s2 += q[2][i] * k[i];
            s3 += q[3][i] * k[i];
        }
        lanes *out = (lanes *)__builtin_assume_aligned(scores + (size_t)tile * LANES, 64);
        size_t next = stride / LANES;
        out[0] = s0;
        out[next] = s1;
        out[2 * next] = s2;
        out[3 * next] = s3;
    }
}

/* The largest of scores[n], n a multiple of LANES. */
CLONES static float largest(const float *scores, uint32_t n)
{
    const lanes *s = __builtin_assume_aligned(scores, 64);
    lanes most = s[0];
    for (uint32_t i = 1; i < n / LANES; i++)
        most = LARGER(s[i], most);
    float best = most[0];
    for (uint32_t i = 1; i < LANES; i++)
        best = most[i] > best ? most[i] : best;
    return best;
}

/* Sum of exp(scores[i] - most), n a multiple of LANES, all scores <= most. exp(x) = 2^n * 2^f with
 * f in -0.5 to 0.5 and the Taylor series of 2^f: the relative error is below 3e-7. */
CLONES static double sum_of_exp(const float *scores, uint32_t n, float most)
{
    const lanes *s = __builtin_assume_aligned(scores, 64);
    const lanes zero = {0}, least = zero - 126;
    lanes sum = {0};
    for (uint32_t i = 0; i < n / LANES; i++) {
        lanes x = (s[i] - most) * 1.44269504f;
        x = LARGER(x, least); /* 2^-126 is negligible beside the largest's 1 */
        lanes rounded = (x + 12582912.0f) - 12582912.0f; /* 1.5 * 2^23: to the nearest integer */
        lanes f = x - rounded;
        lanes power = 1.54035304e-4f * f + 1.33335581e-3f;
        power = power * f + 9.61812911e-3f;
        power = power * f + 5.55041087e-2f;
        power = power * f + 2.40226507e-1f;
        power = power * f + 6.93147181e-1f;
        power = power * f + 1.0f;
        int_lanes exponent = (__builtin_convertvector(rounded, int_lanes) + 127) << 23;
        sum += power * (lanes)exponent;
    }
    double total = 0;
    for (uint32_t i = 0; i < LANES; i++)
        total += (double)sum[i];
    return total;
}

/* Adds the attention of the query at `position` to the copies of its token. scores: its n =
 * position + 1 scores, with room up to a multiple of LANES. */
static void add_query(struct sums *to, const struct calibrator *c, float *scores, uint32_t position)
{
    uint32_t n = position + 1, padded = (n + LANES - 1) / LANES * LANES;
    for (uint32_t i = n; i < padded; i++)
        scores[i] = -INFINITY;
    float most = largest(scores, padded);
    double total = sum_of_exp(scores, padded, most);
    for (int32_t j = c->previous[position]; j >= 0; j = c->previous[j]) {
        to->echo += exp((double)scores[j] - (double)most) / total;
        if ((uint32_t)j + 1 < position)
            to->induction += exp((double)scores[j + 1] - (double)most) / total;
    }
}

/* One query head, up to JOB_ROWS rows of the step. */
static void run_job(struct calibrator *c, uint32_t job, float *scores)
{
    const struct model *m = c->runtime.model;
    uint32_t n_blocks = (c->n_rows + JOB_ROWS - 1) / JOB_ROWS;
    uint32_t head = job / n_blocks, kv_head = head / (m->n_heads / m->n_kv_heads);
    uint32_t row = job % n_blocks * JOB_ROWS;
    uint32_t end = row + JOB_ROWS < c->n_rows ? row + JOB_ROWS : c->n_rows;
    const float *keys = c->keys + (size_t)kv_head * c->n_tiles * m->head_dim * LANES;
    size_t stride = (size_t)c->n_tiles * LANES;
    struct sums sums = {0};
    while (row < end) {
        const float *q[QUERIES];
        uint32_t position[QUERIES], n = 0;
        for (; row < end && n < QUERIES; row++) {
            if (c->previous[c->first_row + row] < 0)
                continue;
            position[n] = c->first_row + row;
            q[n++] = c->queries + ((size_t)row * m->n_heads + head) * m->head_dim;
        }
        if (n == 0)
            break;
        for (uint32_t i = n; i < QUERIES; i++)
            q[i] = q[n - 1];
        score_keys(scores, stride, q, keys, position[n - 1] / LANES + 1, m->head_dim);
        for (uint32_t i = 0; i < n; i++)
            add_query(&sums, c, scores + i * stride, position[i]);
    }
    c->parts[job] = sums;
}

static void score_thread(void *context, uint32_t thread)
{
    struct calibrator *c = context;
    uint32_t n_jobs = c->runtime.model->n_heads * ((c->n_rows + JOB_ROWS - 1) / JOB_ROWS), job;
    float *scores = c->scores + (size_t)thread * QUERIES * c->n_tiles * LANES;
    while ((job = atomic_fetch_add_explicit(&c->next_job, 1, memory_order_relaxed)) < n_jobs)
        run_job(c, job, scores);
}

/* ---- one layer of one step */

static void read_keys(struct calibrator *c, uint32_t layer)
{
    const struct model *m = c->runtime.model;
    for (uint32_t h = 0; h < m->n_kv_heads; h++) {
        struct head_view view = cache_view(c->sequence, layer, h);
        float *keys = c->keys + (size_t)h * c->n_tiles * m->head_dim * LANES;
        for (uint32_t slot = 0; slot < view.n_slots; slot++) {
            uint32_t page = view.pages[slot / PAGE_SLOTS];
            int32_t position = c->runtime.backend.kv_read(
                c->runtime.backend.self, page, slot % PAGE_SLOTS, m->head_dim, c->key, NULL);
            if (position < 0 || (uint32_t)position >= c->n_tokens) {
                c->slots_are_wrong = true;
                continue;
            }
            float *to = keys + (size_t)position / LANES * m->head_dim * LANES + position % LANES;
            for (uint32_t i = 0; i < m->head_dim; i++)
                to[(size_t)i * LANES] = c->key[i];
        }
    }
}

static void score_layer(struct calibrator *c, uint32_t layer)
{
    const struct model *m = c->runtime.model;
    bool any = false;
    for (uint32_t i = 0; i < c->n_rows; i++)
        any |= c->previous[c->first_row + i] >= 0;
    if (!any)
        return;
    read_keys(c, layer);
    atomic_store(&c->next_job, 0);
    threads_run(c->threads, score_thread, c);
    uint32_t n_blocks = (c->n_rows + JOB_ROWS - 1) / JOB_ROWS;
    for (uint32_t job = 0; job < m->n_heads * n_blocks; job++) {
        struct sums *head = &c->heads[(size_t)layer * m->n_heads + job / n_blocks];
        head->echo += c->parts[job].echo;
        head->induction += c->parts[job].induction;
    }
}

static void observe(void *context, uint32_t layer, const float *q, uint32_t n_rows)
{
    struct calibrator *c = context;
    const struct model *m = c->runtime.model;
    if (layer > 0)
        score_layer(c, layer - 1);
    float scale = 1 / sqrtf((float)m->head_dim);
    size_t n = (size_t)n_rows * m->n_heads * m->head_dim;
    for (size_t i = 0; i < n; i++)
        c->queries[i] = q[i] * scale;
}

/* ---- the tokens */

/* The ordinary tokens [*n], malloc'ed. */
static int32_t *list_ordinary(const struct tokenizer *t, uint32_t *n, struct error *e)
{
    uint32_t n_vocab = (uint32_t)tokenizer_n_vocab(t);
    int32_t *list = malloc(n_vocab * sizeof *list);
    if (!list) {
        error_set_memory(e, "the vocabulary", n_vocab * sizeof *list);
        return NULL;
    }
    *n = 0;
    for (int32_t i = 0; i < (int32_t)n_vocab; i++)
        if (tokenizer_kind(t, i) == TOKEN_NORMAL && !tokenizer_is_end(t, i))
            list[(*n)++] = i;
    if (*n > 1)
        return list;
    free(list);
    error_set(e, "invalid_model", "", "the vocabulary has no ordinary tokens to draw from");
    return NULL;
}

/* Length and repeats that fit the model's context. */
static bool fit(struct calibration *r, uint32_t asked, uint32_t n_ctx, struct error *e)
{
    uint32_t room = n_ctx - r->bos;
    r->length = asked ? asked : CALIBRATE_LENGTH;
    if (!asked && r->length > room / 2)
        r->length = room / 2;
    if (r->length < MIN_LENGTH || r->length > room / 2)
        return error_set(e, "invalid_value", "--length",
                         "%u tokens%s cannot be read twice in a context of %u; %d to %u can",
                         r->length, r->bos ? " after BOS" : "", n_ctx, MIN_LENGTH, room / 2);
    r->repeats = room / r->length < CALIBRATE_REPEATS ? room / r->length : CALIBRATE_REPEATS;
    r->n_tokens = r->bos + r->length * r->repeats;
    return true;
}

/* Draws the tokens and links each to the newest earlier copy of it. */
static bool draw(struct calibrator *c, struct calibration *r, const struct tokenizer *t,
                 struct error *e)
{
    uint32_t n_ordinary, n_vocab = c->runtime.model->n_vocab;
    int32_t *ordinary = list_ordinary(t, &n_ordinary, e);
    if (!ordinary)
        return false;
    int32_t *newest = malloc(n_vocab * sizeof *newest);
    r->tokens = malloc(r->n_tokens * sizeof *r->tokens);
    c->previous = malloc(r->n_tokens * sizeof *c->previous);
    bool ok = newest && r->tokens && c->previous;
    if (!ok)
        error_set_memory(e, "the tokens", 2 * r->n_tokens * sizeof *r->tokens);
    uint64_t state = r->seed;
    for (uint32_t i = 0; ok && i < r->n_tokens; i++) {
        if (i < r->bos)
            r->tokens[i] = tokenizer_bos(t);
        else if (i < r->bos + r->length)
            r->tokens[i] =
                ordinary[(uint64_t)((unsigned __int128)random_next(&state) * n_ordinary >> 64)];
        else
            r->tokens[i] = r->tokens[i - r->length];
    }
    for (uint32_t i = 0; ok && i < n_vocab; i++)
        newest[i] = -1;
    for (uint32_t i = 0; ok && i < r->n_tokens; i++) {
        c->previous[i] = newest[r->tokens[i]];
        newest[r->tokens[i]] = (int32_t)i;
        r->n_queries += c->previous[i] >= 0;
    }
    free(newest);
    free(ordinary);
    return ok;
}

static bool choose_tokens(struct calibrator *c, struct calibration *r, struct error *e)
{
    const struct model *m = c->runtime.model;
    const struct tokenizer *t = c->runtime.tokenizer;
    r->bos = tokenizer_bos(t) >= 0;
    if (!fit(r, c->settings->length, m->n_ctx_train, e) || !draw(c, r, t, e))
        return false;
    c->tokens = r->tokens;
    c->n_tokens = r->n_tokens;
    c->n_tiles = (r->n_tokens + LANES - 1) / LANES;
    return true;
}

/* ---- the run */

/* n zeroed floats, aligned for vectors. */
static float *allocate(size_t n, const char *what, struct error *e)
{
    size_t bytes = (n * sizeof(float) + 63) / 64 * 64;
    float *buffer = aligned_alloc(64, bytes);
    if (!buffer)
        error_set_memory(e, what, bytes);
    else
        memset(buffer, 0, bytes);
    return buffer;
}

static bool open_runtime(struct calibrator *c, struct error *e)
{
    const struct plan_asked full = plan_asked_of(preset_find("full"));
    struct runtime *r = &c->runtime;
    struct plan_limits limits = runtime_limits(r);
    uint64_t n_pages = runtime_pages(r, c->n_tokens);
    const struct plan *plan = plan_resolve(&full, c->n_tokens, &limits, e);
    bool opened = plan && runtime_start(r, e) &&
                  runtime_has_room(r, n_pages, "--length", "a smaller --length needs less", e) &&
                  runtime_set_pool(r, n_pages, e) &&
                  (c->threads = threads_new(c->settings->n_threads, e)) &&
                  forward_set_observer(r->forward, observe, c, e) &&
                  (c->sequence = cache_sequence_new(r->cache, plan, e));
    plan_release(plan);
    return opened;
}

static bool open_buffers(struct calibrator *c, struct error *e)
{
    const struct model *m = c->runtime.model;
    size_t n_heads = m->n_heads, width = (size_t)c->n_tiles * LANES;
    c->queries = allocate(STEP_ROWS * n_heads * m->head_dim, "queries", e);
    c->keys = allocate(m->n_kv_heads * width * m->head_dim, "keys", e);
    c->key = allocate(m->head_dim, "a key", e);
    c->scores = allocate(c->settings->n_threads * QUERIES * width, "attention scores", e);
    c->parts = calloc(n_heads * (STEP_ROWS / JOB_ROWS), sizeof *c->parts);
    c->heads = calloc(m->n_layers * n_heads, sizeof *c->heads);
    if (!c->queries || !c->keys || !c->key || !c->scores)
        return false;
    return (c->parts && c->heads) ||
           error_set_memory(e, "scores of the heads", m->n_layers * n_heads * sizeof *c->heads);
}

static void close_all(struct calibrator *c)
{
    cache_sequence_free(c->sequence);
    threads_free(c->threads);
    runtime_close(&c->runtime);
    free(c->previous);
    free(c->queries);
    free(c->keys);
    free(c->key);
    free(c->scores);
    free(c->parts);
    free(c->heads);
}

static bool read_tokens(struct calibrator *c, struct error *e)
{
    const struct calibration_settings *s = c->settings;
    for (uint32_t done = 0; done < c->n_tokens; done += c->n_rows) {
        c->first_row = done;
        c->n_rows = c->n_tokens - done < STEP_ROWS ? c->n_tokens - done : STEP_ROWS;
        batch_clear(c->runtime.batch);
        if (!batch_add(c->runtime.batch, c->sequence, c->tokens + done, c->n_rows, 0, NULL, e) ||
            !forward_run(c->runtime.forward, c->runtime.batch, e))
            return false;
        score_layer(c, c->runtime.model->n_layers - 1);
        if (c->slots_are_wrong)
            return error_set(e, "internal_error", "", "a slot of the cache has no valid position");
        if (s->progress && !s->progress(s->progress_context, done + c->n_rows, c->n_tokens))
            return error_set(e, "cancelled", "", "calibration was interrupted");
    }
    return true;
}

/* The scores: means over the queries, the largest of each group. */
static bool collect(const struct calibrator *c, struct calibration *r, struct error *e)
{
    uint32_t n_heads = c->runtime.model->n_heads, group = n_heads / r->n_kv_heads;
    for (uint32_t l = 0; l < r->n_layers; l++)
        for (uint32_t h = 0; h < n_heads; h++) {
            const struct sums *s = &c->heads[(size_t)l * n_heads + h];
            size_t at = (size_t)l * r->n_kv_heads + h / group;
            if (!isfinite(s->echo) || !isfinite(s->induction))
                return error_set(e, "invalid_model", "",
                                 "layer %u, head %u computes attention that is not a number", l, h);
            /* A share of the attention: rounding must not make it more than 1. */
            r->echo[at] = fmax(r->echo[at], fmin(s->echo / r->n_queries, 1));
            r->induction[at] = fmax(r->induction[at], fmin(s->induction / r->n_queries, 1));
        }
    return true;
}

struct calibration *calibrate(struct model *model, const struct calibration_settings *settings,
                              struct error *e)
{
    struct calibrator c = {.settings = settings};
    const struct runtime_options runtime = {.model = model,
                                            .needs_tokenizer = true,
                                            .device = settings->device,
                                            .n_threads = settings->n_threads,
                                            .isa = settings->isa,
                                            .max_rows = STEP_ROWS,
                                            .max_logits = 1};
    struct calibration *r = calibration_new(model, settings, e);
    if (!r)
        return NULL;
    model_hash(model, r->model_hash);
    bool ok = runtime_load(&c.runtime, &runtime, e) && choose_tokens(&c, r, e) &&
              open_runtime(&c, e) && open_buffers(&c, e) && read_tokens(&c, e) && collect(&c, r, e);
    if (ok)
        calibration_choose(r);
    close_all(&c);
    if (ok)
        return r;
    calibration_free(r);
    return NULL;
}
