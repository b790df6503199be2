/* Fetches the results of a step: one token per row where the device can pick it, else the row's
 * logits. A token instead of n_vocab floats saves most of a decode step's transfer. Engine thread;
 * declared in output.h. */
#include "engine/serve/output.h"

static bool is_over(const struct choice *q)
{
    return q->done || atomic_load(&q->owner->place) == PLACE_DONE;
}

/* Whether only the next token of q is wanted, and no end token is masked. */
static bool is_plain(const struct choice *q)
{
    const struct request *request = q->owner;
    bool is_masked = request->n_ends > 0 && q->n_generated < request->options.min_tokens;
    return request->options.n_logprobs < 0 && request->options.n_prompt_logprobs < 0 && !is_masked;
}

/* Adds a pick, unless the choice needs its logits. */
static void add_pick(struct scheduler *s, struct choice *q, uint32_t row)
{
    struct token_pick *pick = &s->picks[s->n_picks];
    if (is_over(q) || !is_plain(q) || !sampler_describe(q->sampler, q->n_generated, pick))
        return;
    pick->row = row;
    s->pickers[s->n_picks++] = q;
}

/* Adds the picks of a group of rows. The first tokens of all choices come from one row. */
static void add_picks(struct scheduler *s, const struct step_rows *rows)
{
    struct request *request = rows->sequence->owner;
    if (rows->n_logits != 1)
        return;
    if (rows->first >= request->options.n_prompt)
        add_pick(s, rows->sequence, rows->logits_row);
    for (uint32_t i = 0; rows->first < request->options.n_prompt && i < request->options.n_choices;
         i++)
        add_pick(s, &request->choices[i], rows->logits_row);
}

static bool pick(struct scheduler *s, struct error *e)
{
    s->n_picks = 0;
    for (uint32_t i = 0; i < s->n_rows; i++)
        if (!is_over(s->rows[i].sequence))
            add_picks(s, &s->rows[i]);
    if (!forward_pick(s->runtime->forward, s->picks, s->n_picks, s->picked, e))
        return false;
    for (uint32_t i = 0; i < s->n_picks; i++)
        s->pickers[i]->picked = s->picked[i];
    return true;
}

const float *output_fetch(struct scheduler *s, struct error *e)
{
    for (uint32_t i = 0; i < s->n_rows; i++)
        s->rows[i].sequence->picked = PICK_NONE;
    if (forward_can_pick(s->runtime->forward) && !pick(s, e))
        return NULL;
    uint32_t first = 0, n = 0; /* neighbouring rows are fetched together */
    for (uint32_t i = 0; i < s->n_rows; i++) {
        const struct step_rows *rows = &s->rows[i];
        if (rows->n_logits == 0 || is_over(rows->sequence) || rows->sequence->picked != PICK_NONE)
            continue;
        if (n > 0 && rows->logits_row != first + n) {
            if (!forward_logits(s->runtime->forward, first, n, e))
                return NULL;
            n = 0;
        }
        first = n > 0 ? first : rows->logits_row;
        n += rows->n_logits;
    }
    return forward_logits(s->runtime->forward, first, n, e);
}
