/* The inside of `winnow eval`, shared by its tasks. Main thread. */
#ifndef WINNOW_SERVER_REPORT_EVAL_PRIVATE_H
#define WINNOW_SERVER_REPORT_EVAL_PRIVATE_H

#include <signal.h>

#include "engine/measure/evaluate.h"
#include "config/options.h"
#include "server/report/eval_results.h"

enum { EVAL_MOST = 64 }; /* the most policies, budgets, contexts and depths */

struct eval {
    struct eval_arguments a;
    struct evaluator *evaluator;
    struct eval_results results;
    struct tokens text;
    char *policies[EVAL_MOST]; /* owned; names or JSON objects; `full` comes first */
    double budgets[EVAL_MOST], depths[EVAL_MOST];
    uint32_t contexts[EVAL_MOST];
    uint32_t n_policies, n_budgets, n_depths, n_contexts;
    uint32_t n_done, n_runs;
    double started; /* from clock_seconds */
    bool terminal;
};

/* Set by SIGINT and SIGTERM: the current run is finished, and no other is started. */
extern volatile sig_atomic_t eval_interrupted;

/* The number of budgets of a policy, 1 for `full`, and the i-th one. */
uint32_t eval_n_budgets(const struct eval *v, uint32_t policy);
double eval_budget(const struct eval *v, uint32_t policy, uint32_t i);
/* A policy of --policies, a name or a JSON object, as an object. New reference. NULL:
 * "invalid_value", "out_of_memory". */
json_t *eval_policy_json(const char *policy, struct error *e);
/* The plan of a policy with a budget. A budget below 1 is a share of n_prompt tokens. The caller
 * holds the plan. NULL: they do not fit together, and *e says why. */
const struct plan *eval_plan(const struct eval *v, const char *policy, double budget,
                             uint32_t n_prompt, struct error *e);

/* The key of a run: what distinguishes it from others. depth < 0: it has no depth. New reference;
 * NULL: out of memory. */
json_t *eval_key(const char *task, uint32_t context, double depth, uint32_t sample,
                 const char *policy, double budget);
json_t *eval_memory_json(const struct evaluate_memory *m);
/* Whether the run with this key is already done. If so, it is counted. */
bool eval_is_done(struct eval *v, const json_t *key);
/* Writes and shows a run. Takes the references to key and outcome. */
bool eval_finish(struct eval *v, json_t *key, json_t *outcome, struct error *e);

/* Appends n tokens of the text from `from` on. After the end the text starts again. */
bool eval_append_text(const struct eval *v, struct tokens *out, size_t from, size_t n,
                      struct error *e);

/* The tasks. False: an error other than a policy that does not fit. An interrupt is not an
 * error. */
bool eval_texts(struct eval *v, struct error *e);
bool eval_questions(struct eval *v, struct error *e);
uint32_t
eval_questions_count(const struct eval *v); /* the number of runs per policy, budget and context */
bool eval_streams(struct eval *v, struct error *e);

#endif
