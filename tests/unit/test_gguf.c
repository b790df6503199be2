/* The reader of GGUF files: what a good file gives back, and that every number that a bad file can
 * lie about is refused, just outside its range, with a message that names it. */
#include "engine/model/gguf.h"
#include "tests/suite.h"

#include <math.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/gguf_builder.h"

static const uint64_t eight[] = {8};
static const uint64_t rows[] = {32, 2};

/* Every value type, two tensors, the data: the file that the others are mutations of. */
static void build_good(struct builder *b, uint32_t version)
{
    put_header(b, version, 2, 17);
    put_key_text(b, "general.architecture", "llama");
    put_key_u32(b, "general.alignment", 32);
    put_key(b, "u8", SOURCE_UINT8);
    put_u8(b, 255);
    put_key(b, "i8", SOURCE_INT8);
    put_u8(b, 0x80);
    put_key(b, "u16", SOURCE_UINT16);
    put(b, "\xff\xff", 2);
    put_key(b, "i16", SOURCE_INT16);
    put(b, "\xfe\xff", 2);
    put_key(b, "u32", SOURCE_UINT32);
    put_u32(b, 0xffffffff);
    put_key(b, "i32", SOURCE_INT32);
    put_u32(b, 0xfffffffd);
    put_key(b, "u64", SOURCE_UINT64);
    put_u64(b, 1ull << 63);
    put_key(b, "i64", SOURCE_INT64);
    put_u64(b, 1ull << 63);
    put_key_f32(b, "f32", 0.5f);
    put_key(b, "f64", SOURCE_FLOAT64);
    double d = -0.25;
    put(b, &d, 8);
    put_key(b, "yes", SOURCE_BOOL);
    put_u8(b, 1);
    put_key_f32(b, "nan", NAN);
    put_key(b, "words", SOURCE_ARRAY);
    put_u32(b, SOURCE_STRING);
    put_u64(b, 3);
    put_text(b, "a");
    put_text(b, "");
    put_text(b, "ccc");
    put_key(b, "numbers", SOURCE_ARRAY);
    put_u32(b, SOURCE_INT32);
    put_u64(b, 2);
    put_u32(b, 7);
    put_u32(b, 0xffffffff);
    put_key(b, "empty", SOURCE_ARRAY);
    put_u32(b, SOURCE_FLOAT32);
    put_u64(b, 0);
    put_tensor(b, "first", 1, eight, TENSOR_F32, 0);
    put_tensor(b, "second", 2, rows, TENSOR_Q8_0, 32);
    put_padding(b, 32);
    put_zeros(b, 32 + 68);
}

/* Opens what was built; the bytes are freed with the answer by close_built. */
struct opened {
    uint8_t *bytes;
    struct model_source *g;
    struct error e;
};

static struct opened open_built(struct builder *b)
{
    struct opened o = {0};
    size_t n = b->n;
    o.bytes = built(b);
    o.g = gguf_open_memory(o.bytes, n, &o.e);
    return o;
}

static void close_built(struct opened *o)
{
    source_close(o->g);
    free(o->bytes);
}

static void refused(struct builder *b, const char *says)
{
    struct opened o = open_built(b);
    ck_assert_msg(!o.g, "accepted; wanted a refusal with '%s'", says);
    ck_assert_str_eq(o.e.code, "invalid_model");
    ck_assert_msg(strstr(o.e.message, says) != NULL, "'%s' is not in '%s'", says, o.e.message);
    close_built(&o);
}

static void accepted(struct builder *b)
{
    struct opened o = open_built(b);
    ck_assert_msg(o.g != NULL, "refused: %s", o.e.message);
    close_built(&o);
}

/* A file with one key of `type`; the caller appends the value. */
static struct builder one_value(uint32_t type)
{
    struct builder b = {0};
    put_header(&b, 3, 0, 1);
    put_key(&b, "k", type);
    return b;
}

/* A file of one tensor with 64 KiB of data. */
static struct builder one_tensor(uint32_t n_dims, const uint64_t *shape, uint32_t type,
                                 uint64_t offset)
{
    struct builder b = {0};
    put_header(&b, 3, 1, 0);
    put_tensor(&b, "t", n_dims, shape, type, offset);
    put_padding(&b, 32);
    put_zeros(&b, 65536);
    return b;
}

