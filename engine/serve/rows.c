/* Chooses the rows of the next step: see rows.h. */
#include "engine/serve/rows.h"

#include <string.h>

#include "engine/serve/output.h"
#include "engine/serve/pages.h"

/* The longest step while a choice decodes: a pause that readers hardly notice. A prompt gets
 * STEP_LEAST_ROWS in any case, because reading the weights for fewer rows takes as long. */
#define STEP_NS 100e6
enum { STEP_LEAST_ROWS = 32 };

/* Adds the next n tokens of one sequence, all from its prompt or all generated. */
static void add_rows(struct scheduler *s, struct choice *q, uint32_t n, uint32_t n_logits)
{
    struct request *request = q->owner;
    uint32_t first = cache_tokens_seen(q->cache), n_prompt = request->options.n_prompt;
    const int32_t *tokens =
        first < n_prompt ? request->options.prompt + first : q->generated + (first - n_prompt);
    struct step_rows *rows = &s->rows[s->n_rows];
    *rows = (struct step_rows){.sequence = q, .first = first, .n = n, .n_logits = n_logits};
    struct error e;
    uint32_t before = pages_begin(s);
    pages_give_up(s, cache_pages_to_place(q->cache, n));
    bool added = batch_add(s->runtime->batch, q->cache, tokens, n, n_logits, &rows->logits_row, &e);
    pages_end(s, request, before);
    if (added) {
        s->n_rows++;
        request->in_batch = true;
        /* Other requests can use them from the next step on. They are listed now because the end of
         * this step may compress them. */
        if (request->options.reuse_prefix && first < n_prompt)
            request->usage.cache_write_tokens += prefix_list(
                q->cache, &request->chain, &request->n_chained, request->options.prompt, first + n);
    } else if (strcmp(e.code, "kv_pool_empty") == 0) {
        if (s->n_running == 1)
            output_end_choice(s, q, FINISH_LENGTH, -1);
    } else if (!request->in_batch) { /* else it is tried again when its other rows are done */
        request->error = e;
        output_fail(s, request);
    }
}

/* The next older running request; the list may change between two calls. */
static struct request *running_after(const struct scheduler *s, const uint64_t *order)
{
    struct request *request = TAILQ_FIRST(&s->running);
    while (request && order && request->order <= *order)
        request = TAILQ_NEXT(request, link);
    return request;
}

/* ---- decoding */

static void add_decode_rows(struct scheduler *s, struct request *request)
{
    uint64_t need = 0;
    for (uint32_t i = 0; i < request->options.n_choices; i++)
        if (!request->choices[i].done)
            need += cache_pages_to_place(request->choices[i].cache, 1);
    if (pages_secure(s, request, need) == PAGES_LATER)
        return;
    for (uint32_t i = 0; i < request->options.n_choices && !request_is_done(request); i++)
        if (!request->choices[i].done)
            add_rows(s, &request->choices[i], 1, 1);
}

/* ---- prompts */

/* How many of the last rows of a chunk [first, end) of the prompt need logits: the very last one to
 * sample from, and those whose next token is reported with its log probability. */
static uint32_t prompt_logits(const struct request *request, const struct choice *q, uint32_t first,
                              uint32_t end)
{
    uint32_t n_prompt = request->options.n_prompt;
    if (request->options.n_prompt_logprobs >= 0 && request->prompt_reported < n_prompt) {
        uint32_t from = request->prompt_reported > 0 ? request->prompt_reported - 1 : 0;
        from = from > first ? from : first;
        return end > from ? end - from : 0;
    }
    return end == n_prompt && q->n_generated == 0 && request->max_new > 0;
}

/* The next chunk of one sequence within `budget` rows and `logits_room` logit rows. */
static void add_chunk(struct scheduler *s, struct choice *q, uint32_t budget, uint32_t logits_room)
{
    struct request *request = q->owner;
    uint32_t first = cache_tokens_seen(q->cache);
    bool in_prompt = first < request->options.n_prompt;
    uint32_t known = in_prompt ? request->options.n_prompt : choice_n_tokens(q);
    uint32_t n = known - first < budget ? known - first : budget, n_logits = 0;
    for (; n > 0; n -= n_logits - logits_room < n ? n_logits - logits_room : n) {
        n_logits = in_prompt ? prompt_logits(request, q, first, first + n) : first + n == known;
        if (n_logits <= logits_room)
            break;
    }
    if (n > 0)
        add_rows(s, q, n, n_logits);
}

static bool is_prefilling(const struct request *request)
{
    return atomic_load(&request->place) == PLACE_PREFILL && !request->in_batch;
}

