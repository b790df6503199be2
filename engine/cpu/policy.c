/* Dropping slots on the CPU: computes scores, chooses (cache/policy/select.c), makes holes while
 * decoding, compacts at the end of a prompt. Engine thread; long heads use the workers too. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cache/policy/select.h"
#include "cache/policy/select_job.h"
#include "engine/cpu/kernels.h"

/* Scratch of one head, in cpu.select. */
struct head_scratch {
    int32_t *positions; /* [n_slots] and up to the end of the page */
    float *scores;      /* [n_slots] and up to the end of the page */
    float *pooled;      /* [n_slots] and up to the end of the page */
    uint32_t *order;    /* [n_slots] and up to the end of the page */
    uint64_t *keys;     /* [n_slots] and up to the end of the page */
    bool *keep;         /* [n_slots] */
};

static uint32_t whole_pages(uint32_t n_slots)
{
    return (uint32_t)pages_of_slots(n_slots) * PAGE_SLOTS;
}

/* Scratch for n heads, laid out in cpu.select. Arrays of one kind follow each other; the `keep`
 * arrays do so without gaps, as select_adaptive requires. NULL: "out_of_memory". */
static struct head_scratch *set_scratch(struct cpu *c, const struct select_job *jobs, uint32_t n,
                                        struct error *e)
{
    size_t room = 0, bytes_a_slot = sizeof(int32_t) + 2 * sizeof(float) + sizeof(uint32_t) +
                                    sizeof(uint64_t) + sizeof(bool);
    for (uint32_t i = 0; i < n; i++)
        room += whole_pages(jobs[i].n_slots);
    size_t bytes = n * sizeof(struct head_scratch) + room * bytes_a_slot;
    if (bytes > c->select_room) {
        void *bigger = realloc(c->select, bytes);
        if (bigger == NULL) {
            error_set_memory(e, "choosing slots", bytes);
            return NULL;
        }
        c->select = bigger;
        c->select_room = bytes;
    }
    struct head_scratch *scratch = c->select;
    uint64_t *keys = (uint64_t *)(scratch + n);
    int32_t *positions = (int32_t *)(keys + room);
    float *scores = (float *)(positions + room), *pooled = scores + room;
    uint32_t *order = (uint32_t *)(pooled + room);
    bool *keep = (bool *)(order + room);
    size_t at = 0;
    for (uint32_t i = 0; i < n; i++) {
        scratch[i] = (struct head_scratch){.positions = positions + at,
                                           .scores = scores + at,
                                           .pooled = pooled + at,
                                           .order = order + at,
                                           .keys = keys + at,
                                           .keep = keep};
        at += whole_pages(jobs[i].n_slots);
        keep += jobs[i].n_slots;
    }
    return scratch;
}

static void read_positions(const struct cpu *c, const struct select_job *job,
                           struct head_scratch *b)
{
    for (uint32_t i = 0; i < job->n_slots; i += PAGE_SLOTS)
        memcpy(b->positions + i, cpu_positions(c, job->head->pages[i / PAGE_SLOTS]),
               PAGE_SLOTS * sizeof *b->positions);
}

/* Scores of keys, a page at a time. */
static void score_keys(struct cpu *c, const struct select_job *job, const struct scorer *scorer,
                       struct score_view *v, struct head_scratch *b)
{
    float mean[HEAD_DIM_MAX], dots[PAGE_SLOTS], squares[PAGE_SLOTS];
    bool angles = scorer->reads == SCORER_READS_DIRECTION;
    double length = 0;
    for (uint32_t d = 0; angles && d < c->head_dim; d++)
        length += job->head->key_sum[d] * job->head->key_sum[d];
    length = sqrt(length);
    for (uint32_t d = 0; angles && d < c->head_dim; d++)
        mean[d] = length > 0 ? (float)(job->head->key_sum[d] / length) : 0;
    v->dots = dots;
    v->squares = squares;
    v->n_slots = PAGE_SLOTS;
    for (uint32_t i = 0; i < job->n_slots; i += PAGE_SLOTS) {
        c->kernels->key_dots(&c->shape, cpu_page(c, job->head->pages[i / PAGE_SLOTS]),
                             angles ? mean : NULL, dots, squares);
        scorer->value(v, b->scores + i);
    }
}

