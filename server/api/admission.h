/* Admission: chooses a request's plan, checks whether its key and policy may run, and submits it to the
 * engine. Loop thread, except where it says otherwise. */
#ifndef WINNOW_SERVER_API_ADMISSION_H
#define WINNOW_SERVER_API_ADMISSION_H

#include "server/api/job.h"

/* The policy that was asked for: the body's, else the header's, else the model suffix's, else the
 * server's. The first three may be NULL. Any thread. */
bool admission_pick_policy(const struct service *s, const struct plan_asked *body,
                           const char *header, const char *suffix, struct plan_asked *out,
                           struct error *e);
/* The limits for a policy from this source. --kv-policy-max-budget does not apply to the server's own
 * default. Any thread, after the engine has loaded. */
struct plan_limits admission_limits(const struct service *s, enum plan_source source);
/* Checks the operator's rules and resolves the plan for a prompt of n_prompt tokens. The caller holds
 * the plan. NULL: refused. Any thread, after the engine has loaded. */
const struct plan *admission_resolve_plan(const struct service *s, const struct plan_asked *asked,
                                          uint32_t n_prompt, struct error *e);
/* Whether the operator lets requests name this policy. */
bool admission_offers(const struct service *s, const struct preset *preset);
/* Whether the server has what the policy needs, such as a head profile. */
bool admission_can_run(const struct service *s, const struct preset *preset);

/* Pool. Resolves the prompt's plan and checks whether the engine can ever run it, so that a request with
 * many prompts is refused before any of them runs. */
bool admission_check_prompt(struct prompt *p, struct error *e);
/* Pool. The limits of a whole request: its tokens, and the bytes of an answer that is no stream. */
bool admission_check_product(struct job *j, struct error *e);
/* "context_length_exceeded" with every wording that agents look for: see API.md section 6. at_least: the
 * prompt was not read to its end. Any thread; returns false. */
bool admission_overflow(enum api_request_kind kind, int64_t n_prompt, bool at_least, int64_t n_ctx,
                        struct error *e);

/* Sets the job's plan and submits its first prompts to the engine, which takes their tokens. False: *e is
 * the answer; some prompts may already run (job_stop_work). */
bool admission_submit(struct job *j, struct error *e);
/* Submits further prompts of a hungry job, as many as there is room for. False: likewise. */
bool admission_feed(struct job *j, struct error *e);

#endif
