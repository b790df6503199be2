/* The seven properties of cache/POLICIES.md for every preset and some combinations, on a real
 * model: the engine's cache and kernels against the reference of tests/reference, step by step
 * with the same tokens. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/compute/forward.h"
#include "engine/text/tokenizer.h"
#include "tests/reference/transformer.h"
#include "tests/suite.h"
#include "tests/unit/plan_of_text.h"
#include "tests/unit/test_device.h"

#define MODEL    "tests/data/stories260K.gguf"
#define LAYERS   5
#define KV_HEADS 4
#define PROMPT   300
#define STEPS    32
#define BUDGET   64
#define MOST     512

static const char story[] =
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball. She wanted to play with it, but it was too high. Lily's mom "
    "said, \"Lily, let's go to the park.\" Tom was a boy who had a small dog named Max. Max liked "
    "to "
    "run and jump in the grass. One day Max saw a cat. The cat was on a tree. Max barked at the "
    "cat, but the cat did not come down. Tom said, \"Max, stop! The cat is scared.\" Then Lily "
    "came "
    "to the park. She saw Tom and Max and the cat. \"Can I help you?\" she said. Tom said, \"Yes, "
    "please! The cat is stuck in the tree.\" Lily went home and told her mom. Her mom came with a "
    "long ladder. She climbed up and took the cat in her arms. The cat was happy. Tom and Lily "
    "said thank you and they all played together until the sun went down. They were good friends.";

/* Plans without {"name": "sink"}, whose cache-relative positions test_reference.c checks. */
static const char *const plans[] = {
    "{\"name\":\"full\"}",
    "{\"name\":\"h2o\",\"budget\":64}",
    "{\"name\":\"snapkv\",\"budget\":64}",
    "{\"name\":\"razor\",\"min_window\":40}",
    "{\"name\":\"duo\",\"sinks\":4,\"recent\":60}",
    "{\"name\":\"tova\",\"budget\":64}",
    "{\"name\":\"scissorhands\",\"budget\":64}",
    "{\"name\":\"pyramidkv\",\"budget\":64}",
    "{\"name\":\"adakv\",\"budget\":64}",
    "{\"name\":\"knorm\",\"budget\":64}",
    "{\"name\":\"keydiff\",\"budget\":64}",
    "{\"name\":\"random\",\"budget\":64,\"seed\":-9}",
    "{\"name\":\"sink\",\"budget\":64,\"positions\":\"original\"}",
    "{\"name\":\"snapkv\",\"budget\":64,\"decode\":\"evict\",\"pool\":\"max\",\"kernel\":3}",
    "{\"name\":\"h2o\",\"budget\":64,\"remnant\":\"mean\"}",
    "{\"name\":\"snapkv\",\"budget\":48,\"window\":8,\"remnant\":\"mean\",\"pool\":\"none\"}",
    "{\"name\":\"snapkv\",\"budget\":64,\"pool\":\"avg\"}",
    "{\"name\":\"tova\",\"budget\":64,\"share\":\"head\"}",
    "{\"name\":\"keydiff\",\"budget\":64,\"share\":\"layer\",\"interval\":5}",
    "{\"name\":\"adakv\",\"budget\":64,\"allocation\":\"adaptive_floor\"}",
    "{\"name\":\"pyramidkv\",\"budget\":190}",
    "{\"name\":\"duo\",\"sinks\":4,\"recent\":60,\"prefill\":\"full\"}",
    "{\"name\":\"h2o\",\"budget\":64,\"scorer\":\"attention_mean\",\"interval\":7}",
    "{\"name\":\"h2o\",\"budget\":64,\"recent\":20,\"scorer\":\"recency\"}",
    "{\"name\":\"adakv\",\"budget\":64,\"decode\":\"evict\",\"scorer\":\"key_norm\",\"recent\":16}",
    "{\"name\":\"pyramidkv\",\"budget\":64,\"decode\":\"evict\",\"scorer\":\"persistence\","
    "\"recent\":9}",
    "{\"name\":\"razor\",\"budget\":0.5,\"scorer\":\"attention_sum\"}",
    "{\"name\":\"compresskv\",\"budget\":64}",
    "{\"name\":\"compresskv\",\"budget\":64,\"decode\":\"evict\",\"sinks\":4,\"interval\":3}",
    "{\"name\":\"snapkv\",\"budget\":40,\"allocation\":\"profile\",\"window\":8,\"pool\":\"max\","
    "\"remnant\":\"mean\"}",
};
enum { N_PLANS = sizeof plans / sizeof *plans };

