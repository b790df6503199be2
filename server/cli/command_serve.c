/* The `serve` command: see command_serve.h. */
#include "server/cli/command_serve.h"

#include <stdio.h>

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
        config_help();
    else
        status = server_run(&config);
    config_clear(&config);
    return status;
}
