/* Bodies of requests: every row of the table of fields just inside and just outside, and what
 * fields mean together. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/field.h"
#include "server/api/request.h"
#include "tests/suite.h"

enum { N_VOCAB = 512 };

static struct api_request r;
static struct error e;

static bool parse(enum api_request_kind kind, const char *text)
{
    memset(&e, 0, sizeof e);
    return api_request_parse(&r, kind, text, strlen(text), N_VOCAB, &e);
}

static void takes(enum api_request_kind kind, const char *text)
{
    ck_assert_msg(parse(kind, text), "%s: %s %s", text, e.code, e.message);
    api_request_clear(&r);
}

static void refuses(enum api_request_kind kind, const char *text, const char *code,
                    const char *where)
{
    ck_assert_msg(!parse(kind, text), "%s was taken", text);
    ck_assert_msg(!strcmp(e.code, code) && !strcmp(e.where, where),
                  "%s: wanted %s at '%s', got %s at '%s': %s", text, code, where, e.code, e.where,
                  e.message);
    static const char *const overflow_words[] = {"exceeds the limit of", "token limit",
                                                 "too many tokens",      "context window",
                                                 "prompt length",        "maximum context length"};
    for (size_t i = 0; i < sizeof overflow_words / sizeof *overflow_words; i++)
        ck_assert_msg(!strstr(e.message, overflow_words[i]), "agents would compact on: %s",
                      e.message);
}

/* A whole body with one more field. */
static char *body_with(bool chat, const char *name, const json_t *value)
{
    json_t *body = chat ? json_pack("{s:[{s:s, s:s}]}", "messages", "role", "user", "content", "x")
                        : json_pack("{s:s}", "prompt", "x");
    if (!strcmp(name, "top_logprobs"))
        json_object_set_new(body, "logprobs", json_true());
    if (!strcmp(name, "stream_options"))
        json_object_set_new(body, "stream", json_true());
    if (!strcmp(name, "best_of")) /* must equal n */
        json_object_set(body, "n", (json_t *)(uintptr_t)value);
    if (!strcmp(name, "max_tokens")) /* 0 needs it */
        json_object_set_new(body, "echo", chat ? json_null() : json_true());
    json_object_set(body, name, (json_t *)(uintptr_t)value);
    char *text = json_dumps(body, 0);
    json_decref(body);
    return text;
}

static void expect(bool chat, const struct field_row *row, json_t *value, const char *code)
{
    char *text = body_with(chat, row->name, value);
    if (code)
        refuses(chat ? API_REQUEST_CHAT : API_REQUEST_COMPLETION, text, code, row->name);
    else
        takes(chat ? API_REQUEST_CHAT : API_REQUEST_COMPLETION, text);
    free(text);
    json_decref(value);
}

static void check_numbers(bool chat, const struct field_row *row)
{
    double step = row->type == FIELD_INTEGER ? 1 : 1e-6;
    bool whole = row->type == FIELD_INTEGER && fabs(row->min) < 1e15;
    double inside = row->min_open ? row->min + 0.5 : row->min;
    if (fabs(row->min) < 1e15) {
        expect(chat, row, whole ? json_integer((json_int_t)inside) : json_real(inside), NULL);
        expect(chat, row,
               whole ? json_integer((json_int_t)row->min - 1)
                     : json_real(row->min_open ? row->min : row->min - step),
               "invalid_value");
        expect(chat, row, json_integer(INT64_MIN), "invalid_value");
        expect(chat, row, json_real(-1e300), "invalid_value");
    }
    if (isfinite(row->max)) {
        /* min_tokens may not be above max_tokens, which is 16 for completions */
        if (strcmp(row->name, "min_tokens") || chat)
            expect(chat, row, json_real(row->max), NULL);
        expect(chat, row, json_real(row->max + (row->type == FIELD_INTEGER ? 1 : 1e-6)),
               "invalid_value");
        expect(chat, row, json_integer(INT64_MAX), "invalid_value");
        expect(chat, row, json_real(1e300), "invalid_value");
    }
    if (row->type == FIELD_INTEGER)
        expect(chat, row, json_real((fabs(row->min) < 1e15 ? row->min : 0) + 1.5), "invalid_type");
    expect(chat, row, json_string("1"), "invalid_type");
    expect(chat, row, json_true(), "invalid_type");
}

