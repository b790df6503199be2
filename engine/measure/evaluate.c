/* Runs of one sequence under a plan: see evaluate.h. The common beginning of several texts is
 * computed once, where that changes no bit:
 *
 *   full pages   for plans whose scorer need not see every query (cache/pages/prefix.h)
 *   a state      for the others: the sequence shortly before the end of the prompt, which can go on
 *                under another budget or with another question at its end
 */
#include "engine/measure/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cache/pages/prefix.h"
#include "engine/measure/runtime.h"

/* QUESTION: a state ends at least that many tokens before its prompt, so that prompts that differ
 * in their question share it. It ends between chunks, where an unshared run ends a step too. */
enum { CHUNK = 256, QUESTION = 64 };

struct evaluator {
    struct runtime runtime;
    struct chat_template *chat_template; /* NULL: the model has none */
    bool no_sharing;
    struct cache_sequence *state; /* in the middle of a prompt; NULL: none */
    int32_t *state_tokens;        /* those it has seen */
};

static bool load_template(struct evaluator *v, struct error *e)
{
    const struct source_text text = v->runtime.model->chat_template;
    if (!text.data)
        return true;
    v->chat_template = chat_template_new(text.data, text.length, e);
    return v->chat_template != NULL;
}

/* Pages for three sequences: see evaluate.h. */
static bool set_pool(struct evaluator *v, const struct evaluator_options *o, struct error *e)
{
    const struct model *m = v->runtime.model;
    uint64_t tokens = o->max_tokens ? o->max_tokens : m->n_ctx_train;
    runtime_set_storage(&v->runtime, o->storage);
    return runtime_set_pool(&v->runtime,
                            (tokens / PAGE_SLOTS + 2) * m->n_layers * m->n_kv_heads * 3, e);
}

struct evaluator *evaluator_open(const struct evaluator_options *o, struct error *e)
{
    struct evaluator *v = calloc(1, sizeof *v);
    if (!v) {
        error_set_memory(e, "the evaluation", sizeof *v);
        return NULL;
    }
    const struct runtime_options runtime = {.model_path = o->model_path,
                                            .head_profile = o->head_profile,
                                            .needs_tokenizer = true,
                                            .device = o->device,
                                            .n_threads = o->n_threads,
                                            .isa = o->isa,
                                            .max_rows = CHUNK,
                                            .max_logits = CHUNK};
    v->no_sharing = o->no_sharing;
    if (runtime_load(&v->runtime, &runtime, e) && load_template(v, e) &&
        runtime_start(&v->runtime, e) && set_pool(v, o, e))
        return v;
    evaluator_close(v);
    return NULL;
}

static void forget_state(struct evaluator *v)
{
    cache_sequence_free(v->state);
    free(v->state_tokens);
    v->state = NULL;
    v->state_tokens = NULL;
}

void evaluator_close(struct evaluator *v)
{
    if (!v)
        return;
    forget_state(v);
    chat_template_free(v->chat_template);
    runtime_close(&v->runtime);
    free(v);
}

const struct model *evaluator_model(const struct evaluator *v)
{
    return v->runtime.model;
}

const struct tokenizer *evaluator_tokenizer(const struct evaluator *v)
{
    return v->runtime.tokenizer;
}

const struct chat_template *evaluator_chat_template(const struct evaluator *v)
{
    return v->chat_template;
}

struct plan_limits evaluator_limits(const struct evaluator *v)
{
    return runtime_limits(&v->runtime);
}

/* ---- one sequence */

/* Feeds the next n tokens, at most CHUNK. Returns the logits of the last n_logits; NULL on
 * failure. */
static const float *feed_all(struct evaluator *v, struct cache_sequence *s, const int32_t *tokens,
                             uint32_t n, uint32_t n_logits, struct error *e)
{
    uint64_t need = cache_pages_to_place(s, n), n_free = cache_counts(v->runtime.cache).free;
    if (need > n_free)
        prefix_give_up(v->runtime.cache, (uint32_t)(need - n_free));
    batch_clear(v->runtime.batch);
    if (!batch_add(v->runtime.batch, s, tokens, n, n_logits, NULL, e))
        return NULL;
    const float *logits = forward_run(v->runtime.forward, v->runtime.batch, e);
    if (logits && cache_is_starved(s)) {
        error_set(e, "kv_pool_empty", "", "the cache has no page left for a compression");
        return NULL;
    }
    return logits;
}

static const float *feed(struct evaluator *v, struct cache_sequence *s, const int32_t *tokens,
                         uint32_t n, struct error *e)
{
    return feed_all(v, s, tokens, n, 1, e);
}

/* Keeps the sequence's present state for later runs, if there is memory. */
static void keep_state(struct evaluator *v, struct cache_sequence *s, const int32_t *tokens)
{
    uint32_t n = cache_tokens_seen(s);
    struct error ignored;
    forget_state(v);
    v->state_tokens = malloc(n * sizeof *tokens);
    v->state = v->state_tokens ? cache_sequence_fork(s, &ignored) : NULL;
    if (v->state)
        memcpy(v->state_tokens, tokens, n * sizeof *tokens);
    else
        forget_state(v);
}

