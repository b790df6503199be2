/* POST /v1/chat/completions and /v1/completions: from a body to requests, and from their events
 * to an answer.
 *
 *   handler (loop) -> prepare (pool: JSON, template, tokenizer) -> submit (loop) -> pump (loop, at
 * every wake)
 *
 * Loop thread, except `prepare`. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "server/api/api_private.h"

/* ---- life of a job
 * --------------------------------------------------------------------------------------------- */

void job_free(struct job *j)
{
    if (j->parsed)
        api_request_clear(&j->r);
    for (uint32_t i = 0; i < MAX_PROMPTS; i++) {
        tokens_free(&j->parts[i].tokens);
        free(j->parts[i].kv_trace);
    }
    for (uint32_t i = 0; i < j->n_choices; i++) {
        free(j->choices[i].text.data);
        json_decref(j->choices[i].logprobs);
        json_decref(j->choices[i].token_ids);
    }
    free(j->choices);
    free(j->body);
    free(j->policy_header);
    free(j);
}

/* The HTTP request is over. What the pool still works on is freed by its `done`. */
static void on_end(void *context, enum http_request_end end)
{
    struct job *j = context;
    struct api *a = j->api;
    j->http_request = NULL;
    job_stop_work(j, end == HTTP_REQUEST_CLIENT_LEFT);
    if (j->previous)
        j->previous->next = j->next;
    else
        a->jobs = j->next;
    if (j->next)
        j->next->previous = j->previous;
    a->n_jobs--;
    if (j->counted)
        a->running_of_key[j->key]--;
    if (!j->in_pool)
        job_free(j);
}

static void fail_memory(struct job *j)
{
    struct error e;
    error_set(&e, "internal_error", "", "the server is out of memory");
    job_fail(j, &e);
}

/* Random, and exact in a double, so that a JavaScript client can send it back. */
static uint64_t random_seed(void)
{
    uint64_t seed = 0;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != sizeof seed)
        seed = uv_hrtime() * 0x9E3779B97F4A7C15u;
    return seed >> 11;
}

/* ---- pool: parse, template, tokenizer
 * ------------------------------------------------------------------- */

static bool take_token_list(const struct api *a, const json_t *list, struct tokens *out,
                            struct error *e)
{
    size_t i;
    json_t *value;
    (void)a;
    json_array_foreach((json_t *)(uintptr_t)list, i, value)
    {
        /* 1.0 is an integer too; the range was checked by api_request_parse */
        if (!tokens_push(out, (int32_t)json_number_value(value)))
            return error_set_memory(e, "tokens", json_array_size(list) * 4);
    }
    return true;
}

static bool encode_prompts(struct job *j, struct error *e)
{
    const struct tokenizer *t = engine_tokenizer(j->api->engine);
    j->n_parts = j->kind == API_REQUEST_CHAT ? 1 : j->r.n_prompts;
    for (uint32_t i = 0; i < j->n_parts; i++) {
        struct part *p = &j->parts[i];
        p->job = j;
        p->index = i;
        bool ok;
        if (j->kind == API_REQUEST_CHAT)
            ok = api_encode_chat(j->api, j->r.messages, j->r.kwargs, j->r.add_generation_prompt,
                                 j->r.continue_final_message, &p->tokens, NULL, e);
        else if (j->r.prompts[i].tokens)
            ok = take_token_list(j->api, j->r.prompts[i].tokens, &p->tokens, e);
        else
            ok = tokenizer_encode_text(t, j->r.prompts[i].text, j->r.prompts[i].length, true, true,
                                       &p->tokens, e);
        if (!ok)
            return false;
        if (p->tokens.count == 0)
            return error_set(e, "invalid_value",
                             j->kind == API_REQUEST_CHAT ? "messages" : "prompt",
                             "the prompt has no tokens; write at least one character");
        if (p->tokens.count > INT32_MAX)
            return error_set(e, "invalid_value", "prompt", "the prompt is too large");
    }
    return true;
}

static void prepare(void *context)
{
    struct job *j = context;
    j->parsed = api_request_parse(&j->r, j->kind, j->body, j->body_length,
                                  tokenizer_n_vocab(engine_tokenizer(j->api->engine)), &j->error);
    free(j->body);
    j->body = NULL;
    if (!j->parsed || !api_model_fits(j->api, j->r.model, j->r.policy_suffix, &j->error) ||
        !encode_prompts(j, &j->error))
        return;
    j->n_choices = 0;
    j->choices = calloc((size_t)j->n_parts * j->r.n, sizeof *j->choices);
    if (!j->choices) {
        error_set_memory(&j->error, "choices", 0);
        return;
    }
    j->n_choices = j->n_parts * j->r.n;
}

