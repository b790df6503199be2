/* Reads and checks the vocabulary: see tokenizer_vocab.h. */
#include "engine/text/tokenizer_vocab.h"
#include "engine/text/tokenizer_pretokenize.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "config/base/clock.h"
#include "config/base/utf8.h"

#include "engine/model/arch.h"

uint64_t vocab_random_seed(void)
{
    uint64_t seed;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed) {
        seed = vocab_mix(clock_ns() ^ (uint64_t)(uintptr_t)&seed);
    }
    return seed;
}

static uint64_t hash_text(uint64_t seed, const char *text, size_t length)
{
    uint64_t hash = seed ^ length;
    while (length >= 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        hash = vocab_mix(hash ^ word);
        text += 8;
        length -= 8;
    }
    uint64_t word = 0;
    memcpy(&word, text, length);
    return vocab_mix(hash ^ word);
}

/* The slot that holds `text`, or the empty one where it belongs. */
static uint64_t slot_of(const struct vocab *v, const char *text, size_t length)
{
    uint64_t slot = hash_text(v->seed, text, length) & v->slot_mask;
    while (v->slots[slot] >= 0) {
        const struct vocab_token *token = &v->tokens[v->slots[slot]];
        if (token->text_bytes == length && memcmp(v->blob + token->text, text, length) == 0)
            break;
        slot = (slot + 1) & v->slot_mask;
    }
    return slot;
}

int32_t vocab_find(const struct vocab *v, const char *text, size_t length)
{
    return v->slots[slot_of(v, text, length)];
}

int32_t vocab_find_normal(const struct vocab *v, const char *text, size_t length)
{
    int32_t id = vocab_find(v, text, length);
    return id >= 0 && v->tokens[id].kind == TOKEN_NORMAL ? id : -1;
}

