/* The index of computed prompts: see prefix.h. A hash table of blocks, chained by bucket, and a
 * list by age. */
#include "cache/pages/prefix.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "cache/pages/sequence_tables.h"
#include "config/base/sha256.h"

struct prefix_block {
    struct prefix_name name;
    struct prefix_block *next_in_bucket;
    TAILQ_ENTRY(prefix_block) by_age;
    uint32_t pages[]; /* [n_layers][n_kv_heads] */
};

/* ---- names */

struct prefix_name prefix_root(const void *secret, size_t n)
{
    struct prefix_name name = {{0}};
    struct sha256 hash;
    sha256_init(&hash);
    sha256_add(&hash, "winnow prefix", 13);
    sha256_add(&hash, secret, n);
    sha256_finish(&hash, name.bytes);
    return name;
}

static struct prefix_name next_name(const struct prefix_name *before, const int32_t *tokens)
{
    struct prefix_name name = {{0}};
    struct sha256 hash;
    sha256_init(&hash);
    sha256_add(&hash, before->bytes, sizeof before->bytes);
    sha256_add(&hash, tokens, PAGE_SLOTS * sizeof *tokens);
    sha256_finish(&hash, name.bytes);
    return name;
}

/* ---- table */

static struct prefix_block **bucket_of(const struct prefix_index *x, const struct prefix_name *name)
{
    uint64_t h;
    memcpy(&h, name->bytes, sizeof h);
    return &x->buckets[h & (x->n_buckets - 1)];
}

static struct prefix_block *find(const struct prefix_index *x, const struct prefix_name *name)
{
    struct prefix_block *b = x->n_buckets ? *bucket_of(x, name) : NULL;
    while (b && memcmp(b->name.bytes, name->bytes, sizeof name->bytes) != 0)
        b = b->next_in_bucket;
    return b;
}

/* Twice the buckets, when blocks outnumber them. */
static bool grow(struct prefix_index *x)
{
    uint32_t n = x->n_buckets ? x->n_buckets * 2 : 256;
    struct prefix_block **old = x->buckets, **buckets = calloc(n, sizeof(struct prefix_block *));
    uint32_t n_old = x->n_buckets;
    if (!buckets)
        return x->n_buckets > 0;
    x->buckets = buckets;
    x->n_buckets = n;
    for (uint32_t i = 0; i < n_old; i++)
        for (struct prefix_block *b = old[i], *next; b; b = next) {
            next = b->next_in_bucket;
            struct prefix_block **at = bucket_of(x, &b->name);
            b->next_in_bucket = *at;
            *at = b;
        }
    free(old);
    return true;
}

static void drop_block(struct cache *c, struct prefix_block *b)
{
    struct prefix_index *x = &c->prefixes;
    struct prefix_block **at = bucket_of(x, &b->name);
    while (*at != b)
        at = &(*at)->next_in_bucket;
    *at = b->next_in_bucket;
    TAILQ_REMOVE(&x->by_age, b, by_age);
    x->n_blocks--;
    for (uint32_t h = 0; h < cache_n_heads(c); h++)
        pool_unlist(&c->pool, b->pages[h]);
    free(b);
}

static bool is_used_by_all_heads(const struct cache *c, const struct prefix_block *b)
{
    for (uint32_t h = 0; h < cache_n_heads(c); h++)
        if (c->pool.refs[b->pages[h]] == 1)
            return false;
    return true;
}

uint32_t prefix_give_up(struct cache *c, uint32_t n_pages)
{
    uint32_t before = c->pool.n_free;
    struct prefix_block *b = TAILQ_LAST(&c->prefixes.by_age, prefix_blocks), *newer;
    for (; b && c->pool.n_idle > 0 && c->pool.n_free - before < n_pages; b = newer) {
        newer = TAILQ_PREV(b, prefix_blocks, by_age);
        if (!is_used_by_all_heads(c, b)) /* else it would free nothing */
            drop_block(c, b);
    }
    return c->pool.n_free - before;
}

void prefix_clear(struct cache *c)
{
    struct prefix_block *b;
    while ((b = TAILQ_LAST(&c->prefixes.by_age, prefix_blocks)))
        drop_block(c, b);
    free(c->prefixes.buckets);
    c->prefixes.buckets = NULL;
    c->prefixes.n_buckets = 0;
}

/* ---- use */

uint32_t prefix_usable(const struct plan *p, uint32_t n_prompt)
{
    uint32_t most = n_prompt > 0 ? n_prompt - 1 : 0, voters = scorer_voters(p);
    if (!plan_evicts(p))
        return most;
    if (p->prefill == PREFILL_STREAM) {
        uint32_t held = budget_even(p);
        return most < held ? most : held;
    }
    /* The voters must be computed, and one token in any case. */
    voters = voters > 0 ? voters : 1;
    return n_prompt > voters ? n_prompt - voters : 0;
}

bool prefix_is_read_alike(const struct plan *a, const struct plan *b)
{
    if (a->prefill != b->prefill || a->scorer != b->scorer || a->allocation != b->allocation ||
        a->sparsity != b->sparsity || a->positions != b->positions || a->storage != b->storage)
        return false;
    if (a->prefill == PREFILL_STREAM)
        return a->sinks == b->sinks && a->recent == b->recent && a->budget == b->budget &&
               a->other_budget == b->other_budget;
    /* Other scorers begin at a distance from the end of the prompt, which differs. */
    return plan_evicts(a) && plan_evicts(b) && scorer_of(a)->voters == SCORER_VOTERS_ALL;
}

