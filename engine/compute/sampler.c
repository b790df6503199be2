/* The sampler: see sampler.h for the order of its stages.
 *
 * Nothing is sorted. Each truncating stage needs the best elements until a count or a mass is
 * reached. That is a selection: partition around a random pivot, compare the count or mass of the
 * better part, continue in one side only. Its expected time is linear on any input. Pivots come
 * from a fixed generator, so a pick is a pure function of logits, settings and the draw. The draw
 * walks the remaining tokens by id, not in the order that partitions left, so that a backend that
 * selects in another way draws the same tokens. */
#include "engine/compute/sampler.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/random.h"

struct candidate {
    float key; /* what the current stage selects by: larger is better, lower id on ties */
    float p;   /* not normalised */
    int32_t token;
};

struct sampler_scratch {
    uint32_t n_vocab;
    float *logits;                /* [n_vocab] after bias, penalties, masks */
    struct candidate *candidates; /* [n_vocab] */
    float *p;                     /* [n_vocab] p of candidates by id; all 0 between picks */
};

struct sampler {
    const struct sampling *sampling;
    uint32_t choice, n_vocab;
    /* Distinct tokens that a penalty applies to, and how often each was generated. NULL when all
     * penalties are off. */
    uint32_t *generated; /* [n_vocab] */
    uint8_t *listed;     /* [n_vocab] 1 = in `touched` */
    int32_t *touched;    /* [n_vocab], n_touched used */
    uint32_t n_touched;
};

/* Bias and penalties keep logits within this limit, so that their differences fit a float. */
static const float logit_limit = 1e30F;

double sampler_uniform(uint64_t seed, uint32_t choice, uint64_t index)
{
    uint64_t x = random_mix(seed + RANDOM_STEP);
    x = random_mix(x + (choice + 1) * 0xD1342543DE82EF95u);
    x = random_mix(x + (index + 1) * RANDOM_STEP);
    return (double)(x >> 11) * 0x1p-53;
}

struct sampler_scratch *sampler_scratch_new(uint32_t n_vocab, struct error *e)
{
    struct sampler_scratch *scratch = calloc(1, sizeof *scratch);
    if (scratch) {
        scratch->n_vocab = n_vocab;
        scratch->logits = calloc(n_vocab, sizeof *scratch->logits);
        scratch->candidates = calloc(n_vocab, sizeof *scratch->candidates);
        scratch->p = calloc(n_vocab, sizeof *scratch->p);
    }
    if (!scratch || !scratch->logits || !scratch->candidates || !scratch->p) {
        sampler_scratch_free(scratch);
        error_set_memory(e, "sampling", (uint64_t)n_vocab * 20);
        return NULL;
    }
    return scratch;
}

void sampler_scratch_free(struct sampler_scratch *scratch)
{
    if (!scratch)
        return;
    free(scratch->logits);
    free(scratch->candidates);
    free(scratch->p);
    free(scratch);
}

static void touch(struct sampler *s, int32_t token)
{
    if (s->listed[token])
        return;
    s->listed[token] = 1;
    s->touched[s->n_touched++] = token;
}

struct sampler *sampler_new(const struct sampling *sampling, uint32_t choice, uint32_t n_vocab,
                            const int32_t *prompt, uint32_t n_prompt, struct error *e)
{
    struct sampler *s = calloc(1, sizeof *s);
    if (!s) {
        error_set_memory(e, "a sampler", sizeof *s);
        return NULL;
    }
    s->sampling = sampling;
    s->choice = choice;
    s->n_vocab = n_vocab;
    bool repetition = sampling->repetition_penalty != 1;
    if (!repetition && sampling->presence_penalty == 0 && sampling->frequency_penalty == 0)
        return s;
    s->generated = calloc(n_vocab, sizeof *s->generated);
    s->listed = calloc(n_vocab, 1);
    s->touched = calloc(n_vocab, sizeof *s->touched);
    if (!s->generated || !s->listed || !s->touched) {
        sampler_free(s);
        error_set_memory(e, "token counts of the penalties", (uint64_t)n_vocab * 9);
        return NULL;
    }
    if (repetition)
        for (uint32_t i = 0; i < n_prompt; i++)
            touch(s, prompt[i]);
    return s;
}