/* ---- submit
 * --------------------------------------------------------------------------------------------- */

/* ENGINE thread. */
static void on_notify(void *context)
{
    struct part *p = context;
    struct api *a = p->job->api;
    pthread_mutex_lock(&a->ready_lock);
    if (!p->in_ready) {
        p->in_ready = true;
        p->next_ready = a->ready;
        a->ready = p;
    }
    pthread_mutex_unlock(&a->ready_lock);
    uv_async_send(&a->wake);
}

static bool copy_stops(const struct job *j, struct request_options *g)
{
    const struct api_request *r = &j->r;
    g->stops = calloc(r->n_stops + 1, sizeof *g->stops);
    g->stop_tokens = malloc((r->n_stop_tokens + 1) * sizeof *g->stop_tokens);
    if (!g->stops || !g->stop_tokens)
        return false;
    for (uint32_t i = 0; i < r->n_stops; i++) {
        g->stops[i].bytes = malloc(r->stops[i].length + 1);
        if (!g->stops[i].bytes)
            return false;
        memcpy(g->stops[i].bytes, r->stops[i].bytes, r->stops[i].length);
        g->stops[i].length = (uint32_t)r->stops[i].length;
        g->n_stops = i + 1;
    }
    if (r->n_stop_tokens)
        memcpy(g->stop_tokens, r->stop_tokens, r->n_stop_tokens * sizeof *g->stop_tokens);
    g->n_stop_tokens = r->n_stop_tokens;
    return true;
}

static bool copy_sampling(const struct job *j, struct request_options *g)
{
    const struct api_request *r = &j->r;
    const struct sampling *d = &j->api->default_sampling;
    g->sampling = r->sampling;
    g->sampling.bias = NULL;
    g->sampling.n_bias = 0;
    if (!r->has_temperature)
        g->sampling.temperature = d->temperature;
    if (!r->has_top_p)
        g->sampling.top_p = d->top_p;
    if (!r->has_top_k)
        g->sampling.top_k = d->top_k;
    if (!r->has_min_p)
        g->sampling.min_p = d->min_p;
    g->sampling.seed = j->seed;
    if (r->sampling.n_bias == 0)
        return true;
    g->sampling.bias = malloc(r->sampling.n_bias * sizeof *g->sampling.bias);
    if (!g->sampling.bias)
        return false;
    memcpy(g->sampling.bias, r->sampling.bias, r->sampling.n_bias * sizeof *g->sampling.bias);
    g->sampling.n_bias = r->sampling.n_bias;
    return true;
}

/* Who may find the prompt in the prefix cache: the same key (where keys differ), the same salt. */
static struct prefix_name prefix_root_of(const struct job *j)
{
    char secret[16 + 1024];
    const struct api_request *r = &j->r;
    bool by_key = !strcmp(j->api->config->prefix_scope, "key");
    int n = snprintf(secret, 16, "%u:", by_key ? j->key : 0);
    size_t salt = r->n_cache_salt < 1024 ? r->n_cache_salt : 1024; /* the field's limit */
    if (salt)
        memcpy(secret + n, r->cache_salt, salt);
    return prefix_root(secret, (size_t)n + salt);
}

static bool build(struct part *p, const struct plan *plan, struct request_options *g)
{
    const struct job *j = p->job;
    const struct api_request *r = &j->r;
    *g = (struct request_options){.n_prompt = (uint32_t)p->tokens.count,
                                  .plan = *plan,
                                  .include_stop_string = r->include_stop_string,
                                  .ignore_eos = r->ignore_eos,
                                  .show_control = !r->skip_special_tokens,
                                  .min_tokens = r->min_tokens,
                                  .max_tokens = r->max_tokens,
                                  .n_choices = r->n,
                                  .n_logprobs = r->n_logprobs,
                                  .n_prompt_logprobs = r->echo ? r->n_logprobs : -1,
                                  .progress = r->stream && r->return_progress,
                                  .timeout_ms = r->timeout_ms ? r->timeout_ms
                                                              : j->api->config->request_timeout_ms,
                                  .reuse_prefix = j->api->config->prefix_cache && r->cache_prompt,
                                  .prefix_root = prefix_root_of(j),
                                  .owner_key = j->key,
                                  .notify = on_notify,
                                  .notify_context = p};
    /* The response's id; further prompts of the same request are told apart. */
    snprintf(g->id, sizeof g->id, p->index ? "%s.%u" : "%s", j->id, p->index);
    if (r->session_id && !(g->session_id = strdup(r->session_id)))
        return false;
    g->prompt = malloc(p->tokens.count * sizeof *g->prompt);
    if (!g->prompt)
        return false;
    memcpy(g->prompt, p->tokens.data, p->tokens.count * sizeof *g->prompt);
    return copy_sampling(j, g) && copy_stops(j, g);
}

