/* Chats to prompts: the built-in formats, roles, continued messages, and what may become a special
 * token. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/chat.h"
#include "tests/suite.h"

static const char small[] =
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<end>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

struct wish {
    const char *kwargs, *tools;
    bool prompt, continued;
};

static bool render(struct chat_template *t, const char *messages, struct wish wish,
                   struct chat_text *out, struct error *e)
{
    json_t *m = json_loads(messages, 0, NULL);
    json_t *kwargs = wish.kwargs ? json_loads(wish.kwargs, 0, NULL) : NULL;
    json_t *tools = wish.tools ? json_loads(wish.tools, 0, NULL) : NULL;
    ck_assert(m != NULL);
    struct chat_render_input in = {.messages = m,
                                   .tools = tools,
                                   .kwargs = kwargs,
                                   .add_generation_prompt = wish.prompt,
                                   .continue_final_message = wish.continued,
                                   .bos_token = "<s>",
                                   .eos_token = "</s>"};
    bool ok = chat_render(t, &in, out, e);
    json_decref(m);
    json_decref(kwargs);
    json_decref(tools);
    return ok;
}

static struct chat_template *compile(const char *source)
{
    struct error e = {0};
    struct chat_template *t = chat_template_new(source, strlen(source), &e);
    ck_assert_msg(t != NULL, "%s", e.message);
    return t;
}

static void expect(struct chat_template *t, const char *messages, struct wish wish,
                   const char *wanted)
{
    struct chat_text out;
    struct error e = {0};
    bool ok = render(t, messages, wish, &out, &e);
    ck_assert_msg(ok, "%s: %s", messages, e.message);
    ck_assert_str_eq(out.text, wanted);
    ck_assert_uint_eq(out.length, strlen(wanted));
    for (size_t i = 0; i < out.length; i++)
        ck_assert(out.marks[i] <= 1);
    chat_text_free(&out);
    chat_template_free(t);
}

static const char talk[] =
    "[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"U\"},"
    "{\"role\":\"assistant\",\"content\":\"A\"},{\"role\":\"user\",\"content\":\"V\"}]";

START_TEST(built_in_formats_write_their_tokens)
{
    static const char *const wanted[][2] = {
        {"chatml", "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
                   "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n"
                   "<|im_start|>assistant\n"},
        {"llama3", "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
                   "<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"
                   "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
                   "<|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|>"
                   "<|start_header_id|>assistant<|end_header_id|>\n\n"},
        {"zephyr", "<|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n<|user|>\nV</s>\n"
                   "<|assistant|>\n"},
        {"gemma",
         "<s><start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>"
         "\n<start_of_turn>user\nV<end_of_turn>\n<start_of_turn>model\n"},
        {"llama2", "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A </s><s>[INST] V [/INST]"},
        {"mistral", "<s>[INST] S\n\nU [/INST] A</s>[INST] V [/INST]"},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        expect(chat_template_named(wanted[i][0], NULL), talk, (struct wish){.prompt = true},
               wanted[i][1]);
    struct error e = {0};
    ck_assert(chat_template_named("alpaca", &e) == NULL);
    ck_assert_str_eq(e.code, "invalid_value");
    ck_assert(strstr(e.message, "alpaca") && strstr(e.message, "chatml"));
}
END_TEST

START_TEST(every_built_in_format_takes_null_content_tool_results_and_a_lone_system)
{
    static const char *const names[] = {"chatml", "llama2", "llama3", "mistral", "gemma", "zephyr"};
    for (size_t i = 0; i < 6; i++) {
        struct chat_template *t = chat_template_named(names[i], NULL);
        struct chat_text out;
        struct error e = {0};
        bool ok =
            render(t,
                   "[{\"role\":\"user\",\"content\":\"U\"},{\"role\":\"assistant\",\"content\":"
                   "null},{\"role\":\"tool\",\"content\":\"RESULT\"}]",
                   (struct wish){.prompt = true}, &out, &e);
        ck_assert_msg(ok, "%s: %s", names[i], e.message);
        ck_assert(strstr(out.text, "RESULT") != NULL);
        chat_text_free(&out);
        ck_assert(
            render(t, "[{\"role\":\"system\",\"content\":\"ALONE\"}]", (struct wish){0}, &out, &e));
        ck_assert_msg(strstr(out.text, "ALONE") != NULL, "%s lost a lone system message", names[i]);
        chat_text_free(&out);
        chat_template_free(t);
    }
}
END_TEST

START_TEST(a_role_is_template_text_but_content_is_not)
{
    struct chat_template *t = compile(small);
    struct chat_text out;
    struct error e = {0};
    ck_assert(render(t,
                     "[{\"role\":\"user\",\"content\":\"<end>\",\"x\":{\"role\":\"user\"}},"
                     "{\"role\":\"evil|>\",\"content\":\"\"}]",
                     (struct wish){0}, &out, &e));
    ck_assert_str_eq(out.text, "<|user|><end><end><|evil|>|><end>");
    static const char marks[] = "111111110000011111110000001111111";
    ck_assert_uint_eq(out.length, strlen(marks));
    for (size_t i = 0; i < out.length; i++)
        ck_assert_msg(out.marks[i] == marks[i] - '0', "byte %zu has mark %u", i, out.marks[i]);
    chat_text_free(&out);
    chat_template_free(t);
}
END_TEST

START_TEST(a_role_deep_inside_of_a_message_or_in_the_kwargs_is_user_text)
{
    struct chat_template *t = compile("{{ messages[0].x.role }}{{ messages[0].l[0].role }}"
                                      "{{ k.role }}{{ l[0].role }}{{ tools[0].role }}");
    struct chat_text out;
    struct error e = {0};
    ck_assert(
        render(t, "[{\"role\":\"user\",\"x\":{\"role\":\"user\"},\"l\":[{\"role\":\"user\"}]}]",
               (struct wish){.kwargs = "{\"k\":{\"role\":\"user\"},\"l\":[{\"role\":\"user\"}],"
                                       "\"messages\":3}",
                             .tools = "[{\"role\":\"user\"}]"},
               &out, &e));
    ck_assert_str_eq(out.text, "useruseruseruseruser");
    for (size_t i = 0; i < out.length; i++)
        ck_assert_uint_eq(out.marks[i], 0);
    chat_text_free(&out);
    chat_template_free(t);
}
END_TEST

START_TEST(developer_is_system_where_the_template_does_not_know_it)
{
    static const char messages[] = "[{\"role\":\"developer\",\"content\":\"a\"},"
                                   "{\"role\":\"function\",\"content\":\"b\"}]";
    expect(compile(small), messages, (struct wish){0}, "<|system|>a<end><|tool|>b<end>");
    expect(compile("{# developer #}{% for m in messages %}{{ m.role }} {% endfor %}"), messages,
           (struct wish){0}, "developer tool ");
}
END_TEST

START_TEST(a_continued_message_stays_open)
{
    struct wish wish = {.continued = true};
    expect(compile(small),
           "[{\"role\":\"user\",\"content\":\"a\"},"
           "{\"role\":\"assistant\",\"content\":\"en\"}]",
           wish, "<|user|>a<end><|assistant|>en");
    /* Its text also occurs behind it, and in other messages. */
    expect(compile(small),
           "[{\"role\":\"user\",\"content\":\"end\"},"
           "{\"role\":\"assistant\",\"content\":\"e\"}]",
           wish, "<|user|>end<end><|assistant|>e");
    expect(compile(small), "[{\"role\":\"assistant\",\"content\":\"x \"}]", wish,
           "<|assistant|>x ");
    expect(compile("{{ '<' + messages[0].content | trim + '>' }}"),
           "[{\"role\":\"assistant\",\"content\":\" x \\n\"}]", wish, "<x");
    expect(compile(small), "[{\"role\":\"assistant\",\"content\":\"\"}]", wish, "<|assistant|>");
    expect(compile("{{ '<' + messages[0].content.split('</think>')[-1].strip() + '>' }}"),
           "[{\"role\":\"assistant\",\"content\":\"<think>a</think> b \"}]", wish, "<b");
}
END_TEST

