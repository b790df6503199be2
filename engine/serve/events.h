/* The bounded way from the engine thread to the reader of one request.
 *
 * Events are serialised into one of two byte buffers: the engine appends to the back, the reader
 * walks the front and swaps when it has come to its end, so what the reader was handed stays in
 * place until it asks again. The mutex is held for an append or a swap, never while a thread
 * sleeps.
 *
 *   front: [record][record]...   reader's          back: [record][record]...   engine's
 *   record: struct header, tokens [n], tops [sum of n_top], text; each 8-byte aligned
 *
 * A writer looks at event_buffer_waiting before it makes events; one append may go over the limit,
 * so no event is ever split or lost. */
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
    size_t read;                    /* the reader's place in front */
    _Atomic size_t waiting;         /* bytes of records that the reader has not been handed */
};

bool event_buffer_init(struct event_buffer *b, struct error *e);
void event_buffer_clear(struct event_buffer *b);

/* Engine thread. Copies the event with its tokens, tops and text; `usage`, `error` and `kv_trace`
 * are kept as pointers. *was_empty: nothing was waiting before. False: out of memory,
 * nothing was added. */
bool event_buffer_push(struct event_buffer *b, const struct request_event *event, bool *was_empty);

/* Reader's thread: the next event (EVENT_NONE when there is none); its pointers live until the next
 * call. */
struct request_event event_buffer_next(struct event_buffer *b);
/* Any thread. */
size_t event_buffer_waiting(const struct event_buffer *b);

#endif
