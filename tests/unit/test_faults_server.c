/* What comes from outside as text (bodies, policies, settings, paths) while memory and files fail:
 * an error that says so, or the whole result, and nothing is left behind. */
#include <check.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/config.h"
#include "engine/compute/sampler.h"
#include "engine/serve/events.h"
#include "engine/text/stop.h"
#include "server/api/request.h"
#include "server/report/bench_arguments.h"
#include "server/report/eval_results.h"
#include "server/http/router.h"
#include "tests/suite.h"
#include "tests/unit/allocation_faults.h"
#include "tests/unit/plan_of_text.h"

/* ---- bodies */

struct body {
    enum api_request_kind kind;
    const char *text;
};

static const struct body bodies[] = {
    {API_REQUEST_COMPLETION,
     "{\"prompt\": [\"Once\"], \"stop\": [\"a\", \"b\"], \"stop_token_ids\": [1, 2],"
     " \"logit_bias\": {\"5\": 1, \"6\": -100}, \"kv_policy\": {\"name\": \"h2o\", \"budget\": 64},"
     " \"session_id\": \"s\", \"cache_salt\": \"x\", \"seed\": 3, \"temperature\": 0.5}"},
    {API_REQUEST_COMPLETION,
     "{\"prompt\": [1, 2, 3], \"kv_policy\": \"snapkv\", \"model\": \"m@sink\"}"},
    {API_REQUEST_CHAT,
     "{\"messages\": [{\"role\": \"system\", \"content\": \"Be brief.\"}, {\"role\": \"user\","
     " \"content\": [{\"type\": \"text\", \"text\": \"Hello\"}, {\"type\": \"text\", \"text\": \" "
     "you\"}]},"
     " {\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"type\": \"function\", "
     "\"function\":"
     " {\"name\": \"f\", \"arguments\": \"{}\"}}]}, {\"role\": \"user\", \"content\": "
     "\"Go on.\"}],"
     " \"chat_template_kwargs\": {\"a\": [1, 2]}, \"reasoning_effort\": \"low\", \"verbosity\": "
     "\"high\","
     " \"logprobs\": true, \"top_logprobs\": 3, \"stream\": true,"
     " \"stream_options\": {\"include_usage\": true}}"}};

static bool parse_body(void *context, struct error *e)
{
    const struct body *b = context;
    struct api_request r;
    bool done = api_request_parse(&r, b->kind, b->text, strlen(b->text), 512, e);
    if (done && b->kind == API_REQUEST_CHAT) {
        fault_require(json_array_size(r.chat.messages) == 4, "%zu messages",
                      json_array_size(r.chat.messages));
        const char *joined =
            json_string_value(json_object_get(json_array_get(r.chat.messages, 1), "content"));
        fault_require(joined && !strcmp(joined, "Hello you"), "content \"%s\"",
                      joined ? joined : "-");
        fault_require(json_object_get(json_array_get(r.chat.messages, 2), "tool_calls") != NULL,
                      "the tool calls are gone");
        fault_require(json_object_size(r.chat.kwargs) == 3, "%zu arguments of the template",
                      json_object_size(r.chat.kwargs));
    }
    if (done)
        api_request_clear(&r);
    return done;
}

START_TEST(bodies_of_requests)
{
    faults_in_every_call("a body", FAULT_MEMORY, "out_of_memory", parse_body, (void *)&bodies[_i],
                         0);
}
END_TEST

static bool parse_chat(void *context, struct error *e)
{
    struct chat_request chat;
    if (!chat_parse(context, &chat, e))
        return false;
    fault_require(json_array_size(chat.messages) == 4 &&
                      json_object_get(json_array_get(chat.messages, 2), "tool_calls") != NULL,
                  "%zu messages, or the tool calls are gone", json_array_size(chat.messages));
    const json_t *calls = json_object_get(json_array_get(chat.messages, 2), "tool_calls");
    const json_t *function = json_object_get(json_array_get(calls, 0), "function");
    fault_require(json_is_object(json_object_get(function, "arguments")),
                  "the arguments of a call are not an object");
    fault_require(json_object_size(chat.kwargs) == 3, "%zu variables of the template",
                  json_object_size(chat.kwargs));
    chat_request_clear(&chat);
    return true;
}

