/* `winnow tokenize MODEL (-p TEXT | -f FILE) [--bos] [--special] [--ids]`: shows a text's tokens.
 * Also works on files with a vocabulary and no weights. One thread, no engine. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/file.h"
#include "config/base/utf8.h"
#include "engine/text/tokenizer.h"
#include "server/cli/command.h"
#include "server/cli/command_line.h"

#define MAX_INPUT_BYTES ((size_t)1 << 30)

/* "-" is standard input. The caller frees the text. */
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

static bool tokenize(const struct tokenize_arguments *o, const struct tokenizer *t,
                     const char *text, size_t length, struct error *e)
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

static bool run(const struct tokenize_arguments *o, struct error *e)
{
    char *content = NULL;
    size_t length = o->text ? strlen(o->text) : 0;
    struct tokenizer *t = NULL;
    struct model_source *source = source_open(o->model_path, e);
    bool ok = source && (t = tokenizer_new(source, e)) != NULL;
    source_close(source);
    ok = ok && (!o->text_file || (content = read_file(o->text_file, &length, e)) != NULL);
    ok = ok && tokenize(o, t, o->text ? o->text : content, length, e);
    free(content);
    tokenizer_free(t);
    return ok;
}

int command_tokenize(int argc, char **argv)
{
    struct tokenize_arguments o = {0};
    struct error e = {0};
    int status;
    if (!command_line_parse(OPTION_TOKENIZE, &o, argc, argv, &status))
        return status;
    if (!o.text == !o.text_file) {
        error_set(&e, "invalid_value", "", "exactly one of -p TEXT and -f FILE is needed");
        status = command_line_refuse(OPTION_TOKENIZE, &e);
    } else if (!run(&o, &e)) {
        command_line_print_error(OPTION_TOKENIZE, &e);
        status = 1;
    }
    options_clear(OPTION_TOKENIZE, &o);
    return status;
}
