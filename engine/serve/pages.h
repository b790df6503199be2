/* Pages of the pool among requests. A request has `reserved` pages (what it was promised at
 * admission) and `held` pages (what it took). A plan with a budget reserves its bound: the prompt's
 * until that is compressed, then its own. A growing one reserves its prompt until it decodes, then
 * nothing.
 *
 *   pool:   | held by running | promised to them | free | cached prefixes | idle sessions |
 *                                                |<------- pages_for(s, NULL) ------------>|
 *
 * When pages are short, cached prefixes go first, then sessions that wait for their next turn, then
 * the youngest running request is preempted: its pages go, its tokens stay, and it is computed
 * again later. Engine thread, except where noted. */
#ifndef WINNOW_ENGINE_SERVE_PAGES_H
#define WINNOW_ENGINE_SERVE_PAGES_H

#include "engine/serve/scheduler_private.h"

/* Cache operations of one request come between these two, so that held_pages stays exact. */
uint32_t pages_begin(const struct scheduler *s);
void pages_end(const struct scheduler *s, struct request *request, uint32_t before);

/* Frees the caches of all choices; the tokens stay. */
void pages_free(const struct scheduler *s, struct request *request);

/* Pages that are free, or would be if cached prefixes and idle sessions went, and that no request
 * but request was promised; request may be NULL. */
uint64_t pages_for(const struct scheduler *s, const struct request *request);
/* What admission sets aside: the bound, or all known tokens of every choice and one more. */
uint64_t pages_to_admit(const struct scheduler *s, const struct request *request);
/* Any thread: pages that a growing request needs to get going. */
uint64_t pages_growing(const struct cache *cache, const struct plan *plan, uint32_t n_tokens,
                       uint32_t n_choices);

/* Frees cached prefixes and then sessions until `need` pages are free, or none of those is left. */
void pages_give_up(struct scheduler *s, uint64_t need);

enum pages_answer {
    PAGES_READY,
    PAGES_LATER, /* request was preempted, or must leave out this step */
    PAGES_ALONE  /* no other request runs */
};
/* Makes room for `need` more pages of request, at the cost of the youngest that has no rows yet. */
enum pages_answer pages_secure(struct scheduler *s, struct request *request, uint64_t need);

/* After a step: pages that compression gave back are no longer held. A request whose compression
 * found no page is preempted, and its rows leave the step. */
void pages_settle(struct scheduler *s);

#endif
