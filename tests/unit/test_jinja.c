/* The template language: its marks, its limits and its errors. What the language computes is
 * compared with Python's jinja2 by tests/e2e/test_jinja_peer.py, which runs this program as
 *
 *      test_jinja --render CASES.json
 *
 * CASES.json is an array of {template, variables, bos_token?, eos_token?, now?}; printed is an
 * array of {text, marked} (the output, and its bytes that are marked as the template's) or {error}.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "config/base/clock.h"
#include "engine/jinja/jinja.h"
#include "tests/suite.h"

static bool render(const char *source, const char *variables, struct jinja_output *out,
                   struct error *e)
{
    json_error_t why;
    json_t *more = json_loads(variables ? variables : "{}", 0, &why);
    ck_assert_msg(more != NULL, "%s", why.text);
    struct jinja_program *p = jinja_compile(source, strlen(source), e);
    const struct jinja_variable bos = {"bos_token", NULL, "<s>"};
    struct jinja_input in = {.variables = &bos, .n_variables = 1, .more = more};
    bool ok = p && jinja_render(p, &in, out, e);
    jinja_free(p);
    json_decref(more);
    return ok;
}

static void expect(const char *source, const char *variables, const char *text)
{
    struct jinja_output out = {0};
    struct error e = {0};
    bool ok = render(source, variables, &out, &e);
    ck_assert_msg(ok, "%s: %s %s", source, e.where, e.message);
    ck_assert_msg(strcmp(out.text, text) == 0, "%s\n gave   '%s'\n wanted '%s'", source, out.text,
                  text);
    free(out.text);
    free(out.marks);
}

/* `marks` has a '1' or '0' for each byte of the text. */
static void expect_marks(const char *source, const char *variables, const char *text,
                         const char *marks)
{
    struct jinja_output out = {0};
    struct error e = {0};
    bool ok = render(source, variables, &out, &e);
    ck_assert_msg(ok, "%s: %s", source, e.message);
    ck_assert_str_eq(out.text, text);
    ck_assert_uint_eq(out.length, strlen(marks));
    for (size_t i = 0; i < out.length; i++)
        ck_assert_msg(out.marks[i] == marks[i] - '0', "%s: byte %zu of '%s' has mark %u", source, i,
                      text, out.marks[i]);
    free(out.text);
    free(out.marks);
}

static void expect_error(const char *source, const char *variables, const char *part)
{
    struct jinja_output out = {0};
    struct error e = {0};
    bool ok = render(source, variables, &out, &e);
    ck_assert_msg(!ok, "%.200s: no error but '%.100s'", source, ok ? out.text : "");
    ck_assert_str_eq(e.code, "template_error");
    ck_assert_msg(strstr(e.message, part) != NULL, "%.200s: '%s' does not say '%s'", source,
                  e.message, part);
}

/* A template of `times` repetitions between a head and a tail. */
static char *repeated(const char *head, const char *middle, size_t times, const char *tail)
{
    size_t n = strlen(middle);
    char *s = malloc(strlen(head) + n * times + strlen(tail) + 1), *at = stpcpy(s, head);
    for (size_t i = 0; i < times; i++)
        at = stpcpy(at, middle);
    strcpy(at, tail);
    return s;
}

START_TEST(statements_write_what_they_should)
{
    expect("{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{\"d\":{\"a\":1,\"b\":2}}",
           "a=1;b=2;");
    expect("{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}"
           "{% endfor %}{{ ns.n }}",
           NULL, "6");
    expect("{% macro m(a, b='x') %}[{{ a }}{{ b }}]{% endmacro %}{{ m(1) }}{{ m(2, b=3) }}", NULL,
           "[1x][23]");
    expect("{% set x %}a{{ 1 }}{% endset %}{{ x | upper }}", NULL, "A1");
    expect("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", NULL,
           "012");
    expect("  {% if true %}\n x\n  {% endif %}\ny\n", NULL, " x\ny");
}
END_TEST

START_TEST(variables_of_a_loop_end_with_it)
{
    expect("{% set x = 1 %}{% for i in [1,2] %}{{ x }}{% set x = 9 %}{{ x }}{% endfor %}{{ x }}",
           NULL, "19191");
    expect("{% for i in [1] %}{% endfor %}{{ i is defined }}", NULL, "False");
    expect("{% macro m() %}{{ y }}{% endmacro %}{% for y in [1,2] %}{{ m() }}{% endfor %}", NULL,
           "");
}
END_TEST

START_TEST(a_macro_keeps_the_variables_of_its_own_round)
{
    expect(
        "{% set ns = namespace(f=[]) %}{% for i in [1,2,3] %}{% macro m() %}{{ i }}{% endmacro %}"
        "{% do ns.f.append(m) %}{% endfor %}{% for f in ns.f %}{{ f() }}{% endfor %}",
        NULL, "123");
}
END_TEST

