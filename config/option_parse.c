/* Parses command lines with the table: see options.h. Main thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/options_private.h"

bool option_taken(enum option_command command, const struct option_row *row)
{
    return row->at[command] > 0;
}

void *option_field(enum option_command command, void *settings, const struct option_row *row)
{
    return (char *)settings + row->at[command] - 1;
}

bool option_takes_value(const struct option_row *row)
{
    return row->kind != OPTION_SWITCH && row->kind != OPTION_UNSWITCH &&
           row->kind != OPTION_IGNORED;
}

bool option_apply_defaults(struct option_parse *p)
{
    p->level = LEVEL_DEFAULT;
    for (unsigned i = 0; i < n_option_rows; i++) {
        const struct option_row *row = &option_rows[i];
        if (!option_taken(p->command, row))
            continue;
        p->shown = row->name;
        if (row->kind == OPTION_UNSWITCH)
            *(bool *)option_field(p->command, p->settings, row) = true;
        else if (row->initial && !option_set(p, row, row->initial))
            return false;
    }
    return true;
}

/* The value of argument *i: attached to it, or the next argument. NULL with an error: it has none, or
 * has one and takes none. */
static const char *value_of(struct option_parse *p, const struct option_row *row,
                            const char *attached, int argc, char **argv, int *i)
{
    if (!option_takes_value(row)) {
        if (!attached)
            return "";
        error_set(p->e, "invalid_value", p->shown, "%s takes no value", p->shown);
        return NULL;
    }
    if (attached)
        return attached;
    if (*i + 1 < argc)
        return argv[++*i];
    error_set(p->e, "invalid_value", p->shown, "%s needs a value: %s", p->shown, row->help);
    return NULL;
}

/* The row of an argument. *attached is the value in "--port=80" and "-n5", else NULL. */
static const struct option_row *row_of(const struct option_parse *p, const char *argument,
                                       char flag[64], const char **attached)
{
    const char *equals = !strncmp(argument, "--", 2) ? strchr(argument, '=') : NULL;
    int length = equals ? (int)(equals - argument) : (int)strlen(argument);
    snprintf(flag, 64, "%.*s", length, argument);
    *attached = equals ? equals + 1 : NULL;
    const struct option_row *row = option_find(p->command, flag);
    if (row || !strncmp(argument, "--", 2) || !argument[1] || !argument[2])
        return row;
    char name[3] = {argument[0], argument[1], 0};
    row = option_find(p->command, name);
    if (!row || !option_takes_value(row))
        return NULL;
    memcpy(flag, name, sizeof name);
    *attached = argument + 2;
    return row;
}

static bool unknown(const struct option_parse *p, const char *flag)
{
    const char *near = option_nearest(p->command, flag);
    return error_set(p->e, "unknown_parameter", flag, "unknown flag %s%s%s; see winnow %s --help",
                     flag, near ? "; did you mean --" : "", near ? near : "",
                     option_commands[p->command].name);
}

static bool take_model(struct option_parse *p, const char *path)
{
    const struct option_row *row = option_find(p->command, "--model");
    p->shown = "MODEL";
    if (!row)
        return error_set(p->e, "invalid_value", "", "'%.100s' is one argument too many", path);
    if (p->seen[row - option_rows] == LEVEL_FLAG)
        return error_set(p->e, "invalid_value", "MODEL",
                         "'%.100s' is a second model file; only one can be given", path);
    return option_set(p, row, path);
}

bool option_apply_flags(struct option_parse *p, int argc, char **argv, bool *help,
                        bool (*apply_file)(struct option_parse *p, const char *path))
{
    bool early = help != NULL, plain_only = false;
    for (int i = 1; i < argc; i++) {
        char flag[64];
        const char *attached, *value;
        p->level = LEVEL_FLAG;
        p->shown = flag;
        if (plain_only || argv[i][0] != '-' || !argv[i][1]) {
            if (!early && !take_model(p, argv[i]))
                return false;
            continue;
        }
        if (!strcmp(argv[i], "--")) {
            plain_only = true;
            continue;
        }
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            if (early)
                *help = true;
            continue;
        }
        const struct option_row *row = row_of(p, argv[i], flag, &attached);
        if (!row)
            return unknown(p, flag);
        if (!(value = value_of(p, row, attached, argc, argv, &i)))
            return false;
        bool ok = !early                            ? option_set(p, row, value)
                  : row->kind == OPTION_CONFIG_FILE ? apply_file(p, value)
                                                    : true;
        if (!ok)
            return false;
    }
    return true;
}

bool options_parse(enum option_command command, void *settings, int argc, char **argv, bool *help,
                   struct error *e)
{
    struct option_parse p = {.command = command, .settings = settings, .e = e};
    *help = false;
    if (option_apply_flags(&p, argc, argv, help, NULL) &&
        (*help || (option_apply_defaults(&p) && option_apply_flags(&p, argc, argv, NULL, NULL)))) {
        const struct option_row *model = option_find(command, "--model");
        if (*help || !model || *(char **)option_field(command, settings, model))
            return true;
        error_set(e, "missing_required_parameter", "MODEL",
                  "the model file is missing: winnow %s MODEL.gguf", option_commands[command].name);
    }
    options_clear(command, settings);
    return false;
}

void options_clear(enum option_command command, void *settings)
{
    for (unsigned i = 0; i < n_option_rows; i++) {
        const struct option_row *row = &option_rows[i];
        if (!option_taken(command, row))
            continue;
        void *field = option_field(command, settings, row);
        if (row->kind == OPTION_TEXT || row->kind == OPTION_CHOICE || row->kind == OPTION_KEY) {
            free(*(char **)field);
            *(char **)field = NULL;
        } else if (row->kind == OPTION_LIST) {
            option_clear_list(field);
        } else if (row->kind == OPTION_KEYS) {
            option_clear_keys(settings);
        }
    }
}

bool options_numbers(const char *flag, const char *text, double min, double max, uint32_t most,
                     double *out, uint32_t *n, struct error *e)
{
    char shown[80];
    for (*n = 0; *n < most;) {
        char *end;
        double x = strtod(text, &end);
        if (end == text || (*end && *end != ',') || !(x >= min && x <= max))
            return error_set(e, "invalid_value", flag,
                             "\"%s\" does not begin with a number from %g to %g",
                             error_excerpt(shown, text, strlen(text)), min, max);
        out[(*n)++] = x;
        if (!*end)
            return true;
        text = end + 1;
    }
    return error_set(e, "invalid_value", flag, "more than %u values", most);
}

static void print_row(const struct option_row *row)
{
    char left[128];
    snprintf(left, sizeof left, "--%s%s%s", row->name, row->value ? " " : "",
             row->value ? row->value : "");
    printf("  %-38s %s", left, row->help);
    if (row->initial && row->initial[0] && strcmp(row->initial, "0"))
        printf(" [%s]", row->initial);
    if (row->aliases[0])
        printf(" (also %s)", row->aliases);
    printf("\n");
}

void options_print_help(enum option_command command)
{
    const struct option_command_row *c = &option_commands[command];
    const char *group = "";
    printf("usage: winnow %s %s\n\n%s", c->name, c->usage, c->about);
    for (unsigned i = 0; i < n_option_rows; i++) {
        const struct option_row *row = &option_rows[i];
        if (!row->group || !option_taken(command, row))
            continue;
        if (strcmp(group, row->group))
            printf("\n%s\n", row->group);
        group = row->group;
        print_row(row);
    }
}
