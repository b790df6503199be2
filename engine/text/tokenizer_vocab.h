/* The vocabulary of a model source, checked and copied: the text of every token, the bytes that it
 * stands for, and which ids have a role. Private to engine/text/tokenizer*.c and detokenizer.c;
 * read only once loaded, so any thread may use it.
 *
 * One blob holds all texts and all byte forms; a token points into it:
 *
 *     tokens[i] -> text  "\u2581a" (as in the file)    bytes " a" (as in an answer)
 *
 * Texts are found through an open-addressing table with a random seed, so that a hostile file
 * cannot make them collide. */
#ifndef WINNOW_ENGINE_TEXT_TOKENIZER_VOCAB_H
#define WINNOW_ENGINE_TEXT_TOKENIZER_VOCAB_H

#include "engine/text/tokenizer.h"

#define VOCAB_MAX_TOKENS     (1 << 24)
#define VOCAB_MAX_TEXT_BYTES 65535
/* The most bytes of all texts together; the largest vocabularies in use have some 3 MB. It bounds
 * the work of loading a hostile file, and offsets in the blob fit 32 bits. */
#define VOCAB_MAX_BYTES (1 << 26)
/* U+2581, which SentencePiece writes for a space. */
#define VOCAB_SPACE       "\xE2\x96\x81"
#define VOCAB_SPACE_BYTES 3

struct vocab_token {
    uint32_t text, bytes; /* places in the blob */
    uint16_t text_bytes, bytes_bytes;
    uint8_t kind;      /* enum token_kind */
    bool is_end;       /* generation stops here */
    bool strips_right; /* white space that follows it in a text belongs to it */
};

struct vocab {
    bool is_spm;
    struct vocab_token *tokens; /* [n] */
    int32_t n;                  /* tokens; those from n_texts on have no text and are unused */
    int32_t n_texts;            /* of the file */
    char *blob;
    int32_t *slots; /* [slot_mask + 1] token ids, -1 when empty */
    uint64_t slot_mask, seed;
    int32_t byte_token[256]; /* the token of one byte, or -1: <0x41> in SPM, the mapped character in
                                BPE */
    int32_t bos, eos, pad, unknown;
    bool adds_bos, adds_eos, adds_space_prefix;
    char pre_name[64];
};

/* Fills the vocabulary. After false nothing needs to be freed. */
bool vocab_read(struct vocab *v, const struct model_source *source, struct error *e);
void vocab_clear(struct vocab *v);

static inline const char *vocab_text(const struct vocab *v, int32_t token, size_t *length)
{
    *length = v->tokens[token].text_bytes;
    return v->blob + v->tokens[token].text;
}

/* The token of that text, of any kind; or -1. */
int32_t vocab_find(const struct vocab *v, const char *text, size_t length);
/* The same for ordinary tokens only, which merging may produce. A merge never makes a control
 * token, so plain text cannot forge one. */
int32_t vocab_find_normal(const struct vocab *v, const char *text, size_t length);

/* Mixes 64 bits so that every bit of the result depends on every bit of `x` (the finaliser of
 * MurmurHash3). */
static inline uint64_t vocab_mix(uint64_t x)
{
    x ^= x >> 33;
    x *= UINT64_C(0xff51afd7ed558ccd);
    x ^= x >> 33;
    x *= UINT64_C(0xc4ceb9fe1a85ec53);
    return x ^ (x >> 33);
}
uint64_t vocab_random_seed(void);

/* tokenizer_control.c: marks the tokens that end an answer by their names, and makes those that
 * mark turns control tokens, whatever the file says: the ones in `ids` (-1: none), the well-known
 * ones, and those that the file's chat template writes. Warns when the file said otherwise. */
void vocab_mark_control(struct vocab *v, const int32_t *ids, size_t n,
                        const struct model_source *source);

/* GPT-2's alphabet: every byte has a printable character, whose code point is below 0x144. */
uint32_t vocab_byte_to_character(uint8_t byte);
int vocab_character_to_byte(uint32_t code_point); /* -1 when it stands for none */

#endif
