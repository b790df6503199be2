/* See generate.h. */
#include "server/api/generate.h"

#include <stdlib.h>
#include <string.h>

#include "engine/text/chat_request.h"
#include "server/api/admission.h"
#include "server/api/handlers.h"
#include "server/api/reply.h"

static void fail_memory(struct job *j)
{
    struct error e;
    error_set(&e, "out_of_memory", "", "the server is out of memory");
    reply_fail(j, &e);
}

static void fail_draining(struct job *j)
{
    struct error e;
    error_set(&e, "draining", "", "the server is shutting down");
    e.retry_after_ms = 5000;
    reply_fail(j, &e);
}

/* ---- pool: parse, template, tokenizer */

static bool take_token_list(const json_t *list, struct tokens *out, struct error *e)
{
    size_t i;
    json_t *value;
    json_array_foreach((json_t *)(uintptr_t)list, i, value)
    {
        /* 1.0 is an integer too; api_request_parse has checked the range */
        if (!tokens_push(out, (int32_t)json_number_value(value)))
            return error_set_memory(e, "tokens", json_array_size(list) * 4);
    }
    return true;
}

static bool encode_prompt(const struct job *j, struct prompt *p, struct error *e)
{
    const struct engine *engine = j->jobs->service->engine;
    const struct api_prompt *prompt = &j->r.prompts[p->index];
    if (j->kind == API_REQUEST_CHAT)
        return chat_request_encode(&j->r.chat, engine_chat_template(engine),
                                   engine_tokenizer(engine), &p->tokens, NULL, e);
    if (prompt->tokens)
        return take_token_list(prompt->tokens, &p->tokens, e);
    return tokenizer_encode_prompt(engine_tokenizer(engine), prompt->text, prompt->length, true,
                                   j->r.add_special_tokens, &p->tokens, e);
}

/* Copies the tokens for the answer, because the engine takes them. */
static bool keep_for_answer(struct job *j, struct prompt *p, struct error *e)
{
    if (!j->r.return_token_ids || j->r.stream)
        return true;
    p->token_ids = json_array();
    for (uint32_t i = 0; i < p->n_tokens; i++)
        if (json_array_append_new(p->token_ids, json_integer(p->tokens.data[i])))
            return error_set_memory(e, "token ids", p->n_tokens * sizeof(json_t));
    return true;
}

static bool make_prompts(struct job *j, struct error *e)
{
    bool chat = j->kind == API_REQUEST_CHAT;
    if (!job_make_prompts(j, chat ? 1 : j->r.n_prompts, e))
        return false;
    for (uint32_t i = 0; i < j->n_prompts; i++) {
        struct prompt *p = &j->prompts[i];
        if (!encode_prompt(j, p, e))
            return false;
        if (p->tokens.count == 0)
            return error_set(e, "invalid_value", chat ? "messages" : "prompt",
                             "the prompt has no tokens; it must have at least one");
        if (p->tokens.count > INT32_MAX)
            return error_set(e, "invalid_value", "prompt", "the prompt is too large");
        p->n_tokens = (uint32_t)p->tokens.count;
        if (!keep_for_answer(j, p, e))
            return false;
    }
    return true;
}

/* An echoed prompt comes before the text of each of its choices. */
static bool add_echo(struct job *j, const struct prompt *p, struct error *e)
{
    const struct api_prompt *prompt = &j->r.prompts[p->index];
    size_t length = prompt->length;
    char *decoded = NULL;
    if (prompt->tokens &&
        !(decoded = tokenizer_decode(engine_tokenizer(j->jobs->service->engine), p->tokens.data,
                                     p->tokens.count, false, false, &length)))
        return error_set_memory(e, "a prompt's text", p->tokens.count);
    bool ok = true;
    for (uint32_t k = 0; ok && k < j->r.n; k++)
        ok = bytes_add(&j->choices[p->index * j->r.n + k].text, decoded ? decoded : prompt->text,
                       length);
    free(decoded);
    return ok || error_set_memory(e, "a prompt's text", length);
}