/* The sentence that agents recognise, with every wording they look for; see API.md section 6. */
static void word_overflow(const struct job *j, struct error *e)
{
    struct error raw = *e;
    long long n = raw.n_prompt_tokens, room = raw.n_ctx;
    error_set(e, "context_length_exceeded", j->kind == API_REQUEST_CHAT ? "messages" : "prompt",
              "The request (%lld tokens) exceeds the available context size (%lld tokens): this "
              "model's maximum context "
              "length is %lld tokens. Please reduce the length of the messages, or use the cache "
              "policy \"sink\".",
              n, room, room);
    e->n_prompt_tokens = n;
    e->n_ctx = room;
}

static bool submit_part(struct part *p, struct error *e)
{
    struct job *j = p->job;
    struct api *a = j->api;
    struct plan plan = j->plan;
    struct request_options g;
    if (!api_resolve_plan(a, &plan, (uint32_t)p->tokens.count, e))
        return false;
    if (p->index == 0)
        j->plan = plan;
    if (!build(p, &plan, &g)) {
        request_options_clear(&g);
        return error_set_memory(e, "a request", p->tokens.count * 4);
    }
    p->request = engine_submit(a->engine, &g, e);
    if (!p->request && !strcmp(e->code, "context_length_exceeded"))
        word_overflow(j, e);
    return p->request != NULL;
}

static bool key_has_room(struct job *j, struct error *e)
{
    struct api *a = j->api;
    uint32_t most = a->config->max_per_key;
    if (most && j->key && a->running_of_key[j->key] >= most) {
        error_set(e, "rate_limit_exceeded", "",
                  "this API key has %u requests running, as many as it may (--max-per-key)",
                  a->running_of_key[j->key]);
        e->retry_after_ms = 1000;
        return false;
    }
    a->running_of_key[j->key]++;
    j->counted = true;
    return true;
}

/* A turn that names no policy goes on under its session's: of the cache that waits, or of the turn
 * before, which this one will wait for. Known here, so that the header can tell. */
static void take_session_plan(struct job *j)
{
    const char *id = j->r.session_id;
    struct plan plan;
    if (!id || j->plan.source != SOURCE_DEFAULT)
        return;
    bool found = session_plan(engine_sessions(j->api->engine), id, j->key, &plan);
    for (const struct job *other = j->api->jobs; other && !found; other = other->next) {
        found = other != j && other->submitted && other->key == j->key && other->r.session_id &&
                !strcmp(other->r.session_id, id);
        if (found)
            plan = other->plan;
    }
    if (!found)
        return;
    plan.source = SOURCE_SESSION;
    plan.trace = j->plan.trace;
    j->plan = plan;
}

static bool submit(struct job *j, struct error *e)
{
    struct api *a = j->api;
    if (!key_has_room(j, e) || !api_pick_plan(a, j->r.has_policy ? &j->r.plan : NULL,
                                              j->policy_header, j->r.policy_suffix, &j->plan, e))
        return false;
    take_session_plan(j);
    const struct plan asked = j->plan;
    struct plan first = asked;
    for (uint32_t i = 0; i < j->n_parts; i++) {
        j->plan = asked; /* shares are of each prompt's own length */
        if (!submit_part(&j->parts[i], e)) {
            j->plan = first;
            return false;
        }
        if (i == 0)
            first = j->plan;
    }
    j->plan = first;
    j->submitted = true;
    a->metrics.policy_requests[preset_index(j->plan.preset)][j->plan.source]++;
    return true;
}

