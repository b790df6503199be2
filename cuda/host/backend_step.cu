/* A step on the device: its description is sent in one copy. Then its operations run, or the
 * graph that was recorded from a step of the same kind. See step.h and engine/compute/backend.h. */
#include <assert.h>
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
    m->header = place(&at, sizeof(struct device_header));
    m->tokens = place(&at, rows * sizeof(int32_t));
    m->positions = place(&at, rows * sizeof(int32_t));
    m->sink_positions = place(&at, rows * sizeof(int32_t));
    m->output_rows = place(&at, c->o.max_logits * sizeof(uint32_t));
    m->segments = place(&at, rows * sizeof(struct device_segment));
    m->heads = place(&at, rows * n_heads_of(c) * sizeof(struct device_head));
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
    struct device_step *s = &c->step;
    s->header = (const struct device_header *)(m->device + m->header);
    s->tokens = (const int32_t *)(m->device + m->tokens);
    s->positions = (const int32_t *)(m->device + m->positions);
    s->sink_positions = (const int32_t *)(m->device + m->sink_positions);
    s->output_rows = (const uint32_t *)(m->device + m->output_rows);
    s->segments = (const struct device_segment *)(m->device + m->segments);
    s->heads = (const struct device_head *)(m->device + m->heads);
    s->n_layers = c->o.n_layers;
    s->n_heads = c->o.n_heads;
    s->n_kv_heads = c->o.n_kv_heads;
    s->head_dim = c->o.head_dim;
    return true;
}

void step_forget(struct cuda_backend *c)
{
    for (uint32_t i = 0; i < c->n_graphs; i++)
        cudaGraphExecDestroy(c->graphs[i].exec);
    c->n_graphs = 0;
}

void step_close(struct cuda_backend *c)
{
    step_forget(c);
    cudaFreeHost(c->image.pinned);
    cudaFree(c->image.device);
    if (c->image.sent)
        cudaEventDestroy(c->image.sent);
    free(c->waves);
}

/* ---- description */

