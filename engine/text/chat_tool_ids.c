/* See chat_tool_ids.h. */
#include "engine/text/chat_tool_ids.h"

#include <stdio.h>
#include <string.h>

#include "config/base/hash.h"

enum { ID_LENGTH = 9 };

bool chat_tool_ids_wanted(const char *source, size_t length)
{
    static const char *const signs[] = {"length != 9", "length == 9", "length!=9", "length==9"};
    if (!memmem(source, length, "tool_call", 9))
        return false;
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (memmem(source, length, signs[i], strlen(signs[i])))
            return true;
    return false;
}

static bool fits(const json_t *id)
{
    static const char allowed[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    const char *text = json_string_value(id);
    return text && json_string_length(id) == ID_LENGTH && strspn(text, allowed) == ID_LENGTH;
}

/* 36^9 short ids: that two of a chat meet is as good as impossible. */
static json_t *short_id(const char *bytes, size_t length)
{
    char text[ID_LENGTH + 1];
    uint64_t hash = fnv_add(FNV_START, bytes, length);
    for (int i = 0; i < ID_LENGTH; i++, hash /= 36)
        text[i] = "0123456789abcdefghijklmnopqrstuvwxyz"[hash % 36];
    text[ID_LENGTH] = 0;
    return json_string(text);
}

/* Replaces object[key] where it does not fit; `place` stands for an absent id, or is NULL. */
static bool shorten(json_t *object, const char *key, const char *place)
{
    const json_t *id = json_object_get(object, key);
    if (fits(id) || (!json_is_string(id) && !place))
        return true;
    json_t *new = json_is_string(id) ? short_id(json_string_value(id), json_string_length(id))
                                     : short_id(place, strlen(place));
    return new &&json_object_set_new(object, key, new) == 0;
}

static bool shorten_message(json_t *message, size_t index)
{
    json_t *call;
    size_t k;
    json_array_foreach(json_object_get(message, "tool_calls"), k, call)
    {
        char place[64];
        snprintf(place, sizeof place, "%zu.%zu", index, k);
        if (json_is_object(call) && !shorten(call, "id", place))
            return false;
    }
    return shorten(message, "tool_call_id", NULL);
}

json_t *chat_tool_ids_shorten(const json_t *messages, struct error *e)
{
    json_t *out = json_array(), *message;
    size_t i;
    bool ok = out != NULL;
    json_array_foreach((json_t *)messages, i, message)
    {
        bool has_ids =
            json_object_get(message, "tool_calls") || json_object_get(message, "tool_call_id");
        json_t *copy = has_ids ? json_deep_copy(message) : json_incref(message);
        ok = ok && copy && (!has_ids || shorten_message(copy, i)) &&
             json_array_append(out, copy) == 0;
        json_decref(copy);
    }
    if (ok)
        return out;
    json_decref(out);
    error_set_memory(e, "tool calls", 0);
    return NULL;
}
