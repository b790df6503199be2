/* See reply.h. */
#include "cache/policy/preset.h"
#include "server/api/reply.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/answer.h"
#include "server/api/json_text.h"
#include "server/http/error_reply.h"

/* The first chunks. Chat: the role of each choice. Completions: the echoed prompt, and with several
 * choices one chunk for each, because clients expect rising indices and texts start in any order. */
static bool start_stream(struct job *j)
{
    bool ok = true;
    if (j->started)
        return true;
    j->started = true;
    for (uint32_t i = 0; ok && i < j->n_choices; i++) {
        const struct bytes *echo = &j->choices[i].text;
        if (j->kind == API_REQUEST_CHAT)
            ok = http_request_stream_event(
                j->http_request,
                answer_chunk(j, (int32_t)i,
                             json_pack("{s:s, s:s}", "role", "assistant", "content", ""),
                             json_null(), false));
        else if (echo->length || j->n_choices > 1)
            ok = http_request_stream_event(
                j->http_request,
                answer_chunk(j, (int32_t)i, json_text(echo->data ? echo->data : "", echo->length),
                             json_null(), false));
    }
    return ok;
}

static json_t *delta_of(const struct job *j, const char *text, size_t length)
{
    json_t *content = json_text(text, length);
    return j->kind == API_REQUEST_CHAT ? json_pack("{s:o}", "content", content) : content;
}

static bool add_ids(json_t **ids, const struct request_event *e)
{
    if (!*ids && !(*ids = json_array()))
        return false;
    for (uint32_t i = 0; i < e->n_tokens; i++)
        if (json_array_append_new(*ids, json_integer(e->tokens[i].token)))
            return false;
    return true;
}

static bool take_text(struct job *j, uint32_t index, const struct request_event *e)
{
    struct answer_choice *c = &j->choices[index];
    c->n_tokens += e->n_tokens;
    json_t *logprobs = answer_logprobs(j, c, e, false);
    if (!j->r.stream) {
        if (j->r.return_token_ids && !add_ids(&c->token_ids, e))
            return false;
        return answer_join_logprobs(&c->logprobs, logprobs) &&
               bytes_add(&c->text, e->text, e->n_text);
    }
    if (e->n_text == 0 && j->r.n_logprobs < 0 && !j->r.return_token_ids) {
        json_decref(logprobs);
        return true;
    }
    json_t *chunk =
        answer_chunk(j, (int32_t)index, delta_of(j, e->text, e->n_text), logprobs, false);
    if (chunk && j->r.return_token_ids) {
        json_t *ids = NULL;
        if (add_ids(&ids, e))
            json_object_set_new(json_array_get(json_object_get(chunk, "choices"), 0), "token_ids",
                                ids);
    }
    return start_stream(j) && http_request_stream_event(j->http_request, chunk);
}

/* Adds a prompt's log probabilities to each of its choices. */
static bool take_prompt_tokens(struct prompt *p, const struct request_event *e)
{
    struct job *j = p->job;
    for (uint32_t k = 0; k < j->r.n; k++) {
        uint32_t index = p->index * j->r.n + k;
        struct answer_choice *c = &j->choices[index];
        json_t *logprobs = answer_logprobs(j, c, e, true);
        bool ok = j->r.stream
                      ? start_stream(j) &&
                            http_request_stream_event(
                                j->http_request, answer_chunk(j, (int32_t)index, delta_of(j, "", 0),
                                                              logprobs, false))
                      : answer_join_logprobs(&c->logprobs, logprobs);
        if (!ok)
            return false;
    }
    return true;
}

static json_t *finish_chunk(struct job *j, int32_t index)
{
    return answer_chunk(j, index, j->kind == API_REQUEST_CHAT ? json_object() : json_string(""),
                        json_null(), true);
}

/* The last choice's finish chunk waits for EVENT_DONE, which has numbers for it. */
static bool take_choice_end(struct job *j, uint32_t index, const struct request_event *e)
{
    struct answer_choice *c = &j->choices[index];
    c->ended = true;
    c->finish = e->finish;
    c->stop_token = e->stop_token;
    c->stop_string = e->stop_string;
    j->n_ended++;
    if (!j->r.stream)
        return true;
    if (j->n_ended < j->n_choices)
        return start_stream(j) &&
               http_request_stream_event(j->http_request, finish_chunk(j, (int32_t)index));
    j->last_choice = (int32_t)index;
    return true;
}

