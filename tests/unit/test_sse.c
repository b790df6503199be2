/* Server-sent events as clients read them. */
#include <stdlib.h>
#include <string.h>

#include "server/http/sse.h"
#include "tests/suite.h"

static void is(struct bytes *b, const char *wanted)
{
    ck_assert_msg(b->length == strlen(wanted) && !memcmp(b->data, wanted, b->length),
                  "got '%.*s', wanted '%s'", (int)b->length, b->data, wanted);
    bytes_clear(b);
}

START_TEST(an_event_is_one_data_line_and_a_blank_line)
{
    struct bytes b = {0};
    json_t *value = json_pack("{s:s, s:i}", "text", "x", "n", 1);
    ck_assert(sse_event(&b, value));
    json_decref(value);
    is(&b, "data: {\"text\":\"x\",\"n\":1}\n\n");
}
END_TEST

START_TEST(events_keep_their_order_and_the_end_comes_last)
{
    struct bytes b = {0};
    for (int i = 0; i < 3; i++) {
        json_t *value = json_pack("[i]", i);
        ck_assert(sse_event(&b, value));
        json_decref(value);
    }
    ck_assert(sse_done(&b));
    is(&b, "data: [0]\n\ndata: [1]\n\ndata: [2]\n\ndata: [DONE]\n\n");
}
END_TEST

/* A line break would cut the event in two, a NUL end it; characters of several bytes stay whole. */
START_TEST(any_text_stays_on_one_line)
{
    struct bytes b = {0};
    json_t *value = json_pack("[s%]", "a\nb\r\n\n\0\xC3\xA9\xF0\x9F\x98\x80", (size_t)13);
    ck_assert_ptr_nonnull(value);
    ck_assert(sse_event(&b, value));
    json_decref(value);
    is(&b, "data: [\"a\\nb\\r\\n\\n\\u0000\xC3\xA9\xF0\x9F\x98\x80\"]\n\n");
}
END_TEST

/* After an "id:" line OpenAI's Python client fails at every blank line. */
START_TEST(there_are_no_lines_but_data_and_comments)
{
    struct bytes b = {0};
    json_t *value = json_pack("{s:s, s:s}", "id", "id: 7\nevent: x", "event", "retry: 1");
    ck_assert(sse_ping(&b) && sse_event(&b, value) && sse_ping(&b) && sse_done(&b));
    json_decref(value);
    ck_assert(bytes_add(&b, "", 1));
    char *rest = NULL;
    for (char *line = strtok_r(b.data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        ck_assert_msg(!strncmp(line, "data: ", 6) || line[0] == ':', "%s", line);
    bytes_clear(&b);
}
END_TEST

START_TEST(a_ping_is_a_comment_and_a_blank_line)
{
    struct bytes b = {0};
    ck_assert(sse_ping(&b));
    is(&b, ": ping\n\n");
}
END_TEST

START_TEST(what_cannot_be_written_leaves_the_buffer_as_it_was)
{
    struct bytes b = {0};
    ck_assert(sse_ping(&b));
    ck_assert(!sse_event(&b, NULL));
    ck_assert(!json_add(&b, NULL));
    json_t *scalar = json_integer(1); /* jansson dumps arrays and objects only */
    ck_assert(!sse_event(&b, scalar));
    json_decref(scalar);
    is(&b, ": ping\n\n");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("sse");
    TCase *c = suite_case(s, "sse", 60);
    tcase_add_test(c, an_event_is_one_data_line_and_a_blank_line);
    tcase_add_test(c, events_keep_their_order_and_the_end_comes_last);
    tcase_add_test(c, any_text_stays_on_one_line);
    tcase_add_test(c, there_are_no_lines_but_data_and_comments);
    tcase_add_test(c, a_ping_is_a_comment_and_a_blank_line);
    tcase_add_test(c, what_cannot_be_written_leaves_the_buffer_as_it_was);
    return suite_run(s);
}
