/* Stop strings are found wherever pushes cut the text, and only possible beginnings are held. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/stop.h"
#include "tests/suite.h"

static struct stop_string string_of(const char *text)
{
    return (struct stop_string){(char *)(uintptr_t)text, (uint32_t)strlen(text)};
}

/* Feeds text in pieces of `piece` bytes; tells where a string ended in the whole text. */
static struct stop_hit run(const struct stop_string *strings, uint32_t n, const char *text,
                           size_t piece, uint32_t *held)
{
    struct error e;
    struct stop_set *set = stop_set_new(strings, n, &e);
    ck_assert_ptr_nonnull(set);
    struct stop_state state = {0};
    struct stop_hit hit = {.string = -1};
    size_t length = strlen(text);
    for (size_t at = 0; at < length && hit.string < 0; at += piece) {
        size_t left = length - at < piece ? length - at : piece;
        hit = stop_push(set, &state, text + at, left);
        if (hit.string >= 0)
            hit.before += (uint32_t)at;
    }
    *held = stop_held(set, &state);
    stop_set_free(set);
    return hit;
}

START_TEST(a_string_is_found_however_the_text_is_cut)
{
    struct stop_string strings[] = {string_of("\n\nUser:"), string_of("abab")};
    for (size_t piece = 1; piece < 20; piece++) {
        uint32_t held;
        struct stop_hit hit = run(strings, 2, "hello\n\n\nUser: x", piece, &held);
        ck_assert_int_eq(hit.string, 0);
        ck_assert_uint_eq(hit.before, 13);
        ck_assert_uint_eq(hit.length, 7);
        hit = run(strings, 2, "aabaabab", piece, &held);
        ck_assert_int_eq(hit.string, 1);
        ck_assert_uint_eq(hit.before, 8);
    }
}
END_TEST

START_TEST(only_a_possible_beginning_is_held)
{
    struct stop_string strings[] = {string_of("STOP"), string_of("xyxyz")};
    const struct {
        const char *text;
        uint32_t held;
    } cases[] = {{"", 0},     {"hello", 0}, {"S", 1},     {"STO", 3},   {"STOx", 1},
                 {"SSTO", 3}, {"xyxy", 4},  {"xyxyx", 3}, {"xyxyS", 1}, {"xyxyxyx", 3}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t held;
        ck_assert_int_eq(run(strings, 2, cases[i].text, 1, &held).string, -1);
        ck_assert_msg(held == cases[i].held, "\"%s\" holds %u, not %u", cases[i].text, held,
                      cases[i].held);
    }
}
END_TEST

START_TEST(the_first_to_end_wins_and_then_the_longest)
{
    struct stop_string strings[] = {string_of("b"), string_of("abc"), string_of("ab")};
    uint32_t held;
    struct stop_hit hit = run(strings, 3, "xxabc", 5, &held);
    ck_assert_int_eq(hit.string, 2);
    ck_assert_uint_eq(hit.before, 4);
    ck_assert_uint_eq(hit.length, 2);
}
END_TEST

START_TEST(random_texts_agree_with_a_plain_search)
{
    uint32_t random = 12345;
    for (int round = 0; round < 3000; round++) {
        char texts[3][8], text[40];
        struct stop_string strings[3];
        for (int s = 0; s < 3; s++) {
            random = random * 1664525 + 1013904223;
            size_t length = 1 + (random >> 16) % 6;
            for (size_t i = 0; i < length; i++) {
                random = random * 1664525 + 1013904223;
                texts[s][i] = (char)('a' + (random >> 20) % 2);
            }
            texts[s][length] = 0;
            strings[s] = string_of(texts[s]);
        }
        for (size_t i = 0; i < 39; i++) {
            random = random * 1664525 + 1013904223;
            text[i] = (char)('a' + (random >> 20) % 3);
        }
        text[39] = 0;
        uint32_t first_end = UINT32_MAX;
        for (int s = 0; s < 3; s++) {
            char *at = strstr(text, texts[s]);
            uint32_t end = at ? (uint32_t)(at - text) + strings[s].length : UINT32_MAX;
            first_end = end < first_end ? end : first_end;
        }
        uint32_t held;
        struct stop_hit hit = run(strings, 3, text, 1 + (random >> 10) % 5, &held);
        if (first_end == UINT32_MAX)
            ck_assert_int_eq(hit.string, -1);
        else
            ck_assert_uint_eq(hit.before, first_end);
    }
}
END_TEST

START_TEST(limits_are_refused_with_a_sentence)
{
    static char long_text[STOP_MAX_BYTES + 1];
    memset(long_text, 'a', sizeof long_text);
    struct stop_string strings[STOP_MAX_STRINGS + 1];
    for (int i = 0; i <= STOP_MAX_STRINGS; i++)
        strings[i] = string_of("a");
    struct error e;
    ck_assert_ptr_null(stop_set_new(strings, STOP_MAX_STRINGS + 1, &e));
    ck_assert_str_eq(e.code, "invalid_value");
    strings[0] = (struct stop_string){long_text, sizeof long_text};
    ck_assert_ptr_null(stop_set_new(strings, 1, &e));
    strings[0].length = 0;
    ck_assert_ptr_null(stop_set_new(strings, 1, &e));
    strings[0].length = STOP_MAX_BYTES;
    struct stop_set *set = stop_set_new(strings, STOP_MAX_STRINGS, &e);
    ck_assert_ptr_nonnull(set);
    struct stop_state state = {0};
    strings[1] = string_of("b"); /* so that only the long one can match */
    stop_set_free(set);
    set = stop_set_new(strings, 1, &e);
    ck_assert_int_eq(stop_push(set, &state, long_text, STOP_MAX_BYTES - 1).string, -1);
    ck_assert_uint_eq(stop_held(set, &state), STOP_MAX_BYTES - 1);
    ck_assert_int_eq(stop_push(set, &state, "a", 1).string, 0);
    stop_set_free(set);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("stop");
    TCase *t = suite_case(suite, "stop", 60);
    tcase_add_test(t, a_string_is_found_however_the_text_is_cut);
    tcase_add_test(t, only_a_possible_beginning_is_held);
    tcase_add_test(t, the_first_to_end_wins_and_then_the_longest);
    tcase_add_test(t, random_texts_agree_with_a_plain_search);
    tcase_add_test(t, limits_are_refused_with_a_sentence);
    return suite_run(suite);
}
