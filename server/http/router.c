/* See router.h. */
#include "server/http/router.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/utf8.h"

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A percent sign without two digits stands for itself. Returns the length of the result. */
static size_t percent_decode(char *text, size_t length)
{
    size_t to = 0;
    for (size_t i = 0; i < length; i++) {
        int high = text[i] == '%' && i + 2 < length ? hex(text[i + 1]) : -1,
            low = high >= 0 ? hex(text[i + 2]) : -1;
        text[to++] = low >= 0 ? (char)(high * 16 + low) : text[i];
        i += low >= 0 ? 2 : 0;
    }
    text[to] = 0;
    return to;
}

static bool is_printable(const char *text, size_t length)
{
    for (size_t n; length; text += n, length -= n)
        if (!(n = utf8_printable_length(text, length)))
            return false;
    return true;
}

char *router_normalise(const char *sent, size_t length, const char *prefix, bool *had_v1,
                       struct error *e)
{
    size_t n = strlen(prefix);
    *had_v1 = false;
    while (length > 1 && sent[length - 1] == '/')
        length--;
    char *path = strndup(sent, length), *at = path;
    if (!path) {
        error_set_memory(e, "a path", length);
        return NULL;
    }
    if (!strcmp(path, "*"))
        return path; /* OPTIONS * is about the server, not about a path */
    if (!is_printable(path, percent_decode(path, length))) {
        error_set(e, "invalid_request", "",
                  "the path contains a control character or is no UTF-8 when it is decoded");
        free(path);
        return NULL;
    }
    if (strncmp(path, prefix, n) || (path[n] && path[n] != '/')) {
        error_set(e, "not_found", "", "nothing is served outside %s", prefix);
        free(path);
        return NULL;
    }
    at += n;
    if (!strncmp(at, "/v1", 3) && (at[3] == '/' || !at[3])) {
        *had_v1 = true;
        at += 3;
    }
    if (*at)
        memmove(path, at, strlen(at) + 1);
    else
        memcpy(path, "/", 2); /* at least "/" was sent */
    return path;
}

static bool matches(const struct route *r, const char *path, bool had_v1, const char **tail)
{
    size_t n = strlen(r->path);
    if (had_v1 && r->plain_path_only)
        return false;
    if (n && r->path[n - 1] == '*') {
        if (strncmp(path, r->path, n - 1) || !path[n - 1])
            return false;
        *tail = path + n - 1;
        return true;
    }
    *tail = "";
    return !strcmp(path, r->path);
}

const struct route *router_find(const struct route *routes, uint32_t n, const char *path,
                                bool had_v1, const char *method, const char **tail)
{
    *tail = "";
    if (method && !strcmp(method, "HEAD"))
        method = "GET";
    for (uint32_t i = 0; i < n; i++)
        if (matches(&routes[i], path, had_v1, tail) &&
            (!method || !strcmp(routes[i].method, method)))
            return &routes[i];
    return NULL;
}

void router_allow(const struct route *routes, uint32_t n, const char *path, bool had_v1, char *out,
                  size_t size)
{
    const char *tail;
    bool get = router_find(routes, n, path, had_v1, "GET", &tail),
         post = router_find(routes, n, path, had_v1, "POST", &tail),
         gone = router_find(routes, n, path, had_v1, "DELETE", &tail);
    snprintf(out, size, "%s%s%s%s", get ? "GET, HEAD, " : "", post ? "POST, " : "",
             gone ? "DELETE, " : "", get || post || gone ? "OPTIONS" : "");
}

const char *router_hint(const char *path)
{
    static const struct {
        const char *start, *hint;
    } absent[] = {
        {"/audio", "winnow serves text models only"},
        {"/images", "winnow serves text models only"},
        {"/files", "winnow stores no files"},
        {"/uploads", "winnow stores no files"},
        {"/batches", "winnow has no batch jobs; send the requests at once and they are batched"},
        {"/fine_tuning", "winnow does not train"},
        {"/assistants", "winnow has no assistants; use /v1/chat/completions"},
        {"/threads", "winnow has no assistants; use /v1/chat/completions"},
        {"/realtime", "winnow serves text models only"},
        {"/moderations", "winnow has no moderation model"},
        {"/responses", "this version has no /v1/responses; use /v1/chat/completions"},
        {"/messages", "this version has no /v1/messages; use /v1/chat/completions"},
        {"/api", "that is Ollama's path; use /v1/chat/completions"}};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        size_t n = strlen(absent[i].start);
        if (!strncmp(path, absent[i].start, n) && (path[n] == '/' || !path[n]))
            return absent[i].hint;
    }
    return NULL;
}
