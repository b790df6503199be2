/* Text to tokens and back: see tokenizer.h. This file cuts a text at its special tokens and passes
 * the pieces between them to the family (tokenizer_spm.c, tokenizer_bpe.c). */
#include "engine/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "engine/text/tokenizer_family.h"

#define MAX_TEXT_BYTES ((size_t)1 << 30)

void tokens_free(struct tokens *list)
{
    free(list->data);
    memset(list, 0, sizeof *list);
}

bool tokens_ended(const struct tokens *list)
{
    return (list->most && list->count >= list->most) || (list->stop && atomic_load(list->stop));
}

bool tokens_push(struct tokens *list, int32_t token)
{
    enum { STOP_EVERY = 1024 };
    if ((list->most && list->count >= list->most) ||
        (list->count % STOP_EVERY == 0 && list->stop && atomic_load(list->stop)))
        return false;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 64;
        int32_t *data = capacity <= SIZE_MAX / sizeof *data
                            ? realloc(list->data, capacity * sizeof *data)
                            : NULL;
        if (!data)
            return false;
        list->data = data;
        list->capacity = capacity;
    }
    list->data[list->count++] = token;
    return true;
}

struct tokenizer *tokenizer_new(const struct model_source *source, struct error *e)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t) {
        error_set_memory(e, "the tokenizer", sizeof *t);
        return NULL;
    }
    if (!vocab_read(&t->vocab, source, e))
        goto fail;
    if (t->vocab.is_spm ? !spm_build(t, source, e) : !bpe_build(t, source, e))
        goto fail;
    if (!special_build(&t->specials, &t->vocab)) {
        error_set_memory(e, "special tokens", t->specials.capacity * sizeof *t->specials.nodes * 2);
        goto fail;
    }
    return t;
fail:
    tokenizer_free(t);
    return NULL;
}

void tokenizer_free(struct tokenizer *t)
{
    if (!t)
        return;
    vocab_clear(&t->vocab);
    merge_table_free(&t->merges);
    special_free(&t->specials);
    pretokenizer_free(t->pretokenizer);
    free(t);
}

static bool encode_plain(const struct tokenizer *t, struct merge_scratch *scratch, const char *text,
                         size_t length, struct tokens *out)
{
    if (length == 0)
        return true;
    return t->vocab.is_spm ? spm_encode(t, scratch, text, length, out)
                           : bpe_encode(t, scratch, text, length, out);
}

static size_t skip_white_space(const char *text, size_t length, size_t at)
{
    while (at < length && (text[at] == ' ' || (text[at] >= '\t' && text[at] <= '\r')))
        at++;
    return at;
}

static bool encode_pieces(const struct tokenizer *t, struct merge_scratch *scratch,
                          const char *text, size_t length, enum special_marks marks,
                          const uint8_t *mask, struct tokens *out)
{
    size_t at = 0;
    struct special_match match;
    while (special_find(&t->specials, &t->vocab, text, length, at, marks, mask, &match)) {
        if (!encode_plain(t, scratch, text + at, match.start - at, out) ||
            !tokens_push(out, match.token))
            return false;
        at = match.start + match.length;
        if (t->vocab.tokens[match.token].strips_right)
            at = skip_white_space(text, length, at);
    }
    return encode_plain(t, scratch, text + at, length - at, out);
}

static bool encode(const struct tokenizer *t, const char *text, size_t length,
                   enum special_marks marks, const uint8_t *mask, struct tokens *out,
                   struct error *e)
{
    if (length > MAX_TEXT_BYTES)
        return error_set(e, "invalid_value", "",
                         "the text has %zu bytes; at most %zu can be tokenized", length,
                         MAX_TEXT_BYTES);
    struct merge_scratch scratch = {.stop = out->stop};
    bool ok = encode_pieces(t, &scratch, text, length, marks, mask, out);
    merge_scratch_free(&scratch);
    return ok || error_set_memory(e, "tokenizing a text", length);
}

bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t length,
                      const uint8_t *special, struct tokens *out, struct error *e)
{
    return encode(t, text, length, special ? SPECIAL_MASK : SPECIAL_NONE, special, out, e);
}