START_TEST(a_good_file_gives_back_what_was_written)
{
    struct builder b = {0};
    build_good(&b, _i == 0 ? 2 : 3);
    size_t n = b.n;
    struct opened o = open_built(&b);
    ck_assert_msg(o.g != NULL, "%s", o.e.message);
    char described[64];
    ck_assert_str_eq(source_describe(o.g, described),
                     _i == 0 ? "GGUF version 2" : "GGUF version 3");
    ck_assert_uint_eq(source_bytes(o.g), n);
    ck_assert_uint_eq(source_n_keys(o.g), 17);
    ck_assert_uint_eq(source_n_tensors(o.g), 2);
    struct source_text s = source_value_at(o.g, 1).key;
    ck_assert(s.length == 17 && !memcmp(s.data, "general.alignment", 17));
    ck_assert(source_get_text(o.g, "general.architecture", &s, &o.e));
    ck_assert(s.length == 5 && !memcmp(s.data, "llama", 5));

    const struct source_tensor *t = source_tensor(o.g, "second");
    ck_assert_ptr_eq(t, source_tensor_at(o.g, 1));
    ck_assert_uint_eq(t->n_dims, 2);
    ck_assert(t->shape[0] == 32 && t->shape[1] == 2 && t->shape[2] == 1 && t->shape[3] == 1);
    ck_assert_uint_eq(t->size_bytes, 68);
    ck_assert_ptr_eq(t->data, o.bytes + n - 68);
    ck_assert_ptr_eq(source_tensor(o.g, "first")->data, o.bytes + n - 100);
    ck_assert_ptr_null(source_tensor(o.g, "firs"));
    ck_assert_ptr_null(source_tensor(o.g, "first1"));
    ck_assert_ptr_null(source_tensor(o.g, ""));
    close_built(&o);
}
END_TEST

START_TEST(integers_of_every_width_keep_their_sign)
{
    static const struct {
        const char *key;
        int64_t value;
    } cases[] = {{"u8", 255},         {"i8", -128}, {"u16", 65535},     {"i16", -2},
                 {"u32", 0xffffffff}, {"i32", -3},  {"i64", INT64_MIN}, {"general.alignment", 32}};
    struct builder b = {0};
    build_good(&b, 3);
    struct opened o = open_built(&b);
    ck_assert_ptr_nonnull(o.g);
    int64_t v = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t right = cases[i].value;
        ck_assert(source_get_int(o.g, cases[i].key, INT64_MIN, INT64_MAX, &v, &o.e));
        ck_assert_int_eq(v, right);
        ck_assert(source_get_int(o.g, cases[i].key, right, right, &v, &o.e));
        ck_assert(!source_get_int(o.g, cases[i].key, right + 1, INT64_MAX, &v, &o.e));
        if (right > INT64_MIN)
            ck_assert(!source_get_int(o.g, cases[i].key, INT64_MIN, right - 1, &v, &o.e));
    }
    /* 2^63 does not fit an int64 and is not wrapped into one. */
    ck_assert(!source_get_int(o.g, "u64", INT64_MIN, INT64_MAX, &v, &o.e));
    close_built(&o);
}
END_TEST

START_TEST(a_read_of_another_kind_is_refused)
{
    static const char *const keys[] = {
        "general.architecture", "u8", "f32", "yes", "words", "numbers", "absent"};
    enum { TEXT, INT, REAL, BOOLEAN, WORDS, NUMBERS, ABSENT };
    struct builder b = {0};
    build_good(&b, 3);
    struct opened o = open_built(&b);
    ck_assert_ptr_nonnull(o.g);
    int64_t i;
    double d;
    bool y;
    struct source_text s;
    struct source_value a;
    for (int k = TEXT; k <= ABSENT; k++) {
        ck_assert(source_get_int(o.g, keys[k], INT64_MIN, INT64_MAX, &i, &o.e) == (k == INT));
        ck_assert(source_get_double(o.g, keys[k], &d, &o.e) == (k == REAL));
        ck_assert(source_get_bool(o.g, keys[k], &y, &o.e) == (k == BOOLEAN));
        ck_assert(source_get_text(o.g, keys[k], &s, &o.e) == (k == TEXT));
        ck_assert(source_get_array(o.g, keys[k], SOURCE_STRING, &a, &o.e) == (k == WORDS));
        ck_assert(source_get_array(o.g, keys[k], SOURCE_INT32, &a, &o.e) == (k == NUMBERS));
        ck_assert(source_has(o.g, keys[k]) == (k != ABSENT));
    }
    ck_assert(source_get_double(o.g, "f64", &d, &o.e));
    ck_assert_double_eq(d, -0.25);
    ck_assert(!source_get_double(o.g, "nan", &d, &o.e));
    close_built(&o);
}
END_TEST

