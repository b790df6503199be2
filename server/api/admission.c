/* See admission.h. */
#include "cache/policy/preset.h"
#include "server/api/admission.h"
#include "server/api/plan_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- plans */

bool admission_pick_policy(const struct service *s, const struct plan_asked *body,
                           const char *header, const char *suffix, struct plan_asked *out,
                           struct error *e)
{
    *out = s->default_policy;
    if (body) {
        *out = *body;
        out->source = SOURCE_REQUEST;
    } else if (header) {
        if (!plan_parse_text(header, strlen(header), "X-KV-Policy", out, e))
            return false;
        out->source = SOURCE_HEADER;
    } else if (suffix) {
        if (!plan_parse_suffix(suffix, strlen(suffix), "model", out, e))
            return false;
        out->source = SOURCE_MODEL;
    }
    return true;
}

static bool is_allowed(const struct config *c, const struct preset *preset)
{
    for (uint32_t i = 0; i < c->kv_policy_allow.count; i++)
        if (preset_find(c->kv_policy_allow.items[i]) == preset)
            return true;
    return c->kv_policy_allow.count == 0;
}

bool admission_offers(const struct service *s, const struct preset *preset)
{
    return !s->config->kv_policy_lock && is_allowed(s->config, preset);
}

bool admission_can_run(const struct service *s, const struct preset *preset)
{
    return preset->axes.allocation != ALLOCATION_PROFILE || engine_plan_limits(s->engine).profile;
}

struct plan_limits admission_limits(const struct service *s, enum plan_source source)
{
    struct plan_limits limits = engine_plan_limits(s->engine);
    limits.max_budget = source == SOURCE_DEFAULT ? 0 : s->config->kv_policy_max_budget;
    return limits;
}

const struct plan *admission_resolve_plan(const struct service *s, const struct plan_asked *asked,
                                          uint32_t n_prompt, struct error *e)
{
    const struct config *c = s->config;
    const struct plan_limits limits = admission_limits(s, asked->source);
    if (asked->source != SOURCE_DEFAULT && c->kv_policy_lock) {
        error_set(e, "kv_policy_not_allowed", "kv_policy",
                  "this server's cache policy is fixed to '%s'", s->default_policy.preset->name);
        return NULL;
    }
    if (asked->source != SOURCE_DEFAULT && !is_allowed(c, asked->preset)) {
        error_set(e, "kv_policy_not_allowed", "kv_policy",
                  "this server does not offer the cache policy '%s'", asked->preset->name);
        return NULL;
    }
    return plan_resolve(asked, n_prompt, &limits, e);
}

/* The plan of the session's first turn that still runs; the later turns wait for it and use its plan.
 * Held. NULL: there is none. */
static const struct plan *plan_of_earlier_turn(const struct job *j)
{
    const struct job *other;
    const struct plan *plan = NULL;
    TAILQ_FOREACH(other, &j->jobs->running, entry)
        if (other != j && other->admitted && other->key == j->key && other->r.session_id &&
            !strcmp(other->r.session_id, j->r.session_id))
            plan = other->plan; /* the list begins with the newest */
    return plan_hold(plan);
}

/* A turn without a policy uses its session's: that of the waiting cache, or of the turn before. It is
 * chosen only here, so that the answer's header can name it; the engine compares. False:
 * "out_of_memory". */
static bool take_session_plan(struct job *j, const struct plan_asked *asked, struct error *e)
{
    const char *id = j->r.session_id;
    if (!id || asked->source != SOURCE_DEFAULT)
        return true;
    const struct plan *plan = session_plan(engine_sessions(j->jobs->service->engine), id, j->key);
    if (!plan)
        plan = plan_of_earlier_turn(j);
    if (plan)
        j->plan = plan_for(plan, SOURCE_SESSION, asked->axes.trace, e);
    plan_release(plan);
    return !plan || j->plan;
}

/* ---- limits */

/* Whether the job's next prompt may go to the engine: its key's share has room. */
static bool key_has_room(const struct job *j)
{
    uint32_t most = j->jobs->service->config->max_per_key;
    return !most || !j->key || j->jobs->running_of_key[j->key] + j->r.n <= most;
}