/* An echoed prompt comes before the text. */
static bool add_echo(struct job *j)
{
    for (uint32_t i = 0; j->r.echo && i < j->n_choices; i++) {
        const struct part *p = &j->parts[i / j->r.n];
        const struct api_prompt *prompt = &j->r.prompts[p->index];
        size_t length = prompt->length;
        char *text = prompt->tokens
                         ? tokenizer_decode(engine_tokenizer(j->api->engine), p->tokens.data,
                                            p->tokens.count, false, false, &length)
                         : NULL;
        if (prompt->tokens && !text)
            return false;
        bool ok = bytes_add(&j->choices[i].text, text ? text : prompt->text, length);
        free(text);
        if (!ok)
            return false;
    }
    return true;
}

static void prepared(void *context)
{
    struct job *j = context;
    struct error e;
    j->in_pool = false;
    if (!j->http_request) {
        job_free(j);
        return;
    }
    if (http_request_draining(j->http_request)) {
        error_set(&e, "draining", "", "the server is shutting down");
        e.retry_after_ms = 5000;
        job_fail(j, &e);
        return;
    }
    if (j->error.code[0]) {
        if (!strcmp(j->error.code, "out_of_memory"))
            error_set(&j->error, "internal_error", "", "the server is out of memory");
        job_fail(j, &j->error);
        return;
    }
    j->seed = j->r.has_seed ? j->r.sampling.seed : random_seed();
    for (uint32_t i = 0; i < j->n_choices; i++)
        j->choices[i].stop_token = j->choices[i].stop_string = -1;
    if (!submit(j, &e)) {
        job_fail(j, &e);
        return;
    }
    if (!add_echo(j)) {
        fail_memory(j);
        return;
    }
    char described[128];
    plan_describe(&j->plan, described, sizeof described);
    http_request_add_header(j->http_request, "X-KV-Policy", described);
    if (j->r.stream)
        http_request_stream_start(j->http_request, j->r.has_sse_ping
                                                       ? j->r.sse_ping_ms
                                                       : j->api->config->sse_ping_interval_ms);
}

/* ---- writing
 * --------------------------------------------------------------------------------------------- */

static bool write_event(struct job *j, json_t *value)
{
    char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
    bool ok = false;
    if (text) {
        struct bytes line = {0};
        ok = bytes_add(&line, "data: ", 6) && bytes_add(&line, text, strlen(text)) &&
             bytes_add(&line, "\n\n", 2) &&
             http_request_stream_write(j->http_request, line.data, line.length);
        free(line.data);
    }
    free(text);
    json_decref(value);
    return ok;
}

/* Chat: the role of every choice. Completions: the echoed prompt, if any; with more choices than
 * one a chunk for each, as their texts start in any order and clients build lists by rising index.
 */
static bool start_stream(struct job *j)
{
    bool ok = true;
    if (j->started)
        return true;
    j->started = true;
    for (uint32_t i = 0; ok && i < j->n_choices; i++) {
        const struct bytes *echo = &j->choices[i].text;
        if (j->kind == API_REQUEST_CHAT)
            ok = write_event(
                j, answer_chunk(j, (int32_t)i,
                                json_pack("{s:s, s:s}", "role", "assistant", "content", ""),
                                json_null(), false));
        else if (echo->length || j->n_choices > 1)
            ok = write_event(j, answer_chunk(j, (int32_t)i,
                                             json_text(echo->data ? echo->data : "", echo->length),
                                             json_null(), false));
    }
    return ok;
}

static json_t *delta_of(const struct job *j, const char *text, size_t length)
{
    json_t *content = json_text(text, length);
    return j->kind == API_REQUEST_CHAT ? json_pack("{s:o}", "content", content) : content;
}

static bool add_ids(json_t **ids, const struct request_event *e)
{
    if (!*ids && !(*ids = json_array()))
        return false;
    for (uint32_t i = 0; i < e->n_tokens; i++)
        if (json_array_append_new(*ids, json_integer(e->tokens[i].token)))
            return false;
    return true;
}

