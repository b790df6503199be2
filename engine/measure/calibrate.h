/* Finding a model's retrieval heads (RazorAttention, arXiv 2407.15891): the heads that look up what
 * once followed, or once was, the token at hand. Only they need to keep everything.
 *
 * The model reads BOS and then the same random tokens several times over. For a query at position i
 * let J be the earlier positions with the same token. With a(i, j) the attention of a query head,
 *
 *   echo      = mean over i with J not empty of   sum over j in J of a(i, j)
 *   induction = mean over i with J not empty of   sum over j in J, j + 1 < i, of a(i, j + 1)
 *
 * and a KV head has the largest score of the query heads that share it. Random tokens have no other
 * reason to look back at those places. All functions: any thread, one at a time per object; a run
 * uses threads of its own inside. */
#ifndef WINNOW_ENGINE_MEASURE_CALIBRATE_H
#define WINNOW_ENGINE_MEASURE_CALIBRATE_H

#include <stdio.h>

#include "engine/compute/device.h"
#include "engine/model/model.h"

enum {
    CALIBRATE_LENGTH = 2500, /* the paper's */
    CALIBRATE_REPEATS = 4,
    CALIBRATE_INDUCTION_PERCENT = 14,
    CALIBRATE_ECHO_PERCENT = 1
};

struct calibration_settings {
    const struct device_kind *device; /* of the forward pass; scores are made on the CPU */
    uint32_t n_threads;               /* >= 1 */
    const char *isa;                  /* as backend_cpu_open */
    /* Random tokens, read n times. 0: the paper's, or what the trained context takes: fewer
     * repeats, at least 2, then fewer tokens. */
    uint32_t length;
    uint64_t seed;
    /* Shares of all KV heads that are chosen by each score, 0 to 100, not both 0; the paper's are
     * CALIBRATE_INDUCTION_PERCENT and CALIBRATE_ECHO_PERCENT. */
    uint32_t induction_percent, echo_percent;
    /* After each step, may be NULL; false stops the run with "cancelled". */
    bool (*progress)(void *context, uint32_t n_done, uint32_t n_total);
    void *progress_context;
};

struct calibration {
    char model_name[128], model_hash[65];
    uint32_t n_layers, n_kv_heads;
    uint32_t length, repeats, n_tokens; /* n_tokens = length * repeats, + 1 with BOS */
    bool bos;                           /* the vocabulary has a BOS and it came first */
    uint32_t n_queries;                 /* with an earlier copy of their token */
    uint64_t seed;
    int32_t *tokens;                          /* [n_tokens] as read */
    double *induction, *echo;                 /* [n_layers][n_kv_heads] */
    bool *whole;                              /* [n_layers][n_kv_heads] the heads chosen */
    uint32_t induction_percent, echo_percent; /* as they were asked for */
};

/* Reads the tokens and scores every head. Loads nothing but the model given. NULL: "invalid_value"
 * (a length that does not fit the context twice), "invalid_model", "out_of_memory", "cancelled". */
struct calibration *calibrate(struct model *model, const struct calibration_settings *settings,
                              struct error *e);
/* An outcome without tokens and scores. NULL: "out_of_memory". */
struct calibration *calibration_new(const struct model *m, const struct calibration_settings *s,
                                    struct error *e);
void calibration_free(struct calibration *c); /* NULL is allowed */

/* Fills `whole` from the scores: the top induction_percent of the KV heads by induction and the top
 * echo_percent by echo, each rounded up, the earlier head first among equals. */
void calibration_choose(struct calibration *c);
/* Writes the profile (cache/policy/head_profile.h). False: "out_of_memory"; errors of the file are
 * the caller's to see with ferror. */
bool calibration_write(const struct calibration *c, FILE *file, struct error *e);

#endif
