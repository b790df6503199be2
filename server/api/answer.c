/* See answer.h. */
#include "server/api/answer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cache/policy/preset.h"
#include "config/json_read.h"
#include "server/api/json_text.h"

static const char *const finish_names[] = {"stop", "length", "stop", "stop"};

static json_t *choice_finish(const struct answer_choice *c)
{
    return json_string(finish_names[c->finish]);
}

static json_t *choice_stop_reason(const struct job *j, const struct answer_choice *c)
{
    if (c->stop_string >= 0 && (uint32_t)c->stop_string < j->r.n_stops) {
        return json_text(j->r.stops[c->stop_string].bytes, j->r.stops[c->stop_string].length);
    }
    return c->stop_token >= 0 ? json_integer(c->stop_token) : json_null();
}

/* ---- numbers */

json_t *answer_kv_cache(const struct job *j)
{
    const struct request_usage *u = &j->prompts[0].usage;
    double held = (double)u->bytes;
    json_t *kv = json_pack(
        "{s:s, s:o, s:s, s:I, s:f, s:I, s:I, s:f, s:I, s:I, s:I, s:f, s:I, s:I, s:b, s:s, s:f}",
        "policy", u->policy ? u->policy : j->plan->preset->name, "budget",
        u->budget ? json_integer(u->budget) : json_null(), "source", plan_source_name(u->source),
        "tokens_seen", (json_int_t)u->tokens_seen, "slots_kept", u->slots_kept, "slots_kept_min",
        (json_int_t)u->slots_kept_min, "slots_kept_max", (json_int_t)u->slots_kept_max, "evicted",
        u->evicted, "bytes", (json_int_t)u->bytes, "bytes_peak", (json_int_t)u->bytes_peak,
        "bytes_full", (json_int_t)u->bytes_full, "compression",
        held > 0 ? (double)u->bytes_full / held : 1.0, "pages", (json_int_t)u->pages,
        "pages_returned", (json_int_t)u->pages_returned, "exact", u->exact, "reuse",
        u->session_reused  ? "session"
        : u->cached_tokens ? "prefix"
                           : "none",
        "reused_slots", u->reused_slots);
    if (kv && u->session_missed)
        json_object_set_new(kv, "session_miss", json_string("history_changed"));
    if (kv && u->session_kept)
        json_object_set_new(kv, "session",
                            json_pack("{s:s, s:I}", "id", j->r.session_id, "expires_at",
                                      (json_int_t)u->session_ends));
    return kv;
}

json_t *answer_usage(const struct job *j)
{
    json_int_t prompt = (json_int_t)j->n_prompt_tokens, completion = (json_int_t)j->n_generated;
    bool done = j->n_done == j->n_prompts;
    json_t *usage = json_pack("{s:I, s:I, s:I, s:{s:I, s:I}, s:{s:I}}", "prompt_tokens", prompt,
                              "completion_tokens", completion, "total_tokens", prompt + completion,
                              "prompt_tokens_details", "cached_tokens", (json_int_t)j->n_cached,
                              "cache_write_tokens", (json_int_t)j->n_cache_written,
                              "completion_tokens_details", "reasoning_tokens", (json_int_t)0);
    if (usage && done)
        json_object_set_new(usage, "kv_cache", answer_kv_cache(j));
    return usage;
}

json_t *answer_timings(const struct job *j)
{
    const struct request_usage *u = &j->prompts[0].usage;
    double prompt = (double)j->n_prompt_tokens - u->cached_tokens,
           predicted = (double)j->n_generated;
    double prompt_ms = 0, predicted_ms = 0;
    for (uint32_t i = 0; i < j->n_prompts; i++) {
        prompt_ms = fmax(prompt_ms, j->prompts[i].usage.prompt_ms);
        predicted_ms = fmax(predicted_ms, j->prompts[i].usage.predicted_ms);
    }
    return json_pack("{s:i, s:I, s:f, s:f, s:f, s:I, s:f, s:f, s:f, s:f, s:f}", "cache_n",
                     (int)u->cached_tokens, "prompt_n", (json_int_t)prompt, "prompt_ms", prompt_ms,
                     "prompt_per_token_ms", prompt > 0 ? prompt_ms / prompt : 0.0,
                     "prompt_per_second", prompt_ms > 0 ? 1e3 * prompt / prompt_ms : 0.0,
                     "predicted_n", (json_int_t)predicted, "predicted_ms", predicted_ms,
                     "predicted_per_token_ms", predicted > 0 ? predicted_ms / predicted : 0.0,
                     "predicted_per_second",
                     predicted_ms > 0 ? 1e3 * predicted / predicted_ms : 0.0, "queue_ms",
                     u->queue_ms, "ttft_ms", u->ttft_ms);
}

