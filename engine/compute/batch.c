/* Collects the rows of a step and takes their pages: see forward.h and batch.h. Engine thread. */
#include "engine/compute/batch.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/clock.h"

struct batch *batch_new(struct cache *cache, const struct model *model, uint32_t max_rows,
                        uint32_t max_outputs, struct error *e)
{
    const size_t rows = max_rows, outputs = max_outputs;
    struct batch *b = calloc(1, sizeof *b);
    if (!b)
        goto fail;
    b->cache = cache;
    b->model = model;
    b->max_rows = max_rows;
    b->max_outputs = max_outputs;
    b->tokens = malloc(rows * sizeof *b->tokens);
    b->positions = malloc(rows * sizeof *b->positions);
    b->sink_positions = malloc(rows * sizeof *b->sink_positions);
    b->logit_rows = malloc(outputs * sizeof *b->logit_rows);
    b->hidden_rows = malloc(outputs * sizeof *b->hidden_rows);
    b->output_rows = malloc(outputs * sizeof *b->output_rows);
    b->placements = malloc(rows * sizeof *b->placements); /* each has at least one row */
    b->segments = malloc(rows * sizeof *b->segments);
    b->sorted = malloc(rows * sizeof *b->sorted);
    b->waves = malloc(rows * sizeof *b->waves);
    b->first_of_wave = malloc((rows + 1) * sizeof *b->first_of_wave);
    b->jobs = malloc(model->n_kv_heads * sizeof *b->jobs);
    if (b->tokens && b->positions && b->sink_positions && b->logit_rows && b->hidden_rows &&
        b->output_rows && b->placements && b->segments && b->sorted && b->waves &&
        b->first_of_wave && b->jobs) {
        batch_clear(b);
        return b;
    }
fail:
    batch_free(b);
    error_set_memory(e, "the batch",
                     rows * (sizeof *b->placements + 2 * sizeof *b->segments) + sizeof *b);
    return NULL;
}

void batch_free(struct batch *b)
{
    if (!b)
        return;
    free(b->tokens);
    free(b->positions);
    free(b->sink_positions);
    free(b->logit_rows);
    free(b->hidden_rows);
    free(b->output_rows);
    free(b->placements);
    free(b->segments);
    free(b->sorted);
    free(b->waves);
    free(b->first_of_wave);
    free(b->frozen);
    free(b->jobs);
    free(b);
}

void batch_clear(struct batch *b)
{
    b->n_placements = 0;
    b->n_frozen = 0;
    b->policy_ns = 0;
    b->step = (struct step){.n_layers = b->model->n_layers,
                            .n_kv_heads = b->model->n_kv_heads,
                            .tokens = b->tokens,
                            .positions = b->positions,
                            .sink_positions = b->sink_positions,
                            .output_rows = b->output_rows,
                            .segments = b->sorted,
                            .first_of_wave = b->first_of_wave};
}

uint32_t batch_rows(const struct batch *b)
{
    return b->step.n_rows;
}

uint32_t batch_room(const struct batch *b)
{
    return b->max_rows - b->step.n_rows;
}

uint32_t batch_logits_room(const struct batch *b)
{
    return b->max_outputs - b->step.n_logits - b->step.n_hidden;
}

/* ---- adding rows */

/* Copies the counts of the last placement before the sequence's next one changes them. */
static bool freeze(struct batch *b, struct error *e)
{
    struct batch_placement *last = &b->placements[b->n_placements - 1];
    const size_t n = last->placed.n_heads;
    if (b->n_frozen + n > b->frozen_capacity) {
        size_t capacity =
            2 * b->frozen_capacity > b->n_frozen + n ? 2 * b->frozen_capacity : b->n_frozen + n;
        struct head_slots *frozen = realloc(b->frozen, capacity * sizeof *frozen);
        if (!frozen)
            return error_set_memory(e, "rows that evict", capacity * sizeof *frozen);
        b->frozen = frozen;
        b->frozen_capacity = capacity;
    }
    memcpy(b->frozen + b->n_frozen, last->placed.slots, n * sizeof *b->frozen);
    last->frozen = b->n_frozen;
    b->n_frozen += n;
    return true;
}

/* Rows [offset, offset + n) of the newest placement. */
static void add_segment(struct batch *b, uint32_t offset, uint32_t n, uint32_t wave)
{
    struct step *step = &b->step;
    const struct placement *p = &b->placements[b->n_placements - 1].placed;
    const uint32_t scored = p->first_scored > offset ? p->first_scored - offset : 0;
    b->waves[step->n_segments] = wave;
    b->segments[step->n_segments++] =
        (struct step_segment){.placed = p,
                              .first_row = step->n_rows,
                              .n_rows = n,
                              .n_behind = p->n - offset - n,
                              .first_scored = scored < n ? scored : n};
    for (uint32_t i = 0; i < n; i++) {
        const int32_t position = (int32_t)(p->first + offset + i), last = p->last_sink_position;
        b->positions[step->n_rows] = position;
        b->sink_positions[step->n_rows++] = p->sink_query && position > last ? last : position;
    }
    if (wave + 1 > step->n_waves)
        step->n_waves = wave + 1;
}

/* Places n tokens of one sequence and cuts them into waves. */
static bool add_placement(struct batch *b, struct cache_sequence *s, uint32_t n, uint32_t wave,
                          struct error *e)
{
    const struct placement *p = cache_place(s, n, e);
    if (!p)
        return false;
    b->placements[b->n_placements++] = (struct batch_placement){*p, SIZE_MAX};
    b->step.sink_query |= p->sink_query;
    for (uint32_t done = 0; done < n; wave++) {
        const uint32_t rows = n - done < p->wave_rows ? n - done : p->wave_rows;
        add_segment(b, done, rows, wave);
        done += rows;
    }
    return true;
}

