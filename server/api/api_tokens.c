/* Text and tokens without an answer: /tokenize, /detokenize, /apply-template, input_tokens,
 * /tokenizer_info. The work runs on the thread pool (chore.h), the handlers on the loop thread.
 *
 * Lists are written as text at once: as JSON values they would take 20 times the memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/chat_request.h"
#include "server/api/chore.h"
#include "server/api/handlers.h"
#include "server/api/json_text.h"
#include "server/api/request.h"
#include "server/api/service.h"

/* ---- reading fields */

static bool read_bool(const json_t *body, const char *name, bool otherwise, bool *out,
                      struct error *e)
{
    const json_t *value = json_object_get(body, name);
    *out = otherwise;
    if (!value || json_is_null(value))
        return true;
    if (!json_is_boolean(value))
        return error_set(e, "invalid_type", name, "%s must be true or false", name);
    *out = json_is_true(value);
    return true;
}

/* ---- writing lists */

/* Appends one entry of a list. */
typedef bool (*put_token)(struct chore *c, int32_t token);

static const struct tokenizer *tokenizer_of(const struct chore *c)
{
    return engine_tokenizer(c->service->engine);
}

static bool put_id(struct chore *c, int32_t token)
{
    char text[16];
    snprintf(text, sizeof text, "%d", token);
    return json_add_raw(&c->answer, text);
}

static bool put_byte_values(struct bytes *out, const char *bytes, size_t n)
{
    bool ok = json_add_raw(out, "[");
    for (size_t i = 0; ok && i < n; i++) {
        char text[8];
        snprintf(text, sizeof text, i ? ",%u" : "%u", (unsigned char)bytes[i]);
        ok = json_add_raw(out, text);
    }
    return ok && json_add_raw(out, "]");
}

/* A token's output: text, or a list of byte values when the bytes are not whole UTF-8 characters (as in
 * llama-server). */
static bool put_piece(struct chore *c, int32_t token)
{
    size_t n;
    const char *bytes = tokenizer_bytes(tokenizer_of(c), token, true, &n);
    json_t *piece = json_stringn(bytes, n);
    if (!piece)
        return put_byte_values(&c->answer, bytes, n);
    bool ok = json_add_any(&c->answer, piece);
    json_decref(piece);
    return ok;
}

static bool put_id_and_piece(struct chore *c, int32_t token)
{
    return json_add_raw(&c->answer, "{\"id\":") && put_id(c, token) &&
           json_add_raw(&c->answer, ",\"piece\":") && put_piece(c, token) &&
           json_add_raw(&c->answer, "}");
}

static bool put_vocabulary_text(struct chore *c, int32_t token)
{
    size_t n;
    const char *text = tokenizer_text(tokenizer_of(c), token, &n);
    return json_add_text(&c->answer, text, n);
}

static bool write_list(struct chore *c, const struct tokens *list, put_token put, struct error *e)
{
    enum { LOOK_EVERY = 1024 };
    bool ok = json_add_raw(&c->answer, "[");
    for (size_t i = 0; ok && i < list->count; i++) {
        if (i % LOOK_EVERY == 0 && !chore_may_add(c, 2 * (list->count - i), e))
            return false; /* an entry has at least a digit and a comma */
        ok = (i == 0 || json_add_raw(&c->answer, ",")) && put(c, list->data[i]);
    }
    return (ok && json_add_raw(&c->answer, "]")) || error_set_memory(e, "an answer", list->count);
}

static bool write_key(struct chore *c, const char *key, struct error *e)
{
    bool ok = json_add_raw(&c->answer, c->answer.length > 0 ? ",\"" : "{\"") &&
              json_add_raw(&c->answer, key) && json_add_raw(&c->answer, "\":");
    return ok || error_set_memory(e, "an answer", c->answer.length);
}

static bool write_number(struct chore *c, const char *key, uint64_t value, struct error *e)
{
    return write_key(c, key, e) && chore_add(c, json_integer((json_int_t)value), e);
}

static bool write_end(struct chore *c, struct error *e)
{
    return json_add_raw(&c->answer, "}") || error_set_memory(e, "an answer", c->answer.length);
}

