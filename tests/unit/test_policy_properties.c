/* The properties of cache/POLICIES.md for every preset on random tensors of odd shapes, without
 * a model: groups of 1 to 8 query heads, head dimensions 16 to 256, 1 to 5 KV heads, all
 * storages, scores that are equal, steep, huge, tiny or NaN. The double-precision reference
 * reads keys and values as the cache stored them, so only float arithmetic differs.
 * test_policies.c does the same with the tensors of a real model, whose layers build on one
 * another. */
#include "tests/reference/policy.h"
#include "tests/suite.h"
#include "tests/unit/plan_of_text.h"
#include "tests/unit/tensor_machine.h"

#define MOST_LAYERS   3
#define MOST_KV_HEADS 5
#define MOST_HEADS    (MOST_LAYERS * MOST_KV_HEADS)
#define EPSILON       0x1p-24

/* %u: a budget of 24 to 70 slots, or what stands for it. Every preset has a row. */
static const char *const rows[] = {
    "{\"name\":\"full\"}",
    "{\"name\":\"sink\",\"budget\":%u}",
    "{\"name\":\"h2o\",\"budget\":%u}",
    "{\"name\":\"snapkv\",\"budget\":%u,\"window\":5}",
    "{\"name\":\"razor\",\"min_window\":%u}",
    "{\"name\":\"duo\",\"sinks\":3,\"recent\":%u}",
    "{\"name\":\"tova\",\"budget\":%u}",
    "{\"name\":\"scissorhands\",\"budget\":%u}",
    "{\"name\":\"pyramidkv\",\"budget\":%u,\"window\":9,\"sinks\":2}",
    "{\"name\":\"adakv\",\"budget\":%u,\"window\":4,\"kernel\":5}",
    "{\"name\":\"compresskv\",\"budget\":%u,\"window\":6}",
    "{\"name\":\"knorm\",\"budget\":%u,\"recent\":7}",
    "{\"name\":\"keydiff\",\"budget\":%u,\"recent\":7}",
    "{\"name\":\"random\",\"budget\":%u,\"recent\":7,\"seed\":5}",
    "{\"name\":\"sink\",\"budget\":%u,\"sinks\":0,\"positions\":\"original\"}",
    "{\"name\":\"h2o\",\"budget\":%u,\"remnant\":\"mean\",\"interval\":3}",
    "{\"name\":\"h2o\",\"budget\":%u,\"scorer\":\"attention_mean\",\"sinks\":0}",
    "{\"name\":\"snapkv\",\"budget\":%u,\"window\":11,\"pool\":\"max\",\"decode\":\"evict\"}",
    "{\"name\":\"tova\",\"budget\":%u,\"share\":\"head\",\"interval\":5}",
    "{\"name\":\"adakv\",\"budget\":%u,\"window\":3,\"decode\":\"evict\",\"remnant\":\"mean\"}",
    "{\"name\":\"pyramidkv\",\"budget\":%u,\"scorer\":\"last_query\",\"recent\":6,"
    "\"decode\":\"evict\"}",
    "{\"name\":\"compresskv\",\"budget\":%u,\"window\":8,\"sinks\":1,\"decode\":\"evict\","
    "\"remnant\":\"mean\"}",
    "{\"name\":\"duo\",\"sinks\":2,\"recent\":%u,\"prefill\":\"full\",\"scorer\":\"key_norm\"}",
    "{\"name\":\"keydiff\",\"budget\":%u,\"recent\":7,\"share\":\"layer\",\"interval\":4}",
    "{\"name\":\"adakv\",\"budget\":%u,\"window\":4,\"allocation\":\"adaptive_floor\"}",
};
enum { N_ROWS = sizeof rows / sizeof *rows };

START_TEST(every_preset_is_tested)
{
    for (uint32_t i = 0; i < preset_count(); i++) {
        char wanted[64];
        uint32_t n = 0;
        snprintf(wanted, sizeof wanted, "{\"name\":\"%s\"", preset_at(i)->name);
        for (uint32_t k = 0; k < N_ROWS; k++)
            n += !strncmp(rows[k], wanted, strlen(wanted));
        ck_assert_msg(n > 0, "%s has no row", preset_at(i)->name);
    }
}
END_TEST

/* ---- what is drawn */

