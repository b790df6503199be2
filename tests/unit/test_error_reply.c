/* Errors as clients get them: status, type, numbers, headers, and the answer past libmicrohttpd. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/http/error_reply.h"
#include "server/http/transport.h"
#include "tests/suite.h"

static struct error make(const char *code)
{
    struct error e;
    error_set(&e, code, "field", "the message");
    return e;
}

static const json_t *inner(json_t *value)
{
    ck_assert_ptr_nonnull(value);
    return json_object_get(value, "error");
}

/* OpenAI's clients retry 408, 409, 429 and 5xx by themselves: no code of ours may be 409. */
START_TEST(every_code_has_a_row_in_the_counts)
{
    ck_assert_uint_gt(error_n_codes(), 32);
    ck_assert_uint_le(error_n_codes(), MAX_REASONS);
    for (uint32_t i = 0; i < error_n_codes(); i++) {
        struct error e = {0};
        error_set(&e, error_code_at(i), "", "x");
        ck_assert_str_eq(error_code(&e), error_code_at(i));
        for (uint32_t k = 0; k < i; k++)
            ck_assert_str_ne(error_code_at(i), error_code_at(k));
    }
}
END_TEST

START_TEST(codes_have_their_status_and_type)
{
    static const struct {
        const char *code;
        unsigned status;
        const char *type;
    } rows[] = {{"invalid_value", 400, "invalid_request_error"},
                {"context_length_exceeded", 400, "invalid_request_error"},
                {"invalid_api_key", 401, "authentication_error"},
                {"origin_not_allowed", 403, "permission_error"},
                {"model_not_found", 404, "not_found_error"},
                {"method_not_allowed", 405, "invalid_request_error"},
                {"request_read_timeout", 408, "timeout_error"},
                {"body_too_large", 413, "invalid_request_error"},
                {"queue_full", 429, "rate_limit_error"},
                {"draining", 503, "unavailable_error"},
                {"out_of_memory", 503, "unavailable_error"},
                {"deadline_exceeded", 504, "timeout_error"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct error e = make(rows[i].code);
        json_t *value = error_to_json(&e);
        ck_assert_msg(error_status(&e) == rows[i].status, "%s: %u", e.code, error_status(&e));
        ck_assert_str_eq(json_string_value(json_object_get(inner(value), "type")), rows[i].type);
        ck_assert_str_eq(json_string_value(json_object_get(inner(value), "code")), rows[i].code);
        ck_assert_str_eq(error_code(&e), rows[i].code);
        json_decref(value);
    }
}
END_TEST

START_TEST(an_unknown_code_is_an_internal_error)
{
    struct error e = make("no_such_code");
    json_t *value = error_to_json(&e);
    ck_assert_uint_eq(error_status(&e), 500);
    ck_assert_str_eq(json_string_value(json_object_get(inner(value), "code")), "internal_error");
    json_decref(value);
}
END_TEST

START_TEST(only_a_bad_request_names_its_field)
{
    struct error bad = make("invalid_type"), other = make("queue_full");
    json_t *a = error_to_json(&bad), *b = error_to_json(&other);
    ck_assert_str_eq(json_string_value(json_object_get(inner(a), "param")), "field");
    ck_assert(json_is_null(json_object_get(inner(b), "param")));
    json_decref(a);
    json_decref(b);
}
END_TEST

static json_int_t number(const struct error *e, const char *key)
{
    json_t *value = error_to_json(e);
    const json_t *n = json_object_get(inner(value), key);
    json_int_t number = n ? json_integer_value(n) : -1;
    json_decref(value);
    return number;
}

START_TEST(errors_carry_their_numbers)
{
    struct error e = make("context_length_exceeded");
    e.n_prompt_tokens = 9000;
    e.n_ctx = 8192;
    ck_assert_int_eq(number(&e, "n_prompt_tokens"), 9000);
    ck_assert_int_eq(number(&e, "n_ctx"), 8192);
    e = make("kv_memory_exceeded");
    e.needed_pages = 7;
    e.pool_pages = 5;
    ck_assert_int_eq(number(&e, "needed_pages"), 7);
    ck_assert_int_eq(number(&e, "pool_pages"), 5);
    ck_assert_int_eq(number(&e, "largest_budget_that_fits"), 0);
    e = make("kv_budget_exceeds_limit");
    ck_assert_int_eq(number(&e, "max_budget"), -1);
    e.max_budget = 64;
    ck_assert_int_eq(number(&e, "max_budget"), 64);
    e = make("queue_full");
    ck_assert_int_eq(number(&e, "queue_length"), 0);
    e = make("deadline_exceeded");
    e.completion_tokens = 3;
    ck_assert_int_eq(number(&e, "completion_tokens"), 3);
}
END_TEST

START_TEST(waits_are_a_second_to_a_minute_and_only_for_429_and_503)
{
    struct error e = make("queue_full");
    ck_assert_int_eq(error_retry_after_ms(&e), 1000);
    e.retry_after_ms = 2500;
    ck_assert_int_eq(error_retry_after_ms(&e), 2500);
    e.retry_after_ms = 3600000;
    ck_assert_int_eq(error_retry_after_ms(&e), 60000);
    e = make("draining");
    ck_assert_int_eq(error_retry_after_ms(&e), 1000);
    e = make("internal_error");
    e.retry_after_ms = 5000;
    ck_assert_int_eq(error_retry_after_ms(&e), 0);
}
END_TEST

START_TEST(clients_do_not_repeat_what_fails_again)
{
    struct error fault = make("engine_fault"), late = make("deadline_exceeded"),
                 full = make("queue_full"), other = make("internal_error");
    ck_assert(error_forbids_retry(&fault) && error_forbids_retry(&late));
    ck_assert(!error_forbids_retry(&full) && !error_forbids_retry(&other));
}
END_TEST

START_TEST(a_raw_answer_has_as_many_bytes_as_it_declares)
{
    static const char *const messages[] = {"short",
                                           "the request did not arrive in time \"\xC3\xA9\""};
    for (size_t i = 0; i < 2; i++) {
        struct error e;
        char answer[512];
        error_set(&e, "request_read_timeout", "", "%s", messages[i]);
        size_t n = error_raw_answer(&e, "Request Timeout", answer, sizeof answer);
        ck_assert_uint_eq(n, strlen(answer));
        ck_assert_msg(!strncmp(answer, "HTTP/1.1 408 Request Timeout\r\n", 30), "%s", answer);
        const char *declared = strstr(answer, "Content-Length: "),
                   *body = strstr(answer, "\r\n\r\n");
        ck_assert(declared && body);
        ck_assert_uint_eq(strtoul(declared + 16, NULL, 10), strlen(body + 4));
        json_t *value = json_loads(body + 4, 0, NULL);
        ck_assert_str_eq(json_string_value(json_object_get(inner(value), "message")), messages[i]);
        json_decref(value);
    }
}
END_TEST

START_TEST(a_raw_answer_that_does_not_fit_is_none)
{
    struct error e = make("request_read_timeout");
    char answer[100];
    ck_assert_uint_eq(error_raw_answer(&e, "Request Timeout", answer, sizeof answer), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("error_reply");
    TCase *c = suite_case(s, "error_reply", 60);
    tcase_add_test(c, every_code_has_a_row_in_the_counts);
    tcase_add_test(c, codes_have_their_status_and_type);
    tcase_add_test(c, an_unknown_code_is_an_internal_error);
    tcase_add_test(c, only_a_bad_request_names_its_field);
    tcase_add_test(c, errors_carry_their_numbers);
    tcase_add_test(c, waits_are_a_second_to_a_minute_and_only_for_429_and_503);
    tcase_add_test(c, clients_do_not_repeat_what_fails_again);
    tcase_add_test(c, a_raw_answer_has_as_many_bytes_as_it_declares);
    tcase_add_test(c, a_raw_answer_that_does_not_fit_is_none);
    return suite_run(s);
}
