/* What measures a model (engine/measure): the runtime that is opened in steps, timed runs, and runs
 * that compare policies. Nothing here asserts a time. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/measure/bench.h"
#include "engine/measure/bench_machine.h"
#include "engine/measure/evaluate.h"
#include "engine/measure/runtime.h"
#include "tests/suite.h"
#include "tests/unit/plan_of_text.h"
#include "tests/unit/test_device.h"

#define MODEL "tests/data/stories260K.gguf"

enum { N_HEADS = 20, TRAINED = 512 }; /* of that model: 5 layers of 4 KV heads */

static struct error e;

static struct plan plan_at(const char *text, uint32_t n_prompt, struct plan_limits limits)
{
    return plan_of_text(text, n_prompt, &limits);
}

/* ---- the runtime */

static struct runtime_options runtime_options(void)
{
    return (struct runtime_options){.model_path = MODEL,
                                    .device = test_device().kind,
                                    .n_threads = 1,
                                    .max_rows = 32,
                                    .max_logits = 4};
}

START_TEST(a_runtime_is_built_in_three_steps_and_freed_after_each)
{
    const struct runtime_options o = runtime_options();
    for (int steps = 0; steps <= 3; steps++) {
        struct runtime r = {0};
        if (steps >= 1)
            ck_assert(runtime_load(&r, &o, &e));
        if (steps >= 2)
            ck_assert(runtime_start(&r, &e));
        if (steps >= 3)
            ck_assert(runtime_set_pool(&r, 2 * N_HEADS, &e));
        ck_assert_int_eq(r.model != NULL, steps >= 1);
        ck_assert_int_eq(r.forward != NULL, steps >= 2);
        ck_assert_int_eq(r.cache && r.batch, steps >= 3);
        ck_assert_uint_eq(r.n_pages, steps >= 3 ? 2 * N_HEADS : 0);
        runtime_close(&r);
        ck_assert_ptr_null(r.model);
    }
}
END_TEST

START_TEST(what_is_not_asked_for_has_a_default)
{
    struct runtime_options o = runtime_options();
    struct runtime r = {0};
    o.n_threads = o.max_rows = 0;
    ck_assert(runtime_load(&r, &o, &e));
    ck_assert_uint_ge(r.options.n_threads, 1);
    ck_assert_uint_eq(r.options.max_rows, o.device->usual_rows);
    ck_assert_ptr_null(r.tokenizer);
    ck_assert_ptr_null(r.profile);
    runtime_close(&r);
    o.max_logits = 5000;
    o.needs_tokenizer = true;
    ck_assert(runtime_load(&r, &o, &e));
    ck_assert_uint_eq(r.options.max_rows, 5000);
    ck_assert_ptr_nonnull(r.tokenizer);
    runtime_close(&r);
}
END_TEST

START_TEST(a_borrowed_model_outlives_its_runtime)
{
    struct model *model = model_open(MODEL, NULL, NULL, &e);
    struct runtime_options o = runtime_options();
    o.model_path = NULL;
    o.model = model;
    for (int i = 0; i < 2; i++) {
        struct runtime r = {0};
        ck_assert(runtime_load(&r, &o, &e) && runtime_start(&r, &e));
        ck_assert_ptr_eq(r.model, model);
        runtime_close(&r);
    }
    ck_assert_uint_eq(model->n_ctx_train, TRAINED);
    model_close(model);
}
END_TEST

START_TEST(what_cannot_be_opened_is_refused_with_a_code_and_leaves_nothing_behind)
{
    struct runtime r = {0};
    struct runtime_options o = runtime_options();
    o.model_path = NULL;
    ck_assert(!runtime_load(&r, &o, &e));
    ck_assert_str_eq(e.code, "invalid_value");
    runtime_close(&r);
    o.model_path = "tests/data/no-such-file.gguf";
    ck_assert(!runtime_load(&r, &o, &e));
    ck_assert_str_ne(e.message, "");
    runtime_close(&r);
    o = runtime_options();
    o.head_profile = "tests/data/no-such-file.json";
    ck_assert(!runtime_load(&r, &o, &e));
    runtime_close(&r);
    o = runtime_options();
    o.isa = "sse9";
    ck_assert(runtime_load(&r, &o, &e));
    if (test_device_is_cpu()) {
        ck_assert(!runtime_start(&r, &e));
        ck_assert_str_eq(e.code, "unsupported_value");
    }
    runtime_close(&r);
}
END_TEST

