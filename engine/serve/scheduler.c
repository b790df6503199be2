/* The scheduler: see scheduler.h. */
#include "engine/serve/scheduler.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/log.h"

/* A pause of a stream that hardly anybody notices, and rows that are worth a walk over the weights
 * in any case. */
#define STEP_NS 100e6
enum { STEP_LEAST_ROWS = 32 };

/* ---- lists */

static void list_remove(struct request_list *list, struct request *g)
{
    *(g->previous ? &g->previous->next : &list->first) = g->next;
    *(g->next ? &g->next->previous : &list->last) = g->previous;
    g->next = g->previous = NULL;
    list->count--;
}

static void list_insert_after(struct request_list *list, struct request *before, struct request *g)
{
    g->previous = before;
    g->next = before ? before->next : list->first;
    *(before ? &before->next : &list->first) = g;
    *(g->next ? &g->next->previous : &list->last) = g;
    list->count++;
}

/* Oldest first; who was preempted finds its old place. */
static void insert_by_age(struct request_list *list, struct request *g)
{
    struct request *before = list->last;
    while (before && before->order > g->order)
        before = before->previous;
    list_insert_after(list, before, g);
}

/* ---- life */

static int32_t stored_position(void *context, uint32_t page, uint32_t index)
{
    const struct scheduler *s = context;
    return s->backend->kv_read(s->backend->self, page, index, s->model->head_dim, NULL, NULL);
}

_Static_assert(METRICS_MAX_POLICIES <= UINT8_MAX, "the pool keeps a policy in a byte");

static void note_lifetime(void *context, uint32_t policy, uint64_t held_ns)
{
    struct scheduler *s = context;
    histogram_observe(&s->metrics->page_lifetime[policy], (double)held_ns / 1e9);
}

bool scheduler_init(struct scheduler *s, struct error *e)
{
    uint32_t n_vocab = s->model->n_vocab;
    s->n_heads = cache_n_layers(s->cache) * cache_n_kv_heads(s->cache);
    cache_set_reader(s->cache, stored_position, s);
    cache_set_lifetimes(s->cache, note_lifetime, s);
    if (!history_init(&s->history, s->n_heads, e))
        return false;
    for (uint32_t i = 0; i < n_vocab; i++) {
        size_t length;
        tokenizer_bytes(s->tokenizer, (int32_t)i, true, &length);
        s->max_token_bytes = length > s->max_token_bytes ? length : s->max_token_bytes;
    }
    size_t n = (size_t)s->max_batched_tokens + 1;
    s->scratch = sampler_scratch_new(n_vocab, e);
    if (!s->scratch || !session_store_init(&s->sessions, s->session_ttl_ns, e))
        return false;
    s->has_sessions = true;
    s->prompt_tokens = calloc(n, sizeof *s->prompt_tokens);
    s->prompt_tops = calloc(n * (LOGPROBS_MAX_TOP + 1), sizeof *s->prompt_tops);
    s->rows = calloc(s->max_num_seqs, sizeof *s->rows);
    s->picks = calloc(s->max_num_seqs, sizeof *s->picks);
    s->pickers = calloc(s->max_num_seqs, sizeof *s->pickers);
    s->picked = calloc(s->max_num_seqs, sizeof *s->picked);
    if (!s->prompt_tokens || !s->prompt_tops || !s->rows || !s->picks || !s->pickers || !s->picked)
        return error_set_memory(e, "the scheduler",
                                n * (LOGPROBS_MAX_TOP + 1) * sizeof *s->prompt_tops);
    return true;
}

static void free_released(struct scheduler *s)
{
    while (s->ended) {
        struct request *g = s->ended;
        s->ended = g->next;
        for (uint32_t i = 0; g->choices && i < g->options.n_choices; i++)
            choice_clear(&g->choices[i]);
        free(g->choices);
        g->choices = NULL;
        request_drop(g);
    }
}

static void fail_all(struct scheduler *s, struct request_list *list, const char *code,
                     const char *message)
{
    while (list->first) {
        struct request *g = list->first;
        error_set(&g->error, code, "", "%s", message);
        output_fail(s, g);
    }
}

void scheduler_clear(struct scheduler *s, const char *code, const char *message)
{
    fail_all(s, &s->running, code, message);
    fail_all(s, &s->queue, code, message);
    free_released(s);
    if (s->has_sessions)
        session_store_clear(&s->sessions);
    history_clear(&s->history);
    sampler_scratch_free(s->scratch);
    free(s->prompt_tokens);
    free(s->prompt_tops);
    free(s->rows);
    free(s->picks);
    free(s->pickers);
    free(s->picked);
}

