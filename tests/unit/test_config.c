/* Settings: precedence, ranges just outside, names from elsewhere, and hostile config files. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/options.h"
#include "config/base/size.h"
#include "tests/suite.h"

static bool parse(struct config *c, struct error *e, const char *first, ...)
{
    char *argv[32] = {(char *)"serve"};
    int argc = 1;
    bool help;
    va_list arguments;
    va_start(arguments, first);
    for (const char *a = first; a && argc < 32; a = va_arg(arguments, const char *))
        argv[argc++] = (char *)a;
    va_end(arguments);
    return config_parse(c, argc, argv, &help, e);
}

static char *temporary_file(const char *text)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/winnow-config-XXXXXX");
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    return path;
}

static struct config c;
static struct error e;

START_TEST(defaults_are_those_of_the_help)
{
    ck_assert(parse(&c, &e, "m.gguf", NULL));
    ck_assert_str_eq(c.host, "127.0.0.1");
    ck_assert_uint_eq(c.port, 8080);
    ck_assert_uint_eq(c.max_body_bytes, 16 << 20);
    ck_assert_uint_eq(c.max_queue, 4096);
    ck_assert_uint_eq(c.sse_ping_interval_ms, 15000);
    ck_assert_str_eq(c.kv_policy, "full");
    ck_assert_uint_eq(c.n_api_keys, 0);
    config_clear(&c);
}
END_TEST

START_TEST(flag_beats_environment_beats_file)
{
    char *path = temporary_file("{\"port\": 1001, \"max_queue\": 7, \"alias\": \"file\", "
                                "\"kv_policy\": {\"name\":\"sink\",\"budget\":64}}");
    setenv("WINNOW_PORT", "1002", 1);
    setenv("WINNOW_ALIAS", "environment", 1);
    ck_assert_msg(parse(&c, &e, "m.gguf", "--port", "1003", "--config", path, NULL), "%s",
                  e.message);
    ck_assert_uint_eq(c.port, 1003);
    ck_assert_str_eq(c.alias, "environment");
    ck_assert_uint_eq(c.max_queue, 7);
    ck_assert_str_eq(c.kv_policy, "{\"name\":\"sink\",\"budget\":64}");
    config_clear(&c);
    unsetenv("WINNOW_PORT");
    unsetenv("WINNOW_ALIAS");
    unlink(path);
}
END_TEST

START_TEST(keys_come_from_flags_files_and_environment_by_precedence)
{
    char *path = temporary_file("# comment\nalice:secret-a\n\nsecret-b\n");
    setenv("WINNOW_API_KEY", "from-environment", 1);
    ck_assert_msg(parse(&c, &e, "m", "--api-key", "x,y", "--api-key-file", path, NULL), "%s",
                  e.message);
    ck_assert_uint_eq(c.n_api_keys, 4);
    ck_assert_str_eq(c.api_keys[1].key, "y");
    ck_assert_str_eq(c.api_keys[2].name, "alice");
    ck_assert_str_eq(c.api_keys[2].key, "secret-a");
    ck_assert_str_eq(c.api_keys[3].name, "key4");
    config_clear(&c);
    ck_assert(parse(&c, &e, "m", NULL));
    ck_assert_uint_eq(c.n_api_keys, 1);
    ck_assert_str_eq(c.api_keys[0].key, "from-environment");
    config_clear(&c);
    unsetenv("WINNOW_API_KEY");
    unlink(path);
}
END_TEST

START_TEST(an_empty_key_file_is_refused)
{
    char *path = temporary_file("# nothing\n");
    ck_assert(!parse(&c, &e, "m", "--api-key-file", path, NULL));
    ck_assert_ptr_nonnull(strstr(e.message, "no key"));
    unlink(path);
}
END_TEST

START_TEST(every_number_is_refused_just_outside_its_range)
{
    for (unsigned i = 0; i < n_option_rows; i++) {
        const struct option_row *row = &option_rows[i];
        if (row->kind != OPTION_NUMBER || !row->at[OPTION_SERVE])
            continue;
        char flag[64], text[32];
        snprintf(flag, sizeof flag, "--%s", row->name);
        snprintf(text, sizeof text, "%llu", (unsigned long long)row->max + 1);
        ck_assert_msg(!parse(&c, &e, "m", flag, text, NULL), "%s %s", flag, text);
        ck_assert_ptr_nonnull(strstr(e.message, flag));
        const char *bad[] = {"-1", "1.5", "", "1x", "0x10", "99999999999999999999999", " 1"};
        for (unsigned k = 0; k < sizeof bad / sizeof *bad; k++)
            ck_assert_msg(!parse(&c, &e, "m", flag, bad[k], NULL), "%s '%s'", flag, bad[k]);
        if (row->min > 0) {
            snprintf(text, sizeof text, "%llu", (unsigned long long)row->min - 1);
            ck_assert_msg(!parse(&c, &e, "m", flag, text, NULL), "%s %s", flag, text);
        }
        snprintf(text, sizeof text, "%llu", (unsigned long long)row->max);
        if (strcmp(row->name, "metrics-port")) {
            ck_assert_msg(parse(&c, &e, "m", flag, text, NULL), "%s %s: %s", flag, text, e.message);
            config_clear(&c);
        }
    }
}
END_TEST

START_TEST(an_unknown_flag_suggests_the_nearest)
{
    ck_assert(!parse(&c, &e, "m", "--kv-polcy", "sink", NULL));
    ck_assert_ptr_nonnull(strstr(e.message, "--kv-policy"));
    ck_assert(!parse(&c, &e, "m", "--qqqqqqqqqq", NULL));
    ck_assert_ptr_null(strstr(e.message, "did you mean"));
}
END_TEST

START_TEST(names_of_llama_server_and_vllm_work)
{
    ck_assert_msg(parse(&c, &e, "-m", "x.gguf", "--served-model-name", "n", "--max-model-len=512",
                        "-np", "3", "-t", "2", "--max-num-batched-tokens", "99", "--kv-cache-dtype",
                        "f16", "--metrics", NULL),
                  "%s", e.message);
    ck_assert_str_eq(c.model, "x.gguf");
    ck_assert_str_eq(c.alias, "n");
    ck_assert_uint_eq(c.ctx_size, 512);
    ck_assert_uint_eq(c.max_num_seqs, 3);
    ck_assert_uint_eq(c.threads, 2);
    ck_assert_uint_eq(c.max_batched_tokens, 99);
    config_clear(&c);
}
END_TEST

START_TEST(what_this_version_lacks_is_refused_with_a_reason)
{
    ck_assert(!parse(&c, &e, "m", "--timeout", "x", NULL));
    ck_assert_str_eq(e.code, "unsupported_parameter");
}
END_TEST

/* A server whose key is empty by mistake would serve everybody. */
START_TEST(an_empty_key_is_an_error_wherever_it_comes_from)
{
    const char *empty[] = {"", ",", " ", " , ,"};
    for (unsigned i = 0; i < sizeof empty / sizeof *empty; i++) {
        ck_assert_msg(!parse(&c, &e, "m", "--api-key", empty[i], NULL), "'%s'", empty[i]);
        ck_assert_str_eq(e.code, "invalid_value");
        ck_assert_msg(!parse(&c, &e, "m", "--admin-api-key", empty[i], NULL) || i == 1, "'%s'",
                      empty[i]); /* a comma is a key's character there */
        config_clear(&c);
    }
    const char *files[] = {"{\"api-key\": \"\"}", "{\"api_key\": []}",
                           "{\"api-key\": [\"a\", \"\"]}", "{\"admin_api_key\": \"\"}"};
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
        char *path = temporary_file(files[i]);
        ck_assert_msg(!parse(&c, &e, "m", "--config", path, NULL), "%s", files[i]);
        unlink(path);
    }
    const char *variables[] = {"WINNOW_API_KEY", "WINNOW_ADMIN_API_KEY", "WINNOW_API_KEY_FILE"};
    for (unsigned i = 0; i < sizeof variables / sizeof *variables; i++) {
        setenv(variables[i], "", 1);
        ck_assert_msg(!parse(&c, &e, "m", NULL), "%s", variables[i]);
        ck_assert_msg(strstr(e.message, variables[i]), "%s", e.message);
        unsetenv(variables[i]);
    }
    setenv("WINNOW_ALIAS", "", 1); /* other empty variables count as not set */
    ck_assert_msg(parse(&c, &e, "m", "--api-key", "a,,b", NULL), "%s", e.message);
    ck_assert_uint_eq(c.n_api_keys, 2);
    unsetenv("WINNOW_ALIAS");
    config_clear(&c);
}
END_TEST

