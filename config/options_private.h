/* The inside of the option parser: sources in rising order, and one value at a time. */
#ifndef WINNOW_CONFIG_OPTIONS_PRIVATE_H
#define WINNOW_CONFIG_OPTIONS_PRIVATE_H

#include "config/options.h"

enum { MAX_OPTION_ROWS = 160 };

enum option_level { LEVEL_DEFAULT, LEVEL_FILE, LEVEL_ENVIRONMENT, LEVEL_FLAG };

/* What is being filled. `seen` says from where a list has values, so that a higher source replaces
 * a lower one. */
struct option_parse {
    enum option_command command;
    void *settings;
    enum option_level level;
    enum option_level seen[MAX_OPTION_ROWS];
    const char *shown; /* as the user wrote it: "--port", "WINNOW_PORT", "config.json: port" */
    struct error *e;
};

bool option_taken(enum option_command command, const struct option_row *row);
void *option_field(enum option_command command, void *settings, const struct option_row *row);

/* option_set.c */
bool option_set(struct option_parse *p, const struct option_row *row, const char *text);
/* A new source replaces what a lower one put into a list; keys and key files share one list. */
void option_begin_list(struct option_parse *p, const struct option_row *row);
/* "PLACE: 'text' is not WANTED (help)". Returns false. */
bool option_refuse(const struct option_parse *p, const struct option_row *row, const char *text,
                   const char *wanted);
/* Reads a small text file whole; the caller frees it. */
char *option_read_file(const struct option_parse *p, const char *path, size_t *length);
void option_clear_keys(struct config *c);
void option_clear_list(struct string_list *list);

/* option_parse.c */
bool option_apply_defaults(struct option_parse *p);
/* With `early`, only --help and files: apply_file is called for each --config. */
bool option_apply_flags(struct option_parse *p, int argc, char **argv, bool *help,
                        bool (*apply_file)(struct option_parse *p, const char *path));

#endif
