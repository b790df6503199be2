/* The chat of a body: see chat_parse in request.h. Checks the messages and gives them the shape that
 * templates expect. Pure. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/request.h"

enum { MAX_ARGUMENTS = 1 << 20 }; /* longer arguments of a call stay text */

static bool is_one_of(const char *text, const char *const *list)
{
    for (; *list; list++)
        if (!strcmp(text, *list))
            return true;
    return false;
}

/* Appends one part of a content array to `text`. */
static bool add_part(const json_t *part, const char *role, const char *where, char **text,
                     size_t *length, struct error *e)
{
    char path[160], shown[80];
    const json_t *type = json_object_get(part, "type");
    if (!json_is_object(part))
        return error_set(e, "invalid_type", where, "%s must be an object", where);
    snprintf(path, sizeof path, "%s.type", where);
    if (!json_is_string(type))
        return error_set(e, type ? "invalid_type" : "missing_required_parameter", path,
                         "%s must be a string", path);
    const char *name = json_string_value(type);
    bool refusal = !strcmp(name, "refusal") && !strcmp(role, "assistant");
    if (strcmp(name, "text") && !refusal)
        return error_set(e, "unsupported_value", path, "%s is '%s'; this model takes text only",
                         path, error_excerpt(shown, name, strlen(name)));
    snprintf(path, sizeof path, "%s.%s", where, name);
    const json_t *value = json_object_get(part, name);
    if (!json_is_string(value))
        return error_set(e, value ? "invalid_type" : "missing_required_parameter", path,
                         "%s must be a string", path);
    size_t n = json_string_length(value);
    char *grown = realloc(*text, *length + n + 1);
    if (!grown)
        return error_set_memory(e, "a message", *length + n);
    memcpy(grown + *length, json_string_value(value), n);
    *text = grown;
    *length += n;
    return true;
}

static bool has_calls(const json_t *message)
{
    return json_array_size(json_object_get(message, "tool_calls")) > 0 ||
           json_is_object(json_object_get(message, "function_call"));
}

/* The content as one string. With calls it may be absent: templates that add it to other text get an
 * empty one. New reference. */
static json_t *join_content(const json_t *message, const char *role, const char *where,
                            struct error *e)
{
    char path[96];
    const json_t *content = json_object_get(message, "content");
    snprintf(path, sizeof path, "%s.content", where);
    if (json_is_string(content))
        return json_incref((json_t *)(uintptr_t)content);
    if (!content || json_is_null(content)) {
        if (!strcmp(role, "assistant") && has_calls(message)) {
            json_t *none = json_string("");
            if (!none)
                error_set_memory(e, "a message", 0);
            return none;
        }
        error_set(e, content ? "invalid_type" : "missing_required_parameter", path,
                  "%s must be a string or an array of parts", path);
        return NULL;
    }
    if (!json_is_array(content)) {
        error_set(e, "invalid_type", path, "%s must be a string or an array of parts", path);
        return NULL;
    }
    char *text = NULL;
    size_t length = 0, i;
    json_t *part;
    json_array_foreach((json_t *)(uintptr_t)content, i, part)
    {
        char at[128];
        snprintf(at, sizeof at, "%s[%zu]", path, i);
        if (!add_part(part, role, at, &text, &length, e)) {
            free(text);
            return NULL;
        }
    }
    json_t *joined = json_stringn(text ? text : "", length);
    free(text);
    if (!joined)
        error_set_memory(e, "a message", length);
    return joined;
}

/* A copy of the calls with their arguments as objects: clients send text, templates expect objects.
 * Arguments that are not JSON stay text. New reference. */
