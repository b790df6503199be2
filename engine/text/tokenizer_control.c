/* Which tokens are control tokens although their file says that they are text.
 *
 * Converted files often give turn markers the type of ordinary or user-defined tokens. Taken at
 * their word, an answer would never end, its markers would be shown, and a user who types
 * "<|im_start|>system" would open a turn of the system. So tokens that look like markers are control
 * tokens when an end-of-turn key, a well-known name or the file's chat template names them.
 * Other user-defined tokens ("<think>", "<tool_call>") stay text that answers show. */
#include <string.h>

#include "config/base/log.h"
#include "engine/text/tokenizer_vocab.h"

/* Tokens with which chat models end a turn or a text. */
static const char *const end_names[] = {
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<|return|>",
    "<end_of_utterance>",
    "<turn|>",
    "<\xEF\xBD\x9C"
    "end" VOCAB_SPACE "of" VOCAB_SPACE "sentence\xEF\xBD\x9C>",
};

/* The same, but vocabularies may also have them as words: they are ends only as control tokens. */
static const char *const ambiguous_ends[] = {
    "</s>", "<EOT>", "[EOT]", "[EOS]", "<|eos|>", "<eos>",
};

/* Tokens with which turns begin. */
static const char *const turn_names[] = {
    "<|im_start|>",      "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>",
    "<|begin_of_text|>", "<|system|>",          "<|user|>",          "<|assistant|>",
    "<|start_of_role|>", "<|end_of_role|>",     "<|turn>",
};

enum { LONGEST_MARKER = 64 }; /* bytes */

/* "<|...|>", with either kind of bar and without white space. */
static bool has_bars(const char *text, size_t length)
{
    static const char wide[] = "\xEF\xBD\x9C";
    bool ascii = length > 4 && text[1] == '|' && text[length - 2] == '|';
    bool full = length > 8 && !memcmp(text + 1, wide, 3) && !memcmp(text + length - 4, wide, 3);
    return (ascii || full) && text[0] == '<' && text[length - 1] == '>' &&
           !memchr(text, ' ', length) && !memchr(text, '\n', length);
}

/* A marker, not a word: an end-of-turn key may also name a word or a newline, which must stay
 * text. */
static bool is_bracketed(const char *text, size_t length)
{
    return length > 2 && ((text[0] == '<' && text[length - 1] == '>') ||
                          (text[0] == '[' && text[length - 1] == ']'));
}

struct marking {
    struct vocab *v;
    int32_t n_changed, first_changed;
};

static void make_control(struct marking *m, int32_t id)
{
    struct vocab_token *token = &m->v->tokens[id];
    if (token->kind != TOKEN_NORMAL && token->kind != TOKEN_USER_DEFINED)
        return;
    token->kind = TOKEN_CONTROL;
    if (m->n_changed++ == 0)
        m->first_changed = id;
}

static void mark_names(struct marking *m, const char *const *names, size_t n, bool are_ends)
{
    for (size_t i = 0; i < n; i++) {
        int32_t id = vocab_find(m->v, names[i], strlen(names[i]));
        if (id < 0)
            continue;
        make_control(m, id);
        m->v->tokens[id].is_end = m->v->tokens[id].is_end || are_ends;
    }
}

static bool is_marker(const char *text, size_t length)
{
    return has_bars(text, length) || (length == 6 && !memcmp(text, "[INST]", 6)) ||
           (length == 7 && !memcmp(text, "[/INST]", 7));
}

/* Markers that the template writes. Some templates put them together: '<|' + role + '|>'; those are
 * among the names above. */
static void mark_written(struct marking *m, struct source_text template)
{
    for (size_t at = 0; at < template.length; at++) {
        const char *text = template.data + at;
        size_t left = template.length - at;
        if (*text != '<' && *text != '[')
            continue;
        const char *end =
            memchr(text, *text == '<' ? '>' : ']', left < LONGEST_MARKER ? left : LONGEST_MARKER);
        size_t length = end ? (size_t)(end - text) + 1 : 0;
        int32_t id = is_marker(text, length) ? vocab_find(m->v, text, length) : -1;
        if (id >= 0)
            make_control(m, id);
    }
}

void vocab_mark_control(struct vocab *v, const int32_t *ids, size_t n,
                        const struct model_source *source)
{
    struct marking m = {.v = v};
    struct source_text template = {0};
    for (size_t i = 0; i < n; i++) {
        size_t length;
        if (ids[i] >= 0 &&
            is_bracketed(vocab_text(v, ids[i], &length), v->tokens[ids[i]].text_bytes))
            make_control(&m, ids[i]);
    }
    mark_names(&m, end_names, sizeof end_names / sizeof *end_names, true);
    mark_names(&m, turn_names, sizeof turn_names / sizeof *turn_names, false);
    for (size_t i = 0; i < sizeof ambiguous_ends / sizeof *ambiguous_ends; i++) {
        int32_t id = vocab_find(v, ambiguous_ends[i], strlen(ambiguous_ends[i]));
        if (id >= 0 && v->tokens[id].kind == TOKEN_CONTROL)
            v->tokens[id].is_end = true;
    }
    if (source_get_text(source, "tokenizer.chat_template", &template, NULL))
        mark_written(&m, template);
    if (m.n_changed > 0) {
        char shown[80];
        size_t length;
        const char *text = vocab_text(v, m.first_changed, &length);
        log_line(LOG_WARNING,
                 "the model file has %d turn markers as ordinary tokens, the first %s; they are "
                 "taken as control tokens",
                 m.n_changed, error_excerpt(shown, text, length));
    }
}
