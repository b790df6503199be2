/* One head at the moment of dropping something, as a backend gets it. Filled by the cache for every
 * head of a layer; plain values and the head's state. */
#ifndef WINNOW_CACHE_POLICY_SELECT_JOB_H
#define WINNOW_CACHE_POLICY_SELECT_JOB_H

#include "cache/pages/head_state.h"
#include "cache/policy/plan.h"

struct select_job {
    struct head_state *head;
    enum plan_scorer scorer; /* at this moment: after a prompt, window_attention has become
                                attention_sum */
    enum plan_pooling pool;
    enum plan_share share;
    bool votes; /* share layer: the mean score of the heads that vote is every head's */
    uint32_t layer, kv_head;
    uint32_t n_tokens; /* N: the newest token's position + 1 */
    uint32_t n_slots;  /* used by then */
    uint32_t sinks, recent, window, kernel;
    uint32_t budget; /* compress: slots to keep; under `adaptive` the mean over the layer */
    uint32_t n_drop; /* evict: slots to drop, 0 = none */
    bool adaptive;   /* compress: the heads of the layer compete */
    bool remnant;    /* what is dropped joins the summary */
    bool forget;     /* compress: scores of what is kept begin at 0 again, whole heads included */
    int64_t seed;
    uint32_t n_kept; /* compress: result */
};

#endif
