/* Head profiles: what is read from either kind of file, every way a file can be wrong, which heads
 * are chosen, and that calibration's scores are those of its formula. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/pages/cache.h"
#include "cache/policy/head_profile.h"
#include "config/base/sha256.h"
#include "engine/measure/calibrate.h"
#include "engine/compute/forward.h"
#include "engine/cpu/device.h"
#include "engine/measure/profile_file.h"
#include "engine/model/model_hash.h"
#include "tests/suite.h"
#include "tests/unit/plan_of_text.h"

#define MODEL "tests/data/stories260K.gguf"
#define HASH  "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define OTHER "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static struct error e;

static struct head_profile *load(const char *text, size_t length)
{
    char path[] = "/tmp/winnow-profile-XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, length), (ssize_t)length);
    close(fd);
    struct head_profile *p = profile_file_load(path, &e);
    if (!p)
        ck_assert_str_eq(e.where, path);
    unlink(path);
    return p;
}

static struct head_profile *load_text(const char *text)
{
    return load(text, strlen(text));
}

static void refused(const char *text, const char *message)
{
    e.message[0] = 0;
    ck_assert_msg(!load_text(text), "loaded: %s", text);
    ck_assert_str_eq(e.code, "invalid_head_profile");
    ck_assert_msg(strstr(e.message, message) != NULL, "\"%s\" is not about \"%s\"", e.message,
                  message);
}

/* ---- patterns */

START_TEST(a_pattern_is_a_line_a_layer)
{
    struct head_profile *p = load_text("1.0\t5e-01 -2.2e-04\r\n\n0.25\t1.0001\t0\n");
    ck_assert_msg(p != NULL, "%s", e.message);
    const double want[] = {1, 0.5, 0, 0.25, 1, 0};
    ck_assert(p->is_pattern);
    ck_assert_uint_eq(p->n_layers, 2);
    ck_assert_uint_eq(p->n_kv_heads, 3);
    ck_assert_str_eq(p->model_hash, "");
    for (unsigned i = 0; i < 6; i++)
        ck_assert_double_eq(p->value[i], want[i]);
    ck_assert_double_eq_tol(p->retrieval[0], 1.5 / 3, 1e-15);
    ck_assert_double_eq_tol(p->retrieval[1], 1.25 / 3, 1e-15);
    head_profile_free(p);
    p = load_text("0.5");
    ck_assert(p && p->n_layers == 1 && p->n_kv_heads == 1 && p->retrieval[0] == 0.5);
    head_profile_free(p);
}
END_TEST

START_TEST(a_broken_pattern_says_where)
{
    refused("", "empty");
    refused(" \n\t\n", "empty");
    refused("1\t0\t1\n1\t0\n", "layer 1 has 2 values, not 3 as layer 0");
    refused("1\t0\n1\t0\t1\n", "layer 1 has 3 values, not 2 as layer 0");
    refused("1\tzero\n", "layer 0, value 1: \"zero\" is not a number");
    refused("0\n1\n2\n", "layer 2, value 0 is 2, not in 0 to 1");
    refused("-0.5\n", "is -0.5, not in 0 to 1");
    const char *words[] = {"nan", "inf", "0x1", "1e999", "1,0", "1e", ".", "--1", "[1]", "\xff"};
    for (unsigned i = 0; i < sizeof words / sizeof *words; i++)
        refused(words[i], "is not a number");
    ck_assert(!load("1\t0\0\n", 5) && strstr(e.message, "not a number"));
    char word[100];
    memset(word, '0', sizeof word);
    word[99] = 0;
    refused(word, "is not a number");
}
END_TEST

START_TEST(a_pattern_of_any_shape_up_to_the_limits_loads)
{
    enum { LAYERS = 5000, HEADS = 5000 };
    char *text = malloc(2 * LAYERS + 1);
    for (unsigned i = 0; i < LAYERS; i++)
        memcpy(text + 2 * (size_t)i, "1\n", 3);
    refused(text, "more than 4096 lines");
    text[2 * 4096] = 0;
    struct head_profile *p = load_text(text);
    ck_assert(p && p->n_layers == 4096);
    head_profile_free(p);
    for (unsigned i = 0; i < HEADS; i++)
        memcpy(text + 2 * (size_t)i, "1 ", 3);
    refused(text, "layer 0 has more than 4096 values");
    free(text);
}
END_TEST

