/* The pictures of the report, as SVG and HTML: see eval_points.h. */
#include "server/report/eval_points.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* The curves are in [LEFT, WIDTH] x [TOP, HEIGHT], the legend to the right. */
enum {
    WIDTH = 640,
    HEIGHT = 330,
    LEFT = 80,
    TOP = 10,
    LEGEND = 150,
    BOTTOM = 60,
    MAX_POLICIES = 64
};

/* Colours that most people can tell apart (Okabe and Ito), and line styles for further policies. */
static const char *const colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                      "#e69f00", "#56b4e9", "#7a5c00"};
enum { N_COLOURS = sizeof colours / sizeof *colours };
static const char *const dashes[] = {"", "6 3", "2 3"};

void eval_put_text(FILE *out, const char *text)
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

/* ---- quality over memory */

enum quality {
    QUALITY_PERPLEXITY,
    QUALITY_AGREEMENT,
    QUALITY_KL,
    QUALITY_NUMBERS,
    QUALITY_WORDS,
    N_QUALITIES
};
static const struct {
    const char *title, *axis;
    bool percent;
} qualities[N_QUALITIES] = {
    {"Perplexity, lower is better", "perplexity", false},
    {"Agreement with full attention's likeliest token", "tokens, %", false},
    {"Divergence from full attention, lower is better", "KL, nats per token", false},
    {"Numbers found", "found, %", true},
    {"Words found", "found, %", true}};

static double quality_of(const struct eval_point *p, enum quality quality)
{
    double n = p->n;
    switch (quality) {
    case QUALITY_PERPLEXITY:
        return exp(p->nll / n);
    case QUALITY_AGREEMENT:
        return 100 * p->agreement / n;
    case QUALITY_KL:
        return p->kl / n;
    case QUALITY_NUMBERS:
        return 100.0 * p->found[FACT_NUMBER] / fmax(p->asked[FACT_NUMBER], 1);
    default:
        return 100.0 * p->found[FACT_WORD] / fmax(p->asked[FACT_WORD], 1);
    }
}

static double memory_of(const struct eval_point *p)
{
    return fmin(p->memory / p->n, 1);
}

/* One picture. */
struct plot {
    const struct eval_points *points;
    json_int_t context;
    enum quality quality;
    double low, high, step; /* of the vertical axis; step 0: a logarithmic axis */
    const char *policies[MAX_POLICIES];
    uint32_t n_policies;
    int legend; /* the width of the memory axis */
};

static bool is_shown(const struct plot *plot, const struct eval_point *p)
{
    bool of_text = plot->quality < QUALITY_NUMBERS;
    return p->context == plot->context && !strcmp(p->task, of_text ? "text" : "retrieval");
}

/* A step of 1, 2 or 5 times a power of ten that divides the range in about four. */
static double round_step(double range)
{
    double power = pow(10, floor(log10(range / 4))), times = range / 4 / power;
    return power * (times < 1.5 ? 1 : times < 3.5 ? 2 : times < 7.5 ? 5 : 10);
}

static bool plot_init(struct plot *plot, const struct eval_points *points, json_int_t context,
                      enum quality quality)
{
    *plot = (struct plot){.points = points,
                          .context = context,
                          .quality = quality,
                          .low = INFINITY,
                          .high = -INFINITY};
    for (uint32_t i = 0; i < points->n; i++) {
        const struct eval_point *p = &points->at[i];
        if (!is_shown(plot, p))
            continue;
        plot->low = fmin(plot->low, quality_of(p, quality));
        plot->high = fmax(plot->high, quality_of(p, quality));
        uint32_t k = 0;
        while (k < plot->n_policies && strcmp(plot->policies[k], p->policy) != 0)
            k++;
        if (k < plot->n_policies || k == MAX_POLICIES)
            continue;
        plot->policies[plot->n_policies++] = p->policy;
        int width = 60 + 7 * (int)strlen(p->policy); /* 7 is the width of a letter */
        plot->legend = width > plot->legend ? width : plot->legend;
    }
    if (plot->n_policies == 0)
        return false;
    if (qualities[quality].percent) {
        plot->low = 0, plot->high = 100, plot->step = 20;
        return true;
    }
    /* A policy can be hundreds of times worse. */
    if (plot->low > 0 && plot->high / plot->low > 10) {
        plot->low *= 0.95, plot->high *= 1.05;
        return true;
    }
    plot->high = plot->high > plot->low ? plot->high : plot->low + 1;
    plot->step = round_step(plot->high - plot->low);
    plot->low = floor(plot->low / plot->step) * plot->step;
    plot->high = ceil(plot->high / plot->step) * plot->step;
    return true;
}

