/* Special tokens in a text: see tokenizer_special.h. */
#include "engine/text/tokenizer_special.h"

#include <stdlib.h>
#include <string.h>

/* A new node, or 0 when out of memory. Node 0 is never used. */
static uint32_t new_node(struct special_trie *trie, uint8_t byte)
{
    if (trie->count == trie->capacity) {
        uint32_t capacity = trie->capacity ? trie->capacity * 2 : 256;
        struct special_node *nodes = realloc(trie->nodes, capacity * sizeof *nodes);
        if (!nodes)
            return 0;
        trie->nodes = nodes;
        trie->capacity = capacity;
    }
    if (trie->count == 0)
        trie->nodes[trie->count++] = (struct special_node){0, 0, -1, 0};
    trie->nodes[trie->count] = (struct special_node){0, 0, -1, byte};
    return trie->count++;
}

static uint32_t child_of(const struct special_trie *trie, uint32_t node, uint8_t byte)
{
    uint32_t child = trie->nodes[node].child;
    while (child && trie->nodes[child].byte != byte)
        child = trie->nodes[child].sibling;
    return child;
}

static bool add(struct special_trie *trie, const uint8_t *text, size_t length, int32_t token)
{
    uint32_t node = trie->root[text[0]];
    if (!node) {
        node = trie->root[text[0]] = new_node(trie, text[0]);
        if (!node)
            return false;
    }
    for (size_t i = 1; i < length; i++) {
        uint32_t child = child_of(trie, node, text[i]);
        if (!child) {
            child = new_node(trie, text[i]);
            if (!child)
                return false;
            trie->nodes[child].sibling = trie->nodes[node].child;
            trie->nodes[node].child = child;
        }
        node = child;
    }
    if (trie->nodes[node].token < 0)
        trie->nodes[node].token = token;
    return true;
}

bool special_build(struct special_trie *trie, const struct vocab *v)
{
    for (int32_t i = 0; i < v->n; i++) {
        const struct vocab_token *token = &v->tokens[i];
        bool is_special = token->kind == TOKEN_CONTROL || token->kind == TOKEN_USER_DEFINED ||
                          token->kind == TOKEN_UNKNOWN;
        if (!is_special || token->text_bytes == 0 || token->text_bytes > SPECIAL_MAX_BYTES)
            continue;
        if (!add(trie, (const uint8_t *)v->blob + token->text, token->text_bytes, i))
            return false;
    }
    return true;
}

void special_free(struct special_trie *trie)
{
    free(trie->nodes);
    memset(trie, 0, sizeof *trie);
}

/* The longest special token that starts exactly at `start`. */
static bool match_at(const struct special_trie *trie, const struct vocab *v, const char *text,
                     size_t length, size_t start, enum special_marks marks, const uint8_t *mask,
                     struct special_match *out)
{
    bool found = false, marked = marks != SPECIAL_NONE;
    uint32_t node = trie->root[(uint8_t)text[start]];
    for (size_t i = start; node; node = child_of(trie, node, (uint8_t)text[i])) {
        marked = marked && (marks == SPECIAL_ALL || mask[i]);
        i++;
        int32_t token = trie->nodes[node].token;
        if (token >= 0 && (marked || v->tokens[token].kind == TOKEN_USER_DEFINED)) {
            *out = (struct special_match){start, i - start, token};
            found = true;
        }
        if (i == length)
            break;
    }
    return found;
}

bool special_find(const struct special_trie *trie, const struct vocab *v, const char *text,
                  size_t length, size_t from, enum special_marks marks, const uint8_t *mask,
                  struct special_match *out)
{
    if (trie->count == 0)
        return false;
    for (size_t i = from; i < length; i++)
        if (trie->root[(uint8_t)text[i]] && match_at(trie, v, text, length, i, marks, mask, out))
            return true;
    return false;
}
