/* The inside of cache and sequences, shared by the files of cache/. */
#ifndef WINNOW_CACHE_PAGES_SEQUENCE_TABLES_H
#define WINNOW_CACHE_PAGES_SEQUENCE_TABLES_H

#include "cache/pages/cache.h"
#include "cache/pages/pool.h"
#include "cache/policy/preset.h"
#include "cache/policy/select_job.h"
#include "cache/pages/state_memory.h"

/* Where a stream plan puts the token of position p, and what the newest query sees:
 *
 *   ring == 0:  no stream: slots as they come, everything that is held is seen
 *   ring  > 0:  slot p for the sinks, then slots sinks .. sinks + ring - 1 round and round;
 *               seen are the sinks and the `window` newest. ring = window + PAGE_SLOTS, so that a
 * wave of PAGE_SLOTS new tokens overwrites nothing that its first token still sees. */
struct placement {
    uint32_t sinks, window, ring;
};

struct table {
    struct head_state state;
    struct placement placement;
    bool whole; /* never drops anything */
    bool votes; /* its scores count where the heads of a layer choose together */
};

struct cache_sequence {
    struct cache *cache;
    const struct plan *plan; /* held */
    uint32_t policy;         /* preset_index of the plan's */
    uint32_t n_tokens;
    uint32_t prompt_end;  /* UINT32_MAX: no end was announced */
    uint32_t prompt_from; /* tokens seen when this prompt began */
    bool compressed;      /* something was dropped at the end of a prompt, or since */
    bool has_ring;        /* some head streams */
    bool starved;         /* a compression found no page; see cache_is_starved */
    uint32_t n_pages, n_pages_peak, n_pages_returned;
    int64_t balance;                        /* see cache_take_balance */
    struct table *tables;                   /* [n_layers][n_kv_heads] */
    struct cache_sequence *previous, *next; /* all sequences of the cache */
};

/* See prefix.h. */
struct prefix_index {
    struct prefix_block **buckets; /* [n_buckets] a power of two */
    uint32_t n_buckets, n_blocks;
    struct prefix_block *newest, *oldest;
};

struct cache {
    struct pool pool;
    struct state_memory memory;
    struct prefix_index prefixes;
    uint32_t n_layers, n_kv_heads, head_dim;
    const struct head_profile *profile;
    cache_position_reader *position_of;
    void *reader_context;
    struct cache_sequence *first;
    uint32_t *copy_from, *copy_to; /* [n_copies], due before the next step */
    uint32_t n_copies, copies_capacity;
    uint64_t pages_returned, evicted_slots;
};

uint32_t placement_slot(const struct placement *p, uint32_t position);
uint32_t placement_slots_used(const struct placement *p, uint32_t n_tokens);
/* The newest position below n_tokens that lies in `slot`, which is used. */
uint32_t placement_position(const struct placement *p, uint32_t slot, uint32_t n_tokens);
/* Tokens of n_tokens that the newest query does not see any more. */
uint32_t placement_evicted(const struct placement *p, uint32_t n_tokens);

/* The heads that a budget is shared among. */
static inline struct budget_shape cache_shape(const struct cache *c)
{
    return (struct budget_shape){c->n_layers, c->n_kv_heads, c->profile};
}

/* sequence_heads.c: memory of one head's state. */
bool heads_init(struct cache_sequence *s, struct error *e);
bool heads_copy(struct cache_sequence *to, const struct cache_sequence *from, struct error *e);
void heads_clear(struct cache_sequence *s);
/* Room for n pages and the scores of their slots; false leaves the head as it was. */
bool heads_reserve(struct cache_sequence *s, struct head_state *head, uint32_t n);

/* Scores and histories of all slots begin at nothing. */
void heads_forget(struct cache_sequence *s, struct head_state *head);
/* Entry `index` < capacity of the page table. */
void head_set_page(struct cache_sequence *s, struct head_state *head, uint32_t index,
                   uint32_t page);

/* prefix.c */
void prefix_clear(struct cache *c);

/* cache.c, for compress.c */
bool copies_reserve(struct cache *c, uint64_t more);
/* Gives the head an own page in the place of one that others hold too; the pool has one, the copy
 * list room. */
void page_make_own(struct cache_sequence *s, struct head_state *head, uint32_t index);
/* compress.c: how many slots the backend will drop after the row that was just appended, so that
 * the next append need not wait for it. */
uint32_t foresee_eviction(struct cache_sequence *s, struct table *t);
uint32_t head_n_held(const struct cache_sequence *s, const struct table *t);

#endif
