/* The KV cache: one pool of equal pages, and for each sequence a table per (layer, KV head).
 *
 * A page holds PAGE_SLOTS slots of one layer and one KV head. This room does arithmetic on page
 * numbers and plans only; the bytes belong to the backend. Everything here is called by the engine
 * thread alone, except where noted.
 *
 *   sequence -> [layer][kv head] -> table { pages: 7, 19, 4 ; n_slots: 70 }
 *                                              |
 *   pool:  free list, reference counts    page 7 = 32 slots
 *
 * Pages are reference-counted (n > 1 choices share their prompt); a page held more than once is
 * never written: cache_append plans a copy first. */
#ifndef WINNOW_CACHE_PAGES_CACHE_H
#define WINNOW_CACHE_PAGES_CACHE_H

#include "cache/pages/head_state.h"
#include "cache/policy/plan.h"

struct cache;
struct cache_sequence;
struct head_profile;
struct state_memory;

/* NULL: "out_of_memory". n_pages >= 1. head_dim sizes what policies remember of keys. */
struct cache *cache_new(uint32_t n_layers, uint32_t n_kv_heads, uint32_t head_dim, uint32_t n_pages,
                        struct error *e);
void cache_free(struct cache *c); /* no sequence may be left */
/* The heads of plans with allocation `profile`; borrowed, outlives the cache. NULL = none. */
void cache_set_profile(struct cache *c, const struct head_profile *profile);
/* Where scores, holes and summaries lie (the backend's state_memory; copied); the host's memory
 * without it. Before the first sequence. */
void cache_set_memory(struct cache *c, const struct state_memory *memory);
/* Reads a stored position back (the backend's kv_read); needed for what policies of scores keep. */
typedef int32_t cache_position_reader(void *context, uint32_t page, uint32_t index);
void cache_set_reader(struct cache *c, cache_position_reader *position_of, void *context);
/* Who hears of every page that becomes free: the policy (preset_index) of the sequence that let go
 * of it last, and how long it was held by the time of cache_set_time, which the caller sets once a
 * step. */
typedef void cache_lifetime_observer(void *context, uint32_t policy, uint64_t held_ns);
void cache_set_lifetimes(struct cache *c, cache_lifetime_observer *observe, void *context);
void cache_set_time(struct cache *c, uint64_t now_ns);

/* A new empty sequence under a resolved plan, which it holds (plan_hold) until it is freed. It has
 * no page yet. NULL: "out_of_memory". */
struct cache_sequence *cache_sequence_new(struct cache *c, const struct plan *plan,
                                          struct error *e);
/* Another sequence that shares all pages of `of`. NULL: "out_of_memory". */
struct cache_sequence *cache_sequence_fork(struct cache_sequence *of, struct error *e);
/* The same under another plan, which must have read the prompt so far as `of`'s did
 * (prefix_is_read_alike in cache/pages/prefix.h); `of` is before the end of its prompt. */
struct cache_sequence *cache_sequence_fork_under(struct cache_sequence *of, const struct plan *plan,
                                                 struct error *e);
/* Replaces all pages that it shares by own ones; their copies are put on the copy list, where they
 * are done before the next step. For measurements, whose sequences must not read each other's
 * memory. False: "kv_pool_empty" or "out_of_memory", nothing has changed. */
bool cache_sequence_own_pages(struct cache_sequence *s, struct error *e);
/* Gives its pages back. NULL is allowed. */
void cache_sequence_free(struct cache_sequence *s);

/* Tokens before position `end` belong to the prompt: they are prefilled, and when the step that
 * runs the last of them is done the plan's end-of-prefill happens (POLICIES.md). Tokens from `end`
 * on are decode steps. A later, larger `end` continues the sequence with a new prompt. Without a
 * call every token is of the prompt and nothing is ever compressed. */
void cache_sequence_set_prompt(struct cache_sequence *s, uint32_t end);

const struct plan *cache_sequence_plan(const struct cache_sequence *s);
uint32_t
cache_tokens_seen(const struct cache_sequence *s); /* N: tokens appended so far = next position */

/* Pages of a sequence whose prompt has n_prompt tokens: the most it ever holds until n_tokens, and
 * what it can come to hold after its prompt, when compression has given the rest back. */
uint64_t cache_bound_pages(const struct cache *c, const struct plan *plan, uint64_t n_prompt,
                           uint64_t n_tokens);
uint64_t cache_settled_pages(const struct cache *c, const struct plan *plan, uint64_t n_prompt,
                             uint64_t n_tokens);
/* Pages that appending n more tokens would take from the pool now, copies of shared pages included.
 */
uint64_t cache_pages_to_append(const struct cache_sequence *s, uint32_t n);

/* The slot of a token that goes where an evicted one was: the backend's kv_write takes the newest
 * hole. */
#define SLOT_OF_HOLE UINT32_MAX

/* Rows of one sequence that may be written before they attend: UINT32_MAX for plans that only grow
 * or that compress at the end of the prompt (up to that end), PAGE_SLOTS for stream plans, whose
 * ring has that many spare slots, 1 where every token evicts another. */
uint32_t cache_wave_rows(const struct cache_sequence *s);
/* Tokens until the end of the prompt, UINT32_MAX without one: no wave crosses it. */
uint32_t cache_rows_of_prompt(const struct cache_sequence *s);

