/* Every stage of the sampler on cases small enough to work out by hand, and the draw by statistics
 * with fixed seeds. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/compute/logprobs.h"
#include "engine/compute/sampler.h"
#include "tests/suite.h"

static const struct sampling plain = {
    .temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .seed = 42};

/* Logits of tokens 0..4 with probabilities 0.4, 0.3, 0.15, 0.1, 0.05 at temperature 1. */
static const double five[5] = {0.4, 0.3, 0.15, 0.1, 0.05};
static void five_logits(float *logits)
{
    for (int i = 0; i < 5; i++)
        logits[i] = (float)log(five[i]) + 3;
}

/* Draws n tokens and counts them. */
static void count(const struct sampling *set, const float *logits, uint32_t n_vocab,
                  const int32_t *masked, uint32_t n_masked, uint32_t n, uint32_t *counts)
{
    struct error e;
    struct sampler_scratch *scratch = sampler_scratch_new(n_vocab, &e);
    struct sampler *s = sampler_new(set, 0, n_vocab, NULL, 0, &e);
    ck_assert(scratch && s);
    memset(counts, 0, n_vocab * sizeof *counts);
    for (uint32_t i = 0; i < n; i++) {
        int32_t token = sampler_pick(s, scratch, logits, masked, n_masked, i);
        ck_assert_int_ge(token, 0);
        ck_assert_int_lt(token, (int32_t)n_vocab);
        counts[token]++;
    }
    sampler_free(s);
    sampler_scratch_free(scratch);
}

static int32_t pick(const struct sampling *set, const float *logits, uint32_t n_vocab,
                    const int32_t *prompt, uint32_t n_prompt, const int32_t *generated,
                    uint32_t n_generated, const int32_t *masked, uint32_t n_masked)
{
    struct error e;
    struct sampler_scratch *scratch = sampler_scratch_new(n_vocab, &e);
    struct sampler *s = sampler_new(set, 0, n_vocab, prompt, n_prompt, &e);
    ck_assert(scratch && s);
    for (uint32_t i = 0; i < n_generated; i++)
        sampler_accept(s, generated[i]);
    int32_t token = sampler_pick(s, scratch, logits, masked, n_masked, n_generated);
    sampler_free(s);
    sampler_scratch_free(scratch);
    return token;
}

/* Chi-square against the renormalised `expected`; tokens whose expectation is 0 must not appear.
 * Below the 0.9999 quantile for 4 degrees of freedom (23.5), which 3 is even surer of. */
static void check_distribution(const struct sampling *set, const double *expected)
{
    enum { N = 20000 };
    float logits[5];
    five_logits(logits);
    uint32_t counts[5];
    count(set, logits, 5, NULL, 0, N, counts);
    double sum = 0, chi = 0;
    for (int i = 0; i < 5; i++)
        sum += expected[i];
    for (int i = 0; i < 5; i++) {
        double mean = expected[i] / sum * N;
        if (expected[i] == 0)
            ck_assert_msg(counts[i] == 0, "token %d appeared %u times", i, counts[i]);
        else
            chi += (counts[i] - mean) * (counts[i] - mean) / mean;
    }
    ck_assert_msg(chi < 23.5, "chi-square %g: %u %u %u %u %u", chi, counts[0], counts[1], counts[2],
                  counts[3], counts[4]);
}

START_TEST(temperature_0_is_the_lowest_of_the_best)
{
    float logits[6] = {1, 5, 3, 5, -2, 5};
    struct sampling set = plain;
    set.temperature = 0;
    ck_assert_int_eq(pick(&set, logits, 6, NULL, 0, NULL, 0, NULL, 0), 1);
    set.temperature = 1;
    set.top_p = 0;
    ck_assert_int_eq(pick(&set, logits, 6, NULL, 0, NULL, 0, NULL, 0), 1);
    set = plain;
    set.top_k = 1;
    for (uint64_t seed = 0; seed < 50; seed++) {
        set.seed = seed;
        ck_assert_int_eq(pick(&set, logits, 6, NULL, 0, NULL, 0, NULL, 0), 1);
    }
}
END_TEST