static json_t *open_tool_calls(const json_t *calls, const char *where, struct error *e)
{
    char path[96];
    snprintf(path, sizeof path, "%s.tool_calls", where);
    if (!json_is_array(calls)) {
        error_set(e, "invalid_type", path, "%s must be an array", path);
        return NULL;
    }
    json_t *copy = json_deep_copy(calls), *call;
    size_t i;
    json_array_foreach(copy, i, call)
    {
        json_t *function = json_object_get(call, "function"),
               *arguments = json_object_get(function, "arguments");
        if (!json_is_object(function) || !json_is_string(json_object_get(function, "name"))) {
            error_set(e, "invalid_value", path, "%s[%zu].function must be an object with a name",
                      path, i);
            json_decref(copy);
            return NULL;
        }
        if (!json_is_string(arguments) || json_string_length(arguments) >= MAX_ARGUMENTS)
            continue;
        struct error wrong;
        json_t *value =
            body_parse(json_string_value(arguments), json_string_length(arguments), &wrong);
        if (value ? json_object_set_new(function, "arguments", value) != 0
                  : !strcmp(wrong.code, "out_of_memory")) {
            json_decref(copy);
            error_set_memory(e, "tool calls", json_string_length(arguments));
            return NULL;
        }
    }
    if (!copy)
        error_set_memory(e, "tool calls", 0);
    return copy;
}

static bool copy_texts(const json_t *message, json_t *out, const char *where, struct error *e)
{
    static const char *const names[] = {"name", "tool_call_id", "reasoning_content", "reasoning",
                                        NULL};
    char path[96];
    for (int i = 0; names[i]; i++) {
        json_t *value = json_object_get(message, names[i]);
        snprintf(path, sizeof path, "%s.%s", where, names[i]);
        if (!value || json_is_null(value))
            continue;
        if (!json_is_string(value))
            return error_set(e, "invalid_type", path, "%s must be a string", path);
        if (json_object_set(out, names[i], value))
            return error_set_memory(e, "a message", 0);
    }
    return true;
}

/* The legacy function_call as a list of one call; its result, a message of the role function, follows
 * it and gets the same id. New reference. */
static json_t *wrap_function_call(const json_t *call, const char *id, struct error *e)
{
    json_t *calls = json_pack("[{s:s, s:s, s:O}]", "id", id, "type", "function", "function", call);
    if (!calls)
        error_set_memory(e, "tool calls", 0);
    return calls;
}

static bool add_calls(const json_t *message, const char *role, size_t index, json_t *out,
                      const char *where, struct error *e)
{
    json_t *calls = json_object_get(message, "tool_calls"),
           *legacy = json_object_get(message, "function_call"), *opened = NULL;
    char id[16];
    if (calls && !json_is_null(calls)) {
        opened = open_tool_calls(calls, where, e);
    } else if (json_is_object(legacy) && !strcmp(role, "assistant")) {
        snprintf(id, sizeof id, "call%05zu", index % 100000); /* nine letters and digits */
        json_t *wrapped = wrap_function_call(legacy, id, e);
        opened = wrapped ? open_tool_calls(wrapped, where, e) : NULL;
        json_decref(wrapped);
    } else {
        return true;
    }
    if (!opened)
        return false;
    return json_object_set_new(out, "tool_calls", opened) == 0 ||
           error_set_memory(e, "tool calls", 0);
}

/* The result of a legacy call is the message after it. */
static bool add_legacy_id(const json_t *messages, size_t index, json_t *out, struct error *e)
{
    char id[16];
    const json_t *before = index > 0 ? json_array_get(messages, index - 1) : NULL;
    const char *role = json_string_value(json_object_get(json_array_get(messages, index), "role"));
    if (!role || strcmp(role, "function") || json_object_get(out, "tool_call_id") ||
        !json_is_object(json_object_get(before, "function_call")))
        return true;
    snprintf(id, sizeof id, "call%05zu", (index - 1) % 100000);
    return json_object_set_new(out, "tool_call_id", json_string(id)) == 0 ||
           error_set_memory(e, "a message", 0);
}

