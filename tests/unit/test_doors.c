/* Who may call: API keys, and which host names and web pages. */
#include <string.h>

#include "server/http/auth.h"
#include "server/http/origin.h"
#include "tests/suite.h"

/* ---- keys */

static struct api_key keys[] = {{(char *)"ann", (char *)"secret-a"},
                                {(char *)"bob", (char *)"secret-bb"},
                                {(char *)"twin", (char *)"secret-a"}};
static const struct config keyed = {
    .api_keys = keys, .n_api_keys = 3, .admin_api_key = (char *)"root"};

static uint32_t find(const char *key, bool admin)
{
    bool is_admin = !admin;
    uint32_t found = auth_find(&keyed, key, &is_admin);
    ck_assert_msg(is_admin == admin, "%s", key ? key : "no key");
    return found;
}

START_TEST(a_key_is_found_whole_or_not_at_all)
{
    ck_assert_uint_eq(find("secret-bb", false), 2);
    ck_assert_uint_eq(find("secret-b", false), 0);
    ck_assert_uint_eq(find("secret-bbb", false), 0);
    ck_assert_uint_eq(find("secret-bc", false), 0);
    ck_assert_uint_eq(find("Secret-bb", false), 0);
    ck_assert_uint_eq(find("", false), 0);
    ck_assert_uint_eq(find(NULL, false), 0);
    /* repeated, so that comparing around the end of ours would not notice the length */
    ck_assert_uint_eq(find("secret-asecret-a", false), 0);
}
END_TEST

START_TEST(of_equal_keys_the_last_counts)
{
    ck_assert_uint_eq(find("secret-a", false), 3);
}
END_TEST

START_TEST(the_admin_key_is_no_callers_key)
{
    ck_assert_uint_eq(find("root", true), 0);
    const struct config open = {0};
    bool admin = true;
    ck_assert_uint_eq(auth_find(&open, "root", &admin), 0);
    ck_assert(!admin);
}
END_TEST

START_TEST(keys_come_in_three_headers)
{
    ck_assert_str_eq(auth_key_of("Bearer k", NULL, NULL), "k");
    ck_assert_str_eq(auth_key_of("bearer   k", "x", "a"), "k");
    ck_assert_str_eq(auth_key_of(NULL, "x", "a"), "x");
    ck_assert_str_eq(auth_key_of(NULL, NULL, "a"), "a");
    ck_assert_str_eq(auth_key_of("Basic abc", "x", NULL), "x");
    ck_assert_str_eq(auth_key_of("Bearer ", NULL, NULL), "");
    ck_assert_ptr_null(auth_key_of("Bearerk", NULL, NULL));
    ck_assert_ptr_null(auth_key_of(NULL, NULL, NULL));
}
END_TEST

/* ---- hosts and origins */

static char *hosts[] = {(char *)"winnow.lan", (char *)"box:9000"};
static char *origins[] = {(char *)"https://chat.example"};
static char *all_origins[] = {(char *)"*"};
static const struct config named = {.allowed_hosts = {hosts, 2}, .cors_origins = {origins, 1}};
static const struct config plain = {0};
static const struct config open_to_all = {.cors_origins = {all_origins, 1}};

