/* Fills struct config from defaults, config file, environment and command line, in that order: see
 * config.h. Main thread, before any other thread starts. */
#include "config/config.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/json_read.h"
#include "config/options_private.h"

/* A JSON value of the config file as the text that its flag would have. False: no flag has a value of
 * that type. */
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

static bool apply_file_value(struct option_parse *p, const struct option_row *row,
                             const json_t *value)
{
    char number[40], *dumped;
    const char *text;
    if (json_is_array(value) && (row->kind == OPTION_LIST || row->kind == OPTION_KEYS)) {
        size_t i;
        json_t *item;
        option_begin_list(p, row);
        json_array_foreach(
            value, i,
            item) if (!json_is_string(item) ||
                      !option_set(p, row, json_string_value(item))) return json_is_string(item)
            ? false
            : option_refuse(p, row, "an element", "a list of strings");
        /* no element at all says the same as an empty text */
        return json_array_size(value) > 0 || option_set(p, row, "");
    }
    if (!option_takes_value(row)) {
        if (!json_is_boolean(value))
            return option_refuse(p, row, "the value", "true or false");
        return json_is_true(value) ? option_set(p, row, "") : true;
    }
    if (!json_as_text(value, number, sizeof number, &dumped, &text))
        return option_refuse(p, row, "the value", "a string or a number");
    bool ok = option_set(p, row, text);
    free(dumped);
    return ok;
}

static bool apply_file(struct option_parse *p, const char *path)
{
    size_t length;
    bool ok = true;
    p->level = LEVEL_FILE;
    p->shown = "--config";
    char *text = option_read_file(p, path, &length);
    if (!text)
        return false;
    json_t *root = json_read(text, length, 0, "invalid_json", "--config", path, p->e);
    free(text);
    if (!root)
        return false;
    if (!json_is_object(root))
        ok = error_set(p->e, "invalid_json", "--config", "%s is JSON but not an object", path);
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
        const struct option_row *row = option_find(OPTION_SERVE, flag);
        if (!row || row->kind == OPTION_CONFIG_FILE) {
            const char *near = option_nearest(OPTION_SERVE, flag);
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

/* An empty variable counts as not set. For a key that would open the server without a word. */
static bool guards(const struct option_row *row)
{
    return row->kind == OPTION_KEYS || row->kind == OPTION_KEY || row->kind == OPTION_KEY_FILE;
}

static bool apply_environment(struct option_parse *p)
{
    p->level = LEVEL_ENVIRONMENT;
    for (unsigned i = 0; i < n_option_rows; i++) {
        char name[64];
        if (!option_taken(OPTION_SERVE, &option_rows[i]))
            continue;
        environment_name(&option_rows[i], name, sizeof name);
        const char *text = getenv(name);
        if (!text || (!*text && !guards(&option_rows[i])))
            continue;
        p->shown = name;
        if (!option_takes_value(&option_rows[i])) {
            if (!strcmp(text, "0") || !strcmp(text, "false"))
                continue;
            if (strcmp(text, "1") && strcmp(text, "true"))
                return option_refuse(p, &option_rows[i], text, "0, 1, true or false");
        }
        if (!option_set(p, &option_rows[i], text))
            return false;
    }
    return true;
}

/* Checks that concern the settings together, and tidies --api-prefix. */
static bool check_together(struct option_parse *p)
{
    struct config *c = p->settings;
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
    if (!c->tls_cert != !c->tls_key)
        return error_set(p->e, "missing_required_parameter",
                         c->tls_cert ? "--tls-key" : "--tls-cert",
                         "--tls-cert and --tls-key belong together: %s is missing",
                         c->tls_cert ? "--tls-key" : "--tls-cert");
    if (c->tls_cert && !strncmp(c->host, "unix:", 5))
        return error_set(p->e, "invalid_value", "--tls-cert",
                         "--tls-cert needs a TCP address, and --host is a Unix socket");
    return true;
}

bool config_parse(struct config *c, int argc, char **argv, bool *help, struct error *e)
{
    struct option_parse p = {.command = OPTION_SERVE, .settings = c, .e = e};
    const char *file = getenv("WINNOW_CONFIG");
    memset(c, 0, sizeof *c);
    *help = false;
    for (int i = 1; i < argc && strcmp(argv[i], "--"); i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            *help = true;
            return true;
        }
    if (option_apply_defaults(&p) && (!file || !*file || apply_file(&p, file)) &&
        option_apply_flags(&p, argc, argv, help, apply_file) && apply_environment(&p) &&
        option_apply_flags(&p, argc, argv, NULL, NULL) && check_together(&p))
        return true;
    config_clear(c);
    return false;
}

void config_clear(struct config *c)
{
    options_clear(OPTION_SERVE, c);
    memset(c, 0, sizeof *c);
}
