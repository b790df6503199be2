/* Sessions: see session.h. */
#include "engine/serve/session.h"

#include <stdlib.h>
#include <string.h>

bool session_store_init(struct session_store *s, uint64_t ttl_ns, struct error *e)
{
    memset(s, 0, sizeof *s);
    s->ttl_ns = ttl_ns;
    return pthread_mutex_init(&s->lock, NULL) == 0 ||
           error_set(e, "out_of_memory", "", "cannot make the sessions' lock");
}

void session_free(struct session *session)
{
    if (!session)
        return;
    cache_sequence_free(session->cache);
    free(session->tokens);
    free(session);
}

static void free_list(struct session *first)
{
    for (struct session *next; first; first = next) {
        next = first->next;
        session_free(first);
    }
}

void session_store_clear(struct session_store *s)
{
    free_list(s->first);
    free_list(s->deleted);
    pthread_mutex_destroy(&s->lock);
    memset(s, 0, sizeof *s);
}

static bool is_named(const struct session *x, const char *id, uint32_t owner_key, bool all)
{
    return (all || x->owner_key == owner_key) && !strcmp(x->id, id);
}

/* Unlinks *at; the lock is held. */
static struct session *unlink_at(struct session_store *s, struct session **at)
{
    struct session *x = *at;
    *at = x->next;
    x->next = NULL;
    s->count--;
    s->pages -= x->pages;
    return x;
}

static struct session **find(struct session_store *s, const char *id, uint32_t owner_key, bool all)
{
    struct session **at = &s->first;
    while (*at && !is_named(*at, id, owner_key, all))
        at = &(*at)->next;
    return at;
}

struct session *session_take(struct session_store *s, const char *id, uint32_t owner_key)
{
    pthread_mutex_lock(&s->lock);
    struct session **at = find(s, id, owner_key, false), *x = *at ? unlink_at(s, at) : NULL;
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
    session->next = s->first;
    s->first = session;
    s->count++;
    s->pages += session->pages;
    pthread_mutex_unlock(&s->lock);
}

uint64_t session_expire(struct session_store *s, uint64_t now_ns)
{
    uint64_t next = 0;
    pthread_mutex_lock(&s->lock);
    struct session *gone = s->deleted;
    s->deleted = NULL;
    for (struct session **at = &s->first; *at;) {
        uint64_t end = (*at)->used_ns + s->ttl_ns;
        if (end <= now_ns) {
            struct session *x = unlink_at(s, at);
            x->next = gone;
            gone = x;
            continue;
        }
        next = next == 0 || end < next ? end : next;
        at = &(*at)->next;
    }
    pthread_mutex_unlock(&s->lock);
    free_list(gone);
    return next;
}

bool session_give_up(struct session_store *s)
{
    pthread_mutex_lock(&s->lock);
    struct session **at = &s->first, *x = NULL;
    while (*at && (*at)->next)
        at = &(*at)->next;
    if (*at)
        x = unlink_at(s, at);
    pthread_mutex_unlock(&s->lock);
    session_free(x);
    return x != NULL;
}

bool session_plan_agrees(const struct plan *a, const struct plan *b)
{
    bool budgets = a->budget_share > 0 || b->budget_share > 0
                       ? a->budget_share == b->budget_share
                       : a->budget == b->budget && a->recent == b->recent;
    return a->preset == b->preset && budgets && a->has_budget == b->has_budget &&
           a->scorer == b->scorer && a->allocation == b->allocation && a->sinks == b->sinks &&
           a->prefill == b->prefill && a->decode == b->decode && a->remnant == b->remnant &&
           a->positions == b->positions && a->pool == b->pool && a->share == b->share &&
           a->window == b->window && a->kernel == b->kernel && a->interval == b->interval &&
           a->seed == b->seed && a->sparsity == b->sparsity && a->min_window == b->min_window;
}

uint32_t session_list(struct session_store *s, const char *id, uint32_t owner_key, bool all,
                      uint64_t now_ns, struct session_info *out, uint32_t most)
{
    uint32_t n = 0;
    pthread_mutex_lock(&s->lock);
    for (const struct session *x = s->first; x && n < most; x = x->next) {
        if (!(all || x->owner_key == owner_key) || (id && strcmp(x->id, id) != 0))
            continue;
        struct session_info *i = &out[n++];
        *i = (struct session_info){.policy = x->plan.preset->name,
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

bool session_plan(struct session_store *s, const char *id, uint32_t owner_key, struct plan *out)
{
    pthread_mutex_lock(&s->lock);
    const struct session *x = *find(s, id, owner_key, false);
    if (x)
        *out = x->plan;
    pthread_mutex_unlock(&s->lock);
    return x != NULL;
}

bool session_delete(struct session_store *s, const char *id, uint32_t owner_key, bool all,
                    uint32_t *pages)
{
    pthread_mutex_lock(&s->lock);
    struct session **at = find(s, id, owner_key, all), *x = *at ? unlink_at(s, at) : NULL;
    if (x) {
        *pages = x->pages;
        x->next = s->deleted;
        s->deleted = x;
    }
    pthread_mutex_unlock(&s->lock);
    return x != NULL;
}
