/* Collects the rows of a step and takes their pages: see forward.h and batch.h. Engine thread. */
#include "engine/compute/batch.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/clock.h"

struct batch *batch_new(struct cache *cache, const struct model *model, uint32_t max_rows,
                        uint32_t max_logits, struct error *e)
{
    size_t heads = (size_t)model->n_layers * model->n_kv_heads,
           angles = (size_t)max_rows * model->rope_sets[0].dim;
    struct batch *b = calloc(1, sizeof *b);
    if (!b)
        goto fail;
    b->cache = cache;
    b->model = model;
    b->max_rows = max_rows;
    b->max_logits = max_logits;
    b->max_segments = max_rows; /* each has at least one row */
    b->slots_capacity = heads * max_rows;
    b->tokens = malloc(max_rows * sizeof *b->tokens);
    b->positions = malloc(max_rows * sizeof *b->positions);
    b->angles = malloc(angles * sizeof *b->angles);
    b->sink_angles = malloc(angles * sizeof *b->sink_angles);
    b->logit_rows = malloc(max_logits * sizeof *b->logit_rows);
    b->segments = malloc(b->max_segments * sizeof *b->segments);
    b->write_slots = malloc(b->slots_capacity * sizeof *b->write_slots);
    b->views = malloc(heads * b->max_segments * sizeof *b->views);
    b->n_drop = malloc(heads * b->max_segments * sizeof *b->n_drop);
    b->wave = malloc(b->max_segments * sizeof *b->wave);
    b->states = malloc((size_t)b->max_segments * model->n_kv_heads * sizeof *b->states);
    b->drops = malloc((size_t)b->max_segments * model->n_kv_heads * sizeof *b->drops);
    b->jobs = malloc(model->n_kv_heads * sizeof *b->jobs);
    b->n_kept = malloc(model->n_kv_heads * sizeof *b->n_kept);
    if (b->tokens && b->positions && b->angles && b->sink_angles && b->logit_rows && b->segments &&
        b->write_slots && b->views && b->n_drop && b->wave && b->states && b->drops && b->jobs &&
        b->n_kept)
        return b;
fail:
    batch_free(b);
    error_set_memory(e, "the batch",
                     heads * max_rows * (sizeof *b->write_slots + sizeof *b->views));
    return NULL;
}

void batch_free(struct batch *b)
{
    if (!b)
        return;
    free(b->tokens);
    free(b->positions);
    free(b->angles);
    free(b->sink_angles);
    free(b->logit_rows);
    free(b->segments);
    free(b->write_slots);
    free(b->views);
    free(b->n_drop);
    free(b->wave);
    free(b->states);
    free(b->drops);
    free(b->jobs);
    free(b->n_kept);
    free(b);
}

void batch_clear(struct batch *b)
{
    b->n_rows = b->n_logits = b->n_segments = b->n_waves = 0;
    b->n_slots = 0;
    b->sink_query = false;
    b->policy_ns = 0;
}

uint32_t batch_rows(const struct batch *b)
{
    return b->n_rows;
}

uint32_t batch_room(const struct batch *b)
{
    return b->max_rows - b->n_rows;
}

uint32_t batch_logits_room(const struct batch *b)
{
    return b->max_logits - b->n_logits;
}

static void add_row(struct batch *b, const struct cache_sequence *s, int32_t token,
                    int32_t position)
{
    size_t at = (size_t)b->n_rows * b->model->rope_sets[0].dim;
    int32_t sink_position = cache_sink_query_position(s, position);
    b->tokens[b->n_rows] = token;
    b->positions[b->n_rows] = position;
    rope_angles(&b->model->rope_sets[0], position, b->angles + at);
    if (sink_position == position)
        memcpy(b->sink_angles + at, b->angles + at, b->model->rope_sets[0].dim * sizeof *b->angles);
    else
        rope_angles(&b->model->rope_sets[0], sink_position, b->sink_angles + at);
    b->n_rows++;
}

