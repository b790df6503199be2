/* `winnow completions bash|zsh|fish|man`: completions and the flags of the manual page, from the
 * table of options. The shells' scripts are complete: they do not run winnow while the user types.
 * Main thread. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cache/policy/plan.h"
#include "cache/policy/preset.h"
#include "server/cli/command.h"
#include "server/cli/command_line.h"

static const char targets[] = "bash zsh fish man";

/* ---- flags */

/* Calls `each` for every name of every flag of a command, with its row. --help comes last, with the
 * row `help_row`. */
static const struct option_row help_row = {.name = "help", .aliases = "", .help = "print the help"};

static bool is_offered(enum option_command command, const struct option_row *row)
{
    return row->group && row->at[command];
}

static void each_name(const struct option_row *row, enum option_command command,
                      void (*each)(enum option_command command, const struct option_row *row,
                                   const char *name))
{
    char name[64];
    snprintf(name, sizeof name, "--%s", row->name);
    each(command, row, name);
    for (const char *a = row->aliases; *a; a += strspn(a, " ")) {
        size_t n = strcspn(a, " ");
        snprintf(name, sizeof name, "%.*s", (int)n, a);
        each(command, row, name);
        a += n;
    }
}

static void each_flag(enum option_command command,
                      void (*each)(enum option_command command, const struct option_row *row,
                                   const char *name))
{
    for (unsigned i = 0; i < n_option_rows; i++)
        if (is_offered(command, &option_rows[i]))
            each_name(&option_rows[i], command, each);
    each_name(&help_row, command, each);
}

/* The possible values, separated by spaces. */
static void print_words(const struct option_row *row)
{
    if (row->words == WORDS_CHOICES)
        for (const char *c = row->value; *c; c++)
            putchar(*c == '|' ? ' ' : *c);
    else if (row->words == WORDS_STORAGES)
        fputs("f16 bf16 q8 q4", stdout);
    else
        for (uint32_t i = 0; i < preset_count(); i++)
            printf("%s%s", i ? " " : "", preset_at(i)->name);
}

static bool has_words(const struct option_row *row)
{
    return row->words == WORDS_CHOICES || row->words == WORDS_POLICIES ||
           row->words == WORDS_STORAGES;
}

/* ---- bash */

static void bash_value(enum option_command command, const struct option_row *row, const char *name)
{
    if (!row->value)
        return;
    printf("    %s:%s) ", option_commands[command].name, name);
    if (has_words(row)) {
        printf("_winnow_words \"");
        print_words(row);
        printf("\"; ");
    } else if (row->words == WORDS_FILES) {
        printf("_winnow_files; ");
    }
    printf("return ;;\n");
}

static void print_name(enum option_command command, const struct option_row *row, const char *name)
{
    (void)command;
    (void)row;
    printf("%s ", name);
}

static void print_bash(void)
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
    for (int k = 0; k < N_OPTION_COMMANDS; k++)
        printf("%s ", option_commands[k].name);
    printf("--help --version\"\n"
           "        return\n"
           "    fi\n"
           "    case $command:$prev in\n");
    for (int k = 0; k < N_OPTION_COMMANDS; k++)
        each_flag(k, bash_value);
    printf("    esac\n"
           "    case $command:$cur in\n");
    for (int k = 0; k < N_OPTION_COMMANDS; k++) {
        printf("    %s:-*) _winnow_words \"", option_commands[k].name);
        each_flag(k, print_name);
        printf("\" ;;\n");
    }
    printf("    %s:*) _winnow_words \"%s\" ;;\n"
           "    *) _winnow_files ;;\n"
           "    esac\n"
           "}\n"
           "complete -F _winnow winnow\n",
           option_commands[OPTION_COMPLETIONS].name, targets);
}

/* ---- zsh and fish */

/* `text` in single quotes. Characters of `special` get a backslash. `quote` is how the shell writes
 * a quote. */
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

static void zsh_flag(enum option_command command, const struct option_row *row, const char *name)
{
    (void)command;
    printf("            '%s%s[", name, row->value && !strncmp(name, "--", 2) ? "=" : "");
    quoted(row->help, "[]\\", "'\\''");
    printf("]");
    if (row->value) {
        printf(":%s:", row->value);
        if (row->words == WORDS_FILES)
            printf("_files");
        if (has_words(row)) {
            printf("(");
            print_words(row);
            printf(")");
        }
    }
    printf("' \\\n");
}

