/* `winnow eval`: see command_eval.h. Questions to every policy and budget:
 *
 *   text       how probable a real text is, and how far the next-token distribution is from full
 *              attention's (perplexity, agreement, KL), token by token behind a compressed prompt
 *   stream     whether a text far longer than the trained context stays as probable, in how many
 *              pages (plans with cache-relative positions; only when asked for)
 *   retrieval  whether a fact is found that was hidden at some depth in filler and asked for at the
 *              end
 *
 * Every finished run is a line of results.jsonl; a rerun goes on behind the last. Main thread. */
#include "server/command_eval.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "config/size.h"
#include "engine/evaluate.h"
#include "engine/machine.h"
#include "server/eval_results.h"

enum { MOST = 64, ANSWER_TOKENS = 12, DIGITS = 5 };

struct arguments {
    const char *model_path, *text_path, *directory, *policies, *budgets, *contexts, *depths, *tasks,
        *head_profile, *storage, *isa;
    uint64_t n_threads, n_steps, n_samples, n_trials, n_stream, seed;
    bool help;
};

struct eval {
    struct arguments a;
    struct evaluator *evaluator;
    struct eval_results results;
    struct tokens text;
    char *policies[MOST];
    double budgets[MOST], depths[MOST];
    uint32_t contexts[MOST];
    uint32_t n_policies, n_budgets, n_depths, n_contexts;
    uint32_t n_done, n_runs;
    double started;
    bool terminal;
};

static const char usage[] =
    "usage: winnow eval MODEL --text FILE [options]\n"
    "\n"
    "Quality against memory, for cache policies side by side: perplexity and agreement with full\n"
    "attention on a text, and facts found in it. Goes on where an interrupted run ended.\n"
    "\n"
    "  -m, --model FILE        the model (or as the first argument)\n"
    "      --text FILE         the text: some hundred kilobytes of prose\n"
    "      --policies A,B      names, or JSON objects (default: all; razor and duo with a "
    "profile)\n"
    "      --budgets A,B       slots or shares of the prompt (default 0.05,0.1,0.2,0.5)\n"
    "      --contexts A,B      lengths in tokens (default 1024,2048, as far as the model goes)\n"
    "      --depths A,B        where facts lie, 0 to 1 (default 0.1,0.5,0.9)\n"
    "      --tasks A,B         text, retrieval (default both), stream (sink only)\n"
    "      --steps N           tokens that are predicted behind each text (default 128)\n"
    "      --samples N         texts for each length (default 2)\n"
    "      --trials N          facts for each length and depth (default 4)\n"
    "      --stream-tokens N   length of a stream; the text is repeated (default 1000000)\n"
    "      --seed N            of places and facts (default 0)\n"
    "      --out DIR           where results and the report go (default eval)\n"
    "      --head-profile FILE which heads keep everything under razor and duo\n"
    "      --kv-storage TYPE   f16, bf16, q8 or q4 (default f16)\n"
    "  -t, --threads N         threads (default: physical cores)\n"
    "      --isa NAME          plain, avx2 or avx512 (default: the best there is)\n";

/* ---- the command line */

enum flag {
    FLAG_TEXT = 256,
    FLAG_POLICIES,
    FLAG_BUDGETS,
    FLAG_CONTEXTS,
    FLAG_DEPTHS,
    FLAG_TASKS,
    FLAG_STEPS,
    FLAG_SAMPLES,
    FLAG_TRIALS,
    FLAG_STREAM,
    FLAG_SEED,
    FLAG_OUT,
    FLAG_PROFILE,
    FLAG_STORAGE,
    FLAG_ISA
};

