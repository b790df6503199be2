/* Policies by definition: see policy.h. */
#include "tests/reference/policy.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cache/policy/select.h"

enum { HISTORY = 400 };

/* Probabilities near and below this are gone in float: between such scores every call is close. */
static const double FLOAT_TAIL = 1e-30;

struct head {
    uint32_t *kept; /* [n_kept] ascending */
    uint32_t n_kept;
    uint32_t budget; /* after the prompt */
    double *score;   /* [max_tokens] sum of attention, or the last query's */
    uint8_t *often;  /* [max_tokens][HISTORY] by query position % HISTORY */
    double *k, *v;   /* [max_tokens][head_dim] as stored */
    double *key_sum; /* [head_dim] of k / |k| over the kept, while values are computed */
    double *mean_k, *mean_v;
    uint32_t n_summary;
    double margin;
};

struct policy {
    struct plan plan;
    const struct head_profile *profile;
    uint32_t n_layers, n_kv_heads, head_dim, max_tokens, prompt_end;
    struct head *heads; /* [n_layers][n_kv_heads] */
    double *value;      /* [n_kv_heads][max_tokens] what selection compares, by position */
    uint32_t *seen;     /* [max_tokens] */
};

static void *zeroed(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);
    if (!p)
        abort();
    return p;
}

struct policy *policy_new(const struct plan *plan, const struct head_profile *profile,
                          uint32_t n_layers, uint32_t n_kv_heads, uint32_t head_dim,
                          uint32_t max_tokens)
{
    struct policy *p = zeroed(1, sizeof *p);
    *p = (struct policy){*plan,      profile,    n_layers, n_kv_heads, head_dim,
                         max_tokens, UINT32_MAX, NULL,     NULL,       NULL};
    p->heads = zeroed((size_t)n_layers * n_kv_heads, sizeof *p->heads);
    p->value = zeroed((size_t)n_kv_heads * max_tokens, sizeof *p->value);
    p->seen = zeroed(max_tokens, sizeof *p->seen);
    for (uint32_t i = 0; i < n_layers * n_kv_heads; i++) {
        struct head *h = &p->heads[i];
        h->kept = zeroed(max_tokens, sizeof *h->kept);
        h->score = zeroed(max_tokens, sizeof *h->score);
        if (plan->scorer == SCORER_PERSISTENCE)
            h->often = zeroed((size_t)max_tokens * HISTORY, 1);
        h->k = zeroed((size_t)max_tokens * head_dim, sizeof *h->k);
        h->v = zeroed((size_t)max_tokens * head_dim, sizeof *h->v);
        h->key_sum = zeroed(head_dim, sizeof *h->key_sum);
        h->mean_k = zeroed(head_dim, sizeof *h->mean_k);
        h->mean_v = zeroed(head_dim, sizeof *h->mean_v);
        h->margin = INFINITY;
    }
    return p;
}

void policy_free(struct policy *p)
{
    if (!p)
        return;
    for (uint32_t i = 0; i < p->n_layers * p->n_kv_heads; i++) {
        struct head *h = &p->heads[i];
        free(h->kept);
        free(h->score);
        free(h->often);
        free(h->k);
        free(h->v);
        free(h->key_sum);
        free(h->mean_k);
        free(h->mean_v);
    }
    free(p->heads);
    free(p->value);
    free(p->seen);
    free(p);
}

void policy_set_prompt(struct policy *p, uint32_t end)
{
    p->prompt_end = end;
    /* Another window votes on its own. */
    for (uint32_t i = 0;
         p->plan.scorer == SCORER_WINDOW_ATTENTION && i < p->n_layers * p->n_kv_heads; i++)
        memset(p->heads[i].score, 0, p->max_tokens * sizeof *p->heads[i].score);
}

static struct head *head_of(const struct policy *p, uint32_t layer, uint32_t kv_head)
{
    return &p->heads[layer * p->n_kv_heads + kv_head];
}

