/* The tokenizer against ids that the models' own tokenizers give, its rules for special tokens,
 * hostile vocabularies, and merging against a plain reference.
 *
 * tests/data has Llama's SentencePiece vocabulary and the first 3000 merges of GPT-2, with texts
 * and, for each pre-tokenizer, the ids that Hugging Face's tokenizers gave for them.
 * WINNOW_TEST_VOCABS names a folder of further vocabularies (ggml-vocab-*.gguf beside .inp and
 * .out). */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/bytes.h"
#include "config/base/file.h"
#include "engine/model/gguf.h"
#include "engine/text/tokenizer.h"
#include "engine/text/tokenizer_merge.h"
#include "tests/suite.h"

#define SPM_VOCAB "tests/data/vocab-llama-spm"
#define BPE_VOCAB "tests/data/vocab-bpe-small"

static void put(struct bytes *b, const void *data, size_t length)
{
    ck_assert(bytes_add(b, data, length));
}

static struct bytes read_whole(const char *path)
{
    struct file_wanted w = {.path = path, .what = path, .most = SIZE_MAX};
    struct error e = {0};
    struct bytes b = {0};
    b.data = file_read(&w, &b.length, &e);
    ck_assert_msg(b.data != NULL, "%s", e.message);
    b.capacity = b.length;
    return b;
}

/* GGUF metadata, built key by key. */
struct builder {
    struct bytes body;
    uint64_t n_keys;
};

static void put_u32(struct bytes *b, uint32_t value)
{
    put(b, &value, 4);
}

static void put_u64(struct bytes *b, uint64_t value)
{
    put(b, &value, 8);
}

static void put_string(struct bytes *b, const char *text)
{
    put_u64(b, strlen(text));
    put(b, text, strlen(text));
}

static void put_key(struct builder *g, const char *key, uint32_t type)
{
    put_string(&g->body, key);
    put_u32(&g->body, type);
    g->n_keys++;
}

static void add_string(struct builder *g, const char *key, const char *value)
{
    put_key(g, key, SOURCE_STRING);
    put_string(&g->body, value);
}

static void add_u32(struct builder *g, const char *key, uint32_t value)
{
    put_key(g, key, SOURCE_UINT32);
    put_u32(&g->body, value);
}

static void add_bool(struct builder *g, const char *key, bool value)
{
    put_key(g, key, SOURCE_BOOL);
    put(&g->body, &value, 1);
}

static void add_array(struct builder *g, const char *key, uint32_t element, uint64_t count)
{
    put_key(g, key, SOURCE_ARRAY);
    put_u32(&g->body, element);
    put_u64(&g->body, count);
}

static void add_strings(struct builder *g, const char *key, const char *const *texts, size_t n)
{
    add_array(g, key, SOURCE_STRING, n);
    for (size_t i = 0; i < n; i++)
        put_string(&g->body, texts[i]);
}

static struct tokenizer *open_bytes(const void *data, size_t length, struct error *e)
{
    struct model_source *file = gguf_open_memory(data, length, e);
    if (!file)
        return NULL;
    struct tokenizer *t = tokenizer_new(file, e);
    source_close(file);
    return t;
}

static struct tokenizer *build(struct builder *g, struct error *e)
{
    struct bytes file = {0};
    put(&file, "GGUF", 4);
    put_u32(&file, 3);
    put_u64(&file, 0);
    put_u64(&file, g->n_keys);
    put(&file, g->body.data, g->body.length);
    while (file.length % 32)
        put(&file, "", 1);
    struct tokenizer *t = open_bytes(file.data, file.length, e);
    free(file.data);
    free(g->body.data);
    memset(g, 0, sizeof *g);
    return t;
}

/* Opens a vocabulary file, with another pre-tokenizer's name when `pre` is given. */
static struct tokenizer *open_file(const char *path, const char *pre)
{
    static const char key[] = "tokenizer.ggml.pre";
    struct bytes file = read_whole(path), patched = {0};
    struct error e = {0};
    if (pre) {
        char *at = memmem(file.data, file.length, key, sizeof key - 1);
        ck_assert_ptr_nonnull(at);
        at += sizeof key - 1 + 4; /* past the value's type */
        uint64_t old_length;
        memcpy(&old_length, at, 8);
        put(&patched, file.data, (size_t)(at - file.data));
        put_string(&patched, pre);
        put(&patched, at + 8 + old_length, file.length - (size_t)(at + 8 + old_length - file.data));
        while (patched.length % 32)
            put(&patched, "", 1);
    } else {
        put(&patched, file.data, file.length);
    }
    struct tokenizer *t = open_bytes(patched.data, patched.length, &e);
    ck_assert_msg(t != NULL, "%s: %s", path, e.message);
    free(file.data);
    free(patched.data);
    return t;
}

