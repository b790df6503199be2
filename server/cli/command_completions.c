/* The `completions` command: see command_completions.h. Each shell gets a script that is complete
 * in itself: it does not run winnow while the user types. */
#include "server/cli/command_completions.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/options.h"
#include "server/cli/flag_list.h"

static const char usage[] =
    "usage: winnow completions bash|zsh|fish|man\n"
    "  bash, zsh, fish  a script that completes commands, flags and policies:\n"
    "                     source <(winnow completions bash)\n"
    "                     winnow completions fish | source\n"
    "                   `make install` puts it where the shell looks\n"
    "  man              the flags as sections of the manual page, in man(7) macros\n";
static const char targets[] = "bash zsh fish man";

static bool is_this_command(const struct command *c)
{
    return c->run == command_completions;
}

/* ---- bash */

static void bash_names(const struct command *c, const struct flag_list *list, enum flag_value value)
{
    const char *between = "";
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i].value == value) {
            printf("%s%s:%s", between, c->name, list->items[i].name);
            between = " | ";
        }
}

static bool has_value(const struct flag_list *list, enum flag_value value)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i].value == value)
            return true;
    return false;
}

static bool bash_values(struct error *e)
{
    for (unsigned k = 0; k < n_commands; k++) {
        struct flag_list list;
        if (!flag_list_of(&list, &commands[k], e)) {
            flag_list_clear(&list);
            return false;
        }
        for (size_t i = 0; i < list.count; i++)
            if (list.items[i].value == FLAG_WORDS)
                printf("    %s:%s) _winnow_words \"%s\"; return ;;\n", commands[k].name,
                       list.items[i].name, list.items[i].words);
        if (has_value(&list, FLAG_FILE)) {
            printf("    ");
            bash_names(&commands[k], &list, FLAG_FILE);
            printf(") _winnow_files; return ;;\n");
        }
        if (has_value(&list, FLAG_ANY)) {
            printf("    ");
            bash_names(&commands[k], &list, FLAG_ANY);
            printf(") return ;;\n");
        }
        flag_list_clear(&list);
    }
    return true;
}

static bool bash_flags(struct error *e)
{
    for (unsigned k = 0; k < n_commands; k++) {
        struct flag_list list;
        bool ok = flag_list_of(&list, &commands[k], e);
        printf("    %s:-*) _winnow_words \"", commands[k].name);
        for (size_t i = 0; ok && i < list.count; i++)
            printf("%s%s", i ? " " : "", list.items[i].name);
        printf("\" ;;\n");
        if (is_this_command(&commands[k]))
            printf("    %s:*) _winnow_words \"%s\" ;;\n", commands[k].name, targets);
        flag_list_clear(&list);
        if (!ok)
            return false;
    }
    return true;
}

static bool print_bash(struct error *e)
{
    printf("# bash completion for winnow, made by `winnow completions bash`\n"
           "_winnow_words() { # behind commas too: sink,h2<TAB>\n"
           "    local before=\n"
           "    [[ $cur == *,* ]] && before=${cur%%,*},\n"
           "    mapfile -t COMPREPLY < <(compgen -P \"$before\" -W \"$1\" -- \"${cur##*,}\")\n"
           "}\n"
           "_winnow_files() {\n"
           "    compopt -o filenames 2>/dev/null\n"
           "    mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
           "}\n"
           "_winnow() {\n"
           "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}\n"
           "    local command=${COMP_WORDS[1]}\n"
           "    COMPREPLY=()\n"
           "    # --flag=value comes as three words\n"
           "    if [[ $cur == = ]]; then cur=\n"
           "    elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD - 2]}; fi\n"
           "    if [[ $COMP_CWORD == 1 ]]; then\n"
           "        _winnow_words \"");
    for (unsigned k = 0; k < n_commands; k++)
        printf("%s ", commands[k].name);
    printf("--help --version\"\n"
           "        return\n"
           "    fi\n"
           "    case $command:$prev in\n");
    if (!bash_values(e))
        return false;
    printf("    esac\n"
           "    case $command:$cur in\n");
    if (!bash_flags(e))
        return false;
    printf("    *) _winnow_files ;;\n"
           "    esac\n"
           "}\n"
           "complete -F _winnow winnow\n");
    return true;
}

/* ---- zsh and fish */

/* `text` between single quotes; each of `special` gets a backslash. A quote is written as the shell
 * wants it. */
static void quoted(const char *text, const char *special, const char *quote)
{
    for (; *text; text++) {
        if (*text == '\'')
            fputs(quote, stdout);
        else if (strchr(special, *text))
            printf("\\%c", *text);
        else
            putchar(*text);
    }
}

static void zsh_flag(const struct flag *flag)
{
    bool behind_equals = flag->value != FLAG_SWITCH && !strncmp(flag->name, "--", 2);
    printf("            '%s%s[", flag->name, behind_equals ? "=" : "");
    quoted(flag->help, "[]\\", "'\\''");
    printf("]");
    if (flag->value != FLAG_SWITCH) {
        printf(":%s:", flag->shown);
        if (flag->value == FLAG_FILE)
            printf("_files");
        else if (flag->value == FLAG_WORDS)
            printf("(%s)", flag->words);
    }
    printf("' \\\n");
}

