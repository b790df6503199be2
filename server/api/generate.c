/* See generate.h. */
#include "server/api/generate.h"

#include <stdlib.h>
#include <string.h>

#include "engine/text/chat_request.h"
#include "server/api/admission.h"
#include "server/api/answer.h"
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

/* Tokens of a prompt that is read to its end, so that the error has its length. */
static size_t most_tokens(uint32_t n_ctx)
{
    return 2 * (size_t)n_ctx + 1024;
}

/* The context that a prompt must fit into; 0: there is no such limit. A session's plan is known only at
 * admission. */
static uint32_t context_of(const struct job *j)
{
    bool unlimited = j->asked.axes.positions == POSITIONS_CACHE ||
                     (j->r.session_id && j->asked.source == SOURCE_DEFAULT);
    return unlimited ? 0 : engine_n_ctx(j->jobs->service->engine);
}

/* A long text has at least as many tokens as the longest token fits into it. Short ones are tokenized in
 * any case. */
static bool text_fits(const struct job *j, size_t length, struct error *e)
{
    enum { SHORT_BYTES = 256 * 1024 };
    size_t longest = j->jobs->service->longest_token, least = longest ? length / longest : 0;
    uint32_t n_ctx = context_of(j);
    return length <= SHORT_BYTES || !n_ctx || least <= n_ctx ||
           admission_overflow(j->kind, (int64_t)least, true, n_ctx, e);
}

static size_t chat_bytes(const struct chat_request *chat)
{
    size_t i, bytes = 0;
    const json_t *message;
    json_array_foreach(chat->messages, i, message) bytes +=
        json_string_length(json_object_get(message, "content"));
    return bytes;
}

/* Of a completion what the request wrote; of a chat an empty one. */
static const struct api_prompt *written_prompt(const struct job *j, const struct prompt *p)
{
    static const struct api_prompt none = {0};
    return j->r.prompts ? &j->r.prompts[p->index] : &none;
}

static bool encode_text(const struct job *j, struct prompt *p, struct error *e)
{
    const struct engine *engine = j->jobs->service->engine;
    const struct api_prompt *prompt = written_prompt(j, p);
    if (j->kind == API_REQUEST_CHAT)
        return text_fits(j, chat_bytes(&j->r.chat), e) &&
               chat_request_encode(&j->r.chat, engine_chat_template(engine),
                                   engine_tokenizer(engine), &p->tokens, NULL, e);
    if (prompt->tokens)
        return take_token_list(prompt->tokens, &p->tokens, e);
    return text_fits(j, prompt->length, e) &&
           tokenizer_encode_prompt(engine_tokenizer(engine), prompt->text, prompt->length, true,
                                   j->r.add_special_tokens, &p->tokens, e);
}

static bool encode_prompt(const struct job *j, struct prompt *p, struct error *e)
{
    uint32_t n_ctx = context_of(j);
    p->tokens.most = n_ctx ? most_tokens(n_ctx) : 0;
    p->tokens.stop = &j->work.cancelled;
    bool ok = encode_text(j, p, e);
    if (!ok && n_ctx && p->tokens.count >= p->tokens.most)
        return admission_overflow(j->kind, (int64_t)p->tokens.count, true, n_ctx, e);
    p->tokens.most = 0;
    p->tokens.stop = NULL;
    return ok;
}

/* Copies what the answer shows, because the engine takes the tokens and the text is freed. */
static bool keep_for_answer(struct job *j, struct prompt *p, struct error *e)
{
    const struct api_prompt *prompt = written_prompt(j, p);
    if (j->r.return_token_ids && !j->r.stream &&
        !answer_add_ids(&p->token_ids, p->tokens.data, p->tokens.count))
        return error_set_memory(e, "token ids", p->n_tokens);
    if (!j->r.echo)
        return true;
    size_t length = prompt->length;
    char *decoded = NULL;
    if (prompt->tokens &&
        !(decoded = tokenizer_decode(engine_tokenizer(j->jobs->service->engine), p->tokens.data,
                                     p->tokens.count, false, false, &length)))
        return error_set_memory(e, "a prompt's text", p->tokens.count);
    bool ok = bytes_add(&p->echo, decoded ? decoded : prompt->text, length);
    free(decoded);
    return ok || error_set_memory(e, "a prompt's text", length);
}

static bool make_prompt(struct job *j, struct prompt *p, struct error *e)
{
    if (!encode_prompt(j, p, e))
        return false;
    if (p->tokens.count == 0)
        return error_set(e, "invalid_value", j->kind == API_REQUEST_CHAT ? "messages" : "prompt",
                         "the prompt has no tokens; it must have at least one");
    if (p->tokens.count > INT32_MAX)
        return error_set(e, "invalid_value", "prompt", "the prompt is too large");
    p->n_tokens = (uint32_t)p->tokens.count;
    j->n_prompt_tokens += p->n_tokens;
    return keep_for_answer(j, p, e) && admission_check_prompt(p, e);
}

