/* A job: one HTTP request for generated text, from its body to the last byte of its answer; and the
 * list of all jobs. Loop thread, except where it says "pool" or "engine". */
#ifndef WINNOW_SERVER_API_JOB_H
#define WINNOW_SERVER_API_JOB_H

#include "config/base/bytes.h"
#include "server/api/mailbox.h"
#include "server/api/request.h"
#include "server/api/service.h"

struct job;
struct prompt;

struct jobs {
    const struct service *service;
    struct mailbox *mailbox;           /* for prompts whose request has events */
    TAILQ_HEAD(job_list, job) running; /* with an HTTP request */
    uint32_t n_running;
    uint32_t *running_of_key; /* [1 + n_api_keys] */
    uint64_t *by_policy;      /* [preset_count()][N_SOURCES] admitted, for /metrics */
    void (*on_events)(struct prompt *prompt);
};

/* One answer to one prompt, as far as it has come. */
struct answer_choice {
    struct bytes text; /* of answers that are not streamed; an echoed prompt in any case */
    json_t *logprobs;  /* so far, or NULL */
    json_t *token_ids; /* so far, or NULL */
    uint32_t n_offset; /* characters before the next token, for text_offset */
    uint32_t n_tokens;
    bool ended;
    enum finish_reason finish;
    int32_t stop_token, stop_string; /* -1 = none */
};

/* One prompt of a job: one request of the engine with r.n choices. */
struct prompt {
    struct letter letter; /* first: the mailbox gives it back */
    struct job *job;
    struct request *request; /* NULL before admission and once it is over */
    struct tokens tokens;    /* moved to the engine at admission */
    uint32_t n_tokens;
    json_t *token_ids; /* when the answer shows them, else NULL */
    uint32_t index;
    bool done;
    struct request_usage usage;
    char *kv_trace;
    bool kv_trace_truncated;
};

struct job {
    struct jobs *jobs;
    struct http_request *http_request; /* NULL when it has ended */
    TAILQ_ENTRY(job) entry;
    enum api_request_kind kind;
    char *body; /* taken from the HTTP request; NULL once it was parsed */
    size_t n_body;
    char *policy_header;
    struct api_request r;
    uint32_t n_holds; /* the job stays while it is held, also without an HTTP request */
    bool in_pool;     /* a pool thread has the prompts */
    bool counted;     /* in running_of_key */
    bool admitted;
    uint32_t key;
    struct error error; /* of the pool's work; code "" = none */

    const struct plan *plan; /* held; of the first prompt. NULL before admission */
    const char *policy;      /* the name that was asked for; NULL before admission */
    uint64_t seed;
    char id[48];
    int64_t created;
    struct prompt *prompts; /* [n_prompts] */
    uint32_t n_prompts;
    struct answer_choice *choices; /* [n_choices], those of a prompt side by side */
    uint32_t n_choices;
    bool started; /* the stream's first chunks are written */
    uint32_t n_ended, n_done;
    int32_t last_choice; /* its finish chunk waits for the final numbers; -1 = none */
};

/* `on_events` is called with a prompt whose request has events. False: "out_of_memory", nothing to
 * clear. */
bool jobs_init(struct jobs *jobs, const struct service *service, struct mailbox *mailbox,
               void (*on_events)(struct prompt *prompt), struct error *e);
/* When no job runs any more. */
void jobs_clear(struct jobs *jobs);

/* Moves the body out of the HTTP request and puts the job into the list, where it stays until the
 * HTTP request ends. NULL: out of memory. */
struct job *job_new(struct jobs *jobs, struct http_request *x, enum api_request_kind kind);
/* Pool. Makes n_prompts prompts, and after them the choices. False: "out_of_memory". */
bool job_make_prompts(struct job *j, uint32_t n, struct error *e);
bool job_make_choices(struct job *j, struct error *e);
/* The HTTP request may end, and the job with it, inside of any call that writes to it: who uses the
 * job after such a call holds it meanwhile. */
void job_hold(struct job *j);
void job_let_go(struct job *j);
/* Cancels and releases what runs for it in the engine. */
void job_stop_work(struct job *j, bool client_left);
/* Lets go of the engine's request; no events come after that. */
void prompt_release(struct prompt *p);
/* Engine thread: the notify of a prompt's request. */
void prompt_notify(void *prompt);

/* Random, and exact in a double, so that a JavaScript client can send it back. */
uint64_t job_random_seed(void);

#endif
