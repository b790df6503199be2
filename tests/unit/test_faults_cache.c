/* Prompts and answers through cache, batch and forward pass while memory fails: a step either
 * reports it and gives its pages back, or computes what it always computes. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/pages/prefix.h"
#include "engine/measure/runtime.h"
#include "engine/serve/history.h"
#include "engine/serve/session.h"
#include "server/devices.h"
#include "tests/suite.h"
#include "tests/unit/allocation_faults.h"
#include "tests/unit/plan_of_text.h"

enum { N_PROMPT = 70, N_ANSWER = 6, N_PAGES = 400 };

static const char *const policies[] = {
    "full",
    "{\"name\":\"sink\",\"budget\":40}",
    "{\"name\":\"h2o\",\"budget\":40,\"remnant\":\"mean\"}",
    "{\"name\":\"snapkv\",\"budget\":40,\"window\":16}",
    "{\"name\":\"adakv\",\"budget\":40,\"window\":16,\"decode\":\"evict\"}",
    "{\"name\":\"tova\",\"budget\":40,\"share\":\"layer\"}",
    "{\"name\":\"scissorhands\",\"budget\":40}",
    "{\"name\":\"keydiff\",\"budget\":40}",
    "{\"name\":\"razor\",\"min_window\":40}"};
enum { N_POLICIES = sizeof policies / sizeof *policies };

static struct model *model;
static struct head_profile profile;
static bool whole[5 * 4] = {[0] = true, [7] = true, [13] = true};
static double retrieval[5] = {0.1, 0.2, 0.3, 0.2, 0.1};
static int32_t tokens[N_PROMPT + N_ANSWER];

static void setup(void)
{
    struct error e;
    model = model_open("tests/data/stories260K.gguf", NULL, NULL, &e);
    ck_assert(model);
    profile = (struct head_profile){
        .n_layers = 5, .n_kv_heads = 4, .whole = whole, .retrieval = retrieval};
    for (int i = 0; i < N_PROMPT + N_ANSWER; i++)
        tokens[i] = 260 + i * 7919 % 250;
    tokens[0] = 1;
}

static void teardown(void)
{
    model_close(model);
}

static struct plan plan_of(const char *text)
{
    const struct plan_limits limits = {.n_ctx_train = model->n_ctx_train, .profile = &profile};
    return plan_of_text(text, N_PROMPT, &limits);
}

/* Everything that a step needs, on the CPU. */
static bool house_open(struct runtime *h, struct error *e)
{
    const struct runtime_options o = {.model = model,
                                      .device = server_devices.kinds[0],
                                      .n_threads = 1,
                                      .max_rows = 48,
                                      .max_logits = 4};
    *h = (struct runtime){.model = NULL};
    bool done = runtime_load(h, &o, e) && runtime_start(h, e) && runtime_set_pool(h, N_PAGES, e);
    if (done)
        cache_set_profile(h->cache, &profile);
    else
        runtime_close(h);
    return done;
}

static bool audit(struct runtime *h)
{
    struct error e = {.message = ""};
    bool sound = cache_audit(h->cache, NULL, NULL, &e);
    fault_require(sound || !strcmp(e.code, "out_of_memory"), "%s", e.message);
    return sound;
}

/* The next n tokens; the best token behind them in *best. */
static bool step(struct runtime *h, struct cache_sequence *s, uint32_t n, int32_t *best,
                 struct error *e)
{
    uint32_t row, first = cache_tokens_seen(s);
    batch_clear(h->batch);
    if (!batch_add(h->batch, s, tokens + first, n, 1, &row, e))
        return false;
    const float *logits = forward_run(h->forward, h->batch, e);
    if (!logits)
        return false;
    *best = 0;
    for (uint32_t i = 1; i < model->n_vocab; i++)
        if (logits[row * model->n_vocab + i] > logits[row * model->n_vocab + (uint32_t)*best])
            *best = (int32_t)i;
    return true;
}

struct run {
    struct plan plan;
    bool has_expected;
    int32_t expected[N_ANSWER + 2];
};

/* A prompt in two chunks, an answer, a fork that goes on, and what both hold. */
static bool answer(struct runtime *h, struct run *r, struct error *e)
{
    struct cache_sequence *s = cache_sequence_new(h->cache, &r->plan, e), *fork = NULL;
    if (!s)
        return false;
    int32_t got[N_ANSWER + 2];
    cache_sequence_set_prompt(s, N_PROMPT);
    bool done = step(h, s, 40, &got[0], e) && step(h, s, N_PROMPT - 40, &got[1], e);
    for (int i = 0; done && i < N_ANSWER; i++) {
        if (i == 2)
            done = (fork = cache_sequence_fork(s, e)) != NULL;
        done = done && step(h, s, 1, &got[i + 2], e);
    }
    int32_t again;
    if (done && fork) {
        done = step(h, fork, 1, &again, e);
        fault_require(!done || again == got[4], "the fork says %d, not %d", again, got[4]);
    }
    if (done && r->has_expected)
        fault_require(!memcmp(got, r->expected, sizeof got), "another answer");
    if (done)
        memcpy(r->expected, got, sizeof got);
    if (done)
        audit(h);
    cache_sequence_free(fork);
    cache_sequence_free(s);
    return done;
}

