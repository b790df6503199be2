/* Which requests begin to run and which end early: see admission.h. */
#include "engine/serve/admission.h"

#include <stdlib.h>
#include <string.h>

#include "config/base/clock.h"
#include "engine/serve/output.h"
#include "engine/serve/pages.h"

/* ---- cancelled and out of time */

static void expire(struct scheduler *s, struct request *g, uint64_t now)
{
    if (atomic_load(&g->cancelled)) {
        output_cancel(s, g);
        return;
    }
    uint32_t n_tokens = 0;
    for (uint32_t i = 0; g->choices && i < g->options.n_choices; i++)
        n_tokens += g->choices[i].n_generated;
    if (g->deadline_ns && now >= g->deadline_ns) {
        error_set(&g->error, "deadline_exceeded", "timeout_ms",
                  "the request was not done within its %llu ms; %u tokens had been generated",
                  (unsigned long long)g->options.timeout_ms, n_tokens);
        g->error.completion_tokens = n_tokens;
        output_fail(s, g);
    } else if (!g->admitted && s->options.queue_timeout_ns &&
               now - g->submitted_ns >= s->options.queue_timeout_ns) {
        uint32_t queue_length = atomic_load(&s->n_waiting);
        error_set(&g->error, "queue_timeout", "", "the request waited %llu ms for its turn",
                  (unsigned long long)(s->options.queue_timeout_ns / 1000000));
        g->error.queue_length = queue_length;
        g->error.retry_after_ms = scheduler_retry_after_ms(s, queue_length);
        output_fail(s, g);
    }
}

