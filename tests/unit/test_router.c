/* Paths to routes: prefixes, "/v1", percent signs, tails, methods, and hints for what is not served. */
#include <stdlib.h>
#include <string.h>

#include "server/http/router.h"
#include "tests/suite.h"

static void handler(struct http_request *x, void *context)
{
    (void)x;
    (void)context;
}

static const struct route routes[] = {
    {.method = "GET", .path = "/", .handler = handler, .plain_path_only = true},
    {.method = "GET", .path = "/metrics", .handler = handler, .plain_path_only = true},
    {.method = "GET", .path = "/models", .handler = handler},
    {.method = "GET", .path = "/models/*", .handler = handler},
    {.method = "POST", .path = "/completions", .handler = handler},
    {.method = "DELETE", .path = "/models/*", .handler = handler},
};
enum { N = sizeof routes / sizeof *routes };

static void refused(const char *url, const char *prefix, const char *code)
{
    bool had_v1;
    struct error e = {0};
    char *path = router_normalise(url, strlen(url), prefix, &had_v1, &e);
    ck_assert_msg(!path, "%s below '%s' is %s", url, prefix, path);
    ck_assert_msg(!strcmp(e.code, code), "%s: %s", url, e.code);
}

static void normalised(const char *url, const char *prefix, const char *wanted, bool v1)
{
    bool had_v1 = !v1;
    struct error e;
    char *path = router_normalise(url, strlen(url), prefix, &had_v1, &e);
    ck_assert_msg(path && !strcmp(path, wanted) && had_v1 == v1, "%s: got %s, /v1 %d", url, path,
                  had_v1);
    free(path);
}

START_TEST(paths_lose_prefix_version_and_last_slash)
{
    normalised("/models", "", "/models", false);
    normalised("/v1/models", "", "/models", true);
    normalised("/v1/models/", "", "/models", true);
    normalised("/v1/models///", "", "/models", true);
    normalised("/v1", "", "/", true);
    normalised("/v1/", "", "/", true);
    normalised("/", "", "/", false);
    normalised("/v1beta/models", "", "/v1beta/models", false);
    normalised("/v1/v1/models", "", "/v1/models", true);
}
END_TEST

START_TEST(only_what_lies_below_the_prefix_is_served)
{
    normalised("/p/v1/models", "/p", "/models", true);
    normalised("/p", "/p", "/", false);
    normalised("/p/", "/p", "/", false);
    refused("/px/models", "/p", "not_found");
    refused("/models", "/p", "not_found");
    normalised("*", "/p", "*", false);
}
END_TEST

/* A NUL would cut the path, and a control character would break a log or a header. */
START_TEST(no_path_decodes_to_control_characters_or_no_text)
{
    static const char *const bad[] = {"/metrics%00x", "/models/a%00b",  "/models/a%0d%0ab",
                                      "/models/%7F",  "/models/%c2%80", "/models/%FF",
                                      "/models/%c3",  "/models/\x01"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refused(bad[i], "", "invalid_request");
}
END_TEST

START_TEST(percent_signs_are_decoded_once)
{
    normalised("/models/a%2Fb", "", "/models/a/b", false);
    normalised("/models/a%2fb%20c", "", "/models/a/b c", false);
    normalised("/models/%2525", "", "/models/%25", false);
    normalised("/mod%2565ls", "", "/mod%65ls", false);
    normalised("/mod%65ls", "", "/models", false);
    normalised("/models/a%2F", "", "/models/a/", false); /* part of the name, not of the path */
    normalised("/models/%", "", "/models/%", false);
    normalised("/models/%4", "", "/models/%4", false);
    normalised("/models/%G1%1g", "", "/models/%G1%1g", false);
    normalised("/models/%C3%A9", "", "/models/\xC3\xA9", false);
}
END_TEST

static const struct route *found(const char *path, bool v1, const char *method, const char **tail)
{
    return router_find(routes, N, path, v1, method, tail);
}

START_TEST(a_star_takes_any_tail_but_none)
{
    const char *tail;
    ck_assert_ptr_eq(found("/models", false, "GET", &tail), &routes[2]);
    ck_assert_str_eq(tail, "");
    ck_assert_ptr_eq(found("/models/HuggingFace/x", true, "GET", &tail), &routes[3]);
    ck_assert_str_eq(tail, "HuggingFace/x");
    ck_assert_ptr_null(found("/models/", false, "GET", &tail));
    ck_assert_ptr_null(found("/modelsx", false, "GET", &tail));
}
END_TEST

START_TEST(head_is_get_and_other_methods_are_their_own)
{
    const char *tail;
    ck_assert_ptr_eq(found("/models", false, "HEAD", &tail), &routes[2]);
    ck_assert_ptr_eq(found("/models/x", false, "DELETE", &tail), &routes[5]);
    ck_assert_ptr_null(found("/completions", false, "GET", &tail));
    ck_assert_ptr_eq(found("/completions", false, NULL, &tail), &routes[4]);
    ck_assert_ptr_null(found("/nothing", false, NULL, &tail));
}
END_TEST

START_TEST(some_paths_are_not_under_v1)
{
    const char *tail;
    ck_assert_ptr_eq(found("/metrics", false, "GET", &tail), &routes[1]);
    ck_assert_ptr_null(found("/metrics", true, "GET", &tail));
    ck_assert_ptr_null(found("/", true, "GET", &tail));
}
END_TEST

START_TEST(allow_names_the_methods_of_a_known_path)
{
    char allow[48];
    router_allow(routes, N, "/completions", true, allow, sizeof allow);
    ck_assert_str_eq(allow, "POST, OPTIONS");
    router_allow(routes, N, "/models/x", true, allow, sizeof allow);
    ck_assert_str_eq(allow, "GET, HEAD, DELETE, OPTIONS");
    router_allow(routes, N, "/metrics", true, allow, sizeof allow);
    ck_assert_str_eq(allow, "");
    router_allow(routes, N, "/nothing", false, allow, sizeof allow);
    ck_assert_str_eq(allow, "");
}
END_TEST

START_TEST(what_others_serve_gets_a_hint)
{
    ck_assert_ptr_nonnull(strstr(router_hint("/audio/speech"), "text models only"));
    ck_assert_ptr_nonnull(strstr(router_hint("/batches"), "batch"));
    ck_assert_ptr_nonnull(strstr(router_hint("/api"), "Ollama"));
    ck_assert_ptr_null(router_hint("/audiobook"));
    ck_assert_ptr_null(router_hint("/completions"));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("router");
    TCase *c = suite_case(s, "router", 60);
    tcase_add_test(c, paths_lose_prefix_version_and_last_slash);
    tcase_add_test(c, only_what_lies_below_the_prefix_is_served);
    tcase_add_test(c, percent_signs_are_decoded_once);
    tcase_add_test(c, no_path_decodes_to_control_characters_or_no_text);
    tcase_add_test(c, a_star_takes_any_tail_but_none);
    tcase_add_test(c, head_is_get_and_other_methods_are_their_own);
    tcase_add_test(c, some_paths_are_not_under_v1);
    tcase_add_test(c, allow_names_the_methods_of_a_known_path);
    tcase_add_test(c, what_others_serve_gets_a_hint);
    return suite_run(s);
}
