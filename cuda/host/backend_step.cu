/* A step on the device: its description goes there in one piece, then its operations run, or the
 * graph that a step of the same kind recorded. See step.h and engine/compute/backend.h. */
#include <stdlib.h>
#include <string.h>

#include "cuda/host/backend_private.h"

/* ---- buffers */

static size_t place(size_t *at, size_t bytes)
{
    size_t here = *at;
    *at = (here + bytes + 255) / 256 * 256;
    return here;
}

static size_t n_heads_of(const struct cuda_backend *c)
{
    return (size_t)c->o.n_layers * c->o.n_kv_heads;
}

/* Rows have at most one segment each. */
static void lay_out(struct cuda_backend *c)
{
    struct image *m = &c->image;
    size_t at = 0, rows = c->o.max_rows;
    m->header = place(&at, sizeof(struct step_header));
    m->tokens = place(&at, rows * sizeof(int32_t));
    m->positions = place(&at, rows * sizeof(int32_t));
    m->logit_rows = place(&at, c->o.max_logits * sizeof(uint32_t));
    m->segments = place(&at, rows * sizeof(struct step_segment));
    m->heads = place(&at, rows * n_heads_of(c) * sizeof(struct step_head));
    m->write_slots = place(&at, rows * n_heads_of(c) * sizeof(uint32_t));
    m->bytes = at;
}

bool step_open(struct cuda_backend *c, struct error *e)
{
    struct image *m = &c->image;
    lay_out(c);
    if (!cuda_check(c, cudaMallocHost((void **)&m->pinned, m->bytes), "taking pinned memory") ||
        !cuda_check(c, cudaEventCreateWithFlags(&m->sent, cudaEventDisableTiming),
                    "creating an event"))
        return cuda_fail(c, e);
    memset(m->pinned, 0, m->bytes);
    if (!cuda_take(c, &m->device, m->bytes, "the description of a step", e))
        return false;
    c->waves = (struct wave *)calloc(c->o.max_rows, sizeof *c->waves);
    if (!c->waves)
        return error_set_memory(e, "the description of a step", c->o.max_rows * sizeof *c->waves);
    struct step *s = &c->step;
    s->header = (const struct step_header *)(m->device + m->header);
    s->tokens = (const int32_t *)(m->device + m->tokens);
    s->positions = (const int32_t *)(m->device + m->positions);
    s->logit_rows = (const uint32_t *)(m->device + m->logit_rows);
    s->segments = (const struct step_segment *)(m->device + m->segments);
    s->heads = (const struct step_head *)(m->device + m->heads);
    s->write_slots = (const uint32_t *)(m->device + m->write_slots);
    s->n_layers = c->o.n_layers;
    s->n_heads = c->o.n_heads;
    s->n_kv_heads = c->o.n_kv_heads;
    s->head_dim = c->o.head_dim;
    return true;
}

static void drop_graphs(struct cuda_backend *c)
{
    for (uint32_t i = 0; i < c->n_graphs; i++)
        cudaGraphExecDestroy(c->graphs[i].exec);
    c->n_graphs = 0;
}

void step_close(struct cuda_backend *c)
{
    drop_graphs(c);
    cudaFreeHost(c->image.pinned);
    cudaFree(c->image.device);
    if (c->image.sent)
        cudaEventDestroy(c->image.sent);
    free(c->waves);
}

/* ---- description */

/* A recording that its step did not finish. */
static void abandon_recording(struct cuda_backend *c)
{
    cudaGraph_t graph = NULL;
    if (c->mode == STEP_RECORD)
        cudaStreamEndCapture(c->stream, &graph);
    if (graph)
        cudaGraphDestroy(graph);
    c->mode = STEP_NONE;
}

bool cuda_step_begin(void *self, const struct step_shape *shape, struct error *e)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    struct image *m = &c->image;
    abandon_recording(c);
    if (m->is_out)
        cuda_check(c, cudaEventSynchronize(m->sent), "waiting for the device");
    if (c->failed)
        return cuda_fail(c, e);
    c->shape = *shape;
    c->n_segments = c->next_slot = 0;
    c->seen_page = UINT32_MAX;
    c->key = (struct graph_key){0, 1, 0, shape->sink_query};
    struct step_header *header = (struct step_header *)(m->pinned + m->header);
    *header = (struct step_header){shape->n_rows, shape->n_segments, shape->n_logits};
    memcpy(m->pinned + m->tokens, shape->tokens, shape->n_rows * sizeof(int32_t));
    memcpy(m->pinned + m->positions, shape->positions, shape->n_rows * sizeof(int32_t));
    memcpy(m->pinned + m->logit_rows, shape->logit_rows, shape->n_logits * sizeof(uint32_t));
    return true;
}