/* numpy.quantile([0, .1, ... .9], .5) is .45, so 5 of 10 are above; .4 is .36: 6; .9 is .81: 1. */
START_TEST(the_sparsity_quantile_is_the_threshold)
{
    struct head_profile *p = load_text("0.9 0.1 0.8 0.2 0.7\n0.3 0.6 0.4 0.5 0\n");
    const struct {
        double sparsity;
        uint32_t n_whole;
    } rows[] = {{-1, 10}, {0, 10},   {0.05, 9}, {0.4, 6}, {0.5, 5},
                {0.9, 1}, {0.99, 1}, {1, 0},    {2, 0}};
    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint32_t n = 0;
        for (uint32_t head = 0; head < 10; head++) {
            bool whole = head_profile_is_whole(p, rows[i].sparsity, head / 5, head % 5);
            ck_assert_msg(whole == (p->value[head] > (9.5 - rows[i].n_whole) / 10),
                          "sparsity %g, value %g", rows[i].sparsity, p->value[head]);
            n += whole;
        }
        ck_assert_uint_eq(n, rows[i].n_whole);
        ck_assert_uint_eq(head_profile_n_whole(p, rows[i].sparsity), n);
    }
    head_profile_free(p);
}
END_TEST

START_TEST(equal_values_do_not_change_how_many_are_whole)
{
    struct head_profile *p = load_text("1 1 1 1\n1 0 1 1\n");
    ck_assert_uint_eq(head_profile_n_whole(p, 0.5), 4);
    const bool want[] = {true, true, true, true, false, false, false, false};
    for (uint32_t i = 0; i < 8; i++)
        ck_assert_int_eq(head_profile_is_whole(p, 0.5, i / 4, i % 4), want[i]);
    head_profile_free(p);
    /* 175 * 0.28 is 49, but 49.00000000000001 in double. */
    char text[176 * 2 + 1];
    for (unsigned i = 0; i < 176; i++)
        memcpy(text + 2 * (size_t)i, i % 8 == 7 ? "1\n" : "1\t", 3);
    p = load_text(text);
    ck_assert_uint_eq(head_profile_n_whole(p, 0.28), 127);
    head_profile_free(p);
}
END_TEST

/* ---- calibrated profiles */

static const char good[] =
    "{\"format\": \"winnow-head-profile\", \"version\": 1, \"model\": \"m\", \"model_hash\": "
    "\"" HASH "\", \"n_layers\": 2, \"n_kv_heads\": 2, \"settings\": {},"
    " \"induction\": [[0, 1], [0.5, 0.25]], \"echo\": [[0, 1], [0.5, 0.25]],"
    " \"retrieval_heads\": [[1, 0], [0, 1]]}";

START_TEST(a_calibrated_profile_names_its_heads)
{
    struct head_profile *p = load_text(good);
    ck_assert_msg(p != NULL, "%s", e.message);
    ck_assert(!p->is_pattern);
    ck_assert_str_eq(p->model_name, "m");
    ck_assert_str_eq(p->model_hash, HASH);
    for (double sparsity = 0; sparsity <= 1; sparsity += 0.5) {
        ck_assert(!head_profile_is_whole(p, sparsity, 0, 0));
        ck_assert(head_profile_is_whole(p, sparsity, 0, 1));
        ck_assert(head_profile_is_whole(p, sparsity, 1, 0));
        ck_assert(!head_profile_is_whole(p, sparsity, 1, 1));
        ck_assert_uint_eq(head_profile_n_whole(p, sparsity), 2);
    }
    head_profile_free(p);
}
END_TEST

/* The good profile with one piece of text replaced. */
static void refused_with(const char *old, const char *new, const char *message)
{
    char text[2048];
    const char *at = strstr(good, old);
    ck_assert_msg(at != NULL, "%s", old);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - good), good, new, at + strlen(old));
    refused(text, message);
}