static struct select_view view_of(const struct select_job *job, const struct head_scratch *b)
{
    return (struct select_view){.positions = b->positions,
                                .scores = b->scores,
                                .n = job->n_slots,
                                .n_tokens = job->n_tokens,
                                .sinks = job->plan->sinks,
                                .recent = select_job_recent(job)};
}

/* Fills positions, and the scores that the head's plan gives its slots. */
static void score_slots(struct cpu *c, const struct select_job *job, struct head_scratch *b)
{
    const struct plan *plan = job->plan;
    const struct scorer *scorer = scorer_at(select_job_scorer(job));
    struct score_view v = {.plan = plan,
                           .layer = job->layer,
                           .kv_head = job->kv_head,
                           .n_tokens = job->n_tokens,
                           .n_slots = job->n_slots,
                           .positions = b->positions,
                           .sums = job->head->scores,
                           .history = job->head->history};
    read_positions(c, job, b);
    if (plan->share == SHARE_LAYER && !job->votes)
        return; /* share_scores fills them */
    if (scorer_reads_keys(scorer)) {
        score_keys(c, job, scorer, &v, b);
        return;
    }
    scorer->value(&v, b->scores);
    if (scorer_has_window(scorer)) {
        const struct select_view view = view_of(job, b);
        uint32_t before =
            job->n_tokens > plan->vote_queries ? job->n_tokens - plan->vote_queries : 0;
        select_pool(&view, plan->pooling, plan->kernel, before, b->pooled, b->order);
        memcpy(b->scores, b->pooled, job->n_slots * sizeof *b->scores);
    }
}

/* The heads of a layer, which have the same tokens in the same slots, choose together: under TOVA
 * all of them vote, under CompressKV the retrieval heads. All heads get the same score, so they go
 * on having the same tokens. */
static void share_scores(const struct select_job *jobs, const struct head_scratch *scratch,
                         uint32_t n)
{
    uint32_t n_voters = 0;
    for (uint32_t h = 0; h < n; h++)
        n_voters += jobs[h].votes;
    for (uint32_t i = 0; i < jobs[0].n_slots; i++) {
        float sum = 0;
        for (uint32_t h = 0; h < n; h++)
            sum += jobs[h].votes ? scratch[h].scores[i] : 0;
        for (uint32_t h = 0; h < n; h++)
            scratch[h].scores[i] = sum / (float)n_voters;
    }
}

static int32_t *position_of(const struct cpu *c, const struct head_state *head, uint32_t slot)
{
    return cpu_positions(c, head->pages[slot / PAGE_SLOTS]) + slot % PAGE_SLOTS;
}

/* mean <- mean + (k - mean) / n, for K and V. */
static void summarise(struct cpu *c, struct head_state *head, uint32_t slot)
{
    float k[HEAD_DIM_MAX], v[HEAD_DIM_MAX];
    page_read(&c->shape, cpu_page(c, head->pages[slot / PAGE_SLOTS]), slot % PAGE_SLOTS, k, v);
    float n = (float)++head->counters->n_summary, *mean_k = head->summary,
          *mean_v = head->summary + c->head_dim;
    for (uint32_t d = 0; d < c->head_dim; d++) {
        mean_k[d] += (k[d] - mean_k[d]) / n;
        mean_v[d] += (v[d] - mean_v[d]) / n;
    }
}

/* ---- pieces for the threads: heads */

struct head_work {
    struct cpu *cpu;
    struct select_job *jobs;
    struct head_scratch *scratch;
    uint32_t n;
    void (*part)(struct cpu *c, struct select_job *job, struct head_scratch *b);
    _Atomic uint32_t next;
};

static void head_thread(void *context, uint32_t thread)
{
    struct head_work *w = context;
    uint32_t i;
    (void)thread;
    while ((i = atomic_fetch_add_explicit(&w->next, 1, memory_order_relaxed)) < w->n)
        w->part(w->cpu, &w->jobs[i], &w->scratch[i]);
}

