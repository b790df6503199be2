/* What follows from the rows of a step: see output.h. */
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

/* Puts what choice 0 holds into the history. Called when its cache is freed and when the request
 * ends. */
static void record_end(struct scheduler *s, struct request *request, uint64_t now)
{
    struct request_record *record = history_of(&s->history, request->order);
    if (!record) {
        struct cache_head_counts *heads;
        record = history_add(&s->history, &heads);
        scheduler_describe(s, request, record, heads);
    }
    record->ended_ns = now;
}

static void record_finish(struct scheduler *s, struct request *request, enum metrics_finish reason)
{
    struct engine_metrics *m = s->options.metrics;
    uint64_t now = clock_ns();
    record_end(s, request, now);
    request->usage.completion_tokens = 0;
    for (uint32_t i = 0; request->choices && i < request->options.n_choices; i++)
        request->usage.completion_tokens += request->choices[i].n_generated;
    if (request->measured)
        request->usage.predicted_ms = (double)(now - request->first_token_ns) / 1e6;
    else if (request->admitted)
        request->usage.prompt_ms = (double)(now - request->admitted_ns) / 1e6;
    atomic_fetch_add(&m->finished[reason][request->policy], 1);
    histogram_observe(&m->request_duration, (double)(now - request->submitted_ns) / 1e9);
    histogram_observe(&m->request_prompt_tokens, request->options.n_prompt);
    histogram_observe(&m->request_generation_tokens, request->usage.completion_tokens);
    if (request->measured)
        histogram_observe(&m->decode_time, request->usage.predicted_ms / 1e3);
}

static void record_pages(const struct scheduler *s, struct request *request,
                         const struct cache_sequence_counts *c)
{
    struct request_usage *u = &request->usage;
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
    u->policy = request->options.plan->preset->name;
    u->budget = plan_evicts(request->options.plan) ? request->options.plan->budget : 0;
}

/* Lists the answer too as a prefix, if nothing was dropped: the next prompt may begin with it. */
static void list_answer(struct choice *q)
{
    struct request *request = q->owner;
    uint32_t n = cache_tokens_seen(q->cache), n_prompt = request->options.n_prompt;
    if (!request->options.reuse_prefix || q->index != 0 || request->n_chained + PAGE_SLOTS > n ||
        n <= n_prompt || plan_evicts(request->options.plan))
        return;
    int32_t *tokens = malloc(n * sizeof *tokens);
    for (uint32_t i = 0; tokens && i < n; i++)
        tokens[i] = choice_token(q, i);
    if (tokens)
        request->usage.cache_write_tokens +=
            prefix_list(q->cache, &request->chain, &request->n_chained, tokens, n);
    free(tokens);
}

/* Keeps the cache for the session's next turn. False: the caller still owns it. */
static bool keep_session(struct scheduler *s, struct choice *q, enum finish_reason reason)
{
    struct request *request = q->owner;
    const char *id = request->options.session_id;
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
    session->owner_key = request->options.owner_key;
    session->plan = plan_hold(request->options.plan);
    session->tokens = tokens;
    session->n_tokens = n;
    session->cache = q->cache;
    q->cache = NULL;
    session_free(
        session_take(&s->sessions, id, request->options.owner_key)); /* the one of that name */
    session_put(&s->sessions, session, clock_ns());
    request->usage.session_kept = true;
    request->usage.session_ends =
        (int64_t)time(NULL) + (int64_t)(s->options.session_ttl_ns / 1000000000u);
    return true;
}

/* Counts what the choice's cache held and frees it. */
static void drop_cache(struct scheduler *s, struct choice *q, enum finish_reason reason)
{
    if (!q->cache)
        return;
    struct request *request = q->owner;
    struct cache_sequence_counts counts = cache_sequence_counts(q->cache);
    if (q->index == 0) {
        record_pages(s, request, &counts);
        record_end(s, request, clock_ns());
        if (request->options.plan->trace)
            request->trace = trace_text(s->runtime->cache, q->cache, &request->trace_truncated);
    }
    scheduler_count(s, q);
    atomic_fetch_add(&s->options.metrics->tokens_seen[request->policy], counts.tokens_seen);
    atomic_fetch_add(&s->options.metrics->slots_kept[request->policy],
                     (uint64_t)llround(counts.slots_kept));
    uint32_t before = pages_begin(s);
    list_answer(q);
    if (!keep_session(s, q, reason))
        cache_sequence_free(q->cache);
    q->cache = NULL;
    pages_end(s, request, before);
}

static void fail_memory(struct scheduler *s, struct request *request)
{
    error_set_memory(&request->error, "events of a request", EVENT_BUFFER_LIMIT);
    output_fail(s, request);
}

void output_fail(struct scheduler *s, struct request *request)
{
    record_finish(s, request, METRICS_FINISH_ERROR);
    scheduler_remove(s, request);
    request_end(request, EVENT_ERROR);
}

