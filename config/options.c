/* Fills struct config from defaults, config file, environment and command line, in that order: see
 * config.h. Main thread, before any other thread starts. */
#include "config/options.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/file.h"
#include "config/base/size.h"

enum { MAX_ROWS = 128, MAX_KEYS = 10000, MAX_KEY_BYTES = 512, MAX_FILE_BYTES = 1 << 20 };

enum level { LEVEL_DEFAULT, LEVEL_FILE, LEVEL_ENVIRONMENT, LEVEL_FLAG };

/* What is being filled. `seen` says from where a list has values, so that a higher source replaces
 * a lower one. */
struct parse {
    struct config *config;
    enum level seen[MAX_ROWS];
    enum level level;
    const char
        *shown; /* how the user wrote the setting: "--port", "WINNOW_PORT", "config.json: port" */
    struct error *e;
};

static void *field_of(const struct parse *p, const struct option_row *row)
{
    return (char *)p->config + row->offset;
}

static bool refuse(struct parse *p, const struct option_row *row, const char *text,
                   const char *wanted)
{
    char excerpt[80];
    return error_set(p->e, "invalid_value", p->shown, "%s: '%s' is not %s (%s)", p->shown,
                     error_excerpt(excerpt, text, strlen(text)), wanted, row->help);
}

static bool set_text(struct parse *p, const struct option_row *row, const char *text)
{
    char **field = field_of(p, row);
    char *copy = strdup(text);
    if (!copy)
        return error_set_memory(p->e, row->name, strlen(text) + 1);
    free(*field);
    *field = copy;
    return true;
}

static bool choice_holds(const char *choices, const char *text)
{
    size_t length = strlen(text);
    for (const char *c = choices; *c;) {
        size_t n = strcspn(c, "|");
        if (n == length && !memcmp(c, text, n))
            return true;
        c += n + (c[n] == '|');
    }
    return false;
}

static bool set_number(struct parse *p, const struct option_row *row, const char *text)
{
    uint64_t value;
    if (!whole_number_parse(text, row->min, row->max, &value)) {
        char wanted[96];
        snprintf(wanted, sizeof wanted, "a whole number from %llu to %llu",
                 (unsigned long long)row->min, (unsigned long long)row->max);
        return refuse(p, row, text, wanted);
    }
    *(uint32_t *)field_of(p, row) = (uint32_t)value;
    return true;
}

static bool set_size(struct parse *p, const struct option_row *row, const char *text)
{
    uint64_t bytes;
    double share;
    if (row->kind == OPTION_SIZE_OR_SHARE && strchr(text, '.') && number_parse(text, &share) &&
        share > 0 && share < 1) {
        p->config->kv_memory_share = share;
        p->config->kv_memory_bytes = 0;
        return true;
    }
    if (!size_parse(text, &bytes) || bytes < row->min || bytes > row->max) {
        char low[32], high[32], wanted[128];
        snprintf(wanted, sizeof wanted, "a size from %s to %s such as 16M or 4G%s",
                 size_format(low, row->min), size_format(high, row->max),
                 row->kind == OPTION_SIZE_OR_SHARE ? ", or a share between 0 and 1 such as 0.5"
                                                   : "");
        return refuse(p, row, text, wanted);
    }
    *(uint64_t *)field_of(p, row) = bytes;
    if (row->kind == OPTION_SIZE_OR_SHARE)
        p->config->kv_memory_share = 0;
    return true;
}

static bool set_share(struct parse *p, const struct option_row *row, const char *text)
{
    double share;
    if (!number_parse(text, &share) || !(share > 0 && share <= 1))
        return refuse(p, row, text, "a share above 0 and at most 1 such as 0.9");
    *(double *)field_of(p, row) = share;
    return true;
}

static bool list_push(struct string_list *list, const char *text, size_t length, struct error *e)
{
    char **items = realloc(list->items, (list->count + 1) * sizeof *items);
    if (!items)
        return error_set_memory(e, "a list", length);
    list->items = items;
    items[list->count] = strndup(text, length);
    if (!items[list->count])
        return error_set_memory(e, "a list", length);
    list->count++;
    return true;
}

static void list_clear(struct string_list *list)
{
    for (uint32_t i = 0; i < list->count; i++)
        free(list->items[i]);
    free(list->items);
    *list = (struct string_list){0};
}

