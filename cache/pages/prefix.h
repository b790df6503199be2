/* Prompts that were computed before: an index of full pages by the hash of the tokens that made
 * them. One block is PAGE_SLOTS consecutive tokens of a chain, its pages those of every (layer, KV
 * head); its name is SHA-256(name of the block before, its tokens). The first block's predecessor
 * is a secret of whoever may share (API key, cache_salt), so nobody else can find it.
 *
 *   root(secret) -> block 0..31 -> block 32..63 -> ...      each holds one reference on its pages
 *
 * Only pages that were computed with everything before them in sight are listed, so using them
 * changes no bit of an answer. They are given up, least recently used first, when memory is needed.
 * Engine thread. */
#ifndef WINNOW_CACHE_PAGES_PREFIX_H
#define WINNOW_CACHE_PAGES_PREFIX_H

#include "cache/pages/cache.h"

struct prefix_name {
    uint8_t bytes[32];
};

/* The name before the first token: of a secret of n bytes. */
struct prefix_name prefix_root(const void *secret, size_t n);

/* How many leading tokens of a prompt of n_prompt a sequence of this plan may take over: the
 * scorer must see its queries, and a stream must not have dropped anything yet. At least one
 * token is always left to compute. */
uint32_t prefix_usable(const struct plan *plan, uint32_t n_prompt);

/* Whether a sequence in the middle of a prompt holds and remembers the same under both plans, so
 * that cache_sequence_fork_under can go on from one under the other. The plans differ at most in
 * how much stays when the prompt ends. For plans to which prefix_usable gives little: scorers
 * that every query adds to, and streams. */
bool prefix_is_read_alike(const struct plan *a, const struct plan *b);

/* Tokens of the prompt, a multiple of PAGE_SLOTS and at most `most`, that the index knows. */
uint32_t prefix_match(struct cache *c, const struct prefix_name *root, const int32_t *tokens,
                      uint32_t most);
/* Gives a sequence that has seen nothing the first n of them (n from prefix_match, same step).
 * False: "out_of_memory", nothing changed. */
bool prefix_adopt(struct cache_sequence *s, const struct prefix_name *root, const int32_t *tokens,
                  uint32_t n, struct error *e);
/* Lists the full pages of a sequence up to n_tokens of the chain `tokens`, as long as nothing
 * was dropped before them. `*name` and `*done` carry the chain from call to call (root and 0 at
 * first). Lists less when memory is short. Returns the tokens newly listed. */
uint32_t prefix_list(struct cache_sequence *s, struct prefix_name *name, uint32_t *done,
                     const int32_t *tokens, uint32_t n_tokens);

/* Gives up blocks that nobody uses until `n_pages` more pages are free, or until no block would
 * free one. Returns how many became free. */
uint32_t prefix_give_up(struct cache *c, uint32_t n_pages);

#endif
