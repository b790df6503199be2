/* A plain HTTP client for tests: one request on one connection, read to its end. */
#ifndef WINNOW_TESTS_UNIT_HTTP_CLIENT_H
#define WINNOW_TESTS_UNIT_HTTP_CLIENT_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

struct http_answer {
    int status;
    char *text;    /* the whole of it, headers too; malloc'ed, terminated */
    char *body;    /* in text */
    size_t length; /* of the body */
};

static inline int client_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = 60};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static inline void client_send(int fd, const char *bytes, size_t length)
{
    while (length) {
        ssize_t n = send(fd, bytes, length, MSG_NOSIGNAL);
        if (n <= 0) /* the server may have answered and closed */
            return;
        bytes += n;
        length -= (size_t)n;
    }
}

/* Takes the chunks of a chunked body together. */
static inline void client_dechunk(struct http_answer *a)
{
    char *to = a->body, *from = a->body, *end = a->body + a->length;
    while (from < end) {
        size_t n = strtoul(from, &from, 16);
        from += 2;
        if (n == 0 || from + n > end)
            break;
        memmove(to, from, n);
        to += n;
        from += n + 2;
    }
    *to = 0;
    a->length = (size_t)(to - a->body);
}

static inline struct http_answer client_read(int fd)
{
    struct http_answer a = {0};
    size_t room = 1 << 22, length = 0;
    a.text = calloc(1, room);
    ck_assert_ptr_nonnull(a.text);
    for (ssize_t n; length < room - 1 && (n = recv(fd, a.text + length, room - 1 - length, 0)) > 0;)
        length += (size_t)n;
    close(fd);
    char *end = strstr(a.text, "\r\n\r\n");
    if (!end)
        return a;
    a.status = atoi(a.text + strlen("HTTP/1.1 "));
    a.body = end + 4;
    a.length = length - (size_t)(a.body - a.text);
    *end = 0;
    if (strcasestr(a.text, "\r\nTransfer-Encoding: chunked"))
        client_dechunk(&a);
    return a;
}

/* Sends a whole request. `headers` is "" or "Name: value\r\n..."; `body` NULL: none. */
static inline int client_start(const char *path, const char *method, const char *url,
                               const char *headers, const char *body)
{
    char head[2048];
    int fd = client_connect(path);
    int n = snprintf(head, sizeof head,
                     "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: "
                     "%zu\r\n%s\r\n",
                     method, url, body ? strlen(body) : 0, headers);
    client_send(fd, head, (size_t)n);
    if (body)
        client_send(fd, body, strlen(body));
    return fd;
}

static inline struct http_answer client_ask(const char *path, const char *method, const char *url,
                                            const char *headers, const char *body)
{
    return client_read(client_start(path, method, url, headers, body));
}

#endif
