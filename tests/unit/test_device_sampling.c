/* Tokens that a device picks are those that the host's sampler picks from the same logits; a
 * request that leaves all to the device gets the tokens that it gets when it asks for log
 * probabilities, which brings its logits to the host; and logits that nobody asked for stay where
 * they are. On the CUDA backend: the emulated device, or a real one. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/serve/engine_private.h"
#include "tests/suite.h"
#include "tests/unit/plan_of_text.h"
#include "tests/unit/test_device.h"
#include "tests/unit/wait.h"

#define MODEL "tests/data/stories260K.gguf"

enum { MOST_TOKENS = 128, MOST_CHOICES = 3, N_REQUESTS = 12, N_HEADS = 20, ROOMY = 4 << 20 };

/* ---- the backend's operation */

static struct model *model;

static void open_cuda(struct backend *b, uint32_t max_logits)
{
    struct error e = {.message = ""};
    const struct device_options o = {
        .max_rows = max_logits, .max_logits = max_logits, .max_slots = 64};
    model = model_open(MODEL, NULL, NULL, &e);
    ck_assert_msg(model != NULL, "%s", e.message);
    ck_assert_msg(device_open(b, test_device_of("cuda").kind, &o, model, &e), "%s", e.message);
}

static struct sampling nth_sampling(uint32_t i)
{
    struct sampling s = {.top_p = 1, .typical_p = 1, .repetition_penalty = 1, .seed = 40 + i};
    s.temperature = i % 6 == 0 ? 0 : 0.3 + 0.2 * (i % 7);
    s.top_k = i % 6 == 2 || i % 6 == 5 ? 1 + (int32_t)i : 0;
    s.top_p = i % 6 == 3 || i % 6 == 5 ? 0.9 : 1;
    s.min_p = i % 6 == 4 ? 0.05 : 0;
    return s;
}

START_TEST(any_number_of_picks_is_the_host_s)
{
    enum { ROWS = 7, PICKS = 600 }; /* more than one launch takes */
    struct backend b;
    struct error e = {.message = ""};
    open_cuda(&b, 300);
    const uint32_t n_vocab = model->n_vocab;
    static float logits[ROWS * 1024];
    static struct token_pick picks[PICKS];
    static int32_t host[PICKS], device[PICKS];
    ck_assert_uint_le(n_vocab, 1024);
    for (uint32_t i = 0; i < ROWS * n_vocab; i++)
        logits[i] = 6 * sinf((float)(i * i % 7919)); /* no two equal where it matters */
    logits[3 * n_vocab + 100] = NAN;
    logits[5 * n_vocab + n_vocab - 1] = INFINITY;
    struct sampler_scratch *scratch = sampler_scratch_new(n_vocab, &e);
    for (uint32_t i = 0; i < PICKS; i++) {
        const struct sampling set = nth_sampling(i % 50);
        struct sampler *s = sampler_new(&set, i % 4, n_vocab, NULL, 0, &e);
        ck_assert(scratch && s && sampler_describe(s, i, &picks[i]));
        uint32_t row = picks[i].row = i * 5 % ROWS;
        host[i] = row == 3 || row == 5
                      ? PICK_NOT_FINITE
                      : sampler_pick(s, scratch, logits + row * n_vocab, NULL, 0, i);
        sampler_free(s);
    }
    float *there = b.alloc(b.self, ROWS * n_vocab, &e);
    ck_assert_ptr_nonnull(there);
    b.upload(b.self, there, logits, ROWS * n_vocab);
    ck_assert_msg(b.pick(b.self, device, there, n_vocab, picks, PICKS, &e), "%s", e.message);
    for (uint32_t i = 0; i < PICKS; i++)
        ck_assert_msg(device[i] == host[i],
                      "pick %u (temperature %g, top_k %d, top_p %g, min_p %g, draw %g): token %d, "
                      "on the host %d",
                      i, picks[i].temperature, picks[i].top_k, picks[i].top_p, picks[i].min_p,
                      picks[i].draw, device[i], host[i]);
    b.free(b.self, there);
    sampler_scratch_free(scratch);
    b.close(b.self);
    model_close(model);
}
END_TEST

