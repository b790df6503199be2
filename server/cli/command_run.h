/* `winnow run MODEL [-p PROMPT | -f FILE] ...`: one prompt on the terminal. The answer streams to
 * stdout, everything else goes to stderr. Main thread, over an engine of its own. */
#ifndef WINNOW_SERVER_CLI_COMMAND_RUN_H
#define WINNOW_SERVER_CLI_COMMAND_RUN_H

/* argv[0] is "run". Returns the exit status: 0, 1 when something failed, 2 when the command line is
 * wrong, 130 when Ctrl-C ended it. */
int command_run(int argc, char **argv);

#endif
