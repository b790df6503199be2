/* Turns chat messages into prompt text: see chat.h. engine/jinja interprets the language; this file
 * handles roles, the end of the last message, and which bytes are the template's. */
#include "engine/text/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/chat_builtin.h"
#include "engine/text/chat_tool_ids.h"
#include "engine/jinja/jinja.h"

/* The mark of the last message's content, if it is to be continued; becomes 0 before the text is
 * returned. */
enum { MARK_CONTINUED = 2 };

struct chat_template {
    struct jinja_program *program;
    char *source;
    char name[200]; /* in messages */
    bool knows_developer, wants_short_ids;
};

void chat_text_free(struct chat_text *t)
{
    free(t->text);
    free(t->marks);
    *t = (struct chat_text){0};
}

struct chat_template *chat_template_new(const char *source, size_t length, struct error *e)
{
    struct chat_template *t = calloc(1, sizeof *t);
    char *copy = malloc(length + 1);
    if (!t || !copy) {
        error_set_memory(e, "a chat template", length);
        goto fail;
    }
    memcpy(copy, source, length);
    copy[length] = 0;
    t->program = jinja_compile(source, length, e);
    if (!t->program)
        goto fail;
    t->source = copy;
    t->knows_developer = memmem(source, length, "developer", 9) != NULL;
    t->wants_short_ids = chat_tool_ids_wanted(source, length);
    chat_template_set_name(t, "the chat template");
    return t;
fail:
    free(copy);
    free(t);
    return NULL;
}

struct chat_template *chat_template_named(const char *name, struct error *e)
{
    const char *source = chat_builtin_source(name);
    char excerpt[80];
    if (source) {
        struct chat_template *t = chat_template_new(source, strlen(source), e);
        snprintf(excerpt, sizeof excerpt, "the built-in chat template \"%s\"", name);
        if (t)
            chat_template_set_name(t, excerpt);
        return t;
    }
    error_set(e, "invalid_value", "chat_template",
              "there is no built-in chat template '%s'; the names are chatml, llama2, llama3, "
              "mistral, gemma and zephyr",
              error_excerpt(excerpt, name, strlen(name)));
    return NULL;
}

void chat_template_set_name(struct chat_template *t, const char *name)
{
    snprintf(t->name, sizeof t->name, "%s", name);
}

void chat_template_free(struct chat_template *t)
{
    if (!t)
        return;
    jinja_free(t->program);
    free(t->source);
    free(t);
}

const char *chat_template_source(const struct chat_template *t)
{
    return t->source;
}

const char *chat_template_guess(bool (*has_token)(const void *context, const char *text),
                                const void *context)
{
    /* Tokens that only one family has; the most specific come first. */
    static const struct {
        const char *token, *name;
    } signs[] = {
        {"<|start_header_id|>", "llama3"},
        {"<|im_start|>", "chatml"},
        {"<start_of_turn>", "gemma"},
        {"[INST]", "mistral"},
        {"<|user|>", "zephyr"},
    };
    for (size_t i = 0; i < sizeof signs / sizeof signs[0]; i++)
        if (has_token(context, signs[i].token))
            return signs[i].name;
    /* Llama 2 and Mistral 7B share a vocabulary in which the brackets are plain letters. */
    return has_token(context, "<s>") && has_token(context, "</s>") ? "llama2" : "chatml";
}

bool chat_text_starts_with(const struct chat_text *t, const char *token)
{
    size_t length = token ? strlen(token) : 0;
    if (length == 0 || t->length < length || memcmp(t->text, token, length) != 0)
        return false;
    for (size_t i = 0; i < length; i++)
        if (t->marks[i] != JINJA_MARK_TEMPLATE)
            return false;
    return true;
}

/* ---- strings that go into the template */

struct message_strings {
    const json_t *last; /* the message to continue, or NULL */
    bool knows_developer;
    bool stand_in; /* its content is empty: a full stop stands for it */
};

/* A role is one of a few words that the API has checked. It gets the template's mark, because
 * templates make tokens from it: '<|' + role + '|>'. */
static void adapt_role(const struct message_strings *m, struct jinja_string *s)
{
    static const char *const roles[] = {"system",    "developer", "user",
                                        "assistant", "tool",      "function"};
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++) {
        if (s->length != strlen(roles[i]) || memcmp(s->text, roles[i], s->length) != 0)
            continue;
        const char *role = roles[i];
        if (i == 1 && !m->knows_developer)
            role = "system";
        if (i == 5)
            role = "tool";
        s->text = role;
        s->length = strlen(role);
        s->mark = JINJA_MARK_TEMPLATE;
        return;
    }
}

static void adapt_string(void *context, struct jinja_string *s)
{
    const struct message_strings *m = context;
    if (s->depth != 1 || !s->key || strcmp(s->variable, "messages") != 0)
        return;
    if (strcmp(s->key, "role") == 0) {
        adapt_role(m, s);
    } else if (s->object == m->last && strcmp(s->key, "content") == 0) {
        s->mark = MARK_CONTINUED;
        if (m->stand_in) {
            s->text = ".";
            s->length = 1;
        }
    }
}

/* ---- the message that is to be continued */

