/* Errors as values. A function that can fail returns false (or NULL) and fills a `struct error` that
 * the caller owns.
 *
 *   code     for programs: a code of the HTTP contract, such as "invalid_value" or "invalid_model"
 *   message  for a person, one or two sentences: what was wrong, with the value, and what is right
 *   where    the place: a request field ("messages[3].role"), a file and offset, a flag; may be ""
 *
 * Messages never hold keys, other users' text or memory addresses. Any thread; no allocation. */
#ifndef WINNOW_CONFIG_BASE_ERROR_H
#define WINNOW_CONFIG_BASE_ERROR_H

#include <stdbool.h>
#include <stdint.h>

struct error {
    char code[48];
    char message[640];
    char where[160];
    /* Numbers that some codes carry to the client; 0 when unused. */
    int64_t n_prompt_tokens, n_ctx;                             /* context_length_exceeded */
    int64_t needed_pages, pool_pages, largest_budget_that_fits; /* kv_memory_exceeded */
    int64_t max_budget;                                         /* kv_budget_exceeds_limit */
    int64_t queue_length;                                       /* queue_full, queue_timeout */
    int64_t completion_tokens;                                  /* deadline_exceeded */
    int64_t retry_after_ms;                                     /* 429 and 503: for Retry-After */
};

/* Fills `e`, which may be NULL, and clears its numbers. Returns false, so that a failing function can
 * `return error_set(...)`. Text that does not fit is cut after a whole UTF-8 character. */
bool error_set(struct error *e, const char *code, const char *where, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The error of a failed allocation of `bytes` for `what`: code "out_of_memory". Returns false. */
bool error_set_memory(struct error *e, const char *what, uint64_t bytes);

#ifdef __clang_analyzer__
/* The analyzer (clang-tidy in `make lint`) reads one source file at a time. These macros tell it that
 * both functions return false; otherwise `return error_set(...)` looks like possible success. */
static inline bool error_is_false(bool set)
{
    (void)set;
    return false;
}
#define error_set(...)        error_is_false(error_set(__VA_ARGS__))
#define error_set_memory(...) error_is_false(error_set_memory(__VA_ARGS__))
#endif

/* How a message shows an offending value: at most 64 bytes of `text` as printable UTF-8, followed by
 * "..." when the text is longer. Writes to `out` and returns it. */
const char *error_excerpt(char out[80], const char *text, uint64_t length);

#endif
