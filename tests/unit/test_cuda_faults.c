/* The CUDA backend when the device fails: every runtime call that can fail fails once, launches
 * break the device in the middle of a step, state memory runs out. Each case ends in a sentence,
 * and nothing leaks. On the emulated device alone: a real one does not fail on demand. */
#include <stdio.h>
#include <string.h>

#include "cache/pages/state_memory.h"
#include "engine/compute/forward.h"
#include "cuda/emulated/control.h"
#include "cuda/host/device.h"
#include "tests/suite.h"
#include "tests/unit/plan_of_text.h"
#include "tests/unit/test_device.h"

#define MODEL "tests/data/stories260K.gguf"
#define ROWS  8
#define PAGES 200

/* Of the runtime: what the emulated device's calls return. */
enum { OUT_OF_MEMORY = 2, LAUNCH_FAILURE = 719, UNKNOWN = 999 };

static struct model *model;

static void open_model(void)
{
    struct error e = {.message = ""};
    model = model_open(MODEL, NULL, NULL, &e);
    ck_assert_msg(model != NULL, "%s", e.message);
}

static void close_model(void)
{
    emu_reset();
    model_close(model);
}

/* ---- the engine's lower half, on the device; any part may be missing */

struct machine {
    struct backend backend;
    bool is_open;
    struct cache *cache;
    struct batch *batch;
    struct forward *forward;
};

static int32_t position_of(void *context, uint32_t page, uint32_t index)
{
    const struct machine *m = context;
    return m->backend.kv_read(m->backend.self, page, index, model->head_dim, NULL, NULL);
}

/* Opens a pool and all that is built on it, in place of the previous ones. */
static bool machine_set_pool(struct machine *m, enum plan_storage storage, struct error *e)
{
    batch_free(m->batch);
    cache_free(m->cache);
    m->batch = NULL;
    m->cache = NULL;
    m->backend.kv_set_storage(m->backend.self, storage);
    if (!m->backend.kv_alloc(m->backend.self, PAGES, model->head_dim, e))
        return false;
    m->cache = cache_new(model->n_layers, model->n_kv_heads, model->head_dim, PAGES, e);
    ck_assert_ptr_nonnull(m->cache);
    cache_set_memory(m->cache, m->backend.state_memory);
    cache_set_reader(m->cache, position_of, m);
    m->batch = batch_new(m->cache, model, ROWS, ROWS, e);
    ck_assert_ptr_nonnull(m->batch);
    return true;
}

static bool machine_open(struct machine *m, struct error *e)
{
    const struct device_options o = {.max_rows = ROWS, .max_logits = ROWS, .max_slots = 128};
    *m = (struct machine){.is_open = false};
    m->is_open = device_open(&m->backend, &device_cuda, &o, model, e);
    if (!m->is_open)
        return false;
    m->forward = forward_new(&m->backend, model, ROWS, ROWS, e);
    return m->forward && machine_set_pool(m, STORAGE_F16, e);
}

static void machine_close(struct machine *m)
{
    if (!m->is_open)
        return;
    forward_free(m->forward);
    batch_free(m->batch);
    cache_free(m->cache);
    m->backend.kv_free(m->backend.self);
    m->backend.close(m->backend.self);
}

static struct plan plan_of(const char *json)
{
    struct plan_limits limits = {.n_ctx_train = 512};
    return plan_of_text(json, 24, &limits);
}

static const char evicting[] = "{\"name\":\"h2o\",\"budget\":18,\"recent\":8}";

/* The next n tokens of one sequence. */
static bool step(struct machine *m, struct cache_sequence *s, uint32_t n, struct error *e)
{
    static const int32_t tokens[ROWS] = {1, 403, 407, 261, 378, 417, 285, 391};
    uint32_t row;
    batch_clear(m->batch);
    return batch_add(m->batch, s, tokens, n, 1, &row, e) && forward_run(m->forward, m->batch, e);
}

/* A prompt of three steps, then decode steps that evict: every kind of call of the backend. */
static bool serve(struct machine *m, struct error *e)
{
    struct plan plan = plan_of(evicting);
    struct cache_sequence *s = cache_sequence_new(m->cache, &plan, e);
    bool ok = s != NULL;
    if (s)
        cache_sequence_set_prompt(s, 3 * ROWS);
    for (uint32_t i = 0; ok && i < 6; i++)
        ok = step(m, s, i < 3 ? ROWS : 1, e);
    if (ok) /* looks into the pool */
        ok = cache_audit(m->cache, position_of, m, e);
    cache_sequence_free(s);
    return ok;
}

static bool open_and_serve(struct error *e)
{
    struct machine m;
    bool ok = machine_open(&m, e) && serve(&m, e);
    machine_close(&m);
    return ok;
}

/* ---- allocations and other calls */

