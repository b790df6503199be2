/* Plans as tests write them: JSON, or a name with or without a budget ("h2o:64"). */
#ifndef WINNOW_TESTS_UNIT_PLAN_OF_TEXT_H
#define WINNOW_TESTS_UNIT_PLAN_OF_TEXT_H

#include <check.h>
#include <string.h>

#include "cache/policy/preset.h"
#include "server/api/plan_json.h"

static inline struct plan_asked asked_of_text(const char *text)
{
    struct error e = {.message = ""};
    struct plan_asked asked;
    ck_assert_msg((*text == '{' ? plan_parse_text : plan_parse_suffix)(text, strlen(text), "plan",
                                                                       &asked, &e),
                  "%s: %s", text, e.message);
    return asked;
}

/* Held by the caller. */
static inline const struct plan *held_plan(const char *text, uint32_t n_prompt,
                                           const struct plan_limits *limits)
{
    struct error e = {.message = ""};
    const struct plan_asked asked = asked_of_text(text);
    const struct plan *plan = plan_resolve(&asked, n_prompt, limits, &e);
    ck_assert_msg(plan != NULL, "%s: %s", text, e.message);
    return plan;
}

/* The same in memory of the caller's own, which outlives the sequences that use it. */
static inline struct plan plan_of_text(const char *text, uint32_t n_prompt,
                                       const struct plan_limits *limits)
{
    const struct plan *held = held_plan(text, n_prompt, limits);
    struct plan plan = *held;
    plan_release(held);
    plan.n_holders = 0;
    return plan;
}

#endif
