/* Listening, and what happens when that fails; the access log; the way back from another thread. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/api/mailbox.h"
#include "server/http/transport_private.h"
#include "tests/suite.h"
#include "tests/unit/http_client.h"

static struct error e;

/* ---- listening */

/* A list as getaddrinfo gives it; ports 0. */
static struct addrinfo *addresses(const char *const *names, uint32_t n)
{
    static struct sockaddr_in at[8];
    static struct addrinfo all[8];
    for (uint32_t i = 0; i < n; i++) {
        at[i] = (struct sockaddr_in){.sin_family = AF_INET};
        inet_pton(AF_INET, names[i], &at[i].sin_addr);
        all[i] = (struct addrinfo){.ai_family = AF_INET,
                                   .ai_addr = (struct sockaddr *)&at[i],
                                   .ai_addrlen = sizeof at[i],
                                   .ai_next = i + 1 < n ? &all[i + 1] : NULL};
    }
    return all;
}

static bool answers(const char *name, uint32_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, name, &at.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool ok = !connect(fd, (struct sockaddr *)&at, sizeof at);
    close(fd);
    return ok;
}

START_TEST(every_address_of_a_name_gets_the_same_port_once)
{
    static const char *const names[] = {"127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.3"};
    struct listen_socket *s;
    uint32_t n;
    ck_assert_msg(listen_addresses(addresses(names, 4), 0, "--port", &s, &n, &e), "%s", e.message);
    ck_assert_uint_eq(n, 3);
    for (uint32_t i = 0; i < n; i++) {
        ck_assert_uint_eq(s[i].port, s[0].port);
        ck_assert(s[i].loopback);
    }
    ck_assert(answers("127.0.0.1", s[0].port) && answers("127.0.0.2", s[0].port) &&
              answers("127.0.0.3", s[0].port));
    ck_assert(!answers("127.0.0.4", s[0].port));
    ck_assert_msg(!strncmp(s[1].address, "http://127.0.0.2:", 17), "%s", s[1].address);
    listen_close(s, n);
}
END_TEST

/* 192.0.2.1 is reserved for documentation: no machine has it. */
START_TEST(an_address_that_is_not_there_is_left_out)
{
    static const char *const names[] = {"192.0.2.1", "127.0.0.1"};
    struct listen_socket *s;
    uint32_t n;
    ck_assert_msg(listen_addresses(addresses(names, 2), 0, "--port", &s, &n, &e), "%s", e.message);
    ck_assert_uint_eq(n, 1);
    ck_assert(answers("127.0.0.1", s[0].port));
    listen_close(s, n);
    ck_assert(!listen_addresses(addresses(names, 1), 0, "--port", &s, &n, &e));
    ck_assert_str_eq(e.code, "address_error");
    ck_assert_msg(strstr(e.message, "192.0.2.1"), "%s", e.message);
    ck_assert_uint_eq(n, 0);
}
END_TEST

START_TEST(a_taken_port_is_named_and_nothing_is_left_open)
{
    static const char *const names[] = {"127.0.0.2", "127.0.0.1"};
    struct listen_socket *taken, *s;
    uint32_t n_taken, n;
    ck_assert(listen_tcp("127.0.0.1", 0, "--port", &taken, &n_taken, &e));
    uint32_t port = taken[0].port;
    ck_assert(!listen_addresses(addresses(names, 2), port, "--metrics-port", &s, &n, &e));
    ck_assert_str_eq(e.code, "address_in_use");
    ck_assert_str_eq(e.where, "--metrics-port");
    ck_assert_msg(strstr(e.message, "127.0.0.1:") && strstr(e.message, "--metrics-port"), "%s",
                  e.message);
    ck_assert(!answers("127.0.0.2", port));
    listen_close(taken, n_taken);
}
END_TEST

START_TEST(a_host_may_stand_in_brackets_or_be_unknown)
{
    struct listen_socket *s;
    uint32_t n;
    ck_assert_msg(listen_tcp("[127.0.0.1]", 0, "--port", &s, &n, &e), "%s", e.message);
    listen_close(s, n);
    ck_assert(!listen_tcp("no such name.invalid", 0, "--port", &s, &n, &e));
    ck_assert_str_eq(e.code, "address_error");
    ck_assert_str_eq(e.where, "--host");
}
END_TEST

