/* Events from the engine to a reader: see events.h. */
#include "engine/serve/events.h"

#include <stdlib.h>
#include <string.h>

/* The event's pointers are set when the reader takes it. */
struct record {
    size_t n_bytes; /* of the whole record */
    size_t n_tops;
    struct request_event event;
};

static size_t aligned(size_t n)
{
    return (n + 7) & ~(size_t)7;
}

bool event_buffer_init(struct event_buffer *b, struct error *e)
{
    memset(b, 0, sizeof *b);
    if (pthread_mutex_init(&b->lock, NULL) != 0)
        return error_set(e, "out_of_memory", "", "cannot make a lock for an event buffer");
    return true;
}

void event_buffer_clear(struct event_buffer *b)
{
    pthread_mutex_destroy(&b->lock);
    free(b->front.data);
    free(b->back.data);
}

/* Room for n more bytes; grows by doubling from 4 KiB. */
static bool reserve(struct event_bytes *bytes, size_t n)
{
    if (bytes->capacity - bytes->used >= n)
        return true;
    size_t capacity = bytes->capacity ? bytes->capacity : 4096;
    while (capacity - bytes->used < n)
        capacity *= 2;
    unsigned char *data = realloc(bytes->data, capacity);
    if (!data)
        return false;
    bytes->data = data;
    bytes->capacity = capacity;
    return true;
}

static void write_record(unsigned char *at, const struct record *record)
{
    const struct request_event *event = &record->event;
    memcpy(at, record, sizeof *record);
    at += aligned(sizeof *record);
    if (event->n_tokens)
        memcpy(at, event->tokens, event->n_tokens * sizeof *event->tokens);
    at += aligned(event->n_tokens * sizeof *event->tokens);
    for (uint32_t i = 0; i < event->n_tokens; i++) {
        size_t n_bytes = event->tokens[i].n_top * sizeof(struct top_logprob);
        if (n_bytes)
            memcpy(at, event->tokens[i].top, n_bytes);
        at += n_bytes;
    }
    if (event->n_text)
        memcpy(at, event->text, event->n_text);
}

bool event_buffer_push(struct event_buffer *b, const struct request_event *event, bool *was_empty)
{
    struct record record;
    memset(&record, 0, sizeof record);
    record.event = *event;
    for (uint32_t i = 0; i < event->n_tokens; i++)
        record.n_tops += event->tokens[i].n_top;
    record.n_bytes = aligned(sizeof record) + aligned(event->n_tokens * sizeof *event->tokens) +
                     record.n_tops * sizeof(struct top_logprob) + aligned(event->n_text);

    pthread_mutex_lock(&b->lock);
    bool stored = reserve(&b->back, record.n_bytes);
    if (stored) {
        write_record(b->back.data + b->back.used, &record);
        b->back.used += record.n_bytes;
        *was_empty = atomic_fetch_add(&b->waiting, record.n_bytes) == 0;
    }
    pthread_mutex_unlock(&b->lock);
    return stored;
}

struct request_event event_buffer_next(struct event_buffer *b)
{
    if (b->read == b->front.used) {
        pthread_mutex_lock(&b->lock);
        struct event_bytes empty = b->front;
        empty.used = 0;
        b->front = b->back;
        b->back = empty;
        pthread_mutex_unlock(&b->lock);
        b->read = 0;
        if (b->front.used == 0)
            return (struct request_event){.kind = EVENT_NONE};
    }
    unsigned char *at = b->front.data + b->read;
    struct record *record = (struct record *)(void *)at;
    struct request_event *event = &record->event;
    at += aligned(sizeof *record);
    struct event_token *tokens = (struct event_token *)(void *)at;
    at += aligned(event->n_tokens * sizeof *tokens);
    struct top_logprob *tops = (struct top_logprob *)(void *)at;
    at += record->n_tops * sizeof *tops;
    for (uint32_t i = 0; i < event->n_tokens; i++) {
        tokens[i].top = tops;
        tops += tokens[i].n_top;
    }
    event->tokens = event->n_tokens ? tokens : NULL;
    event->text = event->n_text ? (const char *)at : "";
    b->read += record->n_bytes;
    atomic_fetch_sub(&b->waiting, record->n_bytes);
    return *event;
}

size_t event_buffer_waiting(const struct event_buffer *b)
{
    return atomic_load(&b->waiting);
}
