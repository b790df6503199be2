/* Choosing survivors and victims: see select.h. */
#include "cache/policy/select.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/random.h"

uint64_t select_key(float score, int32_t position)
{
    uint32_t bits;
    if (isnan(score))
        score = -INFINITY;
    if (score == 0)
        score = 0; /* -0 and 0 are equal */
    memcpy(&bits, &score, sizeof bits);
    /* Floats in order as unsigned numbers; + 1 position keeps the lowest key above 0. */
    bits = bits >> 31 ? ~bits : bits | UINT32_C(1) << 31;
    return (uint64_t)bits << 32 | ((uint32_t)position + 1);
}

bool select_is_protected(const struct select_view *v, uint32_t slot)
{
    uint32_t p = (uint32_t)v->positions[slot];
    return p < v->sinks || v->n_tokens - p <= v->recent;
}

static void swap(uint64_t *a, uint64_t *b)
{
    uint64_t t = *a;
    *a = *b;
    *b = t;
}

/* The k-th largest of n different keys, 1 <= k <= n: quickselect around the middle of three. */
static uint64_t kth_largest(uint64_t *keys, uint32_t n, uint32_t k)
{
    uint32_t low = 0, high = n;
    while (high - low > 1) {
        uint64_t a = keys[low], b = keys[low + (high - low) / 2], c = keys[high - 1];
        uint64_t pivot = a < b ? (b < c ? b : a < c ? c : a) : (a < c ? a : b < c ? c : b);
        uint32_t i = low, j = high - 1;
        for (;;) {
            while (keys[i] > pivot)
                i++;
            while (keys[j] < pivot)
                j--;
            if (i >= j)
                break;
            swap(&keys[i], &keys[j]);
        }
        /* All keys differ, so the pivot lies at i: larger ones before it, smaller ones behind. */
        if (k - 1 == i)
            return keys[i];
        if (k - 1 < i)
            high = i;
        else
            low = i + 1;
    }
    return keys[low];
}

/* Marks what is protected and lists the keys of the rest. */
static uint32_t list_candidates(const struct select_view *v, bool *keep, uint64_t *keys,
                                uint32_t *n_protected)
{
    uint32_t n = 0;
    *n_protected = 0;
    for (uint32_t i = 0; i < v->n; i++) {
        keep[i] = v->positions[i] != HOLE && select_is_protected(v, i);
        *n_protected += keep[i];
        if (!keep[i] && v->positions[i] != HOLE)
            keys[n++] = select_key(v->scores[i], v->positions[i]);
    }
    return n;
}

static uint32_t keep_above(const struct select_view *v, uint64_t lowest, bool *keep)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < v->n; i++) {
        if (v->positions[i] != HOLE && !keep[i])
            keep[i] = select_key(v->scores[i], v->positions[i]) >= lowest;
        n += keep[i];
    }
    return n;
}

/* Keeps the protected, which list_candidates has marked, and the best `places` of the n keys. */
static uint32_t keep_best(const struct select_view *v, uint32_t places, uint32_t n,
                          uint32_t n_protected, bool *keep, uint64_t *keys)
{
    if (places == 0)
        return n_protected;
    return keep_above(v, places >= n ? 1 : kth_largest(keys, n, places), keep);
}

uint32_t select_survivors(const struct select_view *v, uint32_t budget, bool *keep,
                          uint64_t *scratch)
{
    uint32_t n_protected, n = list_candidates(v, keep, scratch, &n_protected);
    return keep_best(v, budget > n_protected ? budget - n_protected : 0, n, n_protected, keep,
                     scratch);
}

/* Over all heads: the score decides, then the newer token, then the lower head. */
struct rival {
    uint64_t key;
    uint32_t head, slot;
};

static int by_rank(const void *a, const void *b)
{
    const struct rival *x = a, *y = b;
    if (x->key != y->key)
        return x->key > y->key ? -1 : 1;
    return x->head < y->head ? -1 : 1;
}

/* Slots of a head that are free to choose under an even split. */
static uint32_t free_choice(const struct select_view *v, uint32_t budget)
{
    uint32_t reserved = v->sinks + v->recent;
    return budget > reserved ? budget - reserved : 0;
}

/* Lists what no head keeps yet, best first. */
static size_t rank_rivals(const struct select_view *views, uint32_t n_heads, const bool *keep,
                          struct rival *rivals)
{
    size_t n = 0, at = 0;
    for (uint32_t h = 0; h < n_heads; at += views[h++].n)
        for (uint32_t i = 0; i < views[h].n; i++)
            if (views[h].positions[i] != HOLE && !keep[at + i])
                rivals[n++] = (struct rival){select_key(views[h].scores[i], views[h].positions[i]),
                                             h, (uint32_t)(at + i)};
    qsort(rivals, n, sizeof *rivals, by_rank);
    return n;
}