static json_t *repeated(size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer(1));
    return list;
}

static void check_row(bool chat, const struct field_row *row)
{
    switch (row->rule) {
    case FIELD_NEAR_MISS:
        expect(chat, row, json_string("sink"), "unknown_parameter");
        return;
    case FIELD_IGNORED:
        expect(chat, row, json_string("x"), NULL);
        expect(chat, row, json_object(), NULL);
        return;
    case FIELD_REFUSED:
        expect(chat, row, json_pack("[{s:s}]", "a", "b"), "unsupported_parameter");
        if (*row->off) {
            char first[64];
            snprintf(first, sizeof first, "%.*s", (int)strcspn(row->off, "|"), row->off);
            expect(chat, row, json_loads(first, JSON_DECODE_ANY, NULL), NULL);
        }
        return;
    default:
        break;
    }
    switch (row->type) {
    case FIELD_INTEGER:
    case FIELD_NUMBER:
        check_numbers(chat, row);
        return;
    case FIELD_BOOLEAN:
        expect(chat, row, json_integer(1), "invalid_type");
        return;
    case FIELD_STRING: {
        expect(chat, row, json_integer(1), "invalid_type");
        char *text = malloc((size_t)row->max + 2);
        memset(text, 'a', (size_t)row->max + 1);
        text[(size_t)row->max + 1] = 0;
        expect(chat, row, json_string(text), "invalid_value");
        text[(size_t)row->max] = 0;
        expect(chat, row, json_string(text), NULL);
        free(text);
        if (row->min > 0)
            expect(chat, row, json_string(""), "invalid_value");
        return;
    }
    case FIELD_ARRAY:
        expect(chat, row, json_object(), "invalid_type");
        if (isfinite(row->max))
            expect(chat, row, repeated((size_t)row->max + 1), "invalid_value");
        return;
    case FIELD_OBJECT:
        expect(chat, row, json_array(), "invalid_type");
        return;
    default:
        return;
    }
}

START_TEST(every_row_of_the_table_has_its_type_and_its_range)
{
    for (unsigned i = 0; i < n_field_rows; i++)
        for (int chat = 0; chat < 2; chat++) {
            const struct field_row *row = &field_rows[i];
            if (!(chat ? row->chat : row->completion))
                continue;
            check_row(chat, row);
            if (strcmp(row->name, "messages") && strcmp(row->name, "prompt"))
                expect(chat, row, json_null(), NULL);
        }
}
END_TEST

START_TEST(bodies_that_are_not_json_say_where)
{
    refuses(API_REQUEST_CHAT, "", "invalid_json", "");
    refuses(API_REQUEST_CHAT, "{\"messages\": [", "invalid_json", "");
    ck_assert_ptr_nonnull(strstr(e.message, "line 1"));
    refuses(API_REQUEST_CHAT, "[]", "invalid_json", "");
    refuses(API_REQUEST_CHAT, "{\"a\":\"\xff\"}", "invalid_json", "");
    char deep[200] = "{\"a\":";
    memset(deep + 5, '[', 64);
    memset(deep + 69, ']', 64);
    strcpy(deep + 133, "}");
    refuses(API_REQUEST_CHAT, deep, "invalid_json", "");
    takes(API_REQUEST_COMPLETION, "\xEF\xBB\xBF{\"prompt\":\"a\"}");
    takes(API_REQUEST_COMPLETION,
          "{\"prompt\":\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
          "[[[[[[[[[[[[[[[[[[[[\"}");
}
END_TEST

START_TEST(the_last_of_duplicate_keys_wins_and_nul_is_text)
{
    ck_assert(parse(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"prompt\":\"b\\u0000c\"}"));
    ck_assert_uint_eq(r.prompts[0].length, 3);
    ck_assert_mem_eq(r.prompts[0].text, "b\0c", 3);
    api_request_clear(&r);
}
END_TEST

