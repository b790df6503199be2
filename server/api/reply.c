/* See reply.h. */
#include "cache/policy/preset.h"
#include "server/api/reply.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/answer.h"
#include "server/api/json_text.h"
#include "server/http/error_reply.h"

/* An event with many tokens, and the first chunks of many choices, are written in pieces: between two of
 * them the loop serves others, and the client's buffer is looked at. */
enum { PIECE_TOKENS = 32, PIECE_CHOICES = 16, PIECE_BYTES = 32 * 1024 };

/* The next bytes of a choice's echo, whole characters. */
static size_t echo_piece(const struct bytes *echo, size_t at)
{
    size_t n = echo->length - at;
    if (n <= PIECE_BYTES)
        return n;
    for (n = PIECE_BYTES;
         n > PIECE_BYTES - 4 && ((unsigned char)echo->data[at + n] & 0xC0) == 0x80;)
        n--;
    return n;
}

/* The first chunk of one choice, or a piece of its echo. */
static bool start_choice(struct job *j)
{
    uint32_t i = j->n_started;
    const struct bytes *echo = &j->prompts[i / j->r.n].echo;
    json_t *delta;
    if (j->kind == API_REQUEST_CHAT) {
        j->n_started++;
        delta = json_pack("{s:s, s:s}", "role", "assistant", "content", "");
    } else {
        size_t n = echo_piece(echo, j->at_echo);
        delta = json_text(echo->data ? echo->data + j->at_echo : "", n);
        j->at_echo += n;
        if (j->at_echo == echo->length) {
            j->at_echo = 0;
            j->n_started++;
        }
        if (echo->length == 0 && j->n_choices == 1) {
            json_decref(delta);
            return true;
        }
    }
    return http_request_stream_event(j->http_request,
                                     answer_chunk(j, (int32_t)i, delta, json_null(), false));
}

/* The first chunks. Chat: the role of each choice. Completions: the echoed prompt, and with several
 * choices one chunk for each, because clients expect rising indices and texts start in any order. */
static enum reply start_stream(struct job *j)
{
    for (int i = 0; i < PIECE_CHOICES && j->n_started < j->n_choices; i++)
        if (!start_choice(j))
            return REPLY_FAILED;
    return j->n_started < j->n_choices ? REPLY_MORE : REPLY_DONE;
}

static json_t *delta_of(const struct job *j, const char *text, size_t length)
{
    json_t *content = json_text(text, length);
    return j->kind == API_REQUEST_CHAT ? json_pack("{s:o}", "content", content) : content;
}

static json_t *ids_of(const struct request_event *e)
{
    json_t *ids = json_array();
    for (uint32_t i = 0; i < e->n_tokens; i++)
        json_array_append_new(ids, json_integer(e->tokens[i].token));
    return ids;
}

static bool keep_text(struct job *j, struct answer_choice *c, const struct request_event *e,
                      json_t *logprobs, struct error *error)
{
    if (!answer_add_logprobs(j, &c->logprobs, logprobs, error))
        return false;
    bool ok = bytes_add(&c->text, e->text, e->n_text);
    for (uint32_t i = 0; ok && j->r.return_token_ids && i < e->n_tokens; i++)
        ok = answer_add_ids(&c->token_ids, &e->tokens[i].token, 1);
    return (ok || error_set_memory(error, "an answer", e->n_text)) &&
           job_count_bytes(j, e->n_text, error);
}

static bool take_text(struct prompt *p, uint32_t index, const struct request_event *e,
                      struct error *error)
{
    struct job *j = p->job;
    struct answer_choice *c = &j->choices[index];
    if (c->n_tokens == 0 && !j->r.stream)
        c->n_offset = p->n_offset;
    c->n_tokens += e->n_tokens;
    j->n_generated += e->n_tokens;
    json_t *logprobs = answer_logprobs(j, &c->n_offset, e, false);
    if (!j->r.stream)
        return keep_text(j, c, e, logprobs, error);
    if (e->n_text == 0 && j->r.n_logprobs < 0 && !j->r.return_token_ids) {
        json_decref(logprobs);
        return true;
    }
    json_t *chunk =
        answer_chunk(j, (int32_t)index, delta_of(j, e->text, e->n_text), logprobs, false);
    if (chunk && j->r.return_token_ids)
        json_object_set_new(json_array_get(json_object_get(chunk, "choices"), 0), "token_ids",
                            ids_of(e));
    return http_request_stream_event(j->http_request, chunk);
}

/* Writes the next piece of a prompt's log probabilities: without a stream once for all choices, else as
 * chunks of each choice. */