static bool check_key(const struct job *j, struct error *e)
{
    uint32_t most = j->jobs->service->config->max_per_key;
    if (key_has_room(j))
        return true;
    if (j->r.n > most)
        return error_set(e, "invalid_value", "n",
                         "n is %u; an API key may have %u choices running (--max-per-key)", j->r.n,
                         most);
    error_set(e, "rate_limit_exceeded", "",
              "this API key has %u choices running, and its limit is %u (--max-per-key)",
              j->jobs->running_of_key[j->key], most);
    e->retry_after_ms = 1000;
    return false;
}

/* The most tokens that one choice may generate. */
static uint64_t longest_choice(const struct prompt *p)
{
    const struct job *j = p->job;
    const struct service *s = j->jobs->service;
    uint64_t n_ctx = engine_n_ctx(s->engine), asked = (uint64_t)j->r.max_tokens, room;
    if (p->plan && p->plan->positions == POSITIONS_CACHE)
        room = s->config->max_generate;
    else
        room = p->n_tokens < n_ctx ? n_ctx - p->n_tokens : 1;
    return j->r.max_tokens >= 0 && asked < room ? asked : room;
}

static bool check_tokens(const struct job *j, struct error *e)
{
    uint32_t limit = j->jobs->service->config->max_request_tokens;
    uint64_t wanted = j->n_prompt_tokens;
    if (j->n_prompts * j->r.n == 1)
        return true; /* the context and --max-generate limit it */
    for (uint32_t i = 0; i < j->n_prompts; i++)
        wanted += j->r.n * longest_choice(&j->prompts[i]);
    if (wanted <= limit)
        return true;
    return error_set(e, "request_too_costly", "",
                     "%u prompts with %u choices each are up to %llu tokens; one request may have "
                     "%u (--max-request-tokens): lower max_tokens or n, or send several requests",
                     j->n_prompts, j->r.n, (unsigned long long)wanted, limit);
}

/* About what the answer has at least, if all choices get as long as was asked for. */
static uint64_t answer_bytes(const struct job *j)
{
    uint64_t per_token = 0, bytes = 0, n_top = j->r.n_logprobs > 0 ? (uint64_t)j->r.n_logprobs : 0;
    if (j->r.n_logprobs >= 0)
        per_token = j->kind == API_REQUEST_CHAT ? 80 + 80 * n_top : 45 + 30 * n_top;
    for (uint32_t i = 0; i < j->n_prompts; i++) {
        const struct prompt *p = &j->prompts[i];
        uint64_t choice = p->echo.length + p->token_ids.length;
        if (j->r.echo)
            choice += p->n_tokens * per_token;
        if (j->r.max_tokens >= 0)
            choice += longest_choice(p) * per_token;
        bytes += j->r.n * choice;
    }
    return bytes;
}

bool admission_check_product(struct job *j, struct error *e)
{
    uint64_t bytes = j->r.stream ? 0 : answer_bytes(j),
             limit = j->jobs->service->config->max_answer_bytes;
    if (!check_tokens(j, e))
        return false;
    if (bytes <= limit)
        return true;
    return error_set(e, "answer_too_large", "",
                     "the answer would have about %llu bytes; an answer that is no stream may have "
                     "%llu (--max-answer): lower max_tokens, n or logprobs, send fewer prompts, or "
                     "set stream to true",
                     (unsigned long long)bytes, (unsigned long long)limit);
}

/* ---- options of the engine's request */

static bool copy_stops(const struct api_request *r, struct request_options *options)
{
    options->stops = calloc(r->n_stops + 1, sizeof *options->stops);
    options->stop_tokens = malloc((r->n_stop_tokens + 1) * sizeof *options->stop_tokens);
    if (!options->stops || !options->stop_tokens)
        return false;
    for (uint32_t i = 0; i < r->n_stops; i++) {
        options->stops[i].bytes = malloc(r->stops[i].length + 1);
        if (!options->stops[i].bytes)
            return false;
        memcpy(options->stops[i].bytes, r->stops[i].bytes, r->stops[i].length);
        options->stops[i].length = (uint32_t)r->stops[i].length;
        options->n_stops = i + 1;
    }
    if (r->n_stop_tokens)
        memcpy(options->stop_tokens, r->stop_tokens,
               r->n_stop_tokens * sizeof *options->stop_tokens);
    options->n_stop_tokens = r->n_stop_tokens;
    return true;
}

