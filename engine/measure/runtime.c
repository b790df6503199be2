/* Builds what a forward pass needs: see runtime.h. */
#include "engine/measure/runtime.h"

#include <stdlib.h>
#include <string.h>

#include "config/base/log.h"
#include "engine/compute/machine.h"
#include "engine/measure/profile_file.h"

/* ---- load */

static bool load_model(struct runtime *r, struct error *e)
{
    const struct runtime_options *o = &r->options;
    if (!o->model && !o->model_path)
        return error_set(e, "invalid_value", "model", "no model file was named");
    r->model = o->model ? o->model
                        : model_open_as(o->model_path, o->no_mmap ? SOURCE_COPIED : SOURCE_MAPPED,
                                        o->progress, o->progress_context, e);
    return r->model != NULL;
}

static bool load_tokenizer(struct runtime *r, struct error *e)
{
    if (!r->options.needs_tokenizer)
        return true;
    r->tokenizer = tokenizer_new(r->model->source, e);
    return r->tokenizer &&
           ((uint32_t)tokenizer_n_vocab(r->tokenizer) == r->model->n_vocab ||
            error_set(e, "invalid_model", "",
                      "the vocabulary has %d tokens and the model's matrices have %u rows",
                      tokenizer_n_vocab(r->tokenizer), r->model->n_vocab));
}

static bool load_profile(struct runtime *r, struct error *e)
{
    const char *path = r->options.head_profile, *model_path = r->options.model_path;
    if (path && *path) {
        r->profile = profile_file_open(path, r->model, e);
        return r->profile != NULL;
    }
    char *beside = path || !model_path ? NULL : profile_file_beside(model_path);
    struct error why;
    if (beside && !(r->profile = profile_file_open(beside, r->model, &why)))
        log_line(LOG_WARNING, "%s is not used: %s", beside, why.message);
    free(beside);
    return true;
}

bool runtime_load(struct runtime *r, const struct runtime_options *options, struct error *e)
{
    r->options = *options;
    struct runtime_options *o = &r->options;
    o->n_threads = o->n_threads ? o->n_threads : machine_cores("");
    if (o->max_rows == 0)
        o->max_rows = o->max_logits > o->device->usual_rows ? o->max_logits : o->device->usual_rows;
    return load_model(r, e) && load_tokenizer(r, e) && load_profile(r, e);
}

/* ---- start */

bool runtime_start(struct runtime *r, struct error *e)
{
    const struct runtime_options *o = &r->options;
    const struct device_options device = {.n_threads = o->n_threads,
                                          .isa = o->isa,
                                          .memory_share = o->memory_share,
                                          .max_rows = o->max_rows,
                                          .max_logits = o->max_logits,
                                          .max_slots = r->model->n_ctx_train};
    if (!device_open(&r->backend, o->device, &device, r->model, e))
        return false;
    r->forward = forward_new(&r->backend, r->model, o->max_rows, o->max_logits, e);
    if (!r->forward)
        return false;
    runtime_set_storage(r, STORAGE_F16);
    return true;
}

/* ---- the pool */

static void free_pool(struct runtime *r)
{
    batch_free(r->batch);
    cache_free(r->cache);
    r->batch = NULL;
    r->cache = NULL;
    if (r->backend.close)
        r->backend.kv_free(r->backend.self);
    r->n_pages = 0;
}

void runtime_set_storage(struct runtime *r, enum plan_storage storage)
{
    free_pool(r);
    r->backend.kv_set_storage(r->backend.self, storage);
    r->storage = storage;
    r->page_bytes = r->backend.page_bytes(r->backend.self, r->model->head_dim);
}

uint64_t runtime_pages(const struct runtime *r, uint64_t n_tokens)
{
    return pages_of_slots(n_tokens) * r->model->n_layers * r->model->n_kv_heads;
}

bool runtime_has_room(const struct runtime *r, uint64_t n_pages, const char *where,
                      const char *advice, struct error *e)
{
    uint64_t available = r->backend.memory_free(r->backend.self), bytes;
    if (__builtin_mul_overflow(n_pages, r->page_bytes, &bytes))
        bytes = UINT64_MAX;
    return available == 0 || bytes <= available ||
           error_set(e, "out_of_memory", where,
                     "%llu pages of %llu bytes need %llu MiB of KV memory and %llu MiB are free; "
                     "%s",
                     (unsigned long long)n_pages, (unsigned long long)r->page_bytes,
                     (unsigned long long)(bytes >> 20), (unsigned long long)(available >> 20),
                     advice);
}

bool runtime_set_pool(struct runtime *r, uint64_t n_pages, struct error *e)
{
    const struct model *m = r->model;
    const struct backend *be = &r->backend;
    free_pool(r);
    if (n_pages > UINT32_MAX / 2)
        return error_set(e, "out_of_memory", "", "%llu pages are more than the %u that a cache has",
                         (unsigned long long)n_pages, UINT32_MAX / 2);
    if (!be->kv_alloc(be->self, (uint32_t)n_pages, m->head_dim, e))
        return false;
    r->n_pages = (uint32_t)n_pages;
    r->cache = cache_new(m->n_layers, m->n_kv_heads, m->head_dim, r->n_pages, e);
    if (!r->cache)
        return false;
    cache_set_memory(r->cache, be->state_memory);
    cache_set_profile(r->cache, r->profile);
    cache_set_reader(r->cache, runtime_read_position, r);
    r->batch = batch_new(r->cache, m, r->options.max_rows, r->options.max_logits, e);
    return r->batch != NULL;
}

int32_t runtime_read_position(void *runtime, uint32_t page, uint32_t index)
{
    const struct runtime *r = runtime;
    return r->backend.kv_read(r->backend.self, page, index, r->model->head_dim, NULL, NULL);
}

struct plan_limits runtime_limits(const struct runtime *r)
{
    return (struct plan_limits){
        .n_ctx_train = r->model->n_ctx_train, .profile = r->profile, .storage = r->storage};
}

/* ---- end */

void runtime_close(struct runtime *r)
{
    forward_free(r->forward);
    free_pool(r);
    if (r->backend.close)
        r->backend.close(r->backend.self);
    head_profile_free(r->profile);
    tokenizer_free(r->tokenizer);
    if (!r->options.model)
        model_close(r->model);
    memset(r, 0, sizeof *r);
}