json_t *answer_kv_trace(const struct job *j)
{
    const struct prompt *p = &j->prompts[0];
    json_t *kept = NULL;
    if (p->kv_trace &&
        !(kept = json_read(p->kv_trace, strlen(p->kv_trace), 0, "", "", "kv_trace", NULL)))
        return NULL;
    json_t *trace = json_pack("{s:o?}", "kept", kept);
    if (trace && p->kv_trace_truncated)
        json_object_set_new(trace, "trace_truncated", json_true());
    return trace;
}

/* ---- log probabilities */

static const char *bytes_of(const struct job *j, int32_t token, size_t *length)
{
    return tokenizer_bytes(engine_tokenizer(j->jobs->service->engine), token,
                           !j->r.skip_special_tokens, length);
}

static json_t *token_json(const struct job *j, int32_t token, float logprob)
{
    size_t n;
    const char *bytes = bytes_of(j, token, &n);
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer((unsigned char)bytes[i]));
    return json_pack("{s:o, s:f, s:o}", "token", json_text(bytes, n), "logprob", (double)logprob,
                     "bytes", list);
}

static json_t *chat_logprobs(const struct job *j, const struct request_event *e)
{
    json_t *content = json_array();
    for (uint32_t i = 0; i < e->n_tokens; i++) {
        const struct event_token *t = &e->tokens[i];
        json_t *entry = token_json(j, t->token, t->logprob), *top = json_array();
        for (uint32_t k = 0; k < t->n_top && k < (uint32_t)j->r.n_logprobs; k++)
            json_array_append_new(top, token_json(j, t->top[k].token, t->top[k].logprob));
        json_object_set_new(entry, "top_logprobs", top);
        json_array_append_new(content, entry);
    }
    return json_pack("{s:o, s:n}", "content", content, "refusal");
}

static uint32_t n_characters(const char *bytes, size_t length)
{
    uint32_t n = 0;
    for (size_t i = 0; i < length; i++)
        n += ((unsigned char)bytes[i] & 0xC0) != 0x80;
    return n;
}

static json_t *completion_logprobs(const struct job *j, uint32_t *n_offset,
                                   const struct request_event *e, bool prompt)
{
    json_t *tokens = json_array(), *logprobs = json_array(), *tops = json_array(),
           *offsets = json_array();
    for (uint32_t i = 0; i < e->n_tokens; i++) {
        const struct event_token *t = &e->tokens[i];
        size_t n;
        const char *bytes = bytes_of(j, t->token, &n);
        json_array_append_new(tokens, json_text(bytes, n));
        json_array_append_new(offsets, json_integer(*n_offset));
        *n_offset += n_characters(bytes, n);
        if (prompt && e->first_token + i == 0) { /* nothing came before it */
            json_array_append_new(logprobs, json_null());
            json_array_append_new(tops, json_null());
            continue;
        }
        json_array_append_new(logprobs, json_real((double)t->logprob));
        json_t *top = json_object();
        for (uint32_t k = 0; k < t->n_top; k++) {
            const char *text = bytes_of(j, t->top[k].token, &n);
            json_t *key = json_text(text, n);
            /* two tokens with the same text: the likelier one comes first and stays */
            if (key && json_string_length(key) == strlen(json_string_value(key)) &&
                !json_object_get(top, json_string_value(key)))
                json_object_set_new(top, json_string_value(key),
                                    json_real((double)t->top[k].logprob));
            json_decref(key);
        }
        json_array_append_new(tops, top);
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", tokens, "token_logprobs", logprobs,
                     "top_logprobs", tops, "text_offset", offsets);
}