static void check_sentence(const char *call, long nth, const struct error *e)
{
    ck_assert_msg(!strcmp(e->code, "out_of_memory") || !strcmp(e->code, "engine_fault"),
                  "%s, call %ld: code \"%s\" (%s)", call, nth, e->code, e->message);
    ck_assert_msg(strlen(e->message) > 20, "%s, call %ld: says \"%s\"", call, nth, e->message);
}

/* Makes the nth call fail; returns whether there were that many. */
static bool fails_well(const char *call, long nth, int why)
{
    struct error e = {.message = ""};
    const size_t before = emu_n_allocations();
    emu_fail(call, nth, why);
    bool ok = open_and_serve(&e);
    emu_reset();
    ck_assert_msg(emu_n_allocations() == before, "%s, call %ld: %zu allocations are left", call,
                  nth, emu_n_allocations() - before);
    if (!ok)
        check_sentence(call, nth, &e);
    return !ok;
}

START_TEST(every_allocation_that_fails_is_told_and_leaks_nothing)
{
    static const struct {
        const char *call;
        long at_least;
    } calls[] = {{"cudaMalloc", 40}, {"cudaMallocHost", 3}};
    static const int why[] = {OUT_OF_MEMORY, UNKNOWN};
    for (unsigned i = 0; i < 2; i++)
        for (unsigned k = 0; k < 2; k++) {
            long n = 1;
            while (fails_well(calls[i].call, n, why[k]))
                n++;
            printf("%s: %ld calls, error %d\n", calls[i].call, n - 1, why[k]);
            ck_assert_msg(n > calls[i].at_least, "%s: only %ld calls failed", calls[i].call, n - 1);
        }
}
END_TEST

/* There are many copies and clearings: the distance between those that fail grows. */
START_TEST(every_other_call_that_fails_is_told_and_leaks_nothing)
{
    static const char *const calls[] = {"cudaSetDevice",         "cudaGetDeviceProperties",
                                        "cudaStreamCreate",      "cudaEventCreateWithFlags",
                                        "cudaMemsetAsync",       "cudaMemcpyAsync",
                                        "cudaStreamSynchronize", "cudaEventRecord",
                                        "cudaEventSynchronize",  "cudaStreamBeginCapture",
                                        "cudaStreamEndCapture",  "cudaGraphInstantiate",
                                        "cudaGraphLaunch"};
    for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++) {
        long n = 1, tried = 0;
        while (fails_well(calls[i], n, UNKNOWN)) {
            n += 1 + n / 2;
            tried++;
        }
        printf("%s: %ld of some %ld calls\n", calls[i], tried, n);
        ck_assert_msg(tried > 0, "%s is not called", calls[i]);
    }
}
END_TEST

/* ---- a fault in the middle */

START_TEST(a_fault_of_a_step_ends_it_and_all_that_follow)
{
    static const long launches[] = {1, 2, 7, 20, 60};
    const size_t before = emu_n_allocations();
    for (unsigned i = 0; i < sizeof launches / sizeof *launches; i++) {
        struct machine m;
        struct error e = {.message = ""};
        struct plan plan = plan_of(evicting);
        ck_assert_msg(machine_open(&m, &e), "%s", e.message);
        struct cache_sequence *s = cache_sequence_new(m.cache, &plan, &e);
        cache_sequence_set_prompt(s, 3 * ROWS);
        for (uint32_t k = 0; k < 5; k++)
            ck_assert_msg(step(&m, s, k < 3 ? ROWS : 1, &e), "%s", e.message);
        emu_fail("launch", launches[i], LAUNCH_FAILURE);
        for (uint32_t later = 0; later < 3; later++) {
            e = (struct error){.message = ""};
            ck_assert_msg(!step(&m, s, 1, &e), "launch %ld: step %u after it went well",
                          launches[i], later);
            ck_assert_msg(!strcmp(e.code, "engine_fault"), "launch %ld, step %u: \"%s\" (%s)",
                          launches[i], later, e.code, e.message);
            ck_assert_msg(strstr(e.message, "unspecified launch failure") != NULL, "%s", e.message);
        }
        cache_sequence_free(s);
        machine_close(&m);
        emu_reset();
        ck_assert_uint_eq(emu_n_allocations(), before);
    }
    struct error e = {.message = ""};
    ck_assert_msg(open_and_serve(&e), "afterwards: %s", e.message);
}
END_TEST

/* ---- state memory runs out */

enum { MANY = 4000 };

/* Opens as many new sequences as there is state memory for. */
static uint32_t fill(struct machine *m, const struct plan *plan, struct cache_sequence **s)
{
    struct error e = {.message = ""};
    uint32_t n = 0;
    while (n < MANY && (s[n] = cache_sequence_new(m->cache, plan, &e)) != NULL)
        n++;
    ck_assert_msg(n < MANY && !strcmp(e.code, "out_of_memory"), "%u sequences: %s", n, e.message);
    return n;
}