/* A sequence that has seen as much of the prompt as earlier runs have computed to the same bits. */
static struct cache_sequence *begin(struct evaluator *v, const struct plan *plan,
                                    const int32_t *tokens, uint32_t n, struct error *e)
{
    const struct prefix_name root = prefix_root(NULL, 0);
    uint32_t n_state = v->state ? cache_tokens_seen(v->state) : 0;
    bool same_text = n_state > 0 && n_state < n &&
                     memcmp(tokens, v->state_tokens, n_state * sizeof *tokens) == 0;
    if (same_text && prefix_is_read_alike(cache_sequence_plan(v->state), plan))
        return cache_sequence_fork_under(v->state, plan, e);
    if (!same_text || prefix_is_read_alike(plan, plan)) /* not useful any more, or soon replaced */
        forget_state(v);
    struct cache_sequence *s = cache_sequence_new(v->runtime.cache, plan, e);
    uint32_t most = s && !v->no_sharing ? prefix_usable(plan, n) : 0,
             known = most ? prefix_match(v->runtime.cache, &root, tokens, most) : 0;
    if (!known || prefix_adopt(s, &root, tokens, known, e))
        return s;
    cache_sequence_free(s);
    return NULL;
}

/* Computes the rest of the prompt. */
static const float *prefill(struct evaluator *v, struct cache_sequence *s, const int32_t *tokens,
                            uint32_t n, struct error *e)
{
    const struct plan *plan = cache_sequence_plan(s);
    struct prefix_name chain = prefix_root(NULL, 0);
    uint32_t n_chained = 0, known = cache_tokens_seen(s);
    bool makes_state = !v->no_sharing && prefix_is_read_alike(plan, plan);
    const float *logits = NULL;
    cache_sequence_set_prompt(s, n);
    for (uint32_t done = known, rows; done < n; done += rows) {
        rows = n - done < CHUNK ? n - done : CHUNK;
        /* Before the compression of the last step all slots are there. */
        logits = feed(v, s, tokens + done, rows, e);
        if (!logits)
            return NULL;
        uint32_t seen = done + rows;
        if (!v->no_sharing && (seen < n || !plan_evicts(plan)))
            prefix_list(s, &chain, &n_chained, tokens, seen);
        if (makes_state && seen + QUESTION <= n && seen + CHUNK + QUESTION > n)
            keep_state(v, s, tokens);
    }
    return logits;
}

static struct evaluate_memory memory_of(const struct evaluator *v, const struct cache_sequence *s)
{
    struct cache_sequence_counts c = cache_sequence_counts(s);
    return (struct evaluate_memory){.slots_kept = c.slots_kept,
                                    .tokens_seen = c.tokens_seen,
                                    .bytes = (double)c.pages * (double)v->runtime.page_bytes,
                                    .bytes_full =
                                        (double)c.pages_full * (double)v->runtime.page_bytes};
}

static int32_t likeliest(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        best = logits[i] > logits[best] ? i : best;
    return (int32_t)best;
}

static double log_total(const float *logits, uint32_t n)
{
    double largest = (double)logits[likeliest(logits, n)], sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - largest);
    return largest + log(fmax(sum, 1)); /* the largest alone gives 1 */
}

/* KL(p || q) of two softmaxes. */
static double divergence(const float *p, const float *q, uint32_t n)
{
    double p_total = log_total(p, n), q_total = log_total(q, n), sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        double log_p = (double)p[i] - p_total, log_q = (double)q[i] - q_total;
        sum += exp(log_p) * (log_p - log_q);
    }
    return sum > 0 ? sum : 0; /* rounding may give a little less than 0 */
}

/* Adds one prediction to the means. */
static void accumulate(struct evaluate_text_result *out, const float *logits, const float *full,
                       uint32_t n_vocab, int32_t next)
{
    double n = out->n_steps;
    out->nll += (log_total(logits, n_vocab) - (double)logits[next]) / n;
    out->agreement += (double)(likeliest(logits, n_vocab) == likeliest(full, n_vocab)) / n;
    out->kl += divergence(full, logits, n_vocab) / n;
}

/* The text is known, so its tokens are computed in one step. In each layer they still write, attend
 * and drop one after the other, as in an answer (waves, engine/compute/step.h). */
static bool run_text(struct evaluator *v, struct cache_sequence *s, const int32_t *tokens,
                     uint32_t n_prompt, uint32_t n_steps, struct evaluate_reference *reference,
                     bool is_reference, struct evaluate_text_result *out, struct error *e)
{
    const uint32_t n_vocab = v->runtime.model->n_vocab;
    const float *logits = prefill(v, s, tokens, n_prompt, e);
    *out = (struct evaluate_text_result){.n_steps = n_steps};
    for (uint32_t done = 0, rows = 1; logits && done < n_steps;) {
        float *full = reference->logits + (size_t)done * n_vocab;
        if (is_reference)
            memcpy(full, logits, (size_t)rows * n_vocab * sizeof *full);
        for (uint32_t i = 0; i < rows; i++)
            accumulate(out, logits + (size_t)i * n_vocab, full + (size_t)i * n_vocab, n_vocab,
                       tokens[n_prompt + done + i]);
        done += rows;
        rows = n_steps - done < CHUNK ? n_steps - done : CHUNK;
        if (rows > 0)
            logits = feed_all(v, s, tokens + n_prompt + done - 1, rows, rows, e);
    }
    out->memory = memory_of(v, s);
    return logits != NULL;
}

