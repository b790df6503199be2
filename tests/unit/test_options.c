/* The table of options as every command uses it: command lines, help, completions, manual page. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/options.h"
#include "server/cli/command.h"
#include "server/report/bench_arguments.h"
#include "tests/suite.h"

static struct error e;

/* Words of a command line, as a shell would cut them; the command's name comes first. */
static int words(char *line, char **argv, int most)
{
    int n = 0;
    char *rest = NULL;
    for (char *w = strtok_r(line, " ", &rest); w && n < most; w = strtok_r(NULL, " ", &rest))
        argv[n++] = w;
    return n;
}

static bool parse(enum option_command command, void *settings, const char *line)
{
    char copy[512], *argv[32];
    bool help;
    snprintf(copy, sizeof copy, "%s %s", option_commands[command].name, line);
    int argc = words(copy, argv, 32);
    return options_parse(command, settings, argc, argv, &help, &e);
}

START_TEST(run_takes_its_flags)
{
    struct run_arguments a = {.top_p = -5, .min_p = -5}; /* a value that means "not given" */
    ck_assert_msg(parse(OPTION_RUN, &a,
                        "m.gguf -p Hello -n5 --temp 0 --top-k=-1 --seed -7 --kv-memory 0.5 -t 3 "
                        "--max-model-len 64 --chat --system Be --kv-policy sink --kv-storage q8"),
                  "%s", e.message);
    ck_assert_str_eq(a.model_path, "m.gguf");
    ck_assert_str_eq(a.prompt, "Hello");
    ck_assert_str_eq(a.system, "Be");
    ck_assert_str_eq(a.kv_policy, "sink");
    ck_assert_str_eq(a.kv_storage, "q8");
    ck_assert(a.n_tokens == 5 && a.temperature == 0 && a.top_k == -1 && a.seed == -7);
    ck_assert(a.kv_memory.share == 0.5 && a.kv_memory.bytes == 0);
    ck_assert(a.n_threads == 3 && a.n_ctx == 64 && a.chat && !a.ignore_eos);
    ck_assert(a.top_p == -5 && a.min_p == -5 && a.repetition_penalty == 1);
    options_clear(OPTION_RUN, &a);
    ck_assert_ptr_null(a.prompt);
}
END_TEST

START_TEST(a_value_may_look_like_a_flag)
{
    struct run_arguments a = {0};
    ck_assert_msg(parse(OPTION_RUN, &a, "-p --chat -- -m"), "%s", e.message);
    ck_assert_str_eq(a.prompt, "--chat");
    ck_assert_str_eq(a.model_path, "-m");
    ck_assert(!a.chat);
    options_clear(OPTION_RUN, &a);
}
END_TEST

START_TEST(the_other_commands_take_theirs)
{
    struct eval_arguments v = {0};
    struct calibrate_arguments c = {0};
    struct tokenize_arguments t = {0};
    struct inspect_arguments i = {0};
    ck_assert_msg(parse(OPTION_EVAL, &v, "m --text t.txt --steps 9 --no-sharing --seed 4"), "%s",
                  e.message);
    ck_assert(v.n_steps == 9 && v.no_sharing && v.seed == 4 && v.n_samples == 2);
    ck_assert_str_eq(v.directory, "eval");
    ck_assert_ptr_null(v.contexts);
    options_clear(OPTION_EVAL, &v);
    ck_assert_msg(parse(OPTION_CALIBRATE, &c, "-o p.json --echo-percent 2 -m m"), "%s", e.message);
    ck_assert(c.echo_percent == 2 && c.induction_percent == 14 && c.length == 0);
    ck_assert_str_eq(c.profile_path, "p.json");
    options_clear(OPTION_CALIBRATE, &c);
    ck_assert_msg(parse(OPTION_TOKENIZE, &t, "m -f - --ids --bos"), "%s", e.message);
    ck_assert(t.ids && t.bos && !t.special);
    ck_assert_str_eq(t.text_file, "-");
    options_clear(OPTION_TOKENIZE, &t);
    ck_assert_msg(parse(OPTION_INSPECT, &i, "--model-path m"), "%s", e.message);
    options_clear(OPTION_INSPECT, &i);
}
END_TEST

START_TEST(bench_takes_its_lists_apart)
{
    struct bench_arguments a = {0};
    ck_assert_msg(parse(OPTION_BENCH, &a.said,
                        "m --contexts 64,0,64 --prompt none --batch 2 --policies full,sink,h2o:32 "
                        "--budgets 16,0.5 --kv-storage f16,q4 --max-seconds 1.5"),
                  "%s", e.message);
    ck_assert_msg(bench_arguments_read(&a, &e), "%s", e.message);
    ck_assert(a.n_contexts == 2 && a.contexts[0] == 0 && a.contexts[1] == 64);
    ck_assert(a.n_prompts == 0 && a.n_batches == 1 && a.n_storages == 2);
    ck_assert_uint_eq(a.n_cases, 4);
    ck_assert_str_eq(a.cases[1].name, "sink:16");
    ck_assert_str_eq(a.cases[2].name, "sink:0.5");
    ck_assert_str_eq(a.cases[3].name, "h2o:32");
    ck_assert_uint_eq(a.said.max_ms, 1500);
    ck_assert(bench_arguments_fit(&a, 512, &e) && !bench_arguments_fit(&a, 80, &e));
    bench_arguments_clear(&a);
    static const char *const bad[] = {
        "m --policies full,,sink", "m --kv-storage f17", "m --kv-storage f16,f16",
        "m --contexts 1.5",        "m --batch 0",        "m --budgets x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        a = (struct bench_arguments){0};
        ck_assert_msg(parse(OPTION_BENCH, &a.said, bad[i]) && !bench_arguments_read(&a, &e), "%s",
                      bad[i]);
        bench_arguments_clear(&a);
    }
}
END_TEST