START_TEST(a_broken_profile_says_what)
{
    refused("{", "not JSON: line 1");
    refused("{}", "\"format\" is not");
    refused("{\"format\": 1}", "\"format\" is not");
    refused_with("\"version\": 1", "\"version\": 2", "\"version\" is 2, not in 1 to 1");
    refused_with("\"version\"", "\"x\"", "\"version\" is missing");
    refused_with("\"n_layers\": 2", "\"n_layers\": 2, \"n_layers\": 2", "not JSON");
    refused_with("\"m\"", "7", "\"model\" is missing or not a string");
    refused_with("0123456789abcdef", "0123456789ABCDEF", "not 64 hex digits");
    refused_with("0123456789abcdef", "", "not 64 hex digits");
    refused_with("\"n_layers\": 2", "\"n_layers\": 0", "\"n_layers\" is 0, not in 1 to 4096");
    refused_with("\"n_layers\": 2", "\"n_layers\": 2.5", "\"n_layers\" is not an integer");
    refused_with("\"n_layers\": 2", "\"n_layers\": 4294967298", "\"n_layers\" is 4294967298");
    refused_with("\"n_kv_heads\": 2", "\"n_kv_heads\": -1", "\"n_kv_heads\" is -1");
    refused_with("\"n_layers\": 2", "\"n_layers\": 3", "\"induction\" has 2 layers, not 3");
    refused_with("\"n_kv_heads\": 2", "\"n_kv_heads\": 3", "layer 0 has 2 values, not 3");
    refused_with("[0.5, 0.25]], \"echo\"", "[0.5, 1.5]], \"echo\"",
                 "\"induction\": layer 1, KV head 1 is 1.5, not in 0 to 1");
    refused_with("[0.5, 0.25]], \"echo\"", "7], \"echo\"", "layer 1 is not an array");
    refused_with("\"echo\": [[0", "\"echo\": [[\"0\"",
                 "\"echo\": layer 0, KV head 0 is not a number");
    refused_with("\"echo\"", "\"ohce\"", "\"echo\" is missing");
    refused_with("\"retrieval_heads\"", "\"heads\"", "\"retrieval_heads\" is missing");
    refused_with("[1, 0]", "[1]", "\"retrieval_heads\"[0] is not [layer, kv_head]");
    refused_with("[1, 0]", "[1, 0.0]", "\"retrieval_heads\"[0] is not [layer, kv_head]");
    refused_with("[1, 0]", "1", "\"retrieval_heads\"[0] is not [layer, kv_head]");
    refused_with("[1, 0]", "[2, 0]", "is [2, 0]; there are 2 layers of 2 KV heads");
    refused_with("[1, 0]", "[0, -1]", "is [0, -1]");
    refused_with("[1, 0]", "[0, 1]", "\"retrieval_heads\"[1] is there twice");
}
END_TEST

START_TEST(a_file_that_cannot_be_read_is_refused)
{
    ck_assert(!profile_file_load("/nonexistent/profile.json", &e));
    ck_assert_str_eq(e.code, "invalid_head_profile");
    ck_assert_ptr_nonnull(strstr(e.message, "No such file"));
    ck_assert(!profile_file_load("/tmp", &e));
    ck_assert_ptr_nonnull(strstr(e.message, "Is a directory"));
    ck_assert(!profile_file_load("/dev/zero", &e));
    ck_assert_ptr_nonnull(strstr(e.message, "longer than"));
}
END_TEST

START_TEST(a_profile_of_another_model_is_refused)
{
    struct head_profile *p = load_text(good);
    ck_assert(head_profile_check(p, 2, 2, HASH, &e));
    ck_assert(!head_profile_check(p, 2, 2, OTHER, &e));
    ck_assert_str_eq(e.code, "invalid_head_profile");
    ck_assert_ptr_nonnull(strstr(e.message, "another model (\"m\""));
    ck_assert(!head_profile_check(p, 3, 2, HASH, &e));
    ck_assert_ptr_nonnull(strstr(e.message, "for 2 layers of 2 KV heads; this model has 3"));
    ck_assert(!head_profile_check(p, 2, 1, HASH, &e));
    head_profile_free(p);
    p = load_text("1 0\n0 1\n");
    ck_assert(head_profile_check(p, 2, 2, HASH, &e));
    ck_assert(!head_profile_check(p, 2, 4, HASH, &e));
    head_profile_free(p);
}
END_TEST

