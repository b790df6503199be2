/* Text and tokens without an answer: /tokenize, /detokenize, /apply-template, input_tokens,
 * /tokenizer_info. The work runs on the thread pool, so that a long text does not block the loop. The
 * rest runs on the loop thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/chat_request.h"
#include "server/api/handlers.h"
#include "server/api/json_text.h"
#include "server/api/request.h"
#include "server/api/service.h"

/* One request. */
struct chore {
    const struct service *service;
    struct http_request *http_request; /* NULL when it has ended */
    char *body;
    size_t length;
    bool (*work)(struct chore *c, const json_t *body, struct error *e);
    json_t *answer;
    struct error error;
};

static void chore_free(struct chore *c)
{
    free(c->body);
    json_decref(c->answer);
    free(c);
}

static void chore_work(void *context)
{
    struct chore *c = context;
    json_t *body = body_parse(c->body, c->length, &c->error);
    if (!body)
        return;
    if (c->work(c, body, &c->error) && !c->answer)
        error_set(&c->error, "out_of_memory", "", "the server is out of memory");
    json_decref(body);
}

static void chore_done(void *context)
{
    struct chore *c = context;
    if (c->http_request && c->error.code[0])
        http_request_reply_error(c->http_request, &c->error);
    else if (c->http_request)
        http_request_reply_json(c->http_request, 200, json_incref(c->answer));
    if (c->http_request)
        http_request_set_context(c->http_request, NULL, NULL);
    chore_free(c);
}

static void chore_end(void *context, enum http_request_end end)
{
    struct chore *c = context;
    (void)end;
    c->http_request = NULL;
}

static void chore_start(struct http_request *x, const struct service *service,
                        bool (*work)(struct chore *, const json_t *, struct error *))
{
    struct error e;
    struct chore *c = calloc(1, sizeof *c);
    if (c) {
        *c = (struct chore){.service = service, .http_request = x, .work = work};
        c->body = http_request_take_body(x, &c->length);
        http_request_set_context(x, c, chore_end);
        if (c->body && http_request_work(x, chore_work, chore_done, c))
            return;
        http_request_set_context(x, NULL, NULL);
    }
    if (c)
        chore_free(c);
    error_set(&e, "out_of_memory", "", "the server is out of memory");
    http_request_reply_error(x, &e);
}

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

static json_t *ids_json(const struct tokens *list)
{
    json_t *ids = json_array();
    for (size_t i = 0; i < list->count; i++)
        json_array_append_new(ids, json_integer(list->data[i]));
    return ids;
}

/* A token's output: text, or a list of byte values when the bytes are not whole UTF-8 characters (as in
 * llama-server). */
static json_t *piece_json(const struct tokenizer *t, int32_t token)
{
    size_t n;
    const char *bytes = tokenizer_bytes(t, token, true, &n);
    json_t *piece = json_stringn(bytes, n);
    if (piece)
        return piece;
    piece = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(piece, json_integer((unsigned char)bytes[i]));
    return piece;
}

static json_t *pieces_json(const struct service *s, const struct tokens *list, bool with_ids)
{
    const struct tokenizer *t = engine_tokenizer(s->engine);
    json_t *pieces = json_array();
    for (size_t i = 0; i < list->count; i++) {
        json_t *piece = piece_json(t, list->data[i]);
        json_array_append_new(
            pieces,
            with_ids ? json_pack("{s:i, s:o}", "id", (int)list->data[i], "piece", piece) : piece);
    }
    return pieces;
}

static json_t *vocabulary_texts_json(const struct service *s, const struct tokens *list)
{
    json_t *texts = json_array();
    for (size_t i = 0; i < list->count; i++) {
        size_t n;
        const char *text = tokenizer_text(engine_tokenizer(s->engine), list->data[i], &n);
        json_array_append_new(texts, json_text(text, n));
    }
    return texts;
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
    bool ok = chat_request_encode(&chat, engine_chat_template(c->service->engine),
                                  engine_tokenizer(c->service->engine), list, text, e);
    chat_request_clear(&chat);
    return ok;
}

