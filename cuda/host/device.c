/* One CUDA GPU as a kind of device: see device.h. Every buffer of a step is allocated when the
 * backend is opened, so it is told the sizes of the model. */
#include "cuda/host/device.h"

#include "cuda/host/backend.h"

static uint32_t most(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static bool open_cuda(struct backend *b, const struct device_options *o, const struct model *m,
                      struct error *e)
{
    uint32_t n_q = m->n_heads * m->head_dim;
    const struct cuda_options cuda = {.n_layers = m->n_layers,
                                      .n_heads = m->n_heads,
                                      .n_kv_heads = m->n_kv_heads,
                                      .head_dim = m->head_dim,
                                      .rope_dim = m->rope_dim,
                                      .max_matrix_rows =
                                          most(most(m->n_vocab, m->n_ff), most(n_q, m->n_embd)),
                                      .max_matrix_cols = most(most(m->n_ff, m->n_embd), n_q),
                                      .max_rows = o->max_rows,
                                      .max_logits = o->max_logits,
                                      .max_slots = o->max_slots + 2 * PAGE_SLOTS,
                                      .n_vocab = m->n_vocab,
                                      .memory_share = o->memory_share > 0 ? o->memory_share : 0.9};
    return backend_cuda_open(b, &cuda, e);
}

const struct device_kind device_cuda = {.name = "cuda",
                                        .usual_rows = 2048,
                                        .has_own_memory = true,
                                        .count = cuda_device_count,
                                        .open = open_cuda};