static double x_of(double memory)
{
    return LEFT + memory * (WIDTH - LEFT);
}

static double y_of(const struct plot *plot, double q)
{
    double share = plot->step > 0 ? (q - plot->low) / (plot->high - plot->low)
                                  : log(q / plot->low) / log(plot->high / plot->low);
    return TOP + (HEIGHT - TOP) * (1 - share);
}

static void draw_axes(const struct plot *plot, FILE *out)
{
    int n_ticks = plot->step > 0 ? (int)lround((plot->high - plot->low) / plot->step) : 4;
    for (int i = 0; i <= n_ticks; i++) {
        double q = plot->step > 0 ? plot->low + i * plot->step
                                  : plot->low * pow(plot->high / plot->low, (double)i / n_ticks),
               y = y_of(plot, q);
        fprintf(out,
                "<line x1='%d' x2='%d' y1='%.1f' y2='%.1f' class='grid'/><text x='%d' y='%.1f' "
                "text-anchor='end'>%.5g</text>\n",
                LEFT, WIDTH, y, y, LEFT - 6, y + 4, q);
    }
    for (int i = 0; i <= 10; i += 2)
        fprintf(out, "<text x='%.1f' y='%d' text-anchor='middle'>%d</text>\n", x_of(i / 10.0),
                HEIGHT + 18, i * 10);
    fprintf(out, "<text x='%d' y='%d' text-anchor='middle'>memory, %% of full attention's</text>\n",
            (LEFT + WIDTH) / 2, HEIGHT + 40);
    fprintf(out, "<text transform='translate(14 %d) rotate(-90)' text-anchor='middle'>%s</text>\n",
            (TOP + HEIGHT) / 2, qualities[plot->quality].axis);
}

/* The next point of a policy to the right of `memory`. There are few budgets, so a search is
 * enough. */
static const struct eval_point *next_point(const struct plot *plot, const char *policy,
                                           double memory)
{
    const struct eval_point *next = NULL;
    for (uint32_t i = 0; i < plot->points->n; i++) {
        const struct eval_point *p = &plot->points->at[i];
        if (is_shown(plot, p) && !strcmp(p->policy, policy) && memory_of(p) > memory &&
            (!next || memory_of(p) < memory_of(next)))
            next = p;
    }
    return next;
}

static void draw_legend(const char *policy, uint32_t row, const char *dash, FILE *out)
{
    int y = TOP + 8 + (int)row * 19;
    fprintf(out,
            "<line x1='%d' x2='%d' y1='%d' y2='%d' stroke-width='2' stroke-dasharray='%s'/><text "
            "stroke='none' x='%d' y='%d'>",
            WIDTH + 14, WIDTH + 40, y, y, dash, WIDTH + 46, y + 4);
    eval_put_text(out, policy);
    fprintf(out, "</text>");
}

/* The policy's index among all, so that it looks the same in every picture. */
static uint32_t look_of(const struct eval_points *points, const char *policy)
{
    uint32_t look = 0;
    for (uint32_t i = 0; i < points->n && strcmp(points->at[i].policy, policy) != 0; i++) {
        bool first = strcmp(points->at[i].policy, "full") != 0;
        for (uint32_t k = 0; k < i && first; k++)
            first = strcmp(points->at[k].policy, points->at[i].policy) != 0;
        look += first;
    }
    return look;
}

