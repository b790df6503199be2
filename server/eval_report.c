/* What the runs of `winnow eval` say together: means over samples, a table, a JSON file and an HTML
 * page with its pictures inside. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/eval_results.h"

enum { MAX_POINTS = 4096, WIDTH = 640, HEIGHT = 320, LEFT = 60, BOTTOM = 40 };

/* All runs of one (task, context, policy, budget). */
struct point {
    const char *task, *policy;
    json_int_t context;
    double budget;
    uint32_t n;
    double nll, agreement, kl, correct, memory; /* sums; memory: bytes over full's */
};

struct points {
    struct point *at; /* [n] in order of appearance */
    uint32_t n;
};

static double number(const json_t *run, const char *name)
{
    return json_number_value(json_object_get(run, name));
}

static struct point *point_of(struct points *p, const json_t *run)
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
        (struct point){.task = task, .policy = policy, .context = context, .budget = budget};
    return &p->at[p->n++];
}

static bool gather(struct points *p, const json_t *runs, struct error *e)
{
    size_t i;
    json_t *run;
    p->n = 0;
    p->at = calloc(MAX_POINTS, sizeof *p->at);
    if (!p->at)
        return error_set_memory(e, "the report", MAX_POINTS * sizeof *p->at);
    json_array_foreach(runs, i, run)
    {
        struct point *point = json_object_get(run, "skipped") ? NULL : point_of(p, run);
        if (!point)
            continue;
        point->n++;
        point->nll += number(run, "nll");
        point->agreement += number(run, "agreement");
        point->kl += number(run, "kl");
        point->correct += json_is_true(json_object_get(run, "correct"));
        double full = number(run, "bytes_full");
        point->memory += full > 0 ? number(run, "bytes") / full : 1;
    }
    return true;
}

/* ---- table */

static void print_table(const struct points *p, FILE *out)
{
    fprintf(out, "%-10s %8s %-14s %7s %7s  %10s %10s %9s\n", "task", "context", "policy", "budget",
            "memory", "perplexity", "agreement", "KL");
    for (uint32_t i = 0; i < p->n; i++) {
        const struct point *q = &p->at[i];
        double n = q->n;
        fprintf(out, "%-10s %8lld %-14.60s %7.4g %6.1f%%  ", q->task, (long long)q->context,
                q->policy, q->budget, 100 * q->memory / n);
        if (!strcmp(q->task, "text"))
            fprintf(out, "%10.3f %9.1f%% %9.4f\n", exp(q->nll / n), 100 * q->agreement / n,
                    q->kl / n);
        else
            fprintf(out, "found %.0f of %u\n", q->correct, q->n);
    }
}

