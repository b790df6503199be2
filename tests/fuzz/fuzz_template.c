/* Chat templates and the variables they see, both hostile: compiling and rendering must end, within
 * the limits, with text or an error. Input: the template, a NUL, and JSON of {messages?, tools?,
 * ...}; without a NUL a fixed chat. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static json_t *chat_of(const char *text, size_t length)
{
    json_t *chat = text ? json_loadb(text, length, 0, NULL) : NULL;
    if (!json_is_object(chat)) {
        json_decref(chat);
        chat =
            json_loads("{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\","
                       "\"content\":\" h\\u00e9 <|x|>\\n\"},{\"role\":\"assistant\",\"content\":"
                       "\"<think>a</think>b\",\"tool_calls\":[{\"function\":{\"name\":\"f\","
                       "\"arguments\":{\"a\":1}}}]},{\"role\":\"user\",\"content\":\"go\"}],"
                       "\"tools\":[{\"function\":{\"name\":\"f\",\"parameters\":{}}}],\"n\":42,"
                       "\"f\":1.5,\"l\":[3,1,2],\"d\":{\"a\":1,\"b\":[null,true]}}",
                       0, NULL);
    }
    return chat;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *source = (const char *)data;
    const char *end = size ? memchr(source, 0, size) : NULL;
    size_t length = end ? (size_t)(end - source) : size;
    struct error e = {0};
    struct chat_template *t = chat_template_new(size ? source : "", length, &e);
    if (!t) {
        if (!e.code[0] || !e.message[0])
            abort();
        return 0;
    }
    json_t *chat = chat_of(end ? end + 1 : NULL, size - length - (end ? 1 : 0));
    for (int continued = 0; chat && continued < 2; continued++) {
        struct chat_text out;
        struct chat_render_input in = {.messages = json_object_get(chat, "messages"),
                                       .tools = json_object_get(chat, "tools"),
                                       .kwargs = chat,
                                       .add_generation_prompt = !continued,
                                       .continue_final_message = continued,
                                       .bos_token = "<s>",
                                       .eos_token = "</s>"};
        memset(&e, 0, sizeof e);
        if (chat_render(t, &in, &out, &e)) {
            for (size_t i = 0; i < out.length; i++)
                if (out.marks[i] > 1)
                    abort();
            if (out.text[out.length] != 0)
                abort();
            chat_text_free(&out);
        } else if (!e.code[0]) {
            abort();
        }
    }
    json_decref(chat);
    chat_template_free(t);
    return 0;
}
