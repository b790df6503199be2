/* The results of `winnow bench`, and how they are shown: a line on the terminal for each point, a
 * JSON file, a picture. Main thread. */
#ifndef WINNOW_SERVER_REPORT_BENCH_POINTS_H
#define WINNOW_SERVER_REPORT_BENCH_POINTS_H

#include <stdio.h>

#include "engine/measure/bench.h"
#include "engine/measure/bench_machine.h"
#include "server/report/bench_arguments.h"

enum bench_test { BENCH_PREFILL, BENCH_DECODE };

/* A prompt of `context` tokens, or n_steps steps of `batch` sequences after one. */
struct bench_point {
    enum bench_test test;
    const char *policy; /* the name of a case, not owned */
    enum plan_storage storage;
    uint32_t context, batch, n_steps;
    char skipped[200]; /* the reason if it was skipped, else "" */
    uint32_t n_runs;
    double runs[BENCH_MOST_REPEATS]; /* seconds, in the order of the runs */
    double median, best, worst;      /* of the runs */
    struct bench_sample work;        /* of a run; its time is the last run's */
    double kv_held_bytes;            /* of the prompt's pages at the end */
};

struct bench_points {
    struct bench_point *at; /* [n] */
    uint32_t n, capacity;
};

/* Appends a point, all zero, which is valid until the next call. NULL: "out_of_memory". */
struct bench_point *bench_points_add(struct bench_points *p, struct error *e);
/* Fills median, best and worst. n_runs must be at least 1. */
void bench_point_settle(struct bench_point *p);
double bench_point_tokens(const struct bench_point *p); /* of a run */
/* Bytes that a decode step must read. */
double bench_point_step_bytes(const struct bench_point *p);

/* What the points were measured on. */
struct bench_setting {
    const struct bench_arguments *arguments;
    const struct model *model;
    const struct backend *backend;
    struct bench_machine before, after; /* after.read_bytes is 0 if it was not measured again */
    bool has_machine; /* false on a GPU, whose limits are not those of the processor */
};

void bench_print_head(const struct bench_setting *s, FILE *out);
void bench_print_point(const struct bench_setting *s, const struct bench_point *p, FILE *out);
/* False: "file_error". */
bool bench_write_json(const struct bench_setting *s, const struct bench_points *p, const char *path,
                      struct error *e);
bool bench_write_picture(const struct bench_setting *s, const struct bench_points *p,
                         const char *path, struct error *e);

#endif