static bool write_json(const struct eval_results *r, const struct points *p, struct error *e)
{
    char *path = NULL;
    json_t *rows = json_array();
    for (uint32_t i = 0; i < p->n; i++) {
        const struct point *q = &p->at[i];
        double n = q->n;
        json_t *row = json_pack("{s:s, s:I, s:s, s:f, s:i, s:f}", "task", q->task, "context",
                                q->context, "policy", q->policy, "budget", q->budget, "runs",
                                (int)q->n, "memory", q->memory / n);
        if (row && !strcmp(q->task, "text"))
            json_object_update_new(row, json_pack("{s:f, s:f, s:f}", "perplexity", exp(q->nll / n),
                                                  "agreement", q->agreement / n, "kl", q->kl / n));
        else if (row)
            json_object_set_new(row, "accuracy", json_real(q->correct / n));
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

/* ---- pictures */

/* Colours that differ for most eyes (Okabe and Ito), and shapes of lines for the rest. */
static const char *const colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                      "#e69f00", "#56b4e9", "#8a6d00", "#000000"};
static const char *const dashes[] = {"", "6 3", "2 3"};

static void put_text(FILE *out, const char *text)
{
    for (; *text; text++)
        switch (*text) {
        case '<':
            fputs("&lt;", out);
            break;
        case '&':
            fputs("&amp;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        default:
            fputc(*text, out);
        }
}

enum quality { QUALITY_PERPLEXITY, QUALITY_AGREEMENT, QUALITY_KL, QUALITY_FOUND };
static const char *const quality_names[] = {"perplexity (lower is better)",
                                            "agreement with full, %",
                                            "KL from full, nats (lower "
                                            "is better)",
                                            "facts found, %"};

static double quality_of(const struct point *p, enum quality quality)
{
    double n = p->n;
    return quality == QUALITY_PERPLEXITY  ? exp(p->nll / n)
           : quality == QUALITY_AGREEMENT ? 100 * p->agreement / n
           : quality == QUALITY_KL        ? p->kl / n
                                          : 100 * p->correct / n;
}

static bool shown(const struct point *p, json_int_t context, enum quality quality)
{
    return p->context == context &&
           !strcmp(p->task, quality == QUALITY_FOUND ? "retrieval" : "text");
}

/* Quality over memory at one context: a curve a policy, its points by memory. */
static void draw_curves(const struct points *p, json_int_t context, enum quality quality, FILE *out)
{
    double low = INFINITY, high = -INFINITY;
    uint32_t n_policies = 0;
    const char *policies[64];
    for (uint32_t i = 0; i < p->n; i++) {
        if (!shown(&p->at[i], context, quality))
            continue;
        double q = quality_of(&p->at[i], quality);
        low = fmin(low, q);
        high = fmax(high, q);
        uint32_t k = 0;
        while (k < n_policies && strcmp(policies[k], p->at[i].policy) != 0)
            k++;
        if (k == n_policies && k < 64)
            policies[n_policies++] = p->at[i].policy;
    }
    if (n_policies == 0)
        return;
    if (quality == QUALITY_AGREEMENT || quality == QUALITY_FOUND)
        low = 0, high = 100;
    high = high > low ? high : low + 1;
    /* One policy may be hundreds of times worse: then the axis counts in powers. */
    bool powers = low > 0 && high / low > 30;
    fprintf(out, "<h3>%s at %lld tokens</h3>\n<svg viewBox='0 0 %d %d' role='img'>\n",
            quality_names[quality], (long long)context, WIDTH + 150, HEIGHT + BOTTOM + 20);
    for (int i = 0; i <= 4; i++) {
        double share = i / 4.0, y = 10 + HEIGHT * (1 - share),
               q = powers ? low * pow(high / low, share) : low + (high - low) * share;
        fprintf(out,
                "<line x1='%d' x2='%d' y1='%.1f' y2='%.1f' class='grid'/><text x='%d' y='%.1f' "
                "text-anchor='end'>%.3g</text>\n<text x='%.1f' y='%d' text-anchor='middle'>%d "
                "%%</text>\n",
                LEFT, WIDTH, y, y, LEFT - 6, y + 4, q, LEFT + share * (WIDTH - LEFT), HEIGHT + 28,
                i * 25);
    }
    fprintf(out, "<text x='%d' y='%d' text-anchor='middle'>memory, share of full</text>\n",
            (LEFT + WIDTH) / 2, HEIGHT + 50);
    for (uint32_t k = 0; k < n_policies; k++) {
        const char *colour = colours[k % 8], *dash = dashes[k / 8 % 3];
        double last = -1;
        fprintf(out,
                "<g stroke='%s' fill='%s'><polyline fill='none' stroke-dasharray='%s' "
                "points='",
                colour, colour, dash);
        for (;;) { /* in order of memory; the budgets are few */
            const struct point *next = NULL;
            for (uint32_t i = 0; i < p->n; i++) {
                const struct point *q = &p->at[i];
                double memory = q->memory / q->n;
                if (shown(q, context, quality) && !strcmp(q->policy, policies[k]) &&
                    memory > last && (!next || memory < next->memory / next->n))
                    next = q;
            }
            if (!next)
                break;
            last = next->memory / next->n;
            double q = quality_of(next, quality);
            double share = powers ? log(q / low) / log(high / low) : (q - low) / (high - low);
            fprintf(out, "%.1f,%.1f ", LEFT + fmin(last, 1) * (WIDTH - LEFT),
                    10 + HEIGHT * (1 - share));
        }
        fprintf(out, "'/>");
        for (uint32_t i = 0; i < p->n; i++) {
            const struct point *at = &p->at[i];
            if (!shown(at, context, quality) || strcmp(at->policy, policies[k]) != 0)
                continue;
            double memory = at->memory / at->n, q = quality_of(at, quality);
            double share = powers ? log(q / low) / log(high / low) : (q - low) / (high - low);
            fprintf(out, "<circle r='3.5' cx='%.1f' cy='%.1f'><title>",
                    LEFT + fmin(memory, 1) * (WIDTH - LEFT), 10 + HEIGHT * (1 - share));
            put_text(out, policies[k]);
            fprintf(out, ", budget %.3g: %.4g at %.1f %% of the memory</title></circle>",
                    at->budget, q, 100 * memory);
        }
        fprintf(out, "<text stroke='none' x='%d' y='%u'>&#9632; ", WIDTH + 14, 22 + k * 18);
        put_text(out, policies[k]);
        fprintf(out, "</text></g>\n");
    }
    fprintf(out, "</svg>\n");
}

/* Depth by length: the share found, one table a policy and budget. */
static void draw_depths(const json_t *runs, const struct points *p, FILE *out)
{
    for (uint32_t i = 0; i < p->n; i++) {
        const struct point *q = &p->at[i];
        bool first = !strcmp(q->task, "retrieval");
        for (uint32_t k = 0; k < i && first; k++)
            first = strcmp(p->at[k].task, "retrieval") != 0 ||
                    strcmp(p->at[k].policy, q->policy) != 0 || p->at[k].budget != q->budget;
        if (!first)
            continue;
        fprintf(out, "<table><caption>");
        put_text(out, q->policy);
        fprintf(out, ", budget %.3g</caption>", q->budget);
        for (int depth = -1; depth <= 100; depth++) {
            size_t at;
            json_t *run;
            bool any = false;
            for (uint32_t c = 0; c < p->n; c++) {
                const struct point *column = &p->at[c];
                uint32_t n = 0, found = 0;
                if (strcmp(column->task, "retrieval") != 0 ||
                    strcmp(column->policy, q->policy) != 0 || column->budget != q->budget)
                    continue;
                if (depth < 0) {
                    fprintf(out, "%s<th>%lld</th>", any ? "" : "<tr><th>depth</th>",
                            (long long)column->context);
                    any = true;
                    continue;
                }
                json_array_foreach(runs, at, run)
                {
                    if (json_integer_value(json_object_get(run, "context")) != column->context ||
                        !json_object_get(run, "depth") ||
                        (int)lround(100 * number(run, "depth")) != depth ||
                        json_object_get(run, "skipped") || number(run, "budget") != q->budget ||
                        strcmp(json_string_value(json_object_get(run, "policy")), q->policy) != 0)
                        continue;
                    n++;
                    found += json_is_true(json_object_get(run, "correct"));
                }
                if (n == 0)
                    continue;
                if (!any)
                    fprintf(out, "<tr><th>%d %%</th>", depth);
                any = true;
                fprintf(out, "<td style='background:hsl(%d 60%% 45%%);color:#fff'>%u/%u</td>",
                        (int)(120.0 * found / n), found, n);
            }
            if (any)
                fprintf(out, "</tr>");
        }
        fprintf(out, "</table>\n");
    }
}

static void write_page(const struct eval_results *r, const struct points *p, FILE *out)
{
    char *settings = json_dumps(r->settings, JSON_INDENT(1));
    fputs("<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' "
          "content='width=device-width'><title>winnow eval</title><style>"
          ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:52rem;"
          "margin:2rem auto;padding:0 1rem}svg{width:100%;font-size:12px;fill:currentColor}"
          ".grid{stroke:currentColor;opacity:.2}polyline{stroke-width:2}table{display:inline-table;"
          "border-collapse:collapse;margin:.6rem 1rem .6rem 0}td,th{padding:.2rem .6rem;"
          "text-align:center}pre{overflow:auto}</style><h1>winnow eval</h1>"
          "<p>Quality against memory, one curve a policy; memory is that of pages held at the end, "
          "as a share of what full attention holds.</p>\n",
          out);
    for (uint32_t i = 0; i < p->n; i++) {
        bool first = true;
        for (uint32_t k = 0; k < i; k++)
            first = first && p->at[k].context != p->at[i].context;
        for (int q = QUALITY_PERPLEXITY; first && q <= QUALITY_FOUND; q++)
            draw_curves(p, p->at[i].context, (enum quality)q, out);
    }
    fputs("<h2>Retrieval by depth and length</h2>\n", out);
    draw_depths(r->runs, p, out);
    fputs("<h2>Table</h2><pre>", out);
    print_table(p, out);
    fputs("</pre><h2>Settings</h2><pre>", out);
    put_text(out, settings ? settings : "");
    fputs("</pre></html>\n", out);
    free(settings);
}

bool eval_results_report(const struct eval_results *r, FILE *out, struct error *e)
{
    struct points points;
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
