/* `winnow calibrate`: see command_calibrate.h. The profile is written beside its place and renamed
 * when it is whole, so that an interrupt never leaves half of one. What is there already and is no
 * plain file (a device, a pipe, a link) is written to and never replaced. */
#include "server/cli/command_calibrate.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/base/clock.h"
#include "engine/measure/calibrate.h"
#include "engine/compute/machine.h"
#include "server/cli/command_line.h"
#include "server/devices.h"

struct arguments {
    const char *model_path, *profile_path;
    struct calibration_settings settings;
    bool help;
};

static const char usage[] =
    "usage: winnow calibrate MODEL -o PROFILE.json [options]\n"
    "\n"
    "Finds the attention heads that look things up, by reading random tokens several times over,\n"
    "and writes the profile for --head-profile.\n"
    "\n"
    "  -m, --model FILE        the model (or as the first argument)\n"
    "  -o, --output FILE       where the profile goes\n"
    "      --length N          random tokens, read 4 times or as often as the trained context\n"
    "                          takes, at least twice (default 2500, or half the context)\n"
    "      --seed N            of the random tokens (default 0)\n"
    "      --induction-percent N, --echo-percent N\n"
    "                          how many of all KV heads each score chooses, rounded up (default\n"
    "                          14 and 1, RazorAttention's)\n"
    "  -t, --threads N         threads (default: physical cores)\n"
    "      --isa NAME          plain, avx2 or avx512 (default: the best there is)\n";

/* ---- the command line */

enum flag { FLAG_LENGTH = 256, FLAG_SEED, FLAG_ISA, FLAG_INDUCTION, FLAG_ECHO };

static const struct option long_options[] = {
    {"model", required_argument, NULL, 'm'},
    {"model-path", required_argument, NULL, 'm'},
    {"output", required_argument, NULL, 'o'},
    {"length", required_argument, NULL, FLAG_LENGTH},
    {"seed", required_argument, NULL, FLAG_SEED},
    {"induction-percent", required_argument, NULL, FLAG_INDUCTION},
    {"echo-percent", required_argument, NULL, FLAG_ECHO},
    {"threads", required_argument, NULL, 't'},
    {"isa", required_argument, NULL, FLAG_ISA},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0}};

static bool parse_flag(struct arguments *a, int flag, const char *text, struct error *e)
{
    uint64_t number = 0;
    bool good = true;
    switch (flag) {
    case 'm':
        a->model_path = text;
        break;
    case 'o':
        a->profile_path = text;
        break;
    case 'h':
        a->help = true;
        break;
    case FLAG_ISA:
        a->settings.isa = text;
        break;
    case FLAG_LENGTH:
        good = flag_whole_number("--length", text, 8, INT32_MAX, &number, e);
        a->settings.length = (uint32_t)number;
        break;
    case FLAG_SEED:
        return flag_whole_number("--seed", text, 0, INT64_MAX, &a->settings.seed, e);
    case FLAG_INDUCTION:
        good = flag_whole_number("--induction-percent", text, 0, 100, &number, e);
        a->settings.induction_percent = (uint32_t)number;
        break;
    case FLAG_ECHO:
        good = flag_whole_number("--echo-percent", text, 0, 100, &number, e);
        a->settings.echo_percent = (uint32_t)number;
        break;
    case 't':
        good = flag_whole_number("--threads", text, 1, 1024, &number, e);
        a->settings.n_threads = (uint32_t)number;
        break;
    default:
        return error_set(e, "invalid_value", "", "unknown option or missing value");
    }
    return good;
}

static bool parse_arguments(struct arguments *a, int argc, char **argv, struct error *e)
{
    int flag;
    optind = 1;
    while ((flag = getopt_long(argc, argv, "m:o:t:h", long_options, NULL)) != -1)
        if (!parse_flag(a, flag, optarg, e))
            return false;
    if (!command_line_model(argc, argv, a->help, &a->model_path, e))
        return false;
    if (a->help)
        return true;
    if (!a->settings.induction_percent && !a->settings.echo_percent)
        return error_set(e, "invalid_value", "--induction-percent",
                         "0 with --echo-percent 0 chooses no head");
    if (!a->profile_path)
        return error_set(e, "invalid_value", "-o", "no file for the profile was named");
    return true;
}

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

/* A line that overwrites itself on a terminal; elsewhere one every ten seconds. */
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

/* ---- the outcome */

static void print_heads(const struct calibration *c, const char *path, double took)
{
    uint32_t n = c->n_layers * c->n_kv_heads, n_whole = 0;
    printf("layer  KV head  induction    echo\n");
    for (uint32_t i = 0; i < n; i++)
        if (c->whole[i]) {
            n_whole++;
            printf("%5u  %7u  %9.4f  %6.4f\n", i / c->n_kv_heads, i % c->n_kv_heads,
                   c->induction[i], c->echo[i]);
        }
    printf("%u of %u KV heads are retrieval heads (%u tokens read %u times, %.1f s): %s\n", n_whole,
           n, c->length, c->repeats, took, path);
}

static int fail(const struct error *e)
{
    fprintf(stderr, "winnow calibrate: %s%s%s\n", e->where, e->where[0] ? ": " : "", e->message);
    return strcmp(e->code, "cancelled") ? 1 : 130;
}

/* Where the profile is written: beside its place, or right there when only that is possible. */
struct output {
    const char *path;
    char *partial; /* malloc'ed; NULL: `path` itself is written to */
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
    /* Devices and pipes cannot be synchronised, and need not be. */
    if (fflush(o->file) || ferror(o->file) || (o->partial && fsync(fileno(o->file))))
        return error_set(e, "file_error", o->path, "the profile cannot be written: %s",
                         strerror(errno));
    if (o->partial && rename(o->partial, o->path))
        return error_set(e, "file_error", o->path, "the profile cannot be put there: %s",
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

static struct calibration *make_profile(const struct arguments *a, struct progress *progress,
                                        struct output *output, struct error *e)
{
    struct device device;
    struct calibration_settings settings = a->settings;
    /* Keys are read back slot by slot, which only the host's memory does quickly. */
    if (!device_pick(&server_devices, "cpu", &device, e))
        return NULL;
    settings.device = device.kind;
    settings.progress = show_progress;
    settings.progress_context = progress;
    struct model *model = model_open(a->model_path, NULL, NULL, e);
    struct calibration *c = model ? calibrate(model, &settings, e) : NULL;
    model_close(model);
    if (c && calibration_write(c, output->file, e) && output_finish(output, e))
        return c;
    calibration_free(c);
    return NULL;
}

/* The output is opened first: a place where it cannot go shows before minutes of work. */
static int run(const struct arguments *a)
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

int command_calibrate(int argc, char **argv)
{
    struct arguments a = {.settings = {.induction_percent = CALIBRATE_INDUCTION_PERCENT,
                                       .echo_percent = CALIBRATE_ECHO_PERCENT}};
    struct error e;
    if (!parse_arguments(&a, argc, argv, &e)) {
        fprintf(stderr, "winnow calibrate: %s%s%s\n%s", e.where, e.where[0] ? ": " : "", e.message,
                usage);
        return 2;
    }
    if (a.help) {
        fputs(usage, stdout);
        return 0;
    }
    if (!a.settings.n_threads)
        a.settings.n_threads = machine_cores("");
    /* A second signal ends the program at once. */
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    return run(&a);
}
