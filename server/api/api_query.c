/* What only the engine's thread can do or see: POST /v1/kv/flush, GET /v1/kv/requests/{id}. The
 * engine answers between two steps; the loop goes on meanwhile. Loop thread, except on_answer.
 *
 *   handler -> engine_ask -> on_answer (engine) -> api->answered -> asks_reply (loop) */
#include <stdio.h>
#include <stdlib.h>

#include "server/api/api_private.h"

struct ask {
    struct engine_ask engine; /* first: on_answer gets a pointer to it */
    struct api *api;
    struct exchange *exchange; /* NULL once it has its answer */
    struct ask *previous, *next;
    struct ask *next_answered;        /* under ready_lock */
    struct cache_head_counts heads[]; /* [n_layers][n_kv_heads] of the model */
};

static void on_answer(struct engine_ask *engine)
{
    struct ask *k = (struct ask *)engine;
    struct api *a = k->api;
    pthread_mutex_lock(&a->ready_lock);
    k->next_answered = a->answered;
    a->answered = k;
    pthread_mutex_unlock(&a->ready_lock);
    uv_async_send(&a->wake);
}

/* The engine and the list of answers know it no more. */
static void withdraw(struct ask *k)
{
    struct api *a = k->api;
    engine_forget(a->engine, &k->engine);
    pthread_mutex_lock(&a->ready_lock);
    for (struct ask **at = &a->answered; *at; at = &(*at)->next_answered)
        if (*at == k) {
            *at = k->next_answered;
            break;
        }
    pthread_mutex_unlock(&a->ready_lock);
}

static void on_end(void *context, enum exchange_end end)
{
    struct ask *k = context;
    struct api *a = k->api;
    (void)end;
    withdraw(k);
    *(k->previous ? &k->previous->next : &a->asks) = k->next;
    if (k->next)
        k->next->previous = k->previous;
    a->n_asks--;
    free(k);
}

/* Sends the question off; `id` may be NULL. */
static void ask(struct exchange *x, struct api *a, enum engine_ask_kind kind, const char *id)
{
    const struct model *m = engine_model(a->engine);
    size_t n_heads = id ? (size_t)m->n_layers * m->n_kv_heads : 0;
    struct ask *k = calloc(1, sizeof *k + n_heads * sizeof *k->heads);
    if (!k) {
        struct error e;
        error_set(&e, "internal_error", "", "the server is out of memory");
        exchange_reply_error(x, &e);
        return;
    }
    k->engine = (struct engine_ask){.kind = kind,
                                    .owner_key = exchange_key(x),
                                    .all = sees_all(x, a),
                                    .done = on_answer,
                                    .heads = k->heads};
    snprintf(k->engine.id, sizeof k->engine.id, "%s", id ? id : "");
    k->api = a;
    k->exchange = x;
    k->next = a->asks;
    if (a->asks)
        a->asks->previous = k;
    a->asks = k;
    a->n_asks++;
    exchange_set_context(x, k, on_end);
    engine_ask(a->engine, &k->engine);
}

/* ---- handlers */

void handle_flush(struct exchange *x, void *context)
{
    struct api *a = context;
    struct error e;
    if (a->config->admin_api_key && !exchange_is_admin(x)) {
        error_set(&e, "admin_key_required", "",
                  "dropping cached prefixes needs the key of --admin-api-key");
        exchange_reply_error(x, &e);
        return;
    }
    ask(x, a, ENGINE_ASK_FLUSH, NULL);
}

static void reply_not_found(struct exchange *x)
{
    struct error e;
    char shown[80];
    const char *id = exchange_path_tail(x);
    error_set(&e, "not_found", "",
              "there is no request '%s' that runs or ended in the last minute, at most %d ago",
              error_excerpt(shown, id, strlen(id)), RECORDS_MAX);
    exchange_reply_error(x, &e);
}

void handle_kv_request(struct exchange *x, void *context)
{
    const char *id = exchange_path_tail(x);
    if (strlen(id) < sizeof((struct ask *)0)->engine.id)
        ask(x, context, ENGINE_ASK_REQUEST, id);
    else
        reply_not_found(x);
}

/* ---- answers */

static json_t *layers(const struct ask *k)
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

static json_t *request_detail(const struct ask *k)
{
    const struct engine_ask *q = &k->engine;
    const struct request_record *r = &q->record;
    return json_pack(
        "{s:s, s:s, s:s, s:o, s:I, s:I, s:f, s:f, s:I, s:f, s:o, s:o}", "id", r->id, "state",
        q->state, "policy", r->policy, "budget", r->budget ? json_integer(r->budget) : json_null(),
        "prompt_tokens", (json_int_t)r->n_prompt, "tokens_seen", (json_int_t)r->tokens_seen,
        "slots_kept", r->slots_kept, "evicted", r->tokens_seen - r->slots_kept, "pages",
        (json_int_t)r->pages, "age_ms", q->age_ms, "ended_ms_ago",
        q->ended_ms_ago < 0 ? json_null() : json_real(q->ended_ms_ago), "layers", layers(k));
}

void asks_reply(struct api *a)
{
    for (;;) {
        pthread_mutex_lock(&a->ready_lock);
        struct ask *k = a->answered;
        if (k)
            a->answered = k->next_answered;
        pthread_mutex_unlock(&a->ready_lock);
        if (!k)
            return;
        struct exchange *x = k->exchange;
        k->exchange = NULL;
        if (k->engine.kind == ENGINE_ASK_FLUSH)
            exchange_reply_json(
                x, 200, json_pack("{s:I}", "pages_freed", (json_int_t)k->engine.pages_freed));
        else if (k->engine.found)
            exchange_reply_json(x, 200, request_detail(k));
        else
            reply_not_found(x);
    }
}

void asks_stop(struct api *a, const struct error *e)
{
    for (struct ask *k = a->asks, *next; k; k = next) {
        next = k->next;
        withdraw(k);
        struct exchange *x = k->exchange;
        k->exchange = NULL;
        if (x)
            exchange_reply_error(x, e);
    }
}
