/* Choosing slots against a sort of everything: random scores, equal ones, huge, tiny, NaN,
 * holes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cache/policy/select.h"
#include "tests/suite.h"

#define MOST  400
#define HEADS 5

static uint32_t seed = 1;

static uint32_t below(uint32_t n)
{
    seed = seed * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)(seed >> 8) * n >> 24);
}

static float some_score(uint32_t kind)
{
    static const float odd[] = {0, -0.0f, 1, 1e30f, -1e30f, 1e-40f, NAN, INFINITY, -INFINITY};
    if (kind == 0)
        return (float)below(1 << 20) / 1024;
    if (kind == 1)
        return (float)below(3);
    return odd[below(9)];
}

struct head {
    int32_t positions[MOST];
    float scores[MOST];
    struct select_view view;
};

/* n slots of a text of n_tokens in any order, some of them holes. */
static void fill(struct head *h, uint32_t kind)
{
    uint32_t n_tokens = 1 + below(MOST), n = 0, share = 1 + below(4);
    for (uint32_t p = 0; p < n_tokens; p++)
        if (p + 1 == n_tokens || below(4) < share) {
            uint32_t at = below(n + 1);
            h->positions[n] = h->positions[at];
            h->positions[at] = below(10) ? (int32_t)p : HOLE;
            n++;
        }
    for (uint32_t i = 0; i < n; i++)
        h->scores[i] = some_score(kind);
    h->view = (struct select_view){h->positions, h->scores, n, n_tokens, below(8), below(40)};
}

/* Whether slot a stays rather than slot b: the rule in words. */
static bool better(const struct select_view *v, uint32_t a, uint32_t b)
{
    float x = isnan(v->scores[a]) ? -INFINITY : v->scores[a],
          y = isnan(v->scores[b]) ? -INFINITY : v->scores[b];
    return x > y || (x == y && v->positions[a] > v->positions[b]);
}

static bool is_candidate(const struct select_view *v, uint32_t i)
{
    return v->positions[i] != HOLE && v->positions[i] >= (int32_t)v->sinks &&
           (int32_t)v->n_tokens - v->positions[i] > (int32_t)v->recent;
}

/* How many candidates come before slot i. */
static uint32_t rank_of(const struct select_view *v, uint32_t i)
{
    uint32_t rank = 0;
    for (uint32_t k = 0; k < v->n; k++)
        rank += k != i && is_candidate(v, k) && better(v, k, i);
    return rank;
}

START_TEST(survivors_are_the_protected_and_the_best)
{
    static struct head h;
    for (uint32_t round = 0; round < 300; round++) {
        bool keep[MOST];
        uint64_t scratch[MOST];
        fill(&h, round % 3);
        uint32_t n_protected = 0, n_kept = 0, budget = below(MOST);
        for (uint32_t i = 0; i < h.view.n; i++)
            n_protected += h.positions[i] != HOLE && !is_candidate(&h.view, i);
        uint32_t places = budget > n_protected ? budget - n_protected : 0,
                 n = select_survivors(&h.view, budget, keep, scratch);
        for (uint32_t i = 0; i < h.view.n; i++) {
            bool wanted = h.positions[i] != HOLE &&
                          (!is_candidate(&h.view, i) || rank_of(&h.view, i) < places);
            ck_assert_msg(keep[i] == wanted, "round %u slot %u of %u: position %d score %g rank %u",
                          round, i, h.view.n, h.positions[i], (double)h.scores[i],
                          rank_of(&h.view, i));
            n_kept += keep[i];
        }
        ck_assert_uint_eq(n, n_kept);
    }
}
END_TEST

START_TEST(victims_are_the_worst_in_order)
{
    static struct head h;
    for (uint32_t round = 0; round < 300; round++) {
        uint32_t victims[MOST], wanted = below(20), n_candidates = 0;
        fill(&h, round % 3);
        for (uint32_t i = 0; i < h.view.n; i++)
            n_candidates += is_candidate(&h.view, i);
        uint32_t n = select_victims(&h.view, wanted, victims);
        ck_assert_uint_eq(n, wanted < n_candidates ? wanted : n_candidates);
        for (uint32_t i = 0; i < n; i++) {
            ck_assert(is_candidate(&h.view, victims[i]));
            ck_assert_uint_eq(rank_of(&h.view, victims[i]), n_candidates - 1 - i);
        }
    }
}
END_TEST