static void expect_ids(const struct tokenizer *t, const char *text, size_t length, const char *ids,
                       const char *what)
{
    struct tokens list = {0};
    struct error e;
    ck_assert(tokenizer_encode(t, text, length, NULL, &list, &e));
    char *end = NULL;
    size_t n = 0;
    for (const char *at = ids;; at = end, n++) {
        long expected = strtol(at, &end, 10);
        if (end == at)
            break;
        ck_assert_msg(n < list.count && list.data[n] == expected,
                      "%s, text \"%.*s\": token %zu is %d, not %ld", what,
                      (int)(length < 60 ? length : 60), text, n, n < list.count ? list.data[n] : -1,
                      expected);
    }
    ck_assert_msg(n == list.count, "%s, text \"%.*s\": %zu tokens, not %zu", what,
                  (int)(length < 60 ? length : 60), text, list.count, n);
    tokens_free(&list);
}

/* Texts are separated by a line, ids stand one text a line. Returns the number of texts. */
static int check_vectors(const struct tokenizer *t, const char *inputs, const char *outputs)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    struct bytes texts = read_whole(inputs), ids = read_whole(outputs);
    char *text = texts.data, *line = ids.data;
    int n = 0;
    while (text) {
        char *end = strstr(text, separator), *line_end = line ? strchr(line, '\n') : NULL;
        size_t length = end ? (size_t)(end - text) : strlen(text);
        if (memchr(texts.data, 0, texts.length)) { /* a text holds a NUL */
            end = memmem(text, (size_t)(texts.data + texts.length - text), separator,
                         sizeof separator - 1);
            length = (size_t)((end ? end : texts.data + texts.length) - text);
        }
        ck_assert_msg(line != NULL, "%s: too few lines", outputs);
        if (line_end)
            *line_end = 0;
        expect_ids(t, text, length, line, outputs);
        line = line_end ? line_end + 1 : NULL; /* the last line may lack its end */
        text = end ? end + sizeof separator - 1 : NULL;
        n++;
    }
    ck_assert_msg(!line || *line == 0, "%s: too many lines", outputs);
    free(texts.data);
    free(ids.data);
    return n;
}

START_TEST(sentencepiece_gives_the_original_ids)
{
    struct tokenizer *t = open_file(SPM_VOCAB ".gguf", NULL);
    ck_assert_int_eq(check_vectors(t, SPM_VOCAB ".inp", SPM_VOCAB ".out"), 47);
    tokenizer_free(t);
}
END_TEST

/* tests/data/write_bpe_vectors.py has the original patterns. */
static const char *const pre_names[] = {
    "gpt-2",        "llama-bpe", "smollm",    "qwen2",           "falcon",
    "deepseek-llm", "qwen35",    "jais-2",    "deepseek-coder",  "deepseek-v3",
    "youtu",        "bloom",     "viking",    "tekken",          "gpt-4o",
    "tiny_aya",     "kimi-k2",   "superbpe",  "bailingmoe",      "seed-coder",
    "exaone-moe",   "afmoe",     "minicpm5",  "laguna",          "ufakzeka",
    "spark2_5",     "mpt",       "command-r", "deepseek-r1-qwen"};
enum { N_PRE_NAMES = sizeof pre_names / sizeof *pre_names };

START_TEST(every_pretokenizer_gives_the_original_ids)
{
    const char *pre = pre_names[_i];
    char outputs[200];
    struct tokenizer *t = open_file(BPE_VOCAB ".gguf", pre);
    snprintf(outputs, sizeof outputs, BPE_VOCAB ".%s.out", pre);
    ck_assert_str_eq(tokenizer_pre_name(t), pre);
    ck_assert_int_ge(check_vectors(t, BPE_VOCAB ".inp", outputs), 80);
    tokenizer_free(t);
}
END_TEST

static const char *const pairs[][2] = {{"gpt2", "gpt-2"},
                                       {"jais", "gpt-2"},
                                       {"phi-2", "gpt-2"},
                                       {"llama3", "llama-bpe"},
                                       {"refact", "smollm"},
                                       {"starcoder", "smollm"},
                                       {"llama-v3", "llama-bpe"},
                                       {"stablelm2", "qwen2"},
                                       {"falcon3", "llama-bpe"},
                                       {"midm-2.0", "llama-bpe"},
                                       {"a.x-4.0", "gpt-2"},
                                       {"mellum", "gpt-2"},
                                       {"kormo", "deepseek-r1-qwen"},
                                       {"hunyuan", "deepseek-r1-qwen"},
                                       {"glm4", "llama-bpe"},
                                       {"olmo", "mpt"},
                                       {"exaone", "smollm"},
                                       {"minerva-7b", "smollm"},
                                       {"llama4", "gpt-4o"},
                                       {"poro-chat", "bloom"},
                                       {"hunyuan-dense", "deepseek-v3"}};
enum { N_ALIASES = sizeof pairs / sizeof *pairs };

