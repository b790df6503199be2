/* The inside of the API: its state, and a job, which is one request for generated text. Loop
 * thread, except where it says "pool". */
#ifndef WINNOW_SERVER_API_API_PRIVATE_H
#define WINNOW_SERVER_API_API_PRIVATE_H

#include <pthread.h>
#include <string.h>

#include "server/api/api.h"
#include "server/api/request.h"

struct job;
struct ask;

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
    struct ask *answered; /* likewise: what the engine has answered */
    struct part *ready;   /* parts with events, in no order; the engine thread adds */
    uv_async_t wake;

    struct job *jobs; /* with an exchange */
    uint32_t n_jobs;
    struct ask *asks; /* with an exchange */
    uint32_t n_asks;
    uint32_t *running_of_key; /* [n_api_keys] */
};

/* A growing string. Zero-initialise. */
struct bytes {
    char *data;
    size_t length, capacity;
};
bool bytes_add(struct bytes *b, const void *data, size_t length); /* false: out of memory */

struct choice {
    struct bytes text; /* answers that are not streamed */
    json_t *logprobs;  /* so far, or NULL */
    json_t *token_ids; /* so far, or NULL */
    uint32_t n_offset; /* characters before the next token, for text_offset */
    uint32_t n_tokens;
    bool ended;
    enum finish_reason finish;
    int32_t stop_token, stop_string;
};

/* One prompt of a job: one generation with r.n choices. */
struct part {
    struct job *job;
    struct generation *generation; /* NULL once it is over */
    struct tokens tokens;
    uint32_t index;
    bool in_ready; /* under ready_lock */
    struct part *next_ready;
    bool done;
    struct generation_usage usage;
    char *kv_trace;
    bool kv_trace_truncated;
};

struct job {
    struct api *api;
    struct exchange *exchange; /* NULL when it has ended */
    struct job *previous, *next;
    enum request_kind kind;
    char *body;
    size_t body_length;
    char *policy_header;
    struct request r;
    bool parsed, in_pool, counted, submitted;
    uint32_t key;
    struct error error; /* of the pool's work; code "" = none */

    struct plan plan; /* of the first part, resolved */
    uint64_t seed;
    char id[48];
    int64_t created;
    struct part parts[MAX_PROMPTS];
    uint32_t n_parts, n_choices; /* n_choices = parts * n */
    struct choice *choices;      /* [n_choices] */
    bool started;                /* the stream's first chunks are written */
    uint32_t n_ended, n_done;
    int32_t last_choice; /* its finish chunk waits for the final numbers; -1 = none */
};

/* api.c */
void job_fail(struct job *j,
              const struct error *e); /* an error answer or event; ends the job's work */
void job_stop_work(struct job *j, bool client_left);
void part_release(struct part *p); /* lets go of its generation */
/* Which plan a request gets, before its shares are resolved. `body` may be NULL. */
bool api_pick_plan(const struct api *a, const struct plan *body, const char *header,
                   const char *suffix, struct plan *out, struct error *e);
/* Checks the operator's rules and resolves for a prompt of n tokens. */
bool api_resolve_plan(const struct api *a, struct plan *plan, uint32_t n_prompt, struct error *e);
/* Whether the operator lets requests name this policy. */
bool api_may_ask(const struct api *a, const struct preset *preset);
bool api_model_fits(const struct api *a, const char *model, const char *suffix, struct error *e);
/* pool: the tokens of a chat, template and all; `text` may be NULL. */
bool api_encode_chat(const struct api *a, const json_t *messages, const json_t *kwargs,
                     bool add_generation_prompt, bool continue_final_message, struct tokens *out,
                     struct chat_text *text, struct error *e);

/* api_generate.c */
void handle_chat(struct exchange *x, void *api);
void handle_completion(struct exchange *x, void *api);
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
json_t *answer_logprobs(struct job *j, struct choice *c, const struct generation_event *e,
                        bool prompt);
bool answer_join_logprobs(json_t **all, json_t *more); /* takes `more` */
/* Bytes as JSON text: U+FFFD where they are not UTF-8. */
json_t *json_text(const char *bytes, size_t length);

/* api_tokens.c, api_info.c, api_kv.c: handlers */
void handle_tokenize(struct exchange *x, void *api);
void handle_detokenize(struct exchange *x, void *api);
void handle_apply_template(struct exchange *x, void *api);
void handle_input_tokens(struct exchange *x, void *api);
void handle_tokenizer_info(struct exchange *x, void *api);
void handle_models(struct exchange *x, void *api);
void handle_model(struct exchange *x, void *api);
void handle_version(struct exchange *x, void *api);
void handle_props(struct exchange *x, void *api);
void handle_embeddings(struct exchange *x, void *api);
void handle_policies(struct exchange *x, void *api);
void handle_resolve(struct exchange *x, void *api);
void handle_sessions(struct exchange *x, void *context);
void handle_session(struct exchange *x, void *context);
void handle_session_delete(struct exchange *x, void *context);
void handle_stats(struct exchange *x, void *api);
/* Whether the server has what the policy needs. */
bool policy_is_available(const struct api *a, const struct preset *preset);
/* Whether this caller sees what belongs to other keys too. */
bool sees_all(const struct exchange *x, const struct api *a);

/* api_ask.c: questions to the engine's thread */
void handle_flush(struct exchange *x, void *api);
void handle_kv_request(struct exchange *x, void *api);
void asks_reply(struct api *a);                       /* after a wake: those that were answered */
void asks_stop(struct api *a, const struct error *e); /* the others get this error */

#endif