static void keys_clear(struct config *c)
{
    for (uint32_t i = 0; i < c->n_api_keys; i++) {
        free(c->api_keys[i].name);
        free(c->api_keys[i].key);
    }
    free(c->api_keys);
    c->api_keys = NULL;
    c->n_api_keys = 0;
}

/* A key is shown to nobody, so its errors name the place only. */
static bool key_push(struct parse *p, const char *name, size_t name_length, const char *key,
                     size_t length)
{
    struct config *c = p->config;
    if (length == 0 || length > MAX_KEY_BYTES)
        return error_set(p->e, "invalid_value", p->shown,
                         "%s: a key has 1 to %d bytes, this one has %zu", p->shown, MAX_KEY_BYTES,
                         length);
    for (size_t i = 0; i < length; i++)
        if (key[i] <= 0x20 || key[i] == 0x7F)
            return error_set(p->e, "invalid_value", p->shown,
                             "%s: a key holds a space or a control character", p->shown);
    if (c->n_api_keys == MAX_KEYS)
        return error_set(p->e, "invalid_value", p->shown, "%s: more than %d keys", p->shown,
                         MAX_KEYS);
    struct api_key *keys = realloc(c->api_keys, (c->n_api_keys + 1) * sizeof *keys);
    if (!keys)
        return error_set_memory(p->e, "API keys", length);
    c->api_keys = keys;
    char numbered[24];
    snprintf(numbered, sizeof numbered, "key%u", c->n_api_keys + 1);
    struct api_key added = {name ? strndup(name, name_length) : strdup(numbered),
                            strndup(key, length)};
    if (!added.name || !added.key) {
        free(added.name);
        free(added.key);
        return error_set_memory(p->e, "API keys", length);
    }
    keys[c->n_api_keys++] = added;
    return true;
}

static bool set_list(struct parse *p, const struct option_row *row, const char *text)
{
    for (const char *item = text; *item;) {
        size_t length = strcspn(item, ",");
        const char *next = item + length + (item[length] == ',');
        while (length && isspace((unsigned char)*item)) {
            item++;
            length--;
        }
        while (length && isspace((unsigned char)item[length - 1]))
            length--;
        bool ok = true;
        if (length && row->kind == OPTION_KEYS)
            ok = key_push(p, NULL, 0, item, length);
        else if (length)
            ok = list_push(field_of(p, row), item, length, p->e);
        if (!ok)
            return false;
        item = next;
    }
    return true;
}

/* The caller frees it. */
static char *read_file(const char *path, size_t *length, struct parse *p)
{
    char what[600];
    snprintf(what, sizeof what, "%s: the file %.500s", p->shown, path);
    struct file_wanted w = {.path = path,
                            .what = what,
                            .where = p->shown,
                            .code = "file_error",
                            .most = MAX_FILE_BYTES};
    return file_read(&w, length, p->e);
}

static bool set_key_file(struct parse *p, const char *path)
{
    size_t length;
    char *text = read_file(path, &length, p);
    if (!text)
        return false;
    uint32_t before = p->config->n_api_keys;
    bool ok = true;
    for (char *line = text; ok && line < text + length;) {
        size_t n = strcspn(line, "\n");
        char *next = line + n + 1;
        while (n && isspace((unsigned char)line[n - 1]))
            n--;
        if (n && line[0] != '#') {
            const char *colon = memchr(line, ':', n);
            ok = colon ? key_push(p, line, (size_t)(colon - line), colon + 1,
                                  n - (size_t)(colon + 1 - line))
                       : key_push(p, NULL, 0, line, n);
        }
        line = next;
    }
    free(text);
    if (ok && p->config->n_api_keys == before)
        return error_set(p->e, "invalid_value", p->shown, "%s: %s holds no key", p->shown, path);
    return ok;
}

static bool set_compat(struct parse *p, const struct option_row *row, const char *text)
{
    struct config *c = p->config;
    c->metrics_compat_vllm = c->metrics_compat_legacy = false;
    for (const char *item = text; *item;) {
        size_t n = strcspn(item, ",");
        if (n == 4 && !memcmp(item, "vllm", 4))
            c->metrics_compat_vllm = true;
        else if (n == 11 && !memcmp(item, "vllm-legacy", 11))
            c->metrics_compat_vllm = c->metrics_compat_legacy = true;
        else
            return refuse(p, row, text, "vllm or vllm-legacy");
        item += n + (item[n] == ',');
    }
    return true;
}