START_TEST(what_a_device_cannot_do_is_not_described)
{
    struct logit_bias bias = {5, 1};
    struct sampling sets[6];
    for (uint32_t i = 0; i < 6; i++)
        sets[i] = nth_sampling(1);
    sets[1].bias = &bias;
    sets[1].n_bias = 1;
    sets[2].presence_penalty = 0.1;
    sets[3].frequency_penalty = -0.1;
    sets[4].repetition_penalty = 1.1;
    sets[5].typical_p = 0.9;
    for (uint32_t i = 0; i < 6; i++) {
        struct error e;
        struct token_pick pick;
        struct sampler *s = sampler_new(&sets[i], 2, 100, NULL, 0, &e);
        ck_assert_ptr_nonnull(s);
        ck_assert_msg(sampler_describe(s, 9, &pick) == (i == 0), "settings %u", i);
        if (i == 0)
            ck_assert_double_eq(pick.draw, sampler_uniform(sets[0].seed, 2, 9));
        sampler_free(s);
    }
}
END_TEST

/* ---- the engine, with its backend watched */

static struct backend watched; /* as it was */
static uint64_t n_picked, n_logit_rows;
static sem_t something;

static bool watch_pick(void *self, int32_t *tokens, const float *logits, uint32_t n_vocab,
                       const struct token_pick *picks, uint32_t n, struct error *e)
{
    n_picked += n;
    return watched.pick(self, tokens, logits, n_vocab, picks, n, e);
}

static bool watch_download(void *self, float *to, const float *from, size_t n, struct error *e)
{
    n_logit_rows += n / 512;
    return watched.download(self, to, from, n, e);
}

static struct engine *open_engine(uint64_t kv_memory_bytes)
{
    const struct engine_options o = {.model_path = MODEL,
                                     .n_threads = 1,
                                     .max_num_seqs = 16,
                                     .max_batched_tokens = 64,
                                     .device = test_device_of("cuda"),
                                     .max_queue = 64,
                                     .max_generate = 1000,
                                     .kv_memory_bytes = kv_memory_bytes,
                                     .audit = true};
    struct error e = {.message = ""};
    sem_init(&something, 0, 0);
    struct engine *engine = engine_open(&o, &e);
    ck_assert_msg(engine != NULL, "%s: %s", e.code, e.message);
    ck_assert_uint_eq(engine->runtime.model->n_vocab, 512);
    watched = engine->runtime.backend; /* its thread waits for a first request */
    engine->runtime.backend.pick = watch_pick;
    engine->runtime.backend.download = watch_download;
    n_picked = n_logit_rows = 0;
    return engine;
}

static void notify(void *context)
{
    (void)context;
    sem_post(&something);
}

/* A plain request; n_logprobs 0 sends its logits to the host. */
static struct request_options request(struct engine *engine, uint32_t i, int32_t n_logprobs)
{
    struct request_options r = {.id = "test",
                                .n_prompt = 1 + i * 13 % 40,
                                .sampling = nth_sampling(i),
                                .max_tokens = 6 + i / 2,
                                .n_choices = i == 7 ? MOST_CHOICES : 1,
                                .n_logprobs = n_logprobs,
                                .n_prompt_logprobs = -1,
                                .ignore_eos = true,
                                .notify = notify};
    const struct plan_limits limits = engine_plan_limits(engine);
    r.prompt = malloc(r.n_prompt * sizeof *r.prompt);
    r.prompt[0] = 1;
    for (uint32_t k = 1; k < r.n_prompt; k++)
        r.prompt[k] = (int32_t)(260 + (k + i) * 7919 % 250);
    const char *policy = i % 4 == 1 ? "sink:24" : "full";
    r.plan = held_plan(policy, r.n_prompt, &limits);
    return r;
}

