/* Sessions: see session.h. */
#include "cache/policy/preset.h"
#include "engine/serve/session.h"

#include <stdlib.h>
#include <string.h>

bool session_store_init(struct session_store *s, uint64_t ttl_ns, struct error *e)
{
    memset(s, 0, sizeof *s);
    s->ttl_ns = ttl_ns;
    TAILQ_INIT(&s->waiting);
    TAILQ_INIT(&s->deleted);
    return pthread_mutex_init(&s->lock, NULL) == 0 ||
           error_set(e, "out_of_memory", "", "cannot make the sessions' lock");
}

void session_free(struct session *session)
{
    if (!session)
        return;
    cache_sequence_free(session->cache);
    plan_release(session->plan);
    free(session->tokens);
    free(session);
}

static void free_all(struct session_list *list)
{
    for (struct session *x; (x = TAILQ_FIRST(list));) {
        TAILQ_REMOVE(list, x, link);
        session_free(x);
    }
}

void session_store_clear(struct session_store *s)
{
    free_all(&s->waiting);
    free_all(&s->deleted);
    pthread_mutex_destroy(&s->lock);
    memset(s, 0, sizeof *s);
}

static bool is_named(const struct session *x, const char *id, uint32_t owner_key, bool all)
{
    return (all || x->owner_key == owner_key) && !strcmp(x->id, id);
}

/* From `waiting` to `into` (NULL: to no list). The lock is held. */
static void move(struct session_store *s, struct session *x, struct session_list *into)
{
    TAILQ_REMOVE(&s->waiting, x, link);
    s->count--;
    s->pages -= x->pages;
    if (into)
        TAILQ_INSERT_TAIL(into, x, link);
}

/* NULL: there is none. The lock is held. */
static struct session *find(const struct session_store *s, const char *id, uint32_t owner_key,
                            bool all)
{
    struct session *x;
    TAILQ_FOREACH(x, &s->waiting, link)
        if (is_named(x, id, owner_key, all))
            return x;
    return NULL;
}

struct session *session_take(struct session_store *s, const char *id, uint32_t owner_key)
{
    pthread_mutex_lock(&s->lock);
    struct session *x = find(s, id, owner_key, false);
    if (x)
        move(s, x, NULL);
    pthread_mutex_unlock(&s->lock);
    return x;
}

void session_put(struct session_store *s, struct session *session, uint64_t now_ns)
{
    struct cache_sequence_counts counts = cache_sequence_counts(session->cache);
    session->slots_kept = counts.slots_kept;
    session->pages = counts.pages;
    session->used_ns = now_ns;
    session->made_ns = session->made_ns ? session->made_ns : now_ns;
    pthread_mutex_lock(&s->lock);
    TAILQ_INSERT_HEAD(&s->waiting, session, link);
    s->count++;
    s->pages += session->pages;
    pthread_mutex_unlock(&s->lock);
}

uint64_t session_expire(struct session_store *s, uint64_t now_ns)
{
    uint64_t first_end = 0;
    struct session_list gone;
    TAILQ_INIT(&gone);
    pthread_mutex_lock(&s->lock);
    TAILQ_CONCAT(&gone, &s->deleted, link);
    for (struct session *x = TAILQ_FIRST(&s->waiting), *next; x; x = next) {
        next = TAILQ_NEXT(x, link);
        uint64_t end = x->used_ns + s->ttl_ns;
        if (end <= now_ns)
            move(s, x, &gone);
        else
            first_end = first_end == 0 || end < first_end ? end : first_end;
    }
    pthread_mutex_unlock(&s->lock);
    free_all(&gone);
    return first_end;
}

bool session_give_up(struct session_store *s)
{
    pthread_mutex_lock(&s->lock);
    struct session *oldest = TAILQ_LAST(&s->waiting, session_list);
    if (oldest)
        move(s, oldest, NULL);
    pthread_mutex_unlock(&s->lock);
    session_free(oldest);
    return oldest != NULL;
}

uint32_t session_list(struct session_store *s, const char *id, uint32_t owner_key, bool all,
                      uint64_t now_ns, struct session_info *out, uint32_t most)
{
    uint32_t n = 0;
    pthread_mutex_lock(&s->lock);
    const struct session *x;
    TAILQ_FOREACH(x, &s->waiting, link) {
        if (n == most)
            break;
        if (!(all || x->owner_key == owner_key) || (id && strcmp(x->id, id) != 0))
            continue;
        struct session_info *i = &out[n++];
        *i = (struct session_info){.policy = x->plan->preset->name,
                                   .owner_key = x->owner_key,
                                   .n_tokens = x->n_tokens,
                                   .pages = x->pages,
                                   .slots_kept = x->slots_kept,
                                   .age_ms = (double)(now_ns - x->made_ns) / 1e6,
                                   .expires_in_ms =
                                       ((double)(x->used_ns + s->ttl_ns) - (double)now_ns) / 1e6};
        memcpy(i->id, x->id, sizeof i->id);
    }
    pthread_mutex_unlock(&s->lock);
    return n;
}

const struct plan *session_plan(struct session_store *s, const char *id, uint32_t owner_key)
{
    pthread_mutex_lock(&s->lock);
    const struct session *x = find(s, id, owner_key, false);
    const struct plan *plan = x ? plan_hold(x->plan) : NULL;
    pthread_mutex_unlock(&s->lock);
    return plan;
}

bool session_delete(struct session_store *s, const char *id, uint32_t owner_key, bool all,
                    uint32_t *pages)
{
    pthread_mutex_lock(&s->lock);
    struct session *x = find(s, id, owner_key, all);
    if (x) {
        *pages = x->pages;
        move(s, x, &s->deleted);
    }
    pthread_mutex_unlock(&s->lock);
    return x != NULL;
}
