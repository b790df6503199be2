/* Policies as people write them: JSON of a request, text of a header or flag, suffix of a model
 * name. Every key has a type and a range here; what is not allowed gets its own sentence. Pure
 * functions, any thread. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/policy/plan.h"

enum { LARGEST_BUDGET = 1 << 24, LONGEST_TEXT = 2048 };

/* What one key of the object means. */
enum key_kind {
    KEY_NAME,
    KEY_BUDGET,
    KEY_NUMBER, /* uint32_t */
    KEY_CHOICE, /* an enum */
    KEY_SHARE,  /* double from 0 to 1 */
    KEY_SEED,   /* int64_t */
    KEY_TRACE
};

struct key_row {
    const char *name;
    enum key_kind kind;
    size_t offset;       /* in struct plan */
    int64_t min, max;    /* KEY_NUMBER */
    const char *choices; /* KEY_CHOICE, separated by '|', in the order of the enum */
};

#define AT(field) offsetof(struct plan, field)

static const struct key_row key_rows[] = {
    {"name", KEY_NAME, 0, 0, 0, NULL},
    {"budget", KEY_BUDGET, 0, 0, 0, NULL},
    {"sinks", KEY_NUMBER, AT(sinks), 0, 4096, NULL},
    {"recent", KEY_NUMBER, AT(recent), 0, LARGEST_BUDGET, NULL},
    {"scorer", KEY_CHOICE, AT(scorer), 0, 0,
     "none|recency|attention_sum|attention_mean|window_attention|last_query|persistence|key_norm|"
     "key_diff|random"},
    {"allocation", KEY_CHOICE, AT(allocation), 0, 0, "uniform|pyramid|adaptive|profile"},
    {"prefill", KEY_CHOICE, AT(prefill), 0, 0, "full|stream"},
    {"decode", KEY_CHOICE, AT(decode), 0, 0, "grow|evict"},
    {"remnant", KEY_CHOICE, AT(remnant), 0, 0, "none|mean"},
    {"positions", KEY_CHOICE, AT(positions), 0, 0, "original|cache"},
    {"storage", KEY_CHOICE, AT(storage), 0, 0, "f16|bf16|q8|q4"},
    {"trace", KEY_TRACE, AT(trace), 0, 0, NULL},
    {"min_window", KEY_NUMBER, AT(min_window), 1, LARGEST_BUDGET, NULL},
    {"window", KEY_NUMBER, AT(window), 1, 1024, NULL},
    {"kernel", KEY_NUMBER, AT(kernel), 1, 63, NULL},
    {"interval", KEY_NUMBER, AT(interval), 1, 4096, NULL},
    {"pool", KEY_CHOICE, AT(pool), 0, 0, "avg|max|none"},
    {"share", KEY_CHOICE, AT(share), 0, 0, "head|layer"},
    {"sparsity", KEY_SHARE, AT(sparsity), 0, 1, NULL},
    {"seed", KEY_SEED, AT(seed), INT64_MIN, INT64_MAX, NULL},
};
enum { N_KEYS = sizeof key_rows / sizeof *key_rows };

/* Keys of other programs, and what to write instead. */
static const struct {
    const char *key, *hint;
} foreign[] = {
    {"max_kv_size", "write budget"},
    {"max_capacity_prompt", "write budget"},
    {"compression_ratio", "that is the share removed; write budget = 1 - ratio"},
    {"sink_token_length", "write sinks"},
    {"num_keep", "write sinks"},
    {"n_keep", "write sinks"},
    {"start_size", "write sinks"},
    {"recent_size", "write budget = sinks + recent"},
    {"window_size", "write window"},
    {"kernel_size", "write kernel"},
    {"max_attention_window_size", "write budget"},
};

/* The place and the value that a message is about. */
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

/* 7 and 7.0 are whole numbers, "7", true and 7.5 are not. */
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