START_TEST(pages_follow_the_storage_and_the_memory_that_is_free)
{
    struct runtime r = {0};
    const struct runtime_options o = runtime_options();
    ck_assert(runtime_load(&r, &o, &e) && runtime_start(&r, &e));
    ck_assert_uint_eq(runtime_pages(&r, 0), 0);
    ck_assert_uint_eq(runtime_pages(&r, 1), N_HEADS);
    ck_assert_uint_eq(runtime_pages(&r, 33), 2 * N_HEADS);
    uint64_t f16 = r.page_bytes;
    ck_assert(runtime_set_pool(&r, N_HEADS, &e));
    runtime_set_storage(&r, STORAGE_Q8); /* the pool goes */
    ck_assert_ptr_null(r.cache);
    ck_assert_uint_eq(r.n_pages, 0);
    ck_assert_uint_lt(r.page_bytes, f16);
    ck_assert_int_eq(runtime_limits(&r).storage, STORAGE_Q8);
    ck_assert_uint_eq(runtime_limits(&r).n_ctx_train, TRAINED);
    ck_assert(runtime_set_pool(&r, N_HEADS, &e) && runtime_set_pool(&r, 3 * N_HEADS, &e));
    ck_assert_uint_eq(cache_counts(r.cache).n_pages, 3 * N_HEADS);
    ck_assert(runtime_has_room(&r, 1, "--size", "ask for less", &e));
    if (r.backend.memory_free(r.backend.self) > 0) {
        ck_assert(!runtime_has_room(&r, UINT64_C(1) << 60, "--size", "ask for less", &e));
        ck_assert_str_eq(e.code, "out_of_memory");
        ck_assert_str_eq(e.where, "--size");
        ck_assert_ptr_nonnull(strstr(e.message, "ask for less"));
    }
    ck_assert(!runtime_set_pool(&r, UINT64_C(1) << 40, &e));
    ck_assert_str_eq(e.code, "out_of_memory");
    runtime_close(&r);
}
END_TEST

/* ---- timed runs */

static struct bench *open_bench(uint32_t max_sequences)
{
    const struct bench_options o = {.model_path = MODEL,
                                    .device = test_device().kind,
                                    .n_threads = 1,
                                    .max_rows = 64,
                                    .max_sequences = max_sequences};
    struct bench *b = bench_open(&o, &e);
    ck_assert_msg(b != NULL, "%s", e.message);
    return b;
}

START_TEST(a_timed_prompt_can_be_decoded_from_again_and_again)
{
    struct bench *b = open_bench(3);
    ck_assert_uint_eq(bench_max_rows(b), 64);
    ck_assert_ptr_nonnull(bench_backend(b)->name);
    static const char *const policies[] = {"full", "sink:32", "h2o:32"};
    for (int i = 0; i < 3; i++) {
        struct bench_prompt prompt;
        struct bench_sample read, first, again;
        ck_assert(bench_set_pool(b, i == 2 ? STORAGE_Q8 : STORAGE_F16, 200, &e));
        struct plan plan = plan_at(policies[i], 100, bench_limits(b));
        ck_assert(bench_prefill(b, &plan, 100, &prompt, &read, &e));
        ck_assert_uint_eq(cache_tokens_seen(prompt.sequence), 100);
        ck_assert(read.operations > 0 && read.seconds >= 0 && prompt.kv_held_bytes > 0);
        int32_t next = prompt.next;
        ck_assert(bench_decode(b, &prompt, 3, 8, &first, &e) &&
                  bench_decode(b, &prompt, 3, 8, &again, &e));
        ck_assert_uint_eq(cache_tokens_seen(prompt.sequence), 100); /* it stayed as it was */
        ck_assert_int_eq(prompt.next, next);
        ck_assert_double_eq(first.kv_bytes, again.kv_bytes);
        ck_assert_double_eq(first.operations, again.operations);
        ck_assert_double_eq(first.weight_bytes, again.weight_bytes);
        ck_assert(first.kv_bytes > 0 && first.weight_bytes > 0);
        bench_prompt_free(&prompt);
    }
    bench_close(b);
}
END_TEST

START_TEST(a_pool_that_does_not_fit_is_refused_and_a_smaller_one_taken_after_it)
{
    struct bench *b = open_bench(2);
    if (test_device_is_cpu()) {
        ck_assert(!bench_set_pool(b, STORAGE_F16, UINT32_MAX, &e));
        ck_assert_str_eq(e.code, "out_of_memory");
    }
    ck_assert(bench_set_pool(b, STORAGE_F16, 64, &e));
    struct bench_prompt prompt;
    struct bench_sample sample;
    struct plan plan = plan_at("full", 400, bench_limits(b));
    ck_assert(!bench_prefill(b, &plan, 400, &prompt, &sample, &e)); /* three sequences of 64 */
    ck_assert_str_eq(e.code, "kv_pool_empty");
    ck_assert_ptr_null(prompt.sequence);
    bench_close(b);
    ck_assert_ptr_null(bench_open(&(struct bench_options){.model_path = "no",
                                                          .device = test_device().kind,
                                                          .max_sequences = 1},
                                  &e));
    bench_close(NULL);
}
END_TEST

