/* Log lines: always whole lines and valid JSON, whatever the texts in them are, and never a wait. */
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "config/base/log.h"
#include "tests/suite.h"

static int old_stderr, ends[2];

static void capture(bool through_socket)
{
    old_stderr = dup(STDERR_FILENO);
    ck_assert_int_eq(through_socket ? socketpair(AF_UNIX, SOCK_STREAM, 0, ends) : pipe(ends), 0);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
}

/* What has been logged since; the caller frees it. */
static char *captured(void)
{
    size_t room = 1 << 20, length = 0;
    char *text = calloc(1, room + 1);
    for (ssize_t n; (n = read(ends[0], text + length, room - length)) > 0;)
        length += (size_t)n;
    return text;
}

static void release(void)
{
    dup2(old_stderr, STDERR_FILENO);
    close(old_stderr);
    close(ends[0]);
}

static json_t *logged_json(const char *message, const char *text)
{
    const struct log_field fields[] = {{.key = "before", .kind = LOG_FIELD_INT, .integer = -5},
                                       {.key = "text", .kind = LOG_FIELD_TEXT, .text = text},
                                       {.key = "after", .kind = LOG_FIELD_NUMBER, .number = 1.5}};
    capture(false);
    log_fields(LOG_ERROR, message, fields, 3);
    char *line = captured();
    release();
    json_error_t e;
    size_t n = strlen(line);
    ck_assert_msg(n && n <= PIPE_BUF && strchr(line, '\n') == line + n - 1, "%zu bytes: %s", n,
                  line);
    json_t *value = json_loads(line, JSON_REJECT_DUPLICATES, &e);
    ck_assert_msg(value != NULL, "%s: %s", e.text, line);
    free(line);
    return value;
}

START_TEST(every_text_gives_a_line_of_valid_json)
{
    static const char *const texts[] = {"",
                                        "plain",
                                        "\"quoted\" \\ and\nbroken\tlines\x01\x7F",
                                        "no UTF-8: \xFF\xFE \xC3 \xED\xA0\x80",
                                        "UTF-8: \xC3\xA9 \xF0\x9F\x8E\x88 \xC2\x85",
                                        "\xC3"};
    log_setup(LOG_JSON, LOG_INFO);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        json_t *value = logged_json(texts[i], texts[i]);
        ck_assert_int_eq(json_integer_value(json_object_get(value, "before")), -5);
        ck_assert_double_eq(json_real_value(json_object_get(value, "after")), 1.5);
        ck_assert_str_eq(json_string_value(json_object_get(value, "message")),
                         json_string_value(json_object_get(value, "text")));
        json_decref(value);
    }
    json_t *value = logged_json("m", "a\xFF\xC3\xA9");
    ck_assert_str_eq(json_string_value(json_object_get(value, "text")), "a\xEF\xBF\xBD\xC3\xA9");
    json_decref(value);
}
END_TEST

/* Of every length around the limit, with texts whose escapes have 1 to 6 bytes. */
START_TEST(a_line_that_is_too_long_ends_early_and_stays_valid)
{
    static const char *const letters[] = {"a",    "\"",       "\x01",
                                          "\xFF", "\xC3\xA9", "\xF0\x9F\x8E\x88"};
    static char text[PIPE_BUF * 5];
    log_setup(LOG_JSON, LOG_INFO);
    for (size_t i = 0; i < sizeof letters / sizeof *letters; i++) {
        size_t n = strlen(letters[i]);
        for (size_t count = PIPE_BUF / 7 - 30; count < PIPE_BUF + 40; count += i ? 7 : 1) {
            for (size_t k = 0; k < count; k++)
                memcpy(text + k * n, letters[i], n);
            text[count * n] = 0;
            json_t *value = logged_json("m", text);
            ck_assert(json_is_string(json_object_get(value, "text")));
            json_decref(value);
        }
    }
    json_decref(logged_json(text, text));
}
END_TEST

START_TEST(lines_that_nobody_reads_are_dropped_and_counted)
{
    for (int through_socket = 0; through_socket < 2; through_socket++) {
        capture(through_socket);
        log_setup(LOG_TEXT, LOG_INFO);
        alarm(20); /* it used to wait for ever */
        for (int i = 0; i < 20000; i++)
            log_line(LOG_INFO, "line %d of a server whose log nobody reads", i);
        alarm(0);
        free(captured());
        log_line(LOG_INFO, "read again");
        char *text = captured();
        release();
        ck_assert_msg(strstr(text, "log lines were not read in time and are lost\n"), "%s", text);
        ck_assert_msg(strstr(text, "read again\n"), "%s", text);
        free(text);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("log");
    TCase *c = suite_case(s, "log", 60);
    tcase_add_test(c, every_text_gives_a_line_of_valid_json);
    tcase_add_test(c, a_line_that_is_too_long_ends_early_and_stays_valid);
    tcase_add_test(c, lines_that_nobody_reads_are_dropped_and_counted);
    return suite_run(s);
}
