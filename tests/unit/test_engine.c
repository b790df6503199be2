/* The engine on a real model with its real thread: what a request gets does not depend on who else
 * is there, nothing is lost, and pages come back. The audit of the cache runs after every step. */
#include <math.h>

#include "config/base/file.h"
#include "engine/model/gguf.h"
#include "engine/serve/request.h"
#include "tests/suite.h"
#include "tests/unit/answers.h"

static const char known_answer[] =
    ", there was a little girl named Lily. She loved to play outside in the park. One day, she saw "
    "a big, red ball. She wanted to play with it, but it was too high.\nLily's mom said, \"Lily, "
    "let's go to the park.\" Lily was sad and didn't know what to do. She said, \"I want to play "
    "with your ball, but I can't find it.\"\nLily was sad and didn't know what to do.";

/* ---- what comes out */

START_TEST(greedy_gives_the_known_answer)
{
    struct engine_options o = options();
    struct engine *engine = open_engine(&o);
    struct request_options r = greedy(engine, "Once upon a time", "full", 200);
    add_stop(&r, "what to do.\n\n"); /* never comes: nothing may be lost by waiting for it */
    struct answer *a = query(engine, &r);
    size_t length = strlen(known_answer);
    ck_assert_msg(strncmp(a->choices[0].text, known_answer, length) == 0, "%s", a->choices[0].text);
    ck_assert_uint_eq(a->usage.completion_tokens, 200);
    ck_assert_int_eq(a->choices[0].finish, FINISH_LENGTH);
    ck_assert(a->usage.exact);
    ck_assert_uint_eq(a->usage.tokens_seen, a->usage.prompt_tokens + 199);
    ck_assert_uint_eq(a->usage.bytes, a->usage.bytes_full);
    drop(a);
    check_empty(engine);
    engine_close(engine);
}
END_TEST

static const char *const policies[4] = {"full", "sink:24", "{\"name\":\"sink\",\"budget\":64}",
                                        "full"};

/* Sixteen different requests: prompts of 1 to 300 tokens, greedy and seeded, full and sink. */
static struct request_options nth_request(struct engine *engine, uint32_t i)
{
    struct request_options r = greedy(engine, "Once upon a time", policies[i % 4], 20 + 9 * i);
    if (i % 3)
        set_prompt(&r, 1 + i * 19);
    if (i % 2) {
        r.sampling.temperature = 0.9;
        r.sampling.top_p = 0.95;
        r.sampling.repetition_penalty = 1.1;
        r.sampling.frequency_penalty = 0.2;
        r.sampling.seed = 1000 + i;
    }
    return r;
}

START_TEST(tokens_are_the_same_alone_and_beside_15_others)
{
    struct engine_options o = options();
    struct engine *engine = open_engine(&o);
    struct answer *alone[16], *beside[16];
    for (uint32_t i = 0; i < 16; i++) {
        struct request_options r = nth_request(engine, i);
        alone[i] = query(engine, &r);
    }
    for (uint32_t i = 0; i < 16; i++) {
        struct request_options r = nth_request(engine, i);
        beside[i] = submit(engine, &r);
    }
    read_all(beside, 16);
    for (uint32_t i = 0; i < 16; i++) {
        ck_assert_msg(beside[i]->done, "%s", beside[i]->error.message);
        check_same(alone[i], 0, beside[i], 0);
        drop(alone[i]);
        drop(beside[i]);
    }
    check_empty(engine);
    engine_close(engine);
}
END_TEST