START_TEST(array_elements_end_where_the_count_says)
{
    struct builder b = {0};
    build_good(&b, 3);
    struct opened o = open_built(&b);
    ck_assert_ptr_nonnull(o.g);
    int64_t i;
    double d;
    struct source_text s;
    struct source_value words, numbers, empty, number;
    ck_assert(source_value(o.g, "words", &words) && source_value(o.g, "numbers", &numbers) &&
              source_value(o.g, "empty", &empty) && source_value(o.g, "u8", &number));
    ck_assert(words.type == SOURCE_ARRAY && words.element == SOURCE_STRING && words.count == 3);
    ck_assert(source_element_text(&words, 1, &s) && s.length == 0);
    ck_assert(source_element_text(&words, 2, &s) && s.length == 3);
    ck_assert(!source_element_text(&words, 3, &s));
    ck_assert(!source_element_text(&words, UINT64_MAX, &s));
    ck_assert(!source_element_text(&numbers, 0, &s));
    ck_assert(source_element_int(&numbers, 1, &i) && i == -1);
    ck_assert(!source_element_int(&numbers, 2, &i));
    ck_assert(!source_element_double(&numbers, 0, &d));
    ck_assert(!source_element_double(&empty, 0, &d));
    ck_assert(!source_element_int(&words, 0, &i));
    ck_assert(!source_element_int(&number, 0, &i));
    close_built(&o);
}
END_TEST

START_TEST(the_header_is_checked)
{
    static const struct {
        uint32_t version;
        uint64_t n_tensors, n_keys;
        const char *says;
    } cases[] = {
        {0, 0, 0, "version"},
        {1, 0, 0, "version"},
        {4, 0, 0, "version"},
        {UINT32_MAX, 0, 0, "version"},
        {0x02000000, 0, 0, "big-endian"},
        {0x03000000, 0, 0, "big-endian"},
        {3, 0, 1, "number of metadata entries"},
        {3, 0, 1ull << 63, "number of metadata entries"},
        {3, 0, UINT64_MAX, "number of metadata entries"},
        /* Counts whose table's size wraps around 2^64 to something small. */
        {3, 0, UINT64_MAX / 88 + 2, "number of metadata entries"},
        {3, 0, (1ull << 61) + 1, "number of metadata entries"},
        {3, 1, 0, "number of tensors"},
        {3, 1ull << 63, 0, "number of tensors"},
        {3, UINT64_MAX, 0, "number of tensors"},
        {3, UINT64_MAX / 80 + 2, 0, "number of tensors"},
        {3, (1ull << 60) + 1, 0, "number of tensors"},
    };
    struct builder b = {0};
    put_header(&b, cases[_i].version, cases[_i].n_tensors, cases[_i].n_keys);
    refused(&b, cases[_i].says);
}
END_TEST

START_TEST(the_magic_is_checked)
{
    struct builder b = {0};
    put_header(&b, 3, 0, 0);
    accepted(&b);
    for (size_t i = 0; i < 4; i++) {
        b = (struct builder){0};
        put_header(&b, 3, 0, 0);
        b.bytes[i] ^= 0x20;
        refused(&b, "does not begin with GGUF");
    }
}
END_TEST