/* How many candidates of all heads come before slot i of head h: the better key, then the lower
 * head. */
static uint32_t layer_rank_of(const struct select_view *views, uint32_t h, uint32_t i)
{
    uint64_t key = select_key(views[h].scores[i], views[h].positions[i]);
    uint32_t rank = 0;
    for (uint32_t g = 0; g < HEADS; g++)
        for (uint32_t s = 0; s < views[g].n; s++) {
            if (!is_candidate(&views[g], s) || (g == h && s == i))
                continue;
            uint64_t other = select_key(views[g].scores[s], views[g].positions[s]);
            rank += other > key || (other == key && g < h);
        }
    return rank;
}

/* Heads of a layer with the same protected tokens. Returns what a head may choose. */
static uint32_t fill_layer(struct head *h, struct select_view *views, uint32_t *at, uint32_t kind,
                           uint32_t *budget)
{
    uint32_t sinks = below(4), recent = below(20), free_choice = below(60);
    at[0] = 0;
    for (uint32_t i = 0; i < HEADS; i++) {
        fill(&h[i], kind);
        h[i].view.sinks = sinks;
        h[i].view.recent = recent;
        views[i] = h[i].view;
        at[i + 1] = at[i] + h[i].view.n;
    }
    *budget = sinks + recent + free_choice;
    return free_choice;
}

static void check_layer(const struct select_view *views, const uint32_t *at,
                        enum plan_allocation how, uint32_t budget, const bool *wanted)
{
    static bool keep[HEADS * MOST];
    static uint64_t scratch[HEADS * MOST];
    uint32_t n_kept[HEADS];
    ck_assert(select_adaptive(views, HEADS, how, budget, keep, scratch, n_kept));
    for (uint32_t i = 0; i < HEADS; i++) {
        uint32_t n = 0;
        for (uint32_t s = 0; s < views[i].n; s++) {
            ck_assert_msg(keep[at[i] + s] == wanted[at[i] + s], "head %u slot %u", i, s);
            n += keep[at[i] + s];
        }
        ck_assert_uint_eq(n_kept[i], n);
    }
}

static bool is_held(const struct select_view *v, uint32_t slot)
{
    return v->positions[slot] != HOLE && !is_candidate(v, slot);
}

/* Each head's safe share, then the best of the rest. */
START_TEST(a_floor_is_safe_and_the_rest_goes_to_the_best)
{
    static struct head h[HEADS];
    for (uint32_t round = 0; round < 60; round++) {
        static bool wanted[HEADS * MOST];
        struct select_view views[HEADS];
        uint32_t at[HEADS + 1], budget, free_choice = fill_layer(h, views, at, round % 3, &budget),
                                        safe = free_choice / 5,
                                        places = HEADS * (free_choice - safe);
        for (uint32_t i = 0; i < HEADS; i++)
            for (uint32_t s = 0; s < views[i].n; s++)
                wanted[at[i] + s] = is_held(&views[i], s) ||
                                    (is_candidate(&views[i], s) && rank_of(&views[i], s) < safe);
        for (; places > 0; places--) {
            uint32_t best = UINT32_MAX, best_head = 0, best_slot = 0;
            for (uint32_t i = 0; i < HEADS; i++)
                for (uint32_t s = 0; s < views[i].n; s++) {
                    if (wanted[at[i] + s] || !is_candidate(&views[i], s))
                        continue;
                    uint64_t key = select_key(views[i].scores[s], views[i].positions[s]);
                    if (best == UINT32_MAX ||
                        key > select_key(views[best_head].scores[best_slot],
                                         views[best_head].positions[best_slot])) {
                        best = at[i] + s;
                        best_head = i;
                        best_slot = s;
                    }
                }
            if (best == UINT32_MAX)
                break;
            wanted[best] = true;
        }
        check_layer(views, at, ALLOCATION_ADAPTIVE_FLOOR, budget, wanted);
    }
}
END_TEST

/* AdaKV as its authors' code has it: 0.8 of what a head wins among all and 0.2 of its even share,
 * rounded. The layer's total stays exact, so a size may be one off that of each head rounded
 * alone. */
