/* The helpers of config/base: clock, UTF-8, random numbers, misspelled names, whole files, growing
 * bytes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/base/bytes.h"
#include "config/base/clock.h"
#include "config/base/file.h"
#include "config/base/nearest.h"
#include "config/base/random.h"
#include "config/base/utf8.h"
#include "tests/suite.h"

START_TEST(the_clock_never_goes_back)
{
    uint64_t last = clock_ns();
    for (int i = 0; i < 1000; i++) {
        uint64_t now = clock_ns();
        ck_assert_uint_ge(now, last);
        last = now;
    }
    double seconds = clock_seconds();
    ck_assert_double_ge_tol(seconds, (double)last * 1e-9, 1e-6);
    ck_assert_double_le(seconds, (double)clock_ns() * 1e-9);
}
END_TEST

/* Writes the code point by the definition of UTF-8, whether it is one or not. */
static size_t encode(char *out, uint32_t c)
{
    static const uint32_t ends[] = {0x80, 0x800, 0x10000, 0x200000};
    static const uint8_t marks[] = {0, 0xC0, 0xE0, 0xF0};
    size_t more = 0;
    while (c >= ends[more])
        more++;
    for (size_t i = more; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3F));
    out[0] = (char)(marks[more] | c);
    return more + 1;
}

START_TEST(every_code_point_is_read_back_and_no_surrogate_is)
{
    for (uint32_t c = 0; c < 0x200000; c++) {
        char text[4];
        size_t n = encode(text, c);
        bool real = c <= 0x10FFFF && (c < 0xD800 || c > 0xDFFF);
        if (utf8_length(text, n) != (real ? n : 0) || (real && utf8_code(text, n) != c))
            ck_abort_msg("U+%04X: %zu bytes, read as %zu", c, n, utf8_length(text, n));
        bool control = c < 0x20 || (c > 0x7E && c < 0xA0);
        if (utf8_printable_length(text, n) != (real && !control ? n : 0))
            ck_abort_msg("U+%04X is %sa control character", c, control ? "" : "not ");
        for (size_t part = 1; part < n; part++)
            if (utf8_length(text, part) != 0)
                ck_abort_msg("U+%04X is a character by its first %zu bytes", c, part);
    }
}
END_TEST

/* Of all three bytes the first character is what the definition gives, overlong forms are none. */
START_TEST(only_the_shortest_form_is_a_character)
{
    for (uint32_t bytes = 0; bytes < 0x1000000; bytes++) {
        const char text[3] = {(char)(bytes >> 16), (char)(bytes >> 8), (char)bytes};
        size_t n = utf8_length(text, sizeof text);
        char again[4];
        if (n > 0 && (encode(again, utf8_code(text, n)) != n || memcmp(again, text, n) != 0))
            ck_abort_msg("%06x was read as a character of %zu bytes", bytes, n);
    }
}
END_TEST

START_TEST(a_text_is_valid_as_a_whole_or_not)
{
    static const char good[] = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z";
    ck_assert(utf8_valid(good, sizeof good - 1));
    ck_assert(utf8_valid("", 0));
    ck_assert(utf8_valid("\0x", 2));
    ck_assert(!utf8_valid(good, 2));
    ck_assert(!utf8_valid(good + 2, 3));
    ck_assert(!utf8_valid("ok \xED\xA0\x80", 6));
    ck_assert(!utf8_valid("\xF4\x90\x80\x80", 4));
    ck_assert(utf8_valid(UTF8_REPLACEMENT, 3));
}
END_TEST

/* The first numbers of seed 0, as in the authors' reference implementation. */
START_TEST(random_numbers_are_splitmix64)
{
    uint64_t state = 0;
    ck_assert_uint_eq(random_next(&state), UINT64_C(0xE220A8397B1DCDAF));
    ck_assert_uint_eq(random_next(&state), UINT64_C(0x6E789E6AA1B965F4));
    ck_assert_uint_eq(random_next(&state), UINT64_C(0x06C45D188009454F));
    ck_assert_uint_eq(random_mix(3 * RANDOM_STEP), UINT64_C(0x06C45D188009454F));
}
END_TEST

static const char *const names[] = {"sink", "snapkv", "budget", "budget-share", "port"};

static const char *name_at(uint32_t i)
{
    return names[i];
}

static void expect_nearest(const char *word, const char *wanted)
{
    const char *found = nearest_name(word, name_at, sizeof names / sizeof *names);
    if (wanted == NULL)
        ck_assert_msg(found == NULL, "'%s' became '%s'", word, found);
    else
        ck_assert_str_eq(found, wanted);
}

