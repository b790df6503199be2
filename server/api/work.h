/* Work for the thread pool, in front of libuv's own queue: bounded, fair and cancellable. Loop thread,
 * except `run` of a work.
 *
 *   work_submit -> waiting, by caller's turn -> at most WORK_THREADS run -> done
 *                     |                              |
 *   work_cancel ------+ done at once                 + `cancelled` is set; `run` looks at it
 *
 * Bodies of megabytes take seconds to parse and tokenize, and up to 60 times their size in memory. So
 * of large ones only a few run at a time, and threads are left for small ones. A caller with much work
 * waits for its own work, not the others for it: each caller's turn comes later by the bytes that it has
 * submitted. */
#ifndef WINNOW_SERVER_API_WORK_H
#define WINNOW_SERVER_API_WORK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/queue.h>
#include <uv.h>

#include "config/base/error.h"

enum {
    WORK_THREADS = 4,              /* libuv's default */
    WORK_CALLERS = 1024,           /* rows of the table of callers; two callers can share one */
    WORK_SMALL = 256 * 1024,       /* bytes of a small body */
    WORK_LARGE = 16 * 1024 * 1024, /* bytes of all large bodies that run together */
    WORK_LARGE_THREADS = 2,
    WORK_OWN_BYTES = 4096 /* counted for each work beside its body */
};

enum work_state { WORK_IDLE, WORK_WAITING, WORK_RUNNING };

/* One piece of work, in its owner's memory. Zero-initialise it. */
struct work {
    struct work_queue *queue;
    TAILQ_ENTRY(work) entry;
    uv_work_t request;
    void (*run)(struct work *work);  /* pool */
    void (*done)(struct work *work); /* loop; the work is idle again and may be freed */
    enum work_state state;
    uint64_t bytes, turn;
    uint32_t caller; /* row of the table */
    atomic_bool cancelled;
};

struct work_queue {
    uv_loop_t *loop;
    uint64_t limit; /* bytes of all works; a caller may have half of it */
    TAILQ_HEAD(work_list, work) waiting, running; /* waiting: by turn */
    uint32_t n_waiting, n_running, n_large;
    uint64_t bytes, large_bytes; /* waiting and running; running large ones */
    uint64_t turn;               /* of the work that started last */
    struct {
        uint64_t bytes, next_turn;
    } callers[WORK_CALLERS];
    uint64_t refused; /* counter */
    uv_timer_t trim_timer;
    uv_work_t trim;
    bool trim_is_due, trimming;
};

void work_queue_init(struct work_queue *q, uv_loop_t *loop, uint64_t limit);
/* Large answers have ended: their memory goes back to the system soon. */
void work_queue_trim(struct work_queue *q);
/* Closes the handles. */
void work_queue_close(struct work_queue *q);
/* Cancels all works. */
void work_queue_stop(struct work_queue *q);

/* Queues `run` and then `done` for a body of so many bytes. `caller` is any number that tells callers
 * apart. False: "work_queue_full" or "caller_queue_full"; nothing is called. */
bool work_submit(struct work_queue *q, struct work *work, uint64_t caller, uint64_t bytes,
                 void (*run)(struct work *), void (*done)(struct work *), struct error *e);
/* The same without a limit, for the end of what was accepted before. */
void work_add(struct work_queue *q, struct work *work, uint64_t caller, uint64_t bytes,
              void (*run)(struct work *), void (*done)(struct work *));
/* A waiting work is not run: its `done` is called before this returns. A running one is asked to end.
 * An idle one stays so. */
void work_cancel(struct work *work);
/* Pool: whether nobody wants the result any more. */
bool work_is_cancelled(const struct work *work);

#endif