START_TEST(draws_follow_the_probabilities)
{
    struct sampling set = plain;
    check_distribution(&set, five);
    set.temperature = 0.5;
    double squared[5];
    for (int i = 0; i < 5; i++)
        squared[i] = five[i] * five[i];
    check_distribution(&set, squared);
    set.temperature = 2;
    for (int i = 0; i < 5; i++)
        squared[i] = sqrt(five[i]);
    check_distribution(&set, squared);
}
END_TEST

START_TEST(each_truncation_keeps_exactly_its_set)
{
    struct sampling set = plain;
    set.top_k = 3;
    check_distribution(&set, (double[5]){0.4, 0.3, 0.15, 0, 0});
    set = plain;
    set.top_k = 100; /* more than there are */
    check_distribution(&set, five);
    set = plain;
    set.top_p = 0.69;
    check_distribution(&set, (double[5]){0.4, 0.3, 0, 0, 0});
    set.top_p = 0.71;
    check_distribution(&set, (double[5]){0.4, 0.3, 0.15, 0, 0});
    set.top_p = 1e-9; /* at least one stays */
    check_distribution(&set, (double[5]){1, 0, 0, 0, 0});
    set = plain;
    set.min_p = 0.3; /* of 0.4: 0.12 */
    check_distribution(&set, (double[5]){0.4, 0.3, 0.15, 0, 0});
    set.min_p = 1;
    check_distribution(&set, (double[5]){1, 0, 0, 0, 0});
}
END_TEST

START_TEST(typical_keeps_what_is_near_the_entropy)
{
    /* H = 1.392 nats; surprises 0.916 1.204 1.897 2.303 2.996, distances 0.476 0.188 0.505 0.911
     * 1.604: the order is 1, 0, 2, 3, 4. */
    struct sampling set = plain;
    set.typical_p = 0.29;
    check_distribution(&set, (double[5]){0, 0.3, 0, 0, 0});
    set.typical_p = 0.5;
    check_distribution(&set, (double[5]){0.4, 0.3, 0, 0, 0});
    set.typical_p = 0.8;
    check_distribution(&set, (double[5]){0.4, 0.3, 0.15, 0, 0});
}
END_TEST

START_TEST(stages_come_in_the_documented_order)
{
    /* top_k 3 first leaves 0.47, 0.35, 0.18; only then top_p 0.8 keeps two of them (0.82). */
    struct sampling set = plain;
    set.top_k = 3;
    set.top_p = 0.8;
    check_distribution(&set, (double[5]){0.4, 0.3, 0, 0, 0});
    /* typical_p 0.29 leaves token 1 alone, so a min_p of 1 keeps it: relative to what is left. */
    set = plain;
    set.typical_p = 0.29;
    set.min_p = 1;
    check_distribution(&set, (double[5]){0, 1, 0, 0, 0});
}
END_TEST

START_TEST(bias_shifts_and_bans)
{
    float logits[5];
    five_logits(logits);
    struct logit_bias bias[2] = {{4, 10}, {0, -100}};
    struct sampling set = plain;
    set.bias = bias;
    set.n_bias = 1;
    set.temperature = 0;
    ck_assert_int_eq(pick(&set, logits, 5, NULL, 0, NULL, 0, NULL, 0), 4);
    bias[0] = (struct logit_bias){0, -100};
    ck_assert_int_eq(pick(&set, logits, 5, NULL, 0, NULL, 0, NULL, 0), 1);
    set.temperature = 1;
    uint32_t counts[5];
    count(&set, logits, 5, (int32_t[]){1}, 1, 2000, counts);
    ck_assert_uint_eq(counts[0] + counts[1], 0);
    ck_assert_uint_gt(counts[4], 0);
    /* Nothing is left: the best of all, rather than nonsense. */
    count(&set, logits, 5, (int32_t[]){1, 2, 3, 4}, 4, 10, counts);
    ck_assert_uint_eq(counts[0], 10);
}
END_TEST

