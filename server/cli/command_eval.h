/* `winnow eval MODEL --text FILE`: quality against memory, for policies and budgets side by side.
 */
#ifndef WINNOW_SERVER_CLI_COMMAND_EVAL_H
#define WINNOW_SERVER_CLI_COMMAND_EVAL_H

int command_eval(int argc, char **argv); /* exit status */

#endif