json_t *answer_logprobs(const struct job *j, uint32_t *n_offset, const struct request_event *e,
                        bool prompt)
{
    if (j->r.n_logprobs < 0)
        return json_null();
    return j->kind == API_REQUEST_CHAT ? chat_logprobs(j, e)
                                       : completion_logprobs(j, n_offset, e, prompt);
}

static size_t lists_bytes(const struct logprob_lists *lists)
{
    return lists->tokens.length + lists->logprobs.length + lists->tops.length +
           lists->offsets.length;
}

bool answer_add_logprobs(struct job *j, struct logprob_lists *lists, json_t *more, struct error *e)
{
    size_t before = lists_bytes(lists);
    const json_t *content = json_object_get(more, "content");
    bool ok =
        json_is_null(more) ||
        (content
             ? json_add_entries(&lists->tokens, content)
             : json_add_entries(&lists->tokens, json_object_get(more, "tokens")) &&
                   json_add_entries(&lists->logprobs, json_object_get(more, "token_logprobs")) &&
                   json_add_entries(&lists->tops, json_object_get(more, "top_logprobs")) &&
                   json_add_entries(&lists->offsets, json_object_get(more, "text_offset")));
    json_decref(more);
    if (!ok)
        return error_set_memory(e, "log probabilities", before);
    return job_count_bytes(j, lists_bytes(lists) - before, e);
}

bool answer_add_ids(struct bytes *out, const int32_t *tokens, size_t n)
{
    char text[16];
    for (size_t i = 0; i < n; i++) {
        snprintf(text, sizeof text, out->length ? ",%d" : "%d", tokens[i]);
        if (!json_add_raw(out, text))
            return false;
    }
    return true;
}

/* ---- answers */

static json_t *answer_head(const struct job *j, const char *object)
{
    return json_pack("{s:s, s:s, s:I, s:o, s:s}", "id", j->id, "object", object, "created",
                     (json_int_t)j->created, "model",
                     json_string(*j->r.model ? j->r.model : j->jobs->service->name),
                     "system_fingerprint", j->jobs->service->fingerprint);
}

/* The whole answer is written as text, in the order in which its members stand. */

/* Appends the object's members to an object that is not closed yet, and takes the reference. */
static bool write_members(struct bytes *out, json_t *object)
{
    size_t before = out->length;
    bool first = before && out->data[before - 1] == '{', ok = json_add_any(out, object);
    json_decref(object);
    if (!ok)
        return false;
    if (first) { /* without its opening bracket */
        memmove(out->data + before, out->data + before + 1, out->length - before - 1);
        out->length--;
    } else {
        out->data[before] = ',';
    }
    out->length--; /* its closing bracket */
    return true;
}

static bool write_bytes(struct bytes *out, const struct bytes *part)
{
    return bytes_add(out, part->data, part->length);
}

/* [a, b], where either may be empty. */
static bool write_list(struct bytes *out, const struct bytes *a, const struct bytes *b)
{
    return json_add_raw(out, "[") && write_bytes(out, a) &&
           (a->length == 0 || b->length == 0 || json_add_raw(out, ",")) && write_bytes(out, b) &&
           json_add_raw(out, "]");
}

static bool write_logprobs(const struct job *j, struct bytes *out, const struct logprob_lists *a,
                           const struct logprob_lists *b)
{
    if (j->r.n_logprobs < 0)
        return json_add_raw(out, ",\"logprobs\":null");
    if (j->kind == API_REQUEST_CHAT)
        return json_add_raw(out, ",\"logprobs\":{\"content\":") &&
               write_list(out, &a->tokens, &b->tokens) && json_add_raw(out, ",\"refusal\":null}");
    return json_add_raw(out, ",\"logprobs\":{\"tokens\":") &&
           write_list(out, &a->tokens, &b->tokens) && json_add_raw(out, ",\"token_logprobs\":") &&
           write_list(out, &a->logprobs, &b->logprobs) && json_add_raw(out, ",\"top_logprobs\":") &&
           write_list(out, &a->tops, &b->tops) && json_add_raw(out, ",\"text_offset\":") &&
           write_list(out, &a->offsets, &b->offsets) && json_add_raw(out, "}");
}

