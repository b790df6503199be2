/* Plans as JSON, and the schema of kv_policy: see plan_json.h. */
#include <string.h>

#include "cache/policy/axis.h"
#include "cache/policy/preset.h"
#include "server/api/plan_json.h"

static json_t *value_json(const struct axis *axis, const struct plan_axes *v)
{
    const void *field = axis_value(axis, v);
    switch (axis->kind) {
    case AXIS_BUDGET:
    case AXIS_NUMBER:
    case AXIS_ODD:
        return json_integer(*(const uint32_t *)field);
    case AXIS_CHOICE:
        return json_string(axis_choice(axis, v));
    case AXIS_FRACTION:
        return json_real(*(const double *)field);
    case AXIS_INTEGER:
        return json_integer(*(const int64_t *)field);
    case AXIS_SWITCH:
        return json_boolean(*(const bool *)field);
    }
    return NULL;
}

static bool put(json_t *o, const char *key, json_t *value)
{
    return json_object_set_new(o, key, value) == 0;
}

/* The budget of heads that are not whole. It is not a key of kv_policy; only answers have it. */
static const char other_budget_key[] = "window_budget";

static bool has_other_budget(const struct plan_axes *v)
{
    return v->allocation == ALLOCATION_PROFILE && v->scorer != SCORER_WINDOW_ATTENTION;
}

json_t *plan_to_json(const struct plan *plan)
{
    const struct plan_axes v = plan_axes_of(plan);
    json_t *o = json_pack("{s:s}", "name", plan->preset->name);
    bool ok = o != NULL;
    for (uint32_t i = 0; i < N_PLAN_AXES && ok; i++)
        if (plan_axis_table[i].reader->reads(&v))
            ok = put(o, plan_axis_table[i].key, value_json(&plan_axis_table[i], &v));
    if (ok && has_other_budget(&v))
        ok = put(o, other_budget_key, json_integer(plan->other_budget));
    if (ok)
        return o;
    json_decref(o);
    return NULL;
}

/* The plans of one request for two prompts of different lengths. */
struct twins {
    const struct plan *a, *b;
};

/* A value that does not depend on the prompt is the same in both plans. A head profile is assumed: no
     * preset's numbers depend on which heads it names. */
static struct twins resolve_twice(const struct plan_asked *asked, const struct plan_limits *limits)
{
    static bool no_head_is_whole[1];
    static const struct head_profile some = {
        .n_layers = 1, .n_kv_heads = 1, .whole = no_head_is_whole};
    struct plan_limits l = *limits;
    struct error ignored;
    l.profile = l.profile ? l.profile : &some;
    return (struct twins){plan_resolve(asked, 1 << 20, &l, &ignored),
                          plan_resolve(asked, 1 << 21, &l, &ignored)};
}

static json_t *asked_value(const struct plan_asked *asked, enum plan_axis_id id,
                           const struct plan_axes *a, const struct plan_axes *b)
{
    const struct axis *axis = &plan_axis_table[id];
    if (a && b && !memcmp(axis_value(axis, a), axis_value(axis, b), axis->size))
        return value_json(axis, a);
    if (id == PLAN_AXIS_budget && asked->axes.budget_share > 0)
        return json_real(asked->axes.budget_share);
    return plan_rule(asked, id) ? json_null() : value_json(axis, &asked->axes);
}

json_t *plan_asked_to_json(const struct plan_asked *asked, const struct plan_limits *limits)
{
    const struct twins t = resolve_twice(asked, limits);
    const bool both = t.a && t.b;
    const struct plan_axes a = both ? plan_axes_of(t.a) : asked->axes,
                           b = both ? plan_axes_of(t.b) : asked->axes;
    json_t *o = json_pack("{s:s}", "name", asked->preset->name);
    bool ok = o != NULL;
    for (uint32_t i = 0; i < N_PLAN_AXES && ok; i++)
        if (plan_axis_table[i].reader->reads(&asked->axes))
            ok = put(o, plan_axis_table[i].key,
                     asked_value(asked, i, both ? &a : NULL, both ? &b : NULL));
    if (ok && has_other_budget(&asked->axes))
        ok = put(o, other_budget_key,
                 both && t.a->other_budget == t.b->other_budget ? json_integer(t.a->other_budget)
                                                                : json_null());
    plan_release(t.a);
    plan_release(t.b);
    if (ok)
        return o;
    json_decref(o);
    return NULL;
}

