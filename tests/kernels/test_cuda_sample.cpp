/* Tokens picked on the device against engine/compute/sampler.c and against a sort in double precision, on
 * logits with ties, flat and peaked, in every combination of stages. */
#include <algorithm>

#include "tests/kernels/cuda_case.h"

extern "C" {
#include "engine/compute/sampler.h"
}
#include "cuda/kernels/kernels.h"
#include "tests/suite.h"

/* Where the draw or a cut is this near to a boundary rounding may decide: kernels promise 2.6e-7
 * of the mass (sample.cu), the host's sums in double less. */
static const double margin = 1e-6;

struct choice {
    int32_t token;
    bool is_sure; /* no boundary is near */
};

static choice plain_pick(const float *logits, uint32_t n_vocab, const token_pick &row)
{
    struct candidate {
        float logit;
        double p;
        uint32_t token;
    };
    std::vector<candidate> c;
    uint32_t best = (uint32_t)(std::max_element(logits, logits + n_vocab) - logits);
    if (row.temperature <= 0 || row.top_p <= 0)
        return {(int32_t)best, true};
    for (uint32_t i = 0; i < n_vocab; i++)
        c.push_back({logits[i], exp(((double)logits[i] - logits[best]) / row.temperature), i});
    std::sort(c.begin(), c.end(), [](const candidate &a, const candidate &b) {
        return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
    });
    if (row.top_k > 0 && (uint32_t)row.top_k < n_vocab)
        c.resize((size_t)row.top_k);
    bool is_sure = true;
    double sum = 0, before = 0;
    for (const candidate &x : c)
        sum += x.p;
    if (row.top_p < 1) {
        size_t n = 0;
        do
            before += c[n++].p;
        while (n < c.size() && before < row.top_p * sum);
        double wanted = row.top_p * sum;
        is_sure =
            n == c.size() || (fabs(before - wanted) > margin * sum &&
                              fabs(before - c[n - 1].p - wanted) > margin * sum &&
                              (c[n - 1].logit == c[n].logit || c[n].p < c[n - 1].p * (1 - margin)));
        c.resize(n);
    }
    if (row.min_p > 0) {
        size_t n = 0;
        while (n < c.size() && c[n].p >= row.min_p)
            n++;
        for (const candidate &x : c)
            is_sure = is_sure && fabs(x.p / row.min_p - 1) > margin;
        c.resize(n);
    }
    std::sort(c.begin(), c.end(),
              [](const candidate &a, const candidate &b) { return a.token < b.token; });
    sum = before = 0;
    for (const candidate &x : c)
        sum += x.p;
    for (const candidate &x : c) {
        if (before + x.p > row.draw * sum || &x == &c.back())
            return {(int32_t)x.token, is_sure && fabs(before - row.draw * sum) > margin * sum &&
                                          fabs(before + x.p - row.draw * sum) > margin * sum};
        before += x.p;
    }
    return {-1, false};
}

static int32_t host_pick(const float *logits, uint32_t n_vocab, const token_pick &row,
                         const sampling &set, uint64_t index)
{
    struct error e;
    sampling host = set;
    host.temperature = row.temperature;
    host.top_p = row.top_p;
    host.min_p = row.min_p;
    host.top_k = row.top_k;
    host.typical_p = host.repetition_penalty = 1;
    sampler_scratch *scratch = sampler_scratch_new(n_vocab, &e);
    sampler *s = sampler_new(&host, 3, n_vocab, NULL, 0, &e);
    ck_assert(scratch && s);
    int32_t token = sampler_pick(s, scratch, logits, NULL, 0, index);
    sampler_free(s);
    sampler_scratch_free(scratch);
    return token;
}

static std::vector<int32_t> device_pick(const std::vector<float> &logits, uint32_t n_vocab,
                                        const std::vector<token_pick> &rows)
{
    const uint32_t n = (uint32_t)rows.size();
    device_array<float> device_logits(logits);
    device_array<token_pick> device_rows(rows);
    device_array<int32_t> tokens(std::vector<int32_t>(n, -7));
    device_array<uint8_t> scratch(std::vector<uint8_t>(sample_scratch_bytes(n, n_vocab), 0xff));
    launch_sample(0, tokens.device, device_logits.device, n, n_vocab, device_rows.device,
                  scratch.device);
    device_wait();
    tokens.download();
    return tokens.host;
}

static float any_logit(uint32_t kind)
{
    float spread = 0;
    for (int i = 0; i < 4; i++)
        spread += random_uniform() - 0.5f;
    switch (kind) {
    case 0:
        return spread * 3; /* rather flat */
    case 1:
        return spread * 20; /* peaked */
    case 2:
        return (float)(int)random_below(6) / 2; /* many ties */
    case 3:
        return spread * 400; /* most underflow */
    case 4:
        return random_below(3) ? -3e38f : spread * 4;
    default:
        return 1.5f; /* all equal */
    }
}

