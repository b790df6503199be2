/* Queries that only the engine's thread can answer: POST /v1/kv/flush, GET /v1/kv/requests/{id}. It
 * answers between two steps, and the loop does not wait. Loop thread.
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
    TAILQ_HEAD(query_list, query) waiting; /* those with an HTTP request */
    uint32_t n_waiting;
};

void queries_init(struct queries *queries, const struct service *service, struct mailbox *mailbox);
/* Answers all waiting queries with this error. */
void queries_stop_all(struct queries *queries, const struct error *e);

#endif