static bool set_log(struct parse *p, const struct option_row *row, const char *text)
{
    if (!choice_holds(row->value, text))
        return refuse(p, row, text, row->value);
    if (row->kind == OPTION_LOG_FORMAT)
        p->config->log_format = !strcmp(text, "json") ? LOG_JSON : LOG_TEXT;
    else
        p->config->log_level = text[0] == 'd'   ? LOG_DEBUG
                               : text[0] == 'i' ? LOG_INFO
                               : text[0] == 'w' ? LOG_WARNING
                                                : LOG_ERROR;
    return true;
}

static bool takes_value(const struct option_row *row)
{
    return row->kind != OPTION_SWITCH && row->kind != OPTION_UNSWITCH &&
           row->kind != OPTION_IGNORED;
}

/* A new source replaces what a lower one put into a list; keys and key files share one list. */
static void begin_list(struct parse *p, const struct option_row *row)
{
    unsigned index = (unsigned)(row - option_rows);
    if (row->kind == OPTION_LIST && p->seen[index] < p->level)
        list_clear(field_of(p, row));
    if (row->kind == OPTION_KEYS || row->kind == OPTION_KEY_FILE) {
        index = (unsigned)(option_find("--api-key") - option_rows);
        if (p->seen[index] < p->level)
            keys_clear(p->config);
    }
    p->seen[index] = p->level;
}

static bool set_value(struct parse *p, const struct option_row *row, const char *text)
{
    begin_list(p, row);
    switch (row->kind) {
    case OPTION_TEXT:
        return set_text(p, row, text);
    case OPTION_CHOICE:
        return choice_holds(row->value, text) ? set_text(p, row, text)
                                              : refuse(p, row, text, row->value);
    case OPTION_NUMBER:
        return set_number(p, row, text);
    case OPTION_SIZE:
    case OPTION_SIZE_OR_SHARE:
        return set_size(p, row, text);
    case OPTION_SHARE:
        return set_share(p, row, text);
    case OPTION_SECONDS:
        return seconds_parse(text, field_of(p, row)) ||
               refuse(p, row, text, "a number of seconds from 0.001 to 1e9, or 0");
    case OPTION_SWITCH:
    case OPTION_UNSWITCH:
        *(bool *)field_of(p, row) = row->kind == OPTION_SWITCH;
        return true;
    case OPTION_LIST:
    case OPTION_KEYS:
        return set_list(p, row, text);
    case OPTION_KEY_FILE:
        return set_key_file(p, text);
    case OPTION_LOG_FORMAT:
    case OPTION_LOG_LEVEL:
        return set_log(p, row, text);
    case OPTION_COMPAT:
        return set_compat(p, row, text);
    case OPTION_WARNED:
        log_line(LOG_WARNING, "%s is %s", p->shown, row->help);
        return true;
    case OPTION_REFUSED:
        return error_set(p->e, "unsupported_parameter", p->shown, "%s: %s", p->shown, row->help);
    case OPTION_CONFIG_FILE: /* read before everything else */
    case OPTION_IGNORED:
        return true;
    }
    return false;
}

static bool apply_defaults(struct parse *p)
{
    p->level = LEVEL_DEFAULT;
    p->config->prefix_cache = true;
    for (unsigned i = 0; i < n_option_rows; i++) {
        p->shown = option_rows[i].name;
        if (option_rows[i].initial && !set_value(p, &option_rows[i], option_rows[i].initial))
            return false;
    }
    return true;
}

/* A JSON value of the config file as the text that a flag would have. False when the type cannot be
 * one. */
static bool json_as_text(const json_t *value, char *number, size_t size, char **dumped,
                         const char **text)
{
    *dumped = NULL;
    if (json_is_string(value))
        *text = json_string_value(value);
    else if (json_is_integer(value))
        snprintf(number, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value)), *text = number;
    else if (json_is_real(value))
        snprintf(number, size, "%.17g", json_real_value(value)), *text = number;
    else if (json_is_object(value) && (*dumped = json_dumps(value, JSON_COMPACT)))
        *text = *dumped;
    else
        return false;
    return json_is_string(value) ? strlen(*text) == json_string_length(value) : true;
}