/* Fewer slots than this are not worth waking the workers. */
enum { SLOTS_WORTH_THREADS = 4096 };

static void on_threads(struct head_work *w,
                       void (*part)(struct cpu *, struct select_job *, struct head_scratch *))
{
    uint64_t n_slots = 0;
    for (uint32_t i = 0; i < w->n; i++)
        n_slots += w->jobs[i].n_slots;
    w->part = part;
    atomic_store(&w->next, 0);
    if (n_slots < SLOTS_WORTH_THREADS)
        head_thread(w, 0);
    else
        threads_run(w->cpu->threads, head_thread, w);
}

/* ---- decode */

/* Turns the worst unprotected slot into a hole, n_drop times. */
static void make_holes(struct cpu *c, struct select_job *job, struct head_scratch *b)
{
    struct head_state *head = job->head;
    const uint32_t recent = select_job_recent(job);
    const uint32_t newest = job->n_tokens > recent ? job->n_tokens - recent : 0;
    for (uint32_t i = 0; i < job->n_drop; i++) {
        uint32_t slot =
            c->kernels->worst(b->scores, b->positions, job->n_slots, job->plan->sinks, newest);
        if (slot == UINT32_MAX)
            return;
        if (job->plan->remnant == REMNANT_MEAN)
            summarise(c, head, slot);
        if (head->key_sum)
            cpu_add_key(c, head->key_sum, head->pages[slot / PAGE_SLOTS], slot % PAGE_SLOTS, -1);
        *position_of(c, head, slot) = HOLE;
        b->positions[slot] = HOLE;
        head->holes[head->counters->n_holes++] = slot;
    }
}

static void score_dropping(struct cpu *c, struct select_job *job, struct head_scratch *b)
{
    if (job->n_drop > 0 || job->plan->share == SHARE_LAYER)
        score_slots(c, job, b);
}

/* The heads of one layer of one sequence. */
static bool evict_layer(struct cpu *c, struct select_job *jobs, uint32_t n, struct error *e)
{
    struct head_scratch *scratch = set_scratch(c, jobs, n, e);
    if (scratch == NULL)
        return false;
    struct head_work w = {.cpu = c, .jobs = jobs, .scratch = scratch, .n = n};
    on_threads(&w, score_dropping);
    if (jobs[0].plan->share == SHARE_LAYER)
        share_scores(jobs, scratch, n);
    on_threads(&w, make_holes);
    return true;
}

static bool has_jobs(struct cpu *c, uint32_t n, struct error *e)
{
    if (n <= c->jobs_room)
        return true;
    struct select_job *jobs = realloc(c->jobs, n * sizeof *jobs);
    if (jobs == NULL)
        return error_set_memory(e, "choosing slots", n * sizeof *jobs);
    c->jobs = jobs;
    c->jobs_room = n;
    return true;
}

bool cpu_drop(void *self, const struct step *step, uint32_t layer, uint32_t wave, struct error *e)
{
    struct cpu *c = self;
    uint32_t n;
    const struct step_segment *segments = step_wave(step, wave, &n);
    if (!has_jobs(c, step->n_kv_heads, e))
        return false;
    for (uint32_t i = 0; i < n; i++)
        if (step_work(&segments[i]) == CACHE_WORK_DROP &&
            cache_drop_jobs(segments[i].placed, layer, c->jobs) > 0 &&
            !evict_layer(c, c->jobs, step->n_kv_heads, e))
            return false;
    return true;
}

/* ---- end of a prompt */

static void move_slot(struct cpu *c, struct head_state *head, uint32_t to, uint32_t from)
{
    page_move(&c->shape, cpu_page(c, head->pages[to / PAGE_SLOTS]), to % PAGE_SLOTS,
              cpu_page(c, head->pages[from / PAGE_SLOTS]), from % PAGE_SLOTS);
    *position_of(c, head, to) = *position_of(c, head, from);
    if (head->scores)
        head->scores[to] = head->scores[from];
    if (head->history)
        memcpy(head->history + (size_t)to * HISTORY_WORDS,
               head->history + (size_t)from * HISTORY_WORDS, HISTORY_WORDS * sizeof *head->history);
}

