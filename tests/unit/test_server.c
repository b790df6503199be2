/* The whole server in this process: what goes in at the socket and what comes out. One server serves
 * all tests; the answers themselves are checked by tests/e2e. */
#include <check.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/server.h"
#include "tests/suite.h"
#include "tests/unit/http_client.h"

#define MODEL "tests/data/stories260K.gguf"
#define ONCE  "\"prompt\":\"Once upon a time\",\"temperature\":0"

static struct config config;
static pthread_t thread;
static char path[80];
static int exit_code;

static void *serve(void *context)
{
    (void)context;
    exit_code = server_run(&config);
    return NULL;
}

static void start(void)
{
    struct error e;
    char host[90];
    bool help;
    snprintf(path, sizeof path, "/tmp/winnow-server-%d", getpid());
    snprintf(host, sizeof host, "unix:%s", path);
    char *argv[] = {(char *)"serve",
                    (char *)MODEL,
                    (char *)"--device",
                    (char *)"cpu",
                    (char *)"--host",
                    host,
                    (char *)"--api-key",
                    (char *)"k1,k2",
                    (char *)"--admin-api-key",
                    (char *)"root",
                    (char *)"--metrics-compat",
                    (char *)"vllm-legacy",
                    (char *)"--max-body",
                    (char *)"64K",
                    (char *)"--max-per-key",
                    (char *)"8",
                    (char *)"--cors-origins",
                    (char *)"http://friend.example",
                    (char *)"--log-level",
                    (char *)"error",
                    (char *)"--list-policy-models"};
    ck_assert_msg(config_parse(&config, sizeof argv / sizeof *argv, argv, &help, &e), "%s",
                  e.message);
    ck_assert_int_eq(pthread_create(&thread, NULL, serve, NULL), 0);
    while (access(path, F_OK))
        usleep(10000);
    for (int status = 0; status != 200;) {
        struct http_answer a = client_ask(path, "GET", "/readyz", "", NULL);
        status = a.status;
        free(a.text);
        usleep(10000);
    }
}

static void stop(void)
{
    kill(getpid(), SIGTERM);
    pthread_join(thread, NULL);
    ck_assert_int_eq(exit_code, 0);
    config_clear(&config);
}

#define KEY "Authorization: Bearer k1\r\n"

static struct http_answer ask(const char *method, const char *url, const char *body)
{
    return client_ask(path, method, url, KEY "Content-Type: application/json\r\n", body);
}

/* Asks and looks for the status and a piece of the answer's head or body. */
static void expect(const char *method, const char *url, const char *headers, const char *body,
                   int status, const char *piece)
{
    struct http_answer a = client_ask(path, method, url, headers, body);
    bool there = !*piece || strcasestr(a.text, piece) || (a.body && strstr(a.body, piece));
    ck_assert_msg(a.status == status && there, "%s %s %s: %d, wanted %d with '%s': %s\n%s", method,
                  url, body ? body : "", a.status, status, piece, a.text, a.body);
    free(a.text);
}

static json_t *post(const char *url, const char *body)
{
    struct http_answer a = ask("POST", url, body);
    json_t *value = json_loads(a.body, 0, NULL);
    ck_assert_msg(a.status == 200 && value, "%s: %d %s", body, a.status, a.body);
    free(a.text);
    return value;
}

static const json_t *choice(const json_t *answer, size_t index)
{
    return json_array_get(json_object_get(answer, "choices"), index);
}

static const char *text_of(const json_t *answer, size_t index)
{
    return json_string_value(json_object_get(choice(answer, index), "text"));
}

/* ---- answers */