struct drawn_profile {
    bool whole[MOST_HEADS];
    double value[MOST_HEADS], retrieval[MOST_LAYERS];
    struct head_profile profile;
};

static void draw_profile(struct drawn_profile *d, const struct shape *s)
{
    for (uint32_t i = 0; i < MOST_HEADS; i++) {
        d->whole[i] = random_below(3) == 0;
        d->value[i] = random_below(5) / 4.0;
    }
    for (uint32_t l = 0; l < MOST_LAYERS; l++)
        d->retrieval[l] = random_below(3) ? random_below(100) / 50.0 : 0;
    d->profile = (struct head_profile){.n_layers = s->n_layers,
                                       .n_kv_heads = s->n_kv_heads,
                                       .is_pattern = random_below(2),
                                       .value = d->value,
                                       .whole = d->whole,
                                       .retrieval = d->retrieval};
}

/* Wide heads come in small numbers, so that a round stays short. */
static struct shape draw_shape(void)
{
    static const uint32_t dims[] = {16, 24, 33, 40, 64, 80, 96, 100, 128, 256};
    struct shape s;
    do {
        s = (struct shape){.n_layers = 1 + random_below(MOST_LAYERS),
                           .n_kv_heads = 1 + random_below(MOST_KV_HEADS),
                           .group = 1 + random_below(8),
                           .head_dim = dims[random_below(10)],
                           .storage = (enum plan_storage)random_below(4)};
    } while (s.n_layers * s.n_kv_heads * s.group * s.head_dim > 1500);
    return s;
}

static struct plan plan_of(const char *row, uint32_t budget, uint32_t n_prompt,
                           const struct shape *s, const struct head_profile *profile)
{
    char json[256];
    struct plan_limits limits = {.n_ctx_train = 1000, .profile = profile, .storage = s->storage};
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(json, sizeof json, row, budget);
#pragma GCC diagnostic pop
    return plan_of_text(json, n_prompt, &limits);
}

/* ---- the reference over the tensors of one reader */

struct referee {
    const struct reader *r;
    const struct shape *shape;
    struct policy *policy;
    double largest_logit, largest_v;
    double *k, *v, *p, *mean, *out;   /* of one token: [head_dim], [n], [n], [head_dim] */
    bool diverged[MOST_HEADS];        /* a close call went the other way: no comparison any more */
    double closest[MOST_HEADS];       /* margins up to the last look */
    uint32_t n_outputs, n_heads_seen; /* compared */
};

static struct referee referee_open(const struct reader *r, const struct shape *s,
                                   const struct head_profile *profile)
{
    struct referee f = {.r = r, .shape = s};
    uint32_t n = r->tensors->n;
    f.policy = policy_new(&r->plan, profile, s->n_layers, s->n_kv_heads, s->head_dim, n);
    policy_set_prompt(f.policy, r->n_prompt);
    f.k = calloc(s->head_dim, sizeof *f.k);
    f.v = calloc(s->head_dim, sizeof *f.v);
    f.out = calloc(s->head_dim, sizeof *f.out);
    f.p = calloc(n + 1, sizeof *f.p);
    f.mean = calloc(n + 1, sizeof *f.mean);
    ck_assert(f.k && f.v && f.out && f.p && f.mean);
    return f;
}

static void referee_close(struct referee *f)
{
    policy_free(f->policy);
    free(f->k);
    free(f->v);
    free(f->p);
    free(f->mean);
    free(f->out);
}

static const float *stored(const struct referee *f, const float *from, uint32_t l, uint32_t h,
                           uint32_t t)
{
    return from +
           (((size_t)l * f->r->tensors->n + t) * f->shape->n_kv_heads + h) * f->shape->head_dim;
}

/* A relative error of a probability: that of a logit (a sum of head_dim products, two roundings
 * each, over keys that a summary has averaged for up to n tokens) and of the largest one, and some
 * for exp, for rescaling from page to page and for the sum of n terms; a score adds another n. */
static double error_of(const struct referee *f)
{
    double n = f->r->tensors->n, d = f->shape->head_dim;
    return ((2 * d + 3 + n) * 2 * f->largest_logit + 6 * n + 60) * EPSILON;
}

/* One query head over the tokens `kept` and the summary: probabilities in f->p, values in f->out.
 */