START_TEST(a_left_socket_file_is_replaced_and_a_used_one_is_not)
{
    char path[64];
    snprintf(path, sizeof path, "/tmp/winnow-listen-%d", getpid());
    unlink(path);
    int fd = listen_unix(path, &e);
    ck_assert_msg(fd >= 0, "%s", e.message);
    ck_assert_int_eq(listen_unix(path, &e), -1);
    ck_assert_str_eq(e.code, "address_in_use");
    close(fd); /* the file stays */
    fd = listen_unix(path, &e);
    ck_assert_msg(fd >= 0, "%s", e.message);
    close(fd);
    unlink(path);

    int plain = open(path, O_CREAT | O_WRONLY, 0600);
    close(plain);
    ck_assert_int_eq(listen_unix(path, &e), -1);
    ck_assert_msg(strstr(e.message, "is not a socket"), "%s", e.message);
    unlink(path);
    ck_assert_int_eq(listen_unix("", &e), -1);
    ck_assert_int_eq(
        listen_unix("/a/path/of/more/than/107/bytes/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
                    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
                    &e),
        -1);
    ck_assert_str_eq(e.code, "invalid_value");
}
END_TEST

/* ---- the transport on a loop that others use too */

static void configure(struct config *c, const char *host, uint32_t metrics_port)
{
    char port[16];
    char *argv[] = {
        (char *)"serve",  (char *)"x.gguf",        (char *)"--port",         (char *)"0",
        (char *)"--host", (char *)(uintptr_t)host, (char *)"--metrics-port", port};
    bool help;
    snprintf(port, sizeof port, "%u", metrics_port);
    ck_assert_msg(config_parse(c, 8, argv, &help, &e), "%s", e.message);
}

static void nothing(uv_async_t *handle)
{
    (void)handle;
}

/* The loop ends, although a handle of somebody else was alive while the transport cleaned up. */
static void loop_ends(uv_loop_t *loop, uv_async_t *other)
{
    uv_close((uv_handle_t *)other, NULL);
    ck_assert_int_eq(uv_run(loop, UV_RUN_DEFAULT), 0);
    ck_assert_int_eq(uv_loop_close(loop), 0);
}

START_TEST(a_taken_metrics_port_is_an_error_at_once)
{
    struct config c;
    uv_loop_t loop;
    uv_async_t other;
    struct listen_socket *taken;
    uint32_t n;
    ck_assert(listen_tcp("127.0.0.1", 0, "--port", &taken, &n, &e));
    configure(&c, "127.0.0.1", taken[0].port);
    uv_loop_init(&loop);
    uv_async_init(&loop, &other, nothing);
    alarm(20); /* it used to wait for `other` for ever */
    ck_assert_ptr_null(transport_new(&c, &loop, NULL, 0, &e));
    alarm(0);
    ck_assert_str_eq(e.code, "address_in_use");
    ck_assert_str_eq(e.where, "--metrics-port");
    loop_ends(&loop, &other);
    listen_close(taken, n);
    config_clear(&c);
}
END_TEST

START_TEST(a_closed_transport_leaves_nothing_on_the_loop)
{
    struct config c;
    uv_loop_t loop;
    uv_async_t other;
    char host[80];
    snprintf(host, sizeof host, "unix:/tmp/winnow-transport-%d", getpid());
    const char *const hosts[] = {"127.0.0.1", host};
    for (int i = 0; i < 2; i++) {
        configure(&c, hosts[i], 0);
        uv_loop_init(&loop);
        uv_async_init(&loop, &other, nothing);
        struct transport *t = transport_new(&c, &loop, NULL, 0, &e);
        ck_assert_msg(t != NULL, "%s", e.message);
        ck_assert_uint_eq(transport_n_addresses(t), 1);
        ck_assert(transport_is_local(t));
        ck_assert_msg(!strncmp(transport_address(t, 0), i ? host : "http://127.0.0.1:", 17), "%s",
                      transport_address(t, 0));
        transport_close(t);
        loop_ends(&loop, &other);
        config_clear(&c);
        ck_assert_int_eq(access(host + 5, F_OK), -1);
    }
}
END_TEST

