/* Plans after resolving: who holds them, when two agree, what they are called. See plan.h. */
#include "cache/policy/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/policy/axis.h"
#include "cache/policy/preset.h"

/* The count of holders is the only thing in a plan that changes. */
static uint32_t *holders_of(const struct plan *plan)
{
    return &((struct plan *)(uintptr_t)plan)->n_holders;
}

const struct plan *plan_hold(const struct plan *plan)
{
    if (plan && __atomic_load_n(&plan->n_holders, __ATOMIC_RELAXED) > 0)
        __atomic_fetch_add(holders_of(plan), 1, __ATOMIC_RELAXED);
    return plan;
}

void plan_release(const struct plan *plan)
{
    if (plan && __atomic_load_n(&plan->n_holders, __ATOMIC_RELAXED) > 0 &&
        __atomic_sub_fetch(holders_of(plan), 1, __ATOMIC_ACQ_REL) == 0)
        free((void *)(uintptr_t)plan);
}

const struct plan *plan_for(const struct plan *plan, enum plan_source source, bool trace,
                            struct error *e)
{
    struct plan *own = malloc(sizeof *own);
    if (!own) {
        error_set_memory(e, "a cache policy", sizeof *own);
        return NULL;
    }
    *own = *plan;
    own->source = source;
    own->trace = trace;
    own->n_holders = 1;
    return own;
}

#define VALUE(type, field, ...) .field = plan->field,

struct plan_axes plan_axes_of(const struct plan *plan)
{
    return (struct plan_axes){PLAN_AXES(VALUE).has_budget = plan->has_budget,
                              .budget_share = plan->budget_share};
}

/* ---- comparing */

static bool are_alike(const struct plan_axes *a, const struct plan_axes *b)
{
    for (uint32_t i = 0; i < N_PLAN_AXES; i++) {
        const struct axis *axis = &plan_axis_table[i];
        if (i != PLAN_AXIS_trace && i != PLAN_AXIS_storage &&
            memcmp(axis_value(axis, a), axis_value(axis, b), axis->size) != 0)
            return false;
    }
    return a->has_budget == b->has_budget;
}

bool plan_agrees(const struct plan *a, const struct plan *b)
{
    struct plan_axes of_a = plan_axes_of(a), of_b = plan_axes_of(b);
    return a->preset == b->preset &&
           (are_alike(&of_a, &of_b) ||
            (are_alike(&a->asked, &b->asked) && a->asked.budget_share == b->asked.budget_share));
}

/* ---- words */

const char *plan_source_name(enum plan_source v)
{
    static const char *const sources[N_SOURCES] = {"default", "request", "header", "model",
                                                   "session"};
    return sources[v];
}

void plan_describe(const struct plan *p, char *out, size_t size)
{
    if (p->has_budget)
        snprintf(out, size, "%s; budget=%u; source=%s", p->preset->name, p->budget,
                 plan_source_name(p->source));
    else
        snprintf(out, size, "%s; source=%s", p->preset->name, plan_source_name(p->source));
}
