/* See allocation_faults.h. */
#include "tests/unit/allocation_faults.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

static atomic_int kind_now = N_FAULT_KINDS; /* N_FAULT_KINDS: nothing fails */
static atomic_uint_fast64_t n_calls, fails_at;
static atomic_bool fails_behind, has_met;
static atomic_int_fast64_t n_living;

static bool fails(enum fault_kind kind)
{
    if (atomic_load(&kind_now) != (int)kind)
        return false;
    uint64_t n = atomic_fetch_add(&n_calls, 1) + 1, at = atomic_load(&fails_at);
    bool failing = n == at || (n > at && atomic_load(&fails_behind));
    if (failing)
        atomic_store(&has_met, true);
    return failing;
}

static void *counted(void *p)
{
    if (p)
        atomic_fetch_add(&n_living, 1);
    return p;
}

/* The linker's names: a call of f becomes one of __wrap_f, and __real_f is f. */
#define WRAP(type, name, parameters)                                                               \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters

WRAP(void *, malloc, (size_t n))
{
    if (fails(FAULT_MEMORY)) {
        errno = ENOMEM;
        return NULL;
    }
    return counted(__real_malloc(n));
}

WRAP(void *, calloc, (size_t n, size_t size))
{
    if (fails(FAULT_MEMORY)) {
        errno = ENOMEM;
        return NULL;
    }
    return counted(__real_calloc(n, size));
}

WRAP(void *, aligned_alloc, (size_t alignment, size_t n))
{
    if (fails(FAULT_MEMORY)) {
        errno = ENOMEM;
        return NULL;
    }
    return counted(__real_aligned_alloc(alignment, n));
}

WRAP(void *, realloc, (void *p, size_t n))
{
    if (fails(FAULT_MEMORY)) {
        errno = ENOMEM;
        return NULL;
    }
    void *moved = __real_realloc(p, n);
    return p ? moved : counted(moved);
}

WRAP(void, free, (void *p))
{
    if (p)
        atomic_fetch_sub(&n_living, 1);
    __real_free(p);
}

WRAP(char *, strdup, (const char *text))
{
    return fails(FAULT_MEMORY) ? NULL : counted(__real_strdup(text));
}

WRAP(char *, strndup, (const char *text, size_t n))
{
    return fails(FAULT_MEMORY) ? NULL : counted(__real_strndup(text, n));
}

int __wrap_asprintf(char **out, const char *format, ...) __attribute__((format(printf, 2, 3)));
int __wrap_asprintf(char **out, const char *format, ...)
{
    if (fails(FAULT_MEMORY)) {
        *out = NULL;
        return -1;
    }
    va_list arguments;
    va_start(arguments, format);
    int n = vasprintf(out, format, arguments);
    va_end(arguments);
    if (n >= 0)
        counted(*out);
    return n;
}

/* The stream's buffer becomes the caller's when it closes it; it is counted from the start. */
WRAP(FILE *, open_memstream, (char **text, size_t *n))
{
    return fails(FAULT_MEMORY) ? NULL : counted(__real_open_memstream(text, n));
}

