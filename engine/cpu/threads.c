/* A barrier of two counters: `generation` grows when there is work, `pending` falls to 0 when it is
 * done. A waiting thread first spins and then sleeps under the mutex.
 *
 * No wake-up is lost: a sleeper announces itself before it reads the counter for the last time, a
 * waker changes the counter before it looks for sleepers (both sequentially consistent), and the
 * sleeper holds the mutex from its announcement until it waits. */
#include "engine/cpu/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* About 50 microseconds of pause instructions: longer than the gap between two operations of a
 * forward pass, shorter than anyone would notice in an idle server's CPU time. */
#define SPINS 1500

struct worker {
    struct threads *team;
    pthread_t thread;
    uint32_t number;
};

struct threads {
    uint32_t n;
    uint32_t n_started; /* entries of workers[1 ..] that must be joined */
    _Atomic uint32_t generation;
    _Atomic uint32_t pending;
    _Atomic uint32_t workers_asleep;
    _Atomic bool caller_asleep;
    _Atomic bool stop;
    void (*run)(void *context, uint32_t thread);
    void *context;
    pthread_mutex_t mutex;
    pthread_cond_t work, done;
    struct worker workers[];
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#else
    sched_yield();
#endif
}

static void wait_for_work(struct threads *t, uint32_t seen)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&t->generation, memory_order_acquire) != seen)
            return;
        relax();
    }
    pthread_mutex_lock(&t->mutex);
    atomic_fetch_add(&t->workers_asleep, 1);
    while (atomic_load(&t->generation) == seen)
        pthread_cond_wait(&t->work, &t->mutex);
    atomic_fetch_sub(&t->workers_asleep, 1);
    pthread_mutex_unlock(&t->mutex);
}

static void wait_for_done(struct threads *t)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&t->pending, memory_order_acquire) == 0)
            return;
        relax();
    }
    pthread_mutex_lock(&t->mutex);
    atomic_store(&t->caller_asleep, true);
    while (atomic_load(&t->pending) != 0)
        pthread_cond_wait(&t->done, &t->mutex);
    atomic_store(&t->caller_asleep, false);
    pthread_mutex_unlock(&t->mutex);
}

static void announce_work(struct threads *t)
{
    atomic_fetch_add(&t->generation, 1);
    if (atomic_load(&t->workers_asleep) > 0) {
        pthread_mutex_lock(&t->mutex);
        pthread_cond_broadcast(&t->work);
        pthread_mutex_unlock(&t->mutex);
    }
}

static void report_done(struct threads *t)
{
    if (atomic_fetch_sub(&t->pending, 1) == 1 && atomic_load(&t->caller_asleep)) {
        pthread_mutex_lock(&t->mutex);
        pthread_cond_signal(&t->done);
        pthread_mutex_unlock(&t->mutex);
    }
}

static void *work(void *argument)
{
    struct worker *me = argument;
    struct threads *t = me->team;
    for (uint32_t seen = 0;; seen++) {
        wait_for_work(t, seen);
        if (atomic_load(&t->stop))
            return NULL;
        t->run(t->context, me->number);
        report_done(t);
    }
}

struct threads *threads_new(uint32_t n, struct error *e)
{
    size_t bytes = sizeof(struct threads) + (size_t)n * sizeof(struct worker);
    struct threads *t = calloc(1, bytes);
    if (t == NULL) {
        error_set_memory(e, "the CPU threads", bytes);
        return NULL;
    }
    t->n = n;
    pthread_mutex_init(&t->mutex, NULL);
    pthread_cond_init(&t->work, NULL);
    pthread_cond_init(&t->done, NULL);
    for (uint32_t i = 1; i < n; i++) {
        t->workers[i] = (struct worker){.team = t, .number = i};
        int status = pthread_create(&t->workers[i].thread, NULL, work, &t->workers[i]);
        if (status != 0) {
            error_set(e, "engine_fault", "--threads", "cannot start CPU thread %u of %u: %s", i + 1,
                      n, strerror(status));
            threads_free(t);
            return NULL;
        }
        t->n_started++;
    }
    return t;
}

void threads_free(struct threads *t)
{
    if (t == NULL)
        return;
    atomic_store(&t->stop, true);
    announce_work(t);
    for (uint32_t i = 1; i <= t->n_started; i++)
        pthread_join(t->workers[i].thread, NULL);
    pthread_cond_destroy(&t->done);
    pthread_cond_destroy(&t->work);
    pthread_mutex_destroy(&t->mutex);
    free(t);
}

uint32_t threads_count(const struct threads *t)
{
    return t->n;
}

void threads_run(struct threads *t, void (*run)(void *context, uint32_t thread), void *context)
{
    if (t->n == 1) {
        run(context, 0);
        return;
    }
    t->run = run;
    t->context = context;
    atomic_store(&t->pending, t->n - 1);
    announce_work(t);
    run(context, 0);
    wait_for_done(t);
}
