/* The transformer, once, over backend operations: see forward.h. Reads top to bottom like the
 * papers. Reads the facts of every layer (struct layer_spec) and names no model. */
#include "engine/compute/forward.h"

#include <stdlib.h>

#include "engine/compute/batch.h"

struct forward {
    const struct backend *backend;
    const struct model *model;
    uint32_t max_rows, max_logits;
    struct weights *weights; /* the model's, in this backend's form */

    /* Activations, rows = max_rows. q: [rows][n_heads * key_size]; k, v: [rows][n_kv_heads *
     * key_size or value_size]; out: [rows][n_heads * value_size] */
    float *x, *h, *q, *q_sink, *k, *v, *out, *gate, *up, *angles, *sink_angles;
    float *logit_x, *logits; /* [max_logits][n_embd], [max_logits][n_vocab] */
    float *host_logits;      /* [max_logits][n_vocab] */
    forward_observer *observe;
    void *observe_context;
    float *observed; /* [max_rows][n_heads * head_dim] host copy of q, while somebody observes */
};

static bool prepare_weight(void *context, const struct weight_item *item, struct error *e)
{
    const struct backend *be = context;
    struct weight *w = item->weight;
    if (!w->data || item->use == WEIGHT_ON_HOST)
        return true;
    if (item->use != WEIGHT_VECTOR)
        return be->weight_prepare(be->self, w, item->use == WEIGHT_MULTIPLIED, e);
    float *copy = be->alloc(be->self, w->cols, e);
    if (!copy)
        return false;
    be->upload(be->self, copy, w->data, w->cols);
    w->prepared = copy;
    return true;
}

/* Also of weights that were not prepared. */
static bool release_weight(void *context, const struct weight_item *item, struct error *e)
{
    const struct backend *be = context;
    struct weight *w = item->weight;
    (void)e;
    if (w->prepared && item->use == WEIGHT_VECTOR)
        be->free(be->self, w->prepared);
    else if (w->prepared)
        be->weight_release(be->self, w);
    return true;
}

/* The widest rows of any layer. */
struct widths {
    size_t q, k, v, out, ff;
};

static size_t most(size_t a, size_t b)
{
    return a > b ? a : b;
}

static struct widths widest(const struct model *m)
{
    struct widths w = {0};
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const struct layer_spec *s = &m->layers[i];
        w.q = most(w.q, (size_t)s->n_heads * s->key_size);
        w.k = most(w.k, (size_t)s->n_kv_heads * s->key_size);
        w.v = most(w.v, (size_t)s->n_kv_heads * s->value_size);
        w.out = most(w.out, (size_t)s->n_heads * s->value_size);
        w.ff = most(w.ff, s->n_ff);
    }
    return w;
}

static bool allocate(struct forward *f, struct error *e)
{
    const struct model *m = f->model;
    const struct widths w = widest(m);
    size_t rows = f->max_rows, n_angles = rows * m->rope_sets[0].dim;
    struct {
        float **buffer;
        size_t n;
    } wanted[] = {{&f->x, rows * m->n_embd},
                  {&f->h, rows * m->n_embd},
                  {&f->q, rows * w.q},
                  {&f->q_sink, rows * w.q},
                  {&f->k, rows * w.k},
                  {&f->v, rows * w.v},
                  {&f->out, rows * w.out},
                  {&f->gate, rows * w.ff},
                  {&f->up, rows * w.ff},
                  {&f->angles, n_angles},
                  {&f->sink_angles, n_angles},
                  {&f->logit_x, (size_t)f->max_logits * m->n_embd},
                  {&f->logits, (size_t)f->max_logits * m->n_vocab}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!(*wanted[i].buffer = f->backend->alloc(f->backend->self, wanted[i].n, e)))
            return false;
    f->host_logits = f->backend->host_alloc(
        f->backend->self, (size_t)f->max_logits * m->n_vocab * sizeof *f->host_logits, e);
    return f->host_logits != NULL;
}

struct forward *forward_new(const struct backend *backend, const struct model *model,
                            uint32_t max_rows, uint32_t max_logits, struct error *e)
{
    struct forward *f = calloc(1, sizeof *f);
    if (!f) {
        error_set_memory(e, "the forward pass", sizeof *f);
        return NULL;
    }
    *f = (struct forward){
        .backend = backend, .model = model, .max_rows = max_rows, .max_logits = max_logits};
    f->weights = weights_copy(model->weights, model->n_layers, e);
    if (f->weights && allocate(f, e) &&
        weights_visit(model, f->weights, prepare_weight, (void *)(uintptr_t)backend, e))
        return f;
    forward_free(f);
    return NULL;
}

void forward_free(struct forward *f)
{
    if (!f)
        return;
    const struct backend *be = f->backend;
    if (f->weights)
        weights_visit(f->model, f->weights, release_weight, (void *)(uintptr_t)be, NULL);
    float *buffers[] = {f->x,    f->h,  f->q,      f->q_sink,      f->k,       f->v,     f->out,
                        f->gate, f->up, f->angles, f->sink_angles, f->logit_x, f->logits};
    for (size_t k = 0; k < sizeof buffers / sizeof *buffers; k++)
        if (buffers[k])
            be->free(be->self, buffers[k]);
    free(f->weights);
    be->host_free(be->self, f->host_logits);
    free(f->observed);
    free(f);
}

bool forward_set_observer(struct forward *f, forward_observer *observe, void *context,
                          struct error *e)
{
    size_t n = (size_t)f->max_rows * f->model->n_heads * f->model->head_dim;
    if (observe && !f->observed && !(f->observed = malloc(n * sizeof *f->observed)))
        return error_set_memory(e, "observed queries", n * sizeof *f->observed);
    f->observe = observe;
    f->observe_context = context;
    return true;
}

