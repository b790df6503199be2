/* How requests share the pool's pages. A request has `reserved` pages (promised at admission) and
 * `held` pages (taken). A plan with a budget reserves its bound: the prompt's until the prompt is
 * compressed, then its own. A growing plan reserves its prompt until it decodes, then nothing.
 *
 *   pool:   | held by running | promised to them | free | cached prefixes | idle sessions |
 *                                                |<------- pages_for(s, NULL) ------------>|
 *
 * When pages are short, cached prefixes are freed first, then sessions that wait for their next
 * turn. Then the youngest running request is preempted: it loses its pages, keeps its tokens and is
 * computed again later. Engine thread, except where noted. */
#ifndef WINNOW_ENGINE_SERVE_PAGES_H
#define WINNOW_ENGINE_SERVE_PAGES_H

#include "engine/serve/scheduler_private.h"

/* Called around every cache operation of a request; keeps held_pages exact. */
uint32_t pages_begin(const struct scheduler *s);
void pages_end(const struct scheduler *s, struct request *request, uint32_t before);

/* Frees the caches of all choices; their tokens stay. */
void pages_free(const struct scheduler *s, struct request *request);

/* Pages that the request could get: free ones, cached prefixes and idle sessions, less what other
 * requests were promised. NULL: what a new request could get. */
uint64_t pages_for(const struct scheduler *s, const struct request *request);
/* Pages that admission reserves: the plan's bound, or all known tokens of every choice and one
 * more.
 */
uint64_t pages_to_admit(const struct scheduler *s, const struct request *request);
/* Any thread: pages that a growing request needs to start. */
uint64_t pages_growing(const struct cache *cache, const struct plan *plan, uint32_t n_tokens,
                       uint32_t n_choices);

/* Frees cached prefixes and then sessions until `need` pages are free or none of them is left. */
void pages_give_up(struct scheduler *s, uint64_t need);

/* A running request loses its pages, keeps its tokens and goes to the head of the queue. */
void pages_preempt(struct scheduler *s, struct request *request);

enum pages_answer {
    PAGES_READY,
    PAGES_LATER, /* the request was preempted, or must skip this step */
    PAGES_ALONE  /* no other request runs */
};
/* Makes room for `need` more pages by preempting the youngest requests that have no rows yet. */
enum pages_answer pages_secure(struct scheduler *s, struct request *request, uint64_t need);

/* After a step: counts the pages that compression has freed. A request whose compression found no
 * page is preempted, and its rows are removed from s->rows. */
void pages_settle(struct scheduler *s);

#endif