START_TEST(aliases_give_the_ids_of_the_usual_name)
{
    char outputs[200];
    struct tokenizer *t = open_file(BPE_VOCAB ".gguf", pairs[_i][0]);
    snprintf(outputs, sizeof outputs, BPE_VOCAB ".%s.out", pairs[_i][1]);
    check_vectors(t, BPE_VOCAB ".inp", outputs);
    tokenizer_free(t);
}
END_TEST

START_TEST(further_vocabularies_give_the_original_ids)
{
    const char *folder =
        getenv("WINNOW_TEST_VOCABS") ? getenv("WINNOW_TEST_VOCABS") : "../shared/vocabs";
    DIR *directory = opendir(folder);
    if (!directory) {
        printf("SKIPPED: no folder %s with further vocabularies (set WINNOW_TEST_VOCABS)\n",
               folder);
        return;
    }
    struct dirent *entry;
    int n_files = 0;
    while ((entry = readdir(directory)) != NULL) {
        size_t length = strlen(entry->d_name);
        if (strncmp(entry->d_name, "ggml-vocab-", 11) != 0 || length < 5 ||
            strcmp(entry->d_name + length - 5, ".gguf") != 0)
            continue;
        char path[600], inputs[640], outputs[640];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        snprintf(inputs, sizeof inputs, "%s.inp", path);
        snprintf(outputs, sizeof outputs, "%s.out", path);
        struct tokenizer *t = open_file(path, NULL);
        check_vectors(t, inputs, outputs);
        tokenizer_free(t);
        n_files++;
    }
    closedir(directory);
    if (n_files == 0)
        printf("SKIPPED: %s has no ggml-vocab-*.gguf\n", folder);
}
END_TEST

static void expect_round_trip(const struct tokenizer *t, const char *text, size_t length,
                              bool parse_special)
{
    struct tokens list = {0};
    struct error e;
    size_t decoded_length;
    ck_assert(tokenizer_encode_text(t, text, length, parse_special, false, &list, &e));
    char *decoded = tokenizer_decode(t, list.data, list.count, true, true, &decoded_length);
    ck_assert_uint_eq(decoded_length, length);
    ck_assert_mem_eq(decoded, text, length);
    free(decoded);
    tokens_free(&list);
}

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

START_TEST(any_bytes_come_back_from_byte_level_bpe)
{
    struct tokenizer *t = open_file(BPE_VOCAB ".gguf", pre_names[_i]);
    uint32_t state = 1 + (uint32_t)_i;
    static const char pieces[][8] = {
        " ", "\n", "the", "\xF0\x9F\xA6\x99", "\xFF", "\xE2\x96\x81", "<|im_", "7", "'s"};
    for (int round = 0; round < 300; round++) {
        char text[400];
        size_t length = 0, wanted = next_random(&state) % 300;
        while (length < wanted) {
            if (next_random(&state) % 2) {
                const char *piece = pieces[next_random(&state) % (sizeof pieces / sizeof *pieces)];
                memcpy(text + length, piece, strlen(piece));
                length += strlen(piece);
            } else {
                text[length++] = (char)next_random(&state);
            }
        }
        expect_round_trip(t, text, length, round % 2);
    }
    tokenizer_free(t);
}
END_TEST

START_TEST(any_bytes_come_back_from_byte_fallback)
{
    struct tokenizer *t = open_file(SPM_VOCAB ".gguf", NULL);
    uint32_t state = 3;
    for (int round = 0; round < 300; round++) {
        char text[300];
        size_t length = next_random(&state) % sizeof text;
        for (size_t i = 0; i < length; i++)
            text[i] = (char)next_random(&state);
        if (!memmem(text, length, "\xE2\x96\x81", 3)) /* which means a space */
            expect_round_trip(t, text, length, false);
    }
    tokenizer_free(t);
}
END_TEST

/* The words that pre-tokenizers cannot cut, and the runs that could make a pattern backtrack for
 * ever: a quadratic step would run into the test's time limit. */
START_TEST(a_megabyte_without_a_break_is_tokenized)
{
    static const char *const patterns[] = {"a",   " ",          "\n",       "9",    "!",
                                           " \n", "<|im_end|>", "\xD0\xB0", "\xC0", "ab"};
    size_t length = 1 << 20;
    char *text = malloc(length + 8);
    ck_assert_ptr_nonnull(text);
    struct tokenizer *t = _i == 0 ? open_file(SPM_VOCAB ".gguf", NULL)
                                  : open_file(BPE_VOCAB ".gguf", pre_names[_i - 1]);
    for (size_t p = 0; p < sizeof patterns / sizeof *patterns; p++) {
        size_t step = strlen(patterns[p]), used = 0;
        while (used + step <= length) {
            memcpy(text + used, patterns[p], step);
            used += step;
        }
        memcpy(text + used, "\xF0\x9F\xA6\x99", 4); /* so that no run ends with the text */
        expect_round_trip(t, text, used + 4, false);
    }
    tokenizer_free(t);
    free(text);
}
END_TEST