START_TEST(messages)
{
    struct error e;
    json_t *body = body_parse(bodies[2].text, strlen(bodies[2].text), &e);
    ck_assert(body);
    faults_in_every_call("chat_parse", FAULT_MEMORY, "out_of_memory", parse_chat, body, 0);
    faults_in_every_call("chat_parse", FAULT_JSON, "out_of_memory", parse_chat, body, 0);
    json_decref(body);
}
END_TEST

/* No token has more than 15 bytes, which jansson's first buffer holds: see FAULT_JSON. */
static const char *const short_texts[] = {"{\"prompt\": \"Once\", \"seed\": 3, \"top_p\": 0.5, "
                                          "\"stop\": [\"a\", \"b\"], \"a\": {\"b\": null}}",
                                          "{\"\": \"\"}"};

static bool parse_text(void *context, struct error *e)
{
    json_t *body = body_parse(context, strlen(context), e);
    json_decref(body);
    return body != NULL;
}

START_TEST(json_text)
{
    struct error e;
    faults_in_every_call("JSON text", FAULT_JSON, "out_of_memory", parse_text,
                         (void *)short_texts[_i], 0);
    faults_in_every_call("JSON text", FAULT_MEMORY, "out_of_memory", parse_text,
                         (void *)short_texts[_i], 0);
    /* The same two messages of jansson for wrong text. */
    ck_assert(!parse_text("{\"a\": nothing}", &e));
    ck_assert_str_eq(e.code, "invalid_json");
    ck_assert(!parse_text("{1: \"a\"}", &e));
    ck_assert_str_eq(e.code, "invalid_json");
}
END_TEST

/* ---- results of `winnow eval` */

static const char results[] = "{\"model\":\"m\"}\n{\"task\":\"text\"}\n{\"task\":\"stream\"}\n";