START_TEST(user_text_is_never_marked)
{
    const char *user = "{\"u\":\"<|x|>\",\"n\":7,\"l\":[\"a\",\"b\"]}";
    expect_marks("<|{{ u }}|>", user, "<|<|x|>|>", "110000011");
    expect_marks("{{ '<' + u + '>' }}", user, "<<|x|>>", "1000001");
    expect_marks("{{ ('ab' + u)[1:4] }}", user, "b<|", "100");
    expect_marks("{{ ('ab' ~ u ~ 'cd') | upper }}", user, "AB<|X|>CD", "110000011");
    expect_marks("{{ '-'.join(l) }}{{ l | join('+') }}", user, "a-ba+b", "010010");
    expect_marks("{{ ('x' + u).replace('x', 'yy') }}", user, "yy<|yy|>", "11001100");
    expect_marks("{{ u | tojson }}", user, "\"<|x|>\"", "0000000");
    expect_marks("{{ n }}{{ n + 1 }}{{ 3 }}", user, "783", "001");
    expect_marks("{{ l }}", user, "['a', 'b']", "0000000000");
    expect_marks("{{ bos_token }}{{ u.strip('<') }}", user, "<s>|x|>", "1110000");
    expect_marks("{% set x %}a{{ u }}{% endset %}{{ x[::-1] }}", user, ">|x|<a", "000001");
    expect_marks("{{ '%s!' | format(u) }}{{ '{}'.format(u) }}", user, "<|x|>!<|x|>", "00000100000");
    expect_marks("{{ '<|' ~ (u | length) ~ '|>' }}", user, "<|5|>", "11011");
    expect_marks("{% for i in [1] %}{{ loop.index }}{% endfor %}", user, "1", "1");
}
END_TEST

/* A string grows in place when it is the last one that was built; the values made before must not
 * change. */
START_TEST(growing_a_string_leaves_its_older_values_alone)
{
    expect("{% set a = 'x' + u %}{% set b = a + '1' %}{% set c = a + '2' %}{% set d = b + '3' %}"
           "{{ a }} {{ b }} {{ c }} {{ d }}",
           "{\"u\":\"u\"}", "xu xu1 xu2 xu13");
    expect_marks("{% set a = u + u %}{% set b = a + 'T' %}{{ a }}{{ b }}{{ b[1:] + 'T' }}",
                 "{\"u\":\"u\"}", "uuuuTuTT", "00001011");
}
END_TEST

START_TEST(hostile_templates_end_with_the_name_of_a_limit)
{
    uint64_t start_ns = clock_ns();
    expect_error(
        "{% set l = range(99999) %}{% for i in l %}{% for j in l %}{% endfor %}{% endfor %}", NULL,
        "steps");
    expect_error("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", NULL, "nested calls");
    expect_error("{{ 'a' * 999999999999 }}", NULL, "bytes of memory");
    expect_error("{{ range(100001) }}", NULL, "elements of a range");
    expect_error("{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(99) %}"
                 "{% set ns.s = ns.s + ns.s %}{% endfor %}",
                 NULL, "bytes of memory");
    expect_error("{% for i in range(10000) %}{{ 'a' * 10000 }}{% endfor %}", NULL,
                 "bytes of output");
    expect_error("{% set l = [] %}{% for i in [1] %}{% do l.append(l) %}{% endfor %}{{ l }}", NULL,
                 "nested lists");
    expect_error("{% set l = [] %}{% do l.append(l) %}{{ l == [l] }}{{ l | tojson }}", NULL,
                 "nested lists");
    expect_error("{% set l = [1] %}{% for i in l %}{% do l.append(1) %}{% endfor %}", NULL,
                 "limit");
    printf("nine hostile templates ended in %llu ms\n",
           (unsigned long long)(clock_ns() - start_ns) / 1000000);
}
END_TEST

/* Each of these is one call over megabytes. */
static const char *const slow[] = {"s | trim(s ~ 'b')",
                                   "s.strip(s)",
                                   "s.startswith(s)",
                                   "s == t",
                                   "d[s]",
                                   "s.count('a')",
                                   "s.rfind(s[1:] ~ 'b')",
                                   "'b' in s",
                                   "s | length",
                                   "s.upper()",
                                   "sp.strip()",
                                   "sp | float",
                                   "l | min",
                                   "l | max",
                                   "ls | min",
                                   "l | sum",
                                   "l | sort | first",
                                   "l | unique | first",
                                   "l == k",
                                   "l < k",
                                   "-1 in l",
                                   "l.index(9998)",
                                   "l.count(1)",
                                   "l | reverse",
                                   "l | list",
                                   "l | select | first",
                                   "l | map('abs') | first",
                                   "l | join",
                                   "l | string",
                                   "l | tojson",
                                   "l + k",
                                   "l[::2]",
                                   "long.format()",
                                   "long % ()",
                                   "s | title",
                                   "s | wordcount",
                                   "s | indent",
                                   "s | e",
                                   "s.split('b')",
                                   "s.splitlines()",
                                   "s.isalpha()",
                                   "s[::-1]",
                                   "s | list | first",
                                   "many | items | first",
                                   "many | dictsort | first",
                                   "many.values()",
                                   "many == more"};
