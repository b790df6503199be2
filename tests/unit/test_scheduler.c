/* What the scheduler and the engine's thread do beside answering: prompts that are shared, queries
 * between two steps, the end of a device. */
#include "cache/pages/prefix.h"
#include "engine/serve/engine_private.h"
#include "tests/suite.h"
#include "tests/unit/answers.h"

enum { N_HEADS = 20 }; /* 5 layers of 4 KV heads */

/* ---- queries */

struct question {
    struct engine_query engine;
    sem_t answered;
};

static void answered(struct engine_query *query)
{
    sem_post(&((struct question *)query)->answered);
}

/* Waits for the answer. */
static struct question ask(struct engine *engine, enum engine_query_kind kind, const char *id,
                           uint32_t owner_key, struct cache_head_counts *heads)
{
    struct question q = {
        .engine = {.kind = kind, .owner_key = owner_key, .heads = heads, .done = answered}};
    snprintf(q.engine.id, sizeof q.engine.id, "%s", id);
    sem_init(&q.answered, 0, 0);
    engine_query(engine, &q.engine);
    sem_wait(&q.answered);
    return q;
}

START_TEST(a_request_is_described_while_it_runs_and_for_a_while_after)
{
    struct engine_options o = options();
    struct engine *engine = open_engine(&o);
    struct cache_head_counts heads[N_HEADS];
    struct request_options r = greedy(engine, "Once upon a time", "sink:32", 2000000);
    r.ignore_eos = true;
    r.owner_key = 3;
    struct answer *a = submit(engine, &r);
    read_until(a, EVENT_TEXT);
    struct question q = ask(engine, ENGINE_QUERY_REQUEST, "test", 3, heads);
    ck_assert(q.engine.found);
    ck_assert_str_eq(q.engine.state, "decode");
    ck_assert_str_eq(q.engine.record.policy, "sink");
    ck_assert_uint_eq(q.engine.record.budget, 32);
    ck_assert_double_lt(q.engine.ended_ms_ago, 0);
    for (int i = 0; i < N_HEADS; i++)
        ck_assert_uint_eq(heads[i].slots + heads[i].evicted, q.engine.record.tokens_seen);
    ck_assert(!ask(engine, ENGINE_QUERY_REQUEST, "test", 4, heads).engine.found);
    ck_assert(!ask(engine, ENGINE_QUERY_REQUEST, "tset", 3, heads).engine.found);
    request_cancel(a->g, false);
    read_all(&a, 1);
    q = ask(engine, ENGINE_QUERY_REQUEST, "test", 3, heads);
    ck_assert(q.engine.found);
    ck_assert_str_eq(q.engine.state, "done");
    ck_assert_double_ge(q.engine.ended_ms_ago, 0);
    ck_assert_uint_eq(q.engine.record.tokens_seen, a->usage.tokens_seen);
    for (int i = 0; i < N_HEADS; i++)
        ck_assert_uint_eq(heads[i].slots, a->usage.tokens_seen < 32 ? a->usage.tokens_seen : 32);
    drop(a);
    check_empty(engine);
    engine_close(engine);
}
END_TEST

START_TEST(a_query_that_was_forgotten_is_not_answered)
{
    struct engine_options o = options();
    struct engine *engine = open_engine(&o);
    struct request_options r = greedy(engine, "x", "sink:64", 1);
    set_prompt(&r, 3000); /* the engine is busy while queries come */
    struct answer *a = submit(engine, &r);
    for (int i = 0; i < 20; i++) {
        struct question q = {.engine = {.kind = ENGINE_QUERY_FLUSH, .done = answered}};
        sem_init(&q.answered, 0, 0);
        engine_query(engine, &q.engine);
        engine_forget(engine, &q.engine); /* from here on `q` is nobody's: answered, or never */
        int before = 0, after = 0;
        sem_getvalue(&q.answered, &before);
        struct question next = ask(engine, ENGINE_QUERY_FLUSH, "", 0, NULL);
        ck_assert_uint_eq(next.engine.pages_freed, 0);
        sem_getvalue(&q.answered, &after);
        ck_assert_int_eq(before, after);
    }
    read_all(&a, 1);
    drop(a);
    engine_close(engine);
}
END_TEST

/* ---- prompts in common */