/* By hand, as getline allocates in the C library and its line would not be counted. */
START_TEST(results_are_kept)
{
    char directory[] = "/tmp/winnow-faults-eval-XXXXXX", path[64];
    ck_assert(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/results.jsonl", directory);
    FILE *file = fopen(path, "w");
    ck_assert(file && fputs(results, file) >= 0 && !fclose(file));
    json_t *settings = json_pack("{s:s}", "model", "m");
    bool met = true;
    for (uint64_t nth = 1; met; nth++) {
        struct eval_results r;
        struct error e = {.code = ""};
        struct stat status;
        faults_begin(FAULT_JSON, nth, false);
        bool done = eval_results_open(&r, directory, json_incref(settings), &e);
        faults_end(&met);
        ck_assert_msg(done ? json_array_size(r.runs) == 2 : !strcmp(e.code, "out_of_memory"),
                      "call %llu: %zu of 2 runs, \"%s\"", (unsigned long long)nth,
                      json_array_size(r.runs), e.code);
        ck_assert(done || met);
        eval_results_close(&r);
        ck_assert(!stat(path, &status));
        ck_assert_int_eq((int)status.st_size, (int)sizeof results - 1);
    }
    json_decref(settings);
    unlink(path);
    rmdir(directory);
}
END_TEST

/* ---- policies */

static bool parse_policy(void *context, struct error *e)
{
    static const struct plan_limits limits = {.n_ctx_train = 4096};
    struct plan_asked asked;
    const struct plan *plan = NULL;
    bool done = plan_parse_text(context, strlen(context), "kv_policy", &asked, e) &&
                (plan = plan_resolve(&asked, 1000, &limits, e)) != NULL;
    plan_release(plan);
    return done;
}

static bool parse_suffix(void *context, struct error *e)
{
    struct plan_asked asked;
    return plan_parse_suffix(context, strlen(context), "model", &asked, e);
}

struct shown {
    const struct plan *plan;
    json_t *expected;
};

static bool show_policy(void *context, struct error *e)
{
    struct shown *s = context;
    json_t *value = s ? plan_to_json(s->plan) : plan_schema();
    if (!value)
        return error_set_memory(e, "JSON", 0);
    fault_require(!s || json_equal(value, s->expected), "fields are missing");
    json_decref(value);
    return true;
}

START_TEST(policies)
{
    struct shown s = {.expected = NULL};
    char text[] = "{\"name\": \"snapkv\", \"budget\": 0.25, \"pool\": \"max\", \"kernel\": 5, "
                  "\"trace\": true}";
    faults_in_every_call("a policy", FAULT_MEMORY, "out_of_memory", parse_policy, text, 0);
    faults_in_every_call("a policy", FAULT_JSON, "out_of_memory", parse_policy, text, 0);
    faults_in_every_call("a budget", FAULT_JSON, "out_of_memory", parse_suffix, "h2o:0.25", 0);
    const struct plan_limits limits = {.n_ctx_train = 4096};
    s.plan = held_plan(text, 1000, &limits);
    s.expected = plan_to_json(s.plan);
    faults_in_every_call("plan_to_json", FAULT_JSON, "out_of_memory", show_policy, &s, 0);
    faults_in_every_call("plan_schema", FAULT_MEMORY, "out_of_memory", show_policy, NULL, 0);
    json_decref(s.expected);
    plan_release(s.plan);
}
END_TEST

/* ---- settings */

static char config_path[] = "/tmp/winnow-faults-config-XXXXXX",
            keys_path[] = "/tmp/winnow-faults-keys-XXXXXX";

static void write_file(char *path, const char *text)
{
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq((int)write(fd, text, strlen(text)), (int)strlen(text));
    close(fd);
}

static bool parse_settings(void *context, struct error *e)
{
    (void)context;
    char *argv[] = {"serve",
                    "model.gguf",
                    "--config",
                    config_path,
                    "--api-key",
                    "a,b,c",
                    "--api-key-file",
                    keys_path,
                    "--alias",
                    "name",
                    "--cors-origins",
                    "http://a,http://b",
                    "--kv-storage",
                    "q8",
                    "--kv-policy",
                    "h2o",
                    NULL};
    struct config c;
    bool help, done = config_parse(&c, sizeof argv / sizeof *argv - 1, argv, &help, e);
    if (done) {
        fault_require(c.n_api_keys == 5 && c.cors_origins.count == 2 &&
                          c.allowed_hosts.count == 1 && !strcmp(c.alias, "name"),
                      "%u keys, %u origins, %u hosts", c.n_api_keys, c.cors_origins.count,
                      c.allowed_hosts.count);
        config_clear(&c);
    }
    return done;
}

START_TEST(settings)
{
    write_file(config_path,
               "{\"port\": 8081, \"allowed-hosts\": [\"one.example\"], \"alias\": \"other\"}");
    write_file(keys_path, "# keys\nsomebody:secret\nanother-secret\n");
    setenv("WINNOW_MAX_QUEUE", "12", 1);
    faults_in_every_call("config_parse", FAULT_MEMORY, "out_of_memory", parse_settings, NULL, 0);
    faults_in_every_call("config_parse", FAULT_JSON, "out_of_memory", parse_settings, NULL, 0);
    faults_in_every_call("config_parse", FAULT_FILE, "file_error", parse_settings, NULL, 0);
    unlink(config_path);
    unlink(keys_path);
}
END_TEST

static bool parse_bench(void *context, struct error *e)
{
    (void)context;
    char *argv[] = {"bench", "m.gguf", "--policies", "full,sink:64,h2o:0.2", NULL};
    struct bench_arguments a = {.n_cases = 0};
    bool help;
    if (!options_parse(OPTION_BENCH, &a.said, 4, argv, &help, e))
        return false;
    bool done = bench_arguments_read(&a, e);
    fault_require(!done || a.n_cases == 3, "%u cases", a.n_cases);
    bench_arguments_clear(&a);
    return done;
}

START_TEST(arguments_of_bench)
{
    faults_in_every_call("bench_arguments", FAULT_MEMORY, "out_of_memory", parse_bench, NULL, 0);
}
END_TEST

/* ---- paths */

static bool normalise(void *context, struct error *e)
{
    bool had_v1;
    char *path = router_normalise(context, strlen(context), "/p", &had_v1, e);
    if (!path)
        return false;
    fault_require(had_v1 && !strcmp(path, "/models/a b"), "%s", path);
    free(path);
    return true;
}

START_TEST(paths)
{
    faults_in_every_call("router_normalise", FAULT_MEMORY, "out_of_memory", normalise,
                         "/p/v1/models/a%20b/", 0);
}
END_TEST

/* ---- what every request has of its own */

static bool make_sampler(void *context, struct error *e)
{
    (void)context;
    struct logit_bias bias[] = {{5, 1}, {7, -100}};
    int32_t prompt[] = {1, 5, 9};
    struct sampling sampling = {.temperature = 0.8,
                                .top_p = 0.9,
                                .typical_p = 0.9,
                                .top_k = 20,
                                .min_p = 0.01,
                                .presence_penalty = 1,
                                .repetition_penalty = 1.1,
                                .bias = bias,
                                .n_bias = 2,
                                .seed = 4};
    struct sampler_scratch *scratch = sampler_scratch_new(512, e);
    struct sampler *s = scratch ? sampler_new(&sampling, 0, 512, prompt, 3, e) : NULL;
    bool done = s != NULL;
    if (done) {
        float logits[512];
        for (int i = 0; i < 512; i++)
            logits[i] = (float)(i % 37) / 8;
        for (uint64_t i = 0; i < 20; i++) {
            int32_t token = sampler_pick(s, scratch, logits, NULL, 0, i);
            fault_require(token >= 0 && token < 512 && token != 7, "token %d", token);
            sampler_accept(s, token);
        }
    }
    sampler_free(s);
    sampler_scratch_free(scratch);
    return done;
}

static bool make_stops(void *context, struct error *e)
{
    (void)context;
    char a[] = "abab", b[] = "the end";
    struct stop_string strings[] = {{a, 4}, {b, 7}};
    struct stop_set *set = stop_set_new(strings, 2, e);
    struct stop_state state = {{0}};
    if (set)
        fault_require(stop_push(set, &state, "xababy", 6).string == 0, "the stop was missed");
    stop_set_free(set);
    return set != NULL;
}

/* Of events that found room none is lost; those that did not have left nothing. */
static bool pass_events(void *context, struct error *e)
{
    (void)context;
    struct event_buffer b;
    if (!event_buffer_init(&b, e))
        return false;
    struct top_logprob tops[3] = {{1, -0.5f}, {2, -1}, {3, -2}};
    struct event_token tokens[2] = {{4, -0.25f, 3, tops}, {5, -0.5f, 0, NULL}};
    static const char text[3000] = "some text";
    uint32_t n_pushed = 0, n_read = 0;
    for (uint32_t i = 0; i < 40; i++) {
        struct request_event event = {.kind = EVENT_TEXT,
                                      .choice = i,
                                      .text = text,
                                      .n_text = 1 + i * 70,
                                      .tokens = tokens,
                                      .n_tokens = 2};
        bool was_empty;
        n_pushed += event_buffer_push(&b, &event, &was_empty);
        if (i % 8 == 7)
            for (struct request_event got; (got = event_buffer_next(&b)).kind != EVENT_NONE;
                 n_read++)
                fault_require(got.n_text == 1 + got.choice * 70 && got.n_tokens == 2 &&
                                  got.tokens[0].n_top == 3 && got.tokens[0].top[2].token == 3,
                              "event %u came otherwise", got.choice);
    }
    fault_require(n_read == n_pushed, "%u of %u events were read", n_read, n_pushed);
    event_buffer_clear(&b);
    return n_pushed == 40 || error_set_memory(e, "events", 0);
}

START_TEST(samplers_stops_and_events)
{
    faults_in_every_call("sampler", FAULT_MEMORY, "out_of_memory", make_sampler, NULL, 0);
    faults_in_every_call("stops", FAULT_MEMORY, "out_of_memory", make_stops, NULL, 0);
    faults_in_every_call("events", FAULT_MEMORY, "out_of_memory", pass_events, NULL, 0);
    faults_in_every_call("events", FAULT_THREAD, "out_of_memory", pass_events, NULL, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("text from outside, while memory fails");
    TCase *t = suite_case(s, "all", 120);
    tcase_add_loop_test(t, bodies_of_requests, 0, sizeof bodies / sizeof *bodies);
    tcase_add_test(t, messages);
    tcase_add_loop_test(t, json_text, 0, sizeof short_texts / sizeof *short_texts);
    tcase_add_test(t, results_are_kept);
    tcase_add_test(t, policies);
    tcase_add_test(t, settings);
    tcase_add_test(t, arguments_of_bench);
    tcase_add_test(t, paths);
    tcase_add_test(t, samplers_stops_and_events);
    return suite_run(s);
}
