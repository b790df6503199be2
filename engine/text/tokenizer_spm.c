/* The SentencePiece family: merges by score over characters, space as U+2581, byte fallback.
 *
 * Scores order the merges (tokenizer_merge.h). To SentencePiece a text is one word. But where no
 * token has a space after another character, as in every known vocabulary, no merge crosses the
 * start of a word, so words are merged one at a time with the same result and little memory.
 *
 * The space prefix comes before each piece of plain text, at the start and after every special
 * token, as in the original. */
#include <stdlib.h>
#include <string.h>

#include "config/base/utf8.h"
#include "engine/text/tokenizer_family.h"

/* Merges never make longer tokens (none are known). */
#define MAX_MERGED_BYTES 256
/* Pairs of tokens that merge; Gemma's 256,000 tokens give some 1.5 million. */
#define MAX_PAIRS (1u << 25)

struct scored {
    double score;
    int32_t token;
};

static int by_falling_score(const void *left, const void *right)
{
    const struct scored *a = left, *b = right;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->token < b->token ? -1 : a->token > b->token;
}

/* All tokens by falling score: malloc'ed [n], or NULL. */
static struct scored *read_scores(const struct tokenizer *t, const struct model_source *source,
                                  struct error *e)
{
    const char *key = "tokenizer.ggml.scores";
    int32_t n = t->vocab.n_texts;
    struct source_value scores;
    if (!source_value(source, key, &scores) || scores.type != SOURCE_ARRAY ||
        scores.count != (uint64_t)t->vocab.n_texts) {
        error_set(e, "invalid_model", key, "one score for each of the %d tokens is expected", n);
        return NULL;
    }
    struct scored *list = malloc((size_t)n * sizeof *list);
    if (!list) {
        error_set_memory(e, "token scores", (uint64_t)n * sizeof *list);
        return NULL;
    }
    for (int32_t i = 0; i < n; i++) {
        double score;
        if (!source_element_double(&scores, (uint64_t)i, &score) || !(score - score == 0)) {
            error_set(e, "invalid_model", key, "the score of token %d is not a finite number", i);
            free(list);
            return NULL;
        }
        list[i] = (struct scored){score, i};
    }
    qsort(list, (size_t)n, sizeof *list, by_falling_score);
    return list;
}

/* Adds every cut of the token into two tokens. */
static bool add_cuts(struct tokenizer *t, int32_t token, uint32_t rank, struct error *e)
{
    size_t length;
    const char *text = vocab_text(&t->vocab, token, &length);
    if (length > MAX_MERGED_BYTES)
        return true;
    for (size_t at = 0; at < length;) {
        size_t step = utf8_length(text + at, length - at);
        at += step ? step : 1;
        int32_t left = vocab_find_normal(&t->vocab, text, at);
        int32_t right = at < length ? vocab_find_normal(&t->vocab, text + at, length - at) : -1;
        if (left >= 0 && right >= 0 && !merge_table_add(&t->merges, left, right, rank, token))
            return error_set_memory(e, "token merges", t->merges.count * 2 * sizeof(struct merge));
    }
    if (t->merges.count > MAX_PAIRS)
        return error_set(e, "invalid_model", "tokenizer.ggml.tokens",
                         "the vocabulary's tokens can be cut in more than %u ways", MAX_PAIRS);
    return true;
}

static bool crosses_words(const char *text, size_t length)
{
    bool after_other = false;
    for (size_t at = 0; at < length;) {
        bool is_space = length - at >= VOCAB_SPACE_BYTES &&
                        memcmp(text + at, VOCAB_SPACE, VOCAB_SPACE_BYTES) == 0;
        if (is_space && after_other)
            return true;
        after_other = !is_space;
        at += is_space ? VOCAB_SPACE_BYTES : 1;
    }
    return false;
}

static void index_characters(struct tokenizer *t)
{
    for (int c = 0; c < 128; c++) {
        char text = (char)c;
        t->character_token[c] = vocab_find_normal(&t->vocab, &text, 1);
    }
    t->character_token[' '] = vocab_find_normal(&t->vocab, VOCAB_SPACE, VOCAB_SPACE_BYTES);
}

