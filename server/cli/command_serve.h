/* `winnow serve MODEL [flags]`. Main thread. */
#ifndef WINNOW_SERVER_CLI_COMMAND_SERVE_H
#define WINNOW_SERVER_CLI_COMMAND_SERVE_H

/* argv[0] is "serve". Returns the exit status: 0 after a drain, 1 when something failed, 2 when a
 * setting is wrong. */
int command_serve(int argc, char **argv);

#endif
