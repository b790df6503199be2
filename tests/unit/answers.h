/* A reader of answers: submits requests to an engine from the test's thread and collects what comes
 * back. Shared by the tests of the engine; one engine at a time. */
#ifndef WINNOW_TESTS_UNIT_ANSWERS_H
#define WINNOW_TESTS_UNIT_ANSWERS_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/serve/engine.h"
#include "tests/unit/plan_of_text.h"
#include "tests/unit/test_device.h"
#include "tests/unit/wait.h"

#define MODEL "tests/data/stories260K.gguf"

/* ---- one request and all that it answered */

struct answer {
    struct request *g;
    struct {
        char *text;
        size_t n_text;
        int32_t *tokens;
        float *logprobs;
        size_t n_tokens;
        enum finish_reason finish;
        int32_t stop_token, stop_string;
        bool ended;
    } choices[16];
    float prompt_logprobs[512];
    uint32_t n_prompt_logprobs, n_progress;
    bool done, failed;
    struct error error;
    struct request_usage usage;
    char *trace;
};

static sem_t something; /* posted by every notify */

static inline void notify(void *context)
{
    (void)context;
    sem_post(&something);
}

/* Room for 16 choices and steps of 64 rows; the cache is audited after every step. */
static inline struct engine_options options(void)
{
    return (struct engine_options){.model_path = MODEL,
                                   .n_threads = 1,
                                   .max_num_seqs = 16,
                                   .max_batched_tokens = 64,
                                   .device = test_device(),
                                   .max_queue = 64,
                                   .max_generate = 1000,
                                   .kv_memory_bytes = test_kv_memory(),
                                   .audit = true};
}

static inline struct engine *open_engine(const struct engine_options *o)
{
    struct error e = {.message = ""};
    sem_init(&something, 0, 0);
    struct engine *engine = engine_open(o, &e);
    ck_assert_msg(engine != NULL, "%s: %s", e.code, e.message);
    return engine;
}

/* Pages that `n` full tokens take in this model: 5 layers, 4 KV heads. */
static inline uint64_t pages_bytes(const struct engine *engine, uint32_t n_pages)
{
    return engine_page_bytes(engine) * n_pages;
}

static inline struct request_options greedy(const struct engine *engine, const char *prompt,
                                            const char *policy, int64_t max_tokens)
{
    struct tokens tokens = {0};
    struct error e;
    ck_assert(tokenizer_encode_text(engine_tokenizer(engine), prompt, strlen(prompt), false, true,
                                    &tokens, &e));
    struct request_options r = {.id = "test",
                                .prompt = tokens.data,
                                .n_prompt = (uint32_t)tokens.count,
                                .sampling = {.top_p = 1, .typical_p = 1, .repetition_penalty = 1},
                                .max_tokens = max_tokens,
                                .n_choices = 1,
                                .n_logprobs = -1,
                                .n_prompt_logprobs = -1,
                                .notify = notify};
    struct plan_limits limits = engine_plan_limits(engine);
    r.plan = held_plan(policy, r.n_prompt, &limits);
    return r;
}

/* A prompt of n tokens, all below 512. */
static inline void set_prompt(struct request_options *r, uint32_t n)
{
    free(r->prompt);
    r->prompt = malloc(n * sizeof *r->prompt);
    r->n_prompt = n;
    r->prompt[0] = 1;
    for (uint32_t i = 1; i < n; i++)
        r->prompt[i] = (int32_t)(260 + i * 7919 % 250);
}

static inline void add_stop(struct request_options *r, const char *text)
{
    r->stops = realloc(r->stops, (r->n_stops + 1) * sizeof *r->stops);
    r->stops[r->n_stops++] = (struct stop_string){strdup(text), (uint32_t)strlen(text)};
}

static inline struct answer *submit(struct engine *engine, struct request_options *r)
{
    struct error e = {.message = ""};
    struct answer *a = calloc(1, sizeof *a);
    a->g = engine_submit(engine, r, &e);
    ck_assert_msg(a->g != NULL, "%s: %s", e.code, e.message);
    return a;
}

