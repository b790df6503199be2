/* The KV pool on the device, and the operations of a step on it: see engine/compute/backend.h.
 * What write, attend and drop read of the step is on the device already; here they are launched
 * for ranges of segments. */
#include <stdlib.h>
#include <string.h>

#include "cuda/host/backend_private.h"

/* ---- the pool */

void cuda_kv_set_storage(void *self, enum plan_storage storage)
{
    ((struct cuda_backend *)self)->storage = storage;
}

size_t cuda_page_bytes(void *self, uint32_t head_dim)
{
    const struct cuda_backend *c = (const struct cuda_backend *)self;
    return page_layout_of(head_dim, c->storage).bytes;
}

bool cuda_kv_alloc(void *self, uint32_t n_pages, uint32_t head_dim, struct error *e)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    if (head_dim < 1 || head_dim > 256)
        return error_set(e, "invalid_model", "head_dim",
                         "a head has %u dimensions; the CUDA backend can do 1 to 256", head_dim);
    cuda_kv_free(c);
    uint64_t page_bytes = cuda_page_bytes(c, head_dim);
    if (!cuda_take_raw(c, &c->pool, n_pages * page_bytes, "the KV pool", e) ||
        !state_open(c, n_pages, page_bytes, e)) {
        cuda_kv_free(c);
        return false;
    }
    c->step.pool = c->pool;
    c->step.page_bytes = page_bytes;
    c->step.storage = c->storage;
    return true;
}

void cuda_kv_free(void *self)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    cudaStreamSynchronize(c->stream);
    step_forget(c);
    state_close(c);
    cudaFree(c->pool);
    c->pool = NULL;
}

void cuda_kv_copy(void *self, const uint32_t *from, const uint32_t *to, uint32_t n)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    const uint32_t at_once = 4096;
    c->seen_page = UINT32_MAX;
    for (uint32_t done = 0; done < n; done += at_once) {
        uint32_t lists[2][at_once], m = n - done < at_once ? n - done : at_once;
        memcpy(lists[0], from + done, m * sizeof *from);
        memcpy(lists[1], to + done, m * sizeof *to);
        const uint32_t *sent = (const uint32_t *)mailbox_send(c, lists, sizeof lists);
        launch_kv_copy(c->stream, c->pool, c->step.page_bytes, sent, sent + at_once, m);
    }
}

/* ---- the operations of a step */

/* While recording, the launch is sized for the bucket: kernels read the real number of rows. */
static struct wave wave_of(const struct cuda_backend *c, uint32_t wave)
{
    struct wave w = c->waves[wave];
    if (c->mode == STEP_RECORD) {
        w.n = w.n_single = c->key.n_rows;
        w.max_slots = c->key.max_slots;
    }
    return w;
}

void cuda_write(void *self, const struct step *step, uint32_t layer, uint32_t wave,
                const struct kv_rows *rows)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    (void)step; /* it is on the device */
    c->seen_page = UINT32_MAX;
    struct wave w = wave_of(c, wave);
    launch_kv_write(c->stream, &c->step, layer, w.first, w.n, w.max_rows, rows->k, rows->v);
}

void cuda_attend(void *self, const struct step *step, uint32_t layer, uint32_t wave,
                 const struct attention *a)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    (void)step;
    c->step.sink_logits = a->sink_logits;
    struct wave w = wave_of(c, wave);
    /* Rows of logits are written a tile at a time: whole pages keep them apart and aligned. */
    struct attention_workspace space = c->attention;
    space.max_slots = (uint32_t)pages_of_slots(w.max_slots) * PAGE_SLOTS;
    /* Working memory limits how many rows can be alone in their segments at once. */
    for (uint32_t i = 0; w.n_single > 0 && i < w.n; i += space.max_decode)
        launch_attention_decode(c->stream, &c->step, layer, w.first + i,
                                w.n - i < space.max_decode ? w.n - i : space.max_decode, a->q,
                                a->q_sink, a->out, &space);
    if (w.n_single < w.n)
        launch_attention_prefill(c->stream, &c->step, layer, w.first, w.n, w.max_rows, a->q,
                                 a->q_sink, a->out, &space);
    if (w.scores_rows)
        launch_score_prefill(c->stream, &c->step, layer, w.first, w.n, w.max_slots, a->q, &space);
}