struct answer {
    struct request *g;
    int32_t tokens[MOST_CHOICES][MOST_TOKENS];
    uint32_t n[MOST_CHOICES];
    bool is_done;
    struct error error;
};

static void read_one(struct answer *a)
{
    struct request_event event = request_next(a->g);
    if (event.kind == EVENT_NONE)
        wait_at_most(&something, 500);
    for (uint32_t i = 0; event.kind == EVENT_TEXT && i < event.n_tokens; i++) {
        ck_assert_uint_lt(a->n[event.choice], MOST_TOKENS);
        a->tokens[event.choice][a->n[event.choice]++] = event.tokens[i].token;
    }
    ck_assert_msg(event.kind != EVENT_ERROR, "%s: %s", event.error ? event.error->code : "",
                  event.error ? event.error->message : "");
    a->is_done = event.kind == EVENT_DONE;
}

/* All at once. */
static void ask_all(struct engine *engine, struct request_options *requests, uint32_t n,
                    struct answer *answers)
{
    struct error e = {.message = ""};
    memset(answers, 0, n * sizeof *answers);
    for (uint32_t i = 0; i < n; i++) {
        answers[i].g = engine_submit(engine, &requests[i], &e);
        ck_assert_msg(answers[i].g != NULL, "%s: %s", e.code, e.message);
    }
    for (uint32_t i = 0; i < n; i++) {
        while (!answers[i].is_done)
            read_one(&answers[i]);
        request_release(answers[i].g);
    }
}

static uint32_t n_tokens(const struct answer *a)
{
    uint32_t n = 0;
    for (uint32_t c = 0; c < MOST_CHOICES; c++)
        n += a->n[c];
    return n;
}

static void check_same(const struct answer *a, const struct answer *b, uint32_t request)
{
    for (uint32_t c = 0; c < MOST_CHOICES; c++) {
        ck_assert_uint_eq(a->n[c], b->n[c]);
        for (uint32_t i = 0; i < a->n[c]; i++)
            ck_assert_msg(a->tokens[c][i] == b->tokens[c][i],
                          "request %u, choice %u, token %u: %d and %d", request, c, i,
                          a->tokens[c][i], b->tokens[c][i]);
    }
}

static void ask_plain(struct engine *engine, int32_t n_logprobs, struct answer *answers)
{
    struct request_options requests[N_REQUESTS];
    for (uint32_t i = 0; i < N_REQUESTS; i++)
        requests[i] = request(engine, i, n_logprobs);
    ask_all(engine, requests, N_REQUESTS, answers);
}

static struct answer first[N_REQUESTS], second[N_REQUESTS];

START_TEST(plain_requests_download_tokens_only_and_the_same_ones)
{
    struct engine *engine = open_engine(ROOMY);
    uint64_t n = 0;
    ask_plain(engine, 0, first);
    for (uint32_t i = 0; i < N_REQUESTS; i++)
        n += n_tokens(&first[i]);
    ck_assert_uint_eq(n_picked, 0);
    /* The choices of request 7 have their first token from one row. */
    ck_assert_uint_eq(n_logit_rows, n - (MOST_CHOICES - 1));
    n_logit_rows = 0;
    ask_plain(engine, -1, second);
    ck_assert_uint_eq(n_logit_rows, 0);
    ck_assert_uint_eq(n_picked, n);
    for (uint32_t i = 0; i < N_REQUESTS; i++)
        check_same(&first[i], &second[i], i);
    engine_close(engine);
}
END_TEST

/* What sends request i of a mixed crowd to the host; false: nothing. */
static bool make_special(struct request_options *r, uint32_t i)
{
    switch (i) {
    case 1:
        r->sampling.repetition_penalty = 1.2;
        return true;
    case 2:
        r->sampling.presence_penalty = 0.5;
        return true;
    case 4:
        r->n_logprobs = 3;
        return true;
    case 5:
        r->sampling.bias = malloc(sizeof *r->sampling.bias);
        r->sampling.bias[0] = (struct logit_bias){300, 4};
        r->sampling.n_bias = 1;
        return true;
    case 8:
        r->sampling.typical_p = 0.8;
        return true;
    case 10:
        r->n_prompt_logprobs = 1;
        return true;
    default:
        return false;
    }
}

