/* Streaming detokenisation: whole characters only, and Unicode's rule for broken ones. Bytes are
 * fed as the byte tokens of a SentencePiece vocabulary, which can spell any bytes at all. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/utf8.h"
#include "engine/text/tokenizer.h"
#include "tests/suite.h"

#define BAD "\xEF\xBF\xBD"

static struct tokenizer *tokenizer;
static int32_t byte_tokens[256];

static void setup(void)
{
    struct error e = {0};
    struct model_source *file = source_open("tests/data/vocab-llama-spm.gguf", &e);
    ck_assert_msg(file != NULL, "%s", e.message);
    tokenizer = tokenizer_new(file, &e);
    ck_assert_msg(tokenizer != NULL, "%s", e.message);
    source_close(file);
    for (int i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
        byte_tokens[i] = tokenizer_find(tokenizer, name, 6);
        ck_assert_int_ge(byte_tokens[i], 0);
    }
}

static void teardown(void)
{
    tokenizer_free(tokenizer);
}

/* Feeds bytes one token each; after every push the output must be whole characters and within the
 * promised room. */
static size_t feed(const unsigned char *bytes, size_t n, char *out)
{
    struct detokenizer d = {0};
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        size_t written = detokenizer_push(&d, tokenizer, byte_tokens[bytes[i]], false, out + used);
        ck_assert_uint_le(written, 1 * 3 + 12);
        used += written;
        ck_assert(utf8_valid(out, used));
    }
    return used + detokenizer_finish(&d, out + used);
}

static void expect(const char *bytes, const char *text)
{
    char out[400];
    size_t n = feed((const unsigned char *)bytes, strlen(bytes), out);
    out[n] = 0;
    ck_assert_str_eq(out, text);
}

START_TEST(broken_characters_become_one_replacement_for_each_maximal_part)
{
    expect("a\xF1\x80\x80\xE1\x80\xC2"
           "b\x80"
           "c\x80\xBF"
           "d",
           "a" BAD BAD BAD "b" BAD "c" BAD BAD "d");
    expect("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82"
           "A",
           BAD BAD BAD BAD BAD BAD BAD BAD "A");
    expect("\xED\xA0\x80\xED\xBF\xBF\xED\xAF"
           "A",
           BAD BAD BAD BAD BAD BAD BAD BAD "A");
    expect("\xF4\x91\x92\x93\xFF"
           "A\x80\xBF"
           "B",
           BAD BAD BAD BAD BAD "A" BAD BAD "B");
    expect("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF"
           "A",
           BAD BAD BAD BAD "A");
    expect("\xF0\x9F\xA6\x99\xE4\xBD\xA0\xC3\xA9", "\xF0\x9F\xA6\x99\xE4\xBD\xA0\xC3\xA9");
    expect("\xF0\x9F\xA6", BAD);
    expect("", "");
}
END_TEST

START_TEST(random_bytes_give_valid_text_and_valid_text_is_unchanged)
{
    unsigned state = 5;
    for (int round = 0; round < 3000; round++) {
        unsigned char bytes[64] = {0};
        char out[64 * 3 + 12];
        size_t n = (state >> 8) % 64;
        for (size_t i = 0; i < n; i++) {
            state = state * 1664525u + 1013904223u;
            unsigned r = state >> 8;
            /* Mostly leads and continuations, so that whole characters are common. */
            bytes[i] = (unsigned char)(r % 4 == 0   ? r >> 4
                                       : r % 4 == 1 ? 0xE0 + (r >> 4) % 0x18
                                                    : 0x80 + (r >> 4) % 0x40);
        }
        size_t length = feed(bytes, n, out);
        ck_assert(utf8_valid(out, length));
        if (utf8_valid((const char *)bytes, n)) {
            ck_assert_uint_eq(length, n);
            ck_assert_mem_eq(out, bytes, n);
        }
    }
}
END_TEST

START_TEST(a_stream_gives_what_decoding_the_whole_gives)
{
    const char *text = "Hello \xF0\x9F\xA6\x99\xF0\x9F\xA6\x99, \xE2\x98\x83 na\xC3\xAFve\n  "
                       "\xE4\xBD\xA0\xE5\xA5\xBD! \xE1\x9E\x80";
    struct tokens list = {0};
    struct error e;
    ck_assert(tokenizer_encode_text(tokenizer, text, strlen(text), false, true, &list, &e));
    char out[400];
    size_t used = 0;
    struct detokenizer d = {.strip_space = true};
    for (size_t i = 0; i < list.count; i++)
        used += detokenizer_push(&d, tokenizer, list.data[i], false, out + used);
    used += detokenizer_finish(&d, out + used);
    out[used] = 0;
    ck_assert_str_eq(out, text);
    tokens_free(&list);
}
END_TEST

START_TEST(only_the_first_space_is_dropped_and_only_when_asked)
{
    char out[100];
    for (int strip = 0; strip < 2; strip++) {
        struct detokenizer d = {.strip_space = strip};
        const int32_t list[] = {1, 15043, 15043}; /* BOS, " Hello" twice */
        size_t used = 0;
        for (int i = 0; i < 3; i++)
            used += detokenizer_push(&d, tokenizer, list[i], false, out + used);
        out[used] = 0;
        ck_assert_str_eq(out, strip ? "Hello Hello" : " Hello Hello");
    }
}
END_TEST

START_TEST(finishing_twice_puts_out_nothing_more)
{
    char out[100];
    struct detokenizer d = {0};
    ck_assert_uint_eq(detokenizer_push(&d, tokenizer, byte_tokens[0xE2], false, out), 0);
    ck_assert_uint_eq(detokenizer_finish(&d, out), 3);
    ck_assert_uint_eq(detokenizer_finish(&d, out), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("detokenizer");
    TCase *rules = suite_case(suite, "detokenizer", 60);
    tcase_add_checked_fixture(rules, setup, teardown);
    tcase_add_test(rules, broken_characters_become_one_replacement_for_each_maximal_part);
    tcase_add_test(rules, random_bytes_give_valid_text_and_valid_text_is_unchanged);
    tcase_add_test(rules, a_stream_gives_what_decoding_the_whole_gives);
    tcase_add_test(rules, only_the_first_space_is_dropped_and_only_when_asked);
    tcase_add_test(rules, finishing_twice_puts_out_nothing_more);
    return suite_run(suite);
}
