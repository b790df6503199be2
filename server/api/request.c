/* A body as one checked struct: see request.h. field.c checks types and ranges of single fields; this
 * file reads them and checks them together. Pure. */
#include "server/api/request.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/field.h"
#include "server/api/plan_json.h"

enum { MAX_STOP_BYTES = 256, MAX_BIAS = 1024 };

/* ---- plain fields, whose types have been checked */

static const json_t *field(const struct api_request *r, const char *name)
{
    const json_t *value = json_object_get(r->body, name);
    return json_is_null(value) ? NULL : value;
}

static bool flag(const struct api_request *r, const char *name, bool otherwise)
{
    const json_t *value = field(r, name);
    return value ? json_is_true(value) : otherwise;
}

static bool number(const struct api_request *r, const char *name, double *out)
{
    const json_t *value = field(r, name);
    if (value)
        *out = json_number_value(value);
    return value != NULL;
}

/* Values outside int64 become its limits. Either the field has no limit, or the table has refused the
 * value. */
static int64_t whole(const json_t *value)
{
    if (json_is_integer(value))
        return json_integer_value(value);
    double v = json_real_value(value);
    return v >= 9223372036854775807.0    ? INT64_MAX
           : v <= -9223372036854775808.0 ? INT64_MIN
                                         : (int64_t)v;
}

static bool integer(const struct api_request *r, const char *name, int64_t *out)
{
    const json_t *value = field(r, name);
    if (value)
        *out = whole(value);
    return value != NULL;
}

/* ---- tokens */

static bool is_whole(const json_t *value)
{
    return json_is_integer(value) ||
           (json_is_real(value) && json_real_value(value) == floor(json_real_value(value)));
}

static bool check_token(const json_t *value, const char *where, int32_t n_vocab, struct error *e)
{
    if (!is_whole(value))
        return error_set(e, "invalid_type", where, "%s must be a token id, an integer", where);
    int64_t id = whole(value);
    if (id < 0 || id > INT32_MAX || (n_vocab > 0 && id >= n_vocab))
        return error_set(e, "invalid_value", where, "%s is %lld; token ids are 0 to %d", where,
                         (long long)id, n_vocab > 0 ? n_vocab - 1 : INT32_MAX);
    return true;
}

static bool check_tokens(const json_t *list, const char *where, int32_t n_vocab, struct error *e)
{
    size_t i;
    json_t *value;
    char at[64];
    json_array_foreach((json_t *)(uintptr_t)list, i, value)
    {
        snprintf(at, sizeof at, "%.30s[%zu]", where, i);
        if (!check_token(value, at, n_vocab, e))
            return false;
    }
    return true;
}

/* ---- prompts */

static bool add_prompt(struct api_request *r, const json_t *value, const char *where,
                       int32_t n_vocab, struct error *e)
{
    struct api_prompt *p = &r->prompts[r->n_prompts];
    if (json_is_string(value)) {
        p->text = json_string_value(value);
        p->length = json_string_length(value);
    } else if (json_is_array(value)) {
        if (json_array_size(value) == 0)
            return error_set(e, "invalid_value", where, "%s is an empty list of tokens", where);
        if (!check_tokens(value, where, n_vocab, e))
            return false;
        p->tokens = value;
    } else {
        return error_set(e, "invalid_type", where, "%s must be a string or a list of token ids",
                         where);
    }
    r->n_prompts++;
    return true;
}

static bool take_prompts(struct api_request *r, int32_t n_vocab, struct error *e)
{
    const json_t *prompt = field(r, "prompt");
    if (!prompt)
        return error_set(e, "missing_required_parameter", "prompt", "prompt is missing");
    if (!json_is_string(prompt) && !json_is_array(prompt))
        return error_set(e, "invalid_type", "prompt",
                         "prompt must be a string, a list of strings, a list of token ids, or a "
                         "list of such lists");
    size_t n = json_array_size(prompt);
    bool one = json_is_string(prompt) || (n && json_is_number(json_array_get(prompt, 0)));
    if (!one && (n < 1 || n > MAX_PROMPTS))
        return error_set(e, "invalid_value", "prompt",
                         "prompt has %zu entries; it must have 1 to %d", n, MAX_PROMPTS);
    r->prompts = calloc(one ? 1 : n, sizeof *r->prompts);
    if (!r->prompts)
        return error_set_memory(e, "prompts", n * sizeof *r->prompts);
    if (one)
        return add_prompt(r, prompt, "prompt", n_vocab, e);
    for (size_t i = 0; i < n; i++) {
        char where[32];
        snprintf(where, sizeof where, "prompt[%zu]", i);
        if (!add_prompt(r, json_array_get(prompt, i), where, n_vocab, e))
            return false;
    }
    return true;
}