static bool is_running(const struct request *g)
{
    return atomic_load(&g->place) != PLACE_QUEUED;
}

static bool is_done(const struct request *g)
{
    return atomic_load(&g->place) == PLACE_DONE;
}

static void set_place(struct request *g, enum request_place place)
{
    atomic_store(&g->place, place);
}

void scheduler_take(struct scheduler *s, struct request *g)
{
    list_insert_after(&s->queue, s->queue.last, g);
}

void scheduler_count(struct scheduler *s, struct choice *q)
{
    struct cache_sequence_counts now = cache_sequence_counts(q->cache);
    double evicted = now.tokens_seen - now.slots_kept;
    double before = q->counted.tokens_seen - q->counted.slots_kept;
    uint32_t policy = q->owner->policy;
    if (evicted > before)
        atomic_fetch_add(&s->metrics->evicted_slots[policy],
                         (uint64_t)((evicted - before) * s->n_heads + 0.5));
    if (now.pages_returned > q->counted.pages_returned)
        atomic_fetch_add(&s->metrics->pages_returned[policy],
                         now.pages_returned - q->counted.pages_returned);
    q->counted = now;
}

void scheduler_describe(const struct scheduler *s, const struct request *g,
                        struct request_record *record, struct cache_head_counts *heads)
{
    const struct request_options *r = &g->options;
    const struct cache_sequence *cache = g->choices ? g->choices[0].cache : NULL;
    uint32_t n_kv_heads = cache_n_kv_heads(s->cache);
    *record = (struct request_record){.owner_key = r->owner_key,
                                      .order = g->order,
                                      .policy = r->plan.preset->name,
                                      .budget = plan_evicts(&r->plan) ? r->plan.budget : 0,
                                      .n_prompt = r->n_prompt,
                                      .submitted_ns = g->submitted_ns};
    memcpy(record->id, r->id, sizeof record->id);
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

/* Its pages go back; the tokens stay. */
static void free_caches(const struct scheduler *s, struct request *g)
{
    uint32_t before = pages_begin(s);
    for (uint32_t i = 0; g->choices && i < g->options.n_choices; i++) {
        cache_sequence_free(g->choices[i].cache);
        g->choices[i].cache = NULL;
    }
    pages_end(s, g, before);
    g->reserved_pages = 0;
}

void scheduler_remove(struct scheduler *s, struct request *g)
{
    free_caches(s, g);
    if (is_running(g)) {
        list_remove(&s->running, g);
        s->n_choices -= g->options.n_choices;
    } else {
        list_remove(&s->queue, g);
    }
    if (!g->admitted)
        atomic_fetch_sub(&s->n_waiting, 1);
    g->next = s->ended;
    s->ended = g;
}

/* ---- pages */

uint32_t pages_begin(const struct scheduler *s)
{
    return cache_counts(s->cache).used;
}

void pages_end(const struct scheduler *s, struct request *g, uint32_t before)
{
    g->held_pages += cache_counts(s->cache).used; /* wraps below 0 and back, as unsigned may */
    g->held_pages -= before;
}

static uint64_t promised(const struct request *g)
{
    return g->reserved_pages > g->held_pages ? g->reserved_pages - g->held_pages : 0;
}

/* Pages that are free, or would be if cached prefixes and idle sessions went, and that nobody but g
 * was promised; g may be NULL. */
static uint64_t pages_for(const struct scheduler *s, const struct request *g)
{
    struct cache_counts counts = cache_counts(s->cache);
    uint64_t others = 0, n_free = (uint64_t)counts.free + counts.cached + s->sessions.pages;
    for (const struct request *r = s->running.first; r; r = r->next)
        others += r == g ? 0 : promised(r);
    return n_free > others ? n_free - others : 0;
}

uint64_t scheduler_growing_pages(const struct cache *cache, const struct plan *plan,
                                 uint32_t n_tokens, uint32_t n_choices)
{
    uint64_t n_heads = (uint64_t)cache_n_layers(cache) * cache_n_kv_heads(cache);
    return cache_bound_pages(cache, plan, n_tokens, (uint64_t)n_tokens + 1) +
           (n_choices - 1) * n_heads;
}

/* What admission sets aside: the bound, or all known tokens of every choice and one more. */
static uint64_t pages_to_admit(const struct scheduler *s, const struct request *g)
{
    if (!request_is_growing(g))
        return g->reserve_pages;
    const struct request_options *r = &g->options;
    uint64_t need = scheduler_growing_pages(s->cache, &r->plan, r->n_prompt, request_n_living(g));
    uint64_t prompt = cache_bound_pages(s->cache, &r->plan, r->n_prompt, r->n_prompt);
    for (uint32_t i = 0; g->choices && i < r->n_choices; i++)
        if (!g->choices[i].done)
            need += cache_bound_pages(s->cache, &r->plan, r->n_prompt,
                                      choice_n_tokens(&g->choices[i])) -
                    prompt;
    return need;
}

static void preempt(struct scheduler *s, struct request *g)
{
    free_caches(s, g);
    g->forked = false;
    g->usage.n_preemptions++;
    list_remove(&s->running, g);
    s->n_choices -= g->options.n_choices;
    set_place(g, PLACE_QUEUED);
    atomic_store(&g->paused, false);
    list_insert_after(&s->queue, NULL, g);
    atomic_fetch_add(&s->metrics->preemptions, 1);
}

enum pages_answer {
    PAGES_READY,
    PAGES_LATER, /* g was preempted, or must sit out this step */
    PAGES_ALONE  /* nobody is left to preempt */
};

/* Makes room for `need` more pages of g, at the cost of the youngest that has no rows yet. */
static enum pages_answer secure_pages(struct scheduler *s, struct request *g, uint64_t need)
{
    while (need > pages_for(s, g)) {
        if (s->running.count == 1)
            return PAGES_ALONE;
        struct request *victim = s->running.last;
        while (victim && victim->in_batch)
            victim = victim->previous;
        if (!victim || (victim == g && g != s->running.last))
            return PAGES_LATER;
        preempt(s, victim);
        if (victim == g)
            return PAGES_LATER;
    }
    return PAGES_READY;
}

int64_t scheduler_retry_after_ms(const struct scheduler *s, uint32_t n_waiting)
{
    uint64_t ms = atomic_load(&s->admission_interval_ns) / 1000000u * n_waiting;
    return ms < 1000 ? 1000 : ms > 60000 ? 60000 : (int64_t)ms;
}

/* ---- who must go */

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
    } else if (!g->admitted && s->queue_timeout_ns &&
               now - g->submitted_ns >= s->queue_timeout_ns) {
        uint32_t queue_length = atomic_load(&s->n_waiting);
        error_set(&g->error, "queue_timeout", "", "the request waited %llu ms for its turn",
                  (unsigned long long)(s->queue_timeout_ns / 1000000));
        g->error.queue_length = queue_length;
        g->error.retry_after_ms = scheduler_retry_after_ms(s, queue_length);
        output_fail(s, g);
    }
}