static bool is_full(const struct policy *p)
{
    return !p->plan.has_budget && p->plan.allocation != ALLOCATION_PROFILE;
}

/* CompressKV: the profile names voters and shares the budget among the layers. */
static bool is_voting(const struct policy *p)
{
    return p->plan.allocation == ALLOCATION_PROFILE && p->plan.scorer == SCORER_WINDOW_ATTENTION;
}

static bool is_whole(const struct policy *p, uint32_t layer, uint32_t kv_head)
{
    return is_full(p) || (p->plan.allocation == ALLOCATION_PROFILE && !is_voting(p) &&
                          head_profile_is_whole(p->profile, p->plan.sparsity, layer, kv_head));
}

/* The newest tokens that are protected when n were seen. */
static uint32_t recent_at(const struct policy *p, uint32_t n)
{
    if (p->plan.allocation == ALLOCATION_PROFILE && !p->plan.has_budget && p->plan.min_window)
        return n / 5 > p->plan.min_window ? n / 5 : p->plan.min_window;
    return p->plan.recent;
}

static uint32_t other_budget_at(const struct policy *p, uint32_t n)
{
    return p->plan.allocation == ALLOCATION_PROFILE && !is_voting(p)
               ? p->plan.sinks + recent_at(p, n)
               : p->plan.budget;
}

static bool is_protected(const struct policy *p, uint32_t position, uint32_t n)
{
    return position < p->plan.sinks || n - position <= recent_at(p, n);
}

/* ---- before and during attention */

const uint32_t *policy_sees(struct policy *p, uint32_t layer, uint32_t kv_head, uint32_t t,
                            uint32_t *n)
{
    struct head *h = head_of(p, layer, kv_head);
    h->kept[h->n_kept++] = t;
    if (p->plan.prefill == PREFILL_STREAM && !is_whole(p, layer, kv_head)) {
        uint32_t m = 0;
        for (uint32_t i = 0; i < h->n_kept; i++)
            if (h->kept[i] < p->plan.sinks || t - h->kept[i] < p->plan.recent)
                h->kept[m++] = h->kept[i];
        h->n_kept = m;
    }
    memcpy(p->seen, h->kept, h->n_kept * sizeof *p->seen);
    *n = h->n_kept;
    return p->seen;
}

uint32_t policy_summary(const struct policy *p, uint32_t layer, uint32_t kv_head, const double **k,
                        const double **v)
{
    const struct head *h = head_of(p, layer, kv_head);
    *k = h->mean_k;
    *v = h->mean_v;
    return h->n_summary;
}

void policy_store(struct policy *p, uint32_t layer, uint32_t kv_head, uint32_t t, const double *k,
                  const double *v)
{
    struct head *h = head_of(p, layer, kv_head);
    size_t d = p->head_dim;
    memcpy(h->k + t * d, k, d * sizeof *k);
    memcpy(h->v + t * d, v, d * sizeof *v);
}

void policy_attended(struct policy *p, uint32_t layer, uint32_t kv_head, uint32_t t,
                     const double *m)
{
    struct head *h = head_of(p, layer, kv_head);
    bool decodes = t >= p->prompt_end;
    for (uint32_t i = 0; i < h->n_kept; i++) {
        uint32_t j = h->kept[i];
        switch (p->plan.scorer) {
        case SCORER_ATTENTION_SUM:
        case SCORER_ATTENTION_MEAN:
            h->score[j] += m[i];
            break;
        case SCORER_WINDOW_ATTENTION: /* the window votes, then the sum of decode */
            if (decodes || t + p->plan.vote_queries >= p->prompt_end)
                h->score[j] += m[i];
            break;
        case SCORER_LAST_QUERY:
            h->score[j] = m[i];
            break;
        case SCORER_PERSISTENCE:
            h->often[(size_t)j * HISTORY + t % HISTORY] = m[i] > 1.0 / h->n_kept;
            break;
        default:
            break;
        }
    }
}