static void expect_marked(const struct tokenizer *t, const char *text, const uint8_t *special,
                          const char *ids)
{
    struct tokens list = {0};
    struct error e;
    char got[400] = "";
    size_t used = 0;
    ck_assert(tokenizer_encode(t, text, strlen(text), special, &list, &e));
    for (size_t i = 0; i < list.count && used < sizeof got - 20; i++)
        used += (size_t)snprintf(got + used, sizeof got - used, i ? " %d" : "%d", list.data[i]);
    ck_assert_str_eq(got, ids);
    tokens_free(&list);
}

/* Ids of the small vocabulary: 3256 <|endoftext|>, 3257 <|im_start|>, 3258 <|im_end|>, 3259
 * <|im_end|><|x|>, and user-defined 3260 <tool>, 3261 "<tool>\n"; 64 is "a". */
START_TEST(control_tokens_are_recognised_only_where_every_byte_is_marked)
{
    struct tokenizer *t = open_file(BPE_VOCAB ".gguf", NULL);
    const char *text = "a<|im_end|>a";
    size_t n = strlen(text);
    uint8_t marks[32];
    memset(marks, 1, sizeof marks);
    expect_marked(t, text, marks, "64 3258 64");
    for (size_t hole = 1; hole + 1 < n; hole++) {
        struct tokens list = {0};
        struct error e;
        memset(marks, 1, sizeof marks);
        marks[hole] = 0;
        ck_assert(tokenizer_encode(t, text, n, marks, &list, &e));
        for (size_t i = 0; i < list.count; i++)
            ck_assert_int_lt(list.data[i], 3256);
        tokens_free(&list);
    }
    memset(marks, 0, sizeof marks);
    memset(marks + 1, 1, n - 2);
    expect_marked(t, text, marks, "64 3258 64");
    tokenizer_free(t);
}
END_TEST

START_TEST(the_longest_special_token_wins_and_user_defined_ones_need_no_marks)
{
    struct tokenizer *t = open_file(BPE_VOCAB ".gguf", NULL);
    uint8_t marks[64];
    memset(marks, 1, sizeof marks);
    expect_marked(t, "<|im_end|><|x|>", marks, "3259");
    expect_marked(t, "a<tool>\n<tool>a", NULL, "64 3261 3260 64");
    marks[10] = 0; /* the longer match has an unmarked byte, the shorter has none */
    struct tokens list = {0};
    struct error e;
    ck_assert(tokenizer_encode(t, "<|im_end|><|x|>", 15, marks, &list, &e));
    ck_assert_int_eq(list.data[0], 3258);
    ck_assert_uint_gt(list.count, 1);
    tokens_free(&list);
    tokenizer_free(t);
}
END_TEST

/* A SentencePiece vocabulary in which "<s>" could be merged from its characters. */
static void begin_spm(struct builder *g, const char *architecture)
{
    static const char *const texts[] = {"<unk>", "<s>",     "</s>", "<",
                                        "s",     ">",       "<s",   "\xE2\x96\x81",
                                        "a",     "<|end|>", "\n",   "\xE2\x96\x81\x61",
                                        "aa"};
    static const float scores[] = {0, 0, 0, -1, -2, -3, -4, -5, -6, 0, -7, -8, -9};
    static const int32_t kinds[] = {2, 3, 3, 1, 1, 1, 1, 1, 1, 3, 1, 1, 1};
    memset(g, 0, sizeof *g);
    add_string(g, "general.architecture", architecture);
    add_string(g, "tokenizer.ggml.model", "llama");
    add_strings(g, "tokenizer.ggml.tokens", texts, 13);
    add_array(g, "tokenizer.ggml.token_type", SOURCE_INT32, 13);
    put(&g->body, kinds, sizeof kinds);
    add_array(g, "tokenizer.ggml.scores", SOURCE_FLOAT32, 13);
    put(&g->body, scores, sizeof scores);
}

START_TEST(plain_text_cannot_spell_a_control_token)
{
    struct builder g;
    struct error e = {0};
    begin_spm(&g, "llama");
    add_bool(&g, "tokenizer.ggml.add_space_prefix", false);
    struct tokenizer *t = build(&g, &e);
    ck_assert_msg(t != NULL, "%s", e.message);
    expect_marked(t, "<s>", NULL, "6 5");
    uint8_t marks[] = {1, 1, 1};
    expect_marked(t, "<s>", marks, "1");
    expect_marked(t, "a\xFFz\xE4", NULL, "8 0"); /* no byte tokens: one unknown token for a run */
    ck_assert_int_eq(tokenizer_bos(t), 1);
    ck_assert_int_eq(tokenizer_eos(t), 2);
    ck_assert(tokenizer_is_end(t, 2) && tokenizer_is_end(t, 9) && !tokenizer_is_end(t, 1));
    ck_assert(tokenizer_adds_bos(t) && !tokenizer_adds_space_prefix(t));
    tokenizer_free(t);
}
END_TEST