START_TEST(the_machine_reads_and_multiplies)
{
    struct bench_machine m;
    ck_assert_msg(bench_machine_measure(2, "plain", &m, &e), "%s", e.message);
    ck_assert_uint_eq(m.n_threads, 2);
    ck_assert_str_eq(m.instructions, "plain");
    ck_assert(m.read_bytes > 0 && m.operations > 0 && m.buffer_bytes > 0);
}
END_TEST

/* ---- policies compared */

enum { N_PROMPT = 300, N_STEPS = 20 };

static struct evaluator *open_evaluator(bool no_sharing)
{
    const struct evaluator_options o = {.model_path = MODEL,
                                        .device = test_device().kind,
                                        .n_threads = 1,
                                        .no_sharing = no_sharing};
    struct evaluator *v = evaluator_open(&o, &e);
    ck_assert_msg(v != NULL, "%s", e.message);
    return v;
}

/* A story that the model tells itself, more or less. */
static struct tokens story(const struct evaluator *v)
{
    static const char line[] = "Once upon a time there was a little girl named Lily. She loved to "
                               "play outside in the park with her red ball. ";
    char text[3000] = "";
    struct tokens tokens = {0};
    while (strlen(text) + sizeof line < sizeof text)
        strcat(text, line);
    ck_assert(tokenizer_encode_text(evaluator_tokenizer(v), text, strlen(text), false, true,
                                    &tokens, &e));
    ck_assert_uint_ge(tokens.count, N_PROMPT + N_STEPS);
    return tokens;
}

START_TEST(full_attention_agrees_with_itself_and_what_is_shared_changes_no_bit)
{
    static const char *const policies[] = {"full",      "h2o:64",  "h2o:128",
                                           "snapkv:64", "sink:64", "tova:64"};
    struct evaluate_text_result results[2][6];
    for (int no_sharing = 0; no_sharing < 2; no_sharing++) {
        struct evaluator *v = open_evaluator(no_sharing);
        struct tokens text = story(v);
        struct evaluate_reference reference = {NULL};
        for (int i = 0; i < 6; i++) {
            struct plan plan = plan_at(policies[i], N_PROMPT, evaluator_limits(v));
            ck_assert_msg(evaluate_text(v, &plan, text.data, N_PROMPT, N_STEPS, &reference,
                                        &results[no_sharing][i], &e),
                          "%s", e.message);
        }
        free(reference.logits);
        tokens_free(&text);
        evaluator_close(v);
    }
    const struct evaluate_text_result *full = &results[0][0];
    ck_assert_double_eq_tol(full->agreement, 1, 1e-9);
    ck_assert_double_eq(full->kl, 0);
    ck_assert_double_eq(full->memory.bytes, full->memory.bytes_full);
    for (int i = 0; i < 6; i++) {
        const struct evaluate_text_result *a = &results[0][i], *b = &results[1][i];
        ck_assert_double_eq(a->nll, b->nll);
        ck_assert_double_eq(a->kl, b->kl);
        ck_assert_double_eq(a->memory.slots_kept, b->memory.slots_kept);
        ck_assert_uint_eq(a->memory.tokens_seen, N_PROMPT + N_STEPS - 1);
        if (i > 0)
            ck_assert(a->kl > 0 && a->memory.bytes < a->memory.bytes_full);
    }
}
END_TEST

START_TEST(an_answer_holds_the_fact_that_its_policy_keeps)
{
    struct evaluator *v = open_evaluator(false);
    struct tokens text = story(v);
    struct evaluate_question q = {text.data, N_PROMPT, 2, 100, 105};
    struct evaluate_reply full, sink, again;
    struct plan plan = plan_at("full", N_PROMPT, evaluator_limits(v));
    ck_assert(evaluate_answer(v, &plan, &q, &full, &e));
    ck_assert_double_eq(full.held, 1);
    ck_assert_uint_gt(full.n, 0);
    ck_assert(evaluate_answer(v, &plan, &q, &again, &e));
    ck_assert_uint_eq(full.n, again.n);
    ck_assert_mem_eq(full.tokens, again.tokens, full.n * sizeof *full.tokens);
    plan = plan_at("sink:32", N_PROMPT, evaluator_limits(v));
    ck_assert(evaluate_answer(v, &plan, &q, &sink, &e));
    ck_assert_double_eq(sink.held, 0); /* neither among the first tokens nor the last ones */
    q.fact_first = N_PROMPT - 5;
    q.fact_end = N_PROMPT;
    ck_assert(evaluate_answer(v, &plan, &q, &sink, &e));
    ck_assert_double_eq(sink.held, 1);
    tokens_free(&text);
    evaluator_close(v);
}
END_TEST

