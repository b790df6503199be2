/* Reads small files whole. Any thread; blocks. */
#ifndef WINNOW_CONFIG_BASE_FILE_H
#define WINNOW_CONFIG_BASE_FILE_H

#include <stddef.h>

#include "config/base/error.h"

struct file_wanted {
    const char *path;  /* NULL: standard input */
    const char *what;  /* the subject of an error's sentence: "the head profile" */
    const char *where; /* of the error */
    /* The error's code, except for "out_of_memory". NULL: "file_not_found" when the file does not
     * exist, "invalid_value" when it is too long, "file_error" otherwise. */
    const char *code;
    size_t most; /* bytes; a longer file is refused */
};

/* Returns the file's *length bytes and a NUL after them; the caller frees them. NULL: the error says
 * why `what` cannot be opened or read, or how long it may be. */
char *file_read(const struct file_wanted *w, size_t *length, struct error *e);

#endif