static void expire_all(struct scheduler *s, uint64_t now)
{
    struct request *next;
    for (struct request *g = s->running.first; g; g = next) {
        next = g->next;
        expire(s, g, now);
    }
    for (struct request *g = s->queue.first; g; g = next) {
        next = g->next;
        expire(s, g, now);
    }
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

static uint64_t next_expiry(const struct scheduler *s)
{
    uint64_t at = 0;
    for (const struct request *g = s->running.first; g; g = g->next)
        at = earlier(at, g->deadline_ns);
    for (const struct request *g = s->queue.first; g; g = g->next) {
        at = earlier(at, g->deadline_ns);
        if (s->queue_timeout_ns && !g->admitted)
            at = earlier(at, g->submitted_ns + s->queue_timeout_ns);
    }
    return at;
}

/* Every living choice has one token to go through the model: the one that it sampled last. */
static bool decodes(const struct request *g)
{
    if (!g->measured || !g->forked)
        return false;
    for (uint32_t i = 0; i < g->options.n_choices; i++) {
        const struct choice *q = &g->choices[i];
        if (!q->done && choice_n_tokens(q) - cache_tokens_seen(q->cache) != 1)
            return false;
    }
    return true;
}

/* A full event buffer pauses its request until the reader has taken half. The flag goes up
 * before the second look, so either we see the room or the reader sees the flag and wakes us. */
static void update_paused(struct request *g)
{
    if (atomic_load(&g->place) != PLACE_PAUSED && request_is_full(g)) {
        atomic_store(&g->paused, true);
        set_place(g, PLACE_PAUSED);
    }
    if (atomic_load(&g->place) == PLACE_PAUSED && request_has_room(g)) {
        atomic_store(&g->paused, false);
        set_place(g, decodes(g) ? PLACE_DECODE : PLACE_PREFILL);
    }
}

/* ---- admission */

static bool make_choices(struct scheduler *s, struct request *g)
{
    g->choices = calloc(g->options.n_choices, sizeof *g->choices);
    if (!g->choices)
        return error_set_memory(&g->error, "choices", g->options.n_choices * sizeof *g->choices);
    for (uint32_t i = 0; i < g->options.n_choices; i++)
        if (!choice_init(&g->choices[i], g, i, s->model->n_vocab, s->max_token_bytes, &g->error))
            return false;
    return true;
}

static struct choice *first_living(const struct request *g)
{
    for (uint32_t i = 0; i < g->options.n_choices; i++)
        if (!g->choices[i].done)
            return &g->choices[i];
    return NULL;
}

static void note_admission(struct scheduler *s, struct request *g, uint64_t now)
{
    g->admitted = true;
    g->admitted_ns = now;
    g->usage.queue_ms = (double)(now - g->submitted_ns) / 1e6;
    histogram_observe(&s->metrics->queue_time, g->usage.queue_ms / 1e3);
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
    uint32_t most = r->n_prompt_logprobs >= 0 ? 0 : prefix_usable(&r->plan, r->n_prompt);
    uint32_t n = most ? prefix_match(s->cache, &r->prefix_root, r->prompt, most) : 0;
    if (g->usage.n_preemptions == 0) {
        g->usage.cached_tokens = n;
        g->usage.reused_slots = n; /* of whole pages nothing was dropped */
        atomic_fetch_add(&s->metrics->prefix_query_tokens, r->n_prompt);
        atomic_fetch_add(&s->metrics->prefix_hit_tokens, n);
    }
    uint32_t before = pages_begin(s);
    bool adopted = n == 0 || prefix_adopt(leader->cache, &r->prefix_root, r->prompt, n, &g->error);
    pages_end(s, g, before);
    return adopted;
}

/* ---- sessions */

static bool is_session_of(const struct request *g, const struct request *other)
{
    return g->options.session_id && other->options.session_id &&
           g->options.owner_key == other->options.owner_key &&
           !strcmp(g->options.session_id, other->options.session_id);
}

/* Whether a running request has g's session in its hands. */
static bool waits_for_session(const struct scheduler *s, const struct request *g)
{
    for (const struct request *r = s->running.first; r; r = r->next)
        if (is_session_of(g, r))
            return true;
    return false;
}

/* Goes on in the cache of its session, when the prompt begins with the tokens that made it; else
 * the session is forgotten and the prompt computed from its beginning. False: another policy. */
static bool continue_session(struct scheduler *s, struct request *g, struct choice *leader)
{
    struct request_options *r = &g->options;
    struct session *session =
        r->session_id ? session_take(&s->sessions, r->session_id, r->owner_key) : NULL;
    if (!session)
        return true;
    if (r->plan.source == SOURCE_DEFAULT || r->plan.source == SOURCE_SESSION) {
        bool trace = r->plan.trace;
        r->plan = session->plan;
        r->plan.source = SOURCE_SESSION;
        r->plan.trace = trace;
        g->policy = preset_index(r->plan.preset);
    } else if (!session_plan_agrees(&session->plan, &r->plan)) {
        error_set(&g->error, "invalid_kv_policy", "kv_policy",
                  "the session '%.64s' was made under policy '%s' with budget %u; what it dropped "
                  "cannot come back, so it goes on under the same policy or not at all",
                  r->session_id, session->plan.preset->name, session->plan.budget);
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

static void start(struct scheduler *s, struct request *g, uint64_t need, uint64_t now)
{
    if (!g->admitted)
        note_admission(s, g, now);
    list_remove(&s->queue, g);
    insert_by_age(&s->running, g);
    s->n_choices += g->options.n_choices;
    set_place(g, PLACE_PREFILL);
    g->reserved_pages = need;
    g->forked = request_n_living(g) == 1;
    if (!g->choices && !make_choices(s, g)) {
        output_fail(s, g);
        return;
    }
    struct choice *leader = first_living(g);
    g->chain = g->options.prefix_root;
    g->n_chained = 0;
    if (!continue_session(s, g, leader)) {
        output_fail(s, g);
        return;
    }
    g->usage.source = g->options.plan.source;
    if (leader->cache)
        return;
    leader->cache = cache_sequence_new(s->cache, &g->options.plan, &g->error);
    memset(&leader->counted, 0, sizeof leader->counted);
    if (!leader->cache || !adopt_prefix(s, g, leader))
        output_fail(s, g);
    else
        cache_sequence_set_prompt(leader->cache, g->options.n_prompt);
}

/* From the head only: whoever is first gets the next pages, however small the others are. (Who
 * waits for the turn before in his session is passed over.) Beside
 * running requests that grow, a page per head is left for each of their choices, so that the one
 * that was admitted is not preempted by the next few steps. */
static void admit(struct scheduler *s, uint64_t now)
{
    for (;;) {
        struct request *g = s->queue.first;
        while (g && waits_for_session(s, g))
            g = g->next;
        if (!g)
            return;
        if (s->n_choices + g->options.n_choices > s->max_num_seqs)
            return;
        uint64_t need = pages_to_admit(s, g), headroom = 0;
        for (struct request *r = s->running.first; r; r = r->next)
            if (request_is_growing(r))
                headroom += (uint64_t)request_n_living(r) * s->n_heads;
        if (s->running.count > 0 && need + headroom > pages_for(s, NULL))
            return;
        /* Alone it may always try: it ends by length where the pool does. */
        uint64_t n_pages = cache_counts(s->cache).n_pages;
        start(s, g, need < n_pages ? need : n_pages, now);
    }
}

/* ---- the batch */

/* Adds the next n tokens of one sequence, all from its prompt or all generated. */
static void add_rows(struct scheduler *s, struct choice *q, uint32_t n, uint32_t n_logits)
{
    struct request *g = q->owner;
    uint32_t first = cache_tokens_seen(q->cache), n_prompt = g->options.n_prompt;
    const int32_t *tokens =
        first < n_prompt ? g->options.prompt + first : q->generated + (first - n_prompt);
    struct step_rows *rows = &s->rows[s->n_rows];
    *rows = (struct step_rows){.sequence = q, .first = first, .n = n, .n_logits = n_logits};
    struct error e;
    uint32_t before = pages_begin(s);
    uint64_t need = cache_pages_to_place(q->cache, n), n_free = cache_counts(s->cache).free;
    if (need > n_free)
        prefix_give_up(s->cache, (uint32_t)(need - n_free));
    while (need > (n_free = cache_counts(s->cache).free) && session_give_up(&s->sessions))
        prefix_give_up(s->cache, (uint32_t)(need - n_free));
    bool added = batch_add(s->batch, q->cache, tokens, n, n_logits, &rows->logits_row, &e);
    pages_end(s, g, before);
    if (added) {
        s->n_rows++;
        g->in_batch = true;
        /* From the next step on others may use them; compression comes at the end of this one. */
        if (g->options.reuse_prefix && first < n_prompt)
            g->usage.cache_write_tokens +=
                prefix_list(q->cache, &g->chain, &g->n_chained, g->options.prompt, first + n);
    } else if (strcmp(e.code, "kv_pool_empty") == 0) {
        if (s->running.count == 1)
            output_end_choice(s, q, FINISH_LENGTH, -1);
    } else if (!g->in_batch) { /* else it is tried again when its other rows are done */
        g->error = e;
        output_fail(s, g);
    }
}

/* The next older running request; the list may change between two calls. */
static struct request *running_after(const struct scheduler *s, const uint64_t *order)
{
    struct request *g = s->running.first;
    while (g && order && g->order <= *order)
        g = g->next;
    return g;
}

static void add_decode_rows(struct scheduler *s, struct request *g)
{
    uint64_t need = 0;
    for (uint32_t i = 0; i < g->options.n_choices; i++)
        if (!g->choices[i].done)
            need += cache_pages_to_place(g->choices[i].cache, 1);
    if (secure_pages(s, g, need) == PAGES_LATER)
        return;
    for (uint32_t i = 0; i < g->options.n_choices && !is_done(g); i++)
        if (!g->choices[i].done)
            add_rows(s, &g->choices[i], 1, 1);
}

/* Logit rows that a chunk [first, end) of the prompt needs: the last row to sample from, and every
 * row whose next token is to be told with its log probability. */
static uint32_t prompt_logits(const struct request *g, const struct choice *q, uint32_t first,
                              uint32_t end)
{
    uint32_t n_prompt = g->options.n_prompt;
    if (g->options.n_prompt_logprobs >= 0 && g->prompt_reported < n_prompt) {
        uint32_t from = g->prompt_reported > 0 ? g->prompt_reported - 1 : 0;
        from = from > first ? from : first;
        return end > from ? end - from : 0;
    }
    return end == n_prompt && q->n_generated == 0 && g->max_new > 0;
}

/* The next chunk of one sequence within `budget` rows and `logits_room` logit rows. */
static void add_chunk(struct scheduler *s, struct choice *q, uint32_t budget, uint32_t logits_room)
{
    struct request *g = q->owner;
    uint32_t first = cache_tokens_seen(q->cache);
    bool in_prompt = first < g->options.n_prompt;
    uint32_t known = in_prompt ? g->options.n_prompt : choice_n_tokens(q);
    uint32_t n = known - first < budget ? known - first : budget, n_logits = 0;
    for (; n > 0; n -= n_logits - logits_room < n ? n_logits - logits_room : n) {
        n_logits = in_prompt ? prompt_logits(g, q, first, first + n) : first + n == known;
        if (n_logits <= logits_room)
            break;
    }
    if (n > 0)
        add_rows(s, q, n, n_logits);
}

static bool is_prefilling(const struct request *g)
{
    return atomic_load(&g->place) == PLACE_PREFILL && !g->in_batch;
}

/* Rows that g's prompts still want. */
static uint64_t prefill_need(const struct request *g)
{
    uint64_t need = 0;
    for (uint32_t i = 0; is_prefilling(g) && i < g->options.n_choices; i++)
        if (!g->choices[i].done && g->choices[i].cache)
            need += choice_n_tokens(&g->choices[i]) - cache_tokens_seen(g->choices[i].cache);
    return need;
}

/* Rows that are left for n prompts: what they need, at most an even share of the room each. */
static uint32_t rows_for(const struct scheduler *s, struct request *const *prompts, uint32_t n)
{
    uint32_t share = (s->step_rows - batch_rows(s->batch)) / (n + 1), left = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t need = prefill_need(prompts[i]);
        left += need < share ? (uint32_t)need : share;
    }
    return left;
}

/* `behind`: n_behind prompts that are to get rows too. */
static void add_prefill_rows(struct scheduler *s, struct request *g, struct request *const *behind,
                             uint32_t n_behind)
{
    uint32_t kept = rows_for(s, behind, n_behind);
    for (uint32_t i = 0; i < g->options.n_choices && !is_done(g); i++) {
        struct choice *q = &g->choices[i];
        if (q->done || !q->cache)
            continue;
        uint32_t rows = batch_rows(s->batch), logits_room = batch_logits_room(s->batch);
        if (rows + kept >= s->step_rows)
            return;
        /* A row each is left for the prompts behind, which may come to their end. */
        bool greedy = g->options.n_prompt_logprobs >= 0 && logits_room > n_behind;
        add_chunk(s, q, s->step_rows - rows - kept, greedy ? logits_room - n_behind : logits_room);
    }
}

/* The oldest prompt shares the rows with the next one that needs less than half of what it still
 * needs, this one with the next that needs less than half again, and so on: a short prompt comes
 * through beside a long one. What they leave goes to the others by age: equal prompts are read one
 * after the other, for the first ones need not wait for the last. */
static void add_prompts(struct scheduler *s)
{
    struct request *sharing[65]; /* needs halve each time */
    uint32_t n = 0;
    uint64_t below = UINT64_MAX, order;
    for (struct request *g = s->running.first; g; g = g->next) {
        uint64_t need = prefill_need(g);
        if (need == 0 || need >= below)
            continue;
        sharing[n++] = g;
        below = need / 2;
    }
    for (uint32_t i = 0; i < n; i++)
        add_prefill_rows(s, sharing[i], sharing + i + 1, n - i - 1);
    const uint64_t *last = NULL;
    for (struct request *g; (g = running_after(s, last));) {
        order = g->order;
        last = &order;
        if (prefill_need(g) > 0)
            add_prefill_rows(s, g, NULL, 0);
    }
}

/* While somebody's stream waits for the step, prompts get as many rows as STEP_NS allow by what
 * rows have cost. */
static uint32_t rows_of_step(const struct scheduler *s)
{
    const double most = s->row_ns > 0 ? STEP_NS / s->row_ns : s->max_batched_tokens;
    const uint32_t decoding = batch_rows(s->batch),
                   prompts = most < STEP_LEAST_ROWS ? STEP_LEAST_ROWS : (uint32_t)most,
                   room = s->max_batched_tokens - decoding;
    return decoding > 0 && prompts < room ? decoding + prompts : s->max_batched_tokens;
}

/* Decodes first, so that nobody's stream waits for a prompt; both by age. */
static void plan_batch(struct scheduler *s)
{
    batch_clear(s->batch);
    s->n_rows = 0;
    for (struct request *g = s->running.first; g; g = g->next)
        g->in_batch = false;
    const uint64_t *last = NULL;
    uint64_t order;
    for (struct request *g; (g = running_after(s, last));) {
        order = g->order;
        last = &order;
        if (atomic_load(&g->place) == PLACE_PREFILL && decodes(g))
            set_place(g, PLACE_DECODE);
        if (atomic_load(&g->place) != PLACE_DECODE)
            continue;
        if (request_is_growing(g))
            g->reserved_pages = 0;
        add_decode_rows(s, g);
    }
    s->step_rows = rows_of_step(s);
    add_prompts(s);
}

/* ---- the step */

/* A moving mean over steps of many rows: of few, reading the weights is most of the time. */
static void note_step_time(struct scheduler *s, uint64_t ns)
{
    const uint32_t n = batch_rows(s->batch);
    if (n < STEP_LEAST_ROWS)
        return;
    const double row_ns = (double)ns / n;
    s->row_ns = s->row_ns > 0 ? 0.75 * s->row_ns + 0.25 * row_ns : row_ns;
}

static void audit(struct scheduler *s)
{
    struct error e = {0};
    if (cache_audit(s->cache, stored_position, s, &e))
        return;
    fprintf(stderr, "winnow: the cache is broken: %s\n", e.message);
    abort();
}

/* What compression gave back is no longer held. Who found no page for it waits for another turn. */
static void settle_pages(struct scheduler *s)
{
    for (uint32_t i = 0; i < s->n_rows; i++) {
        struct choice *q = s->rows[i].sequence;
        struct request *g = q->owner;
        g->held_pages += (uint64_t)cache_take_balance(q->cache); /* wraps as it should */
        if (!cache_is_starved(q->cache))
            continue;
        for (uint32_t k = 0; k < s->n_rows; k++) /* its choices' rows too */
            if (k > i && s->rows[k].sequence->owner == g)
                s->rows[k--] = s->rows[--s->n_rows];
        preempt(s, g);
        session_give_up(&s->sessions);
        s->rows[i--] = s->rows[--s->n_rows];
    }
}

static void run(struct scheduler *s)
{
    struct error e;
    uint64_t start_ns = clock_ns();
    const float *logits = forward_compute(s->forward, s->batch, &e) ? output_fetch(s, &e) : NULL;
    if (logits) {
        histogram_observe(&s->metrics->step_batch_tokens, batch_rows(s->batch));
        cache_set_time(s->cache, clock_ns());
        settle_pages(s);
        output_rows(s, logits);
    } else {
        log_line(LOG_ERROR, "the device has failed: %s", e.message);
        atomic_store(&s->faulted, true);
        fail_all(s, &s->running, "engine_fault", e.message);
        fail_all(s, &s->queue, "engine_fault", e.message);
    }
    uint64_t took_ns = clock_ns() - start_ns;
    note_step_time(s, took_ns);
    histogram_observe(&s->metrics->step_time, (double)took_ns / 1e9);
}

bool scheduler_step(struct scheduler *s, uint64_t *wake_ns)
{
    uint64_t now = clock_ns();
    cache_set_time(s->cache, now);
    uint64_t session_end = session_expire(&s->sessions, now);
    expire_all(s, now);
    for (struct request *g = s->running.first; g; g = g->next)
        update_paused(g);
    admit(s, now);
    uint64_t planned_ns = clock_ns();
    plan_batch(s);
    if (s->n_rows > 0) {
        planned_ns = clock_ns() - planned_ns;
        run(s);
        histogram_observe(&s->metrics->policy_time,
                          (double)(planned_ns + batch_policy_ns(s->batch)) / 1e9);
    }
    bool moved = s->n_rows > 0 || s->ended;
    free_released(s);
    if (s->audit)
        audit(s);
    if (!moved)
        *wake_ns = earlier(next_expiry(s), session_end);
    return moved;
}
