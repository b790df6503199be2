/* Sets one option from text: see options_private.h. Main thread. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/file.h"
#include "config/base/size.h"
#include "config/options_private.h"

enum { MAX_KEYS = 10000, MAX_KEY_BYTES = 512, MAX_FILE_BYTES = 1 << 20 };

bool option_refuse(const struct option_parse *p, const struct option_row *row, const char *text,
                   const char *wanted)
{
    char excerpt[80];
    return error_set(p->e, "invalid_value", p->shown, "%s: '%s' is not %s (%s)", p->shown,
                     error_excerpt(excerpt, text, strlen(text)), wanted, row->help);
}

static bool set_text(struct option_parse *p, const struct option_row *row, const char *text)
{
    char **field = option_field(p->command, p->settings, row);
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

static bool set_number(struct option_parse *p, const struct option_row *row, const char *text)
{
    uint64_t value;
    if (!whole_number_parse(text, (uint64_t)row->min, (uint64_t)row->max, &value)) {
        char wanted[96];
        snprintf(wanted, sizeof wanted, "a whole number from %.0f to %.0f", row->min, row->max);
        return option_refuse(p, row, text, wanted);
    }
    *(uint32_t *)option_field(p->command, p->settings, row) = (uint32_t)value;
    return true;
}

static bool set_integer(struct option_parse *p, const struct option_row *row, const char *text)
{
    char *end, wanted[96];
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || (double)value < row->min || (double)value > row->max) {
        snprintf(wanted, sizeof wanted, "a whole number from %.0f to %.0f", row->min, row->max);
        return option_refuse(p, row, text, wanted);
    }
    *(int64_t *)option_field(p->command, p->settings, row) = value;
    return true;
}

static bool set_real(struct option_parse *p, const struct option_row *row, const char *text)
{
    double value;
    char wanted[96];
    if (!number_parse(text, &value) || !(value >= row->min && value <= row->max)) {
        snprintf(wanted, sizeof wanted, "a number from %g to %g", row->min, row->max);
        return option_refuse(p, row, text, wanted);
    }
    *(double *)option_field(p->command, p->settings, row) = value;
    return true;
}

static bool set_seconds(struct option_parse *p, const struct option_row *row, const char *text)
{
    uint64_t *ms = option_field(p->command, p->settings, row);
    double least = row->min > 0 ? row->min : 0.001;
    char wanted[96];
    if (seconds_parse(text, ms) && (*ms == 0 || (double)*ms >= least * 1000))
        return true;
    snprintf(wanted, sizeof wanted, "a number of seconds from %g to 1e9, or 0", least);
    return option_refuse(p, row, text, wanted);
}

static bool size_fits(const struct option_row *row, const char *text, uint64_t *bytes)
{
    return size_parse(text, bytes) && (double)*bytes >= row->min && (double)*bytes <= row->max;
}

static bool refuse_size(struct option_parse *p, const struct option_row *row, const char *text,
                        const char *more)
{
    char low[32], high[32], wanted[128];
    snprintf(wanted, sizeof wanted, "a size from %s to %s such as 16M or 4G%s",
             size_format(low, (uint64_t)row->min), size_format(high, (uint64_t)row->max), more);
    return option_refuse(p, row, text, wanted);
}

static bool set_size(struct option_parse *p, const struct option_row *row, const char *text)
{
    return size_fits(row, text, option_field(p->command, p->settings, row)) ||
           refuse_size(p, row, text, "");
}

static bool set_size_or_share(struct option_parse *p, const struct option_row *row,
                              const char *text)
{
    struct memory_size size = {0};
    if (strchr(text, '.') && number_parse(text, &size.share) && size.share > 0 && size.share < 1)
        size.bytes = 0;
    else if (size_fits(row, text, &size.bytes))
        size.share = 0;
    else
        return refuse_size(p, row, text, ", or a share between 0 and 1 such as 0.5");
    *(struct memory_size *)option_field(p->command, p->settings, row) = size;
    return true;
}

static bool set_share(struct option_parse *p, const struct option_row *row, const char *text)
{
    double share;
    if (!number_parse(text, &share) || !(share > 0 && share <= 1))
        return option_refuse(p, row, text, "a share above 0 and at most 1 such as 0.9");
    *(double *)option_field(p->command, p->settings, row) = share;
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

void option_clear_list(struct string_list *list)
{
    for (uint32_t i = 0; i < list->count; i++)
        free(list->items[i]);
    free(list->items);
    *list = (struct string_list){0};
}

void option_clear_keys(struct config *c)
{
    for (uint32_t i = 0; i < c->n_api_keys; i++) {
        free(c->api_keys[i].name);
        free(c->api_keys[i].key);
    }
    free(c->api_keys);
    c->api_keys = NULL;
    c->n_api_keys = 0;
}

/* Errors must not show the key, so they only name the place. */
static bool key_fits(const struct option_parse *p, const char *key, size_t length)
{
    if (length == 0 || length > MAX_KEY_BYTES)
        return error_set(p->e, "invalid_value", p->shown,
                         "%s: a key has %zu bytes; it must have 1 to %d", p->shown, length,
                         MAX_KEY_BYTES);
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)key[i] <= 0x20 || key[i] == 0x7F)
            return error_set(p->e, "invalid_value", p->shown,
                             "%s: a key contains a space or a control character", p->shown);
    return true;
}