static void prepare(void *context)
{
    struct job *j = context;
    const struct service *s = j->jobs->service;
    struct error *e = &j->error;
    bool parsed = api_request_parse(&j->r, j->kind, j->body, j->n_body,
                                    tokenizer_n_vocab(engine_tokenizer(s->engine)), e);
    free(j->body);
    j->body = NULL;
    if (!parsed || !service_has_model(s, j->r.model, j->r.policy_suffix, e) ||
        !make_prompts(j, e) || !job_make_choices(j, e))
        return;
    for (uint32_t i = 0; j->r.echo && i < j->n_prompts; i++)
        if (!add_echo(j, &j->prompts[i], e))
            return;
}

/* ---- loop: admission */

static void begin_answer(struct job *j)
{
    struct http_request *x = j->http_request;
    char described[128];
    plan_describe(j->plan, described, sizeof described);
    http_request_add_header(x, "X-KV-Policy", described);
    if (j->r.stream)
        http_request_stream_start(x, j->r.has_sse_ping
                                         ? j->r.sse_ping_ms
                                         : j->jobs->service->config->sse_ping_interval_ms);
}

static void admit(struct job *j)
{
    struct error e;
    if (http_request_draining(j->http_request)) {
        fail_draining(j);
        return;
    }
    if (!strcmp(j->error.code, "out_of_memory")) {
        fail_memory(j);
        return;
    }
    if (j->error.code[0]) {
        reply_fail(j, &j->error);
        return;
    }
    j->seed = j->r.has_seed ? j->r.sampling.seed : job_random_seed();
    if (admission_submit(j, &e))
        begin_answer(j);
    else
        reply_fail(j, &e);
}

static void prepared(void *context)
{
    struct job *j = context;
    j->in_pool = false;
    if (j->http_request)
        admit(j);
    job_let_go(j);
}

/* ---- loop: events */

static void on_drain(void *context)
{
    struct job *j = context;
    job_hold(j);
    for (uint32_t i = 0; i < j->n_prompts; i++)
        generate_pump(&j->prompts[i]);
    job_let_go(j);
}

static void pump(struct job *j, struct prompt *p)
{
    while (p->request && j->http_request) {
        if (j->r.stream &&
            http_request_stream_waiting(j->http_request) >= HTTP_REQUEST_STREAM_HIGH) {
            http_request_stream_on_drain(j->http_request, on_drain);
            return;
        }
        struct request_event e = request_next(p->request);
        if (e.kind == EVENT_NONE)
            return;
        if (e.kind == EVENT_ERROR && !strcmp(e.error->code, "engine_stopped")) {
            fail_draining(j);
            return;
        }
        if (e.kind == EVENT_ERROR) {
            struct error error = *e.error; /* releasing the request frees it */
            reply_fail(j, &error);
            return;
        }
        bool last = e.kind == EVENT_DONE;
        if (!reply_take(p, &e)) {
            fail_memory(j);
            return;
        }
        if (last)
            prompt_release(p);
    }
}

void generate_pump(struct prompt *p)
{
    struct job *j = p->job;
    job_hold(j);
    pump(j, p);
    job_let_go(j);
}

void generate_stop_all(struct jobs *jobs, const struct error *e)
{
    for (struct job *j = TAILQ_FIRST(&jobs->running), *next; j; j = next) {
        next = TAILQ_NEXT(j, entry);
        if (!j->in_pool)
            reply_fail(j, e);
    }
}

/* ---- handlers */

static void handle(struct http_request *x, struct jobs *jobs, enum api_request_kind kind)
{
    struct job *j = job_new(jobs, x, kind);
    if (!j) {
        struct error e;
        error_set(&e, "out_of_memory", "", "the server is out of memory");
        http_request_reply_error(x, &e);
        return;
    }
    job_hold(j); /* until `prepared` */
    j->in_pool = true;
    if (http_request_work(x, prepare, prepared, j))
        return;
    j->in_pool = false;
    fail_memory(j);
    job_let_go(j);
}

void handle_chat(struct http_request *x, void *jobs)
{
    handle(x, jobs, API_REQUEST_CHAT);
}

void handle_completion(struct http_request *x, void *jobs)
{
    handle(x, jobs, API_REQUEST_COMPLETION);
}
