/* See command_line.h. */
#include "server/cli/command_line.h"

#include <stdio.h>
#include <string.h>

void command_line_print_error(enum option_command command, const struct error *e)
{
    bool named = !e->where[0] || strstr(e->message, e->where);
    fprintf(stderr, "winnow %s: %s%s%s\n", option_commands[command].name, named ? "" : e->where,
            named ? "" : ": ", e->message);
}

int command_line_refuse(enum option_command command, const struct error *e)
{
    const struct option_command_row *c = &option_commands[command];
    command_line_print_error(command, e);
    fprintf(stderr, "usage: winnow %s %s; winnow %s --help lists the flags\n", c->name, c->usage,
            c->name);
    return 2;
}

bool command_line_parse(enum option_command command, void *settings, int argc, char **argv,
                        int *status)
{
    bool help;
    struct error e;
    *status = 0;
    if (!options_parse(command, settings, argc, argv, &help, &e)) {
        *status = command_line_refuse(command, &e);
        return false;
    }
    if (help)
        options_print_help(command);
    return !help;
}