static const struct option long_options[] = {
    {"model", required_argument, NULL, 'm'},
    {"text", required_argument, NULL, FLAG_TEXT},
    {"policies", required_argument, NULL, FLAG_POLICIES},
    {"budgets", required_argument, NULL, FLAG_BUDGETS},
    {"contexts", required_argument, NULL, FLAG_CONTEXTS},
    {"depths", required_argument, NULL, FLAG_DEPTHS},
    {"tasks", required_argument, NULL, FLAG_TASKS},
    {"steps", required_argument, NULL, FLAG_STEPS},
    {"samples", required_argument, NULL, FLAG_SAMPLES},
    {"trials", required_argument, NULL, FLAG_TRIALS},
    {"stream-tokens", required_argument, NULL, FLAG_STREAM},
    {"seed", required_argument, NULL, FLAG_SEED},
    {"out", required_argument, NULL, FLAG_OUT},
    {"head-profile", required_argument, NULL, FLAG_PROFILE},
    {"kv-storage", required_argument, NULL, FLAG_STORAGE},
    {"threads", required_argument, NULL, 't'},
    {"isa", required_argument, NULL, FLAG_ISA},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0}};

static bool parse_whole(const char *flag, const char *text, uint64_t min, uint64_t max,
                        uint64_t *out, struct error *e)
{
    char shown[80];
    return whole_number_parse(text, min, max, out) ||
           error_set(e, "invalid_value", flag, "\"%s\" is not an integer in %llu to %llu",
                     error_excerpt(shown, text, strlen(text)), (unsigned long long)min,
                     (unsigned long long)max);
}

static bool parse_flag(struct arguments *a, int flag, const char *text, struct error *e)
{
    switch (flag) {
    case 'm':
        a->model_path = text;
        return true;
    case 'h':
        a->help = true;
        return true;
    case FLAG_TEXT:
        a->text_path = text;
        return true;
    case FLAG_POLICIES:
        a->policies = text;
        return true;
    case FLAG_BUDGETS:
        a->budgets = text;
        return true;
    case FLAG_CONTEXTS:
        a->contexts = text;
        return true;
    case FLAG_DEPTHS:
        a->depths = text;
        return true;
    case FLAG_TASKS:
        a->tasks = text;
        return true;
    case FLAG_OUT:
        a->directory = text;
        return true;
    case FLAG_PROFILE:
        a->head_profile = text;
        return true;
    case FLAG_STORAGE:
        a->storage = text;
        return true;
    case FLAG_ISA:
        a->isa = text;
        return true;
    case FLAG_STEPS:
        return parse_whole("--steps", text, 1, 65536, &a->n_steps, e);
    case FLAG_SAMPLES:
        return parse_whole("--samples", text, 1, 1000, &a->n_samples, e);
    case FLAG_TRIALS:
        return parse_whole("--trials", text, 1, 1000, &a->n_trials, e);
    case FLAG_STREAM:
        return parse_whole("--stream-tokens", text, 1000, INT32_MAX, &a->n_stream, e);
    case FLAG_SEED:
        return parse_whole("--seed", text, 0, INT64_MAX, &a->seed, e);
    case 't':
        return parse_whole("--threads", text, 1, 1024, &a->n_threads, e);
    default:
        return error_set(e, "invalid_value", "", "unknown option or missing value");
    }
}

static bool parse_arguments(struct arguments *a, int argc, char **argv, struct error *e)
{
    int flag;
    optind = 1;
    while ((flag = getopt_long(argc, argv, "m:t:h", long_options, NULL)) != -1)
        if (!parse_flag(a, flag, optarg, e))
            return false;
    if (optind < argc && !a->model_path)
        a->model_path = argv[optind++];
    if (a->help)
        return true;
    if (optind < argc)
        return error_set(e, "invalid_value", "", "\"%.80s\" is one argument too many",
                         argv[optind]);
    if (!a->model_path)
        return error_set(e, "invalid_value", "", "no model file was named");
    return a->text_path || error_set(e, "invalid_value", "--text", "no text was named");
}

