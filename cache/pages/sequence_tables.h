/* Private to cache/pages: the cache, its sequences and the prefix index. */
#ifndef WINNOW_CACHE_PAGES_SEQUENCE_TABLES_H
#define WINNOW_CACHE_PAGES_SEQUENCE_TABLES_H

#include <sys/queue.h>

#include "cache/pages/cache.h"
#include "cache/pages/placement.h"
#include "cache/pages/pool.h"
#include "cache/policy/preset.h"
#include "cache/policy/select_job.h"
#include "cache/pages/state_memory.h"

struct cache_sequence {
    struct cache *cache;
    const struct plan *plan; /* held */
    uint32_t policy;         /* preset_index of the plan's */
    uint32_t n_tokens;
    uint32_t prompt_end;  /* UINT32_MAX: no end was announced */
    uint32_t prompt_from; /* tokens seen when this prompt began */
    bool compressed;      /* something was dropped at the end of a prompt, or since */
    bool starved;         /* a compression found no page; see cache_is_starved */
    uint32_t n_pages, n_pages_peak, n_pages_returned;
    int64_t balance; /* see cache_take_balance */
    /* Tokens that fit without a page from the pool: a lower bound, from the last walk over the
     * heads. 0: unknown, the next call walks. */
    uint32_t room;
    struct head_slots *slots;  /* [n_layers][n_kv_heads] */
    struct head_state *states; /* [n_layers][n_kv_heads] */
    struct ring rings[2];      /* none, and that of the plan's heads that stream */
    uint32_t n_ring_heads;
    struct placement placed; /* the last one */
    TAILQ_ENTRY(cache_sequence) of_cache;
};

/* See prefix.h. */
struct prefix_index {
    struct prefix_block **buckets; /* [n_buckets] a power of two */
    uint32_t n_buckets, n_blocks;
    TAILQ_HEAD(prefix_blocks, prefix_block) by_age; /* newest first */
};

struct cache {
    struct pool pool;
    struct state_memory memory;
    struct prefix_index prefixes;
    uint32_t n_layers, n_kv_heads, head_dim;
    const struct head_profile *profile;
    cache_position_reader *position_of;
    void *reader_context;
    TAILQ_HEAD(cache_sequences, cache_sequence) sequences; /* newest first */
    uint32_t *copy_from, *copy_to; /* [n_copies], due before the next step */
    uint32_t n_copies, copies_capacity;
    uint64_t pages_returned, evicted_slots;
};

/* The heads that a budget is shared among. */
static inline struct budget_shape cache_shape(const struct cache *c)
{
    return (struct budget_shape){c->n_layers, c->n_kv_heads, c->profile};
}

/* sequence_heads.c: memory of one head's state. `head`: its number in the sequence. */
bool heads_init(struct cache_sequence *s, struct error *e);
/* Copies what `from` holds and remembers; its pages are not counted as shared yet. */
bool heads_copy(struct cache_sequence *to, const struct cache_sequence *from, struct error *e);
void heads_clear(struct cache_sequence *s);
/* Room for n pages and the scores of their slots; false leaves the head as it was. */
bool heads_reserve(struct cache_sequence *s, uint32_t head, uint32_t n);
/* Scores and histories of all slots begin at nothing. */
void heads_forget(struct cache_sequence *s, uint32_t head);
/* Entry `index` < capacity of the page table. */
void head_set_page(struct cache_sequence *s, uint32_t head, uint32_t index, uint32_t page);
/* Positions that the newest query sees. */
uint32_t head_n_held(const struct cache_sequence *s, uint32_t head);
const struct ring *head_ring(const struct cache_sequence *s, uint32_t head);

/* prefix.c */
void prefix_clear(struct cache *c);

/* placement.c */
bool copies_reserve(struct cache *c, uint64_t more);
/* Pages of the first n of the head that others hold too. */
uint32_t pages_shared(const struct cache_sequence *s, uint32_t head, uint32_t n);
/* Replaces those by own pages. The pool must have the pages and the copy list the room. */
void pages_make_own(struct cache_sequence *s, uint32_t head, uint32_t n);
/* Whether the next tokens are decode steps each of which may drop slots. */
bool sequence_evicts_now(const struct cache_sequence *s);

/* compress.c: what comes after the placement's tokens. */
void placement_set_work(struct placement *p);

static inline uint32_t cache_n_heads(const struct cache *c)
{
    return c->n_layers * c->n_kv_heads;
}

#endif
