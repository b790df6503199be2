/* Waiting for a semaphore, but not for ever: tests look again at what they wait for. */
#ifndef WINNOW_TESTS_UNIT_WAIT_H
#define WINNOW_TESTS_UNIT_WAIT_H

#include <semaphore.h>
#include <time.h>

/* Until somebody posts, or so many milliseconds (below 1,000) have passed. */
static inline void wait_at_most(sem_t *semaphore, long ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += ms * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    sem_timedwait(semaphore, &until);
}

#endif
