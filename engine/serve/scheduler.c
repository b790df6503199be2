/* The lists of requests, and one step from beginning to end: see scheduler.h. */
#include "engine/serve/scheduler.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/pages/prefix.h"
#include "config/base/clock.h"
#include "config/base/log.h"
#include "engine/serve/admission.h"
#include "engine/serve/output.h"
#include "engine/serve/pages.h"
#include "engine/serve/rows.h"

/* ---- life */

_Static_assert(PRESETS_MOST <= UINT8_MAX, "the pool keeps a policy in a byte");

static void note_lifetime(void *context, uint32_t policy, uint64_t held_ns)
{
    struct scheduler *s = context;
    histogram_observe(&s->options.metrics->page_lifetime[policy], (double)held_ns / 1e9);
}

/* The scratch of a step. */
static bool allocate(struct scheduler *s, struct error *e)
{
    const struct runtime *r = s->runtime;
    size_t n = (size_t)r->options.max_rows + 1, n_choices = s->options.max_num_seqs;
    s->scratch = sampler_scratch_new(r->model->n_vocab, e);
    if (!s->scratch || !history_init(&s->history, s->n_heads, e))
        return false;
    s->prompt_tokens = calloc(n, sizeof *s->prompt_tokens);
    s->prompt_tops = calloc(n * (LOGPROBS_MAX_TOP + 1), sizeof *s->prompt_tops);
    s->rows = calloc(n_choices, sizeof *s->rows);
    s->picks = calloc(n_choices, sizeof *s->picks);
    s->pickers = calloc(n_choices, sizeof *s->pickers);
    s->picked = calloc(n_choices, sizeof *s->picked);
    if (!s->prompt_tokens || !s->prompt_tops || !s->rows || !s->picks || !s->pickers || !s->picked)
        return error_set_memory(e, "the scheduler",
                                n * (LOGPROBS_MAX_TOP + 1) * sizeof *s->prompt_tops);
    return true;
}

static size_t longest_token(const struct runtime *r)
{
    size_t longest = 0;
    for (uint32_t i = 0; i < r->model->n_vocab; i++) {
        size_t length;
        tokenizer_bytes(r->tokenizer, (int32_t)i, true, &length);
        longest = length > longest ? length : longest;
    }
    return longest;
}

struct scheduler *scheduler_new(struct runtime *runtime, const struct scheduler_options *options,
                                struct error *e)
{
    struct scheduler *s = calloc(1, sizeof *s);
    if (!s) {
        error_set_memory(e, "the scheduler", sizeof *s);
        return NULL;
    }
    s->runtime = runtime;
    s->options = *options;
    s->n_heads = cache_n_layers(runtime->cache) * cache_n_kv_heads(runtime->cache);
    s->max_token_bytes = longest_token(runtime);
    TAILQ_INIT(&s->queue);
    TAILQ_INIT(&s->running);
    TAILQ_INIT(&s->ended);
    if (!session_store_init(&s->sessions, options->session_ttl_ns, e)) {
        free(s);
        return NULL;
    }
    cache_set_lifetimes(runtime->cache, note_lifetime, s);
    if (allocate(s, e))
        return s;
    scheduler_free(s, "", "");
    return NULL;
}

static void drop_ended(struct scheduler *s)
{
    for (struct request *request; (request = TAILQ_FIRST(&s->ended));) {
        TAILQ_REMOVE(&s->ended, request, link);
        request_free_choices(request);
        request_drop(request);
    }
}

static void fail_all(struct scheduler *s, const char *code, const char *message)
{
    struct request_list *const lists[] = {&s->running, &s->queue};
    for (int i = 0; i < 2; i++)
        for (struct request *request; (request = TAILQ_FIRST(lists[i]));) {
            error_set(&request->error, code, "", "%s", message);
            output_fail(s, request);
        }
}

void scheduler_free(struct scheduler *s, const char *code, const char *message)
{
    if (!s)
        return;
    fail_all(s, code, message);
    drop_ended(s);
    session_store_clear(&s->sessions);
    history_clear(&s->history);
    sampler_scratch_free(s->scratch);
    free(s->prompt_tokens);
    free(s->prompt_tops);
    free(s->rows);
    free(s->picks);
    free(s->pickers);
    free(s->picked);
    /* The cache outlives the scheduler and frees cached prompts later. */
    cache_set_lifetimes(s->runtime->cache, NULL, NULL);
    free(s);
}

