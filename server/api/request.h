/* The body of /v1/chat/completions and /v1/completions as one checked struct.
 *
 * Pure: the thread pool and the fuzzer run it. Every field has a row in the table of fields
 * (field.h). */
#ifndef WINNOW_SERVER_API_REQUEST_H
#define WINNOW_SERVER_API_REQUEST_H

#include <jansson.h>

#include "cache/policy/plan.h"
#include "engine/compute/sampler.h"
#include "engine/text/chat_request.h"

enum api_request_kind { API_REQUEST_CHAT, API_REQUEST_COMPLETION };

enum { MAX_PROMPTS = 2048, MAX_STOPS = 16, MAX_CHOICES = 16 };

/* One prompt of /v1/completions: text, or tokens if `tokens` is not NULL. Points into the request's
 * JSON. */
struct api_prompt {
    const char *text;
    size_t length;
    const json_t *tokens;
};

struct api_request {
    enum api_request_kind kind;
    json_t *body; /* owned; the strings below point into it */

    const char *model;         /* as sent, "" when absent */
    const char *policy_suffix; /* after the last '@' of the model if it is a policy, else NULL */

    struct chat_request chat; /* of chats; owned */

    /* completions */
    struct api_prompt *prompts; /* [n_prompts], owned */
    uint32_t n_prompts;
    bool echo;

    int64_t max_tokens; /* -1 = no limit */
    uint32_t min_tokens, n;
    bool has_temperature, has_top_p, has_top_k,
        has_min_p;            /* whether it was given; else --sampling-defaults */
    struct sampling sampling; /* bias owned */
    bool has_seed;
    struct {
        const char *bytes;
        size_t length;
    } stops[MAX_STOPS];
    uint32_t n_stops;
    int32_t *stop_tokens; /* owned */
    uint32_t n_stop_tokens;
    bool include_stop_string, ignore_eos, skip_special_tokens;
    bool logprobs;
    int32_t n_logprobs;        /* -1: none, else the number of alternatives */
    int32_t n_prompt_logprobs; /* -1 none */
    bool return_token_ids;
    bool
        add_special_tokens; /* default true: BOS before a completion's text, where the model has it */

    bool stream, include_usage, continuous_usage, return_progress;
    uint64_t timeout_ms; /* 0 = the server's */
    bool has_sse_ping;
    uint64_t sse_ping_ms;
    const char *session_id; /* or NULL */
    bool cache_prompt;      /* default true */
    const char *cache_salt; /* [n_cache_salt] or NULL */
    size_t n_cache_salt;
    bool has_policy;          /* kv_policy in the body */
    struct plan_asked policy; /* source REQUEST; only when has_policy */
};

/* Parses a body, UTF-8 JSON text. Token ids must be below n_vocab; 0: do not check. On failure the
 * request is cleared. Codes: invalid_json, invalid_type, invalid_value, missing_required_parameter,
 * unsupported_value, unsupported_parameter, unknown_parameter, invalid_kv_policy, out_of_memory.
 * e->where is the path of the field. */
bool api_request_parse(struct api_request *r, enum api_request_kind kind, const char *text,
                       size_t length, int32_t n_vocab, struct error *e);
void api_request_clear(struct api_request *r);
/* Frees what only the prompts needed: the messages, the prompts and every field that nothing points
 * into. A body can be megabytes, and its request can wait for a long time. */
void api_request_forget_prompts(struct api_request *r);

/* The chat of a body: checks the messages and joins their content; collects chat_template_kwargs,
 * reasoning_effort, verbosity and the flags. fields_check has checked the other fields' types. False:
 * *out is cleared. */
bool chat_parse(const json_t *body, struct chat_request *out, struct error *e);

/* JSON text to an object. A byte-order mark is skipped, the depth is at most 64, the last of duplicate
 * keys counts, strings may contain NUL. New reference; NULL: "invalid_json" or "out_of_memory". */
json_t *body_parse(const char *text, size_t length, struct error *e);

#endif