START_TEST(string_lengths_end_inside_the_file)
{
    static const uint64_t lengths[] = {5,          1ull << 31,     1ull << 32,
                                       1ull << 63, UINT64_MAX - 3, UINT64_MAX};
    struct builder b = one_value(SOURCE_STRING);
    put_u64(&b, 4);
    put(&b, "four", 4);
    accepted(&b);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        b = one_value(SOURCE_STRING);
        put_u64(&b, lengths[i]);
        put(&b, "four", 4);
        refused(&b, "length of a string");

        b = one_value(SOURCE_ARRAY);
        put_u32(&b, SOURCE_STRING);
        put_u64(&b, 1);
        put_u64(&b, lengths[i]);
        put(&b, "four", 4);
        refused(&b, "length of a string");

        b = (struct builder){0};
        put_header(&b, 3, 0, 1);
        put_u64(&b, lengths[i] == 5 ? 64 : lengths[i]);
        put(&b, "four five six seven", 20);
        refused(&b, "length of a string");
    }
}
END_TEST

START_TEST(names_have_1_to_65535_bytes)
{
    char *name = malloc(65537);
    ck_assert_ptr_nonnull(name);
    memset(name, 'n', 65536);
    for (int as_tensor = 0; as_tensor < 2; as_tensor++)
        for (int i = 0; i < 4; i++) {
            static const size_t lengths[] = {1, 65535, 0, 65536};
            name[lengths[i]] = 0;
            struct builder b = {0};
            put_header(&b, 3, as_tensor ? 1 : 0, as_tensor ? 0 : 1);
            if (as_tensor)
                put_tensor(&b, name, 1, eight, TENSOR_F32, 0);
            else
                put_key_u32(&b, name, 1);
            put_padding(&b, 32);
            put_zeros(&b, 32);
            name[lengths[i]] = 'n';
            if (i < 2)
                accepted(&b);
            else
                refused(&b, "length of a name");
        }
    free(name);
}
END_TEST

START_TEST(types_are_known_ones)
{
    static const uint32_t wrong[] = {13, 255, 1u << 31, UINT32_MAX};
    for (size_t i = 0; i < 4; i++) {
        struct builder b = one_value(wrong[i]);
        put_zeros(&b, 64);
        refused(&b, "metadata type");
        b = one_value(SOURCE_ARRAY);
        put_u32(&b, wrong[i]);
        put_u64(&b, 1);
        put_zeros(&b, 64);
        refused(&b, "element type");
    }
    struct builder nested = one_value(SOURCE_ARRAY);
    put_u32(&nested, SOURCE_ARRAY);
    put_u64(&nested, 1);
    put_zeros(&nested, 64);
    refused(&nested, "element type");
    struct builder boolean = one_value(SOURCE_BOOL);
    put_u8(&boolean, 2);
    refused(&boolean, "boolean");
    boolean = one_value(SOURCE_ARRAY);
    put_u32(&boolean, SOURCE_BOOL);
    put_u64(&boolean, 3);
    put(&boolean, "\0\1\2", 3);
    refused(&boolean, "boolean");
    boolean = one_value(SOURCE_ARRAY);
    put_u32(&boolean, SOURCE_BOOL);
    put_u64(&boolean, 3);
    put(&boolean, "\0\1\1", 3);
    accepted(&boolean);
}
END_TEST

START_TEST(array_counts_fit_the_rest_of_the_file)
{
    static const uint32_t elements[] = {SOURCE_UINT8, SOURCE_INT16, SOURCE_FLOAT32, SOURCE_FLOAT64,
                                        SOURCE_STRING};
    static const uint64_t sizes[] = {1, 2, 4, 8, 8};
    for (size_t i = 0; i < 5; i++) {
        uint64_t fits = 64 / sizes[i];
        uint64_t wrong[] = {fits + 1, UINT64_MAX, 1ull << 63, UINT64_MAX / sizes[i] + 1 + fits,
                            UINT64_MAX / 16 + 2};
        for (size_t k = 0; k < 5; k++) {
            if (sizes[i] == 1 && k == 3)
                continue; /* wraps around to what fits */
            struct builder b = one_value(SOURCE_ARRAY);
            put_u32(&b, elements[i]);
            put_u64(&b, wrong[k]);
            put_zeros(&b, 64);
            refused(&b, "count of an array");
        }
        struct builder b = one_value(SOURCE_ARRAY);
        put_u32(&b, elements[i]);
        put_u64(&b, fits);
        put_zeros(&b, 64);
        accepted(&b);
    }
}
END_TEST

