/* A head profile: which KV heads look things up (and keep everything), which only look back a
 * little. Two kinds of file: the JSON that `winnow calibrate` writes (RazorAttention,
 * arXiv 2407.15891) and DuoAttention's patterns, tab-separated numbers from 0 to 1, a line a layer
 * (arXiv 2410.10819). Immutable after loading: any thread. */
#ifndef WINNOW_CACHE_HEAD_PROFILE_H
#define WINNOW_CACHE_HEAD_PROFILE_H

#include <stdbool.h>
#include <stdint.h>

#include "config/error.h"

struct head_profile {
    uint32_t n_layers, n_kv_heads;
    bool is_pattern;     /* DuoAttention's: `value` and a threshold decide, not `whole` */
    double *value;       /* [n_layers][n_kv_heads] pattern values; NULL in calibrated profiles */
    bool *whole;         /* [n_layers][n_kv_heads] heads that calibration chose; NULL in patterns */
    char model_hash[65]; /* hex SHA-256 of the weights' metadata; "" in patterns */
};

/* NULL with "invalid_head_profile" and what is wrong where ("layer 3 has 7 values, not 8"). The
 * caller frees it. */
struct head_profile *head_profile_load(const char *path, struct error *e);
void head_profile_free(struct head_profile *p);

/* Whether head (layer, kv_head) keeps everything. `sparsity` counts for patterns only: values above
 * its quantile of all values are whole. */
bool head_profile_is_whole(const struct head_profile *p, double sparsity, uint32_t layer,
                           uint32_t kv_head);
/* How many heads are. */
uint32_t head_profile_n_whole(const struct head_profile *p, double sparsity);

#endif
