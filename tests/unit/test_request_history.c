/* The ring of ended requests: who finds what, for how long, and how many. */
#include <stdio.h>
#include <string.h>

#include "engine/serve/history.h"
#include "tests/suite.h"

enum { N_HEADS = 3 };

static void add(struct request_history *h, const char *id, uint32_t owner_key, uint64_t order,
                uint64_t ended_ns)
{
    struct cache_head_counts *heads;
    struct request_record *r = history_add(h, &heads);
    for (uint32_t i = 0; i < N_HEADS; i++)
        ck_assert_uint_eq(heads[i].slots, 0); /* nothing of who was here before */
    heads[0].slots = (uint32_t)order + 1;
    snprintf(r->id, sizeof r->id, "%s", id);
    r->owner_key = owner_key;
    r->order = order;
    r->ended_ns = ended_ns;
}

static bool finds(const struct request_history *h, const char *id, uint32_t key, bool all,
                  uint64_t now_ns)
{
    return history_find(h, id, key, all, now_ns) != NULL;
}

START_TEST(a_request_is_known_for_a_minute)
{
    struct request_history h;
    struct error e;
    ck_assert(history_init(&h, N_HEADS, &e));
    ck_assert(!finds(&h, "", 0, true, 0)); /* places that are empty are no requests */
    ck_assert_ptr_null(history_of(&h, 0));
    add(&h, "a", 1, 7, 5000);
    ck_assert(finds(&h, "a", 1, false, 5000));
    ck_assert(finds(&h, "a", 1, false, 5000 + RECORD_TTL_NS - 1));
    ck_assert(!finds(&h, "a", 1, false, 5000 + RECORD_TTL_NS));
    ck_assert(!finds(&h, "a", 1, true, 5000 + RECORD_TTL_NS));
    history_of(&h, 7)->ended_ns = 9000; /* its last choice ended later */
    ck_assert(finds(&h, "a", 1, false, 5000 + RECORD_TTL_NS));
    ck_assert_ptr_null(history_of(&h, 8));
    history_clear(&h);
}
END_TEST

START_TEST(another_key_does_not_find_it)
{
    struct request_history h;
    struct error e;
    ck_assert(history_init(&h, N_HEADS, &e));
    add(&h, "a", 1, 0, 10);
    ck_assert(finds(&h, "a", 1, false, 11));
    ck_assert(!finds(&h, "a", 2, false, 11));
    ck_assert(finds(&h, "a", 2, true, 11));
    ck_assert(!finds(&h, "b", 1, false, 11));
    history_clear(&h);
}
END_TEST

START_TEST(the_oldest_goes_when_the_ring_is_full)
{
    struct request_history h;
    struct error e;
    char id[16];
    ck_assert(history_init(&h, N_HEADS, &e));
    for (uint32_t i = 0; i < RECORDS_MAX + 10; i++) {
        snprintf(id, sizeof id, "r%u", i);
        add(&h, id, 0, i, 100);
    }
    ck_assert(!finds(&h, "r9", 0, false, 101));
    for (uint32_t i = 10; i < RECORDS_MAX + 10; i++) {
        snprintf(id, sizeof id, "r%u", i);
        const struct request_record *r = history_find(&h, id, 0, false, 101);
        ck_assert_ptr_nonnull(r);
        ck_assert_uint_eq(r->order, i);
        ck_assert_uint_eq(history_heads(&h, r)[0].slots, i + 1);
    }
    add(&h, "r20", 0, 1000, 100); /* of two with one id the newer */
    ck_assert_uint_eq(history_find(&h, "r20", 0, false, 101)->order, 1000);
    history_clear(&h);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("request_history");
    TCase *t = suite_case(suite, "request_history", 60);
    tcase_add_test(t, a_request_is_known_for_a_minute);
    tcase_add_test(t, another_key_does_not_find_it);
    tcase_add_test(t, the_oldest_goes_when_the_ring_is_full);
    return suite_run(suite);
}
