/* What the rows of a step mean: see output.h. */
#include "engine/serve/output.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "config/base/clock.h"
#include "engine/serve/pages.h"
#include "engine/serve/trace.h"

enum { TOPS = LOGPROBS_MAX_TOP + 1 };

/* ---- ends */

/* What choice 0 holds stays known for a while. Called when its cache goes, and when all ends. */
static void record_end(struct scheduler *s, struct request *g, uint64_t now)
{
    struct request_record *record = history_of(&s->history, g->order);
    if (!record) {
        struct cache_head_counts *heads;
        record = history_add(&s->history, &heads);
        scheduler_describe(s, g, record, heads);
    }
    record->ended_ns = now;
}

static void record_finish(struct scheduler *s, struct request *g, enum metrics_finish reason)
{
    struct engine_metrics *m = s->options.metrics;
    uint64_t now = clock_ns();
    record_end(s, g, now);
    g->usage.completion_tokens = 0;
    for (uint32_t i = 0; g->choices && i < g->options.n_choices; i++)
        g->usage.completion_tokens += g->choices[i].n_generated;
    if (g->measured)
        g->usage.predicted_ms = (double)(now - g->first_token_ns) / 1e6;
    else if (g->admitted)
        g->usage.prompt_ms = (double)(now - g->admitted_ns) / 1e6;
    atomic_fetch_add(&m->finished[reason][g->policy], 1);
    histogram_observe(&m->request_duration, (double)(now - g->submitted_ns) / 1e9);
    histogram_observe(&m->request_prompt_tokens, g->options.n_prompt);
    histogram_observe(&m->request_generation_tokens, g->usage.completion_tokens);
    if (g->measured)
        histogram_observe(&m->decode_time, g->usage.predicted_ms / 1e3);
}

static void record_pages(const struct scheduler *s, struct request *g,
                         const struct cache_sequence_counts *c)
{
    struct request_usage *u = &g->usage;
    u->tokens_seen = c->tokens_seen;
    u->slots_kept = c->slots_kept;
    u->slots_kept_min = c->slots_kept_min;
    u->slots_kept_max = c->slots_kept_max;
    u->evicted = c->tokens_seen - c->slots_kept;
    u->pages = c->pages;
    u->pages_returned = c->pages_returned;
    u->bytes = c->pages * s->runtime->page_bytes;
    u->bytes_peak = c->pages_peak * s->runtime->page_bytes;
    u->bytes_full = c->pages_full * s->runtime->page_bytes;
    u->exact = c->exact;
    u->policy = g->options.plan->preset->name;
    u->budget = plan_evicts(g->options.plan) ? g->options.plan->budget : 0;
}

/* The answer too may be the beginning of the next prompt, where every token still sees all. */
static void list_answer(struct choice *q)
{
    struct request *g = q->owner;
    uint32_t n = cache_tokens_seen(q->cache), n_prompt = g->options.n_prompt;
    if (!g->options.reuse_prefix || q->index != 0 || g->n_chained + PAGE_SLOTS > n ||
        n <= n_prompt || plan_evicts(g->options.plan))
        return;
    int32_t *tokens = malloc(n * sizeof *tokens);
    for (uint32_t i = 0; tokens && i < n; i++)
        tokens[i] = choice_token(q, i);
    if (tokens)
        g->usage.cache_write_tokens += prefix_list(q->cache, &g->chain, &g->n_chained, tokens, n);
    free(tokens);
}

/* The cache waits for the session's next turn. False: it does not. */
static bool keep_session(struct scheduler *s, struct choice *q, enum finish_reason reason)
{
    struct request *g = q->owner;
    const char *id = g->options.session_id;
    if (!id || q->index != 0 || s->options.session_ttl_ns == 0 ||
        (reason != FINISH_STOP && reason != FINISH_LENGTH))
        return false;
    uint32_t n = cache_tokens_seen(q->cache);
    struct session *session = calloc(1, sizeof *session);
    int32_t *tokens = malloc((n ? n : 1) * sizeof *tokens);
    if (!session || !tokens) {
        free(session);
        free(tokens);
        return false;
    }
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = choice_token(q, i);
    snprintf(session->id, sizeof session->id, "%s", id);
    session->owner_key = g->options.owner_key;
    session->plan = plan_hold(g->options.plan);
    session->tokens = tokens;
    session->n_tokens = n;
    session->cache = q->cache;
    q->cache = NULL;
    session_free(session_take(&s->sessions, id, g->options.owner_key)); /* one of that name */
    session_put(&s->sessions, session, clock_ns());
    g->usage.session_kept = true;
    g->usage.session_ends =
        (int64_t)time(NULL) + (int64_t)(s->options.session_ttl_ns / 1000000000u);
    return true;
}

