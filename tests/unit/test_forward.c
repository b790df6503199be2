/* The forward pass reads the facts of each layer, and leaves the model as it is. */
#include <math.h>
#include <string.h>

#include "engine/measure/runtime.h"
#include "tests/reference/transformer.h"
#include "tests/suite.h"
#include "tests/unit/plan_of_text.h"
#include "tests/unit/test_device.h"

#define MODEL "tests/data/stories260K.gguf"

static struct model *model;
static struct error e;
static const int32_t tokens[] = {1, 403, 407, 261, 378, 300, 290, 410};
enum { N = sizeof tokens / sizeof *tokens };

static void setup(void)
{
    model = model_open(MODEL, NULL, NULL, &e);
    ck_assert_msg(model != NULL, "%s", e.message);
}

static void teardown(void)
{
    model_close(model);
}

static void open_runtime(struct runtime *r)
{
    struct runtime_options o = {.model = model,
                                .model_path = MODEL,
                                .device = test_device().kind,
                                .n_threads = 1,
                                .max_rows = N,
                                .max_logits = 1};
    memset(r, 0, sizeof *r);
    ck_assert_msg(runtime_load(r, &o, &e) && runtime_start(r, &e) &&
                      runtime_set_pool(r, runtime_pages(r, 2 * N), &e),
                  "%s", e.message);
}

/* The logits of the last of n tokens, computed as one prompt, into out [n_vocab]. */
static void compute(struct runtime *r, const int32_t *prompt, uint32_t n, float *out)
{
    const struct plan_limits limits = runtime_limits(r);
    const struct plan plan = plan_of_text("full", n, &limits);
    uint32_t row;
    struct cache_sequence *s = cache_sequence_new(r->cache, &plan, &e);
    ck_assert_ptr_nonnull(s);
    cache_sequence_set_prompt(s, n);
    batch_clear(r->batch);
    ck_assert(batch_add(r->batch, s, prompt, n, 1, &row, &e));
    const float *logits = forward_run(r->forward, r->batch, &e);
    ck_assert_msg(logits != NULL, "%s", e.message);
    memcpy(out, logits + (size_t)row * model->n_vocab, model->n_vocab * sizeof *out);
    cache_sequence_free(s);
}

static double distance(const float *a, const float *b)
{
    double most = 0;
    for (uint32_t i = 0; i < model->n_vocab; i++)
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
    return most;
}

/* Attention without positions is a sum over a set: in a model of one layer the last token's logits
 * do not depend on the order of those before it. */
START_TEST(a_layer_without_rope_knows_no_positions)
{
    float *first = malloc(2 * model->n_vocab * sizeof *first), *second = first + model->n_vocab;
    ck_assert_ptr_nonnull(first);
    int32_t turned[N];
    for (uint32_t i = 0; i < N; i++)
        turned[i] = i + 1 < N ? tokens[N - 2 - i] : tokens[i];
    const uint32_t n_layers = model->n_layers;
    model->n_layers = 1;
    for (int without = 0; without < 2; without++) {
        struct runtime r;
        model->layers[0].rope = without ? ROPE_NONE : 0;
        open_runtime(&r);
        compute(&r, tokens, N, first);
        compute(&r, turned, N, second);
        if (without)
            ck_assert_double_lt(distance(first, second), 1e-3);
        else
            ck_assert_double_gt(distance(first, second), 1e-1);
        runtime_close(&r);
    }
    model->n_layers = n_layers;
    free(first);
}
END_TEST

/* Local and global layers, as Gemma 3 has them: other base, fewer dimensions, other pairs. */
static void give_every_second_layer_another_rope(void)
{
    model->n_rope_sets = 2;
    model->rope_sets[1] =
        (struct rope_set){.dim = model->rope_sets[0].dim - 2, .neox = true, .base = 50, .scale = 2};
    for (uint32_t i = 1; i < model->n_layers; i += 2)
        model->layers[i].rope = 1;
}

/* The logits after every token, one step a token, against the double-precision reference. */
static void check_steps(const char *policy, uint32_t sinks, uint32_t budget)
{
    struct runtime r;
    open_runtime(&r);
    const struct plan_limits limits = runtime_limits(&r);
    const struct plan plan = plan_of_text(policy, 1, &limits);
    struct cache_sequence *s = cache_sequence_new(r.cache, &plan, &e);
    struct transformer *t = transformer_new(model, sinks, budget, STORED_F16, 2 * N, &e);
    ck_assert(s && t);
    double most = 0;
    for (uint32_t i = 0; i < 2 * N; i++) {
        uint32_t row;
        batch_clear(r.batch);
        ck_assert_msg(batch_add(r.batch, s, &tokens[i % N], 1, 1, &row, &e), "%s", e.message);
        const float *logits = forward_run(r.forward, r.batch, &e);
        const double *wanted = transformer_step(t, tokens[i % N]);
        for (uint32_t k = 0; k < model->n_vocab; k++)
            most = fmax(most, fabs((double)logits[k] - wanted[k]));
    }
    ck_assert_msg(most < 0.02, "%s: logits differ by %g", policy, most);
    transformer_free(t);
    cache_sequence_free(s);
    runtime_close(&r);
}

START_TEST(each_layer_turns_by_its_own_rope_set)
{
    give_every_second_layer_another_rope();
    check_steps("full", 0, 0);
    check_steps("{\"name\":\"sink\",\"budget\":9,\"sinks\":2}", 2, 9);
}
END_TEST

START_TEST(two_forward_passes_share_a_model)
{
    float *logits = malloc(3 * model->n_vocab * sizeof *logits);
    ck_assert_ptr_nonnull(logits);
    float *second = logits + model->n_vocab, *after = second + model->n_vocab;
    struct runtime a, b;
    open_runtime(&a);
    compute(&a, tokens, N, logits);
    open_runtime(&b);
    compute(&b, tokens, N, second);
    runtime_close(&b);
    compute(&a, tokens, N, after);
    runtime_close(&a);
    ck_assert_mem_eq(logits, second, model->n_vocab * sizeof *logits);
    ck_assert_mem_eq(logits, after, model->n_vocab * sizeof *logits);
    ck_assert_ptr_null(model->weights->output_norm.prepared);
    free(logits);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("forward");
    TCase *t = suite_case(suite, "forward", 120);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, a_layer_without_rope_knows_no_positions);
    tcase_add_test(t, each_layer_turns_by_its_own_rope_set);
    tcase_add_test(t, two_forward_passes_share_a_model);
    return suite_run(suite);
}
