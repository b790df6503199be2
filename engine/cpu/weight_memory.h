/* Memory of packed weights: big pieces cut into small ones, so that a model's many small matrices
 * lie in huge pages. A matrix of its own mapping would rarely fill one, and a walk over weights
 * would then wait for translations: every token reads all of them. Engine thread. */
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

/* Gives back what weight_memory_take gave; the system has a chunk again when nothing of it is in
 * use. */
void weight_memory_give(struct weight_memory *m, const uint8_t *at);

#endif