/* llama-server's form: content, add_special, parse_special, with_pieces. */
static bool tokenize_content(struct chore *c, const json_t *body, const json_t *content,
                             struct error *e)
{
    bool add, parse, pieces;
    struct tokens list = {0};
    if (!read_bool(body, "add_special", false, &add, e) ||
        !read_bool(body, "parse_special", true, &parse, e) ||
        !read_bool(body, "with_pieces", false, &pieces, e) ||
        !tokenizer_encode_text(engine_tokenizer(c->service->engine), json_string_value(content),
                               json_string_length(content), parse, add, &list, e)) {
        tokens_free(&list);
        return false;
    }
    c->answer = json_pack("{s:o}", "tokens",
                          pieces ? pieces_json(c->service, &list, true) : ids_json(&list));
    tokens_free(&list);
    return true;
}

/* vLLM's form: prompt or messages, add_special_tokens, return_token_strs. Here with_pieces adds a list
 * `pieces`, and the ids stay a plain list. */
static bool tokenize_prompt(struct chore *c, const json_t *body, const json_t *prompt,
                            struct error *e)
{
    bool add, strings, pieces;
    struct tokens list = {0};
    bool ok = read_bool(body, "add_special_tokens", true, &add, e) &&
              read_bool(body, "return_token_strs", false, &strings, e) &&
              read_bool(body, "with_pieces", false, &pieces, e) &&
              (prompt ? tokenizer_encode_text(engine_tokenizer(c->service->engine),
                                              json_string_value(prompt), json_string_length(prompt),
                                              true, add, &list, e)
                      : encode_body_chat(c, body, &list, NULL, e));
    if (ok) {
        c->answer =
            json_pack("{s:I, s:I, s:o}", "count", (json_int_t)list.count, "max_model_len",
                      (json_int_t)engine_n_ctx(c->service->engine), "tokens", ids_json(&list));
        json_object_set_new(c->answer, "token_strs",
                            strings ? vocabulary_texts_json(c->service, &list) : json_null());
        if (pieces)
            json_object_set_new(c->answer, "pieces", pieces_json(c->service, &list, false));
    }
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

static bool detokenize(struct chore *c, const json_t *body, struct error *e)
{
    const struct tokenizer *t = engine_tokenizer(c->service->engine);
    const json_t *tokens = json_object_get(body, "tokens");
    struct tokens list = {0};
    size_t i, length;
    json_t *value;
    bool ok = json_is_array(tokens) ||
              error_set(e, tokens ? "invalid_type" : "missing_required_parameter", "tokens",
                        "tokens must be an array of token ids");
    if (!ok)
        return false;
    json_array_foreach((json_t *)(uintptr_t)tokens, i, value)
    {
        char where[40];
        snprintf(where, sizeof where, "tokens[%zu]", i);
        if (!json_is_integer(value))
            ok = error_set(e, "invalid_type", where, "%s must be an integer", where);
        else if (json_integer_value(value) < 0 || json_integer_value(value) >= tokenizer_n_vocab(t))
            ok = error_set(e, "invalid_value", where, "%s is %lld; it must be from 0 to %d", where,
                           (long long)json_integer_value(value), tokenizer_n_vocab(t) - 1);
        else if (!tokens_push(&list, (int32_t)json_integer_value(value)))
            ok = error_set(e, "out_of_memory", "", "the server is out of memory");
        if (!ok)
            break;
    }
    char *text = ok ? tokenizer_decode(t, list.data, list.count, true, false, &length) : NULL;
    if (text) {
        json_t *content = json_text(text, length);
        c->answer = json_pack("{s:O, s:o}", "content", content, "prompt", content);
    }
    free(text);
    tokens_free(&list);
    return ok;
}

static bool apply_template(struct chore *c, const json_t *body, struct error *e)
{
    struct tokens list = {0};
    struct chat_text text = {0};
    bool ok = encode_body_chat(c, body, &list, &text, e);
    if (ok)
        c->answer = json_pack("{s:o, s:I}", "prompt", json_text(text.text, text.length), "tokens",
                              (json_int_t)list.count);
    chat_text_free(&text);
    tokens_free(&list);
    return ok;
}

static bool input_tokens(struct chore *c, const json_t *body, struct error *e)
{
    struct tokens list = {0};
    bool ok = encode_body_chat(c, body, &list, NULL, e);
    if (ok)
        c->answer = json_pack("{s:s, s:I, s:I}", "object", "response.input_tokens", "input_tokens",
                              (json_int_t)list.count, "max_context",
                              (json_int_t)engine_n_ctx(c->service->engine));
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
