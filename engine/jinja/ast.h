/* The syntax tree of a template. There is one type of node, in the program's arena; nodes do not
 * change after parsing. */
#ifndef WINNOW_ENGINE_JINJA_AST_H
#define WINNOW_ENGINE_JINJA_AST_H

#include <stdint.h>

#include "engine/jinja/arena.h"
#include "engine/jinja/value.h"

enum node_kind {
    /* expressions */
    NODE_CONSTANT,  /* constant */
    NODE_NAME,      /* name */
    NODE_FILTERED,  /* the text of a filter block or block set */
    NODE_LIST,      /* items */
    NODE_TUPLE,     /* items */
    NODE_DICT,      /* items: key, value, key, value, ... */
    NODE_ATTRIBUTE, /* a . constant */
    NODE_ITEM,      /* a [ b ] */
    NODE_SLICE,     /* a [ items[0] : items[1] : items[2] ], each may be NULL */
    NODE_CALL,      /* a ( items, keywords ) */
    NODE_FILTER, /* a | native ( items, keywords ); constant is its name, native NULL if unknown */
    NODE_TEST,   /* a is native ( items, keywords ) */
    NODE_NOT,    /* not a */
    NODE_NEGATE, /* - a */
    NODE_POSITIVE, /* + a */
    NODE_AND,
    NODE_OR,
    NODE_BINARY,  /* a op b */
    NODE_COMPARE, /* a, then ops[i] items[i] ... */
    NODE_CHOICE,  /* a if b else c (may be NULL) */
    /* statements */
    NODE_BODY,         /* items */
    NODE_TEXT,         /* constant */
    NODE_OUTPUT,       /* a */
    NODE_IF,           /* items: condition, body, ...; c is the else body or NULL */
    NODE_FOR,          /* for a in b if c (may be NULL); items[0] body, items[1] else or NULL */
    NODE_SET,          /* a = b */
    NODE_SET_BLOCK,    /* a = captured body b through the filters c (may be NULL) */
    NODE_MACRO,        /* name; items: NODE_NAME with its default in a; b is the body */
    NODE_SCOPE,        /* b, with variables items: target, value, ... */
    NODE_FILTER_BLOCK, /* b through the filters c */
    NODE_DO,           /* a */
    NODE_BREAK,
    NODE_CONTINUE,
};

/* Operators are their one or two characters. */
#define OPERATOR(first, second) ((unsigned)(first) | (unsigned)(second) << 8)
enum {
    OPERATOR_IN = OPERATOR('i', 'n'),
    OPERATOR_NOT_IN = OPERATOR('n', 'i'),
};

struct keyword_node {
    struct text name;
    const struct node *value;
};

struct node {
    uint8_t kind;
    uint16_t op;
    uint16_t depth; /* of the tree below, counting this node */
    int32_t line;
    uint32_t name;
    uint32_t n_items, n_keywords;
    struct node *a, *b, *c;
    struct node **items;
    struct keyword_node *keywords;
    uint16_t *ops;
    const struct native *native;
    struct value constant;
};

/* A compiled template. Names are numbered so that scopes compare numbers. */
struct program {
    struct arena memory;
    struct node *body;
    struct text *names;
    uint32_t n_names, names_capacity;
    uint32_t *name_slots; /* hash table over names: number + 1, or 0; size is a power of two */
    uint32_t n_name_slots;
    uint32_t name_loop;
};

#endif
