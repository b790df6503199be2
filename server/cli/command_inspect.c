/* The `inspect` command: see command_inspect.h. Everything in the file is hostile: it is printed as
 * printable UTF-8 or not at all. */
#include "server/cli/command_inspect.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/size.h"
#include "engine/model/model.h"
#include "engine/text/tokenizer.h"

enum { MAX_TEXT = 200, MAX_ELEMENTS = 6 };

static const char usage[] =
    "usage: winnow inspect MODEL\n"
    "  MODEL   a GGUF file (also -m FILE): prints its facts, its metadata and its tensors\n";

static const char *const type_names[] = {"uint8",  "int8",    "uint16", "int16",  "uint32",
                                         "int32",  "float32", "bool",   "string", "array",
                                         "uint64", "int64",   "float64"};

static void print_text(struct gguf_string s, size_t most)
{
    size_t n = s.length < most ? s.length : most;
    putchar('"');
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s.data[i];
        if (c == '\n')
            fputs("\\n", stdout);
        else if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c < 32 || c >= 127) /* bytes above may be half a character or a control sequence */
            printf("\\x%02X", c);
        else
            putchar(c);
    }
    printf(s.length > n ? "\"... (%zu bytes)" : "\"", s.length);
}

static void print_element(const struct gguf *g, const char *key, enum gguf_type type, uint64_t i)
{
    int64_t whole;
    double number;
    struct gguf_string text;
    if (type == GGUF_STRING && gguf_array_string(g, key, i, &text))
        print_text(text, 40);
    else if ((type == GGUF_FLOAT32 || type == GGUF_FLOAT64) &&
             gguf_array_double(g, key, i, &number))
        printf("%g", number);
    else if (gguf_array_int(g, key, i, &whole))
        printf("%" PRId64, whole);
    else
        fputs("?", stdout);
}

static void print_value(const struct gguf *g, const char *key)
{
    enum gguf_type type, element;
    uint64_t count;
    int64_t whole;
    double number;
    bool flag;
    struct gguf_string text;
    struct error ignored;
    if (!gguf_type_of(g, key, &type, &element, &count))
        return;
    if (type == GGUF_ARRAY) {
        printf("%s[%" PRIu64 "] {", type_names[element], count);
        for (uint64_t i = 0; i < count && i < MAX_ELEMENTS; i++) {
            fputs(i ? ", " : "", stdout);
            print_element(g, key, element, i);
        }
        fputs(count > MAX_ELEMENTS ? ", ...}" : "}", stdout);
        return;
    }
    printf("%s ", type_names[type]);
    if (type == GGUF_STRING && gguf_get_string(g, key, &text, &ignored))
        print_text(text, MAX_TEXT);
    else if (type == GGUF_BOOL && gguf_get_bool(g, key, &flag, &ignored))
        fputs(flag ? "true" : "false", stdout);
    else if ((type == GGUF_FLOAT32 || type == GGUF_FLOAT64) &&
             gguf_get_double(g, key, &number, &ignored))
        printf("%g", number);
    else if (gguf_get_int(g, key, INT64_MIN, INT64_MAX, &whole, &ignored))
        printf("%" PRId64, whole);
    else
        fputs("(not a finite number, or over 2^63)", stdout);
}

static bool print_metadata(const struct gguf *g)
{
    printf("\nmetadata: %" PRIu64 " keys\n", gguf_n_keys(g));
    for (uint64_t i = 0; i < gguf_n_keys(g); i++) {
        struct gguf_string key = gguf_key_at(g, i);
        char *name = strndup(key.data, key.length);
        if (!name)
            return false;
        fputs("  ", stdout);
        print_text(key, MAX_TEXT);
        fputs(" = ", stdout);
        print_value(g, name);
        putchar('\n');
        free(name);
    }
    return true;
}

