/* Prompts and answers through cache, batch and forward pass while memory fails: a step says so and
 * the pages come back, or it computes what it always computes. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/pages/prefix.h"
#include "engine/compute/device.h"
#include "engine/compute/forward.h"
#include "engine/serve/history.h"
#include "engine/serve/session.h"
#include "tests/unit/allocation_faults.h"

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
    struct plan plan;
    struct error e = {.message = ""};
    struct plan_limits limits = {.n_ctx_train = model->n_ctx_train, .profile = &profile};
    ck_assert_msg(plan_parse_text(text, strlen(text), "kv_policy", &plan, &e) &&
                      plan_resolve(&plan, N_PROMPT, &limits, &e),
                  "%s", e.message);
    return plan;
}

/* Everything that a step needs, on the CPU. */
struct house {
    struct backend backend;
    struct cache *cache;
    struct batch *batch;
    struct forward *forward;
};

static void house_close(struct house *h)
{
    forward_free(h->forward);
    batch_free(h->batch);
    if (h->cache) {
        uint32_t used = cache_counts(h->cache).used;
        fault_require(used == 0, "%u pages are still held", used);
        cache_free(h->cache);
    }
    if (h->backend.close) {
        h->backend.kv_free(h->backend.self);
        h->backend.close(h->backend.self);
    }
}

static int32_t position_of(void *context, uint32_t page, uint32_t index)
{
    const struct house *h = context;
    return h->backend.kv_read(h->backend.self, page, index, model->head_dim, NULL, NULL);
}

static bool house_open(struct house *h, struct error *e)
{
    struct device_options o = {.kind = DEVICE_CPU,
                               .n_threads = 1,
                               .max_rows = 48,
                               .max_logits = 4,
                               .max_slots = model->n_ctx_train};
    *h = (struct house){.cache = NULL};
    bool done = device_open(&h->backend, &o, model, e) &&
                h->backend.kv_alloc(h->backend.self, N_PAGES, model->head_dim, e);
    if (done)
        done = (h->cache = cache_new(model->n_layers, model->n_kv_heads, model->head_dim, N_PAGES,
                                     e)) != NULL;
    if (done) {
        cache_set_memory(h->cache, h->backend.state_memory);
        cache_set_profile(h->cache, &profile);
        cache_set_reader(h->cache, position_of, h);
        done = (h->batch = batch_new(h->cache, model, 48, 4, e)) != NULL &&
               (h->forward = forward_new(&h->backend, model, 48, 4, e)) != NULL;
    }
    if (!done)
        house_close(h);
    return done;
}

static bool audit(struct house *h)
{
    struct error e = {.message = ""};
    bool sound = cache_audit(h->cache, NULL, NULL, &e);
    fault_require(sound || !strcmp(e.code, "out_of_memory"), "%s", e.message);
    return sound;
}

/* The next n tokens; the best token behind them in *best. */
static bool step(struct house *h, struct cache_sequence *s, uint32_t n, int32_t *best,
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
static bool answer(struct house *h, struct run *r, struct error *e)
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
    struct house h;
    if (!house_open(&h, e))
        return false;
    bool done = answer(&h, context, e);
    house_close(&h);
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
    struct house house;
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
    house_close(&a.house);
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
    house_close(&a.house);
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
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 600);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, an_answer_is_whole_or_says_that_memory_is_short, 0, N_POLICIES);
    tcase_add_loop_test(t, a_failed_step_leaves_the_cache_as_good_as_before, 0, N_POLICIES);
    tcase_add_test(t, reused_prompts);
    tcase_add_test(t, sessions_and_history);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