/* Values that the request leaves out come from --sampling-defaults. */
static bool copy_sampling(const struct job *j, struct request_options *options)
{
    const struct api_request *r = &j->r;
    const struct sampling *d = &j->jobs->service->default_sampling;
    options->sampling = r->sampling;
    options->sampling.bias = NULL;
    options->sampling.n_bias = 0;
    if (!r->has_temperature)
        options->sampling.temperature = d->temperature;
    if (!r->has_top_p)
        options->sampling.top_p = d->top_p;
    if (!r->has_top_k)
        options->sampling.top_k = d->top_k;
    if (!r->has_min_p)
        options->sampling.min_p = d->min_p;
    options->sampling.seed = j->seed;
    if (r->sampling.n_bias == 0)
        return true;
    options->sampling.bias = malloc(r->sampling.n_bias * sizeof *options->sampling.bias);
    if (!options->sampling.bias)
        return false;
    memcpy(options->sampling.bias, r->sampling.bias,
           r->sampling.n_bias * sizeof *options->sampling.bias);
    options->sampling.n_bias = r->sampling.n_bias;
    return true;
}

/* Only requests with the same root share cached prompts: the same salt, and with --prefix-scope key the
 * same API key. */
static struct prefix_name prefix_root_of(const struct job *j)
{
    char secret[16 + 1024];
    const struct api_request *r = &j->r;
    bool by_key = !strcmp(j->jobs->service->config->prefix_scope, "key");
    int n = snprintf(secret, 16, "%u:", by_key ? j->key : 0);
    size_t salt = r->n_cache_salt < 1024 ? r->n_cache_salt : 1024; /* the limit in field_table.c */
    if (salt)
        memcpy(secret + n, r->cache_salt, salt);
    return prefix_root(secret, (size_t)n + salt);
}

/* A later prompt of a request has the time that the earlier ones left. 0: no limit. */
static uint64_t time_left_ms(const struct job *j)
{
    uint64_t limit =
        j->r.timeout_ms ? j->r.timeout_ms : j->jobs->service->config->request_timeout_ms;
    uint64_t gone = (uv_hrtime() - http_request_started_ns(j->http_request)) / 1000000;
    if (j->n_submitted == 0 || limit == 0)
        return limit;
    return gone < limit ? limit - gone : 1;
}

/* The caller frees the options with request_options_clear, also after false. */
static bool make_options(struct prompt *p, const struct plan *plan, struct request_options *options)
{
    const struct job *j = p->job;
    const struct api_request *r = &j->r;
    const struct config *c = j->jobs->service->config;
    *options = (struct request_options){.prompt = p->tokens.data,
                                        .n_prompt = p->n_tokens,
                                        .plan = plan_hold(plan),
                                        .include_stop_string = r->include_stop_string,
                                        .ignore_eos = r->ignore_eos,
                                        .show_control = !r->skip_special_tokens,
                                        .min_tokens = r->min_tokens,
                                        .max_tokens = r->max_tokens,
                                        .n_choices = r->n,
                                        .n_logprobs = r->n_logprobs,
                                        .n_prompt_logprobs = r->echo ? r->n_logprobs : -1,
                                        .progress = r->stream && r->return_progress,
                                        .timeout_ms = time_left_ms(j),
                                        .reuse_prefix = c->prefix_cache && r->cache_prompt,
                                        .prefix_root = prefix_root_of(j),
                                        .owner_key = j->key,
                                        .accepted = j->n_submitted > 0,
                                        .notify = prompt_notify,
                                        .notify_context = p};
    p->tokens = (struct tokens){0}; /* moved */
    /* The response's id. Further prompts of the same HTTP request get a number after it. */
    snprintf(options->id, sizeof options->id, p->index ? "%s.%u" : "%s", j->id, p->index);
    if (r->session_id && !(options->session_id = strdup(r->session_id)))
        return false;
    return copy_sampling(j, options) && copy_stops(r, options);
}

