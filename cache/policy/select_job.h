/* One head at the moment of dropping, as a backend gets it: the plan, the head, and how far the
 * sequence is. Facts of the whole plan are read from the plan. */
#ifndef WINNOW_CACHE_POLICY_SELECT_JOB_H
#define WINNOW_CACHE_POLICY_SELECT_JOB_H

#include "cache/policy/budget.h"

struct select_job {
    const struct plan *plan;
    struct head_state *head; /* cache/pages/head_state.h */
    uint32_t layer, kv_head;
    uint32_t n_tokens; /* N: the newest token's position + 1 */
    uint32_t n_slots;  /* used by then */
    uint32_t budget;   /* compress: slots to keep, UINT32_MAX: stays as it is; under allocation
                          `adaptive` the mean over the layer, whose heads compete */
    uint32_t n_drop;   /* evict: slots to drop, 0 = none */
    bool at_end;       /* the prompt ends here (compress); else a decode step (evict) */
    bool votes;        /* share `layer`: the mean score of the heads that vote is every head's */
    uint32_t n_kept;   /* compress: result */
};

/* What decides now. */
static inline enum plan_scorer select_job_scorer(const struct select_job *job)
{
    return job->at_end ? job->plan->scorer : scorer_at(job->plan->scorer)->after_prompt;
}

/* Newest tokens that are never dropped, now. */
static inline uint32_t select_job_recent(const struct select_job *job)
{
    return budget_recent(job->plan, job->n_tokens);
}

/* Compress: whether the scores of what is kept restart at 0, whole heads included, because
 * another scorer takes over. */
static inline bool select_job_forgets(const struct select_job *job)
{
    return job->at_end && scorer_at(job->plan->scorer)->after_prompt != job->plan->scorer;
}

#endif
