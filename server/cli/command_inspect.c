/* `winnow inspect MODEL`: shows the content of a GGUF file. The file is not trusted: only printable
 * UTF-8 is printed. One thread, no engine. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/size.h"
#include "engine/model/model.h"
#include "engine/text/tokenizer.h"
#include "server/cli/command.h"
#include "server/cli/command_line.h"

enum { MAX_TEXT = 200, MAX_ELEMENTS = 6 };

static const char *const type_names[] = {"uint8",  "int8",    "uint16", "int16",  "uint32",
                                         "int32",  "float32", "bool",   "string", "array",
                                         "uint64", "int64",   "float64"};

static void print_text(struct source_text s, size_t most)
{
    size_t n = s.length < most ? s.length : most;
    putchar('"');
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s.data[i];
        if (c == '\n')
            fputs("\\n", stdout);
        else if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c < 32 ||
                 c >= 127) /* other bytes can be a part of a character or a control sequence */
            printf("\\x%02X", c);
        else
            putchar(c);
    }
    printf(s.length > n ? "\"... (%zu bytes)" : "\"", s.length);
}

static void print_element(const struct source_value *v, uint64_t i)
{
    int64_t whole;
    double number;
    struct source_text text;
    if (source_element_text(v, i, &text))
        print_text(text, 40);
    else if (source_element_double(v, i, &number))
        printf("%g", number);
    else if (source_element_int(v, i, &whole))
        printf("%" PRId64, whole);
    else
        fputs("?", stdout);
}

static void print_value(const struct source_value *v)
{
    int64_t whole;
    double number;
    if (v->type == SOURCE_ARRAY) {
        printf("%s[%" PRIu64 "] {", type_names[v->element], v->count);
        for (uint64_t i = 0; i < v->count && i < MAX_ELEMENTS; i++) {
            fputs(i ? ", " : "", stdout);
            print_element(v, i);
        }
        fputs(v->count > MAX_ELEMENTS ? ", ...}" : "}", stdout);
        return;
    }
    printf("%s ", type_names[v->type]);
    if (v->type == SOURCE_STRING)
        print_text(v->text, MAX_TEXT);
    else if (v->type == SOURCE_BOOL)
        fputs(v->data[0] ? "true" : "false", stdout);
    else if (source_value_double(v, &number) && isfinite(number))
        printf("%g", number);
    else if (source_value_int(v, &whole))
        printf("%" PRId64, whole);
    else
        fputs("(not a finite number, or over 2^63)", stdout);
}

static void print_metadata(const struct model_source *s)
{
    printf("\nmetadata: %" PRIu64 " keys\n", source_n_keys(s));
    for (uint64_t i = 0; i < source_n_keys(s); i++) {
        struct source_value v = source_value_at(s, i);
        fputs("  ", stdout);
        print_text(v.key, MAX_TEXT);
        fputs(" = ", stdout);
        print_value(&v);
        putchar('\n');
    }
}

/* m is NULL when the file cannot be served. */
static void print_tensors(const struct model_source *s, const struct model *m)
{
    printf("\ntensors: %" PRIu64 "\n", source_n_tensors(s));
    for (uint64_t i = 0; i < source_n_tensors(s); i++) {
        const struct source_tensor *t = source_tensor_at(s, i);
        fputs("  ", stdout);
        print_text(t->name, MAX_TEXT);
        printf(" %s [", tensor_type_name(t->type));
        for (uint32_t d = 0; d < t->n_dims; d++)
            printf("%s%" PRIu64, d ? ", " : "", t->shape[d]);
        printf("] %zu bytes%s\n", t->size_bytes, m && !m->tensor_used[i] ? ", not used" : "");
    }
}

static void print_model(const struct model *m)
{
    char size[32];
    uint64_t per_token = (uint64_t)m->n_layers * m->n_kv_heads * m->head_dim * 2 * 2;
    printf("architecture:   %s\n", m->architecture);
    printf("parameters:     %.1f M, %s, mostly %s\n", (double)m->n_parameters / 1e6,
           size_format(size, m->size_bytes), m->quantisation);
    printf("layers:         %u of width %u, feed-forward %u\n", m->n_layers, m->n_embd,
           m->layers[0].n_ff);
    printf("attention:      %u heads on %u KV heads of dimension %u\n", m->n_heads, m->n_kv_heads,
           m->head_dim);
    printf("context:        %u tokens, RoPE base %g over %u dimensions\n", m->n_ctx_train,
           m->rope_sets[0].base, m->rope_sets[0].dim);
    printf("KV cache:       %" PRIu64 " bytes a token (f16), %s for the whole context\n", per_token,
           size_format(size, per_token * m->n_ctx_train));
}

static void print_tokenizer(const struct model_source *s)
{
    struct error e;
    struct source_text template;
    struct tokenizer *t = tokenizer_new(s, &e);
    if (t)
        printf("tokenizer:      %s, pre-tokenizer %s, %d tokens\n", tokenizer_model_name(t),
               tokenizer_pre_name(t), tokenizer_n_vocab(t));
    else
        printf("tokenizer:      not usable: %s\n", e.message);
    tokenizer_free(t);
    if (source_get_text(s, "tokenizer.chat_template", &template, NULL))
        printf("chat template:  %zu bytes\n", template.length);
    else
        printf("chat template:  none\n");
}

/* Tensors that the model does not use. A count of 0 is not printed. */
static void print_unused(const struct model *m)
{
    uint64_t n = 0, first = 0;
    for (uint64_t i = source_n_tensors(m->source); i-- > 0;)
        if (!m->tensor_used[i]) {
            first = i;
            n++;
        }
    if (n == 0)
        return;
    printf("not used:       %" PRIu64 " tensors, the first ", n);
    print_text(source_tensor_at(m->source, first)->name, MAX_TEXT);
    putchar('\n');
}

static bool inspect(const char *path, struct error *e)
{
    char size[32], format[64];
    struct model_source *s = source_open(path, e);
    if (!s)
        return false;
    printf("file:           %s, %s\n", source_describe(s, format),
           size_format(size, source_bytes(s)));
    struct error why;
    struct model_source *again = source_open(path, &why); /* the model takes the source */
    struct model *m = again ? model_from_source(again, "", &why) : NULL;
    if (m) {
        print_model(m);
        print_unused(m);
    } else {
        printf("not servable:   %s\n", why.message);
    }
    print_tokenizer(s);
    print_metadata(s);
    print_tensors(s, m);
    model_close(m);
    source_close(s);
    return true;
}

int command_inspect(int argc, char **argv)
{
    struct inspect_arguments a = {0};
    struct error e;
    int status;
    if (!command_line_parse(OPTION_INSPECT, &a, argc, argv, &status))
        return status;
    if (!inspect(a.model_path, &e)) {
        bool named = strstr(e.message, a.model_path) != NULL;
        fprintf(stderr, "winnow: %s%s%s\n", named ? "" : a.model_path, named ? "" : ": ",
                e.message);
        status = 1;
    } else if (fflush(stdout)) {
        status = 1;
    }
    options_clear(OPTION_INSPECT, &a);
    return status;
}
