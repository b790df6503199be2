/* The reference transformer: see transformer.h for the formulas. */
#include "tests/reference/transformer.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct transformer {
    const struct model *model;
    uint32_t sinks, budget, max_tokens, n_tokens;
    enum transformer_storage storage;
    double *angles[MOST_ROPE_SETS]; /* [max_tokens][dim / 2][2] cos and sin of R(position) */
    double *keys, *values; /* [n_layers][max_tokens][n_kv_heads][head_dim], keys unrotated */
    uint32_t *kept;        /* [n_kept] positions that the newest query sees, ascending */
    uint32_t n_kept;
    double *x, *h;         /* [n_embd] */
    double *q, *out;       /* [n_heads][head_dim] */
    double *gate, *up;     /* [n_ff] */
    double *rotated_q;     /* [head_dim] */
    double *rotated_k;     /* [max_tokens][head_dim] of one KV head, in order of rank */
    double *probabilities; /* [max_tokens] in order of rank */
    double *logits;        /* [n_vocab] */
    struct policy *policy; /* NULL: full or sink, by sinks and budget */
    double *mean;          /* [max_tokens] probabilities, mean over the group */
};

static bool is_f32(void *context, const struct weight_item *item, struct error *e)
{
    (void)context;
    (void)e;
    return item->weight->type == TENSOR_F32;
}

static bool all_f32(const struct model *m)
{
    return weights_visit(m, m->weights, is_f32, NULL, NULL);
}

static void fill_angles(double *angles, const struct rope_set *rope, uint32_t max_tokens)
{
    for (uint32_t position = 0; position < max_tokens; position++)
        for (uint32_t i = 0; i < rope->dim / 2; i++) {
            double angle = position / rope->scale * pow(rope->base, -2.0 * i / rope->dim);
            if (rope->factors)
                angle /= (double)rope->factors[i];
            double *out = angles + (size_t)position * rope->dim + 2 * (size_t)i;
            out[0] = cos(angle);
            out[1] = sin(angle);
        }
}

static bool make_angles(struct transformer *t)
{
    const struct model *m = t->model;
    for (uint32_t i = 0; i < m->n_rope_sets; i++) {
        t->angles[i] = calloc((size_t)t->max_tokens * m->rope_sets[i].dim, sizeof(double));
        if (!t->angles[i])
            return false;
        fill_angles(t->angles[i], &m->rope_sets[i], t->max_tokens);
    }
    return true;
}

struct transformer *transformer_new(const struct model *m, uint32_t sinks, uint32_t budget,
                                    enum transformer_storage storage, uint32_t max_tokens,
                                    struct error *e)
{
    assert(budget == 0 || sinks < budget);
    if (!all_f32(m)) {
        error_set(e, "invalid_model", "", "the reference reads F32 weights only");
        return NULL;
    }
    struct transformer *t = calloc(1, sizeof *t);
    if (!t) {
        error_set_memory(e, "the reference", sizeof *t);
        return NULL;
    }
    *t = (struct transformer){
        .model = m, .sinks = sinks, .budget = budget, .max_tokens = max_tokens, .storage = storage};
    size_t n_q = (size_t)m->n_heads * m->head_dim,
           n_cache = (size_t)m->n_layers * max_tokens * m->n_kv_heads * m->head_dim;
    struct {
        double **buffer;
        size_t n;
    } wanted[] = {{&t->keys, n_cache},
                  {&t->values, n_cache},
                  {&t->x, m->n_embd},
                  {&t->h, m->n_embd},
                  {&t->q, n_q},
                  {&t->out, n_q},
                  {&t->gate, m->layers[0].n_ff},
                  {&t->up, m->layers[0].n_ff},
                  {&t->rotated_q, m->head_dim},
                  {&t->rotated_k, (size_t)max_tokens * m->head_dim},
                  {&t->probabilities, max_tokens + 1},
                  {&t->logits, m->n_vocab},
                  {&t->mean, max_tokens}};
    bool ok = (t->kept = calloc(max_tokens, sizeof *t->kept)) != NULL;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted && ok; i++)
        ok = (*wanted[i].buffer = calloc(wanted[i].n, sizeof(double))) != NULL;
    if (ok && make_angles(t))
        return t;
    transformer_free(t);
    error_set_memory(e, "the reference", n_cache * 2 * sizeof(double));
    return NULL;
}

