/* Parses cache policies: see plan_json.h. */
#include "server/api/plan_json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/policy/axis.h"
#include "cache/policy/preset.h"
#include "config/base/nearest.h"
#include "config/json_read.h"

enum { LONGEST_TEXT = 2048 };

/* Keys that other programs use, and what to write here. */
static const struct {
    const char *key, *hint;
} foreign[] = {
    {"max_kv_size", "write budget"},
    {"max_capacity_prompt", "write budget"},
    {"compression_ratio", "it is the share that is removed; write budget = 1 - ratio"},
    {"sink_token_length", "write sinks"},
    {"num_keep", "write sinks"},
    {"n_keep", "write sinks"},
    {"start_size", "write sinks"},
    {"recent_size", "write budget = sinks + recent"},
    {"window_size", "write window"},
    {"kernel_size", "write kernel"},
    {"max_attention_window_size", "write budget"},
};

/* The place of an error. */
struct parse {
    const char *where;
    char path[120];
    struct error *e;
};

static const char *path_of(struct parse *p, const char *key)
{
    snprintf(p->path, sizeof p->path, "%s.%.64s", p->where, key);
    return p->path;
}

static const char *shown(const json_t *value, char out[80])
{
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    error_excerpt(out, text ? text : "?", text ? strlen(text) : 1);
    free(text);
    return out;
}

static bool refuse(struct parse *p, const char *key, const json_t *value, const char *wanted)
{
    char text[80];
    const char *path = path_of(p, key);
    return error_set(p->e, "invalid_kv_policy", path, "%s is %s; it must be %s", path,
                     shown(value, text), wanted);
}

/* 7 and 7.0 are whole numbers; "7", true and 7.5 are not. */
static bool whole(const json_t *value, int64_t *out)
{
    if (json_is_integer(value)) {
        *out = json_integer_value(value);
        return true;
    }
    if (!json_is_real(value) || json_real_value(value) != floor(json_real_value(value)) ||
        fabs(json_real_value(value)) > 9e15)
        return false;
    *out = (int64_t)json_real_value(value);
    return true;
}

static bool parse_budget(struct parse *p, const json_t *value, struct plan_axes *v)
{
    int64_t slots;
    char text[80];
    const char *path = path_of(p, "budget"), *wanted =
                                                 "a whole number of slots from 2 to 16777216, "
                                                 "or a share of the prompt between 0 and 1";
    v->has_budget = true;
    v->budget_share = 0;
    if (json_is_number(value) && json_number_value(value) == 1)
        return error_set(p->e, "invalid_kv_policy", path,
                         "%s is %s, which is ambiguous: write a whole number of slots >= 2, a "
                         "share below 1, or the policy full",
                         path, shown(value, text));
    if (whole(value, &slots)) {
        if (slots < 2 || slots > PLAN_LARGEST_BUDGET)
            return refuse(p, "budget", value, wanted);
        v->budget = (uint32_t)slots;
        return true;
    }
    double share = json_number_value(value);
    if (!json_is_real(value) || !(share > 0 && share < 1))
        return refuse(p, "budget", value, wanted);
    v->budget_share = share;
    return true;
}

static bool parse_number(struct parse *p, const struct axis *axis, const json_t *value,
                         uint32_t *out)
{
    int64_t number;
    char wanted[80];
    snprintf(wanted, sizeof wanted, "a whole number from %lld to %lld", (long long)axis->least,
             (long long)axis->most);
    if (!whole(value, &number) || number < axis->least || number > axis->most)
        return refuse(p, axis->key, value, wanted);
    if (axis->kind == AXIS_ODD && number % 2 == 0)
        return refuse(p, axis->key, value, "an odd number, so that it has a middle");
    *out = (uint32_t)number;
    return true;
}