WRAP(void *, mmap64, (void *at, size_t n, int protection, int flags, int fd, off_t offset))
{
    if (fails(flags & MAP_ANONYMOUS ? FAULT_MEMORY : FAULT_FILE)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return __real_mmap64(at, n, protection, flags, fd, offset);
}

/* PCRE2 allocates inside its own library. */
#define WRAP_PCRE2(type, name, parameters, arguments)                                              \
    WRAP(type, name, parameters)                                                                   \
    {                                                                                              \
        return fails(FAULT_MEMORY) ? NULL : __real_##name arguments;                               \
    }
WRAP_PCRE2(void *, pcre2_match_data_create_8, (uint32_t n, void *general), (n, general))
WRAP_PCRE2(void *, pcre2_match_context_create_8, (void *general), (general))

/* ---- files: 64 in their names because of _FILE_OFFSET_BITS */

WRAP(int, open64, (const char *path, int flags, ...))
{
    if (fails(FAULT_FILE)) {
        errno = EMFILE;
        return -1;
    }
    return __real_open64(path, flags, 0600);
}

WRAP(FILE *, fopen64, (const char *path, const char *mode))
{
    if (fails(FAULT_FILE)) {
        errno = EMFILE;
        return NULL;
    }
    return __real_fopen64(path, mode);
}

WRAP(int, fstat64, (int fd, struct stat *out))
{
    if (fails(FAULT_FILE)) {
        errno = EIO;
        return -1;
    }
    return __real_fstat64(fd, out);
}

/* A reading that fails gives nothing and leaves the stream's error behind, as a bad disk does. */
WRAP(size_t, fread, (void *to, size_t size, size_t n, FILE *file))
{
    if (fails(FAULT_FILE)) {
        file->_flags |= _IO_ERR_SEEN;
        errno = EIO;
        return 0;
    }
    return __real_fread(to, size, n, file);
}

/* ---- threads */

WRAP(int, pthread_create,
     (pthread_t * thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument))
{
    return fails(FAULT_THREAD) ? EAGAIN : __real_pthread_create(thread, attributes, run, argument);
}

WRAP(int, pthread_mutex_init, (pthread_mutex_t * mutex, const pthread_mutexattr_t *attributes))
{
    return fails(FAULT_THREAD) ? ENOMEM : __real_pthread_mutex_init(mutex, attributes);
}

WRAP(int, pthread_cond_init, (pthread_cond_t * condition, const pthread_condattr_t *attributes))
{
    return fails(FAULT_THREAD) ? ENOMEM : __real_pthread_cond_init(condition, attributes);
}

/* ---- runs */

static void *json_take(size_t n)
{
    return fails(FAULT_JSON) ? NULL : counted(__real_malloc(n));
}

void faults_begin(enum fault_kind kind, uint64_t nth, bool all_behind)
{
    json_set_alloc_funcs(json_take, __wrap_free);
    atomic_store(&n_calls, 0);
    atomic_store(&fails_at, nth);
    atomic_store(&fails_behind, all_behind);
    atomic_store(&has_met, false);
    atomic_store(&kind_now, kind);
}

uint64_t faults_end(bool *met)
{
    atomic_store(&kind_now, N_FAULT_KINDS);
    *met = atomic_load(&has_met);
    return atomic_load(&n_calls);
}

int64_t faults_living(void)
{
    return atomic_load(&n_living);
}

void *fault_free_malloc(size_t n_bytes)
{
    void *p = counted(__real_malloc(n_bytes));
    if (!p)
        abort();
    return p;
}

static bool is_one_of(const char *codes, const char *code)
{
    size_t n = strlen(code);
    for (const char *at = codes; (at = strstr(at, code)) != NULL; at += n)
        if (n && (at == codes || at[-1] == ' ') && (at[n] == ' ' || !at[n]))
            return true;
    return false;
}

void faults_in_every_call(const char *name, enum fault_kind kind, const char *codes,
                          fault_operation *operation, void *context, uint64_t most)
{
    uint64_t n_runs = 0, n_through = 0;
    bool met;
    struct error e = {.code = ""};
    faults_begin(kind, UINT64_MAX, false);
    bool worked = operation(context, &e);
    uint64_t n_made = faults_end(&met);
    ck_assert_msg(worked, "%s fails without a failure: %s: %s", name, e.code, e.message);
    uint64_t stride = most && n_made > 2 * most ? (n_made - most) / most : 1;
    for (int behind = 0; behind < 2; behind++) {
        met = true;
        for (uint64_t nth = 1; met; nth += nth >= most ? stride : 1) {
            int64_t before = faults_living();
            e = (struct error){.code = ""};
            faults_begin(kind, nth, behind);
            worked = operation(context, &e);
            faults_end(&met);
            ck_assert_msg(
                worked || is_one_of(codes, e.code), "%s with call %llu failing%s gives \"%s\": %s",
                name, (unsigned long long)nth, behind ? " and all behind" : "", e.code, e.message);
            ck_assert_msg(faults_living() == before,
                          "%s with call %llu failing%s leaves %lld allocations (%s)", name,
                          (unsigned long long)nth, behind ? " and all behind" : "",
                          (long long)(faults_living() - before), worked ? "it worked" : e.message);
            n_runs++;
            n_through += worked && met;
        }
    }
    printf("%s: %llu calls, %llu runs, %llu of them got through\n", name,
           (unsigned long long)n_made, (unsigned long long)n_runs, (unsigned long long)n_through);
    fflush(stdout);
}