START_TEST(preempted_requests_get_the_same_tokens)
{
    struct engine_options o = options();
    struct engine *engine = open_engine(&o);
    enum { N = 6 };
    struct answer *roomy[N], *tight[N];
    uint64_t bytes = pages_bytes(engine, 17 * 20); /* 544 tokens of full cache, for seven of ~230 */
    for (int round = 0; round < 2; round++) {
        struct answer **answers = round ? tight : roomy;
        for (uint32_t i = 0; i < N; i++) {
            struct request_options r = greedy(engine, "Once upon a time", "full", 200 + 10 * i);
            r.ignore_eos = true;
            r.n_logprobs = 2;
            if (i % 2) {
                r.sampling.temperature = 1;
                r.sampling.presence_penalty = 0.3;
                r.sampling.seed = i;
            }
            r.n_choices = i == 3 ? 2 : 1;
            answers[i] = submit(engine, &r);
        }
        read_all(answers, N);
        uint64_t n = atomic_load(&engine_metrics(engine)->preemptions);
        ck_assert_msg(round ? n > 0 : n == 0, "%llu preemptions", (unsigned long long)n);
        check_empty(engine);
        if (round == 0) {
            engine_close(engine);
            o.kv_memory_bytes = bytes;
            engine = open_engine(&o);
        }
    }
    for (uint32_t i = 0; i < N; i++) {
        ck_assert_msg(tight[i]->done, "%s", tight[i]->error.message);
        for (uint32_t c = 0; c < (i == 3 ? 2 : 1); c++) {
            check_same(roomy[i], c, tight[i], c);
            ck_assert_uint_eq(tight[i]->choices[c].n_tokens, 200 + 10 * i);
            for (size_t t = 0; t < roomy[i]->choices[c].n_tokens; t++)
                ck_assert(test_same_logprob(roomy[i]->choices[c].logprobs[t],
                                            tight[i]->choices[c].logprobs[t]));
        }
        drop(roomy[i]); /* its engine is closed already */
        drop(tight[i]);
    }
    engine_close(engine);
}
END_TEST

START_TEST(choices_share_the_prompt_and_differ)
{
    struct engine_options o = options();
    struct engine *engine = open_engine(&o);
    struct answer *answers[2];
    for (int round = 0; round < 2; round++) {
        struct request_options r = greedy(engine, "x", "full", 30);
        set_prompt(&r, 320);
        r.sampling.temperature = 1;
        r.sampling.seed = 77;
        r.n_choices = 4;
        answers[round] = submit(engine, &r);
        read_until(answers[round], EVENT_TEXT);
        uint32_t pages = 0; /* 10 pages a head for the prompt, and then one for each choice */
        struct engine_snapshot s;
        ck_assert(engine_snapshot(engine, &s, NULL));
        pages = s.pages_used;
        engine_snapshot_clear(&s);
        ck_assert_uint_le(pages, (10 + 4) * 20);
        read_all(&answers[round], 1);
    }
    for (uint32_t c = 0; c < 4; c++) {
        check_same(answers[0], c, answers[1], c);
        for (uint32_t d = 0; d < c; d++)
            ck_assert_str_ne(answers[0]->choices[c].text, answers[0]->choices[d].text);
    }
    ck_assert_uint_eq(answers[0]->usage.completion_tokens, 120);
    drop(answers[0]);
    drop(answers[1]);
    check_empty(engine);
    engine_close(engine);
}
END_TEST

/* Every text of an event is complete by its tokens, and the tokens' bytes are the text. */
START_TEST(the_tokens_of_an_answer_spell_its_text)
{
    struct engine_options o = options();
    struct engine *engine = open_engine(&o);
    struct request_options r = greedy(engine, "Once upon a time", "full", 60);
    r.n_logprobs = 3;
    r.sampling.temperature = 2; /* byte tokens and broken characters come up */
    r.sampling.seed = 5;
    struct answer *a = submit(engine, &r);
    while (!a->done) {
        struct request_event event = request_next(a->g);
        for (uint32_t i = 0; i < event.n_tokens; i++) {
            const struct event_token *token = &event.tokens[i];
            ck_assert(token->n_top == 3 || token->n_top == 4);
            ck_assert(isfinite(token->logprob) && token->logprob <= 0);
            bool listed = false;
            for (uint32_t t = 0; t < token->n_top; t++)
                listed |=
                    token->top[t].token == token->token && token->top[t].logprob == token->logprob;
            ck_assert_msg(listed, "token %d is not in its own list", token->token);
        }
        keep(a, &event);
        if (event.kind == EVENT_NONE)
            wait_a_little();
    }
    size_t length;
    char *text = tokenizer_decode(engine_tokenizer(engine), a->choices[0].tokens,
                                  a->choices[0].n_tokens, false, false, &length);
    ck_assert_uint_ge(a->choices[0].n_tokens + 1, a->usage.completion_tokens);
    if (memchr(a->choices[0].text, '\xEF', a->choices[0].n_text) == NULL) /* no U+FFFD */
        ck_assert_str_eq(text, a->choices[0].text);
    free(text);
    drop(a);
    engine_close(engine);
}
END_TEST