static bool key_push(struct option_parse *p, const char *name, size_t name_length, const char *key,
                     size_t length)
{
    struct config *c = p->settings;
    if (!key_fits(p, key, length))
        return false;
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

/* An empty text of keys, such as a variable that is not set, must not open the server. */
static bool refuse_no_key(struct option_parse *p)
{
    return error_set(p->e, "invalid_value", p->shown,
                     "%s contains no key; leave it away to serve everybody", p->shown);
}

static bool set_list(struct option_parse *p, const struct option_row *row, const char *text)
{
    uint32_t n_items = 0;
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
            ok = list_push(option_field(p->command, p->settings, row), item, length, p->e);
        if (!ok)
            return false;
        n_items += length > 0;
        item = next;
    }
    return n_items || row->kind != OPTION_KEYS || refuse_no_key(p);
}

char *option_read_file(const struct option_parse *p, const char *path, size_t *length)
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

static bool set_key_file(struct option_parse *p, const char *path)
{
    size_t length;
    char *text = option_read_file(p, path, &length);
    if (!text)
        return false;
    uint32_t before = ((struct config *)p->settings)->n_api_keys;
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
    if (ok && ((struct config *)p->settings)->n_api_keys == before)
        return error_set(p->e, "invalid_value", p->shown, "%s: %s contains no key", p->shown, path);
    return ok;
}

static bool set_compat(struct option_parse *p, const struct option_row *row, const char *text)
{
    struct config *c = p->settings;
    c->metrics_compat_vllm = c->metrics_compat_legacy = false;
    for (const char *item = text; *item;) {
        size_t n = strcspn(item, ",");
        if (n == 4 && !memcmp(item, "vllm", 4))
            c->metrics_compat_vllm = true;
        else if (n == 11 && !memcmp(item, "vllm-legacy", 11))
            c->metrics_compat_vllm = c->metrics_compat_legacy = true;
        else
            return option_refuse(p, row, text, "vllm or vllm-legacy");
        item += n + (item[n] == ',');
    }
    return true;
}

static bool set_log(struct option_parse *p, const struct option_row *row, const char *text)
{
    if (!choice_holds(row->value, text))
        return option_refuse(p, row, text, row->value);
    if (row->kind == OPTION_LOG_FORMAT)
        ((struct config *)p->settings)->log_format = !strcmp(text, "json") ? LOG_JSON : LOG_TEXT;
    else
        ((struct config *)p->settings)->log_level = text[0] == 'd'   ? LOG_DEBUG
                                                    : text[0] == 'i' ? LOG_INFO
                                                    : text[0] == 'w' ? LOG_WARNING
                                                                     : LOG_ERROR;
    return true;
}

void option_begin_list(struct option_parse *p, const struct option_row *row)
{
    unsigned index = (unsigned)(row - option_rows);
    if (row->kind == OPTION_LIST && p->seen[index] < p->level)
        option_clear_list(option_field(p->command, p->settings, row));
    if (row->kind == OPTION_KEYS || row->kind == OPTION_KEY_FILE) {
        index = (unsigned)(option_find(p->command, "--api-key") - option_rows);
        if (p->seen[index] < p->level)
            option_clear_keys(p->settings);
    }
    p->seen[index] = p->level;
}

bool option_set(struct option_parse *p, const struct option_row *row, const char *text)
{
    option_begin_list(p, row);
    switch (row->kind) {
    case OPTION_TEXT:
        return set_text(p, row, text);
    case OPTION_CHOICE:
        return choice_holds(row->value, text) ? set_text(p, row, text)
                                              : option_refuse(p, row, text, row->value);
    case OPTION_NUMBER:
        return set_number(p, row, text);
    case OPTION_INTEGER:
        return set_integer(p, row, text);
    case OPTION_REAL:
        return set_real(p, row, text);
    case OPTION_SIZE:
        return set_size(p, row, text);
    case OPTION_SIZE_OR_SHARE:
        return set_size_or_share(p, row, text);
    case OPTION_SHARE:
        return set_share(p, row, text);
    case OPTION_SECONDS:
        return set_seconds(p, row, text);
    case OPTION_SWITCH:
    case OPTION_UNSWITCH:
        *(bool *)option_field(p->command, p->settings, row) = row->kind == OPTION_SWITCH;
        return true;
    case OPTION_LIST:
    case OPTION_KEYS:
        return set_list(p, row, text);
    case OPTION_KEY:
        return key_fits(p, text, strlen(text)) && set_text(p, row, text);
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
    case OPTION_CONFIG_FILE: /* already read: option_apply_flags */
    case OPTION_IGNORED:
        return true;
    }
    return false;
}