START_TEST(shapes_have_1_to_4_dimensions_and_never_wrap)
{
    static const struct {
        uint32_t n_dims;
        uint64_t shape[5];
        const char *says; /* NULL: good */
    } cases[] = {
        {1, {16384}, NULL},
        {4, {2, 2, 2, 2}, NULL},
        {0, {1}, "number of dimensions"},
        {5, {1, 1, 1, 1, 1}, "number of dimensions"},
        {1, {0}, "a tensor's dimension"},
        {2, {8, 0}, "a tensor's dimension"},
        {2, {1ull << 32, 1ull << 32}, "a tensor's dimension"},
        {2, {1ull << 63, 2}, "a tensor's dimension"},
        {2, {UINT64_MAX, UINT64_MAX}, "a tensor's dimension"},
        {3, {1ull << 32, 1ull << 32, 0}, "a tensor's dimension"},
        {4, {1ull << 16, 1ull << 16, 1ull << 16, 1ull << 16}, "a tensor's dimension"},
        {1, {(1ull << 48) + 1}, "a tensor's dimension"},
        {1, {1ull << 48}, "cut short"},
        {1, {16385}, "cut short"},
    };
    struct builder b = one_tensor(cases[_i].n_dims, cases[_i].shape, TENSOR_F32, 0);
    if (cases[_i].says)
        refused(&b, cases[_i].says);
    else
        accepted(&b);
}
END_TEST

START_TEST(quantised_rows_are_whole_blocks)
{
    static const struct {
        uint32_t type, block, bytes;
    } cases[] = {{TENSOR_Q4_0, 32, 18},   {TENSOR_Q4_1, 32, 20},   {TENSOR_Q5_0, 32, 22},
                 {TENSOR_Q5_1, 32, 24},   {TENSOR_Q8_0, 32, 34},   {TENSOR_Q4_K, 256, 144},
                 {TENSOR_Q5_K, 256, 176}, {TENSOR_Q6_K, 256, 210}, {TENSOR_F16, 1, 2},
                 {TENSOR_BF16, 1, 2},     {TENSOR_F32, 1, 4}};
    uint64_t shape[2] = {cases[_i].block * 3ull, 5};
    struct builder b = one_tensor(2, shape, cases[_i].type, 0);
    struct opened o = open_built(&b);
    ck_assert_msg(o.g != NULL, "%s", o.e.message);
    ck_assert_uint_eq(source_tensor_at(o.g, 0)->size_bytes, cases[_i].bytes * 15ull);
    close_built(&o);
    if (cases[_i].block == 1)
        return;
    shape[0]--;
    b = one_tensor(2, shape, cases[_i].type, 0);
    refused(&b, "whole number of blocks");
    shape[0] = cases[_i].block / 2; /* rows that only together make a block */
    shape[1] = 4;
    b = one_tensor(2, shape, cases[_i].type, 0);
    refused(&b, "whole number of blocks");
}
END_TEST

START_TEST(unknown_tensor_types_are_named)
{
    struct builder b = one_tensor(1, eight, 17, 0);
    refused(&b, "IQ2_XS");
    static const uint32_t wrong[] = {4, 5, 9, 31, 1000, UINT32_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        b = one_tensor(1, eight, wrong[i], 0);
        refused(&b, "winnow reads F32");
    }
}
END_TEST

START_TEST(messages_hold_no_control_bytes_of_the_file)
{
    /* One after the other: an unknown type, a wrong offset, no room, a name twice, a key twice. */
    for (int kind = 0; kind < 5; kind++) {
        struct builder b = {0};
        put_header(&b, 3, kind == 4 ? 0 : kind == 3 ? 2 : 1, kind == 4 ? 2 : 0);
        const char *name = "\x1b]0;owned\x07\x80name";
        for (int i = 0; kind == 4 && i < 2; i++)
            put_key_u32(&b, name, 1);
        for (uint64_t i = 0; kind != 4 && i < (kind == 3 ? 2 : 1); i++)
            put_tensor(&b, name, 1, eight, kind == 0 ? 17 : TENSOR_F32,
                       kind == 1   ? 7
                       : kind == 2 ? 1 << 20
                                   : i * 32);
        put_padding(&b, 32);
        put_zeros(&b, 64);
        struct opened o = open_built(&b);
        ck_assert_ptr_null(o.g);
        ck_assert_msg(strstr(o.e.message, "owned") != NULL, "case %d: %s", kind, o.e.message);
        for (const char *p = o.e.message; *p; p++)
            ck_assert_msg((unsigned char)*p >= 0x20 && *p != 0x7f, "case %d: byte %02x in '%s'",
                          kind, (unsigned char)*p, o.e.message);
        ck_assert_ptr_null(strchr(o.e.message, 0x80));
        close_built(&o);
    }
}
END_TEST

