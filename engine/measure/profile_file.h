/* Reads head profiles (cache/policy/head_profile.h) from files. There are two kinds: the JSON that
 * `winnow calibrate` writes (RazorAttention, arXiv 2407.15891), and DuoAttention's patterns, which
 * are tab-separated numbers from 0 to 1, a line per layer (arXiv 2410.10819). Any thread.
 *
 * The JSON is an object with these keys; further ones are for people:
 *   "format": "winnow-head-profile", "version": 1
 *   "model": name, "model_hash": 64 hex digits (engine/model/model_hash.h)
 *   "n_layers", "n_kv_heads": integers
 *   "induction", "echo": [n_layers][n_kv_heads] scores from 0 to 1: they share budgets among layers
 *   "retrieval_heads": [[layer, kv_head], ...], the heads that keep everything */
#ifndef WINNOW_ENGINE_MEASURE_PROFILE_FILE_H
#define WINNOW_ENGINE_MEASURE_PROFILE_FILE_H

#include "cache/policy/head_profile.h"
#include "engine/model/model.h"

/* NULL: "invalid_head_profile" with the defect ("layer 3 has 7 values, not 8"), or "out_of_memory".
 * The caller frees it (head_profile_free). */
struct head_profile *profile_file_load(const char *path, struct error *e);
/* The same; refuses a profile that was not made for this model. */
struct head_profile *profile_file_open(const char *path, const struct model *model,
                                       struct error *e);
/* The path of the profile beside a model: NAME.heads.json for NAME.gguf. The caller frees it. NULL:
 * there is no such file. */
char *profile_file_beside(const char *model_path);

#endif