static void draw_policy(const struct plot *plot, uint32_t row, FILE *out)
{
    const char *policy = plot->policies[row];
    uint32_t look = look_of(plot->points, policy);
    const char *colour = colours[look % N_COLOURS], *dash = dashes[look / N_COLOURS % 3];
    fprintf(out, "<g stroke='%s' fill='%s'><polyline fill='none' stroke-dasharray='%s' points='",
            colour, colour, dash);
    const struct eval_point *p = NULL;
    while ((p = next_point(plot, policy, p ? memory_of(p) : -1)))
        fprintf(out, "%.1f,%.1f ", x_of(memory_of(p)), y_of(plot, quality_of(p, plot->quality)));
    fprintf(out, "'/>");
    while ((p = next_point(plot, policy, p ? memory_of(p) : -1))) {
        double q = quality_of(p, plot->quality);
        fprintf(out, "<circle r='3.5' cx='%.1f' cy='%.1f'><title>", x_of(memory_of(p)),
                y_of(plot, q));
        eval_put_text(out, policy);
        fprintf(out, ", budget %.3g: %.4g at %.1f %% of the memory</title></circle>", p->budget, q,
                100 * memory_of(p));
    }
    draw_legend(policy, row, dash, out);
    fprintf(out, "</g>\n");
}

/* Full attention is the reference: a line across the picture. */
static void draw_full(const struct plot *plot, uint32_t row, FILE *out)
{
    const struct eval_point *p = next_point(plot, "full", -1);
    double y = y_of(plot, quality_of(p, plot->quality));
    fprintf(out,
            "<g class='full'><line x1='%d' x2='%d' y1='%.1f' y2='%.1f' stroke-width='1.5' "
            "stroke-dasharray='8 4'/>",
            LEFT, WIDTH, y, y);
    draw_legend("full", row, "8 4", out);
    fprintf(out, "</g>\n");
}

static void draw_plot(const struct plot *plot, FILE *out)
{
    int legend = TOP + 20 + (int)plot->n_policies * 19, height = HEIGHT + BOTTOM;
    fprintf(out, "<h3>%s, %lld tokens</h3>\n<svg viewBox='0 0 %d %d' role='img'>\n",
            qualities[plot->quality].title, (long long)plot->context, WIDTH + plot->legend,
            legend > height ? legend : height);
    draw_axes(plot, out);
    for (uint32_t row = 0; row < plot->n_policies; row++)
        if (strcmp(plot->policies[row], "full"))
            draw_policy(plot, row, out);
        else
            draw_full(plot, row, out);
    fprintf(out, "</svg>\n");
}

void eval_draw_curves(const struct eval_points *p, FILE *out)
{
    for (uint32_t i = 0; i < p->n; i++) {
        bool first = true;
        for (uint32_t k = 0; k < i; k++)
            first = first && p->at[k].context != p->at[i].context;
        for (int q = 0; first && q < N_QUALITIES; q++) {
            struct plot plot;
            if (plot_init(&plot, p, p->at[i].context, (enum quality)q))
                draw_plot(&plot, out);
        }
    }
}

/* ---- depth by length */

/* The columns: the depths of each length in rising order, in hundredths. */
struct column {
    json_int_t context;
    int depth;
};

struct depths {
    const json_t *runs;
    struct column columns[256];
    uint32_t n_columns;
};

static int depth_of(const json_t *run)
{
    return (int)lround(100 * json_number_value(json_object_get(run, "depth")));
}

static bool is_question(const json_t *run)
{
    return json_object_get(run, "depth") && !json_object_get(run, "skipped");
}

