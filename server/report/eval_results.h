/* Results of `winnow eval`: a line of JSON for each finished run in DIR/results.jsonl, so that an
 * interrupted evaluation goes on where it was; the table, the JSON and the HTML report made of
 * them. Main thread. */
#ifndef WINNOW_SERVER_REPORT_EVAL_RESULTS_H
#define WINNOW_SERVER_REPORT_EVAL_RESULTS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "config/base/error.h"

struct eval_results {
    char *directory; /* owned */
    FILE *lines;     /* results.jsonl, appended to */
    json_t *runs;    /* array of the lines but the first, which holds the settings */
    json_t *settings;
};

/* Opens or makes DIR. What is there must have the same settings. False: "file_error" or
 * "invalid_value" (other settings). Takes the reference to settings. */
bool eval_results_open(struct eval_results *r, const char *directory, json_t *settings,
                       struct error *e);
void eval_results_close(struct eval_results *r);

/* Whether a run with all members of `key` is there. */
bool eval_results_has(const struct eval_results *r, const json_t *key);
/* Adds a run (takes the reference) and writes its line at once. */
bool eval_results_add(struct eval_results *r, json_t *run, struct error *e);

/* The table on `out`, DIR/results.json, DIR/report.html. */
bool eval_results_report(const struct eval_results *r, FILE *out, struct error *e);

#endif