struct transformer *transformer_new_plan(const struct model *m, const struct plan *plan,
                                         const struct head_profile *profile,
                                         enum transformer_storage storage, uint32_t max_tokens,
                                         struct error *e)
{
    struct transformer *t = transformer_new(m, 0, 0, storage, max_tokens, e);
    assert(plan->positions == POSITIONS_ORIGINAL);
    if (t)
        t->policy = policy_new(plan, profile, m->n_layers, m->n_kv_heads, m->head_dim, max_tokens);
    return t;
}

struct policy *transformer_policy(struct transformer *t)
{
    return t->policy;
}

void transformer_free(struct transformer *t)
{
    if (!t)
        return;
    double *buffers[] = {t->keys,          t->values, t->x,   t->h,         t->q,
                         t->out,           t->gate,   t->up,  t->rotated_q, t->rotated_k,
                         t->probabilities, t->logits, t->mean};
    policy_free(t->policy);
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        free(buffers[i]);
    for (uint32_t i = 0; i < MOST_ROPE_SETS; i++)
        free(t->angles[i]);
    free(t->kept);
    free(t);
}

static void rms_norm(double *out, const double *x, const float *gain, uint32_t n, double eps)
{
    double squares = 0;
    for (uint32_t i = 0; i < n; i++)
        squares += x[i] * x[i];
    double scale = 1 / sqrt(squares / n + eps);
    for (uint32_t i = 0; i < n; i++)
        out[i] = x[i] * scale * (double)gain[i];
}

static void norm_heads(double *x, const float *gain, uint32_t n_heads, uint32_t head_dim,
                       double eps)
{
    for (uint32_t i = 0; gain && i < n_heads; i++)
        rms_norm(x + (size_t)i * head_dim, x + (size_t)i * head_dim, gain, head_dim, eps);
}

static void matmul(double *out, const struct weight *w, const double *x, const float *bias)
{
    const float *row = w->data;
    for (uint32_t r = 0; r < w->rows; r++, row += w->cols) {
        out[r] = bias ? (double)bias[r] : 0;
        for (uint32_t c = 0; c < w->cols; c++)
            out[r] += (double)row[c] * x[c];
    }
}

enum direction { FORWARDS = 1, BACKWARDS = -1 };

/* out = R(position) x of a layer, one head; BACKWARDS is the inverse. out may be x. */
static void rotate(const struct transformer *t, uint32_t layer, double *out, const double *x,
                   uint32_t position, enum direction direction)
{
    const struct model *m = t->model;
    const uint32_t set = m->layers[layer].rope;
    memmove(out, x, m->head_dim * sizeof *out);
    if (set == ROPE_NONE)
        return;
    const struct rope_set *rope = &m->rope_sets[set];
    const double *angles = t->angles[set] + (size_t)position * rope->dim;
    for (uint32_t i = 0; i < rope->dim / 2; i++) {
        uint32_t a = rope->neox ? i : 2 * i, b = rope->neox ? i + rope->dim / 2 : 2 * i + 1;
        double cosine = angles[2 * i], sine = direction * angles[2 * i + 1], xa = out[a],
               xb = out[b];
        out[a] = xa * cosine - xb * sine;
        out[b] = xa * sine + xb * cosine;
    }
}

/* The nearest number of 11 significant bits, as IEEE binary16 has them, 2^-24 being the smallest
 * step. No limit above: 65504 is far from any key. */
static double round_to_f16(double x)
{
    int exponent; /* |x| = 0.5..1 * 2^exponent */
    frexp(x, &exponent);
    double step = ldexp(1, (exponent > -13 ? exponent : -13) - 11);
    return nearbyint(x / step) * step;
}

/* What a cache that holds rotated keys and values in f16 would give back for this token. */
static void store_as_f16(const struct transformer *t, uint32_t layer, double *keys, double *values,
                         uint32_t position)
{
    uint32_t n_kv_heads = t->model->n_kv_heads, d = t->model->head_dim;
    for (uint32_t h = 0; h < n_kv_heads; h++)
        rotate(t, layer, keys + (size_t)h * d, keys + (size_t)h * d, position, FORWARDS);
    for (uint32_t i = 0; i < n_kv_heads * d; i++) {
        keys[i] = round_to_f16(keys[i]);
        values[i] = round_to_f16(values[i]);
    }
    for (uint32_t h = 0; h < n_kv_heads; h++)
        rotate(t, layer, keys + (size_t)h * d, keys + (size_t)h * d, position, BACKWARDS);
}