/* A chat vocabulary whose markers have that kind; a template that names "<|custom|>". */
static struct tokenizer *with_markers(int32_t kind)
{
    static const char *const texts[] = {"<unk>",      "<s>",        "</s>",      "<|im_start|>",
                                        "<|im_end|>", "<|custom|>", "<|other|>", "<think>",
                                        "[INST]",     "a",          "\n",        "<|stop|>"};
    float scores[12] = {0};
    int32_t kinds[12] = {2, 3, 3, kind, kind, kind, kind, kind, kind, 1, 1, kind};
    struct builder g = {0};
    struct error e = {0};
    add_string(&g, "general.architecture", "llama");
    add_string(&g, "tokenizer.ggml.model", "llama");
    add_strings(&g, "tokenizer.ggml.tokens", texts, 12);
    add_array(&g, "tokenizer.ggml.token_type", SOURCE_INT32, 12);
    put(&g.body, kinds, sizeof kinds);
    add_array(&g, "tokenizer.ggml.scores", SOURCE_FLOAT32, 12);
    put(&g.body, scores, sizeof scores);
    add_u32(&g, "tokenizer.ggml.eot_token_id", 11);
    add_u32(&g, "tokenizer.ggml.eom_token_id", 10); /* a word that ends answers, too */
    add_bool(&g, "tokenizer.ggml.add_space_prefix", false);
    add_string(&g, "tokenizer.chat_template", "{{ '<|custom|>[INST]<think>' }}");
    struct tokenizer *t = build(&g, &e);
    ck_assert_msg(t != NULL, "%s", e.message);
    return t;
}

START_TEST(turn_markers_are_control_tokens_whatever_the_file_says)
{
    static const int32_t kinds[] = {TOKEN_NORMAL, TOKEN_USER_DEFINED, TOKEN_CONTROL};
    static const int32_t controls[] = {3, 4, 5, 8, 11};
    struct tokenizer *t = with_markers(kinds[_i]);
    for (size_t i = 0; i < sizeof controls / sizeof *controls; i++) {
        size_t n, length;
        const char *text = tokenizer_text(t, controls[i], &length);
        ck_assert_msg(tokenizer_kind(t, controls[i]) == TOKEN_CONTROL, "%.*s", (int)length, text);
        (void)tokenizer_bytes(t, controls[i], false, &n);
        ck_assert_uint_eq(n, 0); /* answers do not show it */
        struct tokens list = {0};
        struct error e;
        ck_assert(tokenizer_encode(t, text, length, NULL, &list, &e));
        for (size_t k = 0; k < list.count; k++)
            ck_assert_int_ne(list.data[k], controls[i]); /* and content cannot write it */
        tokens_free(&list);
        uint8_t marks[64];
        memset(marks, 1, sizeof marks);
        ck_assert(tokenizer_encode(t, text, length, marks, &list, &e));
        ck_assert_uint_eq(list.count, 1);
        ck_assert_int_eq(list.data[0], controls[i]); /* the template can */
        tokens_free(&list);
    }
    ck_assert(tokenizer_is_end(t, 2) && tokenizer_is_end(t, 4) && tokenizer_is_end(t, 11));
    ck_assert(!tokenizer_is_end(t, 3) && !tokenizer_is_end(t, 5));
    /* What no template and no key names stays what the file says; so does text that is shown. */
    ck_assert_int_eq(tokenizer_kind(t, 6), kinds[_i]);
    ck_assert_int_eq(tokenizer_kind(t, 7), kinds[_i]);
    ck_assert_int_eq(tokenizer_kind(t, 10), TOKEN_NORMAL);
    ck_assert(tokenizer_is_end(t, 10));
    tokenizer_free(t);
}
END_TEST

START_TEST(the_space_prefix_stands_before_every_stretch_of_text)
{
    struct builder g;
    struct error e = {0};
    begin_spm(&g, "llama");
    struct tokenizer *t = build(&g, &e);
    ck_assert_msg(t != NULL, "%s", e.message);
    uint8_t marks[32];
    memset(marks, 1, sizeof marks);
    expect_marked(t, "", marks, "");
    expect_marked(t, "aa", NULL, "11 8"); /* the token "_a" outranks "aa" */
    expect_marked(t, "a<|end|>a", marks, "11 9 11");
    expect_marked(t, "<|end|>\n", marks, "9 7 10");
    tokenizer_free(t);
    begin_spm(&g, "phi3"); /* whose special tokens swallow the white space after them */
    t = build(&g, &e);
    ck_assert_msg(t != NULL, "%s", e.message);
    expect_marked(t, "<|end|>\n \na", marks, "9 11");
    expect_marked(t, "<s>\n", marks, "1 7 10");
    tokenizer_free(t);
}
END_TEST

