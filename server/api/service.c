/* See service.h. */
#include "cache/policy/preset.h"
#include "server/api/service.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "config/base/version.h"
#include "server/api/plan_json.h"

bool service_init(struct service *s, const struct config *c, struct error *e)
{
    struct error bad;
    *s = (struct service){
        .config = c,
        .default_sampling = {
            .temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1}};
    bool ok = plan_parse_text(c->kv_policy, strlen(c->kv_policy), "--kv-policy", &s->default_policy,
                              &bad);
    for (uint32_t i = 0; ok && i < c->kv_policy_allow.count; i++)
        ok = preset_find(c->kv_policy_allow.items[i]) ||
             error_set(&bad, "invalid_value", "--kv-policy-allow", "there is no policy '%.40s'",
                       c->kv_policy_allow.items[i]);
    return ok || error_set(e, bad.code, bad.where, "%.64s: %.500s", bad.where, bad.message);
}

/* The sampling values that the model file recommends, for --sampling-defaults model. */
static void read_sampling(struct service *service)
{
    const struct model_sampling *recommended = &engine_model(service->engine)->recommended;
    struct sampling *s = &service->default_sampling;
    if (recommended->temperature >= 0)
        s->temperature = recommended->temperature;
    if (recommended->top_p >= 0)
        s->top_p = recommended->top_p;
    if (recommended->min_p >= 0)
        s->min_p = recommended->min_p;
    if (recommended->top_k >= 0)
        s->top_k = recommended->top_k;
}

void service_set_engine(struct service *s, struct engine *engine)
{
    const struct model *m = engine_model(engine);
    s->engine = engine;
    s->created = time(NULL);
    snprintf(s->name, sizeof s->name, "%s", s->config->alias ? s->config->alias : m->name);
    snprintf(s->fingerprint, sizeof s->fingerprint, "winnow-%s-%.8s", version_string(),
             m->fingerprint);
    if (s->config->sampling_defaults && !strcmp(s->config->sampling_defaults, "model"))
        read_sampling(s);
}

bool service_has_model(const struct service *s, const char *model, const char *suffix,
                       struct error *e)
{
    char shown[80];
    size_t n = suffix ? (size_t)(suffix - model) - 1 : strlen(model);
    if (!s->config->strict_model || n == 0 || (n == strlen(s->name) && !memcmp(model, s->name, n)))
        return true;
    return error_set(e, "model_not_found", "model",
                     "the model '%s' does not exist here; this server has '%s'",
                     error_excerpt(shown, model, n), s->name);
}

bool service_shows_all(const struct service *s, const struct http_request *x)
{
    return http_request_is_admin(x) || s->config->n_api_keys == 0;
}
