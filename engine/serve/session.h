/* Sessions: compressed caches that wait for the next turn of their conversation (API.md 7.5). Kept
 * only for requests that name a session, taken out by the one that continues it, given up after a
 * while or when running work needs the pages.
 *
 * The engine thread puts, takes and frees; the loop thread lists and deletes. A lock guards the
 * list; caches are freed by the engine thread alone. */
#ifndef WINNOW_ENGINE_SERVE_SESSION_H
#define WINNOW_ENGINE_SERVE_SESSION_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "cache/pages/cache.h"

#define SESSION_ID_MAX 256

struct session {
    char id[SESSION_ID_MAX + 1];
    uint32_t owner_key;      /* ids of other keys do not exist for a caller */
    const struct plan *plan; /* held */
    int32_t *tokens;         /* [n_tokens] that made the cache */
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
    struct session_list waiting; /* the last used first */
    struct session_list deleted; /* by the loop; the engine frees them */
    uint64_t ttl_ns;
    _Atomic uint32_t count, pages; /* of `waiting`; written under the lock, read by any thread */
};

bool session_store_init(struct session_store *s, uint64_t ttl_ns, struct error *e);
void session_store_clear(struct session_store *s);

/* ---- engine thread */

/* Out of the store: the caller owns it. NULL when there is none. */
struct session *session_take(struct session_store *s, const char *id, uint32_t owner_key);
void session_put(struct session_store *s, struct session *session, uint64_t now_ns);
void session_free(struct session *session);
/* Frees what was deleted and what is too old; the time when the next becomes so, 0 = none. */
uint64_t session_expire(struct session_store *s, uint64_t now_ns);
/* Frees the one that was used longest ago. False: there is none. */
bool session_give_up(struct session_store *s);

/* ---- loop thread */

struct session_info {
    char id[SESSION_ID_MAX + 1];
    const char *policy;
    uint32_t owner_key, n_tokens, pages;
    double slots_kept, age_ms, expires_in_ms;
};
/* At most `most` of those that key owner_key may see (`all`: everybody's), into `out`; returns how
 * many. id: only that one, or NULL. */
uint32_t session_list(struct session_store *s, const char *id, uint32_t owner_key, bool all,
                      uint64_t now_ns, struct session_info *out, uint32_t most);
/* The plan of the one that waits under this name, held for the caller. NULL: there is none. */
const struct plan *session_plan(struct session_store *s, const char *id, uint32_t owner_key);
/* Its pages go back before the engine's next step. False: there is none. */
bool session_delete(struct session_store *s, const char *id, uint32_t owner_key, bool all,
                    uint32_t *pages);

#endif
