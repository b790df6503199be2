/* Text to tokens and back, from the vocabulary of a model source.
 *
 * Two families: SentencePiece-style (`tokenizer.ggml.model` = "llama": merges by score, byte
 * fallback, space as U+2581) and byte-level BPE ("gpt2": merges by rank, with a pre-tokenizer
 * pattern named by `tokenizer.ggml.pre`). Merging is n log n. All functions but new and free only
 * read: any thread. */
#ifndef WINNOW_ENGINE_TEXT_TOKENIZER_H
#define WINNOW_ENGINE_TEXT_TOKENIZER_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "config/base/error.h"
#include "engine/model/source.h"

struct tokenizer;

enum token_kind {
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN,
    TOKEN_CONTROL,
    TOKEN_USER_DEFINED,
    TOKEN_UNUSED,
    TOKEN_BYTE
};

/* A growing list of tokens. Zero-initialise; free with tokens_free.
 *
 * A text of megabytes takes seconds. `most` ends its tokenizing early, and `stop` lets another
 * thread end it; both count as a failure, which tokens_ended tells from one of memory. */
struct tokens {
    int32_t *data;
    size_t count, capacity;
    size_t most;             /* no more are taken; 0: no limit */
    const atomic_bool *stop; /* NULL: nobody stops it */
};
void tokens_free(struct tokens *list);
/* False: out of memory, or ended. */
bool tokens_push(struct tokens *list, int32_t token);
/* Whether the list has its most tokens or was stopped. */
bool tokens_ended(const struct tokens *list);

/* Copies what it needs, so the source may be closed afterwards. NULL: "invalid_model" when the
 * vocabulary is absent, broken or of an unknown kind; "out_of_memory". */
struct tokenizer *tokenizer_new(const struct model_source *source, struct error *e);
void tokenizer_free(struct tokenizer *t);

/* Appends the tokens of `text` (any bytes; invalid UTF-8 becomes byte tokens) to `out`. `special`
 * has one byte per byte of `text`: a control token is recognised only where all bytes of its text
 * are 1 (template text). NULL: no control token is recognised (user content). User-defined tokens
 * (kind TOKEN_USER_DEFINED) are recognised everywhere, as in the original tokenizers. Adds no BOS
 * and no EOS. False: "out_of_memory", or "invalid_value" for text over 2^30 bytes.
 *
 * Merging never makes a control token, so unmarked text cannot spell one. SPM puts its space prefix
 * before each piece of text between special tokens. A byte without a token in a BPE vocabulary
 * gives no token, as in the original tokenizers; so only vocabularies with all 256 bytes reproduce
 * every text.
 */
bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t length,
                      const uint8_t *special, struct tokens *out, struct error *e);

/* The same with all bytes marked (parse_special) or none. With add_special, BOS and EOS are added
 * as the model's add_bos_token and add_eos_token say; a parsed text that begins with BOS gets no
 * second one. */
bool tokenizer_encode_text(const struct tokenizer *t, const char *text, size_t length,
                           bool parse_special, bool add_special, struct tokens *out,
                           struct error *e);

/* The same for a prompt to be continued: never with EOS, because what follows it would be another
 * text. */
bool tokenizer_encode_prompt(const struct tokenizer *t, const char *text, size_t length,
                             bool parse_special, bool add_special, struct tokens *out,
                             struct error *e);

/* The bytes that a token stands for in an answer ("▁a" is " a", "<0x0A>" is "\n"); they belong to
 * the tokenizer. Control tokens give 0 bytes unless `show_control`. 0 <= token < n_vocab. */
const char *tokenizer_bytes(const struct tokenizer *t, int32_t token, bool show_control,
                            size_t *length);
/* The token's text as the vocabulary writes it ("<|im_start|>", "▁a"). */
const char *tokenizer_text(const struct tokenizer *t, int32_t token, size_t *length);
enum token_kind tokenizer_kind(const struct tokenizer *t, int32_t token);

/* The bytes of a list of tokens: malloc'ed, *length bytes and a NUL; NULL when memory is short.
 * strip_prefix_space removes the leading space that the SPM prefix added. The bytes may be invalid
 * UTF-8. */
char *tokenizer_decode(const struct tokenizer *t, const int32_t *tokens, size_t n,
                       bool show_control, bool strip_prefix_space, size_t *length);

int32_t tokenizer_n_vocab(const struct tokenizer *t);
int32_t tokenizer_bos(const struct tokenizer *t); /* -1: there is none; likewise below */
int32_t tokenizer_eos(const struct tokenizer *t);
int32_t tokenizer_pad(const struct tokenizer *t);
bool tokenizer_adds_bos(const struct tokenizer *t);
bool tokenizer_adds_space_prefix(const struct tokenizer *t);
/* Whether a token ends an answer: EOS or EOT (<|im_end|>, <|eot_id|>, <end_of_turn>, <|end|>, ...),
 * by the file's id keys and by name. */
bool tokenizer_is_end(const struct tokenizer *t, int32_t token);
const char *tokenizer_model_name(const struct tokenizer *t); /* "llama" or "gpt2" */
const char *tokenizer_pre_name(const struct tokenizer *t);   /* "smollm", ... */
/* The id of a token by its vocabulary text, or -1. */
int32_t tokenizer_find(const struct tokenizer *t, const char *text, size_t length);

/* Streaming detokenisation: returns whole UTF-8 characters only. Bytes that cannot start or
 * continue a character become U+FFFD as soon as that is certain. Zero-initialise; no allocation;
 * one thread. */
struct detokenizer {
    uint8_t pending[8];
    uint8_t n_pending;
    bool
        strip_space; /* set it before the first token of a text that begins with the SPM prefix space */
};
/* Appends to `out` (room: token bytes * 3 + 12) and returns the number of bytes written. */
size_t detokenizer_push(struct detokenizer *d, const struct tokenizer *t, int32_t token,
                        bool show_control, char *out);
/* Writes the pending bytes, which are an incomplete character, as U+FFFD. */
size_t detokenizer_finish(struct detokenizer *d, char *out);

#endif