/* `adaptive`. The slots that each head wins are counted in n_kept first. */
static void keep_mixed(const struct select_view *views, uint32_t n_heads, uint32_t budget,
                       bool *keep, uint64_t *scratch, uint32_t *n_kept, struct rival *rivals)
{
    uint64_t places = 0, fifths = 0;
    size_t at = 0;
    for (uint32_t h = 0; h < n_heads; at += views[h++].n) {
        list_candidates(&views[h], keep + at, scratch, &n_kept[h]);
        n_kept[h] = 0;
        places += free_choice(&views[h], budget);
    }
    size_t n_rivals = rank_rivals(views, n_heads, keep, rivals);
    for (size_t i = 0; i < n_rivals && i < places; i++)
        n_kept[rivals[i].head]++;
    at = 0;
    for (uint32_t h = 0; h < n_heads; at += views[h++].n) {
        uint64_t before = fifths;
        fifths += ADAPTIVE_FIFTHS(n_kept[h], free_choice(&views[h], budget));
        uint32_t n_protected, n = list_candidates(&views[h], keep + at, scratch, &n_protected);
        n_kept[h] = keep_best(&views[h], ADAPTIVE_ROUND(fifths) - ADAPTIVE_ROUND(before), n,
                              n_protected, keep + at, scratch);
    }
}

/* `adaptive_floor`. */
static void keep_above_floor(const struct select_view *views, uint32_t n_heads, uint32_t budget,
                             bool *keep, uint64_t *scratch, uint32_t *n_kept, struct rival *rivals)
{
    uint64_t places = 0;
    size_t at = 0;
    for (uint32_t h = 0; h < n_heads; at += views[h++].n) {
        uint32_t choice = free_choice(&views[h], budget), n_protected;
        uint32_t safe = (uint32_t)floor(ADAPTIVE_ALPHA * choice);
        uint32_t n = list_candidates(&views[h], keep + at, scratch, &n_protected);
        n_kept[h] = keep_best(&views[h], safe, n, n_protected, keep + at, scratch);
        places += choice - safe;
    }
    size_t n_rivals = rank_rivals(views, n_heads, keep, rivals);
    for (size_t i = 0; i < n_rivals && i < places; i++) {
        keep[rivals[i].slot] = true;
        n_kept[rivals[i].head]++;
    }
}

bool select_adaptive(const struct select_view *views, uint32_t n_heads, enum plan_allocation how,
                     uint32_t budget, bool *keep, uint64_t *scratch, uint32_t *n_kept)
{
    size_t total = 0;
    for (uint32_t h = 0; h < n_heads; h++)
        total += views[h].n;
    struct rival *rivals = malloc((total ? total : 1) * sizeof *rivals);
    if (!rivals)
        return false;
    (how == ALLOCATION_ADAPTIVE_FLOOR ? keep_above_floor : keep_mixed)(views, n_heads, budget, keep,
                                                                       scratch, n_kept, rivals);
    free(rivals);
    return true;
}

uint32_t select_victims(const struct select_view *v, uint32_t n, uint32_t *victims)
{
    uint64_t last = 0;
    for (uint32_t found = 0; found < n; found++) {
        uint64_t lowest = UINT64_MAX;
        for (uint32_t i = 0; i < v->n; i++) {
            if (v->positions[i] == HOLE || select_is_protected(v, i))
                continue;
            uint64_t key = select_key(v->scores[i], v->positions[i]);
            if (key > last && key < lowest) {
                lowest = key;
                victims[found] = i;
            }
        }
        if (lowest == UINT64_MAX)
            return found;
        last = lowest;
    }
    return n;
}

/* Slots that have a position below `before`, sorted by it. */
static uint32_t sort_by_position(const struct select_view *v, uint32_t before, uint32_t *order)
{
    uint32_t n = 0;
    bool sorted = true;
    for (uint32_t i = 0; i < v->n; i++)
        if ((uint32_t)v->positions[i] < before) {
            sorted = sorted && (n == 0 || v->positions[order[n - 1]] < v->positions[i]);
            order[n++] = i;
        }
    /* After a prefill into an empty sequence the slots are in order; after an earlier
     * compression they nearly are, which insertion handles well. */
    for (uint32_t i = 1; !sorted && i < n; i++)
        for (uint32_t k = i; k > 0 && v->positions[order[k - 1]] > v->positions[order[k]]; k--) {
            uint32_t t = order[k];
            order[k] = order[k - 1];
            order[k - 1] = t;
        }
    return n;
}

