/* Turns chat messages into prompt text, with the model's own Jinja template or a built-in one.
 *
 * Every byte of the rendered text has a mark: 1 = written by the template, 0 = from a message or
 * another variable of the request. The tokenizer recognises special tokens only in text of mark 1,
 * so a user who types "<|im_end|>" sends those letters and not the token. Rendering is pure: any
 * thread.
 */
#ifndef WINNOW_ENGINE_TEXT_CHAT_H
#define WINNOW_ENGINE_TEXT_CHAT_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "config/base/error.h"

struct chat_template;

struct chat_render_input {
    const json_t
        *messages; /* array of {role, content, ...}: content already joined to a string or null */
    const json_t *tools;  /* array or NULL */
    const json_t *kwargs; /* object or NULL: further variables (chat_template_kwargs) */
    bool add_generation_prompt;
    bool continue_final_message; /* the text ends with the last message's content */
    const char *bos_token;       /* vocabulary texts, or NULL */
    const char *eos_token;
    int64_t now_unix; /* for strftime_now */
};

struct chat_text {
    char *text;     /* malloc'ed, NUL-terminated; may contain NUL */
    uint8_t *marks; /* [length], see above */
    size_t length;
};
void chat_text_free(struct chat_text *t);

/* Compiles Jinja source. NULL: "template_error" with line and column. */
struct chat_template *chat_template_new(const char *source, size_t length, struct error *e);
/* A built-in one: "chatml", "llama2", "llama3", "mistral", "gemma", "zephyr". NULL with
 * "invalid_value". */
struct chat_template *chat_template_named(const char *name, struct error *e);
void chat_template_free(struct chat_template *t);
/* How messages name the template: "the model's chat template"; at first "the chat template". */
void chat_template_set_name(struct chat_template *t, const char *name);
/* Whether the template can carry a chat: false with "template_error" if it is empty or blank, or
 * leaves out what a user says; "out_of_memory". A template that refuses the check's lone user turn
 * passes. */
bool chat_template_check(const struct chat_template *t, struct error *e);
/* Guesses the name of the built-in template from the vocabulary, which it queries with
 * has_token(context, text). Never NULL. */
const char *chat_template_guess(bool (*has_token)(const void *context, const char *text),
                                const void *context);
/* The source text (for /tokenizer_info). */
const char *chat_template_source(const struct chat_template *t);
/* Whether the template has written BOS, so that the tokenizer must not add another: the rendered
 * text starts with bos_token, of mark 1. */
bool chat_text_starts_with(const struct chat_text *t, const char *token);

/* Renders. The role `developer` becomes `system` unless the template's source contains "developer";
 * `function` becomes `tool`. Where the template demands ids of tool calls with nine characters,
 * other ids are replaced by such ones (chat_tool_ids.h). kwargs never replace the other variables.
 * Errors: "template_error" with the template's name, the line, and its own text of raise_exception
 * or the limit that was hit (steps, depth, output bytes); "invalid_value" for flags that contradict each other; "out_of_memory". */
bool chat_render(const struct chat_template *t, const struct chat_render_input *in,
                 struct chat_text *out, struct error *e);

#endif
