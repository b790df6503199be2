/* The result of a calibration: which heads its scores choose, and the profile file. See
 * calibrate.h. */
#include "engine/measure/calibrate.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

struct calibration *calibration_new(const struct model *m, const struct calibration_settings *s,
                                    struct error *e)
{
    size_t n = (size_t)m->n_layers * m->n_kv_heads;
    struct calibration *r = calloc(1, sizeof *r);
    if (!r) {
        error_set_memory(e, "the calibration", sizeof *r);
        return NULL;
    }
    snprintf(r->model_name, sizeof r->model_name, "%s", m->name);
    r->n_layers = m->n_layers;
    r->n_kv_heads = m->n_kv_heads;
    r->seed = s->seed;
    r->induction_percent = s->induction_percent;
    r->echo_percent = s->echo_percent;
    r->induction = calloc(n, sizeof *r->induction);
    r->echo = calloc(n, sizeof *r->echo);
    r->whole = calloc(n, sizeof *r->whole);
    if ((r->induction && r->echo && r->whole) ||
        error_set_memory(e, "scores of the heads", n * sizeof *r->echo))
        return r;
    calibration_free(r);
    return NULL;
}

void calibration_free(struct calibration *c)
{
    if (!c)
        return;
    free(c->tokens);
    free(c->induction);
    free(c->echo);
    free(c->whole);
    free(c);
}

double calibration_least_score(const struct calibration *c)
{
    return c->length ? fmin(CALIBRATE_LEAST_TIMES / c->length, 0.5) : 0;
}

/* Adds the `percent` of all heads with the highest scores, rounded up, of those that score `least`.
 */
static void choose_top(struct calibration *c, const double *score, uint32_t percent, double least)
{
    uint32_t n = c->n_layers * c->n_kv_heads;
    uint32_t n_chosen = (uint32_t)(((uint64_t)n * percent + 99) / 100);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t n_before = 0;
        for (uint32_t k = 0; k < n; k++)
            n_before += score[k] > score[i] || (k < i && score[k] == score[i]);
        c->whole[i] |= n_before < n_chosen && score[i] >= least;
    }
}

/* Returns how many heads are chosen. */
static uint32_t choose_above(struct calibration *c, double least)
{
    const uint32_t n = c->n_layers * c->n_kv_heads;
    uint32_t n_whole = 0;
    memset(c->whole, 0, n * sizeof *c->whole);
    choose_top(c, c->induction, c->induction_percent, least);
    choose_top(c, c->echo, c->echo_percent, least);
    for (uint32_t i = 0; i < n; i++)
        n_whole += c->whole[i];
    return n_whole;
}

void calibration_choose(struct calibration *c)
{
    uint32_t n_asked = choose_above(c, 0), n = choose_above(c, calibration_least_score(c));
    c->n_left_out = n_asked - n;
    if (n > 0)
        return;
    choose_above(c, 0);
    c->n_left_out = 0;
}

static void write_scores(const struct calibration *c, const char *key, const double *score,
                         FILE *file)
{
    fprintf(file, "  \"%s\": [\n", key);
    for (uint32_t l = 0; l < c->n_layers; l++) {
        fputs("    [", file);
        for (uint32_t h = 0; h < c->n_kv_heads; h++)
            fprintf(file, "%s%.6f", h ? ", " : "", score[(size_t)l * c->n_kv_heads + h]);
        fputs(l + 1 < c->n_layers ? "],\n" : "]\n", file);
    }
    fputs("  ],\n", file);
}

/* Written without a JSON library, a line per layer, because people read and diff these files. */
bool calibration_write(const struct calibration *c, FILE *file, struct error *e)
{
    json_t *name = json_string(c->model_name);
    char *quoted = json_dumps(name ? name : json_null(), JSON_ENCODE_ANY);
    json_decref(name);
    if (!quoted)
        return error_set_memory(e, "the model's name", sizeof c->model_name);
    fprintf(file,
            "{\n  \"format\": \"winnow-head-profile\",\n  \"version\": 1,\n"
            "  \"model\": %s,\n  \"model_hash\": \"%s\",\n"
            "  \"n_layers\": %u,\n  \"n_kv_heads\": %u,\n",
            quoted, c->model_hash, c->n_layers, c->n_kv_heads);
    free(quoted);
    fprintf(file,
            "  \"settings\": {\"length\": %u, \"repeats\": %u, \"bos\": %s, \"seed\": %" PRIu64
            ", \"n_queries\": %u, \"induction_percent\": %u, \"echo_percent\": %u},\n",
            c->length, c->repeats, c->bos ? "true" : "false", c->seed, c->n_queries,
            c->induction_percent, c->echo_percent);
    write_scores(c, "induction", c->induction, file);
    write_scores(c, "echo", c->echo, file);
    fputs("  \"retrieval_heads\": [", file);
    const char *separator = "";
    for (uint32_t i = 0; i < c->n_layers * c->n_kv_heads; i++)
        if (c->whole[i]) {
            fprintf(file, "%s[%u, %u]", separator, i / c->n_kv_heads, i % c->n_kv_heads);
            separator = ", ";
        }
    fputs("]\n}\n", file);
    return true;
}