enum { N_SLOW = sizeof slow / sizeof slow[0] };

START_TEST(work_inside_of_one_call_counts_as_steps)
{
    char source[1024];
    snprintf(source, sizeof source,
             "{%% set l = range(9999) %%}{%% set k = range(9999) | list %%}{%% set ls = ['b'] * "
             "9999 %%}"
             "{%% set long = '{{' * 99999 %%}"
             "{%% set ns = namespace(a=[]) %%}{%% for i in range(999) %%}"
             "{%% do ns.a.append([i, i]) %%}{%% endfor %%}"
             "{%% set many = dict(ns.a) %%}{%% set more = dict(ns.a) %%}"
             "{%% set s = 'a' * 1000000 %%}{%% set t = 'a' * 999999 ~ 'b' %%}{%% set d = {t: 1} %%}"
             "{%% set sp = ' ' * 1000000 %%}{%% for i in range(99999) %%}{%% set x = %s %%}"
             "{%% endfor %%}",
             slow[_i]);
    expect_error(source, NULL, "limit");
}
END_TEST

START_TEST(filters_of_nothing_give_nothing_as_in_jinja2)
{
    static const char *const values[] = {"none", "0", "false", "''", "[]", "{}", "missing"};
    static const char *const filters[] = {"map('upper')",    "map(attribute='a')",
                                          "select",          "reject",
                                          "select('odd')",   "selectattr('type', 'equalto', 'x')",
                                          "rejectattr('a')", "selectattr('a')"};
    char source[160];
    for (size_t v = 0; v < sizeof values / sizeof *values; v++)
        for (size_t f = 0; f < sizeof filters / sizeof *filters; f++) {
            snprintf(source, sizeof source, "{{ %s | %s | list }}", values[v], filters[f]);
            expect(source, NULL, "[]");
        }
    expect_error("{{ none | list }}", NULL, "not iterable");
    expect_error("{{ none | join }}", NULL, "not iterable");
}
END_TEST

START_TEST(deep_sources_are_refused_without_deep_recursion)
{
    static const char *const parts[][3] = {
        {"{{ ", "(", " }}"},          {"{{ ", "[", " }}"},         {"{{ ", "-", "1 }}"},
        {"{{ ", "not ", "1 }}"},      {"{{ 1", " + 1", " }}"},     {"{{ 1", ".a", " }}"},
        {"{{ 1", " | abs", " }}"},    {"", "{% if 1 %}", ""},      {"{{ 1", " if 1 else 1", " }}"},
        {"{{ 1", " and 1", " }}"},    {"{{ 1 is ", "in ", "1 }}"}, {"{{ 1", "[1", " }}"},
        {"", "{% for a in 1 %}", ""}, {"{{ a", "(a", " }}"},       {"{{ ", "{1:", " }}"},
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        char *s = repeated(parts[i][0], parts[i][1], 60000, parts[i][2]);
        struct error e = {0};
        struct jinja_program *p = jinja_compile(s, strlen(s), &e);
        ck_assert_msg(p == NULL, "60000 times '%s' compiled", parts[i][1]);
        ck_assert_str_eq(e.code, "template_error");
        free(s);
    }
}
END_TEST

START_TEST(a_long_list_of_statements_is_not_deep)
{
    char *s = repeated("", "{% if 1 %}a{% elif 2 %}{% endif %}", 5000, "");
    char *wanted = repeated("", "a", 5000, "");
    expect(s, NULL, wanted);
    free(s);
    free(wanted);
}
END_TEST

START_TEST(deep_json_is_refused)
{
    char *s = repeated("{\"x\":", "[", 1000, "");
    char *closed = repeated(s, "]", 1000, "}");
    expect_error("{{ x }}", closed, "nested lists");
    free(s);
    free(closed);
}
END_TEST

