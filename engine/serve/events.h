/* The event buffer of one request, from the engine thread to the reader.
 *
 * Events are serialised into two byte buffers. The engine appends to the back buffer. The reader
 * walks the front buffer and swaps the two at its end, so what it was given stays in place until
 * its next call. The mutex is held for an append or a swap only.
 *
 *   front: [record][record]...   reader's          back: [record][record]...   engine's
 *   record: struct record, tokens [n], tops [sum of n_top], text; each 8-byte aligned
 *
 * The writer compares event_buffer_waiting with EVENT_BUFFER_LIMIT before a step. An append may
 * exceed the limit, so no event is split or lost. */
#ifndef WINNOW_ENGINE_SERVE_EVENTS_H
#define WINNOW_ENGINE_SERVE_EVENTS_H

#include <pthread.h>

#include "engine/serve/engine.h"

#define EVENT_BUFFER_LIMIT (256 * 1024)

struct event_bytes {
    unsigned char *data;
    size_t used, capacity;
};

struct event_buffer {
    pthread_mutex_t lock;
    struct event_bytes front, back; /* back under the lock */
    size_t read;                    /* bytes of `front` that the reader has taken */
    _Atomic size_t waiting;         /* bytes of records that the reader has not taken */
};

bool event_buffer_init(struct event_buffer *b, struct error *e);
void event_buffer_clear(struct event_buffer *b);

/* Engine thread. Copies the event with its tokens, tops and text; of `usage`, `error` and
 * `kv_trace` it copies the pointers. *was_empty: nothing was waiting before. False: memory is
 * short, and nothing was added. */
bool event_buffer_push(struct event_buffer *b, const struct request_event *event, bool *was_empty);

/* Reader's thread: the next event, EVENT_NONE if there is none. Its pointers are valid until the
 * next call. */
struct request_event event_buffer_next(struct event_buffer *b);
/* Any thread: bytes of events that the reader has not taken. */
size_t event_buffer_waiting(const struct event_buffer *b);

#endif