START_TEST(certificate_and_key_belong_together)
{
    ck_assert_msg(parse(&c, &e, "m", "--ssl-certfile", "c", "--ssl-key-file", "k", NULL), "%s",
                  e.message);
    ck_assert_str_eq(c.tls_cert, "c");
    ck_assert_str_eq(c.tls_key, "k");
    config_clear(&c);
    ck_assert_msg(parse(&c, &e, "m", "--ssl-cert-file", "c", "--ssl-keyfile", "k", NULL), "%s",
                  e.message);
    config_clear(&c);
    ck_assert(!parse(&c, &e, "m", "--tls-cert", "c", NULL));
    ck_assert_str_eq(e.where, "--tls-key");
    ck_assert(!parse(&c, &e, "m", "--tls-key", "k", NULL));
    ck_assert_str_eq(e.where, "--tls-cert");
    ck_assert(!parse(&c, &e, "m", "--tls-cert", "c", "--tls-key", "k", "--host", "unix:/s", NULL));
}
END_TEST

START_TEST(pings_are_off_or_at_least_a_tenth_of_a_second_apart)
{
    ck_assert(!parse(&c, &e, "m", "--sse-ping-interval", "0.001", NULL));
    ck_assert_msg(strstr(e.message, "from 0.1"), "%s", e.message);
    ck_assert(parse(&c, &e, "m", "--sse-ping-interval", "0.1", NULL));
    ck_assert_uint_eq(c.sse_ping_interval_ms, 100);
    config_clear(&c);
    ck_assert(parse(&c, &e, "m", "--sse-ping-interval", "0", NULL));
    config_clear(&c);
}
END_TEST

