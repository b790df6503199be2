/* What stands behind `is`. */
#include "engine/jinja/native.h"
#include "engine/jinja/text.h"

static bool answer(struct value *out, bool yes)
{
    *out = value_bool(yes, JINJA_MARK_TEMPLATE);
    return true;
}

/* Tests of the kind of a value: `which` has a bit for each kind that passes. */
#define BIT(kind) (1u << (kind))
enum {
    SEQUENCES = BIT(VALUE_STRING) | BIT(VALUE_LIST) | BIT(VALUE_TUPLE) | BIT(VALUE_DICT) |
                BIT(VALUE_UNDEFINED),
    CALLABLES = BIT(VALUE_UNDEFINED) | BIT(VALUE_MACRO) | BIT(VALUE_FUNCTION) | BIT(VALUE_METHOD) |
                BIT(VALUE_JOINER) | BIT(VALUE_LOOP),
};
static bool test_kind(struct runtime *r, const struct call *c, struct value *out)
{
    (void)r;
    return answer(out, c->which >> c->self.kind & 1);
}

static bool test_truth(struct runtime *r, const struct call *c, struct value *out)
{
    (void)r;
    return answer(out, c->self.kind == VALUE_BOOL && c->self.boolean == (c->which == 1));
}

/* `which` is the operator. */
static bool test_compare(struct runtime *r, const struct call *c, struct value *out)
{
    bool result;
    return compare(r, c->which, &c->self, &c->argument[0], &result) && answer(out, result);
}

/* Identity: the same object for values that are shared by reference, else the same type and
 * value. */
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
static bool test_parity(struct runtime *r, const struct call *c, struct value *out)
{
    return divides(r, &c->self, 2, c->which, out);
}
static bool test_divisibleby(struct runtime *r, const struct call *c, struct value *out)
{
    int64_t by;
    return argument_int(r, c, 0, 1, &by) && divides(r, &c->self, by, 0, out);
}

static bool test_case(struct runtime *r, const struct call *c, struct value *out)
{
    struct text t;
    bool has;
    return value_string(r, &c->self, &t) && text_has_case(r, &t, c->which, &has) &&
           answer(out, has);
}

const struct native native_tests[] = {
    {"defined", "", 0, test_kind, ~BIT(VALUE_UNDEFINED)},
    {"undefined", "", 0, test_kind, BIT(VALUE_UNDEFINED)},
    {"none", "", 0, test_kind, BIT(VALUE_NONE)},
    {"string", "", 0, test_kind, BIT(VALUE_STRING)},
    {"number", "", 0, test_kind, BIT(VALUE_BOOL) | BIT(VALUE_INT) | BIT(VALUE_FLOAT)},
    {"integer", "", 0, test_kind, BIT(VALUE_INT)},
    {"float", "", 0, test_kind, BIT(VALUE_FLOAT)},
    {"boolean", "", 0, test_kind, BIT(VALUE_BOOL)},
    {"true", "", 0, test_truth, 1},
    {"false", "", 0, test_truth, 0},
    {"mapping", "", 0, test_kind, BIT(VALUE_DICT)},
    {"sequence", "", 0, test_kind, SEQUENCES},
    {"iterable", "", 0, test_kind, SEQUENCES | BIT(VALUE_LOOP)},
    {"callable", "", 0, test_kind, CALLABLES},
    {"sameas", "other", 1, test_sameas, 0},
    {"eq", "other", 1, test_compare, OPERATOR('=', '=')},
    {"equalto", "other", 1, test_compare, OPERATOR('=', '=')},
    {"ne", "other", 1, test_compare, OPERATOR('!', '=')},
    {"lt", "other", 1, test_compare, '<'},
    {"lessthan", "other", 1, test_compare, '<'},
    {"gt", "other", 1, test_compare, '>'},
    {"greaterthan", "other", 1, test_compare, '>'},
    {"le", "other", 1, test_compare, OPERATOR('<', '=')},
    {"ge", "other", 1, test_compare, OPERATOR('>', '=')},
    /* `select('==', x)` uses the operators as names. */
    {"==", "other", 1, test_compare, OPERATOR('=', '=')},
    {"!=", "other", 1, test_compare, OPERATOR('!', '=')},
    {"<", "other", 1, test_compare, '<'},
    {">", "other", 1, test_compare, '>'},
    {"<=", "other", 1, test_compare, OPERATOR('<', '=')},
    {">=", "other", 1, test_compare, OPERATOR('>', '=')},
    {"in", "seq", 1, test_compare, OPERATOR_IN},
    {"odd", "", 0, test_parity, 1},
    {"even", "", 0, test_parity, 0},
    {"divisibleby", "num", 1, test_divisibleby, 0},
    {"upper", "", 0, test_case, CASE_UPPER},
    {"lower", "", 0, test_case, CASE_LOWER},
    {0},
};