/* The layers, and the logits of the rows that want them in f->logits. */
static bool compute(struct forward *f, struct batch *b, struct error *e)
{
    const struct backend *be = f->backend;
    const struct model *m = f->model;
    void *self = be->self;
    uint32_t n = b->n_rows;

    be->embed(self, f->x, &f->weights->token_embd, b->tokens, n);
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const struct layer_spec *s = &m->layers[i];
        const struct layer_weights *l = &f->weights->layers[i];

        be->rms_norm(self, f->h, f->x, weight_vector(&l->attn_norm), n, m->n_embd, m->norm_eps);
        const struct product qkv[] = {{f->q, &l->wq, weight_vector(&l->bq)},
                                      {f->k, &l->wk, weight_vector(&l->bk)},
                                      {f->v, &l->wv, weight_vector(&l->bv)}};
        be->products(self, qkv, 3, f->h, n);
        if (l->q_norm.prepared) {
            be->rms_norm(self, f->q, f->q, weight_vector(&l->q_norm), n * s->n_heads, s->key_size,
                         m->norm_eps);
            be->rms_norm(self, f->k, f->k, weight_vector(&l->k_norm), n * s->n_kv_heads,
                         s->key_size, m->norm_eps);
        }
        if (b->sink_query)
            be->copy(self, f->q_sink, f->q, (size_t)n * s->n_heads * s->key_size);
        if (s->rope != ROPE_NONE) {
            const struct rope_set *rope = &m->rope_sets[s->rope];
            if (b->sink_query)
                be->rope(self, f->q_sink, f->sink_angles, n, s->n_heads, s->key_size, rope->dim,
                         rope->neox);
            be->rope(self, f->q, f->angles, n, s->n_heads, s->key_size, rope->dim, rope->neox);
            be->rope(self, f->k, f->angles, n, s->n_kv_heads, s->key_size, rope->dim, rope->neox);
        }
        if (f->observe) {
            if (!be->download(self, f->observed, f->q, (size_t)n * s->n_heads * s->key_size, e))
                return false;
            f->observe(f->observe_context, i, f->observed, n);
        }
        for (uint32_t wave = 0; wave < b->n_waves; wave++) {
            uint32_t n_segments = batch_wave(b, i, wave);
            be->kv_write(self, f->k, f->v, b->positions, b->wave, n_segments, s->n_kv_heads,
                         s->key_size);
            be->attention(self, f->out, f->q, b->sink_query ? f->q_sink : NULL, b->positions,
                          b->wave, n_segments, s->n_heads, s->n_kv_heads, s->key_size);
            if (!batch_drop(b, be, i, wave, n_segments, e))
                return false;
        }
        be->matmul(self, f->h, &l->wo, f->out, n, weight_vector(&l->bo));
        be->add(self, f->x, f->h, (size_t)n * m->n_embd);

        be->rms_norm(self, f->h, f->x, weight_vector(&l->ffn_norm), n, m->n_embd, m->norm_eps);
        const struct product gate_up[] = {{f->gate, &l->w_gate, NULL}, {f->up, &l->w_up, NULL}};
        be->products(self, gate_up, 2, f->h, n);
        be->swiglu(self, f->gate, f->gate, f->up, (size_t)n * s->n_ff);
        be->matmul(self, f->h, &l->w_down, f->gate, n, NULL);
        be->add(self, f->x, f->h, (size_t)n * m->n_embd);
    }
    if (b->n_logits == 0)
        return true;
    be->gather(self, f->logit_x, f->x, b->logit_rows, b->n_logits, m->n_embd);
    be->rms_norm(self, f->logit_x, f->logit_x, weight_vector(&f->weights->output_norm), b->n_logits,
                 m->n_embd, m->norm_eps);
    be->matmul(self, f->logits, &f->weights->output, f->logit_x, b->n_logits, NULL);
    return true;
}

bool forward_compute(struct forward *f, struct batch *b, struct error *e)
{
    const struct backend *be = f->backend;
    const uint32_t *from, *to;

    uint32_t n_copies = cache_take_copies(b->cache, &from, &to);
    if (n_copies)
        be->kv_copy(be->self, from, to, n_copies);
    if (b->n_rows == 0)
        return true;
    size_t n_angles = (size_t)b->n_rows * f->model->rope_sets[0].dim;
    be->upload(be->self, f->angles, b->angles, n_angles);
    if (b->sink_query)
        be->upload(be->self, f->sink_angles, b->sink_angles, n_angles);
    bool recorded;
    if (!batch_plan(b, be, !f->observe, &recorded, e) || (!recorded && !compute(f, b, e)))
        return false;
    return !be->step_end || be->step_end(be->self, e);
}

const float *forward_logits(struct forward *f, uint32_t first, uint32_t n, struct error *e)
{
    size_t n_vocab = f->model->n_vocab, at = first * n_vocab;
    if (n && !f->backend->download(f->backend->self, f->host_logits + at, f->logits + at,
                                   n * n_vocab, e))
        return NULL;
    return f->host_logits;
}

bool forward_can_pick(const struct forward *f)
{
    return f->backend->pick != NULL;
}

bool forward_pick(struct forward *f, const struct token_pick *picks, uint32_t n, int32_t *tokens,
                  struct error *e)
{
    return n == 0 ||
           f->backend->pick(f->backend->self, tokens, f->logits, f->model->n_vocab, picks, n, e);
}

const float *forward_run(struct forward *f, struct batch *b, struct error *e)
{
    return forward_compute(f, b, e) ? forward_logits(f, 0, b->n_logits, e) : NULL;
}
