/* See metrics_text.h. */
#include "server/api/metrics_text.h"

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

void metrics_put(struct metrics_text *t, const char *format, ...)
{
    struct bytes *b = &t->bytes;
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int n = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (n >= 0 && !t->failed && bytes_reserve(b, (size_t)n + 1)) {
        vsnprintf(b->data + b->length, (size_t)n + 1, format, again);
        b->length += (size_t)n;
    } else {
        t->failed = true;
    }
    va_end(again);
}

void metrics_head(struct metrics_text *t, const char *name, const char *type, const char *help)
{
    metrics_put(t, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void metrics_single(struct metrics_text *t, const char *name, const char *type, const char *help,
                    const char *labels, double value)
{
    metrics_head(t, name, type, help);
    metrics_put(t, *labels ? "%s{%s} %.17g\n" : "%s%s %.17g\n", name, labels, value);
}

void metrics_label(char *out, size_t size, const char *value)
{
    size_t n = 0;
    for (; *value && n + 3 < size; value++) {
        if (*value == '\\' || *value == '"')
            out[n++] = '\\';
        if ((unsigned char)*value >= 32)
            out[n++] = *value;
    }
    out[n] = 0;
}

double metrics_count(const atomic_uint_fast64_t *value)
{
    return (double)atomic_load_explicit(value, memory_order_relaxed);
}

void metrics_buckets(struct metrics_text *t, const char *name, const char *labels,
                     const struct histogram *h)
{
    const char *comma = *labels ? "," : "";
    double sum = 0;
    for (uint32_t i = 0; i <= h->n_edges; i++) {
        sum += metrics_count(&h->buckets[i]);
        if (i < h->n_edges)
            metrics_put(t, "%s_bucket{%s%sle=\"%g\"} %.17g\n", name, labels, comma, h->edges[i],
                        sum);
        else
            metrics_put(t, "%s_bucket{%s%sle=\"+Inf\"} %.17g\n", name, labels, comma, sum);
    }
    const char *open = *labels ? "{" : "", *close = *labels ? "}" : "";
    metrics_put(t, "%s_sum%s%s%s %.17g\n", name, open, labels, close,
                metrics_count(&h->sum_micro) / 1e6);
    metrics_put(t, "%s_count%s%s%s %.17g\n", name, open, labels, close, sum);
}

double metrics_observations(const struct histogram *h)
{
    double sum = 0;
    for (uint32_t i = 0; i <= h->n_edges; i++)
        sum += metrics_count(&h->buckets[i]);
    return sum;
}

/* ---- the process */

static double start_time(void)
{
    static double started;
    if (started == 0) {
        struct timespec now, up;
        unsigned long long ticks = 0;
        FILE *f = fopen("/proc/self/stat", "re");
        char line[1024];
        size_t n = f ? fread(line, 1, sizeof line - 1, f) : 0;
        if (f)
            fclose(f);
        line[n] = 0;
        const char *rest = strrchr(line, ')'); /* the program's name can contain any character */
        if (rest)
            sscanf(
                rest + 1,
                " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
                &ticks);
        clock_gettime(CLOCK_REALTIME, &now);
        clock_gettime(CLOCK_BOOTTIME, &up);
        started =
            (double)now.tv_sec - (double)up.tv_sec + (double)ticks / (double)sysconf(_SC_CLK_TCK);
    }
    return started;
}

void metrics_process(struct metrics_text *t)
{
    struct rusage usage;
    struct rlimit limit;
    unsigned long long size = 0, resident = 0;
    double fds = 0;
    getrusage(RUSAGE_SELF, &usage);
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%llu %llu", &size, &resident) != 2)
        resident = 0;
    if (f)
        fclose(f);
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d))
        fds++;
    if (d)
        closedir(d);
    double page = (double)sysconf(_SC_PAGESIZE);
    metrics_single(t, "process_cpu_seconds_total", "counter", "User and system time.", "",
                   (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
                       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    metrics_single(t, "process_resident_memory_bytes", "gauge", "Resident memory.", "",
                   (double)resident * page);
    metrics_single(t, "process_virtual_memory_bytes", "gauge", "Virtual memory.", "",
                   (double)size * page);
    metrics_single(t, "process_open_fds", "gauge", "Open file descriptors.", "",
                   fds > 3 ? fds - 3 : 0); /* . and .. and itself */
    if (!getrlimit(RLIMIT_NOFILE, &limit))
        metrics_single(t, "process_max_fds", "gauge", "Limit of file descriptors.", "",
                       (double)limit.rlim_cur);
    metrics_single(t, "process_start_time_seconds", "gauge", "When the process started, Unix time.",
                   "", start_time());
}
