/* Sessions: caches that wait for the next turn of their conversation (server/API.md 7.5). A request
 * that names a session leaves its cache here, and the next one of that name takes it out. A session
 * is freed when its time is over or when running requests need its pages.
 *
 * The engine thread puts, takes and frees; the loop thread lists and deletes. A lock guards the
 * lists. Only the engine thread frees caches. */
#ifndef WINNOW_ENGINE_SERVE_SESSION_H
#define WINNOW_ENGINE_SERVE_SESSION_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "cache/pages/cache.h"

#define SESSION_ID_MAX 256

struct session {
    char id[SESSION_ID_MAX + 1];
    uint32_t owner_key;      /* other keys cannot see it */
    const struct plan *plan; /* held */
    int32_t *tokens;         /* [n_tokens] that the cache was computed from */
    uint32_t n_tokens;
    struct cache_sequence *cache;
    double slots_kept;
    uint32_t pages;
    uint64_t made_ns, used_ns;
    TAILQ_ENTRY(session) link;
};

TAILQ_HEAD(session_list, session);

struct session_store {
    pthread_mutex_t lock;
    struct session_list waiting; /* last used first */
    struct session_list deleted; /* by the loop thread; the engine thread frees them */
    uint64_t ttl_ns;
    _Atomic uint32_t count, pages; /* of `waiting`; written under the lock, read by any thread */
};

bool session_store_init(struct session_store *s, uint64_t ttl_ns, struct error *e);
void session_store_clear(struct session_store *s);

/* ---- engine thread */

/* Takes it out of the store; the caller owns it. NULL: there is none. */
struct session *session_take(struct session_store *s, const char *id, uint32_t owner_key);
void session_put(struct session_store *s, struct session *session, uint64_t now_ns);
void session_free(struct session *session);
/* Frees deleted and expired sessions. Returns when the next one expires, 0 = none does. */
uint64_t session_expire(struct session_store *s, uint64_t now_ns);
/* Frees the least recently used one. False: there is none. */
bool session_give_up(struct session_store *s);

/* ---- loop thread */

struct session_info {
    char id[SESSION_ID_MAX + 1];
    const char *policy;
    uint32_t owner_key, n_tokens, pages;
    double slots_kept, age_ms, expires_in_ms;
};
/* Writes at most `most` sessions of owner_key (`all`: of every key) to `out` and returns how many.
 * id: only the session of that name; NULL: every name. */
uint32_t session_list(struct session_store *s, const char *id, uint32_t owner_key, bool all,
                      uint64_t now_ns, struct session_info *out, uint32_t most);
/* The plan of a session, held for the caller. NULL: there is none. */
const struct plan *session_plan(struct session_store *s, const char *id, uint32_t owner_key);
/* The engine frees its pages before the next step. False: there is none. */
bool session_delete(struct session_store *s, const char *id, uint32_t owner_key, bool all,
                    uint32_t *pages);

#endif
