/* Any bytes as a GGUF file: opened, every key and tensor read, bound as a model and as a tokenizer.
 * Must never crash, overflow or leak. Seeds: `corpus/gguf`. */
#include <stdlib.h>
#include <string.h>

#include "engine/model/model.h"
#include "engine/text/tokenizer.h"

static void read_key(const struct gguf *g, const char *key)
{
    enum gguf_type type, element;
    uint64_t count;
    int64_t whole;
    double number;
    bool flag;
    struct gguf_string text;
    struct error e;
    if (!gguf_type_of(g, key, &type, &element, &count))
        return;
    gguf_get_int(g, key, INT64_MIN, INT64_MAX, &whole, &e);
    gguf_get_double(g, key, &number, &e);
    gguf_get_bool(g, key, &flag, &e);
    gguf_get_string(g, key, &text, &e);
    for (uint64_t i = 0; type == GGUF_ARRAY && i < count && i < 64; i++) {
        gguf_array_int(g, key, i, &whole);
        gguf_array_double(g, key, i, &number);
        gguf_array_string(g, key, i, &text);
    }
}

/* Touches the ends of every tensor: they must lie inside. */
static unsigned touch(const struct gguf *g)
{
    unsigned sum = 0;
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
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
    struct gguf *g = gguf_open_memory(data, size, &e);
    if (!g)
        return 0;
    for (uint64_t i = 0; i < gguf_n_keys(g); i++) {
        struct gguf_string key = gguf_key_at(g, i);
        char *name = strndup(key.data, key.length);
        if (name)
            read_key(g, name);
        free(name);
    }
    sink = touch(g);
    (void)sink;
    tokenizer_free(tokenizer_new(g, &e));
    model_close(model_from_gguf(g, "fuzzed", &e)); /* closes the file, also when it fails */
    return 0;
}