START_TEST(bos_and_eos_are_added_as_the_model_says)
{
    struct builder g;
    struct error e = {0};
    for (int flags = 0; flags < 4; flags++) {
        begin_spm(&g, "llama");
        add_bool(&g, "tokenizer.ggml.add_bos_token", flags & 1);
        add_bool(&g, "tokenizer.ggml.add_eos_token", flags & 2);
        struct tokenizer *t = build(&g, &e);
        struct tokens list = {0};
        ck_assert(tokenizer_encode_text(t, "a", 1, false, true, &list, &e));
        ck_assert_uint_eq(list.count, 1u + (flags & 1) + (flags >> 1));
        ck_assert_int_eq(list.data[0], flags & 1 ? 1 : 11);
        ck_assert_int_eq(list.data[list.count - 1], flags & 2 ? 2 : 11);
        list.count = 0;
        ck_assert(tokenizer_encode_text(t, "a", 1, false, false, &list, &e));
        ck_assert_uint_eq(list.count, 1);
        tokens_free(&list);
        tokenizer_free(t);
    }
    struct tokenizer *t = open_file(BPE_VOCAB ".gguf", NULL);
    ck_assert(!tokenizer_adds_bos(t) && !tokenizer_adds_space_prefix(t));
    ck_assert(tokenizer_is_end(t, 3256) && tokenizer_is_end(t, 3258) && !tokenizer_is_end(t, 3257));
    tokenizer_free(t);
    t = open_file(BPE_VOCAB ".gguf", "llama-bpe");
    ck_assert(tokenizer_adds_bos(t));
    tokenizer_free(t);
}
END_TEST

START_TEST(a_prompt_has_one_bos_and_never_eos)
{
    struct builder g;
    struct error e = {0};
    begin_spm(&g, "llama");
    add_bool(&g, "tokenizer.ggml.add_eos_token", true);
    struct tokenizer *t = build(&g, &e);
    struct tokens list = {0};
    ck_assert_msg(t != NULL, "%s", e.message);
    ck_assert(tokenizer_encode_prompt(t, "a", 1, true, true, &list, &e));
    ck_assert_uint_eq(list.count, 2); /* BOS and the word */
    ck_assert_int_eq(list.data[0], 1);
    list.count = 0;
    ck_assert(tokenizer_encode_prompt(t, "<s>a", 4, true, true, &list, &e));
    ck_assert_uint_eq(list.count, 2); /* the text's own BOS */
    ck_assert_int_eq(list.data[0], 1);
    list.count = 0;
    ck_assert(tokenizer_encode_prompt(t, "a", 1, true, false, &list, &e));
    ck_assert_uint_eq(list.count, 1);
    list.count = 0;
    ck_assert(tokenizer_encode_prompt(t, "<s>", 3, false, true, &list, &e));
    ck_assert_int_eq(list.data[0], 1); /* here the text has letters, no BOS */
    ck_assert_uint_gt(list.count, 1);
    list.count = 0;
    ck_assert(tokenizer_encode_text(t, "<s>a", 4, true, true, &list, &e));
    ck_assert_uint_eq(list.count, 3);
    ck_assert_int_eq(list.data[0], 1);
    ck_assert_int_eq(list.data[2], 2);
    tokens_free(&list);
    tokenizer_free(t);
}
END_TEST

START_TEST(tokens_know_their_bytes_text_and_kind)
{
    struct tokenizer *t = open_file(SPM_VOCAB ".gguf", NULL);
    size_t n;
    ck_assert_mem_eq(tokenizer_bytes(t, 15043, false, &n), " Hello", 6);
    ck_assert_uint_eq(n, 6);
    ck_assert_mem_eq(tokenizer_text(t, 15043, &n), "\xE2\x96\x81Hello", 8);
    ck_assert_uint_eq(n, 8);
    ck_assert_mem_eq(tokenizer_bytes(t, 13, false, &n), "\n", 1);
    ck_assert_uint_eq(n, 1);
    (void)tokenizer_bytes(t, 1, false, &n);
    ck_assert_uint_eq(n, 0);
    ck_assert_mem_eq(tokenizer_bytes(t, 1, true, &n), "<s>", 3);
    ck_assert_uint_eq(n, 3);
    ck_assert_int_eq(tokenizer_kind(t, 1), TOKEN_CONTROL);
    ck_assert_int_eq(tokenizer_kind(t, 13), TOKEN_BYTE);
    ck_assert_int_eq(tokenizer_n_vocab(t), 32000);
    ck_assert_int_eq(tokenizer_pad(t), -1);
    for (int32_t i = 0; i < 32000; i += 7) {
        const char *text = tokenizer_text(t, i, &n);
        ck_assert_int_eq(tokenizer_find(t, text, n), i);
    }
    ck_assert_int_eq(tokenizer_find(t, "no such token", 13), -1);
    ck_assert_str_eq(tokenizer_model_name(t), "llama");
    const int32_t hello[] = {1, 15043, 3186};
    char *text = tokenizer_decode(t, hello, 3, false, true, &n);
    ck_assert_str_eq(text, "Hello world");
    free(text);
    text = tokenizer_decode(t, hello, 3, true, false, &n);
    ck_assert_str_eq(text, "<s> Hello world");
    free(text);
    tokenizer_free(t);
}
END_TEST

