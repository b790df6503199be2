/* See job.h. */
#include "cache/policy/preset.h"
#include "server/api/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "config/base/random.h"

enum { MOST_ANSWERS = 8 }; /* of --max-answer, together */

/* ---- the list */

bool jobs_init(struct jobs *jobs, const struct service *service, struct mailbox *mailbox,
               void (*on_events)(struct prompt *prompt), struct error *e)
{
    *jobs = (struct jobs){.service = service, .mailbox = mailbox, .on_events = on_events};
    TAILQ_INIT(&jobs->running);
    jobs->running_of_key = calloc(service->config->n_api_keys + 1, sizeof *jobs->running_of_key);
    jobs->by_policy = calloc((size_t)preset_count() * N_SOURCES, sizeof *jobs->by_policy);
    if (jobs->running_of_key && jobs->by_policy)
        return true;
    jobs_clear(jobs);
    return error_set_memory(e, "the API", sizeof *jobs);
}

void jobs_clear(struct jobs *jobs)
{
    free(jobs->running_of_key);
    free(jobs->by_policy);
}

/* ---- a job's life */

uint64_t job_random_seed(void)
{
    uint64_t seed = 0;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != sizeof seed)
        seed = uv_hrtime() * RANDOM_STEP;
    return seed >> 11;
}

static void lists_clear(struct logprob_lists *lists)
{
    bytes_clear(&lists->tokens);
    bytes_clear(&lists->logprobs);
    bytes_clear(&lists->tops);
    bytes_clear(&lists->offsets);
}

static void job_free(struct job *j)
{
    enum { LARGE_BYTES = 1 << 20, MANY_CHOICES = 256, LONG_PROMPT = 1 << 18 };
    if (j->answer_bytes > LARGE_BYTES || j->n_choices > MANY_CHOICES ||
        j->n_prompt_tokens > LONG_PROMPT)
        work_queue_trim(j->jobs->service->work);
    api_request_clear(&j->r);
    for (uint32_t i = 0; i < j->n_prompts; i++) {
        tokens_free(&j->prompts[i].tokens);
        plan_release(j->prompts[i].plan);
        bytes_clear(&j->prompts[i].echo);
        bytes_clear(&j->prompts[i].token_ids);
        lists_clear(&j->prompts[i].logprobs);
        free(j->prompts[i].kv_trace);
    }
    for (uint32_t i = 0; i < j->n_choices; i++) {
        bytes_clear(&j->choices[i].text);
        bytes_clear(&j->choices[i].token_ids);
        lists_clear(&j->choices[i].logprobs);
    }
    bytes_clear(&j->whole);
    j->jobs->answer_bytes -= j->answer_bytes;
    free(j->prompts);
    free(j->choices);
    free(j->body);
    free(j->policy_header);
    plan_release(j->plan);
    free(j);
}

bool job_count_bytes(struct job *j, uint64_t bytes, struct error *e)
{
    uint64_t limit = j->jobs->service->config->max_answer_bytes;
    j->answer_bytes += bytes;
    j->jobs->answer_bytes += bytes;
    if (j->answer_bytes > limit)
        return error_set(e, "answer_too_large", "",
                         "the answer has more than %llu bytes, which is the limit (--max-answer) "
                         "for answers that are no streams",
                         (unsigned long long)limit);
    if (j->jobs->answer_bytes <= MOST_ANSWERS * limit)
        return true;
    error_set(e, "server_busy", "",
              "answers of %llu bytes are in the making, and at most %llu may be (8 times "
              "--max-answer); try again later",
              (unsigned long long)j->jobs->answer_bytes,
              (unsigned long long)(MOST_ANSWERS * limit));
    if (e)
        e->retry_after_ms = 5000;
    return false;
}

void job_hold(struct job *j)
{
    j->n_holds++;
}

void job_let_go(struct job *j)
{
    if (--j->n_holds == 0 && !j->http_request)
        job_free(j);
}

static void on_end(void *context, enum http_request_end end)
{
    struct job *j = context;
    struct jobs *jobs = j->jobs;
    job_hold(j);
    j->http_request = NULL;
    job_stop_work(j, end == HTTP_REQUEST_CLIENT_LEFT);
    work_cancel(&j->work);
    TAILQ_REMOVE(&jobs->running, j, entry);
    jobs->n_running--;
    jobs->n_hungry -= j->hungry;
    j->hungry = false;
    job_let_go(j);
}

struct job *job_new(struct jobs *jobs, struct http_request *x, enum api_request_kind kind)
{
    const char *header = http_request_header(x, "X-KV-Policy");
    struct job *j = calloc(1, sizeof *j);
    if (!j)
        return NULL;
    j->jobs = jobs;
    j->http_request = x;
    j->kind = kind;
    j->key = http_request_key(x);
    j->caller = http_request_caller(x);
    j->created = time(NULL);
    j->last_choice = -1;
    snprintf(j->id, sizeof j->id, "%s-%013llx%013llx",
             kind == API_REQUEST_CHAT ? "chatcmpl" : "cmpl", (unsigned long long)job_random_seed(),
             (unsigned long long)job_random_seed());
    j->body = http_request_take_body(x, &j->n_body);
    if (header && *header)
        j->policy_header = strdup(header);
    if (!j->body || (header && *header && !j->policy_header)) {
        job_free(j);
        return NULL;
    }
    TAILQ_INSERT_HEAD(&jobs->running, j, entry);
    jobs->n_running++;
    http_request_set_context(x, j, on_end);
    return j;
}

static void deliver(struct letter *letter)
{
    struct prompt *p = (struct prompt *)letter;
    p->job->jobs->on_events(p);
}

bool job_make_prompts(struct job *j, uint32_t n, struct error *e)
{
    j->prompts = calloc(n, sizeof *j->prompts);
    if (!j->prompts)
        return error_set_memory(e, "prompts", n * sizeof *j->prompts);
    j->n_prompts = n;
    for (uint32_t i = 0; i < n; i++) {
        j->prompts[i].letter.deliver = deliver;
        j->prompts[i].job = j;
        j->prompts[i].index = i;
    }
    return true;
}

bool job_make_choices(struct job *j, struct error *e)
{
    uint32_t n = j->n_prompts * j->r.n;
    j->choices = calloc(n, sizeof *j->choices);
    if (!j->choices)
        return error_set_memory(e, "choices", n * sizeof *j->choices);
    j->n_choices = n;
    for (uint32_t i = 0; i < n; i++)
        j->choices[i].stop_token = j->choices[i].stop_string = -1;
    return true;
}

/* ---- its work in the engine */

void prompt_notify(void *context)
{
    struct prompt *p = context;
    mailbox_put(p->job->jobs->mailbox, &p->letter);
}

void prompt_release(struct prompt *p)
{
    if (!p->request)
        return;
    request_release(
        p->request); /* there is no notify after this, so it cannot return to the mailbox */
    p->request = NULL;
    p->has_event = false;
    p->job->n_in_engine -= p->job->r.n;
    p->job->jobs->running_of_key[p->job->key] -= p->job->r.n;
    mailbox_remove(p->job->jobs->mailbox, &p->letter);
    if (p->job->jobs->n_hungry)
        mailbox_put(p->job->jobs->mailbox, &p->job->jobs->room);
}

void job_stop_work(struct job *j, bool client_left)
{
    if (!j->prepared)
        return; /* nothing has been submitted, and the pool uses the prompts */
    for (uint32_t i = 0; i < j->n_prompts; i++) {
        if (j->prompts[i].request)
            request_cancel(j->prompts[i].request, client_left);
        prompt_release(&j->prompts[i]);
    }
}
