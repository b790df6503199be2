/* Policies, sessions and the state of the cache: /v1/kv/policies and its resolver, /v1/kv/sessions,
 * /v1/kv/stats. Loop thread, except what says "pool". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/policy/preset.h"
#include "config/base/clock.h"
#include "config/base/size.h"
#include "server/api/admission.h"
#include "server/api/chore.h"
#include "server/api/handlers.h"
#include "server/api/plan_json.h"
#include "server/api/request.h"
#include "server/api/service.h"

void handle_stats(struct http_request *x, void *context)
{
    const struct service *service = context;
    struct engine_snapshot s;
    struct error e;
    if (!engine_snapshot(service->engine, &s, &e)) {
        http_request_reply_error(x, &e);
        return;
    }
    bool all = service_shows_all(service, x);
    uint32_t key = http_request_key(x);
    json_t *rows = json_array();
    for (uint32_t i = 0; i < s.n_sequences; i++) {
        const struct engine_sequence_info *q = &s.sequences[i];
        if (!all && (key == 0 || q->owner_key != key))
            continue; /* others' rows would show step by step what they do */
        json_array_append_new(rows, json_pack("{s:s, s:s, s:s, s:I, s:f, s:I, s:I, s:f, s:f}", "id",
                                              q->id, "state", q->state, "policy", q->policy,
                                              "tokens_seen", (json_int_t)q->tokens_seen,
                                              "slots_kept", q->slots_kept, "slots_kept_max",
                                              (json_int_t)q->slots_kept_max, "pages",
                                              (json_int_t)q->pages, "share_kept", q->share_kept,
                                              "age_ms", q->age_ms));
    }
    const struct model *m = engine_model(service->engine);
    json_int_t page = (json_int_t)s.page_bytes;
    http_request_reply_json(
        x, 200,
        json_pack("{s:{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}, s:I, s:I, s:s, s:o, s:{s:I, s:I}, "
                  "s:{s:I, s:I, s:I}}",
                  "pool", "page_slots", (json_int_t)32, "page_bytes", page, "pages_total",
                  (json_int_t)s.pages_total, "pages_used", (json_int_t)s.pages_used, "pages_cached",
                  (json_int_t)s.pages_cached, "pages_free", (json_int_t)s.pages_free, "bytes_total",
                  page * s.pages_total, "bytes_used", page * s.pages_used, "layers",
                  (json_int_t)m->n_layers, "kv_heads", (json_int_t)m->n_kv_heads, "storage",
                  plan_storage_name(engine_plan_limits(service->engine).storage), "sequences", rows,
                  "sessions", "count", (json_int_t)s.n_sessions, "pages",
                  (json_int_t)s.session_pages, "totals", "evicted_slots",
                  (json_int_t)s.evicted_slots, "pages_returned", (json_int_t)s.pages_returned,
                  "preemptions", (json_int_t)s.preemptions));
    engine_snapshot_clear(&s);
}

/* The plan for a prompt and an upper bound of its memory. NULL: refused. Any thread. */
static json_t *resolved_json(const struct service *s, const struct plan_asked *asked,
                             uint32_t n_prompt, uint64_t n_total, struct error *e)
{
    const struct plan *plan = admission_resolve_plan(s, asked, n_prompt, e);
    if (!plan)
        return NULL;
    uint64_t pages = engine_bound_pages(s->engine, plan, n_prompt, n_total);
    json_t *value =
        json_pack("{s:o, s:I, s:I, s:{s:I, s:I, s:I}}", "plan", plan_to_json(plan), "prompt_tokens",
                  (json_int_t)n_prompt, "total_tokens", (json_int_t)n_total, "bound", "pages",
                  (json_int_t)pages, "bytes", (json_int_t)(pages * engine_page_bytes(s->engine)),
                  "pool_pages", (json_int_t)engine_n_pages(s->engine));
    plan_release(plan);
    if (!value)
        error_set_memory(e, "an answer", sizeof *plan);
    return value;
}

/* Why a request with this policy would be refused, or null. */
static json_t *refusal_reason(const struct service *s, const struct plan_asked *asked)
{
    struct error e;
    const struct plan *plan = admission_resolve_plan(s, asked, 1024, &e);
    if (!plan)
        return json_string(e.message);
    plan_release(plan);
    return json_null();
}

static json_t *policy_row(const struct service *s, const struct preset *p)
{
    struct plan_asked asked = plan_asked_of(p);
    asked.source = SOURCE_REQUEST;
    const struct plan_limits limits = admission_limits(s, asked.source);
    bool available = admission_can_run(s, p) && admission_offers(s, p);
    return json_pack("{s:s, s:s, s:s, s:b, s:o, s:b, s:o, s:o}", "name", p->name, "help", p->help,
                     "source", p->source, "available", available, "reason",
                     available ? json_null() : refusal_reason(s, &asked), "multi_turn_safe",
                     p->multi_turn_safe, "defaults", plan_asked_to_json(&asked, &limits), "follows",
                     plan_rules_to_json(&asked));
}

static bool query_number(const struct http_request *x, const char *name, uint64_t otherwise,
                         uint64_t *out, struct error *e)
{
    const char *text = http_request_query(x, name);
    char shown[80];
    *out = otherwise;
    if (!text || whole_number_parse(text, 1, INT32_MAX, out))
        return true;
    return error_set(e, "invalid_value", name, "%s is '%s'; it must be a whole number from 1 to %d",
                     name, error_excerpt(shown, text, strlen(text)), INT32_MAX);
}

