/* See service.h. */
#include "cache/policy/preset.h"
#include "server/api/service.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "config/base/version.h"
#include "server/api/plan_json.h"

static const struct sampling openai_sampling = {
    .temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1};

bool service_init(struct service *s, const struct config *c, struct error *e)
{
    struct error bad;
    *s = (struct service){.config = c, .default_sampling = openai_sampling};
    if (strcmp(c->sampling_defaults, "openai") != 0) {
        s->default_sampling.temperature = 0.8;
        s->default_sampling.top_k = 40;
        s->default_sampling.top_p = 0.95;
        s->default_sampling.min_p = 0.05;
    }
    bool ok = plan_parse_text(c->kv_policy, strlen(c->kv_policy), "--kv-policy", &s->default_policy,
                              &bad);
    for (uint32_t i = 0; ok && i < c->kv_policy_allow.count; i++)
        ok = preset_find(c->kv_policy_allow.items[i]) ||
             error_set(&bad, "invalid_value", "--kv-policy-allow", "there is no policy '%.40s'",
                       c->kv_policy_allow.items[i]);
    return ok || error_set(e, bad.code, bad.where, "%.64s: %.500s", bad.where, bad.message);
}

/* The model file's sampling values. */
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

/* Clients put the name into URLs and split lists of names at blanks, so such a name in the file gives
 * way to the file's. */
static void set_name(struct service *s, const char *name)
{
    const char *path = s->config->model, *slash = strrchr(path, '/'),
               *file = slash ? slash + 1 : path;
    size_t length = strlen(file);
    if (s->config->alias) {
        snprintf(s->name, sizeof s->name, "%s", s->config->alias);
    } else if (!strpbrk(name, " \t\r\n")) {
        snprintf(s->name, sizeof s->name, "%s", name);
    } else {
        if (length > 5 && !strcmp(file + length - 5, ".gguf"))
            length -= 5;
        snprintf(s->name, sizeof s->name, "%.*s", (int)length, file);
    }
}

void service_set_engine(struct service *s, struct engine *engine)
{
    const struct model *m = engine_model(engine);
    s->engine = engine;
    s->created = time(NULL);
    set_name(s, m->name);
    snprintf(s->fingerprint, sizeof s->fingerprint, "winnow-%s-%.8s", version_string(),
             m->fingerprint);
    if (strcmp(s->config->sampling_defaults, "openai") != 0)
        read_sampling(s);
    for (int32_t i = 0; i < tokenizer_n_vocab(engine_tokenizer(engine)); i++) {
        size_t length;
        tokenizer_bytes(engine_tokenizer(engine), i, true, &length);
        s->longest_token = length > s->longest_token ? length : s->longest_token;
    }
}

bool service_has_model(const struct service *s, const char *model, const char *suffix,
                       struct error *e)
{
    char shown[80];
    size_t n = suffix ? (size_t)(suffix - model) - 1 : strlen(model);
    if (!strcmp(model, s->name))
        return true;
    if (!s->config->strict_model || n == 0 || (n == strlen(s->name) && !memcmp(model, s->name, n)))
        return true;
    return error_set(e, "model_not_found", "model",
                     "the model '%s' does not exist here; this server has '%s'",
                     error_excerpt(shown, model, n), s->name);
}

bool service_shows_all(const struct service *s, const struct http_request *x)
{
    return http_request_is_admin(x) ||
           (s->config->n_api_keys == 0 && s->config->admin_api_key == NULL);
}

bool service_may_look(const struct service *s, struct http_request *x)
{
    struct error e;
    if (service_shows_all(s, x) || http_request_key(x))
        return true;
    error_set(&e, "admin_key_required", "",
              "this server has no --api-key, so its callers cannot be told apart: this needs the "
              "key of --admin-api-key");
    http_request_reply_error(x, &e);
    return false;
}
