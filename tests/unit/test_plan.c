/* Plans: what may be written and what is refused, row by row of the tables; what a request
 * resolves to; who holds a plan; which plans agree. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/pages/prefix.h"
#include "cache/policy/axis.h"
#include "cache/policy/budget.h"
#include "engine/serve/metrics.h"
#include "tests/suite.h"
#include "tests/unit/plan_of_text.h"

enum { TRAINED = 4096 };

/* Two layers of four heads, of which head 1 of both keeps everything. */
static bool whole[8] = {false, true, false, false, false, true, false, false};
static double retrieval[2] = {0.5, 0.1};
static const struct head_profile profile = {
    .n_layers = 2, .n_kv_heads = 4, .whole = whole, .retrieval = retrieval};
static const struct plan_limits limits = {.n_ctx_train = TRAINED, .profile = &profile};

static struct plan_asked asked;
static struct error e;

static bool parses(const char *text)
{
    return plan_parse_text(text, strlen(text), "kv_policy", &asked, &e);
}

static void expect_refusal(const char *text, const char *where, const char *what)
{
    const struct plan *plan = NULL;
    if (parses(text))
        plan = plan_resolve(&asked, 1000, &limits, &e);
    ck_assert_msg(!plan, "%s was taken", text);
    ck_assert_msg(!strcmp(e.where, where), "%s: at %s, not %s", text, e.where, where);
    ck_assert_msg(strstr(e.message, what) != NULL, "%s: \"%s\" lacks \"%s\"", text, e.message,
                  what);
}

/* ---- the table of axes */

/* A policy that reads the axis. */
static const char *home_of(const struct axis *axis)
{
    const enum plan_axis_id id = (enum plan_axis_id)(axis - plan_axis_table);
    for (uint32_t i = 0; i < preset_count(); i++) {
        const struct plan_axes *v = &preset_at(i)->axes;
        if (axis->reader->reads(v) && (v->has_budget || id == PLAN_AXIS_min_window))
            return preset_at(i)->name;
    }
    ck_abort_msg("no policy reads %s", axis->key);
}

static const char *with(const struct axis *axis, const char *value)
{
    static char text[200];
    snprintf(text, sizeof text, "{\"name\":\"%s\",\"%s\":%s}", home_of(axis), axis->key, value);
    return text;
}

static const char *with_number(const struct axis *axis, int64_t number)
{
    char value[32];
    snprintf(value, sizeof value, "%lld", (long long)number);
    return with(axis, value);
}

static void expect_bad(const struct axis *axis, const char *value)
{
    char path[64];
    snprintf(path, sizeof path, "kv_policy.%s", axis->key);
    ck_assert_msg(!parses(with(axis, value)), "%s may be %s", axis->key, value);
    ck_assert_str_eq(e.where, path);
    ck_assert_str_eq(e.code, "invalid_kv_policy");
}

static void expect_bad_number(const struct axis *axis, int64_t number)
{
    char value[32];
    snprintf(value, sizeof value, "%lld", (long long)number);
    expect_bad(axis, value);
}

static uint32_t number_of(const struct axis *axis)
{
    return *(const uint32_t *)axis_value(axis, &asked.axes);
}

