/* Events come out as they went in, across threads, and the reader's pointers stay. */
#include <math.h>
#include <string.h>

#include "engine/serve/events.h"
#include "tests/suite.h"

static void push(struct event_buffer *b, const struct request_event *event, bool expect_empty)
{
    bool was_empty = false;
    ck_assert(event_buffer_push(b, event, &was_empty));
    ck_assert_int_eq(was_empty, expect_empty);
}

START_TEST(events_keep_their_text_tokens_and_tops)
{
    struct event_buffer b;
    ck_assert(event_buffer_init(&b, NULL));
    ck_assert_int_eq(event_buffer_next(&b).kind, EVENT_NONE);
    struct top_logprob top[3] = {{7, -0.5F}, {8, -1.5F}, {9, -2.5F}};
    struct event_token tokens[3] = {{7, -0.5F, 2, top}, {3, NAN, 0, NULL}, {9, -2.5F, 3, top}};
    struct request_event event = {.kind = EVENT_TEXT,
                                  .choice = 4,
                                  .text = "h\0\xC3\xA9",
                                  .n_text = 4,
                                  .tokens = tokens,
                                  .n_tokens = 3};
    push(&b, &event, true);
    push(&b, &(struct request_event){.kind = EVENT_CHOICE_END, .stop_token = 2}, false);
    ck_assert_uint_gt(event_buffer_waiting(&b), 0);

    struct request_event out = event_buffer_next(&b);
    push(&b, &event, false); /* a swap must not happen under what `out` points to */
    ck_assert_int_eq(out.kind, EVENT_TEXT);
    ck_assert_uint_eq(out.choice, 4);
    ck_assert_uint_eq(out.n_text, 4);
    ck_assert_mem_eq(out.text, "h\0\xC3\xA9", 4);
    ck_assert_uint_eq(out.n_tokens, 3);
    ck_assert_int_eq(out.tokens[0].top[1].token, 8);
    ck_assert(isnan(out.tokens[1].logprob));
    ck_assert_int_eq(out.tokens[2].top[2].token, 9);
    ck_assert(out.tokens[2].top[2].logprob == -2.5F);
    out = event_buffer_next(&b);
    ck_assert_int_eq(out.kind, EVENT_CHOICE_END);
    ck_assert_int_eq(out.stop_token, 2);
    ck_assert_int_eq(event_buffer_next(&b).kind, EVENT_TEXT);
    ck_assert_uint_eq(event_buffer_waiting(&b), 0);
    ck_assert_int_eq(event_buffer_next(&b).kind, EVENT_NONE);
    push(&b, &event, true);
    event_buffer_clear(&b);
}
END_TEST

enum { N_EVENTS = 20000 };

static void *write_events(void *context)
{
    struct event_buffer *b = context;
    char text[64];
    for (uint32_t i = 0; i < N_EVENTS; i++) {
        struct event_token token = {.token = (int32_t)i};
        struct request_event event = {
            .kind = EVENT_TEXT, .choice = i, .text = text, .tokens = &token, .n_tokens = i % 2};
        event.n_text = (uint32_t)snprintf(text, sizeof text, "%u", i * 2654435761u);
        bool was_empty;
        if (!event_buffer_push(b, &event, &was_empty))
            return b;
    }
    return NULL;
}

START_TEST(a_reader_beside_the_writer_sees_every_event_in_order)
{
    struct event_buffer b;
    ck_assert(event_buffer_init(&b, NULL));
    pthread_t writer;
    ck_assert_int_eq(pthread_create(&writer, NULL, write_events, &b), 0);
    for (uint32_t i = 0; i < N_EVENTS;) {
        struct request_event event = event_buffer_next(&b);
        if (event.kind == EVENT_NONE) {
            sched_yield();
            continue;
        }
        char text[64];
        int n = snprintf(text, sizeof text, "%u", i * 2654435761u);
        ck_assert_uint_eq(event.choice, i);
        ck_assert_uint_eq(event.n_text, (uint32_t)n);
        ck_assert_mem_eq(event.text, text, (size_t)n);
        ck_assert_uint_eq(event.n_tokens, i % 2);
        if (i % 2)
            ck_assert_int_eq(event.tokens[0].token, (int32_t)i);
        i++;
    }
    void *failed;
    pthread_join(writer, &failed);
    ck_assert_ptr_null(failed);
    ck_assert_uint_eq(event_buffer_waiting(&b), 0);
    event_buffer_clear(&b);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("event buffer");
    TCase *t = suite_case(suite, "event buffer", 60);
    tcase_add_test(t, events_keep_their_text_tokens_and_tops);
    tcase_add_test(t, a_reader_beside_the_writer_sees_every_event_in_order);
    return suite_run(suite);
}