/* ---- how it ends */

START_TEST(a_stop_string_ends_the_text_before_it)
{
    struct engine_options o = options();
    struct engine *engine = open_engine(&o);
    const struct {
        const char *stop, *expected;
        bool include;
        uint32_t min_tokens;
    } cases[] = {
        {"outside in the", ", there was a little girl named Lily. She loved to play ", false, 0},
        {"de in th", ", there was a little girl named Lily. She loved to play outside in th", true,
         0},
        {",", "", false, 0},
        {"Lily", NULL, false, 60}, /* the first ones are too early */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct request_options r = greedy(engine, "Once upon a time", "full", 200);
        add_stop(&r, "xyz");
        add_stop(&r, cases[i].stop);
        r.include_stop_string = cases[i].include;
        r.min_tokens = cases[i].min_tokens;
        struct answer *a = query(engine, &r);
        const char *text = a->choices[0].text ? a->choices[0].text : "";
        ck_assert_int_eq(a->choices[0].finish, FINISH_STOP);
        ck_assert_int_eq(a->choices[0].stop_string, 1);
        if (cases[i].expected) {
            ck_assert_str_eq(text, cases[i].expected);
        } else {
            ck_assert_uint_gt(a->usage.completion_tokens, 60);
            ck_assert_ptr_nonnull(strstr(text, "Lily"));
            ck_assert_int_eq(strncmp(text, known_answer, strlen(text)), 0);
            ck_assert_int_eq(strncmp(known_answer + strlen(text), "Lily", 4), 0);
        }
        drop(a);
    }
    check_empty(engine);
    engine_close(engine);
}
END_TEST

START_TEST(stop_tokens_end_it_and_min_tokens_masks_them)
{
    struct engine_options o = options();
    struct engine *engine = open_engine(&o);
    struct request_options r = greedy(engine, "Once upon a time", "full", 40);
    struct answer *whole = query(engine, &r);
    int32_t fifth = whole->choices[0].tokens[4];
    uint32_t first_place = 0; /* it may have come before */
    while (whole->choices[0].tokens[first_place] != fifth)
        first_place++;
    for (uint32_t min_tokens = 0; min_tokens <= 20; min_tokens += 20) {
        r = greedy(engine, "Once upon a time", "full", 40);
        r.stop_tokens = malloc(sizeof *r.stop_tokens);
        r.stop_tokens[0] = fifth;
        r.n_stop_tokens = 1;
        r.min_tokens = min_tokens;
        struct answer *a = query(engine, &r);
        if (min_tokens == 0) {
            ck_assert_int_eq(a->choices[0].finish, FINISH_STOP);
            ck_assert_int_eq(a->choices[0].stop_token, fifth);
            ck_assert_uint_eq(a->choices[0].n_tokens, first_place);
            ck_assert_uint_eq(a->usage.completion_tokens, first_place + 1);
        } else {
            ck_assert_uint_ge(a->choices[0].n_tokens, 20);
            for (uint32_t i = 0; i < 20; i++)
                ck_assert_int_ne(a->choices[0].tokens[i], fifth);
        }
        drop(a);
    }
    drop(whole);
    engine_close(engine);
}
END_TEST