/* ---- choosing */

static double norm(const double *x, uint32_t n)
{
    double squares = 0;
    for (uint32_t i = 0; i < n; i++)
        squares += x[i] * x[i];
    return sqrt(squares);
}

/* KeyDiff's mean, but for a factor: of the keys that the head holds. */
static void sum_keys(const struct policy *p, struct head *h)
{
    memset(h->key_sum, 0, p->head_dim * sizeof *h->key_sum);
    for (uint32_t i = 0; i < h->n_kept; i++) {
        const double *k = h->k + (size_t)h->kept[i] * p->head_dim, length = norm(k, p->head_dim);
        for (uint32_t d = 0; d < p->head_dim && length > 0; d++)
            h->key_sum[d] += k[d] / length;
    }
}

static double value_of(const struct policy *p, uint32_t layer, uint32_t kv_head, uint32_t j,
                       uint32_t n, bool decodes)
{
    const struct head *h = head_of(p, layer, kv_head);
    const double *k = h->k + (size_t)j * p->head_dim;
    double dot = 0, length = norm(k, p->head_dim) * norm(h->key_sum, p->head_dim);
    uint32_t count = 0;
    switch (p->plan.scorer) {
    case SCORER_ATTENTION_MEAN:
        return h->score[j] / (n - j);
    case SCORER_WINDOW_ATTENTION:
        return decodes ? h->score[j] : h->score[j] / p->plan.vote_queries;
    case SCORER_ATTENTION_SUM:
    case SCORER_LAST_QUERY:
        return h->score[j];
    case SCORER_PERSISTENCE:
        for (uint32_t i = 0; i < HISTORY; i++)
            count += h->often[(size_t)j * HISTORY + i];
        return count;
    case SCORER_KEY_NORM:
        return -norm(k, p->head_dim);
    case SCORER_KEY_DIFF:
        for (uint32_t i = 0; i < p->head_dim; i++)
            dot += k[i] * h->key_sum[i];
        return length > 0 ? -dot / length : 0;
    case SCORER_RANDOM:
        return (double)select_random(p->plan.seed, layer, kv_head, (int32_t)j);
    default:
        return j;
    }
}

/* SnapKV's pooling over the kept tokens before the window, in order of position. */
static void pool(const struct policy *p, const struct head *h, uint32_t n, double *value)
{
    int kernel = (int)p->plan.kernel, prefix = 0;
    double *from = zeroed(h->n_kept, sizeof *from);
    while (prefix < (int)h->n_kept && h->kept[prefix] + p->plan.vote_queries < n) {
        from[prefix] = value[h->kept[prefix]];
        prefix++;
    }
    for (int i = 0; i < prefix && p->plan.pooling != POOLING_NONE; i++) {
        double sum = 0, largest = -INFINITY;
        for (int k = i - kernel / 2; k <= i + kernel / 2; k++)
            if (k >= 0 && k < prefix) {
                sum += from[k];
                largest = fmax(largest, from[k]);
            }
        value[h->kept[i]] = p->plan.pooling == POOLING_AVG ? sum / kernel : largest;
    }
    free(from);
}

static bool has_vote(const struct policy *p, uint32_t layer, uint32_t kv_head)
{
    return !is_voting(p) || head_profile_is_whole(p->profile, p->plan.sparsity, layer, kv_head);
}

