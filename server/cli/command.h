/* The commands of `winnow`. config/options.h has their names and options. Main thread. */
#ifndef WINNOW_SERVER_CLI_COMMAND_H
#define WINNOW_SERVER_CLI_COMMAND_H

/* argv[0] is the command's name. Each returns the exit status: 0; 1: something failed; 2: the
 * command line is wrong. */
int command_serve(int argc, char **argv);
int command_run(int argc, char **argv);
int command_bench(int argc, char **argv);
int command_calibrate(int argc, char **argv);
int command_eval(int argc, char **argv);
int command_inspect(int argc, char **argv);
int command_tokenize(int argc, char **argv);
int command_completions(int argc, char **argv);

#endif