static bool make_prompts(struct job *j, struct error *e)
{
    if (!job_make_prompts(j, j->kind == API_REQUEST_CHAT ? 1 : j->r.n_prompts, e))
        return false;
    for (uint32_t i = 0; i < j->n_prompts; i++)
        if (work_is_cancelled(&j->work) || !make_prompt(j, &j->prompts[i], e))
            return false;
    return admission_check_product(j, e);
}

/* A name with an '@' can be the served model's own. */
static bool check_model(struct job *j, struct error *e)
{
    const struct service *s = j->jobs->service;
    if (!strcmp(j->r.model, s->name))
        j->r.policy_suffix = NULL;
    return service_has_model(s, j->r.model, j->r.policy_suffix, e);
}

static void prepare(struct work *work)
{
    struct job *j = job_of_work(work);
    const struct service *s = j->jobs->service;
    struct error *e = &j->error;
    bool parsed = api_request_parse(&j->r, j->kind, j->body, j->n_body,
                                    tokenizer_n_vocab(engine_tokenizer(s->engine)), e);
    free(j->body);
    j->body = NULL;
    if (parsed && check_model(j, e) &&
        admission_pick_policy(s, j->r.has_policy ? &j->r.policy : NULL, j->policy_header,
                              j->r.policy_suffix, &j->asked, e) &&
        make_prompts(j, e) && job_make_choices(j, e))
        api_request_forget_prompts(&j->r);
    else if (parsed && !e->code[0]) /* it was cancelled */
        error_set(e, "draining", "", "the server is shutting down");
    if (e->code[0])
        api_request_clear(&j->r);
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
    if (http_request_draining(j->http_request) || work_is_cancelled(&j->work)) {
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

static void prepared(struct work *work)
{
    struct job *j = job_of_work(work);
    j->prepared = true;
    if (j->http_request)
        admit(j);
    job_let_go(j);
}

/* ---- loop: events */

static void on_drain(void *context)
{
    struct job *j = context;
    for (uint32_t i = 0; i < j->n_prompts; i++)
        if (j->prompts[i].request)
            mailbox_put(j->jobs->mailbox, &j->prompts[i].letter);
}

void generate_feed(struct letter *room)
{
    struct jobs *jobs = (struct jobs *)((char *)room - offsetof(struct jobs, room));
    struct error e;
    struct job *j, *before;
    for (j = TAILQ_LAST(&jobs->running, job_list); j && jobs->n_hungry; j = before) {
        before = TAILQ_PREV(j, job_list, entry);
        if (j->hungry && !admission_feed(j, &e))
            reply_fail(j, &e);
    }
}

/* False: the prompt has no event, or its job has ended. */
static bool next_event(struct job *j, struct prompt *p)
{
    if (p->has_event)
        return true;
    p->event = request_next(p->request);
    p->at_choice = p->at_token = 0;
    const struct request_event *e = &p->event;
    if (e->kind == EVENT_NONE)
        return false;
    if (e->kind == EVENT_ERROR && !strcmp(e->error->code, "engine_stopped")) {
        fail_draining(j);
        return false;
    }
    if (e->kind == EVENT_ERROR) {
        struct error error = *e->error; /* releasing the request frees it */
        reply_fail(j, &error);
        return false;
    }
    p->has_event = true;
    return true;
}

/* How long one prompt may keep the loop. */
enum { TURN_NS = 1000000 };

static void pump(struct job *j, struct prompt *p)
{
    uint64_t start = uv_hrtime();
    struct error e;
    while (p->request && j->http_request) {
        if (j->r.stream &&
            http_request_stream_waiting(j->http_request) >= HTTP_REQUEST_STREAM_HIGH) {
            http_request_stream_on_drain(j->http_request, on_drain);
            return;
        }
        if (uv_hrtime() - start > TURN_NS) {
            mailbox_put(j->jobs->mailbox, &p->letter);
            return;
        }
        if (!next_event(j, p))
            return;
        bool last = p->event.kind == EVENT_DONE;
        enum reply taken = reply_take(p, &e);
        if (taken == REPLY_FAILED) {
            reply_fail(j, &e);
            return;
        }
        if (taken == REPLY_MORE)
            continue;
        p->has_event = false;
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
        if (j->work.state == WORK_IDLE)
            reply_fail(j, e);
    }
}

/* ---- handlers */

static void handle(struct http_request *x, struct jobs *jobs, enum api_request_kind kind)
{
    struct error e;
    struct job *j = job_new(jobs, x, kind);
    if (!j) {
        error_set(&e, "out_of_memory", "", "the server is out of memory");
        http_request_reply_error(x, &e);
        return;
    }
    job_hold(j); /* until `prepared` */
    if (work_submit(jobs->service->work, &j->work, j->caller, j->n_body, prepare, prepared, &e))
        return;
    reply_fail(j, &e);
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