static void evaluate(struct policy *p, uint32_t layer, uint32_t n, bool decodes)
{
    for (uint32_t kv_head = 0; kv_head < p->n_kv_heads; kv_head++) {
        struct head *h = head_of(p, layer, kv_head);
        double *value = p->value + (size_t)kv_head * p->max_tokens;
        if (p->plan.scorer == SCORER_KEY_DIFF)
            sum_keys(p, h);
        for (uint32_t i = 0; i < h->n_kept; i++)
            value[h->kept[i]] = value_of(p, layer, kv_head, h->kept[i], n, decodes);
        if (p->plan.scorer == SCORER_WINDOW_ATTENTION && !decodes)
            pool(p, h, n, value);
    }
    if (p->plan.share != SHARE_LAYER && !is_voting(p))
        return;
    uint32_t n_voters = 0;
    for (uint32_t kv_head = 0; kv_head < p->n_kv_heads; kv_head++)
        n_voters += has_vote(p, layer, kv_head);
    for (uint32_t j = 0; j < n; j++) { /* the heads hold the same tokens */
        double sum = 0;
        for (uint32_t kv_head = 0; kv_head < p->n_kv_heads; kv_head++)
            if (n_voters == 0 || has_vote(p, layer, kv_head))
                sum += p->value[(size_t)kv_head * p->max_tokens + j];
        for (uint32_t kv_head = 0; kv_head < p->n_kv_heads; kv_head++)
            p->value[(size_t)kv_head * p->max_tokens + j] =
                sum / (n_voters ? n_voters : p->n_kv_heads);
    }
}

/* NaN never wins. */
static double rank_of(double value)
{
    return isnan(value) ? -INFINITY : value;
}

static bool rather_kept(const double *value, uint32_t a, uint32_t b)
{
    double x = rank_of(value[a]), y = rank_of(value[b]);
    return x > y || (x == y && a > b);
}

/* The index among the kept of the unprotected token that goes first; UINT32_MAX when none may. */
static uint32_t worst(const struct policy *p, const struct head *h, const double *value, uint32_t n)
{
    uint32_t at = UINT32_MAX;
    for (uint32_t i = 0; i < h->n_kept; i++)
        if (!is_protected(p, h->kept[i], n) &&
            (at == UINT32_MAX || rather_kept(value, h->kept[at], h->kept[i])))
            at = i;
    return at;
}

static void forget(struct policy *p, struct head *h, uint32_t at)
{
    uint32_t j = h->kept[at];
    const double *k = h->k + (size_t)j * p->head_dim, *v = h->v + (size_t)j * p->head_dim;
    if (p->plan.remnant == REMNANT_MEAN) {
        h->n_summary++;
        for (uint32_t i = 0; i < p->head_dim; i++) {
            h->mean_k[i] += (k[i] - h->mean_k[i]) / h->n_summary;
            h->mean_v[i] += (v[i] - h->mean_v[i]) / h->n_summary;
        }
    }
    memmove(h->kept + at, h->kept + at + 1, (h->n_kept - at - 1) * sizeof *h->kept);
    h->n_kept--;
}

/* How close a call it was to drop `dropped` and keep the worst that is left. */
static void note_margin(const struct policy *p, struct head *h, const double *value,
                        uint32_t dropped, uint32_t n)
{
    uint32_t at = worst(p, h, value, n);
    if (at == UINT32_MAX || p->plan.scorer == SCORER_RECENCY)
        return;
    double a = value[h->kept[at]], b = value[dropped];
    h->margin = fmin(h->margin, fabs(a - b) / fmax(fmax(fabs(a), fabs(b)), FLOAT_TAIL));
}

static void shrink(struct policy *p, uint32_t layer, uint32_t kv_head, uint32_t size, uint32_t n)
{
    struct head *h = head_of(p, layer, kv_head);
    const double *value = p->value + (size_t)kv_head * p->max_tokens;
    while (h->n_kept > size) {
        uint32_t at = worst(p, h, value, n), dropped;
        if (at == UINT32_MAX)
            return;
        dropped = h->kept[at];
        forget(p, h, at);
        if (h->n_kept == size)
            note_margin(p, h, value, dropped, n);
    }
}

/* Of two heads' worst tokens: which goes first, the lower value, the older token, the later head.
 */
