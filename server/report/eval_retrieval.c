/* The task `retrieval`: two facts are hidden in a text, and a question at its end asks for one of
 * them.
 *
 * One fact is a number of five digits, which many vocabularies write as five tokens. The other is a
 * word that does not occur in the text. A policy that finds words but no numbers loses parts of a
 * fact, not its place.
 *
 * The first words of the answer are given after the prompt was compressed. In the prompt, the first
 * token of the fact would be predicted with full attention.
 *
 * Both facts are in every text. The word is as far from the end as the number is from the
 * beginning, so that both questions share all but their last tokens. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/random.h"
#include "server/report/eval_private.h"

enum { N_FACTS = 2 };

static const char *const cities[] = {"Lisbon", "Oslo",   "Cairo", "Lima",   "Kyoto",
                                     "Dublin", "Prague", "Quito", "Athens", "Vienna"};
static const char *const words[] = {"marigold", "tangerine", "saxophone", "penguin",  "volcano",
                                    "avocado",  "kangaroo",  "harmonica", "cinnamon", "dolphin"};

struct fact {
    const char *name; /* "number" or "word" */
    char value[16];
    double depth;
    struct tokens told; /* the sentence that is hidden in the text */
    struct tokens end;  /* the question, the end of the template and the beginning of the answer */
    uint32_t n_lead;    /* the number of tokens of that beginning */
    uint32_t value_first,
        value_end; /* the number of tokens of the value, in `told` and in the text */
};

struct haystack {
    struct tokens text; /* the beginning of the template, and the text with both facts */
    struct fact facts[N_FACTS];
};

static bool append_string(const struct eval *v, struct tokens *out, const char *text,
                          struct error *e)
{
    return tokenizer_encode(evaluator_tokenizer(v->evaluator), text, strlen(text), NULL, out, e);
}

static bool append(struct tokens *out, const int32_t *tokens, size_t n, struct error *e)
{
    for (size_t i = 0; i < n; i++)
        if (!tokens_push(out, tokens[i]))
            return error_set_memory(e, "a prompt", n * sizeof(int32_t));
    return true;
}

/* The template's tokens before and after a user message, found with `mark` as the message. Without
 * a template they are empty, except for BOS. */
static bool frame(const struct eval *v, struct tokens *before, struct tokens *after,
                  struct error *e)
{
    static const char mark[] = "WINNOWMARK";
    const struct tokenizer *t = evaluator_tokenizer(v->evaluator);
    const struct chat_template *template = evaluator_chat_template(v->evaluator);
    if (!template)
        return !tokenizer_adds_bos(t) || tokenizer_bos(t) < 0 ||
               tokens_push(before, tokenizer_bos(t)) || error_set_memory(e, "a prompt", 4);
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", mark);
    char bos[64] = "";
    size_t length = 0;
    if (tokenizer_bos(t) >= 0) {
        const char *text = tokenizer_text(t, tokenizer_bos(t), &length);
        snprintf(bos, sizeof bos, "%.*s", (int)length, text);
    }
    struct chat_render_input in = {
        .messages = messages, .add_generation_prompt = true, .bos_token = *bos ? bos : NULL};
    struct chat_text text = {0};
    bool done = messages && chat_render(template, &in, &text, e);
    json_decref(messages);
    char *at = done ? strstr(text.text, mark) : NULL;
    if (done && !at)
        done = error_set(e, "template_error", "", "the chat template leaves the message out");
    if (done) {
        size_t n = (size_t)(at - text.text), rest = n + strlen(mark);
        done =
            tokenizer_encode(t, text.text, n, text.marks, before, e) &&
            tokenizer_encode(t, text.text + rest, text.length - rest, text.marks + rest, after, e);
    }
    chat_text_free(&text);
    return done;
}

/* How many tokens `text` and `part` have in common at their beginning. */
static bool count_tokens(const struct eval *v, const struct tokens *text, const char *part,
                         uint32_t *n, struct error *e)
{
    struct tokens alone = {0};
    bool done = append_string(v, &alone, part, e);
    for (*n = 0; *n < alone.count && *n < text->count && alone.data[*n] == text->data[*n];)
        ++*n;
    tokens_free(&alone);
    return done;
}

