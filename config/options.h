/* The table of settings: one row each, from which the command line, the environment, the config
 * file and the help are made. Private to config/, and read by the tests that walk it. */
#ifndef WINNOW_CONFIG_OPTIONS_H
#define WINNOW_CONFIG_OPTIONS_H

#include <stddef.h>

#include "config/config.h"

enum option_kind {
    OPTION_TEXT,          /* char * */
    OPTION_CHOICE,        /* char *, one of `choices` */
    OPTION_NUMBER,        /* uint32_t in [min, max] */
    OPTION_SIZE,          /* uint64_t bytes in [min, max] */
    OPTION_SIZE_OR_SHARE, /* kv_memory_bytes or kv_memory_share */
    OPTION_SHARE,         /* double in (0, 1] */
    OPTION_SECONDS,       /* uint64_t ms */
    OPTION_SWITCH,        /* bool, true when given */
    OPTION_UNSWITCH,      /* bool, false when given */
    OPTION_LIST,          /* struct string_list, comma-separated and repeatable */
    OPTION_KEYS,          /* API keys, comma-separated and repeatable */
    OPTION_KEY_FILE,      /* a file of API keys, one a line */
    OPTION_LOG_FORMAT,
    OPTION_LOG_LEVEL,
    OPTION_COMPAT, /* comma list of vllm, vllm-legacy */
    OPTION_CONFIG_FILE,
    OPTION_IGNORED, /* accepted so that copied command lines work; takes no value */
    OPTION_WARNED,  /* accepted with a warning; takes a value */
    OPTION_REFUSED  /* known elsewhere, not here: `help` says why */
};

struct option_row {
    const char *group;
    const char *name;    /* without dashes: "kv-memory" */
    const char *aliases; /* space-separated: "--max-model-len -c" */
    enum option_kind kind;
    size_t offset; /* in struct config */
    uint64_t min, max;
    const char *initial; /* default as text, NULL = none */
    const char *value;   /* name of the value in the help, or the choices "a|b" */
    const char *help;
};

extern const struct option_row option_rows[];
extern const unsigned n_option_rows;

/* The row of a flag as written ("--port", "-m"), or NULL. */
const struct option_row *option_find(const char *flag);
/* The flag that is closest in spelling, or NULL when none is near. */
const char *option_nearest(const char *flag);

#endif