#define CHAT_OF(content) "{\"messages\":[{\"role\":\"user\",\"content\":" content "}]}"

START_TEST(content_parts_are_joined_and_others_named)
{
    ck_assert(
        parse(API_REQUEST_CHAT,
              CHAT_OF("[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]")));
    ck_assert_str_eq(
        json_string_value(json_object_get(json_array_get(r.chat.messages, 0), "content")), "ab");
    api_request_clear(&r);
    refuses(API_REQUEST_CHAT, CHAT_OF("[{\"type\":\"image_url\",\"image_url\":{}}]"),
            "unsupported_value", "messages[0].content[0].type");
    refuses(API_REQUEST_CHAT, CHAT_OF("[{\"type\":\"text\"}]"), "missing_required_parameter",
            "messages[0].content[0].text");
    refuses(API_REQUEST_CHAT, CHAT_OF("5"), "invalid_type", "messages[0].content");
    refuses(API_REQUEST_CHAT, CHAT_OF("null"), "invalid_type", "messages[0].content");
    refuses(API_REQUEST_CHAT, "{\"messages\":[]}", "invalid_value", "messages");
    refuses(API_REQUEST_CHAT, "{}", "missing_required_parameter", "messages");
    refuses(API_REQUEST_CHAT, "{\"messages\":[{\"role\":\"king\",\"content\":\"x\"}]}",
            "invalid_value", "messages[0].role");
    refuses(API_REQUEST_CHAT, "{\"messages\":[{\"content\":\"x\"}]}", "missing_required_parameter",
            "messages[0].role");
}
END_TEST

START_TEST(arguments_of_calls_become_objects)
{
    ck_assert_msg(
        parse(
            API_REQUEST_CHAT,
            "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c\","
            "\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}}]}"
            ","
            "{\"role\":\"function\",\"name\":\"f\",\"content\":\"1\"}]}"),
        "%s", e.message);
    const json_t *call =
        json_array_get(json_object_get(json_array_get(r.chat.messages, 0), "tool_calls"), 0);
    ck_assert(json_is_object(json_object_get(json_object_get(call, "function"), "arguments")));
    ck_assert_str_eq(json_string_value(json_object_get(json_array_get(r.chat.messages, 1), "role")),
                     "tool");
    api_request_clear(&r);
}
END_TEST

START_TEST(a_legacy_call_is_a_call_and_its_content_an_empty_text)
{
    ck_assert_msg(
        parse(
            API_REQUEST_CHAT,
            "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\","
            "\"content\":null,\"function_call\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}},"
            "{\"role\":\"function\",\"name\":\"f\",\"content\":\"1\"}]}"),
        "%s", e.message);
    const json_t *assistant = json_array_get(r.chat.messages, 1),
                 *result = json_array_get(r.chat.messages, 2),
                 *call = json_array_get(json_object_get(assistant, "tool_calls"), 0);
    ck_assert_str_eq(json_string_value(json_object_get(assistant, "content")), "");
    const json_t *function = json_object_get(call, "function");
    ck_assert_str_eq(json_string_value(json_object_get(function, "name")), "f");
    ck_assert(json_is_object(json_object_get(function, "arguments")));
    const char *id = json_string_value(json_object_get(call, "id"));
    ck_assert_uint_eq(strlen(id), 9);
    ck_assert_str_eq(json_string_value(json_object_get(result, "tool_call_id")), id);
    ck_assert_str_eq(json_string_value(json_object_get(result, "role")), "tool");
    api_request_clear(&r);
    refuses(API_REQUEST_CHAT, "{\"messages\":[{\"role\":\"assistant\",\"content\":null}]}",
            "invalid_type", "messages[0].content");
    refuses(API_REQUEST_CHAT,
            "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"function_call\":{}}]}",
            "invalid_value", "messages[0].tool_calls");
}
END_TEST