START_TEST(a_full_context_ends_by_length)
{
    struct engine_options o = options();
    struct engine *engine = open_engine(&o);
    for (uint32_t n_prompt = 500; n_prompt <= 512; n_prompt += 6) {
        struct request_options r = greedy(engine, "x", "full", -1);
        set_prompt(&r, n_prompt);
        r.ignore_eos = true;
        struct answer *a = query(engine, &r);
        ck_assert_int_eq(a->choices[0].finish, FINISH_LENGTH);
        ck_assert_uint_eq(a->usage.completion_tokens, n_prompt == 512 ? 1 : 512 - n_prompt);
        drop(a);
    }
    struct request_options r = greedy(engine, "x", "full", 1);
    set_prompt(&r, 513);
    struct error e = refuse_request(engine, &r, "context_length_exceeded", NULL);
    ck_assert_int_eq(e.n_prompt_tokens, 513);
    ck_assert_int_eq(e.n_ctx, 512);
    /* Cache-relative positions go on beyond it. */
    r = greedy(engine, "x", "sink:32", 700);
    set_prompt(&r, 600);
    r.ignore_eos = true;
    struct answer *a = query(engine, &r);
    ck_assert_uint_eq(a->usage.completion_tokens, 700);
    ck_assert_uint_eq(a->usage.tokens_seen, 1299);
    ck_assert(!a->usage.exact);
    ck_assert_uint_le(a->usage.pages, 2 * 20);
    drop(a);
    check_empty(engine);
    engine_close(engine);
}
END_TEST

START_TEST(max_tokens_0_tells_the_prompt_only)
{
    struct engine_options o = options();
    o.max_batched_tokens = 32;
    struct engine *engine = open_engine(&o);
    /* A text, and then the same text as a prompt: its log probabilities must be those with which
     * it was generated, to the bit. */
    struct request_options r = greedy(engine, "Once upon a time", "full", 90);
    uint32_t n_prompt = r.n_prompt;
    int32_t all[512];
    memcpy(all, r.prompt, n_prompt * sizeof *all);
    r.n_logprobs = 0;
    r.ignore_eos = true;
    struct answer *written = query(engine, &r);
    memcpy(all + n_prompt, written->choices[0].tokens, 90 * sizeof *all);

    struct request_options others = greedy(engine, "x", "full", 60);
    struct answer *other = submit(engine, &others); /* logit rows are shared with it */
    r = greedy(engine, "x", "full", 0);
    free(r.prompt);
    r.n_prompt = n_prompt + 90;
    r.prompt = malloc(r.n_prompt * sizeof *r.prompt);
    memcpy(r.prompt, all, r.n_prompt * sizeof *r.prompt);
    r.n_prompt_logprobs = 5;
    r.n_choices = 2;
    struct answer *read = query(engine, &r);
    ck_assert_uint_eq(read->n_prompt_logprobs, n_prompt + 90);
    ck_assert(isnan(read->prompt_logprobs[0]));
    for (uint32_t i = 0; i < 90; i++)
        ck_assert_msg(
            test_same_logprob(read->prompt_logprobs[n_prompt + i], written->choices[0].logprobs[i]),
            "token %u: %g and %g", i, (double)read->prompt_logprobs[n_prompt + i],
            (double)written->choices[0].logprobs[i]);
    ck_assert_uint_eq(read->usage.completion_tokens, 0);
    for (int c = 0; c < 2; c++) {
        ck_assert_int_eq(read->choices[c].finish, FINISH_LENGTH);
        ck_assert_uint_eq(read->choices[c].n_tokens, 0);
    }
    read_all(&other, 1);
    drop(other);
    drop(written);
    drop(read);
    check_empty(engine);
    engine_close(engine);
}
END_TEST

START_TEST(progress_and_trace_are_told)
{
    struct engine_options o = options();
    struct engine *engine = open_engine(&o);
    struct request_options r =
        greedy(engine, "x", "{\"name\":\"sink\",\"budget\":16,\"trace\":true}", 5);
    set_prompt(&r, 200);
    r.progress = true;
    r.ignore_eos = true;
    struct answer *a = query(engine, &r);
    ck_assert_uint_eq(a->n_progress, 4); /* 64 + 64 + 64 + 8 */
    ck_assert_ptr_nonnull(a->trace);
    json_t *trace = json_loads(a->trace, 0, NULL);
    ck_assert_msg(trace != NULL, "%s", a->trace);
    ck_assert_uint_eq(json_array_size(trace), 5);
    for (size_t l = 0; l < 5; l++) {
        ck_assert_uint_eq(json_array_size(json_array_get(trace, l)), 4);
        for (size_t h = 0; h < 4; h++) {
            json_t *ranges = json_array_get(json_array_get(trace, l), h);
            json_int_t kept = 0, last = -1;
            for (size_t i = 0; i < json_array_size(ranges); i++) {
                json_t *range = json_array_get(ranges, i);
                json_int_t from = json_integer_value(json_array_get(range, 0));
                ck_assert_int_gt(from, last);
                last = json_integer_value(json_array_get(range, 1));
                ck_assert_int_ge(last, from);
                kept += last - from + 1;
            }
            ck_assert_int_eq(kept, (json_int_t)a->usage.slots_kept);
            ck_assert_int_eq(last, 203);
        }
    }
    json_decref(trace);
    drop(a);
    engine_close(engine);
}
END_TEST