static bool end_stream(struct job *j)
{
    bool with_usage = j->r.include_usage || j->plan->trace;
    json_t *last = finish_chunk(j, j->last_choice);
    if (last && !with_usage) {
        json_object_set_new(last, "timings", answer_timings(j));
        if (j->plan->source != SOURCE_DEFAULT)
            json_object_set_new(last, "kv_cache", answer_kv_cache(j));
    }
    if (!start_stream(j) || !http_request_stream_event(j->http_request, last))
        return false;
    if (with_usage) {
        json_t *chunk = answer_chunk(j, -1, NULL, NULL, false);
        json_object_set_new(chunk, "usage", answer_usage(j));
        json_object_set_new(chunk, "timings", answer_timings(j));
        if (j->plan->trace)
            json_object_set_new(chunk, "kv_trace", answer_kv_trace(j));
        if (!http_request_stream_event(j->http_request, chunk))
            return false;
    }
    return http_request_stream_done(j->http_request);
}

static bool end_whole(struct job *j)
{
    char text[32];
    snprintf(
        text, sizeof text, "%llu",
        (unsigned long long)((uv_hrtime() - http_request_started_ns(j->http_request)) / 1000000));
    http_request_add_header(j->http_request, "OpenAI-Processing-Ms", text);
    http_request_reply_json(j->http_request, 200, answer_whole(j));
    return true;
}

static bool take_done(struct prompt *p, const struct request_event *e)
{
    struct job *j = p->job;
    p->usage = *e->usage;
    p->done = true;
    if (e->kv_trace && (p->kv_trace = malloc(e->n_kv_trace + 1))) {
        memcpy(p->kv_trace, e->kv_trace, e->n_kv_trace);
        p->kv_trace[e->n_kv_trace] = 0;
    }
    p->kv_trace_truncated = e->kv_trace_truncated;
    if (++j->n_done < j->n_prompts)
        return true;
    uint32_t prompt = 0, completion = 0;
    for (uint32_t i = 0; i < j->n_prompts; i++) {
        prompt += j->prompts[i].usage.prompt_tokens;
        completion += j->prompts[i].usage.completion_tokens;
    }
    http_request_log_tokens(j->http_request, prompt, completion, j->plan->preset->name,
                            j->choices[0].finish == FINISH_LENGTH ? "length" : "stop");
    return j->r.stream ? end_stream(j) : end_whole(j);
}

static bool take_progress(struct prompt *p, const struct request_event *e)
{
    struct job *j = p->job;
    json_t *chunk = answer_chunk(j, -1, NULL, NULL, false);
    if (chunk)
        json_object_set_new(chunk, "prompt_progress",
                            json_pack("{s:I, s:i, s:I, s:f}", "total", (json_int_t)e->n_total,
                                      "cache", 0, "processed", (json_int_t)e->n_done, "time_ms",
                                      e->time_ms));
    return start_stream(j) && http_request_stream_event(j->http_request, chunk);
}

bool reply_take(struct prompt *p, const struct request_event *e)
{
    struct job *j = p->job;
    uint32_t index = p->index * j->r.n + e->choice;
    switch (e->kind) {
    case EVENT_PROGRESS:
        return take_progress(p, e);
    case EVENT_PROMPT_TOKENS:
        return take_prompt_tokens(p, e);
    case EVENT_TEXT:
        return take_text(j, index, e);
    case EVENT_CHOICE_END:
        return take_choice_end(j, index, e);
    case EVENT_DONE:
        return take_done(p, e);
    default:
        return true;
    }
}

void reply_fail(struct job *j, const struct error *e)
{
    struct http_request *x = j->http_request;
    job_stop_work(j, false);
    if (!x)
        return;
    http_request_log_tokens(x, j->n_prompts ? j->prompts[0].n_tokens : 0, 0,
                            j->policy ? j->policy : "", "error");
    if (http_request_stream_committed(x))
        http_request_stream_end(x, http_request_stream_event(x, error_to_json(e)));
    else
        http_request_reply_error(x, e);
}