static bool is_blank(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (!strchr(" \t\r\n\v\f", text[i]) || !text[i])
            return false;
    return true;
}

static bool find_continued(const struct chat_render_input *in, struct message_strings *m,
                           struct error *e)
{
    size_t n = json_array_size(in->messages);
    const json_t *content = NULL;
    if (in->add_generation_prompt)
        return error_set(e, "invalid_value", "continue_final_message",
                         "continue_final_message and add_generation_prompt cannot both be true");
    if (n > 0) {
        m->last = json_array_get(in->messages, n - 1);
        content = json_object_get(m->last, "content");
    }
    if (!json_is_string(content))
        return error_set(e, "template_error", "continue_final_message",
                         "the last message has no text that could be continued");
    m->stand_in = is_blank(json_string_value(content), json_string_length(content));
    return true;
}

/* Cuts the text after the last byte that came from the last message's content. */
static bool cut_continued(const struct message_strings *m, struct jinja_output *out,
                          struct error *e)
{
    size_t end = out->length;
    while (end > 0 && out->marks[end - 1] != MARK_CONTINUED)
        end--;
    if (end == 0)
        return error_set(e, "template_error", "continue_final_message",
                         "the chat template leaves the last message's content out, so it cannot "
                         "be continued");
    out->length = end - m->stand_in;
    out->text[out->length] = 0;
    for (size_t i = 0; i < out->length; i++)
        if (out->marks[i] == MARK_CONTINUED)
            out->marks[i] = JINJA_MARK_USER;
    return true;
}

/* The template's name and line before what it says. */
static bool fail_named(const struct chat_template *t, struct error *e)
{
    if (!e || strcmp(e->code, "template_error") != 0)
        return false;
    struct error why = *e;
    return error_set(e, why.code, why.where, "%s%s%s: %s", t->name, why.where[0] ? ", " : "",
                     why.where, why.message);
}

static bool render(const struct chat_template *t, const struct chat_render_input *in,
                   struct chat_text *out, struct error *e)
{
    struct message_strings strings = {.knows_developer = t->knows_developer};
    struct jinja_output rendered = {0};
    json_t *yes = json_true(), *no = json_false(); /* jansson's constants, not counted */
    const struct jinja_variable variables[] = {
        {"messages", in->messages, NULL},
        {"tools", in->tools, NULL},
        {"documents", NULL, NULL},
        {"add_generation_prompt", in->add_generation_prompt ? yes : no, NULL},
        {"bos_token", NULL, in->bos_token ? in->bos_token : ""},
        {"eos_token", NULL, in->eos_token ? in->eos_token : ""},
    };
    const struct jinja_input input = {
        .variables = variables,
        .n_variables = sizeof variables / sizeof variables[0],
        .more = in->kwargs,
        .string_hook = adapt_string,
        .hook_context = &strings,
        .now_unix = in->now_unix,
    };
    *out = (struct chat_text){0};
    if (in->continue_final_message && !find_continued(in, &strings, e))
        return false;
    if (!jinja_render(t->program, &input, &rendered, e))
        return fail_named(t, e);
    if (in->continue_final_message && !cut_continued(&strings, &rendered, e)) {
        free(rendered.text);
        free(rendered.marks);
        return false;
    }
    *out = (struct chat_text){rendered.text, rendered.marks, rendered.length};
    return true;
}

bool chat_render(const struct chat_template *t, const struct chat_render_input *in,
                 struct chat_text *out, struct error *e)
{
    if (!t->wants_short_ids)
        return render(t, in, out, e);
    *out = (struct chat_text){0};
    struct chat_render_input changed = *in;
    json_t *messages = chat_tool_ids_shorten(in->messages, e);
    if (!messages)
        return false;
    changed.messages = messages;
    bool ok = render(t, &changed, out, e);
    json_decref(messages);
    return ok;
}

/* ---- whether a template can carry a chat at all */

/* Whether the template has written `text` as a user's. */
static bool shows(const struct chat_text *out, const char *text)
{
    size_t n = strlen(text);
    for (size_t at = 0; at + n <= out->length; at++)
        if (!memcmp(out->text + at, text, n) && out->marks[at] == JINJA_MARK_USER)
            return true;
    return false;
}

bool chat_template_check(const struct chat_template *t, struct error *e)
{
    static const char probe[] = "4711"; /* no filter changes its letters */
    if (is_blank(t->source, strlen(t->source)))
        return error_set(e, "template_error", "", "%s is empty", t->name);
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", probe);
    if (!messages)
        return error_set_memory(e, "a chat template's check", sizeof probe);
    struct chat_text out = {0};
    struct error why = {0};
    const struct chat_render_input in = {.messages = messages,
                                         .add_generation_prompt = true,
                                         .bos_token = "<s>",
                                         .eos_token = "</s>"};
    bool ok = chat_render(t, &in, &out, &why), silent = ok && !shows(&out, probe);
    json_decref(messages);
    chat_text_free(&out);
    if (silent)
        return error_set(e, "template_error", "", "%s leaves out what the user says", t->name);
    if (ok || !strcmp(why.code, "template_error")) /* it may want more than a user's turn */
        return true;
    if (e)
        *e = why;
    return false;
}