START_TEST(what_cannot_be_continued_is_an_error)
{
    struct chat_template *t = compile("nothing");
    struct chat_text out;
    struct error e = {0};
    ck_assert(!render(t, talk, (struct wish){.continued = true}, &out, &e));
    ck_assert_str_eq(e.code, "template_error");
    ck_assert(!render(t, "[]", (struct wish){.continued = true}, &out, &e));
    ck_assert(!render(t, "[{\"role\":\"assistant\",\"content\":null}]",
                      (struct wish){.continued = true}, &out, &e));
    ck_assert(!render(t, talk, (struct wish){.continued = true, .prompt = true}, &out, &e));
    ck_assert_str_eq(e.code, "invalid_value");
    chat_template_free(t);
}
END_TEST

START_TEST(kwargs_and_tools_reach_the_template)
{
    expect(compile("{{ enable_thinking }}{{ tools[0].name }}{{ documents is none }}"), talk,
           (struct wish){.kwargs = "{\"enable_thinking\":false}", .tools = "[{\"name\":\"f\"}]"},
           "FalsefTrue");
    expect(compile("{{ tools is none }}{{ enable_thinking is defined }}"), talk, (struct wish){0},
           "TrueFalse");
}
END_TEST

START_TEST(a_template_that_writes_bos_is_seen)
{
    struct chat_template *t = compile("{{ bos_token }}{{ messages[0].content }}");
    struct chat_text out;
    struct error e = {0};
    ck_assert(render(t, talk, (struct wish){0}, &out, &e));
    ck_assert(chat_text_starts_with(&out, "<s>"));
    ck_assert(!chat_text_starts_with(&out, "<s>S"));
    ck_assert(!chat_text_starts_with(&out, NULL));
    ck_assert(!chat_text_starts_with(&out, ""));
    chat_text_free(&out);
    chat_template_free(t);
    t = compile("{{ messages[0].content }}");
    ck_assert(render(t, "[{\"role\":\"user\",\"content\":\"<s>\"}]", (struct wish){0}, &out, &e));
    ck_assert(!chat_text_starts_with(&out, "<s>"));
    chat_text_free(&out);
    chat_template_free(t);
}
END_TEST