/* ---- a request that does not arrive */

static uv_timer_t patience;
static struct transport *slow;

static void close_when_read(uv_timer_t *timer)
{
    if (transport_counts(slow)->rejected[0].count && !uv_is_closing((uv_handle_t *)timer)) {
        transport_close(slow);
        uv_close((uv_handle_t *)timer, NULL);
    }
}

START_TEST(a_request_that_does_not_arrive_in_time_gets_a_whole_408)
{
    struct config c;
    uv_loop_t loop;
    char host[80];
    snprintf(host, sizeof host, "unix:/tmp/winnow-slow-%d", getpid());
    configure(&c, host, 0);
    c.http_timeout_ms = 300;
    uv_loop_init(&loop);
    slow = transport_new(&c, &loop, NULL, 0, &e);
    ck_assert_msg(slow != NULL, "%s", e.message);
    int fd = client_connect(host + 5);
    client_send(fd, "POST /v1/x HTTP/1.1\r\n", 21);
    uv_timer_init(&loop, &patience);
    uv_timer_start(&patience, close_when_read, 50, 50);
    alarm(30);
    uv_run(&loop, UV_RUN_DEFAULT);
    alarm(0);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    struct http_answer a = client_read(fd);
    ck_assert_int_eq(a.status, 408);
    const char *declared = strstr(a.text, "Content-Length: ");
    ck_assert_ptr_nonnull(declared);
    ck_assert_uint_eq(strtoul(declared + 16, NULL, 10), a.length);
    ck_assert_msg(strstr(a.body, "request_read_timeout"), "%s", a.body);
    free(a.text);
    config_clear(&c);
}
END_TEST

/* ---- the access log */

/* What access_log writes for a request, on stderr. */
static const char *logged(struct http_request *x, const char *how)
{
    static char line[2048];
    int old = dup(STDERR_FILENO), ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    access_log(x, how);
    dup2(old, STDERR_FILENO);
    close(old);
    ssize_t n = read(ends[0], line, sizeof line - 1);
    line[n > 0 ? n : 0] = 0;
    close(ends[0]);
    return line;
}

static struct api_key keys[] = {{(char *)"ann", (char *)"secret"}};
static const struct config keyed = {.api_keys = keys, .n_api_keys = 1};
static struct transport logging = {.config = &keyed};

START_TEST(a_request_is_one_line_with_its_facts_and_no_key)
{
    struct http_request x = {.transport = &logging,
                             .id = "req-1",
                             .method = "POST",
                             .path = (char *)"/completions",
                             .status = 200,
                             .key = 1,
                             .route_index = 3,
                             .prompt_tokens = 12,
                             .completion_tokens = 5,
                             .policy = "sink",
                             .finish = "stop",
                             .has_tokens = true};
    log_setup(LOG_TEXT, LOG_INFO);
    const char *line = logged(&x, "answered");
    static const char *const parts[] = {
        "id=req-1",         "method=POST",         "path=/completions", "status=200",  "key=ann",
        "prompt_tokens=12", "completion_tokens=5", "policy=sink",       "finish=stop", "ms="};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        ck_assert_msg(strstr(line, parts[i]), "%s is not in: %s", parts[i], line);
    ck_assert_ptr_null(strstr(line, "secret"));
    ck_assert_ptr_eq(strchr(line, '\n'), line + strlen(line) - 1);
    ck_assert_uint_eq(logging.counts.requests[3][0].status, 200);
    ck_assert_uint_eq(logging.counts.requests[3][0].count, 1);
}
END_TEST

START_TEST(a_client_that_left_is_counted_as_499)
{
    struct http_request x = {.transport = &logging,
                             .method = "GET",
                             .path = (char *)"/x",
                             .status = 200,
                             .route_index = MAX_ENDPOINTS + 5};
    log_setup(LOG_TEXT, LOG_INFO);
    ck_assert_msg(strstr(logged(&x, "client_closed"), "status=499"), "no 499");
    ck_assert_uint_eq(logging.counts.requests[MAX_ENDPOINTS - 1][0].status, 499);
}
END_TEST