/* ---- stops, bias */

static bool add_stop(struct api_request *r, const json_t *value, const char *where, struct error *e)
{
    if (!json_is_string(value))
        return error_set(e, "invalid_type", where, "%s must be a string", where);
    size_t n = json_string_length(value);
    if (n > MAX_STOP_BYTES)
        return error_set(e, "invalid_value", where,
                         "%s has %zu bytes; a stop string must have at most %d", where, n,
                         MAX_STOP_BYTES);
    if (n == 0)
        return true; /* clients send an empty string for none */
    r->stops[r->n_stops].bytes = json_string_value(value);
    r->stops[r->n_stops++].length = n;
    return true;
}

static bool take_stops(struct api_request *r, int32_t n_vocab, struct error *e)
{
    const json_t *stop = field(r, "stop"), *ids = field(r, "stop_token_ids");
    if (json_is_array(stop)) {
        size_t n = json_array_size(stop);
        if (n > MAX_STOPS)
            return error_set(e, "invalid_value", "stop",
                             "stop has %zu strings; it must have at most %d", n, MAX_STOPS);
        for (size_t i = 0; i < n; i++) {
            char where[32];
            snprintf(where, sizeof where, "stop[%zu]", i);
            if (!add_stop(r, json_array_get(stop, i), where, e))
                return false;
        }
    } else if (stop && !json_is_string(stop)) {
        return error_set(e, "invalid_type", "stop", "stop must be a string or a list of strings");
    } else if (stop && !add_stop(r, stop, "stop", e)) {
        return false;
    }
    if (!ids)
        return true;
    if (!check_tokens(ids, "stop_token_ids", n_vocab, e))
        return false;
    size_t n = json_array_size(ids);
    r->stop_tokens = malloc((n + 1) * sizeof *r->stop_tokens);
    if (!r->stop_tokens)
        return error_set_memory(e, "stop tokens", n * sizeof *r->stop_tokens);
    for (size_t i = 0; i < n; i++)
        r->stop_tokens[r->n_stop_tokens++] = (int32_t)whole(json_array_get(ids, i));
    return true;
}

static bool take_bias(struct api_request *r, int32_t n_vocab, struct error *e)
{
    const json_t *map = field(r, "logit_bias");
    const char *key;
    json_t *value;
    size_t n = json_object_size(map);
    if (n == 0)
        return true;
    r->sampling.bias = calloc(n, sizeof *r->sampling.bias);
    if (!r->sampling.bias)
        return error_set_memory(e, "logit_bias", n * sizeof *r->sampling.bias);
    json_object_foreach((json_t *)(uintptr_t)map, key, value)
    {
        char *end, where[100], shown[80];
        errno = 0;
        long long id = strtoll(key, &end, 10);
        error_excerpt(shown, key, strlen(key));
        snprintf(where, sizeof where, "logit_bias.%s", shown);
        if (!*key || *end || errno || id < 0 || id > INT32_MAX || (n_vocab > 0 && id >= n_vocab))
            return error_set(e, "invalid_value", where,
                             "logit_bias has the key '%s'; keys are token ids from 0 to %d", shown,
                             n_vocab > 0 ? n_vocab - 1 : INT32_MAX);
        if (!json_is_number(value))
            return error_set(e, "invalid_type", where, "%s must be a number", where);
        double bias = json_number_value(value);
        if (!(bias >= -100 && bias <= 100))
            return error_set(e, "invalid_value", where,
                             "%s is %g; it must be at least -100 and at most 100", where, bias);
        r->sampling.bias[r->sampling.n_bias++] =
            (struct logit_bias){.token = (int32_t)id, .bias = (float)bias};
    }
    return true;
}

/* ---- sampling and length */

