/* Results of `winnow eval`. DIR/results.jsonl has a line for each finished run, so that an
 * interrupted evaluation can continue. A table, a JSON file and an HTML report are made from the
 * lines. Main thread. */
#ifndef WINNOW_SERVER_REPORT_EVAL_RESULTS_H
#define WINNOW_SERVER_REPORT_EVAL_RESULTS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "config/base/error.h"

struct eval_results {
    char *directory; /* owned */
    FILE *lines;     /* results.jsonl, opened for appending */
    json_t *runs;    /* the lines as an array, without the first one, which has the settings */
    json_t *settings;
};

/* Opens or creates DIR. Results that are there must have the same settings. Takes the reference to
 * settings. False: "file_error", "out_of_memory", or "invalid_value" (other settings). */
bool eval_results_open(struct eval_results *r, const char *directory, json_t *settings,
                       struct error *e);
void eval_results_close(struct eval_results *r);

/* Whether there is a run with all members of `key`. */
bool eval_results_has(const struct eval_results *r, const json_t *key);
/* Adds a run and writes its line at once. Takes the reference. */
bool eval_results_add(struct eval_results *r, json_t *run, struct error *e);

/* Writes the table to `out`, and DIR/results.json and DIR/report.html. */
bool eval_results_report(const struct eval_results *r, FILE *out, struct error *e);

#endif