static bool print_zsh(struct error *e)
{
    printf("#compdef winnow\n"
           "# made by `winnow completions zsh`\n"
           "_winnow() {\n"
           "    local context state state_descr line\n"
           "    typeset -A opt_args\n"
           "    local -a commands\n"
           "    commands=(\n");
    for (unsigned k = 0; k < n_commands; k++) {
        printf("        '%s:", commands[k].name);
        quoted(commands[k].help, "\\", "'\\''");
        printf("'\n");
    }
    printf("    )\n"
           "    _arguments -C '(- *)--help[print the commands]' '(- *)--version[print the "
           "version]' \\\n"
           "        '1:command:->command' '*::argument:->argument' && return\n"
           "    case $state in\n"
           "    command) _describe command commands ;;\n"
           "    argument)\n"
           "        case $words[1] in\n");
    for (unsigned k = 0; k < n_commands; k++) {
        struct flag_list list;
        bool ok = flag_list_of(&list, &commands[k], e);
        printf("        %s) _arguments \\\n", commands[k].name);
        for (size_t i = 0; ok && i < list.count; i++)
            zsh_flag(&list.items[i]);
        if (is_this_command(&commands[k]))
            printf("            '1:shell:(%s)' ;;\n", targets);
        else
            printf("            '1:model:_files' ;;\n");
        flag_list_clear(&list);
        if (!ok)
            return false;
    }
    printf("        esac ;;\n"
           "    esac\n"
           "}\n"
           "if [[ $funcstack[1] == _winnow ]]; then _winnow \"$@\"; else compdef _winnow winnow; "
           "fi\n");
    return true;
}

static void fish_flag(const struct command *c, const struct flag *flag)
{
    const char *name = flag->name;
    printf("complete -c winnow -n '__fish_seen_subcommand_from %s' ", c->name);
    if (!strncmp(name, "--", 2))
        printf("-l %s", name + 2);
    else
        printf("-%c %s", name[2] ? 'o' : 's', name + 1);
    if (flag->value == FLAG_FILE)
        printf(" -r -F");
    else if (flag->value == FLAG_WORDS)
        printf(" -x -a '%s'", flag->words);
    else if (flag->value == FLAG_ANY)
        printf(" -x");
    printf(" -d '");
    quoted(flag->help, "\\", "\\'");
    printf("'\n");
}

static bool print_fish(struct error *e)
{
    printf("# fish completion for winnow, made by `winnow completions fish`\n"
           "complete -c winnow -f\n"
           "complete -c winnow -n __fish_use_subcommand -l help -d 'print the commands'\n"
           "complete -c winnow -n __fish_use_subcommand -l version -d 'print the version'\n");
    for (unsigned k = 0; k < n_commands; k++) {
        struct flag_list list;
        bool ok = flag_list_of(&list, &commands[k], e);
        printf("complete -c winnow -n __fish_use_subcommand -a %s -d '", commands[k].name);
        quoted(commands[k].help, "\\", "\\'");
        printf("'\n");
        for (size_t i = 0; ok && i < list.count; i++)
            fish_flag(&commands[k], &list.items[i]);
        printf("complete -c winnow -n '__fish_seen_subcommand_from %s' ", commands[k].name);
        if (is_this_command(&commands[k]))
            printf("-x -a '%s'\n", targets);
        else
            printf("-F\n");
        flag_list_clear(&list);
        if (!ok)
            return false;
    }
    return true;
}

/* ---- the manual page */

/* A hyphen that is typed is \-; a line may not begin with a dot or a quote. */
static void roff(const char *text, bool line_start)
{
    for (; *text; text++) {
        if (line_start && (*text == '.' || *text == '\''))
            fputs("\\&", stdout);
        if (*text == '-')
            fputs("\\-", stdout);
        else if (*text == '\\')
            fputs("\\e", stdout);
        else
            putchar(*text);
        line_start = *text == '\n';
    }
}

static void roff_setting(const struct option_row *row)
{
    printf(".TP\n.B ");
    roff("--", false);
    roff(row->name, false);
    if (row->value) {
        printf(" \\fI");
        roff(row->value, false);
        printf("\\fR");
    }
    printf("\n");
    roff(row->help, true);
    printf(".\n");
    if (row->initial && row->initial[0] && strcmp(row->initial, "0")) {
        printf("Default: ");
        roff(row->initial, false);
        printf(".\n");
    }
    if (row->aliases[0]) {
        printf("Also ");
        roff(row->aliases, false);
        printf(".\n");
    }
}

static bool print_man(struct error *e)
{
    const char *group = "";
    printf(".SH FLAGS OF WINNOW SERVE\n");
    for (unsigned i = 0; i < n_option_rows; i++) {
        const struct option_row *row = &option_rows[i];
        if (!row->group)
            continue;
        if (strcmp(group, row->group)) {
            group = row->group;
            printf(".SS %s\n", group);
        }
        roff_setting(row);
    }
    printf(".SH THE OTHER COMMANDS\n");
    for (unsigned k = 0; k < n_commands; k++) {
        if (!strcmp(commands[k].name, "serve"))
            continue;
        char *text = command_help_text(&commands[k], e);
        if (!text)
            return false;
        printf(".SS winnow %s\n.EX\n", commands[k].name);
        roff(text, true);
        printf(".EE\n");
        free(text);
    }
    return true;
}

int command_completions(int argc, char **argv)
{
    static const struct {
        const char *name;
        bool (*print)(struct error *e);
    } kinds[] = {
        {"bash", print_bash}, {"zsh", print_zsh}, {"fish", print_fish}, {"man", print_man}};
    struct error e = {0};
    if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        fputs(usage, stdout);
        return 0;
    }
    for (size_t i = 0; argc == 2 && i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(argv[1], kinds[i].name))
            continue;
        bool ok = kinds[i].print(&e);
        if (ok && (fflush(stdout) != 0 || ferror(stdout)))
            ok = error_set(&e, "file_error", "stdout", "cannot write: %s", strerror(errno));
        if (!ok)
            fprintf(stderr, "winnow: %s\n", e.message);
        return ok ? 0 : 1;
    }
    fputs(usage, stderr);
    return 2;
}