/* Numbers between commas, each within (min, max]. */
static bool parse_numbers(const char *flag, const char *text, double min, double max, double *out,
                          uint32_t *n, struct error *e)
{
    char shown[80];
    for (*n = 0; *n < MOST;) {
        char *end;
        double x = strtod(text, &end);
        if (end == text || (*end && *end != ',') || !(x >= min && x <= max))
            return error_set(e, "invalid_value", flag,
                             "\"%s\" does not begin with a number from %g to %g",
                             error_excerpt(shown, text, strlen(text)), min, max);
        out[(*n)++] = x;
        if (!*end)
            return true;
        text = end + 1;
    }
    return error_set(e, "invalid_value", flag, "more than %d values", MOST);
}

/* Policies between commas that lie outside of braces. */
static bool split_policies(struct eval *v, const char *text, struct error *e)
{
    int depth = 0;
    const char *from = text;
    for (const char *at = text;; at++) {
        depth += (*at == '{') - (*at == '}');
        if (*at && (*at != ',' || depth > 0))
            continue;
        if (v->n_policies == MOST)
            return error_set(e, "invalid_value", "--policies", "more than %d policies", MOST);
        v->policies[v->n_policies] = strndup(from, (size_t)(at - from));
        if (!v->policies[v->n_policies++])
            return error_set_memory(e, "policies", 64);
        if (!*at)
            return true;
        from = at + 1;
    }
}

static bool all_policies(struct eval *v, struct error *e)
{
    for (uint32_t i = 0; i < preset_count(); i++) {
        struct plan plan;
        plan_default(&plan, preset_at(i));
        if (plan.allocation == ALLOCATION_PROFILE && !v->a.head_profile)
            continue;
        if (!(v->policies[v->n_policies++] = strdup(preset_at(i)->name)))
            return error_set_memory(e, "policies", 64);
    }
    return true;
}

/* ---- progress and interruption */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

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
        snprintf(what, sizeof what, "%s",
                 json_is_true(json_object_get(run, "correct")) ? "found" : "not found");
    double took = seconds() - v->started;
    fprintf(stderr, "%s[%3u %%] %u of %u, %.0f s: %s, %lld tokens, %.40s at %.4g: %s%s",
            v->terminal ? "\r\033[K" : "", 100 * v->n_done / v->n_runs, v->n_done, v->n_runs, took,
            json_string_value(json_object_get(run, "task")),
            (long long)json_integer_value(json_object_get(run, "context")),
            json_string_value(json_object_get(run, "policy")),
            json_number_value(json_object_get(run, "budget")), what, v->terminal ? "" : "\n");
    fflush(stderr);
}

/* ---- runs */

static json_t *key_of(const char *task, uint32_t context, double depth, uint32_t sample,
                      const char *policy, double budget)
{
    json_t *key = json_pack("{s:s, s:i, s:i, s:s, s:f}", "task", task, "context", (int)context,
                            "sample", (int)sample, "policy", policy, "budget", budget);
    if (key && depth >= 0)
        json_object_set_new(key, "depth", json_real(depth));
    return key;
}

/* The plan of a policy at a budget. False with the reason when the two do not go together. */
static bool make_plan(const struct eval *v, const char *policy, double budget, uint32_t n_prompt,
                      struct plan *plan, struct error *e)
{
    struct plan_limits limits = evaluator_limits(v->evaluator);
    json_t *value =
        *policy == '{' ? json_loads(policy, 0, NULL) : json_pack("{s:s}", "name", policy);
    if (json_is_object(value) && strcmp(policy, "full") != 0)
        json_object_set_new(value, "budget",
                            budget < 1 ? json_real(budget) : json_integer((json_int_t)budget));
    bool done =
        value
            ? plan_parse_json(value, "policy", plan, e) && plan_resolve(plan, n_prompt, &limits, e)
            : error_set(e, "invalid_value", "--policies", "\"%.80s\" is not JSON", policy);
    json_decref(value);
    return done;
}

static bool finish(struct eval *v, json_t *key, json_t *outcome, struct error *e)
{
    if (outcome)
        json_object_update(key, outcome);
    json_decref(outcome);
    bool done = eval_results_add(&v->results, key, e);
    if (done)
        show_run(v, key);
    return done;
}

