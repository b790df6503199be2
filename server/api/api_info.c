/* Facts about the server: /v1/models, /version, /props; and the answer for /v1/embeddings, which does
 * not exist yet. Loop thread. */
#include <stdio.h>
#include <string.h>

#include "cache/policy/preset.h"
#include "config/base/version.h"
#include "server/api/admission.h"
#include "server/api/handlers.h"
#include "server/api/plan_json.h"
#include "server/api/service.h"

static json_t *model_row(const struct service *s, const char *suffix)
{
    const struct model *m = engine_model(s->engine);
    char id[320];
    snprintf(id, sizeof id, "%s%s%s", s->name, suffix ? "@" : "", suffix ? suffix : "");
    return json_pack(
        "{s:s, s:s, s:I, s:s, s:I, s:{s:I, s:I, s:I, s:I, s:I, s:s, s:I, s:I, s:I, s:s}}", "id", id,
        "object", "model", "created", (json_int_t)s->created, "owned_by", "winnow", "max_model_len",
        (json_int_t)engine_n_ctx(s->engine), "meta", "n_vocab", (json_int_t)m->n_vocab,
        "n_ctx_train", (json_int_t)m->n_ctx_train, "n_embd", (json_int_t)m->n_embd, "n_params",
        (json_int_t)m->n_parameters, "size", (json_int_t)m->size_bytes, "ftype", m->quantisation,
        "layers", (json_int_t)m->n_layers, "kv_heads", (json_int_t)m->n_kv_heads, "head_dim",
        (json_int_t)m->head_dim, "default_kv_policy",
        suffix ? suffix : s->default_policy.preset->name);
}

void handle_models(struct http_request *x, void *context)
{
    const struct service *s = context;
    json_t *rows = json_array();
    json_array_append_new(rows, model_row(s, NULL));
    for (uint32_t i = 0; s->config->list_policy_models && i < preset_count(); i++)
        if (admission_offers(s, preset_at(i)) && admission_can_run(s, preset_at(i)))
            json_array_append_new(rows, model_row(s, preset_at(i)->name));
    http_request_reply_json(x, 200, json_pack("{s:s, s:o}", "object", "list", "data", rows));
}

void handle_model(struct http_request *x, void *context)
{
    const struct service *s = context;
    const char *id = http_request_path_tail(x), *at = strrchr(id, '@');
    char shown[80];
    struct error e;
    if (!strcmp(id, s->name)) {
        http_request_reply_json(x, 200, model_row(s, NULL));
        return;
    }
    const struct preset *preset = at ? preset_find(at + 1) : NULL;
    if (preset && (size_t)(at - id) == strlen(s->name) &&
        !strncmp(id, s->name, (size_t)(at - id))) {
        http_request_reply_json(x, 200, model_row(s, preset->name));
        return;
    }
    error_set(&e, "model_not_found", "model",
              "the model '%s' does not exist here; this server has '%s'",
              error_excerpt(shown, id, strlen(id)), s->name);
    http_request_reply_error(x, &e);
}

void handle_version(struct http_request *x, void *context)
{
    (void)context;
    http_request_reply_json(
        x, 200, json_pack("{s:s, s:s}", "version", version_string(), "commit", version_commit()));
}

void handle_props(struct http_request *x, void *context)
{
    const struct service *s = context;
    const struct config *c = s->config;
    const struct sampling *d = &s->default_sampling;
    const struct plan_limits limits = admission_limits(s, SOURCE_DEFAULT);
    http_request_reply_json(
        x, 200,
        json_pack("{s:s, s:s, s:s, s:I, s:{s:I, s:{s:f, s:f, s:i, s:f}}, s:I, s:o, s:{s:I, s:I, "
                  "s:I, s:I}}",
                  "model_alias", s->name, "build_info", version_string(), "chat_template",
                  chat_template_source(engine_chat_template(s->engine)), "total_slots",
                  (json_int_t)c->max_num_seqs, "default_generation_settings", "n_ctx",
                  (json_int_t)engine_n_ctx(s->engine), "params", "temperature", d->temperature,
                  "top_p", d->top_p, "top_k", (int)d->top_k, "min_p", d->min_p, "n_ctx",
                  (json_int_t)engine_n_ctx(s->engine), "default_kv_policy",
                  plan_asked_to_json(&s->default_policy, &limits), "limits", "max_body",
                  (json_int_t)c->max_body_bytes, "max_queue", (json_int_t)c->max_queue, "max_n",
                  (json_int_t)MAX_CHOICES, "max_kv_budget", (json_int_t)c->kv_policy_max_budget));
}

void handle_embeddings(struct http_request *x, void *context)
{
    struct error e;
    (void)context;
    error_set(&e, "unsupported_parameter", "model", "this version of winnow has no embeddings");
    http_request_reply_error(x, &e);
}
