/* Collects the rows of a step and takes their pages: see forward.h and batch.h. Engine thread. */
#include "engine/batch.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct batch *batch_new(struct cache *cache, const struct model *model, uint32_t max_rows,
                        uint32_t max_logits, struct error *e)
{
    size_t heads = (size_t)model->n_layers * model->n_kv_heads,
           angles = (size_t)max_rows * model->rope_dim;
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
    b->wave = malloc(b->max_segments * sizeof *b->wave);
    if (b->tokens && b->positions && b->angles && b->sink_angles && b->logit_rows && b->segments &&
        b->write_slots && b->views && b->wave)
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
    free(b->wave);
    free(b);
}

void batch_clear(struct batch *b)
{
    b->n_rows = b->n_logits = b->n_segments = b->n_waves = 0;
    b->n_slots = 0;
    b->sink_query = false;
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
    size_t at = (size_t)b->n_rows * b->model->rope_dim;
    int32_t sink_position = cache_sink_query_position(s, position);
    b->tokens[b->n_rows] = token;
    b->positions[b->n_rows] = position;
    model_rope_angles(b->model, position, b->angles + at);
    if (sink_position == position)
        memcpy(b->sink_angles + at, b->angles + at, b->model->rope_dim * sizeof *b->angles);
    else
        model_rope_angles(b->model, sink_position, b->sink_angles + at);
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
    if (!cache_append(s, n, b->write_slots + segment->first_slot, e))
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

uint32_t batch_wave(struct batch *b, uint32_t layer, uint32_t wave)
{
    uint32_t n = 0, n_kv_heads = b->model->n_kv_heads;
    for (uint32_t i = 0; i < b->n_segments; i++) {
        const struct batch_segment *segment = &b->segments[i];
        if (segment->wave != wave)
            continue;
        struct head_view *heads = &b->views[segment->first_view + (size_t)layer * n_kv_heads];
        /* A later wave of the same sequence may have moved its page list. */
        for (uint32_t h = 0; h < n_kv_heads; h++)
            heads[h].pages = cache_view(segment->sequence, layer, h).pages;
        b->wave[n++] =
            (struct kv_segment){.first_row = segment->first_row,
                                .n_rows = segment->n_rows,
                                .heads = heads,
                                .write_slots = b->write_slots + segment->first_slot +
                                               (size_t)layer * segment->n_rows * n_kv_heads,
                                .sink_query = cache_uses_sink_query(segment->sequence)};
    }
    return n;
}