/* ---- what all tests use */

static struct model *model;
static struct head_profile profile;
static bool whole[LAYERS * KV_HEADS];
static double retrieval[LAYERS] = {0.1, 0.4, 0.02, 0.2, 0};
static int32_t text[MOST];
static uint32_t n_text;

static void open_model(void)
{
    struct error e = {.message = ""};
    struct tokens tokens = {0};
    model = model_open(MODEL, NULL, NULL, &e);
    ck_assert_msg(model != NULL, "%s", e.message);
    struct tokenizer *tokenizer = tokenizer_new(model->source, &e);
    ck_assert(tokenizer &&
              tokenizer_encode_text(tokenizer, story, sizeof story - 1, false, true, &tokens, &e));
    n_text = tokens.count < MOST ? (uint32_t)tokens.count : MOST;
    ck_assert_uint_ge(n_text, PROMPT + STEPS);
    memcpy(text, tokens.data, n_text * sizeof *text);
    tokens_free(&tokens);
    tokenizer_free(tokenizer);
    for (uint32_t i = 0; i < LAYERS * KV_HEADS; i++)
        whole[i] = i % 5 == 2 || i == 3; /* layers have 2, 1, 0, 1 and 0 */
    whole[17] = false;
    profile = (struct head_profile){
        .n_layers = LAYERS, .n_kv_heads = KV_HEADS, .whole = whole, .retrieval = retrieval};
}

static void close_model(void)
{
    model_close(model);
}

static struct plan resolve(const char *json, uint32_t n_prompt)
{
    struct plan_limits limits = {.n_ctx_train = MOST, .profile = &profile};
    return plan_of_text(json, n_prompt, &limits);
}

/* ---- the engine's lower half, without its thread */

struct machine {
    struct backend backend;
    struct cache *cache;
    struct batch *batch;
    struct forward *forward;
};

static int32_t position_of(void *context, uint32_t page, uint32_t index)
{
    const struct machine *m = context;
    return m->backend.kv_read(m->backend.self, page, index, model->head_dim, NULL, NULL);
}

static void machine_open(struct machine *m, uint32_t n_pages, uint32_t n_rows)
{
    struct error e = {.message = ""};
    memset(m, 0, sizeof *m);
    test_device_open(&m->backend, model, NULL, 1, n_rows, MOST);
    ck_assert(m->backend.kv_alloc(m->backend.self, n_pages, model->head_dim, &e));
    m->cache = cache_new(model->n_layers, model->n_kv_heads, model->head_dim, n_pages, &e);
    cache_set_memory(m->cache, m->backend.state_memory);
    cache_set_profile(m->cache, &profile);
    cache_set_reader(m->cache, position_of, m);
    m->batch = batch_new(m->cache, model, n_rows, n_rows, &e);
    m->forward = forward_new(&m->backend, model, n_rows, n_rows, &e);
    ck_assert_ptr_nonnull(m->forward);
}

static void machine_close(struct machine *m)
{
    forward_free(m->forward);
    batch_free(m->batch);
    cache_free(m->cache);
    m->backend.kv_free(m->backend.self);
    m->backend.close(m->backend.self);
}

static struct cache_sequence *new_sequence(struct machine *m, const struct plan *plan,
                                           uint32_t n_prompt)
{
    struct error e = {.message = ""};
    struct cache_sequence *s = cache_sequence_new(m->cache, plan, &e);
    ck_assert_msg(s != NULL, "%s", e.message);
    cache_sequence_set_prompt(s, n_prompt);
    return s;
}

static uint32_t add(struct machine *m, struct cache_sequence *s, const int32_t *tokens, uint32_t n)
{
    struct error e = {.message = ""};
    uint32_t row;
    ck_assert_msg(batch_add(m->batch, s, tokens, n, 1, &row, &e), "%s", e.message);
    return row;
}

static const float *run(struct machine *m)
{
    struct error e = {.message = ""};
    const float *logits = forward_run(m->forward, m->batch, &e);
    ck_assert_msg(logits != NULL, "%s", e.message);
    ck_assert_msg(cache_audit(m->cache, position_of, m, &e), "%s", e.message);
    return logits;
}

/* One sequence alone: the next n tokens; returns the logits after the last. */
static const float *feed(struct machine *m, struct cache_sequence *s, const int32_t *tokens,
                         uint32_t n)
{
    batch_clear(m->batch);
    uint32_t row = add(m, s, tokens, n);
    return run(m) + (size_t)row * model->n_vocab;
}

