/* What only the engine's thread can do or see: POST /v1/kv/flush, GET /v1/kv/requests/{id}. The
 * engine answers between two steps; the loop goes on meanwhile. Loop thread, except on_answer.
 *
 *   handler -> engine_query -> on_answer (engine) -> api->answered -> queries_reply (loop) */
#include <stdio.h>
#include <stdlib.h>

#include "server/api/api_private.h"

struct query {
    struct engine_query engine; /* first: on_answer gets a pointer to it */
    struct api *api;
    struct http_request *http_request; /* NULL once it has its answer */
    struct query *previous, *next;
    struct query *next_answered;      /* under ready_lock */
    struct cache_head_counts heads[]; /* [n_layers][n_kv_heads] of the model */
};

static void on_answer(struct engine_query *engine)
{
    struct query *k = (struct query *)engine;
    struct api *a = k->api;
    pthread_mutex_lock(&a->ready_lock);
    k->next_answered = a->answered;
    a->answered = k;
    pthread_mutex_unlock(&a->ready_lock);
    uv_async_send(&a->wake);
}

/* The engine and the list of answers know it no more. */
static void withdraw(struct query *k)
{
    struct api *a = k->api;
    engine_forget(a->engine, &k->engine);
    pthread_mutex_lock(&a->ready_lock);
    for (struct query **at = &a->answered; *at; at = &(*at)->next_answered)
        if (*at == k) {
            *at = k->next_answered;
            break;
        }
    pthread_mutex_unlock(&a->ready_lock);
}

static void on_end(void *context, enum http_request_end end)
{
    struct query *k = context;
    struct api *a = k->api;
    (void)end;
    withdraw(k);
    *(k->previous ? &k->previous->next : &a->queries) = k->next;
    if (k->next)
        k->next->previous = k->previous;
    a->n_queries--;
    free(k);
}

/* Sends the question off; `id` may be NULL. */
static void query(struct http_request *x, struct api *a, enum engine_query_kind kind,
                  const char *id)
{
    const struct model *m = engine_model(a->engine);
    size_t n_heads = id ? (size_t)m->n_layers * m->n_kv_heads : 0;
    struct query *k = calloc(1, sizeof *k + n_heads * sizeof *k->heads);
    if (!k) {
        struct error e;
        error_set(&e, "internal_error", "", "the server is out of memory");
        http_request_reply_error(x, &e);
        return;
    }
    k->engine = (struct engine_query){.kind = kind,
                                      .owner_key = http_request_key(x),
                                      .all = sees_all(x, a),
                                      .done = on_answer,
                                      .heads = k->heads};
    snprintf(k->engine.id, sizeof k->engine.id, "%s", id ? id : "");
    k->api = a;
    k->http_request = x;
    k->next = a->queries;
    if (a->queries)
        a->queries->previous = k;
    a->queries = k;
    a->n_queries++;
    http_request_set_context(x, k, on_end);
    engine_query(a->engine, &k->engine);
}

/* ---- handlers */

void handle_flush(struct http_request *x, void *context)
{
    struct api *a = context;
    struct error e;
    if (a->config->admin_api_key && !http_request_is_admin(x)) {
        error_set(&e, "admin_key_required", "",
                  "dropping cached prefixes needs the key of --admin-api-key");
        http_request_reply_error(x, &e);
        return;
    }
    query(x, a, ENGINE_QUERY_FLUSH, NULL);
}

static void reply_not_found(struct http_request *x)
{
    struct error e;
    char shown[80];
    const char *id = http_request_path_tail(x);
    error_set(&e, "not_found", "",
              "there is no request '%s' that runs or ended in the last minute, at most %d ago",
              error_excerpt(shown, id, strlen(id)), RECORDS_MAX);
    http_request_reply_error(x, &e);
}

void handle_kv_request(struct http_request *x, void *context)
{
    const char *id = http_request_path_tail(x);
    if (strlen(id) < sizeof((struct query *)0)->engine.id)
        query(x, context, ENGINE_QUERY_REQUEST, id);
    else
        reply_not_found(x);
}

/* ---- answers */

static json_t *layers(const struct query *k)
{
    const struct model *m = engine_model(k->api->engine);
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

void queries_reply(struct api *a)
{
    for (;;) {
        pthread_mutex_lock(&a->ready_lock);
        struct query *k = a->answered;
        if (k)
            a->answered = k->next_answered;
        pthread_mutex_unlock(&a->ready_lock);
        if (!k)
            return;
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
}

void queries_stop(struct api *a, const struct error *e)
{
    for (struct query *k = a->queries, *next; k; k = next) {
        next = k->next;
        withdraw(k);
        struct http_request *x = k->http_request;
        k->http_request = NULL;
        if (x)
            http_request_reply_error(x, e);
    }
}