static bool parse_choice(struct parse *p, const struct axis *axis, const json_t *value,
                         unsigned *out)
{
    char wanted[200] = "one of ";
    size_t n = strlen(wanted), length = json_string_length(value);
    const char *text = json_string_value(value);
    for (uint32_t i = 0; i < axis->names->n; i++) {
        const char *name = axis->names->names[i];
        if (text && strlen(name) == length && !memcmp(name, text, length)) {
            *out = i;
            return true;
        }
        n += (size_t)snprintf(wanted + n, sizeof wanted - n, "%s%s", i ? "|" : "", name);
        n = n < sizeof wanted ? n : sizeof wanted - 1;
    }
    return refuse(p, axis->key, value, wanted);
}

static bool parse_fraction(struct parse *p, const struct axis *axis, const json_t *value,
                           double *out)
{
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= 0 && number <= 1))
        return refuse(p, axis->key, value, "a number from 0 to 1");
    *out = number;
    return true;
}

static bool parse_value(struct parse *p, const struct axis *axis, const json_t *value,
                        struct plan_axes *v)
{
    void *field = axis_field(axis, v);
    switch (axis->kind) {
    case AXIS_BUDGET:
        return parse_budget(p, value, v);
    case AXIS_NUMBER:
    case AXIS_ODD:
        return parse_number(p, axis, value, field);
    case AXIS_CHOICE:
        return parse_choice(p, axis, value, field);
    case AXIS_FRACTION:
        return parse_fraction(p, axis, value, field);
    case AXIS_INTEGER:
        return whole(value, field) || refuse(p, axis->key, value, "a whole number");
    case AXIS_SWITCH:
        *(bool *)field = json_is_true(value);
        return json_is_boolean(value) || refuse(p, axis->key, value, "true or false");
    }
    return false;
}

static bool keeps_everything(const struct preset *preset)
{
    return !preset->axes.has_budget && preset->axes.allocation != ALLOCATION_PROFILE;
}

static bool parse_key(struct parse *p, const struct axis *axis, const json_t *value,
                      struct plan_asked *out)
{
    const enum plan_axis_id id = (enum plan_axis_id)(axis - plan_axis_table);
    const bool of_any_policy = id == PLAN_AXIS_trace || id == PLAN_AXIS_storage;
    struct plan_axes v = out->axes;
    out->given |= UINT32_C(1) << id;
    if (!(keeps_everything(out->preset) && axis->kind == AXIS_BUDGET) &&
        !parse_value(p, axis, value, &v))
        return false;
    if (keeps_everything(out->preset) && !of_any_policy)
        return refuse(p, axis->key, value, "left out: the policy 'full' keeps everything");
    out->axes = v;
    return true;
}

/* The keys of the object, the name first. */
static const char *key_name(uint32_t i)
{
    return i == 0 ? "name" : plan_axis_table[i - 1].key;
}

static const char *preset_name(uint32_t i)
{
    return preset_at(i)->name;
}

static bool unknown_key(struct parse *p, const char *key)
{
    char text[80];
    const char *path = path_of(p, key);
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (!strcmp(key, foreign[i].key))
            return error_set(p->e, "invalid_kv_policy", path, "%s is not a key of kv_policy: %s",
                             path, foreign[i].hint);
    const char *near = nearest_name(key, key_name, N_PLAN_AXES + 1);
    return error_set(p->e, "invalid_kv_policy", path, "kv_policy has no key '%s'%s%s",
                     error_excerpt(text, key, strlen(key)), near ? "; did you mean " : "",
                     near ? near : "");
}

static bool parse_name(struct parse *p, const char *name, size_t length, struct plan_asked *out)
{
    char text[80];
    const struct preset *preset = strlen(name) == length ? preset_find(name) : NULL;
    error_excerpt(text, name, length);
    if (!preset) {
        const char *near = nearest_name(text, preset_name, preset_count());
        return error_set(p->e, "invalid_kv_policy", p->where, "there is no policy '%s'%s%s", text,
                         near ? "; did you mean " : "", near ? near : "");
    }
    *out = plan_asked_of(preset);
    return true;
}