static void print_tensors(const struct gguf *g)
{
    printf("\ntensors: %" PRIu64 "\n", gguf_n_tensors(g));
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        fputs("  ", stdout);
        print_text(t->name, MAX_TEXT);
        printf(" %s [", tensor_type_name(t->type));
        for (uint32_t d = 0; d < t->n_dims; d++)
            printf("%s%" PRIu64, d ? ", " : "", t->shape[d]);
        printf("] %zu bytes\n", t->size_bytes);
    }
}

static void print_model(const struct model *m)
{
    char size[32];
    uint64_t per_token = (uint64_t)m->n_layers * m->n_kv_heads * m->head_dim * 2 * 2;
    printf("architecture:   %s\n", m->architecture);
    printf("parameters:     %.1f M, %s, mostly %s\n", (double)m->n_parameters / 1e6,
           size_format(size, m->size_bytes), m->quantisation);
    printf("layers:         %u of width %u, feed-forward %u\n", m->n_layers, m->n_embd, m->n_ff);
    printf("attention:      %u heads on %u KV heads of dimension %u\n", m->n_heads, m->n_kv_heads,
           m->head_dim);
    printf("context:        %u tokens, RoPE base %g over %u dimensions\n", m->n_ctx_train,
           m->rope_base, m->rope_dim);
    printf("KV cache:       %" PRIu64 " bytes a token (f16), %s for the whole context\n", per_token,
           size_format(size, per_token * m->n_ctx_train));
}

static void print_tokenizer(const struct gguf *g)
{
    struct error e;
    struct gguf_string template;
    struct tokenizer *t = tokenizer_new(g, &e);
    if (t)
        printf("tokenizer:      %s, pre-tokenizer %s, %d tokens\n", tokenizer_model_name(t),
               tokenizer_pre_name(t), tokenizer_n_vocab(t));
    else
        printf("tokenizer:      not usable: %s\n", e.message);
    tokenizer_free(t);
    if (gguf_get_string(g, "tokenizer.chat_template", &template, &e))
        printf("chat template:  %zu bytes\n", template.length);
    else
        printf("chat template:  none\n");
}

static bool inspect(const char *path, struct error *e)
{
    char size[32];
    struct gguf *g = gguf_open(path, e);
    if (!g)
        return false;
    printf("file:           GGUF version %u, %s\n", gguf_version(g),
           size_format(size, gguf_file_bytes(g)));
    struct error why;
    struct gguf *again = gguf_open(path, &why); /* the model takes over its file */
    struct model *m = again ? model_from_gguf(again, "", &why) : NULL;
    if (m)
        print_model(m);
    else
        printf("not servable:   %s\n", why.message);
    model_close(m);
    print_tokenizer(g);
    bool ok = print_metadata(g) || error_set_memory(e, "a key", 0);
    print_tensors(g);
    gguf_close(g);
    return ok;
}

int command_inspect(int argc, char **argv)
{
    const char *path = NULL;
    struct error e;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-h") || !strcmp(argv[i], "--help")) {
            fputs(usage, stdout);
            return 0;
        }
        if ((!strcmp(argv[i], "-m") || !strcmp(argv[i], "--model") ||
             !strcmp(argv[i], "--model-path")) &&
            i + 1 < argc)
            i++;
        else if (argv[i][0] == '-') {
            fprintf(stderr, "winnow: unknown option %s\n%s", argv[i], usage);
            return 2;
        }
        if (path) {
            fprintf(stderr, "winnow: %s is one file too many\n%s", argv[i], usage);
            return 2;
        }
        path = argv[i];
    }
    if (!path) {
        fprintf(stderr, "winnow: inspect: no model file given\n%s", usage);
        return 2;
    }
    if (!inspect(path, &e)) {
        bool named = strstr(e.message, path) != NULL;
        fprintf(stderr, "winnow: %s%s%s\n", named ? "" : path, named ? "" : ": ", e.message);
        return 1;
    }
    return fflush(stdout) ? 1 : 0;
}
