/* Which heads of a profile keep everything, and for which model it was made: see head_profile.h. */
#include "cache/policy/head_profile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BAD "invalid_head_profile"

/* The pattern's threshold as its authors set it: numpy's quantile over all values, to which noise
 * below 1e-6 was added against ties (82 of the 256 heads of their Llama-3 pattern are exactly 1).
 * Then (n - 1) * sparsity values, rounded up, lie below the quantile. Here ties are not drawn by
 * lot: the earlier head wins. */
static uint32_t n_below_quantile(uint32_t n, double sparsity)
{
    if (!(sparsity > 0))
        return 0;
    /* 1e-9: 175 * 0.28 is 49, but 49.00000000000001 in double. */
    return sparsity >= 1 ? n : (uint32_t)ceil((double)(n - 1) * sparsity - 1e-9);
}

uint32_t head_profile_n_whole(const struct head_profile *p, double sparsity)
{
    uint32_t n = p->n_layers * p->n_kv_heads, n_whole = 0;
    if (p->is_pattern)
        return n - n_below_quantile(n, sparsity);
    for (uint32_t i = 0; i < n; i++)
        n_whole += p->whole[i];
    return n_whole;
}

bool head_profile_is_whole(const struct head_profile *p, double sparsity, uint32_t layer,
                           uint32_t kv_head)
{
    uint32_t head = layer * p->n_kv_heads + kv_head;
    if (!p->is_pattern)
        return p->whole[head];
    uint32_t n = p->n_layers * p->n_kv_heads, n_before = 0;
    for (uint32_t i = 0; i < n; i++)
        n_before += p->value[i] > p->value[head] || (i < head && p->value[i] == p->value[head]);
    return n_before < head_profile_n_whole(p, sparsity);
}

bool head_profile_check(const struct head_profile *p, uint32_t n_layers, uint32_t n_kv_heads,
                        const char *model_hash, struct error *e)
{
    char shown[80];
    if (p->n_layers != n_layers || p->n_kv_heads != n_kv_heads)
        return error_set(e, BAD, "",
                         "the head profile is for %u layers of %u KV heads; this model has %u "
                         "layers of %u",
                         p->n_layers, p->n_kv_heads, n_layers, n_kv_heads);
    if (p->model_hash[0] && strcmp(p->model_hash, model_hash) != 0)
        return error_set(e, BAD, "",
                         "the head profile was made for another model (\"%s\", hash %.12s...; this "
                         "one has hash %.12s...); run `winnow calibrate` on this model",
                         error_excerpt(shown, p->model_name, strlen(p->model_name)), p->model_hash,
                         model_hash);
    return true;
}

void head_profile_free(struct head_profile *p)
{
    if (!p)
        return;
    free(p->value);
    free(p->whole);
    free(p->retrieval);
    free(p);
}
