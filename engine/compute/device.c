/* Picking and opening a backend: see device.h. */
#include "engine/compute/device.h"

#include <string.h>

#include "cuda/host/backend.h"

bool device_pick(const char *name, enum device_kind *out, const char **why, struct error *e)
{
    char shown[80];
    *why = "";
    *out = DEVICE_CPU;
    if (name && !strcmp(name, "cpu"))
        return true;
    if (name && strcmp(name, "auto") != 0 && strcmp(name, "cuda") != 0)
        return error_set(e, "invalid_value", "--device", "\"%s\" is not auto, cpu or cuda",
                         error_excerpt(shown, name, strlen(name)));
    const char *reason;
    if (cuda_device_count(&reason) > 0)
        *out = DEVICE_CUDA;
    else if (name && !strcmp(name, "cuda"))
        return error_set(e, "device_unavailable", "--device",
                         "--device cuda: no GPU can be used: %s; --device cpu works", reason);
    else
        *why = reason;
    return true;
}

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

bool device_open(struct backend *b, const struct device_options *o, const struct model *m,
                 struct error *e)
{
    bool ok = o->kind == DEVICE_CUDA ? open_cuda(b, o, m, e)
                                     : backend_cpu_open(b, o->n_threads, o->isa, e);
    if (!ok)
        b->close = NULL;
    return ok;
}