START_TEST(tensors_are_aligned_inside_the_file_and_apart)
{
    static const struct {
        uint64_t offset;
        const char *says;
    } single[] = {{0, NULL},
                  {65536 - 32, NULL},
                  {1, "multiple of the alignment"},
                  {31, "multiple of the alignment"},
                  {65536, "cut short"},
                  {1ull << 40, "cut short"},
                  {UINT64_MAX - 31, "cut short"},
                  {UINT64_MAX, "multiple of the alignment"}};
    for (size_t i = 0; i < sizeof single / sizeof *single; i++) {
        struct builder b = one_tensor(1, eight, TENSOR_F32, single[i].offset);
        if (single[i].says)
            refused(&b, single[i].says);
        else
            accepted(&b);
    }
    static const uint64_t sixteen[] = {16};
    for (uint64_t offset = 0; offset <= 64; offset += 32) {
        struct builder b = {0};
        put_header(&b, 3, 2, 0);
        put_tensor(&b, "b", 1, eight, TENSOR_F32, offset);
        put_tensor(&b, "a", 1, sixteen, TENSOR_F32, 0);
        put_padding(&b, 32);
        put_zeros(&b, 96);
        if (offset < 64)
            refused(&b, "overlap");
        else
            accepted(&b);
    }
}
END_TEST

START_TEST(the_alignment_is_a_power_of_two_from_8_to_a_megabyte)
{
    static const struct {
        uint32_t alignment;
        bool good;
    } cases[] = {{0, false},        {1, false},          {4, false},
                 {3, false},        {8, true},           {32, true},
                 {48, false},       {1u << 20, true},    {1u << 21, false},
                 {1u << 31, false}, {UINT32_MAX, false}, {(1u << 20) + 1, false}};
    struct builder b = {0};
    put_header(&b, 3, 1, 1);
    put_key_u32(&b, "general.alignment", cases[_i].alignment);
    put_tensor(&b, "t", 1, eight, TENSOR_F32, 0);
    put_padding(&b, cases[_i].good ? cases[_i].alignment : 32);
    put_zeros(&b, 32);
    if (cases[_i].good)
        accepted(&b);
    else
        refused(&b, "general.alignment");
}
END_TEST

START_TEST(keys_and_tensors_occur_once)
{
    struct builder b = {0};
    put_header(&b, 3, 0, 3);
    put_key_u32(&b, "same", 1);
    put_key_u32(&b, "other", 1);
    put_key_text(&b, "same", "x");
    refused(&b, "the metadata key 'same' occurs twice");
    b = (struct builder){0};
    put_header(&b, 3, 3, 0);
    put_tensor(&b, "same", 1, eight, TENSOR_F32, 0);
    put_tensor(&b, "other", 1, eight, TENSOR_F32, 32);
    put_tensor(&b, "same", 1, eight, TENSOR_F32, 64);
    put_padding(&b, 32);
    put_zeros(&b, 96);
    refused(&b, "the tensor 'same' occurs twice");
}
END_TEST

START_TEST(a_file_cut_anywhere_is_refused)
{
    struct builder b = {0};
    build_good(&b, 3);
    size_t n = b.n;
    uint8_t *whole = built(&b);
    for (size_t cut = 0; cut < n; cut++) {
        struct error e = {0};
        uint8_t *prefix = malloc(cut ? cut : 1); /* its own block: ASan sees one byte too far */
        ck_assert_ptr_nonnull(prefix);
        memcpy(prefix, whole, cut);
        struct model_source *g = gguf_open_memory(prefix, cut, &e);
        ck_assert_msg(!g, "accepted the first %zu of %zu bytes", cut, n);
        ck_assert_str_eq(e.code, "invalid_model");
        free(prefix);
    }
    free(whole);
}
END_TEST