static bool goes_before(double a, uint32_t token_a, uint32_t head_a, double b, uint32_t token_b,
                        uint32_t head_b)
{
    return a < b || (a == b && (token_a < token_b || (token_a == token_b && head_a > head_b)));
}

/* How close the layer's cut was, of which `value` is the best token that does not win. */
static void note_cut(struct policy *p, uint32_t layer, const double *lowest, double value)
{
    double closest = INFINITY;
    for (uint32_t i = 0; i < p->n_kv_heads; i++)
        if (!isnan(lowest[i])) /* NaN: the head wins nothing */
            closest = fmin(closest, fabs(lowest[i] - value) /
                                        fmax(fmax(fabs(lowest[i]), fabs(value)), FLOAT_TAIL));
    for (uint32_t i = 0; i < p->n_kv_heads; i++)
        head_of(p, layer, i)->margin = fmin(head_of(p, layer, i)->margin, closest);
}

/* AdaKV: of the best n_kv_heads * F tokens of the layer n_h are head h's, which then keeps its best
 * 0.8 n_h + 0.2 F, in whole slots that add up. F is what a head may choose under an even split. */
static void mix(struct policy *p, uint32_t layer, uint32_t n)
{
    uint32_t reserved = p->plan.sinks + p->plan.recent, even = p->plan.budget - reserved, left = 0,
             *n_won = zeroed(p->n_kv_heads, sizeof *n_won), *size = zeroed(p->n_kv_heads, 4);
    bool *out = zeroed((size_t)p->n_kv_heads * p->max_tokens, 1);
    double *lowest = zeroed(p->n_kv_heads, sizeof *lowest), cut = 0, sum = 0;
    for (uint32_t i = 0; i < p->n_kv_heads; i++) {
        struct head *h = head_of(p, layer, i);
        for (uint32_t k = 0; k < h->n_kept; k++)
            n_won[i] += !is_protected(p, h->kept[k], n);
        left += n_won[i];
    }
    while (left > p->n_kv_heads * even) { /* the worst of all loses */
        uint32_t head = UINT32_MAX, token = 0;
        for (uint32_t i = 0; i < p->n_kv_heads; i++) {
            struct head *h = head_of(p, layer, i);
            const double *values = p->value + (size_t)i * p->max_tokens;
            for (uint32_t k = 0; k < h->n_kept; k++) {
                uint32_t j = h->kept[k];
                double rank = rank_of(values[j]);
                if (is_protected(p, j, n) || out[(size_t)i * p->max_tokens + j] ||
                    (head != UINT32_MAX && !goes_before(rank, j, i, cut, token, head)))
                    continue;
                head = i;
                token = j;
                cut = rank;
            }
        }
        out[(size_t)head * p->max_tokens + token] = true;
        n_won[head]--;
        left--;
    }
    bool competed = false;
    for (uint32_t i = 0; i < p->n_kv_heads; i++) {
        struct head *h = head_of(p, layer, i);
        const double *values = p->value + (size_t)i * p->max_tokens;
        lowest[i] = NAN;
        for (uint32_t k = 0; k < h->n_kept; k++) {
            uint32_t j = h->kept[k];
            competed |= out[(size_t)i * p->max_tokens + j];
            if (!is_protected(p, j, n) && !out[(size_t)i * p->max_tokens + j])
                lowest[i] =
                    fmin(lowest[i], rank_of(values[j])); /* of NaN and a number the number */
        }
        double before = floor(sum / 5 + 0.5);
        sum += 4 * n_won[i] + even;
        size[i] = (uint32_t)(floor(sum / 5 + 0.5) - before);
    }
    if (competed)
        note_cut(p, layer, lowest, cut);
    for (uint32_t i = 0; i < p->n_kv_heads; i++) {
        struct head *h = head_of(p, layer, i);
        uint32_t n_protected = 0;
        for (uint32_t k = 0; k < h->n_kept; k++)
            n_protected += is_protected(p, h->kept[k], n);
        shrink(p, layer, i, n_protected + size[i], n);
    }
    free(n_won);
    free(size);
    free(out);
    free(lowest);
}