struct stream {
    uint32_t n, pages, stop_after;
    uint64_t at;
};

static bool report(void *context, uint64_t n_tokens, double nll, uint32_t pages)
{
    struct stream *s = context;
    ck_assert(isfinite(nll) && nll > 0);
    ck_assert_uint_gt(n_tokens, s->at);
    s->at = n_tokens;
    s->pages = pages > s->pages ? pages : s->pages;
    return ++s->n != s->stop_after;
}

START_TEST(a_stream_far_longer_than_the_context_needs_no_more_pages)
{
    struct evaluator *v = open_evaluator(false);
    struct tokens text = story(v);
    enum { N = 3 * TRAINED };
    int32_t tokens[N];
    for (int i = 0; i < N; i++)
        tokens[i] = text.data[i % N_PROMPT];
    struct plan plan = plan_at("sink:64", 1, evaluator_limits(v));
    struct stream s = {0};
    ck_assert_msg(evaluate_stream(v, &plan, tokens, N, 500, report, &s, &e), "%s", e.message);
    ck_assert_uint_eq(s.n, 4); /* 500, 1000, 1500, 1535: the last token is only predicted */
    ck_assert_uint_eq(s.at, N - 1);
    ck_assert_uint_le(s.pages, 4 * N_HEADS);
    s = (struct stream){.stop_after = 1};
    ck_assert(evaluate_stream(v, &plan, tokens, N, 500, report, &s, &e));
    ck_assert_uint_eq(s.n, 1);
    tokens_free(&text);
    evaluator_close(v);
}
END_TEST

START_TEST(a_prompt_longer_than_the_evaluators_pool_is_refused)
{
    const struct evaluator_options o = {.model_path = MODEL,
                                        .device = test_device().kind,
                                        .n_threads = 1,
                                        .max_tokens = 32,
                                        .storage = STORAGE_Q8};
    struct evaluator *v = evaluator_open(&o, &e);
    ck_assert_msg(v != NULL, "%s", e.message);
    ck_assert_uint_eq(evaluator_model(v)->n_ctx_train, TRAINED);
    ck_assert_ptr_null(evaluator_chat_template(v)); /* the model has none */
    struct tokens text = story(v);
    struct evaluate_reference reference = {NULL};
    struct evaluate_text_result out;
    struct plan plan = plan_at("full", N_PROMPT, evaluator_limits(v));
    ck_assert(!evaluate_text(v, &plan, text.data, N_PROMPT, N_STEPS, &reference, &out, &e));
    ck_assert_str_eq(e.code, "kv_pool_empty");
    ck_assert_ptr_null(reference.logits);
    tokens_free(&text);
    evaluator_close(v);
    evaluator_close(NULL);
    ck_assert_ptr_null(evaluator_open(
        &(struct evaluator_options){.model_path = "no", .device = test_device().kind}, &e));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("measure");
    TCase *t = suite_case(suite, "measure", 180);
    tcase_add_test(t, a_runtime_is_built_in_three_steps_and_freed_after_each);
    tcase_add_test(t, what_is_not_asked_for_has_a_default);
    tcase_add_test(t, a_borrowed_model_outlives_its_runtime);
    tcase_add_test(t, what_cannot_be_opened_is_refused_with_a_code_and_leaves_nothing_behind);
    tcase_add_test(t, pages_follow_the_storage_and_the_memory_that_is_free);
    tcase_add_test(t, a_timed_prompt_can_be_decoded_from_again_and_again);
    tcase_add_test(t, a_pool_that_does_not_fit_is_refused_and_a_smaller_one_taken_after_it);
    tcase_add_test(t, the_machine_reads_and_multiplies);
    tcase_add_test(t, full_attention_agrees_with_itself_and_what_is_shared_changes_no_bit);
    tcase_add_test(t, an_answer_holds_the_fact_that_its_policy_keeps);
    tcase_add_test(t, a_stream_far_longer_than_the_context_needs_no_more_pages);
    tcase_add_test(t, a_prompt_longer_than_the_evaluators_pool_is_refused);
    return suite_run(suite);
}
