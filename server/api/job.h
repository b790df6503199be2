/* A job: one HTTP request for generated text, from its body to the end of its answer. And the list of
 * all jobs. Loop thread, except where it says "pool" or "engine". */
#ifndef WINNOW_SERVER_API_JOB_H
#define WINNOW_SERVER_API_JOB_H

#include "config/base/bytes.h"
#include "server/api/mailbox.h"
#include "server/api/request.h"
#include "server/api/service.h"
#include "server/api/work.h"

struct job;
struct prompt;

struct jobs {
    const struct service *service;
    struct mailbox *mailbox;           /* of prompts whose request has events */
    TAILQ_HEAD(job_list, job) running; /* those with an HTTP request */
    uint32_t n_running;
    uint32_t *running_of_key; /* [1 + n_api_keys] choices in the engine */
    uint32_t n_hungry;        /* jobs with prompts that the engine does not have yet */
    uint64_t answer_bytes;    /* of answers in the making that are no streams */
    uint64_t *by_policy;      /* [preset_count()][N_SOURCES] admitted jobs, for /metrics */
    void (*on_events)(struct prompt *prompt);
    struct letter room; /* in the mailbox when a prompt has ended and a job is hungry */
};

/* Log probabilities as JSON text: the entries of four lists. Chats have only `tokens`. As JSON values
 * they would take many times the memory. */
struct logprob_lists {
    struct bytes tokens, logprobs, tops, offsets;
};

/* One answer to one prompt, so far. Without a stream only. */
struct answer_choice {
    struct bytes text;
    struct logprob_lists logprobs;
    struct bytes token_ids; /* entries of the list */
    uint32_t n_offset;      /* characters before the next token, for text_offset */
    uint32_t n_tokens;
    bool ended;
    enum finish_reason finish;
    int32_t stop_token, stop_string; /* -1 = none */
};

/* One prompt of a job: one request of the engine, with r.n choices. */
struct prompt {
    struct letter letter; /* must be first: the mailbox returns it */
    struct job *job;
    struct request *request; /* NULL before admission and after its end */
    struct tokens tokens;    /* moved to the engine at admission */
    uint32_t n_tokens;
    const struct plan *plan;       /* held; NULL: the session's */
    struct bytes echo;             /* its text, which comes before each choice; else empty */
    struct bytes token_ids;        /* entries of the list, if the answer shows them */
    struct logprob_lists logprobs; /* of the prompt, without a stream: they begin each choice's */
    uint32_t n_offset;             /* characters of those */
    uint32_t index;
    bool done;

    /* The event that is being written: a large one takes several turns of the loop. */
    struct request_event event;
    bool has_event;
    uint32_t at_choice, at_token;

    struct request_usage usage;
    char *kv_trace;
    bool kv_trace_truncated;
};

struct job {
    struct jobs *jobs;
    struct http_request *http_request; /* NULL after its end */
    TAILQ_ENTRY(job) entry;
    enum api_request_kind kind;
    char *body; /* from the HTTP request; NULL once parsed */
    size_t n_body;
    char *policy_header;
    struct api_request r;
    uint32_t n_holds;   /* the job exists while it is held, even without an HTTP request */
    struct work work;   /* the body's, later the answer's */
    struct bytes whole; /* the answer's text, from the pool */
    bool prepared;      /* the pool has finished with the prompts */
    bool admitted, hungry;
    uint32_t key;
    uint64_t caller;         /* as http_request_caller says */
    struct plan_asked asked; /* for the prompts, unless a session says another */
    struct error error;      /* from the pool; code "": none */

    const struct plan *plan; /* the first prompt's, held; NULL before admission */
    const char *policy;      /* the name that was asked for; NULL before admission */
    uint64_t seed;
    char id[48];
    int64_t created;
    struct prompt *prompts; /* [n_prompts] */
    uint32_t n_prompts;
    uint32_t n_submitted;          /* prompts that the engine has or had */
    uint32_t n_in_engine;          /* choices that it has now */
    struct answer_choice *choices; /* [n_choices], in the order of the prompts */
    uint32_t n_choices;
    uint32_t n_started; /* choices whose first chunk of a stream was written */
    size_t at_echo;     /* bytes of the next one's echo that were written */
    uint32_t n_ended, n_done;
    uint64_t n_prompt_tokens, n_cached, n_cache_written, n_generated; /* of all prompts */
    uint64_t answer_bytes;                                            /* without a stream */
    int32_t last_choice; /* whose finish chunk waits for the final numbers; -1: none */
};

/* on_events is called with a prompt whose request has events. False: "out_of_memory"; nothing needs to
 * be cleared. */
bool jobs_init(struct jobs *jobs, const struct service *service, struct mailbox *mailbox,
               void (*on_events)(struct prompt *prompt), struct error *e);
/* Only when no job runs. */
void jobs_clear(struct jobs *jobs);

/* Takes the HTTP request's body. The job is in the list until the HTTP request ends. NULL: out of
 * memory. */
struct job *job_new(struct jobs *jobs, struct http_request *x, enum api_request_kind kind);
/* Counts bytes that the answer has grown by. False: "answer_too_large", "server_busy". */
bool job_count_bytes(struct job *j, uint64_t bytes, struct error *e);
/* Pool. Makes n prompts, then the choices of all prompts. False: "out_of_memory". */
bool job_make_prompts(struct job *j, uint32_t n, struct error *e);
bool job_make_choices(struct job *j, struct error *e);
/* Any call that writes to the HTTP request may end it, and with it the job. To use the job after such a
 * call, hold it. */
void job_hold(struct job *j);
void job_let_go(struct job *j);
/* Cancels and releases the job's requests in the engine. */
void job_stop_work(struct job *j, bool client_left);
/* Releases the engine's request. No events come after that. */
void prompt_release(struct prompt *p);
/* Engine thread: the `notify` of a prompt's request. */
void prompt_notify(void *prompt);

static inline struct job *job_of_work(struct work *work)
{
    return (struct job *)((char *)work - offsetof(struct job, work));
}

/* A random seed that a double holds exactly, so that a JavaScript client can send it back. */
uint64_t job_random_seed(void);

#endif