START_TEST(in_a_mixed_crowd_each_gets_its_own_tokens)
{
    struct engine *engine = open_engine(ROOMY);
    struct request_options requests[N_REQUESTS];
    for (uint32_t i = 0; i < N_REQUESTS; i++) {
        struct request_options alone = request(engine, i, 0);
        make_special(&alone, i);
        ask_all(engine, &alone, 1, &first[i]);
    }
    ck_assert_uint_eq(n_picked, 0);
    uint64_t n_plain = 0;
    for (uint32_t i = 0; i < N_REQUESTS; i++) {
        requests[i] = request(engine, i, -1);
        if (!make_special(&requests[i], i))
            n_plain += n_tokens(&first[i]);
    }
    ask_all(engine, requests, N_REQUESTS, second);
    ck_assert_uint_eq(n_picked, n_plain);
    for (uint32_t i = 0; i < N_REQUESTS; i++)
        check_same(&first[i], &second[i], i);
    engine_close(engine);
}
END_TEST

/* An end token is masked for 3 tokens, so the host picks those, and the device the others. */
START_TEST(a_request_goes_to_the_device_after_its_min_tokens)
{
    struct engine *engine = open_engine(ROOMY);
    struct answer *const both[] = {&first[0], &second[0]};
    for (int32_t round = 0; round < 2; round++) {
        struct request_options r = request(engine, 3, -round);
        r.ignore_eos = false;
        r.min_tokens = 3;
        r.max_tokens = 10;
        ask_all(engine, &r, 1, both[round]);
        ck_assert_uint_gt(n_tokens(both[round]), 3);
    }
    check_same(&first[0], &second[0], 3);
    ck_assert_uint_ge(n_picked, n_tokens(&second[0]) - 3);
    ck_assert_uint_le(n_picked, n_tokens(&second[0]) - 3 + 1); /* the end token is not told */
    engine_close(engine);
}
END_TEST

START_TEST(preempted_requests_get_the_same_tokens)
{
    uint64_t page_bytes = 0;
    for (int round = 0; round < 2; round++) {
        /* 4 pages of 32 tokens a head, for requests of 61 to 89 tokens */
        struct engine *engine = open_engine(round ? page_bytes * N_HEADS * 4 : ROOMY);
        page_bytes = engine_page_bytes(engine);
        struct request_options requests[3];
        for (uint32_t i = 0; i < 3; i++) {
            requests[i] = request(engine, 4 * i + 2, -1);
            requests[i].max_tokens = 50;
        }
        ask_all(engine, requests, 3, round ? second : first);
        uint64_t n = atomic_load(&engine_metrics(engine)->preemptions);
        ck_assert_msg(round ? n > 0 : n == 0, "%llu preemptions", (unsigned long long)n);
        ck_assert_uint_eq(n_picked, 3 * 50); /* also of what was computed again, nothing twice */
        engine_close(engine);
    }
    for (uint32_t i = 0; i < 3; i++)
        check_same(&first[i], &second[i], i);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("device_sampling");
    TCase *tests = suite_case(suite, "device_sampling", 120);
    tcase_add_test(tests, any_number_of_picks_is_the_host_s);
    tcase_add_test(tests, what_a_device_cannot_do_is_not_described);
    tcase_add_test(tests, plain_requests_download_tokens_only_and_the_same_ones);
    tcase_add_test(tests, in_a_mixed_crowd_each_gets_its_own_tokens);
    tcase_add_test(tests, a_request_goes_to_the_device_after_its_min_tokens);
    tcase_add_test(tests, preempted_requests_get_the_same_tokens);
    return suite_run(suite);
}
