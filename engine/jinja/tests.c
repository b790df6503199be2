/* What stands behind `is`. */
#include "engine/jinja/native.h"
#include "engine/jinja/text.h"

static bool answer(struct value *out, bool yes)
{
    *out = value_bool(yes, JINJA_MARK_TEMPLATE);
    return true;
}

/* Tests that look at the kind only: `mask` has a bit for each kind that passes. */
#define BIT(kind) (1u << (kind))
#define KIND_TEST(name, mask)                                                                      \
    static bool name(struct runtime *r, const struct call *c, struct value *out)                   \
    {                                                                                              \
        (void)r;                                                                                   \
        return answer(out, ((mask) >> c->self.kind) & 1);                                          \
    }
enum {
    SEQUENCES = BIT(VALUE_STRING) | BIT(VALUE_LIST) | BIT(VALUE_TUPLE) | BIT(VALUE_DICT) |
                BIT(VALUE_UNDEFINED),
};
KIND_TEST(test_defined, ~BIT(VALUE_UNDEFINED))
KIND_TEST(test_undefined, BIT(VALUE_UNDEFINED))
KIND_TEST(test_none, BIT(VALUE_NONE))
KIND_TEST(test_string, BIT(VALUE_STRING))
KIND_TEST(test_number, BIT(VALUE_BOOL) | BIT(VALUE_INT) | BIT(VALUE_FLOAT))
KIND_TEST(test_integer, BIT(VALUE_INT))
KIND_TEST(test_float, BIT(VALUE_FLOAT))
KIND_TEST(test_boolean, BIT(VALUE_BOOL))
KIND_TEST(test_mapping, BIT(VALUE_DICT))
KIND_TEST(test_sequence, SEQUENCES)
KIND_TEST(test_iterable, SEQUENCES | BIT(VALUE_LOOP))
KIND_TEST(test_callable, BIT(VALUE_UNDEFINED) | BIT(VALUE_MACRO) | BIT(VALUE_FUNCTION) |
                             BIT(VALUE_METHOD) | BIT(VALUE_JOINER) | BIT(VALUE_LOOP))

static bool test_true(struct runtime *r, const struct call *c, struct value *out)
{
    (void)r;
    return answer(out, c->self.kind == VALUE_BOOL && c->self.boolean);
}
static bool test_false(struct runtime *r, const struct call *c, struct value *out)
{
    (void)r;
    return answer(out, c->self.kind == VALUE_BOOL && !c->self.boolean);
}

static bool compared(struct runtime *r, const struct call *c, unsigned op, struct value *out)
{
    bool result;
    return compare(r, op, &c->self, &c->argument[0], &result) && answer(out, result);
}
#define COMPARE_TEST(name, op)                                                                     \
    static bool name(struct runtime *r, const struct call *c, struct value *out)                   \
    {                                                                                              \
        return compared(r, c, op, out);                                                            \
    }
COMPARE_TEST(test_eq, OPERATOR('=', '='))
COMPARE_TEST(test_ne, OPERATOR('!', '='))
COMPARE_TEST(test_lt, '<')
COMPARE_TEST(test_gt, '>')
COMPARE_TEST(test_le, OPERATOR('<', '='))
COMPARE_TEST(test_ge, OPERATOR('>', '='))
COMPARE_TEST(test_in, OPERATOR_IN)

/* Identity: of objects for what is shared, of type and value for the rest. */
static bool test_sameas(struct runtime *r, const struct call *c, struct value *out)
{
    const struct value *a = &c->self, *b = &c->argument[0];
    bool same = a->kind == b->kind;
    if (same && a->kind >= VALUE_LIST)
        return answer(out, a->list == b->list);
    return (!same || value_equal(r, a, b, &same)) && answer(out, same);
}

static bool divides(struct runtime *r, const struct value *v, int64_t by, int64_t rest,
                    struct value *out)
{
    struct value divisor = value_int(by, JINJA_MARK_TEMPLATE), remainder;
    if (v->kind == VALUE_UNDEFINED)
        return runtime_fail_undefined(r, v);
    if (!value_is_number(v))
        return runtime_fail(r, "a number is needed, not %s", value_type_name(v));
    return operate(r, '%', v, &divisor, &remainder) &&
           answer(out, value_double(&remainder) == (double)rest);
}
static bool test_odd(struct runtime *r, const struct call *c, struct value *out)
{
    return divides(r, &c->self, 2, 1, out);
}
static bool test_even(struct runtime *r, const struct call *c, struct value *out)
{
    return divides(r, &c->self, 2, 0, out);
}
static bool test_divisibleby(struct runtime *r, const struct call *c, struct value *out)
{
    int64_t by;
    return argument_int(r, c, 0, 1, &by) && divides(r, &c->self, by, 0, out);
}

static bool has_case(struct runtime *r, const struct call *c, enum text_case wanted,
                     struct value *out)
{
    struct text t, same, other;
    if (!value_string(r, &c->self, &t) || !text_change_case(r, &t, wanted, &same) ||
        !text_change_case(r, &t, wanted == CASE_UPPER ? CASE_LOWER : CASE_UPPER, &other))
        return false;
    return answer(out,
                  text_is(&t, same.bytes, same.length) && !text_is(&t, other.bytes, other.length));
}
static bool test_upper(struct runtime *r, const struct call *c, struct value *out)
{
    return has_case(r, c, CASE_UPPER, out);
}
static bool test_lower(struct runtime *r, const struct call *c, struct value *out)
{
    return has_case(r, c, CASE_LOWER, out);
}

const struct native native_tests[] = {
    {"defined", "", 0, test_defined},
    {"undefined", "", 0, test_undefined},
    {"none", "", 0, test_none},
    {"string", "", 0, test_string},
    {"number", "", 0, test_number},
    {"integer", "", 0, test_integer},
    {"float", "", 0, test_float},
    {"boolean", "", 0, test_boolean},
    {"true", "", 0, test_true},
    {"false", "", 0, test_false},
    {"mapping", "", 0, test_mapping},
    {"sequence", "", 0, test_sequence},
    {"iterable", "", 0, test_iterable},
    {"callable", "", 0, test_callable},
    {"sameas", "other", 1, test_sameas},
    {"eq", "other", 1, test_eq},
    {"equalto", "other", 1, test_eq},
    {"ne", "other", 1, test_ne},
    {"lt", "other", 1, test_lt},
    {"lessthan", "other", 1, test_lt},
    {"gt", "other", 1, test_gt},
    {"greaterthan", "other", 1, test_gt},
    {"le", "other", 1, test_le},
    {"ge", "other", 1, test_ge},
    /* `select('==', x)` names them by their signs. */
    {"==", "other", 1, test_eq},
    {"!=", "other", 1, test_ne},
    {"<", "other", 1, test_lt},
    {">", "other", 1, test_gt},
    {"<=", "other", 1, test_le},
    {">=", "other", 1, test_ge},
    {"in", "seq", 1, test_in},
    {"odd", "", 0, test_odd},
    {"even", "", 0, test_even},
    {"divisibleby", "num", 1, test_divisibleby},
    {"upper", "", 0, test_upper},
    {"lower", "", 0, test_lower},
    {0},
};