static void attend(struct referee *f, uint32_t l, uint32_t h, uint32_t g, uint32_t t,
                   const uint32_t *kept, uint32_t n)
{
    const struct tensors *x = f->r->tensors;
    uint32_t d = f->shape->head_dim;
    size_t at = ((size_t)l * x->n + t) * x->q_width + (size_t)(h * f->shape->group + g) * d;
    const double *mean_k, *mean_v;
    uint32_t n_summary = policy_summary(f->policy, l, h, &mean_k, &mean_v);
    uint32_t count = n + (n_summary > 0);
    double largest = -INFINITY, total = 0;
    for (uint32_t i = 0; i < count; i++) {
        const float *k = i < n ? stored(f, f->r->k, l, h, kept[i]) : NULL;
        bool as_sink =
            f->r->plan.positions == POSITIONS_CACHE && i < n && kept[i] < f->r->plan.sinks;
        const float *q = (as_sink ? x->q_sink : x->q) + at;
        double dot = 0;
        for (uint32_t c = 0; c < d; c++)
            dot += (double)q[c] * (k ? (double)k[c] : mean_k[c]);
        f->p[i] = dot / sqrt(d) + (k ? 0 : log(n_summary));
        largest = fmax(largest, f->p[i]);
        f->largest_logit = fmax(f->largest_logit, fabs(f->p[i]));
    }
    for (uint32_t i = 0; i < count; i++)
        total += f->p[i] = exp(f->p[i] - largest);
    memset(f->out, 0, d * sizeof *f->out);
    for (uint32_t i = 0; i < count; i++) {
        const float *v = i < n ? stored(f, f->r->v, l, h, kept[i]) : NULL;
        f->p[i] /= total;
        for (uint32_t c = 0; c < d; c++) {
            double value = v ? (double)v[c] : mean_v[c];
            f->out[c] += f->p[i] * value;
            f->largest_v = fmax(f->largest_v, fabs(value));
        }
    }
}

/* What a GPU's products round besides sums: quantised values to halves, and the weights over f16
 * pages in a prompt (cuda/kernels/attention_prefill.cu: one part of P). Half a unit in the last
 * of 11 bits each, and the weights add up to 1. bfloat16 takes weights in two parts. */
static double value_rounding(enum plan_storage storage)
{
    return test_device_is_cpu() || storage == STORAGE_BF16 ? 0 : 0x1p-11;
}

/* Token t of layer l by the definition; the machine's result must be that. */
static void judge_token(struct referee *f, const char *what, uint32_t l, uint32_t t)
{
    const struct shape *s = f->shape;
    const struct tensors *x = f->r->tensors;
    uint32_t d = s->head_dim, n;
    for (uint32_t h = 0; h < s->n_kv_heads; h++) {
        for (uint32_t c = 0; c < d; c++) {
            f->k[c] = (double)stored(f, f->r->k, l, h, t)[c];
            f->v[c] = (double)stored(f, f->r->v, l, h, t)[c];
        }
        policy_store(f->policy, l, h, t, f->k, f->v);
        const uint32_t *kept = policy_sees(f->policy, l, h, t, &n);
        memset(f->mean, 0, n * sizeof *f->mean);
        for (uint32_t g = 0; g < s->group; g++) {
            attend(f, l, h, g, t, kept, n);
            const float *got =
                f->r->out + ((size_t)l * x->n + t) * x->q_width + (size_t)(h * s->group + g) * d;
            double bound = (2 * error_of(f) + value_rounding(s->storage)) * f->largest_v;
            for (uint32_t c = 0; c < d && !f->diverged[l * s->n_kv_heads + h]; c++)
                require(isnan(f->out[c]) ? isnan(got[c])
                                         : fabs((double)got[c] - f->out[c]) <= bound,
                        "%s: token %u, layer %u, head %u of group %u, dimension %u: %.9g, "
                        "should be %.9g +- %.3g",
                        what, t, l, g, h, c, (double)got[c], f->out[c], bound);
            for (uint32_t i = 0; i < n; i++)
                f->mean[i] += f->p[i] / s->group;
            f->n_outputs++;
        }
        policy_attended(f->policy, l, h, t, f->mean);
    }
    policy_end_layer(f->policy, l, t);
}

