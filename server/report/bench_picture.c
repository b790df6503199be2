/* Speed over context as an SVG file: see bench_points.h. One panel for each kind of point, one line
 * for each policy. Readable on light and dark pages. */
#include "server/report/bench_points.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "server/report/eval_points.h"

/* A panel's curves are in [LEFT, RIGHT] x [TOP, BOTTOM], its legend to the right. */
enum { LEFT = 70, RIGHT = 560, TOP = 40, BOTTOM = 270, WIDTH = 760, PANEL = 330 };

/* Colours that most people can tell apart (Okabe and Ito), lighter on dark pages. */
static const char *const light[] = {"#0072b2", "#d55e00", "#008a60", "#b0508a",
                                    "#a87000", "#3a86c8", "#6b6b00", "#555555"};
static const char *const dark[] = {"#56b4e9", "#ff8c42", "#2fd3a0", "#e69ac8",
                                   "#f0b429", "#9ad0ff", "#d0d060", "#bbbbbb"};
enum { N_COLOURS = sizeof light / sizeof *light };

/* Points of one kind; they differ in policy and context. */
struct panel {
    const struct bench_points *points;
    enum bench_test test;
    enum plan_storage storage;
    uint32_t batch;
    int top;
    double most_context, most_speed, step;
};

static double speed_of(const struct bench_point *p)
{
    return bench_point_tokens(p) / p->median;
}

static bool is_shown(const struct panel *panel, const struct bench_point *p)
{
    return !*p->skipped && p->test == panel->test && p->storage == panel->storage &&
           p->batch == panel->batch;
}

/* A step of 1, 2 or 5 times a power of ten that divides the range in about five. */
static double round_step(double range)
{
    double power = pow(10, floor(log10(range / 5))), times = range / 5 / power;
    return power * (times < 1.5 ? 1 : times < 3.5 ? 2 : times < 7.5 ? 5 : 10);
}

/* Whether the i-th point is the first of its kind. */
static bool panel_at(const struct bench_points *points, uint32_t i, int top, struct panel *out)
{
    const struct bench_point *first = &points->at[i];
    *out = (struct panel){.points = points,
                          .test = first->test,
                          .storage = first->storage,
                          .batch = first->batch,
                          .top = top};
    if (!is_shown(out, first))
        return false;
    for (uint32_t k = 0; k < points->n; k++) {
        const struct bench_point *p = &points->at[k];
        if (!is_shown(out, p))
            continue;
        if (k < i)
            return false;
        out->most_context = fmax(out->most_context, p->context);
        out->most_speed = fmax(out->most_speed, speed_of(p));
    }
    out->most_context = fmax(out->most_context, 1);
    out->step = round_step(out->most_speed);
    out->most_speed = ceil(out->most_speed / out->step) * out->step;
    return true;
}

static double x_of(const struct panel *panel, double context)
{
    return LEFT + (RIGHT - LEFT) * context / panel->most_context;
}

static double y_of(const struct panel *panel, double speed)
{
    return panel->top + BOTTOM - (BOTTOM - TOP) * speed / panel->most_speed;
}

static void draw_axes(const struct panel *panel, FILE *out)
{
    const char *storage = plan_storage_name(panel->storage);
    fprintf(out, "<text class='title' x='%d' y='%d'>", LEFT, panel->top + 22);
    if (panel->test == BENCH_PREFILL)
        fprintf(out, "Prompt, %s cache: tokens per second over its length", storage);
    else if (panel->batch == 1)
        fprintf(out, "One sequence, %s cache: tokens per second over context", storage);
    else
        fprintf(out, "%u sequences together, %s cache: tokens per second over context",
                panel->batch, storage);
    fprintf(out, "</text>\n");
    for (double speed = 0; speed < panel->most_speed + panel->step / 2; speed += panel->step) {
        double y = y_of(panel, speed);
        fprintf(out,
                "<line class='grid' x1='%d' x2='%d' y1='%.1f' y2='%.1f'/><text x='%d' y='%.1f' "
                "text-anchor='end'>%g</text>\n",
                LEFT, RIGHT, y, y, LEFT - 8, y + 4, speed);
    }
    double step = round_step(panel->most_context);
    /* Contexts are powers of two. */
    step = step >= 16 ? exp2(round(log2(step))) : step;
    for (double context = 0; context < panel->most_context + step / 2; context += step)
        if (x_of(panel, context) < RIGHT + 1)
            fprintf(out, "<text x='%.1f' y='%d' text-anchor='middle'>%g</text>\n",
                    x_of(panel, context), panel->top + BOTTOM + 20, context);
}

/* The policy's index among all, so that its colour is the same in all panels. */
static uint32_t look_of(const struct bench_points *points, const char *policy)
{
    uint32_t look = 0;
    for (uint32_t i = 0; i < points->n && points->at[i].policy != policy; i++) {
        bool first = true;
        for (uint32_t k = 0; k < i && first; k++)
            first = points->at[k].policy != points->at[i].policy;
        look += first;
    }
    return look;
}

