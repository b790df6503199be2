/* The flags of one subcommand as a list, for the completions: those of `serve` from the table of
 * settings, those of the others from their own --help, so that no flag is written twice. Main
 * thread. */
#ifndef WINNOW_SERVER_CLI_FLAG_LIST_H
#define WINNOW_SERVER_CLI_FLAG_LIST_H

#include <stdbool.h>
#include <stddef.h>

#include "config/base/error.h"
#include "server/cli/command.h"

enum flag_value {
    FLAG_SWITCH, /* takes no value */
    FLAG_FILE,   /* a file or folder */
    FLAG_WORDS,  /* best one of `words`; others may be right too, as JSON is for --kv-policy */
    FLAG_ANY
};

struct flag {
    char name[48]; /* as written: "--port", "-p" */
    enum flag_value value;
    char shown[48];  /* the name of the value in the help, "" for a switch */
    char words[256]; /* separated by spaces */
    char help[320];
};

struct flag_list {
    struct flag *items;
    size_t count;
};

/* Fills *list, --help last. The caller frees it with flag_list_clear, also after false. */
bool flag_list_of(struct flag_list *list, const struct command *command, struct error *e);
void flag_list_clear(struct flag_list *list);

/* What `command --help` prints, as malloc'ed text, or NULL. */
char *command_help_text(const struct command *command, struct error *e);

#endif