static bool take_text(struct job *j, uint32_t index, const struct request_event *e)
{
    struct answer_choice *c = &j->choices[index];
    c->n_tokens += e->n_tokens;
    json_t *logprobs = answer_logprobs(j, c, e, false);
    if (!j->r.stream) {
        if (j->r.return_token_ids && !add_ids(&c->token_ids, e))
            return false;
        return answer_join_logprobs(&c->logprobs, logprobs) &&
               bytes_add(&c->text, e->text, e->n_text);
    }
    if (e->n_text == 0 && j->r.n_logprobs < 0 && !j->r.return_token_ids) {
        json_decref(logprobs);
        return true;
    }
    json_t *chunk =
        answer_chunk(j, (int32_t)index, delta_of(j, e->text, e->n_text), logprobs, false);
    if (chunk && j->r.return_token_ids) {
        json_t *ids = NULL;
        if (add_ids(&ids, e))
            json_object_set_new(json_array_get(json_object_get(chunk, "choices"), 0), "token_ids",
                                ids);
    }
    return start_stream(j) && write_event(j, chunk);
}

/* Prompt logprobs are of the part: every choice of it shows them. */
static bool take_prompt_tokens(struct part *p, const struct request_event *e)
{
    struct job *j = p->job;
    for (uint32_t k = 0; k < j->r.n; k++) {
        uint32_t index = p->index * j->r.n + k;
        struct answer_choice *c = &j->choices[index];
        json_t *logprobs = answer_logprobs(j, c, e, true);
        bool ok = j->r.stream ? start_stream(j) && write_event(j, answer_chunk(j, (int32_t)index,
                                                                               delta_of(j, "", 0),
                                                                               logprobs, false))
                              : answer_join_logprobs(&c->logprobs, logprobs);
        if (!ok)
            return false;
    }
    return true;
}

static json_t *finish_chunk(struct job *j, int32_t index)
{
    return answer_chunk(j, index, j->kind == API_REQUEST_CHAT ? json_object() : json_string(""),
                        json_null(), true);
}

/* The last choice's finish chunk waits, as it may carry numbers that come with EVENT_DONE. */
static bool take_choice_end(struct job *j, uint32_t index, const struct request_event *e)
{
    struct answer_choice *c = &j->choices[index];
    c->ended = true;
    c->finish = e->finish;
    c->stop_token = e->stop_token;
    c->stop_string = e->stop_string;
    j->n_ended++;
    if (!j->r.stream)
        return true;
    if (j->n_ended < j->n_choices)
        return start_stream(j) && write_event(j, finish_chunk(j, (int32_t)index));
    j->last_choice = (int32_t)index;
    return true;
}

static bool end_stream(struct job *j)
{
    bool with_usage = j->r.include_usage || j->plan.trace;
    json_t *last = finish_chunk(j, j->last_choice);
    if (last && !with_usage) {
        json_object_set_new(last, "timings", answer_timings(j));
        if (j->plan.source != SOURCE_DEFAULT)
            json_object_set_new(last, "kv_cache", answer_kv_cache(j));
    }
    if (!start_stream(j) || !write_event(j, last))
        return false;
    if (with_usage) {
        json_t *chunk = answer_chunk(j, -1, NULL, NULL, false);
        json_object_set_new(chunk, "usage", answer_usage(j));
        json_object_set_new(chunk, "timings", answer_timings(j));
        if (j->plan.trace)
            json_object_set_new(chunk, "kv_trace", answer_kv_trace(j));
        if (!write_event(j, chunk))
            return false;
    }
    if (!http_request_stream_write(j->http_request, "data: [DONE]\n\n", 14))
        return false;
    http_request_stream_end(j->http_request, true);
    return true;
}

static bool end_whole(struct job *j)
{
    char text[32];
    snprintf(
        text, sizeof text, "%llu",
        (unsigned long long)((uv_hrtime() - http_request_started_ns(j->http_request)) / 1000000));
    http_request_add_header(j->http_request, "OpenAI-Processing-Ms", text);
    http_request_reply_json(j->http_request, 200, answer_whole(j));
    return true;
}

static bool take_done(struct part *p, const struct request_event *e)
{
    struct job *j = p->job;
    p->usage = *e->usage;
    p->done = true;
    if (e->kv_trace && (p->kv_trace = malloc(e->n_kv_trace + 1))) {
        memcpy(p->kv_trace, e->kv_trace, e->n_kv_trace);
        p->kv_trace[e->n_kv_trace] = 0;
    }
    p->kv_trace_truncated = e->kv_trace_truncated;
    if (++j->n_done < j->n_parts)
        return true;
    uint32_t prompt = 0, completion = 0;
    for (uint32_t i = 0; i < j->n_parts; i++) {
        prompt += j->parts[i].usage.prompt_tokens;
        completion += j->parts[i].usage.completion_tokens;
    }
    http_request_log_tokens(j->http_request, prompt, completion, j->plan.preset->name,
                            j->choices[0].finish == FINISH_LENGTH ? "length" : "stop");
    return j->r.stream ? end_stream(j) : end_whole(j);
}