struct kept {
    bool holds[LAYERS][KV_HEADS][MOST];
};

struct place {
    struct kept *kept;
    uint32_t layer, head;
};

static void note_range(void *context, int32_t first, int32_t last)
{
    struct place *at = context;
    for (int32_t p = first; p <= last; p++)
        at->kept->holds[at->layer][at->head][p] = true;
}

static void read_kept(const struct cache_sequence *s, struct kept *kept)
{
    memset(kept, 0, sizeof *kept);
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t h = 0; h < KV_HEADS; h++)
            cache_kept_ranges(s, l, h, note_range, &(struct place){kept, l, h});
}

/* ---- against the reference */

/* Scores closer than this may be in either order: a sum of f32 probabilities over f16 keys. */
static const double TIE = 0.01;
/* How far a log-probability may be from the reference's, which rounds what it stores as the
 * cache does. Where a near-tie went the other way a different token is missing from then on. */
static const double TOLERANCE = 0.05;

static double logprob(const float *logits, int32_t token)
{
    double largest = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < model->n_vocab; i++)
        largest = fmax(largest, (double)logits[i]);
    for (uint32_t i = 0; i < model->n_vocab; i++)
        sum += exp((double)logits[i] - largest);
    return (double)logits[token] - largest - log(sum);
}

/* Counts (layer, head, position) on which the two agree and disagree. A head may disagree only
 * after a close call. */
static void compare_kept(const char *name, const struct kept *got, struct transformer *t,
                         uint32_t n_tokens, uint32_t counts[2])
{
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t h = 0; h < KV_HEADS; h++) {
            uint32_t n, wrong = 0;
            const uint32_t *kept = policy_kept(transformer_policy(t), l, h, &n);
            bool wanted[MOST] = {false};
            for (uint32_t i = 0; i < n; i++)
                wanted[kept[i]] = true;
            for (uint32_t p = 0; p < n_tokens; p++)
                wrong += wanted[p] != got->holds[l][h][p];
            counts[1] += wrong;
            counts[0] += n_tokens - wrong;
            double margin = policy_margin(transformer_policy(t), l, h);
            ck_assert_msg(wrong == 0 || margin < TIE,
                          "%s: layer %u head %u: %u positions differ though the closest call was "
                          "%.3g apart",
                          name, l, h, wrong, margin);
        }
}

START_TEST(kept_slots_are_the_references)
{
    struct machine m;
    struct plan plan = resolve(plans[_i], PROMPT);
    struct error e = {.message = ""};
    machine_open(&m, 600, 64);
    struct cache_sequence *s = new_sequence(&m, &plan, PROMPT);
    struct transformer *t =
        transformer_new_plan(model, &plan, &profile, STORED_F16, PROMPT + STEPS, &e);
    ck_assert_ptr_nonnull(t);
    policy_set_prompt(transformer_policy(t), PROMPT);
    uint32_t counts[2] = {0, 0};
    double worst = 0;
    for (uint32_t i = 0; i < PROMPT; i++)
        transformer_step(t, text[i]);
    const float *logits = NULL;
    for (uint32_t done = 0, n; done < PROMPT; done += n) {
        n = PROMPT - done < 64 ? PROMPT - done : 64;
        logits = feed(&m, s, text + done, n);
    }
    for (uint32_t i = 0; i < STEPS; i++) {
        static struct kept kept;
        worst = fmax(worst, fabs(logprob(logits, text[PROMPT + i]) -
                                 transformer_logprob(t, text[PROMPT + i])));
        transformer_step(t, text[PROMPT + i]);
        logits = feed(&m, s, text + PROMPT + i, 1);
        read_kept(s, &kept);
        compare_kept(plans[_i], &kept, t, PROMPT + i + 1, counts);
    }
    printf("%s: %u of %u positions agree, log-probabilities within %.4f\n", plans[_i], counts[0],
           counts[0] + counts[1], worst);
    ck_assert_msg(counts[1] * 100 <= counts[0] + counts[1], "%s: %u differ, %u agree", plans[_i],
                  counts[1], counts[0]);
    if (counts[1] == 0)
        ck_assert_msg(worst <= TOLERANCE, "%s: off by %.4f", plans[_i], worst);
    struct cache_sequence_counts held = cache_sequence_counts(s);
    uint64_t bound = cache_bound_pages(m.cache, &plan, PROMPT, PROMPT + STEPS),
             settled = cache_settled_pages(m.cache, &plan, PROMPT, PROMPT + STEPS);
    ck_assert_msg(held.pages_peak <= bound && held.pages <= settled,
                  "%s: %u pages at most and %u in the end, admitted with %llu and %llu", plans[_i],
                  held.pages_peak, held.pages, (unsigned long long)bound,
                  (unsigned long long)settled);
    cache_sequence_free(s);
    transformer_free(t);
    machine_close(&m);
}
END_TEST