static bool apply_file_value(struct parse *p, const struct option_row *row, const json_t *value)
{
    char number[40], *dumped;
    const char *text;
    if (json_is_array(value) && (row->kind == OPTION_LIST || row->kind == OPTION_KEYS)) {
        size_t i;
        json_t *item;
        begin_list(p, row);
        json_array_foreach(
            value, i,
            item) if (!json_is_string(item) ||
                      !set_value(p, row, json_string_value(item))) return json_is_string(item)
            ? false
            : refuse(p, row, "an element", "a list of strings");
        return true;
    }
    if (!takes_value(row)) {
        if (!json_is_boolean(value))
            return refuse(p, row, "the value", "true or false");
        return json_is_true(value) ? set_value(p, row, "") : true;
    }
    if (!json_as_text(value, number, sizeof number, &dumped, &text))
        return refuse(p, row, "the value", "a string or a number");
    bool ok = set_value(p, row, text);
    free(dumped);
    return ok;
}

static bool apply_file(struct parse *p, const char *path)
{
    size_t length;
    json_error_t where;
    bool ok = true;
    p->level = LEVEL_FILE;
    p->shown = "--config";
    char *text = read_file(path, &length, p);
    if (!text)
        return false;
    json_t *root = json_loadb(text, length, 0, &where);
    free(text);
    if (!json_is_object(root)) {
        ok = error_set(p->e, "invalid_json", "--config", "%s: %s", path,
                       root ? "the file is not a JSON object" : where.text);
        if (!root)
            ok = error_set(p->e, "invalid_json", "--config", "%s, line %d, column %d: %s", path,
                           where.line, where.column, where.text);
    }
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value)
    {
        char flag[64], shown[200];
        snprintf(flag, sizeof flag, "--%s", key);
        for (char *c = flag + 2; *c; c++)
            if (*c == '_')
                *c = '-';
        snprintf(shown, sizeof shown, "%s: %s", path, key);
        p->shown = shown;
        const struct option_row *row = option_find(flag);
        if (!row || row->kind == OPTION_CONFIG_FILE) {
            const char *near = option_nearest(flag);
            ok = error_set(p->e, "unknown_parameter", shown, "%s: unknown setting%s%s", shown,
                           near ? "; did you mean " : "", near ? near : "");
        } else if (!json_is_null(value)) {
            ok = apply_file_value(p, row, value);
        }
        if (!ok)
            break;
    }
    p->shown = "";
    json_decref(root);
    return ok;
}

static void environment_name(const struct option_row *row, char *out, size_t size)
{
    snprintf(out, size, "WINNOW_%s", row->name);
    for (char *c = out; *c; c++)
        *c = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
}

static bool apply_environment(struct parse *p)
{
    p->level = LEVEL_ENVIRONMENT;
    for (unsigned i = 0; i < n_option_rows; i++) {
        char name[64];
        environment_name(&option_rows[i], name, sizeof name);
        const char *text = getenv(name);
        if (!text || !*text)
            continue;
        p->shown = name;
        if (!takes_value(&option_rows[i])) {
            if (!strcmp(text, "0") || !strcmp(text, "false"))
                continue;
            if (strcmp(text, "1") && strcmp(text, "true"))
                return refuse(p, &option_rows[i], text, "0, 1, true or false");
        }
        if (!set_value(p, &option_rows[i], text))
            return false;
    }
    return true;
}

/* The value of argument *i: behind '=' or the next argument. NULL with an error when there is none.
 */
static const char *value_of(struct parse *p, const struct option_row *row, const char *equals,
                            int argc, char **argv, int *i)
{
    if (!takes_value(row)) {
        if (!equals)
            return "";
        error_set(p->e, "invalid_value", p->shown, "%s takes no value", p->shown);
        return NULL;
    }
    if (equals)
        return equals + 1;
    if (*i + 1 < argc)
        return argv[++*i];
    error_set(p->e, "invalid_value", p->shown, "%s needs a value: %s", p->shown, row->help);
    return NULL;
}