/* A page on another name may have been rebound to this machine. */
START_TEST(on_loopback_only_names_of_this_machine_are_answered)
{
    static const char *const good[] = {"localhost",   "LocalHost:8080", "127.0.0.1",
                                       "127.0.0.1:1", "[::1]",          "[::1]:8080",
                                       "winnow.lan",  "winnow.lan:80",  "box:9000"};
    static const char *const bad[] = {"evil.example",   "localhost.evil",
                                      "localhost:80x",  "127.0.0.12",
                                      "[::1]evil:8080", "box",
                                      "box:9001",       ""};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        ck_assert_msg(host_is_allowed(&named, true, good[i]), "%s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(!host_is_allowed(&named, true, bad[i]), "%s", bad[i]);
    ck_assert(host_is_allowed(&plain, true, NULL)); /* HTTP/1.0 */
    ck_assert(!host_is_allowed(&plain, true, "winnow.lan"));
    ck_assert(host_is_allowed(&plain, false, "any.example"));
}
END_TEST

/* Numeric addresses are good: a page of another site always comes with a name. */
START_TEST(elsewhere_allowed_hosts_count_when_they_are_given)
{
    static const char *const good[] = {"winnow.lan",     "WINNOW.lan:8080", "localhost:1",
                                       "192.168.1.7:80", "[fe80::1]:8080",  "10.0.0.1"};
    static const char *const bad[] = {
        "evil.example", "evil.example:8080", "192.168.1.7.evil.example", "1.2.3", "", "[evil]"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        ck_assert_msg(host_is_allowed(&named, false, good[i]), "%s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(!host_is_allowed(&named, false, bad[i]), "%s", bad[i]);
}
END_TEST

START_TEST(pages_of_localhost_may_call_until_origins_are_given)
{
    static const char *const local[] = {"http://localhost:3000", "http://localhost",
                                        "https://127.0.0.1:8443", "http://[::1]:5173"};
    static const char *const other[] = {"http://localhost.evil.example",
                                        "http://127.0.0.1.evil",
                                        "null",
                                        "file://",
                                        "http://evil.example:3000",
                                        ""};
    for (size_t i = 0; i < sizeof local / sizeof *local; i++) {
        ck_assert_msg(origin_is_allowed(&plain, local[i], "box:8080"), "%s", local[i]);
        ck_assert_msg(origin_is_listed(&plain, local[i]), "%s", local[i]);
        ck_assert_msg(!origin_is_allowed(&named, local[i], "box:8080"), "%s", local[i]);
    }
    for (size_t i = 0; i < sizeof other / sizeof *other; i++)
        ck_assert_msg(!origin_is_allowed(&plain, other[i], "box:8080"), "%s", other[i]);
}
END_TEST

START_TEST(pages_of_other_hosts_may_call_only_when_listed)
{
    ck_assert(origin_is_allowed(&plain, NULL, "h"));
    ck_assert(origin_is_allowed(&plain, "http://h:8080", "h:8080"));
    ck_assert(origin_is_allowed(&plain, "HTTPS://H", "h"));
    ck_assert(!origin_is_allowed(&plain, "http://h:8081", "h:8080"));
    ck_assert(!origin_is_allowed(&plain, "http://evil.example", "h"));
    ck_assert(!origin_is_allowed(&plain, "null", "h"));
    ck_assert(!origin_is_allowed(&plain, "http://h", NULL));
    ck_assert(!origin_is_allowed(&plain, "ftp://h", "h"));
    ck_assert(origin_is_allowed(&named, "https://CHAT.example", "h"));
    ck_assert(!origin_is_allowed(&named, "http://chat.example", "h"));
    ck_assert(origin_is_allowed(&open_to_all, "http://evil.example", "h"));
}
END_TEST

START_TEST(cors_headers_name_listed_origins_only)
{
    ck_assert(origin_is_listed(&named, "https://chat.example"));
    ck_assert(!origin_is_listed(&named, "https://h"));
    ck_assert(!origin_is_listed(&plain, "http://h"));
    ck_assert(origin_is_listed(&open_to_all, "null"));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("doors");
    TCase *c = suite_case(s, "doors", 60);
    tcase_add_test(c, a_key_is_found_whole_or_not_at_all);
    tcase_add_test(c, of_equal_keys_the_last_counts);
    tcase_add_test(c, the_admin_key_is_no_callers_key);
    tcase_add_test(c, keys_come_in_three_headers);
    tcase_add_test(c, on_loopback_only_names_of_this_machine_are_answered);
    tcase_add_test(c, elsewhere_allowed_hosts_count_when_they_are_given);
    tcase_add_test(c, pages_of_localhost_may_call_until_origins_are_given);
    tcase_add_test(c, pages_of_other_hosts_may_call_only_when_listed);
    tcase_add_test(c, cors_headers_name_listed_origins_only);
    return suite_run(s);
}
