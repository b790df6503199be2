/* What rows leave: logits, hidden states, or both kinds in one step, against the reference
 * transformer of tests/reference/. */
#include <math.h>

#include "engine/compute/forward.h"
#include "tests/reference/transformer.h"
#include "tests/suite.h"
#include "tests/unit/plan_of_text.h"
#include "tests/unit/test_device.h"

enum { ROWS = 48, PAGES = 400 };

/* Measured: 2.5e-3 of hidden numbers up to 8 with keys and values in f16. */
static const double TOLERANCE = 0.02;

static const int32_t tokens[ROWS] = {1,   403, 407, 261, 378, 417, 285, 391, 262, 300, 266, 410,
                                     299, 271, 311, 405, 280, 333, 402, 265, 277, 319, 401, 289,
                                     304, 273, 398, 286, 416, 270, 333, 404, 292, 261, 281, 411,
                                     262, 330, 299, 417, 285, 263, 407, 302, 378, 271, 266, 391};

struct machine {
    struct model *model;
    struct backend backend;
    struct cache *cache;
    struct batch *batch;
    struct forward *forward;
};

static void machine_open(struct machine *m)
{
    struct error e = {.message = ""};
    m->model = model_open("tests/data/stories260K.gguf", NULL, NULL, &e);
    ck_assert_msg(m->model != NULL, "%s", e.message);
    test_device_open(&m->backend, m->model, NULL, 1, 2 * ROWS, 2 * ROWS);
    ck_assert(m->backend.kv_alloc(m->backend.self, PAGES, m->model->head_dim, &e));
    m->cache = cache_new(m->model->n_layers, m->model->n_kv_heads, m->model->head_dim, PAGES, &e);
    cache_set_memory(m->cache, m->backend.state_memory);
    m->batch = batch_new(m->cache, m->model, 2 * ROWS, 2 * ROWS, &e);
    m->forward = forward_new(&m->backend, m->model, 2 * ROWS, 2 * ROWS, &e);
    ck_assert(m->batch && m->forward);
}

static void machine_close(struct machine *m)
{
    forward_free(m->forward);
    batch_free(m->batch);
    cache_free(m->cache);
    m->backend.kv_free(m->backend.self);
    m->backend.close(m->backend.self);
    model_close(m->model);
}

static struct cache_sequence *new_sequence(struct machine *m)
{
    struct error e;
    const struct plan_limits limits = {.n_ctx_train = m->model->n_ctx_train};
    const struct plan *plan = held_plan("full", ROWS, &limits);
    struct cache_sequence *s = cache_sequence_new(m->cache, plan, &e);
    ck_assert_ptr_nonnull(s);
    plan_release(plan);
    return s;
}

static void check_row(const char *what, uint32_t row, const float *got, const double *wanted,
                      uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        ck_assert_msg(fabs((double)got[i] - wanted[i]) < TOLERANCE,
                      "%s of row %u, number %u: %g instead of %g", what, row, i, (double)got[i],
                      wanted[i]);
}

/* One sequence is read for its hidden states, another for logits of its last rows, in one step. */
START_TEST(a_row_leaves_logits_or_its_hidden_state)
{
    struct machine m;
    struct error e = {.message = ""};
    uint32_t first_hidden, first_logits;
    machine_open(&m);
    struct cache_sequence *a = new_sequence(&m), *b = new_sequence(&m);
    ck_assert(batch_add_outputs(m.batch, a, tokens, ROWS, ROWS, STEP_HIDDEN, &first_hidden, &e));
    ck_assert(batch_add(m.batch, b, tokens, ROWS, 5, &first_logits, &e));
    ck_assert_uint_eq(batch_logits_room(m.batch), ROWS - 5);
    ck_assert_msg(forward_compute(m.forward, m.batch, &e), "%s", e.message);
    const float *logits = forward_logits(m.forward, first_logits, 5, &e),
                *hidden = forward_hidden(m.forward, first_hidden, ROWS, &e);
    ck_assert(logits && hidden);
    struct transformer *t = transformer_new(m.model, 0, 0, STORED_DOUBLE, ROWS, &e);
    for (uint32_t i = 0; i < ROWS; i++) {
        const double *wanted = transformer_step(t, tokens[i]);
        check_row("hidden state", i, hidden + (size_t)i * m.model->n_embd, transformer_hidden(t),
                  m.model->n_embd);
        if (i >= ROWS - 5)
            check_row("logits", i, logits + (size_t)(i - (ROWS - 5)) * m.model->n_vocab, wanted,
                      m.model->n_vocab);
    }
    /* Some of them again: where they are in the answer depends on what was asked for. */
    hidden = forward_hidden(m.forward, first_hidden + ROWS - 1, 1, &e);
    ck_assert_ptr_nonnull(hidden);
    check_row("hidden state", ROWS - 1, hidden, transformer_hidden(t), m.model->n_embd);
    transformer_free(t);
    cache_sequence_free(a);
    cache_sequence_free(b);
    machine_close(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("outputs");
    TCase *t = suite_case(suite, "outputs", 120);
    tcase_add_test(t, a_row_leaves_logits_or_its_hidden_state);
    return suite_run(suite);
}