struct step_choice step_choice_of(const struct select_job *job)
{
    const struct plan *plan = job->plan;
    struct step_choice choice = {};
    choice.scorer = select_job_scorer(job);
    choice.allocation = plan->allocation;
    choice.share = plan->share;
    choice.pooling = plan->pooling;
    choice.remnant = plan->remnant;
    choice.vote_queries = plan->vote_queries;
    choice.kernel = plan->kernel;
    choice.n_tokens = job->n_tokens;
    choice.sinks = plan->sinks;
    choice.recent = select_job_recent(job);
    choice.seed = plan->seed;
    return choice;
}

static void plan_segment(struct cuda_backend *c, const struct kv_segment *from, uint32_t index)
{
    struct image *m = &c->image;
    struct step_segment *to = (struct step_segment *)(m->pinned + m->segments) + index;
    *to = (struct step_segment){};
    to->first_row = from->first_row;
    to->n_rows = from->n_rows;
    to->first_slot = c->next_slot;
    to->sink_query = from->sink_query;
    to->score = from->score;
    to->first_scored = from->first_scored;
    to->evicts = from->drops != NULL;
    if (from->drops)
        to->choice = step_choice_of(from->drops);
    c->next_slot += (uint32_t)n_heads_of(c) * from->n_rows;
}

static void fill_head(struct step_head *to, const struct head_view *view,
                      const struct head_state *state, const struct select_job *drop)
{
    to->pages = view->pages;
    to->scores = state->scores;
    to->history = state->history;
    to->key_sum = state->key_sum;
    to->summary = state->summary;
    to->holes = state->holes;
    to->counters = state->counters;
    to->n_slots = view->n_slots;
    to->n_drop = drop ? drop->n_drop : 0;
    to->n_sinks = view->n_sinks;
    to->window = view->window;
    to->votes = drop ? drop->votes : 0;
}

static void plan_heads(struct cuda_backend *c, const struct kv_segment *from, uint32_t index,
                       struct wave *wave)
{
    struct image *m = &c->image;
    const uint32_t n = c->o.n_kv_heads;
    const struct step_segment *segment =
        (const struct step_segment *)(m->pinned + m->segments) + index;
    struct step_head *heads = (struct step_head *)(m->pinned + m->heads) +
                              ((size_t)index * c->o.n_layers + from->layer) * n;
    uint32_t *slots = (uint32_t *)(m->pinned + m->write_slots) + segment->first_slot +
                      (size_t)from->layer * from->n_rows * n;
    memcpy(slots, from->write_slots, (size_t)from->n_rows * n * sizeof *slots);
    for (uint32_t h = 0; h < n; h++) {
        const struct select_job *drop = from->drops ? &from->drops[h] : NULL;
        fill_head(&heads[h], &from->heads[h], from->states[h], drop);
        if (drop && drop->n_drop > 0 && heads[h].n_slots > c->key.drop_slots)
            c->key.drop_slots = heads[h].n_slots;
        wave->max_slots = heads[h].n_slots > wave->max_slots ? heads[h].n_slots : wave->max_slots;
    }
}

void cuda_step_plan(void *self, const struct kv_segment *segments, uint32_t n)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    if (n == 0)
        return;
    struct wave *wave = &c->waves[segments[0].wave];
    if (segments[0].layer == 0) {
        *wave = (struct wave){c->n_segments, n, 0, 0, 0, false};
        c->n_segments += n;
        for (uint32_t i = 0; i < n; i++) {
            const struct kv_segment *s = &segments[i];
            plan_segment(c, s, wave->first + i);
            wave->n_single += s->n_rows == 1;
            wave->max_rows = s->n_rows > wave->max_rows ? s->n_rows : wave->max_rows;
            wave->scores_rows |=
                s->n_rows > 1 && s->score != CACHE_SCORE_NONE && s->first_scored < s->n_rows;
        }
    }
    for (uint32_t i = 0; i < n; i++)
        plan_heads(c, &segments[i], wave->first + i, wave);
}

static void send(struct cuda_backend *c, size_t at, size_t bytes)
{
    cuda_check(c,
               cudaMemcpyAsync(c->image.device + at, c->image.pinned + at, bytes,
                               cudaMemcpyHostToDevice, c->stream),
               "sending a step to the device");
}

