/* The one way from the engine's thread back to the loop: a list of letters, and a handle that wakes
 * the loop when one was put in. A letter lies in at most one mailbox, at most once. */
#ifndef WINNOW_SERVER_API_MAILBOX_H
#define WINNOW_SERVER_API_MAILBOX_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/queue.h>
#include <uv.h>

#include "config/base/error.h"

struct letter {
    TAILQ_ENTRY(letter) entry; /* under the mailbox's lock, as `waiting` */
    bool waiting;
    void (*deliver)(struct letter *letter); /* loop thread; the letter may be gone afterwards */
};

struct mailbox {
    pthread_mutex_t lock;
    TAILQ_HEAD(letter_list, letter) letters;
    uv_async_t wake;
};

/* Loop thread. False: out of memory or descriptors, nothing to close. */
bool mailbox_init(struct mailbox *m, uv_loop_t *loop, struct error *e);
/* Any thread. Letters are delivered in the order in which they were put. A letter that waits already stays where it is. */
void mailbox_put(struct mailbox *m, struct letter *letter);
/* Loop thread: takes a letter back; nothing when it does not wait. Whoever puts it must have
 * stopped. */
void mailbox_remove(struct mailbox *m, struct letter *letter);
/* Loop thread. The memory must stay until the loop has closed the handle; then mailbox_clear. */
void mailbox_close(struct mailbox *m);
void mailbox_clear(struct mailbox *m);

#endif