/* ---- calibration */

/* n_layers x n_kv_heads heads with scores of 0. */
static struct calibration blank(uint32_t n_layers, uint32_t n_kv_heads)
{
    size_t n = (size_t)n_layers * n_kv_heads;
    struct calibration c = {.n_layers = n_layers,
                            .n_kv_heads = n_kv_heads,
                            .model_hash = HASH,
                            .induction_percent = CALIBRATE_INDUCTION_PERCENT,
                            .echo_percent = CALIBRATE_ECHO_PERCENT};
    c.induction = calloc(n, sizeof *c.induction);
    c.echo = calloc(n, sizeof *c.echo);
    c.whole = calloc(n, sizeof *c.whole);
    return c;
}

static void clear(struct calibration *c)
{
    free(c->induction);
    free(c->echo);
    free(c->whole);
}

static uint32_t n_chosen(const struct calibration *c)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_layers * c->n_kv_heads; i++)
        n += c->whole[i];
    return n;
}

START_TEST(the_top_14_percent_by_induction_and_1_percent_by_echo_are_chosen)
{
    struct calibration c = blank(10, 5); /* 7 and, rounded up, 1 */
    for (uint32_t i = 0; i < 50; i++) {
        c.induction[i] = (double)(i * 7 % 50) / 50;
        c.echo[i] = (double)i / 100;
    }
    c.echo[20] = 1; /* induction 0.8: not among the first 7 */
    calibration_choose(&c);
    ck_assert_uint_eq(n_chosen(&c), 8);
    for (uint32_t i = 0; i < 50; i++)
        ck_assert_int_eq(c.whole[i], i == 20 || i * 7 % 50 >= 43);
    clear(&c);
    c = blank(1, 1);
    calibration_choose(&c);
    ck_assert_uint_eq(n_chosen(&c), 1);
    clear(&c);
    c = blank(3, 5); /* all equal: ceil(2.1) = 3 by induction, the first of them by echo too */
    calibration_choose(&c);
    ck_assert_uint_eq(n_chosen(&c), 3);
    ck_assert(c.whole[0] && c.whole[1] && c.whole[2]);
    clear(&c);
}
END_TEST

/* Even attention scores 1 / length; a head with less than four times that is not chosen beside heads
 * with more. Where there are none, the percents are chosen. */
START_TEST(a_head_of_chance_is_not_chosen_beside_real_ones)
{
    struct calibration c = blank(4, 3); /* 2 by induction, 1 by echo */
    c.length = 1000;
    c.induction[6] = 0.8;
    c.induction[2] = c.echo[1] = 0.0039;
    calibration_choose(&c);
    ck_assert_uint_eq(n_chosen(&c), 1);
    ck_assert(c.whole[6]);
    ck_assert_uint_eq(c.n_left_out, 2);
    c.induction[2] = 0.004;
    calibration_choose(&c);
    ck_assert(c.whole[6] && c.whole[2]);
    ck_assert_uint_eq(c.n_left_out, 1);
    c.induction[6] = c.induction[2] = 0.003;
    calibration_choose(&c);
    ck_assert(c.whole[6] && c.whole[2] && c.whole[1]);
    ck_assert_uint_eq(c.n_left_out, 0);
    clear(&c);
}
END_TEST

START_TEST(what_calibration_writes_loads)
{
    struct calibration c = blank(3, 2);
    char *text;
    size_t length;
    snprintf(c.model_name, sizeof c.model_name, "a \"model\"\n\xc3\xa9");
    c.seed = UINT64_MAX / 2;
    for (uint32_t i = 0; i < 6; i++)
        c.induction[i] = c.echo[i] = i / 5.0;
    calibration_choose(&c);
    FILE *file = open_memstream(&text, &length);
    ck_assert(calibration_write(&c, file, &e));
    fclose(file);
    struct head_profile *p = load(text, length);
    ck_assert_msg(p != NULL, "%s in %s", e.message, text);
    ck_assert_str_eq(p->model_name, c.model_name);
    ck_assert(head_profile_check(p, 3, 2, HASH, &e));
    for (uint32_t i = 0; i < 6; i++)
        ck_assert_int_eq(head_profile_is_whole(p, 0.5, i / 2, i % 2), c.whole[i]);
    for (uint32_t l = 0; l < 3; l++) /* induction and echo of its two heads */
        ck_assert_double_eq_tol(p->retrieval[l], (2 * l + 2 * l + 1) / 5.0, 1e-12);
    head_profile_free(p);
    free(text);
    clear(&c);
}
END_TEST

