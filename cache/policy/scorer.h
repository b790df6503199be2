/* What a slot is worth: the table of scorers. A scorer is one row of SCORERS, one function in
 * scorer.c and one case in cuda/kernels/score_slot.h; everything else that differs from scorer to
 * scorer (what attention leaves behind, which queries vote, how much of a prompt may come from the
 * prefix cache) is read from the row. Constant, any thread; also read by device code. */
#ifndef WINNOW_CACHE_POLICY_SCORER_H
#define WINNOW_CACHE_POLICY_SCORER_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/policy/slot.h"

struct plan;

/* What a score is made of, and so what a sequence keeps of each slot from step to step. */
enum scorer_reads {
    SCORER_READS_POSITIONS, /* nothing is kept */
    SCORER_READS_SUM,       /* a float: the probabilities of all voters, added up */
    SCORER_READS_LAST,      /* a float: the newest voter's probability */
    SCORER_READS_HISTORY,   /* HISTORY_WORDS words: one bit a voter */
    SCORER_READS_KEYS,      /* the stored keys; nothing is kept */
    SCORER_READS_DIRECTION /* the stored keys, and 2 head_dim doubles a head: their mean direction */
};

/* How many queries at the end of a prompt vote. A prefix that ends before the first of them can be
 * taken over from other sequences. */
#define SCORER_VOTERS_OF_PLAN (UINT32_MAX - 1) /* the plan's vote_queries */
/* Every query. Then the state in the middle of a prompt does not depend on the budget. */
#define SCORER_VOTERS_ALL UINT32_MAX

/* X(ID, name, reads, voters, the scorer that decides once the prompt is over, value function) */
#define SCORERS(X)                                                                                 \
    X(NONE, "none", POSITIONS, 0, NONE, value_position)                                            \
    X(RECENCY, "recency", POSITIONS, 0, RECENCY, value_position)                                   \
    X(ATTENTION_SUM, "attention_sum", SUM, SCORER_VOTERS_ALL, ATTENTION_SUM, value_sum)            \
    X(ATTENTION_MEAN, "attention_mean", SUM, SCORER_VOTERS_ALL, ATTENTION_MEAN, value_mean)        \
    X(WINDOW_ATTENTION, "window_attention", SUM, SCORER_VOTERS_OF_PLAN, ATTENTION_SUM,             \
      value_mean_of_votes)                                                                         \
    X(LAST_QUERY, "last_query", LAST, 1, LAST_QUERY, value_sum)                                    \
    X(PERSISTENCE, "persistence", HISTORY, HISTORY_QUERIES, PERSISTENCE, value_history)            \
    X(KEY_NORM, "key_norm", KEYS, 0, KEY_NORM, value_norm)                                         \
    X(KEY_DIFF, "key_diff", DIRECTION, SCORER_VOTERS_ALL, KEY_DIFF, value_angle)                   \
    X(RANDOM, "random", POSITIONS, 0, RANDOM, value_random)

#define SCORER_ID(id, ...) SCORER_##id,
enum plan_scorer { SCORERS(SCORER_ID) N_SCORERS };
#undef SCORER_ID

/* One head's slots, as value functions read them. Which arrays are there depends on what the
 * scorer reads; the others are NULL. Arrays reach to the end of the last page; values of holes and
 * of slots from n_slots on mean nothing. */
struct score_view {
    const struct plan *plan;
    uint32_t layer, kv_head;
    uint32_t n_tokens; /* N */
    uint32_t n_slots;
    const int32_t *positions; /* not for keys */
    const float *sums;        /* SUM and LAST */
    const uint32_t *history;  /* [n_slots][HISTORY_WORDS] HISTORY */
    const float *dots;    /* DIRECTION: of the key with the mean direction, which has length 1 */
    const float *squares; /* KEYS and DIRECTION: the key's length, squared */
};

struct scorer {
    const char *name;
    enum scorer_reads reads;
    uint32_t voters;
    enum plan_scorer after_prompt; /* another one: its scores begin at 0 when the prompt is over */
    /* scores[i] of slots i < n_slots; the larger stays. */
    void (*value)(const struct score_view *v, float *scores);
};
const struct scorer *scorer_at(enum plan_scorer scorer);
/* The scorer of a plan; of SCORER_NONE where the plan keeps everything. */
const struct scorer *scorer_of(const struct plan *plan);

/* Whether each head keeps a float a slot. */
static inline bool scorer_keeps_sums(const struct scorer *s)
{
    return s->reads == SCORER_READS_SUM || s->reads == SCORER_READS_LAST;
}

static inline bool scorer_reads_keys(const struct scorer *s)
{
    return s->reads == SCORER_READS_KEYS || s->reads == SCORER_READS_DIRECTION;
}

/* Whether a plan's last vote_queries queries of the prompt choose. Then their slots are always
 * kept, and their votes are pooled. */
static inline bool scorer_has_window(const struct scorer *s)
{
    return s->voters == SCORER_VOTERS_OF_PLAN;
}

/* Queries at the end of the prompt that vote under this plan; SCORER_VOTERS_ALL: every one. */
uint32_t scorer_voters(const struct plan *plan);

#endif
