/* A chat of a request, and how it becomes tokens: for /v1/chat/completions, /apply-template,
 * /tokenize and `winnow run --chat`. Pure: any thread. */
#ifndef WINNOW_ENGINE_TEXT_CHAT_REQUEST_H
#define WINNOW_ENGINE_TEXT_CHAT_REQUEST_H

#include "engine/text/chat.h"
#include "engine/text/tokenizer.h"

struct chat_request {
    json_t *messages; /* owned: array of {role, content, ...}, content a string or null */
    json_t *tools;    /* owned: array, or NULL */
    json_t *kwargs;   /* owned: object of further template variables, or NULL */
    bool add_generation_prompt;
    bool continue_final_message; /* the prompt ends with the last message's content */
    bool without_bos;            /* no BOS but the template's own */
};
void chat_request_clear(struct chat_request *r);

/* Renders the chat with its template and appends its tokens to `out`. BOS comes first where the
 * vocabulary asks for it and the template has not written it. `shown` gets the rendered text
 * (chat_text_free); it may be NULL. Errors are chat_render's and the tokenizer's; `out` may have
 * grown then. */
bool chat_request_encode(const struct chat_request *r, const struct chat_template *template,
                         const struct tokenizer *t, struct tokens *out, struct chat_text *shown,
                         struct error *e);

#endif