START_TEST(probes_and_scrapers_are_quiet_until_they_fail)
{
    const struct route route = {.name = "metrics"};
    struct http_request x = {.transport = &logging,
                             .method = "GET",
                             .path = (char *)"/metrics",
                             .status = 200,
                             .route = &route};
    log_setup(LOG_TEXT, LOG_INFO);
    logging.counts = (struct transport_counts){0};
    ck_assert_str_eq(logged(&x, "answered"), "");
    x.status = 503;
    error_set(&x.refusal, "draining", "", "x");
    ck_assert_msg(strstr(logged(&x, "answered"), "error=draining"), "no error");
    ck_assert_uint_eq(logging.counts.requests[0][1].status, 503);
}
END_TEST

/* ---- the mailbox */

enum { N_LETTERS = 1000 };

static struct letter letters[N_LETTERS];
static struct mailbox box;
static uint32_t n_delivered;

static void deliver(struct letter *letter)
{
    ck_assert_ptr_eq(letter, &letters[n_delivered]);
    if (++n_delivered == N_LETTERS)
        mailbox_close(&box);
}

static void *put_all(void *context)
{
    (void)context;
    for (uint32_t i = 0; i < N_LETTERS; i++) {
        letters[i].deliver = deliver;
        mailbox_put(&box, &letters[i]);
    }
    return NULL;
}

START_TEST(letters_of_another_thread_come_in_their_order)
{
    uv_loop_t loop;
    pthread_t thread;
    uv_loop_init(&loop);
    ck_assert(mailbox_init(&box, &loop, &e));
    pthread_create(&thread, NULL, put_all, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    pthread_join(thread, NULL);
    ck_assert_uint_eq(n_delivered, N_LETTERS);
    mailbox_clear(&box);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
}
END_TEST

static void count(struct letter *letter)
{
    (void)letter;
    n_delivered++;
    mailbox_close(&box);
}

START_TEST(a_letter_waits_once_and_can_be_taken_back)
{
    uv_loop_t loop;
    struct letter kept = {.deliver = count}, back = {.deliver = count};
    uv_loop_init(&loop);
    ck_assert(mailbox_init(&box, &loop, &e));
    n_delivered = 0;
    mailbox_put(&box, &back);
    mailbox_put(&box, &kept);
    mailbox_put(&box, &kept);
    mailbox_remove(&box, &back);
    mailbox_remove(&box, &back);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_uint_eq(n_delivered, 1);
    ck_assert(!kept.waiting && !back.waiting);
    mailbox_clear(&box);
    uv_loop_close(&loop);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("transport");
    TCase *c = suite_case(s, "transport", 60);
    signal(SIGPIPE, SIG_IGN);
    tcase_add_test(c, every_address_of_a_name_gets_the_same_port_once);
    tcase_add_test(c, an_address_that_is_not_there_is_left_out);
    tcase_add_test(c, a_taken_port_is_named_and_nothing_is_left_open);
    tcase_add_test(c, a_host_may_stand_in_brackets_or_be_unknown);
    tcase_add_test(c, a_left_socket_file_is_replaced_and_a_used_one_is_not);
    tcase_add_test(c, a_taken_metrics_port_is_an_error_at_once);
    tcase_add_test(c, a_closed_transport_leaves_nothing_on_the_loop);
    tcase_add_test(c, a_request_that_does_not_arrive_in_time_gets_a_whole_408);
    tcase_add_test(c, a_request_is_one_line_with_its_facts_and_no_key);
    tcase_add_test(c, a_client_that_left_is_counted_as_499);
    tcase_add_test(c, probes_and_scrapers_are_quiet_until_they_fail);
    tcase_add_test(c, letters_of_another_thread_come_in_their_order);
    tcase_add_test(c, a_letter_waits_once_and_can_be_taken_back);
    return suite_run(s);
}
