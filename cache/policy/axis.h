/* The axes of a policy as a table: key, type and range of what may be written, which policies
 * read it, one line of help. Parsing, the schema and answers (server/api/plan_json.c) and the
 * comparison of plans walk it. Constant, any thread. */
#ifndef WINNOW_CACHE_POLICY_AXIS_H
#define WINNOW_CACHE_POLICY_AXIS_H

#include "cache/policy/plan.h"

enum axis_kind {
    AXIS_BUDGET,   /* uint32_t slots, or a share: plan_axes.budget_share */
    AXIS_NUMBER,   /* uint32_t */
    AXIS_ODD,      /* uint32_t, odd */
    AXIS_CHOICE,   /* an enum, as unsigned */
    AXIS_FRACTION, /* double from 0 to 1 */
    AXIS_INTEGER,  /* int64_t */
    AXIS_SWITCH    /* bool */
};

/* The names of an enum's values, in its order. */
struct axis_names {
    const char *const *names;
    uint32_t n;
    bool first_is_hidden; /* `none` of the scorers: accepted but not offered */
};

/* Which policies read an axis. */
struct axis_reader {
    bool (*reads)(const struct plan_axes *v);
    const char *who; /* "the scorer 'random'"; NULL: no error where nothing reads it */
};

struct axis {
    const char *key, *help;
    enum axis_kind kind;
    size_t offset, size; /* of the field in struct plan_axes */
    int64_t least, most;
    const struct axis_names *names;
    const struct axis_reader *reader;
};
extern const struct axis plan_axis_table[N_PLAN_AXES];

static inline void *axis_field(const struct axis *a, struct plan_axes *v)
{
    return (char *)v + a->offset;
}

static inline const void *axis_value(const struct axis *a, const struct plan_axes *v)
{
    return (const char *)v + a->offset;
}

/* The row of this key, or NULL. */
const struct axis *axis_find(const char *key);
/* The name of the value that `v` has on an axis of choices. */
const char *axis_choice(const struct axis *a, const struct plan_axes *v);

#endif
