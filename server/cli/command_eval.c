/* `winnow eval MODEL --text FILE`: compares policies and budgets by quality and memory.
 *
 *   text       how probable a real text is after a compressed prompt, and how far the next-token
 *              distribution is from full attention's (perplexity, agreement, KL)
 *   stream     whether a text far longer than the trained context stays as probable, and how many
 *              pages it needs (plans with cache-relative positions; only on request)
 *   retrieval  whether facts are found that are hidden at some depth in a text
 *
 * Each finished run is a line of results.jsonl, and a second start continues after the last line.
 * Main thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/policy/preset.h"
#include "config/base/clock.h"
#include "config/base/file.h"
#include "engine/compute/machine.h"
#include "engine/measure/profile_file.h"
#include "server/api/plan_json.h"
#include "server/cli/command.h"
#include "server/cli/command_line.h"
#include "server/devices.h"
#include "server/report/eval_private.h"

/* Splits at commas that are outside of braces. */
static bool split_policies(struct eval *v, const char *text, struct error *e)
{
    int depth = 0;
    const char *from = text;
    for (const char *at = text;; at++) {
        depth += (*at == '{') - (*at == '}');
        if (*at && (*at != ',' || depth > 0))
            continue;
        if (v->n_policies == EVAL_MOST)
            return error_set(e, "invalid_value", "--policies", "more than %d policies", EVAL_MOST);
        v->policies[v->n_policies] = strndup(from, (size_t)(at - from));
        if (!v->policies[v->n_policies++])
            return error_set_memory(e, "policies", 64);
        if (!*at)
            return true;
        from = at + 1;
    }
}

/* `full` comes first: the other policies then share its work. */
static void put_full_first(struct eval *v)
{
    for (uint32_t i = 1; i < v->n_policies; i++)
        if (!strcmp(v->policies[i], "full")) {
            char *full = v->policies[i];
            memmove(v->policies + 1, v->policies, i * sizeof *v->policies);
            v->policies[0] = full;
        }
}

static bool all_policies(struct eval *v, struct error *e)
{
    for (uint32_t i = 0; i < preset_count(); i++) {
        if (preset_at(i)->axes.allocation == ALLOCATION_PROFILE && !v->a.head_profile)
            continue;
        if (!(v->policies[v->n_policies++] = strdup(preset_at(i)->name)))
            return error_set_memory(e, "policies", 64);
    }
    return true;
}

/* ---- the evaluation */

