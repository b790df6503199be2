/* The transformer over backend operations: see forward.h. compute() reads from top to bottom like
 * the papers. It takes the facts of every layer from its struct layer_spec and names no model. */
#include "engine/compute/forward.h"

#include <stdlib.h>

#include "engine/compute/batch.h"

/* One of the model's rope sets, in backend memory. */
struct rotation {
    float *frequencies;          /* [dim / 2] doubles, computed once */
    float *angles, *sink_angles; /* [max_rows][dim / 2][2] of the step's rows */
};

struct forward {
    const struct backend *backend;
    const struct model *model;
    uint32_t max_rows, max_logits;
    struct weights *weights; /* the model's, in this backend's form */

    /* Activations, rows = max_rows. x, h: [rows][n_embd]; q, q_sink: [rows][n_heads * key_size];
     * k: [rows][n_kv_heads * key_size]; v: [rows][n_kv_heads * value_size];
     * out: [rows][n_heads * value_size]; gate, up: [rows][n_ff] */
    float *x, *h, *q, *q_sink, *k, *v, *out, *gate, *up;
    struct rotation rotations[MOST_ROPE_SETS];
    float *logit_x, *logits; /* [max_logits][n_embd], [max_logits][n_vocab] */
    float *host_logits;      /* [max_logits][n_vocab] */
    float *host_hidden;      /* [max_logits][n_embd], allocated by the first forward_hidden */
    uint32_t n_logits;       /* of the step; in logit_x hidden states follow them */
    forward_observer *observe;
    void *observe_context;
    float *observed; /* [max_rows][n_heads * head_dim] host copy of q for the observer */
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

/* Ignores weights that were not prepared. */
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

static bool open_rotation(struct forward *f, uint32_t set, struct error *e)
{
    const struct backend *be = f->backend;
    const struct rope_set *rope = &f->model->rope_sets[set];
    struct rotation *r = &f->rotations[set];
    const uint32_t n_pairs = rope->dim / 2;
    const size_t n_angles = (size_t)f->max_rows * rope->dim;
    double *frequencies = malloc((n_pairs ? n_pairs : 1) * sizeof *frequencies);
    if (!frequencies)
        return error_set_memory(e, "rotary frequencies", n_pairs * sizeof *frequencies);
    for (uint32_t i = 0; i < n_pairs; i++)
        frequencies[i] = rope_frequency(rope, i);
    r->frequencies = be->alloc(be->self, 2 * (size_t)n_pairs, e);
    if (r->frequencies)
        be->upload(be->self, r->frequencies, (const float *)frequencies, 2 * (size_t)n_pairs);
    free(frequencies);
    return r->frequencies && (r->angles = be->alloc(be->self, n_angles, e)) &&
           (r->sink_angles = be->alloc(be->self, n_angles, e));
}

static bool allocate(struct forward *f, struct error *e)
{
    const struct model *m = f->model;
    const struct widths w = widest(m);
    size_t rows = f->max_rows;
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
                  {&f->logit_x, (size_t)f->max_logits * m->n_embd},
                  {&f->logits, (size_t)f->max_logits * m->n_vocab}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!(*wanted[i].buffer = f->backend->alloc(f->backend->self, wanted[i].n, e)))
            return false;
    for (uint32_t i = 0; i < m->n_rope_sets; i++)
        if (!open_rotation(f, i, e))
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
    float *buffers[] = {f->x,   f->h,    f->q,  f->q_sink,  f->k,     f->v,
                        f->out, f->gate, f->up, f->logit_x, f->logits};
    for (size_t k = 0; k < sizeof buffers / sizeof *buffers; k++)
        if (buffers[k])
            be->free(be->self, buffers[k]);
    for (uint32_t i = 0; i < MOST_ROPE_SETS; i++) {
        float *of_set[] = {f->rotations[i].frequencies, f->rotations[i].angles,
                           f->rotations[i].sink_angles};
        for (size_t k = 0; k < sizeof of_set / sizeof *of_set; k++)
            if (of_set[k])
                be->free(be->self, of_set[k]);
    }
    free(f->weights);
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

/* Computes the angles of all rows, for every rope set. */
static void turn(struct forward *f, const struct step *step)
{
    const struct backend *be = f->backend;
    const struct model *m = f->model;
    for (uint32_t i = 0; i < m->n_rope_sets; i++) {
        const struct rotation *r = &f->rotations[i];
        const struct rope_table table = {(const double *)r->frequencies, m->rope_sets[i].scale,
                                         m->rope_sets[i].dim / 2};
        be->rope_angles(be->self, r->angles, &table, step, false);
        if (step->sink_query)
            be->rope_angles(be->self, r->sink_angles, &table, step, true);
    }
}

/* Computes all layers. Logits are in f->logits afterwards, hidden states in f->logit_x. */
static bool compute(struct forward *f, struct batch *b, struct error *e)
{
    const struct backend *be = f->backend;
    const struct model *m = f->model;
    void *self = be->self;
    const struct step *step = &b->step;
    uint32_t n = step->n_rows, n_outputs = step->n_logits + step->n_hidden;

    be->embed(self, f->x, &f->weights->token_embd, step);
    turn(f, step);
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
        if (step->sink_query)
            be->copy(self, f->q_sink, f->q, (size_t)n * s->n_heads * s->key_size);
        if (s->rope != ROPE_NONE) {
            const struct rope_set *rope = &m->rope_sets[s->rope];
            const struct rotation *r = &f->rotations[s->rope];
            if (step->sink_query)
                be->rope(self, f->q_sink, r->sink_angles, n, s->n_heads, s->key_size, rope->dim,
                         rope->neox);
            be->rope(self, f->q, r->angles, n, s->n_heads, s->key_size, rope->dim, rope->neox);
            be->rope(self, f->k, r->angles, n, s->n_kv_heads, s->key_size, rope->dim, rope->neox);
        }
        if (f->observe) {
            if (!be->download(self, f->observed, f->q, (size_t)n * s->n_heads * s->key_size, e))
                return false;
            f->observe(f->observe_context, i, f->observed, n);
        }
        const struct kv_rows kv = {f->k, f->v, s->n_kv_heads, s->key_size};
        const struct attention attention = {.q = f->q,
                                            .q_sink = step->sink_query ? f->q_sink : NULL,
                                            .out = f->out,
                                            .n_heads = s->n_heads,
                                            .n_kv_heads = s->n_kv_heads,
                                            .head_dim = s->key_size};
        for (uint32_t wave = 0; wave < step->n_waves; wave++) {
            be->write(self, step, i, wave, &kv);
            be->attend(self, step, i, wave, &attention);
            if (!batch_drop(b, be, i, wave, e))
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
    if (n_outputs == 0)
        return true;
    be->gather(self, f->logit_x, f->x, step, m->n_embd);
    be->rms_norm(self, f->logit_x, f->logit_x, weight_vector(&f->weights->output_norm), n_outputs,
                 m->n_embd, m->norm_eps);
    if (step->n_logits > 0)
        be->matmul(self, f->logits, &f->weights->output, f->logit_x, step->n_logits, NULL);
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

bool forward_works(struct forward *f, struct error *e)
{
    float number; /* a download reports every earlier failure */
    return f->backend->download(f->backend->self, &number, f->x, 1, e);
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