/* AdaKV with a floor: one token after another is dropped, the worst of all heads that have more than
 * their safe share, until the layer holds what its budgets add up to. */
static void compete(struct policy *p, uint32_t layer, uint32_t n)
{
    uint32_t reserved = p->plan.sinks + p->plan.recent, free_choice = p->plan.budget - reserved,
             safe = (uint32_t)floor(0.2 * free_choice), total = 0;
    for (uint32_t i = 0; i < p->n_kv_heads; i++)
        total += head_of(p, layer, i)->n_kept;
    while (total > p->n_kv_heads * p->plan.budget) {
        uint32_t head = UINT32_MAX, token = 0;
        double value = 0;
        for (uint32_t i = 0; i < p->n_kv_heads; i++) {
            struct head *h = head_of(p, layer, i);
            const double *values = p->value + (size_t)i * p->max_tokens;
            uint32_t at = worst(p, h, values, n);
            if (at == UINT32_MAX || h->n_kept <= reserved + safe)
                continue;
            uint32_t j = h->kept[at];
            double rank = rank_of(values[j]);
            if (head == UINT32_MAX || goes_before(rank, j, i, value, token, head)) {
                head = i;
                token = j;
                value = rank;
            }
        }
        struct head *h = head_of(p, layer, head);
        forget(p, h, worst(p, h, p->value + (size_t)head * p->max_tokens, n));
        total--;
        if (total > p->n_kv_heads * p->plan.budget)
            continue;
        for (uint32_t i = 0; i < p->n_kv_heads; i++) { /* the cut is one for the layer */
            struct head *other = head_of(p, layer, i);
            const double *values = p->value + (size_t)i * p->max_tokens;
            uint32_t at = worst(p, other, values, n);
            if (at != UINT32_MAX)
                other->margin =
                    fmin(other->margin,
                         fabs(values[other->kept[at]] - value) /
                             fmax(fmax(fabs(values[other->kept[at]]), fabs(value)), FLOAT_TAIL));
            h->margin = fmin(h->margin, other->margin);
        }
    }
}

/* PyramidKV's straight line: what layer `layer` holds beside the protected. */
static uint32_t pyramid(const struct policy *p, uint32_t layer, uint32_t n)
{
    if (p->n_layers == 1 || n < 2 * (p->plan.budget - p->plan.sinks - p->plan.recent))
        return p->plan.budget;
    double reserved = p->plan.sinks + p->plan.recent, mean = p->plan.budget - reserved,
           last = mean / 20, first = 2 * mean - last;
    if (first > n - reserved) {
        first = n - reserved;
        last = 2 * mean - first;
    }
    double sum = 0, before = 0;
    for (uint32_t l = 0; l <= layer; l++) {
        before = floor(sum + 0.5);
        sum += first + (last - first) / (p->n_layers - 1) * l;
    }
    return (uint32_t)(reserved + floor(sum + 0.5) - before);
}

/* CompressKV here: the protected, a fifth of the even share (at least 1), and of the rest a part in
 * proportion to the layer's retrieval; what is more than the n tokens goes to the other layers. */