/* Whether the heads of a layer choose together: then one close call changes all of them. */
static bool choose_together(const struct plan *p)
{
    return p->share == SHARE_LAYER || plan_competes(p);
}

static void judge_kept(struct referee *f, const char *what, enum kind kind)
{
    const struct shape *s = f->shape;
    uint32_t n_tokens = f->r->tensors->n, n;
    bool *held = reader_held(f->r, s);
    bool together = choose_together(&f->r->plan);
    for (uint32_t i = 0; i < s->n_layers * s->n_kv_heads; i++) {
        const uint32_t *kept = policy_kept(f->policy, i / s->n_kv_heads, i % s->n_kv_heads, &n);
        uint32_t n_held = 0, n_common = 0;
        for (uint32_t p = 0; p < n_tokens; p++)
            n_held += held[(size_t)i * n_tokens + p];
        for (uint32_t k = 0; k < n; k++)
            n_common += held[(size_t)i * n_tokens + kept[k]];
        f->n_heads_seen++;
        if (f->diverged[i] || (n_held == n && n_common == n))
            continue;
        /* Equal scores are equal in floats too: there ties must go the right way. */
        double margin = policy_margin(f->policy, i / s->n_kv_heads, i % s->n_kv_heads),
               tie = kind == EQUAL ? 0 : 2 * error_of(f);
        require(margin < tie,
                "%s: layer %u, head %u after %u tokens holds %u, %u of the %u that it should, "
                "though the closest call was %.3g apart (%.3g could be a tie)",
                what, i / s->n_kv_heads, i % s->n_kv_heads, f->r->done, n_held, n_common, n, margin,
                tie);
        uint32_t first = together ? i / s->n_kv_heads * s->n_kv_heads : i;
        for (uint32_t k = first; k <= (together ? first + s->n_kv_heads - 1 : i); k++)
            f->diverged[k] = true;
    }
    free(held);
}

/* The mean of what a head dropped, computed from all its tokens without the reference. */
static void judge_summaries(const struct reader *r, const struct shape *s, const char *what)
{
    if (r->plan.remnant != REMNANT_MEAN)
        return;
    uint32_t n = r->tensors->n, d = s->head_dim;
    bool *held = reader_held(r, s);
    for (uint32_t i = 0; i < s->n_layers * s->n_kv_heads; i++) {
        float means[2 * 256];
        uint32_t n_lost = 0, n_summed = summary_of(r, i, means);
        for (uint32_t p = 0; p < r->done; p++)
            n_lost += !held[(size_t)i * n + p];
        require(n_lost == n_summed ||
                    !cache_head(r->s, i / s->n_kv_heads, i % s->n_kv_heads)->summary,
                "%s: %u lost, %u summed", what, n_lost, n_summed);
        if (n_summed == 0)
            continue;
        for (uint32_t c = 0; c < 2 * d && n_lost > 0; c++) {
            double sum = 0, largest = 0;
            for (uint32_t p = 0; p < r->done; p++) {
                size_t at =
                    (((size_t)(i / s->n_kv_heads) * n + p) * s->n_kv_heads + i % s->n_kv_heads) *
                        d +
                    c % d;
                double value = (double)(c < d ? r->k : r->v)[at];
                sum += held[(size_t)i * n + p] ? 0 : value;
                largest = fmax(largest, fabs(value));
            }
            double want = sum / n_lost, got = (double)means[c];
            /* Three roundings a token, none larger than twice the largest value. */
            require(isnan(want) ? isnan(got) : fabs(got - want) <= 6 * n_lost * EPSILON * largest,
                    "%s: head %u, dimension %u: the mean of %u tokens is %.9g, not %.9g", what, i,
                    c, n_lost, want, got);
        }
    }
    free(held);
}

/* Pages of a sequence's bound, from a cache of its own. */
static uint64_t bound_of(const struct plan *plan, const struct shape *s,
                         const struct head_profile *profile, uint32_t n_prompt, uint32_t n)
{
    struct error e;
    struct cache *c = cache_new(s->n_layers, s->n_kv_heads, s->head_dim, 1, &e);
    ck_assert_ptr_nonnull(c);
    cache_set_profile(c, profile);
    uint64_t pages = cache_bound_pages(c, plan, n_prompt, n);
    cache_free(c);
    return pages;
}