/* ---- who leaves */

START_TEST(a_cancelled_request_gives_its_pages_back_within_a_step)
{
    struct engine_options o = options();
    o.max_num_seqs = 1;
    struct engine *engine = open_engine(&o);
    /* Each would run for minutes: 2,000,000 tokens of prompt, or of text. */
    for (int phase = 0; phase < 3; phase++) {
        struct request_options r = greedy(engine, "x", "sink:64", 2000000);
        r.ignore_eos = true;
        r.progress = true;
        if (phase == 1)
            set_prompt(&r, 2000000);
        struct answer *running = submit(engine, &r);
        read_until(running, phase == 1 ? EVENT_PROGRESS : EVENT_TEXT);
        struct answer *a = running, *queued = NULL;
        if (phase == 0) {
            r = greedy(engine, "y", "full", 5);
            queued = a = submit(engine, &r);
        }
        static const char *const names[] = {"queued", "prefill", "decode"};
        ck_assert_str_eq(request_phase(a->g), names[phase]);
        request_cancel(a->g, true);
        uint64_t before = n_steps(engine);
        read_all(&a, 1);
        if (!queued) /* nobody else runs: only the step that was under way */
            ck_assert_uint_le(n_steps(engine) - before, 1);
        ck_assert(a->done);
        ck_assert_uint_eq(atomic_load(&engine_metrics(engine)->disconnects[phase]), 1);
        if (queued) {
            ck_assert(!queued->choices[0].ended);
            drop(queued);
        } else {
            ck_assert_int_eq(running->choices[0].finish, FINISH_ABORT);
        }
        drop(running); /* of phase 0: still running, released without a cancel */
        check_empty(engine);
    }
    engine_close(engine);
}
END_TEST

START_TEST(deadlines_end_a_request_wherever_it_is)
{
    struct engine_options o = options();
    o.max_num_seqs = 1;
    struct engine *engine = open_engine(&o);
    struct request_options r = greedy(engine, "x", "sink:64", 2000000);
    r.ignore_eos = true;
    r.timeout_ms = 150;
    struct answer *answers[2] = {submit(engine, &r), NULL};
    r = greedy(engine, "y", "full", 5);
    r.timeout_ms = 50; /* in the queue */
    answers[1] = submit(engine, &r);
    read_all(answers, 2);
    for (int i = 0; i < 2; i++) {
        ck_assert(answers[i]->failed);
        ck_assert_str_eq(answers[i]->error.code, "deadline_exceeded");
        ck_assert_int_eq(answers[i]->error.completion_tokens > 0, i == 0);
        drop(answers[i]);
    }
    check_empty(engine);
    engine_close(engine);
}
END_TEST

