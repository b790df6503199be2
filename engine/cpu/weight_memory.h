/* Memory of packed weights: large chunks cut into pieces, so that small matrices are in huge pages
 * too. Separate mappings would rarely fill a huge page, and reading the weights, which every token
 * does, would then wait for address translations. Engine thread. */
#ifndef WINNOW_ENGINE_CPU_WEIGHT_MEMORY_H
#define WINNOW_ENGINE_CPU_WEIGHT_MEMORY_H

#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "config/base/error.h"

/* Zeroed: no memory. */
struct weight_memory {
    SLIST_HEAD(weight_chunks, weight_chunk) chunks; /* newest first */
};

/* Zeroed bytes, 64-byte aligned. NULL: "out_of_memory". */
uint8_t *weight_memory_take(struct weight_memory *m, size_t bytes, struct error *e);

/* Gives a piece back. A chunk is unmapped when none of its pieces is in use. */
void weight_memory_give(struct weight_memory *m, const uint8_t *at);

#endif
