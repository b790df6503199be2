/* See flag_list.h. */
#include "server/cli/flag_list.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/policy/plan.h"
#include "config/options.h"

enum { MAX_HELP_BYTES = 64 * 1024 };

static bool push(struct flag_list *list, const struct flag *flag, struct error *e)
{
    struct flag *items = realloc(list->items, (list->count + 1) * sizeof *items);
    if (!items)
        return error_set_memory(e, "flags", (list->count + 1) * sizeof *items);
    list->items = items;
    items[list->count++] = *flag;
    return true;
}

void flag_list_clear(struct flag_list *list)
{
    free(list->items);
    *list = (struct flag_list){0};
}

static void set_policies(struct flag *flag)
{
    flag->value = FLAG_WORDS;
    size_t n = 0;
    for (uint32_t i = 0; i < preset_count() && n < sizeof flag->words; i++)
        n += (size_t)snprintf(flag->words + n, sizeof flag->words - n, "%s%s", n ? " " : "",
                              preset_at(i)->name);
}

static bool is_choice(const struct option_row *row)
{
    return row->kind == OPTION_CHOICE || row->kind == OPTION_LOG_FORMAT ||
           row->kind == OPTION_LOG_LEVEL || row->kind == OPTION_COMPAT;
}

/* The value of a flag by what the help calls it; a flag of another command that is spelled like a
 * setting of `serve` has the choices of that setting. */
static void set_value(struct flag *flag, const char *shown)
{
    const struct option_row *row = option_find(flag->name);
    snprintf(flag->shown, sizeof flag->shown, "%s", shown ? shown : "");
    if (!shown) {
        flag->value = FLAG_SWITCH;
    } else if (row && is_choice(row)) {
        flag->value = FLAG_WORDS;
        snprintf(flag->words, sizeof flag->words, "%s", row->value);
        for (char *c = flag->words; *c; c++)
            *c = *c == '|' ? ' ' : *c;
    } else if (!strncmp(flag->name, "--kv-policy", 11) && strcmp(shown, "N")) {
        set_policies(flag);
    } else if (!strcmp(flag->name, "--policies")) {
        set_policies(flag);
    } else {
        flag->value = strstr(shown, "FILE") || !strcmp(shown, "DIR") ? FLAG_FILE : FLAG_ANY;
    }
}

static bool push_settings(struct flag_list *list, struct error *e)
{
    for (unsigned i = 0; i < n_option_rows; i++) {
        const struct option_row *row = &option_rows[i];
        if (!row->group) /* accepted for others' sake, offered to nobody */
            continue;
        struct flag flag = {0};
        snprintf(flag.name, sizeof flag.name, "--%s", row->name);
        snprintf(flag.help, sizeof flag.help, "%s", row->help);
        set_value(&flag, row->value);
        if (!push(list, &flag, e))
            return false;
        for (const char *a = row->aliases; *a; a += strspn(a, " ")) {
            size_t n = strcspn(a, " ");
            snprintf(flag.name, sizeof flag.name, "%.*s", (int)n, a);
            if (!push(list, &flag, e))
                return false;
            a += n;
        }
    }
    return true;
}

/* ---- the other commands: lines such as "  -m, --model FILE     the model" */

/* The length of a value's name at `text` (N, FILE, A,B, NAME|JSON), or 0. */
static size_t value_length(const char *text)
{
    size_t n = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ|.,");
    while (n && text[n - 1] == ',')
        n--;
    return n && (text[n] == 0 || text[n] == ' ' || text[n] == ',') ? n : 0;
}

/* One line of flags that share a description. A name without a value that others follow, as -m
 * before ", --model FILE", has theirs. */
static bool push_line(struct flag_list *list, const char *line, struct error *e)
{
    size_t first = list->count, pending = list->count;
    const char *at = line + strspn(line, " ");
    while (*at == '-') {
        struct flag flag = {0};
        char shown[48] = "";
        size_t n = strcspn(at, " ,"), v;
        snprintf(flag.name, sizeof flag.name, "%.*s", (int)n, at);
        at += n;
        if (*at == ' ' && (v = value_length(at + 1)) > 0) {
            snprintf(shown, sizeof shown, "%.*s", (int)v, at + 1);
            at += 1 + v;
        }
        if (!push(list, &flag, e))
            return false;
        if (*shown || *at != ',') {
            for (; pending < list->count; pending++)
                set_value(&list->items[pending], *shown ? shown : NULL);
        }
        if (*at == ',')
            at++;
        at += strspn(at, " ");
    }
    for (size_t i = first; i < list->count; i++)
        snprintf(list->items[i].help, sizeof list->items[i].help, "%s", at);
    return true;
}

static void continue_help(struct flag_list *list, size_t first, const char *line)
{
    line += strspn(line, " ");
    for (size_t i = first; i < list->count; i++) {
        char *help = list->items[i].help;
        size_t n = strlen(help);
        snprintf(help + n, sizeof list->items[i].help - n, "%s%s", n ? " " : "", line);
    }
}

static bool push_help(struct flag_list *list, char *text, struct error *e)
{
    size_t first = 0;
    bool in_flags = false;
    for (char *line = text, *next; *line; line = next) {
        size_t n = strcspn(line, "\n");
        next = line + n + (line[n] == '\n');
        line[n] = 0;
        size_t indent = strspn(line, " ");
        if (indent && line[indent] == '-') {
            first = list->count;
            in_flags = true;
            if (!push_line(list, line, e))
                return false;
        } else if (in_flags && indent > 8) {
            continue_help(list, first, line);
        } else {
            in_flags = false;
        }
    }
    return true;
}

char *command_help_text(const struct command *command, struct error *e)
{
    char name[32], flag[] = "--help";
    char *argv[] = {name, flag, NULL};
    snprintf(name, sizeof name, "%s", command->name);
    FILE *file = tmpfile();
    char *text = malloc(MAX_HELP_BYTES);
    int old = -1;
    bool ok = file && text;
    fflush(stdout);
    ok = ok && (old = dup(STDOUT_FILENO)) >= 0 && dup2(fileno(file), STDOUT_FILENO) >= 0;
    if (ok) {
        ok = command->run(2, argv) == 0;
        ok = fflush(stdout) == 0 && ok;
        ok = dup2(old, STDOUT_FILENO) >= 0 && ok;
    }
    if (ok) {
        rewind(file);
        text[fread(text, 1, MAX_HELP_BYTES - 1, file)] = 0;
    } else {
        error_set(e, "file_error", "", "cannot read the help of %s: %s", name, strerror(errno));
        free(text);
        text = NULL;
    }
    if (old >= 0)
        close(old);
    if (file)
        fclose(file);
    return text;
}

bool flag_list_of(struct flag_list *list, const struct command *command, struct error *e)
{
    struct flag help = {.name = "--help", .help = "print the help"};
    bool ok;
    *list = (struct flag_list){0};
    if (!strcmp(command->name, "serve")) {
        ok = push_settings(list, e);
    } else {
        char *text = command_help_text(command, e);
        ok = text && push_help(list, text, e);
        free(text);
    }
    return ok && push(list, &help, e);
}