/* ---- the same whatever happens around it */

struct result {
    struct kept kept;
    float *logits; /* [STEPS][n_vocab] */
};

static void step_alone(struct machine *m, const struct plan *plan, uint32_t chunk,
                       uint32_t n_prompt, struct result *out)
{
    struct cache_sequence *s = new_sequence(m, plan, n_prompt);
    size_t n_vocab = model->n_vocab;
    out->logits = malloc(STEPS * n_vocab * sizeof *out->logits);
    const float *logits = NULL;
    for (uint32_t done = 0, n; done < n_prompt; done += n) {
        n = n_prompt - done < chunk ? n_prompt - done : chunk;
        logits = feed(m, s, text + done, n);
    }
    for (uint32_t i = 0; i < STEPS; i++) {
        memcpy(out->logits + i * n_vocab, logits, n_vocab * sizeof *logits);
        logits = feed(m, s, text + n_prompt + i, 1);
    }
    read_kept(s, &out->kept);
    cache_sequence_free(s);
}

/* Two runs of one plan. A GPU computes one row and many by different kernels: there logits may
 * differ by what sums in another order make of them. */
static bool same(const struct result *a, const struct result *b)
{
    size_t n = (size_t)STEPS * model->n_vocab;
    bool close = true;
    for (size_t i = 0; i < n; i++)
        close &= fabsf(a->logits[i] - b->logits[i]) < 0.01f;
    return !memcmp(&a->kept, &b->kept, sizeof a->kept) &&
           (test_device_is_cpu() ? !memcmp(a->logits, b->logits, n * sizeof *a->logits) : close);
}

START_TEST(chunks_change_no_bit)
{
    static const uint32_t every[] = {1, 7, PROMPT}, few[] = {100};
    const uint32_t *chunks = test_device_is_cpu() ? every : few,
                   n_chunks = test_device_is_cpu() ? 3 : 1;
    static struct result first, other;
    struct machine m;
    struct plan plan = resolve(plans[_i], PROMPT);
    machine_open(&m, 600, PROMPT);
    step_alone(&m, &plan, 64, PROMPT, &first);
    for (uint32_t c = 0; c < n_chunks; c++) {
        step_alone(&m, &plan, chunks[c], PROMPT, &other);
        ck_assert_msg(same(&first, &other), "%s: chunks of %u", plans[_i], chunks[c]);
        free(other.logits);
    }
    ck_assert_uint_eq(cache_counts(m.cache).used, 0);
    free(first.logits);
    machine_close(&m);
}
END_TEST

/* All plans in one batch, with prompts of different lengths in chunks that never align. */
START_TEST(batch_mates_change_no_bit)
{
    static struct result alone[N_PLANS], crowd[N_PLANS];
    static struct plan running[N_PLANS];
    struct machine m;
    struct cache_sequence *s[N_PLANS];
    uint32_t n_prompt[N_PLANS], done[N_PLANS] = {0}, row[N_PLANS], n_running = N_PLANS;
    machine_open(&m, 12000, 400);
    for (uint32_t i = 0; i < N_PLANS; i++) {
        n_prompt[i] = PROMPT - 5 * i;
        running[i] = resolve(plans[i], n_prompt[i]);
        step_alone(&m, &running[i], 64, n_prompt[i], &alone[i]);
        s[i] = new_sequence(&m, &running[i], n_prompt[i]);
        crowd[i].logits = malloc((size_t)STEPS * model->n_vocab * sizeof(float));
    }
    while (n_running > 0) {
        batch_clear(m.batch);
        for (uint32_t i = 0; i < N_PLANS; i++) {
            uint32_t end = n_prompt[i] + STEPS, n = done[i] < n_prompt[i] ? 3 + i % 5 * 4 : 1;
            if (done[i] < n_prompt[i] && n > n_prompt[i] - done[i])
                n = n_prompt[i] - done[i];
            row[i] = UINT32_MAX;
            if (done[i] == end)
                continue;
            row[i] = add(&m, s[i], text + done[i], n);
            done[i] += n;
        }
        const float *logits = run(&m);
        for (uint32_t i = 0; i < N_PLANS; i++) {
            if (row[i] == UINT32_MAX)
                continue;
            if (done[i] >= n_prompt[i] && done[i] < n_prompt[i] + STEPS)
                memcpy(crowd[i].logits + (size_t)(done[i] - n_prompt[i]) * model->n_vocab,
                       logits + (size_t)row[i] * model->n_vocab, model->n_vocab * sizeof(float));
            if (done[i] < n_prompt[i] + STEPS)
                continue;
            read_kept(s[i], &crowd[i].kept);
            cache_sequence_free(s[i]);
            n_running--;
        }
    }
    for (uint32_t i = 0; i < N_PLANS; i++) {
        ck_assert_msg(same(&alone[i], &crowd[i]), "%s", plans[i]);
        free(alone[i].logits);
        free(crowd[i].logits);
    }
    ck_assert_uint_eq(cache_counts(m.cache).used, 0);
    machine_close(&m);
}
END_TEST

