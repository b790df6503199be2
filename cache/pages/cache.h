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
 * never written: cache_place plans a copy first. */
#ifndef WINNOW_CACHE_PAGES_CACHE_H
#define WINNOW_CACHE_PAGES_CACHE_H

#include "cache/pages/placement.h"
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
/* Memory for scores, holes and summaries: the backend's state_memory, which is copied. Without
 * this call it is the host's memory. Before the first sequence. */
void cache_set_memory(struct cache *c, const struct state_memory *memory);
/* Reads a stored position back (the backend's kv_read). Needed to list what a policy that scores
 * has kept. */
typedef int32_t cache_position_reader(void *context, uint32_t page, uint32_t index);
void cache_set_reader(struct cache *c, cache_position_reader *position_of, void *context);
/* Called for every page that becomes free: the policy (preset_index) of the sequence that
 * released it last, and how long it was held. The time is what the caller said last with
 * cache_set_time, once a step. */
typedef void cache_lifetime_observer(void *context, uint32_t policy, uint64_t held_ns);
void cache_set_lifetimes(struct cache *c, cache_lifetime_observer *observe, void *context);
void cache_set_time(struct cache *c, uint64_t now_ns);

/* A new empty sequence under a resolved plan, which it holds (plan_hold) until it is freed. It has
 * no page yet. NULL: "out_of_memory". */
struct cache_sequence *cache_sequence_new(struct cache *c, const struct plan *plan,
                                          struct error *e);
/* Another sequence that shares all pages of `of`. NULL: "out_of_memory". */
struct cache_sequence *cache_sequence_fork(struct cache_sequence *of, struct error *e);
/* The same under another plan. Both plans must read the prompt so far alike
 * (prefix_is_read_alike in cache/pages/prefix.h), and `of` must be before the end of its prompt. */
struct cache_sequence *cache_sequence_fork_under(struct cache_sequence *of, const struct plan *plan,
                                                 struct error *e);
/* Replaces all shared pages by own ones. The copies go onto the copy list and are made before
 * the next step. For measurements, whose sequences must not read each other's memory. False:
 * "kv_pool_empty" or "out_of_memory", nothing has changed. */
bool cache_sequence_own_pages(struct cache_sequence *s, struct error *e);
/* Gives its pages back. NULL is allowed. */
void cache_sequence_free(struct cache_sequence *s);

/* Tokens before position `end` belong to the prompt and are prefilled. After the step that runs
 * the last of them the plan's end of prefill happens (cache/POLICIES.md). Tokens from `end` on
 * are decode steps. A later, larger `end` continues the sequence with a new prompt. Without a
 * call every token is of the prompt and nothing is ever compressed. */
void cache_sequence_set_prompt(struct cache_sequence *s, uint32_t end);

const struct plan *cache_sequence_plan(const struct cache_sequence *s);
uint32_t
cache_tokens_seen(const struct cache_sequence *s); /* N: tokens appended so far = next position */

/* Pages of a sequence whose prompt has n_prompt tokens: the most that it ever holds until
 * n_tokens, and the most that it holds after its prompt, when compression has given the rest
 * back. */
uint64_t cache_bound_pages(const struct cache *c, const struct plan *plan, uint64_t n_prompt,
                           uint64_t n_tokens);
uint64_t cache_settled_pages(const struct cache *c, const struct plan *plan, uint64_t n_prompt,
                             uint64_t n_tokens);
/* Pages that cache_place would take from the pool for n tokens now, copies of shared pages
 * included. An upper bound where a plan that drops gets several tokens. Usually answered without
 * a walk over the heads. */
uint64_t cache_pages_to_place(const struct cache_sequence *s, uint32_t n);

/* Rows of one sequence that may be written before they attend: UINT32_MAX for plans that only grow
 * or that compress at the end of the prompt (up to that end), PAGE_SLOTS for stream plans, whose
 * ring has that many spare slots, 1 where every token evicts another. */
uint32_t cache_wave_rows(const struct cache_sequence *s);
/* Tokens until the end of the prompt, which no step crosses; UINT32_MAX where no end was
 * announced. */
uint32_t cache_rows_of_prompt(const struct cache_sequence *s);

/* Takes slots and pages for n more tokens (n <= cache_rows_of_prompt; 1 where every token evicts
 * another) and advances N. The answer belongs to the sequence: see placement.h. Copies of shared
 * pages that must be made before writing are appended to the cache's copy list (cache_take_copies).
 * NULL: the pool is short ("kv_pool_empty") or memory is ("out_of_memory"), nothing has changed. */
const struct placement *cache_place(struct cache_sequence *s, uint32_t n, struct error *e);

/* After the last row of a placement whose work is DROP has attended in a layer: fills jobs
 * [n_kv_heads] with what backend.drop is to choose in the layer's heads. Returns how many slots
 * go; 0: none, and jobs are not filled. */
struct select_job;
uint32_t cache_drop_jobs(const struct placement *p, uint32_t layer, struct select_job *jobs);
/* The job of one head, also where nothing is dropped. */
void cache_drop_job(const struct placement *p, uint32_t layer, uint32_t kv_head,
                    struct select_job *out);
/* After the last row of a placement whose work is COMPRESS has attended in a layer: fills jobs
 * [n_kv_heads] with what backend.compress is to choose. Shared pages that survivors move to are
 * replaced by own ones, whose copies go onto the copy list. False: the pool is short or memory
 * is. */
bool cache_begin_compress(struct cache_sequence *s, uint32_t layer, struct select_job *jobs,
                          struct error *e);
/* After backend.compress: the heads of the layer hold jobs[].n_kept slots each, and the pages
 * behind them go back. */
void cache_settle(struct cache_sequence *s, uint32_t layer, const struct select_job *jobs);
/* Whether a compression of the last step found no page for a copy. Then what the sequence holds
 * is useless: it must be freed and computed again. */
bool cache_is_starved(const struct cache_sequence *s);
/* Pages of the pool taken minus given back by compressions since the last call. */
int64_t cache_take_balance(struct cache_sequence *s);
struct head_state *cache_head(struct cache_sequence *s, uint32_t layer, uint32_t kv_head);

/* One head as the newest query sees it; its pages stay valid until the next cache_place or free of
 * this sequence. */
struct head_view cache_view(const struct cache_sequence *s, uint32_t layer, uint32_t kv_head);
/* Position for the query's second rotation: min(t, B - 1) under cache-relative positions, else t.
 */
int32_t cache_sink_query_position(const struct cache_sequence *s, int32_t position);
bool cache_uses_sink_query(const struct cache_sequence *s);

/* Page copies that are due. The caller makes them before the step; the list is empty afterwards. */
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

/* The original positions still held, for kv_trace: calls range(context, first, last) for each
 * inclusive range of one head, ascending. Where scores decided, positions are read from the
 * pages (cache_set_reader). */
void cache_kept_ranges(const struct cache_sequence *s, uint32_t layer, uint32_t kv_head,
                       void (*range)(void *context, int32_t first, int32_t last), void *context);

/* Checks every invariant over all sequences (page counts, slots, free list). False with
 * "internal_error" and what is broken. position_of may be NULL. Else it reads stored positions:
 * they are compared with the plan's or, where scores decided, must be unique, seen, and include
 * the protected. Linear in slots: for tests and --audit. */
bool cache_audit(const struct cache *c, cache_position_reader *position_of, void *context,
                 struct error *e);

uint32_t cache_n_layers(const struct cache *c);
uint32_t cache_n_kv_heads(const struct cache *c);

#endif