json_t *plan_rules_to_json(const struct plan_asked *asked)
{
    json_t *o = json_object();
    bool ok = o != NULL;
    for (uint32_t i = 0; i < N_PLAN_AXES && ok; i++) {
        const struct axis *axis = &plan_axis_table[i];
        const char *rule = axis->reader->reads(&asked->axes) ? plan_rule(asked, i) : NULL;
        ok = !rule || put(o, axis->key, json_string(rule));
    }
    if (ok && has_other_budget(&asked->axes))
        ok = put(o, other_budget_key,
                 json_string(asked->axes.has_budget ? "what the whole heads leave of the budget"
                                                    : "sinks + recent"));
    if (ok)
        return o;
    json_decref(o);
    return NULL;
}

/* ---- the schema */

static json_t *names_json(const struct axis_names *names)
{
    json_t *list = json_array();
    for (uint32_t i = names->first_is_hidden; i < names->n; i++)
        json_array_append_new(list, json_string(names->names[i]));
    return list;
}

static json_t *axis_schema(const struct axis *axis)
{
    const json_int_t least = axis->least, most = axis->most;
    switch (axis->kind) {
    case AXIS_BUDGET:
        return json_pack("{s:[{s:s, s:I, s:I}, {s:s, s:i, s:i}]}", "oneOf", "type", "integer",
                         "minimum", least, "maximum", most, "type", "number", "exclusiveMinimum", 0,
                         "exclusiveMaximum", 1);
    case AXIS_NUMBER:
        return json_pack("{s:s, s:I, s:I}", "type", "integer", "minimum", least, "maximum", most);
    case AXIS_ODD:
        return json_pack("{s:s, s:I, s:I, s:{s:i}}", "type", "integer", "minimum", least, "maximum",
                         most, "not", "multipleOf", 2);
    case AXIS_CHOICE:
        return json_pack("{s:o}", "enum", names_json(axis->names));
    case AXIS_FRACTION:
        return json_pack("{s:s, s:I, s:I}", "type", "number", "minimum", least, "maximum", most);
    case AXIS_INTEGER:
        return json_pack("{s:s}", "type", "integer");
    case AXIS_SWITCH:
        return json_pack("{s:s}", "type", "boolean");
    }
    return NULL;
}

json_t *plan_schema(void)
{
    json_t *names = json_array(), *axes = json_pack("{s:{s:s}}", "name", "$ref", "#/$defs/name");
    for (uint32_t i = 0; i < preset_count(); i++)
        json_array_append_new(names, json_string(preset_at(i)->name));
    for (uint32_t i = 0; i < N_PLAN_AXES; i++) {
        json_t *rule = axis_schema(&plan_axis_table[i]);
        json_object_set_new(rule, "description", json_string(plan_axis_table[i].help));
        json_object_set_new(axes, plan_axis_table[i].key, rule);
    }
    return json_pack("{s:s, s:s, s:[{s:s}, {s:s}], s:{s:{s:o}, s:{s:s, s:[s], s:b, s:o}}}",
                     "$schema", "https://json-schema.org/draft/2020-12/schema", "title",
                     "kv_policy", "oneOf", "$ref", "#/$defs/name", "$ref", "#/$defs/plan", "$defs",
                     "name", "enum", names, "plan", "type", "object", "required", "name",
                     "additionalProperties", 0, "properties", axes);
}
