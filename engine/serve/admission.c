/* Which requests start and which end early: see admission.h. */
#include "engine/serve/admission.h"

#include <stdlib.h>
#include <string.h>

#include "config/base/clock.h"
#include "engine/serve/output.h"
#include "engine/serve/pages.h"

/* ---- cancelled and out of time */

static void expire(struct scheduler *s, struct request *request, uint64_t now)
{
    if (atomic_load(&request->cancelled)) {
        output_cancel(s, request);
        return;
    }
    uint32_t n_tokens = 0;
    for (uint32_t i = 0; request->choices && i < request->options.n_choices; i++)
        n_tokens += request->choices[i].n_generated;
    if (request->deadline_ns && now >= request->deadline_ns) {
        error_set(&request->error, "deadline_exceeded", "timeout_ms",
                  "the request was not done within its %llu ms; %u tokens had been generated",
                  (unsigned long long)request->options.timeout_ms, n_tokens);
        request->error.completion_tokens = n_tokens;
        output_fail(s, request);
    } else if (!request->admitted && s->options.queue_timeout_ns &&
               now - request->submitted_ns >= s->options.queue_timeout_ns) {
        uint32_t queue_length = atomic_load(&s->n_waiting);
        error_set(&request->error, "queue_timeout", "", "the request waited %llu ms for its turn",
                  (unsigned long long)(s->options.queue_timeout_ns / 1000000));
        request->error.queue_length = queue_length;
        request->error.retry_after_ms = scheduler_retry_after_ms(s, queue_length);
        output_fail(s, request);
    }
}

void admission_expire(struct scheduler *s, uint64_t now)
{
    struct request *next;
    for (struct request *request = TAILQ_FIRST(&s->running); request; request = next) {
        next = TAILQ_NEXT(request, link);
        expire(s, request, now);
    }
    for (struct request *request = TAILQ_FIRST(&s->queue); request; request = next) {
        next = TAILQ_NEXT(request, link);
        expire(s, request, now);
    }
}

/* How long a reader that does not read keeps its place while others wait for one. */
enum { PATIENCE_NS = 1000000000 };

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

uint64_t admission_next_expiry(const struct scheduler *s, uint64_t other_ns)
{
    uint64_t at = other_ns;
    const struct request *request;
    TAILQ_FOREACH(request, &s->running, link) {
        at = earlier(at, request->deadline_ns);
        if (atomic_load(&request->place) == PLACE_PAUSED && !TAILQ_EMPTY(&s->queue))
            at = earlier(at, request->paused_ns + PATIENCE_NS);
    }
    TAILQ_FOREACH(request, &s->queue, link) {
        at = earlier(at, request->deadline_ns);
        if (s->options.queue_timeout_ns && !request->admitted)
            at = earlier(at, request->submitted_ns + s->options.queue_timeout_ns);
    }
    return at;
}

/* ---- sessions */

static bool is_session_of(const struct request *request, const struct request *other)
{
    return request->options.session_id && other->options.session_id &&
           request->options.owner_key == other->options.owner_key &&
           !strcmp(request->options.session_id, other->options.session_id);
}

/* Whether the turn before of the same session still runs. */
static bool waits_for_session(const struct scheduler *s, const struct request *request)
{
    const struct request *r;
    TAILQ_FOREACH(r, &s->running, link)
        if (is_session_of(request, r))
            return true;
    return false;
}

/* Takes the session's cache if the prompt begins with the session's tokens; else frees the session,
 * and the whole prompt is computed. False: the request asks for another policy than the
 * session's. */
static bool continue_session(struct scheduler *s, struct request *request, struct choice *leader)
{
    struct request_options *options = &request->options;
    struct session *session =
        options->session_id ? session_take(&s->sessions, options->session_id, options->owner_key)
                            : NULL;
    if (!session)
        return true;
    if (!plan_agrees(session->plan, options->plan)) {
        if (options->plan->source == SOURCE_DEFAULT || options->plan->source == SOURCE_SESSION) {
            /* The plan is a default, which the client did not ask for: the session gives way. */
            request->usage.session_missed = true;
            session_free(session);
            return true;
        }
        error_set(&request->error, "invalid_kv_policy", "kv_policy",
                  "the session '%.64s' was made under policy '%s' with budget %u; what it dropped "
                  "cannot come back, so it can only go on under the same policy",
                  options->session_id, session->plan->preset->name, session->plan->budget);
        session_put(&s->sessions, session, clock_ns());
        return false;
    }
    bool begins =
        session->n_tokens < options->n_prompt &&
        !memcmp(session->tokens, options->prompt, session->n_tokens * sizeof *options->prompt);
    request->usage.session_missed = !begins;
    if (begins) {
        leader->cache = session->cache;
        session->cache = NULL;
        leader->counted = cache_sequence_counts(leader->cache);
        request->held_pages += session->pages;
        request->usage.session_reused = true;
        request->usage.cached_tokens = session->n_tokens;
        request->usage.reused_slots = session->slots_kept;
        cache_sequence_set_prompt(leader->cache, options->n_prompt);
    }
    session_free(session);
    return true;
}

/* ---- starting */

static bool make_choices(struct scheduler *s, struct request *request)
{
    request->choices = calloc(request->options.n_choices, sizeof *request->choices);
    if (!request->choices)
        return error_set_memory(&request->error, "choices",
                                request->options.n_choices * sizeof *request->choices);
    for (uint32_t i = 0; i < request->options.n_choices; i++)
        if (!choice_init(&request->choices[i], request, i, s->runtime->model->n_vocab,
                         s->max_token_bytes, &request->error))
            return false;
    return true;
}

