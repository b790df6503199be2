/* Submission: requests that can never run are refused, the others go to the inbox. Loop thread; see
 * engine.h. */
#include <stdlib.h>

#include "config/base/clock.h"
#include "engine/serve/engine_private.h"
#include "engine/serve/pages.h"

static bool check_tokens(const struct engine *e, const int32_t *tokens, uint32_t n,
                         const char *where, struct error *error)
{
    int32_t n_vocab = (int32_t)e->runtime.model->n_vocab;
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= n_vocab)
            return error_set(error, "invalid_value", where,
                             "token %d is not in the vocabulary of %d tokens", tokens[i], n_vocab);
    return true;
}

static bool check_request(const struct engine *e, const struct request_options *options,
                          struct error *error)
{
    if (options->n_prompt < 1)
        return error_set(error, "invalid_value", "prompt", "the prompt is empty; it needs a token");
    if (options->n_choices < 1 || options->n_choices > e->options.max_num_seqs)
        return error_set(error, "invalid_value", "n",
                         "n is %u; this server computes 1 to %u choices at once",
                         options->n_choices, e->options.max_num_seqs);
    if (options->n_logprobs > LOGPROBS_MAX_TOP || options->n_prompt_logprobs > LOGPROBS_MAX_TOP)
        return error_set(error, "invalid_value", "logprobs", "at most %d alternatives are possible",
                         LOGPROBS_MAX_TOP);
    for (uint32_t i = 0; i < options->sampling.n_bias; i++)
        if (!check_tokens(e, &options->sampling.bias[i].token, 1, "logit_bias", error))
            return false;
    return check_tokens(e, options->prompt, options->n_prompt, "prompt", error) &&
           check_tokens(e, options->stop_tokens, options->n_stop_tokens, "stop_token_ids", error);
}

/* The most tokens a choice may generate: what was asked for, within what the context leaves. A
 * prompt that fills the context gets one token, which needs no slot. */
static bool resolve_length(const struct engine *e, struct request *request, struct error *error)
{
    const struct request_options *options = &request->options;
    uint64_t room;
    if (options->plan->positions == POSITIONS_CACHE) {
        room = (uint64_t)INT32_MAX - options->n_prompt;
        if (options->max_tokens < 0 && e->options.max_generate < room)
            room = e->options.max_generate;
    } else if (options->n_prompt > e->n_ctx) {
        error_set(error, "context_length_exceeded", "prompt",
                  "the prompt has %u tokens and the context holds %u", options->n_prompt, e->n_ctx);
        if (error) {
            error->n_prompt_tokens = options->n_prompt;
            error->n_ctx = e->n_ctx;
        }
        return false;
    } else {
        room = options->n_prompt < e->n_ctx ? e->n_ctx - options->n_prompt : 1;
    }
    request->max_new = (uint32_t)(options->max_tokens >= 0 && (uint64_t)options->max_tokens < room
                                      ? (uint64_t)options->max_tokens
                                      : room);
    return true;
}

/* Plans that grow after their prompt reserve pages for this many generated tokens. Longer answers
 * compete for pages like those of `full`; with the full reservation they would never be
 * admitted. */
enum { GROWTH_RESERVED = 256 };

/* Whether the plan bounds its pages, which are then reserved at admission. */
static bool is_bounded(const struct plan *plan)
{
    return plan->has_budget && (plan->allocation != ALLOCATION_PROFILE || plan_profile_votes(plan));
}

static uint64_t settled_pages(const struct engine *e, const struct request *request,
                              const struct plan *plan)
{
    const struct request_options *options = &request->options;
    uint64_t n = request->max_new;
    if (plan->decode == DECODE_GROW && n > GROWTH_RESERVED)
        n = GROWTH_RESERVED;
    return cache_settled_pages(e->runtime.cache, plan, options->n_prompt, options->n_prompt + n) *
           options->n_choices;
}

/* Pages of the whole request under `plan`. */
static uint64_t needed_pages(const struct engine *e, const struct request *request,
                             const struct plan *plan)
{
    const struct request_options *options = &request->options;
    const struct cache *cache = e->runtime.cache;
    if (!is_bounded(plan))
        return pages_growing(cache, plan, options->n_prompt, options->n_choices);
    uint64_t settled = settled_pages(e, request, plan),
             prompt = cache_bound_pages(cache, plan, options->n_prompt, options->n_prompt);
    return settled > prompt ? settled : prompt;
}

/* The largest budget with which the request would fit, 0 if none: under its own plan if that
 * streams, else under `sink`, because the other plans hold the whole prompt before they compress
 * it. */