/* Each byte set to a few values that a counter, length or type would hurt most at. What is
 * accepted is walked to its last byte. */
START_TEST(a_file_wrong_in_one_byte_is_never_read_out_of_bounds)
{
    static const uint8_t values[] = {0, 1, 0x7f, 0x80, 0xff};
    struct builder b = {0};
    build_good(&b, 3);
    size_t n = b.n;
    uint8_t *bytes = built(&b);
    unsigned sum = 0;
    for (size_t at = 0; at < n; at++)
        for (size_t k = 0; k < sizeof values; k++) {
            struct error e = {0};
            uint8_t kept = bytes[at];
            bytes[at] = values[k];
            struct model_source *g = gguf_open_memory(bytes, n, &e);
            ck_assert(g || e.message[0]);
            for (uint64_t i = 0; g && i < source_n_tensors(g); i++) {
                const struct source_tensor *t = source_tensor_at(g, i);
                sum += ((const uint8_t *)t->data)[0];
                sum += ((const uint8_t *)t->data)[t->size_bytes - 1];
            }
            source_close(g);
            bytes[at] = kept;
        }
    ck_assert(sum < UINT32_MAX);
    free(bytes);
}
END_TEST

START_TEST(paths_that_are_no_model_files_say_so)
{
    struct error e = {0};
    ck_assert_ptr_null(gguf_open("/nonexistent/model.gguf", SOURCE_MAPPED, &e));
    ck_assert_str_eq(e.code, "file_not_found");
    ck_assert_ptr_null(gguf_open("/tmp", SOURCE_MAPPED, &e));
    ck_assert_str_eq(e.code, "file_error");
    ck_assert_ptr_null(gguf_open("/dev/zero", SOURCE_MAPPED, &e));
    ck_assert_str_eq(e.code, "file_error");
    char path[] = "/tmp/winnow-test-gguf-XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_ptr_null(gguf_open(path, SOURCE_MAPPED, &e)); /* empty: cannot be mapped */
    ck_assert_str_eq(e.code, "invalid_model");
    ck_assert_int_eq(write(fd, "GGUF\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24), 24);
    struct model_source *g = gguf_open(path, SOURCE_MAPPED, &e);
    ck_assert_msg(g != NULL, "%s", e.message);
    ck_assert_uint_eq(source_bytes(g), 24);
    source_close(g);
    close(fd);
    unlink(path);
    source_close(NULL);
}
END_TEST

/* A file with a tensor of 64 KiB. */
static int write_large(char *path)
{
    static const uint64_t shape[] = {16384};
    struct builder b = {0};
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    put_header(&b, 3, 1, 0);
    put_tensor(&b, "t", 1, shape, TENSOR_F32, 0);
    put_padding(&b, 32);
    put_zeros(&b, 65536);
    ck_assert_int_eq(write(fd, b.bytes, b.n), (ssize_t)b.n);
    free(b.bytes);
    return fd;
}

static uint8_t last_byte(const struct model_source *g)
{
    const struct source_tensor *t = source_tensor(g, "t");
    return ((const volatile uint8_t *)t->data)[t->size_bytes - 1];
}

/* What a program that opened the file says on stderr when it reads the end, which is gone. */
static int read_after_cut(enum source_use use, char said[1024])
{
    char path[] = "/tmp/winnow-test-gguf-XXXXXX";
    int fd = write_large(path), ends[2], status = 0;
    ck_assert_int_eq(pipe(ends), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        struct error e;
        dup2(ends[1], STDERR_FILENO);
        struct model_source *g = gguf_open(path, use, &e);
        if (!g || ftruncate(fd, 4096))
            _exit(99);
        _exit(last_byte(g) == 0 ? 0 : 98);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t more; n < 1023 && (more = read(ends[0], said + n, 1023 - n)) > 0;)
        n += (size_t)more;
    said[n] = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    close(ends[0]);
    close(fd);
    unlink(path);
    ck_assert_msg(WIFEXITED(status), "ended by signal %d", WTERMSIG(status));
    return WEXITSTATUS(status);
}

START_TEST(a_file_cut_short_while_mapped_ends_with_a_sentence)
{
    char said[1024];
    ck_assert_int_eq(read_after_cut(SOURCE_MAPPED, said), 1);
    ck_assert_msg(strstr(said, "the model file /tmp/winnow-test-gguf-") != NULL, "said: %s", said);
    ck_assert_msg(strstr(said, "cut short or overwritten") != NULL, "said: %s", said);
}
END_TEST

START_TEST(a_copied_file_may_be_cut_short)
{
    char said[1024];
    ck_assert_int_eq(read_after_cut(SOURCE_COPIED, said), 0);
    ck_assert_str_eq(said, "");
}
END_TEST

START_TEST(a_change_of_a_mapped_file_is_seen)
{
    char path[] = "/tmp/winnow-test-gguf-XXXXXX";
    int fd = write_large(path);
    struct error e = {0};
    struct model_source *mapped = gguf_open(path, SOURCE_MAPPED, &e),
                        *copied = gguf_open(path, SOURCE_COPIED, &e);
    ck_assert(mapped && copied);
    ck_assert_uint_eq(last_byte(copied), 0);
    ck_assert(source_unchanged(mapped, &e) && source_unchanged(copied, &e));
    ck_assert_int_eq(pwrite(fd, "x", 1, 65536), 1);
    struct timespec times[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    ck_assert_int_eq(futimens(fd, times), 0);
    ck_assert(!source_unchanged(mapped, &e));
    ck_assert_str_eq(e.code, "invalid_model");
    ck_assert(source_unchanged(copied, &e));
    source_close(mapped);
    source_close(copied);
    close(fd);
    unlink(path);
}
END_TEST

START_TEST(messages_name_the_file)
{
    struct error e = {0};
    ck_assert_ptr_null(gguf_open("README.md", SOURCE_MAPPED, &e));
    ck_assert_msg(strstr(e.message, "README.md: byte 0: the file does not begin with GGUF") ==
                      e.message,
                  "%s", e.message);
    ck_assert_ptr_null(gguf_open("/nonexistent/model.gguf", SOURCE_MAPPED, &e));
    ck_assert_msg(strstr(e.message, "/nonexistent/model.gguf") != NULL, "%s", e.message);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gguf");
    TCase *t = suite_case(suite, "gguf", 60);
    tcase_add_loop_test(t, a_good_file_gives_back_what_was_written, 0, 2);
    tcase_add_test(t, integers_of_every_width_keep_their_sign);
    tcase_add_test(t, a_read_of_another_kind_is_refused);
    tcase_add_test(t, array_elements_end_where_the_count_says);
    tcase_add_loop_test(t, the_header_is_checked, 0, 16);
    tcase_add_test(t, the_magic_is_checked);
    tcase_add_test(t, string_lengths_end_inside_the_file);
    tcase_add_test(t, names_have_1_to_65535_bytes);
    tcase_add_test(t, types_are_known_ones);
    tcase_add_test(t, array_counts_fit_the_rest_of_the_file);
    tcase_add_loop_test(t, shapes_have_1_to_4_dimensions_and_never_wrap, 0, 14);
    tcase_add_loop_test(t, quantised_rows_are_whole_blocks, 0, 11);
    tcase_add_test(t, unknown_tensor_types_are_named);
    tcase_add_test(t, messages_hold_no_control_bytes_of_the_file);
    tcase_add_test(t, tensors_are_aligned_inside_the_file_and_apart);
    tcase_add_loop_test(t, the_alignment_is_a_power_of_two_from_8_to_a_megabyte, 0, 12);
    tcase_add_test(t, keys_and_tensors_occur_once);
    tcase_add_test(t, a_file_cut_anywhere_is_refused);
    tcase_add_test(t, a_file_wrong_in_one_byte_is_never_read_out_of_bounds);
    tcase_add_test(t, a_file_cut_short_while_mapped_ends_with_a_sentence);
    tcase_add_test(t, a_copied_file_may_be_cut_short);
    tcase_add_test(t, a_change_of_a_mapped_file_is_seen);
    tcase_add_test(t, messages_name_the_file);
    tcase_add_test(t, paths_that_are_no_model_files_say_so);
    return suite_run(suite);
}