START_TEST(penalties_count_what_they_should)
{
    struct sampling set = plain;
    set.temperature = 0;
    float logits[3] = {2.0F, 1.5F, -1.0F};
    /* presence: once is enough, however often; the prompt does not count */
    set.presence_penalty = 0.6;
    ck_assert_int_eq(pick(&set, logits, 3, (int32_t[]){0}, 1, NULL, 0, NULL, 0), 0);
    ck_assert_int_eq(pick(&set, logits, 3, NULL, 0, (int32_t[]){0}, 1, NULL, 0), 1);
    set.presence_penalty = 0.4;
    ck_assert_int_eq(pick(&set, logits, 3, NULL, 0, (int32_t[]){0, 0, 0}, 3, NULL, 0), 0);
    /* frequency: by the number of times */
    set.presence_penalty = 0;
    set.frequency_penalty = 0.2;
    ck_assert_int_eq(pick(&set, logits, 3, (int32_t[]){0, 0, 0}, 3, (int32_t[]){0, 0}, 2, NULL, 0),
                     0);
    ck_assert_int_eq(pick(&set, logits, 3, NULL, 0, (int32_t[]){0, 0, 0}, 3, NULL, 0), 1);
    /* repetition: prompt too, divides what is positive and multiplies what is negative */
    set.frequency_penalty = 0;
    set.repetition_penalty = 1.5;
    ck_assert_int_eq(pick(&set, logits, 3, (int32_t[]){0}, 1, NULL, 0, NULL, 0), 1);
    ck_assert_int_eq(pick(&set, logits, 3, NULL, 0, (int32_t[]){0}, 1, NULL, 0), 1);
    float negative[2] = {-1.0F, -1.2F};
    ck_assert_int_eq(pick(&set, negative, 2, (int32_t[]){0, 0}, 2, NULL, 0, NULL, 0), 1);
}
END_TEST

START_TEST(hostile_numbers_stay_harmless)
{
    struct sampling set = plain;
    float logits[4] = {FLT_MAX, -FLT_MAX, 0, FLT_MAX};
    set.temperature = 5e-324;
    ck_assert_int_ne(pick(&set, logits, 4, NULL, 0, NULL, 0, NULL, 0), 1);
    set.temperature = 2;
    set.repetition_penalty = 1e-300;
    set.typical_p = 0.5;
    set.top_p = 0.5;
    int32_t all[4] = {0, 1, 2, 3};
    ck_assert_int_ge(pick(&set, logits, 4, all, 4, NULL, 0, NULL, 0), 0);
    float same[1000];
    for (int i = 0; i < 1000; i++)
        same[i] = -3;
    set = plain;
    set.top_k = 10; /* ties: the ten lowest ids */
    uint32_t counts[1000];
    count(&set, same, 1000, NULL, 0, 3000, counts);
    for (int i = 0; i < 1000; i++)
        ck_assert(i < 10 ? counts[i] > 200 : counts[i] == 0);
}
END_TEST

/* By sorting everything, as the definitions say. */
static uint32_t reference_top_p(const float *logits, uint32_t n, double top_p, uint8_t *kept)
{
    double sum = 0, cumulative = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)logits[i]);
    memset(kept, 0, n);
    uint32_t used = 0;
    while (cumulative < top_p * sum && used < n) {
        uint32_t best = UINT32_MAX;
        for (uint32_t i = 0; i < n; i++)
            if (!kept[i] && (best == UINT32_MAX || logits[i] > logits[best]))
                best = i;
        kept[best] = 1;
        used++;
        cumulative += exp((double)logits[best]);
    }
    return used;
}

START_TEST(selection_agrees_with_sorting)
{
    enum { N = 100 };
    uint64_t random = 7;
    for (int round = 0; round < 20; round++) {
        float logits[N];
        for (int i = 0; i < N; i++)
            logits[i] = (float)(sampler_uniform(random, 0, (uint64_t)i) * 1.5);
        random++;
        struct sampling set = plain;
        set.top_p = 0.05 + 0.045 * round;
        uint8_t kept[N];
        uint32_t n_kept = reference_top_p(logits, N, set.top_p, kept), seen = 0;
        uint32_t counts[N];
        count(&set, logits, N, NULL, 0, 3000, counts);
        for (int i = 0; i < N; i++) {
            ck_assert_msg(kept[i] || counts[i] == 0, "token %d at top_p %g", i, set.top_p);
            seen += counts[i] > 0;
        }
        ck_assert_uint_eq(seen, n_kept); /* 13 expected draws of the rarest */
    }
}
END_TEST