/* From "The password of the zoo is" come the sentence, the question and the beginning of the
 * answer. */
static bool tell(const struct eval *v, struct fact *f, const char *subject,
                 const struct tokens *after, struct error *e)
{
    char text[160];
    snprintf(text, sizeof text, "\nThe %s is %s.\n", subject, f->value);
    if (!append_string(v, &f->told, text, e))
        return false;
    snprintf(text, sizeof text, "\nThe %s is", subject);
    if (!count_tokens(v, &f->told, text, &f->value_first, e))
        return false;
    snprintf(text, sizeof text, "\nThe %s is %s", subject, f->value);
    if (!count_tokens(v, &f->told, text, &f->value_end, e))
        return false;
    snprintf(text, sizeof text, "\n\nWhat is the %s that is mentioned in the text?", subject);
    if (!append_string(v, &f->end, text, e) || !append(&f->end, after->data, after->count, e))
        return false;
    snprintf(text, sizeof text, "The %s is", subject);
    size_t before = f->end.count;
    bool done = append_string(v, &f->end, text, e);
    f->n_lead = (uint32_t)(f->end.count - before);
    return done;
}

/* n_filler tokens of the text from token `from` on, with the facts at their depths. */
static bool fill(const struct eval *v, struct haystack *h, size_t from, size_t n_filler,
                 struct error *e)
{
    bool word_first = h->facts[1].depth < h->facts[0].depth;
    size_t filled = 0;
    for (uint32_t i = 0; i < N_FACTS; i++) {
        struct fact *f = &h->facts[word_first ? 1 - i : i];
        size_t until = (size_t)(f->depth * (double)n_filler);
        if (!eval_append_text(v, &h->text, from + filled, until - filled, e))
            return false;
        filled = until;
        f->value_first += (uint32_t)h->text.count;
        f->value_end += (uint32_t)h->text.count;
        if (!append(&h->text, f->told.data, f->told.count, e))
            return false;
    }
    return eval_append_text(v, &h->text, from + filled, n_filler - filled, e);
}

/* A text whose longer prompt has `context` tokens, with the beginning of the answer. */
static bool hide(const struct eval *v, uint32_t context, double depth, uint32_t trial,
                 struct haystack *h, struct error *e)
{
    uint64_t dice = random_mix(random_mix((uint64_t)v->a.seed * 1000 + trial) + context * 101 +
                               (uint64_t)(depth * 1000));
    struct fact *number = &h->facts[0], *word = &h->facts[1];
    struct tokens after = {0};
    char subject[80];
    number->name = "number";
    number->depth = depth;
    snprintf(number->value, sizeof number->value, "%llu",
             (unsigned long long)(10000 + random_mix(dice) % 90000));
    word->name = "word";
    word->depth = round(1e6 * (1 - depth)) / 1e6; /* so that 1 - 0.9 is written as 0.1 */
    snprintf(word->value, sizeof word->value, "%s", words[random_mix(dice + 1) % 10]);
    bool done = frame(v, &h->text, &after, e);
    if (done) {
        snprintf(subject, sizeof subject, "special magic number for %s", cities[dice % 10]);
        done = tell(v, number, subject, &after, e);
    }
    if (done) {
        snprintf(subject, sizeof subject, "special magic word for %s",
                 cities[(dice + 1 + random_mix(dice + 2) % 9) % 10]);
        done = tell(v, word, subject, &after, e);
    }
    tokens_free(&after);
    size_t end = number->end.count > word->end.count ? number->end.count : word->end.count,
           fixed = h->text.count + number->told.count + word->told.count + end;
    if (done && fixed >= context)
        done = error_set(e, "invalid_value", "--contexts", "%u tokens are too few for a question",
                         context);
    return done && fill(v, h, random_mix(dice + 7) % v->text.count, context - fixed, e);
}

static void haystack_free(struct haystack *h)
{
    for (uint32_t i = 0; i < N_FACTS; i++) {
        tokens_free(&h->facts[i].told);
        tokens_free(&h->facts[i].end);
    }
    tokens_free(&h->text);
}