/* n rows of one wave; the pool is known to have their pages. */
static bool add_segment(struct batch *b, struct cache_sequence *s, const int32_t *tokens,
                        uint32_t n, uint32_t wave, struct error *e)
{
    uint32_t n_layers = b->model->n_layers, n_kv_heads = b->model->n_kv_heads;
    struct batch_segment *segment = &b->segments[b->n_segments];
    int32_t position = (int32_t)cache_tokens_seen(s);
    *segment = (struct batch_segment){
        s, b->n_rows, n, wave, b->n_slots, (size_t)b->n_segments * n_layers * n_kv_heads};
    if (!cache_append(s, n, b->write_slots + segment->first_slot, b->n_drop + segment->first_view,
                      e))
        return false;
    b->n_slots += (size_t)n_layers * n * n_kv_heads;
    b->n_segments++;
    for (uint32_t i = 0; i < n; i++)
        add_row(b, s, tokens[i], position + (int32_t)i);
    for (uint32_t l = 0; l < n_layers; l++)
        for (uint32_t h = 0; h < n_kv_heads; h++) {
            struct cache_view v = cache_view(s, l, h);
            b->views[segment->first_view + l * n_kv_heads + h] =
                (struct head_view){v.pages, v.n_slots, v.n_sinks, v.window};
        }
    if (wave + 1 > b->n_waves)
        b->n_waves = wave + 1;
    return true;
}

bool batch_add(struct batch *b, struct cache_sequence *s, const int32_t *tokens, uint32_t n,
               uint32_t n_logits, uint32_t *logits_row, struct error *e)
{
    assert(n > 0 && n <= batch_room(b) && n_logits <= n && n_logits <= batch_logits_room(b));
    uint64_t pages = cache_pages_to_append(s, n), free_pages = cache_counts(b->cache).free;
    if (pages > free_pages)
        return error_set(e, "kv_pool_empty", "", "%llu pages are needed and %llu are free",
                         (unsigned long long)pages, (unsigned long long)free_pages);
    /* The end of a prompt gives slots back, so what follows waits for the next step. */
    assert(n <= cache_rows_of_prompt(s));
    uint32_t wave_rows = cache_wave_rows(s);
    for (uint32_t done = 0, wave = 0; done < n; wave++) {
        uint32_t rows = n - done < wave_rows ? n - done : wave_rows;
        if (!add_segment(b, s, tokens + done, rows, wave, e))
            return false; /* out of memory: the caller gives the sequence up */
        done += rows;
    }
    if (logits_row)
        *logits_row = b->n_logits;
    for (uint32_t i = 0; i < n_logits; i++)
        b->logit_rows[b->n_logits++] = b->n_rows - n_logits + i;
    b->sink_query |= cache_uses_sink_query(s);
    return true;
}

/* What the segment's heads need in this layer. */
static void fill_heads(const struct batch *b, const struct batch_segment *segment, uint32_t layer,
                       struct head_view *heads, struct head_state **states)
{
    for (uint32_t h = 0; h < b->model->n_kv_heads; h++) {
        states[h] = cache_head(segment->sequence, layer, h);
        /* A later wave of the same sequence may have moved its page list. */
        heads[h].pages = cache_view(segment->sequence, layer, h).pages;
    }
}

/* What goes after a decode row has attended; NULL when the plan drops nothing now. */
static struct select_job *fill_drops(const struct batch *b, const struct batch_segment *segment,
                                     uint32_t layer, enum cache_step step, struct select_job *jobs)
{
    if (step != CACHE_STEP_EVICT)
        return NULL;
    uint32_t n_kv_heads = b->model->n_kv_heads,
             n_tokens = (uint32_t)b->positions[segment->first_row] + segment->n_rows;
    size_t at = segment->first_view + (size_t)layer * n_kv_heads;
    for (uint32_t h = 0; h < n_kv_heads; h++)
        cache_select_job(segment->sequence, layer, h, n_tokens, b->views[at + h].n_slots,
                         b->n_drop[at + h], &jobs[h]);
    return jobs;
}

static struct cache_work work_of(const struct batch *b, const struct batch_segment *segment)
{
    return cache_work(segment->sequence, (uint32_t)b->positions[segment->first_row],
                      segment->n_rows);
}