static struct model *open_model(void)
{
    struct model *m = model_open(MODEL, NULL, NULL, &e);
    ck_assert_msg(m != NULL, "%s", e.message);
    return m;
}

static struct calibration *run(struct model *m, uint32_t length, uint32_t n_threads, uint64_t seed)
{
    struct calibration_settings s = {.device = &device_cpu,
                                     .n_threads = n_threads,
                                     .length = length,
                                     .seed = seed,
                                     .induction_percent = CALIBRATE_INDUCTION_PERCENT,
                                     .echo_percent = CALIBRATE_ECHO_PERCENT};
    struct calibration *c = calibrate(m, &s, &e);
    ck_assert_msg(c != NULL, "%s", e.message);
    return c;
}

struct copied {
    float *q; /* [n_layers][n_tokens][n_heads * head_dim] */
    size_t layer_floats;
};

static void copy_queries(void *context, uint32_t layer, const float *q, uint32_t n_rows)
{
    struct copied *c = context;
    (void)n_rows;
    memcpy(c->q + layer * c->layer_floats, q, c->layer_floats * sizeof *q);
}

/* The formula of calibrate.h, word by word: all attention of a query, then the sums. */
static void score_plainly(const float *q, size_t q_stride, const float *k, const int32_t *tokens,
                          uint32_t n, uint32_t d, double *echo, double *induction)
{
    double *a = malloc(n * sizeof *a);
    uint32_t n_queries = 0;
    *echo = *induction = 0;
    for (uint32_t i = 0; i < n; i++) {
        double total = 0;
        bool seen = false;
        for (uint32_t j = 0; j <= i; j++) {
            double dot = 0;
            for (uint32_t x = 0; x < d; x++)
                dot += (double)q[i * q_stride + x] * (double)k[j * d + x];
            total += a[j] = exp(dot / sqrt(d));
        }
        for (uint32_t j = 0; j < i; j++) {
            if (tokens[j] != tokens[i])
                continue;
            seen = true;
            *echo += a[j] / total;
            *induction += j + 1 < i ? a[j + 1] / total : 0;
        }
        n_queries += seen;
    }
    *echo /= n_queries;
    *induction /= n_queries;
    free(a);
}

static void compare(const struct model *m, const struct calibration *c, const struct copied *copied,
                    const struct backend *be, const struct cache_sequence *s)
{
    uint32_t group = m->n_heads / m->n_kv_heads, d = m->head_dim;
    float *k = malloc((size_t)c->n_tokens * d * sizeof *k);
    for (uint32_t head = 0; head < m->n_layers * m->n_kv_heads; head++) {
        uint32_t layer = head / m->n_kv_heads, kv_head = head % m->n_kv_heads;
        struct head_view view = cache_view(s, layer, kv_head);
        for (uint32_t i = 0; i < view.n_slots; i++)
            ck_assert_int_eq(be->kv_read(be->self, view.pages[i / PAGE_SLOTS], i % PAGE_SLOTS, d,
                                         k + (size_t)i * d, NULL),
                             (int)i);
        double best_echo = 0, best_induction = 0, echo, induction;
        for (uint32_t g = 0; g < group; g++) {
            const float *q = copied->q + layer * copied->layer_floats + (kv_head * group + g) * d;
            score_plainly(q, m->n_heads * d, k, c->tokens, c->n_tokens, d, &echo, &induction);
            best_echo = fmax(best_echo, echo);
            best_induction = fmax(best_induction, induction);
        }
        /* Float sums against double ones: 1.3e-6 was measured. */
        ck_assert_double_eq_tol(c->echo[head], best_echo, 5e-6 * best_echo);
        ck_assert_double_eq_tol(c->induction[head], best_induction, 5e-6 * best_induction);
    }
    free(k);
}

