/* See error_reply.h. */
#include "server/http/error_reply.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct code_row {
    const char *code;
    unsigned status;
    const char *type;
};

static const struct code_row code_rows[] = {
    {"invalid_json", 400, "invalid_request_error"},
    {"missing_required_parameter", 400, "invalid_request_error"},
    {"invalid_type", 400, "invalid_request_error"},
    {"invalid_value", 400, "invalid_request_error"},
    {"unsupported_value", 400, "invalid_request_error"},
    {"unsupported_parameter", 400, "invalid_request_error"},
    {"unknown_parameter", 400, "invalid_request_error"},
    {"context_length_exceeded", 400, "invalid_request_error"},
    {"invalid_kv_policy", 400, "invalid_request_error"},
    {"kv_budget_exceeds_limit", 400, "invalid_request_error"},
    {"kv_memory_exceeded", 400, "invalid_request_error"},
    {"unsupported_schema", 400, "invalid_request_error"},
    {"template_error", 400, "invalid_request_error"},
    {"grammar_too_large", 400, "invalid_request_error"},
    {"invalid_request", 400, "invalid_request_error"},
    {"bad_framing", 400, "invalid_request_error"},
    {"invalid_api_key", 401, "authentication_error"},
    {"origin_not_allowed", 403, "permission_error"},
    {"kv_policy_not_allowed", 403, "permission_error"},
    {"admin_key_required", 403, "permission_error"},
    {"model_not_found", 404, "not_found_error"},
    {"not_found", 404, "not_found_error"},
    {"session_not_found", 404, "not_found_error"},
    {"method_not_allowed", 405, "invalid_request_error"},
    {"request_read_timeout", 408, "timeout_error"},
    {"body_too_large", 413, "invalid_request_error"},
    {"request_too_costly", 413, "invalid_request_error"},
    {"answer_too_large", 413, "invalid_request_error"},
    {"uri_too_long", 414, "invalid_request_error"},
    {"unsupported_media_type", 415, "invalid_request_error"},
    {"queue_full", 429, "rate_limit_error"},
    {"caller_queue_full", 429, "rate_limit_error"},
    {"queue_timeout", 429, "rate_limit_error"},
    {"rate_limit_exceeded", 429, "rate_limit_error"},
    {"headers_too_large", 431, "invalid_request_error"},
    {"internal_error", 500, "server_error"},
    {"engine_fault", 500, "server_error"},
    {"not_implemented", 501, "invalid_request_error"},
    {"out_of_memory", 503, "unavailable_error"},
    {"body_memory_full", 503, "unavailable_error"},
    {"model_loading", 503, "unavailable_error"},
    {"draining", 503, "unavailable_error"},
    {"server_busy", 503, "unavailable_error"},
    {"work_queue_full", 503, "unavailable_error"},
    {"deadline_exceeded", 504, "timeout_error"},
    {"http_version_not_supported", 505, "invalid_request_error"},
};

_Static_assert(sizeof code_rows / sizeof *code_rows <= ERROR_CODES_MOST,
               "each code has a row in the counts of refused requests");

uint32_t error_n_codes(void)
{
    return sizeof code_rows / sizeof *code_rows;
}

const char *error_code_at(uint32_t index)
{
    return code_rows[index].code;
}

static const struct code_row *row_of(const struct error *e)
{
    static const struct code_row other = {"internal_error", 500, "server_error"};
    for (size_t i = 0; i < sizeof code_rows / sizeof *code_rows; i++)
        if (!strcmp(e->code, code_rows[i].code))
            return &code_rows[i];
    return &other;
}

unsigned error_status(const struct error *e)
{
    return row_of(e)->status;
}

static void add_number(json_t *o, const char *key, int64_t value)
{
    if (value)
        json_object_set_new(o, key, json_integer(value));
}

json_t *error_to_json(const struct error *e)
{
    const struct code_row *row = row_of(e);
    json_t *o = json_pack(
        "{s:s, s:s, s:o?, s:s}", "message", e->message, "type", row->type, "param",
        e->where[0] && row->status == 400 ? json_string(e->where) : json_null(), "code", row->code);
    if (!o)
        return NULL;
    if (!strcmp(row->code, "context_length_exceeded")) {
        json_object_set_new(o, "n_prompt_tokens", json_integer(e->n_prompt_tokens));
        json_object_set_new(o, "n_ctx", json_integer(e->n_ctx));
        /* the policy that takes prompts of any length */
        json_object_set_new(o, "kv_hint", json_pack("{s:s}", "name", "sink"));
    }
    add_number(o, "needed_pages", e->needed_pages);
    add_number(o, "pool_pages", e->pool_pages);
    if (!strcmp(row->code, "kv_memory_exceeded"))
        json_object_set_new(o, "largest_budget_that_fits",
                            json_integer(e->largest_budget_that_fits));
    add_number(o, "max_budget", e->max_budget);
    if (row->status == 429)
        json_object_set_new(o, "queue_length", json_integer(e->queue_length));
    if (!strcmp(row->code, "deadline_exceeded"))
        json_object_set_new(o, "completion_tokens", json_integer(e->completion_tokens));
    return json_pack("{s:o}", "error", o);
}

const char *error_code(const struct error *e)
{
    return row_of(e)->code;
}

int64_t error_retry_after_ms(const struct error *e)
{
    unsigned status = error_status(e);
    if (status != 429 && status != 503)
        return 0;
    return e->retry_after_ms < 1000 ? 1000 : e->retry_after_ms > 60000 ? 60000 : e->retry_after_ms;
}

bool error_forbids_retry(const struct error *e)
{
    unsigned status = error_status(e);
    return !strcmp(e->code, "engine_fault") || status == 501 || status == 504 || status == 505;
}

size_t error_raw_answer(const struct error *e, const char *reason, char *out, size_t size)
{
    json_t *value = error_to_json(e);
    char *body = value ? json_dumps(value, JSON_COMPACT) : NULL;
    int n = -1;
    if (body)
        n = snprintf(out, size,
                     "HTTP/1.1 %u %s\r\nContent-Type: application/json\r\nContent-Length: "
                     "%zu\r\nConnection: close\r\n\r\n%s",
                     error_status(e), reason, strlen(body), body);
    free(body);
    json_decref(value);
    return n > 0 && (size_t)n < size ? (size_t)n : 0;
}
