/* Any bytes as a GGUF file: opened, every key and tensor read, bound as a model and as a tokenizer.
 * Must never crash, overflow or leak. Seeds: `corpus/gguf`. */
#include <stdlib.h>
#include <string.h>

#include "engine/model/gguf.h"
#include "engine/model/model.h"
#include "engine/text/tokenizer.h"

static void read_key(const struct model_source *g, const char *key)
{
    struct source_value v;
    int64_t whole;
    double number;
    bool flag;
    struct source_text text;
    struct error e;
    if (!source_value(g, key, &v))
        return;
    source_get_int(g, key, INT64_MIN, INT64_MAX, &whole, &e);
    source_get_double(g, key, &number, &e);
    source_get_bool(g, key, &flag, &e);
    source_get_text(g, key, &text, &e);
    for (uint64_t i = 0; v.type == SOURCE_ARRAY && i < v.count && i < 64; i++) {
        source_element_int(&v, i, &whole);
        source_element_double(&v, i, &number);
        source_element_text(&v, i, &text);
    }
}

/* Touches the ends of every tensor: they must lie inside. */
static unsigned touch(const struct model_source *g)
{
    unsigned sum = 0;
    for (uint64_t i = 0; i < source_n_tensors(g); i++) {
        const struct source_tensor *t = source_tensor_at(g, i);
        const unsigned char *bytes = t->data;
        if (t->size_bytes)
            sum += bytes[0] + bytes[t->size_bytes - 1];
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error e;
    static volatile unsigned sink;
    struct model_source *g = gguf_open_memory(data, size, &e);
    if (!g)
        return 0;
    for (uint64_t i = 0; i < source_n_keys(g); i++) {
        struct source_text key = source_value_at(g, i).key;
        char *name = strndup(key.data, key.length);
        if (name)
            read_key(g, name);
        free(name);
    }
    sink = touch(g);
    (void)sink;
    tokenizer_free(tokenizer_new(g, &e));
    model_close(model_from_source(g, "fuzzed", &e)); /* closes the file, also when it fails */
    return 0;
}