/* The byte that "<0x41>" names, or -1. */
static int parse_byte_text(const char *text, size_t length)
{
    if (length != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    int value = 0;
    for (int i = 3; i < 5; i++) {
        char c = text[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* SPM: U+2581 becomes a space. Returns the number of bytes written to `out` (room: length). */
static size_t bytes_of_spm(const char *text, size_t length, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < length;) {
        if (length - i >= VOCAB_SPACE_BYTES &&
            memcmp(text + i, VOCAB_SPACE, VOCAB_SPACE_BYTES) == 0) {
            out[n++] = ' ';
            i += VOCAB_SPACE_BYTES;
        } else {
            out[n++] = text[i++];
        }
    }
    return n;
}

/* BPE: every character of the alphabet becomes its byte. A text with other characters keeps its
 * bytes.
 */
static size_t bytes_of_bpe(const char *text, size_t length, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < length;) {
        size_t step = utf8_length(text + i, length - i);
        uint32_t c = step > 0 ? utf8_code(text + i, step) : UINT32_MAX;
        int byte = vocab_character_to_byte(c);
        if (byte < 0) {
            memcpy(out, text, length);
            return length;
        }
        out[n++] = (char)byte;
        i += step;
    }
    return n;
}

static size_t bytes_of_token(const struct vocab *v, enum token_kind kind, const char *text,
                             size_t length, char *out)
{
    if (kind == TOKEN_BYTE) {
        int byte = parse_byte_text(text, length);
        if (byte >= 0) {
            *out = (char)byte;
            return 1;
        }
    }
    if (kind == TOKEN_NORMAL || kind == TOKEN_UNUSED)
        return v->is_spm ? bytes_of_spm(text, length, out) : bytes_of_bpe(text, length, out);
    memcpy(out, text, length);
    return length;
}

static bool read_family(struct vocab *v, const struct model_source *source, struct error *e)
{
    struct source_text model;
    if (!source_get_text(source, "tokenizer.ggml.model", &model, e))
        return false;
    v->is_spm = source_text_is(model, "llama");
    if (!v->is_spm && !source_text_is(model, "gpt2")) {
        char excerpt[80];
        return error_set(e, "invalid_model", "tokenizer.ggml.model",
                         "the tokenizer \"%s\" is not supported; winnow has \"llama\" "
                         "(SentencePiece with scores) "
                         "and \"gpt2\" (byte-level BPE)",
                         error_excerpt(excerpt, model.data, model.length));
    }
    snprintf(v->pre_name, sizeof v->pre_name, "default");
    if (!source_has(source, "tokenizer.ggml.pre"))
        return true;
    struct source_text pre;
    if (!source_get_text(source, "tokenizer.ggml.pre", &pre, e))
        return false;
    if (pre.length >= sizeof v->pre_name || memchr(pre.data, 0, pre.length))
        return error_set(e, "invalid_model", "tokenizer.ggml.pre",
                         "the pre-tokenizer's name has %llu bytes or holds a NUL; at most %zu "
                         "printable ones are "
                         "expected",
                         (unsigned long long)pre.length, sizeof v->pre_name - 1);
    memcpy(v->pre_name, pre.data, pre.length);
    v->pre_name[pre.length] = 0;
    return true;
}

/* Matrices are often padded to a round number of rows. Each row without a text is an unused token that
 * stands for no bytes, so that every row of the logits is a token. */
static int32_t count_rows(const struct model_source *source, uint64_t n_texts)
{
    const struct source_tensor *t = source_tensor(source, "token_embd.weight");
    return (int32_t)(t && t->shape[1] > n_texts && t->shape[1] <= VOCAB_MAX_TOKENS ? t->shape[1]
                                                                                   : n_texts);
}

/* Counts the tokens, allocates all arrays, and copies texts. */
static bool read_texts(struct vocab *v, const struct model_source *source, struct error *e)
{
    struct source_value texts;
    if (!source_get_array(source, "tokenizer.ggml.tokens", SOURCE_STRING, &texts, e))
        return false;
    if (texts.count == 0 || texts.count > VOCAB_MAX_TOKENS)
        return error_set(e, "invalid_model", "tokenizer.ggml.tokens",
                         "the vocabulary has %llu tokens; 1 to %d are expected",
                         (unsigned long long)texts.count, VOCAB_MAX_TOKENS);
    uint64_t total = 0;
    for (uint64_t i = 0; i < texts.count; i++) {
        if (texts.texts[i].length > VOCAB_MAX_TEXT_BYTES)
            return error_set(e, "invalid_model", "tokenizer.ggml.tokens",
                             "token %llu has a text of %llu bytes; at most %d are allowed",
                             (unsigned long long)i, (unsigned long long)texts.texts[i].length,
                             VOCAB_MAX_TEXT_BYTES);
        total += texts.texts[i].length;
    }
    if (total > VOCAB_MAX_BYTES)
        return error_set(e, "invalid_model", "tokenizer.ggml.tokens",
                         "the vocabulary's texts have %llu bytes; at most %d are allowed",
                         (unsigned long long)total, VOCAB_MAX_BYTES);
    v->n_texts = (int32_t)texts.count;
    v->n = count_rows(source, texts.count);
    uint64_t n_slots = 16;
    while (n_slots < (uint64_t)v->n * 2)
        n_slots *= 2;
    v->slot_mask = n_slots - 1;
    v->tokens = calloc((size_t)v->n, sizeof *v->tokens);
    v->slots = malloc(n_slots * sizeof *v->slots);
    v->blob = malloc(total * 2 + 1);
    if (!v->tokens || !v->slots || !v->blob)
        return error_set_memory(e, "the vocabulary",
                                (uint64_t)v->n * sizeof *v->tokens + n_slots * sizeof *v->slots +
                                    total * 2);
    memset(v->slots, 0xFF, n_slots * sizeof *v->slots);
    uint32_t used = 0;
    for (int32_t i = v->n_texts; i < v->n; i++)
        v->tokens[i] = (struct vocab_token){.text = (uint32_t)total, .kind = TOKEN_UNUSED};
    for (int32_t i = 0; i < v->n_texts; i++) {
        v->tokens[i].text = used;
        v->tokens[i].text_bytes = (uint16_t)texts.texts[i].length;
        if (texts.texts[i].length > 0)
            memcpy(v->blob + used, texts.texts[i].data, texts.texts[i].length);
        used += (uint32_t)texts.texts[i].length;
    }
    return true;
}

/* Reads the kind of every token. Old files have none: all tokens are normal then, except SPM's byte
 * tokens. */
static bool read_kinds(struct vocab *v, const struct model_source *source, struct error *e)
{
    const char *key = "tokenizer.ggml.token_type";
    if (!source_has(source, key)) {
        for (int32_t i = 0; i < v->n_texts; i++) {
            const struct vocab_token *token = &v->tokens[i];
            bool is_byte =
                v->is_spm && parse_byte_text(v->blob + token->text, token->text_bytes) >= 0;
            v->tokens[i].kind = is_byte ? TOKEN_BYTE : TOKEN_NORMAL;
        }
        return true;
    }
    struct source_value kinds;
    if (!source_value(source, key, &kinds) || kinds.type != SOURCE_ARRAY ||
        kinds.count != (uint64_t)v->n_texts)
        return error_set(e, "invalid_model", key, "one kind for each of the %d tokens is expected",
                         v->n_texts);
    for (int32_t i = 0; i < v->n_texts; i++) {
        int64_t kind;
        if (!source_element_int(&kinds, (uint64_t)i, &kind) || kind < 0 || kind > TOKEN_BYTE)
            return error_set(e, "invalid_model", key, "token %d has no kind from %d to %d", i,
                             TOKEN_NORMAL, TOKEN_BYTE);
        v->tokens[i].kind = (uint8_t)(kind == 0 ? TOKEN_NORMAL : kind);
    }
    return true;
}

/* Fills the table of texts. Of two tokens with the same text the first is found. */
static void index_texts(struct vocab *v)
{
    for (int32_t i = 0; i < v->n_texts; i++) {
        const struct vocab_token *token = &v->tokens[i];
        uint64_t slot = slot_of(v, v->blob + token->text, token->text_bytes);
        if (v->slots[slot] < 0)
            v->slots[slot] = i;
    }
}

/* Fills the byte forms, which depend on the kinds of tokens. */
static void write_byte_forms(struct vocab *v)
{
    const struct vocab_token *last = &v->tokens[v->n - 1];
    uint32_t used = last->text + last->text_bytes;
    for (int32_t i = 0; i < v->n; i++) {
        struct vocab_token *token = &v->tokens[i];
        token->bytes = used;
        token->bytes_bytes = (uint16_t)bytes_of_token(v, token->kind, v->blob + token->text,
                                                      token->text_bytes, v->blob + used);
        used += token->bytes_bytes;
    }
}

static void index_bytes(struct vocab *v)
{
    for (int byte = 0; byte < 256; byte++) {
        char text[8];
        if (v->is_spm) {
            int length = snprintf(text, sizeof text, "<0x%02X>", (unsigned)byte);
            int32_t id = vocab_find(v, text, (size_t)length);
            v->byte_token[byte] = id >= 0 && v->tokens[id].kind == TOKEN_BYTE ? id : -1;
            continue;
        }
        uint32_t c = vocab_byte_to_character((uint8_t)byte);
        size_t length = c < 0x80 ? 1 : 2;
        text[0] = (char)(c < 0x80 ? c : 0xC0 | c >> 6);
        text[1] = (char)(0x80 | (c & 0x3F));
        v->byte_token[byte] = vocab_find_normal(v, text, length);
    }
}

/* The id of a key; if the file does not have it, the token named `fallback` (may be NULL); else
 * -1. */
static bool read_id(const struct vocab *v, const struct model_source *source, const char *key,
                    const char *fallback, int32_t *out, struct error *e)
{
    *out = fallback ? vocab_find(v, fallback, strlen(fallback)) : -1;
    if (!source_has(source, key))
        return true;
    int64_t id;
    if (!source_get_int(source, key, INT32_MIN, UINT32_MAX, &id, e))
        return false;
    *out = -1;
    if (id == -1 || id == UINT32_MAX) /* how converters write "none" */
        return true;
    if (id < 0 || id >= v->n)
        return error_set(e, "invalid_model", key,
                         "token id %lld is outside the vocabulary of %d tokens", (long long)id,
                         v->n);
    *out = (int32_t)id;
    return true;
}

static bool read_flag(const struct model_source *source, const char *key, bool when_absent,
                      bool *out, struct error *e)
{
    *out = when_absent;
    return source_optional_bool(source, key, out, e);
}

static bool mark_ends(struct vocab *v, const struct model_source *source, struct error *e)
{
    static const char *const keys[] = {"tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    int32_t by_key[] = {v->eos, -1, -1};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!read_id(v, source, keys[i], NULL, &by_key[i + 1], e))
            return false;
    for (size_t i = 0; i < sizeof by_key / sizeof *by_key; i++)
        if (by_key[i] >= 0)
            v->tokens[by_key[i]].is_end = true;
    vocab_mark_control(v, by_key, sizeof by_key / sizeof *by_key, source);
    return true;
}

static bool read_roles(struct vocab *v, const struct model_source *source, struct error *e)
{
    bool bos_by_default = v->is_spm || pretokenizer_adds_bos(v->pre_name);
    bool space_prefix = false;
    if (!read_id(v, source, "tokenizer.ggml.bos_token_id", v->is_spm ? "<s>" : NULL, &v->bos, e) ||
        !read_id(v, source, "tokenizer.ggml.eos_token_id", v->is_spm ? "</s>" : NULL, &v->eos, e) ||
        !read_id(v, source, "tokenizer.ggml.padding_token_id", NULL, &v->pad, e) ||
        !read_id(v, source, "tokenizer.ggml.unknown_token_id", v->is_spm ? "<unk>" : NULL,
                 &v->unknown, e) ||
        !read_flag(source, "tokenizer.ggml.add_bos_token", bos_by_default, &v->adds_bos, e) ||
        !read_flag(source, "tokenizer.ggml.add_eos_token", false, &v->adds_eos, e) ||
        !read_flag(source, "tokenizer.ggml.add_space_prefix", true, &space_prefix, e))
        return false;
    v->adds_space_prefix = v->is_spm && space_prefix;
    /* Plain text must not spell control tokens of a file without kinds. */
    if (!source_has(source, "tokenizer.ggml.token_type")) {
        const int32_t controls[] = {v->bos, v->eos, v->unknown};
        for (size_t i = 0; i < sizeof controls / sizeof *controls; i++)
            if (controls[i] >= 0)
                v->tokens[controls[i]].kind = TOKEN_CONTROL;
    }
    return mark_ends(v, source, e);
}

/* In some tokenizers (Phi-3's) the white space after a special token belongs to that token, except
 * after the three that Llama's vocabulary already had. */
static void mark_right_strippers(struct vocab *v, const struct model_source *source)
{
    const struct arch *arch = arch_find(source);
    if (!v->is_spm || !arch || !arch->special_takes_space)
        return;
    for (int32_t i = 0; i < v->n; i++) {
        struct vocab_token *token = &v->tokens[i];
        token->strips_right = token->kind == TOKEN_CONTROL || token->kind == TOKEN_USER_DEFINED;
    }
    static const char *const keepers[] = {"<unk>", "<s>", "<|endoftext|>"};
    for (size_t i = 0; i < sizeof keepers / sizeof *keepers; i++) {
        int32_t id = vocab_find(v, keepers[i], strlen(keepers[i]));
        if (id >= 0)
            v->tokens[id].strips_right = false;
    }
}

bool vocab_read(struct vocab *v, const struct model_source *source, struct error *e)
{
    memset(v, 0, sizeof *v);
    v->seed = vocab_random_seed();
    if (!read_family(v, source, e) || !read_texts(v, source, e) || !read_kinds(v, source, e))
        goto fail;
    index_texts(v);
    if (!read_roles(v, source, e))
        goto fail;
    write_byte_forms(v);
    index_bytes(v);
    mark_right_strippers(v, source);
    return true;
fail:
    vocab_clear(v);
    return false;
}

void vocab_clear(struct vocab *v)
{
    free(v->tokens);
    free(v->slots);
    free(v->blob);
    memset(v, 0, sizeof *v);
}
