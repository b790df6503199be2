/* A chat as a request brings it, and its way to tokens: the one that /v1/chat/completions,
 * /apply-template, /tokenize and `winnow run --chat` take. Pure: any thread. */
#ifndef WINNOW_ENGINE_TEXT_CHAT_REQUEST_H
#define WINNOW_ENGINE_TEXT_CHAT_REQUEST_H

#include "engine/text/chat.h"
#include "engine/text/tokenizer.h"

struct chat_request {
    json_t *messages; /* owned: array of {role, content, ...}, content a string or null */
    json_t *tools;    /* owned: array, or NULL */
    json_t *kwargs;   /* owned: object with further variables of the template, or NULL */
    bool add_generation_prompt;
    bool continue_final_message; /* the prompt ends right behind the last message's content */
};
void chat_request_clear(struct chat_request *r);

/* Renders the chat with its template and appends its tokens to `out`, with the begin-of-text token
 * in front where the vocabulary wants one and the template has not written it. `shown`, unless it
 * is NULL, gets the rendered text (chat_text_free). Errors are chat_render's and the tokenizer's;
 * `out` may have grown then. */
bool chat_request_encode(const struct chat_request *r, const struct chat_template *template,
                         const struct tokenizer *t, struct tokens *out, struct chat_text *shown,
                         struct error *e);

#endif
