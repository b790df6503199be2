/* Logs and counts each request when it has ended. Loop thread. */
#include <string.h>

#include "server/http/transport_private.h"

static void count(struct http_request *x)
{
    struct transport *t = x->transport;
    uint32_t row = x->route_index < MAX_ENDPOINTS ? x->route_index : MAX_ENDPOINTS - 1;
    for (uint32_t i = 0; i < MAX_STATUSES; i++) {
        if (t->counts.requests[row][i].status == 0)
            t->counts.requests[row][i].status = x->status;
        if (t->counts.requests[row][i].status == x->status) {
            t->counts.requests[row][i].count++;
            return;
        }
    }
}

/* Scrapers and probes ask every few seconds, so their lines are for debugging only. */
static enum log_level level_of(const struct http_request *x)
{
    static const char *const quiet[] = {"metrics", "health", "livez", "readyz"};
    for (size_t i = 0; x->route && i < sizeof quiet / sizeof *quiet; i++)
        if (!strcmp(x->route->name, quiet[i]) && x->status == 200)
            return LOG_DEBUG;
    return x->status >= 500 && x->status != 503 ? LOG_WARNING : LOG_INFO;
}

void access_log(struct http_request *x, const char *how)
{
    const struct config *c = x->transport->config;
    if (!strcmp(how, "client_closed"))
        x->status = 499;
    count(x);
    struct log_field fields[16];
    uint32_t n = 0;
#define TEXT(name, value)                                                                          \
    fields[n++] = (struct log_field){.key = name, .kind = LOG_FIELD_TEXT, .text = value}
#define INT(name, value)                                                                           \
    fields[n++] = (struct log_field)                                                               \
    {                                                                                              \
        .key = name, .kind = LOG_FIELD_INT, .integer = value                                       \
    }
    TEXT("id", x->id);
    TEXT("method", x->method);
    TEXT("path", x->path);
    INT("status", x->status);
    fields[n++] = (struct log_field){.key = "ms",
                                     .kind = LOG_FIELD_NUMBER,
                                     .number = (double)(uv_hrtime() - x->started_ns) / 1e6};
    if (x->key)
        TEXT("key", c->api_keys[x->key - 1].name);
    if (x->has_tokens) {
        INT("prompt_tokens", x->prompt_tokens);
        INT("completion_tokens", x->completion_tokens);
        TEXT("policy", x->policy);
        TEXT("finish", x->finish);
    }
    if (x->refusal.code[0])
        TEXT("error", x->refusal.code);
    if (x->refusal.code[0] && x->refusal.where[0])
        TEXT("param", x->refusal.where);
    if (x->status != 499) { /* with 499 the headers no longer exist */
        TEXT("traceparent", http_request_header(x, "traceparent"));
        TEXT("retry", http_request_header(x, "X-Stainless-Retry-Count"));
    }
#undef TEXT
#undef INT
    log_fields(level_of(x), "request", fields, n);
}