START_TEST(a_full_queue_refuses_and_an_old_place_in_it_expires)
{
    struct engine_options o = options();
    o.max_num_seqs = 1;
    o.max_queue = 2;
    o.queue_timeout_ms = 100;
    struct engine *engine = open_engine(&o);
    struct request_options r = greedy(engine, "x", "sink:64", 2000000);
    r.ignore_eos = true;
    struct answer *running = submit(engine, &r), *waiting[2];
    read_until(running, EVENT_TEXT);
    for (int i = 0; i < 2; i++) {
        r = greedy(engine, "y", "full", 5);
        waiting[i] = submit(engine, &r);
    }
    r = greedy(engine, "z", "full", 5);
    struct error e = refuse_request(engine, &r, "queue_full", NULL);
    ck_assert_ptr_null(r.prompt); /* it was taken over all the same */
    ck_assert_int_eq(e.queue_length, 2);
    ck_assert_int_ge(e.retry_after_ms, 1000);
    ck_assert_int_le(e.retry_after_ms, 60000);
    read_all(waiting, 2);
    for (int i = 0; i < 2; i++) {
        ck_assert_str_eq(waiting[i]->error.code, "queue_timeout");
        drop(waiting[i]);
    }
    drop(running);
    check_empty(engine);
    engine_close(engine);
}
END_TEST

START_TEST(a_slow_reader_pauses_itself_and_loses_nothing)
{
    struct engine_options o = options();
    o.audit = false; /* some thousands of steps */
    struct engine *engine = open_engine(&o);
    struct request_options r = greedy(engine, "Once upon a time", "sink:32", 4000);
    r.ignore_eos = true;
    r.n_logprobs = 20; /* makes the events fat: 256 KiB are some 600 tokens */
    struct answer *slow = submit(engine, &r);
    while (strcmp(request_phase(slow->g), "paused") != 0)
        usleep(1000);
    size_t waiting = request_waiting_bytes(slow->g);
    ck_assert_uint_ge(waiting, 256 * 1024);
    ck_assert_uint_lt(waiting, 260 * 1024);
    /* Others go on. */
    r = greedy(engine, "Once upon a time", "full", 50);
    struct answer *other = query(engine, &r);
    ck_assert_uint_eq(request_waiting_bytes(slow->g), waiting);
    ck_assert_uint_eq(atomic_load(&engine_metrics(engine)->requests_paused), 1);
    read_all(&slow, 1);
    ck_assert_uint_eq(slow->choices[0].n_tokens, 4000);
    r = greedy(engine, "Once upon a time", "sink:32", 4000);
    r.ignore_eos = true;
    struct answer *fast = query(engine, &r);
    check_same(slow, 0, fast, 0);
    drop(slow);
    drop(fast);
    drop(other);
    check_empty(engine);
    engine_close(engine);
}
END_TEST

/* A prompt that has begun to be read. */
static struct answer *read_for_minutes(struct engine *engine)
{
    struct request_options r = greedy(engine, "x", "sink:64", 10);
    set_prompt(&r, 2000000);
    r.progress = true;
    struct answer *reading = submit(engine, &r);
    read_until(reading, EVENT_PROGRESS);
    return reading;
}

START_TEST(a_stream_goes_on_beside_a_long_prompt)
{
    struct engine_options o = options();
    o.audit = false;
    struct engine *engine = open_engine(&o);
    struct answer *reading = read_for_minutes(engine);
    struct request_options r = greedy(engine, "Once upon a time", "full", 100);
    struct answer *writing = query(engine, &r);
    ck_assert_int_eq(strncmp(writing->choices[0].text, known_answer, 150), 0);
    ck_assert_str_eq(request_phase(reading->g), "prefill");
    drop(writing);
    drop(reading);
    check_empty(engine);
    engine_close(engine);
}
END_TEST

/* Prompts are read by the rules of scheduler.c: all of these wait while a first one is read. */
START_TEST(equal_prompts_are_read_one_after_the_other_and_short_ones_first)
{
    static const uint32_t lengths[] = {600, 600, 600, 70};
    struct engine_options o = options();
    o.audit = false;
    struct engine *engine = open_engine(&o);
    struct answer *reading = read_for_minutes(engine), *answers[4];
    for (int i = 0; i < 4; i++) {
        struct request_options r = greedy(engine, "x", "sink:64", 1);
        set_prompt(&r, lengths[i]);
        r.prompt[1] = 300 + i; /* nothing is shared */
        answers[i] = submit(engine, &r);
    }
    read_all(answers, 4);
    uint64_t at[4];
    for (int i = 0; i < 4; i++) {
        at[i] = answers[i]->g->first_token_ns - answers[0]->g->admitted_ns;
        ck_assert_msg(!answers[i]->failed, "%s", answers[i]->error.message);
    }
    ck_assert_uint_lt(at[3], at[0]);
    ck_assert_uint_lt(at[0], at[1]);
    ck_assert_uint_lt(at[1], at[2]);
    /* The second took about as long as the first, and not all three the time of all. */
    ck_assert_uint_lt(3 * at[0], 2 * at[2]);
    ck_assert_str_eq(request_phase(reading->g), "prefill");
    for (int i = 0; i < 4; i++)
        drop(answers[i]);
    drop(reading);
    check_empty(engine);
    engine_close(engine);
}
END_TEST

