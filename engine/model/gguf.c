/* Opens, closes and searches a GGUF file: see gguf.h. gguf_read.c parses it. */
#include "engine/model/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/model/file_guard.h"
#include "engine/model/gguf_file.h"

/* ---- lookups */

/* Binary search in `order`: the index of `wanted` among n entries, n if it is absent. The names are
 * `stride` bytes apart, the first at `names`. */
static uint64_t search(const uint32_t *order, uint64_t n, const void *names, size_t stride,
                       struct source_text wanted)
{
    uint64_t low = 0, high = n;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        const void *name = (const char *)names + order[middle] * stride;
        int compared = gguf_text_compare(&wanted, name);
        if (compared == 0)
            return order[middle];
        if (compared < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return n;
}

const struct source_value *gguf_find(const struct gguf *g, const char *key)
{
    struct source_text wanted = {key, strlen(key)};
    uint64_t at =
        g->n_values && g->values_by_key
            ? search(g->values_by_key, g->n_values, &g->values->key, sizeof *g->values, wanted)
            : g->n_values;
    return at < g->n_values ? &g->values[at] : NULL;
}

static const char *spell(const void *file, const char *key, char out[SOURCE_KEY_BYTES])
{
    const struct gguf *g = file;
    if (key[0] != '.')
        return key;
    size_t length = g->architecture.length; /* no known architecture has a longer name */
    snprintf(out, SOURCE_KEY_BYTES, "%.*s%s", length < 64 ? (int)length : 64,
             length ? g->architecture.data : "", key);
    return out;
}

static const struct source_value *find(const void *file, const char *key)
{
    char spelt[SOURCE_KEY_BYTES];
    return gguf_find(file, spell(file, key, spelt));
}

static uint64_t n_keys(const void *file)
{
    return ((const struct gguf *)file)->n_values;
}

static const struct source_value *value_at(const void *file, uint64_t index)
{
    return &((const struct gguf *)file)->values[index];
}

static uint64_t n_tensors(const void *file)
{
    return ((const struct gguf *)file)->n_tensors;
}

static const struct source_tensor *tensor_at(const void *file, uint64_t index)
{
    return &((const struct gguf *)file)->tensors[index];
}

static uint64_t tensor_index(const void *file, const char *name)
{
    const struct gguf *g = file;
    struct source_text wanted = {name, strlen(name)};
    if (g->n_tensors == 0)
        return 0;
    return search(g->tensors_by_name, g->n_tensors, &g->tensors->name, sizeof *g->tensors, wanted);
}

static void describe(const void *file, char out[64])
{
    snprintf(out, 64, "GGUF version %u", ((const struct gguf *)file)->version);
}

static size_t n_bytes(const void *file)
{
    return ((const struct gguf *)file)->n_bytes;
}

/* ---- opening and closing */

static void close_gguf(void *file)
{
    struct gguf *g = file;
    for (uint64_t i = 0; i < g->n_values; i++)
        free((void *)(uintptr_t)g->values[i].texts);
    free(g->values);
    free(g->values_by_key);
    free(g->tensors);
    free(g->tensors_by_name);
    if (g->fd >= 0) {
        file_guard_remove(g->bytes);
        close(g->fd);
    }
    if (g->mapped)
        munmap((void *)(uintptr_t)g->bytes, g->n_bytes);
    free(g);
}

static bool unchanged(const void *file)
{
    const struct gguf *g = file;
    return g->fd < 0 || file_guard_unchanged(g->fd, &g->opened);
}

static const struct source_format format = {.describe = describe,
                                            .bytes = n_bytes,
                                            .spell = spell,
                                            .find = find,
                                            .n_keys = n_keys,
                                            .value_at = value_at,
                                            .n_tensors = n_tensors,
                                            .tensor_at = tensor_at,
                                            .tensor_index = tensor_index,
                                            .unchanged = unchanged,
                                            .close = close_gguf};

static struct model_source *finish_open(struct gguf *g, struct error *e)
{
    if (gguf_read(g, e))
        return source_new(&format, g, e);
    close_gguf(g);
    return NULL;
}

static struct gguf *new_gguf(struct error *e)
{
    struct gguf *g = calloc(1, sizeof *g);
    if (!g)
        error_set_memory(e, "a model file", sizeof *g);
    else
        g->fd = -1;
    return g;
}

struct model_source *gguf_open_memory(const void *bytes, size_t size, struct error *e)
{
    struct gguf *g = new_gguf(e);
    if (!g)
        return NULL;
    g->bytes = bytes;
    g->n_bytes = size;
    return finish_open(g, e);
}

/* Reads the whole file into memory of its own. */
static bool copy_file(int fd, uint8_t *to, size_t n_bytes, const char *path, struct error *e)
{
    for (size_t at = 0; at < n_bytes;) {
        ssize_t n = read(fd, to + at, n_bytes - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set(e, "file_error", path, "%s: cannot read the file: %s", path,
                             strerror(errno));
        if (n == 0)
            return error_set(e, "file_error", path,
                             "%s: the file ended at byte %zu of %zu while it was read", path, at,
                             n_bytes);
        at += (size_t)n;
    }
    return true;
}

/* Maps the file, or memory for a copy of it. */
static bool take_bytes(struct gguf *g, int fd, enum source_use use, const char *path,
                       struct error *e)
{
    bool copied = use == SOURCE_COPIED;
    void *map =
        copied ? mmap(NULL, g->n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
               : mmap(NULL, g->n_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
        return copied ? error_set_memory(e, path, g->n_bytes)
                      : error_set(e, "file_error", path, "%s: cannot map the file: %s", path,
                                  strerror(errno));
    g->bytes = map;
    g->mapped = true;
    if (copied)
        return copy_file(fd, map, g->n_bytes, path, e);
    g->fd = fd;
    file_guard_add(map, g->n_bytes, fd, &g->opened, path);
    return true;
}

static bool check_file(int fd, struct stat *status, const char *path, struct error *e)
{
    if (fstat(fd, status) || !S_ISREG(status->st_mode))
        return error_set(e, "file_error", path, "%s: not a regular file", path);
    return status->st_size >= 24 ||
           error_set(e, "invalid_model", path,
                     "%s: the file has %lld bytes; a GGUF header alone has 24", path,
                     (long long)status->st_size);
}

struct model_source *gguf_open(const char *path, enum source_use use, struct error *e)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        error_set(e, errno == ENOENT ? "file_not_found" : "file_error", path,
                  "%s: cannot open the file: %s", path, strerror(errno));
        return NULL;
    }
    struct gguf *g = check_file(fd, &status, path, e) ? new_gguf(e) : NULL;
    if (!g) {
        close(fd);
        return NULL;
    }
    g->n_bytes = (size_t)status.st_size;
    g->opened = status;
    bool ok = take_bytes(g, fd, use, path, e);
    if (g->fd < 0)
        close(fd);
    if (!ok) {
        close_gguf(g);
        return NULL;
    }
    struct model_source *source = finish_open(g, e);
    if (!source)
        source_name_in_error(path, e);
    return source;
}
