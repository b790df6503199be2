/* What is served: the settings, the loaded model, and the defaults of requests. It does not change
 * after the engine has loaded, so handlers and pool threads read it without a lock. */
#ifndef WINNOW_SERVER_API_SERVICE_H
#define WINNOW_SERVER_API_SERVICE_H

#include "config/config.h"
#include "engine/serve/engine.h"
#include "server/api/work.h"
#include "server/http/http_request.h"

struct service {
    const struct config *config;
    struct engine *engine;   /* NULL until it has loaded; not owned */
    struct work_queue *work; /* loop thread */
    char name[256];          /* of the model: --alias, else general.name, else the file's name */
    char fingerprint[64];
    int64_t created;                  /* Unix time of the load */
    struct plan_asked default_policy; /* --kv-policy */
    struct sampling default_sampling;
    size_t longest_token; /* bytes of the longest token's text */
};

/* Loop thread. Reads the default policy. False: for example "invalid_kv_policy"; the message has the
 * flag. */
bool service_init(struct service *s, const struct config *c, struct error *e);
/* Loop thread, once. */
void service_set_engine(struct service *s, struct engine *engine);

/* Whether a request may name this model. `suffix` is the part after '@', or NULL. */
bool service_has_model(const struct service *s, const char *model, const char *suffix,
                       struct error *e);
/* Whether this caller also sees what belongs to other keys. Without --api-key all callers are one,
 * unless there is an --admin-api-key. */
bool service_shows_all(const struct service *s, const struct http_request *x);
/* Whether this caller may see sessions and requests at all: of all keys, or of its own. False: it was
 * answered 403. */
bool service_may_look(const struct service *s, struct http_request *x);

#endif