static uint32_t voted_budget(const struct policy *p, uint32_t layer, uint32_t n)
{
    uint32_t reserved = p->plan.sinks + p->plan.recent, even = p->plan.budget - reserved,
             least = even / 5 ? even / 5 : 1;
    double *part = zeroed(p->n_layers, sizeof *part), most = n - reserved - least,
           rest = (double)p->n_layers * (even - least), sum = 0;
    bool *full = zeroed(p->n_layers, sizeof *full), again = true;
    while (again) {
        double weights = 0, left = rest;
        uint32_t n_open = 0;
        for (uint32_t l = 0; l < p->n_layers; l++) {
            left -= full[l] ? most : 0;
            weights += full[l] ? 0 : p->profile->retrieval[l];
            n_open += !full[l];
        }
        again = false;
        for (uint32_t l = 0; l < p->n_layers; l++) {
            if (!full[l])
                part[l] = weights > 0 ? left * p->profile->retrieval[l] / weights : left / n_open;
            if (!full[l] && part[l] > most - 1e-6) {
                part[l] = most;
                full[l] = again = true;
            }
        }
    }
    for (uint32_t l = 0; l < layer; l++)
        sum += full[l] ? 0 : part[l];
    double share = full[layer] ? most : floor(sum + part[layer] + 0.5) - floor(sum + 0.5);
    free(part);
    free(full);
    return reserved + least + (uint32_t)share;
}

static uint32_t budget_at_end(const struct policy *p, uint32_t layer, uint32_t n)
{
    if (n <= other_budget_at(p, n))
        return other_budget_at(p, n);
    if (p->plan.allocation == ALLOCATION_PYRAMID)
        return pyramid(p, layer, n);
    return is_voting(p) ? voted_budget(p, layer, n) : other_budget_at(p, n);
}

static bool competes(const struct policy *p)
{
    return p->plan.allocation == ALLOCATION_ADAPTIVE ||
           p->plan.allocation == ALLOCATION_ADAPTIVE_FLOOR;
}

static void end_prompt(struct policy *p, uint32_t layer, uint32_t n)
{
    evaluate(p, layer, n, false);
    bool exceeded = n > other_budget_at(p, n);
    for (uint32_t i = 0; i < p->n_kv_heads; i++) {
        struct head *h = head_of(p, layer, i);
        h->budget = budget_at_end(p, layer, n);
        if (exceeded && !is_whole(p, layer, i) && !competes(p))
            shrink(p, layer, i, h->budget, n);
    }
    if (exceeded && competes(p)) {
        (p->plan.allocation == ALLOCATION_ADAPTIVE ? mix : compete)(p, layer, n);
        for (uint32_t i = 0; i < p->n_kv_heads; i++)
            head_of(p, layer, i)->budget = head_of(p, layer, i)->n_kept;
    }
    for (uint32_t i = 0; i < p->n_kv_heads && p->plan.scorer == SCORER_WINDOW_ATTENTION; i++)
        memset(head_of(p, layer, i)->score, 0, p->max_tokens * sizeof(double));
}

void policy_end_layer(struct policy *p, uint32_t layer, uint32_t t)
{
    uint32_t n = t + 1;
    if (is_full(p) || p->plan.prefill == PREFILL_STREAM || n < p->prompt_end)
        return;
    if (n == p->prompt_end) {
        end_prompt(p, layer, n);
        return;
    }
    if (p->plan.decode != DECODE_EVICT)
        return;
    evaluate(p, layer, n, true);
    for (uint32_t i = 0; i < p->n_kv_heads; i++) {
        struct head *h = head_of(p, layer, i);
        uint32_t budget = p->plan.allocation == ALLOCATION_PROFILE && !is_voting(p)
                              ? other_budget_at(p, n)
                              : h->budget;
        if (is_whole(p, layer, i) || h->n_kept <= budget)
            continue;
        uint32_t reserved = p->plan.sinks + recent_at(p, n),
                 most = budget > reserved ? budget - reserved : 1,
                 drop = p->plan.interval < most ? p->plan.interval : most;
        shrink(p, layer, i, h->n_kept - drop, n);
    }
}

const uint32_t *policy_kept(const struct policy *p, uint32_t layer, uint32_t kv_head, uint32_t *n)
{
    const struct head *h = head_of(p, layer, kv_head);
    *n = h->n_kept;
    return h->kept;
}

double policy_margin(const struct policy *p, uint32_t layer, uint32_t kv_head)
{
    return head_of(p, layer, kv_head)->margin;
}