static json_t *memory_json(const struct evaluate_memory *m)
{
    return json_pack("{s:f, s:f, s:f, s:i}", "bytes", m->bytes, "bytes_full", m->bytes_full,
                     "slots_kept", m->slots_kept, "tokens_seen", (int)m->tokens_seen);
}

/* One policy at one budget on one text; full's view of it is made first when it is not there. */
static bool run_text(struct eval *v, const char *policy, double budget, uint32_t context,
                     uint32_t sample, struct evaluate_reference *reference, struct error *e)
{
    json_t *key = key_of("text", context, -1, sample, policy, budget);
    if (!key || eval_results_has(&v->results, key)) {
        v->n_done += key != NULL;
        json_decref(key);
        return key || error_set_memory(e, "results", 4096);
    }
    uint32_t n_steps = (uint32_t)v->a.n_steps, n_prompt = context - n_steps;
    size_t places = v->text.count - context,
           first = places * (2 * sample + 1) / (2 * v->a.n_samples);
    const int32_t *tokens = v->text.data + first;
    struct plan plan, full;
    struct error reason;
    struct evaluate_text_result result;
    if (!make_plan(v, policy, budget, n_prompt, &plan, &reason))
        return finish(v, key, json_pack("{s:s}", "skipped", reason.message), e);
    bool done =
        reference->logits || !plan_evicts(&plan) ||
        (make_plan(v, "full", 1, n_prompt, &full, e) &&
         evaluate_text(v->evaluator, &full, tokens, n_prompt, n_steps, reference, &result, e));
    if (!done ||
        !evaluate_text(v->evaluator, &plan, tokens, n_prompt, n_steps, reference, &result, e)) {
        json_decref(key);
        return false;
    }
    json_t *outcome = memory_json(&result.memory);
    json_object_update_new(outcome, json_pack("{s:f, s:f, s:f}", "nll", result.nll, "agreement",
                                              result.agreement, "kl", result.kl));
    return finish(v, key, outcome, e);
}

static double budget_of(const struct eval *v, uint32_t policy, uint32_t budget)
{
    return strcmp(v->policies[policy], "full") ? v->budgets[budget] : 1;
}

/* `full` has one budget. */
static uint32_t n_budgets_of(const struct eval *v, uint32_t policy)
{
    return strcmp(v->policies[policy], "full") ? v->n_budgets : 1;
}

static bool run_texts(struct eval *v, struct error *e)
{
    bool done = true;
    for (uint32_t c = 0; c < v->n_contexts && done; c++)
        for (uint32_t s = 0; s < v->a.n_samples && done; s++) {
            struct evaluate_reference reference = {NULL};
            for (uint32_t p = 0; p < v->n_policies && done; p++)
                for (uint32_t b = 0; b < n_budgets_of(v, p) && done && !interrupted; b++)
                    done = run_text(v, v->policies[p], budget_of(v, p, b), v->contexts[c], s,
                                    &reference, e);
            free(reference.logits);
        }
    return done;
}

/* ---- facts in filler */

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

static const char *const cities[] = {"Lisbon", "Oslo",   "Cairo", "Lima",   "Kyoto",
                                     "Dublin", "Prague", "Quito", "Athens", "Vienna"};

struct question {
    char number[DIGITS + 1];
    struct tokens prompt;
};

static bool append_text(const struct eval *v, struct tokens *out, const char *text, struct error *e)
{
    return tokenizer_encode(evaluator_tokenizer(v->evaluator), text, strlen(text), NULL, out, e);
}

static bool append_filler(const struct eval *v, struct tokens *out, size_t from, size_t n,
                          struct error *e)
{
    for (size_t i = 0; i < n; i++)
        if (!tokens_push(out, v->text.data[(from + i) % v->text.count]))
            return error_set_memory(e, "a prompt", n * sizeof(int32_t));
    return true;
}

/* The template's text around a user message whose content is `mark`: what comes before the mark and
 * what after it, as tokens. Without a template both are empty but for BOS. */
