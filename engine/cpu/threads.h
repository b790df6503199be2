/* The workers of the CPU backend: n threads, of which the calling thread is number 0, run one
 * function together and wait for each other at its end.
 *
 * Between two calls a worker spins for some tens of microseconds, because the next operation of the
 * same forward pass comes soon. Then it sleeps, so that an idle server uses no CPU. Only the engine
 * thread calls threads_run. */
#ifndef WINNOW_ENGINE_CPU_THREADS_H
#define WINNOW_ENGINE_CPU_THREADS_H

#include <stdint.h>

#include "config/base/error.h"

struct threads;

/* n >= 1. NULL: "out_of_memory", or "engine_fault" when the system starts no thread. */
struct threads *threads_new(uint32_t n, struct error *e);
void threads_free(struct threads *t); /* NULL is allowed */

uint32_t threads_count(const struct threads *t);

/* Calls run(context, i) for i = 0 .. n - 1, each on its own thread, and returns when all have
 * returned. Workers see what the caller wrote before, and the caller sees what they wrote. */
void threads_run(struct threads *t, void (*run)(void *context, uint32_t thread), void *context);

#endif
