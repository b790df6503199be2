/* The tasks on plain text. `text`: how probable the text is after a compressed prompt, and how far
 * the next-token distribution is from full attention's. `stream`: whether a text far longer than
 * the trained context stays as probable. */
#include <math.h>
#include <stdlib.h>

#include "config/base/clock.h"
#include "server/report/eval_private.h"

/* One policy with one budget on one text. Full attention's distribution is computed first if it is
 * missing. */
static bool run_text(struct eval *v, const char *policy, double budget, uint32_t context,
                     uint32_t sample, struct evaluate_reference *reference, struct error *e)
{
    json_t *key = eval_key("text", context, -1, sample, policy, budget);
    if (!key || eval_is_done(v, key)) {
        json_decref(key);
        return key || error_set_memory(e, "results", 4096);
    }
    uint32_t n_steps = (uint32_t)v->a.n_steps, n_prompt = context - n_steps;
    size_t places = v->text.count - context,
           first = places * (2 * sample + 1) / (2 * v->a.n_samples);
    const int32_t *tokens = v->text.data + first;
    struct error reason;
    struct evaluate_text_result result;
    const struct plan *plan = eval_plan(v, policy, budget, n_prompt, &reason), *full = NULL;
    if (!plan)
        return eval_finish(v, key, json_pack("{s:s}", "skipped", reason.message), e);
    bool done =
        reference->logits || !plan_evicts(plan) ||
        ((full = eval_plan(v, "full", 1, n_prompt, e)) &&
         evaluate_text(v->evaluator, full, tokens, n_prompt, n_steps, reference, &result, e));
    done =
        done && evaluate_text(v->evaluator, plan, tokens, n_prompt, n_steps, reference, &result, e);
    plan_release(full);
    plan_release(plan);
    if (!done) {
        json_decref(key);
        return false;
    }
    json_t *outcome = eval_memory_json(&result.memory);
    json_object_update_new(outcome, json_pack("{s:f, s:f, s:f}", "nll", result.nll, "agreement",
                                              result.agreement, "kl", result.kl));
    return eval_finish(v, key, outcome, e);
}

bool eval_texts(struct eval *v, struct error *e)
{
    bool done = true;
    for (uint32_t c = 0; c < v->n_contexts && done; c++)
        for (uint32_t s = 0; s < v->a.n_samples && done; s++) {
            struct evaluate_reference reference = {NULL};
            for (uint32_t p = 0; p < v->n_policies && done; p++)
                for (uint32_t b = 0; b < eval_n_budgets(v, p) && done && !eval_interrupted; b++)
                    done = run_text(v, v->policies[p], eval_budget(v, p, b), v->contexts[c], s,
                                    &reference, e);
            free(reference.logits);
        }
    return done;
}

/* ---- streams */

struct stream {
    struct eval *v;
    const char *policy;
    double budget, started, first_nll, worst_nll, sum_nll;
    uint32_t n_reports, pages_min, pages_max;
};

static bool on_stream(void *context, uint64_t n_tokens, double nll, uint32_t pages)
{
    struct stream *s = context;
    s->first_nll = s->n_reports ? s->first_nll : nll;
    s->worst_nll = s->n_reports && s->worst_nll > nll ? s->worst_nll : nll;
    s->sum_nll += nll;
    s->pages_min = s->n_reports && s->pages_min < pages ? s->pages_min : pages;
    s->pages_max = pages > s->pages_max ? pages : s->pages_max;
    s->n_reports++;
    double took = clock_seconds() - s->started;
    fprintf(stderr,
            "%sstream, %.40s at %.4g: %llu tokens, perplexity of the last part %.3f, %u "
            "pages, %.0f tokens/s%s",
            s->v->terminal ? "\r\033[K" : "", s->policy, s->budget, (unsigned long long)n_tokens,
            exp(nll), pages, (double)n_tokens / took, s->v->terminal ? "" : "\n");
    return !eval_interrupted;
}

/* Twenty parts, whose perplexities should be alike. */
static bool run_stream(struct eval *v, const char *policy, double budget, struct error *e)
{
    uint64_t n = v->a.n_stream;
    const struct plan *plan =
        eval_plan(v, policy, budget, evaluator_model(v->evaluator)->n_ctx_train, e);
    if (!plan)
        return false;
    if (plan->positions != POSITIONS_CACHE) {
        plan_release(plan);
        return true; /* other plans end at the trained context */
    }
    struct tokens text = {0};
    struct stream s = {.v = v, .policy = policy, .budget = budget, .started = clock_seconds()};
    bool done = eval_append_text(v, &text, 0, n, e) &&
                evaluate_stream(v->evaluator, plan, text.data, n, n / 20, on_stream, &s, e);
    tokens_free(&text);
    if (v->terminal)
        fputs("\r\033[K", stderr);
    if (done && s.n_reports)
        printf("stream %llu tokens, %s, %u slots: perplexity %.3f at first, %.3f on average, %.3f "
               "at worst; %u to %u pages; %.0f tokens/s\n",
               (unsigned long long)n, policy, plan->budget, exp(s.first_nll),
               exp(s.sum_nll / s.n_reports), exp(s.worst_nll), s.pages_min, s.pages_max,
               (double)n / (clock_seconds() - s.started));
    plan_release(plan);
    return done;
}

bool eval_streams(struct eval *v, struct error *e)
{
    bool done = true;
    for (uint32_t p = 0; p < v->n_policies && done; p++)
        for (uint32_t b = 0; b < eval_n_budgets(v, p) && done && !eval_interrupted; b++)
            done = run_stream(v, v->policies[p], eval_budget(v, p, b), e);
    return done;
}