static bool frame(const struct eval *v, struct tokens *before, struct tokens *after,
                  struct error *e)
{
    static const char mark[] = "WINNOWMARK";
    const struct tokenizer *t = evaluator_tokenizer(v->evaluator);
    const struct chat_template *template = evaluator_chat_template(v->evaluator);
    if (!template)
        return !tokenizer_adds_bos(t) || tokenizer_bos(t) < 0 ||
               tokens_push(before, tokenizer_bos(t)) || error_set_memory(e, "a prompt", 4);
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", mark);
    char bos[64] = "";
    size_t length = 0;
    if (tokenizer_bos(t) >= 0) {
        const char *text = tokenizer_text(t, tokenizer_bos(t), &length);
        snprintf(bos, sizeof bos, "%.*s", (int)length, text);
    }
    struct chat_render_input in = {
        .messages = messages, .add_generation_prompt = true, .bos_token = *bos ? bos : NULL};
    struct chat_text text = {0};
    bool done = messages && chat_render(template, &in, &text, e);
    json_decref(messages);
    char *at = done ? strstr(text.text, mark) : NULL;
    if (done && !at)
        done = error_set(e, "template_error", "", "the chat template leaves the message out");
    if (done) {
        size_t n = (size_t)(at - text.text), rest = n + strlen(mark);
        done =
            tokenizer_encode(t, text.text, n, text.marks, before, e) &&
            tokenizer_encode(t, text.text + rest, text.length - rest, text.marks + rest, after, e);
    }
    chat_text_free(&text);
    return done;
}

/* A prompt of `context` tokens: filler with the fact at `depth` of it, then the question, and the
 * beginning of the answer. */
static bool ask(const struct eval *v, uint32_t context, double depth, uint32_t trial,
                struct question *q, struct error *e)
{
    char fact[120], question[160], lead[80];
    uint64_t h = mix(mix(v->a.seed * 1000 + trial) + context * 101 + (uint64_t)(depth * 1000));
    const char *city = cities[h % 10];
    struct tokens fact_tokens = {0}, end = {0}, after = {0};
    snprintf(q->number, sizeof q->number, "%llu", (unsigned long long)(10000 + mix(h) % 90000));
    snprintf(fact, sizeof fact, "\nThe special magic number for %s is %s.\n", city, q->number);
    snprintf(question, sizeof question,
             "\n\nWhat is the special magic number for %s that is mentioned in the text?", city);
    snprintf(lead, sizeof lead, "The special magic number for %s is", city);
    q->prompt = (struct tokens){0};
    bool done = append_text(v, &fact_tokens, fact, e) && append_text(v, &end, question, e) &&
                frame(v, &q->prompt, &after, e) && append_text(v, &after, lead, e);
    size_t fixed = q->prompt.count + fact_tokens.count + end.count + after.count;
    if (done && fixed >= context)
        done = error_set(e, "invalid_value", "--contexts", "%u tokens are too few for a question",
                         context);
    size_t filler = done ? context - fixed : 0, first = (size_t)(depth * (double)filler),
           from = mix(h + 7) % v->text.count;
    struct tokens *parts[] = {&fact_tokens, &end, &after};
    done = done && append_filler(v, &q->prompt, from, first, e);
    for (uint32_t i = 0; i < 3 && done; i++) {
        for (size_t k = 0; k < parts[i]->count && done; k++)
            done = tokens_push(&q->prompt, parts[i]->data[k]) ||
                   error_set_memory(e, "a prompt", context * sizeof(int32_t));
        if (i == 0)
            done = done && append_filler(v, &q->prompt, from + first, filler - first, e);
    }
    tokens_free(&fact_tokens);
    tokens_free(&end);
    tokens_free(&after);
    return done;
}

/* Whether the first number of the answer is the one that was hidden. */
static bool is_right(const char *answer, const char *number)
{
    const char *at = answer + strcspn(answer, "0123456789");
    char digits[DIGITS + 2] = "";
    size_t n = 0;
    for (; *at && n <= DIGITS; at++)
        if (*at >= '0' && *at <= '9')
            digits[n++] = *at;
        else if (*at != ',') /* 48,213 */
            break;
    return !strcmp(digits, number);
}