/* KeyDiff's sum, of the keys that are left. */
static void sum_keys(struct cpu *c, const struct select_job *job)
{
    const struct head_state *head = job->head;
    memset(head->key_sum, 0, c->head_dim * sizeof *head->key_sum);
    for (uint32_t i = 0; i < job->n_kept; i++)
        cpu_add_key(c, head->key_sum, head->pages[i / PAGE_SLOTS], i % PAGE_SLOTS, 1);
}

/* Moves survivors from beyond the first n_kept slots into the gaps among these, each once. */
static void compact(struct cpu *c, const struct select_job *job, const struct head_scratch *b)
{
    struct head_state *head = job->head;
    for (uint32_t i = 0; job->plan->remnant == REMNANT_MEAN && i < job->n_slots; i++)
        if (!b->keep[i] && b->positions[i] != HOLE)
            summarise(c, head, i);
    uint32_t to = 0;
    for (uint32_t from = job->n_kept; from < job->n_slots; from++) {
        if (!b->keep[from])
            continue;
        while (b->keep[to])
            to++;
        move_slot(c, head, to++, from);
    }
    head->counters->n_holes = 0;
    if (head->key_sum)
        sum_keys(c, job);
}

/* Heads of budget UINT32_MAX stay as they are. */
static void score_part(struct cpu *c, struct select_job *job, struct head_scratch *b)
{
    if (job->budget != UINT32_MAX)
        score_slots(c, job, b);
}

static void choose_part(struct cpu *c, struct select_job *job, struct head_scratch *b)
{
    (void)c;
    struct select_view v = view_of(job, b);
    if (job->budget != UINT32_MAX)
        job->n_kept = select_survivors(&v, job->budget, b->keep, b->keys);
}

static void compact_part(struct cpu *c, struct select_job *job, struct head_scratch *b)
{
    if (job->budget != UINT32_MAX)
        compact(c, job, b);
}

static bool choose_together(struct select_job *jobs, const struct head_scratch *scratch, uint32_t n,
                            struct error *e)
{
    struct select_view *views = malloc(n * sizeof *views);
    uint32_t *n_kept = malloc(n * sizeof *n_kept);
    bool ok = views && n_kept;
    for (uint32_t i = 0; ok && i < n; i++)
        views[i] = view_of(&jobs[i], &scratch[i]);
    ok = ok && select_adaptive(views, n, jobs[0].plan->allocation, jobs[0].budget, scratch[0].keep,
                               scratch[0].keys, n_kept);
    for (uint32_t i = 0; ok && i < n; i++)
        jobs[i].n_kept = n_kept[i];
    free(views);
    free(n_kept);
    return ok || error_set_memory(e, "choosing slots", n * sizeof *views);
}

static void forget_scores(const struct select_job *jobs, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (select_job_forgets(&jobs[i]) && jobs[i].head->scores)
            memset(jobs[i].head->scores, 0, jobs[i].n_slots * sizeof *jobs[i].head->scores);
}

bool cpu_compress(void *self, struct select_job *jobs, uint32_t n_jobs, struct error *e)
{
    struct cpu *c = self;
    uint32_t n_active = 0;
    for (uint32_t i = 0; i < n_jobs; i++) {
        jobs[i].n_kept = jobs[i].n_slots - jobs[i].head->counters->n_holes;
        n_active += jobs[i].budget != UINT32_MAX;
    }
    if (n_active == 0) {
        forget_scores(jobs, n_jobs);
        return true;
    }
    struct head_scratch *scratch = set_scratch(c, jobs, n_jobs, e);
    if (scratch == NULL)
        return false;
    struct head_work w = {.cpu = c, .jobs = jobs, .scratch = scratch, .n = n_jobs};
    on_threads(&w, score_part);
    if (jobs[0].plan->share == SHARE_LAYER)
        share_scores(jobs, scratch, n_jobs);
    if (!plan_competes(jobs[0].plan))
        on_threads(&w, choose_part);
    else if (!choose_together(jobs, scratch, n_jobs, e))
        return false;
    on_threads(&w, compact_part);
    forget_scores(jobs, n_jobs);
    return true;
}
