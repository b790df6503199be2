/* See mailbox.h. */
#include "server/api/mailbox.h"

static struct letter *take(struct mailbox *m)
{
    pthread_mutex_lock(&m->lock);
    struct letter *first = TAILQ_FIRST(&m->letters);
    if (first) {
        TAILQ_REMOVE(&m->letters, first, entry);
        first->waiting = false;
    }
    pthread_mutex_unlock(&m->lock);
    return first;
}

/* Letters that arrive faster than they are read must not keep the loop from its sockets. */
enum { TURN_NS = 4000000 };

static void on_wake(uv_async_t *handle)
{
    struct mailbox *m = handle->data;
    uint64_t start = uv_hrtime();
    for (struct letter *letter; (letter = take(m));) {
        letter->deliver(letter);
        if (uv_hrtime() - start > TURN_NS) {
            uv_async_send(&m->wake); /* the rest comes in the loop's next turn */
            return;
        }
    }
}

bool mailbox_init(struct mailbox *m, uv_loop_t *loop, struct error *e)
{
    if (uv_async_init(loop, &m->wake, on_wake))
        return error_set_memory(e, "a mailbox", sizeof *m);
    m->wake.data = m;
    TAILQ_INIT(&m->letters);
    pthread_mutex_init(&m->lock, NULL);
    return true;
}

void mailbox_put(struct mailbox *m, struct letter *letter)
{
    pthread_mutex_lock(&m->lock);
    if (!letter->waiting) {
        letter->waiting = true;
        TAILQ_INSERT_TAIL(&m->letters, letter, entry);
    }
    pthread_mutex_unlock(&m->lock);
    uv_async_send(&m->wake);
}

void mailbox_remove(struct mailbox *m, struct letter *letter)
{
    pthread_mutex_lock(&m->lock);
    if (letter->waiting) {
        TAILQ_REMOVE(&m->letters, letter, entry);
        letter->waiting = false;
    }
    pthread_mutex_unlock(&m->lock);
}

void mailbox_close(struct mailbox *m)
{
    uv_close((uv_handle_t *)&m->wake, NULL);
}

void mailbox_clear(struct mailbox *m)
{
    pthread_mutex_destroy(&m->lock);
}