void select_pool(const struct select_view *v, enum plan_pooling pooling, uint32_t kernel,
                 uint32_t before, float *pooled, uint32_t *order)
{
    memcpy(pooled, v->scores, v->n * sizeof *pooled);
    if (pooling == POOLING_NONE || kernel <= 1)
        return;
    uint32_t n = sort_by_position(v, before, order), half = kernel / 2;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t first = i > half ? i - half : 0, last = i + half < n ? i + half : n - 1;
        float sum = 0, largest = -INFINITY;
        for (uint32_t k = first; k <= last; k++) {
            sum += v->scores[order[k]];
            largest = fmaxf(largest, v->scores[order[k]]);
        }
        pooled[order[i]] = pooling == POOLING_AVG ? sum / (float)kernel : largest;
    }
}

float select_random(int64_t seed, uint32_t layer, uint32_t kv_head, int32_t position)
{
    uint64_t h = random_mix((uint64_t)seed + RANDOM_STEP);
    h = random_mix(h ^ ((uint64_t)layer << 32 | kv_head));
    h = random_mix(h ^ (uint32_t)position);
    return (float)(h >> 40) * 0x1p-24f;
}

uint32_t select_pyramid_budget(uint32_t layer, uint32_t n_layers, uint32_t budget,
                               uint32_t n_protected, uint32_t n_tokens)
{
    const double beta = 20;
    double free_choice = budget > n_protected ? budget - n_protected : 0;
    double last = free_choice / beta, first = 2 * free_choice - last,
           most = n_tokens > n_protected ? n_tokens - n_protected : 0;
    if (n_layers == 1 || n_tokens < 2 * free_choice)
        return budget;
    if (first > most) {
        first = most;
        last = 2 * free_choice - first;
    }
    /* Rounded so that the sum over the layers is that of an even split. */
    double before = 0, step = (last - first) / (n_layers - 1);
    for (uint32_t l = 0; l < layer; l++)
        before += first + step * l;
    double after = before + (first + step * layer); /* the same sum as the next layer's before */
    return n_protected + (uint32_t)(floor(after + 0.5) - floor(before + 0.5));
}

/* The rest of the budget, `left` slots, shared among layers that take at most `most` each. A
 * layer is full when its share of what the full layers leave is more than it can take. */
struct shares {
    const double *weights;
    uint32_t n;
    double most, left, sum; /* of the weights that are not full; left for those */
    double least_full;      /* weights from here on are full */
    double add;             /* to every weight: 1 where all that count are 0 */
};

static double part_of(const struct shares *s, double weight)
{
    return s->left * ((weight + s->add) / s->sum);
}

static bool is_full(const struct shares *s, double weight)
{
    return weight >= s->least_full;
}

/* Like water in vessels of one height: fills one layer after another, the largest weight first. */
static void share_out(struct shares *s)
{
    double total = s->left;
    for (s->least_full = INFINITY;;) {
        uint32_t n_full = 0;
        double largest = 0;
        s->sum = 0;
        for (uint32_t l = 0; l < s->n; l++) {
            if (is_full(s, s->weights[l])) {
                n_full++;
                continue;
            }
            largest = fmax(largest, s->weights[l]);
            s->sum += s->weights[l];
        }
        s->left = total - n_full * s->most;
        s->add = s->sum > 0 ? 0 : 1;
        s->sum = s->sum > 0 ? s->sum : s->n - n_full;
        /* A layer within rounding of full counts as full, so that the rounding of the others
         * cannot pass it. */
        if (largest == 0 || part_of(s, largest) < s->most - 1e-6)
            return;
        s->least_full = largest;
    }
}

uint32_t select_profile_budget(const double *retrieval, uint32_t layer, uint32_t n_layers,
                               uint32_t budget, uint32_t n_protected, uint32_t n_tokens)
{
    const double alpha = 0.2; /* the share that AdaKV guarantees its heads */
    uint32_t free_choice = budget - n_protected, least = (uint32_t)floor(alpha * free_choice);
    least = least > 0 ? least : 1;
    struct shares s = {.weights = retrieval,
                       .n = n_layers,
                       .most = (double)n_tokens - n_protected - least,
                       .left = (double)n_layers * (free_choice - least)};
    share_out(&s);
    if (is_full(&s, retrieval[layer]))
        return n_tokens;
    double before = 0;
    for (uint32_t l = 0; l < layer; l++)
        before += is_full(&s, retrieval[l]) ? 0 : part_of(&s, retrieval[l]);
    double after = before + part_of(&s, retrieval[layer]);
    return n_protected + least + (uint32_t)(floor(after + 0.5) - floor(before + 0.5));
}
