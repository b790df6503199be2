/* Endpoints that answer from the body alone: parsed, computed and written as text on the thread pool, so
 * that neither a long body nor a long answer stops the loop. */
#ifndef WINNOW_SERVER_API_CHORE_H
#define WINNOW_SERVER_API_CHORE_H

#include "config/base/bytes.h"
#include "server/api/service.h"
#include "server/api/work.h"

/* One HTTP request of this kind. */
struct chore {
    struct work work; /* must be first */
    const struct service *service;
    struct http_request *http_request; /* NULL when it has ended */
    char *body;
    size_t length;
    bool (*make)(struct chore *c, const json_t *body, struct error *e);
    struct bytes answer; /* JSON text that `make` writes */
    struct error error;
};

/* Loop thread. Takes the request's body, queues the work and answers with what `make` writes (pool). */
void chore_start(struct http_request *x, const struct service *service,
                 bool (*make)(struct chore *c, const json_t *body, struct error *e));

/* Pool. Whether the answer may grow by `more` bytes: it is within --max-answer, and somebody still waits
 * for it. `make` asks at least every few thousand entries. */
bool chore_may_add(const struct chore *c, uint64_t more, struct error *e);
/* Pool. Appends a JSON value and takes the reference. */
bool chore_add(struct chore *c, json_t *value, struct error *e);
/* Pool. The error of a failed tokenizing: what the tokenizer said, unless somebody stopped it. */
bool chore_is_stopped(const struct chore *c, struct error *e);

#endif