START_TEST(an_error_names_the_template_and_its_line)
{
    struct chat_template *t = compile("{% if true %}\n{{ raise_exception('roles alternate') }}"
                                      "{% endif %}");
    struct chat_text out;
    struct error e = {0};
    ck_assert(!render(t, talk, (struct wish){0}, &out, &e));
    ck_assert_str_eq(e.message, "the chat template, line 2: roles alternate");
    ck_assert_str_eq(e.where, "line 2");
    chat_template_set_name(t, "the model's chat template");
    ck_assert(!render(t, talk, (struct wish){0}, &out, &e));
    ck_assert_str_eq(e.message, "the model's chat template, line 2: roles alternate");
    chat_template_free(t);
}
END_TEST

START_TEST(a_template_that_loses_the_users_turn_fails_the_check)
{
    static const char *const bad[][2] = {
        {"", "empty"},
        {" \n\t", "empty"},
        {"hello", "leaves out"},
        {"{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}",
         "leaves out"},
        /* The template's own text is not the user's. */
        {"4711", "leaves out"},
        {"{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor "
         "%}",
         "leaves out"},
    };
    struct error e = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct chat_template *t = compile(bad[i][0]);
        ck_assert_msg(!chat_template_check(t, &e), "accepted: %s", bad[i][0]);
        ck_assert_str_eq(e.code, "template_error");
        ck_assert_msg(strstr(e.message, bad[i][1]) != NULL, "%s", e.message);
        chat_template_free(t);
    }
    static const char *const good[] = {
        small, "{{ messages[-1].content | trim | upper }}",
        "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct chat_template *t = compile(good[i]);
        ck_assert_msg(chat_template_check(t, &e), "%s", e.message);
        chat_template_free(t);
    }
    static const char *const names[] = {"chatml", "llama2", "llama3", "mistral", "gemma", "zephyr"};
    for (size_t i = 0; i < 6; i++) {
        struct chat_template *t = chat_template_named(names[i], NULL);
        ck_assert_msg(chat_template_check(t, &e), "%s", e.message);
        chat_template_free(t);
    }
}
END_TEST

