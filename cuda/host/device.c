/* The device kind `cuda`: see device.h. The backend allocates every buffer of a step when it is
 * opened, so it gets the sizes of the model here. */
#include "cuda/host/device.h"

#include "cuda/host/backend.h"

static bool open_cuda(struct backend *b, const struct device_options *o, const struct model *m,
                      struct error *e)
{
    uint32_t rows, cols;
    weights_largest(m, &rows, &cols);
    const struct cuda_options cuda = {.n_layers = m->n_layers,
                                      .n_heads = m->n_heads,
                                      .n_kv_heads = m->n_kv_heads,
                                      .head_dim = m->head_dim,
                                      .rope_dim = m->rope_sets[0].dim,
                                      .max_matrix_rows = rows,
                                      .max_matrix_cols = cols,
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