static void expect_refusal(struct builder *g, const char *what)
{
    struct error e = {0};
    struct tokenizer *t = build(g, &e);
    ck_assert_msg(t == NULL, "a vocabulary with %s was accepted", what);
    ck_assert_str_eq(e.code, "invalid_model");
    char said[900];
    snprintf(said, sizeof said, "%s: %s", e.where, e.message);
    ck_assert_msg(strstr(said, what) != NULL, "\"%s\" does not say \"%s\"", said, what);
}

static void begin_bpe(struct builder *g, const char *pre, const char *merge)
{
    static const char *const texts[] = {"a", "b", "ab", "<|end|>"};
    memset(g, 0, sizeof *g);
    add_string(g, "tokenizer.ggml.model", "gpt2");
    add_string(g, "tokenizer.ggml.pre", pre);
    add_strings(g, "tokenizer.ggml.tokens", texts, 4);
    add_strings(g, "tokenizer.ggml.merges", &merge, 1);
}

START_TEST(broken_vocabularies_are_refused_by_name)
{
    struct builder g;
    struct error e = {0};
    memset(&g, 0, sizeof g);
    add_string(&g, "tokenizer.ggml.model", "bert");
    expect_refusal(&g, "\"bert\"");
    begin_bpe(&g, "martian", "a b");
    expect_refusal(&g, "\"martian\" is not supported; winnow has: default gpt-2");
    begin_bpe(&g, "gpt-2 gpt2", "a b");
    expect_refusal(&g, "is not supported");
    static const char *const bad_merges[] = {"ab", "", " ", "a ", " b", "a c", "b b"};
    for (size_t i = 0; i < sizeof bad_merges / sizeof *bad_merges; i++) {
        begin_bpe(&g, "gpt-2", bad_merges[i]);
        expect_refusal(&g, "tokenizer.ggml.merges: merge 0");
    }
    static const char *const id_keys[] = {
        "tokenizer.ggml.bos_token_id",     "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.padding_token_id", "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.eom_token_id"};
    for (size_t i = 0; i < sizeof id_keys / sizeof *id_keys; i++) {
        begin_bpe(&g, "gpt-2", "a b");
        add_u32(&g, id_keys[i], 4);
        expect_refusal(&g, "token id 4 is outside the vocabulary of 4 tokens");
    }
    begin_bpe(&g, "gpt-2", "a b");
    struct tokenizer *t = build(&g, &e);
    ck_assert_msg(t != NULL, "%s", e.message);
    expect_marked(t, "abcab", NULL, "2 2"); /* "c" has no token */
    tokenizer_free(t);
}
END_TEST

START_TEST(broken_scores_and_kinds_are_refused)
{
    static const char *const texts[] = {"a", "b"};
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 6; i++) {
        struct builder g = {0};
        float scores[] = {0, i < 3 ? bad[i] : 1};
        int32_t kinds[] = {1, i == 3 ? 7 : i == 4 ? -1 : 1};
        add_string(&g, "tokenizer.ggml.model", "llama");
        add_strings(&g, "tokenizer.ggml.tokens", texts, 2);
        add_array(&g, "tokenizer.ggml.token_type", SOURCE_INT32, 2);
        put(&g.body, kinds, sizeof kinds);
        add_array(&g, "tokenizer.ggml.scores", SOURCE_FLOAT32, i == 5 ? 1 : 2);
        put(&g.body, scores, i == 5 ? 4 : 8);
        expect_refusal(&g, i < 3   ? "score of token 1"
                           : i < 5 ? "token 1 has no kind"
                                   : "one score for each");
    }
    struct builder g = {0};
    add_string(&g, "tokenizer.ggml.model", "llama");
    add_strings(&g, "tokenizer.ggml.tokens", texts, 0);
    expect_refusal(&g, "0 tokens");
}
END_TEST

/* The rule in its plainest form: again and again merge the pair of the lowest rank, of equals the
 * leftmost. */
static size_t merge_plainly(const uint32_t rank[8][8], const int32_t merged[8][8], int32_t *word,
                            size_t n)
{
    for (;;) {
        size_t best = SIZE_MAX;
        for (size_t i = 0; i + 1 < n; i++)
            if (merged[word[i]][word[i + 1]] >= 0 &&
                (best == SIZE_MAX || rank[word[i]][word[i + 1]] < rank[word[best]][word[best + 1]]))
                best = i;
        if (best == SIZE_MAX)
            return n;
        word[best] = merged[word[best]][word[best + 1]];
        memmove(word + best + 1, word + best + 2, (n - best - 2) * sizeof *word);
        n--;
    }
}

