/* What tokenizer.c and the two families share. Private to engine/text/tokenizer*.c. */
#ifndef WINNOW_ENGINE_TEXT_TOKENIZER_FAMILY_H
#define WINNOW_ENGINE_TEXT_TOKENIZER_FAMILY_H

#include "engine/text/tokenizer_merge.h"
#include "engine/text/tokenizer_pretokenize.h"
#include "engine/text/tokenizer_special.h"

struct tokenizer {
    struct vocab vocab;
    struct merge_table merges;
    struct special_trie specials;
    struct pretokenizer *pretokenizer; /* BPE only */
    /* SPM only. */
    int32_t character_token
        [128]; /* the token of an ASCII character, or -1; for a space that of U+2581 */
    bool merges_cross_words; /* some token contains a space after another character */
};

/* Fill `merges` and the family's own fields from the file; the vocabulary is already read. */
bool spm_build(struct tokenizer *t, const struct model_source *source, struct error *e);
bool bpe_build(struct tokenizer *t, const struct model_source *source, struct error *e);

/* Append the tokens of a text without special tokens. The scratch may be used for many calls.
 * False: out of memory. */
bool spm_encode(const struct tokenizer *t, struct merge_scratch *scratch, const char *text,
                size_t length, struct tokens *out);
bool bpe_encode(const struct tokenizer *t, struct merge_scratch *scratch, const char *text,
                size_t length, struct tokens *out);

#endif