START_TEST(heads_get_a_mix_of_what_they_win_and_an_even_share)
{
    static struct head h[HEADS];
    uint32_t n_moved = 0;
    for (uint32_t round = 0; round < 60; round++) {
        static bool wanted[HEADS * MOST];
        struct select_view views[HEADS];
        uint32_t at[HEADS + 1], budget, total = 0, n_most = 0,
                                        free_choice = fill_layer(h, views, at, round % 3, &budget);
        double sum = 0;
        bool short_of = false;
        for (uint32_t i = 0; i < HEADS; i++) {
            uint32_t n_won = 0, n = 0;
            for (uint32_t s = 0; s < views[i].n; s++) {
                n += is_candidate(&views[i], s);
                n_won +=
                    is_candidate(&views[i], s) && layer_rank_of(views, i, s) < HEADS * free_choice;
            }
            double before = floor(sum + 0.5), share = 0.8 * n_won + 0.2 * free_choice;
            sum += share;
            if (fabs(sum - floor(sum) - 0.5) < 1e-9) /* a half is not a matter of rounding here */
                sum += 1e-6;
            uint32_t size = (uint32_t)(floor(sum + 0.5) - before);
            ck_assert(fabs(size - share) <= 1.0001);
            short_of |= size > n;
            n_most += n_won;
            n_moved += size != free_choice;
            for (uint32_t s = 0; s < views[i].n; s++)
                wanted[at[i] + s] = is_held(&views[i], s) ||
                                    (is_candidate(&views[i], s) && rank_of(&views[i], s) < size);
            total += size;
        }
        if (!short_of && n_most == HEADS * free_choice)
            ck_assert_uint_eq(total, HEADS * free_choice);
        check_layer(views, at, ALLOCATION_ADAPTIVE, budget, wanted);
    }
    ck_assert_uint_gt(n_moved, 100);
}
END_TEST

START_TEST(pooling_looks_at_neighbours_in_position)
{
    static struct head h;
    for (uint32_t round = 0; round < 200; round++) {
        float pooled[MOST];
        uint32_t order[MOST], kernel = 1 + 2 * below(6);
        enum plan_pooling pool = (enum plan_pooling)below(3);
        fill(&h, 0);
        uint32_t before = below(h.view.n_tokens + 1);
        select_pool(&h.view, pool, kernel, before, pooled, order);
        for (uint32_t i = 0; i < h.view.n; i++) {
            double sum = 0, largest = -INFINITY;
            uint32_t rank = 0;
            for (uint32_t k = 0; k < h.view.n; k++)
                rank += (uint32_t)h.positions[k] < before && h.positions[k] < h.positions[i];
            for (uint32_t k = 0; k < h.view.n; k++) {
                uint32_t other = 0;
                for (uint32_t m = 0; m < h.view.n; m++)
                    other += (uint32_t)h.positions[m] < before && h.positions[m] < h.positions[k];
                if ((uint32_t)h.positions[k] < before &&
                    (other > rank ? other - rank : rank - other) <= kernel / 2) {
                    sum += (double)h.scores[k];
                    largest = fmax(largest, (double)h.scores[k]);
                }
            }
            double want = pool == POOLING_AVG ? sum / kernel : largest;
            if (pool == POOLING_NONE || (uint32_t)h.positions[i] >= before || kernel == 1)
                want = (double)h.scores[i];
            ck_assert_msg(fabs((double)pooled[i] - want) <= 1e-4 * (1 + fabs(want)),
                          "slot %u: %g for %g", i, (double)pooled[i], want);
        }
    }
}
END_TEST

START_TEST(a_pyramid_keeps_its_total)
{
    for (uint32_t round = 0; round < 500; round++) {
        uint32_t n_layers = 1 + below(40), n_protected = below(64),
                 budget = n_protected + 1 + below(500), n_tokens = budget + 1 + below(5000);
        uint64_t total = 0;
        uint32_t last = UINT32_MAX;
        for (uint32_t l = 0; l < n_layers; l++) {
            uint32_t b = select_pyramid_budget(l, n_layers, budget, n_protected, n_tokens);
            ck_assert_uint_ge(b, n_protected);
            ck_assert_uint_le(b, n_tokens);
            ck_assert_uint_le(b,
                              last == UINT32_MAX ? b : last + 1); /* rounding may give one back */
            last = b;
            total += b;
        }
        ck_assert_uint_eq(total, (uint64_t)n_layers * budget);
    }
    /* Below twice what layers choose, all hold the same, as in the authors' code. */
    for (uint32_t l = 0; l < 30; l++)
        ck_assert_uint_eq(select_pyramid_budget(l, 30, 132, 32, 199), 132);
    ck_assert_uint_gt(select_pyramid_budget(0, 30, 132, 32, 200), 132);
}
END_TEST