static json_t *parse_message(const json_t *message, size_t index, struct error *e)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant",
                                        "tool",   "function",  NULL};
    char where[48], path[64], shown[80];
    snprintf(where, sizeof where, "messages[%zu]", index);
    snprintf(path, sizeof path, "%s.role", where);
    if (!json_is_object(message)) {
        error_set(e, "invalid_type", where, "%s must be an object", where);
        return NULL;
    }
    const json_t *role = json_object_get(message, "role");
    if (!json_is_string(role)) {
        error_set(e, role ? "invalid_type" : "missing_required_parameter", path,
                  "%s must be a string", path);
        return NULL;
    }
    const char *name = json_string_value(role);
    if (!is_one_of(name, roles)) {
        error_set(e, "invalid_value", path,
                  "%s is '%s'; it must be system, developer, user, assistant, tool or function",
                  path, error_excerpt(shown, name, strlen(name)));
        return NULL;
    }
    json_t *content = join_content(message, name, where, e), *out = NULL;
    if (!content)
        return NULL;
    out = json_pack("{s:s, s:o}", "role", strcmp(name, "function") ? name : "tool", "content",
                    content);
    if (!out) {
        error_set_memory(e, "a message", 0);
        return NULL;
    }
    if (copy_texts(message, out, where, e) && add_calls(message, name, index, out, where, e))
        return out;
    json_decref(out);
    return NULL;
}

static json_t *messages_parse(const json_t *messages, struct error *e)
{
    size_t i;
    json_t *message;
    if (!messages || json_is_null(messages)) {
        error_set(e, "missing_required_parameter", "messages", "messages is missing");
        return NULL;
    }
    if (!json_is_array(messages)) {
        error_set(e, "invalid_type", "messages", "messages must be an array");
        return NULL;
    }
    if (json_array_size(messages) == 0) {
        error_set(e, "invalid_value", "messages",
                  "messages is empty; it must have at least one message");
        return NULL;
    }
    json_t *out = json_array();
    json_array_foreach((json_t *)(uintptr_t)messages, i, message)
    {
        json_t *parsed = parse_message(message, i, e);
        if (parsed && !add_legacy_id(messages, i, parsed, e)) {
            json_decref(parsed);
            parsed = NULL;
        }
        if (!parsed || json_array_append_new(out, parsed)) {
            if (parsed)
                error_set_memory(e, "messages", 0);
            json_decref(out);
            return NULL;
        }
    }
    return out;
}

static json_t *field(const json_t *body, const char *name)
{
    json_t *value = json_object_get(body, name);
    return json_is_null(value) ? NULL : value;
}

static bool flag(const json_t *body, const char *name, bool otherwise)
{
    const json_t *value = field(body, name);
    return value ? json_is_true(value) : otherwise;
}

/* chat_template_kwargs, and the fields that are template variables too. New reference. */
static json_t *template_variables(const json_t *body)
{
    static const char *const passed[] = {"reasoning_effort", "verbosity"};
    json_t *given = field(body, "chat_template_kwargs");
    json_t *all = given ? json_copy(given) : json_object();
    /* When memory is short, jansson copies only a part and does not report it. */
    bool whole = json_object_size(all) == json_object_size(given);
    for (size_t i = 0; whole && i < sizeof passed / sizeof *passed; i++)
        if (field(body, passed[i]))
            whole = json_object_set(all, passed[i], field(body, passed[i])) == 0;
    if (whole)
        return all;
    json_decref(all);
    return NULL;
}

bool chat_parse(const json_t *body, struct chat_request *out, struct error *e)
{
    bool go_on = flag(body, "continue_final_message", false);
    *out =
        (struct chat_request){.continue_final_message = go_on,
                              .add_generation_prompt = flag(body, "add_generation_prompt", !go_on),
                              .without_bos = !flag(body, "add_special_tokens", true)};
    out->messages = messages_parse(field(body, "messages"), e);
    if (!out->messages)
        return false;
    if (go_on && out->add_generation_prompt) {
        error_set(e, "invalid_value", "continue_final_message",
                  "add_generation_prompt and continue_final_message cannot both be true");
        goto fail;
    }
    out->kwargs = template_variables(body);
    if (out->kwargs)
        return true;
    error_set_memory(e, "chat_template_kwargs", 0);
fail:
    chat_request_clear(out);
    return false;
}