static void find_columns(struct depths *d)
{
    size_t at;
    json_t *run;
    json_array_foreach(d->runs, at, run)
    {
        struct column c = {json_integer_value(json_object_get(run, "context")), depth_of(run)};
        uint32_t i = 0;
        while (i < d->n_columns &&
               (d->columns[i].context < c.context ||
                (d->columns[i].context == c.context && d->columns[i].depth < c.depth)))
            i++;
        bool known = i < d->n_columns && d->columns[i].context == c.context &&
                     d->columns[i].depth == c.depth;
        if (known || !is_question(run) || d->n_columns == 256)
            continue;
        memmove(d->columns + i + 1, d->columns + i, (d->n_columns - i) * sizeof c);
        d->columns[i] = c;
        d->n_columns++;
    }
}

static void draw_head(const struct depths *d, FILE *out)
{
    fprintf(out, "<tr><th>tokens</th>");
    for (uint32_t i = 0, span; i < d->n_columns; i += span) {
        for (span = 1;
             i + span < d->n_columns && d->columns[i + span].context == d->columns[i].context;)
            span++;
        fprintf(out, "<th class='part' colspan='%u'>%lld</th>", span,
                (long long)d->columns[i].context);
    }
    fprintf(out, "</tr>\n<tr><th>depth, %%</th>");
    for (uint32_t i = 0; i < d->n_columns; i++)
        fprintf(out, "<th>%d</th>", d->columns[i].depth);
    fprintf(out, "</tr>\n");
}

static void draw_row(const struct depths *d, const char *policy, double budget, FILE *out)
{
    fprintf(out, "<tr><th>");
    eval_put_text(out, policy);
    fprintf(out, "</th>");
    for (uint32_t i = 0; i < d->n_columns; i++) {
        const struct column *c = &d->columns[i];
        uint32_t n = 0, found = 0;
        size_t at;
        json_t *run;
        json_array_foreach(d->runs, at, run)
        {
            if (!is_question(run) || depth_of(run) != c->depth ||
                json_integer_value(json_object_get(run, "context")) != c->context ||
                json_number_value(json_object_get(run, "budget")) != budget ||
                strcmp(json_string_value(json_object_get(run, "policy")), policy) != 0)
                continue;
            n++;
            found += json_is_true(json_object_get(run, "correct"));
        }
        const char *part = i > 0 && c[-1].context != c->context ? " class='part'" : "";
        if (n == 0)
            fprintf(out, "<td%s></td>", part);
        else /* from red to green, and from dark to light for people who cannot see the difference */
            fprintf(out, "<td%s style='background-color:hsl(%d 55%% %d%%);color:#fff'>%u/%u</td>",
                    part, (int)(120.0 * found / n), 28 + (int)(14.0 * found / n), found, n);
    }
    fprintf(out, "</tr>\n");
}

void eval_draw_depths(const struct eval_points *p, const json_t *runs, FILE *out)
{
    struct depths d = {.runs = runs};
    find_columns(&d);
    if (d.n_columns == 0)
        return;
    fputs(
        "<h2>Retrieval by depth and length</h2><p>Found facts of all facts asked for, numbers and "
        "words together; depth 0 is the beginning of the text.</p>\n",
        out);
    for (uint32_t i = 0; i < p->n; i++) {
        double budget = p->at[i].budget;
        bool first = !strcmp(p->at[i].task, "retrieval");
        for (uint32_t k = 0; k < i && first; k++)
            first = strcmp(p->at[k].task, "retrieval") != 0 || p->at[k].budget != budget;
        if (!first)
            continue;
        fprintf(out, "<div class='scroll'><table><caption>budget %.3g</caption>\n", budget);
        draw_head(&d, out);
        for (uint32_t k = i; k < p->n; k++) {
            bool is_new = !strcmp(p->at[k].task, "retrieval") && p->at[k].budget == budget;
            for (uint32_t j = i; j < k && is_new; j++)
                is_new = strcmp(p->at[j].task, "retrieval") != 0 || p->at[j].budget != budget ||
                         strcmp(p->at[j].policy, p->at[k].policy) != 0;
            if (is_new)
                draw_row(&d, p->at[k].policy, budget, out);
        }
        fprintf(out, "</table></div>\n");
    }
}
