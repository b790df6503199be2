/* The inside of the API: its state, and a job, which is one request for generated text. Loop
 * thread, except where it says "pool". */
#ifndef WINNOW_SERVER_API_API_PRIVATE_H
#define WINNOW_SERVER_API_API_PRIVATE_H

#include <pthread.h>
#include <string.h>

#include "server/api/api.h"
#include "server/api/request.h"

struct job;
struct query;

struct api {
    const struct config *config;
    uv_loop_t *loop;
    struct engine *engine;
    char name[256], fingerprint[64];
    int64_t created; /* Unix time of the load */
    struct plan default_plan;
    struct sampling default_sampling;
    struct api_metrics metrics;

    pthread_mutex_t ready_lock;
    struct query *answered; /* likewise: what the engine has answered */
    struct part *ready;     /* parts with events, in no order; the engine thread adds */
    uv_async_t wake;

    struct job *jobs; /* with an HTTP request */
    uint32_t n_jobs;
    struct query *queries; /* with an HTTP request */
    uint32_t n_queries;
    uint32_t *running_of_key; /* [n_api_keys] */
};

/* A growing string. Zero-initialise. */
struct bytes {
    char *data;
    size_t length, capacity;
};
bool bytes_add(struct bytes *b, const void *data, size_t length); /* false: out of memory */

struct answer_choice {
    struct bytes text; /* answers that are not streamed */
    json_t *logprobs;  /* so far, or NULL */
    json_t *token_ids; /* so far, or NULL */
    uint32_t n_offset; /* characters before the next token, for text_offset */
    uint32_t n_tokens;
    bool ended;
    enum finish_reason finish;
    int32_t stop_token, stop_string;
};

/* One prompt of a job: one request with r.n choices. */
struct part {
    struct job *job;
    struct request *request; /* NULL once it is over */
    struct tokens tokens;
    uint32_t index;
    bool in_ready; /* under ready_lock */
    struct part *next_ready;
    bool done;
    struct request_usage usage;
    char *kv_trace;
    bool kv_trace_truncated;
};

struct job {
    struct api *api;
    struct http_request *http_request; /* NULL when it has ended */
    struct job *previous, *next;
    enum api_request_kind kind;
    char *body;
    size_t body_length;
    char *policy_header;
    struct api_request r;
    bool parsed, in_pool, counted, submitted;
    uint32_t key;
    struct error error; /* of the pool's work; code "" = none */

    struct plan plan; /* of the first part, resolved */
    uint64_t seed;
    char id[48];
    int64_t created;
    struct part parts[MAX_PROMPTS];
    uint32_t n_parts, n_choices;   /* n_choices = parts * n */
    struct answer_choice *choices; /* [n_choices] */
    bool started;                  /* the stream's first chunks are written */
    uint32_t n_ended, n_done;
    int32_t last_choice; /* its finish chunk waits for the final numbers; -1 = none */
};

/* api.c */
void job_fail(struct job *j,
              const struct error *e); /* an error answer or event; ends the job's work */
void job_stop_work(struct job *j, bool client_left);
void part_release(struct part *p); /* lets go of its request */
/* Which plan a request gets, before its shares are resolved. `body` may be NULL. */
bool api_pick_plan(const struct api *a, const struct plan *body, const char *header,
                   const char *suffix, struct plan *out, struct error *e);
/* Checks the operator's rules and resolves for a prompt of n tokens. */
bool api_resolve_plan(const struct api *a, struct plan *plan, uint32_t n_prompt, struct error *e);
/* Whether the operator lets requests name this policy. */
bool api_may_query(const struct api *a, const struct preset *preset);
bool api_model_fits(const struct api *a, const char *model, const char *suffix, struct error *e);
/* pool: the tokens of a chat, template and all; `text` may be NULL. */
bool api_encode_chat(const struct api *a, const json_t *messages, const json_t *kwargs,
                     bool add_generation_prompt, bool continue_final_message, struct tokens *out,
                     struct chat_text *text, struct error *e);

/* api_generate.c */
void handle_chat(struct http_request *x, void *api);
void handle_completion(struct http_request *x, void *api);
void job_pump(struct part *p);
void job_free(struct job *j);

/* api_answer.c: JSON of answers. New references, NULL when out of memory. */
json_t *answer_whole(struct job *j);
json_t *answer_usage(const struct job *j);
json_t *answer_kv_cache(const struct job *j);
json_t *answer_timings(const struct job *j);
/* A chunk with one choice (-1: none); takes `delta` (chat) or `text` (completion) and `logprobs`.
 */
json_t *answer_chunk(const struct job *j, int32_t choice, json_t *delta, json_t *logprobs,
                     bool finished);
json_t *answer_kv_trace(const struct job *j);
/* Of the tokens of an event: {"content":[...]} or the lists of completions; json_null() when not
 * asked for. */
json_t *answer_logprobs(struct job *j, struct answer_choice *c, const struct request_event *e,
                        bool prompt);
bool answer_join_logprobs(json_t **all, json_t *more); /* takes `more` */
/* Bytes as JSON text: U+FFFD where they are not UTF-8. */
json_t *json_text(const char *bytes, size_t length);

/* api_tokens.c, api_info.c, api_kv.c: handlers */
void handle_tokenize(struct http_request *x, void *api);
void handle_detokenize(struct http_request *x, void *api);
void handle_apply_template(struct http_request *x, void *api);
void handle_input_tokens(struct http_request *x, void *api);
void handle_tokenizer_info(struct http_request *x, void *api);
void handle_models(struct http_request *x, void *api);
void handle_model(struct http_request *x, void *api);
void handle_version(struct http_request *x, void *api);
void handle_props(struct http_request *x, void *api);
void handle_embeddings(struct http_request *x, void *api);
void handle_policies(struct http_request *x, void *api);
void handle_resolve(struct http_request *x, void *api);
void handle_sessions(struct http_request *x, void *context);
void handle_session(struct http_request *x, void *context);
void handle_session_delete(struct http_request *x, void *context);
void handle_stats(struct http_request *x, void *api);
/* Whether the server has what the policy needs. */
bool policy_is_available(const struct api *a, const struct preset *preset);
/* Whether this caller sees what belongs to other keys too. */
bool sees_all(const struct http_request *x, const struct api *a);

/* api_query.c: questions to the engine's thread */
void handle_flush(struct http_request *x, void *api);
void handle_kv_request(struct http_request *x, void *api);
void queries_reply(struct api *a); /* after a wake: those that were answered */
void queries_stop(struct api *a, const struct error *e); /* the others get this error */

#endif
