/* How fast this machine reads memory and multiplies: the two roofs that a forward pass is held
 * against. Any thread; starts threads of its own and ends them. Used by `winnow bench`. */
#ifndef WINNOW_ENGINE_MEASURE_BENCH_MACHINE_H
#define WINNOW_ENGINE_MEASURE_BENCH_MACHINE_H

#include "config/base/error.h"

struct bench_machine {
    uint32_t n_threads;
    uint64_t buffer_bytes;    /* that were read: 8 times the last-level cache, at least 256 MiB */
    double read_bytes;        /* a second, best of the passes */
    double operations;        /* floating-point, a second, of chained multiply-adds on registers */
    const char *instructions; /* that made them: "AVX-512", "AVX2", "plain" */
};

/* Takes about a second. isa as in backend_cpu_open. False: "out_of_memory", or "engine_fault" when
 * the system gives no thread. */
bool bench_machine_measure(uint32_t n_threads, const char *isa, struct bench_machine *out,
                           struct error *e);

#endif
