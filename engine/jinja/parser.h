/* Tokens to syntax tree. Shared by the two halves of the parser: statements (parse_statement.c) and
 * expressions (parse_expression.c). */
#ifndef WINNOW_ENGINE_JINJA_PARSER_H
#define WINNOW_ENGINE_JINJA_PARSER_H

#include "engine/jinja/ast.h"
#include "engine/jinja/jinja.h"
#include "engine/jinja/lexer.h"
#include "engine/jinja/native.h"

struct parser {
    struct program *program;
    const struct token *tokens; /* ends with TOKEN_END */
    size_t at;
    unsigned nesting;
    unsigned loops; /* open for loops, for break and continue */
    struct error *error;
};

/* A growing array of nodes; `count` is what a node stores. */
struct node_list {
    struct node **items;
    uint32_t count, capacity;
};

/* -- parse_expression.c: all give NULL or false after filling the error -- */
struct node *parse_expression(struct parser *p);
struct node *parse_expression_no_choice(struct parser *p);
/* `a, b` makes a tuple, `a` alone is itself. */
struct node *parse_tuple(struct parser *p, bool with_choice);
/* The filters behind a bar: `| trim | upper`, applied to `input`. */
struct node *parse_filters(struct parser *p, struct node *input);
struct node *parse_filter_name(struct parser *p, struct node *input);
/* The left side of `=` or `in`: a name, a.b, or a tuple of them. */
struct node *parse_target(struct parser *p, bool with_attribute);

struct node *node_new(struct parser *p, enum node_kind kind, const struct token *at);
/* Sets the node's depth from its children; NULL when the tree is too deep. */
struct node *node_finish(struct parser *p, struct node *n);
bool node_list_add(struct parser *p, struct node_list *list, struct node *n);
bool parser_fail(struct parser *p, const char *message);
bool parser_enter(struct parser *p);
bool parser_name(struct parser *p, const struct token *t, uint32_t *name);

static inline const struct token *parser_now(const struct parser *p)
{
    return &p->tokens[p->at];
}
bool parser_is(const struct parser *p, unsigned op);
bool parser_is_word(const struct parser *p, const char *word);
bool parser_skip(struct parser *p, unsigned op);
bool parser_skip_word(struct parser *p, const char *word);
bool parser_expect(struct parser *p, unsigned op, const char *message);

/* -- parse_statement.c -- */
bool parse_program(struct program *program, const char *source, size_t length, struct error *e);
uint32_t program_find_name(const struct program *p, const char *bytes, size_t length);
enum { NO_NAME = UINT32_MAX };

#endif