/* ---- the work (pool) */

static bool encode_body_chat(struct chore *c, const json_t *body, struct tokens *list,
                             struct chat_text *text, struct error *e)
{
    struct chat_request chat;
    bool ignored;
    const json_t *kwargs = json_object_get(body, "chat_template_kwargs");
    if (kwargs && !json_is_null(kwargs) && !json_is_object(kwargs))
        return error_set(e, "invalid_type", "chat_template_kwargs",
                         "chat_template_kwargs must be an object");
    if (!read_bool(body, "continue_final_message", false, &ignored, e) ||
        !read_bool(body, "add_generation_prompt", true, &ignored, e) || !chat_parse(body, &chat, e))
        return false;
    bool ok = chat_request_encode(&chat, engine_chat_template(c->service->engine), tokenizer_of(c),
                                  list, text, e);
    chat_request_clear(&chat);
    return ok;
}

/* llama-server's form: content, add_special, parse_special, with_pieces. */
static bool tokenize_content(struct chore *c, const json_t *body, const json_t *content,
                             struct error *e)
{
    bool add, parse, pieces;
    struct tokens list = {.stop = &c->work.cancelled};
    bool ok = read_bool(body, "add_special", false, &add, e) &&
              read_bool(body, "parse_special", true, &parse, e) &&
              read_bool(body, "with_pieces", false, &pieces, e) &&
              tokenizer_encode_text(tokenizer_of(c), json_string_value(content),
                                    json_string_length(content), parse, add, &list, e) &&
              write_key(c, "tokens", e) &&
              write_list(c, &list, pieces ? put_id_and_piece : put_id, e) && write_end(c, e);
    tokens_free(&list);
    return ok;
}

/* vLLM's form: prompt or messages, add_special_tokens, return_token_strs. Here with_pieces adds a list
 * `pieces`, and the ids stay a plain list. */
static bool tokenize_prompt(struct chore *c, const json_t *body, const json_t *prompt,
                            struct error *e)
{
    bool add, strings, pieces;
    struct tokens list = {.stop = &c->work.cancelled};
    bool ok = read_bool(body, "add_special_tokens", true, &add, e) &&
              read_bool(body, "return_token_strs", false, &strings, e) &&
              read_bool(body, "with_pieces", false, &pieces, e) &&
              (prompt ? tokenizer_encode_text(tokenizer_of(c), json_string_value(prompt),
                                              json_string_length(prompt), true, add, &list, e)
                      : encode_body_chat(c, body, &list, NULL, e));
    ok = ok && write_number(c, "count", list.count, e) &&
         write_number(c, "max_model_len", engine_n_ctx(c->service->engine), e) &&
         write_key(c, "tokens", e) && write_list(c, &list, put_id, e) &&
         write_key(c, "token_strs", e) &&
         (strings ? write_list(c, &list, put_vocabulary_text, e) : chore_add(c, json_null(), e)) &&
         (!pieces || (write_key(c, "pieces", e) && write_list(c, &list, put_piece, e))) &&
         write_end(c, e);
    tokens_free(&list);
    return ok;
}

static bool tokenize(struct chore *c, const json_t *body, struct error *e)
{
    const json_t *content = json_object_get(body, "content"),
                 *prompt = json_object_get(body, "prompt"),
                 *messages = json_object_get(body, "messages");
    int given = (content != NULL) + (prompt != NULL) + (messages != NULL);
    if (given == 0)
        return error_set(e, "missing_required_parameter", "content",
                         "give one of content, prompt and messages");
    if (given > 1)
        return error_set(e, "invalid_value", "content",
                         "give only one of content, prompt and messages");
    const char *name = content ? "content" : "prompt";
    if (!messages && !json_is_string(content ? content : prompt))
        return error_set(e, "invalid_type", name, "%s must be a string", name);
    return content ? tokenize_content(c, body, content, e) : tokenize_prompt(c, body, prompt, e);
}

