/* `winnow completions bash|zsh|fish|man`: what shells and the manual page know of the flags. Main
 * thread. */
#ifndef WINNOW_SERVER_CLI_COMMAND_COMPLETIONS_H
#define WINNOW_SERVER_CLI_COMMAND_COMPLETIONS_H

/* argv[0] is "completions". Prints to stdout. Returns the exit status: 0, 1 when the output cannot
 * be written, 2 when the command line is wrong. */
int command_completions(int argc, char **argv);

#endif
