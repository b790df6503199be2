/* Hands out pieces of one block of memory that the caller owns (device memory: nothing is
 * allocated after start). A buddy allocator over offsets: pieces are powers of two of at least
 * BUDDY_LEAST bytes, and a freed piece joins its other half. Touches no memory but its own
 * lists. Engine thread. */
#ifndef WINNOW_CUDA_HOST_BUDDY_H
#define WINNOW_CUDA_HOST_BUDDY_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BUDDY_LEAST 64
#define BUDDY_NONE  UINT64_MAX

struct buddy;

/* Of n_bytes, rounded down to BUDDY_LEAST. NULL: out of memory. */
struct buddy *buddy_new(uint64_t n_bytes);
void buddy_free(struct buddy *a);
/* The offset of a piece of at least `bytes`, a multiple of BUDDY_LEAST; BUDDY_NONE: there is none.
 */
uint64_t buddy_take(struct buddy *a, uint64_t bytes);
void buddy_give(struct buddy *a, uint64_t offset); /* one that buddy_take returned */
uint64_t buddy_used_bytes(const struct buddy *a);  /* of taken pieces, rounded up */

#ifdef __cplusplus
}
#endif
#endif
