/* The transformer, once, over backend operations: see forward.h. Reads top to bottom like the
 * papers: Llama (RMSNorm, rotary positions, grouped queries, SwiGLU), Qwen2 adds biases to q, k, v;
 * Qwen3 normalises each head's q and k. */
#include "engine/compute/forward.h"

#include <stdlib.h>

#include "engine/compute/batch.h"

/* Norm gains and biases of a layer in backend memory; NULL where the model has none. */
struct layer_vectors {
    float *attn_norm, *ffn_norm, *bq, *bk, *bv, *bo, *q_norm, *k_norm;
};

struct forward {
    const struct backend *backend;
    struct model *model;
    uint32_t max_rows, max_logits;
    struct layer_vectors *layers; /* [n_layers] */
    float *output_norm;           /* [n_embd] */
    uint32_t n_prepared;          /* weights that weight_prepare has seen */

    /* Activations, rows = max_rows. q and out: [rows][n_heads * head_dim]; k, v: [rows][n_kv_heads
     * * head_dim] */
    float *x, *h, *q, *q_sink, *k, *v, *out, *gate, *up, *angles, *sink_angles;
    float *logit_x, *logits; /* [max_logits][n_embd], [max_logits][n_vocab] */
    float *host_logits;      /* [max_logits][n_vocab] */
    float *host_hidden;      /* [max_logits][n_embd], once somebody asks */
    uint32_t n_logits;       /* of the step: hidden states come behind in logit_x */
    float *frequencies;      /* [rope_dim / 2] doubles of `rope` */
    struct rope_table rope;
    forward_observer *observe;
    void *observe_context;
    float *observed; /* [max_rows][n_heads * head_dim] host copy of q, while somebody observes */
};

/* The weights one after the other, so that preparing and releasing walk the same list. NULL after
 * the last. */
static struct weight *weight_at(struct model *m, uint32_t index)
{
    if (index == 0)
        return &m->token_embd;
    if (index == 1)
        return &m->output;
    uint32_t layer = (index - 2) / 7;
    if (layer >= m->n_layers)
        return NULL;
    struct model_layer *l = &m->layers[layer];
    struct weight *const all[] = {&l->wq, &l->wk, &l->wv, &l->wo, &l->w_gate, &l->w_up, &l->w_down};
    return all[(index - 2) % 7];
}

/* A copy of n host floats in backend memory; *out stays NULL when there is nothing to copy. */
static bool upload(const struct forward *f, float **out, const float *values, size_t n,
                   struct error *e)
{
    if (!values)
        return true;
    *out = f->backend->alloc(f->backend->self, n, e);
    if (!*out)
        return false;
    f->backend->upload(f->backend->self, *out, values, n);
    return true;
}

static bool upload_vectors(struct forward *f, struct error *e)
{
    const struct model *m = f->model;
    size_t n_q = (size_t)m->n_heads * m->head_dim, n_kv = (size_t)m->n_kv_heads * m->head_dim;
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const struct model_layer *from = &m->layers[i];
        struct layer_vectors *to = &f->layers[i];
        if (!upload(f, &to->attn_norm, from->attn_norm, m->n_embd, e) ||
            !upload(f, &to->ffn_norm, from->ffn_norm, m->n_embd, e) ||
            !upload(f, &to->bq, from->bq, n_q, e) || !upload(f, &to->bk, from->bk, n_kv, e) ||
            !upload(f, &to->bv, from->bv, n_kv, e) || !upload(f, &to->bo, from->bo, m->n_embd, e) ||
            !upload(f, &to->q_norm, from->q_norm, m->head_dim, e) ||
            !upload(f, &to->k_norm, from->k_norm, m->head_dim, e))
            return false;
    }
    return upload(f, &f->output_norm, m->output_norm, m->n_embd, e);
}

/* The angles' frequencies, made once. */
static bool upload_rope(struct forward *f, struct error *e)
{
    const uint32_t n_pairs = f->model->rope_dim / 2;
    double *frequencies = malloc((n_pairs ? n_pairs : 1) * sizeof *frequencies);
    if (!frequencies)
        return error_set_memory(e, "rotary frequencies", n_pairs * sizeof *frequencies);
    model_rope_frequencies(f->model, frequencies);
    const bool ok = upload(f, &f->frequencies, (const float *)frequencies, 2 * (size_t)n_pairs, e);
    free(frequencies);
    f->rope = (struct rope_table){(const double *)f->frequencies, f->model->rope_scale, n_pairs};
    return ok;
}