START_TEST(a_stream_says_what_a_whole_answer_says)
{
    json_t *whole = post("/v1/completions", "{" ONCE ",\"max_tokens\":24,\"logprobs\":2}");
    struct http_answer a =
        ask("POST", "/v1/completions",
            "{" ONCE ",\"max_tokens\":24,\"logprobs\":2,\"stream\":true,\"stream_options\":"
            "{\"include_usage\":true},\"return_progress\":true}");
    char text[1024] = "", *rest = NULL;
    bool done = false;
    ck_assert_int_eq(a.status, 200);
    ck_assert_ptr_nonnull(strcasestr(a.text, "text/event-stream"));
    for (char *line = strtok_r(a.body, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        ck_assert_msg(!done && !strncmp(line, "data: ", 6), "%s", line);
        done = !strcmp(line, "data: [DONE]");
        json_t *chunk = done ? NULL : json_loads(line + 6, 0, NULL);
        ck_assert(done || chunk);
        if (chunk && text_of(chunk, 0))
            strcat(text, text_of(chunk, 0));
        json_decref(chunk);
    }
    ck_assert(done);
    ck_assert_str_eq(text, text_of(whole, 0));
    ck_assert_int_eq(
        json_integer_value(json_object_get(json_object_get(whole, "usage"), "completion_tokens")),
        24);
    json_decref(whole);
    free(a.text);
}
END_TEST

START_TEST(choices_of_several_prompts_stand_in_their_order)
{
    json_t *answer =
        post("/v1/completions",
             "{\"prompt\":[\"Once\",\"The cat\"],\"n\":2,\"max_tokens\":4,\"echo\":true,"
             "\"temperature\":0,\"return_token_ids\":true,\"logprobs\":1}");
    ck_assert_uint_eq(json_array_size(json_object_get(answer, "choices")), 4);
    for (size_t i = 0; i < 4; i++) {
        const char *start = i < 2 ? "Once" : "The cat";
        ck_assert_int_eq(json_integer_value(json_object_get(choice(answer, i), "index")), (int)i);
        ck_assert_msg(!strncmp(text_of(answer, i), start, strlen(start)), "%s", text_of(answer, i));
        ck_assert(json_array_size(json_object_get(choice(answer, i), "token_ids")) == 4);
        ck_assert(json_array_size(json_object_get(choice(answer, i), "prompt_token_ids")) > 0);
    }
    json_decref(answer);
}
END_TEST

START_TEST(prompts_of_tokens_are_echoed_as_text)
{
    json_t *answer =
        post("/v1/completions",
             "{\"prompt\":[1,403,407,261,378],\"echo\":true,\"max_tokens\":1,\"stream\":false}");
    ck_assert_ptr_nonnull(strstr(text_of(answer, 0), "Once upon a time"));
    json_decref(answer);
}
END_TEST

START_TEST(chats_are_rendered_alike_by_every_endpoint)
{
    static const char chat[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"Tell me a story\"}],"
        "\"max_tokens\":4,\"temperature\":0}";
    json_t *answer = post("/v1/chat/completions", chat), *count = post("/tokenize", chat),
           *rendered = post("/apply-template", chat),
           *input = post("/v1/chat/completions/input_tokens", chat);
    json_int_t n =
        json_integer_value(json_object_get(json_object_get(answer, "usage"), "prompt_tokens"));
    ck_assert_int_gt(n, 4);
    ck_assert_int_eq(json_integer_value(json_object_get(count, "count")), n);
    ck_assert_int_eq(json_integer_value(json_object_get(rendered, "tokens")), n);
    ck_assert_int_eq(json_integer_value(json_object_get(input, "input_tokens")), n);
    ck_assert_ptr_nonnull(
        strstr(json_string_value(json_object_get(rendered, "prompt")), "Tell me a story"));
    json_decref(answer);
    json_decref(count);
    json_decref(rendered);
    json_decref(input);
}
END_TEST

START_TEST(a_streamed_chat_begins_with_its_role_and_ends_with_its_numbers)
{
    expect(
        "POST", "/v1/chat/completions", KEY,
        "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":3,\"stream\":true,"
        "\"n\":2,\"logprobs\":true,\"top_logprobs\":2,\"return_token_ids\":true,\"kv_policy\":"
        "{\"name\":\"sink\",\"budget\":64}}",
        200, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}");
    expect(
        "POST", "/v1/chat/completions", KEY,
        "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":3,\"stream\":true,"
        "\"kv_policy\":{\"name\":\"sink\",\"budget\":64}}",
        200, "\"kv_cache\":{\"policy\":\"sink\"");
    expect("POST", "/v1/chat/completions", KEY,
           "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":3}", 200,
           "OpenAI-Processing-Ms");
}
END_TEST

START_TEST(the_policy_of_an_answer_is_in_its_header)
{
    static const char body[] = "{" ONCE ",\"max_tokens\":2}";
    expect("POST", "/v1/completions", KEY, body, 200, "X-KV-Policy: full");
    expect("POST", "/v1/completions", KEY "X-KV-Policy: {\"name\":\"sink\",\"budget\":64}\r\n",
           body, 200, "X-KV-Policy: sink; budget=64; source=header");
    expect("POST", "/v1/completions", KEY, "{" ONCE ",\"max_tokens\":2,\"model\":\"m@snapkv:64\"}",
           200, "X-KV-Policy: snapkv; budget=64; source=model");
    expect("POST", "/v1/completions", KEY,
           "{" ONCE
           ",\"max_tokens\":2,\"kv_policy\":{\"name\":\"h2o\",\"budget\":64,\"trace\":true}}",
           200, "\"kv_trace\"");
}
END_TEST

START_TEST(a_session_goes_on_under_its_policy_and_can_be_deleted)
{
    expect(
        "POST", "/v1/completions", KEY,
        "{" ONCE
        ",\"max_tokens\":4,\"session_id\":\"s1\",\"kv_policy\":{\"name\":\"sink\",\"budget\":64}}",
        200, "\"session\":{\"id\":\"s1\"");
    expect("GET", "/v1/kv/sessions", KEY, NULL, 200, "\"id\":\"s1\"");
    expect("GET", "/v1/kv/sessions/s1", KEY, NULL, 200, "\"policy\":\"sink\"");
    expect("GET", "/v1/kv/sessions/s1", "Authorization: Bearer k2\r\n", NULL, 404,
           "session_not_found");
    expect("POST", "/v1/completions", KEY, "{" ONCE ",\"max_tokens\":4,\"session_id\":\"s1\"}", 200,
           "source=session");
    expect("DELETE", "/v1/kv/sessions/s1", KEY, NULL, 200, "\"deleted\":true");
    expect("DELETE", "/v1/kv/sessions/s1", KEY, NULL, 404, "session_not_found");
}
END_TEST

START_TEST(options_of_a_request_reach_the_engine)
{
    json_t *a = post("/v1/completions", "{" ONCE ",\"max_tokens\":40,\"stop\":[\"girl\",\"zzz\"]}");
    ck_assert_ptr_null(strstr(text_of(a, 0), "girl"));
    ck_assert_str_eq(json_string_value(json_object_get(choice(a, 0), "stop_reason")), "girl");
    json_decref(a);
    a = post("/v1/completions", "{" ONCE ",\"max_tokens\":8,\"logit_bias\":{\"403\":100}}");
    ck_assert_msg(strstr(text_of(a, 0), "Once Once Once"), "%s", text_of(a, 0));
    json_decref(a);
    a = post("/v1/completions",
             "{" ONCE ",\"max_tokens\":8,\"stop_token_ids\":[403],\"logit_bias\":"
             "{\"403\":100}}");
    ck_assert_int_eq(json_integer_value(json_object_get(choice(a, 0), "stop_reason")), 403);
    json_decref(a);
    expect("POST", "/v1/completions", KEY, "{\"prompt\":\"x\",\"max_tokens\":3,\"seed\":7}", 200,
           "\"seed\":7");
}
END_TEST

/* ---- what is refused, and how */

START_TEST(bodies_are_refused_with_the_field_that_is_wrong)
{
    expect("POST", "/v1/chat/completions", KEY, "{\"messages\":", 400, "invalid_json");
    expect("POST", "/v1/chat/completions", KEY, "", 400, "the body is empty");
    expect("POST", "/v1/chat/completions", KEY, "{\"messages\":[]}", 400, "\"param\":\"messages\"");
    expect("POST", "/v1/completions", KEY, "{\"prompt\":\"x\",\"temperature\":3}", 400,
           "\"param\":\"temperature\"");
    expect("POST", "/v1/completions", KEY, "{\"prompt\":\"\"}", 200, "");
    expect("POST", "/v1/completions", KEY, "{\"prompt\":\"x\",\"kv_policy\":\"snapvk\"}", 400,
           "invalid_kv_policy");
    expect("POST", "/v1/completions", KEY "X-KV-Policy: {\r\n", "{\"prompt\":\"x\"}", 400,
           "X-KV-Policy");
    expect("POST", "/v1/chat/completions", KEY,
           "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[{}]}", 400,
           "unsupported_parameter");
    expect("POST", "/v1/embeddings", KEY, "{}", 400, "unsupported_parameter");
    expect("POST", "/tokenize", KEY, "{}", 400, "missing_required_parameter");
    expect("POST", "/tokenize", KEY, "{\"content\":\"a\",\"prompt\":\"b\"}", 400, "only one of");
    expect("POST", "/tokenize", KEY, "{\"content\":1}", 400, "invalid_type");
    expect("POST", "/detokenize", KEY, "{\"tokens\":[-1]}", 400, "tokens[0]");
    expect("POST", "/detokenize", KEY, "{\"tokens\":[\"a\"]}", 400, "invalid_type");
    expect("POST", "/apply-template", KEY,
           "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"chat_template_kwargs\":1}", 400,
           "chat_template_kwargs must be an object");
    expect("POST", "/apply-template", KEY,
           "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"add_generation_prompt\":true,"
           "\"continue_final_message\":true}",
           400, "cannot both be true");
}
END_TEST

START_TEST(a_prompt_beyond_the_context_is_refused_in_the_words_that_agents_know)
{
    char body[8192];
    size_t n = (size_t)snprintf(body, sizeof body, "{\"max_tokens\":1,\"prompt\":\"");
    while (n < 6000)
        n += (size_t)snprintf(body + n, sizeof body - n, "word ");
    snprintf(body + n, sizeof body - n, "\"}");
    expect("POST", "/v1/completions", KEY, body, 400, "maximum context length is 512 tokens");
}
END_TEST

START_TEST(the_door_refuses_before_the_handler)
{
    static const char body[] = "{\"prompt\":\"x\",\"max_tokens\":1}";
    expect("POST", "/v1/completions", "", body, 401, "WWW-Authenticate: Bearer");
    expect("POST", "/v1/completions", "X-Api-Key: wrong\r\n", body, 401, "the API key is wrong");
    expect("POST", "/v1/completions", "Api-Key: k2\r\n", body, 200, "");
    expect("POST", "/v1/completions", KEY "Origin: http://evil.example\r\n", body, 403,
           "origin_not_allowed");
    expect("POST", "/v1/completions", KEY "Origin: http://friend.example\r\n", body, 200,
           "Access-Control-Allow-Origin: http://friend.example");
    expect("POST", "/v1/completions", KEY "Content-Type: multipart/form-data\r\n", body, 415,
           "unsupported_media_type");
    expect("POST", "/v1/completions", KEY "Content-Encoding: gzip\r\n", body, 415,
           "Content-Encoding");
    expect("GET", "/v1/completions", KEY, NULL, 405, "Allow: POST, OPTIONS");
    expect("GET", "/v1/nothing", KEY, NULL, 404, "there is no /nothing here");
    expect("GET", "/v1/audio/speech", KEY, NULL, 404, "text models only");
    expect("OPTIONS", "/v1/models", "Origin: http://friend.example\r\n", NULL, 204,
           "Access-Control-Allow-Methods");
    expect("HEAD", "/v1/models", KEY, NULL, 200, "Content-Type: application/json");
    expect("GET", "/v1/models", KEY "X-Request-Id: abc-1\r\n", NULL, 200, "X-Request-Id: abc-1");
    expect("GET", "/v1/models", KEY "X-Request-Id: a b\r\n", NULL, 200, "X-Request-Id: req-");
    expect("POST", "/v1/kv/flush", KEY, "", 403, "admin_key_required");
}
END_TEST

START_TEST(too_much_is_refused_before_it_is_read)
{
    size_t n = 70000;
    char *body = malloc(n + 1), *header = malloc(20000);
    memset(body, ' ', n);
    body[n] = 0;
    expect("POST", "/v1/completions", KEY, body, 413, "body_too_large");
    memset(header, 'x', 17000);
    memcpy(header, "X-Long: ", 8);
    memcpy(header + 17000, "\r\n", 3);
    int fd = client_connect(path);
    client_send(fd, "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n", 61);
    client_send(fd, header, strlen(header));
    client_send(fd, "\r\n", 2);
    struct http_answer a = client_read(fd);
    ck_assert_int_eq(a.status, 431);
    free(a.text);
    free(body);
    free(header);
}
END_TEST

/* ---- clients that leave, and many at once */

static bool nothing_runs(void)
{
    struct http_answer a = ask("GET", "/v1/kv/stats", NULL);
    json_t *value = json_loads(a.body, 0, NULL);
    bool idle = json_array_size(json_object_get(value, "sequences")) == 0;
    json_decref(value);
    free(a.text);
    return idle;
}

START_TEST(the_work_of_a_client_that_left_ends)
{
    static const char body[] = "{\"prompt\":\"Once\",\"max_tokens\":400,\"ignore_eos\":true,"
                               "\"stream\":true,\"kv_policy\":{\"name\":\"sink\",\"budget\":64}}";
    int fds[4];
    char byte;
    for (int i = 0; i < 4; i++)
        fds[i] = client_start(path, "POST", "/v1/completions", KEY, body);
    ck_assert_int_eq(recv(fds[0], &byte, 1, 0), 1);
    for (int i = 0; i < 4; i++)
        close(fds[i]); /* some while the pool has them, some in the middle of their answer */
    for (int tries = 0; tries < 1000 && !nothing_runs(); tries++)
        usleep(10000);
    ck_assert(nothing_runs());
}
END_TEST

START_TEST(a_key_has_its_share_and_no_more)
{
    static const char body[] =
        "{\"prompt\":\"Once\",\"max_tokens\":200,\"ignore_eos\":true,\"n\":2}";
    int fds[12], n_refused = 0; /* 8 choices may run, which are 4 of these */
    for (int i = 0; i < 12; i++)
        fds[i] = client_start(path, "POST", "/v1/completions", KEY, body);
    for (int i = 0; i < 12; i++) {
        struct http_answer a = client_read(fds[i]);
        ck_assert_msg(a.status == 200 || a.status == 429, "%d %s", a.status, a.body);
        if (a.status == 429)
            ck_assert_ptr_nonnull(strcasestr(a.text, "Retry-After: 1"));
        n_refused += a.status == 429;
        free(a.text);
    }
    ck_assert_int_gt(n_refused, 0);
    ck_assert_int_le(n_refused, 8);
    expect("POST", "/v1/completions", KEY, "{\"prompt\":\"Once\",\"n\":9}", 400, "--max-per-key");
}
END_TEST

START_TEST(prompts_over_a_keys_share_wait_for_each_other)
{
    json_t *value =
        post("/v1/completions", "{\"prompt\":[\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\"],\"n\":3,"
                                "\"max_tokens\":3,\"ignore_eos\":true}");
    ck_assert_uint_eq(json_array_size(json_object_get(value, "choices")), 21);
    json_decref(value);
}
END_TEST

/* ---- looking */

START_TEST(texts_become_tokens_and_texts_again)
{
    expect("POST", "/tokenize", KEY, "{\"content\":\"Once upon a time\"}", 200,
           "\"tokens\":[403,407,261,378]");
    expect("POST", "/tokenize", KEY,
           "{\"content\":\"Once\",\"with_pieces\":true,\"add_special\":true}", 200, "\"piece\":");
    expect("POST", "/tokenize", KEY,
           "{\"prompt\":\"Once\",\"return_token_strs\":true,\"with_pieces\":true}", 200,
           "\"token_strs\":[");
    expect("POST", "/detokenize", KEY, "{\"tokens\":[403,407,261,378]}", 200, "Once upon a time");
    expect("GET", "/tokenizer_info", KEY, NULL, 200, "\"bos_token\"");
}
END_TEST

START_TEST(the_server_says_what_it_is)
{
    expect("GET", "/v1/models", KEY, NULL, 200, "@snapkv\"");
    expect("GET", "/v1/models/stories260K@sink", KEY, NULL, 200, "stories260K@sink");
    expect("GET", "/v1/models/other", KEY, NULL, 404, "model_not_found");
    expect("GET", "/version", KEY, NULL, 200, "\"version\"");
    expect("GET", "/props", KEY, NULL, 200, "\"default_kv_policy\"");
    expect("GET", "/v1/kv/policies", KEY, NULL, 200, "\"schema\"");
    expect("GET", "/v1/kv/policies?dry_run=sink&prompt_tokens=100", KEY, NULL, 200, "\"bound\"");
    expect("GET", "/v1/kv/policies?dry_run=sink&prompt_tokens=x", KEY, NULL, 400, "prompt_tokens");
    expect("POST", "/v1/kv/policies/resolve", KEY,
           "{\"kv_policy\":{\"name\":\"sink\",\"budget\":64},\"prompt_tokens\":100,\"total_"
           "tokens\":500}",
           200, "\"total_tokens\":500");
    expect("POST", "/v1/kv/policies/resolve", KEY, "{}", 400, "kv_policy is missing");
    expect("POST", "/v1/kv/policies/resolve", KEY,
           "{\"kv_policy\":{\"name\":\"sink\",\"budget\":64},\"prompt_tokens\":0}", 400,
           "it must be from 1");
    expect("GET", "/v1/kv/stats", KEY, NULL, 200, "\"page_slots\":32");
}
END_TEST

START_TEST(questions_to_the_engine_are_answered)
{
    json_t *answer = post("/v1/completions", "{" ONCE ",\"max_tokens\":2}");
    char url[128];
    snprintf(url, sizeof url, "/v1/kv/requests/%s",
             json_string_value(json_object_get(answer, "id")));
    expect("GET", url, KEY, NULL, 200, "\"layers\":[[{\"slots\"");
    expect("GET", url, "Authorization: Bearer k2\r\n", NULL, 404, "not_found");
    expect("GET", "/v1/kv/requests/none", KEY, NULL, 404, "no request 'none'");
    expect("POST", "/v1/kv/flush", "Authorization: Bearer root\r\n", "", 200, "pages_freed");
    json_decref(answer);
}
END_TEST

START_TEST(probes_metrics_and_the_page_need_no_key)
{
    expect("GET", "/health", "", NULL, 200, "\"status\":\"ok\"");
    expect("GET", "/v1/health", "", NULL, 200, "\"status\":\"ok\"");
    expect("GET", "/livez", "", NULL, 200, "\"status\":\"ok\"");
    expect("GET", "/metrics", "", NULL, 200,
           "winnow_requests_total{endpoint=\"health\",code=\"200\"}");
    expect("GET", "/metrics", "", NULL, 200, "vllm:gpu_cache_usage_perc{model_name=");
    expect("GET", "/metrics", "", NULL, 200, "process_start_time_seconds ");
    expect("GET", "/", "", NULL, 200, "Content-Security-Policy");
    expect("GET", "/page/page.js", "", NULL, 200, "text/javascript");
    expect("GET", "/page/page.js", "If-None-Match: *\r\n", NULL, 304, "ETag");
    expect("GET", "/page/none.js", "", NULL, 404, "no file with this name");
}
END_TEST

/* ---- what start refuses */

static int run(const char *flag, const char *value)
{
    struct config c;
    struct error e;
    bool help;
    char *argv[] = {
        (char *)"serve",       (char *)MODEL,   (char *)"--port",        (char *)"0",
        (char *)"--log-level", (char *)"error", (char *)(uintptr_t)flag, (char *)(uintptr_t)value};
    ck_assert_msg(config_parse(&c, 8, argv, &help, &e), "%s", e.message);
    alarm(60);
    int status = server_run(&c);
    alarm(0);
    config_clear(&c);
    return status;
}

START_TEST(a_start_that_fails_ends_with_status_1)
{
    ck_assert_int_eq(run("--kv-policy", "snapvk"), 1);
    ck_assert_int_eq(run("--kv-policy", "{\"name\":\"sink\",\"budget\":1}"), 1);
    ck_assert_int_eq(run("--kv-policy-allow", "full,nothing"), 1);
    ck_assert_int_eq(run("--model", "/nonexistent.gguf"), 1);
    ck_assert_int_eq(run("--host", "unix:"), 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("server");
    TCase *refused = suite_case(s, "refused", 600), *c = suite_case(s, "served", 600);
    tcase_add_unchecked_fixture(c, start, stop);
    tcase_add_test(c, a_stream_says_what_a_whole_answer_says);
    tcase_add_test(c, choices_of_several_prompts_stand_in_their_order);
    tcase_add_test(c, prompts_of_tokens_are_echoed_as_text);
    tcase_add_test(c, chats_are_rendered_alike_by_every_endpoint);
    tcase_add_test(c, a_streamed_chat_begins_with_its_role_and_ends_with_its_numbers);
    tcase_add_test(c, the_policy_of_an_answer_is_in_its_header);
    tcase_add_test(c, a_session_goes_on_under_its_policy_and_can_be_deleted);
    tcase_add_test(c, options_of_a_request_reach_the_engine);
    tcase_add_test(c, bodies_are_refused_with_the_field_that_is_wrong);
    tcase_add_test(c, a_prompt_beyond_the_context_is_refused_in_the_words_that_agents_know);
    tcase_add_test(c, the_door_refuses_before_the_handler);
    tcase_add_test(c, too_much_is_refused_before_it_is_read);
    tcase_add_test(c, the_work_of_a_client_that_left_ends);
    tcase_add_test(c, a_key_has_its_share_and_no_more);
    tcase_add_test(c, prompts_over_a_keys_share_wait_for_each_other);
    tcase_add_test(c, texts_become_tokens_and_texts_again);
    tcase_add_test(c, the_server_says_what_it_is);
    tcase_add_test(c, questions_to_the_engine_are_answered);
    tcase_add_test(c, probes_metrics_and_the_page_need_no_key);
    tcase_add_test(refused, a_start_that_fails_ends_with_status_1);
    /* The server is a thread of this process. CK_FORK=no of the environment says the same. */
    setenv("CK_FORK", "no", 1);
    return suite_run(s);
}