/* A copy of the model in which the vector of token 400 is not a number. */
static void write_broken_model(const char *path)
{
    struct error e;
    size_t n;
    struct file_wanted w = {.path = MODEL, .what = "the model", .most = SIZE_MAX};
    char *bytes = file_read(&w, &n, &e);
    ck_assert_ptr_nonnull(bytes);
    struct model_source *g = gguf_open_memory(bytes, n, &e);
    ck_assert_ptr_nonnull(g);
    const struct source_tensor *t = source_tensor(g, "token_embd.weight");
    ck_assert_ptr_nonnull(t);
    size_t offset = (size_t)((const char *)t->data - bytes) + 400 * t->shape[0] * sizeof(float);
    source_close(g);
    memset(bytes + offset, 0xFF, sizeof(float));
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(bytes, 1, n, file), n);
    fclose(file);
    free(bytes);
}

START_TEST(a_number_gone_wrong_fails_its_own_request_only)
{
    char path[] = "/tmp/winnow-engine-XXXXXX";
    int descriptor = mkstemp(path);
    ck_assert_int_ge(descriptor, 0);
    close(descriptor);
    write_broken_model(path);
    struct engine_options o = options();
    o.model_path = path;
    struct engine *engine = open_engine(&o);
    unlink(path);
    struct answer *answers[3];
    for (uint32_t i = 0; i < 3; i++) {
        struct request_options r = greedy(engine, "Once upon a time", "full", 60);
        if (i == 1)
            r.prompt[r.n_prompt - 1] = 400;
        answers[i] = submit(engine, &r);
    }
    read_all(answers, 3);
    for (uint32_t i = 0; i < 3; i++) {
        if (i == 1) {
            ck_assert_str_eq(answers[i]->error.code, "engine_fault");
        } else {
            ck_assert(answers[i]->done);
            ck_assert_uint_eq(answers[i]->usage.completion_tokens, 60);
            ck_assert_int_eq(strncmp(answers[i]->choices[0].text, known_answer, 100), 0);
        }
        drop(answers[i]);
    }
    ck_assert(engine_alive(engine));
    check_empty(engine);
    engine_close(engine);
}
END_TEST

START_TEST(closing_ends_what_still_lives)
{
    struct engine_options o = options();
    o.max_num_seqs = 2;
    struct engine *engine = open_engine(&o);
    struct answer *answers[5];
    for (int i = 0; i < 5; i++) {
        struct request_options r = greedy(engine, "x", "sink:64", 2000000);
        r.ignore_eos = true;
        answers[i] = submit(engine, &r);
    }
    read_until(answers[0], EVENT_TEXT);
    drop(answers[4]);
    engine_close(engine);
    for (int i = 0; i < 4; i++) {
        read_all(&answers[i], 1);
        ck_assert_str_eq(answers[i]->error.code, "engine_stopped");
        request_cancel(answers[i]->g, true);
        drop(answers[i]);
    }
}
END_TEST

/* ---- memory */

