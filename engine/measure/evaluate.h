/* How well a model answers when its cache is compressed: one sequence at a time, teacher-forced or
 * greedy, over the forward pass without scheduler. Any thread, one call at a time; a backend uses
 * threads of its own inside. */
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
    const char *head_profile;  /* NULL = none */
    uint32_t n_threads;        /* >= 1 */
    uint32_t max_tokens;       /* longest sequence; 0 = the trained context */
    enum plan_storage storage; /* of cached keys and values */
    bool no_sharing;           /* every prompt is computed anew: slower, and the same to the bit */
};

/* Loads the model and takes memory for three sequences: the prompt as it is shared, a prompt as one
 * policy read it, and the run at hand. NULL: "invalid_model", "out_of_memory",
 * ... */
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

/* Full attention's view of a text, to compare others with: made by the first run over it. */
struct evaluate_reference {
    float *logits; /* [n_steps][n_vocab]; malloc'ed, the caller frees it. NULL: to be made */
};

struct evaluate_text_result {
    uint32_t n_steps;
    double nll;       /* mean over the steps, in nats: perplexity = exp(nll) */
    double agreement; /* share of steps with full's likeliest token */
    double kl;        /* mean of KL(full || this) in nats */
    struct evaluate_memory memory;
};

/* Prefills tokens[0, n_prompt) and feeds the following n_steps, each predicted before it is fed;
 * what the policy drops it drops token by token, as in an answer. Runs over one prompt are quick
 * when they follow each other, `full` first and each plan's budgets together. With
 * reference->logits NULL this run is the reference (plan should be full) and makes it. False:
 * "out_of_memory", or as batch_add. */
bool evaluate_text(struct evaluator *v, const struct plan *plan, const int32_t *tokens,
                   uint32_t n_prompt, uint32_t n_steps, struct evaluate_reference *reference,
                   struct evaluate_text_result *out, struct error *e);

enum { EVALUATE_ANSWER_TOKENS = 12 };

/* tokens[0, n_prompt) are the prompt; the n_lead behind them begin the answer. The lead comes after
 * the compression, or the first token of the rest would be full attention's. Tokens
 * [fact_first, fact_end) are what is asked for. */
struct evaluate_question {
    const int32_t *tokens;
    uint32_t n_prompt, n_lead, fact_first, fact_end;
};

struct evaluate_reply {
    int32_t tokens[EVALUATE_ANSWER_TOKENS]; /* without the lead */
    uint32_t n;
    double held; /* share of (layer, KV head) pairs that hold all of the fact behind the prompt */
    struct evaluate_memory memory;
};

/* Greedy answer, up to a token that ends a generation. */
bool evaluate_answer(struct evaluator *v, const struct plan *plan,
                     const struct evaluate_question *question, struct evaluate_reply *out,
                     struct error *e);

/* StreamingLLM's own experiment: a text of any length through a plan that streams; after every
 * `interval` tokens report(context, n_tokens, mean nll of the interval, pages held). False from it
 * stops the run, which is then done. */
typedef bool evaluate_report(void *context, uint64_t n_tokens, double nll, uint32_t pages);
bool evaluate_stream(struct evaluator *v, const struct plan *plan, const int32_t *tokens,
                     uint64_t n_tokens, uint64_t interval, evaluate_report *report, void *context,
                     struct error *e);

#endif
