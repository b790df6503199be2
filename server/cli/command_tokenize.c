/* The `tokenize` command: see command_tokenize.h. */
#include "server/cli/command_tokenize.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/file.h"
#include "config/base/utf8.h"
#include "engine/text/tokenizer.h"

#define MAX_INPUT_BYTES ((size_t)1 << 30)

static const char usage[] =
    "usage: winnow tokenize MODEL (-p TEXT | -f FILE) [--bos] [--special] [--ids]\n"
    "  MODEL            a GGUF file; one with a vocabulary and no weights will do (also -m FILE)\n"
    "  -p TEXT          the text\n"
    "  -f FILE          the file that holds the text; - is standard input\n"
    "  --bos            puts the begin-of-text token first\n"
    "  --special        recognises special tokens such as <|im_start|> in the text\n"
    "  --ids            prints the numbers on one line; otherwise one line a token, number and "
    "text\n";

struct options {
    const char *model, *text, *file;
    bool bos, special, ids, help;
};

static bool usage_error(const char *format, const char *value)
{
    fputs("winnow: ", stderr);
    fprintf(stderr, format, value);
    fprintf(stderr, "\n%s", usage);
    return false;
}

/* The option that takes a value at `name`, or NULL. */
static const char **value_option(struct options *o, const char *name)
{
    if (strcmp(name, "-p") == 0 || strcmp(name, "--prompt") == 0)
        return &o->text;
    if (strcmp(name, "-f") == 0 || strcmp(name, "--file") == 0)
        return &o->file;
    if (strcmp(name, "-m") == 0 || strcmp(name, "--model") == 0 ||
        strcmp(name, "--model-path") == 0)
        return &o->model;
    return NULL;
}

static bool *flag_option(struct options *o, const char *name)
{
    if (strcmp(name, "--bos") == 0)
        return &o->bos;
    if (strcmp(name, "--special") == 0)
        return &o->special;
    if (strcmp(name, "--ids") == 0)
        return &o->ids;
    return strcmp(name, "-h") == 0 || strcmp(name, "--help") == 0 ? &o->help : NULL;
}

static bool parse(struct options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char **value = value_option(o, argv[i]);
        bool *flag = flag_option(o, argv[i]);
        if (!value && !flag && argv[i][0] == '-')
            return usage_error("unknown option %s", argv[i]);
        if (flag) {
            *flag = true;
            continue;
        }
        if (value && ++i == argc)
            return usage_error("%s needs a value", argv[i - 1]);
        if (!value)
            value = &o->model;
        if (*value)
            return usage_error("%s is one too many", argv[i]);
        *value = argv[i];
    }
    if (o->help)
        return true;
    if (!o->model)
        return usage_error("%s: no model file given", "tokenize");
    if (!o->text == !o->file)
        return usage_error("%s: exactly one of -p TEXT and -f FILE is needed", "tokenize");
    return true;
}

/* "-": standard input. malloc'ed. */
static char *read_file(const char *path, size_t *length, struct error *e)
{
    const bool is_stream = strcmp(path, "-") == 0;
    struct file_wanted w = {.path = is_stream ? NULL : path,
                            .what = is_stream ? "standard input" : "the text",
                            .where = path,
                            .most = MAX_INPUT_BYTES};
    return file_read(&w, length, e);
}

static void print_escaped(const char *bytes, size_t length)
{
    putchar('"');
    for (size_t i = 0; i < length;) {
        unsigned char c = (unsigned char)bytes[i];
        size_t n = utf8_printable_length(bytes + i, length - i);
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (n > 0)
            fwrite(bytes + i, 1, n, stdout);
        else if (c == '\n' || c == '\t' || c == '\r')
            printf("\\%c", c == '\n' ? 'n' : c == '\t' ? 't' : 'r');
        else
            printf("\\x%02x", c);
        i += n ? n : 1;
    }
    putchar('"');
}

static void print_tokens(const struct tokenizer *t, const struct tokens *list, bool ids)
{
    for (size_t i = 0; i < list->count; i++) {
        if (ids) {
            printf("%s%d", i ? " " : "", list->data[i]);
            continue;
        }
        size_t length;
        const char *bytes = tokenizer_bytes(t, list->data[i], true, &length);
        printf("%d\t", list->data[i]);
        print_escaped(bytes, length);
        putchar('\n');
    }
    if (ids)
        putchar('\n');
}

static bool tokenize(const struct options *o, const struct tokenizer *t, const char *text,
                     size_t length, struct error *e)
{
    struct tokens list = {0};
    bool ok = true;
    if (o->bos && tokenizer_bos(t) < 0)
        ok = error_set(e, "invalid_value", "--bos", "this vocabulary has no begin-of-text token");
    else if (o->bos && !tokens_push(&list, tokenizer_bos(t)))
        ok = error_set_memory(e, "tokens", sizeof *list.data);
    ok = ok && tokenizer_encode_text(t, text, length, o->special, false, &list, e);
    if (ok) {
        print_tokens(t, &list, o->ids);
        if (fflush(stdout) != 0 || ferror(stdout))
            ok = error_set(e, "file_error", "stdout", "cannot write: %s", strerror(errno));
    }
    tokens_free(&list);
    return ok;
}

static bool run(const struct options *o, struct error *e)
{
    char *content = NULL;
    size_t length = o->text ? strlen(o->text) : 0;
    struct tokenizer *t = NULL;
    struct model_source *source = source_open(o->model, e);
    bool ok = source && (t = tokenizer_new(source, e)) != NULL;
    source_close(source);
    ok = ok && (!o->file || (content = read_file(o->file, &length, e)) != NULL);
    ok = ok && tokenize(o, t, o->text ? o->text : content, length, e);
    free(content);
    tokenizer_free(t);
    return ok;
}

int command_tokenize(int argc, char **argv)
{
    struct options o = {0};
    struct error e = {0};
    if (!parse(&o, argc, argv))
        return 2;
    if (o.help) {
        fputs(usage, stdout);
        return 0;
    }
    if (run(&o, &e))
        return 0;
    fprintf(stderr, "winnow: %s%s%s\n", e.where, *e.where ? ": " : "", e.message);
    return 1;
}