bool cuda_drop(void *self, const struct step *step, uint32_t layer, uint32_t wave, struct error *e)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    (void)step, (void)e;
    const uint32_t slots = c->key.drop_slots;
    c->seen_page = UINT32_MAX;
    if (slots == 0)
        return true;
    struct wave w = wave_of(c, wave);
    uint32_t at_once = (uint32_t)(c->select_bytes / select_scratch_bytes(&c->step, 1, slots));
    for (uint32_t i = 0; i < w.n; i += at_once)
        launch_evict(c->stream, &c->step, layer, w.first + i, w.n - i < at_once ? w.n - i : at_once,
                     slots, c->select_scratch);
    return true;
}

/* ---- the end of a prompt */

static void fill_job(struct device_job *to, const struct select_job *from)
{
    const struct head_state *head = from->head;
    *to = (struct device_job){};
    to->head.pages = head->table;
    to->head.scores = head->scores;
    to->head.history = head->history;
    to->head.key_sum = head->key_sum;
    to->head.summary = head->summary;
    to->head.holes = head->holes;
    to->head.counters = head->counters;
    to->head.n_slots = from->n_slots;
    to->head.window = UINT32_MAX;
    to->head.votes = from->votes;
    to->choice = step_choice_of(from);
    to->layer = from->layer;
    to->kv_head = from->kv_head;
    to->budget = from->budget;
    to->forgets = select_job_forgets(from);
}

/* Reads back how much each head kept. This waits for the device, once a layer and prompt. */
bool cuda_compress(void *self, struct select_job *jobs, uint32_t n_jobs, struct error *e)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    c->seen_page = UINT32_MAX;
    struct device_job *list = (struct device_job *)malloc(n_jobs * sizeof *list);
    uint32_t *n_kept = (uint32_t *)malloc(n_jobs * sizeof *n_kept), max_slots = 0;
    bool ok = list && n_kept;
    for (uint32_t i = 0; ok && i < n_jobs; i++) {
        fill_job(&list[i], &jobs[i]);
        max_slots = jobs[i].n_slots > max_slots ? jobs[i].n_slots : max_slots;
    }
    if (ok) {
        state_flush(c);
        const struct device_job *sent =
            (const struct device_job *)mailbox_send(c, list, n_jobs * sizeof *list);
        launch_compress(c->stream, &c->step, sent, n_jobs, max_slots, c->n_kept, c->select_scratch);
        cuda_check(c,
                   cudaMemcpyAsync(n_kept, c->n_kept, n_jobs * sizeof *n_kept,
                                   cudaMemcpyDeviceToHost, c->stream),
                   "reading what heads kept");
        cuda_check(c, cudaStreamSynchronize(c->stream), "dropping slots");
    }
    for (uint32_t i = 0; ok && !c->failed && i < n_jobs; i++)
        jobs[i].n_kept = n_kept[i];
    free(list);
    free(n_kept);
    if (!ok)
        return error_set_memory(e, "choosing slots", n_jobs * sizeof *list);
    return !c->failed || cuda_fail(c, e);
}

/* ---- reading back */

static void read_back(struct cuda_backend *c, void *to, const void *from, size_t bytes)
{
    cuda_check(c, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, c->stream),
               "reading the cache");
    cuda_check(c, cudaStreamSynchronize(c->stream), "reading the cache");
}

/* Callers read positions one after the other, so a whole page of them is fetched at once. */
int32_t cuda_kv_read(void *self, uint32_t page, uint32_t index, uint32_t head_dim, float *k,
                     float *v)
{
    struct cuda_backend *c = (struct cuda_backend *)self;
    if (c->seen_page != page) {
        read_back(c, c->seen_positions, c->pool + page * c->step.page_bytes,
                  sizeof c->seen_positions);
        c->seen_page = page;
    }
    if (k || v) {
        launch_kv_read(c->stream, c->pool, c->step.page_bytes, c->storage, head_dim, page, index,
                       c->read_k, c->read_k + head_dim, c->read_position);
        if (k)
            read_back(c, k, c->read_k, head_dim * sizeof *k);
        if (v)
            read_back(c, v, c->read_k + head_dim, head_dim * sizeof *v);
    }
    return c->seen_positions[index];
}