/* Whether the first number of the answer is the hidden one. */
static bool is_number(const char *answer, const char *number)
{
    const char *at = answer + strcspn(answer, "0123456789");
    char digits[16] = "";
    size_t n = 0;
    for (; *at && n + 1 < sizeof digits; at++)
        if (*at >= '0' && *at <= '9')
            digits[n++] = *at;
        else if (*at != ',') /* 48,213 */
            break;
    return !strcmp(digits, number);
}

/* Whether the first word of the answer is the hidden one. Quotation marks may come before it. */
static bool is_word(const char *answer, const char *word)
{
    size_t n = strlen(word);
    while (*answer && !isalnum((unsigned char)*answer))
        answer++;
    return !strncasecmp(answer, word, n) && !isalnum((unsigned char)answer[n]);
}

static json_t *outcome_of(const struct eval *v, const struct fact *f,
                          const struct evaluate_reply *reply)
{
    size_t length;
    char *text = tokenizer_decode(evaluator_tokenizer(v->evaluator), reply->tokens, reply->n, false,
                                  false, &length);
    bool right = text && (!strcmp(f->name, "number") ? is_number : is_word)(text, f->value);
    json_t *outcome = eval_memory_json(&reply->memory), *given = json_string(text ? text : "");
    json_object_set_new(outcome, "correct", json_boolean(right));
    json_object_set_new(outcome, "held", json_real(reply->held));
    json_object_set_new(outcome, "wanted", json_string(f->value));
    json_object_set_new(outcome, "answer", given ? given : json_string("(not UTF-8)"));
    free(text);
    return outcome;
}

/* Asks for one fact with one policy and budget. */
static bool run_question(struct eval *v, const char *policy, double budget, uint32_t context,
                         uint32_t trial, struct haystack *h, struct fact *f, struct error *e)
{
    json_t *key = eval_key("retrieval", context, f->depth, trial, policy, budget);
    if (key)
        json_object_set_new(key, "fact", json_string(f->name));
    if (!key || eval_is_done(v, key)) {
        json_decref(key);
        return key || error_set_memory(e, "results", 4096);
    }
    struct error reason;
    struct evaluate_reply reply;
    /* A share of the length, not of this prompt, so that both questions get the same number of
     * slots. */
    const struct plan *plan = eval_plan(v, policy, budget, context, &reason);
    if (!plan)
        return eval_finish(v, key, json_pack("{s:s}", "skipped", reason.message), e);
    size_t n_text = h->text.count;
    bool done = append(&h->text, f->end.data, f->end.count, e);
    struct evaluate_question question = {.tokens = h->text.data,
                                         .n_prompt = (uint32_t)h->text.count - f->n_lead,
                                         .n_lead = f->n_lead,
                                         .fact_first = f->value_first,
                                         .fact_end = f->value_end};
    done = done && evaluate_answer(v->evaluator, plan, &question, &reply, e);
    plan_release(plan);
    h->text.count = n_text;
    if (done)
        return eval_finish(v, key, outcome_of(v, f, &reply), e);
    json_decref(key);
    return false;
}

uint32_t eval_questions_count(const struct eval *v)
{
    return v->n_depths * (uint32_t)v->a.n_trials * N_FACTS;
}

/* Asks all questions about one text, in the order that shares most work. */
static bool ask_all(struct eval *v, uint32_t context, uint32_t trial, struct haystack *h,
                    struct error *e)
{
    bool done = true;
    for (uint32_t p = 0; p < v->n_policies && done; p++)
        for (uint32_t b = 0; b < eval_n_budgets(v, p) && done; b++)
            for (uint32_t i = 0; i < N_FACTS && done && !eval_interrupted; i++)
                done = run_question(v, v->policies[p], eval_budget(v, p, b), context, trial, h,
                                    &h->facts[i], e);
    return done;
}

bool eval_questions(struct eval *v, struct error *e)
{
    bool done = true;
    for (uint32_t c = 0; c < v->n_contexts && done; c++)
        for (uint32_t d = 0; d < v->n_depths && done; d++)
            for (uint32_t t = 0; t < v->a.n_trials && done && !eval_interrupted; t++) {
                struct haystack h = {.text = {0}};
                done = hide(v, v->contexts[c], v->depths[d], t, &h, e) &&
                       ask_all(v, v->contexts[c], t, &h, e);
                haystack_free(&h);
            }
    return done;
}