static const char *describe(const char *row, const struct shape *s, enum kind kind, uint32_t budget,
                            uint32_t n_prompt)
{
    static char text[400];
    snprintf(text, sizeof text,
             "%s of %u, %u layers, %u KV heads of %u query heads, dimension %u, %s, %s, prompt of "
             "%u",
             row, budget, s->n_layers, s->n_kv_heads, s->group, s->head_dim,
             plan_storage_name(s->storage), kind_names[kind], n_prompt);
    return text;
}

/* ---- properties 2, 4 and 6, step by step */

static const char *some_isa(void)
{
    return random_below(3) ? NULL : "plain";
}

/* A whole sequence in a pool that has its bound and no page more. */
static void judge_sequence(const char *row, enum kind kind, uint32_t counts[2])
{
    enum { STEPS = 24 };
    struct shape s = draw_shape();
    struct drawn_profile d;
    struct machine m;
    struct reader r;
    if (kind == NAN_KEY) /* the others have no NaN to store */
        s.storage = random_below(2) ? STORAGE_F16 : STORAGE_BF16;
    uint32_t budget = 24 + random_below(47), n_prompt = 3 + random_below(150), n = n_prompt + STEPS,
             chunk = 1 + random_below(n_prompt);
    draw_profile(&d, &s);
    struct plan plan = plan_of(row, budget, n_prompt, &s, &d.profile);
    /* A Scissorhands query compares with 1 / n, the very probability that every token has then. */
    if (plan.scorer == SCORER_PERSISTENCE && kind == EQUAL)
        kind = ORDINARY;
    const char *what = describe(row, &s, kind, budget, n_prompt);
    struct tensors t = tensors_draw(&s, n, kind);
    machine_open(&m, &s, &d.profile, some_isa(), 1 + random_below(2),
                 (uint32_t)bound_of(&plan, &s, &d.profile, n_prompt, n), chunk > 3 ? chunk : 3);
    reader_open(&r, &m, &t, &plan, n_prompt);
    struct referee f = referee_open(&r, &s, &d.profile);
    while (r.done < n) {
        uint32_t first = r.done, decode = 1 + random_below(3);
        r.n_next = reader_rows(&r, first < n_prompt ? chunk : decode);
        machine_step(&m, (struct reader *[]){&r}, 1);
        machine_audit(&m, what);
        for (uint32_t l = 0; l < s.n_layers; l++)
            for (uint32_t i = first; i < r.done; i++)
                judge_token(&f, what, l, i);
        judge_kept(&f, what, kind);
        if (r.done < n_prompt)
            continue;
        judge_summaries(&r, &s, what);
        uint64_t settled = cache_settled_pages(m.cache, &plan, n_prompt, r.done);
        ck_assert_msg(cache_counts(m.cache).used <= settled, "%s: %u pages, %llu when settled",
                      what, cache_counts(m.cache).used, (unsigned long long)settled);
    }
    uint32_t step = choose_together(&plan) ? s.n_kv_heads : 1;
    for (uint32_t i = 0; i < s.n_layers * s.n_kv_heads; i += step)
        counts[f.diverged[i]]++;
    referee_close(&f);
    reader_close(&r);
    tensors_free(&t);
    machine_close(&m);
}

START_TEST(kept_slots_outputs_and_summaries_are_the_references)
{
    uint32_t counts[2] = {0, 0};
    random_state = 100 + (uint64_t)_i;
    for (uint32_t round = 0; round < 2 * N_KINDS; round++)
        judge_sequence(rows[_i], (enum kind)(round % N_KINDS), counts);
    printf("%s: %u heads or layers, %u close calls that went the other way\n", rows[_i],
           counts[0] + counts[1], counts[1]);
    ck_assert(counts[1] <= 1 || counts[1] * 20 <= counts[0] + counts[1]);
}
END_TEST

/* ---- properties 1 and 3: bits */

/* Alone, in chunks of `chunk`. */
static void read_alone(struct machine *m, struct reader *r, uint32_t chunk)
{
    while (r->done < r->tensors->n) {
        r->n_next = reader_rows(r, r->done < r->n_prompt ? chunk : 1);
        machine_step(m, (struct reader *[]){r}, 1);
    }
}