void sampler_free(struct sampler *s)
{
    if (!s)
        return;
    free(s->generated);
    free(s->listed);
    free(s->touched);
    free(s);
}

void sampler_accept(struct sampler *s, int32_t token)
{
    if (!s->generated)
        return;
    touch(s, token);
    if (s->generated[token] < UINT32_MAX)
        s->generated[token]++;
}

static float clamp_logit(double x)
{
    return x > logit_limit ? logit_limit : x < -logit_limit ? -logit_limit : (float)x;
}

static void apply_bias(const struct sampling *set, float *logits)
{
    for (uint32_t i = 0; i < set->n_bias; i++) {
        float *logit = &logits[set->bias[i].token];
        if (set->bias[i].bias <= -100)
            *logit = -INFINITY;
        else
            *logit = clamp_logit((double)*logit + (double)set->bias[i].bias);
    }
}

static void apply_penalties(const struct sampler *s, float *logits)
{
    const struct sampling *set = s->sampling;
    for (uint32_t i = 0; i < s->n_touched; i++) {
        int32_t token = s->touched[i];
        if (isinf(logits[token]))
            continue;
        double x = (double)logits[token];
        if (set->repetition_penalty != 1)
            x = x > 0 ? x / set->repetition_penalty : x * set->repetition_penalty;
        if (s->generated[token])
            x -= set->presence_penalty + set->frequency_penalty * s->generated[token];
        logits[token] = clamp_logit(x);
    }
}

static int32_t argmax(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

static inline bool better(const struct candidate *a, const struct candidate *b)
{
    return a->key > b->key || (a->key == b->key && a->token < b->token);
}

static inline void swap(struct candidate *a, struct candidate *b)
{
    struct candidate t = *a;
    *a = *b;
    *b = t;
}

/* Chooses a random element of [from, to), moves the better ones before it and returns its place. */
static uint32_t partition(struct candidate *c, uint32_t from, uint32_t to, uint64_t *random)
{
    swap(&c[from + random_next(random) % (to - from)], &c[to - 1]);
    uint32_t place = from;
    for (uint32_t i = from; i + 1 < to; i++)
        if (better(&c[i], &c[to - 1]))
            swap(&c[i], &c[place++]);
    swap(&c[place], &c[to - 1]);
    return place;
}

/* Moves the `count` best to the front. */
static void select_count(struct candidate *c, uint32_t n, uint32_t count)
{
    uint64_t random = 0;
    uint32_t from = 0, to = n;
    while (to - from > 1) {
        uint32_t place = partition(c, from, to, &random);
        if (place == count || place + 1 == count)
            return;
        if (place > count)
            to = place;
        else
            from = place + 1;
    }
}

/* Moves to the front the fewest best whose p reach `mass`, and returns how many. At least one. */
static uint32_t select_mass(struct candidate *c, uint32_t n, double mass)
{
    uint64_t random = 0;
    uint32_t from = 0, to = n;
    double before = 0; /* mass of [0, from), which is kept and less than `mass` */
    while (from < to) {
        uint32_t place = partition(c, from, to, &random);
        double upper = before;
        for (uint32_t i = from; i < place; i++)
            upper += (double)c[i].p;
        if (upper >= mass && place > 0)
            to = place;
        else if (upper + (double)c[place].p >= mass)
            return place + 1;
        else {
            before = upper + (double)c[place].p;
            from = place + 1;
        }
    }
    return to > 0 ? to : 1;
}

static double sum_p(const struct candidate *c, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)c[i].p;
    return sum;
}

/* Locally typical sampling (Meister et al., arXiv 2202.00666): the tokens whose surprise is nearest
 * to the entropy, until they reach `typical_p` of the mass. */
static uint32_t select_typical(struct candidate *c, uint32_t n, double typical_p)
{
    double sum = sum_p(c, n), entropy = 0;
    for (uint32_t i = 0; i < n; i++) {
        double p = (double)c[i].p / sum;
        entropy -= p > 0 ? p * log(p) : 0;
    }
    for (uint32_t i = 0; i < n; i++)
        c[i].key = (float)-fabs(-log((double)c[i].p / sum) - entropy);
    return select_mass(c, n, typical_p * sum);
}