static bool run_question(struct eval *v, const char *policy, double budget, uint32_t context,
                         double depth, uint32_t trial, const struct question *q, struct error *e)
{
    json_t *key = key_of("retrieval", context, depth, trial, policy, budget);
    if (!key || eval_results_has(&v->results, key)) {
        v->n_done += key != NULL;
        json_decref(key);
        return key || error_set_memory(e, "results", 4096);
    }
    uint32_t n_prompt = (uint32_t)q->prompt.count, n_answer;
    int32_t answer[ANSWER_TOKENS];
    struct plan plan;
    struct error reason;
    struct evaluate_memory memory;
    if (!make_plan(v, policy, budget, n_prompt, &plan, &reason))
        return finish(v, key, json_pack("{s:s}", "skipped", reason.message), e);
    if (!evaluate_answer(v->evaluator, &plan, q->prompt.data, n_prompt, ANSWER_TOKENS, answer,
                         &n_answer, &memory, e)) {
        json_decref(key);
        return false;
    }
    size_t length;
    char *text = tokenizer_decode(evaluator_tokenizer(v->evaluator), answer, n_answer, false, false,
                                  &length);
    json_t *outcome = memory_json(&memory);
    json_object_set_new(outcome, "correct", json_boolean(text && is_right(text, q->number)));
    json_object_set_new(outcome, "wanted", json_string(q->number));
    json_t *given = json_string(text ? text : "");
    json_object_set_new(outcome, "answer", given ? given : json_string("(not UTF-8)"));
    free(text);
    return finish(v, key, outcome, e);
}