static bool allocate(struct forward *f, struct error *e)
{
    const struct model *m = f->model;
    size_t rows = f->max_rows, n_q = (size_t)m->n_heads * m->head_dim,
           n_kv = (size_t)m->n_kv_heads * m->head_dim;
    struct {
        float **buffer;
        size_t n;
    } wanted[] = {{&f->x, rows * m->n_embd},
                  {&f->h, rows * m->n_embd},
                  {&f->q, rows * n_q},
                  {&f->q_sink, rows * n_q},
                  {&f->k, rows * n_kv},
                  {&f->v, rows * n_kv},
                  {&f->out, rows * n_q},
                  {&f->gate, rows * m->n_ff},
                  {&f->up, rows * m->n_ff},
                  {&f->angles, rows * m->rope_dim},
                  {&f->sink_angles, rows * m->rope_dim},
                  {&f->logit_x, (size_t)f->max_logits * m->n_embd},
                  {&f->logits, (size_t)f->max_logits * m->n_vocab}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!(*wanted[i].buffer = f->backend->alloc(f->backend->self, wanted[i].n, e)))
            return false;
    f->host_logits = f->backend->host_alloc(
        f->backend->self, (size_t)f->max_logits * m->n_vocab * sizeof *f->host_logits, e);
    return f->host_logits != NULL;
}

struct forward *forward_new(const struct backend *backend, struct model *model, uint32_t max_rows,
                            uint32_t max_logits, struct error *e)
{
    struct forward *f = calloc(1, sizeof *f);
    if (!f) {
        error_set_memory(e, "the forward pass", sizeof *f);
        return NULL;
    }
    *f = (struct forward){
        .backend = backend, .model = model, .max_rows = max_rows, .max_logits = max_logits};
    f->layers = calloc(model->n_layers, sizeof *f->layers);
    bool ok = f->layers ? upload_vectors(f, e) && upload_rope(f, e) && allocate(f, e)
                        : error_set_memory(e, "the layers", model->n_layers * sizeof *f->layers);
    for (struct weight *w; ok && (w = weight_at(model, f->n_prepared)); f->n_prepared += ok)
        ok = backend->weight_prepare(backend->self, w, w != &model->token_embd, e);
    if (ok)
        return f;
    forward_free(f);
    return NULL;
}