bool admission_overflow(enum api_request_kind kind, int64_t n_prompt, bool at_least, int64_t n_ctx,
                        struct error *e)
{
    error_set(e, "context_length_exceeded", kind == API_REQUEST_CHAT ? "messages" : "prompt",
              "The request (%s%lld tokens) exceeds the available context size (%lld tokens): this "
              "model's maximum context "
              "length is %lld tokens. Please reduce the length of the messages, or use the cache "
              "policy \"sink\".",
              at_least ? "at least " : "", (long long)n_prompt, (long long)n_ctx, (long long)n_ctx);
    e->n_prompt_tokens = n_prompt;
    e->n_ctx = n_ctx;
    return false;
}

static bool is_overflow(const struct job *j, struct error *e)
{
    return !strcmp(e->code, "context_length_exceeded") &&
           !admission_overflow(j->kind, e->n_prompt_tokens, false, e->n_ctx, e);
}

bool admission_check_prompt(struct prompt *p, struct error *e)
{
    const struct job *j = p->job;
    const struct service *s = j->jobs->service;
    if (j->r.session_id && j->asked.source == SOURCE_DEFAULT)
        return true; /* the session's plan is known at admission */
    p->plan = admission_resolve_plan(s, &j->asked, p->n_tokens, e);
    struct request_options options = {.prompt = p->tokens.data,
                                      .n_prompt = p->n_tokens,
                                      .plan = p->plan,
                                      .max_tokens = j->r.max_tokens,
                                      .n_choices = j->r.n,
                                      .n_logprobs = j->r.n_logprobs,
                                      .n_prompt_logprobs = -1};
    if (p->plan && engine_check(s->engine, &options, e))
        return true;
    is_overflow(j, e);
    return false;
}

static bool submit_prompt(struct prompt *p, const struct plan *plan, struct error *e)
{
    struct request_options options;
    if (!make_options(p, plan, &options)) {
        request_options_clear(&options);
        return error_set_memory(e, "a request", p->n_tokens * sizeof *options.prompt);
    }
    p->request = engine_submit(p->job->jobs->service->engine, &options, e);
    if (p->request)
        return true;
    is_overflow(p->job, e);
    return false;
}

/* The plan of a prompt: its session's, or the one that was asked for. */
static bool choose_plan(struct prompt *p, struct error *e)
{
    struct job *j = p->job;
    if (j->plan && j->plan->source == SOURCE_SESSION) {
        plan_release(p->plan);
        p->plan = plan_hold(j->plan);
    } else if (!p->plan) {
        p->plan = admission_resolve_plan(j->jobs->service, &j->asked, p->n_tokens, e);
    }
    if (p->plan && !j->plan)
        j->plan = plan_hold(p->plan);
    return p->plan != NULL;
}

/* Prompts wait here rather than in the engine's queue, which is everybody's. */
static bool has_room(const struct job *j)
{
    const struct service *s = j->jobs->service;
    if (j->n_submitted == 0)
        return true; /* else it is refused, not fed */
    return key_has_room(j) &&
           (j->n_in_engine == 0 ||
            (engine_has_room(s->engine) && j->n_in_engine + j->r.n <= 2 * s->config->max_num_seqs));
}

static void set_hungry(struct job *j, bool hungry)
{
    j->jobs->n_hungry += hungry - (uint32_t)j->hungry;
    j->hungry = hungry;
}

bool admission_feed(struct job *j, struct error *e)
{
    while (j->n_submitted < j->n_prompts && has_room(j)) {
        struct prompt *p = &j->prompts[j->n_submitted];
        if (!choose_plan(p, e) || !submit_prompt(p, p->plan, e)) {
            set_hungry(j, false);
            return false;
        }
        j->n_submitted++;
        j->n_in_engine += j->r.n;
        j->jobs->running_of_key[j->key] += j->r.n;
    }
    set_hungry(j, j->n_submitted < j->n_prompts);
    return true;
}

bool admission_submit(struct job *j, struct error *e)
{
    struct jobs *jobs = j->jobs;
    j->policy = j->asked.preset->name;
    if (!check_key(j, e) || !take_session_plan(j, &j->asked, e) || !admission_feed(j, e))
        return false;
    j->admitted = true;
    jobs->by_policy[(size_t)preset_index(j->plan->preset) * N_SOURCES + j->plan->source]++;
    return true;
}