/* The choice's cache goes; what it held is counted first. */
static void drop_cache(struct scheduler *s, struct choice *q, enum finish_reason reason)
{
    if (!q->cache)
        return;
    struct request *g = q->owner;
    struct cache_sequence_counts counts = cache_sequence_counts(q->cache);
    if (q->index == 0) {
        record_pages(s, g, &counts);
        record_end(s, g, clock_ns());
        if (g->options.plan->trace)
            g->trace = trace_text(s->runtime->cache, q->cache, &g->trace_truncated);
    }
    scheduler_count(s, q);
    atomic_fetch_add(&s->options.metrics->tokens_seen[g->policy], counts.tokens_seen);
    atomic_fetch_add(&s->options.metrics->slots_kept[g->policy],
                     (uint64_t)llround(counts.slots_kept));
    uint32_t before = pages_begin(s);
    list_answer(q);
    if (!keep_session(s, q, reason))
        cache_sequence_free(q->cache);
    q->cache = NULL;
    pages_end(s, g, before);
}

static void fail_memory(struct scheduler *s, struct request *g)
{
    error_set_memory(&g->error, "events of a request", EVENT_BUFFER_LIMIT);
    output_fail(s, g);
}

void output_fail(struct scheduler *s, struct request *g)
{
    record_finish(s, g, METRICS_FINISH_ERROR);
    scheduler_remove(s, g);
    request_end(g, EVENT_ERROR);
}

static void finish(struct scheduler *s, struct request *g)
{
    static const enum metrics_finish reasons[] = {[FINISH_STOP] = METRICS_FINISH_STOP,
                                                  [FINISH_LENGTH] = METRICS_FINISH_LENGTH,
                                                  [FINISH_ABORT] = METRICS_FINISH_ABORT,
                                                  [FINISH_ERROR] = METRICS_FINISH_ERROR};
    record_finish(s, g, reasons[g->finish]);
    scheduler_remove(s, g);
    request_end(g, EVENT_DONE);
}

void output_end_choice(struct scheduler *s, struct choice *q, enum finish_reason reason,
                       int32_t stop_token)
{
    struct request *g = q->owner;
    if (q->index == 0)
        g->finish = reason;
    bool emitted = true;
    if (q->hit < 0) {
        choice_add_end(q);
        emitted = choice_emit(q, true);
    }
    q->done = true;
    drop_cache(s, q, q->hit >= 0 ? FINISH_STOP : reason);
    struct request_event event = {.kind = EVENT_CHOICE_END,
                                  .choice = q->index,
                                  .finish = q->hit >= 0 ? FINISH_STOP : reason,
                                  .stop_token = stop_token,
                                  .stop_string = q->hit};
    if (!emitted || !request_emit(g, &event))
        fail_memory(s, g);
    else if (request_n_living(g) == 0)
        finish(s, g);
}

void output_cancel(struct scheduler *s, struct request *g)
{
    static const enum metrics_phase phases[] = {[PLACE_QUEUED] = METRICS_PHASE_QUEUED,
                                                [PLACE_PREFILL] = METRICS_PHASE_PREFILL,
                                                [PLACE_DECODE] = METRICS_PHASE_DECODE,
                                                [PLACE_PAUSED] = METRICS_PHASE_PAUSED};
    if (atomic_load(&g->client_left))
        atomic_fetch_add(&s->options.metrics->disconnects[phases[atomic_load(&g->place)]], 1);
    g->finish = FINISH_ABORT;
    if (!g->choices) {
        finish(s, g);
        return;
    }
    for (uint32_t i = 0; i < g->options.n_choices && !request_is_done(g); i++)
        if (!g->choices[i].done)
            output_end_choice(s, &g->choices[i], FINISH_ABORT, -1);
}

