/* Picking a kind of device from a table: here one of made-up kinds, and the program's own. */
#include <stdlib.h>
#include <string.h>

#include "server/devices.h"
#include "tests/suite.h"

static struct error e;
static uint32_t n_red, n_blue;

static uint32_t one(const char **reason)
{
    *reason = "";
    return 1;
}

static uint32_t red(const char **reason)
{
    *reason = "no red driver";
    return n_red;
}

static uint32_t blue(const char **reason)
{
    *reason = "no blue driver";
    return n_blue;
}

static bool open_filled(struct backend *b, const struct device_options *o, const struct model *m,
                        struct error *error)
{
    (void)m;
    *b = (struct backend){.close = free};
    return o->n_threads > 0 || error_set(error, "out_of_memory", "", "no threads");
}

static const struct device_kind kind_cpu = {.name = "cpu", .count = one, .open = open_filled},
                                kind_red = {.name = "red", .count = red},
                                kind_blue = {.name = "blue", .count = blue};
static const struct device_kind *const kinds[] = {&kind_cpu, &kind_red, &kind_blue};
static const struct device_table table = {kinds, 3};

START_TEST(auto_is_the_last_kind_with_a_device_else_the_cpu_and_why)
{
    struct device d;
    n_red = n_blue = 1;
    ck_assert(device_pick(&table, "auto", &d, &e));
    ck_assert_ptr_eq(d.kind, &kind_blue);
    ck_assert_str_eq(d.why, "");
    n_blue = 0;
    ck_assert(device_pick(&table, NULL, &d, &e));
    ck_assert_ptr_eq(d.kind, &kind_red);
    ck_assert_str_eq(d.why, "");
    n_red = 0;
    ck_assert(device_pick(&table, NULL, &d, &e));
    ck_assert_ptr_eq(d.kind, &kind_cpu);
    ck_assert_str_eq(d.why, "no blue driver");
}
END_TEST

START_TEST(a_kind_without_a_device_and_an_unknown_name_are_refused)
{
    struct device d;
    n_red = 0;
    ck_assert(!device_pick(&table, "red", &d, &e));
    ck_assert_str_eq(e.code, "device_unavailable");
    ck_assert_ptr_nonnull(strstr(e.message, "no red driver"));
    ck_assert_ptr_nonnull(strstr(e.message, "--device cpu works"));
    n_red = 2;
    ck_assert(device_pick(&table, "red", &d, &e));
    ck_assert_ptr_eq(d.kind, &kind_red);
    ck_assert(!device_pick(&table, "green", &d, &e));
    ck_assert_str_eq(e.code, "invalid_value");
    ck_assert_str_eq(e.message, "\"green\" is not auto, cpu, red or blue");
}
END_TEST

START_TEST(a_device_that_did_not_open_needs_no_close)
{
    struct backend b;
    struct device_options o = {.n_threads = 1};
    ck_assert(device_open(&b, &kind_cpu, &o, NULL, &e));
    ck_assert_ptr_nonnull(b.close);
    o.n_threads = 0;
    ck_assert(!device_open(&b, &kind_cpu, &o, NULL, &e));
    ck_assert_str_eq(e.code, "out_of_memory");
    ck_assert_ptr_null(b.close);
}
END_TEST

START_TEST(every_kind_of_the_program_has_a_name_rows_and_functions)
{
    struct device d;
    ck_assert_uint_ge(server_devices.n, 2);
    for (uint32_t i = 0; i < server_devices.n; i++) {
        const struct device_kind *kind = server_devices.kinds[i];
        const char *reason = NULL;
        ck_assert(*kind->name && kind->usual_rows > 0 && kind->open);
        ck_assert(kind->count(&reason) > 0 || *reason);
        for (uint32_t k = 0; k < i; k++)
            ck_assert_str_ne(kind->name, server_devices.kinds[k]->name);
    }
    ck_assert(device_pick(&server_devices, "cpu", &d, &e));
    ck_assert_ptr_eq(d.kind, server_devices.kinds[0]);
    ck_assert(!d.kind->has_own_memory);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("devices");
    TCase *t = suite_case(suite, "devices", 60);
    tcase_add_test(t, auto_is_the_last_kind_with_a_device_else_the_cpu_and_why);
    tcase_add_test(t, a_kind_without_a_device_and_an_unknown_name_are_refused);
    tcase_add_test(t, a_device_that_did_not_open_needs_no_close);
    tcase_add_test(t, every_kind_of_the_program_has_a_name_rows_and_functions);
    return suite_run(suite);
}
