/* The report of `winnow eval`: means over samples as a table, a JSON file and an HTML page with
 * pictures. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/report/eval_points.h"
#include "server/report/eval_results.h"

enum { MAX_POINTS = 4096 };

const char *const eval_fact_names[N_FACT_KINDS] = {"number", "word"};

static double number(const json_t *run, const char *name)
{
    return json_number_value(json_object_get(run, name));
}

static struct eval_point *point_of(struct eval_points *p, const json_t *run)
{
    const char *task = json_string_value(json_object_get(run, "task")),
               *policy = json_string_value(json_object_get(run, "policy"));
    json_int_t context = json_integer_value(json_object_get(run, "context"));
    double budget = number(run, "budget");
    if (!task || !policy)
        return NULL;
    for (uint32_t i = 0; i < p->n; i++)
        if (!strcmp(p->at[i].task, task) && !strcmp(p->at[i].policy, policy) &&
            p->at[i].context == context && p->at[i].budget == budget)
            return &p->at[i];
    if (p->n == MAX_POINTS)
        return NULL;
    p->at[p->n] =
        (struct eval_point){.task = task, .policy = policy, .context = context, .budget = budget};
    return &p->at[p->n++];
}

static bool gather(struct eval_points *p, const json_t *runs, struct error *e)
{
    size_t i;
    json_t *run;
    p->n = 0;
    p->at = calloc(MAX_POINTS, sizeof *p->at);
    if (!p->at)
        return error_set_memory(e, "the report", MAX_POINTS * sizeof *p->at);
    json_array_foreach(runs, i, run)
    {
        struct eval_point *point = json_object_get(run, "skipped") ? NULL : point_of(p, run);
        if (!point)
            continue;
        point->n++;
        point->nll += number(run, "nll");
        point->agreement += number(run, "agreement");
        point->kl += number(run, "kl");
        point->held += number(run, "held");
        for (int f = 0; f < N_FACT_KINDS; f++) {
            const char *fact = json_string_value(json_object_get(run, "fact"));
            bool asked = fact && !strcmp(fact, eval_fact_names[f]);
            point->asked[f] += asked;
            point->found[f] += asked && json_is_true(json_object_get(run, "correct"));
        }
        double full = number(run, "bytes_full");
        point->memory += full > 0 ? number(run, "bytes") / full : 1;
    }
    return true;
}

/* ---- table */

static void print_table(const struct eval_points *p, FILE *out)
{
    fprintf(out, "%-10s %8s %-14s %7s %7s  %10s %10s %9s\n", "task", "context", "policy", "budget",
            "memory", "perplexity", "agreement", "KL");
    for (uint32_t i = 0; i < p->n; i++) {
        const struct eval_point *q = &p->at[i];
        double n = q->n;
        fprintf(out, "%-10s %8lld %-14.60s %7.4g %6.1f%%  ", q->task, (long long)q->context,
                q->policy, q->budget, 100 * q->memory / n);
        if (!strcmp(q->task, "text"))
            fprintf(out, "%10.3f %9.1f%% %9.4f\n", exp(q->nll / n), 100 * q->agreement / n,
                    q->kl / n);
        else
            fprintf(out, "found %2u of %2u numbers, %2u of %2u words; %5.1f%% of heads hold it\n",
                    q->found[FACT_NUMBER], q->asked[FACT_NUMBER], q->found[FACT_WORD],
                    q->asked[FACT_WORD], 100 * q->held / n);
    }
}

static bool write_json(const struct eval_results *r, const struct eval_points *p, struct error *e)
{
    char *path = NULL;
    json_t *rows = json_array();
    for (uint32_t i = 0; i < p->n; i++) {
        const struct eval_point *q = &p->at[i];
        double n = q->n;
        json_t *row = json_pack("{s:s, s:I, s:s, s:f, s:i, s:f}", "task", q->task, "context",
                                q->context, "policy", q->policy, "budget", q->budget, "runs",
                                (int)q->n, "memory", q->memory / n);
        if (row && !strcmp(q->task, "text"))
            json_object_update_new(row, json_pack("{s:f, s:f, s:f}", "perplexity", exp(q->nll / n),
                                                  "agreement", q->agreement / n, "kl", q->kl / n));
        else if (row)
            json_object_update_new(
                row, json_pack("{s:f, s:f, s:f, s:f}", "accuracy",
                               (q->found[FACT_NUMBER] + q->found[FACT_WORD]) / n, "accuracy_number",
                               (double)q->found[FACT_NUMBER] / fmax(q->asked[FACT_NUMBER], 1),
                               "accuracy_word",
                               (double)q->found[FACT_WORD] / fmax(q->asked[FACT_WORD], 1), "held",
                               q->held / n));
        json_array_append_new(rows, row);
    }
    json_t *all =
        json_pack("{s:O, s:o, s:O}", "settings", r->settings, "summary", rows, "runs", r->runs);
    bool done = all && asprintf(&path, "%s/results.json", r->directory) > 0 &&
                json_dump_file(all, path, JSON_INDENT(1)) == 0;
    json_decref(all);
    free(path);
    return done || error_set(e, "file_error", "results.json", "%s/results.json: %s", r->directory,
                             strerror(errno));
}

static void write_page(const struct eval_results *r, const struct eval_points *p, FILE *out)
{
    char *settings = json_dumps(r->settings, JSON_INDENT(1));
    fputs("<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' "
          "content='width=device-width'><title>winnow eval</title><style>"
          ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:56rem;"
          "margin:2rem auto;padding:0 1rem}svg{width:100%;font-size:12px;fill:currentColor}"
          ".full{stroke:currentColor}.grid{stroke:currentColor;opacity:.2}polyline{stroke-width:2}"
          ".scroll{display:inline-block;max-width:100%;overflow-x:auto;vertical-align:top;margin-"
          "right:2rem}table{border-collapse:collapse;margin:.6rem 0}"
          "caption{text-align:left;font-weight:600}td,th{padding:.15rem .5rem;text-align:center;"
          "font-weight:400}th:first-child{text-align:left}.part{border-left:6px solid "
          "transparent;background-clip:padding-box}"
          "pre{overflow:auto}</style><h1>winnow eval</h1>"
          "<p>Quality over memory, one curve per policy. Memory is that of the pages held at the "
          "end, "
          "as a share of full attention's. The dashed line is full attention.</p>\n",
          out);
    eval_draw_curves(p, out);
    eval_draw_depths(p, r->runs, out);
    fputs("<h2>Table</h2><pre>", out);
    print_table(p, out);
    fputs("</pre><h2>Settings</h2><pre>", out);
    eval_put_text(out, settings ? settings : "");
    fputs("</pre></html>\n", out);
    free(settings);
}

bool eval_results_report(const struct eval_results *r, FILE *out, struct error *e)
{
    struct eval_points points;
    char *path = NULL;
    if (!gather(&points, r->runs, e))
        return false;
    print_table(&points, out);
    bool done = write_json(r, &points, e);
    FILE *page = asprintf(&path, "%s/report.html", r->directory) > 0 ? fopen(path, "we") : NULL;
    if (page)
        write_page(r, &points, page);
    if (done && (!page || ferror(page)))
        done = error_set(e, "file_error", "report.html", "%s/report.html: %s", r->directory,
                         strerror(errno));
    if (page)
        fclose(page);
    free(path);
    free(points.at);
    return done;
}
