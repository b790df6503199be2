/* The policies that have a name: rows of values for the axes of plan.h. Constant, any thread. */
#ifndef WINNOW_CACHE_POLICY_PRESET_H
#define WINNOW_CACHE_POLICY_PRESET_H

#include "cache/policy/plan.h"

/* Room for counters by policy; preset.c does not compile with more rows than this. */
#define PRESETS_MOST 32

/* One row of POLICIES.md's table. */
struct preset {
    const char *name;   /* "sink" */
    const char *help;   /* one line for a person */
    const char *source; /* "StreamingLLM" */
    struct plan_axes axes;
    bool multi_turn_safe; /* what it drops for one question is not missed by the next */
    bool recent_is_half;  /* of the budget, where a request states no `recent` */
};
uint32_t preset_count(void); /* <= PRESETS_MOST */
const struct preset *preset_at(uint32_t index);
uint32_t preset_index(const struct preset *preset); /* the inverse of preset_at */
/* Canonical names and the accepted spellings (none, off, streamingllm, ...). NULL when unknown. */
const struct preset *preset_find(const char *name);

#endif