/* Takes pages for n more tokens (n <= cache_wave_rows) and advances N. On success, for every layer
 * l, KV head h: write_slots[(l * n + i) * n_kv_heads + h] = slot of the i-th new token or
 * SLOT_OF_HOLE; n_drop[l * n_kv_heads + h], unless NULL, = slots that the head drops once the
 * (only) new token has attended; views: see cache_view, valid until the next call on this sequence.
 * Copies of shared pages that must be made before writing are appended to the cache's copy list
 * (cache_take_copies). False: the pool is short ("kv_pool_empty"), nothing has changed. */
bool cache_append(struct cache_sequence *s, uint32_t n, uint32_t *write_slots, uint32_t *n_drop,
                  struct error *e);

/* What the policy wants done after the rows [first, first + n) have attended in a layer. */
enum cache_score {
    CACHE_SCORE_NONE,
    CACHE_SCORE_SUM,    /* add the mean over the group */
    CACHE_SCORE_LAST,   /* the newest query's replaces all others */
    CACHE_SCORE_HISTORY /* a bit in the history */
};
enum cache_step { CACHE_STEP_NONE, CACHE_STEP_COMPRESS, CACHE_STEP_EVICT };
struct cache_work {
    enum cache_score score;
    uint32_t first_scored; /* rows before this one (of the n) leave no score */
    enum cache_step step;  /* after scoring */
};
struct cache_work cache_work(const struct cache_sequence *s, uint32_t first, uint32_t n);
/* Of one head, which uses n_slots when n_tokens were seen: what backend.evict (n_drop from
 * cache_append) and backend.compress (0) get. */
struct select_job;
void cache_select_job(struct cache_sequence *s, uint32_t layer, uint32_t kv_head, uint32_t n_tokens,
                      uint32_t n_slots, uint32_t n_drop, struct select_job *out);
/* Before a compression: pages that others hold and that survivors move to are replaced by own
 * ones, their copies put on the copy list. False: the pool is short or memory is. */
bool cache_begin_compress(struct cache_sequence *s, uint32_t layer, struct error *e);
/* After it: head h of the layer holds n_kept[h] slots; the pages behind go back. */
void cache_end_compress(struct cache_sequence *s, uint32_t layer, const uint32_t *n_kept);
/* Whether a compression of the last step found no page for a copy: what the sequence holds is of no
 * use any more, it must be freed and computed again. */
bool cache_is_starved(const struct cache_sequence *s);
/* Pages of the pool taken minus given back by compressions since the last call. */
int64_t cache_take_balance(struct cache_sequence *s);
struct head_state *cache_head(struct cache_sequence *s, uint32_t layer, uint32_t kv_head);

/* The table of one head as the attention will see it: pages (owned by the sequence; stays valid
 * until the next cache_append or free of this sequence), used slots, and the plan's visibility. */
struct cache_view {
    const uint32_t *pages;
    uint32_t n_slots, n_sinks, window; /* as struct head_view in engine/compute/backend.h */
};
struct cache_view cache_view(const struct cache_sequence *s, uint32_t layer, uint32_t kv_head);
/* Position for the query's second rotation: min(t, B - 1) under cache-relative positions, else t.
 */
int32_t cache_sink_query_position(const struct cache_sequence *s, int32_t position);
bool cache_uses_sink_query(const struct cache_sequence *s);

/* Page copies that became due; the caller performs them before the step and they are forgotten. */
uint32_t cache_take_copies(struct cache *c, const uint32_t **from, const uint32_t **to);

/* Numbers. */
struct cache_counts {
    uint32_t n_pages, used, cached, free; /* used + cached + free = n_pages; cached: prefixes that
                                             nobody uses now */
    uint64_t
        pages_returned_total; /* pages given back by sequences that went on running (evictions) */
    uint64_t evicted_slots_total; /* slots overwritten or dropped, summed over layers and heads */
};
struct cache_counts cache_counts(const struct cache *c);

struct cache_sequence_counts {
    uint32_t tokens_seen;
    double
        slots_kept; /* mean over layers and KV heads of the positions that the newest query saw */
    uint32_t slots_kept_min, slots_kept_max;
    uint32_t pages, pages_peak;
    uint64_t pages_full; /* what the same tokens would hold under `full` */
    uint32_t pages_returned;
    bool exact; /* nothing was evicted */
};
struct cache_sequence_counts cache_sequence_counts(const struct cache_sequence *s);
struct cache_head_counts {
    uint32_t slots, pages, evicted; /* positions that the newest query sees; slots + evicted = N */
};
struct cache_head_counts cache_head_counts(const struct cache_sequence *s, uint32_t layer,
                                           uint32_t kv_head);

/* The original positions still held, for kv_trace: ascending inclusive ranges of one head. Calls
 * range(context, first, last) for each. Where scores decided, positions are read from the pages
 * (cache_set_reader). */
void cache_kept_ranges(const struct cache_sequence *s, uint32_t layer, uint32_t kv_head,
                       void (*range)(void *context, int32_t first, int32_t last), void *context);

/* Checks every invariant of DESIGN.md over all sequences (page counts, slots, free list). False
 * with "internal_error" and what is broken. position_of may be NULL; else it reads a stored
 * position, and positions are compared with the plan's, or, where scores decided, checked to be
 * unique, seen and to hold the protected. Linear in slots: for tests and --audit. */
bool cache_audit(const struct cache *c, cache_position_reader *position_of, void *context,
                 struct error *e);

uint32_t cache_n_layers(const struct cache *c);
uint32_t cache_n_kv_heads(const struct cache *c);

#endif