static void add_outputs(struct batch *b, uint32_t n, enum step_output what)
{
    struct step *step = &b->step;
    const bool is_hidden = what == STEP_HIDDEN;
    for (uint32_t i = 0; i < n; i++)
        *(is_hidden ? &b->hidden_rows[step->n_hidden++] : &b->logit_rows[step->n_logits++]) =
            step->n_rows - n + i;
}

bool batch_add_outputs(struct batch *b, struct cache_sequence *s, const int32_t *tokens, uint32_t n,
                       uint32_t n_outputs, enum step_output what, uint32_t *output, struct error *e)
{
    assert(n > 0 && n <= batch_room(b) && n_outputs <= n && n_outputs <= batch_logits_room(b));
    /* The end of a prompt frees slots, so later tokens wait for the next step. */
    assert(n <= cache_rows_of_prompt(s));
    const bool is_row_by_row = cache_wave_rows(s) == 1;
    if (is_row_by_row && n > 1) {
        uint64_t pages = cache_pages_to_place(s, n), free_pages = cache_counts(b->cache).free;
        if (pages > free_pages)
            return error_set(e, "kv_pool_empty", "", "%llu pages are needed and %llu are free",
                             (unsigned long long)pages, (unsigned long long)free_pages);
    }
    const struct step before = b->step;
    const uint32_t n_placements = b->n_placements;
    memcpy(b->tokens + before.n_rows, tokens, n * sizeof *tokens);
    for (uint32_t done = 0; done < n; done += is_row_by_row ? 1 : n)
        if ((done > 0 && !freeze(b, e)) || !add_placement(b, s, is_row_by_row ? 1 : n, done, e)) {
            b->step = before;
            b->n_placements = n_placements;
            return false;
        }
    if (output)
        *output = what == STEP_HIDDEN ? b->step.n_hidden : b->step.n_logits;
    add_outputs(b, n_outputs, what);
    return true;
}

bool batch_add(struct batch *b, struct cache_sequence *s, const int32_t *tokens, uint32_t n,
               uint32_t n_logits, uint32_t *logits_row, struct error *e)
{
    return batch_add_outputs(b, s, tokens, n, n_logits, STEP_LOGITS, logits_row, e);
}

/* ---- the step */

static void sort_by_wave(struct batch *b)
{
    struct step *step = &b->step;
    uint32_t *first = b->first_of_wave;
    memset(first, 0, (step->n_waves + (size_t)1) * sizeof *first);
    for (uint32_t i = 0; i < step->n_segments; i++)
        first[b->waves[i] + 1]++;
    for (uint32_t w = 0; w < step->n_waves; w++)
        first[w + 1] += first[w];
    for (uint32_t i = 0; i < step->n_segments; i++)
        b->sorted[first[b->waves[i]]++] = b->segments[i];
    for (uint32_t w = step->n_waves; w > 0; w--) /* first[w] has become the end of w */
        first[w] = first[w - 1];
    first[0] = 0;
}

/* Whether every segment is one decode row and nothing is compressed. */
static bool is_decode(const struct step *step)
{
    for (uint32_t i = 0; i < step->n_segments; i++)
        if (step->segments[i].n_rows > 1 || step_work(&step->segments[i]) == CACHE_WORK_COMPRESS)
            return false;
    return step->n_waves == 1;
}

struct step *batch_step(struct batch *b)
{
    struct step *step = &b->step;
    for (uint32_t i = 0; i < b->n_placements; i++)
        if (b->placements[i].frozen != SIZE_MAX)
            b->placements[i].placed.slots = b->frozen + b->placements[i].frozen;
    sort_by_wave(b);
    memcpy(b->output_rows, b->logit_rows, step->n_logits * sizeof *b->output_rows);
    memcpy(b->output_rows + step->n_logits, b->hidden_rows,
           step->n_hidden * sizeof *b->output_rows);
    step->is_decode = is_decode(step);
    return step;
}

/* ---- dropping */

static bool compress(struct batch *b, const struct backend *backend, struct cache_sequence *s,
                     uint32_t layer, struct error *e)
{
    const uint32_t *from, *to;
    if (cache_is_starved(s))
        return true; /* the scheduler will compute it again */
    if (!cache_begin_compress(s, layer, b->jobs, e))
        return cache_is_starved(s);
    uint32_t n_copies = cache_take_copies(b->cache, &from, &to);
    if (n_copies)
        backend->kv_copy(backend->self, from, to, n_copies);
    if (!backend->compress(backend->self, b->jobs, b->model->n_kv_heads, e))
        return false;
    cache_settle(s, layer, b->jobs);
    return true;
}

static bool drop(struct batch *b, const struct backend *backend, uint32_t layer, uint32_t wave,
                 struct error *e)
{
    uint32_t n, n_dropping = 0;
    const struct step_segment *segments = step_wave(&b->step, wave, &n);
    for (uint32_t i = 0; i < n; i++) {
        const enum cache_work work = step_work(&segments[i]);
        n_dropping += work == CACHE_WORK_DROP;
        if (work == CACHE_WORK_COMPRESS &&
            !compress(b, backend, segments[i].placed->sequence, layer, e))
            return false;
    }
    return n_dropping == 0 || backend->drop(backend->self, &b->step, layer, wave, e);
}

bool batch_drop(struct batch *b, const struct backend *backend, uint32_t layer, uint32_t wave,
                struct error *e)
{
    uint64_t start_ns = clock_ns();
    bool ok = drop(b, backend, layer, wave, e);
    b->policy_ns += clock_ns() - start_ns;
    return ok;
}

uint64_t batch_policy_ns(const struct batch *b)
{
    return b->policy_ns;
}
