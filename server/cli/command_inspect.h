/* `winnow inspect MODEL`: what is inside of a GGUF file. One thread, no engine. */
#ifndef WINNOW_SERVER_CLI_COMMAND_INSPECT_H
#define WINNOW_SERVER_CLI_COMMAND_INSPECT_H

/* argv[0] is "inspect". Returns the exit status: 0, 1 when the file is bad, 2 when the command line
 * is. */
int command_inspect(int argc, char **argv);

#endif
