/* What the runtime API calls of the part that runs threads: one grid, to its end or to a fault. */
#ifndef TESTS_CUDA_EMU_FIBERS_H
#define TESTS_CUDA_EMU_FIBERS_H

#include "cuda/emulated/emulated.h"

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#endif
#ifndef EMU_ASAN
#define EMU_ASAN 0
#endif

namespace emu
{
/* Runs every block. False after a fault that the handler survived. */
bool run_grid(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
              const std::function<void()> &body);
/* A fault outside any thread: after a kernel, found in memory. */
void report(const char *message);
/* Guard bytes after a block of memory; without ASan only. */
constexpr size_t canary_bytes = EMU_ASAN ? 0 : 64;
void canary_set(void *end);
bool canary_holds(const void *end);
} // namespace emu

#endif