START_TEST(add_special_tokens_is_read_for_texts_and_chats)
{
    ck_assert(parse(API_REQUEST_COMPLETION, "{\"prompt\":\"a\"}"));
    ck_assert(r.add_special_tokens);
    api_request_clear(&r);
    ck_assert(parse(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"add_special_tokens\":false}"));
    ck_assert(!r.add_special_tokens);
    api_request_clear(&r);
    ck_assert(parse(API_REQUEST_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
                                      "\"add_special_tokens\":false}"));
    ck_assert(r.chat.without_bos);
    api_request_clear(&r);
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"add_special_tokens\":1}", "invalid_type",
            "add_special_tokens");
}
END_TEST

START_TEST(prompts_come_in_four_shapes)
{
    takes(API_REQUEST_COMPLETION, "{\"prompt\":\"a\"}");
    takes(API_REQUEST_COMPLETION, "{\"prompt\":[\"a\",\"b\"]}");
    takes(API_REQUEST_COMPLETION, "{\"prompt\":[1,2.0,511]}");
    takes(API_REQUEST_COMPLETION, "{\"prompt\":[[1],[2,3]]}");
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":[1,512]}", "invalid_value", "prompt[1]");
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":[1,-1]}", "invalid_value", "prompt[1]");
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":[1,9223372036854775807]}", "invalid_value",
            "prompt[1]");
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":[1,1e300]}", "invalid_value", "prompt[1]");
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":[1,\"a\"]}", "invalid_type", "prompt[1]");
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":[[1],[]]}", "invalid_value", "prompt[1]");
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":[]}", "invalid_value", "prompt");
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":{}}", "invalid_type", "prompt");
    refuses(API_REQUEST_COMPLETION, "{}", "missing_required_parameter", "prompt");
}
END_TEST

START_TEST(stops_are_bounded_and_empty_ones_dropped)
{
    ck_assert(parse(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"stop\":[\"\",\"x\",\"\"]}"));
    ck_assert_uint_eq(r.n_stops, 1);
    api_request_clear(&r);
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"stop\":[\"x\",1]}", "invalid_type",
            "stop[1]");
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"stop\":1}", "invalid_type", "stop");
    refuses(API_REQUEST_COMPLETION,
            "{\"prompt\":\"a\",\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\","
            "\"a\",\"b\",\"c\",\"d\",\"e\","
            "\"f\",\"g\",\"h\"]}",
            "invalid_value", "stop");
    char text[400] = "{\"prompt\":\"a\",\"stop\":\"";
    memset(text + strlen(text), 'x', 257);
    strcat(text, "\"}");
    refuses(API_REQUEST_COMPLETION, text, "invalid_value", "stop");
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"stop_token_ids\":[512]}", "invalid_value",
            "stop_token_ids[0]");
}
END_TEST

START_TEST(bias_keys_are_tokens_of_the_vocabulary)
{
    takes(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"logit_bias\":{\"0\":-100,\"511\":100}}");
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"logit_bias\":{\"512\":1}}",
            "invalid_value", "logit_bias.512");
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"logit_bias\":{\"-1\":1}}", "invalid_value",
            "logit_bias.-1");
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"logit_bias\":{\"x\":1}}", "invalid_value",
            "logit_bias.x");
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"logit_bias\":{\"1\":100.5}}",
            "invalid_value", "logit_bias.1");
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"logit_bias\":{\"1\":\"1\"}}",
            "invalid_type", "logit_bias.1");
}
END_TEST

START_TEST(fields_that_contradict_each_other_are_refused)
{
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"max_tokens\":0}", "invalid_value",
            "max_tokens");
    takes(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"max_tokens\":0,\"echo\":true}");
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"max_tokens\":4,\"min_tokens\":5}",
            "invalid_value", "min_tokens");
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"best_of\":2}", "unsupported_value",
            "best_of");
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"stream_options\":{}}", "invalid_value",
            "stream_options");
    refuses(API_REQUEST_COMPLETION,
            "{\"prompt\":\"a\",\"stream\":true,\"stream_options\":{\"include_usage\":1}}",
            "invalid_type", "stream_options.include_usage");
    refuses(API_REQUEST_COMPLETION,
            "{\"prompt\":\"a\",\"response_format\":{\"type\":\"json_object\"}}",
            "unsupported_parameter", "response_format");
    refuses(API_REQUEST_CHAT,
            "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"top_logprobs\":2}",
            "invalid_value", "top_logprobs");
    refuses(API_REQUEST_CHAT,
            "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"add_generation_prompt\":true,"
            "\"continue_final_message\":true}",
            "invalid_value", "continue_final_message");
}
END_TEST

