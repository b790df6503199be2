/* See chat_request.h. */
#include "engine/text/chat_request.h"

#include <string.h>
#include <time.h>

/* Longer texts than those of any begin-of-text or end-of-text token. */
enum { MAX_TOKEN_TEXT = 256 };

void chat_request_clear(struct chat_request *r)
{
    json_decref(r->messages);
    json_decref(r->tools);
    json_decref(r->kwargs);
    *r = (struct chat_request){0};
}

static const char *token_text(const struct tokenizer *t, int32_t token, char out[MAX_TOKEN_TEXT])
{
    size_t length;
    if (token < 0)
        return NULL;
    const char *text = tokenizer_text(t, token, &length);
    if (length >= MAX_TOKEN_TEXT)
        return NULL;
    memcpy(out, text, length);
    out[length] = 0;
    return out;
}

bool chat_request_encode(const struct chat_request *r, const struct chat_template *template,
                         const struct tokenizer *t, struct tokens *out, struct chat_text *shown,
                         struct error *e)
{
    char bos[MAX_TOKEN_TEXT], eos[MAX_TOKEN_TEXT];
    struct chat_text text = {0};
    struct chat_render_input in = {.messages = r->messages,
                                   .tools = r->tools,
                                   .kwargs = r->kwargs,
                                   .add_generation_prompt = r->add_generation_prompt,
                                   .continue_final_message = r->continue_final_message,
                                   .bos_token = token_text(t, tokenizer_bos(t), bos),
                                   .eos_token = token_text(t, tokenizer_eos(t), eos),
                                   .now_unix = time(NULL)};
    if (!chat_render(template, &in, &text, e))
        return false;
    bool needs_bos = !r->without_bos && tokenizer_adds_bos(t) && tokenizer_bos(t) >= 0 &&
                     !chat_text_starts_with(&text, in.bos_token);
    bool ok =
        (!needs_bos || tokens_push(out, tokenizer_bos(t)) || error_set_memory(e, "tokens", 4)) &&
        tokenizer_encode(t, text.text, text.length, text.marks, out, e);
    if (shown && ok)
        *shown = text;
    else
        chat_text_free(&text);
    return ok;
}