static bool parse_object(struct parse *p, const json_t *value, struct plan_asked *out)
{
    const json_t *name = json_object_get(value, "name");
    const char *key;
    json_t *item;
    if (!name || json_is_null(name))
        return error_set(p->e, "invalid_kv_policy", path_of(p, "name"),
                         "%s is missing: name a policy such as sink", p->path);
    if (!json_is_string(name))
        return refuse(p, "name", name, "a policy's name");
    if (!parse_name(p, json_string_value(name), json_string_length(name), out))
        return false;
    json_object_foreach((json_t *)(uintptr_t)value, key, item)
    {
        const struct axis *axis = axis_find(key);
        if (!axis && strcmp(key, "name") != 0)
            return unknown_key(p, key);
        if (axis && !json_is_null(item) && !parse_key(p, axis, item, out))
            return false;
    }
    return true;
}

bool plan_parse_json(const json_t *value, const char *where, struct plan_asked *out,
                     struct error *e)
{
    struct parse p = {.where = where, .e = e};
    char text[80];
    memset(out, 0, sizeof *out);
    if (json_is_string(value))
        return parse_name(&p, json_string_value(value), json_string_length(value), out);
    if (json_is_object(value))
        return parse_object(&p, value, out);
    return error_set(e, "invalid_kv_policy", where,
                     "%s is %s; it must be a policy's name or an object", where,
                     shown(value, text));
}

bool plan_parse_text(const char *text, size_t length, const char *where, struct plan_asked *out,
                     struct error *e)
{
    struct parse p = {.where = where, .e = e};
    while (length && (*text == ' ' || *text == '\t')) {
        text++;
        length--;
    }
    while (length && (text[length - 1] == ' ' || text[length - 1] == '\t'))
        length--;
    memset(out, 0, sizeof *out);
    if (length == 0 || length > LONGEST_TEXT)
        return error_set(e, "invalid_kv_policy", where,
                         "%s has %zu bytes; a policy must have 1 to %d", where, length,
                         LONGEST_TEXT);
    if (*text != '{') {
        char name[LONGEST_TEXT + 1];
        memcpy(name, text, length);
        name[length] = 0;
        return parse_name(&p, name, length, out);
    }
    json_t *value = json_read(text, length, JSON_DECODE_ANY, "invalid_kv_policy", where, where, e);
    if (!value)
        return false;
    bool ok = plan_parse_json(value, where, out, e);
    json_decref(value);
    return ok;
}

bool plan_is_suffix(const char *text)
{
    char name[64];
    size_t length = strcspn(text, ":");
    if (length == 0 || length >= sizeof name)
        return false;
    memcpy(name, text, length);
    name[length] = 0;
    return preset_find(name) || nearest_name(name, preset_name, preset_count());
}

bool plan_parse_suffix(const char *text, size_t length, const char *where, struct plan_asked *out,
                       struct error *e)
{
    struct parse p = {.where = where, .e = e};
    char name[64], excerpt[80];
    const char *colon = memchr(text, ':', length);
    size_t name_length = colon ? (size_t)(colon - text) : length;
    memset(out, 0, sizeof *out);
    snprintf(name, sizeof name, "%.*s", (int)(name_length < 63 ? name_length : 63), text);
    if (!parse_name(&p, name, name_length < 63 ? name_length : 0, out) || !colon)
        return colon ? false : out->preset != NULL;
    json_t *budget = json_read(colon + 1, length - name_length - 1, JSON_DECODE_ANY,
                               "invalid_kv_policy", where, "the budget", e);
    if (!budget && !strcmp(e->code, "out_of_memory"))
        return false;
    if (!json_is_number(budget)) {
        json_decref(budget);
        return error_set(e, "invalid_kv_policy", where,
                         "'%s' is not a budget; write %s:512 or %s:0.25",
                         error_excerpt(excerpt, colon + 1, length - name_length - 1), name, name);
    }
    bool ok = parse_key(&p, &plan_axis_table[PLAN_AXIS_budget], budget, out);
    json_decref(budget);
    return ok;
}