bool evaluate_text(struct evaluator *v, const struct plan *plan, const int32_t *tokens,
                   uint32_t n_prompt, uint32_t n_steps, struct evaluate_reference *reference,
                   struct evaluate_text_result *out, struct error *e)
{
    bool is_reference = reference->logits == NULL;
    size_t n = (size_t)n_steps * v->runtime.model->n_vocab;
    if (is_reference && !(reference->logits = malloc(n * sizeof *reference->logits)))
        return error_set_memory(e, "logits of full attention", n * sizeof *reference->logits);
    struct cache_sequence *s = begin(v, plan, tokens, n_prompt, e);
    bool done = s && run_text(v, s, tokens, n_prompt, n_steps, reference, is_reference, out, e);
    cache_sequence_free(s);
    if (!done && is_reference) {
        free(reference->logits);
        reference->logits = NULL;
    }
    return done;
}

/* Whether one of the ranges that a head keeps contains the whole fact. */
struct search {
    int32_t first, last;
    bool found;
};

static void look_into(void *context, int32_t first, int32_t last)
{
    struct search *search = context;
    search->found |= first <= search->first && search->last <= last;
}

static double share_that_holds(const struct evaluator *v, const struct cache_sequence *s,
                               const struct evaluate_question *q)
{
    uint32_t n_layers = v->runtime.model->n_layers, n_kv_heads = v->runtime.model->n_kv_heads,
             n = 0;
    for (uint32_t i = 0; i < n_layers * n_kv_heads; i++) {
        struct search search = {(int32_t)q->fact_first, (int32_t)q->fact_end - 1, false};
        cache_kept_ranges(s, i / n_kv_heads, i % n_kv_heads, look_into, &search);
        n += search.found;
    }
    return (double)n / (n_layers * n_kv_heads);
}

bool evaluate_answer(struct evaluator *v, const struct plan *plan,
                     const struct evaluate_question *q, struct evaluate_reply *out, struct error *e)
{
    struct cache_sequence *s = begin(v, plan, q->tokens, q->n_prompt, e);
    const float *logits = s ? prefill(v, s, q->tokens, q->n_prompt, e) : NULL;
    *out = (struct evaluate_reply){.n = 0};
    if (logits)
        out->held = share_that_holds(v, s, q);
    if (logits && q->n_lead > 0)
        logits = feed(v, s, q->tokens + q->n_prompt, q->n_lead, e);
    while (logits && out->n < EVALUATE_ANSWER_TOKENS) {
        int32_t next = likeliest(logits, v->runtime.model->n_vocab);
        if (tokenizer_is_end(v->runtime.tokenizer, next))
            break;
        out->tokens[out->n++] = next;
        if (out->n < EVALUATE_ANSWER_TOKENS)
            logits = feed(v, s, &next, 1, e);
    }
    if (s)
        out->memory = memory_of(v, s);
    cache_sequence_free(s);
    return logits != NULL;
}

static bool run_stream(struct evaluator *v, struct cache_sequence *s, const int32_t *tokens,
                       uint64_t n_tokens, uint64_t interval, evaluate_report *report, void *context,
                       struct error *e)
{
    const uint32_t n_vocab = v->runtime.model->n_vocab;
    double nll = 0;
    uint64_t since = 0;
    for (uint64_t done = 0; done + 1 < n_tokens;) {
        uint64_t left = n_tokens - 1 - done, room = interval - since;
        uint32_t n = (uint32_t)(left < room ? left : room);
        n = n < CHUNK ? n : CHUNK;
        const float *logits = feed_all(v, s, tokens + done, n, n, e);
        if (!logits)
            return false;
        for (uint32_t i = 0; i < n; i++) {
            const float *row = logits + (size_t)i * n_vocab;
            nll += log_total(row, n_vocab) - (double)row[tokens[done + i + 1]];
        }
        done += n;
        since += n;
        if (since == interval || done + 1 == n_tokens) {
            if (!report(context, done, nll / (double)since, cache_sequence_counts(s).pages))
                return true;
            nll = 0;
            since = 0;
        }
    }
    return true;
}

bool evaluate_stream(struct evaluator *v, const struct plan *plan, const int32_t *tokens,
                     uint64_t n_tokens, uint64_t interval, evaluate_report *report, void *context,
                     struct error *e)
{
    struct cache_sequence *s = cache_sequence_new(v->runtime.cache, plan, e);
    bool done = s && run_stream(v, s, tokens, n_tokens, interval, report, context, e);
    cache_sequence_free(s);
    return done;
}