static bool parse_budget(struct parse *p, const json_t *value, struct plan *out)
{
    int64_t slots;
    const char *wanted =
        "a whole number of slots from 2 to 16777216, or a share of the prompt between 0 and 1";
    out->has_budget = true;
    out->budget_is_default = false;
    out->budget_share = 0;
    if (json_is_number(value) && json_number_value(value) == 1)
        return refuse(
            p, "budget", value,
            "clear: one slot or all of it? Write 2 or more slots, a share below 1, or policy full");
    if (whole(value, &slots)) {
        if (slots < 2 || slots > LARGEST_BUDGET)
            return refuse(p, "budget", value, wanted);
        out->budget = (uint32_t)slots;
        return true;
    }
    double share = json_number_value(value);
    if (!json_is_real(value) || !(share > 0 && share < 1))
        return refuse(p, "budget", value, wanted);
    out->budget_share = share;
    return true;
}

static bool parse_number(struct parse *p, const struct key_row *row, const json_t *value,
                         uint32_t *out)
{
    int64_t number;
    char wanted[80];
    snprintf(wanted, sizeof wanted, "a whole number from %lld to %lld", (long long)row->min,
             (long long)row->max);
    if (!whole(value, &number) || number < row->min || number > row->max)
        return refuse(p, row->name, value, wanted);
    *out = (uint32_t)number;
    return true;
}

static bool parse_choice(struct parse *p, const struct key_row *row, const json_t *value,
                         unsigned *out)
{
    char wanted[200];
    snprintf(wanted, sizeof wanted, "one of %s", row->choices);
    if (!json_is_string(value))
        return refuse(p, row->name, value, wanted);
    const char *text = json_string_value(value);
    size_t length = json_string_length(value);
    unsigned index = 0;
    for (const char *c = row->choices; *c; index++) {
        size_t n = strcspn(c, "|");
        if (n == length && !memcmp(c, text, n)) {
            *out = index;
            return true;
        }
        c += n + (c[n] == '|');
    }
    return refuse(p, row->name, value, wanted);
}

static bool keeps_everything(const struct plan *plan)
{
    return !strcmp(plan->preset->name, "full");
}

static bool parse_key(struct parse *p, const struct key_row *row, const json_t *value,
                      struct plan *out)
{
    unsigned choice = 0;
    bool free_of_policy =
        row->kind == KEY_NAME || row->kind == KEY_TRACE || row->offset == AT(storage);
    void *field = (char *)out + row->offset;
    out->given |= UINT32_C(1) << (row - key_rows);
    switch (row->kind) {
    case KEY_NAME:
        return true;
    case KEY_BUDGET:
        if (!keeps_everything(out) && !parse_budget(p, value, out))
            return false;
        break;
    case KEY_NUMBER:
        if (!parse_number(p, row, value, field))
            return false;
        if (row->offset == AT(kernel) && out->kernel % 2 == 0)
            return refuse(p, "kernel", value, "odd, so that it has a middle");
        out->recent_is_default &= row->offset != AT(recent);
        break;
    case KEY_CHOICE:
        if (!parse_choice(p, row, value, &choice))
            return false;
        *(unsigned *)field = choice;
        break;
    case KEY_SHARE:
        if (!json_is_number(value) ||
            !(json_number_value(value) >= 0 && json_number_value(value) <= 1))
            return refuse(p, row->name, value, "a number from 0 to 1");
        *(double *)field = json_number_value(value);
        break;
    case KEY_SEED:
        if (!whole(value, field))
            return refuse(p, row->name, value, "a whole number");
        break;
    case KEY_TRACE:
        if (!json_is_boolean(value))
            return refuse(p, "trace", value, "true or false");
        out->trace = json_is_true(value);
        break;
    }
    if (keeps_everything(out) && !free_of_policy)
        return refuse(p, row->name, value, "left out: the policy 'full' keeps everything");
    return true;
}

bool plan_was_given(const struct plan *plan, const char *key)
{
    for (unsigned i = 0; i < N_KEYS; i++)
        if (!strcmp(key, key_rows[i].name))
            return plan->given >> i & 1;
    return false;
}