static bool run_questions(struct eval *v, struct error *e)
{
    bool done = true;
    for (uint32_t c = 0; c < v->n_contexts && done; c++)
        for (uint32_t d = 0; d < v->n_depths && done; d++)
            for (uint32_t t = 0; t < v->a.n_trials && done && !interrupted; t++) {
                struct question q = {.number = ""};
                done = ask(v, v->contexts[c], v->depths[d], t, &q, e);
                for (uint32_t p = 0; p < v->n_policies && done; p++)
                    for (uint32_t b = 0; b < n_budgets_of(v, p) && done && !interrupted; b++)
                        done = run_question(v, v->policies[p], budget_of(v, p, b), v->contexts[c],
                                            v->depths[d], t, &q, e);
                tokens_free(&q.prompt);
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
    double took = seconds() - s->started;
    fprintf(stderr,
            "%sstream, %.40s at %.4g: %llu tokens, perplexity of the last part %.3f, %u "
            "pages, %.0f tokens/s%s",
            s->v->terminal ? "\r\033[K" : "", s->policy, s->budget, (unsigned long long)n_tokens,
            exp(nll), pages, (double)n_tokens / took, s->v->terminal ? "" : "\n");
    return !interrupted;
}

/* In twenty parts, whose perplexities should be alike. */
static bool run_stream(struct eval *v, const char *policy, double budget, struct error *e)
{
    struct plan plan;
    uint64_t n = v->a.n_stream;
    if (!make_plan(v, policy, budget, evaluator_model(v->evaluator)->n_ctx_train, &plan, e))
        return false;
    if (plan.positions != POSITIONS_CACHE)
        return true; /* the others end where the model's training does */
    struct tokens text = {0};
    struct stream s = {.v = v, .policy = policy, .budget = budget, .started = seconds()};
    bool done = append_filler(v, &text, 0, n, e) &&
                evaluate_stream(v->evaluator, &plan, text.data, n, n / 20, on_stream, &s, e);
    tokens_free(&text);
    if (v->terminal)
        fputs("\r\033[K", stderr);
    if (done && s.n_reports)
        printf("stream %llu tokens, %s, %u slots: perplexity %.3f at first, %.3f on average, %.3f "
               "at worst; %u to %u pages; %.0f tokens/s\n",
               (unsigned long long)n, policy, plan.budget, exp(s.first_nll),
               exp(s.sum_nll / s.n_reports), exp(s.worst_nll), s.pages_min, s.pages_max,
               (double)n / (seconds() - s.started));
    return done;
}

static bool run_streams(struct eval *v, struct error *e)
{
    bool done = true;
    for (uint32_t p = 0; p < v->n_policies && done; p++)
        for (uint32_t b = 0; b < n_budgets_of(v, p) && done && !interrupted; b++)
            done = run_stream(v, v->policies[p], budget_of(v, p, b), e);
    return done;
}

/* ---- all of it */

static bool read_text(struct eval *v, struct error *e)
{
    FILE *file = fopen(v->a.text_path, "re");
    char *text = NULL;
    size_t n = 0;
    if (!file)
        return error_set(e, "file_error", v->a.text_path, "the text cannot be read: %s",
                         strerror(errno));
    if (fseek(file, 0, SEEK_END) == 0 && ftell(file) > 0) {
        n = (size_t)ftell(file);
        rewind(file);
        text = malloc(n + 1);
        n = text ? fread(text, 1, n, file) : 0;
    }
    fclose(file);
    bool done =
        text && n > 0
            ? tokenizer_encode(evaluator_tokenizer(v->evaluator), text, n, NULL, &v->text, e)
            : error_set(e, "file_error", v->a.text_path, "the text is empty or unreadable");
    free(text);
    uint32_t longest = 0;
    for (uint32_t i = 0; i < v->n_contexts; i++)
        longest = v->contexts[i] > longest ? v->contexts[i] : longest;
    if (done && v->text.count <= longest)
        done = error_set(e, "invalid_value", "--text",
                         "the text has %zu tokens; the longest context needs more than %u",
                         v->text.count, longest);
    return done;
}

static bool set_contexts(struct eval *v, const double *asked, uint32_t n, struct error *e)
{
    uint32_t trained = evaluator_model(v->evaluator)->n_ctx_train;
    for (uint32_t i = 0; i < n; i++) {
        if (asked[i] > trained || asked[i] <= (double)v->a.n_steps + 1) {
            if (!v->a.contexts)
                continue; /* of the default only what fits */
            return error_set(e, "invalid_value", "--contexts",
                             "%.0f: a length lies between --steps (%llu) and the %u tokens that "
                             "the model was trained for",
                             asked[i], (unsigned long long)v->a.n_steps, trained);
        }
        v->contexts[v->n_contexts++] = (uint32_t)asked[i];
    }
    if (v->n_contexts == 0)
        v->contexts[v->n_contexts++] = trained;
    return true;
}

static bool open_eval(struct eval *v, struct error *e)
{
    struct arguments *a = &v->a;
    double contexts[MOST];
    uint32_t n_contexts, longest = 0;
    struct evaluator_options o = {.model_path = a->model_path,
                                  .isa = a->isa,
                                  .head_profile = a->head_profile,
                                  .n_threads =
                                      a->n_threads ? (uint32_t)a->n_threads : machine_cores("")};
    if (a->storage && !plan_storage_parse(a->storage, &o.storage))
        return error_set(e, "invalid_value", "--kv-storage",
                         "\"%.40s\" is not one of f16, bf16, q8, q4", a->storage);
    if (!parse_numbers("--contexts", a->contexts ? a->contexts : "1024,2048", 32, 1 << 24, contexts,
                       &n_contexts, e) ||
        !parse_numbers("--budgets", a->budgets ? a->budgets : "0.05,0.1,0.2,0.5", 1e-6, 1 << 24,
                       v->budgets, &v->n_budgets, e) ||
        !parse_numbers("--depths", a->depths ? a->depths : "0.1,0.5,0.9", 0, 1, v->depths,
                       &v->n_depths, e) ||
        !(a->policies ? split_policies(v, a->policies, e) : all_policies(v, e)))
        return false;
    for (uint32_t i = 0; i < n_contexts; i++)
        longest = contexts[i] > longest ? (uint32_t)contexts[i] : longest;
    o.max_tokens = longest + ANSWER_TOKENS;
    v->evaluator = evaluator_open(&o, e);
    if (!v->evaluator || !set_contexts(v, contexts, n_contexts, e) || !read_text(v, e))
        return false;
    /* A misspelt policy must not look like one that does not fit a budget. */
    for (uint32_t i = 0; i < v->n_policies; i++) {
        struct plan plan;
        json_t *value = *v->policies[i] == '{' ? json_loads(v->policies[i], 0, NULL)
                                               : json_string(v->policies[i]);
        bool known = value ? plan_parse_json(value, "--policies", &plan, e)
                           : error_set(e, "invalid_value", "--policies", "\"%.80s\" is not JSON",
                                       v->policies[i]);
        json_decref(value);
        if (!known)
            return false;
    }
    json_t *settings = json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:s}", "model", evaluator_model(v->evaluator)->name,
        "fingerprint", evaluator_model(v->evaluator)->fingerprint, "text", a->text_path, "steps",
        (json_int_t)a->n_steps, "samples", (json_int_t)a->n_samples, "seed", (json_int_t)a->seed,
        "text_tokens", (json_int_t)v->text.count, "storage", plan_storage_name(o.storage));
    return settings ? eval_results_open(&v->results, a->directory, settings, e)
                    : error_set(e, "invalid_value", "--text", "its name is not UTF-8");
}