START_TEST(policies_are_checked_and_misspellings_found)
{
    ck_assert(parse(API_REQUEST_COMPLETION,
                    "{\"prompt\":\"a\",\"kv_policy\":{\"name\":\"sink\",\"budget\":64}}"));
    ck_assert(r.has_policy);
    ck_assert_uint_eq(r.policy.axes.budget, 64);
    api_request_clear(&r);
    /* CVE-2026-21869 was a negative number of tokens to evict */
    refuses(API_REQUEST_COMPLETION,
            "{\"prompt\":\"a\",\"kv_policy\":{\"name\":\"sink\",\"budget\":-1}}",
            "invalid_kv_policy", "kv_policy.budget");
    refuses(API_REQUEST_COMPLETION,
            "{\"prompt\":\"a\",\"kv_policy\":{\"name\":\"sink\",\"sinks\":-1}}",
            "invalid_kv_policy", "kv_policy.sinks");
    refuses(API_REQUEST_COMPLETION,
            "{\"prompt\":\"a\",\"kv_policy\":{\"name\":\"sink\",\"budget\":16777217}}",
            "invalid_kv_policy", "kv_policy.budget");
    refuses(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"extra_body\":{\"kv_policy\":\"sink\"}}",
            "unknown_parameter", "extra_body");
    takes(API_REQUEST_COMPLETION,
          "{\"prompt\":\"a\",\"extra_body\":{\"x\":1},\"nobody_knows\":[1]}");
}
END_TEST

START_TEST(the_last_at_sign_of_a_model_splits_off_its_policy)
{
    ck_assert(parse(API_REQUEST_COMPLETION, "{\"prompt\":\"a\",\"model\":\"a@b@sink:64\"}"));
    ck_assert_str_eq(r.policy_suffix, "sink:64");
    api_request_clear(&r);
}
END_TEST

START_TEST(defaults_are_openai_s)
{
    ck_assert(parse(API_REQUEST_COMPLETION, "{\"prompt\":\"a\"}"));
    ck_assert_int_eq(r.max_tokens, 16);
    ck_assert_double_eq(r.sampling.temperature, 1);
    ck_assert_int_eq(r.n_logprobs, -1);
    ck_assert_uint_eq(r.n, 1);
    api_request_clear(&r);
    ck_assert(parse(API_REQUEST_CHAT, CHAT_OF("\"x\"")));
    ck_assert_int_eq(r.max_tokens, -1);
    ck_assert(r.chat.add_generation_prompt);
    api_request_clear(&r);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("request");
    TCase *tests = suite_case(suite, "request", 60);
    tcase_add_test(tests, every_row_of_the_table_has_its_type_and_its_range);
    tcase_add_test(tests, bodies_that_are_not_json_say_where);
    tcase_add_test(tests, the_last_of_duplicate_keys_wins_and_nul_is_text);
    tcase_add_test(tests, content_parts_are_joined_and_others_named);
    tcase_add_test(tests, arguments_of_calls_become_objects);
    tcase_add_test(tests, a_legacy_call_is_a_call_and_its_content_an_empty_text);
    tcase_add_test(tests, add_special_tokens_is_read_for_texts_and_chats);
    tcase_add_test(tests, prompts_come_in_four_shapes);
    tcase_add_test(tests, stops_are_bounded_and_empty_ones_dropped);
    tcase_add_test(tests, bias_keys_are_tokens_of_the_vocabulary);
    tcase_add_test(tests, fields_that_contradict_each_other_are_refused);
    tcase_add_test(tests, policies_are_checked_and_misspellings_found);
    tcase_add_test(tests, the_last_at_sign_of_a_model_splits_off_its_policy);
    tcase_add_test(tests, defaults_are_openai_s);
    return suite_run(suite);
}