static void print_zsh(void)
{
    printf("#compdef winnow\n"
           "# made by `winnow completions zsh`\n"
           "_winnow() {\n"
           "    local context state state_descr line\n"
           "    typeset -A opt_args\n"
           "    local -a commands\n"
           "    commands=(\n");
    for (int k = 0; k < N_OPTION_COMMANDS; k++) {
        printf("        '%s:", option_commands[k].name);
        quoted(option_commands[k].help, "\\", "'\\''");
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
    for (int k = 0; k < N_OPTION_COMMANDS; k++) {
        printf("        %s) _arguments \\\n", option_commands[k].name);
        each_flag(k, zsh_flag);
        if (k == OPTION_COMPLETIONS)
            printf("            '1:shell:(%s)' ;;\n", targets);
        else
            printf("            '1:model:_files' ;;\n");
    }
    printf("        esac ;;\n"
           "    esac\n"
           "}\n"
           "if [[ $funcstack[1] == _winnow ]]; then _winnow \"$@\"; else compdef _winnow winnow; "
           "fi\n");
}

static void fish_flag(enum option_command command, const struct option_row *row, const char *name)
{
    printf("complete -c winnow -n '__fish_seen_subcommand_from %s' ",
           option_commands[command].name);
    if (!strncmp(name, "--", 2))
        printf("-l %s", name + 2);
    else
        printf("-%c %s", name[2] ? 'o' : 's', name + 1);
    if (row->words == WORDS_FILES) {
        printf(" -r -F");
    } else if (has_words(row)) {
        printf(" -x -a '");
        print_words(row);
        printf("'");
    } else if (row->value) {
        printf(" -x");
    }
    printf(" -d '");
    quoted(row->help, "\\", "\\'");
    printf("'\n");
}

static void print_fish(void)
{
    printf("# fish completion for winnow, made by `winnow completions fish`\n"
           "complete -c winnow -f\n"
           "complete -c winnow -n __fish_use_subcommand -l help -d 'print the commands'\n"
           "complete -c winnow -n __fish_use_subcommand -l version -d 'print the version'\n");
    for (int k = 0; k < N_OPTION_COMMANDS; k++) {
        const struct option_command_row *c = &option_commands[k];
        printf("complete -c winnow -n __fish_use_subcommand -a %s -d '", c->name);
        quoted(c->help, "\\", "\\'");
        printf("'\n");
        each_flag(k, fish_flag);
        printf("complete -c winnow -n '__fish_seen_subcommand_from %s' ", c->name);
        if (k == OPTION_COMPLETIONS)
            printf("-x -a '%s'\n", targets);
        else
            printf("-F\n");
    }
}

/* ---- the manual page */

/* A hyphen that users type is \-. A line must not begin with a dot or a quote. */
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

static void print_man(void)
{
    for (int k = 0; k < N_OPTION_COMMANDS; k++) {
        const struct option_command_row *c = &option_commands[k];
        const char *group = "";
        printf(".SH WINNOW ");
        for (const char *letter = c->name; *letter; letter++)
            putchar(*letter - 'a' + 'A');
        printf("\n.nf\n");
        roff("winnow ", false);
        roff(c->name, false);
        putchar(' ');
        roff(c->usage, false);
        printf("\n.sp\n");
        roff(c->about, true);
        printf(".fi\n");
        for (unsigned i = 0; i < n_option_rows; i++) {
            const struct option_row *row = &option_rows[i];
            if (!is_offered(k, row))
                continue;
            if (strcmp(group, row->group))
                printf(".SS %s\n", row->group);
            group = row->group;
            roff_setting(row);
        }
    }
}

int command_completions(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*print)(void);
    } kinds[] = {
        {"bash", print_bash}, {"zsh", print_zsh}, {"fish", print_fish}, {"man", print_man}};
    struct error e;
    if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        options_print_help(OPTION_COMPLETIONS);
        return 0;
    }
    for (size_t i = 0; argc == 2 && i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(argv[1], kinds[i].name))
            continue;
        kinds[i].print();
        if (fflush(stdout) == 0 && !ferror(stdout))
            return 0;
        fprintf(stderr, "winnow: cannot write: %s\n", strerror(errno));
        return 1;
    }
    error_set(&e, "invalid_value", "", "name one of %s", targets);
    return command_line_refuse(OPTION_COMPLETIONS, &e);
}
