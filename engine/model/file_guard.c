/* See file_guard.h. The handler runs on the thread that touched the page; it calls nothing that a
 * signal handler may not call. */
#include "engine/model/file_guard.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MOST_FILES = 64 };

struct guarded {
    _Atomic(const uint8_t *) bytes; /* NULL: free. Set last and cleared first. */
    size_t n_bytes;
    int fd;
    struct stat opened;
    char path[512];
};

static struct guarded files[MOST_FILES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct sigaction previous;

bool file_guard_unchanged(int fd, const struct stat *opened)
{
    struct stat now;
    if (fstat(fd, &now))
        return true; /* nothing is known */
    return now.st_size == opened->st_size && now.st_mtim.tv_sec == opened->st_mtim.tv_sec &&
           now.st_mtim.tv_nsec == opened->st_mtim.tv_nsec;
}

/* One write, so that the sentence is one line of a log. */
static void say(const char *path, const char *what)
{
    static const char start[] = "winnow: the model file ";
    char line[sizeof start + sizeof files[0].path + 256];
    size_t n = 0;
    const char *const parts[] = {start, path, what};
    for (int i = 0; i < 3; i++) {
        size_t length = strlen(parts[i]);
        length = length < sizeof line - n ? length : sizeof line - n;
        memcpy(line + n, parts[i], length);
        n += length;
    }
    (void)!write(STDERR_FILENO, line, n);
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    const uint8_t *at = info->si_addr;
    (void)context;
    for (int i = 0; i < MOST_FILES; i++) {
        const struct guarded *g = &files[i];
        const uint8_t *bytes = atomic_load(&g->bytes);
        if (!bytes || at < bytes || at >= bytes + g->n_bytes)
            continue;
        say(g->path,
            file_guard_unchanged(g->fd, &g->opened)
                ? " cannot be read any more: its disk or network mount failed.\n"
                : " was cut short or overwritten while it was in use. Write a new model beside it "
                  "and rename it, or use --no-mmap.\n");
        _exit(1);
    }
    /* Not ours: the instruction runs again and meets what was there before. */
    sigaction(number, &previous, NULL);
}

static void install(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &previous);
}

void file_guard_add(const void *bytes, size_t n_bytes, int fd, const struct stat *opened,
                    const char *path)
{
    pthread_once(&once, install);
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST_FILES; i++) {
        struct guarded *g = &files[i];
        if (atomic_load(&g->bytes))
            continue;
        g->n_bytes = n_bytes;
        g->fd = fd;
        g->opened = *opened;
        snprintf(g->path, sizeof g->path, "%s", path);
        atomic_store(&g->bytes, bytes);
        break;
    }
    pthread_mutex_unlock(&lock);
}

void file_guard_remove(const void *bytes)
{
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST_FILES; i++)
        if (atomic_load(&files[i].bytes) == bytes)
            atomic_store(&files[i].bytes, NULL);
    pthread_mutex_unlock(&lock);
}