static bool take_lengths(struct api_request *r, struct error *e)
{
    int64_t value;
    bool chat = r->kind == API_REQUEST_CHAT;
    const char *given = "max_tokens";
    r->max_tokens = chat ? -1 : 16;
    integer(r, "max_tokens", &r->max_tokens);
    if (chat && integer(r, "max_completion_tokens", &r->max_tokens))
        given = "max_completion_tokens";
    if (integer(r, "min_tokens", &value))
        r->min_tokens = (uint32_t)value;
    if (r->max_tokens >= 0 && (int64_t)r->min_tokens > r->max_tokens)
        return error_set(e, "invalid_value", "min_tokens",
                         "min_tokens is %u, more than max_tokens, which is %lld", r->min_tokens,
                         (long long)r->max_tokens);
    r->echo = !chat && flag(r, "echo", false);
    if (r->max_tokens == 0 && !r->echo)
        return error_set(e, "invalid_value", given,
                         "%s is 0; it must be at least 1%s, or -1 for no limit", given,
                         chat ? "" : " without `echo`");
    r->n = 1;
    if (integer(r, "n", &value))
        r->n = (uint32_t)value;
    if (!chat && integer(r, "best_of", &value) && value != r->n)
        return error_set(e, "unsupported_value", "best_of",
                         "best_of is %lld; it must be the same as n (%u)", (long long)value, r->n);
    return true;
}

static void take_sampling(struct api_request *r)
{
    struct sampling *s = &r->sampling;
    int64_t value;
    *s = (struct sampling){.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1};
    r->has_temperature = number(r, "temperature", &s->temperature);
    r->has_top_p = number(r, "top_p", &s->top_p);
    r->has_min_p = number(r, "min_p", &s->min_p);
    number(r, "typical_p", &s->typical_p);
    number(r, "presence_penalty", &s->presence_penalty);
    number(r, "frequency_penalty", &s->frequency_penalty);
    number(r, "repeat_penalty", &s->repetition_penalty);
    number(r, "repetition_penalty", &s->repetition_penalty);
    r->has_top_k = integer(r, "top_k", &value);
    if (r->has_top_k)
        s->top_k = (int32_t)value;
    r->has_seed = integer(r, "seed", &value) && value != -1; /* -1: a random one */
    if (r->has_seed)
        s->seed = (uint64_t)value;
}

static bool take_logprobs(struct api_request *r, struct error *e)
{
    int64_t value;
    r->n_logprobs = r->n_prompt_logprobs = -1;
    if (r->kind == API_REQUEST_COMPLETION) {
        r->logprobs = integer(r, "logprobs", &value);
        if (r->logprobs)
            r->n_logprobs = (int32_t)value;
        if (r->echo)
            r->n_prompt_logprobs = r->n_logprobs;
        return true;
    }
    r->logprobs = flag(r, "logprobs", false);
    bool top = integer(r, "top_logprobs", &value);
    if (top && !r->logprobs && value > 0)
        return error_set(e, "invalid_value", "top_logprobs",
                         "top_logprobs needs logprobs to be true");
    if (r->logprobs)
        r->n_logprobs = top ? (int32_t)value : 0;
    return true;
}

/* ---- delivery */

static bool option(const json_t *options, const char *name, bool *out, struct error *e)
{
    const json_t *value = json_object_get(options, name);
    char where[64];
    snprintf(where, sizeof where, "stream_options.%s", name);
    if (!value || json_is_null(value))
        return true;
    if (!json_is_boolean(value))
        return error_set(e, "invalid_type", where, "%s must be true or false", where);
    *out = json_is_true(value);
    return true;
}

static bool take_delivery(struct api_request *r, struct error *e)
{
    const json_t *options = field(r, "stream_options");
    int64_t value;
    double seconds;
    bool ignored;
    r->stream = flag(r, "stream", false);
    if (options && !r->stream)
        return error_set(e, "invalid_value", "stream_options",
                         "stream_options is only allowed when stream is true");
    if (!option(options, "include_usage", &r->include_usage, e) ||
        !option(options, "continuous_usage_stats", &r->continuous_usage, e) ||
        !option(options, "include_obfuscation", &ignored, e))
        return false;
    r->return_progress = flag(r, "return_progress", false);
    r->session_id = json_string_value(field(r, "session_id"));
    if (r->session_id && strlen(r->session_id) != json_string_length(field(r, "session_id")))
        return error_set(e, "invalid_value", "session_id", "session_id contains a NUL character");
    if (r->session_id && (r->n > 1 || r->n_prompts > 1))
        return error_set(
            e, "invalid_value", "session_id",
            "a session continues with one answer: n and the number of prompts must be 1");
    r->cache_prompt = flag(r, "cache_prompt", true);
    const json_t *salt = field(r, "cache_salt");
    r->cache_salt = json_string_value(salt);
    r->n_cache_salt = json_string_length(salt);
    if (integer(r, "timeout_ms", &value))
        r->timeout_ms = (uint64_t)value;
    r->has_sse_ping = number(r, "sse_ping_interval", &seconds);
    if (r->has_sse_ping)
        r->sse_ping_ms = (uint64_t)(seconds * 1000);
    return true;
}

