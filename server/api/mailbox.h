/* How the engine's thread reaches the loop: a list of letters, and a handle that wakes the loop when a
 * letter is added. A letter is in at most one mailbox, at most once. */
#ifndef WINNOW_SERVER_API_MAILBOX_H
#define WINNOW_SERVER_API_MAILBOX_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/queue.h>
#include <uv.h>

#include "config/base/error.h"

struct letter {
    TAILQ_ENTRY(letter) entry; /* under the mailbox's lock, like `waiting` */
    bool waiting;
    void (*deliver)(struct letter *letter); /* loop thread; may free the letter */
};

struct mailbox {
    pthread_mutex_t lock;
    TAILQ_HEAD(letter_list, letter) letters;
    uv_async_t wake;
};

/* Loop thread. False: no memory or descriptors; nothing needs to be closed. */
bool mailbox_init(struct mailbox *m, uv_loop_t *loop, struct error *e);
/* Any thread. Letters are delivered in order. A letter that is already waiting keeps its place. */
void mailbox_put(struct mailbox *m, struct letter *letter);
/* Loop thread: removes a letter if it is waiting. No thread may be about to put it. */
void mailbox_remove(struct mailbox *m, struct letter *letter);
/* Loop thread. Call mailbox_clear when the loop has closed the handle, and keep the memory until then. */
void mailbox_close(struct mailbox *m);
void mailbox_clear(struct mailbox *m);

#endif