/* The policy with room for everything, in decode too. */
START_TEST(room_for_everything_is_full_attention_to_the_bit)
{
    static struct result full, roomy;
    struct machine m;
    struct error e = {.message = ""};
    struct plan_limits limits = {.n_ctx_train = MOST, .profile = &profile};
    struct plan plan = resolve(plans[0], PROMPT);
    machine_open(&m, 600, 64);
    step_alone(&m, &plan, 64, PROMPT, &full);
    struct plan_asked asked = asked_of_text(plans[_i]);
    if (asked.axes.has_budget) {
        asked.axes.budget_share = 0;
        asked.axes.budget = PROMPT + STEPS;
    } else {
        asked.axes.min_window = asked.axes.recent = 400;
    }
    const struct plan *same_but_roomy = plan_resolve(&asked, PROMPT, &limits, &e);
    ck_assert_msg(same_but_roomy != NULL, "%s", e.message);
    step_alone(&m, same_but_roomy, 64, PROMPT, &roomy);
    plan_release(same_but_roomy);
    ck_assert_msg(same(&full, &roomy), "%s", plans[_i]);
    free(full.logits);
    free(roomy.logits);
    machine_close(&m);
}
END_TEST

/* A row of the table of scorers without a plan above would be compared with no formula. */
START_TEST(every_scorer_is_in_a_plan)
{
    for (uint32_t scorer = 0; scorer < N_SCORERS; scorer++) {
        bool found = false;
        for (uint32_t i = 0; i < N_PLANS && !found; i++)
            found = resolve(plans[i], PROMPT).scorer == scorer;
        ck_assert_msg(found, "no plan of this test has the scorer %s", scorer_at(scorer)->name);
    }
}
END_TEST

/* ---- for long */

static const char *const long_plans[] = {
    "{\"name\":\"h2o\",\"budget\":64}",
    "{\"name\":\"tova\",\"budget\":64}",
    "{\"name\":\"scissorhands\",\"budget\":64}",
    "{\"name\":\"keydiff\",\"budget\":64}",
    "{\"name\":\"h2o\",\"budget\":64,\"remnant\":\"mean\"}",
    "{\"name\":\"snapkv\",\"budget\":64,\"decode\":\"evict\"}",
    "{\"name\":\"adakv\",\"budget\":64,\"decode\":\"evict\"}",
    "{\"name\":\"compresskv\",\"budget\":64,\"decode\":\"evict\"}",
};

/* Ten thousand steps, most of them far beyond what the model was trained for: the test looks at
 * the cache, not at the text. The audit of run() would be slow here, so it runs now and then. */
