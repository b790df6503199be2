/* Writes the Prometheus text format, and the families that every process has. Loop thread. */
#ifndef WINNOW_SERVER_API_METRICS_TEXT_H
#define WINNOW_SERVER_API_METRICS_TEXT_H

#include "config/base/bytes.h"
#include "engine/serve/metrics.h"

/* `failed`: memory was short, and the text is incomplete. */
struct metrics_text {
    struct bytes bytes;
    bool failed;
};

void metrics_put(struct metrics_text *t, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The HELP and TYPE lines of a family. `name` is the full name. */
void metrics_head(struct metrics_text *t, const char *name, const char *type, const char *help);
/* A family with one sample. `labels` is "" or like `policy="sink"`. */
void metrics_single(struct metrics_text *t, const char *name, const char *type, const char *help,
                    const char *labels, double value);
/* The sample lines of a histogram, after metrics_head. */
void metrics_buckets(struct metrics_text *t, const char *name, const char *labels,
                     const struct histogram *h);
double metrics_observations(const struct histogram *h);
double metrics_count(const atomic_uint_fast64_t *value);
/* A label's value, escaped and cut to fit. */
void metrics_label(char *out, size_t size, const char *value);

/* process_cpu_seconds_total and others, named as in Prometheus client libraries. */
void metrics_process(struct metrics_text *t);

#endif