bool spm_build(struct tokenizer *t, const struct model_source *source, struct error *e)
{
    struct scored *list = read_scores(t, source, e);
    if (!list)
        return false;
    bool ok = merge_table_init(&t->merges, (uint64_t)t->vocab.n * 4) ||
              error_set_memory(e, "token merges", (uint64_t)t->vocab.n * 8 * sizeof(struct merge));
    uint32_t rank = 0;
    for (int32_t i = 0; ok && i < t->vocab.n_texts; i++) {
        rank += i > 0 && list[i].score != list[i - 1].score;
        if (t->vocab.tokens[list[i].token].kind != TOKEN_NORMAL)
            continue;
        size_t length;
        const char *text = vocab_text(&t->vocab, list[i].token, &length);
        t->merges_cross_words = t->merges_cross_words || crosses_words(text, length);
        ok = add_cuts(t, list[i].token, rank, e);
    }
    free(list);
    index_characters(t);
    return ok;
}

/* One call of spm_encode. */
struct encoding {
    const struct tokenizer *t;
    struct merge_scratch *scratch;
    const char *text;
    struct tokens *out;
    bool after_unknown; /* neighbouring unknown characters give one unknown token */
};

/* A character without a token: its bytes, if all have tokens, else the unknown token. */
static bool put_bytes(struct encoding *c, const char *bytes, size_t length)
{
    const struct vocab *v = &c->t->vocab;
    bool have_all = true;
    for (size_t i = 0; i < length; i++)
        have_all = have_all && v->byte_token[(uint8_t)bytes[i]] >= 0;
    for (size_t i = 0; have_all && i < length; i++)
        if (!tokens_push(c->out, v->byte_token[(uint8_t)bytes[i]]))
            return false;
    if (have_all || v->unknown < 0 || c->after_unknown)
        return true;
    c->after_unknown = true;
    return tokens_push(c->out, v->unknown);
}

/* Merges the collected symbols and appends their tokens; the last one ends at `end`. */
static bool put_word(struct encoding *c, size_t end)
{
    struct merge_scratch *scratch = c->scratch;
    if (!merge_word(&c->t->merges, scratch))
        return false;
    for (size_t i = 0; i < scratch->count; i++) {
        struct merge_symbol symbol = scratch->symbols[i];
        if (symbol.token >= 0) {
            c->after_unknown = false;
            if (!tokens_push(c->out, symbol.token))
                return false;
            continue;
        }
        size_t length =
            (i + 1 < scratch->count ? scratch->symbols[i + 1].start : end) - symbol.start;
        bool is_space =
            length == 0 || c->text[symbol.start] == ' '; /* the prefix has no bytes in the text */
        if (is_space ? !put_bytes(c, VOCAB_SPACE, VOCAB_SPACE_BYTES)
                     : !put_bytes(c, c->text + symbol.start, length))
            return false;
    }
    scratch->count = 0;
    return true;
}

bool spm_encode(const struct tokenizer *t, struct merge_scratch *scratch, const char *text,
                size_t length, struct tokens *out)
{
    struct encoding c = {t, scratch, text, out, false};
    if (length == 0)
        return true;
    scratch->count = 0;
    bool after_space = t->vocab.adds_space_prefix;
    if (after_space && !merge_scratch_push(scratch, t->character_token[' '], 0))
        return false;
    for (size_t at = 0; at < length;) {
        size_t step = utf8_length(text + at, length - at);
        bool is_space = text[at] == ' ' || (step == VOCAB_SPACE_BYTES &&
                                            memcmp(text + at, VOCAB_SPACE, VOCAB_SPACE_BYTES) == 0);
        if (is_space && !after_space && !t->merges_cross_words && !put_word(&c, at))
            return false;
        int32_t token = is_space    ? t->character_token[' ']
                        : step == 1 ? t->character_token[(uint8_t)text[at]]
                        : step > 1  ? vocab_find_normal(&t->vocab, text + at, step)
                                    : -1;
        if (!merge_scratch_push(scratch, token, (uint32_t)at))
            return false;
        after_space = is_space;
        at += step ? step : 1;
    }
    return put_word(&c, length);
}