START_TEST(evicting_never_grows_nor_drifts)
{
    struct machine m;
    struct error e = {.message = ""};
    struct plan plan = resolve(long_plans[_i], 100);
    machine_open(&m, 600, 64);
    struct cache_sequence *s = new_sequence(&m, &plan, 100);
    uint32_t most = 0, bound = 0;
    for (uint32_t done = 0; done < 100; done += 50)
        feed(&m, s, text + done, 50);
    const uint32_t n_steps = test_device_is_cpu() ? 10000 : 300; /* emulation is slow */
    for (uint32_t i = 0; i < n_steps; i++) {
        batch_clear(m.batch);
        uint32_t row = add(&m, s, &text[(100 + i * 7) % n_text], 1);
        const float *logits = forward_run(m.forward, m.batch, &e);
        ck_assert_ptr_nonnull(logits);
        bool finite = true; /* Check writes to a file at every assertion */
        for (uint32_t v = 0; v < model->n_vocab; v++)
            finite &= isfinite(logits[(size_t)row * model->n_vocab + v]) != 0;
        ck_assert_msg(finite, "step %u", i);
        uint32_t pages = cache_sequence_counts(s).pages;
        most = pages > most ? pages : most;
        if (i == 100)
            bound = most;
        if (i % 997 == 0)
            ck_assert_msg(cache_audit(m.cache, position_of, &m, &e), "step %u: %s", i, e.message);
    }
    struct cache_sequence_counts counts = cache_sequence_counts(s);
    ck_assert_uint_eq(most, bound);
    ck_assert_uint_le(most, cache_settled_pages(m.cache, &plan, 100, 100 + n_steps));
    ck_assert(counts.slots_kept <= BUDGET);
    ck_assert_uint_eq(counts.tokens_seen, 100 + n_steps);
    cache_sequence_free(s);
    ck_assert_uint_eq(cache_counts(m.cache).used, 0);
    machine_close(&m);
}
END_TEST

/* ---- a sequence that goes on */

/* A second prompt over what the first left, as in the reference. */
START_TEST(a_continued_sequence_keeps_its_scores)
{
    static const char *const names[] = {
        "{\"name\":\"h2o\",\"budget\":64}",
        "{\"name\":\"snapkv\",\"budget\":64}",
        "{\"name\":\"adakv\",\"budget\":64,\"decode\":\"evict\"}",
        "{\"name\":\"scissorhands\",\"budget\":64}",
        "{\"name\":\"keydiff\",\"budget\":64}",
        "{\"name\":\"tova\",\"budget\":64}",
        "{\"name\":\"adakv\",\"budget\":64}",
        "{\"name\":\"razor\",\"min_window\":40}",
        "{\"name\":\"compresskv\",\"budget\":64}",
        "{\"name\":\"compresskv\",\"budget\":64,\"decode\":\"evict\"}"};
    struct machine m;
    struct plan plan = resolve(names[_i], 150);
    struct error e = {.message = ""};
    machine_open(&m, 600, 64);
    struct cache_sequence *s = new_sequence(&m, &plan, 150);
    struct transformer *t = transformer_new_plan(model, &plan, &profile, STORED_F16, 320, &e);
    ck_assert_ptr_nonnull(t);
    static const uint32_t ends[] = {150, 170, 290, 310}; /* prompt, answer, prompt, answer */
    uint32_t counts[2] = {0, 0}, done = 0;
    for (uint32_t part = 0; part < 4; part++) {
        if (part % 2 == 0) {
            cache_sequence_set_prompt(s, ends[part]);
            policy_set_prompt(transformer_policy(t), ends[part]);
        }
        while (done < ends[part]) {
            uint32_t n = part % 2 ? 1 : ends[part] - done < 33 ? ends[part] - done : 33;
            feed(&m, s, text + done, n);
            for (uint32_t i = 0; i < n; i++)
                transformer_step(t, text[done + i]);
            done += n;
        }
        static struct kept kept;
        read_kept(s, &kept);
        compare_kept(names[_i], &kept, t, done, counts);
    }
    ck_assert_msg(counts[1] * 100 <= counts[0] + counts[1], "%s: %u differ, %u agree", names[_i],
                  counts[1], counts[0]);
    cache_sequence_free(s);
    transformer_free(t);
    machine_close(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("policies");
    TCase *t = suite_case(suite, "policies", 600);
    tcase_add_checked_fixture(t, open_model, close_model);
    tcase_add_test(t, every_scorer_is_in_a_plan);
    tcase_add_loop_test(t, kept_slots_are_the_references, 0, N_PLANS);
    add_part_of_loop_test(t, chunks_change_no_bit, 0, N_PLANS);
    if (test_part() == 1)
        tcase_add_test(t, batch_mates_change_no_bit);
    else
        printf("a part: without batch_mates_change_no_bit\n");
    add_part_of_loop_test(t, room_for_everything_is_full_attention_to_the_bit, 1, N_PLANS);
    add_part_of_loop_test(t, evicting_never_grows_nor_drifts, 0,
                          sizeof long_plans / sizeof *long_plans);
    add_part_of_loop_test(t, a_continued_sequence_keeps_its_scores, 0, 10);
    return suite_run(suite);
}