void admission_expire(struct scheduler *s, uint64_t now)
{
    struct request *next;
    for (struct request *g = TAILQ_FIRST(&s->running); g; g = next) {
        next = TAILQ_NEXT(g, link);
        expire(s, g, now);
    }
    for (struct request *g = TAILQ_FIRST(&s->queue); g; g = next) {
        next = TAILQ_NEXT(g, link);
        expire(s, g, now);
    }
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

uint64_t admission_next_expiry(const struct scheduler *s, uint64_t other_ns)
{
    uint64_t at = other_ns;
    const struct request *g;
    TAILQ_FOREACH(g, &s->running, link)
        at = earlier(at, g->deadline_ns);
    TAILQ_FOREACH(g, &s->queue, link) {
        at = earlier(at, g->deadline_ns);
        if (s->options.queue_timeout_ns && !g->admitted)
            at = earlier(at, g->submitted_ns + s->options.queue_timeout_ns);
    }
    return at;
}

/* ---- sessions */

static bool is_session_of(const struct request *g, const struct request *other)
{
    return g->options.session_id && other->options.session_id &&
           g->options.owner_key == other->options.owner_key &&
           !strcmp(g->options.session_id, other->options.session_id);
}

/* Whether the turn before, of the same session, still runs. */
static bool waits_for_session(const struct scheduler *s, const struct request *g)
{
    const struct request *r;
    TAILQ_FOREACH(r, &s->running, link)
        if (is_session_of(g, r))
            return true;
    return false;
}

/* Goes on in the cache of its session, when the prompt begins with the tokens that made it; else
 * the session is forgotten and the prompt computed from its beginning. False: another policy was
 * asked for. */
static bool continue_session(struct scheduler *s, struct request *g, struct choice *leader)
{
    struct request_options *r = &g->options;
    struct session *session =
        r->session_id ? session_take(&s->sessions, r->session_id, r->owner_key) : NULL;
    if (!session)
        return true;
    if (!plan_agrees(session->plan, r->plan)) {
        if (r->plan->source == SOURCE_DEFAULT || r->plan->source == SOURCE_SESSION) {
            /* Nobody asked for this plan, but it was chosen: the cache is of no use under it. */
            g->usage.session_missed = true;
            session_free(session);
            return true;
        }
        error_set(&g->error, "invalid_kv_policy", "kv_policy",
                  "the session '%.64s' was made under policy '%s' with budget %u; what it dropped "
                  "cannot come back, so it goes on under the same policy or not at all",
                  r->session_id, session->plan->preset->name, session->plan->budget);
        session_put(&s->sessions, session, clock_ns());
        return false;
    }
    bool begins = session->n_tokens < r->n_prompt &&
                  !memcmp(session->tokens, r->prompt, session->n_tokens * sizeof *r->prompt);
    g->usage.session_missed = !begins;
    if (begins) {
        leader->cache = session->cache;
        session->cache = NULL;
        leader->counted = cache_sequence_counts(leader->cache);
        g->held_pages += session->pages;
        g->usage.session_reused = true;
        g->usage.cached_tokens = session->n_tokens;
        g->usage.reused_slots = session->slots_kept;
        cache_sequence_set_prompt(leader->cache, r->n_prompt);
    }
    session_free(session);
    return true;
}

/* ---- beginning to run */

static bool make_choices(struct scheduler *s, struct request *g)
{
    g->choices = calloc(g->options.n_choices, sizeof *g->choices);
    if (!g->choices)
        return error_set_memory(&g->error, "choices", g->options.n_choices * sizeof *g->choices);
    for (uint32_t i = 0; i < g->options.n_choices; i++)
        if (!choice_init(&g->choices[i], g, i, s->runtime->model->n_vocab, s->max_token_bytes,
                         &g->error))
            return false;
    return true;
}

static void note_admission(struct scheduler *s, struct request *g, uint64_t now)
{
    g->admitted = true;
    g->admitted_ns = now;
    g->usage.queue_ms = (double)(now - g->submitted_ns) / 1e6;
    histogram_observe(&s->options.metrics->queue_time, g->usage.queue_ms / 1e3);
    atomic_fetch_sub(&s->n_waiting, 1);
    if (s->last_admission_ns) {
        uint64_t mean = atomic_load(&s->admission_interval_ns);
        uint64_t interval = now - s->last_admission_ns;
        atomic_store(&s->admission_interval_ns, mean ? (mean * 7 + interval) / 8 : interval);
    }
    s->last_admission_ns = now;
}

/* What the prompt has in common with earlier ones need not be computed again. Not when the log
 * probabilities of the prompt are wanted. */
static bool adopt_prefix(struct scheduler *s, struct request *g, struct choice *leader)
{
    const struct request_options *r = &g->options;
    if (!r->reuse_prefix)
        return true;
    uint32_t most = r->n_prompt_logprobs >= 0 ? 0 : prefix_usable(r->plan, r->n_prompt);
    uint32_t n = most ? prefix_match(s->runtime->cache, &r->prefix_root, r->prompt, most) : 0;
    if (g->usage.n_preemptions == 0) {
        g->usage.cached_tokens = n;
        g->usage.reused_slots = n; /* of whole pages nothing was dropped */
        atomic_fetch_add(&s->options.metrics->prefix_query_tokens, r->n_prompt);
        atomic_fetch_add(&s->options.metrics->prefix_hit_tokens, n);
    }
    uint32_t before = pages_begin(s);
    bool adopted = n == 0 || prefix_adopt(leader->cache, &r->prefix_root, r->prompt, n, &g->error);
    pages_end(s, g, before);
    return adopted;
}

static void start(struct scheduler *s, struct request *g, uint64_t need, uint64_t now)
{
    if (!g->admitted)
        note_admission(s, g, now);
    TAILQ_REMOVE(&s->queue, g, link);
    scheduler_start(s, g);
    request_set_place(g, PLACE_PREFILL);
    g->reserved_pages = need;
    g->forked = request_n_living(g) == 1;
    if (!g->choices && !make_choices(s, g)) {
        output_fail(s, g);
        return;
    }
    struct choice *leader = request_first_living(g);
    g->chain = g->options.prefix_root;
    g->n_chained = 0;
    if (!continue_session(s, g, leader)) {
        output_fail(s, g);
        return;
    }
    g->usage.source = g->options.plan->source;
    if (leader->cache)
        return;
    leader->cache = cache_sequence_new(s->runtime->cache, g->options.plan, &g->error);
    memset(&leader->counted, 0, sizeof leader->counted);
    if (!leader->cache || !adopt_prefix(s, g, leader))
        output_fail(s, g);
    else
        cache_sequence_set_prompt(leader->cache, g->options.n_prompt);
}

void admission_admit(struct scheduler *s, uint64_t now)
{
    for (;;) {
        struct request *g = TAILQ_FIRST(&s->queue);
        while (g && waits_for_session(s, g))
            g = TAILQ_NEXT(g, link);
        if (!g)
            return;
        if (s->n_choices + g->options.n_choices > s->options.max_num_seqs)
            return;
        uint64_t need = pages_to_admit(s, g), headroom = 0;
        const struct request *r;
        TAILQ_FOREACH(r, &s->running, link)
            if (request_is_growing(r))
                headroom += (uint64_t)request_n_living(r) * s->n_heads;
        if (s->n_running > 0 && need + headroom > pages_for(s, NULL))
            return;
        /* Alone it may always try: it ends by length where the pool does. */
        uint64_t n_pages = cache_counts(s->runtime->cache).n_pages;
        start(s, g, need < n_pages ? need : n_pages, now);
    }
}
