/* Unicode's form C on the cases that its rules were made for; tests/data/vocab-bpe-small.*.out compare
 * whole texts with Hugging Face's normaliser. */
#include <string.h>

#include "engine/text/nfc.h"
#include "tests/suite.h"

static void expect(const char *text, const char *wanted)
{
    struct bytes out = {0};
    bool changed;
    ck_assert(nfc_normalise(text, strlen(text), &out, &changed));
    if (!changed) {
        ck_assert_msg(!strcmp(text, wanted), "'%s' was left alone", text);
    } else {
        ck_assert_msg(out.length == strlen(wanted) && !memcmp(out.data, wanted, out.length),
                      "'%s' gave '%.*s'", text, (int)out.length, out.data);
    }
    bytes_clear(&out);
}

START_TEST(marks_join_their_letters_in_the_order_of_their_classes)
{
    expect("e\u0301", "\u00e9");
    expect("a\u0323\u0307", "\u1ea1\u0307");
    expect("a\u0307\u0323", "\u1ea1\u0307"); /* in the other order: the same text */
    expect("a\u0301\u0301", "\u00e1\u0301");
    expect("\u1e0b\u0323", "\u1e0d\u0307"); /* a composed letter is taken apart first */
    expect("\u0301e", "\u0301e");
}
END_TEST

START_TEST(hangul_is_computed)
{
    expect("\u1112\u1161\u11ab", "\ud55c");
    expect("\ud558\u11ab", "\ud55c");
    expect("\ud55c\u11ab", "\ud55c\u11ab"); /* has a tail already */
}
END_TEST

START_TEST(characters_that_the_form_never_writes_are_replaced)
{
    expect("\u212b", "\u00c5");
    expect("\u2126", "\u03a9");
    expect("\uf900", "\u8c48");
    expect("\u0958", "\u0915\u093c");                         /* excluded from composition */
    expect("\u0f40\u0740\u0f73", "\u0f40\u0f71\u0f72\u0740"); /* a starter made of marks */
}
END_TEST

START_TEST(bytes_that_are_no_text_stay_and_end_a_piece)
{
    expect("e\xff\u0301", "e\xff\u0301");
    expect("e\u0301\xc3", "\u00e9\xc3");
    expect("plain", "plain");
    expect("", "");
}
END_TEST

START_TEST(many_marks_on_one_letter_are_sorted)
{
    static char text[40002], wanted[40002];
    struct bytes out = {0};
    bool changed;
    text[0] = wanted[0] = 'a';
    for (int i = 0; i < 10000; i++) {
        memcpy(text + 1 + 4 * i, "\u0301\u0316", 4);
        memcpy(wanted + 1 + 2 * i, "\u0316", 2);
        memcpy(wanted + 20001 + 2 * i, "\u0301", 2);
    }
    ck_assert(nfc_normalise(text, 40001, &out, &changed) && changed);
    /* The first acute joins the a. */
    ck_assert_uint_eq(out.length, 40000);
    ck_assert_mem_eq(out.data, "\u00e1", 2);
    ck_assert_mem_eq(out.data + 2, wanted + 1, 20000);
    bytes_clear(&out);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("nfc");
    TCase *t = suite_case(suite, "nfc", 60);
    tcase_add_test(t, marks_join_their_letters_in_the_order_of_their_classes);
    tcase_add_test(t, hangul_is_computed);
    tcase_add_test(t, characters_that_the_form_never_writes_are_replaced);
    tcase_add_test(t, bytes_that_are_no_text_stay_and_end_a_piece);
    tcase_add_test(t, many_marks_on_one_letter_are_sorted);
    return suite_run(suite);
}
