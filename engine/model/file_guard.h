/* What happens when a model file is cut short, or its disk fails, while it is mapped. The processor
 * then reports SIGBUS at a read of a weight, and nothing can be computed any more. The guard says so
 * on stderr, with the file's name and whether the file has changed, and ends the program with
 * status 1. SIGBUS elsewhere keeps its meaning. */
#ifndef WINNOW_ENGINE_MODEL_FILE_GUARD_H
#define WINNOW_ENGINE_MODEL_FILE_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

/* Watches a mapping of [n_bytes] of the open file `fd`, whose state was `opened`. The first one
 * installs the handler. Mappings beyond 64 at once are not watched. Any thread. */
void file_guard_add(const void *bytes, size_t n_bytes, int fd, const struct stat *opened,
                    const char *path);
void file_guard_remove(const void *bytes);

/* Whether the size and the time of the last change are still those of `opened`. */
bool file_guard_unchanged(int fd, const struct stat *opened);

#endif
