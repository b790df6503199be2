/* The byte-level BPE family: words by the model's pre-tokenizer, then merges by rank over bytes.
 *
 * A byte without a token (vocabularies lack bytes that their training text lacked) is left out
 * before merging, as in the original, so its neighbours may merge. It does not become the unknown
 * token, because that is often a control token, which plain text must not produce. */
#include <string.h>

#include "engine/text/nfc.h"
#include "engine/text/tokenizer_family.h"

/* Longer words are not looked up as a whole where merges are ignored. */
#define MAX_WHOLE_WORD 512
#define MAX_MERGES     (1u << 25)

static bool add_merge(struct tokenizer *t, struct source_text text, uint32_t rank, struct error *e)
{
    char excerpt[80];
    const char *key = "tokenizer.ggml.merges";
    /* The alphabet has no space, so the one after the first character divides the two. */
    const char *space = text.length > 2 ? memchr(text.data + 1, ' ', text.length - 2) : NULL;
    if (!space || text.length > VOCAB_MAX_TEXT_BYTES)
        return error_set(e, "invalid_model", key,
                         "merge %u is \"%s\"; two token texts with a space between are expected",
                         rank, error_excerpt(excerpt, text.data, text.length));
    size_t left_bytes = (size_t)(space - text.data), right_bytes = text.length - left_bytes - 1;
    char whole[VOCAB_MAX_TEXT_BYTES];
    memcpy(whole, text.data, left_bytes);
    memcpy(whole + left_bytes, space + 1, right_bytes);
    int32_t left = vocab_find(&t->vocab, text.data, left_bytes);
    int32_t right = vocab_find(&t->vocab, space + 1, right_bytes);
    int32_t merged = vocab_find(&t->vocab, whole, left_bytes + right_bytes);
    if (left < 0 || right < 0 || merged < 0)
        return error_set(e, "invalid_model", key,
                         "merge %u, \"%s\", has or makes a token that is not in the vocabulary",
                         rank, error_excerpt(excerpt, text.data, text.length));
    if (t->vocab.tokens[merged].kind != TOKEN_NORMAL)
        return true; /* plain text must not spell a control token */
    return merge_table_add(&t->merges, left, right, rank, merged) ||
           error_set_memory(e, "token merges", t->merges.count * 2 * sizeof(struct merge));
}

bool bpe_build(struct tokenizer *t, const struct model_source *source, struct error *e)
{
    struct source_value merges;
    if (!source_get_array(source, "tokenizer.ggml.merges", SOURCE_STRING, &merges, e))
        return false;
    if (merges.count > MAX_MERGES)
        return error_set(e, "invalid_model", "tokenizer.ggml.merges",
                         "%llu merges; at most %u are allowed", (unsigned long long)merges.count,
                         MAX_MERGES);
    if (!merge_table_init(&t->merges, merges.count))
        return error_set_memory(e, "token merges", merges.count * 2 * sizeof(struct merge));
    for (uint64_t i = 0; i < merges.count; i++)
        if (!add_merge(t, merges.texts[i], (uint32_t)i, e))
            return false;
    t->pretokenizer = pretokenizer_new(t->vocab.pre_name, e);
    return t->pretokenizer != NULL;
}

/* One call of bpe_encode. */
struct encoding {
    const struct tokenizer *t;
    struct merge_scratch *scratch;
    struct tokens *out;
};

/* The token that a word is as a whole, or -1. */
static int32_t find_whole(const struct vocab *v, const char *word, size_t length)
{
    char text[2 * MAX_WHOLE_WORD];
    size_t used = 0;
    if (length > MAX_WHOLE_WORD)
        return -1;
    for (size_t i = 0; i < length; i++) {
        uint32_t c = vocab_byte_to_character((uint8_t)word[i]);
        if (c >= 0x80)
            text[used++] = (char)(0xC0 | c >> 6);
        text[used++] = (char)(c >= 0x80 ? 0x80 | (c & 0x3F) : c);
    }
    return vocab_find_normal(v, text, used);
}

static bool put_word(void *context, const char *word, size_t length)
{
    struct encoding *c = context;
    const struct vocab *v = &c->t->vocab;
    if (pretokenizer_ignores_merges(c->t->pretokenizer)) {
        int32_t whole = find_whole(v, word, length);
        if (whole >= 0)
            return tokens_push(c->out, whole);
    }
    c->scratch->count = 0;
    for (size_t i = 0; i < length; i++) {
        int32_t token = v->byte_token[(uint8_t)word[i]];
        if (token >= 0 && !merge_scratch_push(c->scratch, token, (uint32_t)i))
            return false;
    }
    if (!merge_word(&c->t->merges, c->scratch))
        return false;
    for (size_t i = 0; i < c->scratch->count; i++)
        if (!tokens_push(c->out, c->scratch->symbols[i].token))
            return false;
    return true;
}

bool bpe_encode(const struct tokenizer *t, struct merge_scratch *scratch, const char *text,
                size_t length, struct tokens *out)
{
    struct encoding c = {t, scratch, out};
    struct bytes normal = {0};
    bool changed = false;
    bool ok =
        !pretokenizer_normalises(t->pretokenizer) || nfc_normalise(text, length, &normal, &changed);
    ok = ok && pretokenizer_split(t->pretokenizer, changed ? normal.data : text,
                                  changed ? normal.length : length, put_word, &c);
    bytes_clear(&normal);
    return ok;
}