START_TEST(a_prompt_that_was_read_is_taken_over_until_it_is_given_up)
{
    struct engine_options o = options();
    struct engine *engine = open_engine(&o);
    struct answer *answers[3];
    for (int i = 0; i < 3; i++) {
        struct request_options r = greedy(engine, "x", "full", 20);
        set_prompt(&r, 200);
        r.ignore_eos = true;
        r.reuse_prefix = true;
        r.prefix_root = prefix_root(NULL, 0);
        if (i == 2) {
            check_empty(engine); /* the answer before has given its pages back */
            ck_assert_uint_gt(atomic_load(&engine_metrics(engine)->kv_pages_cached), 0);
            struct question q = ask(engine, ENGINE_QUERY_FLUSH, "", 0, NULL);
            ck_assert_uint_ge(q.engine.pages_freed, 6 * N_HEADS);
            ck_assert_uint_eq(atomic_load(&engine_metrics(engine)->kv_pages_cached), 0);
        }
        answers[i] = query(engine, &r);
    }
    ck_assert_uint_eq(answers[0]->usage.cached_tokens, 0);
    ck_assert_uint_ge(answers[0]->usage.cache_write_tokens, 192);
    ck_assert_uint_eq(answers[1]->usage.cached_tokens, 192); /* whole pages of 32 */
    ck_assert_uint_eq(answers[2]->usage.cached_tokens, 0);
    check_same(answers[0], 0, answers[1], 0);
    check_same(answers[0], 0, answers[2], 0);
    for (int i = 0; i < 3; i++)
        drop(answers[i]);
    engine_close(engine);
}
END_TEST

START_TEST(prefixes_are_given_up_before_anybody_is_preempted)
{
    struct engine_options o = options();
    struct engine *engine = open_engine(&o);
    o.kv_memory_bytes = pages_bytes(engine, 10 * N_HEADS); /* 320 tokens */
    engine_close(engine);
    engine = open_engine(&o);
    for (int i = 0; i < 4; i++) {
        struct request_options r = greedy(engine, "x", "full", 40);
        set_prompt(&r, 200);
        r.prompt[1] = 300 + i; /* nothing in common */
        r.ignore_eos = true;
        r.reuse_prefix = true;
        r.prefix_root = prefix_root(NULL, 0);
        struct answer *a = query(engine, &r);
        ck_assert_uint_eq(a->usage.n_preemptions, 0);
        ck_assert_uint_eq(a->choices[0].n_tokens, 40);
        drop(a);
    }
    check_empty(engine);
    engine_close(engine);
}
END_TEST

/* ---- the end of a device */

static _Atomic bool is_gone;

static bool failing_download(void *self, float *to, const float *from, size_t n, struct error *e)
{
    (void)self;
    if (is_gone)
        return error_set(e, "engine_fault", "", "the test's device is gone");
    memcpy(to, from, n * sizeof *to);
    return true;
}

START_TEST(a_device_that_fails_ends_every_request_and_the_engine_takes_no_more)
{
    if (!test_device_is_cpu())
        return; /* test_cuda_faults makes a GPU fail */
    struct engine_options o = options();
    o.max_num_seqs = 2;
    struct engine *engine = open_engine(&o);
    struct answer *answers[3];
    is_gone = false;
    engine->runtime.backend.download = failing_download; /* its thread waits for a first request */
    for (int i = 0; i < 3; i++) {                        /* the third is queued */
        struct request_options r = greedy(engine, "x", "sink:64", 2000000); /* minutes */
        r.ignore_eos = true;
        answers[i] = submit(engine, &r);
    }
    is_gone = true;
    read_all(answers, 3);
    for (int i = 0; i < 3; i++) {
        ck_assert(answers[i]->failed);
        ck_assert_str_eq(answers[i]->error.code, "engine_fault");
        ck_assert_str_eq(answers[i]->error.message, "the test's device is gone");
    }
    ck_assert(!engine_alive(engine));
    struct request_options r = greedy(engine, "x", "full", 1);
    refuse_request(engine, &r, "engine_fault", NULL);
    check_empty(engine);
    for (int i = 0; i < 3; i++)
        drop(answers[i]);
    engine_close(engine);
}
END_TEST

/* ---- a policy without memory */

static bool (*compress)(void *self, struct select_job *jobs, uint32_t n_jobs, struct error *e);
static atomic_int compressions; /* until one finds no memory */

static bool compress_without_memory(void *self, struct select_job *jobs, uint32_t n_jobs,
                                    struct error *e)
{
    return atomic_fetch_sub(&compressions, 1) == 1 ? error_set_memory(e, "choosing slots", n_jobs)
                                                   : compress(self, jobs, n_jobs, e);
}

static struct request_options with_common_prompt(const struct engine *engine, const char *policy)
{
    struct request_options r = greedy(engine, "x", policy, 20);
    set_prompt(&r, 192); /* three steps, each of two full pages a head */
    r.ignore_eos = true;
    r.reuse_prefix = true;
    r.prefix_root = prefix_root(NULL, 0);
    return r;
}