static bool take_progress(struct part *p, const struct request_event *e)
{
    struct job *j = p->job;
    json_t *chunk = answer_chunk(j, -1, NULL, NULL, false);
    if (chunk)
        json_object_set_new(chunk, "prompt_progress",
                            json_pack("{s:I, s:i, s:I, s:f}", "total", (json_int_t)e->n_total,
                                      "cache", 0, "processed", (json_int_t)e->n_done, "time_ms",
                                      e->time_ms));
    return start_stream(j) && write_event(j, chunk);
}

static bool take(struct part *p, const struct request_event *e)
{
    struct job *j = p->job;
    uint32_t index = p->index * j->r.n + e->choice;
    switch (e->kind) {
    case EVENT_PROGRESS:
        return take_progress(p, e);
    case EVENT_PROMPT_TOKENS:
        return take_prompt_tokens(p, e);
    case EVENT_TEXT:
        return take_text(j, index, e);
    case EVENT_CHOICE_END:
        return take_choice_end(j, index, e);
    case EVENT_DONE:
        return take_done(p, e);
    default:
        return true;
    }
}

static void on_drain(void *context)
{
    struct job *j = context;
    for (uint32_t i = 0; i < j->n_parts && j->http_request; i++)
        job_pump(&j->parts[i]);
}

/* Takes what the engine has for a part, as far as the client keeps up: what stays in the engine's
 * buffer pauses the sequence there. */
void job_pump(struct part *p)
{
    struct job *j = p->job;
    while (p->request && j->http_request) {
        if (j->r.stream &&
            http_request_stream_waiting(j->http_request) >= HTTP_REQUEST_STREAM_HIGH) {
            http_request_stream_on_drain(j->http_request, on_drain);
            return;
        }
        struct request_event e = request_next(p->request);
        if (e.kind == EVENT_NONE)
            return;
        if (e.kind == EVENT_ERROR) {
            struct error error = *e.error;
            if (!strcmp(error.code, "engine_stopped"))
                error_set(&error, "draining", "", "the server is shutting down");
            job_fail(j, &error);
            return;
        }
        bool last = e.kind == EVENT_DONE;
        if (!take(p, &e)) {
            fail_memory(j);
            return;
        }
        if (last)
            part_release(p);
    }
}

/* ---- handlers
 * --------------------------------------------------------------------------------------------- */

static void handle(struct http_request *x, struct api *a, enum api_request_kind kind)
{
    size_t length;
    const char *body = http_request_body(x, &length),
               *header = http_request_header(x, "X-KV-Policy");
    struct error e;
    struct job *j = calloc(1, sizeof *j);
    char *copy = malloc(length + 1);
    if (!j || !copy) {
        error_set(&e, "internal_error", "", "the server is out of memory");
        http_request_reply_error(x, &e);
        free(j);
        free(copy);
        return;
    }
    memcpy(copy, body, length);
    copy[length] = 0;
    *j = (struct job){.api = a,
                      .http_request = x,
                      .kind = kind,
                      .body = copy,
                      .body_length = length,
                      .key = http_request_key(x),
                      .created = time(NULL),
                      .last_choice = -1,
                      .in_pool = true};
    j->policy_header = header && *header ? strdup(header) : NULL;
    uint64_t id[2];
    id[0] = random_seed();
    id[1] = random_seed();
    snprintf(j->id, sizeof j->id, "%s-%013llx%013llx",
             kind == API_REQUEST_CHAT ? "chatcmpl" : "cmpl", (unsigned long long)id[0],
             (unsigned long long)id[1]);
    j->next = a->jobs;
    if (a->jobs)
        a->jobs->previous = j;
    a->jobs = j;
    a->n_jobs++;
    http_request_set_context(x, j, on_end);
    if (!http_request_work(x, prepare, prepared, j)) {
        j->in_pool = false;
        fail_memory(j);
    }
}

void handle_chat(struct http_request *x, void *api)
{
    handle(x, api, API_REQUEST_CHAT);
}

void handle_completion(struct http_request *x, void *api)
{
    handle(x, api, API_REQUEST_COMPLETION);
}
