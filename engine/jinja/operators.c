/* Arithmetic and comparisons, with Python's rules. */
#include <math.h>

#include "engine/jinja/native.h"
#include "engine/jinja/text.h"

/* The mark of what is computed from both. */
static uint8_t both_marks(const struct value *a, const struct value *b)
{
    return a->mark == JINJA_MARK_TEMPLATE && b->mark == JINJA_MARK_TEMPLATE ? JINJA_MARK_TEMPLATE
                                                                            : JINJA_MARK_USER;
}

static bool overflow(struct runtime *r)
{
    return runtime_fail(r, "an integer does not fit into 64 bits");
}

static bool divided_by_zero(struct runtime *r)
{
    return runtime_fail(r, "division by zero");
}

/* Towards minus infinity. */
static int64_t floor_divide(int64_t a, int64_t b)
{
    int64_t q = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

static bool power(struct runtime *r, int64_t base, int64_t exponent, uint8_t mark,
                  struct value *out)
{
    if (exponent < 0) {
        if (base == 0)
            return divided_by_zero(r);
        *out = value_float(pow((double)base, (double)exponent), mark);
        return true;
    }
    int64_t result = 1;
    while (exponent > 0) {
        if ((exponent & 1) && __builtin_mul_overflow(result, base, &result))
            return overflow(r);
        exponent >>= 1;
        if (exponent > 0 && __builtin_mul_overflow(base, base, &base))
            return overflow(r);
    }
    *out = value_int(result, mark);
    return true;
}

static bool operate_int(struct runtime *r, unsigned op, int64_t a, int64_t b, uint8_t mark,
                        struct value *out)
{
    int64_t result = 0;
    bool too_big = false;
    switch (op) {
    case '+':
        too_big = __builtin_add_overflow(a, b, &result);
        break;
    case '-':
        too_big = __builtin_sub_overflow(a, b, &result);
        break;
    case '*':
        too_big = __builtin_mul_overflow(a, b, &result);
        break;
    case OPERATOR('*', '*'):
        return power(r, a, b, mark, out);
    case '/':
        if (b == 0)
            return divided_by_zero(r);
        *out = value_float((double)a / (double)b, mark);
        return true;
    default: /* // and % */
        if (b == 0)
            return divided_by_zero(r);
        if (b == -1) { /* INT64_MIN / -1 traps */
            too_big = op != '%' && a == INT64_MIN;
            result = op == '%' || too_big ? 0 : -a;
        } else {
            int64_t q = floor_divide(a, b);
            result = op == '%' ? a - q * b : q;
        }
    }
    if (too_big)
        return overflow(r);
    *out = value_int(result, mark);
    return true;
}

static double floor_remainder(double a, double b)
{
    double m = fmod(a, b);
    if (m != 0 && (m < 0) != (b < 0))
        m += b;
    return m == 0 ? copysign(0, b) : m;
}

static bool operate_float(struct runtime *r, unsigned op, double a, double b, uint8_t mark,
                          struct value *out)
{
    double result;
    if (b == 0 && (op == '/' || op == '%' || op == OPERATOR('/', '/')))
        return divided_by_zero(r);
    switch (op) {
    case '+':
        result = a + b;
        break;
    case '-':
        result = a - b;
        break;
    case '*':
        result = a * b;
        break;
    case '/':
        result = a / b;
        break;
    case '%':
        result = floor_remainder(a, b);
        break;
    case OPERATOR('/', '/'):
        result = floor((a - floor_remainder(a, b)) / b + 0.5);
        break;
    default:
        if (a == 0 && b < 0)
            return divided_by_zero(r);
        result = pow(a, b);
        if (isnan(result) && !isnan(a) && !isnan(b))
            return runtime_fail(r, "a negative number has no such power");
    }
    *out = value_float(result, mark);
    return true;
}

static bool join_lists(struct runtime *r, const struct value *a, const struct value *b,
                       struct value *out)
{
    struct list *list = list_new(r, a->list->count + b->list->count);
    if (!list)
        return false;
    for (size_t i = 0; i < a->list->count; i++)
        if (!list_push(r, list, &a->list->items[i]))
            return false;
    for (size_t i = 0; i < b->list->count; i++)
        if (!list_push(r, list, &b->list->items[i]))
            return false;
    *out = a->kind == VALUE_LIST ? value_list(list) : value_tuple(list);
    return true;
}

static bool repeat(struct runtime *r, const struct value *v, int64_t times, struct value *out)
{
    if (v->kind == VALUE_STRING) {
        struct text t;
        if (!text_repeat(r, &v->text, times, &t))
            return false;
        *out = value_text(t);
        return true;
    }
    struct list *list = list_new(r, 0);
    if (!list)
        return false;
    for (int64_t i = 0; i < times && v->list->count > 0; i++)
        for (size_t j = 0; j < v->list->count; j++)
            if (!list_push(r, list, &v->list->items[j]))
                return false;
    *out = v->kind == VALUE_LIST ? value_list(list) : value_tuple(list);
    return true;
}

static bool concatenate(struct runtime *r, const struct value *a, const struct value *b,
                        struct value *out)
{
    struct text left, right, both;
    if (!value_string(r, a, &left) || !value_string(r, b, &right) ||
        !text_concatenate(r, &left, &right, &both))
        return false;
    *out = value_text(both);
    return true;
}

static bool repeatable(const struct value *v)
{
    return v->kind == VALUE_STRING || value_is_sequence(v);
}

/* 'a %s' % b: the filter `format`; a tuple gives several arguments. */
static bool format_text(struct runtime *r, const struct value *text, const struct value *v,
                        struct value *out)
{
    struct arguments arguments = {.positional = v, .n_positional = 1};
    if (v->kind == VALUE_TUPLE)
        arguments =
            (struct arguments){.positional = v->list->items, .n_positional = v->list->count};
    return native_call(r, filter_find("format", 6), text, &arguments, out);
}

bool operate(struct runtime *r, unsigned op, const struct value *a, const struct value *b,
             struct value *out)
{
    if (op == '~')
        return concatenate(r, a, b, out);
    if (a->kind == VALUE_UNDEFINED || b->kind == VALUE_UNDEFINED)
        return runtime_fail_undefined(r, a->kind == VALUE_UNDEFINED ? a : b);
    if (value_is_integral(a) && value_is_integral(b))
        return operate_int(r, op, value_integer(a), value_integer(b), both_marks(a, b), out);
    if (value_is_number(a) && value_is_number(b))
        return operate_float(r, op, value_double(a), value_double(b), both_marks(a, b), out);
    if (op == '+' && a->kind == VALUE_STRING && b->kind == VALUE_STRING)
        return concatenate(r, a, b, out);
    if (op == '+' && value_is_sequence(a) && a->kind == b->kind)
        return join_lists(r, a, b, out);
    if (op == '*' && repeatable(a) && value_is_integral(b))
        return repeat(r, a, value_integer(b), out);
    if (op == '*' && repeatable(b) && value_is_integral(a))
        return repeat(r, b, value_integer(a), out);
    if (op == '%' && a->kind == VALUE_STRING)
        return format_text(r, a, b, out);
    char name[3] = {(char)(op & 0xFF), (char)(op >> 8), 0};
    return runtime_fail(r, "unsupported operand types for %s: '%s' and '%s'", name,
                        value_type_name(a), value_type_name(b));
}

bool value_negate(struct runtime *r, const struct value *v, struct value *out)
{
    if (v->kind == VALUE_UNDEFINED)
        return runtime_fail_undefined(r, v);
    if (v->kind == VALUE_FLOAT) {
        *out = value_float(-v->number, v->mark);
        return true;
    }
    if (!value_is_integral(v))
        return runtime_fail(r, "bad operand type for unary -: '%s'", value_type_name(v));
    struct value zero = value_int(0, v->mark);
    return operate(r, '-', &zero, v, out);
}

bool value_contains(struct runtime *r, const struct value *container, const struct value *v,
                    bool *result)
{
    *result = false;
    struct value *found;
    switch (container->kind) {
    case VALUE_STRING:
        if (v->kind != VALUE_STRING)
            return runtime_fail(r, "'in <string>' requires string as left operand, not %s",
                                value_type_name(v));
        if (!runtime_charge_bytes(r, 4 * container->text.length))
            return false;
        *result = text_find(&container->text, &v->text, 0, container->text.length) != SIZE_MAX;
        return true;
    case VALUE_LIST:
    case VALUE_TUPLE:
        for (size_t i = 0; i < container->list->count && !*result; i++)
            if (!value_equal(r, &container->list->items[i], v, result))
                return false;
        return true;
    case VALUE_DICT:
        if (!dict_get(r, container->dict, v, &found))
            return false;
        *result = found != NULL;
        return true;
    case VALUE_UNDEFINED:
        return true;
    default:
        return runtime_fail(r, "argument of type '%s' is not iterable", value_type_name(container));
    }
}

bool compare(struct runtime *r, unsigned op, const struct value *a, const struct value *b,
             bool *result)
{
    if (op == OPERATOR('=', '=') || op == OPERATOR('!', '=')) {
        if (!value_equal(r, a, b, result))
            return false;
        *result = *result == (op == OPERATOR('=', '='));
        return true;
    }
    if (op == OPERATOR_IN || op == OPERATOR_NOT_IN) {
        if (!value_contains(r, b, a, result))
            return false;
        *result = *result == (op == OPERATOR_IN);
        return true;
    }
    char name[3] = {(char)(op & 0xFF), (char)(op >> 8), 0};
    int order;
    if (!value_order(r, a, b, name, &order))
        return false;
    if (order == 2) {
        *result = false; /* NaN compares to nothing */
        return true;
    }
    switch (op) {
    case '<':
        *result = order < 0;
        break;
    case '>':
        *result = order > 0;
        break;
    case OPERATOR('<', '='):
        *result = order <= 0;
        break;
    default:
        *result = order >= 0;
    }
    return true;
}
