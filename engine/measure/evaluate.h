/* How well a model answers with a compressed cache: one sequence at a time, teacher-forced or
 * greedy, without the scheduler. Any thread, one call at a time; a backend uses threads of its own
 * inside. */
#ifndef WINNOW_ENGINE_MEASURE_EVALUATE_H
#define WINNOW_ENGINE_MEASURE_EVALUATE_H

#include "engine/text/chat.h"
#include "engine/compute/device.h"
#include "engine/compute/forward.h"
#include "engine/text/tokenizer.h"

struct evaluator;

struct evaluator_options {
    const char *model_path;
    const struct device_kind *device;
    const char *isa;           /* NULL = best */
    const char *head_profile;  /* as in runtime_options (runtime.h) */
    uint32_t n_threads;        /* >= 1 */
    uint32_t max_tokens;       /* longest sequence; 0 = the trained context */
    enum plan_storage storage; /* of cached keys and values */
    bool no_sharing;           /* compute every prompt anew: slower, with the same bits */
};

/* Loads the model and takes memory for three sequences: a shared prompt, a prompt as one policy
 * read it, and the current run. NULL: "invalid_model", "out_of_memory", ... */
struct evaluator *evaluator_open(const struct evaluator_options *options, struct error *e);
void evaluator_close(struct evaluator *v);
const struct model *evaluator_model(const struct evaluator *v);
const struct tokenizer *evaluator_tokenizer(const struct evaluator *v);
/* NULL: the model has no chat template. */
const struct chat_template *evaluator_chat_template(const struct evaluator *v);
struct plan_limits evaluator_limits(const struct evaluator *v);

/* What the cache held at the end of a run. */
struct evaluate_memory {
    double slots_kept;        /* mean per head */
    uint32_t tokens_seen;     /* N */
    double bytes, bytes_full; /* of pages held, of the same tokens under `full` */
};

/* The logits of full attention over a text, to compare others with. The first run makes them. */
struct evaluate_reference {
    float *logits; /* [n_steps][n_vocab] malloc'ed; the caller frees it. NULL: this run makes it */
};

struct evaluate_text_result {
    uint32_t n_steps;
    double nll;       /* mean over the steps, in nats: perplexity = exp(nll) */
    double agreement; /* share of steps whose best token is full's */
    double kl;        /* mean of KL(full || this) in nats */
    struct evaluate_memory memory;
};

/* Prefills tokens[0, n_prompt) and feeds the following n_steps, each predicted before it is fed.
 * The policy drops slots token by token, as in an answer. Runs over the same prompt share work when
 * they follow each other, `full` first and the budgets of a plan together. With reference->logits
 * NULL this run makes the reference (its plan should be full). False: "out_of_memory", or as
 * batch_add. */
bool evaluate_text(struct evaluator *v, const struct plan *plan, const int32_t *tokens,
                   uint32_t n_prompt, uint32_t n_steps, struct evaluate_reference *reference,
                   struct evaluate_text_result *out, struct error *e);

enum { EVALUATE_ANSWER_TOKENS = 12 };

/* tokens[0, n_prompt) are the prompt; the next n_lead tokens begin the answer. The lead comes after
 * the compression; without it the first token of the answer would be full attention's. Tokens
 * [fact_first, fact_end) are the fact that is asked for. */
struct evaluate_question {
    const int32_t *tokens;
    uint32_t n_prompt, n_lead, fact_first, fact_end;
};

struct evaluate_reply {
    int32_t tokens[EVALUATE_ANSWER_TOKENS]; /* without the lead */
    uint32_t n;
    double held; /* share of (layer, KV head) pairs that hold the whole fact after the prompt */
    struct evaluate_memory memory;
};

/* Greedy answer, up to a token that ends a generation. */
bool evaluate_answer(struct evaluator *v, const struct plan *plan,
                     const struct evaluate_question *question, struct evaluate_reply *out,
                     struct error *e);

/* StreamingLLM's experiment: feeds a text of any length through a plan that streams. After every
 * `interval` tokens calls report(context, n_tokens, mean nll of the interval, pages held); if that
 * returns false, the run ends with true. */
typedef bool evaluate_report(void *context, uint64_t n_tokens, double nll, uint32_t pages);
bool evaluate_stream(struct evaluator *v, const struct plan *plan, const int32_t *tokens,
                     uint64_t n_tokens, uint64_t interval, evaluate_report *report, void *context,
                     struct error *e);

#endif
