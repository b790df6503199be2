/* The program's entry: picks the subcommand. */
#include <stdio.h>
#include <string.h>

#include "config/base/version.h"
#include "server/cli/command.h"
#include "server/cli/command_bench.h"
#include "server/cli/command_calibrate.h"
#include "server/cli/command_completions.h"
#include "server/cli/command_eval.h"
#include "server/cli/command_inspect.h"
#include "server/cli/command_run.h"
#include "server/cli/command_serve.h"
#include "server/cli/command_tokenize.h"

const struct command commands[] = {
    {"serve", command_serve, "answer the OpenAI API over HTTP"},
    {"run", command_run, "continue one prompt on the terminal"},
    {"bench", command_bench, "speed over contexts, batches and policies"},
    {"calibrate", command_calibrate, "find the retrieval heads of a model"},
    {"eval", command_eval, "quality against memory, policies side by side"},
    {"inspect", command_inspect, "show what is in a model file"},
    {"tokenize", command_tokenize, "show a text's tokens"},
    {"completions", command_completions, "print completions for a shell"},
};
const unsigned n_commands = sizeof commands / sizeof *commands;

static void usage(FILE *out)
{
    fprintf(out, "usage: winnow COMMAND MODEL.gguf [flags]\n\n");
    for (unsigned i = 0; i < n_commands; i++)
        fprintf(out, "  %-11s %s\n", commands[i].name, commands[i].help);
    fprintf(out, "\nwinnow COMMAND --help tells more. winnow --version prints the version.\n");
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        usage(stdout);
        return 0;
    }
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "version")) {
        printf("winnow %s (%s)\n", version_string(), version_commit());
        return 0;
    }
    for (unsigned i = 0; i < n_commands; i++)
        if (!strcmp(argv[1], commands[i].name))
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "winnow: there is no command '%.100s'\n\n", argv[1]);
    usage(stderr);
    return 2;
}
