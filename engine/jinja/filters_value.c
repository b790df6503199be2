/* Filters on numbers and single values. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/jinja/character.h"
#include "engine/jinja/literal.h"
#include "engine/jinja/native.h"
#include "engine/jinja/text.h"

static bool filter_default(struct runtime *r, const struct call *c, struct value *out)
{
    bool boolean;
    argument_bool(r, c, 1, false, &boolean);
    bool use = c->self.kind == VALUE_UNDEFINED || (boolean && !value_true(&c->self));
    if (!use)
        *out = c->self;
    else if (c->argument[0].kind != VALUE_ABSENT)
        *out = c->argument[0];
    else
        *out = value_text(TEXT_LITERAL(""));
    return true;
}

static bool filter_length(struct runtime *r, const struct call *c, struct value *out)
{
    const struct value *v = &c->self;
    int64_t n = 0;
    uint8_t mark = JINJA_MARK_USER;
    switch (v->kind) {
    case VALUE_STRING:
        if (!runtime_charge_bytes(r, v->text.length))
            return false;
        n = (int64_t)character_count(v->text.bytes, v->text.length);
        mark = v->text.marks ? JINJA_MARK_USER : text_common_mark(&v->text);
        break;
    case VALUE_LIST:
    case VALUE_TUPLE:
        n = (int64_t)v->list->count;
        break;
    case VALUE_DICT:
        n = (int64_t)v->dict->count;
        break;
    case VALUE_UNDEFINED:
        break;
    case VALUE_LOOP:
        n = (int64_t)v->loop->items->count;
        break;
    default:
        return runtime_fail(r, "object of type '%s' has no len()", value_type_name(v));
    }
    *out = value_int(n, mark);
    return true;
}

static bool fits_int(double d)
{
    return d > -9223372036854775808.0 && d < 9223372036854775808.0;
}

static bool filter_int(struct runtime *r, const struct call *c, struct value *out)
{
    int64_t base, result;
    double d;
    const struct value *v = &c->self;
    if (!argument_int(r, c, 1, 10, &base))
        return false;
    if (v->kind == VALUE_UNDEFINED)
        return runtime_fail_undefined(r, v);
    if (value_is_integral(v)) {
        *out = value_int(value_integer(v), v->mark);
        return true;
    }
    if (v->kind == VALUE_FLOAT && fits_int(v->number)) {
        *out = value_int((int64_t)v->number, v->mark);
        return true;
    }
    if (v->kind == VALUE_STRING && base >= 0 && base <= 36 && base != 1) {
        const struct text *t = &v->text;
        if (!runtime_charge_bytes(r, t->length))
            return false;
        if (literal_parse_int(t->bytes, t->length, (int)base, &result)) {
            *out = value_int(result, text_common_mark(t));
            return true;
        }
        if (literal_parse_float(t->bytes, t->length, &d) && fits_int(d)) {
            *out = value_int((int64_t)d, text_common_mark(t));
            return true;
        }
    }
    *out = c->argument[0].kind == VALUE_ABSENT ? value_int(0, JINJA_MARK_TEMPLATE) : c->argument[0];
    return true;
}

static bool filter_float(struct runtime *r, const struct call *c, struct value *out)
{
    double d;
    const struct value *v = &c->self;
    if (v->kind == VALUE_UNDEFINED)
        return runtime_fail_undefined(r, v);
    if (v->kind == VALUE_STRING && !runtime_charge_bytes(r, v->text.length))
        return false;
    if (value_is_number(v))
        *out = value_float(value_double(v), v->mark);
    else if (v->kind == VALUE_STRING && literal_parse_float(v->text.bytes, v->text.length, &d))
        *out = value_float(d, text_common_mark(&v->text));
    else if (c->argument[0].kind != VALUE_ABSENT)
        *out = c->argument[0];
    else
        *out = value_float(0, JINJA_MARK_TEMPLATE);
    return true;
}

static bool need_number(struct runtime *r, const struct value *v)
{
    if (v->kind == VALUE_UNDEFINED)
        return runtime_fail_undefined(r, v);
    return value_is_number(v) || runtime_fail(r, "a number is needed, not %s", value_type_name(v));
}

static bool filter_abs(struct runtime *r, const struct call *c, struct value *out)
{
    const struct value *v = &c->self;
    if (!need_number(r, v))
        return false;
    if (v->kind == VALUE_FLOAT)
        *out = value_float(fabs(v->number), v->mark);
    else if (value_integer(v) < 0)
        return value_negate(r, v, out);
    else
        *out = value_int(value_integer(v), v->mark);
    return true;
}

/* Rounds half to even on the decimal digits, as Python does. */
static double round_to(double d, int64_t precision)
{
    if (!isfinite(d) || precision > 300)
        return d;
    if (precision < 0) {
        double scale = pow(10, precision < -308 ? 308 : (double)-precision);
        return nearbyint(d / scale) * scale;
    }
    char digits[700];
    double rounded = d;
    int n = snprintf(digits, sizeof digits, "%.*f", (int)precision, d);
    if (n > 0 && (size_t)n < sizeof digits)
        rounded = strtod(digits, NULL);
    return rounded;
}

static bool filter_round(struct runtime *r, const struct call *c, struct value *out)
{
    int64_t precision;
    struct text method;
    if (!need_number(r, &c->self) || !argument_int(r, c, 0, 0, &precision) ||
        !argument_text(r, c, 1, "common", &method))
        return false;
    double d = value_double(&c->self);
    if (text_is(&method, "common", 6)) {
        /* Python's round() keeps an integer an integer. */
        *out = value_is_integral(&c->self) && precision >= 0
                   ? value_int(value_integer(&c->self), c->self.mark)
                   : value_float(round_to(d, precision), c->self.mark);
        return true;
    }
    bool up = text_is(&method, "ceil", 4);
    if (!up && !text_is(&method, "floor", 5))
        return runtime_fail(r, "method must be common, ceil or floor");
    double scale = pow(10, (double)precision);
    *out = value_float((up ? ceil(d * scale) : floor(d * scale)) / scale, c->self.mark);
    return true;
}

static bool filter_attr(struct runtime *r, const struct call *c, struct value *out)
{
    struct text name;
    if (!argument_text(r, c, 0, "", &name))
        return false;
    /* Attributes only: the items of a dict are none. */
    if (c->self.kind == VALUE_DICT && !native_find(native_dict_methods, name.bytes, name.length)) {
        *out = (struct value){.kind = VALUE_UNDEFINED, .text = name};
        return true;
    }
    return value_attribute(r, &c->self, &name, out);
}

const struct native native_value_filters[] = {
    {"default", "default_value boolean", 0, filter_default, 0},
    {"d", "default_value boolean", 0, filter_default, 0},
    {"length", "", 0, filter_length, 0},
    {"count", "", 0, filter_length, 0},
    {"int", "default base", 0, filter_int, 0},
    {"float", "default", 0, filter_float, 0},
    {"abs", "", 0, filter_abs, 0},
    {"round", "precision method", 0, filter_round, 0},
    {"attr", "name", 1, filter_attr, 0},
    {0},
};
