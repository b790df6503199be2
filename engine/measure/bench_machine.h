/* How fast this machine reads memory and multiplies: the two limits that a forward pass is compared
 * with. Any thread; starts and ends threads of its own. Used by `winnow bench`. */
#ifndef WINNOW_ENGINE_MEASURE_BENCH_MACHINE_H
#define WINNOW_ENGINE_MEASURE_BENCH_MACHINE_H

#include "config/base/error.h"

struct bench_machine {
    uint32_t n_threads;
    uint64_t buffer_bytes;    /* read per pass: 8 times the last-level cache, at least 256 MiB */
    double read_bytes;        /* per second, best of the passes */
    double operations;        /* floating-point, per second, of multiply-adds on registers */
    const char *instructions; /* of the multiply-adds: "AVX-512", "AVX2", "plain" */
};

/* Takes about a second. isa as in backend_cpu_open. False: "out_of_memory", or "engine_fault" when
 * the system gives no thread. */
bool bench_machine_measure(uint32_t n_threads, const char *isa, struct bench_machine *out,
                           struct error *e);

#endif
