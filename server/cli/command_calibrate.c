/* `winnow calibrate MODEL -o PROFILE.json`: finds the model's retrieval heads and writes the
 * profile for --head-profile. No engine; the calibration has its own threads.
 *
 * The profile is writ%g to a new file, which is then renamed, so that an interrupt never leaves a
 * part of one. If the path is a device, a pipe or a link, it is writ%g to and never replaced. */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/base/clock.h"
#include "engine/measure/calibrate.h"
#include "engine/compute/machine.h"
#include "server/cli/command.h"
#include "server/cli/command_line.h"
#include "server/devices.h"

/* ---- progress on stderr */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

struct progress {
    double started, shown;
    bool terminal;
};

/* On a terminal one line that is overwritten; otherwise a line every %g seconds. */
static bool show_progress(void *context, uint32_t n_done, uint32_t n_total)
{
    struct progress *p = context;
    double now = clock_seconds();
    if (n_done < n_total && now - p->shown >= (p->terminal ? 0 : 10)) {
        fprintf(stderr,
                p->terminal ? "\rcalibrating: %u of %u tokens, %.0f s"
                            : "calibrating: %u of %u tokens, %.0f s\n",
                n_done, n_total, now - p->started);
        p->shown = now;
    }
    if (p->terminal && (n_done == n_total || interrupted))
        fputs("\r\033[K", stderr);
    return !interrupted;
}

/* ---- the result */

static void print_heads(const struct calibration *c, const char *path, double took)
{
    uint32_t n = c->n_layers * c->n_kv_heads, n_whole = 0;
    const double least = calibration_least_score(c);
    double best = 0;
    printf("layer  KV head  induction    echo\n");
    for (uint32_t i = 0; i < n; i++)
        if (c->whole[i]) {
            n_whole++;
            best = fmax(best, fmax(c->induction[i], c->echo[i]));
            printf("%5u  %7u  %9.4f  %6.4f\n", i / c->n_kv_heads, i % c->n_kv_heads,
                   c->induction[i], c->echo[i]);
        }
    printf("%u of %u KV heads are retrieval heads (%u tokens read %u times, %.1f s): %s\n", n_whole,
           n, c->length, c->repeats, took, path);
    if (c->n_left_out)
        printf("Left out: %u more among the best, with scores that are chance (below %.4f, %g "
               "times even attention).\n",
               c->n_left_out, least, CALIBRATE_LEAST_TIMES);
    if (best < least)
        printf("All scores are below %.4f, %g times even attention: this model has no heads that "
               "look things up, and these are chosen by chance.\n",
               least, CALIBRATE_LEAST_TIMES);
}

static int fail(const struct error *e)
{
    command_line_print_error(OPTION_CALIBRATE, e);
    return strcmp(e->code, "cancelled") ? 1 : 130;
}

/* Where the profile is written: to a new file in the same folder, or to the path itself. */
struct output {
    const char *path;
    char *partial; /* owned; NULL: `path` itself is writ%g to */
    FILE *file;
};

static bool output_open(struct output *o, const char *path, struct error *e)
{
    struct stat there;
    *o = (struct output){.path = path};
    bool plain = lstat(path, &there) != 0 || S_ISREG(there.st_mode);
    if (plain && asprintf(&o->partial, "%s.partial", path) < 0) {
        o->partial = NULL;
        return error_set_memory(e, "a file name", strlen(path) + sizeof ".partial");
    }
    o->file = fopen(plain ? o->partial : path, "we");
    if (o->file)
        return true;
    error_set(e, "file_error", path, "the profile cannot be written: %s", strerror(errno));
    free(o->partial);
    return false;
}

static bool output_finish(struct output *o, struct error *e)
{
    /* Devices and pipes cannot be synchronised. */
    if (fflush(o->file) || ferror(o->file) || (o->partial && fsync(fileno(o->file))))
        return error_set(e, "file_error", o->path, "the profile cannot be written: %s",
                         strerror(errno));
    if (o->partial && rename(o->partial, o->path))
        return error_set(e, "file_error", o->path, "the profile cannot be moved to its path: %s",
                         strerror(errno));
    return true;
}

static void output_close(struct output *o, bool done)
{
    fclose(o->file);
    if (o->partial && !done)
        unlink(o->partial);
    free(o->partial);
}

static struct calibration *make_profile(const struct calibrate_arguments *a,
                                        struct progress *progress, struct output *output,
                                        struct error *e)
{
    struct device device;
    /* The CPU, because keys are read back slot by slot. */
    if (!device_pick(&server_devices, "cpu", &device, e))
        return NULL;
    struct calibration_settings settings = {.device = device.kind,
                                            .length = a->length,
                                            .seed = (uint64_t)a->seed,
                                            .induction_percent = a->induction_percent,
                                            .echo_percent = a->echo_percent,
                                            .n_threads =
                                                a->n_threads ? a->n_threads : machine_cores(""),
                                            .isa = a->isa,
                                            .progress = show_progress,
                                            .progress_context = progress};
    struct model *model = model_open(a->model_path, NULL, NULL, e);
    struct calibration *c = model ? calibrate(model, &settings, e) : NULL;
    model_close(model);
    if (c && calibration_write(c, output->file, e) && output_finish(output, e))
        return c;
    calibration_free(c);
    return NULL;
}

/* The output is opened first, so that a wrong path is reported before minutes of work. */
static int run(const struct calibrate_arguments *a)
{
    struct error e;
    struct output output;
    struct progress progress = {.started = clock_seconds(), .terminal = isatty(STDERR_FILENO) == 1};
    if (!output_open(&output, a->profile_path, &e))
        return fail(&e);
    struct calibration *c = make_profile(a, &progress, &output, &e);
    output_close(&output, c != NULL);
    if (!c)
        return fail(&e);
    print_heads(c, a->profile_path, clock_seconds() - progress.started);
    calibration_free(c);
    return fflush(stdout) ? 1 : 0;
}

static bool fits(const struct calibrate_arguments *a, struct error *e)
{
    if (a->length && a->length < 8)
        return error_set(e, "invalid_value", "--length",
                         "%u tokens are too few; at least 8 are needed", a->length);
    if (!a->induction_percent && !a->echo_percent)
        return error_set(e, "invalid_value", "--induction-percent",
                         "0 with --echo-percent 0 chooses no head");
    return a->profile_path || error_set(e, "invalid_value", "-o",
                                        "the file for the profile is missing: -o PROFILE.json");
}

int command_calibrate(int argc, char **argv)
{
    struct calibrate_arguments a = {0};
    struct error e;
    int status;
    if (!command_line_parse(OPTION_CALIBRATE, &a, argc, argv, &status))
        return status;
    /* A second signal ends the program at once. */
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    if (fits(&a, &e)) {
        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);
        status = run(&a);
    } else {
        status = command_line_refuse(OPTION_CALIBRATE, &e);
    }
    options_clear(OPTION_CALIBRATE, &a);
    return status;
}