/* ---- lists */

void scheduler_take(struct scheduler *s, struct request *request)
{
    TAILQ_INSERT_TAIL(&s->queue, request, link);
}

/* The list is sorted by age: a request that was preempted returns to its old place. */
void scheduler_start(struct scheduler *s, struct request *request)
{
    struct request *before = TAILQ_LAST(&s->running, request_list);
    while (before && before->order > request->order)
        before = TAILQ_PREV(before, request_list, link);
    if (before)
        TAILQ_INSERT_AFTER(&s->running, before, request, link);
    else
        TAILQ_INSERT_HEAD(&s->running, request, link);
    s->n_running++;
    s->n_choices += request->options.n_choices;
}

void scheduler_stop(struct scheduler *s, struct request *request)
{
    TAILQ_REMOVE(&s->running, request, link);
    s->n_running--;
    s->n_choices -= request->options.n_choices;
}

void scheduler_remove(struct scheduler *s, struct request *request)
{
    pages_free(s, request);
    if (atomic_load(&request->place) == PLACE_QUEUED)
        TAILQ_REMOVE(&s->queue, request, link);
    else
        scheduler_stop(s, request);
    if (!request->admitted)
        atomic_fetch_sub(&s->n_waiting, 1);
    TAILQ_INSERT_TAIL(&s->ended, request, link);
}

/* ---- facts */

void scheduler_expect(struct scheduler *s)
{
    atomic_fetch_add(&s->n_waiting, 1);
}

uint32_t scheduler_n_waiting(const struct scheduler *s)
{
    return atomic_load(&s->n_waiting);
}

bool scheduler_has_failed(const struct scheduler *s)
{
    return atomic_load(&s->faulted);
}

int64_t scheduler_retry_after_ms(const struct scheduler *s, uint32_t n_waiting)
{
    uint64_t mean = atomic_load(&s->admission_interval_ns),
             since = atomic_load(&s->admissions_since_ns), now = clock_ns();
    /* Nothing was admitted for longer than usual: long requests run. */
    uint64_t current =
        since && now > since ? (now - since) / (atomic_load(&s->n_admissions) + 1) : 0;
    uint64_t ms = (current > mean ? current : mean) * (n_waiting - n_waiting / 2) / 1000000u;
    return ms < 1000 ? 1000 : ms > 60000 ? 60000 : (int64_t)ms;
}

struct session_store *scheduler_sessions(struct scheduler *s)
{
    return &s->sessions;
}

struct request_history *scheduler_history(struct scheduler *s)
{
    return &s->history;
}

const struct request_list *scheduler_running(const struct scheduler *s)
{
    return &s->running;
}

const struct request_list *scheduler_queue(const struct scheduler *s)
{
    return &s->queue;
}

uint32_t scheduler_n_heads(const struct scheduler *s)
{
    return s->n_heads;
}

void scheduler_count(struct scheduler *s, struct choice *q)
{
    struct cache_sequence_counts now = cache_sequence_counts(q->cache);
    double evicted = now.tokens_seen - now.slots_kept;
    double before = q->counted.tokens_seen - q->counted.slots_kept;
    uint32_t policy = q->owner->policy;
    if (evicted > before)
        atomic_fetch_add(&s->options.metrics->evicted_slots[policy],
                         (uint64_t)((evicted - before) * s->n_heads + 0.5));
    if (now.pages_returned > q->counted.pages_returned)
        atomic_fetch_add(&s->options.metrics->pages_returned[policy],
                         now.pages_returned - q->counted.pages_returned);
    q->counted = now;
}

void scheduler_describe(const struct scheduler *s, const struct request *request,
                        struct request_record *record, struct cache_head_counts *heads)
{
    const struct request_options *options = &request->options;
    const struct cache_sequence *cache = request->choices ? request->choices[0].cache : NULL;
    uint32_t n_kv_heads = cache_n_kv_heads(s->runtime->cache);
    *record =
        (struct request_record){.owner_key = options->owner_key,
                                .order = request->order,
                                .policy = options->plan->preset->name,
                                .budget = plan_evicts(options->plan) ? options->plan->budget : 0,
                                .n_prompt = options->n_prompt,
                                .submitted_ns = request->submitted_ns};
    memcpy(record->id, options->id, sizeof record->id);
    memset(heads, 0, s->n_heads * sizeof *heads);
    if (!cache)
        return;
    struct cache_sequence_counts counts = cache_sequence_counts(cache);
    record->tokens_seen = counts.tokens_seen;
    record->pages = counts.pages;
    record->slots_kept = counts.slots_kept;
    for (uint32_t i = 0; i < s->n_heads; i++)
        heads[i] = cache_head_counts(cache, i / n_kv_heads, i % n_kv_heads);
}

