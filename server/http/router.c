/* See router.h. */
#include "server/http/router.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void percent_decode(char *text)
{
    char *to = text;
    for (const char *from = text; *from; from++) {
        int high = from[0] == '%' ? hex(from[1]) : -1, low = high >= 0 ? hex(from[2]) : -1;
        if (low >= 0 && high * 16 + low != 0) {
            *to++ = (char)(high * 16 + low);
            from += 2;
        } else {
            *to++ = *from;
        }
    }
    *to = 0;
}

char *router_normalise(const char *url, const char *prefix, bool *had_v1)
{
    size_t n = strlen(prefix);
    *had_v1 = false;
    if (strncmp(url, prefix, n) || (url[n] && url[n] != '/'))
        return NULL;
    url += n;
    if (!strncmp(url, "/v1", 3) && (url[3] == '/' || !url[3])) {
        *had_v1 = true;
        url += 3;
    }
    char *path = strdup(*url ? url : "/");
    if (!path)
        return NULL;
    percent_decode(path);
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        path[--length] = 0;
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
