/* See chore.h. */
#include "server/api/chore.h"

#include <stdlib.h>

#include "server/api/json_text.h"
#include "server/api/request.h"

static bool fail_memory(struct error *e)
{
    return error_set(e, "out_of_memory", "", "the server is out of memory");
}

static void chore_free(struct chore *c)
{
    free(c->body);
    bytes_clear(&c->answer);
    free(c);
}

/* ---- pool */

bool chore_is_stopped(const struct chore *c, struct error *e)
{
    return work_is_cancelled(&c->work) &&
           !error_set(e, "draining", "", "the server is shutting down");
}

bool chore_may_add(const struct chore *c, uint64_t more, struct error *e)
{
    uint64_t limit = c->service->config->max_answer_bytes;
    if (chore_is_stopped(c, e))
        return false;
    if (c->answer.length + more <= limit)
        return true;
    return error_set(e, "answer_too_large", "",
                     "the answer has more than %llu bytes, which is the limit (--max-answer); send "
                     "the text in parts",
                     (unsigned long long)limit);
}

bool chore_add(struct chore *c, json_t *value, struct error *e)
{
    bool ok = value && json_add_any(&c->answer, value);
    json_decref(value);
    return ok || fail_memory(e);
}

static void run(struct work *work)
{
    struct chore *c = (struct chore *)work;
    json_t *body = body_parse(c->body, c->length, &c->error);
    free(c->body);
    c->body = NULL;
    if (body && !c->make(c, body, &c->error))
        bytes_clear(&c->answer);
    json_decref(body);
}

/* ---- loop */

static void on_done(struct work *work)
{
    struct chore *c = (struct chore *)work;
    struct http_request *x = c->http_request;
    if (x && !c->error.code[0] && c->answer.length == 0)
        chore_is_stopped(c, &c->error);
    if (x)
        http_request_set_context(x, NULL, NULL);
    if (x && c->error.code[0])
        http_request_reply_error(x, &c->error);
    else if (x)
        http_request_reply_bytes(x, 200, "application/json", &c->answer);
    chore_free(c);
}

static void on_end(void *context, enum http_request_end end)
{
    struct chore *c = context;
    (void)end;
    c->http_request = NULL;
    work_cancel(&c->work);
}

void chore_start(struct http_request *x, const struct service *service,
                 bool (*make)(struct chore *c, const json_t *body, struct error *e))
{
    struct error e;
    struct chore *c = calloc(1, sizeof *c);
    bool ok = c != NULL || fail_memory(&e);
    if (ok) {
        c->service = service;
        c->http_request = x;
        c->make = make;
        c->body = http_request_take_body(x, &c->length);
        ok = (c->body || fail_memory(&e)) &&
             work_submit(service->work, &c->work, http_request_caller(x), c->length, run, on_done,
                         &e);
    }
    if (ok) {
        http_request_set_context(x, c, on_end);
        return;
    }
    if (c)
        chore_free(c);
    http_request_reply_error(x, &e);
}
