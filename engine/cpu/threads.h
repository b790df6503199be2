/* The workers of the CPU backend: n threads, of which the calling thread is number 0, run one
 * function together and meet at its end.
 *
 * Between two calls a worker spins for some tens of microseconds, because the next operation of the
 * same forward pass is near, and then sleeps, so that an idle server uses no CPU. Only one thread
 * at a time may call threads_run (the engine thread). */
#ifndef WINNOW_ENGINE_CPU_THREADS_H
#define WINNOW_ENGINE_CPU_THREADS_H

#include <stdint.h>

#include "config/base/error.h"

struct threads;

/* n >= 1. NULL: "out_of_memory" or "engine_fault" when the system gives no thread. */
struct threads *threads_new(uint32_t n, struct error *e);
void threads_free(struct threads *t); /* NULL is allowed */

uint32_t threads_count(const struct threads *t);

/* Calls run(context, 0 .. n - 1), each on its own thread, and returns when all have returned. What
 * the caller wrote before is seen by the workers, and what they wrote by the caller. */
void threads_run(struct threads *t, void (*run)(void *context, uint32_t thread), void *context);

#endif
