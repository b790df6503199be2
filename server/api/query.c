/* See query.h. */
#include "server/api/query.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/handlers.h"

struct query {
    struct letter letter; /* must be first: the mailbox returns it */
    struct engine_query engine;
    struct queries *queries;
    struct http_request *http_request; /* NULL once answered */
    TAILQ_ENTRY(query) entry;
    struct cache_head_counts heads[]; /* [n_layers][n_kv_heads] of the model */
};

/* Engine thread. */
static void on_answer(struct engine_query *engine)
{
    struct query *k = (struct query *)((char *)engine - offsetof(struct query, engine));
    mailbox_put(k->queries->mailbox, &k->letter);
}

/* Only when neither the engine nor the mailbox has the query. */
static void withdraw(struct query *k)
{
    engine_forget(k->queries->service->engine, &k->engine);
    mailbox_remove(k->queries->mailbox, &k->letter);
}

static void on_end(void *context, enum http_request_end end)
{
    struct query *k = context;
    (void)end;
    withdraw(k);
    TAILQ_REMOVE(&k->queries->waiting, k, entry);
    k->queries->n_waiting--;
    free(k);
}

static void deliver(struct letter *letter);

/* Sends the query to the engine. `id` may be NULL. */
static void query(struct http_request *x, struct queries *queries, enum engine_query_kind kind,
                  const char *id)
{
    const struct service *s = queries->service;
    const struct model *m = engine_model(s->engine);
    size_t n_heads = id ? (size_t)m->n_layers * m->n_kv_heads : 0;
    struct query *k = calloc(1, sizeof *k + n_heads * sizeof *k->heads);
    if (!k) {
        struct error e;
        error_set(&e, "out_of_memory", "", "the server is out of memory");
        http_request_reply_error(x, &e);
        return;
    }
    k->engine = (struct engine_query){.kind = kind,
                                      .owner_key = http_request_key(x),
                                      .all = service_shows_all(s, x),
                                      .done = on_answer,
                                      .heads = k->heads};
    snprintf(k->engine.id, sizeof k->engine.id, "%s", id ? id : "");
    k->letter.deliver = deliver;
    k->queries = queries;
    k->http_request = x;
    TAILQ_INSERT_HEAD(&queries->waiting, k, entry);
    queries->n_waiting++;
    http_request_set_context(x, k, on_end);
    engine_query(s->engine, &k->engine);
}

/* ---- handlers */

void handle_flush(struct http_request *x, void *context)
{
    struct queries *queries = context;
    struct error e;
    if (queries->service->config->admin_api_key && !http_request_is_admin(x)) {
        error_set(&e, "admin_key_required", "",
                  "freeing cached prefixes needs the key of --admin-api-key");
        http_request_reply_error(x, &e);
        return;
    }
    query(x, queries, ENGINE_QUERY_FLUSH, NULL);
}

static void reply_not_found(struct http_request *x)
{
    struct error e;
    char shown[80];
    const char *id = http_request_path_tail(x);
    error_set(&e, "not_found", "",
              "no request '%s' is running or among the last %d that ended within a minute",
              error_excerpt(shown, id, strlen(id)), RECORDS_MAX);
    http_request_reply_error(x, &e);
}

void handle_kv_request(struct http_request *x, void *context)
{
    const struct queries *queries = context;
    const char *id = http_request_path_tail(x);
    if (!service_may_look(queries->service, x))
        return;
    if (strlen(id) < sizeof((struct query *)0)->engine.id)
        query(x, context, ENGINE_QUERY_REQUEST, id);
    else
        reply_not_found(x);
}

/* ---- answers */

static json_t *layers(const struct query *k)
{
    const struct model *m = engine_model(k->queries->service->engine);
    json_t *all = json_array();
    for (uint32_t l = 0; l < m->n_layers; l++) {
        json_t *row = json_array();
        for (uint32_t h = 0; h < m->n_kv_heads; h++) {
            const struct cache_head_counts *c = &k->heads[(size_t)l * m->n_kv_heads + h];
            json_array_append_new(row, json_pack("{s:I, s:I, s:I}", "slots", (json_int_t)c->slots,
                                                 "pages", (json_int_t)c->pages, "evicted",
                                                 (json_int_t)c->evicted));
        }
        json_array_append_new(all, row);
    }
    return all;
}

static json_t *request_detail(const struct query *k)
{
    const struct engine_query *q = &k->engine;
    const struct request_record *r = &q->record;
    return json_pack(
        "{s:s, s:s, s:s, s:o, s:I, s:I, s:f, s:f, s:I, s:f, s:o, s:o}", "id", r->id, "state",
        q->state, "policy", r->policy, "budget", r->budget ? json_integer(r->budget) : json_null(),
        "prompt_tokens", (json_int_t)r->n_prompt, "tokens_seen", (json_int_t)r->tokens_seen,
        "slots_kept", r->slots_kept, "evicted", r->tokens_seen - r->slots_kept, "pages",
        (json_int_t)r->pages, "age_ms", q->age_ms, "ended_ms_ago",
        q->ended_ms_ago < 0 ? json_null() : json_real(q->ended_ms_ago), "layers", layers(k));
}

static void deliver(struct letter *letter)
{
    struct query *k = (struct query *)letter;
    struct http_request *x = k->http_request;
    k->http_request = NULL;
    if (k->engine.kind == ENGINE_QUERY_FLUSH)
        http_request_reply_json(
            x, 200, json_pack("{s:I}", "pages_freed", (json_int_t)k->engine.pages_freed));
    else if (k->engine.found)
        http_request_reply_json(x, 200, request_detail(k));
    else
        reply_not_found(x);
}

/* ---- life */

void queries_init(struct queries *queries, const struct service *service, struct mailbox *mailbox)
{
    *queries = (struct queries){.service = service, .mailbox = mailbox};
    TAILQ_INIT(&queries->waiting);
}

void queries_stop_all(struct queries *queries, const struct error *e)
{
    for (struct query *k = TAILQ_FIRST(&queries->waiting), *next; k; k = next) {
        next = TAILQ_NEXT(k, entry);
        withdraw(k);
        struct http_request *x = k->http_request;
        k->http_request = NULL;
        if (x)
            http_request_reply_error(x, e);
    }
}