/* Letters in common at the same place or one further: enough to tell a slip from another word. */
static const char *nearest(const char *word, const char *(*candidate)(uint32_t), uint32_t n)
{
    const char *best = NULL;
    size_t best_score = 0, length = strlen(word);
    for (uint32_t i = 0; i < n; i++) {
        const char *c = candidate(i);
        size_t score = 0, m = strlen(c), at = 0;
        for (size_t k = 0; k < length && at < m; k++)
            for (size_t d = 0; d < 2 && at + d < m; d++)
                if (word[k] == c[at + d]) {
                    score++;
                    at += d + 1;
                    break;
                }
        size_t longer = m > length ? m : length;
        if (score * 3 >= longer * 2 && score > best_score) {
            best_score = score;
            best = c;
        }
    }
    return best;
}

static const char *key_name(uint32_t i)
{
    return key_rows[i].name;
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
    const char *near = nearest(key, key_name, N_KEYS);
    return error_set(p->e, "invalid_kv_policy", path, "kv_policy has no key '%s'%s%s",
                     error_excerpt(text, key, strlen(key)), near ? "; did you mean " : "",
                     near ? near : "");
}

static bool parse_name(struct parse *p, const char *name, size_t length, struct plan *out)
{
    char text[80];
    const struct preset *preset = strlen(name) == length ? preset_find(name) : NULL;
    error_excerpt(text, name, length);
    if (!preset) {
        const char *near = nearest(text, preset_name, preset_count());
        return error_set(p->e, "invalid_kv_policy", p->where, "there is no policy '%s'%s%s", text,
                         near ? "; did you mean " : "", near ? near : "");
    }
    plan_default(out, preset);
    return true;
}

static bool parse_object(struct parse *p, const json_t *value, struct plan *out)
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
        const struct key_row *row = NULL;
        for (unsigned i = 0; i < N_KEYS; i++)
            if (!strcmp(key, key_rows[i].name))
                row = &key_rows[i];
        if (!row)
            return unknown_key(p, key);
        if (!json_is_null(item) && !parse_key(p, row, item, out))
            return false;
    }
    return true;
}

bool plan_parse_json(const json_t *value, const char *where, struct plan *out, struct error *e)
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

bool plan_parse_text(const char *text, size_t length, const char *where, struct plan *out,
                     struct error *e)
{
    struct parse p = {.where = where, .e = e};
    json_error_t at;
    while (length && (*text == ' ' || *text == '\t')) {
        text++;
        length--;
    }
    while (length && (text[length - 1] == ' ' || text[length - 1] == '\t'))
        length--;
    memset(out, 0, sizeof *out);
    if (length == 0 || length > LONGEST_TEXT)
        return error_set(e, "invalid_kv_policy", where, "%s has %zu bytes; a policy has 1 to %d",
                         where, length, LONGEST_TEXT);
    if (*text != '{') {
        char name[LONGEST_TEXT + 1];
        memcpy(name, text, length);
        name[length] = 0;
        return parse_name(&p, name, length, out);
    }
    json_t *value = json_loadb(text, length, JSON_DECODE_ANY, &at);
    if (!value)
        return error_set(e, "invalid_kv_policy", where, "%s is not JSON: line %d, column %d: %s",
                         where, at.line, at.column, at.text);
    bool ok = plan_parse_json(value, where, out, e);
    json_decref(value);
    return ok;
}

bool plan_parse_suffix(const char *text, size_t length, const char *where, struct plan *out,
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
    json_t *budget = json_loadb(colon + 1, length - name_length - 1, JSON_DECODE_ANY, NULL);
    if (!json_is_number(budget)) {
        json_decref(budget);
        return error_set(e, "invalid_kv_policy", where,
                         "'%s' is not a budget; write %s:512 or %s:0.25",
                         error_excerpt(excerpt, colon + 1, length - name_length - 1), name, name);
    }
    bool ok = parse_key(&p, &key_rows[1], budget, out);
    json_decref(budget);
    return ok;
}