static token_pick any_row(const sampling &set, uint32_t index, uint32_t n_vocab)
{
    token_pick row = {};
    row.row = index;
    row.temperature = random_below(8) == 0 ? 0 : 0.1f + 1.9f * random_uniform();
    row.top_p = random_below(3) == 0 ? 1 : random_below(10) == 0 ? 0 : random_uniform();
    row.min_p = random_below(3) ? 0 : random_uniform() * random_uniform();
    row.top_k = random_below(2) ? 0 : (int32_t)random_below(random_below(2) ? 50 : n_vocab + 9);
    row.draw = sampler_uniform(set.seed, 3, index);
    return row;
}

/* Rows of all kinds; returns how many were too near a boundary to compare. */
static uint32_t check_rows(uint32_t n, uint32_t n_vocab)
{
    sampling set = {};
    set.seed = random_bits();
    std::vector<float> logits((size_t)n * n_vocab);
    std::vector<token_pick> rows;
    uint32_t n_unsure = 0;
    for (uint32_t r = 0; r < n; r++) {
        uint32_t kind = random_below(6);
        for (uint32_t i = 0; i < n_vocab; i++)
            logits[(size_t)r * n_vocab + i] = any_logit(kind);
        rows.push_back(any_row(set, r, n_vocab));
    }
    std::vector<int32_t> tokens = device_pick(logits, n_vocab, rows);
    for (uint32_t r = 0; r < n; r++) {
        const float *of_row = &logits[(size_t)r * n_vocab];
        choice plain = plain_pick(of_row, n_vocab, rows[r]);
        n_unsure += !plain.is_sure;
        ck_assert_msg(tokens[r] >= 0 && (uint32_t)tokens[r] < n_vocab, "token %d", tokens[r]);
        if (!plain.is_sure)
            continue;
        int32_t host = host_pick(of_row, n_vocab, rows[r], set, r);
        ck_assert_msg(tokens[r] == plain.token && host == plain.token,
                      "vocabulary %u, temperature %g, top_k %d, top_p %g, min_p %g, draw %.9g: "
                      "token %d on the device, %d on the host, %d in double",
                      n_vocab, rows[r].temperature, rows[r].top_k, rows[r].top_p, rows[r].min_p,
                      rows[r].draw, tokens[r], host, plain.token);
    }
    return n_unsure;
}

START_TEST(small_vocabularies_pick_as_the_host)
{
    uint32_t n_unsure = 0, n_rows = 0;
    for (uint32_t trial = 0; trial < 60; trial++) {
        uint32_t n = 1 + random_below(8);
        n_unsure += check_rows(n, 1 + random_below(trial % 2 ? 700 : 20));
        n_rows += n;
    }
    ck_assert_msg(n_unsure * 20 < n_rows, "%u of %u rows near a boundary", n_unsure, n_rows);
}
END_TEST

START_TEST(vocabularies_of_several_blocks_pick_as_the_host)
{
    uint32_t n_unsure = 0, n_rows = 0;
    for (uint32_t n_vocab : {4095u, 4097u, 9999u, 32000u}) {
        n_unsure += check_rows(10, n_vocab);
        n_rows += 10;
    }
    /* Between 32,000 equal tokens a draw is within 6 % of a boundary's width. */
    ck_assert_msg(n_unsure * 5 < n_rows, "%u of %u rows near a boundary", n_unsure, n_rows);
}
END_TEST

START_TEST(a_large_vocabulary_picks_as_the_host)
{
    uint32_t n_unsure = check_rows(6, 128256);
    ck_assert_msg(n_unsure < 6, "every row is near a boundary");
}
END_TEST

START_TEST(greedy_takes_the_lowest_of_the_best)
{
    const uint32_t n_vocab = 5000;
    std::vector<float> logits(3 * n_vocab, -1);
    for (uint32_t i : {4500u, 17u, 4096u, 3000u})
        logits[i] = 2;
    logits[n_vocab + 4999] = 0.0f; /* equal to -0 before it */
    logits[n_vocab + 4100] = -0.0f;
    std::vector<token_pick> rows(3);
    rows[1].row = 1;
    rows[2].row = 2;
    rows[0].top_p = 1; /* temperature 0 */
    rows[1].temperature = 1;
    rows[2].top_p = 1;
    std::vector<int32_t> tokens = device_pick(logits, n_vocab, rows);
    ck_assert_int_eq(tokens[0], 17);
    ck_assert_int_eq(tokens[1], 4100);
    ck_assert_int_eq(tokens[2], 0);
}
END_TEST

/* The token of one row. */
static int32_t pick_one(const std::vector<float> &logits, token_pick row)
{
    return device_pick(logits, (uint32_t)logits.size(), {row})[0];
}

static token_pick row_of(double top_p, double min_p, int32_t top_k, double draw)
{
    token_pick row = {};
    row.temperature = 1;
    row.top_p = top_p;
    row.min_p = min_p;
    row.top_k = top_k;
    row.draw = draw;
    return row;
}