/* Rows that the request's prompt still needs. */
static uint64_t prefill_need(const struct request *request)
{
    uint64_t need = 0;
    for (uint32_t i = 0; is_prefilling(request) && i < request->options.n_choices; i++)
        if (!request->choices[i].done && request->choices[i].cache)
            need += choice_n_tokens(&request->choices[i]) -
                    cache_tokens_seen(request->choices[i].cache);
    return need;
}

/* Rows to keep free for n prompts: what each needs, at most an even share of the room. */
static uint32_t rows_for(const struct scheduler *s, struct request *const *prompts, uint32_t n)
{
    uint32_t share = (s->step_rows - batch_rows(s->runtime->batch)) / (n + 1), left = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t need = prefill_need(prompts[i]);
        left += need < share ? (uint32_t)need : share;
    }
    return left;
}

/* `behind`: n_behind prompts that get rows after this one. */
static void add_prefill_rows(struct scheduler *s, struct request *request,
                             struct request *const *behind, uint32_t n_behind)
{
    uint32_t kept = rows_for(s, behind, n_behind);
    for (uint32_t i = 0; i < request->options.n_choices && !request_is_done(request); i++) {
        struct choice *q = &request->choices[i];
        if (q->done || !q->cache)
            continue;
        uint32_t rows = batch_rows(s->runtime->batch),
                 logits_room = batch_logits_room(s->runtime->batch);
        if (rows + kept >= s->step_rows)
            return;
        /* Each prompt behind keeps one row of logits, because it may reach its end. */
        bool greedy = request->options.n_prompt_logprobs >= 0 && logits_room > n_behind;
        add_chunk(s, q, s->step_rows - rows - kept, greedy ? logits_room - n_behind : logits_room);
    }
}

/* Short prompts share the step with a long one. The oldest prompt shares the rows with the next one
 * that needs less than half as many, that one with the next that needs less than half again, and so
 * on. The remaining rows go to the other prompts by age: prompts of the same length are read one
 * after the other, so that the first does not wait for the last. */
static void add_prompts(struct scheduler *s)
{
    struct request *sharing[65]; /* needs halve each time */
    uint32_t n = 0;
    uint64_t below = UINT64_MAX, order;
    struct request *r;
    TAILQ_FOREACH(r, &s->running, link) {
        uint64_t need = prefill_need(r);
        if (need == 0 || need >= below)
            continue;
        sharing[n++] = r;
        below = need / 2;
    }
    for (uint32_t i = 0; i < n; i++)
        add_prefill_rows(s, sharing[i], sharing + i + 1, n - i - 1);
    const uint64_t *last = NULL;
    for (struct request *request; (request = running_after(s, last));) {
        order = request->order;
        last = &order;
        if (prefill_need(request) > 0)
            add_prefill_rows(s, request, NULL, 0);
    }
}

/* ---- the step */

/* The most rows of the step. While a choice decodes, prompts get the rows that fit into STEP_NS at
 * row_ns each. */
static uint32_t rows_of_step(const struct scheduler *s)
{
    const double most = s->row_ns > 0 ? STEP_NS / s->row_ns : s->runtime->options.max_rows;
    const uint32_t decoding = batch_rows(s->runtime->batch),
                   prompts = most < STEP_LEAST_ROWS ? STEP_LEAST_ROWS : (uint32_t)most,
                   room = s->runtime->options.max_rows - decoding;
    return decoding > 0 && prompts < room ? decoding + prompts : s->runtime->options.max_rows;
}

void rows_choose(struct scheduler *s)
{
    batch_clear(s->runtime->batch);
    s->n_rows = 0;
    struct request *r;
    TAILQ_FOREACH(r, &s->running, link)
        r->in_batch = false;
    const uint64_t *last = NULL;
    uint64_t order;
    for (struct request *request; (request = running_after(s, last));) {
        order = request->order;
        last = &order;
        if (atomic_load(&request->place) == PLACE_PREFILL && request_decodes(request))
            request_set_place(request, PLACE_DECODE);
        if (atomic_load(&request->place) != PLACE_DECODE)
            continue;
        if (request_is_growing(request))
            request->reserved_pages = 0;
        add_decode_rows(s, request);
    }
    s->step_rows = rows_of_step(s);
    add_prompts(s);
}

void rows_note_time(struct scheduler *s, uint64_t ns)
{
    const uint32_t n = batch_rows(s->runtime->batch);
    if (n < STEP_LEAST_ROWS)
        return;
    const double row_ns = (double)ns / n;
    s->row_ns = s->row_ns > 0 ? 0.75 * s->row_ns + 0.25 * row_ns : row_ns;
}