START_TEST(a_policy_without_memory_ends_its_step_and_the_engine_goes_on)
{
    struct engine_options o = options();
    o.max_num_seqs = 1;
    struct engine *engine = open_engine(&o);
    struct request_options r = with_common_prompt(engine, "full");
    r.reuse_prefix = false;
    struct answer *expected = query(engine, &r), *answers[2];
    compress = engine->runtime.backend.compress;
    engine->runtime.backend.compress = compress_without_memory;
    atomic_store(&compressions, 3); /* of the fourth and fifth layer nothing is written */
    r = with_common_prompt(engine, "snapkv:64");
    answers[0] = submit(engine, &r);
    r = with_common_prompt(engine, "full"); /* queued */
    answers[1] = submit(engine, &r);
    read_all(answers, 2);
    ck_assert(answers[0]->failed);
    ck_assert_str_eq(answers[0]->error.code, "out_of_memory");
    ck_assert(!answers[1]->failed);
    ck_assert_uint_eq(answers[1]->usage.cached_tokens, 0); /* no half-written page is taken over */
    check_same(expected, 0, answers[1], 0);
    ck_assert(engine_alive(engine));
    check_empty(engine);
    drop(expected);
    drop(answers[0]);
    drop(answers[1]);
    engine_close(engine);
}
END_TEST

/* ---- what is refused at the door */

START_TEST(requests_that_can_never_run_are_refused_with_a_sentence)
{
    struct engine_options o = options();
    o.n_ctx = 64;
    struct engine *engine = open_engine(&o);
    ck_assert_uint_eq(engine_n_ctx(engine), 64);
    ck_assert_uint_eq(engine_n_threads(engine), 1);
    ck_assert_ptr_nonnull(engine_chat_template(engine));
    ck_assert_ptr_nonnull(strstr(engine_backend_description(engine), test_device_name()));

    struct request_options r = greedy(engine, "x", "full", 1);
    r.n_prompt = 0;
    refuse_request(engine, &r, NULL, "prompt");
    r = greedy(engine, "x", "full", 1);
    r.n_logprobs = 21;
    refuse_request(engine, &r, NULL, "logprobs");
    r = greedy(engine, "x", "full", 1);
    r.n_stop_tokens = 1;
    r.stop_tokens = malloc(sizeof *r.stop_tokens);
    r.stop_tokens[0] = -1;
    refuse_request(engine, &r, NULL, "stop_token_ids");
    r = greedy(engine, "x", "full", 1);
    r.sampling.n_bias = 1;
    r.sampling.bias = calloc(1, sizeof *r.sampling.bias);
    r.sampling.bias[0].token = 512;
    refuse_request(engine, &r, NULL, "logit_bias");
    r = greedy(engine, "x", "full", 1);
    set_prompt(&r, 65);
    struct error e = refuse_request(engine, &r, "context_length_exceeded", NULL);
    ck_assert_uint_eq(e.n_prompt_tokens, 65);
    ck_assert_uint_eq(e.n_ctx, 64);
    /* A request that nobody submitted is cleared by its maker. */
    r = greedy(engine, "x", "full", 1);
    add_stop(&r, "stop");
    request_options_clear(&r);
    ck_assert_uint_eq(r.n_prompt + r.n_stops, 0);
    engine_close(engine);
}
END_TEST

START_TEST(an_engine_that_cannot_be_opened_says_which_option_is_wrong)
{
    struct engine_options o = options();
    o.max_num_seqs = 0;
    refuse_engine(&o, NULL, "--max-num-seqs");
    o = options();
    o.max_queue = 0;
    refuse_engine(&o, NULL, "--max-queue");
    o = options();
    o.max_generate = 0;
    refuse_engine(&o, NULL, "--max-generate");
    o = options();
    o.kv_memory_share = 2;
    refuse_engine(&o, NULL, "--kv-memory");
    o = options();
    o.model_path = NULL;
    refuse_engine(&o, "invalid_value", NULL);
    o = options();
    o.chat_template = "chatml";
    o.max_batched_tokens = 0;
    o.kv_memory_share = 0.001;
    struct engine *engine = open_engine(&o);
    ck_assert_uint_gt(engine_n_pages(engine), 0);
    engine_close(engine);
    engine_close(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("scheduler");
    TCase *t = suite_case(suite, "scheduler", 120);
    tcase_add_test(t, a_request_is_described_while_it_runs_and_for_a_while_after);
    tcase_add_test(t, a_query_that_was_forgotten_is_not_answered);
    tcase_add_test(t, a_prompt_that_was_read_is_taken_over_until_it_is_given_up);
    tcase_add_test(t, prefixes_are_given_up_before_anybody_is_preempted);
    tcase_add_test(t, a_device_that_fails_ends_every_request_and_the_engine_takes_no_more);
    tcase_add_test(t, a_policy_without_memory_ends_its_step_and_the_engine_goes_on);
    tcase_add_test(t, requests_that_can_never_run_are_refused_with_a_sentence);
    tcase_add_test(t, an_engine_that_cannot_be_opened_says_which_option_is_wrong);
    return suite_run(suite);
}