static bool read_text(struct eval *v, struct error *e)
{
    struct file_wanted w = {
        .path = v->a.text_path, .what = "the text", .where = v->a.text_path, .most = SIZE_MAX};
    size_t n;
    char *text = file_read(&w, &n, e);
    if (!text)
        return false;
    bool done =
        n > 0 ? tokenizer_encode(evaluator_tokenizer(v->evaluator), text, n, NULL, &v->text, e)
              : error_set(e, "file_error", v->a.text_path, "the text is empty");
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
                continue; /* of the default, only lengths that fit */
            return error_set(
                e, "invalid_value", "--contexts",
                "%.0f: a length must be above --steps (%llu) and at most the %u tokens that "
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
    struct eval_arguments *a = &v->a;
    double contexts[EVAL_MOST];
    uint32_t n_contexts, longest = 0;
    struct device device;
    if (!device_pick(&server_devices, a->device, &device, e))
        return false;
    if (!a->head_profile)
        a->head_profile = profile_file_beside(a->model_path);
    struct evaluator_options o = {.model_path = a->model_path,
                                  .device = device.kind,
                                  .isa = a->isa,
                                  .head_profile = a->head_profile,
                                  .no_sharing = a->no_sharing,
                                  .n_threads =
                                      a->n_threads ? (uint32_t)a->n_threads : machine_cores("")};
    plan_storage_parse(a->storage, &o.storage); /* the option table knows the names */
    if (!options_numbers("--contexts", a->contexts ? a->contexts : "1024,2048", 32, 1 << 24,
                         EVAL_MOST, contexts, &n_contexts, e) ||
        !options_numbers("--budgets", a->budgets, 1e-6, 1 << 24, EVAL_MOST, v->budgets,
                         &v->n_budgets, e) ||
        !options_numbers("--depths", a->depths, 0, 1, EVAL_MOST, v->depths, &v->n_depths, e) ||
        !(a->policies ? split_policies(v, a->policies, e) : all_policies(v, e)))
        return false;
    put_full_first(v);
    for (uint32_t i = 0; i < n_contexts; i++)
        longest = contexts[i] > longest ? (uint32_t)contexts[i] : longest;
    o.max_tokens = longest + EVALUATE_ANSWER_TOKENS;
    v->evaluator = evaluator_open(&o, e);
    if (!v->evaluator || !set_contexts(v, contexts, n_contexts, e) || !read_text(v, e))
        return false;
    /* A misspelled policy is refused here; otherwise it would look like one that does not fit a
     * budget. */
    for (uint32_t i = 0; i < v->n_policies; i++) {
        struct plan_asked asked;
        json_t *value = eval_policy_json(v->policies[i], e);
        bool known = value && plan_parse_json(value, "--policies", &asked, e);
        json_decref(value);
        if (!known)
            return false;
    }
    json_t *settings =
        json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:s, s:[s, s]}", "model",
                  evaluator_model(v->evaluator)->name, "fingerprint",
                  evaluator_model(v->evaluator)->fingerprint, "text", a->text_path, "steps",
                  (json_int_t)a->n_steps, "samples", (json_int_t)a->n_samples, "seed",
                  (json_int_t)a->seed, "text_tokens", (json_int_t)v->text.count, "storage",
                  plan_storage_name(o.storage), "facts", "number", "word");
    return settings ? eval_results_open(&v->results, a->directory, settings, e)
                    : error_set(e, "invalid_value", "--text", "the name of the file is not UTF-8");
}

static bool has_task(const struct eval *v, const char *task)
{
    return strstr(v->a.tasks, task) != NULL;
}

static void close_eval(struct eval *v)
{
    eval_results_close(&v->results);
    evaluator_close(v->evaluator);
    tokens_free(&v->text);
    for (uint32_t i = 0; i < v->n_policies; i++)
        free(v->policies[i]);
    options_clear(OPTION_EVAL, &v->a);
}

static bool run_all(struct eval *v, struct error *e)
{
    uint32_t cells = 0;
    for (uint32_t p = 0; p < v->n_policies; p++)
        cells += eval_n_budgets(v, p);
    v->n_runs = v->n_contexts * cells *
                ((has_task(v, "text") ? (uint32_t)v->a.n_samples : 0) +
                 (has_task(v, "retrieval") ? eval_questions_count(v) : 0));
    v->n_runs = v->n_runs ? v->n_runs : 1;
    bool done = (!has_task(v, "text") || eval_texts(v, e)) &&
                (!has_task(v, "retrieval") || eval_questions(v, e)) &&
                (!has_task(v, "stream") || eval_streams(v, e));
    if (v->terminal)
        fputs("\r\033[K", stderr);
    return done;
}

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    eval_interrupted = 1;
}

int command_eval(int argc, char **argv)
{
    struct error e = {.message = ""};
    int status;
    struct eval v = {.terminal = isatty(STDERR_FILENO) == 1, .started = clock_seconds()};
    struct sigaction action = {.sa_handler = on_interrupt};
    if (!command_line_parse(OPTION_EVAL, &v.a, argc, argv, &status))
        return status;
    if (!v.a.text_path) {
        error_set(&e, "invalid_value", "--text", "no text was named");
        options_clear(OPTION_EVAL, &v.a);
        return command_line_refuse(OPTION_EVAL, &e);
    }
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    bool done = open_eval(&v, &e) && run_all(&v, &e) && eval_results_report(&v.results, stdout, &e);
    if (!done)
        command_line_print_error(OPTION_EVAL, &e);
    else if (eval_interrupted)
        fprintf(stderr, "winnow eval: interrupted; the same command continues from here\n");
    close_eval(&v);
    return !done ? 1 : eval_interrupted ? 130 : 0;
}