START_TEST(when_state_memory_runs_out_others_go_on)
{
    static struct cache_sequence *s[MANY];
    struct machine m;
    struct error e = {.message = ""};
    struct plan plan = plan_of(evicting);
    ck_assert_msg(machine_open(&m, &e), "%s", e.message);
    struct cache_sequence *other = cache_sequence_new(m.cache, &plan, &e);
    cache_sequence_set_prompt(other, 3 * ROWS);
    for (uint32_t i = 0; i < 4; i++)
        ck_assert_msg(step(&m, other, i < 3 ? ROWS : 1, &e), "%s", e.message);
    uint32_t n = fill(&m, &plan, s);
    printf("%u sequences fill the state memory\n", n);
    ck_assert_uint_gt(n, 4);
    const uint32_t pages = cache_counts(m.cache).used;

    /* A first token needs tables and scores. */
    cache_sequence_set_prompt(s[0], 3 * ROWS);
    ck_assert(!step(&m, s[0], ROWS, &e));
    ck_assert_msg(!strcmp(e.code, "out_of_memory"), "\"%s\": %s", e.code, e.message);
    ck_assert_uint_eq(cache_counts(m.cache).used, pages);
    ck_assert_msg(cache_audit(m.cache, position_of, &m, &e), "%s", e.message);
    cache_sequence_free(s[0]);

    /* A sequence that has what it needs goes on; a new one gets what others gave back. */
    for (uint32_t i = 0; i < 3; i++)
        ck_assert_msg(step(&m, other, 1, &e), "%s", e.message);
    for (uint32_t i = 1; i < 5; i++)
        cache_sequence_free(s[i]);
    struct cache_sequence *next = cache_sequence_new(m.cache, &plan, &e);
    ck_assert_msg(next != NULL, "%s", e.message);
    cache_sequence_set_prompt(next, 3 * ROWS);
    for (uint32_t i = 0; i < 5; i++)
        ck_assert_msg(step(&m, next, i < 3 ? ROWS : 1, &e), "%s", e.message);
    ck_assert_msg(cache_audit(m.cache, position_of, &m, &e), "%s", e.message);

    /* All of it comes back. */
    cache_sequence_free(next);
    for (uint32_t i = 5; i < n; i++)
        cache_sequence_free(s[i]);
    ck_assert_uint_eq(fill(&m, &plan, s), n);
    for (uint32_t i = 0; i < n; i++)
        cache_sequence_free(s[i]);
    cache_sequence_free(other);
    ck_assert_uint_eq(cache_counts(m.cache).used, 0);
    machine_close(&m);
    ck_assert_uint_eq(emu_n_allocations(), 0);
}
END_TEST

/* ---- another pool */

/* Decode steps recorded over the first pool would write there, and the audit would not find
 * their tokens. */
START_TEST(steps_recorded_over_one_pool_are_not_replayed_over_the_next)
{
    struct machine m;
    struct error e = {.message = ""};
    ck_assert_msg(machine_open(&m, &e) && serve(&m, &e), "%s", e.message);
    static const enum plan_storage storages[] = {STORAGE_Q8, STORAGE_Q4, STORAGE_F16};
    for (size_t i = 0; i < sizeof storages / sizeof *storages; i++)
        ck_assert_msg(machine_set_pool(&m, storages[i], &e) && serve(&m, &e), "storage %d: %s",
                      (int)storages[i], e.message);
    machine_close(&m);
    ck_assert_uint_eq(emu_n_allocations(), 0);
}
END_TEST

START_TEST(wider_groups_of_query_heads_than_the_kernels_have_are_refused)
{
    const struct device_options o = {.max_rows = ROWS, .max_logits = ROWS, .max_slots = 128};
    struct model wide = *model;
    struct backend b;
    struct error e = {.message = ""};
    wide.n_heads = 17 * wide.n_kv_heads;
    ck_assert(!device_open(&b, &device_cuda, &o, &wide, &e));
    ck_assert_str_eq(e.code, "device_unavailable");
    ck_assert_msg(strstr(e.message, "17 query heads") != NULL, "%s", e.message);
    ck_assert_ptr_null(b.close);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda_faults");
    TCase *t = suite_case(suite, "faults", 240);
    tcase_add_checked_fixture(t, open_model, close_model);
    tcase_add_test(t, every_allocation_that_fails_is_told_and_leaks_nothing);
    tcase_add_test(t, every_other_call_that_fails_is_told_and_leaks_nothing);
    tcase_add_test(t, wider_groups_of_query_heads_than_the_kernels_have_are_refused);
    tcase_add_test(t, a_fault_of_a_step_ends_it_and_all_that_follow);
    tcase_add_test(t, when_state_memory_runs_out_others_go_on);
    tcase_add_test(t, steps_recorded_over_one_pool_are_not_replayed_over_the_next);
    return suite_run(suite);
}
