/* Questions to the engine's thread, which alone may do or see the thing: POST /v1/kv/flush, GET
 * /v1/kv/requests/{id}. The engine answers between two steps; the loop goes on meanwhile.
 *
 *   handler -> engine_query -> on_answer (engine thread) -> mailbox -> the HTTP answer (loop) */
#ifndef WINNOW_SERVER_API_QUERY_H
#define WINNOW_SERVER_API_QUERY_H

#include "server/api/mailbox.h"
#include "server/api/service.h"

struct query;

struct queries {
    const struct service *service;
    struct mailbox *mailbox;
    TAILQ_HEAD(query_list, query) waiting; /* with an HTTP request */
    uint32_t n_waiting;
};

void queries_init(struct queries *queries, const struct service *service, struct mailbox *mailbox);
/* Those without an answer get this error. */
void queries_stop_all(struct queries *queries, const struct error *e);

#endif