static bool read_tokens(struct chore *c, const json_t *tokens, struct tokens *list, struct error *e)
{
    const struct tokenizer *t = tokenizer_of(c);
    size_t i, length;
    uint64_t n_bytes = 0;
    json_t *value;
    if (!json_is_array(tokens))
        return error_set(e, tokens ? "invalid_type" : "missing_required_parameter", "tokens",
                         "tokens must be an array of token ids");
    json_array_foreach((json_t *)(uintptr_t)tokens, i, value)
    {
        char where[40];
        json_int_t id = json_integer_value(value);
        snprintf(where, sizeof where, "tokens[%zu]", i);
        if (!json_is_integer(value))
            return error_set(e, "invalid_type", where, "%s must be an integer", where);
        if (id < 0 || id >= tokenizer_n_vocab(t))
            return error_set(e, "invalid_value", where, "%s is %lld; it must be from 0 to %d",
                             where, (long long)id, tokenizer_n_vocab(t) - 1);
        if (!tokens_push(list, (int32_t)id))
            return chore_is_stopped(c, e) ? false : error_set_memory(e, "tokens", i);
        tokenizer_bytes(t, (int32_t)id, true, &length);
        n_bytes += length;
    }
    return chore_may_add(c, 2 * n_bytes, e); /* the text stands in the answer twice */
}

static bool detokenize(struct chore *c, const json_t *body, struct error *e)
{
    struct tokens list = {.stop = &c->work.cancelled};
    size_t length;
    bool ok = read_tokens(c, json_object_get(body, "tokens"), &list, e);
    char *text =
        ok ? tokenizer_decode(tokenizer_of(c), list.data, list.count, true, false, &length) : NULL;
    tokens_free(&list);
    json_t *content = text ? json_text(text, length) : NULL;
    free(text);
    return ok && chore_add(c, json_pack("{s:O, s:o}", "content", content, "prompt", content), e);
}

static bool apply_template(struct chore *c, const json_t *body, struct error *e)
{
    struct tokens list = {.stop = &c->work.cancelled};
    struct chat_text text = {0};
    bool ok = encode_body_chat(c, body, &list, &text, e) && chore_may_add(c, text.length, e) &&
              chore_add(c,
                        json_pack("{s:o, s:I}", "prompt", json_text(text.text, text.length),
                                  "tokens", (json_int_t)list.count),
                        e);
    chat_text_free(&text);
    tokens_free(&list);
    return ok;
}

static bool input_tokens(struct chore *c, const json_t *body, struct error *e)
{
    struct tokens list = {.stop = &c->work.cancelled};
    bool ok = encode_body_chat(c, body, &list, NULL, e) &&
              chore_add(c,
                        json_pack("{s:s, s:I, s:I}", "object", "response.input_tokens",
                                  "input_tokens", (json_int_t)list.count, "max_context",
                                  (json_int_t)engine_n_ctx(c->service->engine)),
                        e);
    tokens_free(&list);
    return ok;
}

/* ---- handlers */

void handle_tokenize(struct http_request *x, void *service)
{
    chore_start(x, service, tokenize);
}

void handle_detokenize(struct http_request *x, void *service)
{
    chore_start(x, service, detokenize);
}

void handle_apply_template(struct http_request *x, void *service)
{
    chore_start(x, service, apply_template);
}

void handle_input_tokens(struct http_request *x, void *service)
{
    chore_start(x, service, input_tokens);
}

static json_t *token_json(const struct tokenizer *t, int32_t token)
{
    size_t n;
    if (token < 0)
        return json_null();
    const char *text = tokenizer_text(t, token, &n);
    return json_text(text, n);
}

void handle_tokenizer_info(struct http_request *x, void *context)
{
    const struct service *s = context;
    const struct tokenizer *t = engine_tokenizer(s->engine);
    const char *template = chat_template_source(engine_chat_template(s->engine));
    http_request_reply_json(
        x, 200,
        json_pack("{s:o, s:o, s:o, s:o, s:s}", "bos_token", token_json(t, tokenizer_bos(t)),
                  "eos_token", token_json(t, tokenizer_eos(t)), "pad_token",
                  token_json(t, tokenizer_pad(t)), "chat_template",
                  json_text(template, strlen(template)), "tokenizer_class",
                  strcmp(tokenizer_model_name(t), "llama") ? "GPT2Tokenizer" : "LlamaTokenizer"));
}
