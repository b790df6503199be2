/* A head profile: which KV heads retrieve and keep everything, and which only look at recent
 * tokens. engine/measure/profile_file.h reads it from a file. Immutable once made: any thread. */
#ifndef WINNOW_CACHE_POLICY_HEAD_PROFILE_H
#define WINNOW_CACHE_POLICY_HEAD_PROFILE_H

#include <stdbool.h>
#include <stdint.h>

#include "config/base/error.h"

struct head_profile {
    uint32_t n_layers, n_kv_heads;
    bool is_pattern; /* DuoAttention's: `value` and a threshold decide, not `whole` */
    double *value;   /* [n_layers][n_kv_heads] pattern values; NULL in calibrated profiles */
    bool *whole;     /* [n_layers][n_kv_heads] heads that calibration chose; NULL in patterns */
    /* [n_layers] how much a layer retrieves: mean over its KV heads of the pattern's value, or of
     * induction + echo score */
    double *retrieval;
    char model_name[128]; /* "" in patterns */
    char model_hash[65];  /* hex SHA-256 of the weights' metadata; "" in patterns */
};

void head_profile_free(struct head_profile *p); /* NULL is allowed */

/* Whether the profile is for this model: the same shape and, where the profile has a hash, the same
 * hash. False with "invalid_head_profile". */
bool head_profile_check(const struct head_profile *p, uint32_t n_layers, uint32_t n_kv_heads,
                        const char *model_hash, struct error *e);

/* Whether head (layer, kv_head) keeps everything. `sparsity` counts for patterns only: values from
 * its quantile of all values on are whole. Linear in the heads for patterns: ask once a sequence,
 * not once a token. */
bool head_profile_is_whole(const struct head_profile *p, double sparsity, uint32_t layer,
                           uint32_t kv_head);
/* How many heads are. */
uint32_t head_profile_n_whole(const struct head_profile *p, double sparsity);

#endif