START_TEST(bad_config_files_say_where)
{
    const char *bad[] = {"",
                         "[]",
                         "{\"port\":",
                         "{\"port\": \"x\"}",
                         "{\"prot\": 1}",
                         "{\"port\": [1]}",
                         "{\"kv-policy-lock\": 1}",
                         "{\"cors-origins\": [1]}",
                         "{\"port\": -1}",
                         "{\"config\": \"x\"}"};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *path = temporary_file(bad[i]);
        ck_assert_msg(!parse(&c, &e, "m", "--config", path, NULL), "%s", bad[i]);
        ck_assert_msg(strstr(e.message, path), "%s: %s", bad[i], e.message);
        unlink(path);
    }
    ck_assert(!parse(&c, &e, "m", "--config", "/nonexistent", NULL));
}
END_TEST

START_TEST(a_list_of_a_higher_source_replaces_the_lower_one)
{
    setenv("WINNOW_CORS_ORIGINS", "http://a, http://b", 1);
    ck_assert(parse(&c, &e, "m", NULL));
    ck_assert_uint_eq(c.cors_origins.count, 2);
    ck_assert_str_eq(c.cors_origins.items[1], "http://b");
    config_clear(&c);
    ck_assert(parse(&c, &e, "m", "--cors", "http://c", "--cors", "http://d", NULL));
    ck_assert_uint_eq(c.cors_origins.count, 2);
    ck_assert_str_eq(c.cors_origins.items[0], "http://c");
    config_clear(&c);
    unsetenv("WINNOW_CORS_ORIGINS");
}
END_TEST

START_TEST(sizes_and_seconds)
{
    uint64_t v;
    ck_assert(size_parse("4G", &v) && v == 4ull << 30);
    ck_assert(size_parse("1.5k", &v) && v == 1536);
    ck_assert(size_parse("65536", &v) && v == 65536);
    ck_assert(!size_parse("-1", &v) && !size_parse("4X", &v) && !size_parse("", &v) &&
              !size_parse("1.5", &v));
    ck_assert(!size_parse("99999999999999999999T", &v));
    ck_assert(seconds_parse("0.25", &v) && v == 250);
    ck_assert(seconds_parse("0", &v) && v == 0);
    ck_assert(!seconds_parse("0.0001", &v) && !seconds_parse("nan", &v) &&
              !seconds_parse("1e10", &v));
    ck_assert(parse(&c, &e, "m", "--kv-memory", "0.25", NULL));
    ck_assert_double_eq(c.kv_memory.share, 0.25);
    ck_assert_uint_eq(c.kv_memory.bytes, 0);
    config_clear(&c);
    ck_assert(!parse(&c, &e, "m", "--kv-memory", "1", NULL));
    ck_assert(!parse(&c, &e, "m", "--kv-memory", "1.5", NULL));
    ck_assert(!parse(&c, &e, "m", "--kv-memory", "-4G", NULL));
}
END_TEST

START_TEST(an_excerpt_is_short_and_printable)
{
    char out[80];
    ck_assert_str_eq(error_excerpt(out, "a\x01\xff\xc3\xa9", 5), "a??\xc3\xa9");
    char large[200];
    memset(large, 'x', sizeof large);
    ck_assert_uint_eq(strlen(error_excerpt(out, large, sizeof large)), 67);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("config");
    TCase *t = suite_case(suite, "config", 60);
    tcase_add_test(t, defaults_are_those_of_the_help);
    tcase_add_test(t, flag_beats_environment_beats_file);
    tcase_add_test(t, keys_come_from_flags_files_and_environment_by_precedence);
    tcase_add_test(t, an_empty_key_file_is_refused);
    tcase_add_test(t, every_number_is_refused_just_outside_its_range);
    tcase_add_test(t, an_unknown_flag_suggests_the_nearest);
    tcase_add_test(t, names_of_llama_server_and_vllm_work);
    tcase_add_test(t, what_this_version_lacks_is_refused_with_a_reason);
    tcase_add_test(t, an_empty_key_is_an_error_wherever_it_comes_from);
    tcase_add_test(t, certificate_and_key_belong_together);
    tcase_add_test(t, pings_are_off_or_at_least_a_tenth_of_a_second_apart);
    tcase_add_test(t, bad_config_files_say_where);
    tcase_add_test(t, a_list_of_a_higher_source_replaces_the_lower_one);
    tcase_add_test(t, sizes_and_seconds);
    tcase_add_test(t, an_excerpt_is_short_and_printable);
    return suite_run(suite);
}