START_TEST(the_draw_depends_on_seed_choice_and_index_only)
{
    enum { N = 20000, BINS = 16 };
    uint32_t bins[BINS] = {0};
    double correlation = 0, across = 0;
    for (uint64_t i = 0; i < N; i++) {
        double u = sampler_uniform(1234, 0, i);
        ck_assert(u >= 0 && u < 1);
        ck_assert(u == sampler_uniform(1234, 0, i));
        bins[(int)(u * BINS)]++;
        correlation += (u - 0.5) * (sampler_uniform(1234, 0, i + 1) - 0.5);
        across += (u - 0.5) * (sampler_uniform(1234, 1, i) - 0.5);
        across += (u - 0.5) * (sampler_uniform(1235, 0, i) - 0.5);
    }
    double chi = 0;
    for (int i = 0; i < BINS; i++)
        chi += (bins[i] - N / 16.0) * (bins[i] - N / 16.0) / (N / 16.0);
    ck_assert_double_lt(chi, 45); /* 0.9999 quantile of 15 degrees of freedom: 44.3 */
    /* Sums of N products of variance 1/144: 5 standard deviations. */
    ck_assert_double_lt(fabs(correlation), 5 * sqrt(N) / 12);
    ck_assert_double_lt(fabs(across), 5 * sqrt(2.0 * N) / 12);
}
END_TEST

START_TEST(logprobs_are_a_log_softmax_and_always_finite)
{
    float logits[5];
    five_logits(logits);
    struct top_logprob top[LOGPROBS_MAX_TOP + 1];
    uint32_t n;
    float value = logprobs_of(logits, 5, 3, 2, top, &n);
    ck_assert_double_eq_tol((double)value, log(0.1), 1e-6);
    ck_assert_uint_eq(n, 3); /* the token is appended */
    ck_assert_int_eq(top[0].token, 0);
    ck_assert_int_eq(top[1].token, 1);
    ck_assert_int_eq(top[2].token, 3);
    ck_assert(top[2].logprob == value);
    value = logprobs_of(logits, 5, 0, 20, top, &n);
    ck_assert_uint_eq(n, 5); /* never more than the vocabulary */
    ck_assert(top[0].logprob == value);
    for (uint32_t i = 1; i < n; i++)
        ck_assert(top[i].logprob <= top[i - 1].logprob);
    logprobs_of(logits, 5, 0, 0, top, &n);
    ck_assert_uint_eq(n, 0);
    float wild[3] = {FLT_MAX, -FLT_MAX, 0};
    ck_assert(isfinite(logprobs_of(wild, 3, 1, 3, top, &n)));
    for (uint32_t i = 0; i < n; i++)
        ck_assert(isfinite(top[i].logprob));
    ck_assert(logits_are_finite(wild, 3));
    wild[2] = NAN;
    ck_assert(!logits_are_finite(wild, 3));
    wild[2] = -INFINITY;
    ck_assert(!logits_are_finite(wild, 3));
}
END_TEST

START_TEST(equal_logits_list_the_lower_ids)
{
    float logits[30];
    for (int i = 0; i < 30; i++)
        logits[i] = i % 3 == 0 ? 2.0F : 1.0F;
    struct top_logprob top[LOGPROBS_MAX_TOP + 1];
    uint32_t n;
    logprobs_of(logits, 30, 0, 12, top, &n);
    const int32_t expected[12] = {0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 1, 2};
    ck_assert_uint_eq(n, 12);
    for (int i = 0; i < 12; i++)
        ck_assert_int_eq(top[i].token, expected[i]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sampler");
    TCase *t = suite_case(suite, "sampler", 60);
    tcase_add_test(t, temperature_0_is_the_lowest_of_the_best);
    tcase_add_test(t, draws_follow_the_probabilities);
    tcase_add_test(t, each_truncation_keeps_exactly_its_set);
    tcase_add_test(t, typical_keeps_what_is_near_the_entropy);
    tcase_add_test(t, stages_come_in_the_documented_order);
    tcase_add_test(t, bias_shifts_and_bans);
    tcase_add_test(t, penalties_count_what_they_should);
    tcase_add_test(t, hostile_numbers_stay_harmless);
    tcase_add_test(t, selection_agrees_with_sorting);
    tcase_add_test(t, the_draw_depends_on_seed_choice_and_index_only);
    tcase_add_test(t, logprobs_are_a_log_softmax_and_always_finite);
    tcase_add_test(t, equal_logits_list_the_lower_ids);
    return suite_run(suite);
}
