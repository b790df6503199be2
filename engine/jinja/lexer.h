/* Template source to tokens. */
#ifndef WINNOW_ENGINE_JINJA_LEXER_H
#define WINNOW_ENGINE_JINJA_LEXER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/base/error.h"
#include "engine/jinja/arena.h"

enum token_kind {
    TOKEN_TEXT,        /* bytes */
    TOKEN_OUTPUT_OPEN, /* {{ */
    TOKEN_OUTPUT_CLOSE,
    TOKEN_BLOCK_OPEN, /* {% */
    TOKEN_BLOCK_CLOSE,
    TOKEN_NAME,     /* bytes */
    TOKEN_STRING,   /* bytes, escapes decoded */
    TOKEN_INTEGER,  /* integer */
    TOKEN_FLOAT,    /* number */
    TOKEN_OPERATOR, /* op, as OPERATOR() of ast.h */
    TOKEN_END,
};

struct token {
    uint8_t kind;
    uint16_t op;
    int32_t line, column;
    const char *bytes; /* in the source or the arena */
    size_t length;
    union {
        int64_t integer;
        double number;
    };
};

/* `source` has "\n" line ends and must outlive the tokens. NULL with "template_error". */
struct token *lexer_run(struct arena *memory, const char *source, size_t length, size_t *n_tokens,
                        struct error *e);

/* How compile-time errors look: code "template_error", where "line L, column C". Returns false. */
bool template_syntax_error(struct error *e, int32_t line, int32_t column, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
