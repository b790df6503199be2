/* The engine with its thread while memory fails: a request ends with an answer that is the usual
 * one, or with an error that says so; the engine goes on; no page and no byte is lost. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/serve/engine.h"
#include "server/devices.h"
#include "tests/suite.h"
#include "tests/unit/allocation_faults.h"
#include "tests/unit/plan_of_text.h"
#include "tests/unit/wait.h"

#define MODEL "tests/data/stories260K.gguf"

enum { N_PROMPT = 40, N_TOKENS = 12 };

static sem_t something; /* posted by every notify */

static void notify(void *context)
{
    (void)context;
    sem_post(&something);
}

static struct engine *open_engine(struct error *e)
{
    struct engine_options o = {.model_path = MODEL,
                               .n_threads = 1,
                               .max_num_seqs = 4,
                               .max_batched_tokens = 32,
                               .device = {.kind = server_devices.kinds[0], .why = ""},
                               .max_queue = 8,
                               .max_generate = 100,
                               .kv_memory_bytes = 1 << 20,
                               .session_ttl_ms = 60000,
                               .audit = true};
    return engine_open(&o, e);
}

struct talk {
    struct engine *engine;
    const char *policy;
    const struct plan *plan; /* held */ /* resolved */
    uint32_t n_choices;
    bool session, progress;
    int32_t n_logprobs;
    char expected[2][512]; /* of each choice; "" the first time */
};

static struct request_options request_of(const struct talk *t)
{
    struct request_options r = {.id = "test",
                                .n_prompt = N_PROMPT,
                                .prompt = fault_free_malloc(N_PROMPT * sizeof(int32_t)),
                                .sampling = {.top_p = 1,
                                             .typical_p = 1,
                                             .repetition_penalty = 1.1,
                                             .temperature = 0.7,
                                             .seed = 3},
                                .max_tokens = N_TOKENS,
                                .ignore_eos = true,
                                .n_choices = t->n_choices,
                                .n_logprobs = t->n_logprobs,
                                .n_prompt_logprobs = t->n_logprobs,
                                .progress = t->progress,
                                .reuse_prefix = true,
                                .prefix_root = prefix_root("all", 3),
                                .notify = notify};
    r.prompt[0] = 1;
    for (int32_t i = 1; i < N_PROMPT; i++)
        r.prompt[i] = 260 + i * 7919 % 250;
    r.n_stops = 1;
    r.stops = fault_free_malloc(sizeof *r.stops);
    r.stops[0] = (struct stop_string){strcpy(fault_free_malloc(8), "zzzzzz"), 6};
    if (t->session)
        r.session_id = strcpy(fault_free_malloc(8), "talk");
    r.plan = plan_hold(t->plan);
    return r;
}

/* One request from submission to its last event. */
static bool talk(void *context, struct error *e)
{
    struct talk *t = context;
    struct request_options r = request_of(t);
    struct request *g = engine_submit(t->engine, &r, e);
    if (!g)
        return false;
    char text[2][512] = {""};
    bool done = false, failed = false;
    for (int waited = 0; !done && !failed;) {
        struct request_event event = request_next(g);
        if (event.kind == EVENT_NONE) {
            fault_require(waited++ < 3000, "no event for a minute in phase %s", request_phase(g));
            wait_at_most(&something, 20);
        } else if (event.kind == EVENT_TEXT) {
            char *to = text[event.choice];
            size_t n = strlen(to);
            snprintf(to + n, sizeof text[0] - n, "%.*s", (int)event.n_text, event.text);
        } else if (event.kind == EVENT_ERROR) {
            failed = true;
            *e = *event.error;
        } else if (event.kind == EVENT_DONE) {
            done = true;
            fault_require(event.usage->completion_tokens == N_TOKENS * t->n_choices, "%u tokens",
                          event.usage->completion_tokens);
        }
    }
    request_release(g);
    if (done && *t->expected[0])
        fault_require(!memcmp(text, t->expected, sizeof text), "\"%s\" and \"%s\"", text[0],
                      text[1]);
    if (done)
        memcpy(t->expected, text, sizeof text);
    return done;
}