START_TEST(equal_tokens_are_drawn_evenly_and_cut_by_id)
{
    const std::vector<float> logits(1000, 0.5f);
    /* A draw equal to the sum of the first 250 has passed them. */
    ck_assert_int_eq(pick_one(logits, row_of(1, 0, 0, 0.25)), 250);
    ck_assert_int_eq(pick_one(logits, row_of(1, 0, 0, 0)), 0);
    /* Top-p 0.2999 leaves the first 300. */
    ck_assert_int_eq(pick_one(logits, row_of(0.2999, 0, 0, 0.5001)), 150);
    ck_assert_int_eq(pick_one(logits, row_of(0.2999, 0, 0, 0.9999999999)), 299);
    ck_assert_int_eq(pick_one(logits, row_of(1, 0, 7, 0.5)), 3);
    ck_assert_int_eq(pick_one(logits, row_of(1, 0, 7, 0.9999999999)), 6);
}
END_TEST

START_TEST(a_long_tail_has_its_mass)
{
    /* One token of 1 before 20,000 of 1e-4 each: top-p 0.5 wants 1.5 of 3. The tail's masses
     * fill the lower word of a sum, and only its carries count. */
    std::vector<float> logits(20001, logf(1e-4f));
    logits[0] = 0;
    const double last = 0.9999999;
    int32_t token = pick_one(logits, row_of(0.5, 0, 0, last));
    ck_assert_msg(abs(token - 5000) <= 1, "token %d", token); /* 1e-4 is rounded */
    ck_assert_int_eq(pick_one(logits, row_of(0.3, 0, 0, last)), 0);
}
END_TEST

START_TEST(min_p_is_a_share_of_the_best)
{
    std::vector<float> logits = {logf(0.501f), 0, logf(0.501f), logf(0.499f), logf(0.1f)};
    for (int32_t i = 0; i < 100; i++) {
        int32_t token = pick_one(logits, row_of(1, 0.5, 0, i / 100.0));
        double passed = i / 100.0 * 2.002;
        ck_assert_int_eq(token, passed < 0.501 ? 0 : passed < 1.501 ? 1 : 2);
    }
}
END_TEST

START_TEST(a_row_picks_the_same_in_any_batch)
{
    const uint32_t n_vocab = 6000;
    sampling set = {};
    std::vector<float> logits(4 * n_vocab);
    std::vector<token_pick> rows;
    for (float &x : logits)
        x = any_logit(0);
    for (uint32_t r = 0; r < 4; r++) {
        rows.push_back(any_row(set, r, n_vocab));
        rows[r].temperature = 1;
    }
    std::vector<int32_t> together = device_pick(logits, n_vocab, rows);
    for (uint32_t r = 0; r < 4; r++) {
        std::vector<float> own(logits.begin() + r * n_vocab, logits.begin() + (r + 1) * n_vocab);
        token_pick alone = rows[r];
        alone.row = 0;
        ck_assert_int_eq(device_pick(own, n_vocab, {alone})[0], together[r]);
    }
}
END_TEST

START_TEST(a_row_that_is_not_finite_is_odd_and_its_neighbours_are_not)
{
    const uint32_t n_vocab = 9000;
    const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    std::vector<float> logits(9 * n_vocab, 0.25f);
    std::vector<token_pick> picks;
    for (uint32_t r = 0; r < 9; r++) {
        token_pick pick = row_of(1, 0, 0, 0.5);
        pick.row = r;
        pick.temperature = r % 4 < 2 ? 0 : 1;
        if (r % 2)
            logits[r * n_vocab + (r < 4 ? 0 : r < 6 ? 5000 : n_vocab - 1)] = bad[r / 2];
        picks.push_back(pick);
    }
    std::vector<int32_t> tokens = device_pick(logits, n_vocab, picks);
    for (uint32_t r = 0; r < 9; r++)
        ck_assert_int_eq(tokens[r], r % 2 ? PICK_NOT_FINITE : r % 4 < 2 ? 0 : 4500);
}
END_TEST

START_TEST(picks_of_one_row_differ_by_their_draws)
{
    const std::vector<float> logits(2000, 0.5f);
    std::vector<token_pick> picks;
    for (uint32_t i = 0; i < 5; i++) {
        picks.push_back(row_of(1, 0, 0, i / 8.0));
        picks[i].row = 1;
    }
    std::vector<int32_t> tokens = device_pick(logits, 1000, picks);
    for (int32_t i = 0; i < 5; i++)
        ck_assert_int_eq(tokens[(size_t)i], i * 125);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda_sample");
    TCase *tests = suite_case(suite, "sample", 240);
    tcase_add_test(tests, small_vocabularies_pick_as_the_host);
    tcase_add_test(tests, vocabularies_of_several_blocks_pick_as_the_host);
    tcase_add_test(tests, a_large_vocabulary_picks_as_the_host);
    tcase_add_test(tests, greedy_takes_the_lowest_of_the_best);
    tcase_add_test(tests, equal_tokens_are_drawn_evenly_and_cut_by_id);
    tcase_add_test(tests, a_long_tail_has_its_mass);
    tcase_add_test(tests, min_p_is_a_share_of_the_best);
    tcase_add_test(tests, a_row_picks_the_same_in_any_batch);
    tcase_add_test(tests, a_row_that_is_not_finite_is_odd_and_its_neighbours_are_not);
    tcase_add_test(tests, picks_of_one_row_differ_by_their_draws);
    return suite_run(suite);
}