static void finish(struct scheduler *s, struct request *request)
{
    static const enum metrics_finish reasons[] = {[FINISH_STOP] = METRICS_FINISH_STOP,
                                                  [FINISH_LENGTH] = METRICS_FINISH_LENGTH,
                                                  [FINISH_ABORT] = METRICS_FINISH_ABORT,
                                                  [FINISH_ERROR] = METRICS_FINISH_ERROR};
    record_finish(s, request, reasons[request->finish]);
    scheduler_remove(s, request);
    request_end(request, EVENT_DONE);
}

void output_end_choice(struct scheduler *s, struct choice *q, enum finish_reason reason,
                       int32_t stop_token)
{
    struct request *request = q->owner;
    if (q->index == 0)
        request->finish = reason;
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
    if (!emitted || !request_emit(request, &event))
        fail_memory(s, request);
    else if (request_n_living(request) == 0)
        finish(s, request);
}

void output_cancel(struct scheduler *s, struct request *request)
{
    static const enum metrics_phase phases[] = {[PLACE_QUEUED] = METRICS_PHASE_QUEUED,
                                                [PLACE_PREFILL] = METRICS_PHASE_PREFILL,
                                                [PLACE_DECODE] = METRICS_PHASE_DECODE,
                                                [PLACE_PAUSED] = METRICS_PHASE_PAUSED};
    if (atomic_load(&request->client_left))
        atomic_fetch_add(&s->options.metrics->disconnects[phases[atomic_load(&request->place)]], 1);
    request->finish = FINISH_ABORT;
    if (!request->choices) {
        finish(s, request);
        return;
    }
    for (uint32_t i = 0; i < request->options.n_choices && !request_is_done(request); i++)
        if (!request->choices[i].done)
            output_end_choice(s, &request->choices[i], FINISH_ABORT, -1);
}

/* ---- samples */

static void note_token(struct scheduler *s, struct request *request, struct choice *q)
{
    uint64_t now = clock_ns();
    atomic_fetch_add(&s->options.metrics->generation_tokens, 1);
    if (q->n_generated > 0)
        histogram_observe(&s->options.metrics->inter_token_latency,
                          (double)(now - q->last_token_ns) / 1e9);
    q->last_token_ns = now;
    if (request->measured)
        return;
    request->measured = true;
    request->first_token_ns = now;
    request->usage.ttft_ms = (double)(now - request->submitted_ns) / 1e6;
    request->usage.prompt_ms = (double)(now - request->admitted_ns) / 1e6;
    histogram_observe(&s->options.metrics->time_to_first_token, request->usage.ttft_ms / 1e3);
    histogram_observe(&s->options.metrics->prefill_time, request->usage.prompt_ms / 1e3);
    atomic_fetch_add(&s->options.metrics->prompt_tokens, request->options.n_prompt);
}

static bool contains(const int32_t *tokens, uint32_t n, int32_t token)
{
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] == token)
            return true;
    return false;
}

/* Adds the next token to one choice: the one that the device picked, or one from its logits. */
static void sample(struct scheduler *s, struct choice *q, const float *logits)
{
    struct request *request = q->owner;
    const struct request_options *options = &request->options;
    if (!choice_reserve(q, &request->error)) {
        output_fail(s, request);
        return;
    }
    bool early = q->n_generated < options->min_tokens;
    struct top_logprob top[TOPS];
    struct event_token token = {.top = top};
    token.token = q->picked;
    if (q->picked == PICK_NONE)
        token.token = sampler_pick(q->sampler, s->scratch, logits, request->ends,
                                   early ? request->n_ends : 0, q->n_generated);
    if (options->n_logprobs >= 0)
        token.logprob = logprobs_of(logits, s->runtime->model->n_vocab, token.token,
                                    (uint32_t)options->n_logprobs, top, &token.n_top);
    note_token(s, request, q);
    sampler_accept(q->sampler, token.token);

    if (contains(request->ends, request->n_ends, token.token)) {
        q->generated[q->n_generated++] = token.token;
        bool asked = contains(options->stop_tokens, options->n_stop_tokens, token.token);
        output_end_choice(s, q, FINISH_STOP, asked ? token.token : -1);
        return;
    }
    choice_add_token(q, s->runtime->tokenizer, &token);
    if (q->hit < 0 && q->n_generated >= request->max_new)
        output_end_choice(s, q, FINISH_LENGTH, -1);
    else if (!choice_emit(q, false))
        fail_memory(s, request);
    else if (q->hit >= 0)
        output_end_choice(s, q, FINISH_STOP, -1);
}

/* ---- prompts */

