/* Means of runs. eval_report.c computes them from the lines of results, eval_pictures.c draws them.
 * Main thread. */
#ifndef WINNOW_SERVER_REPORT_EVAL_POINTS_H
#define WINNOW_SERVER_REPORT_EVAL_POINTS_H

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

enum eval_fact { FACT_NUMBER, FACT_WORD, N_FACT_KINDS };
extern const char *const eval_fact_names[N_FACT_KINDS]; /* "number", "word": as in the lines */

/* All runs of one (task, context, policy, budget), as sums over n runs. found and asked are by
 * fact. */
struct eval_point {
    const char *task, *policy; /* from the lines, not owned */
    json_int_t context;
    double budget;
    uint32_t n, asked[N_FACT_KINDS], found[N_FACT_KINDS];
    double nll, agreement, kl, held, memory; /* memory: bytes as a share of full attention's */
};

struct eval_points {
    struct eval_point *at; /* [n] in the order of their first runs */
    uint32_t n;
};

/* Writes text with <, & and " escaped. */
void eval_put_text(FILE *out, const char *text);
/* Quality over memory: a picture for each context and measure. */
void eval_draw_curves(const struct eval_points *p, FILE *out);
/* Facts found: a table for each budget, policies against length and depth. */
void eval_draw_depths(const struct eval_points *p, const json_t *runs, FILE *out);

#endif