/* Whether the text begins with BOS itself. */
static bool writes_bos(const struct vocab *v, const char *text, size_t length)
{
    size_t n;
    if (v->bos < 0)
        return false;
    const char *bos = vocab_text(v, v->bos, &n);
    return n > 0 && n <= length && memcmp(text, bos, n) == 0;
}

static bool add_bos(const struct tokenizer *t, const char *text, size_t length, bool parse_special,
                    struct tokens *out, struct error *e)
{
    const struct vocab *v = &t->vocab;
    if (!v->adds_bos || v->bos < 0 || (parse_special && writes_bos(v, text, length)))
        return true;
    return tokens_push(out, v->bos) || error_set_memory(e, "tokens", sizeof *out->data);
}

bool tokenizer_encode_prompt(const struct tokenizer *t, const char *text, size_t length,
                             bool parse_special, bool add_special, struct tokens *out,
                             struct error *e)
{
    return (!add_special || add_bos(t, text, length, parse_special, out, e)) &&
           encode(t, text, length, parse_special ? SPECIAL_ALL : SPECIAL_NONE, NULL, out, e);
}

bool tokenizer_encode_text(const struct tokenizer *t, const char *text, size_t length,
                           bool parse_special, bool add_special, struct tokens *out,
                           struct error *e)
{
    if (!tokenizer_encode_prompt(t, text, length, parse_special, add_special, out, e))
        return false;
    if (add_special && t->vocab.adds_eos && t->vocab.eos >= 0 && !tokens_push(out, t->vocab.eos))
        return error_set_memory(e, "tokens", sizeof *out->data);
    return true;
}

static bool is_hidden(enum token_kind kind)
{
    return kind == TOKEN_CONTROL || kind == TOKEN_UNKNOWN;
}

const char *tokenizer_bytes(const struct tokenizer *t, int32_t token, bool show_control,
                            size_t *length)
{
    const struct vocab_token *entry = &t->vocab.tokens[token];
    *length = is_hidden(entry->kind) && !show_control ? 0 : entry->bytes_bytes;
    return t->vocab.blob + entry->bytes;
}

const char *tokenizer_text(const struct tokenizer *t, int32_t token, size_t *length)
{
    return vocab_text(&t->vocab, token, length);
}

enum token_kind tokenizer_kind(const struct tokenizer *t, int32_t token)
{
    return t->vocab.tokens[token].kind;
}

char *tokenizer_decode(const struct tokenizer *t, const int32_t *tokens, size_t n,
                       bool show_control, bool strip_prefix_space, size_t *length)
{
    size_t total = 0, step, used = 0;
    for (size_t i = 0; i < n; i++) {
        (void)tokenizer_bytes(t, tokens[i], show_control, &step);
        total += step;
    }
    char *out = malloc(total + 1);
    if (!out)
        return NULL;
    bool strips = strip_prefix_space && t->vocab.adds_space_prefix;
    for (size_t i = 0; i < n; i++) {
        const char *bytes = tokenizer_bytes(t, tokens[i], show_control, &step);
        if (strips && step > 0 && !is_hidden(tokenizer_kind(t, tokens[i]))) {
            size_t n_stripped = *bytes == ' ';
            bytes += n_stripped;
            step -= n_stripped;
            strips = false;
        }
        memcpy(out + used, bytes, step);
        used += step;
    }
    out[used] = 0;
    *length = used;
    return out;
}

int32_t tokenizer_n_vocab(const struct tokenizer *t)
{
    return t->vocab.n;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->vocab.bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->vocab.eos;
}

int32_t tokenizer_pad(const struct tokenizer *t)
{
    return t->vocab.pad;
}

bool tokenizer_adds_bos(const struct tokenizer *t)
{
    return t->vocab.adds_bos;
}

bool tokenizer_adds_space_prefix(const struct tokenizer *t)
{
    return t->vocab.adds_space_prefix;
}

bool tokenizer_is_end(const struct tokenizer *t, int32_t token)
{
    return t->vocab.tokens[token].is_end;
}

const char *tokenizer_model_name(const struct tokenizer *t)
{
    return t->vocab.is_spm ? "llama" : "gpt2";
}

const char *tokenizer_pre_name(const struct tokenizer *t)
{
    return t->vocab.pre_name;
}

int32_t tokenizer_find(const struct tokenizer *t, const char *text, size_t length)
{
    return vocab_find(&t->vocab, text, length);
}