START_TEST(what_can_never_fit_is_refused_with_the_numbers)
{
    struct engine_options o = options();
    struct engine *engine = open_engine(&o);
    o.kv_memory_bytes = pages_bytes(engine, 3 * 20 + 5);
    engine_close(engine);
    engine = open_engine(&o);
    ck_assert_uint_eq(engine_n_pages(engine), 65);
    struct request_options r = greedy(engine, "x", "full", 1);
    set_prompt(&r, 96); /* 97 slots: 4 pages for each of 20 heads */
    struct error e = refuse_request(engine, &r, "kv_memory_exceeded", NULL);
    ck_assert_int_eq(e.needed_pages, 80);
    ck_assert_int_eq(e.pool_pages, 65);
    ck_assert_int_gt(e.largest_budget_that_fits, 0);
    /* The number is true: that budget is taken, one more is not. */
    char policy[64];
    for (int more = 0; more < 2; more++) {
        snprintf(policy, sizeof policy, "sink:%d", (int)e.largest_budget_that_fits + more);
        r = greedy(engine, "x", policy, 300);
        set_prompt(&r, 96);
        struct error again;
        struct request *g = engine_submit(engine, &r, &again);
        ck_assert_int_eq(g == NULL, more);
        request_release(g);
    }
    /* A growing request that comes to the end of the pool alone ends there. */
    r = greedy(engine, "Once upon a time", "full", 200);
    r.ignore_eos = true;
    struct answer *a = query(engine, &r);
    ck_assert_int_eq(a->choices[0].finish, FINISH_LENGTH);
    ck_assert_uint_eq(a->usage.tokens_seen, 96);
    ck_assert_int_eq(strncmp(a->choices[0].text, known_answer, 150), 0);
    drop(a);
    check_empty(engine);
    engine_close(engine);
}
END_TEST

START_TEST(bad_options_and_requests_are_refused_with_a_sentence)
{
    struct engine_options o = options();
    o.n_ctx = 513;
    refuse_engine(&o, "invalid_value", NULL);
    o = options();
    o.kv_memory_bytes = 4096;
    refuse_engine(&o, "out_of_memory", NULL);
    o = options();
    o.max_batched_tokens = 8;
    refuse_engine(&o, NULL, NULL);
    o = options();
    o.model_path = "tests/data/no-such-file.gguf";
    refuse_engine(&o, NULL, NULL);
    o = options();
    o.chat_template = "/no/such/template";
    refuse_engine(&o, "file_not_found", NULL);

    o = options();
    struct engine *engine = open_engine(&o);
    struct request_options r = greedy(engine, "x", "full", 1);
    r.prompt[0] = 512;
    refuse_request(engine, &r, "invalid_value", NULL);
    r = greedy(engine, "x", "full", 1);
    r.n_choices = 17;
    refuse_request(engine, &r, "invalid_value", NULL);
    engine_close(engine);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("engine");
    TCase *t = suite_case(suite, "engine", 120);
    tcase_add_test(t, greedy_gives_the_known_answer);
    tcase_add_test(t, tokens_are_the_same_alone_and_beside_15_others);
    tcase_add_test(t, preempted_requests_get_the_same_tokens);
    tcase_add_test(t, choices_share_the_prompt_and_differ);
    tcase_add_test(t, the_tokens_of_an_answer_spell_its_text);
    tcase_add_test(t, a_stop_string_ends_the_text_before_it);
    tcase_add_test(t, stop_tokens_end_it_and_min_tokens_masks_them);
    tcase_add_test(t, a_full_context_ends_by_length);
    tcase_add_test(t, max_tokens_0_tells_the_prompt_only);
    tcase_add_test(t, progress_and_trace_are_told);
    tcase_add_test(t, a_cancelled_request_gives_its_pages_back_within_a_step);
    tcase_add_test(t, deadlines_end_a_request_wherever_it_is);
    tcase_add_test(t, a_full_queue_refuses_and_an_old_place_in_it_expires);
    tcase_add_test(t, a_slow_reader_pauses_itself_and_loses_nothing);
    tcase_add_test(t, a_stream_goes_on_beside_a_long_prompt);
    tcase_add_test(t, equal_prompts_are_read_one_after_the_other_and_short_ones_first);
    tcase_add_test(t, a_number_gone_wrong_fails_its_own_request_only);
    tcase_add_test(t, closing_ends_what_still_lives);
    tcase_add_test(t, what_can_never_fit_is_refused_with_the_numbers);
    tcase_add_test(t, bad_options_and_requests_are_refused_with_a_sentence);
    return suite_run(suite);
}
