/* The inside of `winnow eval`, shared by its tasks: what is evaluated, and what every run of a task
 * needs. Main thread. */
#ifndef WINNOW_SERVER_REPORT_EVAL_PRIVATE_H
#define WINNOW_SERVER_REPORT_EVAL_PRIVATE_H

#include <signal.h>

#include "engine/measure/evaluate.h"
#include "config/options.h"
#include "server/report/eval_results.h"

enum { EVAL_MOST = 64 }; /* policies, budgets, contexts, depths: of each */

struct eval {
    struct eval_arguments a;
    struct evaluator *evaluator;
    struct eval_results results;
    struct tokens text;
    char *policies[EVAL_MOST]; /* owned; names or JSON objects, `full` first */
    double budgets[EVAL_MOST], depths[EVAL_MOST];
    uint32_t contexts[EVAL_MOST];
    uint32_t n_policies, n_budgets, n_depths, n_contexts;
    uint32_t n_done, n_runs;
    double started; /* of clock_seconds */
    bool terminal;
};

/* Set by SIGINT and SIGTERM: the run at hand is finished, no other begun. */
extern volatile sig_atomic_t eval_interrupted;

/* Budgets of a policy, of which `full` has one, and the i-th. */
uint32_t eval_n_budgets(const struct eval *v, uint32_t policy);
double eval_budget(const struct eval *v, uint32_t policy, uint32_t i);
/* A policy of --policies, a name or a JSON object, as an object. New reference. NULL:
 * "invalid_value", "out_of_memory". */
json_t *eval_policy_json(const char *policy, struct error *e);
/* The plan of a policy at a budget, a share below 1 being one of n_prompt tokens. The caller holds
 * it. NULL with the reason when the two do not go together. */
const struct plan *eval_plan(const struct eval *v, const char *policy, double budget,
                             uint32_t n_prompt, struct error *e);

/* What tells a run from others; depth < 0: it has none. Owned by the caller, NULL: no memory. */
json_t *eval_key(const char *task, uint32_t context, double depth, uint32_t sample,
                 const char *policy, double budget);
json_t *eval_memory_json(const struct evaluate_memory *m);
/* Whether the run of this key was done before; it is counted then. */
bool eval_is_done(struct eval *v, const json_t *key);
/* Writes and shows a run: the key and its outcome, whose references it takes. */
bool eval_finish(struct eval *v, json_t *key, json_t *outcome, struct error *e);

/* Appends the text's tokens from `from` on, round and round. */
bool eval_append_text(const struct eval *v, struct tokens *out, size_t from, size_t n,
                      struct error *e);

/* The tasks. False: an error that is not a policy's; an interrupt is none. */
bool eval_texts(struct eval *v, struct error *e);
bool eval_questions(struct eval *v, struct error *e);
uint32_t eval_questions_count(const struct eval *v); /* runs for each policy, budget and context */
bool eval_streams(struct eval *v, struct error *e);

#endif
