/* See health.h. */
#include "server/api/health.h"

#include "server/http/error_reply.h"

static void not_ready(struct http_request *x, const char *code, const char *message,
                      const char *status, double progress)
{
    struct error e;
    error_set(&e, code, "", "%s", message);
    json_t *value = error_to_json(&e);
    if (value)
        json_object_set_new(value, "status", json_string(status));
    if (value && progress >= 0)
        json_object_set_new(json_object_get(value, "error"), "progress", json_real(progress));
    http_request_add_header(x, "Retry-After", "2");
    http_request_reply_json(x, 503, value);
}

void handle_ready(struct http_request *x, void *context)
{
    const struct health *h = context;
    if (h->engine && !engine_alive(h->engine))
        not_ready(x, "engine_fault", "the device has failed; the server is about to end", "failed",
                  -1);
    else if (transport_is_draining(h->transport))
        not_ready(x, "draining", "the server is shutting down", "draining", -1);
    else if (!transport_is_ready(h->transport))
        not_ready(x, "model_loading", "the model is still loading", "loading",
                  transport_loading(h->transport));
    else
        http_request_reply_json(x, 200, json_pack("{s:s}", "status", "ok"));
}

void handle_health(struct http_request *x, void *context)
{
    handle_ready(x, context);
}

void handle_live(struct http_request *x, void *context)
{
    const struct health *h = context;
    if (h->engine && !engine_alive(h->engine))
        not_ready(x, "engine_fault", "the device has failed; the server is about to end", "failed",
                  -1);
    else
        http_request_reply_json(x, 200, json_pack("{s:s}", "status", "ok"));
}