/* ---- samples */

static void note_token(struct scheduler *s, struct request *g, struct choice *q)
{
    uint64_t now = clock_ns();
    atomic_fetch_add(&s->options.metrics->generation_tokens, 1);
    if (q->n_generated > 0)
        histogram_observe(&s->options.metrics->inter_token_latency,
                          (double)(now - q->last_token_ns) / 1e9);
    q->last_token_ns = now;
    if (g->measured)
        return;
    g->measured = true;
    g->first_token_ns = now;
    g->usage.ttft_ms = (double)(now - g->submitted_ns) / 1e6;
    g->usage.prompt_ms = (double)(now - g->admitted_ns) / 1e6;
    histogram_observe(&s->options.metrics->time_to_first_token, g->usage.ttft_ms / 1e3);
    histogram_observe(&s->options.metrics->prefill_time, g->usage.prompt_ms / 1e3);
    atomic_fetch_add(&s->options.metrics->prompt_tokens, g->options.n_prompt);
}

static bool contains(const int32_t *tokens, uint32_t n, int32_t token)
{
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] == token)
            return true;
    return false;
}

/* The next token of one choice, picked already or from its logits. */
static void sample(struct scheduler *s, struct choice *q, const float *logits)
{
    struct request *g = q->owner;
    const struct request_options *r = &g->options;
    if (!choice_reserve(q, &g->error)) {
        output_fail(s, g);
        return;
    }
    bool early = q->n_generated < r->min_tokens;
    struct top_logprob top[TOPS];
    struct event_token token = {.top = top};
    token.token = q->picked;
    if (q->picked == PICK_NONE)
        token.token = sampler_pick(q->sampler, s->scratch, logits, g->ends, early ? g->n_ends : 0,
                                   q->n_generated);
    if (r->n_logprobs >= 0)
        token.logprob = logprobs_of(logits, s->runtime->model->n_vocab, token.token,
                                    (uint32_t)r->n_logprobs, top, &token.n_top);
    note_token(s, g, q);
    sampler_accept(q->sampler, token.token);

    if (contains(g->ends, g->n_ends, token.token)) {
        q->generated[q->n_generated++] = token.token;
        bool asked = contains(r->stop_tokens, r->n_stop_tokens, token.token);
        output_end_choice(s, q, FINISH_STOP, asked ? token.token : -1);
        return;
    }
    choice_add_token(q, s->runtime->tokenizer, &token);
    if (q->hit < 0 && q->n_generated >= g->max_new)
        output_end_choice(s, q, FINISH_LENGTH, -1);
    else if (!choice_emit(q, false))
        fail_memory(s, g);
    else if (q->hit >= 0)
        output_end_choice(s, q, FINISH_STOP, -1);
}

/* ---- prompts */

/* Log probabilities of prompt tokens: the row at position p gives those of token p + 1. */
static void emit_prompt(struct scheduler *s, struct request *g, const struct step_rows *rows,
                        const float *logits)
{
    const struct request_options *r = &g->options;
    uint32_t n_vocab = s->runtime->model->n_vocab, n = 0, first = g->prompt_reported;
    if (first == 0) {
        s->prompt_tokens[n++] = (struct event_token){.token = r->prompt[0], .logprob = NAN};
        first = 1;
    }
    for (uint32_t i = 0; i < rows->n_logits; i++) {
        uint32_t at = rows->first + rows->n - rows->n_logits + i + 1;
        if (at < first || at >= r->n_prompt)
            continue;
        struct event_token *token = &s->prompt_tokens[n];
        struct top_logprob *top = &s->prompt_tops[(size_t)n++ * TOPS];
        token->token = r->prompt[at];
        token->logprob = logprobs_of(logits + (size_t)i * n_vocab, n_vocab, token->token,
                                     (uint32_t)r->n_prompt_logprobs, top, &token->n_top);
        token->top = top;
    }
    if (n == 0)
        return;
    struct request_event event = {.kind = EVENT_PROMPT_TOKENS,
                                  .tokens = s->prompt_tokens,
                                  .n_tokens = n,
                                  .first_token = g->prompt_reported,
                                  .stop_token = -1,
                                  .stop_string = -1};
    g->prompt_reported += n;
    if (!request_emit(g, &event))
        fail_memory(s, g);
}