void forward_free(struct forward *f)
{
    if (!f)
        return;
    const struct backend *be = f->backend;
    for (uint32_t i = 0; i < f->n_prepared; i++)
        be->weight_release(be->self, weight_at(f->model, i));
    for (uint32_t i = 0; f->layers && i < f->model->n_layers; i++) {
        struct layer_vectors *l = &f->layers[i];
        float *vectors[] = {l->attn_norm, l->ffn_norm, l->bq,     l->bk,
                            l->bv,        l->bo,       l->q_norm, l->k_norm};
        for (size_t k = 0; k < sizeof vectors / sizeof *vectors; k++)
            if (vectors[k])
                be->free(be->self, vectors[k]);
    }
    float *buffers[] = {f->output_norm, f->x,           f->h,       f->q,      f->q_sink,
                        f->k,           f->v,           f->out,     f->gate,   f->up,
                        f->angles,      f->sink_angles, f->logit_x, f->logits, f->frequencies};
    for (size_t k = 0; k < sizeof buffers / sizeof *buffers; k++)
        if (buffers[k])
            be->free(be->self, buffers[k]);
    free(f->layers);
    be->host_free(be->self, f->host_logits);
    be->host_free(be->self, f->host_hidden);
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

/* The layers, and what rows leave: in f->logits, and hidden states in f->logit_x. */
static bool compute(struct forward *f, struct batch *b, struct error *e)
{
    const struct backend *be = f->backend;
    const struct model *m = f->model;
    void *self = be->self;
    const struct step *step = &b->step;
    uint32_t n = step->n_rows, n_q = m->n_heads * m->head_dim,
             n_outputs = step->n_logits + step->n_hidden;

    be->embed(self, f->x, &m->token_embd, step);
    be->rope_angles(self, f->angles, &f->rope, step, false);
    if (step->sink_query)
        be->rope_angles(self, f->sink_angles, &f->rope, step, true);
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const struct model_layer *l = &m->layers[i];
        const struct layer_vectors *v = &f->layers[i];

        be->rms_norm(self, f->h, f->x, v->attn_norm, n, m->n_embd, m->norm_eps);
        const struct product qkv[] = {
            {f->q, &l->wq, v->bq}, {f->k, &l->wk, v->bk}, {f->v, &l->wv, v->bv}};
        be->products(self, qkv, 3, f->h, n);
        if (v->q_norm) {
            be->rms_norm(self, f->q, f->q, v->q_norm, n * m->n_heads, m->head_dim, m->norm_eps);
            be->rms_norm(self, f->k, f->k, v->k_norm, n * m->n_kv_heads, m->head_dim, m->norm_eps);
        }
        if (step->sink_query) {
            be->copy(self, f->q_sink, f->q, (size_t)n * n_q);
            be->rope(self, f->q_sink, f->sink_angles, n, m->n_heads, m->head_dim, m->rope_dim,
                     m->rope_neox);
        }
        be->rope(self, f->q, f->angles, n, m->n_heads, m->head_dim, m->rope_dim, m->rope_neox);
        be->rope(self, f->k, f->angles, n, m->n_kv_heads, m->head_dim, m->rope_dim, m->rope_neox);
        if (f->observe) {
            if (!be->download(self, f->observed, f->q, (size_t)n * n_q, e))
                return false;
            f->observe(f->observe_context, i, f->observed, n);
        }
        const struct kv_rows kv = {f->k, f->v, m->n_kv_heads, m->head_dim};
        const struct attention attention = {.q = f->q,
                                            .q_sink = step->sink_query ? f->q_sink : NULL,
                                            .out = f->out,
                                            .n_heads = m->n_heads,
                                            .n_kv_heads = m->n_kv_heads,
                                            .head_dim = m->head_dim};
        for (uint32_t wave = 0; wave < step->n_waves; wave++) {
            be->write(self, step, i, wave, &kv);
            be->attend(self, step, i, wave, &attention);
            if (!batch_drop(b, be, i, wave, e))
                return false;
        }
        be->matmul(self, f->h, &l->wo, f->out, n, v->bo);
        be->add(self, f->x, f->h, (size_t)n * m->n_embd);

        be->rms_norm(self, f->h, f->x, v->ffn_norm, n, m->n_embd, m->norm_eps);
        const struct product gate_up[] = {{f->gate, &l->w_gate, NULL}, {f->up, &l->w_up, NULL}};
        be->products(self, gate_up, 2, f->h, n);
        be->swiglu(self, f->gate, f->gate, f->up, (size_t)n * m->n_ff);
        be->matmul(self, f->h, &l->w_down, f->gate, n, NULL);
        be->add(self, f->x, f->h, (size_t)n * m->n_embd);
    }
    if (n_outputs == 0)
        return true;
    be->gather(self, f->logit_x, f->x, step, m->n_embd);
    be->rms_norm(self, f->logit_x, f->logit_x, f->output_norm, n_outputs, m->n_embd, m->norm_eps);
    if (step->n_logits > 0)
        be->matmul(self, f->logits, &m->output, f->logit_x, step->n_logits, NULL);
    return true;
}

bool forward_compute(struct forward *f, struct batch *b, struct error *e)
{
    const struct backend *be = f->backend;
    const uint32_t *from, *to;

    uint32_t n_copies = cache_take_copies(b->cache, &from, &to);
    if (n_copies)
        be->kv_copy(be->self, from, to, n_copies);
    if (batch_rows(b) == 0)
        return true;
    struct step *step = batch_step(b);
    step->may_record = !f->observe;
    f->n_logits = step->n_logits;
    if (be->step_begin && !be->step_begin(be->self, step, e))
        return false;
    if (!step->recorded && !compute(f, b, e))
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

const float *forward_hidden(struct forward *f, uint32_t first, uint32_t n, struct error *e)
{
    const size_t width = f->model->n_embd;
    if (!f->host_hidden) {
        f->host_hidden =
            f->backend->host_alloc(f->backend->self, f->max_logits * width * sizeof(float), e);
        if (!f->host_hidden)
            return NULL;
    }
    if (n &&
        !f->backend->download(f->backend->self, f->host_hidden,
                              f->logit_x + (f->n_logits + (size_t)first) * width, n * width, e))
        return NULL;
    return f->host_hidden;
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
    return forward_compute(f, b, e) ? forward_logits(f, 0, b->step.n_logits, e) : NULL;
}
