/* Failures on demand: the k-th allocation (or call of a file, or start of a thread) fails, for every
 * k, until an operation gets through without meeting one.
 *
 * The linker lets every call that the product makes of malloc and its like go through here (--wrap,
 * see FAULT_CALLS in the Makefile); jansson is given functions of its own. Calls inside of other
 * libraries are not met. Counters are atomic: threads of the product are met too. */
#ifndef WINNOW_TESTS_ALLOCATION_FAULTS_H
#define WINNOW_TESTS_ALLOCATION_FAULTS_H

#include <check.h>
#include <stddef.h>
#include <stdint.h>

#include "config/base/error.h"

enum fault_kind {
    FAULT_MEMORY, /* malloc, calloc, realloc, aligned_alloc, strdup, strndup, asprintf,
                     open_memstream, anonymous mmap */
    FAULT_JSON,   /* jansson's own allocations. Not for operations that read JSON text: when jansson
                     2.14 cannot grow its buffer in the midst of a string, it writes beyond it */
    FAULT_FILE,   /* open, fopen, fstat, mmap of a file, fread */
    FAULT_THREAD, /* pthread_create, pthread_mutex_init, pthread_cond_init */
    N_FAULT_KINDS
};

/* What is tried. True: it worked, and `context` says what came out; false: *e says why. Either way
 * everything that it allocated has been freed. Its own allocations are met as well: what a test
 * needs for itself comes from fault_free_malloc. */
typedef bool fault_operation(void *context, struct error *e);

/* Runs the operation with the 1st, 2nd, 3rd, ... call of the kind failing, once alone and once with
 * all calls after it, until a run meets no failure. Asserts that
 *   - a run without a failure works;
 *   - one with a failure works too, or returns false with one of the `codes` (separated by blanks);
 *   - after each run as many allocations are alive as before it.
 * Of more than `most` calls it tries the first `most`, then about as many spread over the rest; 0 =
 * all. Prints how many calls there were and how many runs got through in spite of a failure. */
void faults_in_every_call(const char *name, enum fault_kind kind, const char *codes,
                          fault_operation *operation, void *context, uint64_t most);

/* An assertion inside an operation: libcheck's own allocate, also when they hold. */
#define fault_require(holds, ...)                                                                  \
    do {                                                                                           \
        if (!(holds)) {                                                                            \
            bool fault_met;                                                                        \
            faults_end(&fault_met);                                                                \
            ck_abort_msg(__VA_ARGS__);                                                             \
        }                                                                                          \
    } while (0)

/* The same by hand: the nth call from now on fails (1 = the next), and with `all_behind` those
 * behind it. */
void faults_begin(enum fault_kind kind, uint64_t nth, bool all_behind);
/* Calls since faults_begin; *met tells whether one failed. */
uint64_t faults_end(bool *met);
/* Allocations that are alive. */
int64_t faults_living(void);

/* Never fails, is counted as alive, and may be freed by the product. */
void *fault_free_malloc(size_t n_bytes);

#endif
