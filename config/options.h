/* The table of options. A row has an option's name, type, range, help and the commands that take it.
 * Command lines are parsed with it, and for `serve` the environment and the config file too. --help,
 * the shells' completions and the manual page are printed from it. Main thread. */
#ifndef WINNOW_CONFIG_OPTIONS_H
#define WINNOW_CONFIG_OPTIONS_H

#include <stddef.h>

#include "config/arguments.h"

enum option_command {
    OPTION_SERVE,       /* struct config */
    OPTION_RUN,         /* struct run_arguments */
    OPTION_BENCH,       /* struct bench_settings */
    OPTION_CALIBRATE,   /* struct calibrate_arguments */
    OPTION_EVAL,        /* struct eval_arguments */
    OPTION_INSPECT,     /* struct inspect_arguments */
    OPTION_TOKENIZE,    /* struct tokenize_arguments */
    OPTION_COMPLETIONS, /* takes none */
    N_OPTION_COMMANDS
};

/* Indexed by enum option_command. */
struct option_command_row {
    const char *name;
    const char *usage; /* what follows the name: "MODEL [flags]" */
    const char *help;  /* one line */
    const char *about; /* a paragraph for --help and the manual page; lines of at most 100 bytes */
};
extern const struct option_command_row option_commands[N_OPTION_COMMANDS];

enum option_kind {
    OPTION_TEXT,          /* char * */
    OPTION_CHOICE,        /* char *, one of `value` */
    OPTION_NUMBER,        /* uint32_t in [min, max] */
    OPTION_INTEGER,       /* int64_t in [min, max] */
    OPTION_REAL,          /* double in [min, max] */
    OPTION_SIZE,          /* uint64_t bytes in [min, max] */
    OPTION_SIZE_OR_SHARE, /* struct memory_size, bytes in [min, max] */
    OPTION_SHARE,         /* double in (0, 1] */
    OPTION_SECONDS,       /* uint64_t ms; 0, or at least `min` seconds */
    OPTION_SWITCH,        /* bool, true when given */
    OPTION_UNSWITCH,      /* bool, false when given */
    OPTION_LIST,          /* struct string_list, comma-separated and repeatable */
    /* only for serve */
    OPTION_KEYS,     /* API keys, comma-separated and repeatable; at least one */
    OPTION_KEY,      /* char *, one key */
    OPTION_KEY_FILE, /* a file of API keys, one a line */
    OPTION_LOG_FORMAT,
    OPTION_LOG_LEVEL,
    OPTION_COMPAT, /* vllm, vllm-legacy; comma-separated */
    OPTION_CONFIG_FILE,
    OPTION_IGNORED, /* accepted so that copied command lines work; takes no value */
    OPTION_WARNED,  /* accepted with a warning; takes a value */
    OPTION_REFUSED  /* a flag of other servers; `help` says what to do instead */
};

/* How the shells complete a value. */
enum option_words { WORDS_NONE, WORDS_CHOICES, WORDS_POLICIES, WORDS_STORAGES, WORDS_FILES };

struct option_row {
    const char *group;   /* heading in the help; NULL: accepted but not shown */
    const char *name;    /* without dashes: "kv-memory" */
    const char *aliases; /* space-separated: "--max-model-len -c" */
    enum option_kind kind;
    double min, max;
    const char *initial; /* default as text; NULL = none */
    const char *value;   /* the value's name in the help, or the choices "a|b"; NULL: a switch */
    const char *help;
    enum option_words words;
    uint16_t at[N_OPTION_COMMANDS]; /* 1 + offset in each command's struct; 0: not taken */
};

extern const struct option_row option_rows[];
extern const unsigned n_option_rows;

/* The row of a flag as written ("--port", "-m"), or NULL. */
const struct option_row *option_find(enum option_command command, const char *flag);
/* The flag nearest in spelling, without dashes; NULL when none is near. */
const char *option_nearest(enum option_command command, const char *flag);
/* Whether the flag needs a value. */
bool option_takes_value(const struct option_row *row);

/* Fills `settings`, which is all zero but for fields that no row gives a default, with defaults and the arguments; argv[0] is the command. The
 * argument without a dash is the model. *help is set when --help was given; then the settings are
 * incomplete. False: *e names the flag, and `settings` is cleared. */
bool options_parse(enum option_command command, void *settings, int argc, char **argv, bool *help,
                   struct error *e);
/* Frees strings and lists and sets them to zero. */
void options_clear(enum option_command command, void *settings);

/* Comma-separated numbers, each in [min, max], at most `most` of them. False: "invalid_value". */
bool options_numbers(const char *flag, const char *text, double min, double max, uint32_t most,
                     double *out, uint32_t *n, struct error *e);

/* --help to stdout. */
void options_print_help(enum option_command command);

#endif