/* More tokens than a step of calibration has rows, and than the model was trained for: only the
 * arithmetic counts here. */
START_TEST(the_scores_are_those_of_the_formula)
{
    struct model *m = open_model();
    m->n_ctx_train = 2048;
    struct calibration *c = run(m, 171, 2, 5);
    ck_assert_uint_eq(c->repeats, 4);
    ck_assert_uint_eq(c->n_tokens, 685);
    struct copied copied = {.layer_floats = (size_t)c->n_tokens * m->n_heads * m->head_dim};
    copied.q = malloc(m->n_layers * copied.layer_floats * sizeof *copied.q);
    struct backend be;
    struct plan_limits limits = {.n_ctx_train = m->n_ctx_train, .storage = STORAGE_F16};
    struct plan plan = plan_of_text("full", c->n_tokens, &limits);
    uint32_t n_pages = (c->n_tokens / PAGE_SLOTS + 1) * m->n_layers * m->n_kv_heads;
    ck_assert(backend_cpu_open(&be, 1, NULL, &e) && be.kv_alloc(be.self, n_pages, m->head_dim, &e));
    struct cache *cache = cache_new(m->n_layers, m->n_kv_heads, m->head_dim, n_pages, &e);
    struct batch *batch = batch_new(cache, m, c->n_tokens, 1, &e);
    struct forward *forward = forward_new(&be, m, c->n_tokens, 1, &e);
    struct cache_sequence *s = cache_sequence_new(cache, &plan, &e);
    ck_assert(forward_set_observer(forward, copy_queries, &copied, &e) &&
              batch_add(batch, s, c->tokens, c->n_tokens, 0, NULL, &e) &&
              forward_run(forward, batch, &e));
    compare(m, c, &copied, &be, s);
    cache_sequence_free(s);
    forward_free(forward);
    batch_free(batch);
    cache_free(cache);
    be.kv_free(be.self);
    be.close(be.self);
    free(copied.q);
    calibration_free(c);
    model_close(m);
}
END_TEST

START_TEST(threads_do_not_change_a_bit_and_the_seed_does)
{
    struct model *m = open_model();
    size_t n = (size_t)m->n_layers * m->n_kv_heads;
    struct calibration *one = run(m, 100, 1, 1), *three = run(m, 100, 3, 1);
    struct calibration *other = run(m, 100, 1, 2);
    ck_assert_mem_eq(one->echo, three->echo, n * sizeof *one->echo);
    ck_assert_mem_eq(one->induction, three->induction, n * sizeof *one->echo);
    ck_assert_mem_ne(one->tokens, other->tokens, one->n_tokens * sizeof *one->tokens);
    ck_assert_mem_ne(one->echo, other->echo, n * sizeof *one->echo);
    calibration_free(one);
    calibration_free(three);
    calibration_free(other);
    model_close(m);
}
END_TEST

START_TEST(the_length_fits_the_context_at_least_twice)
{
    struct model *m = open_model(); /* trained for 512 tokens, and it has a BOS */
    struct calibration_settings s = {.device = &device_cpu, .n_threads = 1};
    struct calibration *c = calibrate(m, &s, &e);
    ck_assert(c && c->bos && c->length == 255 && c->repeats == 2 && c->n_tokens == 511);
    calibration_free(c);
    s.length = 150;
    c = calibrate(m, &s, &e);
    ck_assert(c && c->length == 150 && c->repeats == 3);
    ck_assert_int_eq(c->tokens[1], c->tokens[151]);
    calibration_free(c);
    s.length = 256;
    ck_assert(!calibrate(m, &s, &e));
    ck_assert_str_eq(e.where, "--length");
    ck_assert_ptr_nonnull(strstr(e.message, "8 to 255"));
    s.length = 7;
    ck_assert(!calibrate(m, &s, &e));
    model_close(m);
}
END_TEST

static bool stop(void *context, uint32_t n_done, uint32_t n_total)
{
    ck_assert_uint_le(n_done, n_total);
    ++*(unsigned *)context;
    return false;
}