/* The set of slots that the query at `position` sees, by the definition. */
static void choose_kept(struct transformer *t, uint32_t position)
{
    t->n_kept = 0;
    for (uint32_t p = 0; p <= position; p++)
        if (t->budget == 0 || p < t->sinks || position - p < t->budget - t->sinks)
            t->kept[t->n_kept++] = p;
}

static void softmax(double *z, uint32_t n)
{
    double largest = z[0], sum = 0;
    for (uint32_t i = 1; i < n; i++)
        largest = fmax(largest, z[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += z[i] = exp(z[i] - largest);
    for (uint32_t i = 0; i < n; i++)
        z[i] /= sum;
}

static void attend(struct transformer *t, uint32_t layer)
{
    const struct model *m = t->model;
    uint32_t d = m->head_dim, group = m->n_heads / m->n_kv_heads, n = t->n_kept;
    memset(t->out, 0, (size_t)m->n_heads * d * sizeof *t->out);
    for (uint32_t head = 0; head < m->n_heads; head++) {
        uint32_t kv_head = head / group;
        size_t base = ((size_t)layer * t->max_tokens * m->n_kv_heads + kv_head) * d;
        size_t stride = (size_t)m->n_kv_heads * d;
        rotate(t, layer, t->rotated_q, t->q + (size_t)head * d, n - 1, FORWARDS);
        if (head % group == 0) /* the heads of a group share their keys */
            for (uint32_t r = 0; r < n; r++)
                rotate(t, layer, t->rotated_k + (size_t)r * d, t->keys + base + t->kept[r] * stride,
                       r, FORWARDS);
        for (uint32_t r = 0; r < n; r++) {
            double dot = 0;
            for (uint32_t i = 0; i < d; i++)
                dot += t->rotated_q[i] * t->rotated_k[(size_t)r * d + i];
            t->probabilities[r] = dot / sqrt(d);
        }
        softmax(t->probabilities, n);
        for (uint32_t r = 0; r < n; r++)
            for (uint32_t i = 0; i < d; i++)
                t->out[(size_t)head * d + i] +=
                    t->probabilities[r] * t->values[base + t->kept[r] * stride + i];
    }
}

/* One query head over the kept tokens, at their original positions, and the summary of the others.
 */
static void attend_kept(struct transformer *t, uint32_t layer, uint32_t head, uint32_t position,
                        const uint32_t *kept, uint32_t n)
{
    const struct model *m = t->model;
    uint32_t d = m->head_dim, kv_head = head / (m->n_heads / m->n_kv_heads);
    const double *values =
        t->values + ((size_t)layer * t->max_tokens * m->n_kv_heads + kv_head) * d;
    size_t stride = (size_t)m->n_kv_heads * d;
    const double *mean_k, *mean_v;
    uint32_t n_summary = policy_summary(t->policy, layer, kv_head, &mean_k, &mean_v);
    double *z = t->probabilities, *out = t->out + (size_t)head * d;
    rotate(t, layer, t->rotated_q, t->q + (size_t)head * d, position, FORWARDS);
    for (uint32_t r = 0; r < n + (n_summary > 0); r++) {
        const double *k = r < n ? t->rotated_k + (size_t)r * d : mean_k;
        double dot = 0;
        for (uint32_t i = 0; i < d; i++)
            dot += t->rotated_q[i] * k[i];
        z[r] = dot / sqrt(d) + (r < n ? 0 : log(n_summary));
    }
    softmax(z, n + (n_summary > 0));
    for (uint32_t r = 0; r < n + (n_summary > 0); r++)
        for (uint32_t i = 0; i < d; i++)
            out[i] += z[r] * (r < n ? values[kept[r] * stride + i] : mean_v[i]);
}

static void attend_plan(struct transformer *t, uint32_t layer, uint32_t position)
{
    const struct model *m = t->model;
    uint32_t d = m->head_dim, group = m->n_heads / m->n_kv_heads;
    size_t stride = (size_t)m->n_kv_heads * d;
    memset(t->out, 0, (size_t)m->n_heads * d * sizeof *t->out);
    for (uint32_t kv_head = 0; kv_head < m->n_kv_heads; kv_head++) {
        size_t base = ((size_t)layer * t->max_tokens * m->n_kv_heads + kv_head) * d;
        uint32_t n;
        rotate(t, layer, t->rotated_k, t->keys + base + position * stride, position, FORWARDS);
        policy_store(t->policy, layer, kv_head, position, t->rotated_k,
                     t->values + base + position * stride);
        const uint32_t *kept = policy_sees(t->policy, layer, kv_head, position, &n);
        for (uint32_t r = 0; r < n; r++)
            rotate(t, layer, t->rotated_k + (size_t)r * d, t->keys + base + kept[r] * stride,
                   kept[r], FORWARDS);
        memset(t->mean, 0, n * sizeof *t->mean);
        for (uint32_t g = 0; g < group; g++) {
            attend_kept(t, layer, kv_head * group + g, position, kept, n);
            for (uint32_t r = 0; r < n; r++)
                t->mean[r] += t->probabilities[r] / group;
        }
        policy_attended(t->policy, layer, kv_head, position, t->mean);
    }
    policy_end_layer(t->policy, layer, position);
}

const double *transformer_step(struct transformer *t, int32_t token)
{
    const struct model *m = t->model;
    uint32_t position = t->n_tokens++;
    double eps = (double)m->norm_eps;
    assert(position < t->max_tokens && token >= 0 && (uint32_t)token < m->n_vocab);
    choose_kept(t, position);
    const float *embedding = (const float *)m->weights->token_embd.data + (size_t)token * m->n_embd;
    for (uint32_t i = 0; i < m->n_embd; i++)
        t->x[i] = (double)embedding[i];
    for (uint32_t layer = 0; layer < m->n_layers; layer++) {
        const struct layer_weights *l = &m->weights->layers[layer];
        size_t at =
            ((size_t)layer * t->max_tokens + position) * m->n_kv_heads * (size_t)m->head_dim;
        rms_norm(t->h, t->x, l->attn_norm.data, m->n_embd, eps);
        matmul(t->q, &l->wq, t->h, l->bq.data);
        matmul(t->keys + at, &l->wk, t->h, l->bk.data);
        matmul(t->values + at, &l->wv, t->h, l->bv.data);
        norm_heads(t->q, l->q_norm.data, m->n_heads, m->head_dim, eps);
        norm_heads(t->keys + at, l->k_norm.data, m->n_kv_heads, m->head_dim, eps);
        if (t->storage == STORED_F16)
            store_as_f16(t, layer, t->keys + at, t->values + at, position);
        if (t->policy)
            attend_plan(t, layer, position);
        else
            attend(t, layer);
        matmul(t->h, &l->wo, t->out, l->bo.data);
        for (uint32_t i = 0; i < m->n_embd; i++)
            t->x[i] += t->h[i];

        rms_norm(t->h, t->x, l->ffn_norm.data, m->n_embd, eps);
        matmul(t->gate, &l->w_gate, t->h, NULL);
        matmul(t->up, &l->w_up, t->h, NULL);
        for (uint32_t i = 0; i < m->layers[0].n_ff; i++)
            t->gate[i] = t->gate[i] / (1 + exp(-t->gate[i])) * t->up[i];
        matmul(t->h, &l->w_down, t->gate, NULL);
        for (uint32_t i = 0; i < m->n_embd; i++)
            t->x[i] += t->h[i];
    }
    rms_norm(t->h, t->x, m->weights->output_norm.data, m->n_embd, eps);
    matmul(t->logits, &m->weights->output, t->h, NULL);
    return t->logits;
}

const double *transformer_hidden(const struct transformer *t)
{
    return t->h;
}

int32_t transformer_greedy(const struct transformer *t, double *gap)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < t->model->n_vocab; i++)
        if (t->logits[i] > t->logits[best])
            best = i;
    double second = -INFINITY;
    for (uint32_t i = 0; i < t->model->n_vocab; i++)
        if (i != best)
            second = fmax(second, t->logits[i]);
    if (gap)
        *gap = t->logits[best] - second;
    return (int32_t)best;
}

double transformer_logprob(const struct transformer *t, int32_t token)
{
    double largest = t->logits[0], sum = 0;
    for (uint32_t i = 1; i < t->model->n_vocab; i++)
        largest = fmax(largest, t->logits[i]);
    for (uint32_t i = 0; i < t->model->n_vocab; i++)
        sum += exp(t->logits[i] - largest);
    return t->logits[token] - largest - log(sum);
}
