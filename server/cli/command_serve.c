/* `winnow serve MODEL [flags]`: 0 after a drain. Main thread. */
#include <stdio.h>

#include "config/options.h"
#include "server/cli/command.h"
#include "server/server.h"

int command_serve(int argc, char **argv)
{
    struct config config;
    struct error e;
    bool help = false;
    if (!config_parse(&config, argc, argv, &help, &e)) {
        fprintf(stderr, "winnow: %s\n", e.message);
        return 2;
    }
    int status = 0;
    if (help)
        options_print_help(OPTION_SERVE);
    else
        status = server_run(&config);
    config_clear(&config);
    return status;
}