static bool take_policy(struct api_request *r, struct error *e)
{
    const json_t *policy = field(r, "kv_policy");
    if (!policy)
        return true;
    r->has_policy = true;
    if (!plan_parse_json(policy, "kv_policy", &r->policy, e))
        return false;
    r->policy.source = SOURCE_REQUEST;
    return true;
}

static bool take_format(const struct api_request *r, struct error *e)
{
    const json_t *format = field(r, "response_format"), *type = json_object_get(format, "type");
    char shown[80];
    if (!format)
        return true;
    if (!json_is_string(type))
        return error_set(e, type ? "invalid_type" : "missing_required_parameter",
                         "response_format.type", "response_format.type must be a string");
    const char *name = json_string_value(type);
    if (!strcmp(name, "text"))
        return true;
    if (!strcmp(name, "json_object") || !strcmp(name, "json_schema"))
        return error_set(e, "unsupported_parameter", "response_format",
                         "response_format '%s' is not supported: constrained output is not "
                         "implemented in this version",
                         name);
    return error_set(e, "invalid_value", "response_format.type",
                     "response_format.type is '%s'; it must be text",
                     error_excerpt(shown, name, strlen(name)));
}

bool api_request_parse(struct api_request *r, enum api_request_kind kind, const char *text,
                       size_t length, int32_t n_vocab, struct error *e)
{
    *r = (struct api_request){.kind = kind, .model = ""};
    r->body = body_parse(text, length, e);
    if (!r->body || !fields_check(r->body, kind == API_REQUEST_CHAT, e))
        goto fail;
    if (field(r, "model")) {
        r->model = json_string_value(field(r, "model"));
        const char *at = strrchr(r->model, '@');
        r->policy_suffix = at && plan_is_suffix(at + 1) ? at + 1 : NULL;
    }
    take_sampling(r);
    r->include_stop_string = flag(r, "include_stop_str_in_output", false);
    r->ignore_eos = flag(r, "ignore_eos", false);
    r->skip_special_tokens = flag(r, "skip_special_tokens", true);
    r->return_token_ids = flag(r, "return_token_ids", false);
    r->add_special_tokens = flag(r, "add_special_tokens", true);
    if (!(kind == API_REQUEST_CHAT ? chat_parse(r->body, &r->chat, e)
                                   : take_prompts(r, n_vocab, e)) ||
        !take_lengths(r, e) || !take_stops(r, n_vocab, e) || !take_bias(r, n_vocab, e) ||
        !take_logprobs(r, e) || !take_delivery(r, e) || !take_format(r, e) || !take_policy(r, e))
        goto fail;
    return true;
fail:
    api_request_clear(r);
    return false;
}

void api_request_forget_prompts(struct api_request *r)
{
    static const char *const kept[] = {"model", "session_id", "cache_salt", "stop"};
    json_t *small = json_object();
    for (size_t i = 0; small && i < sizeof kept / sizeof *kept; i++) {
        json_t *value = json_object_get(r->body, kept[i]);
        if (value && json_object_set(small, kept[i], value))
            return; /* memory is short, so the body stays as it is */
    }
    chat_request_clear(&r->chat);
    free(r->prompts);
    r->prompts = NULL;
    json_decref(r->body);
    r->body = small;
}

void api_request_clear(struct api_request *r)
{
    json_decref(r->body);
    chat_request_clear(&r->chat);
    free(r->prompts);
    free(r->stop_tokens);
    free(r->sampling.bias);
    *r = (struct api_request){.kind = r->kind, .model = ""};
}