START_TEST(errors_tell_where_and_what)
{
    struct jinja_output out;
    struct error e = {0};
    ck_assert(!render("a\nb{{ raise_exception('roles must alternate') }}", NULL, &out, &e));
    ck_assert_str_eq(e.message, "roles must alternate");
    ck_assert_str_eq(e.where, "line 2");
    ck_assert(!render("a\n  {% oops %}", NULL, &out, &e));
    ck_assert_str_eq(e.where, "line 2, column 6");
    expect_error("{{ x.y }}", NULL, "'x' is undefined");
    expect_error("{{ 1 + 'a' }}", NULL, "unsupported operand");
    expect_error("{{ 9223372036854775807 + 1 }}", NULL, "64 bits");
    expect_error("{{ 1 // 0 }}", NULL, "division by zero");
    expect_error("{{ x | nope }}", NULL, "no filter named 'nope'");
    expect_error("{% for x in y recursive %}{% endfor %}", NULL, "recursive");
    expect_error("{% include 'x' %}", NULL, "include");
    expect_error("\xff", NULL, "UTF-8");
}
END_TEST

START_TEST(an_unknown_filter_hurts_only_where_it_is_used)
{
    expect("{% if false %}{{ 1 | nope }}{% endif %}ok", NULL, "ok");
}
END_TEST

START_TEST(integers_at_their_ends)
{
    expect("{{ -9223372036854775807 - 1 }}", NULL, "-9223372036854775808");
    expect_error("{{ (-9223372036854775807 - 1) // -1 }}", NULL, "64 bits");
    expect("{{ (-9223372036854775807 - 1) % -1 }}", NULL, "0");
    expect_error("{{ -(-9223372036854775807 - 1) }}", NULL, "64 bits");
    expect_error("{{ 2 ** 63 }}", NULL, "64 bits");
    expect_error("{{ 9223372036854775808 }}", NULL, "64 bits");
    expect("{{ 'abc'[9223372036854775807:] }}{{ 'abc'[::-9223372036854775807] }}"
           "{{ [1,2][-9223372036854775807] is defined }}",
           NULL, "cFalse");
}
END_TEST

/* ---- driver for tests/e2e/test_jinja_peer.py */

static json_t *render_case(const json_t *test)
{
    struct error e = {0};
    struct jinja_output out = {0};
    const json_t *source = json_object_get(test, "template");
    const struct jinja_variable tokens[] = {
        {"bos_token", NULL, json_string_value(json_object_get(test, "bos_token"))},
        {"eos_token", NULL, json_string_value(json_object_get(test, "eos_token"))},
    };
    struct jinja_input in = {.variables = tokens,
                             .n_variables = tokens[0].text && tokens[1].text ? 2 : 0,
                             .more = json_object_get(test, "variables"),
                             .now_unix = json_integer_value(json_object_get(test, "now"))};
    struct jinja_program *p =
        jinja_compile(json_string_value(source), json_string_length(source), &e);
    bool ok = p && jinja_render(p, &in, &out, &e);
    jinja_free(p);
    if (!ok)
        return json_pack("{s:s}", "error", e.message);
    char *marked = malloc(out.length + 1);
    size_t n = 0;
    for (size_t i = 0; i < out.length; i++)
        if (out.marks[i])
            marked[n++] = out.text[i];
    json_t *result = json_pack("{s:o, s:o}", "text", json_stringn_nocheck(out.text, out.length),
                               "marked", json_stringn_nocheck(marked, n));
    free(marked);
    free(out.text);
    free(out.marks);
    return result;
}

static int render_file(const char *path)
{
    json_error_t why;
    json_t *cases = json_load_file(path, JSON_ALLOW_NUL, &why), *results = json_array();
    if (!cases) {
        fprintf(stderr, "%s: %s\n", path, why.text);
        return 1;
    }
    for (size_t i = 0; i < json_array_size(cases); i++)
        json_array_append_new(results, render_case(json_array_get(cases, i)));
    json_dumpf(results, stdout, 0);
    json_decref(results);
    json_decref(cases);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--render") == 0)
        return render_file(argv[2]);
    Suite *suite = suite_create("jinja");
    TCase *t = suite_case(suite, "jinja", 60);
    tcase_add_test(t, statements_write_what_they_should);
    tcase_add_test(t, variables_of_a_loop_end_with_it);
    tcase_add_test(t, a_macro_keeps_the_variables_of_its_own_round);
    tcase_add_test(t, user_text_is_never_marked);
    tcase_add_test(t, growing_a_string_leaves_its_older_values_alone);
    tcase_add_test(t, hostile_templates_end_with_the_name_of_a_limit);
    tcase_add_loop_test(t, work_inside_of_one_call_counts_as_steps, 0, N_SLOW);
    tcase_add_test(t, filters_of_nothing_give_nothing_as_in_jinja2);
    tcase_add_test(t, deep_sources_are_refused_without_deep_recursion);
    tcase_add_test(t, a_long_list_of_statements_is_not_deep);
    tcase_add_test(t, deep_json_is_refused);
    tcase_add_test(t, errors_tell_where_and_what);
    tcase_add_test(t, an_unknown_filter_hurts_only_where_it_is_used);
    tcase_add_test(t, integers_at_their_ends);
    return suite_run(suite);
}