START_TEST(a_slip_finds_its_name_and_another_word_none)
{
    expect_nearest("sink", "sink");
    expect_nearest("sinks", "sink");
    expect_nearest("snapvk", "snapkv");
    expect_nearest("bugdet", "budget");
    expect_nearest("budgetshare", "budget-share");
    expect_nearest("prt", "port");
    expect_nearest("prot", "port");
    expect_nearest("temperature", NULL);
    expect_nearest("xyz", NULL);
    expect_nearest("", NULL);
    expect_nearest("budget-share-budget-share-budget-share-b", NULL);
    expect_nearest("budget-share-budget-share-budget-share-bu", NULL);
    ck_assert_ptr_null(nearest_name("sink", name_at, 0));
}
END_TEST

START_TEST(bytes_grow_and_hold_what_was_added)
{
    struct bytes b = {0};
    for (int i = 0; i < 10000; i++) {
        char c = (char)(i * 31);
        ck_assert(bytes_add(&b, &c, 1));
    }
    ck_assert_uint_eq(b.length, 10000);
    for (int i = 0; i < 10000; i++)
        if (b.data[i] != (char)(i * 31))
            ck_abort_msg("byte %d changed", i);
    ck_assert(bytes_reserve(&b, 5));
    ck_assert_uint_ge(b.capacity - b.length, 5);
    ck_assert(!bytes_reserve(&b, SIZE_MAX));
    ck_assert(!bytes_reserve(&b, SIZE_MAX / 2));
    ck_assert_uint_eq(b.length, 10000);
    bytes_clear(&b);
    ck_assert(b.data == NULL && b.length == 0 && b.capacity == 0);
}
END_TEST

/* A file of n bytes, the i-th 'a' + i % 26; its name is static. */
static const char *file_of(size_t n)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/winnow-test-base-%ld", (long)getpid());
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    for (size_t i = 0; i < n; i++)
        fputc('a' + (int)(i % 26), f);
    ck_assert_int_eq(fclose(f), 0);
    return path;
}

START_TEST(a_file_is_read_whole_with_a_nul_behind_it)
{
    static const size_t sizes[] = {0, 1, 4095, 4096, 4097, 100000};
    struct error e;
    size_t length;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct file_wanted w = {.path = file_of(sizes[i]), .what = "it", .most = 100000};
        char *text = file_read(&w, &length, &e);
        ck_assert_ptr_nonnull(text);
        ck_assert_uint_eq(length, sizes[i]);
        for (size_t k = 0; k < length; k++)
            if (text[k] != 'a' + (int)(k % 26))
                ck_abort_msg("byte %zu of %zu is %d", k, length, text[k]);
        ck_assert_int_eq(text[length], 0);
        free(text);
        unlink(w.path);
    }
}
END_TEST

START_TEST(what_cannot_be_read_is_refused_with_a_reason)
{
    struct error e;
    size_t length;
    struct file_wanted w = {
        .path = file_of(101), .what = "the recipe", .where = "--recipe", .most = 100};
    ck_assert_ptr_null(file_read(&w, &length, &e));
    ck_assert_str_eq(e.code, "invalid_value");
    ck_assert_str_eq(e.where, "--recipe");
    ck_assert_str_eq(e.message, "the recipe is longer than 100 bytes");
    unlink(w.path);
    ck_assert_ptr_null(file_read(&w, &length, &e));
    ck_assert_str_eq(e.code, "file_not_found");
    ck_assert_str_eq(e.message, "the recipe cannot be opened: No such file or directory");
    w.path = "/tmp";
    ck_assert_ptr_null(file_read(&w, &length, &e));
    ck_assert_str_eq(e.code, "file_error");
    ck_assert_str_eq(e.message, "the recipe cannot be read: Is a directory");
    w.code = "invalid_recipe";
    ck_assert_ptr_null(file_read(&w, &length, &e));
    ck_assert_str_eq(e.code, "invalid_recipe");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("base");
    TCase *t = suite_case(suite, "base", 60);
    tcase_add_test(t, the_clock_never_goes_back);
    tcase_add_test(t, every_code_point_is_read_back_and_no_surrogate_is);
    tcase_add_test(t, only_the_shortest_form_is_a_character);
    tcase_add_test(t, a_text_is_valid_as_a_whole_or_not);
    tcase_add_test(t, random_numbers_are_splitmix64);
    tcase_add_test(t, a_slip_finds_its_name_and_another_word_none);
    tcase_add_test(t, bytes_grow_and_hold_what_was_added);
    tcase_add_test(t, a_file_is_read_whole_with_a_nul_behind_it);
    tcase_add_test(t, what_cannot_be_read_is_refused_with_a_reason);
    return suite_run(suite);
}