void handle_policies(struct http_request *x, void *context)
{
    const struct service *s = context;
    struct plan_asked asked;
    struct error e;
    const char *dry_run = http_request_query(x, "dry_run");
    if (dry_run) {
        uint64_t prompt, total;
        json_t *value = NULL;
        if (plan_parse_text(dry_run, strlen(dry_run), "dry_run", &asked, &e) &&
            query_number(x, "prompt_tokens", 1024, &prompt, &e) &&
            query_number(x, "total_tokens", prompt, &total, &e)) {
            asked.source = SOURCE_REQUEST;
            value = resolved_json(s, &asked, (uint32_t)prompt, total < prompt ? prompt : total, &e);
        }
        if (value)
            http_request_reply_json(x, 200, value);
        else
            http_request_reply_error(x, &e);
        return;
    }
    json_t *rows = json_array();
    for (uint32_t i = 0; i < preset_count(); i++)
        json_array_append_new(rows, policy_row(s, preset_at(i)));
    http_request_reply_json(x, 200,
                            json_pack("{s:s, s:o, s:s, s:o}", "object", "list", "data", rows,
                                      "default", s->default_policy.preset->name, "schema",
                                      plan_schema()));
}

static bool body_number(const json_t *body, const char *name, uint64_t otherwise, uint64_t *out,
                        struct error *e)
{
    const json_t *value = json_object_get(body, name);
    *out = otherwise;
    if (!value || json_is_null(value))
        return true;
    if (!json_is_integer(value))
        return error_set(e, "invalid_type", name, "%s must be an integer", name);
    if (json_integer_value(value) < 1 || json_integer_value(value) > INT32_MAX)
        return error_set(e, "invalid_value", name, "%s is %lld; it must be from 1 to %d", name,
                         (long long)json_integer_value(value), INT32_MAX);
    *out = (uint64_t)json_integer_value(value);
    return true;
}

/* Pool. */
static bool resolve(struct chore *c, const json_t *body, struct error *e)
{
    struct plan_asked asked;
    uint64_t prompt, total;
    const json_t *policy = json_object_get(body, "kv_policy");
    if (!policy)
        return error_set(e, "missing_required_parameter", "kv_policy", "kv_policy is missing");
    if (!plan_parse_json(policy, "kv_policy", &asked, e) ||
        !body_number(body, "prompt_tokens", 1024, &prompt, e) ||
        !body_number(body, "total_tokens", prompt, &total, e))
        return false;
    asked.source = SOURCE_REQUEST;
    json_t *value =
        resolved_json(c->service, &asked, (uint32_t)prompt, total < prompt ? prompt : total, e);
    return value && chore_add(c, value, e);
}

void handle_resolve(struct http_request *x, void *service)
{
    chore_start(x, service, resolve);
}

/* ---- sessions */

enum { MOST_SESSIONS = 1024 };

static json_t *session_row(const struct session_info *i)
{
    return json_pack("{s:s, s:s, s:I, s:f, s:I, s:f, s:f}", "id", i->id, "policy", i->policy,
                     "tokens", (json_int_t)i->n_tokens, "slots_kept", i->slots_kept, "pages",
                     (json_int_t)i->pages, "age_ms", i->age_ms, "expires_in_ms", i->expires_in_ms);
}

static void reply_no_session(struct http_request *x)
{
    struct error e;
    char shown[80];
    const char *id = http_request_path_tail(x);
    error_set(&e, "session_not_found", "", "there is no session '%s'",
              error_excerpt(shown, id, strlen(id)));
    http_request_reply_error(x, &e);
}

void handle_sessions(struct http_request *x, void *context)
{
    const struct service *s = context;
    struct error e;
    if (!service_may_look(s, x))
        return;
    struct session_info *sessions = calloc(MOST_SESSIONS, sizeof *sessions);
    if (!sessions) {
        error_set_memory(&e, "sessions", MOST_SESSIONS * sizeof *sessions);
        http_request_reply_error(x, &e);
        return;
    }
    json_t *rows = json_array();
    uint32_t n = session_list(engine_sessions(s->engine), NULL, http_request_key(x),
                              service_shows_all(s, x), clock_ns(), sessions, MOST_SESSIONS);
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(rows, session_row(&sessions[i]));
    free(sessions);
    http_request_reply_json(x, 200, json_pack("{s:s, s:o}", "object", "list", "data", rows));
}

void handle_session(struct http_request *x, void *context)
{
    const struct service *s = context;
    struct session_info session;
    if (!service_may_look(s, x))
        return;
    if (session_list(engine_sessions(s->engine), http_request_path_tail(x), http_request_key(x),
                     service_shows_all(s, x), clock_ns(), &session, 1))
        http_request_reply_json(x, 200, session_row(&session));
    else
        reply_no_session(x);
}

void handle_session_delete(struct http_request *x, void *context)
{
    const struct service *s = context;
    uint32_t pages;
    const char *id = http_request_path_tail(x);
    if (!service_may_look(s, x))
        return;
    if (engine_session_delete(s->engine, id, http_request_key(x), service_shows_all(s, x), &pages))
        http_request_reply_json(x, 200,
                                json_pack("{s:s, s:b, s:I}", "id", id, "deleted", 1,
                                          "pages_returned", (json_int_t)pages));
    else
        reply_no_session(x);
}
