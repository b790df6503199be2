/* The queue before the thread pool: order, fairness, limits, cancelling. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/work.h"
#include "tests/suite.h"

enum { MANY = 64 };

static uv_loop_t loop;
static struct work_queue queue;
static struct work works[MANY];
static uv_sem_t gate; /* a work that runs waits here, if `gated` */
static bool gated;
static atomic_int n_run;
static int n_done, order[MANY];

static void run(struct work *work)
{
    atomic_fetch_add(&n_run, 1);
    while (gated && !work_is_cancelled(work) && uv_sem_trywait(&gate))
        uv_sleep(1);
}

static void done(struct work *work)
{
    ck_assert_int_eq(work->state, WORK_IDLE);
    order[n_done++] = (int)(work - works);
}

static void begin(uint64_t limit)
{
    memset(works, 0, sizeof works);
    n_done = 0;
    gated = false;
    atomic_store(&n_run, 0);
    ck_assert_int_eq(uv_loop_init(&loop), 0);
    ck_assert_int_eq(uv_sem_init(&gate, 0), 0);
    work_queue_init(&queue, &loop, limit);
}

static void end(void)
{
    work_queue_close(&queue);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    uv_sem_destroy(&gate);
    ck_assert_uint_eq(queue.bytes, 0);
    ck_assert_uint_eq(queue.n_waiting + queue.n_running + queue.n_large, 0);
    for (int i = 0; i < WORK_CALLERS; i++)
        ck_assert_uint_eq(queue.callers[i].bytes, 0);
}

static bool submit(int i, uint64_t caller, uint64_t bytes, struct error *e)
{
    return work_submit(&queue, &works[i], caller, bytes, run, done, e);
}

/* The place of work i in the order of their ends. */
static int place(int i)
{
    for (int k = 0; k < n_done; k++)
        if (order[k] == i)
            return k;
    ck_abort_msg("work %d was not done", i);
}

static void open_gate(int n)
{
    for (int i = 0; i < n; i++)
        uv_sem_post(&gate);
}

static void run_until(int wanted)
{
    while (n_done < wanted)
        uv_run(&loop, UV_RUN_ONCE);
}

START_TEST(a_caller_with_much_work_does_not_delay_another)
{
    struct error e;
    begin(1 << 30);
    gated = true;
    for (int i = 0; i < 40; i++)
        ck_assert(submit(i, 1, 100000, &e));
    ck_assert(submit(40, 2, 100000, &e));
    ck_assert_uint_eq(queue.n_running, WORK_THREADS);
    open_gate(41);
    run_until(41);
    /* Those that ran already, and one turn of each thread. */
    ck_assert_int_le(place(40), 2 * WORK_THREADS);
    end();
}
END_TEST

START_TEST(large_bodies_leave_threads_to_small_ones)
{
    struct error e;
    begin(1 << 30);
    gated = true;
    for (int i = 0; i < 8; i++)
        ck_assert(submit(i, 1, WORK_LARGE / 2, &e));
    ck_assert_uint_le(queue.n_running, WORK_LARGE_THREADS);
    ck_assert_uint_le(queue.large_bytes, WORK_LARGE + WORK_OWN_BYTES);
    for (int i = 8; i < 12; i++)
        ck_assert(submit(i, 1, 100, &e));
    ck_assert_uint_gt(queue.n_running, queue.n_large);
    open_gate(12);
    run_until(12);
    end();
}
END_TEST

START_TEST(bytes_have_a_limit_and_a_caller_half_of_it)
{
    struct error e = {0};
    begin(1 << 20);
    gated = true;
    ck_assert(submit(0, 1, 500000, &e));
    ck_assert(!submit(1, 1, 100000, &e));
    ck_assert_str_eq(e.code, "caller_queue_full");
    ck_assert_ptr_nonnull(strstr(e.message, "524288"));
    ck_assert_int_gt(e.retry_after_ms, 0);
    ck_assert(submit(2, 2, 500000, &e));
    ck_assert(!submit(3, 3, 100000, &e));
    ck_assert_str_eq(e.code, "work_queue_full");
    ck_assert_ptr_nonnull(strstr(e.message, "1048576"));
    ck_assert_uint_eq(queue.refused, 2);
    work_add(&queue, &works[4], 3, 100000, run, done); /* what was accepted before */
    open_gate(3);
    run_until(3);
    gated = false;
    ck_assert(submit(1, 1, 100000, &e));
    run_until(4);
    end();
}
END_TEST

START_TEST(cancelled_work_is_done_at_once_or_soon)
{
    struct error e;
    begin(1 << 30);
    gated = true; /* and nobody opens the gate */
    for (int i = 0; i < 12; i++)
        ck_assert(submit(i, 1, 100, &e));
    while (atomic_load(&n_run) < WORK_THREADS)
        uv_sleep(1);
    work_cancel(&works[11]);
    ck_assert_int_eq(n_done, 1);
    ck_assert_int_eq(order[0], 11);
    work_cancel(&works[11]); /* idle: nothing happens */
    work_cancel(&works[0]);
    run_until(2);
    ck_assert_int_eq(place(0), 1);
    work_queue_stop(&queue);
    run_until(12);
    ck_assert_int_le(atomic_load(&n_run),
                     WORK_THREADS + 1); /* of the waiting ones, one had begun */
    end();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("work");
    TCase *tests = suite_case(suite, "work", 30);
    tcase_add_test(tests, a_caller_with_much_work_does_not_delay_another);
    tcase_add_test(tests, large_bodies_leave_threads_to_small_ones);
    tcase_add_test(tests, bytes_have_a_limit_and_a_caller_half_of_it);
    tcase_add_test(tests, cancelled_work_is_done_at_once_or_soon);
    return suite_run(suite);
}
