/* The subcommands of `winnow`: the table is main.c's; the completions read it too. Main thread. */
#ifndef WINNOW_SERVER_CLI_COMMAND_H
#define WINNOW_SERVER_CLI_COMMAND_H

struct command {
    const char *name;
    int (*run)(int argc, char **argv); /* argv[0] is the name; returns the exit status */
    const char *help;
};

extern const struct command commands[];
extern const unsigned n_commands;

#endif