static bool write_ids(struct bytes *out, const char *key, const struct bytes *ids)
{
    return json_add_raw(out, ",\"") && json_add_raw(out, key) && json_add_raw(out, "\":[") &&
           write_bytes(out, ids) && json_add_raw(out, "]");
}

static json_t *whole_text(const struct prompt *p, const struct answer_choice *c)
{
    struct bytes all = {0};
    bool ok = write_bytes(&all, &p->echo) && write_bytes(&all, &c->text);
    json_t *text = ok ? json_text(all.data ? all.data : "", all.length) : NULL;
    bytes_clear(&all);
    return text;
}

static bool write_choice(const struct job *j, struct bytes *out, uint32_t index)
{
    const struct answer_choice *c = &j->choices[index];
    const struct prompt *p = &j->prompts[index / j->r.n];
    json_t *text = whole_text(p, c), *first;
    if (j->kind == API_REQUEST_CHAT)
        first = json_pack("{s:i, s:{s:s, s:o, s:n}}", "index", (int)index, "message", "role",
                          "assistant", "content", text, "refusal");
    else
        first = json_pack("{s:i, s:o}", "index", (int)index, "text", text);
    bool ok = json_add_raw(out, index ? ",{" : "{") && write_members(out, first) &&
              write_logprobs(j, out, &p->logprobs, &c->logprobs) &&
              write_members(out, json_pack("{s:o, s:o}", "finish_reason", choice_finish(c),
                                           "stop_reason", choice_stop_reason(j, c)));
    if (ok && j->r.return_token_ids)
        ok = write_ids(out, "token_ids", &c->token_ids) &&
             (j->kind == API_REQUEST_CHAT || write_ids(out, "prompt_token_ids", &p->token_ids));
    return ok && json_add_raw(out, "}");
}

bool answer_write(const struct job *j, struct bytes *out)
{
    json_t *head =
        answer_head(j, j->kind == API_REQUEST_CHAT ? "chat.completion" : "text_completion");
    bool ok =
        json_add_raw(out, "{") && write_members(out, head) && json_add_raw(out, ",\"choices\":[");
    for (uint32_t i = 0; ok && i < j->n_choices; i++)
        ok = write_choice(j, out, i);
    ok = ok && json_add_raw(out, "]") &&
         write_members(out, json_pack("{s:o, s:I, s:o}", "usage", answer_usage(j), "seed",
                                      (json_int_t)j->seed, "timings", answer_timings(j)));
    if (ok && j->kind == API_REQUEST_CHAT && j->r.return_token_ids)
        ok = write_ids(out, "prompt_token_ids", &j->prompts[0].token_ids);
    if (ok && j->plan->trace)
        ok = write_members(out, json_pack("{s:o}", "kv_trace", answer_kv_trace(j)));
    return ok && json_add_raw(out, "}");
}

json_t *answer_chunk(const struct job *j, int32_t index, json_t *delta, json_t *logprobs,
                     bool finished)
{
    json_t *chunk =
        answer_head(j, j->kind == API_REQUEST_CHAT ? "chat.completion.chunk" : "text_completion");
    json_t *choices = json_array();
    if (index >= 0) {
        const struct answer_choice *c = &j->choices[index];
        json_t *choice =
            json_pack("{s:i, s:o?, s:o?, s:o}", "index", (int)index,
                      j->kind == API_REQUEST_CHAT ? "delta" : "text", delta, "logprobs", logprobs,
                      "finish_reason", finished ? choice_finish(c) : json_null());
        if (finished && choice)
            json_object_set_new(choice, "stop_reason", choice_stop_reason(j, c));
        json_array_append_new(choices, choice);
    }
    json_object_set_new(chunk, "choices", choices);
    if (j->r.continuous_usage)
        json_object_set_new(chunk, "usage", answer_usage(j));
    else if (j->r.include_usage)
        json_object_set_new(chunk, "usage", json_null());
    return chunk;
}