static enum reply take_prompt_tokens(struct prompt *p, const struct request_event *e,
                                     struct error *error)
{
    struct job *j = p->job;
    struct request_event piece = *e;
    uint32_t index = p->index * j->r.n + p->at_choice, left = e->n_tokens - p->at_token;
    piece.tokens += p->at_token;
    piece.first_token += p->at_token;
    piece.n_tokens = left < PIECE_TOKENS ? left : PIECE_TOKENS;
    uint32_t *n_offset = j->r.stream ? &j->choices[index].n_offset : &p->n_offset;
    json_t *logprobs = answer_logprobs(j, n_offset, &piece, true);
    bool ok = j->r.stream ? http_request_stream_event(
                                j->http_request, answer_chunk(j, (int32_t)index, delta_of(j, "", 0),
                                                              logprobs, false))
                          : answer_add_logprobs(j, &p->logprobs, logprobs, error);
    if (!ok)
        return REPLY_FAILED;
    p->at_token += piece.n_tokens;
    if (p->at_token < e->n_tokens)
        return REPLY_MORE;
    p->at_token = 0;
    return j->r.stream && ++p->at_choice < j->r.n ? REPLY_MORE : REPLY_DONE;
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
        return http_request_stream_event(j->http_request, finish_chunk(j, (int32_t)index));
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
    if (!http_request_stream_event(j->http_request, last))
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

static void write_whole(struct work *work)
{
    struct job *j = job_of_work(work);
    if (!answer_write(j, &j->whole))
        bytes_clear(&j->whole);
}

static void send_whole(struct job *j)
{
    struct http_request *x = j->http_request;
    struct error e;
    char text[32];
    if (j->whole.length == 0) {
        error_set(&e, "out_of_memory", "", "the server is out of memory");
        if (work_is_cancelled(&j->work))
            error_set(&e, "draining", "", "the server is shutting down");
        http_request_reply_error(x, &e);
        return;
    }
    snprintf(text, sizeof text, "%llu",
             (unsigned long long)((uv_hrtime() - http_request_started_ns(x)) / 1000000));
    http_request_add_header(x, "OpenAI-Processing-Ms", text);
    http_request_reply_bytes(x, 200, "application/json", &j->whole);
}

static void whole_written(struct work *work)
{
    struct job *j = job_of_work(work);
    if (j->http_request)
        send_whole(j);
    job_let_go(j);
}

/* A short answer is written here: the way through the pool would take longer. */
static bool end_whole(struct job *j)
{
    enum { SHORT_BYTES = 64 * 1024, MANY_CHOICES = 64 };
    if (j->answer_bytes <= SHORT_BYTES && j->n_choices <= MANY_CHOICES) {
        if (!answer_write(j, &j->whole))
            bytes_clear(&j->whole);
        send_whole(j);
        return true;
    }
    job_hold(j); /* until whole_written */
    work_add(j->jobs->service->work, &j->work, j->caller, 0, write_whole, whole_written);
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
    j->n_cached += p->usage.cached_tokens;
    j->n_cache_written += p->usage.cache_write_tokens;
    j->n_generated += p->usage.completion_tokens;
    for (uint32_t k = 0; k < j->r.n; k++)
        j->n_generated -= j->choices[p->index * j->r.n + k].n_tokens;
    if (++j->n_done < j->n_prompts)
        return true;
    http_request_log_tokens(j->http_request, (uint32_t)j->n_prompt_tokens, (uint32_t)j->n_generated,
                            j->plan->preset->name,
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
    return http_request_stream_event(j->http_request, chunk);
}

enum reply reply_take(struct prompt *p, struct error *error)
{
    struct job *j = p->job;
    const struct request_event *e = &p->event;
    uint32_t index = p->index * j->r.n + e->choice;
    bool ok = true;
    error_set(error, "out_of_memory", "", "the server is out of memory");
    if (j->r.stream && j->n_started < j->n_choices) {
        enum reply started = start_stream(j);
        return started == REPLY_DONE ? REPLY_MORE : started;
    }
    switch (e->kind) {
    case EVENT_PROGRESS:
        ok = take_progress(p, e);
        break;
    case EVENT_PROMPT_TOKENS:
        return take_prompt_tokens(p, e, error);
    case EVENT_TEXT:
        ok = take_text(p, index, e, error);
        break;
    case EVENT_CHOICE_END:
        ok = take_choice_end(j, index, e);
        break;
    case EVENT_DONE:
        ok = take_done(p, e);
        break;
    default:
        break;
    }
    return ok ? REPLY_DONE : REPLY_FAILED;
}

void reply_fail(struct job *j, const struct error *e)
{
    struct http_request *x = j->http_request;
    job_stop_work(j, false);
    if (!x)
        return;
    http_request_log_tokens(x, j->n_prompts ? j->prompts[0].n_tokens : 0, 0,
                            j->policy ? j->policy : "", "error");
    http_request_log_error(x, e);
    if (http_request_stream_committed(x))
        http_request_stream_end(x, http_request_stream_event(x, error_to_json(e)));
    else
        http_request_reply_error(x, e);
}