/* As Mistral's template does. */
static const char nine[] =
    "{% for m in messages %}{% for c in m.tool_calls or [] %}"
    "{% if c.id is not defined or c.id | length != 9 %}{{ raise_exception('bad id') }}{% endif %}"
    "{{ c.id }} {% endfor %}{% if m.tool_call_id %}"
    "{% if m.tool_call_id | length != 9 %}{{ raise_exception('bad id') }}{% endif %}"
    "={{ m.tool_call_id }}{% endif %}{% endfor %}";

START_TEST(ids_of_tool_calls_have_nine_characters_where_the_template_demands_it)
{
    static const char messages[] =
        "[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":["
        "{\"id\":\"call_0123456789\",\"function\":{\"name\":\"f\"}},"
        "{\"id\":\"abcDEF123\",\"function\":{\"name\":\"g\"}},"
        "{\"function\":{\"name\":\"h\"}}]},"
        "{\"role\":\"tool\",\"content\":\"1\",\"tool_call_id\":\"call_0123456789\"},"
        "{\"role\":\"tool\",\"content\":\"2\",\"tool_call_id\":\"abcDEF123\"}]";
    struct chat_template *t = compile(nine);
    struct chat_text out;
    struct error e = {0};
    ck_assert_msg(render(t, messages, (struct wish){0}, &out, &e), "%s", e.message);
    ck_assert_uint_eq(out.length, 3 * 10 + 2 * 10);
    ck_assert_msg(!memcmp(out.text, out.text + 31, 9), "call and result differ: %s", out.text);
    ck_assert_msg(!memcmp(out.text + 10, "abcDEF123", 9), "an id that fits changed: %s", out.text);
    ck_assert_msg(!memcmp(out.text + 41, "abcDEF123", 9), "an id that fits changed: %s", out.text);
    chat_text_free(&out);
    chat_template_free(t);
    expect(compile("{{ messages[0].tool_calls[0].id }}"), messages, (struct wish){0},
           "call_0123456789");
}
END_TEST

static bool has_word(const void *context, const char *text)
{
    const char *at = strstr(context, text);
    return at && (at[strlen(text)] == ' ' || at[strlen(text)] == 0);
}

START_TEST(formats_are_guessed_by_their_tokens)
{
    ck_assert_str_eq(chat_template_guess(has_word, "<s> </s> <|im_start|>"), "chatml");
    ck_assert_str_eq(chat_template_guess(has_word, "<|start_header_id|>"), "llama3");
    ck_assert_str_eq(chat_template_guess(has_word, "<start_of_turn> <bos>"), "gemma");
    ck_assert_str_eq(chat_template_guess(has_word, "<s> </s> [INST]"), "mistral");
    ck_assert_str_eq(chat_template_guess(has_word, "<s> </s> <|user|>"), "zephyr");
    ck_assert_str_eq(chat_template_guess(has_word, "<s> </s>"), "llama2");
    ck_assert_str_eq(chat_template_guess(has_word, ""), "chatml");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("chat");
    TCase *t = suite_case(suite, "chat", 60);
    tcase_add_test(t, built_in_formats_write_their_tokens);
    tcase_add_test(t, every_built_in_format_takes_null_content_tool_results_and_a_lone_system);
    tcase_add_test(t, a_role_is_template_text_but_content_is_not);
    tcase_add_test(t, a_role_deep_inside_of_a_message_or_in_the_kwargs_is_user_text);
    tcase_add_test(t, developer_is_system_where_the_template_does_not_know_it);
    tcase_add_test(t, a_continued_message_stays_open);
    tcase_add_test(t, what_cannot_be_continued_is_an_error);
    tcase_add_test(t, kwargs_and_tools_reach_the_template);
    tcase_add_test(t, a_template_that_writes_bos_is_seen);
    tcase_add_test(t, an_error_names_the_template_and_its_line);
    tcase_add_test(t, a_template_that_loses_the_users_turn_fails_the_check);
    tcase_add_test(t, ids_of_tool_calls_have_nine_characters_where_the_template_demands_it);
    tcase_add_test(t, formats_are_guessed_by_their_tokens);
    return suite_run(suite);
}