uint32_t batch_wave(struct batch *b, uint32_t layer, uint32_t wave)
{
    uint32_t n = 0, n_kv_heads = b->model->n_kv_heads;
    for (uint32_t i = 0; i < b->n_segments; i++) {
        const struct batch_segment *segment = &b->segments[i];
        if (segment->wave != wave)
            continue;
        struct head_view *heads = &b->views[segment->first_view + (size_t)layer * n_kv_heads];
        struct head_state **states = b->states + (size_t)n * n_kv_heads;
        const uint32_t *write_slots =
            b->write_slots + segment->first_slot + (size_t)layer * segment->n_rows * n_kv_heads;
        struct cache_work work = work_of(b, segment);
        fill_heads(b, segment, layer, heads, states);
        struct select_job *drops =
            fill_drops(b, segment, layer, work.step, b->drops + (size_t)n * n_kv_heads);
        b->wave[n++] = (struct kv_segment){.first_row = segment->first_row,
                                           .n_rows = segment->n_rows,
                                           .layer = layer,
                                           .wave = wave,
                                           .heads = heads,
                                           .write_slots = write_slots,
                                           .sink_query = cache_uses_sink_query(segment->sequence),
                                           .states = states,
                                           .score = work.score,
                                           .first_scored = work.first_scored,
                                           .drops = drops};
    }
    return n;
}

/* Whether every segment is one decode row and nothing is compressed. */
static bool is_decode(const struct batch *b)
{
    for (uint32_t i = 0; i < b->n_segments; i++)
        if (b->segments[i].n_rows > 1 || work_of(b, &b->segments[i]).step == CACHE_STEP_COMPRESS)
            return false;
    return b->n_waves == 1;
}

bool batch_plan(struct batch *b, const struct backend *backend, bool may_replay, bool *recorded,
                struct error *e)
{
    const struct step_shape shape = {.n_rows = b->n_rows,
                                     .n_logits = b->n_logits,
                                     .n_waves = b->n_waves,
                                     .n_segments = b->n_segments,
                                     .is_decode = may_replay && is_decode(b),
                                     .sink_query = b->sink_query,
                                     .tokens = b->tokens,
                                     .positions = b->positions,
                                     .logit_rows = b->logit_rows};
    *recorded = false;
    if (!backend->step_begin)
        return true;
    if (!backend->step_begin(backend->self, &shape, e))
        return false;
    for (uint32_t wave = 0; wave < b->n_waves; wave++)
        for (uint32_t i = 0; i < b->model->n_layers; i++)
            backend->step_plan(backend->self, b->wave, batch_wave(b, i, wave));
    *recorded = !backend->step_compute(backend->self);
    return true;
}

/* ---- dropping */

static bool compress(struct batch *b, const struct backend *backend, struct cache_sequence *s,
                     uint32_t layer, uint32_t n_tokens, struct error *e)
{
    const uint32_t *from, *to;
    uint32_t n_kv_heads = b->model->n_kv_heads;
    if (cache_is_starved(s))
        return true; /* it will be computed again */
    if (!cache_begin_compress(s, layer, e))
        return cache_is_starved(s);
    uint32_t n_copies = cache_take_copies(b->cache, &from, &to);
    if (n_copies)
        backend->kv_copy(backend->self, from, to, n_copies);
    struct select_job *jobs = b->jobs;
    for (uint32_t h = 0; h < n_kv_heads; h++)
        cache_select_job(s, layer, h, n_tokens, cache_head(s, layer, h)->n_slots, 0, &jobs[h]);
    if (!backend->compress(backend->self, jobs, n_kv_heads, e))
        return false;
    for (uint32_t h = 0; h < n_kv_heads; h++)
        b->n_kept[h] = jobs[h].n_kept;
    cache_end_compress(s, layer, b->n_kept);
    return true;
}

static bool drop(struct batch *b, const struct backend *backend, uint32_t layer, uint32_t wave,
                 uint32_t n_segments, struct error *e)
{
    for (uint32_t i = 0; i < b->n_segments; i++) {
        const struct batch_segment *segment = &b->segments[i];
        if (segment->wave == wave && work_of(b, segment).step == CACHE_STEP_COMPRESS &&
            !compress(b, backend, segment->sequence, layer,
                      (uint32_t)b->positions[segment->first_row] + segment->n_rows, e))
            return false;
    }
    for (uint32_t i = 0; i < n_segments; i++)
        if (b->wave[i].drops)
            return backend->evict(backend->self, b->wave, n_segments, b->model->n_kv_heads, e);
    return true;
}

bool batch_drop(struct batch *b, const struct backend *backend, uint32_t layer, uint32_t wave,
                uint32_t n_segments, struct error *e)
{
    uint64_t start_ns = clock_ns();
    bool ok = drop(b, backend, layer, wave, n_segments, e);
    b->policy_ns += clock_ns() - start_ns;
    return ok;
}

uint64_t batch_policy_ns(const struct batch *b)
{
    return b->policy_ns;
}