static bool has_task(const struct eval *v, const char *task)
{
    const char *tasks = v->a.tasks ? v->a.tasks : "text,retrieval";
    return strstr(tasks, task) != NULL;
}

static void close_eval(struct eval *v)
{
    eval_results_close(&v->results);
    evaluator_close(v->evaluator);
    tokens_free(&v->text);
    for (uint32_t i = 0; i < v->n_policies; i++)
        free(v->policies[i]);
}

static bool run_all(struct eval *v, struct error *e)
{
    uint32_t cells = 0;
    for (uint32_t p = 0; p < v->n_policies; p++)
        cells += n_budgets_of(v, p);
    v->n_runs = v->n_contexts * cells *
                ((has_task(v, "text") ? (uint32_t)v->a.n_samples : 0) +
                 (has_task(v, "retrieval") ? v->n_depths * (uint32_t)v->a.n_trials : 0));
    v->n_runs = v->n_runs ? v->n_runs : 1;
    bool done = (!has_task(v, "text") || run_texts(v, e)) &&
                (!has_task(v, "retrieval") || run_questions(v, e)) &&
                (!has_task(v, "stream") || run_streams(v, e));
    if (v->terminal)
        fputs("\r\033[K", stderr);
    return done;
}

int command_eval(int argc, char **argv)
{
    struct error e = {.message = ""};
    struct eval v = {.a = {.n_steps = 128,
                           .n_samples = 2,
                           .n_trials = 4,
                           .n_stream = 1000000,
                           .directory = "eval"},
                     .terminal = isatty(STDERR_FILENO) == 1,
                     .started = seconds()};
    struct sigaction action = {.sa_handler = on_interrupt};
    if (!parse_arguments(&v.a, argc, argv, &e)) {
        fprintf(stderr, "winnow eval: %s%s%s\n\n%s", e.where, e.where[0] ? ": " : "", e.message,
                usage);
        return 2;
    }
    if (v.a.help) {
        fputs(usage, stdout);
        return 0;
    }
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    bool done = open_eval(&v, &e) && run_all(&v, &e) && eval_results_report(&v.results, stdout, &e);
    if (!done)
        fprintf(stderr, "winnow eval: %s%s%s\n", e.where, e.where[0] ? ": " : "", e.message);
    else if (interrupted)
        fprintf(stderr, "winnow eval: interrupted; the same command goes on from here\n");
    close_eval(&v);
    return !done ? 1 : interrupted ? 130 : 0;
}
