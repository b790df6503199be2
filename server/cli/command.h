/* The subcommands of `winnow` and what runs them; their names and options are in config/options.h.
 * Main thread. */
#ifndef WINNOW_SERVER_CLI_COMMAND_H
#define WINNOW_SERVER_CLI_COMMAND_H

/* argv[0] is the name; each returns the exit status: 0, 1 when something failed, 2 for a wrong
 * command line. */
int command_serve(int argc, char **argv);
int command_run(int argc, char **argv);
int command_bench(int argc, char **argv);
int command_calibrate(int argc, char **argv);
int command_eval(int argc, char **argv);
int command_inspect(int argc, char **argv);
int command_tokenize(int argc, char **argv);
int command_completions(int argc, char **argv);

#endif
