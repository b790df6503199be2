/* The inside of the option parser. Main thread. */
#ifndef WINNOW_CONFIG_OPTIONS_PRIVATE_H
#define WINNOW_CONFIG_OPTIONS_PRIVATE_H

#include "config/options.h"

enum { MAX_OPTION_ROWS = 160 };

/* Where a value comes from, in rising order: a later one replaces an earlier one. */
enum option_level { LEVEL_DEFAULT, LEVEL_FILE, LEVEL_ENVIRONMENT, LEVEL_FLAG };

struct option_parse {
    enum option_command command;
    void *settings;
    enum option_level level;
    enum option_level seen[MAX_OPTION_ROWS]; /* of each row, where its value came from */
    const char *shown; /* what the user wrote: "--port", "WINNOW_PORT", "config.json: port" */
    struct error *e;
};

bool option_taken(enum option_command command, const struct option_row *row);
void *option_field(enum option_command command, void *settings, const struct option_row *row);

/* option_set.c */
bool option_set(struct option_parse *p, const struct option_row *row, const char *text);
/* Clears a list whose values come from an earlier source. Keys and key files share one list. */
void option_begin_list(struct option_parse *p, const struct option_row *row);
/* "PLACE: 'text' is not WANTED (help)". Returns false. */
bool option_refuse(const struct option_parse *p, const struct option_row *row, const char *text,
                   const char *wanted);
/* Reads a file of at most 1 MiB; the caller frees it. */
char *option_read_file(const struct option_parse *p, const char *path, size_t *length);
void option_clear_keys(struct config *c);
void option_clear_list(struct string_list *list);

/* option_parse.c */
bool option_apply_defaults(struct option_parse *p);
/* With `help`, only looks for --help and --config, and calls apply_file for each file. Without it,
 * sets the values. */
bool option_apply_flags(struct option_parse *p, int argc, char **argv, bool *help,
                        bool (*apply_file)(struct option_parse *p, const char *path));

#endif
