/* Checks the fields of a request against the table: see field.h. Pure. */
#include "server/api/field.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const type_names[] = {"a string", "an integer", "a number", "true or false",
                                         "an array", "an object",  ""};

static const char *excerpt(char out[80], const json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    error_excerpt(out, text ? text : "?", text ? strlen(text) : 1);
    free(text);
    return out;
}

static bool has_type(const json_t *value, enum field_type type)
{
    switch (type) {
    case FIELD_STRING:
        return json_is_string(value);
    case FIELD_INTEGER:
        return json_is_integer(value) ||
               (json_is_real(value) && json_real_value(value) == floor(json_real_value(value)));
    case FIELD_NUMBER:
        return json_is_number(value);
    case FIELD_BOOLEAN:
        return json_is_boolean(value);
    case FIELD_ARRAY:
        return json_is_array(value);
    case FIELD_OBJECT:
        return json_is_object(value);
    default:
        return true;
    }
}

static bool check_number(const struct field_row *row, const json_t *value, struct error *e)
{
    char shown[80], most[48] = "", least[64];
    double v = json_number_value(value);
    if (v >= row->min && v <= row->max && !(row->min_open && v == row->min))
        return true;
    if (isfinite(row->max))
        snprintf(most, sizeof most, " and at most %.17g", row->max);
    snprintf(least, sizeof least, "%s %.17g", row->min_open ? "above" : "at least", row->min);
    return error_set(e, "invalid_value", row->name, "%s is %s; it must be %s%s", row->name,
                     excerpt(shown, value), least, most);
}

static bool check_count(const struct field_row *row, const json_t *value, struct error *e)
{
    bool string = json_is_string(value);
    double n = string                 ? (double)json_string_length(value)
               : json_is_array(value) ? (double)json_array_size(value)
                                      : (double)json_object_size(value);
    const char *unit = string ? "bytes" : "entries";
    if (n >= row->min && n <= row->max)
        return true;
    if (n < row->min)
        return error_set(e, "invalid_value", row->name,
                         "%s has %.0f %s; it must have at least %.0f", row->name, n, unit,
                         row->min);
    return error_set(e, "invalid_value", row->name, "%s has %.0f %s; it must have at most %.0f",
                     row->name, n, unit, row->max);
}

static bool is_off(const struct field_row *row, const json_t *value)
{
    const char *at = row->off;
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    bool off = false;
    while (text && at && *at && !off) {
        size_t n = strcspn(at, "|");
        off = strlen(text) == n && !memcmp(text, at, n);
        at += n + (at[n] == '|');
    }
    free(text);
    return off;
}

static bool check(const struct field_row *row, const json_t *value, struct error *e)
{
    char shown[80];
    if (row->rule == FIELD_IGNORED)
        return true;
    if (row->rule == FIELD_NEAR_MISS)
        return error_set(e, "unknown_parameter", row->name, "there is no field %s; write `%s`",
                         row->name, row->help);
    if (row->rule == FIELD_REFUSED)
        return is_off(row, value) || error_set(e, "unsupported_parameter", row->name,
                                               "%s is not supported: %s", row->name, row->help);
    if (!has_type(value, row->type))
        return error_set(e, "invalid_type", row->name, "%s must be %s, but it is %s", row->name,
                         type_names[row->type], excerpt(shown, value));
    if (row->type == FIELD_INTEGER || row->type == FIELD_NUMBER)
        return check_number(row, value, e);
    if (row->type == FIELD_STRING || row->type == FIELD_ARRAY || row->type == FIELD_OBJECT)
        return check_count(row, value, e);
    return true;
}

static bool is_none(const json_t *value)
{
    const char *text = json_string_value(value);
    return text && !strcmp(text, "none");
}

/* Tools that the model is told not to call change nothing. */
static bool is_switched_off(const json_t *object, const struct field_row *row)
{
    return (!strcmp(row->name, "tools") && is_none(json_object_get(object, "tool_choice"))) ||
           (!strcmp(row->name, "functions") && is_none(json_object_get(object, "function_call")));
}

bool fields_check(const json_t *object, bool chat, struct error *e)
{
    for (unsigned i = 0; i < n_field_rows; i++) {
        const struct field_row *row = &field_rows[i];
        const json_t *value = json_object_get(object, row->name);
        if ((chat ? row->chat : row->completion) && value && !json_is_null(value) &&
            !is_switched_off(object, row) && !check(row, value, e))
            return false;
    }
    const json_t *extra = json_object_get(object, "extra_body");
    if (json_object_get(extra, "kv_policy"))
        return error_set(e, "unknown_parameter", "extra_body",
                         "extra_body is an argument of the Python client, not a field; write "
                         "`kv_policy` at the top level of the body");
    return true;
}