static void count_admission(struct scheduler *s, uint64_t now)
{
    enum { SECOND_NS = 1000000000 };
    uint64_t since = atomic_load(&s->admissions_since_ns);
    uint32_t n = atomic_fetch_add(&s->n_admissions, 1) + 1;
    if (since && now - since < SECOND_NS)
        return;
    if (since) {
        uint64_t mean = atomic_load(&s->admission_interval_ns), interval = (now - since) / n;
        atomic_store(&s->admission_interval_ns, mean ? (mean + interval) / 2 : interval);
    }
    atomic_store(&s->admissions_since_ns, now);
    atomic_store(&s->n_admissions, 0);
}

static void note_admission(struct scheduler *s, struct request *request, uint64_t now)
{
    request->admitted = true;
    request->admitted_ns = now;
    request->usage.queue_ms = (double)(now - request->submitted_ns) / 1e6;
    histogram_observe(&s->options.metrics->queue_time, request->usage.queue_ms / 1e3);
    atomic_fetch_sub(&s->n_waiting, 1);
    count_admission(s, now);
}

/* Uses cached pages for what the prompt has in common with earlier ones. Not where log
 * probabilities of the prompt are wanted, which must be computed. */
static bool adopt_prefix(struct scheduler *s, struct request *request, struct choice *leader)
{
    const struct request_options *options = &request->options;
    if (!options->reuse_prefix)
        return true;
    uint32_t most =
        options->n_prompt_logprobs >= 0 ? 0 : prefix_usable(options->plan, options->n_prompt);
    uint32_t n =
        most ? prefix_match(s->runtime->cache, &options->prefix_root, options->prompt, most) : 0;
    if (request->usage.n_preemptions == 0) {
        request->usage.cached_tokens = n;
        request->usage.reused_slots = n; /* nothing was dropped from whole pages */
        atomic_fetch_add(&s->options.metrics->prefix_query_tokens, options->n_prompt);
        atomic_fetch_add(&s->options.metrics->prefix_hit_tokens, n);
    }
    uint32_t before = pages_begin(s);
    bool adopted = n == 0 || prefix_adopt(leader->cache, &options->prefix_root, options->prompt, n,
                                          &request->error);
    pages_end(s, request, before);
    return adopted;
}

static void start(struct scheduler *s, struct request *request, uint64_t need, uint64_t now)
{
    if (!request->admitted)
        note_admission(s, request, now);
    TAILQ_REMOVE(&s->queue, request, link);
    scheduler_start(s, request);
    atomic_store(&request->paused, false);
    request_set_place(request, PLACE_PREFILL);
    request->reserved_pages = need;
    request->forked = request_n_living(request) == 1;
    if (!request->choices && !make_choices(s, request)) {
        output_fail(s, request);
        return;
    }
    struct choice *leader = request_first_living(request);
    request->chain = request->options.prefix_root;
    request->n_chained = 0;
    if (!continue_session(s, request, leader)) {
        output_fail(s, request);
        return;
    }
    request->usage.source = request->options.plan->source;
    if (leader->cache)
        return;
    leader->cache = cache_sequence_new(s->runtime->cache, request->options.plan, &request->error);
    memset(&leader->counted, 0, sizeof leader->counted);
    if (!leader->cache || !adopt_prefix(s, request, leader))
        output_fail(s, request);
    else
        cache_sequence_set_prompt(leader->cache, request->options.n_prompt);
}

/* Whether it lost its place because its reader does not read, and the reader still does not. */
static bool is_stalled(const struct request *request)
{
    return atomic_load(&request->paused) && !request_has_room(request);
}

/* A paused request gives its choices and pages to those that wait. It is computed again when its reader
 * has read. False: there is none. */
static bool take_place_of_reader(struct scheduler *s, uint64_t now)
{
    struct request *request;
    TAILQ_FOREACH(request, &s->running, link) {
        if (atomic_load(&request->place) != PLACE_PAUSED || now - request->paused_ns < PATIENCE_NS)
            continue;
        pages_preempt(s, request);
        atomic_store(&request->paused, true); /* so that the reader wakes the engine */
        return true;
    }
    return false;
}

void admission_admit(struct scheduler *s, uint64_t now)
{
    for (;;) {
        struct request *request = TAILQ_FIRST(&s->queue);
        while (request && (waits_for_session(s, request) || is_stalled(request)))
            request = TAILQ_NEXT(request, link);
        if (!request)
            return;
        if (s->n_choices + request->options.n_choices > s->options.max_num_seqs) {
            if (take_place_of_reader(s, now))
                continue;
            return;
        }
        uint64_t need = pages_to_admit(s, request), headroom = 0;
        const struct request *r;
        TAILQ_FOREACH(r, &s->running, link)
            if (request_is_growing(r))
                headroom += (uint64_t)request_n_living(r) * s->n_heads;
        if (s->n_running > 0 && need + headroom > pages_for(s, NULL)) {
            if (take_place_of_reader(s, now))
                continue;
            return;
        }
        /* A request that runs alone may always start: it ends by length when the pool is full. */
        uint64_t n_pages = cache_counts(s->runtime->cache).n_pages;
        start(s, request, need < n_pages ? need : n_pages, now);
    }
}