static bool run_all(void *context, struct error *e)
{
    struct runtime h;
    if (!house_open(&h, e))
        return false;
    bool done = answer(&h, context, e);
    runtime_close(&h);
    return done;
}

START_TEST(an_answer_is_whole_or_says_that_memory_is_short)
{
    struct error e;
    struct run r = {.plan = plan_of(policies[_i])};
    ck_assert(run_all(&r, &e));
    r.has_expected = true;
    faults_in_every_call(policies[_i], FAULT_MEMORY, "out_of_memory", run_all, &r, 40);
}
END_TEST

/* ---- the same machine goes on after a failure */

struct again {
    struct runtime house;
    struct run run;
};

static bool answer_in(void *context, struct error *e)
{
    struct again *a = context;
    bool done = answer(&a->house, &a->run, e);
    struct cache_counts counts = cache_counts(a->house.cache);
    fault_require(counts.used == 0 && counts.cached + counts.free == counts.n_pages,
                  "%u pages used, %u cached, %u free", counts.used, counts.cached, counts.free);
    return done;
}

START_TEST(a_failed_step_leaves_the_cache_as_good_as_before)
{
    struct error e = {.message = ""};
    struct again a = {.run = {.plan = plan_of(policies[_i])}};
    ck_assert_msg(house_open(&a.house, &e), "%s", e.message);
    ck_assert(answer_in(&a, &e)); /* buffers that grow have grown */
    a.run.has_expected = true;
    faults_in_every_call(policies[_i], FAULT_MEMORY, "out_of_memory", answer_in, &a, 40);
    runtime_close(&a.house);
}
END_TEST

/* ---- prompts that were computed before */

static bool reuse(void *context, struct error *e)
{
    struct again *a = context;
    struct cache *c = a->house.cache;
    struct prefix_name root = prefix_root("secret", 6), name = root;
    uint32_t done_tokens = 0;
    int32_t best;
    struct cache_sequence *first = cache_sequence_new(c, &a->run.plan, e), *second = NULL;
    if (!first)
        return false;
    cache_sequence_set_prompt(first, N_PROMPT);
    bool done =
        step(&a->house, first, 40, &best, e) && step(&a->house, first, N_PROMPT - 40, &best, e);
    if (done) { /* short of memory it lists less, which is no error */
        uint32_t listed = prefix_list(first, &name, &done_tokens, tokens, N_PROMPT);
        uint32_t known = prefix_match(c, &root, tokens, N_PROMPT - 1);
        fault_require(listed <= N_PROMPT, "%u", listed);
        done = (second = cache_sequence_new(c, &a->run.plan, e)) != NULL;
        if (done && known) {
            cache_sequence_set_prompt(second, N_PROMPT);
            done = prefix_adopt(second, &root, tokens, known, e) &&
                   step(&a->house, second, N_PROMPT - known > 48 ? 48 : N_PROMPT - known, &best, e);
        }
        done = done && cache_sequence_own_pages(second, e);
    }
    if (done)
        audit(&a->house);
    cache_sequence_free(first);
    cache_sequence_free(second);
    prefix_give_up(c, UINT32_MAX);
    fault_require(cache_counts(c).free == N_PAGES, "%u pages are free", cache_counts(c).free);
    return done;
}

START_TEST(reused_prompts)
{
    struct error e = {.message = ""};
    struct again a = {.run = {.plan = plan_of("full")}};
    ck_assert(house_open(&a.house, &e));
    ck_assert(reuse(&a, &e));
    faults_in_every_call("prefix", FAULT_MEMORY, "out_of_memory", reuse, &a, 0);
    runtime_close(&a.house);
}
END_TEST

/* ---- sessions and what requests held */

static bool keep_sessions(void *context, struct error *e)
{
    (void)context;
    struct session_store store;
    struct request_history history = {0};
    if (!session_store_init(&store, 1000, e))
        return false;
    session_store_clear(&store);
    bool done = history_init(&history, 20, e);
    if (done) {
        struct cache_head_counts *heads;
        fault_require(history_add(&history, &heads) != NULL, "no room");
    }
    history_clear(&history);
    return done;
}

START_TEST(sessions_and_history)
{
    faults_in_every_call("sessions", FAULT_MEMORY, "out_of_memory", keep_sessions, NULL, 0);
    faults_in_every_call("sessions", FAULT_THREAD, "out_of_memory", keep_sessions, NULL, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cache and forward pass, while memory fails");
    TCase *t = suite_case(s, "all", 600);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, an_answer_is_whole_or_says_that_memory_is_short, 0, N_POLICIES);
    tcase_add_loop_test(t, a_failed_step_leaves_the_cache_as_good_as_before, 0, N_POLICIES);
    tcase_add_test(t, reused_prompts);
    tcase_add_test(t, sessions_and_history);
    return suite_run(s);
}