/* Between two runs nothing may wait in the engine: neither its pages nor its memory. */
static void settle(struct talk *t)
{
    struct error e;
    for (int i = 0; i < 500; i++) {
        struct engine_snapshot s;
        ck_assert(engine_snapshot(t->engine, &s, &e));
        bool idle = s.n_sequences == 0 && s.pages_used == s.session_pages;
        engine_snapshot_clear(&s);
        if (idle)
            return;
        wait_at_most(&something, 20);
    }
    ck_abort_msg("the engine does not come to rest");
}

/* The engine of a run that failed serves the next request as ever. */
static bool talk_and_again(void *context, struct error *e)
{
    struct talk *t = context;
    struct error first = {.code = ""};
    t->engine = open_engine(e);
    if (!t->engine)
        return false;
    bool worked = talk(t, &first), met;
    faults_end(&met);
    settle(t);
    struct error second = {.message = ""};
    bool again = talk(t, &second);
    ck_assert_msg(again, "after \"%s\": %s", first.message, second.message);
    ck_assert(engine_alive(t->engine));
    engine_close(t->engine);
    *e = first;
    return worked;
}

static const struct talk talks[] = {
    {.policy = "full", .n_choices = 1, .n_logprobs = -1},
    {.policy = "full", .n_choices = 2, .n_logprobs = 3, .progress = true},
    {.policy = "{\"name\":\"h2o\",\"budget\":32,\"trace\":true}", .n_choices = 1, .n_logprobs = -1},
    {.policy = "{\"name\":\"snapkv\",\"budget\":32,\"window\":16}",
     .n_choices = 1,
     .n_logprobs = -1,
     .session = true}};

START_TEST(a_request_ends_with_its_answer_or_says_that_memory_is_short)
{
    struct talk t = talks[_i];
    struct error e = {.message = ""};
    sem_init(&something, 0, 0);
    t.engine = open_engine(&e);
    ck_assert_msg(t.engine != NULL, "%s", e.message);
    struct plan_limits limits = engine_plan_limits(t.engine);
    t.plan = held_plan(t.policy, N_PROMPT, &limits);
    ck_assert_msg(talk(&t, &e), "%s", e.message);
    settle(&t);
    engine_close(t.engine);
    /* engine_open and the request; the rest of the run is without failures. */
    uint64_t n_through = 0, n_calls = 0, n_runs = 0;
    for (uint64_t nth = 1;; nth += nth < 60 ? 1 : 7) {
        bool met;
        int64_t before = faults_living();
        faults_begin(FAULT_MEMORY, nth, false);
        bool worked = talk_and_again(&t, &e);
        uint64_t n = faults_end(&met);
        ck_assert_msg(worked || !strcmp(e.code, "out_of_memory"),
                      "call %llu failing gives \"%s\": %s", (unsigned long long)nth, e.code,
                      e.message);
        ck_assert_msg(faults_living() == before, "call %llu failing leaves %lld allocations (%s)",
                      (unsigned long long)nth, (long long)(faults_living() - before), e.message);
        n_runs++;
        n_through += worked;
        n_calls = n;
        if (!met)
            break;
    }
    printf("%s: %llu calls, %llu runs, %llu got through\n", t.policy, (unsigned long long)n_calls,
           (unsigned long long)n_runs, (unsigned long long)n_through);
    plan_release(t.plan);
}
END_TEST

static bool open_and_close(void *context, struct error *e)
{
    (void)context;
    struct engine *engine = open_engine(e);
    if (engine)
        engine_close(engine);
    return engine != NULL;
}

START_TEST(opening_the_engine_without_threads)
{
    faults_in_every_call("engine_open", FAULT_THREAD,
                         "out_of_memory device_unavailable engine_fault", open_and_close, NULL, 0);
    faults_in_every_call("engine_open", FAULT_FILE, "file_error file_not_found", open_and_close,
                         NULL, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("engine, while memory fails");
    TCase *t = suite_case(s, "all", 900);
    tcase_add_loop_test(t, a_request_ends_with_its_answer_or_says_that_memory_is_short, 0,
                        sizeof talks / sizeof *talks);
    tcase_add_test(t, opening_the_engine_without_threads);
    return suite_run(s);
}