static void send_image(struct cuda_backend *c)
{
    struct image *m = &c->image;
    send(c, 0, m->segments + c->n_segments * sizeof(struct step_segment));
    send(c, m->heads, c->n_segments * n_heads_of(c) * sizeof(struct step_head));
    send(c, m->write_slots, c->next_slot * sizeof(uint32_t));
    cuda_check(c, cudaEventRecord(m->sent, c->stream), "recording an event");
    m->is_out = true;
}

/* ---- recorded steps */

/* The least of 1, 2, 3, 4, 6, 8, 12, 16, ... that holds n, at most `most`. */
static uint32_t bucket_of_rows(uint32_t n, uint32_t most)
{
    uint32_t bucket = 1;
    while (bucket < n)
        bucket = bucket < 3                ? bucket + 1
                 : (bucket & (bucket - 1)) ? bucket / 3 * 4
                                           : bucket / 2 * 3;
    return bucket < most ? bucket : most;
}

static uint32_t bucket_of_slots(uint32_t n, uint32_t most)
{
    uint32_t bucket = 512;
    while (bucket < n)
        bucket *= 2;
    return bucket < most ? bucket : most;
}

static struct graph *find_graph(struct cuda_backend *c)
{
    for (uint32_t i = 0; i < c->n_graphs; i++) {
        const struct graph_key *a = &c->graphs[i].key, *b = &c->key;
        if (a->n_rows == b->n_rows && a->max_slots == b->max_slots &&
            a->drop_slots == b->drop_slots && a->sink_query == b->sink_query)
            return &c->graphs[i];
    }
    return NULL;
}

static bool may_record(const struct cuda_backend *c)
{
    return c->shape.is_decode && c->shape.n_logits == c->shape.n_rows &&
           c->shape.n_rows <= c->o.max_logits;
}

bool cuda_step_compute(void *self)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    c->n_steps++;
    state_flush(c);
    send_image(c);
    c->mode = STEP_PLAIN;
    if (!may_record(c))
        return true;
    uint32_t most = c->o.max_rows < c->o.max_logits ? c->o.max_rows : c->o.max_logits;
    c->key.n_rows = bucket_of_rows(c->shape.n_rows, most);
    c->key.max_slots = bucket_of_slots(c->waves[0].max_slots, c->o.max_slots);
    if (c->key.drop_slots > 0)
        c->key.drop_slots = bucket_of_slots(c->key.drop_slots, c->o.max_slots);
    if (find_graph(c)) {
        c->mode = STEP_REPLAY;
        return false;
    }
    if (cuda_check(c, cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal),
                   "recording a step"))
        c->mode = STEP_RECORD;
    return true;
}

uint64_t step_rows(const struct cuda_backend *c, uint64_t n)
{
    return c->mode == STEP_RECORD ? n / c->shape.n_rows * c->key.n_rows : n;
}

/* Room for one more graph: the one that was used longest ago goes. */
static struct graph *graph_slot(struct cuda_backend *c)
{
    if (c->n_graphs < MAX_GRAPHS)
        return &c->graphs[c->n_graphs++];
    struct graph *oldest = &c->graphs[0];
    for (uint32_t i = 1; i < MAX_GRAPHS; i++)
        if (c->graphs[i].used < oldest->used)
            oldest = &c->graphs[i];
    cudaGraphExecDestroy(oldest->exec);
    return oldest;
}

static void keep_recording(struct cuda_backend *c)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    if (!cuda_check(c, cudaStreamEndCapture(c->stream, &graph), "recording a step"))
        return;
    if (cuda_check(c, cudaGraphInstantiate(&exec, graph, 0), "preparing a recorded step"))
        *graph_slot(c) = (struct graph){c->key, exec, c->n_steps};
    cudaGraphDestroy(graph);
}

bool cuda_step_end(void *self, struct error *e)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    if (c->mode == STEP_RECORD)
        keep_recording(c);
    if (c->mode == STEP_RECORD || c->mode == STEP_REPLAY) {
        struct graph *g = find_graph(c);
        if (g) {
            g->used = c->n_steps;
            cuda_check(c, cudaGraphLaunch(g->exec, c->stream), "starting a recorded step");
        }
    }
    c->mode = STEP_NONE;
    cuda_check(c, cudaGetLastError(), "computing a step");
    return !c->failed || cuda_fail(c, e);
}
