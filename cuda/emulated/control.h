/* What a test can control of the emulated device: the order of threads, faults, failing calls,
 * leaks. C and C++; every function may be called from any thread between launches, never from a
 * kernel. */
#ifndef TESTS_CUDA_EMU_CONTROL_H
#define TESTS_CUDA_EMU_CONTROL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* 0: blocks and threads run in index order. Otherwise blocks are shuffled and the next thread is
 * drawn among those that can run, from this seed; atomics and fences then also change the thread.
 * Starts as WINNOW_EMU_SEED from the environment, else 0. */
void emu_set_seed(uint64_t seed);

/* Called with a message that names kernel, block, thread and fault. When it returns, the launch is
 * abandoned and the device answers cudaErrorLaunchFailure until emu_reset. NULL (the default):
 * print the message and abort. */
void emu_on_fault(void (*handler)(const char *message, void *context), void *context);

/* The nth call from now (1: the next) of an API function, by name ("cudaMalloc"), returns `error`
 * and does nothing else. The name "launch" stands for kernel launches that run: the nth leaves a
 * sticky error, which every later call returns until emu_reset, as after a device fault. */
void emu_fail(const char *call, long nth, int error);

/* Forgets errors, planned failures and captures; keeps allocations, seed and fault handler. */
void emu_reset(void);

/* Number of device and pinned allocations that are not freed. */
size_t emu_n_allocations(void);

/* Device memory in all, for cudaMemGetInfo and cudaMalloc's refusal. Starts as 1 GiB: an engine whose
 * pool is not limited takes 0.9 of it, which tests on a machine with 8 GB must be able to. */
void emu_set_memory(size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
