/* See work.h. */
#include "server/api/work.h"

#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "config/base/random.h"

static bool is_large(const struct work *work)
{
    return work->bytes > WORK_SMALL;
}

static bool may_start(const struct work_queue *q, const struct work *work)
{
    return !is_large(work) || q->n_large == 0 ||
           (q->n_large < WORK_LARGE_THREADS && q->large_bytes + work->bytes <= WORK_LARGE);
}

static void do_run(uv_work_t *request)
{
    struct work *work = request->data;
    if (!work_is_cancelled(work))
        work->run(work);
#ifdef __GLIBC__
    if (is_large(work)) /* glibc keeps freed memory of each thread otherwise */
        malloc_trim(0);
#endif
}

static void forget(struct work_queue *q, struct work *work)
{
    q->bytes -= work->bytes;
    q->callers[work->caller].bytes -= work->bytes;
    work->state = WORK_IDLE;
}

static void start_some(struct work_queue *q);

static void on_done(uv_work_t *request, int status)
{
    struct work *work = request->data;
    struct work_queue *q = work->queue;
    (void)status; /* libuv cancels nothing */
    TAILQ_REMOVE(&q->running, work, entry);
    q->n_running--;
    if (is_large(work)) {
        q->n_large--;
        q->large_bytes -= work->bytes;
    }
    forget(q, work);
    work->done(work);
    start_some(q);
}

static void start(struct work_queue *q, struct work *work)
{
    TAILQ_REMOVE(&q->waiting, work, entry);
    q->n_waiting--;
    TAILQ_INSERT_TAIL(&q->running, work, entry);
    q->n_running++;
    if (is_large(work)) {
        q->n_large++;
        q->large_bytes += work->bytes;
    }
    q->turn = work->turn > q->turn ? work->turn : q->turn;
    work->state = WORK_RUNNING;
    work->request.data = work;
    uv_queue_work(q->loop, &work->request, do_run, on_done); /* fails only without a function */
}

static void start_some(struct work_queue *q)
{
    struct work *next;
    for (struct work *work = TAILQ_FIRST(&q->waiting); work && q->n_running < WORK_THREADS;
         work = next) {
        next = TAILQ_NEXT(work, entry);
        if (may_start(q, work))
            start(q, work);
    }
}

static bool is_full(struct work_queue *q, uint64_t caller_bytes, uint64_t bytes, struct error *e)
{
    bool own = caller_bytes + bytes > q->limit / 2;
    if (!own && q->bytes + bytes <= q->limit)
        return false;
    q->refused++;
    error_set(e, own ? "caller_queue_full" : "work_queue_full", "",
              "%llu bytes of %s wait to be read and this body has %llu more; at most %llu may "
              "wait (--max-work), so try again later",
              (unsigned long long)(own ? caller_bytes : q->bytes),
              own ? "your requests" : "requests", (unsigned long long)bytes,
              (unsigned long long)(own ? q->limit / 2 : q->limit));
    if (e) {
        e->queue_length = q->n_waiting;
        e->retry_after_ms = 2000;
    }
    return true;
}

static uint32_t row_of(uint64_t caller)
{
    return (uint32_t)((caller * RANDOM_STEP) >> 32) % WORK_CALLERS;
}

void work_add(struct work_queue *q, struct work *work, uint64_t caller, uint64_t bytes,
              void (*run)(struct work *), void (*done)(struct work *))
{
    uint32_t row = row_of(caller);
    bytes += WORK_OWN_BYTES;
    work->queue = q;
    work->run = run;
    work->done = done;
    work->bytes = bytes;
    work->caller = row;
    work->turn = q->callers[row].next_turn > q->turn ? q->callers[row].next_turn : q->turn;
    work->state = WORK_WAITING;
    atomic_store(&work->cancelled, false);
    q->callers[row].next_turn = work->turn + bytes;
    q->callers[row].bytes += bytes;
    q->bytes += bytes;
    struct work *before = TAILQ_LAST(&q->waiting, work_list);
    while (before && before->turn > work->turn)
        before = TAILQ_PREV(before, work_list, entry);
    if (before)
        TAILQ_INSERT_AFTER(&q->waiting, before, work, entry);
    else
        TAILQ_INSERT_HEAD(&q->waiting, work, entry);
    q->n_waiting++;
    start_some(q);
}

bool work_submit(struct work_queue *q, struct work *work, uint64_t caller, uint64_t bytes,
                 void (*run)(struct work *), void (*done)(struct work *), struct error *e)
{
    if (is_full(q, q->callers[row_of(caller)].bytes, bytes + WORK_OWN_BYTES, e))
        return false;
    work_add(q, work, caller, bytes, run, done);
    return true;
}

void work_cancel(struct work *work)
{
    struct work_queue *q = work->queue;
    if (work->state == WORK_IDLE)
        return;
    atomic_store(&work->cancelled, true);
    if (work->state == WORK_RUNNING)
        return;
    TAILQ_REMOVE(&q->waiting, work, entry);
    q->n_waiting--;
    forget(q, work);
    work->done(work);
}

bool work_is_cancelled(const struct work *work)
{
    return atomic_load_explicit(&work->cancelled, memory_order_relaxed);
}

void work_queue_init(struct work_queue *q, uv_loop_t *loop, uint64_t limit)
{
    memset(q, 0, sizeof *q);
    q->loop = loop;
    q->limit = limit;
    TAILQ_INIT(&q->waiting);
    TAILQ_INIT(&q->running);
    uv_timer_init(loop, &q->trim_timer);
    q->trim_timer.data = q;
#ifdef __GLIBC__
    /* Larger blocks go back to the system when they are freed. Without a number glibc raises the
     * threshold to 32 MiB as such blocks are freed. */
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    /* Small freed blocks are joined at once. Otherwise millions of them are joined together, under the
     * lock of an arena that the loop may need meanwhile: 250 ms for a body of 5 MB. */
    mallopt(M_MXFAST, 0);
#endif
}

/* ---- memory */

static void do_trim(uv_work_t *request)
{
    (void)request;
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

static void on_trimmed(uv_work_t *request, int status)
{
    struct work_queue *q = request->data;
    (void)status;
    q->trimming = false;
    if (q->trim_is_due)
        work_queue_trim(q);
}

static void on_trim_timer(uv_timer_t *timer)
{
    struct work_queue *q = timer->data;
    q->trim_is_due = false;
    q->trimming = true;
    q->trim.data = q;
    uv_queue_work(q->loop, &q->trim, do_trim, on_trimmed);
}

void work_queue_trim(struct work_queue *q)
{
    enum { WAIT_MS = 500 }; /* others may end at the same time */
    q->trim_is_due = true;
    if (!q->trimming && !uv_is_closing((uv_handle_t *)&q->trim_timer))
        uv_timer_start(&q->trim_timer, on_trim_timer, WAIT_MS, 0);
}

void work_queue_close(struct work_queue *q)
{
    uv_close((uv_handle_t *)&q->trim_timer, NULL);
}

void work_queue_stop(struct work_queue *q)
{
    struct work *work;
    TAILQ_FOREACH(work, &q->running, entry)
        atomic_store(&work->cancelled, true);
    while ((work = TAILQ_FIRST(&q->waiting)))
        work_cancel(work);
}
