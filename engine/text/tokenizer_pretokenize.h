/* Cuts a text into the words that byte-level BPE merges in, by the patterns of the model's own
 * tokenizer, named by `tokenizer.ggml.pre`. Private to engine/text/tokenizer*.c; read only once
 * made, so any thread may split. */
#ifndef WINNOW_ENGINE_TEXT_TOKENIZER_PRETOKENIZE_H
#define WINNOW_ENGINE_TEXT_TOKENIZER_PRETOKENIZE_H

#include <stddef.h>

#include "config/base/error.h"

struct pretokenizer;

/* NULL: "invalid_model" for an unknown name, with a list of the known ones; "out_of_memory". */
struct pretokenizer *pretokenizer_new(const char *name, struct error *e);
void pretokenizer_free(struct pretokenizer *p);

/* Whether models with that pre-tokenizer begin texts with BOS when their file does not say. */
bool pretokenizer_adds_bos(const char *name);

/* Whether a word that is a token is not merged. */
bool pretokenizer_ignores_merges(const struct pretokenizer *p);

/* Whether texts are to be in form C (nfc.h) before they are split. */
bool pretokenizer_normalises(const struct pretokenizer *p);

/* Calls `take` with every word in order; their concatenation is the text. Bytes that are not UTF-8
 * are words of one byte each. False: out of memory, or `take` returned false. */
typedef bool (*pretokenizer_take)(void *context, const char *word, size_t length);
bool pretokenizer_split(const struct pretokenizer *p, const char *text, size_t length,
                        pretokenizer_take take, void *context);

#endif
