/* The parts that all tasks share: see eval_private.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/clock.h"
#include "config/json_read.h"
#include "server/api/plan_json.h"
#include "server/report/eval_private.h"

volatile sig_atomic_t eval_interrupted;

static void show_run(struct eval *v, const json_t *run)
{
    char what[120] = "";
    const json_t *skipped = json_object_get(run, "skipped");
    v->n_done++;
    if (skipped)
        snprintf(what, sizeof what, "skipped");
    else if (json_object_get(run, "nll"))
        snprintf(what, sizeof what, "perplexity %.3f, agreement %.1f %%",
                 exp(json_number_value(json_object_get(run, "nll"))),
                 100 * json_number_value(json_object_get(run, "agreement")));
    else
        snprintf(what, sizeof what, "%s %s", json_string_value(json_object_get(run, "fact")),
                 json_is_true(json_object_get(run, "correct")) ? "found" : "not found");
    double took = clock_seconds() - v->started;
    fprintf(stderr, "%s[%3u %%] %u of %u, %.0f s: %s, %lld tokens, %.40s at %.4g: %s%s",
            v->terminal ? "\r\033[K" : "", 100 * v->n_done / v->n_runs, v->n_done, v->n_runs, took,
            json_string_value(json_object_get(run, "task")),
            (long long)json_integer_value(json_object_get(run, "context")),
            json_string_value(json_object_get(run, "policy")),
            json_number_value(json_object_get(run, "budget")), what, v->terminal ? "" : "\n");
    fflush(stderr);
}

double eval_budget(const struct eval *v, uint32_t policy, uint32_t i)
{
    return strcmp(v->policies[policy], "full") ? v->budgets[i] : 1;
}

uint32_t eval_n_budgets(const struct eval *v, uint32_t policy)
{
    return strcmp(v->policies[policy], "full") ? v->n_budgets : 1;
}

json_t *eval_key(const char *task, uint32_t context, double depth, uint32_t sample,
                 const char *policy, double budget)
{
    json_t *key = json_pack("{s:s, s:i, s:i, s:s, s:f}", "task", task, "context", (int)context,
                            "sample", (int)sample, "policy", policy, "budget", budget);
    if (key && depth >= 0)
        json_object_set_new(key, "depth", json_real(depth));
    return key;
}

json_t *eval_policy_json(const char *policy, struct error *e)
{
    if (*policy == '{')
        return json_read(policy, strlen(policy), 0, "invalid_value", "--policies", policy, e);
    json_t *value = json_pack("{s:s}", "name", policy);
    if (!value)
        error_set_memory(e, "a policy", strlen(policy));
    return value;
}

const struct plan *eval_plan(const struct eval *v, const char *policy, double budget,
                             uint32_t n_prompt, struct error *e)
{
    struct plan_limits limits = evaluator_limits(v->evaluator);
    struct plan_asked asked;
    json_t *value = eval_policy_json(policy, e);
    if (value && strcmp(policy, "full") != 0)
        json_object_set_new(value, "budget",
                            budget < 1 ? json_real(budget) : json_integer((json_int_t)budget));
    bool parsed = value && plan_parse_json(value, "policy", &asked, e);
    json_decref(value);
    return parsed ? plan_resolve(&asked, n_prompt, &limits, e) : NULL;
}

bool eval_finish(struct eval *v, json_t *key, json_t *outcome, struct error *e)
{
    if (outcome)
        json_object_update(key, outcome);
    json_decref(outcome);
    bool done = eval_results_add(&v->results, key, e);
    if (done)
        show_run(v, key);
    return done;
}

json_t *eval_memory_json(const struct evaluate_memory *m)
{
    return json_pack("{s:f, s:f, s:f, s:i}", "bytes", m->bytes, "bytes_full", m->bytes_full,
                     "slots_kept", m->slots_kept, "tokens_seen", (int)m->tokens_seen);
}

bool eval_is_done(struct eval *v, const json_t *key)
{
    bool done = eval_results_has(&v->results, key);
    v->n_done += done;
    return done;
}

bool eval_append_text(const struct eval *v, struct tokens *out, size_t from, size_t n,
                      struct error *e)
{
    for (size_t i = 0; i < n; i++)
        if (!tokens_push(out, v->text.data[(from + i) % v->text.count]))
            return error_set_memory(e, "a prompt", n * sizeof(int32_t));
    return true;
}