/* The formula of select.h, checked by what it says: a floor, a cap, one factor for all between. */
START_TEST(layers_share_by_retrieval_and_keep_the_total)
{
    uint32_t n_capped = 0, n_silent = 0;
    for (uint32_t round = 0; round < 2000; round++) {
        double retrieval[40];
        uint32_t n_layers = 1 + below(40), n_protected = below(64),
                 budget = n_protected + 1 + below(500),
                 n_tokens = budget + 1 + below(round % 3 ? 100 : 5000), got[40];
        uint32_t free_choice = budget - n_protected, m = free_choice / 5 ? free_choice / 5 : 1;
        uint64_t total = 0;
        for (uint32_t l = 0; l < n_layers; l++)
            retrieval[l] = below(4) || round % 2 ? below(1000) * (round % 7) / 7000.0 : 0;
        double per_unit_least = INFINITY, per_unit_most = 0;
        for (uint32_t l = 0; l < n_layers; l++) {
            got[l] = select_profile_budget(retrieval, l, n_layers, budget, n_protected, n_tokens);
            ck_assert_uint_ge(got[l], n_protected + m);
            ck_assert_uint_le(got[l], n_tokens);
            total += got[l];
            /* Rounding moves a share by less than 1. */
            double share = got[l] - n_protected - m;
            if (got[l] < n_tokens && retrieval[l] > 0)
                per_unit_most = fmax(per_unit_most, (share - 1) / retrieval[l]);
            if (retrieval[l] > 0)
                per_unit_least =
                    fmin(per_unit_least, got[l] < n_tokens ? (share + 1) / retrieval[l] : INFINITY);
            n_capped += got[l] == n_tokens;
        }
        ck_assert_uint_eq(total, (uint64_t)n_layers * budget);
        ck_assert_msg(per_unit_most <= per_unit_least, "round %u: %g slots a unit here, %g there",
                      round, per_unit_most, per_unit_least);
        for (uint32_t a = 0; a < n_layers; a++)
            for (uint32_t b = 0; b < n_layers; b++) {
                if (retrieval[a] >= retrieval[b])
                    ck_assert_uint_ge(got[a] + 1, got[b]);
                /* A layer that retrieves nothing gets more than the floor only when the others
                 * have all. */
                if (retrieval[a] == 0 && retrieval[b] > 0 && got[a] > n_protected + m) {
                    ck_assert_uint_eq(got[b], n_tokens);
                    n_silent++;
                }
            }
    }
    ck_assert_uint_gt(n_capped, 100);
    ck_assert_uint_gt(n_silent, 100);
}
END_TEST

START_TEST(random_is_uniform_and_depends_on_all_it_names)
{
    double sum = 0;
    uint32_t same = 0, n = 100000;
    for (uint32_t i = 0; i < n; i++) {
        float x = select_random(7, i % 30, i % 7, (int32_t)i);
        ck_assert(x >= 0 && x < 1);
        sum += (double)x;
        same += x == select_random(8, i % 30, i % 7, (int32_t)i);
        same += x == select_random(7, i % 30 + 1, i % 7, (int32_t)i);
        same += x == select_random(7, i % 30, i % 7 + 1, (int32_t)i);
        ck_assert(x == select_random(7, i % 30, i % 7, (int32_t)i));
    }
    /* The mean of n uniform numbers is off by 1 / sqrt(12 n): five times that. */
    ck_assert(fabs(sum / n - 0.5) < 5 / sqrt(12.0 * n));
    ck_assert_uint_lt(same, 5);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("select");
    TCase *tc = suite_case(suite, "select", 60);
    tcase_add_test(tc, survivors_are_the_protected_and_the_best);
    tcase_add_test(tc, victims_are_the_worst_in_order);
    tcase_add_test(tc, a_floor_is_safe_and_the_rest_goes_to_the_best);
    tcase_add_test(tc, heads_get_a_mix_of_what_they_win_and_an_even_share);
    tcase_add_test(tc, pooling_looks_at_neighbours_in_position);
    tcase_add_test(tc, a_pyramid_keeps_its_total);
    tcase_add_test(tc, layers_share_by_retrieval_and_keep_the_total);
    tcase_add_test(tc, random_is_uniform_and_depends_on_all_it_names);
    return suite_run(suite);
}