static void assert_same(const char *what, const struct reader *a, const struct reader *b,
                        const struct shape *s)
{
    size_t n_out = (size_t)s->n_layers * a->tensors->n * a->tensors->q_width,
           n_held = (size_t)s->n_layers * s->n_kv_heads * a->tensors->n;
    bool *x = reader_held(a, s), *y = reader_held(b, s);
    /* A GPU computes one row and many by different kernels: sums in another order. */
    for (size_t i = 0; i < n_out; i++)
        require(test_device_is_cpu()
                    ? !memcmp(&a->out[i], &b->out[i], sizeof *a->out)
                    : fabsf(a->out[i] - b->out[i]) <= 2e-3f * fmaxf(1, fabsf(a->out[i])),
                "%s: output %zu is %.9g and %.9g", what, i, (double)a->out[i], (double)b->out[i]);
    ck_assert_msg(!memcmp(x, y, n_held * sizeof *x), "%s: other slots are held", what);
    for (uint32_t i = 0; i < s->n_layers * s->n_kv_heads; i++) {
        float p[2 * 256], q[2 * 256];
        uint32_t n_p = summary_of(a, i, p), n_q = summary_of(b, i, q);
        ck_assert_msg(n_p == n_q && (n_p == 0 || !memcmp(p, q, 2 * s->head_dim * sizeof *p)),
                      "%s: another summary", what);
    }
    free(x);
    free(y);
}

/* Chunks of any size, three other sequences with plans and lengths of their own, one of which is
 * cancelled in the middle of its prompt. */
START_TEST(chunks_and_mates_change_no_bit)
{
    random_state = 200 + (uint64_t)_i;
    for (uint32_t round = 0; round < 3; round++) {
        struct shape s = draw_shape();
        struct drawn_profile d;
        struct machine m;
        struct tensors t[MOST_MATES];
        struct reader alone, crowd[MOST_MATES], *all[MOST_MATES];
        enum kind kind = round == 2 ? STEEP : ORDINARY;
        uint32_t budget = 24 + random_below(40), n_prompt[MOST_MATES], n_running = MOST_MATES;
        draw_profile(&d, &s);
        machine_open(&m, &s, &d.profile, some_isa(), 1 + random_below(2), 1500, 400);
        for (uint32_t i = 0; i < MOST_MATES; i++) {
            n_prompt[i] = 60 + random_below(80);
            t[i] = tensors_draw(&s, n_prompt[i] + 12, kind);
            const char *row = i == 0 ? rows[_i] : rows[random_below(N_ROWS)];
            struct plan plan = plan_of(row, budget, n_prompt[i], &s, &d.profile);
            reader_open(&crowd[i], &m, &t[i], &plan, n_prompt[i]);
            all[i] = &crowd[i];
            if (i == 0)
                reader_open(&alone, &m, &t[0], &plan, n_prompt[0]);
        }
        const char *what = describe(rows[_i], &s, kind, budget, n_prompt[0]);
        read_alone(&m, &alone, n_prompt[0]);
        bool cancelled = false;
        while (n_running > 0) {
            n_running = 0;
            for (uint32_t i = 0; i < MOST_MATES; i++) {
                uint32_t wanted = random_below(30);
                bool leaves = i == 3 && (cancelled || crowd[i].done > n_prompt[i] / 2);
                crowd[i].n_next =
                    leaves
                        ? 0
                        : reader_rows(&crowd[i], crowd[i].done < n_prompt[i] ? wanted : wanted % 3);
                n_running += !leaves && crowd[i].done < t[i].n;
                if (leaves && !cancelled) {
                    cache_sequence_free(crowd[i].s);
                    crowd[i].s = NULL;
                    cancelled = true;
                }
            }
            machine_step(&m, all, MOST_MATES);
            machine_audit(&m, what);
        }
        assert_same(what, &alone, &crowd[0], &s);
        reader_close(&alone);
        for (uint32_t i = 0; i < MOST_MATES; i++) {
            reader_close(&crowd[i]);
            tensors_free(&t[i]);
        }
        machine_close(&m);
    }
}
END_TEST