/* Finds the blocks of a chain. They become the newest from last to first, so that a child is
 * given up before its parent. */
static uint32_t walk(struct cache *c, const struct prefix_name *root, const int32_t *tokens,
                     uint32_t n, struct prefix_block **blocks)
{
    struct prefix_name name = *root;
    uint32_t n_blocks = 0;
    for (; (n_blocks + 1) * PAGE_SLOTS <= n; n_blocks++) {
        name = next_name(&name, tokens + (size_t)n_blocks * PAGE_SLOTS);
        struct prefix_block *b = find(&c->prefixes, &name);
        if (!b)
            break;
        blocks[n_blocks] = b;
    }
    for (uint32_t i = n_blocks; i > 0; i--) {
        TAILQ_REMOVE(&c->prefixes.by_age, blocks[i - 1], by_age);
        TAILQ_INSERT_HEAD(&c->prefixes.by_age, blocks[i - 1], by_age);
    }
    return n_blocks;
}

uint32_t prefix_match(struct cache *c, const struct prefix_name *root, const int32_t *tokens,
                      uint32_t most)
{
    struct prefix_block **blocks = malloc((most / PAGE_SLOTS + 1) * sizeof *blocks);
    uint32_t n = blocks ? walk(c, root, tokens, most, blocks) : 0;
    free(blocks);
    return n * PAGE_SLOTS;
}

bool prefix_adopt(struct cache_sequence *s, const struct prefix_name *root, const int32_t *tokens,
                  uint32_t n, struct error *e)
{
    struct cache *c = s->cache;
    uint32_t n_blocks = n / PAGE_SLOTS;
    struct prefix_block **blocks = malloc((n_blocks + 1) * sizeof *blocks);
    assert(s->n_tokens == 0);
    bool room = blocks && walk(c, root, tokens, n, blocks) == n_blocks;
    for (uint32_t h = 0; h < cache_n_heads(c) && room; h++)
        room = heads_reserve(s, h, n_blocks);
    if (!room) {
        free(blocks);
        return error_set_memory(e, "page tables", (uint64_t)n_blocks * sizeof(uint32_t));
    }
    for (uint32_t h = 0; h < cache_n_heads(c); h++) {
        struct head_slots *head = &s->slots[h];
        for (uint32_t i = 0; i < n_blocks; i++) {
            head_set_page(s, h, i, blocks[i]->pages[h]);
            pool_share(&c->pool, blocks[i]->pages[h]);
        }
        head->n_pages = head->own_from = n_blocks;
        head->n_slots = n_blocks * PAGE_SLOTS;
        heads_forget(s, h);
    }
    s->room = 0;
    free(blocks);
    s->n_pages += n_blocks * cache_n_heads(c);
    s->n_pages_peak = s->n_pages > s->n_pages_peak ? s->n_pages : s->n_pages_peak;
    s->n_tokens = n_blocks * PAGE_SLOTS;
    return true;
}

/* Whether the block that ends at token n is as a full prefill computes it: with everything
 * before it in sight, nothing dropped, and no newer token of a ring in its slots. */
static bool is_pristine(const struct cache_sequence *s, uint32_t n)
{
    const struct plan *p = s->plan;
    if (s->compressed)
        return false;
    if (p->prefill != PREFILL_STREAM)
        return true;
    uint32_t held = budget_even(p), oldest = n - PAGE_SLOTS > p->sinks ? n - PAGE_SLOTS : p->sinks;
    return n <= held && s->n_tokens <= oldest + (held - p->sinks) + PAGE_SLOTS;
}

static bool add_block(struct cache_sequence *s, const struct prefix_name *name, uint32_t index)
{
    struct cache *c = s->cache;
    struct prefix_index *x = &c->prefixes;
    if (x->n_blocks >= x->n_buckets && !grow(x))
        return false;
    struct prefix_block *b = malloc(sizeof *b + cache_n_heads(c) * sizeof *b->pages);
    if (!b)
        return false;
    b->name = *name;
    for (uint32_t h = 0; h < cache_n_heads(c); h++) {
        b->pages[h] = s->states[h].pages[index];
        pool_list(&c->pool, b->pages[h]);
        if (s->slots[h].own_from <= index)
            s->slots[h].own_from = index + 1;
    }
    s->room = 0;
    struct prefix_block **at = bucket_of(x, name);
    b->next_in_bucket = *at;
    *at = b;
    TAILQ_INSERT_HEAD(&x->by_age, b, by_age);
    x->n_blocks++;
    return true;
}

uint32_t prefix_list(struct cache_sequence *s, struct prefix_name *name, uint32_t *done,
                     const int32_t *tokens, uint32_t n_tokens)
{
    uint32_t n_new = 0;
    while (*done + PAGE_SLOTS <= n_tokens && is_pristine(s, *done + PAGE_SLOTS)) {
        struct prefix_name next = next_name(name, tokens + *done);
        if (!find(&s->cache->prefixes, &next)) {
            if (!add_block(s, &next, *done / PAGE_SLOTS))
                break;
            n_new += PAGE_SLOTS;
        }
        *name = next;
        *done += PAGE_SLOTS;
    }
    return n_new;
}
