/* Finds a model's retrieval heads (RazorAttention, arXiv 2407.15891): heads that attend to earlier
 * copies of the current token or to what followed them. Only they need to keep everything.
 *
 * The model reads BOS and then the same random tokens several times. For a query at position i let
 * J be the earlier positions with the same token. With a(i, j) the attention of a query head,
 *
 *   echo      = mean over i with J not empty of   sum over j in J of a(i, j)
 *   induction = mean over i with J not empty of   sum over j in J, j + 1 < i, of a(i, j + 1)
 *
 * and a KV head has the largest score of its query heads. Because the tokens are random, nothing
 * else draws attention to those places. Any thread, one call at a time for each object; a run uses
 * threads of its own inside. */
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

/* A head that attends evenly scores about 1 / length. Heads that look things up score up to
 * thousands of times as much. This many times tells them apart: the weakest head that RazorAttention's
 * percents choose of SmolLM2-135M scores 4.1 times, the best head of chance of models/demo.gguf
 * 3.6. */
#define CALIBRATE_LEAST_TIMES 4.0

struct calibration_settings {
    const struct device_kind *device; /* of the forward pass; the CPU computes scores */
    uint32_t n_threads;               /* >= 1 */
    const char *isa;                  /* as backend_cpu_open */
    /* Random tokens that are repeated. 0: CALIBRATE_LENGTH, or what fits the trained context: first
     * fewer repeats, at least 2, then fewer tokens. */
    uint32_t length;
    uint64_t seed;
    /* Percent of all KV heads that each score chooses, 0 to 100, not both 0; the paper's are
     * CALIBRATE_INDUCTION_PERCENT and CALIBRATE_ECHO_PERCENT. */
    uint32_t induction_percent, echo_percent;
    /* Called after each step; may be NULL. False stops the run with "cancelled". */
    bool (*progress)(void *context, uint32_t n_done, uint32_t n_total);
    void *progress_context;
};

struct calibration {
    char model_name[128], model_hash[65];
    uint32_t n_layers, n_kv_heads;
    uint32_t length, repeats, n_tokens; /* n_tokens = length * repeats, + 1 with BOS */
    bool bos;                           /* the vocabulary has a BOS and it came first */
    uint32_t n_queries;                 /* that have an earlier copy of their token */
    uint64_t seed;
    int32_t *tokens;                          /* [n_tokens] as read */
    double *induction, *echo;                 /* [n_layers][n_kv_heads] */
    bool *whole;                              /* [n_layers][n_kv_heads] the chosen heads */
    uint32_t n_left_out;                      /* by calibration_choose: their scores are chance */
    uint32_t induction_percent, echo_percent; /* of the settings */
};

/* Reads the tokens and scores every head. NULL: "invalid_value" (a length that does not fit the
 * context twice), "invalid_model", "out_of_memory", "cancelled". */
struct calibration *calibrate(struct model *model, const struct calibration_settings *settings,
                              struct error *e);
/* A calibration without tokens and scores. NULL: "out_of_memory". */
struct calibration *calibration_new(const struct model *m, const struct calibration_settings *s,
                                    struct error *e);
void calibration_free(struct calibration *c); /* NULL is allowed */

/* What a head must score to be chosen: CALIBRATE_LEAST_TIMES that of even attention, at most 0.5. */
double calibration_least_score(const struct calibration *c);
/* Fills `whole` from the scores: the top induction_percent of the KV heads by induction and the top
 * echo_percent by echo, each rounded up; of equal scores the earlier head. Those below the least
 * score are left out and counted, unless all are below it. */
void calibration_choose(struct calibration *c);
/* Writes the profile (cache/policy/head_profile.h). False: "out_of_memory". The caller checks the
 * file with ferror. */
bool calibration_write(const struct calibration *c, FILE *file, struct error *e);

#endif
