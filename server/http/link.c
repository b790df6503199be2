/* Notices that a client has left while its request waits. libmicrohttpd does not watch the socket of a
 * suspended connection, so each link does. Loop thread. */
#include <stdlib.h>

#include "server/http/transport_private.h"

static void free_watch(uv_handle_t *handle)
{
    free(handle);
}

static void on_hang_up(uv_poll_t *handle, int status, int events)
{
    struct link *k = handle->data;
    (void)status;
    (void)events;
    uv_poll_stop(handle); /* otherwise the event repeats */
    struct http_request *x = k ? k->http_request : NULL;
    if (x && !x->answered && !x->stream.ended)
        http_request_hang_up(x, HTTP_REQUEST_CLIENT_LEFT);
}

void link_watch(struct link *k)
{
    if (!k->watch) {
        k->watch = malloc(sizeof *k->watch);
        if (!k->watch || uv_poll_init(k->transport->loop, k->watch, k->fd)) {
            free(k->watch);
            k->watch = NULL;
            return; /* out of memory: the hang-up is noticed at the next write */
        }
        k->watch->data = k;
    }
    if (!uv_is_active((uv_handle_t *)k->watch))
        uv_poll_start(k->watch, UV_DISCONNECT, on_hang_up);
}

void link_close(struct link *k)
{
    if (!k->watch)
        return;
    k->watch->data = NULL;
    uv_poll_stop(k->watch);
    uv_close((uv_handle_t *)k->watch, free_watch);
    k->watch = NULL;
}