static void check_numbers(const struct axis *axis)
{
    int64_t ends[] = {axis->least, axis->most};
    for (uint32_t i = 0; i < 2; i++) {
        ck_assert_msg(parses(with_number(axis, ends[i])), "%s", e.message);
        ck_assert_uint_eq(number_of(axis), ends[i]);
        expect_bad_number(axis, i ? ends[i] + 1 : ends[i] - 1);
    }
    ck_assert_msg(parses(with(axis, "7.0")) && number_of(axis) == 7, "7.0 is a whole number");
    static const char *const bad[] = {"7.5", "\"7\"", "true", "[]", "{}", "1e300"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_bad(axis, bad[i]);
    if (axis->kind == AXIS_ODD)
        expect_bad(axis, "4");
}

static void check_choices(const struct axis *axis)
{
    char value[64];
    for (uint32_t i = 0; i < axis->names->n; i++) {
        snprintf(value, sizeof value, "\"%s\"", axis->names->names[i]);
        ck_assert_msg(parses(with(axis, value)), "%s", e.message);
        ck_assert_str_eq(axis_choice(axis, &asked.axes), axis->names->names[i]);
    }
    expect_bad(axis, "\"other\"");
    ck_assert_msg(strstr(e.message, axis->names->names[axis->names->n - 1]) != NULL,
                  "\"%s\" names no choices", e.message);
    expect_bad(axis, "1");
    expect_bad(axis, "\"\"");
}

START_TEST(every_axis_takes_its_range_and_nothing_else)
{
    for (uint32_t i = 0; i < N_PLAN_AXES; i++) {
        const struct axis *axis = &plan_axis_table[i];
        ck_assert_ptr_eq(axis_find(axis->key), axis);
        switch (axis->kind) {
        case AXIS_NUMBER:
        case AXIS_ODD:
            check_numbers(axis);
            break;
        case AXIS_CHOICE:
            check_choices(axis);
            break;
        case AXIS_BUDGET:
            check_numbers(axis);
            ck_assert(parses(with(axis, "0.25")) && asked.axes.budget_share == 0.25);
            ck_assert(parses(with(axis, "9")) && asked.axes.budget_share == 0);
            expect_bad(axis, "0");
            expect_bad(axis, "-0.5");
            break;
        case AXIS_FRACTION:
            ck_assert(parses(with(axis, "0")) && parses(with(axis, "1")) &&
                      parses(with(axis, "0.3")));
            expect_bad(axis, "1.01");
            expect_bad(axis, "-0.01");
            expect_bad(axis, "\"0.3\"");
            break;
        case AXIS_INTEGER:
            ck_assert(parses(with_number(axis, INT64_MIN)) && parses(with_number(axis, INT64_MAX)));
            expect_bad(axis, "1.5");
            break;
        case AXIS_SWITCH:
            ck_assert(parses(with(axis, "true")) && asked.axes.trace);
            ck_assert(parses(with(axis, "false")) && !asked.axes.trace);
            expect_bad(axis, "1");
            break;
        }
        ck_assert_msg(parses(with(axis, "null")), "null is left out");
        ck_assert_uint_eq(asked.given, 0);
    }
}
END_TEST

/* Every byte of the values belongs to a row or to the two that the budget has beside its slots. */
START_TEST(every_value_has_a_row)
{
    char seen[sizeof(struct plan_axes)] = {0};
    for (uint32_t i = 0; i < N_PLAN_AXES; i++)
        for (size_t b = 0; b < plan_axis_table[i].size; b++)
            ck_assert_int_eq(seen[plan_axis_table[i].offset + b]++, 0);
    memset(seen + offsetof(struct plan_axes, has_budget), 1, sizeof(bool));
    memset(seen + offsetof(struct plan_axes, budget_share), 1, sizeof(double));
    size_t n_padding = 0;
    for (size_t b = 0; b < sizeof seen; b++)
        n_padding += !seen[b];
    ck_assert_uint_lt(n_padding, 2 * sizeof(double));
}
END_TEST

START_TEST(the_schema_has_every_axis_and_every_preset)
{
    json_t *schema = plan_schema(), *defs = json_object_get(schema, "$defs");
    json_t *axes = json_object_get(json_object_get(defs, "plan"), "properties");
    json_t *names = json_object_get(json_object_get(defs, "name"), "enum");
    ck_assert_uint_eq(json_object_size(axes), N_PLAN_AXES + 1);
    ck_assert_uint_eq(json_array_size(names), preset_count());
    for (uint32_t i = 0; i < N_PLAN_AXES; i++) {
        const struct axis *axis = &plan_axis_table[i];
        const json_t *rule = json_object_get(axes, axis->key), *choices;
        ck_assert_msg(rule != NULL, "%s", axis->key);
        ck_assert_str_eq(json_string_value(json_object_get(rule, "description")), axis->help);
        if (axis->kind == AXIS_NUMBER)
            ck_assert_int_eq(json_integer_value(json_object_get(rule, "maximum")), axis->most);
        if (axis->kind != AXIS_CHOICE)
            continue;
        choices = json_object_get(rule, "enum");
        ck_assert_uint_eq(json_array_size(choices), axis->names->n - axis->names->first_is_hidden);
    }
    json_decref(schema);
}
END_TEST

/* ---- the table of scorers */

START_TEST(every_scorer_is_named_valued_and_votes_as_it_reads)
{
    for (uint32_t i = 0; i < N_SCORERS; i++) {
        const struct scorer *s = scorer_at(i), *after = scorer_at(s->after_prompt);
        ck_assert_str_eq(plan_scorer_name(i), s->name);
        ck_assert_ptr_nonnull(s->value);
        /* The state of the prompt goes on being used. */
        ck_assert_msg(after->reads == s->reads, "%s goes on as %s", s->name, after->name);
        ck_assert_msg(after->after_prompt == s->after_prompt, "%s", s->name);
        bool of_attention = scorer_keeps_sums(s) || s->reads == SCORER_READS_HISTORY;
        ck_assert_msg(!of_attention || s->voters > 0, "%s has no voters", s->name);
    }
}
END_TEST

/* A prefix may be taken over up to the first voter. Where all vote the state does not depend on
 * the budget. */
START_TEST(voters_decide_what_a_prefix_is_good_for)
{
    for (uint32_t i = SCORER_NONE + 1; i < N_SCORERS; i++) {
        char text[120];
        const struct scorer *s = scorer_at(i);
        snprintf(text, sizeof text, "{\"name\":\"random\",\"scorer\":\"%s\",\"budget\":100}",
                 s->name);
        const struct plan *plan = held_plan(text, 1000, &limits), *other;
        snprintf(text, sizeof text, "{\"name\":\"random\",\"scorer\":\"%s\",\"budget\":200}",
                 s->name);
        other = held_plan(text, 1000, &limits);
        uint32_t voters = s->voters == SCORER_VOTERS_OF_PLAN ? plan->vote_queries : s->voters;
        bool all = voters == SCORER_VOTERS_ALL;
        ck_assert_uint_eq(scorer_voters(plan), voters);
        ck_assert_uint_eq(prefix_usable(plan, 1000), all ? 0 : 1000 - (voters ? voters : 1));
        ck_assert_msg(prefix_is_read_alike(plan, other) == all, "%s", s->name);
        plan_release(plan);
        plan_release(other);
    }
}
END_TEST

/* For one slot with known numbers. tests/kernels/test_cuda_select compares the device with these
 * functions, test_policies with the formulas in double. */
START_TEST(values_are_those_of_the_formulas)
{
    static const float wanted[N_SCORERS] = {
        [SCORER_NONE] = 7,
        [SCORER_RECENCY] = 7,
        [SCORER_ATTENTION_SUM] = 6,
        [SCORER_ATTENTION_MEAN] = 2,
        [SCORER_WINDOW_ATTENTION] = 1.5f,
        [SCORER_LAST_QUERY] = 6,
        [SCORER_PERSISTENCE] = 5,
        [SCORER_KEY_NORM] = -5,
        [SCORER_KEY_DIFF] = -0.6f,
    };
    int32_t positions[PAGE_SLOTS] = {7};
    float sums[PAGE_SLOTS] = {6}, dots[PAGE_SLOTS] = {3}, squares[PAGE_SLOTS] = {25};
    float scores[PAGE_SLOTS];
    uint32_t history[PAGE_SLOTS * HISTORY_WORDS] = {[0] = 0x80000001, [HISTORY_WORDS - 1] = 7};
    struct plan plan = plan_of_text("{\"name\":\"snapkv\",\"window\":4}", 100, &limits);
    for (uint32_t i = 0; i < N_SCORERS; i++) {
        const struct score_view view = {.plan = &plan,
                                        .n_tokens = 10,
                                        .n_slots = 1,
                                        .positions = positions,
                                        .sums = sums,
                                        .history = history,
                                        .dots = dots,
                                        .squares = squares};
        scorer_at(i)->value(&view, scores);
        if (i == SCORER_RANDOM)
            ck_assert(scores[0] >= 0 && scores[0] < 1);
        else
            ck_assert_msg(scores[0] == wanted[i], "%s is %g, not %g", scorer_at(i)->name,
                          (double)scores[0], (double)wanted[i]);
    }
    squares[0] = 0;
    const struct score_view nothing = {.n_slots = 1, .dots = dots, .squares = squares};
    scorer_at(SCORER_KEY_DIFF)->value(&nothing, scores);
    ck_assert(scores[0] == 0);
}
END_TEST

/* ---- presets */

START_TEST(every_preset_fits_the_counters_by_policy)
{
    static struct engine_metrics engine;
    ck_assert_uint_le(preset_count(), PRESETS_MOST);
    ck_assert_uint_eq(sizeof engine.evicted_slots / sizeof *engine.evicted_slots, PRESETS_MOST);
    ck_assert_uint_eq(sizeof engine.page_lifetime / sizeof *engine.page_lifetime, PRESETS_MOST);
    ck_assert_uint_eq(sizeof engine.finished[0] / sizeof *engine.finished[0], PRESETS_MOST);
    for (uint32_t i = 0; i < preset_count(); i++) {
        ck_assert_uint_eq(preset_index(preset_at(i)), i);
        ck_assert_ptr_eq(preset_find(preset_at(i)->name), preset_at(i));
    }
    for (uint32_t i = 0; i < N_SOURCES; i++)
        ck_assert_uint_gt(strlen(plan_source_name(i)), 0);
}
END_TEST

/* The list of policies shows the values that every prompt gets, and explains the others. */
START_TEST(shown_defaults_are_what_prompts_get)
{
    static const uint32_t lengths[] = {40, 1200, 4000, 90000};
    for (uint32_t i = 0; i < preset_count(); i++) {
        asked = plan_asked_of(preset_at(i));
        json_t *shown = plan_asked_to_json(&asked, &limits), *rules = plan_rules_to_json(&asked);
        for (uint32_t n = 0; n < sizeof lengths / sizeof *lengths; n++) {
            const struct plan *plan = plan_resolve(&asked, lengths[n], &limits, &e);
            json_t *own = plan_to_json(plan), *value;
            const char *key;
            ck_assert_uint_eq(json_object_size(own), json_object_size(shown));
            json_object_foreach(own, key, value)
            {
                json_t *other = json_object_get(shown, key);
                ck_assert_msg(json_is_null(other) ? json_object_get(rules, key) != NULL
                                                  : json_equal(value, other),
                              "%s at %u: %s", preset_at(i)->name, lengths[n], key);
            }
            json_decref(own);
            plan_release(plan);
        }
        json_decref(shown);
        json_decref(rules);
    }
}
END_TEST

static const json_t *shown_value(const char *text, const char *key, json_t **owner)
{
    json_decref(*owner);
    asked = asked_of_text(text);
    *owner = plan_asked_to_json(&asked, &limits);
    return json_object_get(*owner, key);
}

START_TEST(shown_values_say_what_acts)
{
    json_t *o = NULL;
    ck_assert_int_eq(json_integer_value(shown_value("sink", "recent", &o)), 1020);
    ck_assert_int_eq(json_integer_value(shown_value("h2o", "recent", &o)), 512);
    ck_assert_int_eq(json_integer_value(shown_value("tova", "interval", &o)), 1);
    ck_assert_str_eq(json_string_value(shown_value("compresskv", "share", &o)), "layer");
    ck_assert_str_eq(json_string_value(shown_value("snapkv", "share", &o)), "head");
    ck_assert_double_eq(json_number_value(shown_value("h2o:0.25", "budget", &o)), 0.25);
    ck_assert(json_is_null(shown_value("h2o:0.25", "recent", &o)));
    ck_assert(json_is_null(shown_value("razor", "budget", &o)));
    ck_assert(json_is_null(shown_value("razor", "recent", &o)));
    ck_assert_int_eq(json_integer_value(shown_value("duo", "window_budget", &o)), 320);
    ck_assert(!shown_value("full", "budget", &o));
    /* Without a profile, under a cap and in another storage. */
    const struct plan_limits small = {
        .n_ctx_train = TRAINED, .max_budget = 300, .storage = STORAGE_Q8};
    json_decref(o);
    asked = asked_of_text("sink");
    o = plan_asked_to_json(&asked, &small);
    ck_assert_int_eq(json_integer_value(json_object_get(o, "budget")), 300);
    ck_assert_str_eq(json_string_value(json_object_get(o, "storage")), "q8");
    json_decref(o);
    asked = asked_of_text("compresskv");
    o = plan_asked_to_json(&asked, &small);
    ck_assert_int_eq(json_integer_value(json_object_get(o, "recent")), 32);
    json_decref(o);
    /* A share that no two lengths agree on, of a profile that leaves nothing: explained. */
    asked = asked_of_text("{\"name\":\"razor\",\"budget\":0.01}");
    o = plan_asked_to_json(&asked, &limits);
    json_t *rules = plan_rules_to_json(&asked);
    ck_assert(json_is_null(json_object_get(o, "window_budget")));
    ck_assert_ptr_nonnull(json_object_get(rules, "window_budget"));
    ck_assert_ptr_nonnull(json_object_get(rules, "recent"));
    json_decref(o);
    json_decref(rules);
}
END_TEST

/* ---- parsing */

START_TEST(names_come_in_several_spellings_and_misspelt_ones_get_a_hint)
{
    ck_assert(parses("  streamingllm\t") && asked.preset == preset_find("sink"));
    ck_assert(parses("off") && asked.preset == preset_find("full"));
    expect_refusal("snapvk", "kv_policy", "did you mean snapkv");
    expect_refusal("zzzz", "kv_policy", "there is no policy 'zzzz'");
    expect_refusal("{\"name\":\"sink\",\"bugdet\":9}", "kv_policy.bugdet", "did you mean budget");
    expect_refusal("{\"name\":\"sink\",\"num_keep\":9}", "kv_policy.num_keep", "write sinks");
    expect_refusal("{\"name\":\"sink\",\"qqq\":9}", "kv_policy.qqq", "no key 'qqq'");
    expect_refusal("{\"budget\":9}", "kv_policy.name", "is missing");
    expect_refusal("{\"name\":null}", "kv_policy.name", "is missing");
    expect_refusal("{\"name\":7}", "kv_policy.name", "a policy's name");
    expect_refusal("{\"name\":", "kv_policy", "not JSON");
    expect_refusal("", "kv_policy", "0 bytes");
    ck_assert(!plan_parse_text("sink\0x", 6, "kv_policy", &asked, &e));
    json_t *number = json_integer(4);
    ck_assert(!plan_parse_json(number, "kv_policy", &asked, &e));
    ck_assert_ptr_nonnull(strstr(e.message, "a policy's name or an object"));
    json_decref(number);
}
END_TEST

START_TEST(one_is_no_budget)
{
    static const char *const ones[] = {"1", "1.0"};
    for (uint32_t i = 0; i < 2; i++) {
        char text[64];
        snprintf(text, sizeof text, "{\"name\":\"h2o\",\"budget\":%s}", ones[i]);
        expect_refusal(text, "kv_policy.budget",
                       "ambiguous: write a whole number of slots >= 2, a share below 1, or the "
                       "policy full");
    }
}
END_TEST

START_TEST(a_suffix_is_a_name_and_perhaps_a_budget)
{
    static const struct {
        const char *text, *what;
    } bad[] = {{"sink:", "write sink:512"},
               {"sink:x", "write sink:512"},
               {"sink:1", "ambiguous"},
               {"nope:9", "no policy"},
               {"full:9", "keeps everything"}};
    ck_assert(plan_parse_suffix("h2o:0.5", 7, "model", &asked, &e));
    ck_assert(asked.axes.budget_share == 0.5 && plan_was_given(&asked, PLAN_AXIS_budget));
    ck_assert(plan_parse_suffix("h2o:512", 7, "model", &asked, &e));
    ck_assert_uint_eq(asked.axes.budget, 512);
    for (uint32_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ck_assert(!plan_parse_suffix(bad[i].text, strlen(bad[i].text), "model", &asked, &e));
        ck_assert_msg(strstr(e.message, bad[i].what) != NULL, "%s: %s", bad[i].text, e.message);
    }
}
END_TEST

START_TEST(full_takes_only_what_every_policy_takes)
{
    ck_assert(parses("{\"name\":\"full\",\"trace\":true,\"storage\":\"f16\"}"));
    for (uint32_t i = 0; i < N_PLAN_AXES; i++) {
        const struct axis *axis = &plan_axis_table[i];
        if (i == PLAN_AXIS_trace || i == PLAN_AXIS_storage)
            continue;
        char text[100], path[64];
        snprintf(text, sizeof text, "{\"name\":\"full\",\"%s\":%s%s%s}", axis->key,
                 axis->kind == AXIS_CHOICE ? "\"" : "",
                 axis->kind == AXIS_CHOICE ? axis->names->names[0] : "1",
                 axis->kind == AXIS_CHOICE ? "\"" : "");
        snprintf(path, sizeof path, "kv_policy.%s", axis->key);
        expect_refusal(text, path, "the policy 'full' keeps everything");
    }
}
END_TEST

/* ---- resolving */

#define H2O "{\"name\":\"h2o\","

START_TEST(axes_that_do_not_go_together_are_refused)
{
    static const struct {
        const char *text, *where, *what;
    } bad[] = {
        {H2O "\"scorer\":\"none\"}", "kv_policy.scorer", "needs a scorer"},
        {H2O "\"prefill\":\"stream\"}", "kv_policy.prefill", "not 'attention_sum'"},
        {"{\"name\":\"sink\",\"decode\":\"grow\"}", "kv_policy.decode", "must be 'evict'"},
        {"{\"name\":\"sink\",\"remnant\":\"mean\"}", "kv_policy.remnant", "must be 'none'"},
        {"{\"name\":\"sink\",\"allocation\":\"pyramid\"}", "kv_policy.allocation", "same window"},
        {H2O "\"positions\":\"cache\"}", "kv_policy.positions", "prefill 'stream'"},
        {H2O "\"scorer\":\"recency\",\"allocation\":\"adaptive\"}", "kv_policy.allocation",
         "use 'uniform'"},
        {"{\"name\":\"compresskv\",\"share\":\"head\"}", "kv_policy.share", "must be 'layer'"},
        {"{\"name\":\"adakv\",\"share\":\"layer\"}", "kv_policy.share", "allocation 'uniform'"},
        {"{\"name\":\"tova\",\"share\":\"layer\",\"allocation\":\"adaptive_floor\"}",
         "kv_policy.share", "allocation 'uniform'"},
        {H2O "\"window\":9}", "kv_policy.window", "only the scorer 'window_attention' reads it"},
        {H2O "\"kernel\":9}", "kv_policy.kernel", "means nothing to this policy"},
        {H2O "\"pool\":\"max\"}", "kv_policy.pool", "means nothing to this policy"},
        {H2O "\"seed\":9}", "kv_policy.seed", "only the scorer 'random' reads it"},
        {H2O "\"sparsity\":0.5}", "kv_policy.sparsity", "only the allocation 'profile'"},
        {H2O "\"min_window\":9}", "kv_policy.min_window", "with whole heads"},
        {"{\"name\":\"snapkv\",\"interval\":2}", "kv_policy.interval", "decode 'evict' reads it"},
        {H2O "\"storage\":\"q4\"}", "kv_policy.storage", "('f16')"},
        {H2O "\"budget\":8,\"recent\":4}", "kv_policy.budget", "4 sinks, 4 recent"},
        {"{\"name\":\"sink\",\"budget\":4}", "kv_policy.budget", "too small"},
        {"{\"name\":\"sink\",\"budget\":64,\"recent\":9}", "kv_policy.recent", "makes 60"},
        {"{\"name\":\"sink\",\"budget\":5000}", "kv_policy.budget", "above the 4096 positions"},
        {"{\"name\":\"snapkv\",\"budget\":20}", "kv_policy.window", "window 32 is above budget 20"},
        {H2O "\"budget\":20,\"recent\":4,\"interval\":13}", "kv_policy.interval", "12 slots"},
        {"{\"name\":\"duo\",\"recent\":0}", "kv_policy.recent", "needs a window"},
        {"{\"name\":\"razor\",\"budget\":100}", "kv_policy.budget", "2 of 8 heads keep all 1000"},
        {"{\"name\":\"razor\",\"scorer\":\"window_attention\"}", "kv_policy.budget",
         "budget is missing"},
    };
    for (uint32_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_refusal(bad[i].text, bad[i].where, bad[i].what);
    const struct plan_limits without = {.n_ctx_train = TRAINED};
    asked = asked_of_text("razor");
    ck_assert(!plan_resolve(&asked, 100, &without, &e));
    ck_assert_ptr_nonnull(strstr(e.message, "needs a head profile"));
}
END_TEST

static struct plan resolved(const char *text, uint32_t n_prompt)
{
    return plan_of_text(text, n_prompt, &limits);
}

START_TEST(a_share_of_a_short_prompt_is_what_the_policy_always_keeps)
{
    for (uint32_t i = 0; i < preset_count(); i++) {
        const struct preset *preset = preset_at(i);
        if (!preset->axes.has_budget)
            continue;
        char text[100];
        snprintf(text, sizeof text, "{\"name\":\"%s\",\"budget\":0.6}", preset->name);
        uint32_t before = 0;
        for (uint32_t n = 1; n < 3000; n += n / 8 + 1) {
            ck_assert(parses(text));
            e = (struct error){.code = ""};
            const struct plan *plan = plan_resolve(&asked, n, &limits, &e);
            ck_assert_msg(plan != NULL, "%s of %u tokens: %s", text, n, e.message);
            ck_assert_str_eq(e.code, "");
            ck_assert_msg(plan->budget >= before, "%s of %u tokens: %u after %u", text, n,
                          plan->budget, before);
            before = plan->budget;
            ck_assert_msg(plan->budget >= 0.6 * n, "%s of %u: %u", text, n, plan->budget);
            /* It is the least: as a number, one less is too small. */
            if (plan->budget > 0.6 * n + 1) {
                struct plan_asked number = asked;
                number.axes.budget_share = 0;
                number.axes.budget = plan->budget - 1;
                const struct plan *less = plan_resolve(&number, n, &limits, &e);
                ck_assert_msg(!less, "%s of %u: %u, and %u would do", text, n, plan->budget,
                              plan->budget - 1);
            }
            plan_release(plan);
        }
    }
}
END_TEST

START_TEST(shares_and_defaults_become_slots)
{
    struct plan p = resolved("h2o:0.1", 1001);
    ck_assert_uint_eq(p.budget, 101); /* rounded up */
    ck_assert_uint_eq(p.recent, 50);
    ck_assert_uint_eq(p.interval, 1);
    ck_assert(p.asked.budget_share == 0.1 && p.budget_share == 0.1);
    p = resolved("{\"name\":\"h2o\",\"budget\":0.1,\"recent\":7}", 1001);
    ck_assert_uint_eq(p.recent, 7);
    p = resolved("sink", 10);
    ck_assert_uint_eq(p.recent, p.budget - p.sinks);
    p = resolved("{\"name\":\"sink\",\"recent\":60}", 10);
    ck_assert_uint_eq(p.budget, 64);
    p = resolved("snapkv", 10);
    ck_assert_uint_eq(p.recent, p.vote_queries);
    p = resolved("scissorhands:100", 10);
    ck_assert_uint_eq(p.interval, 50);
    p = resolved("razor", 10000);
    ck_assert_uint_eq(p.recent, 2000);
    ck_assert_uint_eq(p.other_budget, 2004);
    /* The mean over 8 heads of which 2 keep 1000. */
    p = resolved("{\"name\":\"razor\",\"budget\":400}", 1000);
    ck_assert_uint_eq(p.other_budget, 200);
    ck_assert_uint_eq(p.recent, 196);
    p = resolved("compresskv:100", 1000);
    ck_assert(p.share == SHARE_LAYER && plan_profile_votes(&p));
    p = resolved("tova:100", 1000);
    ck_assert(p.share == SHARE_LAYER);
    /* The authors' set-up for long prompts. */
    p = resolved("snapkv", 1000);
    ck_assert(p.pooling == POOLING_MAX && p.kernel == 7 && p.vote_queries == 32);
    /* Where heads hold different tokens, each chooses for itself unless the request insists. */
    p = resolved("{\"name\":\"tova\",\"allocation\":\"pyramid\"}", 1000);
    ck_assert(p.share == SHARE_HEAD);
    p = resolved("{\"name\":\"compresskv\",\"allocation\":\"adaptive_floor\"}", 1000);
    ck_assert(p.share == SHARE_HEAD);
    const struct plan_limits young = {.n_ctx_train = 512};
    p = plan_of_text("sink", 10, &young);
    ck_assert_uint_eq(p.budget, 512);
}
END_TEST

START_TEST(a_cap_lowers_defaults_and_refuses_demands)
{
    const struct plan_limits capped = {.n_ctx_train = TRAINED, .max_budget = 500};
    struct plan p = plan_of_text("sink", 100, &capped);
    ck_assert(p.budget == 500 && p.recent == 496);
    p = plan_of_text("h2o", 100, &capped);
    ck_assert(p.budget == 500 && p.recent == 250);
    p = plan_of_text("full", 100, &capped);
    ck_assert(!plan_evicts(&p));
    asked = asked_of_text("h2o:501");
    ck_assert(!plan_resolve(&asked, 100, &capped, &e));
    ck_assert_str_eq(e.code, "kv_budget_exceeds_limit");
    ck_assert_int_eq(e.max_budget, 500);
    /* A default that cannot be lowered so far is refused too. */
    const struct plan_limits tiny = {.n_ctx_train = TRAINED, .max_budget = 20};
    asked = asked_of_text("snapkv");
    ck_assert(!plan_resolve(&asked, 100, &tiny, &e));
}
END_TEST

START_TEST(a_plan_describes_itself)
{
    char text[64];
    struct plan p = resolved("h2o:64", 1000);
    p.source = SOURCE_HEADER;
    plan_describe(&p, text, sizeof text);
    ck_assert_str_eq(text, "h2o; budget=64; source=header");
    p = resolved("full", 1000);
    plan_describe(&p, text, sizeof text);
    ck_assert_str_eq(text, "full; source=default");
    enum plan_storage storage;
    ck_assert(plan_storage_parse("q8", &storage) && storage == STORAGE_Q8);
    ck_assert(!plan_storage_parse("q5", &storage));
}
END_TEST

/* ---- sharing */

START_TEST(the_last_holder_frees_a_plan)
{
    const struct plan *plan = held_plan("h2o:64", 1000, &limits);
    ck_assert_uint_eq(plan->n_holders, 1);
    ck_assert_ptr_eq(plan_hold(plan), plan);
    ck_assert_uint_eq(plan->n_holders, 2);
    plan_release(plan);
    ck_assert_uint_eq(plan->n_holders, 1);
    const struct plan *other = plan_for(plan, SOURCE_SESSION, true, &e);
    ck_assert(other->source == SOURCE_SESSION && other->trace && other->budget == 64);
    ck_assert(plan->source == SOURCE_DEFAULT && !plan->trace && other->n_holders == 1);
    plan_release(plan);
    plan_release(other);
    /* In its owner's memory: holders are not counted. */
    struct plan own = resolved("full", 1);
    ck_assert_ptr_eq(plan_hold(&own), &own);
    plan_release(&own);
    plan_release(&own);
    plan_release(plan_hold(NULL));
}
END_TEST

/* What a sequence holds outlives whoever made it. */
START_TEST(a_sequence_holds_its_plan)
{
    struct cache *c = cache_new(2, 4, 4, 8, &e);
    const struct plan *plan = held_plan("sink:64", 100, &limits);
    struct cache_sequence *s = cache_sequence_new(c, plan, &e);
    ck_assert_ptr_eq(cache_sequence_plan(s), plan);
    ck_assert_uint_eq(plan->n_holders, 2);
    struct cache_sequence *fork = cache_sequence_fork(s, &e);
    ck_assert_uint_eq(plan->n_holders, 3);
    plan_release(plan);
    cache_sequence_free(s);
    ck_assert_uint_eq(cache_sequence_plan(fork)->budget, 64);
    cache_sequence_free(fork);
    cache_free(c);
}
END_TEST

static bool agree(const char *a, uint32_t n_a, const char *b, uint32_t n_b)
{
    struct plan x = resolved(a, n_a), y = resolved(b, n_b);
    ck_assert(plan_agrees(&x, &y) == plan_agrees(&y, &x));
    return plan_agrees(&x, &y);
}

START_TEST(plans_agree_that_were_asked_for_alike_or_came_to_the_same)
{
    /* The second turn's prompt is longer: a share is another number, and what follows from it. */
    ck_assert(agree("h2o:0.2", 1000, "h2o:0.2", 3000));
    ck_assert(agree("scissorhands:0.2", 1000, "scissorhands:0.2", 3000));
    ck_assert(agree("razor", 1000, "razor", 30000));
    ck_assert(agree("sink", 10, "sink:1024", 10));
    ck_assert(agree("{\"name\":\"sink\",\"recent\":60}", 10, "sink:64", 10));
    ck_assert(agree("{\"name\":\"h2o\",\"trace\":true}", 10, "h2o", 10));
    ck_assert(!agree("h2o:64", 10, "h2o:65", 10));
    ck_assert(!agree("h2o:0.2", 1000, "h2o:0.3", 1000));
    ck_assert(!agree("knorm", 10, "keydiff", 10));
    ck_assert(!agree("full", 10, "h2o", 10));
    ck_assert(
        !agree("{\"name\":\"random\",\"seed\":1}", 10, "{\"name\":\"random\",\"seed\":2}", 10));
    ck_assert(!agree("{\"name\":\"h2o\",\"sinks\":1}", 10, "h2o", 10));
    ck_assert(!agree("{\"name\":\"snapkv\",\"decode\":\"evict\"}", 10, "snapkv", 10));
}
END_TEST

/* ---- budgets */

START_TEST(a_bound_holds_what_settles_and_never_more_than_full)
{
    const struct budget_shape shape = {2, 4, &profile};
    const struct plan full = resolved("full", 1000);
    for (uint32_t i = 0; i < preset_count(); i++) {
        const char *name = preset_at(i)->name;
        const struct plan p = resolved(name, 1000);
        for (uint32_t n = 1000; n < 9000; n += 1333) {
            uint64_t bound = budget_bound_pages(&shape, &p, 1000, n),
                     settled = budget_settled_pages(&shape, &p, 1000, n),
                     all = budget_bound_pages(&shape, &full, 1000, n);
            /* Heads that compete may each begin a page more. */
            uint64_t slack = plan_competes(&p) ? 8 : 0;
            ck_assert_msg(settled <= bound, "%s at %u", name, n);
            ck_assert_msg(bound <= all + slack, "%s at %u: %lu of %lu", name, n,
                          (unsigned long)bound, (unsigned long)all);
        }
    }
}
END_TEST

START_TEST(heads_have_the_budget_that_their_plan_gives_them)
{
    const struct budget_shape shape = {2, 4, &profile};
    struct plan p = resolved("duo", 1000);
    ck_assert(budget_head_is_whole(&shape, &p, 0, 1) && !budget_head_is_whole(&shape, &p, 0, 0));
    ck_assert_uint_eq(budget_ring_of(&shape, &p, 0, 1).ring, 0);
    ck_assert_uint_eq(budget_ring_of(&shape, &p, 0, 0).ring, 256 + PAGE_SLOTS);
    ck_assert(!budget_is_exceeded(&p, 5000)); /* a stream is never compressed */
    p = resolved("razor", 1000);
    ck_assert(!budget_is_exceeded(&p, 1028) && budget_is_exceeded(&p, 1029));
    ck_assert_uint_eq(budget_recent(&p, 10000), 2000);
    ck_assert_uint_eq(budget_of_head(&shape, &p, 0, 10000), 2004);
    p = resolved("compresskv:100", 1000);
    ck_assert(budget_head_votes(&shape, &p, 1, 1) && !budget_head_votes(&shape, &p, 1, 0));
    ck_assert(!budget_head_is_whole(&shape, &p, 0, 1));
    ck_assert_uint_eq(budget_of_head(&shape, &p, 0, 1000) + budget_of_head(&shape, &p, 1, 1000),
                      200);
    p = resolved("pyramidkv:100", 1000);
    ck_assert_uint_gt(budget_of_head(&shape, &p, 0, 1000), budget_of_head(&shape, &p, 1, 1000));
    p = resolved("full", 1000);
    ck_assert(budget_head_is_whole(&shape, &p, 0, 0) && !budget_is_exceeded(&p, UINT32_MAX));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("plan");
    TCase *t = suite_case(suite, "plan", 60);
    tcase_add_test(t, every_axis_takes_its_range_and_nothing_else);
    tcase_add_test(t, every_value_has_a_row);
    tcase_add_test(t, the_schema_has_every_axis_and_every_preset);
    tcase_add_test(t, every_scorer_is_named_valued_and_votes_as_it_reads);
    tcase_add_test(t, voters_decide_what_a_prefix_is_good_for);
    tcase_add_test(t, values_are_those_of_the_formulas);
    tcase_add_test(t, every_preset_fits_the_counters_by_policy);
    tcase_add_test(t, shown_defaults_are_what_prompts_get);
    tcase_add_test(t, shown_values_say_what_acts);
    tcase_add_test(t, names_come_in_several_spellings_and_misspelt_ones_get_a_hint);
    tcase_add_test(t, one_is_no_budget);
    tcase_add_test(t, a_suffix_is_a_name_and_perhaps_a_budget);
    tcase_add_test(t, full_takes_only_what_every_policy_takes);
    tcase_add_test(t, axes_that_do_not_go_together_are_refused);
    tcase_add_test(t, a_share_of_a_short_prompt_is_what_the_policy_always_keeps);
    tcase_add_test(t, shares_and_defaults_become_slots);
    tcase_add_test(t, a_cap_lowers_defaults_and_refuses_demands);
    tcase_add_test(t, a_plan_describes_itself);
    tcase_add_test(t, the_last_holder_frees_a_plan);
    tcase_add_test(t, a_sequence_holds_its_plan);
    tcase_add_test(t, plans_agree_that_were_asked_for_alike_or_came_to_the_same);
    tcase_add_test(t, a_bound_holds_what_settles_and_never_more_than_full);
    tcase_add_test(t, heads_have_the_budget_that_their_plan_gives_them);
    return suite_run(suite);
}