START_TEST(room_for_everything_is_full_attention_to_the_bit)
{
    random_state = 300 + (uint64_t)_i;
    for (uint32_t round = 0; round < 3; round++) {
        struct shape s = draw_shape();
        struct drawn_profile d;
        struct machine m;
        struct reader full, roomy;
        uint32_t n_prompt = 30 + random_below(100), n = n_prompt + 10;
        struct tensors t = tensors_draw(&s, n, round == 1 ? STEEP : ORDINARY);
        draw_profile(&d, &s);
        machine_open(&m, &s, &d.profile, some_isa(), 1 + random_below(2), 400, n_prompt);
        struct plan plan = plan_of(rows[_i], n, n_prompt, &s, &d.profile);
        /* While nothing was dropped a sink's second rotation is the first. */
        memcpy(t.q_sink, t.q, (size_t)t.n_layers * n * t.q_width * sizeof(float));
        reader_open(&roomy, &m, &t, &plan, n_prompt);
        plan = plan_of(rows[0], 0, n_prompt, &s, &d.profile);
        reader_open(&full, &m, &t, &plan, n_prompt);
        read_alone(&m, &full, n_prompt);
        read_alone(&m, &roomy, 1 + random_below(n_prompt));
        assert_same(describe(rows[_i], &s, ORDINARY, n, n_prompt), &full, &roomy, &s);
        reader_close(&full);
        reader_close(&roomy);
        tensors_free(&t);
        machine_close(&m);
    }
}
END_TEST

/* ---- property 7 */

/* Three thousand steps under every row that drops while it decodes: the slots held settle,
 * summaries stay the mean, numbers stay finite. Razor's window and whole heads grow, as they
 * should: they may not pass the bound. */
START_TEST(thousands_of_steps_do_not_grow_nor_drift)
{
    enum { PROMPT = 61, LENGTH = 3061 };
    random_state = 400 + (uint64_t)_i;
    struct shape s = {.n_layers = 2,
                      .n_kv_heads = 2,
                      .group = 1 + random_below(3),
                      .head_dim = 24,
                      .storage = (enum plan_storage)(_i % 4)};
    struct drawn_profile d;
    struct machine m;
    struct reader r;
    draw_profile(&d, &s);
    struct plan plan = plan_of(rows[_i], 40, PROMPT, &s, &d.profile);
    if (plan.decode != DECODE_EVICT)
        return;
    const char *what = describe(rows[_i], &s, ORDINARY, 40, PROMPT);
    struct tensors t = tensors_draw(&s, LENGTH, ORDINARY);
    machine_open(&m, &s, &d.profile, NULL, 1,
                 (uint32_t)bound_of(&plan, &s, &d.profile, PROMPT, LENGTH), PROMPT);
    reader_open(&r, &m, &t, &plan, PROMPT);
    uint32_t most = 0, early = 0;
    while (r.done < LENGTH) {
        r.n_next = reader_rows(&r, r.done < PROMPT ? PROMPT : 1);
        machine_step(&m, (struct reader *[]){&r}, 1);
        uint32_t used = cache_counts(m.cache).used;
        most = used > most && r.done > PROMPT ? used : most;
        early = r.done == PROMPT + 200 ? most : early;
        if (r.done % 499 == 0) {
            machine_audit(&m, what);
            judge_summaries(&r, &s, what);
        }
    }
    if (plan.allocation != ALLOCATION_PROFILE || plan_profile_votes(&plan))
        ck_assert_msg(most == early, "%s: %u pages, %u after 200 steps", what, most, early);
    for (size_t i = 0; i < (size_t)s.n_layers * LENGTH * t.q_width; i++)
        require(isfinite(r.out[i]), "%s: output %zu", what, i);
    reader_close(&r);
    tensors_free(&t);
    machine_close(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("policy_properties");
    TCase *t = suite_case(suite, "policy_properties", 120);
    tcase_add_test(t, every_preset_is_tested);
    add_part_of_loop_test(t, kept_slots_outputs_and_summaries_are_the_references, 0, N_ROWS);
    add_part_of_loop_test(t, chunks_and_mates_change_no_bit, 0, N_ROWS);
    add_part_of_loop_test(t, room_for_everything_is_full_attention_to_the_bit, 1, N_ROWS);
    add_part_of_loop_test(t, thousands_of_steps_do_not_grow_nor_drift, 1, N_ROWS);
    return suite_run(suite);
}
