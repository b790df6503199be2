/* `winnow bench MODEL`: speed of prompts and decode steps over contexts, batches and cache
 * policies, held against what the machine can do. */
#ifndef WINNOW_SERVER_CLI_COMMAND_BENCH_H
#define WINNOW_SERVER_CLI_COMMAND_BENCH_H

int command_bench(int argc, char **argv); /* exit status */

#endif
