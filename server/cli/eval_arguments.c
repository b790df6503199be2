/* Flags and their checks: see eval_arguments.h. */
#include "server/cli/eval_arguments.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "server/cli/command_line.h"

const char eval_usage[] =
    "usage: winnow eval MODEL --text FILE [options]\n"
    "\n"
    "Quality against memory, for cache policies side by side: perplexity and agreement with full\n"
    "attention on a text, and facts found in it. Goes on where an interrupted run ended.\n"
    "\n"
    "  -m, --model FILE        the model (or as the first argument)\n"
    "      --text FILE         the text: some hundred kilobytes of prose\n"
    "      --policies A,B      names, or JSON objects (default: all; razor, duo, compresskv with a "
    "profile)\n"
    "      --budgets A,B       slots or shares of the prompt (default 0.05,0.1,0.2,0.5)\n"
    "      --contexts A,B      lengths in tokens (default 1024,2048, as far as the model goes)\n"
    "      --depths A,B        where facts lie, 0 to 1 (default 0.1,0.5,0.9)\n"
    "      --tasks A,B         text, retrieval (default both), stream (sink only)\n"
    "      --steps N           tokens that are predicted behind each text (default 128)\n"
    "      --samples N         texts for each length (default 2)\n"
    "      --trials N          texts with facts for each length and depth; each is asked for a\n"
    "                          number and for a word (default 4)\n"
    "      --stream-tokens N   length of a stream; the text is repeated (default 1000000)\n"
    "      --seed N            of places and facts (default 0)\n"
    "      --out DIR           where results and the report go (default eval)\n"
    "      --head-profile FILE which heads look things up, for razor, duo and compresskv\n"
    "      --kv-storage TYPE   f16, bf16, q8 or q4 (default f16)\n"
    "      --no-sharing        computes every prompt anew: slower, the same to the digit\n"
    "  -t, --threads N         threads (default: physical cores)\n"
    "      --device NAME       auto, cpu or cuda (default auto: a GPU where one can be used)\n"
    "      --isa NAME          plain, avx2 or avx512 (default: the best there is)\n";

enum flag {
    FLAG_TEXT = 256,
    FLAG_POLICIES,
    FLAG_BUDGETS,
    FLAG_CONTEXTS,
    FLAG_DEPTHS,
    FLAG_TASKS,
    FLAG_STEPS,
    FLAG_SAMPLES,
    FLAG_TRIALS,
    FLAG_STREAM,
    FLAG_SEED,
    FLAG_OUT,
    FLAG_PROFILE,
    FLAG_STORAGE,
    FLAG_ISA,
    FLAG_DEVICE,
    FLAG_NO_SHARING
};

static const struct option long_options[] = {
    {"model", required_argument, NULL, 'm'},
    {"text", required_argument, NULL, FLAG_TEXT},
    {"policies", required_argument, NULL, FLAG_POLICIES},
    {"budgets", required_argument, NULL, FLAG_BUDGETS},
    {"contexts", required_argument, NULL, FLAG_CONTEXTS},
    {"depths", required_argument, NULL, FLAG_DEPTHS},
    {"tasks", required_argument, NULL, FLAG_TASKS},
    {"steps", required_argument, NULL, FLAG_STEPS},
    {"samples", required_argument, NULL, FLAG_SAMPLES},
    {"trials", required_argument, NULL, FLAG_TRIALS},
    {"stream-tokens", required_argument, NULL, FLAG_STREAM},
    {"seed", required_argument, NULL, FLAG_SEED},
    {"out", required_argument, NULL, FLAG_OUT},
    {"head-profile", required_argument, NULL, FLAG_PROFILE},
    {"kv-storage", required_argument, NULL, FLAG_STORAGE},
    {"threads", required_argument, NULL, 't'},
    {"device", required_argument, NULL, FLAG_DEVICE},
    {"isa", required_argument, NULL, FLAG_ISA},
    {"no-sharing", no_argument, NULL, FLAG_NO_SHARING},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0}};

static bool parse_flag(struct eval_arguments *a, int flag, const char *text, struct error *e)
{
    switch (flag) {
    case 'm':
        a->model_path = text;
        return true;
    case 'h':
        a->help = true;
        return true;
    case FLAG_NO_SHARING:
        a->no_sharing = true;
        return true;
    case FLAG_TEXT:
        a->text_path = text;
        return true;
    case FLAG_POLICIES:
        a->policies = text;
        return true;
    case FLAG_BUDGETS:
        a->budgets = text;
        return true;
    case FLAG_CONTEXTS:
        a->contexts = text;
        return true;
    case FLAG_DEPTHS:
        a->depths = text;
        return true;
    case FLAG_TASKS:
        a->tasks = text;
        return true;
    case FLAG_OUT:
        a->directory = text;
        return true;
    case FLAG_PROFILE:
        a->head_profile = text;
        return true;
    case FLAG_STORAGE:
        a->storage = text;
        return true;
    case FLAG_ISA:
        a->isa = text;
        return true;
    case FLAG_DEVICE:
        a->device = text;
        return true;
    case FLAG_STEPS:
        return flag_whole_number("--steps", text, 1, 65536, &a->n_steps, e);
    case FLAG_SAMPLES:
        return flag_whole_number("--samples", text, 1, 1000, &a->n_samples, e);
    case FLAG_TRIALS:
        return flag_whole_number("--trials", text, 1, 1000, &a->n_trials, e);
    case FLAG_STREAM:
        return flag_whole_number("--stream-tokens", text, 1000, INT32_MAX, &a->n_stream, e);
    case FLAG_SEED:
        return flag_whole_number("--seed", text, 0, INT64_MAX, &a->seed, e);
    case 't':
        return flag_whole_number("--threads", text, 1, 1024, &a->n_threads, e);
    default:
        return error_set(e, "invalid_value", "", "unknown option or missing value");
    }
}

bool eval_arguments_parse(struct eval_arguments *a, int argc, char **argv, struct error *e)
{
    int flag;
    *a = (struct eval_arguments){
        .n_steps = 128, .n_samples = 2, .n_trials = 4, .n_stream = 1000000, .directory = "eval"};
    optind = 1;
    while ((flag = getopt_long(argc, argv, "m:t:h", long_options, NULL)) != -1)
        if (!parse_flag(a, flag, optarg, e))
            return false;
    if (!command_line_model(argc, argv, a->help, &a->model_path, e))
        return false;
    if (a->help)
        return true;
    return a->text_path || error_set(e, "invalid_value", "--text", "no text was named");
}

bool eval_arguments_numbers(const char *flag, const char *text, double min, double max, double *out,
                            uint32_t *n, struct error *e)
{
    char shown[80];
    for (*n = 0; *n < EVAL_MOST;) {
        char *end;
        double x = strtod(text, &end);
        if (end == text || (*end && *end != ',') || !(x >= min && x <= max))
            return error_set(e, "invalid_value", flag,
                             "\"%s\" does not begin with a number from %g to %g",
                             error_excerpt(shown, text, strlen(text)), min, max);
        out[(*n)++] = x;
        if (!*end)
            return true;
        text = end + 1;
    }
    return error_set(e, "invalid_value", flag, "more than %d values", EVAL_MOST);
}
