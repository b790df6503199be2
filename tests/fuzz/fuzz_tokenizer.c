/* Fuzzes the tokenizer. The first byte picks the mode: the real vocabularies of tests/data with a
 * hostile text and hostile marks, or a hostile vocabulary file with a fixed text. Run from the
 * repository's root.
 *
 * Checked besides the sanitizers: byte-level BPE gives back exactly its text; ids are in range;
 * control tokens come only from marked bytes; a stream of tokens is put out within the promised
 * room. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/gguf.h"
#include "engine/text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "line %d: %s does not hold\n", __LINE__, #condition);                  \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

enum { SPM, GPT2, LLAMA_BPE, SMOLLM, QWEN2, FALCON, DEEPSEEK, PLAIN_DEFAULT, N_VOCABULARIES };

static const char *const pre_names[N_VOCABULARIES] = {NULL,    "gpt-2",  "llama-bpe",    "smollm",
                                                      "qwen2", "falcon", "deepseek-llm", "default"};

static struct tokenizer *tokenizers[N_VOCABULARIES];

/* Reads a vocabulary into memory and gives it another pre-tokenizer's name. */
static struct tokenizer *load(const char *path, const char *pre)
{
    static const char key[] = "tokenizer.ggml.pre";
    static char file[1 << 20], patched[1 << 20];
    FILE *f = fopen(path, "rb");
    REQUIRE(f != NULL);
    size_t n = fread(file, 1, sizeof file, f), used = n;
    fclose(f);
    memcpy(patched, file, n);
    if (pre) {
        char *at = memmem(file, n, key, sizeof key - 1);
        REQUIRE(at != NULL);
        size_t head = (size_t)(at - file) + sizeof key - 1 + 4;
        uint64_t old_length, new_length = strlen(pre);
        memcpy(&old_length, file + head, 8);
        memcpy(patched + head, &new_length, 8);
        memcpy(patched + head + 8, pre, new_length);
        memcpy(patched + head + 8 + new_length, file + head + 8 + old_length,
               n - head - 8 - old_length);
        used = n + new_length - old_length;
        memset(patched + used, 0, 32);
        used = (used + 31) / 32 * 32;
    }
    struct error e = {0};
    struct model_source *g = gguf_open_memory(patched, used, &e);
    struct tokenizer *t = g ? tokenizer_new(g, &e) : NULL;
    if (!t)
        fprintf(stderr, "%s: %s\n", path, e.message);
    REQUIRE(t != NULL);
    source_close(g);
    return t;
}

static void stream(const struct tokenizer *t, const struct tokens *list, bool show_control,
                   bool strip)
{
    struct detokenizer d = {.strip_space = strip};
    for (size_t i = 0; i < list->count; i++) {
        size_t length;
        (void)tokenizer_bytes(t, list->data[i], true, &length);
        char *out = malloc(length * 3 + 12); /* exactly the promised room, for ASan to watch */
        REQUIRE(out != NULL);
        REQUIRE(detokenizer_push(&d, t, list->data[i], show_control, out) <= length * 3 + 12);
        free(out);
    }
    char rest[12];
    (void)detokenizer_finish(&d, rest);
}

static void check_text(const struct tokenizer *t, bool is_bpe, const char *text, size_t length,
                       const uint8_t *marks)
{
    struct tokens list = {0};
    struct error e;
    REQUIRE(tokenizer_encode(t, text, length, marks, &list, &e));
    bool any_mark = marks && memchr(marks, 1, length);
    for (size_t i = 0; i < list.count; i++) {
        REQUIRE(list.data[i] >= 0 && list.data[i] < tokenizer_n_vocab(t));
        REQUIRE(any_mark || tokenizer_kind(t, list.data[i]) != TOKEN_CONTROL);
    }
    size_t decoded_length;
    char *decoded = tokenizer_decode(t, list.data, list.count, true, true, &decoded_length);
    REQUIRE(decoded != NULL);
    if (is_bpe) {
        REQUIRE(decoded_length == length);
        REQUIRE(memcmp(decoded, text, length) == 0);
    }
    free(decoded);
    stream(t, &list, length & 1, length & 2);
    tokens_free(&list);
}

static void check_vocabulary(const uint8_t *data, size_t size)
{
    static const char text[] = "<|im_start|>Hello \xE2\x96\x81world\n\xF0\x9F\xA6\x99\xFF 123 "
                               "<s>aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    struct error e;
    struct model_source *g = gguf_open_memory(data, size, &e);
    if (!g)
        return;
    struct tokenizer *t = tokenizer_new(g, &e);
    source_close(g);
    if (!t)
        return;
    uint8_t marks[sizeof text];
    memset(marks, 1, sizeof marks);
    check_text(t, false, text, sizeof text - 1, marks);
    tokenizer_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!tokenizers[SPM]) {
        tokenizers[SPM] = load("tests/data/vocab-llama-spm.gguf", NULL);
        for (int i = GPT2; i < N_VOCABULARIES; i++)
            tokenizers[i] = load("tests/data/vocab-bpe-small.gguf", pre_names[i]);
    }
    if (size < 2)
        return 0;
    uint8_t mode = data[0], pattern = data[1];
    if (mode & 0x80) {
        check_vocabulary(data + 1, size - 1);
        return 0;
    }
    data += 2;
    size -= 2;
    uint8_t *marks = malloc(size + 1);
    char *text = malloc(size + 1); /* its own block, so that ASan sees a read past its end */
    REQUIRE(marks != NULL && text != NULL);
    for (size_t i = 0; i < size; i++)
        marks[i] = pattern == 0xFF || (pattern >> (i / 16 % 8) & 1);
    if (size > 0)
        memcpy(text, data, size);
    int which = mode % N_VOCABULARIES;
    check_text(tokenizers[which], which != SPM, text, size, mode & 0x40 ? marks : NULL);
    free(marks);
    free(text);
    return 0;
}