static inline void keep(struct answer *a, const struct request_event *event)
{
    uint32_t c = event->choice;
    if (event->kind == EVENT_TEXT) {
        char **text = &a->choices[c].text;
        *text = realloc(*text, a->choices[c].n_text + event->n_text + 1);
        memcpy(*text + a->choices[c].n_text, event->text, event->n_text);
        a->choices[c].n_text += event->n_text;
        (*text)[a->choices[c].n_text] = 0;
        size_t n = a->choices[c].n_tokens + event->n_tokens;
        a->choices[c].tokens = realloc(a->choices[c].tokens, (n + 1) * sizeof(int32_t));
        a->choices[c].logprobs = realloc(a->choices[c].logprobs, (n + 1) * sizeof(float));
        for (uint32_t i = 0; i < event->n_tokens; i++) {
            a->choices[c].tokens[a->choices[c].n_tokens] = event->tokens[i].token;
            a->choices[c].logprobs[a->choices[c].n_tokens++] = event->tokens[i].logprob;
        }
    } else if (event->kind == EVENT_CHOICE_END) {
        ck_assert(!a->choices[c].ended);
        a->choices[c].ended = true;
        a->choices[c].finish = event->finish;
        a->choices[c].stop_token = event->stop_token;
        a->choices[c].stop_string = event->stop_string;
    } else if (event->kind == EVENT_PROMPT_TOKENS) {
        ck_assert_uint_eq(event->first_token, a->n_prompt_logprobs);
        for (uint32_t i = 0; i < event->n_tokens; i++)
            a->prompt_logprobs[a->n_prompt_logprobs++] = event->tokens[i].logprob;
    } else if (event->kind == EVENT_PROGRESS) {
        a->n_progress++;
    } else if (event->kind == EVENT_DONE) {
        a->done = true;
        a->usage = *event->usage;
        a->trace = event->kv_trace ? strndup(event->kv_trace, event->n_kv_trace) : NULL;
    } else if (event->kind == EVENT_ERROR) {
        a->failed = true;
        a->error = *event->error;
    }
}

/* Waits for one event of any request (or a while), then looks again. */
static inline void wait_a_little(void)
{
    wait_at_most(&something, 20);
}

static inline enum event_kind read_one(struct answer *a)
{
    struct request_event event = request_next(a->g);
    keep(a, &event);
    return event.kind;
}

static inline void read_until(struct answer *a, enum event_kind kind)
{
    for (enum event_kind got; (got = read_one(a)) != kind;) {
        ck_assert_msg(got != EVENT_DONE && got != EVENT_ERROR, "ended early: %s", a->error.message);
        if (got == EVENT_NONE)
            wait_a_little();
    }
}

static inline void read_all(struct answer **answers, uint32_t n)
{
    for (uint32_t left = n; left > 0;) {
        left = 0;
        bool any = false;
        for (uint32_t i = 0; i < n; i++)
            while (!answers[i]->done && !answers[i]->failed && read_one(answers[i]) != EVENT_NONE)
                any = true;
        for (uint32_t i = 0; i < n; i++)
            left += !answers[i]->done && !answers[i]->failed;
        if (left && !any)
            wait_a_little();
    }
}

static inline void drop(struct answer *a)
{
    request_release(a->g);
    for (int c = 0; c < 16; c++) {
        free(a->choices[c].text);
        free(a->choices[c].tokens);
        free(a->choices[c].logprobs);
    }
    free(a->trace);
    free(a);
}

static inline struct answer *query(struct engine *engine, struct request_options *r)
{
    struct answer *a = submit(engine, r);
    read_all(&a, 1);
    ck_assert_msg(a->done, "%s: %s", a->error.code, a->error.message);
    ck_assert_int_eq(request_next(a->g).kind, EVENT_NONE);
    return a;
}

static inline void check_same(const struct answer *a, uint32_t choice_a, const struct answer *b,
                              uint32_t choice_b)
{
    ck_assert_uint_eq(a->choices[choice_a].n_tokens, b->choices[choice_b].n_tokens);
    ck_assert_mem_eq(a->choices[choice_a].tokens, b->choices[choice_b].tokens,
                     a->choices[choice_a].n_tokens * sizeof(int32_t));
    ck_assert_str_eq(a->choices[choice_a].text, b->choices[choice_b].text);
}

static inline uint64_t n_steps(struct engine *engine)
{
    uint64_t n = 0;
    for (int i = 0; i < METRICS_MAX_BUCKETS; i++)
        n += atomic_load(&engine_metrics(engine)->step_time.buckets[i]);
    return n;
}

static inline void check_empty(struct engine *engine)
{
    struct engine_snapshot s;
    for (int i = 0; i < 500; i++) {
        ck_assert(engine_snapshot(engine, &s, NULL));
        uint32_t used = s.pages_used, n = s.n_sequences;
        ck_assert_uint_eq(s.pages_used + s.pages_cached + s.pages_free, s.pages_total);
        engine_snapshot_clear(&s);
        if (used == 0 && n == 0)
            return;
        usleep(10000);
    }
    ck_abort_msg("pages are still used after 5 s of nothing to do");
}

/* Opening an engine, or submitting a request, fails with a sentence, and with this code and place;
 * NULL: with any. Returns the error. */
static inline struct error expect_error(struct error e, const char *code, const char *where)
{
    ck_assert_str_ne(e.message, "");
    if (code != NULL)
        ck_assert_str_eq(e.code, code);
    if (where != NULL)
        ck_assert_str_eq(e.where, where);
    return e;
}
static inline struct error refuse_engine(const struct engine_options *o, const char *code,
                                         const char *where)
{
    struct error e = {.message = ""};
    ck_assert_ptr_null(engine_open(o, &e));
    return expect_error(e, code, where);
}
static inline struct error refuse_request(struct engine *engine, struct request_options *r,
                                          const char *code, const char *where)
{
    struct error e = {.message = ""};
    ck_assert_ptr_null(engine_submit(engine, r, &e));
    return expect_error(e, code, where);
}

#endif