START_TEST(wrong_command_lines_name_the_flag)
{
    static const struct {
        enum option_command command;
        const char *line, *piece;
    } bad[] = {{OPTION_RUN, "-p x", "the model file is missing: winnow run"},
               {OPTION_RUN, "m --port 1", "unknown flag --port"},
               {OPTION_RUN, "m --repeat-penlty 1", "did you mean --repeat-penalty"},
               {OPTION_RUN, "m --temp 3", "--temp: '3' is not a number from 0 to 2"},
               {OPTION_RUN, "m --temp nan", "--temp"},
               {OPTION_RUN, "m -n", "-n needs a value"},
               {OPTION_RUN, "m -nx", "-n: 'x' is not a whole number from -1"},
               {OPTION_RUN, "m --chat=1", "--chat takes no value"},
               {OPTION_RUN, "m --top-k 99999999999", "--top-k"},
               {OPTION_RUN, "m --kv-storage f17", "--kv-storage"},
               {OPTION_RUN, "m --kv-memory 1.5", "a share between 0 and 1"},
               {OPTION_EVAL, "m --seed -1", "--seed"},
               {OPTION_EVAL, "m --samples 0", "--samples"},
               {OPTION_BENCH, "m --repeats 101", "--repeats"},
               {OPTION_INSPECT, "a b", "'b' is a second model file"},
               {OPTION_COMPLETIONS, "bash", "one argument too many"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        union {
            struct run_arguments run;
            struct eval_arguments eval;
            struct bench_settings bench;
        } all;
        memset(&all, 0, sizeof all);
        ck_assert_msg(!parse(bad[i].command, &all, bad[i].line), "%s", bad[i].line);
        ck_assert_msg(strstr(e.message, bad[i].piece), "%s: %s", bad[i].line, e.message);
    }
}
END_TEST

/* What a command prints on stdout; malloc'ed. */
static char *printed(int (*command)(int, char **), const char *name, const char *argument)
{
    char *argv[] = {(char *)(uintptr_t)name, (char *)(uintptr_t)argument, NULL};
    FILE *file = tmpfile();
    int old = dup(STDOUT_FILENO);
    fflush(stdout);
    dup2(fileno(file), STDOUT_FILENO);
    int status = command(2, argv);
    fflush(stdout);
    dup2(old, STDOUT_FILENO);
    close(old);
    ck_assert_int_eq(status, 0);
    long length = ftell(file);
    char *text = calloc(1, (size_t)length + 1);
    rewind(file);
    ck_assert_uint_eq(fread(text, 1, (size_t)length, file), (size_t)length);
    fclose(file);
    return text;
}

static int (*const commands[])(int, char **) = {
    [OPTION_SERVE] = command_serve,       [OPTION_RUN] = command_run,
    [OPTION_BENCH] = command_bench,       [OPTION_CALIBRATE] = command_calibrate,
    [OPTION_EVAL] = command_eval,         [OPTION_INSPECT] = command_inspect,
    [OPTION_TOKENIZE] = command_tokenize, [OPTION_COMPLETIONS] = command_completions};

START_TEST(every_flag_is_in_the_help_the_completions_and_the_manual)
{
    static const char *const kinds[] = {"bash", "zsh", "fish", "man"};
    char *scripts[4];
    for (int k = 0; k < 4; k++)
        scripts[k] = printed(command_completions, "completions", kinds[k]);
    for (int c = 0; c < N_OPTION_COMMANDS; c++) {
        char *help = printed(commands[c], option_commands[c].name, "--help");
        for (unsigned i = 0; i < n_option_rows; i++) {
            const struct option_row *row = &option_rows[i];
            char piece[4][96], flag[64];
            if (!row->at[c] || !row->group)
                continue;
            snprintf(flag, sizeof flag, "  --%s ", row->name);
            ck_assert_msg(strstr(help, flag), "%s --help:%s", option_commands[c].name, flag);
            snprintf(piece[0], 96, "--%s ", row->name);
            snprintf(piece[1], 96, "'--%s%s[", row->name, row->value ? "=" : "");
            snprintf(piece[2], 96, "from %s' -l %s ", option_commands[c].name, row->name);
            snprintf(piece[3], 96, "\\-\\-");
            for (int k = 0; k < 4; k++)
                ck_assert_msg(strstr(scripts[k], piece[k]), "%s: %s", kinds[k], piece[k]);
        }
        free(help);
    }
    for (int k = 0; k < 4; k++)
        free(scripts[k]);
}
END_TEST

/* Two rows of one name are for different commands. */
START_TEST(a_command_has_each_name_once)
{
    for (int c = 0; c < N_OPTION_COMMANDS; c++)
        for (unsigned i = 0; i < n_option_rows; i++) {
            char flag[64];
            snprintf(flag, sizeof flag, "--%s", option_rows[i].name);
            if (option_rows[i].at[c])
                ck_assert_ptr_eq(option_find(c, flag), &option_rows[i]);
        }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("options");
    TCase *t = suite_case(s, "options", 60);
    tcase_add_test(t, run_takes_its_flags);
    tcase_add_test(t, a_value_may_look_like_a_flag);
    tcase_add_test(t, the_other_commands_take_theirs);
    tcase_add_test(t, bench_takes_its_lists_apart);
    tcase_add_test(t, wrong_command_lines_name_the_flag);
    tcase_add_test(t, every_flag_is_in_the_help_the_completions_and_the_manual);
    tcase_add_test(t, a_command_has_each_name_once);
    return suite_run(s);
}
