/* All that a forward pass needs, built and freed in one place: for the server, `winnow bench`,
 * `winnow eval` and `winnow calibrate`. In three steps, because each user decides something between
 * them:
 *
 *   runtime_load       model, tokenizer, head profile      then: lengths that fit the model
 *   runtime_start      backend, forward pass (weights)     then: pages that fit the memory left
 *   runtime_set_pool   KV pool, cache, batch               again for another storage or size
 *
 * After a step that failed only runtime_close may be called; it frees what there is. One thread at a
 * time: the one that opens, then the one that runs steps, then the one that closes. */
#ifndef WINNOW_ENGINE_MEASURE_RUNTIME_H
#define WINNOW_ENGINE_MEASURE_RUNTIME_H

#include "engine/compute/device.h"
#include "engine/compute/forward.h"
#include "engine/text/tokenizer.h"

struct runtime_options {
    const char *model_path;
    struct model
        *model; /* instead of a path: the caller's, outlives the runtime. NULL = the path */
    const char *head_profile; /* of `winnow calibrate` or DuoAttention; NULL or "" = none */
    bool needs_tokenizer;     /* else none is made, and the model's vocabulary is not looked at */
    const struct device_kind *device;
    uint32_t n_threads;  /* 0 = physical cores, respecting affinity and cgroup quota */
    const char *isa;     /* NULL = best */
    double memory_share; /* of a device's own memory that may be used; 0 = the device's default */
    uint32_t max_rows;   /* of a step; 0 = the device's usual rows, or max_logits if more */
    uint32_t max_logits; /* of a step, >= 1 */
    void (*progress)(void *context, double share); /* of the model; any thread; may be NULL */
    void *progress_context;
};

struct runtime {
    struct runtime_options options; /* its strings are used until runtime_start; n_threads and
                                       max_rows are resolved by runtime_load */

    /* runtime_load */
    struct model *model;
    struct tokenizer *tokenizer;  /* NULL unless it was asked for */
    struct head_profile *profile; /* NULL = none */

    /* runtime_start */
    struct backend backend;
    struct forward *forward;

    /* runtime_set_storage */
    enum plan_storage storage; /* of cached keys and values */
    uint64_t page_bytes;

    /* runtime_set_pool */
    uint32_t n_pages;
    struct cache *cache;
    struct batch *batch;
};

/* Fills *r, which must be zero. False: "invalid_model", "file_not_found", "invalid_value",
 * "out_of_memory", ... */
bool runtime_load(struct runtime *r, const struct runtime_options *o, struct error *e);
/* False: "device_unavailable", "unsupported_value", "out_of_memory". The backend keeps a pointer
 * into *r, which must stay where it is. The storage is f16 afterwards. */
bool runtime_start(struct runtime *r, struct error *e);

/* Frees the pool. Every sequence must be freed before. */
void runtime_set_storage(struct runtime *r, enum plan_storage storage);
/* Pages that n tokens fill in all heads. */
uint64_t runtime_pages(const struct runtime *r, uint64_t n_tokens);
/* Whether n_pages are less than what is free. False: "out_of_memory" with the numbers; `advice`
 * says what would need less, `where` which flag. */
bool runtime_has_room(const struct runtime *r, uint64_t n_pages, const char *where,
                      const char *advice, struct error *e);
/* A pool of n_pages in place of the one before; every sequence must be freed before. False:
 * "out_of_memory". */
bool runtime_set_pool(struct runtime *r, uint64_t n_pages, struct error *e);

/* Engine thread. The position that a slot holds; for cache_set_reader and cache_audit. */
int32_t runtime_read_position(void *runtime, uint32_t page, uint32_t index);
/* What plans are resolved against. */
struct plan_limits runtime_limits(const struct runtime *r);

/* Of a runtime that is zero, or that a step left behind. Every sequence must be freed before. */
void runtime_close(struct runtime *r);

#endif