/* ---- the step */

/* A full event buffer pauses its request until the reader has taken half of it. `paused` is set
 * before the buffer is looked at again: either this thread sees the room, or the reader sees the
 * flag and wakes the engine. */
static void update_paused(struct request *request, uint64_t now)
{
    if (atomic_load(&request->place) != PLACE_PAUSED && request_is_full(request)) {
        atomic_store(&request->paused, true);
        request->paused_ns = now;
        request_set_place(request, PLACE_PAUSED);
    }
    if (atomic_load(&request->place) == PLACE_PAUSED && request_has_room(request)) {
        atomic_store(&request->paused, false);
        request_set_place(request, request_decodes(request) ? PLACE_DECODE : PLACE_PREFILL);
    }
}

/* A broken cache aborts the program. An audit that lacks memory is skipped. */
static void audit(struct scheduler *s)
{
    struct error e = {0};
    if (cache_audit(s->runtime->cache, runtime_read_position, s->runtime, &e))
        return;
    if (strcmp(e.code, "out_of_memory") == 0) {
        if (!s->audit_was_skipped)
            log_line(LOG_WARNING, "--audit skips steps for lack of memory: %s", e.message);
        s->audit_was_skipped = true;
        return;
    }
    fprintf(stderr, "winnow: the cache is broken: %s\n", e.message);
    abort();
}

/* A step that stopped half-way leaves incomplete caches, so its requests end. Their prompts may
 * already be listed as prefixes, so unused prefixes are freed as well. */
static void fail_step(struct scheduler *s, const struct error *e)
{
    log_line(LOG_ERROR, "memory is short, so the requests of a step end: %s", e->message);
    for (uint32_t i = 0; i < s->n_rows; i++) {
        struct request *request = s->rows[i].sequence->owner;
        if (request_is_done(request))
            continue;
        request->error = *e;
        output_fail(s, request);
    }
    prefix_give_up(s->runtime->cache, UINT32_MAX);
}

static void fail_device(struct scheduler *s, const struct error *e)
{
    log_line(LOG_ERROR, "the device has failed: %s", e->message);
    atomic_store(&s->faulted, true);
    fail_all(s, "engine_fault", e->message);
}

static void run(struct scheduler *s)
{
    struct error e;
    uint64_t start_ns = clock_ns();
    const float *logits =
        forward_compute(s->runtime->forward, s->runtime->batch, &e) ? output_fetch(s, &e) : NULL;
    if (logits) {
        histogram_observe(&s->options.metrics->step_batch_tokens, batch_rows(s->runtime->batch));
        cache_set_time(s->runtime->cache, clock_ns());
        pages_settle(s);
        output_rows(s, logits);
    } else if (strcmp(e.code, "out_of_memory") == 0 && forward_works(s->runtime->forward, &e)) {
        fail_step(s, &e);
    } else {
        fail_device(s, &e);
    }
    uint64_t took_ns = clock_ns() - start_ns;
    rows_note_time(s, took_ns);
    histogram_observe(&s->options.metrics->step_time, (double)took_ns / 1e9);
}

bool scheduler_step(struct scheduler *s, uint64_t *wake_ns)
{
    uint64_t now = clock_ns();
    cache_set_time(s->runtime->cache, now);
    uint64_t session_end = session_expire(&s->sessions, now);
    admission_expire(s, now);
    struct request *request;
    TAILQ_FOREACH(request, &s->running, link)
        update_paused(request, now);
    admission_admit(s, now);
    uint64_t planned_ns = clock_ns();
    rows_choose(s);
    if (s->n_rows > 0) {
        planned_ns = clock_ns() - planned_ns;
        run(s);
        histogram_observe(&s->options.metrics->policy_time,
                          (double)(planned_ns + batch_policy_ns(s->runtime->batch)) / 1e9);
    }
    bool moved = s->n_rows > 0 || !TAILQ_EMPTY(&s->ended);
    drop_ended(s);
    if (s->options.audit)
        audit(s);
    if (!moved)
        *wake_ns = admission_next_expiry(s, session_end);
    return moved;
}