/* Log probabilities of prompt tokens: the row at position p gives those of token p + 1. */
static void emit_prompt(struct scheduler *s, struct request *request, const struct step_rows *rows,
                        const float *logits)
{
    const struct request_options *options = &request->options;
    uint32_t n_vocab = s->runtime->model->n_vocab, n = 0, first = request->prompt_reported;
    if (first == 0) {
        s->prompt_tokens[n++] = (struct event_token){.token = options->prompt[0], .logprob = NAN};
        first = 1;
    }
    for (uint32_t i = 0; i < rows->n_logits; i++) {
        uint32_t at = rows->first + rows->n - rows->n_logits + i + 1;
        if (at < first || at >= options->n_prompt)
            continue;
        struct event_token *token = &s->prompt_tokens[n];
        struct top_logprob *top = &s->prompt_tops[(size_t)n++ * TOPS];
        token->token = options->prompt[at];
        token->logprob = logprobs_of(logits + (size_t)i * n_vocab, n_vocab, token->token,
                                     (uint32_t)options->n_prompt_logprobs, top, &token->n_top);
        token->top = top;
    }
    if (n == 0)
        return;
    struct request_event event = {.kind = EVENT_PROMPT_TOKENS,
                                  .tokens = s->prompt_tokens,
                                  .n_tokens = n,
                                  .first_token = request->prompt_reported,
                                  .stop_token = -1,
                                  .stop_string = -1};
    request->prompt_reported += n;
    if (!request_emit(request, &event))
        fail_memory(s, request);
}

/* A reader that is behind gets only the last progress, so that progress does not fill its
 * buffer. */
static void emit_progress(struct scheduler *s, struct request *request, uint32_t n_done)
{
    if (!request->options.progress || n_done <= request->prompt_done)
        return;
    if (n_done < request->options.n_prompt &&
        event_buffer_waiting(&request->events) > EVENT_BUFFER_LIMIT / 16)
        return;
    request->prompt_done = n_done;
    struct request_event event = {.kind = EVENT_PROGRESS,
                                  .n_done = n_done,
                                  .n_total = request->options.n_prompt,
                                  .time_ms = (double)(clock_ns() - request->admitted_ns) / 1e6,
                                  .stop_token = -1,
                                  .stop_string = -1};
    if (!request_emit(request, &event))
        fail_memory(s, request);
}

/* The prompt was computed once, for the leader; the other choices share its pages from here. */
static bool fork_choices(struct scheduler *s, struct request *request, struct choice *leader)
{
    for (uint32_t i = 0; i < request->options.n_choices; i++) {
        struct choice *q = &request->choices[i];
        if (q->done || q == leader)
            continue;
        uint32_t before = pages_begin(s);
        q->cache = cache_sequence_fork(leader->cache, &request->error);
        pages_end(s, request, before);
        if (!q->cache)
            return false;
        q->counted = cache_sequence_counts(q->cache);
    }
    request->forked = true;
    return true;
}

static void end_prompt(struct scheduler *s, struct request *request, struct choice *leader,
                       const float *logits)
{
    if (!request_is_growing(request))
        request->reserved_pages =
            request->settled_pages; /* the prompt was compressed in this step */
    if (request->max_new == 0) {
        atomic_fetch_add(&s->options.metrics->prompt_tokens, request->options.n_prompt);
        for (uint32_t i = 0; i < request->options.n_choices && !request_is_done(request); i++)
            output_end_choice(s, &request->choices[i], FINISH_LENGTH, -1);
        return;
    }
    if (!request->forked && !fork_choices(s, request, leader)) {
        output_fail(s, request);
        return;
    }
    bool first_time = leader->n_generated == 0; /* else it is computed again after a preemption */
    if (first_time)
        atomic_store(&request->place, PLACE_DECODE); /* before the first token is emitted */
    for (uint32_t i = 0; first_time && i < request->options.n_choices && !request_is_done(request);
         i++)
        if (!request->choices[i].done)
            sample(s, &request->choices[i], logits);
}

static void output_one(struct scheduler *s, const struct step_rows *rows, const float *logits)
{
    struct choice *q = rows->sequence;
    struct request *request = q->owner;
    uint32_t n_vocab = s->runtime->model->n_vocab, end = rows->first + rows->n;
    const float *first = logits + (size_t)rows->logits_row * n_vocab;
    bool is_picked = q->picked != PICK_NONE; /* the row's logits stayed on the device */
    for (uint32_t i = 0; i < rows->n_logits; i++)
        if (is_picked ? q->picked == PICK_NOT_FINITE
                      : !logits_are_finite(first + (size_t)i * n_vocab, n_vocab)) {
            error_set(&request->error, "engine_fault", "",
                      "the model's output at position %u is not a number",
                      end - rows->n_logits + i);
            output_fail(s, request);
            return;
        }
    const float *last = rows->n_logits ? first + (size_t)(rows->n_logits - 1) * n_vocab : NULL;
    if (rows->first < request->options.n_prompt) {
        if (request->options.n_prompt_logprobs >= 0)
            emit_prompt(s, request, rows, first);
        if (!request_is_done(request))
            emit_progress(s, request, end);
        if (!request_is_done(request) && end == request->options.n_prompt)
            end_prompt(s, request, q, last);
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