static bool apply_flags(struct parse *p, int argc, char **argv, bool only_config)
{
    bool plain_only = false;
    p->level = LEVEL_FLAG;
    for (int i = 1; i < argc; i++) {
        char flag[64];
        p->shown = flag;
        if (plain_only || argv[i][0] != '-' || !argv[i][1]) {
            if (only_config)
                continue;
            p->shown = "MODEL";
            if (p->seen[0] == LEVEL_FLAG)
                return error_set(p->e, "invalid_value", "MODEL",
                                 "one model file is served, and '%.100s' is a second one", argv[i]);
            if (!set_value(p, &option_rows[0], argv[i]))
                return false;
            continue;
        }
        if (!strcmp(argv[i], "--")) {
            plain_only = true;
            continue;
        }
        const char *equals = !strncmp(argv[i], "--", 2) ? strchr(argv[i], '=') : NULL;
        snprintf(flag, sizeof flag, "%.*s", equals ? (int)(equals - argv[i]) : (int)strlen(argv[i]),
                 argv[i]);
        const struct option_row *row = option_find(flag);
        if (!row) {
            const char *near = option_nearest(flag);
            return error_set(p->e, "unknown_parameter", flag,
                             "unknown flag %s%s%s; see winnow serve --help", flag,
                             near ? "; did you mean --" : "", near ? near : "");
        }
        const char *value = value_of(p, row, equals, argc, argv, &i);
        if (!value)
            return false;
        if (only_config ? row->kind == OPTION_CONFIG_FILE && !apply_file(p, value)
                        : !set_value(p, row, value))
            return false;
        if (only_config)
            p->level = LEVEL_FLAG;
    }
    return true;
}

/* Rules that need more than one setting. */
static bool check_together(struct parse *p)
{
    struct config *c = p->config;
    if (!c->model)
        return error_set(p->e, "missing_required_parameter", "MODEL",
                         "name a model file: winnow serve MODEL.gguf");
    size_t n = strlen(c->api_prefix);
    while (n && c->api_prefix[n - 1] == '/')
        c->api_prefix[--n] = 0;
    if (n && (c->api_prefix[0] != '/' || strpbrk(c->api_prefix, "?#% ")))
        return error_set(p->e, "invalid_value", "--api-prefix",
                         "--api-prefix: '%.100s' is not a path that begins with '/'",
                         c->api_prefix);
    if (c->metrics_port && c->metrics_port == c->port)
        return error_set(p->e, "invalid_value", "--metrics-port",
                         "--metrics-port and --port are both %u", c->port);
    if (c->admin_api_key && !c->admin_api_key[0])
        return error_set(p->e, "invalid_value", "--admin-api-key", "--admin-api-key is empty");
    return true;
}

bool config_parse(struct config *c, int argc, char **argv, bool *help, struct error *e)
{
    struct parse p = {.config = c, .e = e};
    memset(c, 0, sizeof *c);
    *help = false;
    for (int i = 1; i < argc && strcmp(argv[i], "--"); i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            *help = true;
            return true;
        }
    const char *file = getenv("WINNOW_CONFIG");
    if (apply_defaults(&p) && (!file || !*file || apply_file(&p, file)) &&
        apply_flags(&p, argc, argv, true) && apply_environment(&p) &&
        apply_flags(&p, argc, argv, false) && check_together(&p))
        return true;
    config_clear(c);
    return false;
}

void config_clear(struct config *c)
{
    for (unsigned i = 0; i < n_option_rows; i++) {
        const struct option_row *row = &option_rows[i];
        void *field = (char *)c + row->offset;
        if (row->kind == OPTION_TEXT || row->kind == OPTION_CHOICE)
            free(*(char **)field);
        else if (row->kind == OPTION_LIST)
            list_clear(field);
    }
    keys_clear(c);
    memset(c, 0, sizeof *c);
}

void config_help(void)
{
    printf("usage: winnow serve MODEL [flags]\n\n"
           "Serves a GGUF model over the OpenAI HTTP API. Every flag is also a key of the --config "
           "file and an\n"
           "environment variable (--kv-policy is WINNOW_KV_POLICY). A flag wins over the "
           "environment, the environment\n"
           "over the file.\n");
    const char *group = "";
    for (unsigned i = 0; i < n_option_rows; i++) {
        const struct option_row *row = &option_rows[i];
        if (!row->group)
            continue;
        if (strcmp(group, row->group)) {
            printf("\n%s\n", row->group);
            group = row->group;
        }
        char left[128];
        snprintf(left, sizeof left, "--%s%s%s", row->name, row->value ? " " : "",
                 row->value ? row->value : "");
        printf("  %-38s %s", left, row->help);
        if (row->initial && row->initial[0] && strcmp(row->initial, "0"))
            printf(" [%s]", row->initial);
        if (row->aliases[0])
            printf(" (also %s)", row->aliases);
        printf("\n");
    }
}