static void draw_policy(const struct panel *panel, const char *policy, int row, FILE *out)
{
    const struct bench_points *all = panel->points;
    uint32_t look = look_of(all, policy);
    fprintf(out, "<g class='c%u'%s><polyline points='", look % N_COLOURS,
            look < N_COLOURS ? "" : " stroke-dasharray='6 3'");
    for (uint32_t i = 0; i < all->n; i++) /* contexts rise within a policy */
        if (is_shown(panel, &all->at[i]) && all->at[i].policy == policy)
            fprintf(out, "%.1f,%.1f ", x_of(panel, all->at[i].context),
                    y_of(panel, speed_of(&all->at[i])));
    fprintf(out, "'/>");
    for (uint32_t i = 0; i < all->n; i++) {
        const struct bench_point *p = &all->at[i];
        if (!is_shown(panel, p) || p->policy != policy)
            continue;
        double tokens = bench_point_tokens(p);
        fprintf(out, "<line x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f'/>", x_of(panel, p->context),
                x_of(panel, p->context), y_of(panel, fmin(tokens / p->best, panel->most_speed)),
                y_of(panel, tokens / p->worst));
        fprintf(out, "<circle r='3.5' cx='%.1f' cy='%.1f'><title>", x_of(panel, p->context),
                y_of(panel, speed_of(p)));
        eval_put_text(out, policy);
        fprintf(out, ", %u tokens: %.4g tokens/s</title></circle>", p->context, speed_of(p));
    }
    int y = panel->top + TOP + 10 + row * 20;
    fprintf(out, "<line x1='%d' x2='%d' y1='%d' y2='%d'/><text x='%d' y='%d'>", RIGHT + 16,
            RIGHT + 42, y, y, RIGHT + 50, y + 4);
    eval_put_text(out, policy);
    fprintf(out, "</text></g>\n");
}

static void draw_panel(const struct panel *panel, FILE *out)
{
    const struct bench_points *all = panel->points;
    int row = 0;
    draw_axes(panel, out);
    for (uint32_t i = 0; i < all->n; i++) {
        bool first = is_shown(panel, &all->at[i]);
        for (uint32_t k = 0; k < i && first; k++)
            first = !is_shown(panel, &all->at[k]) || all->at[k].policy != all->at[i].policy;
        if (first)
            draw_policy(panel, all->at[i].policy, row++, out);
    }
}

static void draw_style(FILE *out)
{
    fputs("<style>text{font:12px system-ui,sans-serif;fill:#222}.title{font-size:14px;"
          "font-weight:600}.page{fill:#fff}.grid{stroke:#000;stroke-opacity:.15}"
          "polyline{fill:none;stroke-width:2}g line{stroke-width:1.5}",
          out);
    for (int i = 0; i < N_COLOURS; i++)
        fprintf(out, ".c%d polyline,.c%d line{stroke:%s}.c%d circle{fill:%s}", i, i, light[i], i,
                light[i]);
    fputs("@media(prefers-color-scheme:dark){text{fill:#ddd}.page{fill:#15181c}"
          ".grid{stroke:#fff;stroke-opacity:.18}",
          out);
    for (int i = 0; i < N_COLOURS; i++)
        fprintf(out, ".c%d polyline,.c%d line{stroke:%s}.c%d circle{fill:%s}", i, i, dark[i], i,
                dark[i]);
    fputs("}</style>\n", out);
}

bool bench_write_picture(const struct bench_setting *s, const struct bench_points *p,
                         const char *path, struct error *e)
{
    FILE *out = fopen(path, "we");
    struct panel panel;
    int n_panels = 0;
    if (!out)
        return error_set(e, "file_error", "--svg", "%s cannot be written: %s", path,
                         strerror(errno));
    for (uint32_t i = 0; i < p->n; i++)
        n_panels += panel_at(p, i, 0, &panel);
    int height = 40 + n_panels * PANEL;
    fprintf(out, "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %d' role='img'>\n", WIDTH,
            height);
    draw_style(out);
    fprintf(out, "<rect class='page' width='%d' height='%d'/><text class='title' x='%d' y='26'>",
            WIDTH, height, LEFT);
    eval_put_text(out, s->model->name);
    fprintf(out, ", %s, %s</text>\n", s->model->quantisation, s->backend->description);
    int top = 30;
    for (uint32_t i = 0; i < p->n; i++)
        if (panel_at(p, i, top, &panel)) {
            draw_panel(&panel, out);
            top += PANEL;
        }
    fputs("</svg>\n", out);
    bool written = !ferror(out);
    return (fclose(out) == 0 && written) ||
           error_set(e, "file_error", "--svg", "%s cannot be written", path);
}