static uint32_t largest_budget(const struct engine *e, const struct request *request)
{
    const struct plan *own = request->options.plan, *sink = NULL;
    if (own->prefill != PREFILL_STREAM || !is_bounded(own)) {
        const struct plan_asked asked = plan_asked_of(preset_find("sink"));
        const struct plan_limits limits = engine_plan_limits(e);
        struct error ignored;
        sink = plan_resolve(&asked, request->options.n_prompt, &limits, &ignored);
        if (!sink)
            return 0;
    }
    struct plan trial = sink ? *sink : *own; /* compared, never run */
    uint32_t low = 0, high = e->runtime.model->n_ctx_train;
    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2;
        trial.budget = middle;
        trial.recent = middle > trial.sinks ? middle - trial.sinks : 1;
        if (needed_pages(e, request, &trial) <= e->runtime.n_pages)
            low = middle;
        else
            high = middle - 1;
    }
    plan_release(sink);
    return low >= trial.sinks + 1 ? low : 0;
}

static bool check_memory(const struct engine *e, struct request *request, struct error *error)
{
    const struct plan *plan = request->options.plan;
    uint64_t needed = needed_pages(e, request, plan);
    if (is_bounded(plan)) {
        request->reserve_pages = needed;
        request->settled_pages = settled_pages(e, request, plan);
    }
    if (needed <= e->runtime.n_pages)
        return true;
    uint32_t budget = largest_budget(e, request);
    error_set(error, "kv_memory_exceeded", "kv_policy",
              "the request needs %llu pages of KV memory and the server has %u; the largest budget "
              "that fits is %u",
              (unsigned long long)needed, e->runtime.n_pages, budget);
    if (error) {
        error->needed_pages = (int64_t)needed;
        error->pool_pages = e->runtime.n_pages;
        error->largest_budget_that_fits = budget;
    }
    return false;
}

bool engine_check(const struct engine *e, const struct request_options *options,
                  struct error *error)
{
    struct request request = {.options = *options}; /* only read */
    return check_request(e, options, error) && resolve_length(e, &request, error) &&
           check_memory(e, &request, error);
}

bool engine_has_room(struct engine *e)
{
    return scheduler_n_waiting(e->scheduler) < e->options.max_queue;
}

/* All tokens that end a choice, in one list: they are looked up and masked together. */
static bool collect_ends(const struct engine *e, struct request *request, struct error *error)
{
    const struct request_options *options = &request->options;
    uint32_t n = options->n_stop_tokens;
    n += options->ignore_eos ? 0 : e->n_end_tokens;
    request->ends = malloc((n ? n : 1) * sizeof *request->ends);
    if (!request->ends)
        return error_set_memory(error, "stop tokens", (uint64_t)n * sizeof *request->ends);
    for (uint32_t i = 0; !options->ignore_eos && i < e->n_end_tokens; i++)
        request->ends[request->n_ends++] = e->end_tokens[i];
    for (uint32_t i = 0; i < options->n_stop_tokens; i++)
        request->ends[request->n_ends++] = options->stop_tokens[i];
    return true;
}

static bool prepare(struct engine *e, struct request *request, struct error *error)
{
    const struct request_options *options = &request->options;
    if (!check_request(e, options, error) || !resolve_length(e, request, error) ||
        !check_memory(e, request, error) || !collect_ends(e, request, error))
        return false;
    if (options->n_stops) {
        request->stops = stop_set_new(options->stops, options->n_stops, error);
        if (!request->stops)
            return false;
    }
    request->policy = preset_index(options->plan->preset);
    request->wake = engine_wake;
    request->engine = e;
    request->submitted_ns = clock_ns();
    request->deadline_ns =
        options->timeout_ms ? request->submitted_ns + options->timeout_ms * 1000000u : 0;
    return true;
}

/* Puts it into the inbox. */
static bool enqueue(struct engine *e, struct request *request, struct error *error)
{
    struct scheduler *s = e->scheduler;
    bool taken = false;
    pthread_mutex_lock(&e->inbox_lock);
    uint32_t n_waiting = scheduler_n_waiting(s);
    if (e->stopping) {
        error_set(error, "draining", "", "the server is stopping and takes no more requests");
    } else if (scheduler_has_failed(s)) {
        error_set(error, "engine_fault", "", "the device has failed; the server must be restarted");
    } else if (n_waiting >= e->options.max_queue && !request->options.accepted) {
        error_set(error, "queue_full", "", "%u requests are waiting already; try again later",
                  n_waiting);
        if (error) {
            error->queue_length = n_waiting;
            error->retry_after_ms = scheduler_retry_after_ms(s, n_waiting);
        }
    } else {
        taken = true;
        request->order = e->next_order++;
        atomic_fetch_add(&request->holders, 1);
        scheduler_expect(s);
        atomic_store(&e->metrics.requests_waiting, n_waiting + 1);
        TAILQ_INSERT_TAIL(&e->inbox, request, link);
        pthread_cond_signal(&e->inbox_filled);
    }
    pthread_mutex_unlock(&e->inbox_lock);
    return taken;
}

struct request *engine_submit(struct engine *e, struct request_options *options,
                              struct error *error)
{
    struct request *request = request_new(options, error);
    if (!request)
        return NULL;
    if (prepare(e, request, error) && enqueue(e, request, error))
        return request;
    request_drop(request);
    return NULL;
}
