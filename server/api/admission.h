/* Admission: which plan a request gets, whether its key and its policy may run, and the hand-over to
 * the engine. Loop thread, except where it says otherwise. */
#ifndef WINNOW_SERVER_API_ADMISSION_H
#define WINNOW_SERVER_API_ADMISSION_H

#include "server/api/job.h"

/* The policy that was asked for: the body's (may be NULL), else the header's, else the model
 * suffix's, else the server's. Any thread. */
bool admission_pick_policy(const struct service *s, const struct plan_asked *body,
                           const char *header, const char *suffix, struct plan_asked *out,
                           struct error *e);
/* The limits of whoever asks: the operator's cap does not bind the operator's own default. Any
 * thread, once the engine is there. */
struct plan_limits admission_limits(const struct service *s, enum plan_source source);
/* Checks the operator's rules and resolves for a prompt of n tokens. The caller holds the plan;
 * NULL: refused. Any thread, once the engine is there. */
const struct plan *admission_resolve_plan(const struct service *s, const struct plan_asked *asked,
                                          uint32_t n_prompt, struct error *e);
/* Whether the operator lets requests name this policy. */
bool admission_offers(const struct service *s, const struct preset *preset);
/* Whether the server has what the policy needs. */
bool admission_can_run(const struct service *s, const struct preset *preset);

/* Gives the job its plan and its prompts to the engine; their tokens are moved there. False: the
 * error is the answer, and some prompts may run (job_stop_work). */
bool admission_submit(struct job *j, struct error *e);

#endif
