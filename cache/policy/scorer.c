/* What slots are worth, one function per scorer (see scorer.h), and questions about the table.
 * cuda/kernels/score_slot.h computes the same on the device. */
#include "cache/policy/scorer.h"

#include <math.h>
#include <string.h>

#include "cache/policy/plan.h"
#include "cache/policy/select.h"

static void value_position(const struct score_view *v, float *scores)
{
    for (uint32_t i = 0; i < v->n_slots; i++)
        scores[i] = (float)v->positions[i];
}

static void value_sum(const struct score_view *v, float *scores)
{
    memcpy(scores, v->sums, v->n_slots * sizeof *scores);
}

/* Divided by the number of tokens that came after the slot's. Whole pages at a time: the
 * compiler divides eight at once. */
static void value_mean(const struct score_view *v, float *scores)
{
    for (uint32_t first = 0; first < v->n_slots; first += PAGE_SLOTS)
        for (uint32_t i = first; i < first + PAGE_SLOTS; i++)
            scores[i] = v->sums[i] / (float)(int32_t)(v->n_tokens - (uint32_t)v->positions[i]);
}

static void value_mean_of_votes(const struct score_view *v, float *scores)
{
    for (uint32_t i = 0; i < v->n_slots; i++)
        scores[i] = v->sums[i] / (float)v->plan->vote_queries;
}

static void value_history(const struct score_view *v, float *scores)
{
    for (uint32_t i = 0; i < v->n_slots; i++) {
        uint32_t n = 0;
        for (uint32_t w = 0; w < HISTORY_WORDS; w++)
            n += (uint32_t)__builtin_popcount(v->history[(size_t)i * HISTORY_WORDS + w]);
        scores[i] = (float)n;
    }
}

static void value_norm(const struct score_view *v, float *scores)
{
    for (uint32_t i = 0; i < v->n_slots; i++)
        scores[i] = -sqrtf(v->squares[i]);
}

/* Minus the cosine with the mean direction. */
static void value_angle(const struct score_view *v, float *scores)
{
    for (uint32_t i = 0; i < v->n_slots; i++)
        scores[i] = v->squares[i] > 0 ? -v->dots[i] / sqrtf(v->squares[i]) : 0;
}

static void value_random(const struct score_view *v, float *scores)
{
    for (uint32_t i = 0; i < v->n_slots; i++)
        scores[i] = select_random(v->plan->seed, v->layer, v->kv_head, v->positions[i]);
}

#define ROW(id, name, reads, voters, after_prompt, value)                                          \
    [SCORER_##id] = {name, SCORER_READS_##reads, voters, SCORER_##after_prompt, value},
static const struct scorer scorers[N_SCORERS] = {SCORERS(ROW)};

const struct scorer *scorer_at(enum plan_scorer scorer)
{
    return &scorers[scorer];
}

const struct scorer *scorer_of(const struct plan *plan)
{
    return &scorers[plan_evicts(plan) ? plan->scorer : SCORER_NONE];
}

uint32_t scorer_voters(const struct plan *plan)
{
    const struct scorer *s = scorer_of(plan);
    return scorer_has_window(s) ? plan->vote_queries : s->voters;
}