START_TEST(calibration_stops_when_asked)
{
    struct model *m = open_model();
    unsigned n_calls = 0;
    m->n_ctx_train = 4096;
    struct calibration_settings s = {
        .device = &device_cpu, .n_threads = 1, .progress = stop, .progress_context = &n_calls};
    ck_assert(!calibrate(m, &s, &e));
    ck_assert_str_eq(e.code, "cancelled");
    ck_assert_uint_eq(n_calls, 1);
    model_close(m);
}
END_TEST

/* ---- hashes */

START_TEST(sha256_gives_the_published_digests)
{
    static char million[1000000];
    memset(million, 'a', sizeof million);
    const struct {
        const char *text;
        size_t length;
        const char *digest;
    } rows[] = {
        {"", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {million, sizeof million,
         "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
    };
    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t piece = 1; piece <= 200; piece += 66) {
            struct sha256 s;
            uint8_t digest[32];
            char hex[65];
            sha256_init(&s);
            for (size_t at = 0; at < rows[i].length; at += piece)
                sha256_add(&s, rows[i].text + at,
                           piece < rows[i].length - at ? piece : rows[i].length - at);
            sha256_finish(&s, digest);
            sha256_hex(digest, hex);
            ck_assert_str_eq(hex, rows[i].digest);
        }
}
END_TEST

/* The hash is in users' files: it must not change with the program. */
START_TEST(a_model_keeps_its_hash)
{
    char hash[65];
    struct model *m = open_model();
    ck_assert_str_eq(model_hash(m, hash),
                     "7fbc33f19142a12353b61693c73f5a6665a185a6e7ce0ca65cd89fc6b0d714ce");
    model_close(m);
}
END_TEST

/* NAME.heads.json beside NAME.gguf, or beside a file of any other name. */
START_TEST(a_profile_beside_the_model_is_found)
{
    char folder[] = "/tmp/winnow-beside-XXXXXX", profile[64];
    ck_assert_ptr_nonnull(mkdtemp(folder));
    static const char *const models[] = {"a model.gguf", "blob", "x.gguf.gguf"};
    static const char *const beside[] = {"a model.heads.json", "blob.heads.json",
                                         "x.gguf.heads.json"};
    for (uint32_t i = 0; i < 3; i++) {
        char model[64];
        snprintf(model, sizeof model, "%s/%s", folder, models[i]);
        ck_assert_ptr_null(profile_file_beside(model));
        snprintf(profile, sizeof profile, "%s/%s", folder, beside[i]);
        fclose(fopen(profile, "w"));
        char *found = profile_file_beside(model);
        ck_assert_str_eq(found, profile);
        free(found);
        unlink(profile);
    }
    rmdir(folder);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("head_profile");
    TCase *t = suite_case(suite, "head_profile", 120);
    tcase_add_test(t, a_pattern_is_a_line_a_layer);
    tcase_add_test(t, a_broken_pattern_says_where);
    tcase_add_test(t, a_pattern_of_any_shape_up_to_the_limits_loads);
    tcase_add_test(t, the_sparsity_quantile_is_the_threshold);
    tcase_add_test(t, equal_values_do_not_change_how_many_are_whole);
    tcase_add_test(t, a_calibrated_profile_names_its_heads);
    tcase_add_test(t, a_broken_profile_says_what);
    tcase_add_test(t, a_file_that_cannot_be_read_is_refused);
    tcase_add_test(t, a_profile_beside_the_model_is_found);
    tcase_add_test(t, a_profile_of_another_model_is_refused);
    tcase_add_test(t, the_top_14_percent_by_induction_and_1_percent_by_echo_are_chosen);
    tcase_add_test(t, a_head_of_chance_is_not_chosen_beside_real_ones);
    tcase_add_test(t, what_calibration_writes_loads);
    tcase_add_test(t, the_scores_are_those_of_the_formula);
    tcase_add_test(t, threads_do_not_change_a_bit_and_the_seed_does);
    tcase_add_test(t, the_length_fits_the_context_at_least_twice);
    tcase_add_test(t, calibration_stops_when_asked);
    tcase_add_test(t, sha256_gives_the_published_digests);
    tcase_add_test(t, a_model_keeps_its_hash);
    return suite_run(suite);
}
