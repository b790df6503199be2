/* How every command handles its command line. Main thread. */
#ifndef WINNOW_SERVER_CLI_COMMAND_LINE_H
#define WINNOW_SERVER_CLI_COMMAND_LINE_H

#include "config/options.h"

/* Fills `settings`, which is all zero. False: the help or an error was printed, and the command
 * returns *status. */
bool command_line_parse(enum option_command command, void *settings, int argc, char **argv,
                        int *status);

/* Prints an error, with its place unless the message names it. */
void command_line_print_error(enum option_command command, const struct error *e);
/* Prints an error and the usage. Returns the exit status of a wrong command line. */
int command_line_refuse(enum option_command command, const struct error *e);

#endif
