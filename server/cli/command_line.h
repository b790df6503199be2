/* What the command lines of `winnow bench`, `calibrate`, `eval` and `run` have in common. Main
 * thread. */
#ifndef WINNOW_SERVER_CLI_COMMAND_LINE_H
#define WINNOW_SERVER_CLI_COMMAND_LINE_H

#include <stdbool.h>
#include <stdint.h>

#include "config/base/error.h"

/* An integer within [min, max]. False: "invalid_value" with the flag. */
bool flag_whole_number(const char *flag, const char *text, uint64_t min, uint64_t max,
                       uint64_t *out, struct error *e);

/* What stands behind the flags, from optind on: the model, unless a flag named it already, and
 * nothing else. With `help` anything goes. *model_path is borrowed from argv. False:
 * "invalid_value". */
bool command_line_model(int argc, char **argv, bool help, const char **model_path, struct error *e);

#endif