static uint32_t select_min_p(struct candidate *c, uint32_t n, double min_p)
{
    float best = 0;
    for (uint32_t i = 0; i < n; i++)
        best = c[i].p > best ? c[i].p : best;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if ((double)c[i].p >= min_p * (double)best)
            c[kept++] = c[i];
    return kept;
}

/* Makes candidates with p = exp((logit - max) / temperature) of the top_k best logits, without
 * those whose p is 0. The best has p = 1. */
static uint32_t gather(const struct sampling *set, struct candidate *c, const float *logits,
                       uint32_t n_vocab, float best)
{
    uint32_t n = 0;
    bool top_k = set->top_k > 0 && (uint32_t)set->top_k < n_vocab;
    if (top_k) {
        for (uint32_t i = 0; i < n_vocab; i++)
            c[i] = (struct candidate){.key = logits[i], .token = (int32_t)i};
        select_count(c, n_vocab, (uint32_t)set->top_k);
        n = (uint32_t)set->top_k;
    }
    uint32_t n_all = top_k ? n : n_vocab, kept = 0;
    for (uint32_t i = 0; i < n_all; i++) {
        int32_t token = top_k ? c[i].token : (int32_t)i;
        double x = ((double)logits[token] - (double)best) / set->temperature;
        if (x < -103) /* exp underflows a float */
            continue;
        float p = expf((float)x);
        if (p > 0)
            c[kept++] = (struct candidate){.key = p, .p = p, .token = token};
    }
    return kept;
}

/* The token at which the mass, summed by rising id, passes the draw. p [n_vocab] is all 0 before
 * and after. */
static int32_t draw(const struct candidate *c, uint32_t n, double uniform, float *p)
{
    double left = uniform * sum_p(c, n);
    int32_t first = INT32_MAX, last = 0, token;
    for (uint32_t i = 0; i < n; i++) {
        p[c[i].token] = c[i].p;
        first = c[i].token < first ? c[i].token : first;
        last = c[i].token > last ? c[i].token : last;
    }
    for (token = first; token < last; token++) {
        left -= (double)p[token];
        if (left < 0)
            break;
    }
    for (uint32_t i = 0; i < n; i++)
        p[c[i].token] = 0;
    return token;
}

int32_t sampler_pick(const struct sampler *s, struct sampler_scratch *scratch, const float *logits,
                     const int32_t *masked, uint32_t n_masked, uint64_t index)
{
    const struct sampling *set = s->sampling;
    uint32_t n_vocab = s->n_vocab;
    const float *work = logits;
    if (set->n_bias || s->n_touched || n_masked) {
        memcpy(scratch->logits, logits, n_vocab * sizeof *logits);
        apply_bias(set, scratch->logits);
        apply_penalties(s, scratch->logits);
        for (uint32_t i = 0; i < n_masked; i++)
            scratch->logits[masked[i]] = -INFINITY;
        work = scratch->logits;
    }
    int32_t best = argmax(work, n_vocab);
    if (isinf(work[best]))
        return argmax(logits, n_vocab);
    if (set->temperature <= 0 || set->top_p <= 0)
        return best;

    struct candidate *c = scratch->candidates;
    uint32_t n = gather(set, c, work, n_vocab, work[best]);
    if (set->typical_p < 1)
        n = select_typical(c, n, set->typical_p);
    if (set->top_p < 1) {
        for (uint32_t i = 0; i < n; i++)
            c[i].key = c[i].p;
        n = select_mass(c, n, set->top_p * sum_p(c, n));
    }
    if (set->min_p > 0)
        n = select_min_p(c, n, set->min_p);
    return draw(c, n, sampler_uniform(set->seed, s->choice, index), scratch->p);
}

bool sampler_describe(const struct sampler *s, uint64_t index, struct token_pick *pick)
{
    const struct sampling *set = s->sampling;
    if (set->n_bias || s->generated || set->typical_p < 1)
        return false;
    *pick = (struct token_pick){.top_k = set->top_k,
                                .temperature = set->temperature,
                                .top_p = set->top_p,
                                .min_p = set->min_p,
                                .draw = sampler_uniform(set->seed, s->choice, index)};
    return true;
}