/* Ends a recording whose step did not finish. */
static void abandon_recording(struct cuda_backend *c)
{
    cudaGraph_t graph = NULL;
    if (c->mode == STEP_RECORD)
        cudaStreamEndCapture(c->stream, &graph);
    if (graph)
        cudaGraphDestroy(graph);
    c->mode = STEP_NONE;
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

static void fill_segment(struct device_segment *to, const struct step_segment *from)
{
    const struct placement *placed = from->placed;
    *to = (struct device_segment){};
    to->first_row = from->first_row;
    to->n_rows = from->n_rows;
    to->sink_query = placed->sink_query;
    to->score = placed->score;
    to->first_scored = from->first_scored;
    if (step_work(from) == CACHE_WORK_DROP) {
        struct select_job job;
        cache_drop_job(placed, 0, 0, &job); /* these fields are the same for every head */
        to->evicts = 1;
        to->choice = step_choice_of(&job);
    }
}

static void fill_head(struct device_head *to, const struct step_segment *from, uint32_t head)
{
    const struct placement *placed = from->placed;
    const struct head_state *state = &placed->states[head];
    const struct head_slots *slots = &placed->slots[head];
    const struct ring *ring = &placed->rings[slots->ring];
    to->pages = state->table;
    to->scores = state->scores;
    to->history = state->history;
    to->key_sum = state->key_sum;
    to->summary = state->summary;
    to->holes = state->holes;
    to->counters = state->counters;
    to->n_slots = placement_n_slots(placed, head, from->n_behind);
    to->n_drop = slots->n_drop;
    to->n_sinks = ring->sinks;
    to->window = ring->window;
    to->write_slot = placement_slot(placed, head, step_token(from, 0));
    to->ring = ring->length;
    to->votes = slots->votes;
}

/* Describes one segment with all its heads, and adds to the needs of its wave. */
static void plan_segment(struct cuda_backend *c, const struct step_segment *from, uint32_t index,
                         struct wave *wave)
{
    struct image *m = &c->image;
    const size_t n_heads = n_heads_of(c);
    struct device_head *heads = (struct device_head *)(m->pinned + m->heads) + index * n_heads;
    assert(!from->lists); /* no list of slots is made on the device yet */
    fill_segment((struct device_segment *)(m->pinned + m->segments) + index, from);
    for (uint32_t head = 0; head < n_heads; head++) {
        fill_head(&heads[head], from, head);
        const uint32_t n_slots = heads[head].n_slots;
        wave->max_slots = n_slots > wave->max_slots ? n_slots : wave->max_slots;
        if (heads[head].n_drop > 0 && n_slots > c->key.drop_slots)
            c->key.drop_slots = n_slots;
    }
    wave->n_single += from->n_rows == 1;
    wave->max_rows = from->n_rows > wave->max_rows ? from->n_rows : wave->max_rows;
    wave->scores_rows |= from->n_rows > 1 && from->placed->score != CACHE_SCORE_NONE &&
                         from->first_scored < from->n_rows;
}

static void plan_step(struct cuda_backend *c, const struct step *step)
{
    struct image *m = &c->image;
    const uint32_t n_outputs = step->n_logits + step->n_hidden;
    struct device_header *header = (struct device_header *)(m->pinned + m->header);
    *header = (struct device_header){step->n_rows, step->n_segments, n_outputs};
    memcpy(m->pinned + m->tokens, step->tokens, step->n_rows * sizeof(int32_t));
    memcpy(m->pinned + m->positions, step->positions, step->n_rows * sizeof(int32_t));
    memcpy(m->pinned + m->sink_positions, step->sink_positions, step->n_rows * sizeof(int32_t));
    memcpy(m->pinned + m->output_rows, step->output_rows, n_outputs * sizeof(uint32_t));
    for (uint32_t wave = 0; wave < step->n_waves; wave++) {
        const uint32_t first = step->first_of_wave[wave], end = step->first_of_wave[wave + 1];
        c->waves[wave] = (struct wave){first, end - first, 0, 0, 0, false};
        for (uint32_t i = first; i < end; i++)
            plan_segment(c, &step->segments[i], i, &c->waves[wave]);
    }
}

static void send(struct cuda_backend *c, size_t at, size_t bytes)
{
    cuda_check(c,
               cudaMemcpyAsync(c->image.device + at, c->image.pinned + at, bytes,
                               cudaMemcpyHostToDevice, c->stream),
               "sending a step to the device");
}

static void send_image(struct cuda_backend *c, uint32_t n_segments)
{
    struct image *m = &c->image;
    send(c, 0, m->segments + n_segments * sizeof(struct device_segment));
    send(c, m->heads, n_segments * n_heads_of(c) * sizeof(struct device_head));
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

static bool may_record(const struct cuda_backend *c, const struct step *step)
{
    return step->may_record && step->is_decode && step->n_logits == step->n_rows &&
           step->n_hidden == 0 && step->n_rows <= c->o.max_logits;
}

/* Three cases: operations run as they are called; they are recorded for steps like this one;
 * such a recording exists and replaces them. */
static enum step_mode choose_mode(struct cuda_backend *c, const struct step *step)
{
    if (!may_record(c, step))
        return STEP_PLAIN;
    uint32_t most = c->o.max_rows < c->o.max_logits ? c->o.max_rows : c->o.max_logits;
    c->key.n_rows = bucket_of_rows(step->n_rows, most);
    c->key.max_slots = bucket_of_slots(c->waves[0].max_slots, c->o.max_slots);
    if (c->key.drop_slots > 0)
        c->key.drop_slots = bucket_of_slots(c->key.drop_slots, c->o.max_slots);
    if (find_graph(c))
        return STEP_REPLAY;
    return cuda_check(c, cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal),
                      "recording a step")
               ? STEP_RECORD
               : STEP_PLAIN;
}

bool cuda_step_begin(void *self, struct step *step, struct error *e)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    abandon_recording(c);
    if (c->image.is_out)
        cuda_check(c, cudaEventSynchronize(c->image.sent), "waiting for the device");
    if (c->failed)
        return cuda_fail(c, e);
    c->n_rows = step->n_rows;
    c->key = (struct graph_key){0, 1, 0, step->sink_query};
    c->n_steps++;
    plan_step(c, step);
    state_flush(c);
    send_image(c, step->n_segments);
    c->mode = choose_mode(c, step);
    step->recorded = c->mode == STEP_REPLAY;
    return true;
}

uint64_t step_rows(const struct cuda_backend *c, uint64_t n)
{
    return c->mode == STEP_RECORD ? n / c->n_rows * c->key.n_rows : n;
}

/* Makes room for one more graph: the least recently used one goes. */
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