/* A reader that is behind gets the end only: progress must not fill its buffer. */
static void emit_progress(struct scheduler *s, struct request *g, uint32_t n_done)
{
    if (!g->options.progress || n_done <= g->prompt_done)
        return;
    if (n_done < g->options.n_prompt && event_buffer_waiting(&g->events) > EVENT_BUFFER_LIMIT / 16)
        return;
    g->prompt_done = n_done;
    struct request_event event = {.kind = EVENT_PROGRESS,
                                  .n_done = n_done,
                                  .n_total = g->options.n_prompt,
                                  .time_ms = (double)(clock_ns() - g->admitted_ns) / 1e6,
                                  .stop_token = -1,
                                  .stop_string = -1};
    if (!request_emit(g, &event))
        fail_memory(s, g);
}

/* The prompt is computed once: the other choices share its pages from here. */
static bool fork_choices(struct scheduler *s, struct request *g, struct choice *leader)
{
    for (uint32_t i = 0; i < g->options.n_choices; i++) {
        struct choice *q = &g->choices[i];
        if (q->done || q == leader)
            continue;
        uint32_t before = pages_begin(s);
        q->cache = cache_sequence_fork(leader->cache, &g->error);
        pages_end(s, g, before);
        if (!q->cache)
            return false;
        q->counted = cache_sequence_counts(q->cache);
    }
    g->forked = true;
    return true;
}

static void end_prompt(struct scheduler *s, struct request *g, struct choice *leader,
                       const float *logits)
{
    if (!request_is_growing(g))
        g->reserved_pages = g->settled_pages; /* the prompt was compressed in this step */
    if (g->max_new == 0) {
        atomic_fetch_add(&s->options.metrics->prompt_tokens, g->options.n_prompt);
        for (uint32_t i = 0; i < g->options.n_choices && !request_is_done(g); i++)
            output_end_choice(s, &g->choices[i], FINISH_LENGTH, -1);
        return;
    }
    if (!g->forked && !fork_choices(s, g, leader)) {
        output_fail(s, g);
        return;
    }
    bool first_time = leader->n_generated == 0; /* else it is computed again after a preemption */
    if (first_time)
        atomic_store(&g->place, PLACE_DECODE); /* before the first token is emitted */
    for (uint32_t i = 0; first_time && i < g->options.n_choices && !request_is_done(g); i++)
        if (!g->choices[i].done)
            sample(s, &g->choices[i], logits);
}

static void output_one(struct scheduler *s, const struct step_rows *rows, const float *logits)
{
    struct choice *q = rows->sequence;
    struct request *g = q->owner;
    uint32_t n_vocab = s->runtime->model->n_vocab, end = rows->first + rows->n;
    const float *first = logits + (size_t)rows->logits_row * n_vocab;
    bool is_picked = q->picked != PICK_NONE; /* the row's logits stayed on the device */
    for (uint32_t i = 0; i < rows->n_logits; i++)
        if (is_picked ? q->picked == PICK_NOT_FINITE
                      : !logits_are_finite(first + (size_t)i * n_vocab, n_vocab)) {
            error_set(&g->error, "engine_fault", "",
                      "the model's output at position %u is not a number",
                      end - rows->n_logits + i);
            output_fail(s, g);
            return;
        }
    const float *last = rows->n_logits ? first + (size_t)(rows->n_logits - 1) * n_vocab : NULL;
    if (rows->first < g->options.n_prompt) {
        if (g->options.n_prompt_logprobs >= 0)
            emit_prompt(s, g, rows, first);
        if (!request_is_done(g))
            emit_progress(s, g, end);
        if (!request_is_done(g) && end == g->options.n_prompt)
            end_prompt(s, g, q, last);
    } else if (end == choice_n_tokens(q)) {
        sample(s, q, last);
    }
}

void output_rows(struct scheduler *s, const float *logits)
{
    for (uint32_t i = 0; i < s->n_rows; i++)
        if (!request_is_done(s->rows[i].sequence->owner) && !s->rows[i].sequence->done)
            output_one(s, &s->rows[i], logits);
}
