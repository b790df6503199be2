/* The entry of the program: runs a command. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "config/base/version.h"
#include "config/options.h"
#include "server/cli/command.h"

static int (*const commands[N_OPTION_COMMANDS])(int argc, char **argv) = {
    [OPTION_SERVE] = command_serve,       [OPTION_RUN] = command_run,
    [OPTION_BENCH] = command_bench,       [OPTION_CALIBRATE] = command_calibrate,
    [OPTION_EVAL] = command_eval,         [OPTION_INSPECT] = command_inspect,
    [OPTION_TOKENIZE] = command_tokenize, [OPTION_COMPLETIONS] = command_completions,
};

static void usage(FILE *out)
{
    fprintf(out, "usage: winnow COMMAND MODEL.gguf [flags]\n\n");
    for (int i = 0; i < N_OPTION_COMMANDS; i++)
        fprintf(out, "  %-11s %s\n", option_commands[i].name, option_commands[i].help);
    fprintf(out, "\nwinnow COMMAND --help lists its flags. winnow --version prints the version.\n");
}

/* The exit status, or 1 when the output did not arrive whole, for example because a disk is full. */
static int written(int status)
{
    errno = 0;
    if (!fflush(stdout) && !ferror(stdout))
        return status;
    fprintf(stderr, "winnow: the output could not be written%s%s\n", errno ? ": " : "",
            errno ? strerror(errno) : "");
    return 1;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        usage(stdout);
        return written(0);
    }
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "version")) {
        printf("winnow %s (%s)\n", version_string(), version_commit());
        return written(0);
    }
    for (int i = 0; i < N_OPTION_COMMANDS; i++)
        if (!strcmp(argv[1], option_commands[i].name))
            return written(commands[i](argc - 1, argv + 1));
    fprintf(stderr, "winnow: there is no command '%.100s'\n\n", argv[1]);
    usage(stderr);
    return 2;
}
