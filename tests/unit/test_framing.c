/* What RFC 9112 refuses, on heads as libmicrohttpd leaves them: separators overwritten with NULs. The same
 * cases over a socket are in tests/e2e/test_framing.py. */
#include <string.h>

#include "server/http/framing.h"
#include "tests/suite.h"

static struct error e;
static struct framing_facts facts;

/* Parses a head leniently, as libmicrohttpd 0.9.75 does: a line ends with LF, with or without a CR; a value
 * begins after blanks and ends at a NUL. */
static bool check(const char *head, size_t length)
{
    static char bytes[4096];
    struct framing_field fields[16];
    struct framing_head h = {.fields = fields, .end = bytes + length};
    char *at = bytes;
    memcpy(bytes, head, length);
    bytes[length] = 0;
    for (bool first = true;; first = false) {
        char *lf = memchr(at, '\n', (size_t)(bytes + length - at));
        ck_assert_ptr_nonnull(lf);
        *lf = 0;
        if (lf > at && lf[-1] == '\r')
            lf[-1] = 0;
        if (!*at && !first)
            break;
        if (first) {
            char *target = strchr(at, ' ') + 1, *version = strrchr(at, ' ') + 1;
            target[-1] = version[-1] = 0;
            h.method = (struct framing_text){at, strlen(at)};
            h.target = (struct framing_text){target, strlen(target)};
            h.target_at = target;
            h.version = (struct framing_text){version, strlen(version)};
        } else {
            char *colon = strchr(at, ':');
            ck_assert_ptr_nonnull(colon);
            *colon = 0;
            char *value = colon + 1 + strspn(colon + 1, " \t");
            fields[h.n_fields++] = (struct framing_field){{at, strlen(at)}, {value, strlen(value)}};
        }
        at = lf + 1;
    }
    memset(&e, 0, sizeof e);
    return framing_check(&h, &facts, &e);
}

#define GOOD(head) ck_assert_msg(check(head, sizeof head - 1), "%s: %s", head, e.message)
#define BAD(head, kind)                                                                            \
    do {                                                                                           \
        ck_assert_msg(!check(head, sizeof head - 1), "taken: %s", head);                           \
        ck_assert_msg(!strcmp(e.code, kind), "%s: %s, %s", head, e.code, e.message);               \
    } while (0)

static bool text_is(struct framing_text t, const char *wanted)
{
    return t.length == strlen(wanted) && !memcmp(t.at, wanted, t.length);
}

