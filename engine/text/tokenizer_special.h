/* Finds the texts of control and user-defined tokens in a text: a trie, leftmost longest match.
 * Private to engine/text/tokenizer*.c; read only once built. */
#ifndef WINNOW_ENGINE_TEXT_TOKENIZER_SPECIAL_H
#define WINNOW_ENGINE_TEXT_TOKENIZER_SPECIAL_H

#include "engine/text/tokenizer_vocab.h"

/* Longer tokens are not recognised; this bounds the work at every position of a text. */
#define SPECIAL_MAX_BYTES 256

struct special_node {
    uint32_t child, sibling; /* 0: none */
    int32_t token;           /* that ends here, or -1 */
    uint8_t byte;
};

struct special_trie {
    struct special_node *nodes;
    uint32_t count, capacity;
    uint32_t root[256]; /* first-level node by byte, 0: none */
};

/* Which bytes may be part of a control token. */
enum special_marks { SPECIAL_NONE, SPECIAL_ALL, SPECIAL_MASK };

bool special_build(struct special_trie *trie, const struct vocab *v); /* false: out of memory */
void special_free(struct special_trie *trie);

struct special_match {
    size_t start, length;
    int32_t token;
};

/* The first match at or after `from`; of those that start at the same byte the longest. `mask` (for
 * SPECIAL_MASK only) has one byte per byte of the text. */
bool special_find(const struct special_trie *trie, const struct vocab *v, const char *text,
                  size_t length, size_t from, enum special_marks marks, const uint8_t *mask,
                  struct special_match *out);

#endif