START_TEST(merging_follows_the_plain_rule_at_every_length)
{
    uint32_t state = 99, rank[8][8];
    int32_t merged[8][8], expected[300];
    for (int round = 0; round < 2000; round++) {
        struct merge_table table;
        struct merge_scratch scratch = {0};
        ck_assert(merge_table_init(&table, 1)); /* small, so that it grows */
        for (int a = 0; a < 8; a++)
            for (int b = 0; b < 8; b++) {
                rank[a][b] = next_random(&state) % 20; /* equal ranks are common */
                merged[a][b] = next_random(&state) % 3 ? -1 : (int32_t)(next_random(&state) % 8);
                if (merged[a][b] >= 0)
                    ck_assert(merge_table_add(&table, a, b, rank[a][b], merged[a][b]));
            }
        size_t n = next_random(&state) % (round % 4 ? 40 : 300);
        for (size_t i = 0; i < n; i++) {
            expected[i] = (int32_t)(next_random(&state) % 8);
            ck_assert(merge_scratch_push(&scratch, expected[i], (uint32_t)i));
        }
        ck_assert(merge_word(&table, &scratch));
        n = merge_plainly(rank, merged, expected, n);
        ck_assert_uint_eq(scratch.count, n);
        for (size_t i = 0; i < n; i++) {
            ck_assert_int_eq(scratch.symbols[i].token, expected[i]);
            ck_assert(i == 0 || scratch.symbols[i].start > scratch.symbols[i - 1].start);
        }
        merge_scratch_free(&scratch);
        merge_table_free(&table);
    }
}
END_TEST

/* A vocabulary whose tokens have spaces inside must merge across words; the answer differs from
 * word by word. */
START_TEST(tokens_with_inner_spaces_are_merged_across_words)
{
    static const char *const texts[] = {"a", "\xE2\x96\x81", "\xE2\x96\x81\x61", "a\xE2\x96\x81",
                                        "<unk>"};
    const float scores[] = {-9, -9, -2, -1, 0};
    struct builder g = {0};
    struct error e = {0};
    add_string(&g, "tokenizer.ggml.model", "llama");
    add_strings(&g, "tokenizer.ggml.tokens", texts, 5);
    add_array(&g, "tokenizer.ggml.scores", SOURCE_FLOAT32, 5);
    put(&g.body, scores, sizeof scores);
    add_bool(&g, "tokenizer.ggml.add_space_prefix", false);
    struct tokenizer *t = build(&g, &e);
    ck_assert_msg(t != NULL, "%s", e.message);
    expect_marked(t, "a a a", NULL, "3 3 0");
    tokenizer_free(t);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tokenizer");
    TCase *rules = suite_case(suite, "tokenizer", 120);
    int n_pre = (int)(sizeof pre_names / sizeof *pre_names);
    tcase_add_test(rules, sentencepiece_gives_the_original_ids);
    tcase_add_loop_test(rules, every_pretokenizer_gives_the_original_ids, 0, n_pre);
    tcase_add_loop_test(rules, aliases_give_the_ids_of_the_usual_name, 0, N_ALIASES);
    tcase_add_test(rules, further_vocabularies_give_the_original_ids);
    tcase_add_loop_test(rules, any_bytes_come_back_from_byte_level_bpe, 0, n_pre);
    tcase_add_test(rules, any_bytes_come_back_from_byte_fallback);
    tcase_add_loop_test(rules, a_megabyte_without_a_break_is_tokenized, 0, n_pre + 1);
    tcase_add_test(rules, control_tokens_are_recognised_only_where_every_byte_is_marked);
    tcase_add_test(rules, the_longest_special_token_wins_and_user_defined_ones_need_no_marks);
    tcase_add_test(rules, plain_text_cannot_spell_a_control_token);
    tcase_add_test(rules, a_prompt_has_one_bos_and_never_eos);
    tcase_add_loop_test(rules, turn_markers_are_control_tokens_whatever_the_file_says, 0, 3);
    tcase_add_test(rules, the_space_prefix_stands_before_every_stretch_of_text);
    tcase_add_test(rules, bos_and_eos_are_added_as_the_model_says);
    tcase_add_test(rules, tokens_know_their_bytes_text_and_kind);
    tcase_add_test(rules, broken_vocabularies_are_refused_by_name);
    tcase_add_test(rules, broken_scores_and_kinds_are_refused);
    tcase_add_test(rules, merging_follows_the_plain_rule_at_every_length);
    tcase_add_test(rules, tokens_with_inner_spaces_are_merged_across_words);
    return suite_run(suite);
}