START_TEST(ordinary_requests_are_taken)
{
    GOOD("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    ck_assert(text_is(facts.path, "/") && text_is(facts.host, "h") && !facts.chunked);
    GOOD("GET /v1/models?x=1&y HTTP/1.1\r\nHost:h:8080 \r\nX-Empty:\r\nX: a\tb \xC3\xA9\r\n\r\n");
    ck_assert(text_is(facts.path, "/v1/models") && text_is(facts.host, "h:8080"));
    GOOD("POST /x HTTP/1.1\r\nHost: [::1]:1\r\nContent-Length: 12\r\n\r\n");
    GOOD("POST /x HTTP/1.1\r\nTransfer-Encoding:  CHUNKED\r\nHost: h\r\n\r\n");
    ck_assert(facts.chunked);
    GOOD("GET / HTTP/1.0\r\n\r\n");
    ck_assert_ptr_null(facts.host.at);
    GOOD("GET / HTTP/1.1\r\nHost:\r\n\r\n");
}
END_TEST

START_TEST(targets_have_three_forms)
{
    GOOD("GET http://a:1/p/q?r HTTP/1.1\r\nHost: b\r\n\r\n");
    ck_assert(text_is(facts.path, "/p/q") && text_is(facts.host, "a:1"));
    GOOD("GET HTTPS://a HTTP/1.1\r\nHost: a\r\n\r\n");
    ck_assert(text_is(facts.path, "/") && text_is(facts.host, "a"));
    GOOD("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    ck_assert(text_is(facts.path, "*"));
    BAD("GET * HTTP/1.1\r\nHost: a\r\n\r\n", "bad_framing");
    BAD("GET x HTTP/1.1\r\nHost: a\r\n\r\n", "bad_framing");
    BAD("GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n", "bad_framing");
    BAD("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", "bad_framing");
    BAD("GET http://u@a/x HTTP/1.1\r\nHost: a\r\n\r\n", "bad_framing");
    BAD("GET /x#y HTTP/1.1\r\nHost: a\r\n\r\n", "bad_framing");
    BAD("GET /x y HTTP/1.1\r\nHost: a\r\n\r\n", "bad_framing");
    BAD("GET  /x HTTP/1.1\r\nHost: a\r\n\r\n", "bad_framing");
    BAD("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "not_implemented");
    BAD("G\xFFT /x HTTP/1.1\r\nHost: a\r\n\r\n", "bad_framing");
    BAD("GET /x HTTP/2.0\r\nHost: a\r\n\r\n", "http_version_not_supported");
    BAD("GET /x http/1.1\r\nHost: a\r\n\r\n", "bad_framing");
}
END_TEST

START_TEST(what_ends_a_request_is_said_once)
{
    BAD("GET / HTTP/1.1\r\n\r\n", "bad_framing");
    BAD("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "bad_framing");
    BAD("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", "bad_framing");
    BAD("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "bad_framing");
    BAD("GET / HTTP/1.1\r\nHost: a,b@c\r\n\r\n", "bad_framing");
    BAD("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "bad_framing");
    BAD("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\n",
        "bad_framing");
    BAD("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", "bad_framing");
    BAD("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,5\r\n\r\n", "bad_framing");
    BAD("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", "bad_framing");
    BAD("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "bad_framing");
    BAD("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "not_implemented");
    BAD("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "not_implemented");
    BAD("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
        "bad_framing");
    BAD("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "bad_framing");
}
END_TEST

START_TEST(lines_end_with_crlf_and_hold_no_nul)
{
    BAD("GET / HTTP/1.1\nHost: a\r\n\r\n", "bad_framing");
    BAD("GET / HTTP/1.1\r\nHost: a\n\r\n", "bad_framing");
    BAD("GET / HTTP/1.1\r\nHost: a\r\n\n", "bad_framing");
    BAD("GET / HTTP/1.1\r\nX: 1\nHost: a\r\n\r\n", "bad_framing");
    BAD("GET / HTTP/1.1\r\nHost: a\r\nX: 1\0002\r\n\r\n", "bad_framing");
    BAD("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", "bad_framing");
    BAD("GET /\0x HTTP/1.1\r\nHost: a\r\n\r\n", "bad_framing");
    BAD("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r2\r\n\r\n", "bad_framing");
    BAD("GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n", "bad_framing");
    BAD("GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n", "bad_framing");
    BAD("GET / HTTP/1.1\r\n Host: a\r\n\r\n", "bad_framing");
}
END_TEST

START_TEST(a_long_target_has_its_own_status)
{
    static char head[9000] = "GET /";
    memset(head + 5, 'a', 8100);
    strcpy(head + 5 + 8100, " HTTP/1.1\r\nHost: a\r\n\r\n");
    struct framing_head h = {
        .method = {head, 3}, .target = {head + 4, 8101}, .version = {head + 8106, 8}};
    ck_assert(!framing_check(&h, &facts, &e));
    ck_assert_str_eq(e.code, "uri_too_long");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("framing");
    TCase *c = suite_case(s, "framing", 60);
    tcase_add_test(c, ordinary_requests_are_taken);
    tcase_add_test(c, targets_have_three_forms);
    tcase_add_test(c, what_ends_a_request_is_said_once);
    tcase_add_test(c, lines_end_with_crlf_and_hold_no_nul);
    tcase_add_test(c, a_long_target_has_its_own_status);
    return suite_run(s);
}
