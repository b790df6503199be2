/* Small files, read whole. Any thread; blocks. */
#ifndef WINNOW_CONFIG_BASE_FILE_H
#define WINNOW_CONFIG_BASE_FILE_H

#include <stddef.h>

#include "config/base/error.h"

struct file_wanted {
    const char *path;  /* NULL: standard input */
    const char *what;  /* how the sentence of an error begins: "the head profile" */
    const char *where; /* of errors */
    /* Code of errors but of a failed allocation. NULL: "file_not_found" when there is none,
     * "invalid_value" when it is too long, else "file_error". */
    const char *code;
    size_t most; /* bytes; a longer file is refused */
};

/* The file's bytes, *length of them, and a NUL behind them; malloc'ed. NULL: see above; the message
 * says that `what` cannot be opened or read and why, or how long it may be. */
char *file_read(const struct file_wanted *w, size_t *length, struct error *e);

#endif
