/* Everything that a forward pass needs, built and freed in one place, for the server, `winnow
 * bench`, `winnow eval` and `winnow calibrate`. It has three steps, because each user decides
 * something between them:
 *
 *   runtime_load       model, tokenizer, head profile      then: lengths that fit the model
 *   runtime_start      backend, forward pass (weights)     then: pages that fit the memory left
 *   runtime_set_pool   KV pool, cache, batch               again for another storage or size
 *
 * After a failed step only runtime_close may be called. One thread at a time: the one that opens,
 * then the one that runs steps, then the one that closes. */
#ifndef WINNOW_ENGINE_MEASURE_RUNTIME_H
#define WINNOW_ENGINE_MEASURE_RUNTIME_H

#include "engine/compute/device.h"
#include "engine/compute/forward.h"
#include "engine/text/tokenizer.h"

struct runtime_options {
    const char *model_path;
    struct model *model; /* the caller's, used instead of model_path; outlives the runtime. May be
                            NULL */
    bool no_mmap;        /* copy the file into memory instead of mapping it */
    /* A file of `winnow calibrate` or DuoAttention. NULL: NAME.heads.json beside NAME.gguf, if there is
     * one that fits the model. "": none. */
    const char *head_profile;
    bool needs_tokenizer; /* else none is made, and the vocabulary is not checked */
    const struct device_kind *device;
    uint32_t n_threads;  /* 0 = physical cores, within affinity and cgroup quota */
    const char *isa;     /* NULL = best */
    double memory_share; /* the share of a device's memory that may be used; 0 = its default */
    uint32_t max_rows;   /* of a step; 0 = the larger of the device's usual rows and max_logits */
    uint32_t max_logits; /* of a step, >= 1 */
    void (*progress)(void *context, double share); /* of the model; any thread; may be NULL */
    void *progress_context;
};

struct runtime {
    struct runtime_options options; /* its strings are used until runtime_start; n_threads and
                                       max_rows are resolved by runtime_load */

    /* runtime_load */
    struct model *model;
    struct tokenizer *tokenizer;  /* NULL without needs_tokenizer */
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
/* *r must not be moved afterwards, because the backend keeps a pointer into it. The storage is f16.
 * False: "device_unavailable", "unsupported_value", "out_of_memory". */
bool runtime_start(struct runtime *r, struct error *e);

/* Sets how K and V are stored, and frees the pool. Every sequence must be freed before. */
void runtime_set_storage(struct runtime *r, enum plan_storage storage);
/* Pages that n_tokens fill in all heads of all layers. */
uint64_t runtime_pages(const struct runtime *r, uint64_t n_tokens);
/* Whether the free memory holds n_pages. False: "out_of_memory" with the numbers; `where` is the
 * flag and `advice` says what would need less. */
bool runtime_has_room(const struct runtime *r, uint64_t n_pages, const char *where,
                      const char *advice, struct error *e);
/* Replaces the pool by one of n_pages. Every sequence must be freed before. False:
 * "out_of_memory". */
bool runtime_set_pool(struct runtime *r, uint64_t n_pages, struct error *e);

/* Engine thread. The position that a slot holds; for cache_set_reader and cache_audit. */
int32_t runtime_read_position(void *runtime, uint32_t page, uint32_t index);
/* What plans are resolved against. */
struct plan_limits runtime_limits(const struct runtime *r);

/* Frees everything. *r may be zero, or a step may have failed. Every sequence must be freed
 * before. */
void runtime_close(struct runtime *r);

#endif
