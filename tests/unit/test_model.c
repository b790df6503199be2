/* Models over small GGUF files built in memory: facts of every architecture, the list of weights,
 * and what is refused. A file's tensors hold rising numbers, so that a binding can be told by its
 * first value. */
#include <stdio.h>

#include "config/base/half.h"
#include "engine/model/arch.h"
#include "engine/model/model_hash.h"
#include "tests/suite.h"
#include "tests/unit/gguf_builder.h"

enum { EMBD = 16, HEADS = 4, KV_HEADS = 2, DIM = 4, FF = 24, VOCAB = 7, LAYERS = 2, MOST = 64 };

struct tensor {
    char name[48];
    uint64_t shape[4];
    uint32_t n_dims, type;
};

/* A file in parts: a test changes some and builds it. */
struct file {
    const char *architecture;
    struct builder keys;
    uint64_t n_keys;
    struct tensor tensors[MOST];
    uint32_t n_tensors;
    bool not_finite; /* the first tensor of the file that is not a matrix holds an infinity */
};

static struct error e;
static uint8_t *bytes; /* of the model that was opened last */

static void add_tensor(struct file *f, const char *name, uint64_t cols, uint64_t rows)
{
    ck_assert_uint_lt(f->n_tensors, MOST);
    struct tensor *t = &f->tensors[f->n_tensors++];
    *t = (struct tensor){
        .shape = {cols, rows ? rows : 1, 1, 1}, .n_dims = rows ? 2 : 1, .type = TENSOR_F32};
    snprintf(t->name, sizeof t->name, "%s", name);
}

static void add_layer_tensor(struct file *f, uint32_t layer, const char *part, uint64_t cols,
                             uint64_t rows)
{
    char name[48];
    snprintf(name, sizeof name, "blk.%u.%s", layer, part);
    add_tensor(f, name, cols, rows);
}

static struct tensor *tensor(struct file *f, const char *name)
{
    for (uint32_t i = 0; i < f->n_tensors; i++)
        if (!strcmp(f->tensors[i].name, name))
            return &f->tensors[i];
    ck_abort_msg("no tensor %s", name);
}

static void remove_tensor(struct file *f, const char *name)
{
    struct tensor *t = tensor(f, name);
    size_t after = (size_t)(&f->tensors[--f->n_tensors] - t);
    memmove(t, t + 1, after * sizeof *t);
}

/* Keys are of the file's architecture: "block_count". */
static const char *own(const struct file *f, const char *part, char out[64])
{
    snprintf(out, 64, "%s.%s", f->architecture, part);
    return out;
}

static void add_count(struct file *f, const char *part, uint32_t value)
{
    char key[64];
    put_key_u32(&f->keys, own(f, part, key), value);
    f->n_keys++;
}

static void add_number(struct file *f, const char *part, float value)
{
    char key[64];
    put_key_f32(&f->keys, own(f, part, key), value);
    f->n_keys++;
}

static void add_word(struct file *f, const char *part, const char *value)
{
    char key[64];
    put_key_text(&f->keys, own(f, part, key), value);
    f->n_keys++;
}

static void add_counts(struct file *f, const char *part, uint32_t n, const uint32_t *values)
{
    char key[64];
    put_key(&f->keys, own(f, part, key), SOURCE_ARRAY);
    put_u32(&f->keys, SOURCE_UINT32);
    put_u64(&f->keys, n);
    for (uint32_t i = 0; i < n; i++)
        put_u32(&f->keys, values[i]);
    f->n_keys++;
}

/* Everything but the counts of heads, which some tests give per layer. */
static struct file begin(const char *architecture)
{
    struct file f = {.architecture = architecture};
    put_key_text(&f.keys, "general.architecture", architecture);
    f.n_keys = 1;
    add_count(&f, "block_count", LAYERS);
    add_count(&f, "embedding_length", EMBD);
    add_count(&f, "context_length", 128);
    add_tensor(&f, "token_embd.weight", EMBD, VOCAB);
    add_tensor(&f, "output_norm.weight", EMBD, 0);
    add_tensor(&f, "output.weight", EMBD, VOCAB);
    for (uint32_t l = 0; l < LAYERS; l++) {
        add_layer_tensor(&f, l, "attn_norm.weight", EMBD, 0);
        add_layer_tensor(&f, l, "attn_q.weight", EMBD, HEADS * DIM);
        add_layer_tensor(&f, l, "attn_k.weight", EMBD, KV_HEADS * DIM);
        add_layer_tensor(&f, l, "attn_v.weight", EMBD, KV_HEADS * DIM);
        add_layer_tensor(&f, l, "attn_output.weight", HEADS * DIM, EMBD);
        add_layer_tensor(&f, l, "ffn_norm.weight", EMBD, 0);
        add_layer_tensor(&f, l, "ffn_gate.weight", EMBD, FF);
        add_layer_tensor(&f, l, "ffn_up.weight", EMBD, FF);
        add_layer_tensor(&f, l, "ffn_down.weight", FF, EMBD);
    }
    return f;
}

static void add_biases(struct file *f, uint32_t layer)
{
    add_layer_tensor(f, layer, "attn_q.bias", HEADS * DIM, 0);
    add_layer_tensor(f, layer, "attn_k.bias", KV_HEADS * DIM, 0);
    add_layer_tensor(f, layer, "attn_v.bias", KV_HEADS * DIM, 0);
}

static void add_head_norms(struct file *f, uint32_t layer)
{
    add_layer_tensor(f, layer, "attn_q_norm.weight", DIM, 0);
    add_layer_tensor(f, layer, "attn_k_norm.weight", DIM, 0);
}

/* A file of the architecture with all that it needs. */
static struct file complete(const char *architecture)
{
    struct file f = begin(architecture);
    add_count(&f, "attention.head_count", HEADS);
    add_count(&f, "attention.head_count_kv", KV_HEADS);
    add_count(&f, "feed_forward_length", FF);
    for (uint32_t l = 0; l < LAYERS; l++) {
        if (!strcmp(architecture, "qwen2"))
            add_biases(&f, l);
        if (!strcmp(architecture, "qwen3"))
            add_head_norms(&f, l);
    }
    return f;
}

/* Value k of the i-th tensor. */
static float value_of(uint32_t tensor, uint64_t k)
{
    return (float)(tensor + 1) + (float)(k % 16) / 16;
}

static size_t put_values(struct builder *b, const struct file *f, uint32_t index)
{
    const struct tensor *t = &f->tensors[index];
    const struct tensor_type_info *info = tensor_type_info(t->type);
    uint64_t n = t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3];
    size_t start = b->n;
    for (uint64_t k = 0; k < n; k++) {
        float value = f->not_finite && t->n_dims == 1 ? 1.0f / 0.0f : value_of(index, k);
        uint32_t bits;
        memcpy(&bits, &value, 4);
        if (t->type == TENSOR_F16)
            put(b, &(uint16_t){half_from_float(value)}, 2);
        else if (t->type == TENSOR_BF16)
            put(b, &(uint16_t){(uint16_t)(bits >> 16)}, 2);
        else if (info->block_values == 1)
            put_f32(b, value);
    }
    if (info->block_values > 1)
        put_zeros(b, (size_t)(n / info->block_values * info->block_bytes));
    return b->n - start;
}

/* Opens the file as a source; frees its parts. */
static struct model_source *build(struct file *f)
{
    struct builder b = {0}, data = {0}, table = {0};
    for (uint32_t i = 0; i < f->n_tensors; i++) {
        put_tensor(&table, f->tensors[i].name, f->tensors[i].n_dims, f->tensors[i].shape,
                   f->tensors[i].type, data.n);
        put_values(&data, f, i);
        put_padding(&data, 32);
    }
    put_header(&b, 3, f->n_tensors, f->n_keys);
    put(&b, f->keys.bytes, f->keys.n);
    put(&b, table.bytes, table.n);
    put_padding(&b, 32);
    put(&b, data.bytes, data.n);
    free(f->keys.bytes);
    free(table.bytes);
    free(data.bytes);
    size_t n = b.n;
    free(bytes);
    bytes = built(&b);
    struct model_source *source = gguf_open_memory(bytes, n, &e);
    ck_assert_msg(source != NULL, "%s", e.message);
    return source;
}

static struct model *open_file(struct file *f)
{
    return model_from_source(build(f), "fallback.gguf", &e);
}

static struct model *open_good(struct file *f)
{
    struct model *m = open_file(f);
    ck_assert_msg(m != NULL, "%s", e.message);
    return m;
}

static void refused(struct file *f, const char *says)
{
    struct model *m = open_file(f);
    ck_assert_msg(!m, "accepted; wanted a refusal with '%s'", says);
    ck_assert_str_eq(e.code, "invalid_model");
    ck_assert_msg(strstr(e.message, says) != NULL, "'%s' is not in '%s'", says, e.message);
}

static void teardown(void)
{
    free(bytes);
    bytes = NULL;
}

static const char *const architectures[] = {"llama", "qwen2", "qwen3"};

/* ---- facts */

START_TEST(a_row_reads_the_facts_of_its_architecture)
{
    struct file f = complete(architectures[_i]);
    add_number(&f, "attention.layer_norm_rms_epsilon", 1e-6f);
    add_number(&f, "rope.freq_base", 500000);
    struct model *m = open_good(&f);
    ck_assert_str_eq(m->architecture, architectures[_i]);
    ck_assert(m->n_layers == LAYERS && m->n_embd == EMBD && m->n_vocab == VOCAB);
    ck_assert(m->n_heads == HEADS && m->n_kv_heads == KV_HEADS && m->head_dim == DIM);
    ck_assert_uint_eq(m->n_ctx_train, 128);
    ck_assert_float_eq(m->norm_eps, 1e-6f);
    ck_assert_uint_eq(m->n_rope_sets, 1);
    ck_assert_uint_eq(m->rope_sets[0].dim, DIM);
    ck_assert_double_eq(m->rope_sets[0].base, 500000);
    ck_assert_int_eq(m->rope_sets[0].neox, _i > 0);
    for (uint32_t l = 0; l < LAYERS; l++) {
        const struct layer_spec *s = &m->layers[l];
        ck_assert(s->n_heads == HEADS && s->n_kv_heads == KV_HEADS && s->n_ff == FF);
        ck_assert(s->key_size == DIM && s->value_size == DIM && s->rope == 0);
        ck_assert_int_eq(s->qkv_bias, _i == 1 ? WEIGHT_REQUIRED : WEIGHT_OPTIONAL);
        ck_assert_int_eq(s->qk_norm, _i == 2 ? WEIGHT_REQUIRED : WEIGHT_ABSENT);
    }
    ck_assert_str_eq(m->name, "fallback.gguf");
    ck_assert_ptr_null(m->chat_template.data);
    model_close(m);
}
END_TEST

START_TEST(absent_facts_have_their_defaults)
{
    struct file f = begin("llama");
    add_count(&f, "attention.head_count", HEADS);
    add_count(&f, "feed_forward_length", FF);
    for (uint32_t l = 0; l < LAYERS; l++)
        for (int v = 0; v < 2; v++) {
            char name[48];
            snprintf(name, sizeof name, "blk.%u.attn_%c.weight", l, v ? 'v' : 'k');
            tensor(&f, name)->shape[1] = HEADS * DIM;
        }
    struct model *m = open_good(&f);
    ck_assert_uint_eq(m->n_kv_heads, HEADS);
    ck_assert_float_eq(m->norm_eps, 1e-5f);
    ck_assert_double_eq(m->rope_sets[0].base, 10000);
    ck_assert_double_eq(m->rope_sets[0].scale, 1);
    ck_assert_ptr_null(m->rope_sets[0].factors);
    ck_assert(m->recommended.temperature < 0 && m->recommended.top_p < 0);
    ck_assert(m->recommended.min_p < 0 && m->recommended.top_k < 0);
    model_close(m);
}
END_TEST

START_TEST(a_fact_may_be_given_for_each_layer)
{
    static const uint32_t kv_heads[] = {KV_HEADS, KV_HEADS}, widths[] = {FF, 2 * FF};
    struct file f = begin("llama");
    add_count(&f, "attention.head_count", HEADS);
    add_counts(&f, "attention.head_count_kv", LAYERS, kv_heads);
    add_counts(&f, "feed_forward_length", LAYERS, widths);
    tensor(&f, "blk.1.ffn_gate.weight")->shape[1] = 2 * FF;
    tensor(&f, "blk.1.ffn_up.weight")->shape[1] = 2 * FF;
    tensor(&f, "blk.1.ffn_down.weight")->shape[0] = 2 * FF;
    struct model *m = open_good(&f);
    ck_assert(m->layers[0].n_ff == FF && m->layers[1].n_ff == 2 * FF);
    uint32_t rows, cols;
    weights_largest(m, &rows, &cols);
    ck_assert(rows == 2 * FF && cols == 2 * FF);
    model_close(m);
}
END_TEST

START_TEST(layers_with_other_heads_are_refused_with_both_shapes)
{
    static const uint32_t kv_heads[] = {KV_HEADS, HEADS}, short_list[] = {KV_HEADS};
    static const uint32_t wrong[] = {KV_HEADS, HEADS + 1};
    struct file f = begin("llama");
    add_count(&f, "attention.head_count", HEADS);
    add_counts(&f, "attention.head_count_kv", LAYERS, kv_heads);
    add_count(&f, "feed_forward_length", FF);
    refused(&f, "layer 1 has 4 heads on 4 KV heads of dimension 4 and layer 0 has 4 on 2 of 4");
    f = begin("llama");
    add_counts(&f, "attention.head_count", 1, short_list);
    add_count(&f, "feed_forward_length", FF);
    refused(&f, "llama.attention.head_count has 1 values and none for layer 1");
    f = begin("llama");
    add_count(&f, "attention.head_count", HEADS);
    add_counts(&f, "attention.head_count_kv", LAYERS, wrong);
    add_count(&f, "feed_forward_length", FF);
    refused(&f, "llama.attention.head_count_kv is 5; it must be 1 to 4");
}
END_TEST

START_TEST(what_the_file_recommends_is_a_fact_within_limits)
{
    static const struct {
        float temperature, top_p, min_p;
        uint32_t top_k;
        bool good;
    } cases[] = {{0.75f, 0.5f, 0.125f, 40, true},
                 {2, 1, 0, 1 << 20, true},
                 {2.5f, 0, 1.5f, (1 << 20) + 1, false},
                 {-1, -0.5f, -1, UINT32_MAX, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct file f = complete("llama");
        put_key_f32(&f.keys, "general.sampling.temp", cases[i].temperature);
        put_key_f32(&f.keys, "general.sampling.top_p", cases[i].top_p);
        put_key_f32(&f.keys, "general.sampling.min_p", cases[i].min_p);
        put_key_u32(&f.keys, "general.sampling.top_k", cases[i].top_k);
        put_key_text(&f.keys, "tokenizer.chat_template", "{{ x }}");
        put_key_text(&f.keys, "general.name", "A\x1bname");
        f.n_keys += 6;
        struct model *m = open_good(&f);
        const struct model_sampling *r = &m->recommended;
        ck_assert(source_text_is(m->chat_template, "{{ x }}"));
        ck_assert_msg(!strchr(m->name, 0x1b), "'%s'", m->name);
        if (cases[i].good) {
            ck_assert_double_eq(r->temperature, (double)cases[i].temperature);
            ck_assert_double_eq(r->top_p, (double)cases[i].top_p);
            ck_assert_double_eq(r->min_p, (double)cases[i].min_p);
            ck_assert_int_eq(r->top_k, (int32_t)cases[i].top_k);
        } else {
            ck_assert(r->temperature < 0 && r->top_p < 0 && r->min_p < 0 && r->top_k < 0);
        }
        model_close(m);
    }
}
END_TEST

START_TEST(rope_scalings_are_read_or_refused)
{
    struct file f = complete("llama");
    add_word(&f, "rope.scaling.type", "linear");
    add_number(&f, "rope.scaling.factor", 4);
    struct model *m = open_good(&f);
    ck_assert_double_eq(m->rope_sets[0].scale, 4);
    model_close(m);
    f = complete("llama");
    add_number(&f, "rope.scale_linear", 2);
    m = open_good(&f);
    ck_assert_double_eq(m->rope_sets[0].scale, 2);
    model_close(m);

    f = complete("llama");
    add_word(&f, "rope.scaling.type", "llama3");
    refused(&f, "the tensor 'rope_freqs.weight' is missing");
    f = complete("llama");
    add_word(&f, "rope.scaling.type", "llama3");
    add_tensor(&f, "rope_freqs.weight", DIM / 2, 0);
    float factor = value_of(f.n_tensors - 1, 0);
    m = open_good(&f);
    ck_assert_ptr_nonnull(m->rope_sets[0].factors);
    ck_assert_float_eq(m->rope_sets[0].factors[0], factor);
    ck_assert_double_eq(rope_frequency(&m->rope_sets[0], 0), 1 / (double)factor);
    model_close(m);

    f = complete("llama");
    add_word(&f, "rope.scaling.type", "yarn");
    refused(&f, "the RoPE scaling is 'yarn'; winnow runs none, linear and llama3");
    f = complete("llama");
    add_count(&f, "rope.dimension_count", 3);
    refused(&f, "llama.rope.dimension_count is 3; it must be even");
    f = complete("llama");
    add_count(&f, "rope.dimension_count", DIM + 2);
    refused(&f, "llama.rope.dimension_count is 6; it must be 2 to 4");
    f = complete("llama");
    add_number(&f, "rope.freq_base", 0.5f);
    refused(&f, "llama.rope.freq_base is 0.5; it must be 1 to 1e+12");
}
END_TEST

START_TEST(a_part_of_a_split_model_is_told_as_such)
{
    struct file f = complete("llama");
    put_key_u32(&f.keys, "split.no", 1);
    put_key_u32(&f.keys, "split.count", 3);
    f.n_keys += 2;
    f.n_tensors = 4; /* what is missing is no other fault */
    refused(&f, "part 2 of 3 of a split model");
    ck_assert(strstr(e.message, "llama-gguf-split --merge") != NULL);
    f = complete("llama"); /* a model in one part */
    put_key_u32(&f.keys, "split.no", 0);
    put_key_u32(&f.keys, "split.count", 1);
    f.n_keys += 2;
    model_close(open_good(&f));
}
END_TEST

static void add_flag(struct file *f, const char *part, bool value)
{
    char key[64];
    put_key(&f->keys, own(f, part, key), SOURCE_BOOL);
    put_u8(&f->keys, value);
    f->n_keys++;
}

/* Keys that change the computation, with a neutral and another value. */
static const struct {
    const char *key;
    float neutral, other;
} changing[] = {
    {"attention.scale", 0.5f, 0.7f}, /* 1 / sqrt(4) */
    {"attention.clamp_kqv", 0, 8},
    {"attention.max_alibi_bias", 0, 8},
    {"attention.temperature_scale", 0, 0.1f},
    {"logit_scale", 1, 16},
    {"logit_scale", 0, 0.0625f},
    {"embedding_scale", 1, 12},
    {"residual_scale", 1, 0.22f},
    {"final_logit_softcapping", 0, 30},
    {"attn_logit_softcapping", 0, 50},
    {"rope.scaling.attn_factor", 1, 1.2f},
    {"rope.scaling.yarn_log_multiplier", 0, 0.1f},
};

START_TEST(a_key_that_changes_the_computation_is_refused_unless_it_is_neutral)
{
    struct file f = complete("llama");
    add_number(&f, changing[_i].key, changing[_i].neutral);
    model_close(open_good(&f));
    f = complete("llama");
    add_number(&f, changing[_i].key, changing[_i].other);
    refused(&f, changing[_i].key);
    f = complete("llama");
    add_word(&f, changing[_i].key, "1");
    refused(&f, changing[_i].key);
}
END_TEST

START_TEST(flags_and_counts_that_change_the_computation_are_refused)
{
    struct file f = complete("llama");
    add_flag(&f, "attention.causal", true);
    add_flag(&f, "use_parallel_residual", false);
    add_count(&f, "expert_count", 0);
    model_close(open_good(&f));
    f = complete("llama");
    add_flag(&f, "attention.causal", false);
    refused(&f, "llama.attention.causal is 0: winnow cannot run attention that is not causal");
    f = complete("llama");
    add_flag(&f, "use_parallel_residual", true);
    refused(&f, "llama.use_parallel_residual is 1");
    f = complete("llama");
    add_counts(&f, "expert_count", 2, (uint32_t[]){0, 4});
    refused(&f, "llama.expert_count is 4");
}
END_TEST

START_TEST(a_window_is_refused_unless_it_holds_the_whole_context)
{
    struct file f = complete("llama"); /* its context is 128 */
    add_count(&f, "attention.sliding_window", 128);
    model_close(open_good(&f));
    f = complete("llama");
    add_counts(&f, "attention.sliding_window", 2, (uint32_t[]){0, 4096});
    model_close(open_good(&f));
    f = complete("llama");
    add_count(&f, "attention.sliding_window", 127);
    refused(&f,
            "llama.attention.sliding_window is 127: winnow cannot run sliding-window attention");
}
END_TEST

START_TEST(a_scaling_factor_without_a_type_scales_linearly)
{
    struct file f = complete("llama");
    add_number(&f, "rope.scaling.factor", 4);
    struct model *m = open_good(&f);
    ck_assert_double_eq(m->rope_sets[0].scale, 4);
    model_close(m);
    f = complete("llama");
    add_word(&f, "rope.scaling.type", "none");
    add_number(&f, "rope.scaling.factor", 4);
    m = open_good(&f);
    ck_assert_double_eq(m->rope_sets[0].scale, 1);
    model_close(m);
}
END_TEST

START_TEST(what_cannot_be_run_is_refused_by_key_and_value)
{
    struct file f = complete("gemma4");
    refused(&f, "the architecture is 'gemma4'; winnow runs llama, qwen2 and qwen3");
    f = complete("phi3"); /* known for its tokenizer */
    refused(&f, "the architecture is 'phi3'; winnow runs llama, qwen2 and qwen3");
    f = complete("llama\x1b");
    refused(&f, "winnow runs");
    f = complete("qwen3");
    add_count(&f, "expert_count", 8);
    refused(&f, "qwen3.expert_count is 8: winnow cannot run a mixture of experts");
    f = complete("qwen2");
    add_count(&f, "attention.sliding_window", 0);
    model_close(open_good(&f));
    f = begin("llama");
    add_count(&f, "feed_forward_length", FF);
    refused(&f, "the metadata key 'llama.attention.head_count' is missing");
    f = begin("llama");
    add_count(&f, "attention.head_count", HEADS);
    add_count(&f, "attention.head_count_kv", 3);
    add_count(&f, "feed_forward_length", FF);
    refused(&f, "4 query heads cannot share 3 KV heads evenly");
    f = begin("llama");
    add_count(&f, "attention.head_count", 3);
    add_count(&f, "feed_forward_length", FF);
    refused(&f, "a width of 16 cannot be split over 3 heads");
    f = complete("llama");
    add_count(&f, "attention.key_length", DIM);
    add_count(&f, "attention.value_length", 2 * DIM);
    refused(&f, "the head dimension is 4 for keys and 8 for values");
    f = complete("llama");
    add_word(&f, "attention.key_length", "four");
    refused(&f, "the metadata key 'llama.attention.key_length' does not hold a whole number");
    f = complete("llama");
    f.n_tensors = 0;
    refused(&f, "it is a vocabulary, not a model");
    f = complete("llama");
    put_key(&f.keys, "tokenizer.ggml.tokens", SOURCE_ARRAY);
    put_u32(&f.keys, SOURCE_STRING);
    put_u64(&f.keys, VOCAB + 1);
    for (int i = 0; i <= VOCAB; i++)
        put_text(&f.keys, "a");
    f.n_keys++;
    refused(&f, "the vocabulary has 8 tokens, but token_embd.weight has only 7 rows");
}
END_TEST

/* ---- weights */

struct names {
    char seen[MOST][48];
    struct weight *weights[MOST];
    uint32_t n, n_missing;
};

static bool note(void *context, const struct weight_item *item, struct error *ignored)
{
    struct names *names = context;
    (void)ignored;
    ck_assert_uint_lt(names->n, MOST);
    ck_assert_int_ne(item->presence, WEIGHT_ABSENT);
    for (uint32_t i = 0; i < names->n; i++) {
        ck_assert_str_ne(names->seen[i], item->name);
        ck_assert_ptr_ne(names->weights[i], item->weight);
    }
    if (!item->weight->data) {
        names->n_missing++;
        return true;
    }
    snprintf(names->seen[names->n], 48, "%s", item->name);
    names->weights[names->n++] = item->weight;
    ck_assert_uint_eq(item->weight->rows, item->rows);
    ck_assert_uint_eq(item->weight->cols, item->cols);
    return true;
}

START_TEST(every_tensor_is_visited_once_and_bound_to_its_own_data)
{
    struct file f = complete(architectures[_i]);
    struct file kept = f;
    struct model *m = open_good(&f);
    struct names names = {0};
    ck_assert(weights_visit(m, m->weights, note, &names, NULL));
    ck_assert_uint_eq(names.n, kept.n_tensors);
    uint64_t n_parameters = 0;
    for (uint32_t i = 0; i < kept.n_tensors; i++) {
        ck_assert(m->tensor_used[i]);
        n_parameters += kept.tensors[i].shape[0] * kept.tensors[i].shape[1];
        uint32_t at = 0;
        while (at < names.n && strcmp(names.seen[at], kept.tensors[i].name))
            at++;
        ck_assert_msg(at < names.n, "%s is not in the list", kept.tensors[i].name);
        ck_assert_float_eq(*(const float *)names.weights[at]->data, value_of(i, 0));
        ck_assert_uint_eq(weight_bytes(names.weights[at]),
                          4 * (uint64_t)names.weights[at]->cols * names.weights[at]->rows);
    }
    ck_assert_uint_eq(m->n_parameters, n_parameters);
    ck_assert_uint_eq(m->size_bytes, 4 * n_parameters);
    ck_assert_str_eq(m->quantisation, "F32");
    model_close(m);
}
END_TEST

static bool stop_at_third(void *context, const struct weight_item *item, struct error *why)
{
    uint32_t *n = context;
    return ++*n < 3 || error_set(why, "invalid_model", item->name, "stop");
}

START_TEST(a_walk_ends_where_a_visit_fails)
{
    struct file f = complete("llama");
    struct model *m = open_good(&f);
    uint32_t n = 0;
    ck_assert(!weights_visit(m, m->weights, stop_at_third, &n, &e));
    ck_assert_uint_eq(n, 3);
    ck_assert_str_eq(e.message, "stop");
    model_close(m);
}
END_TEST

/* Also that everything bound before the missing one is freed, under a sanitizer. */
START_TEST(each_missing_tensor_is_named_or_optional)
{
    struct file whole = complete(architectures[_i]);
    uint32_t n_tensors = whole.n_tensors;
    free(whole.keys.bytes);
    for (uint32_t i = 0; i < n_tensors; i++) {
        struct file f = complete(architectures[_i]);
        char name[48];
        snprintf(name, sizeof name, "%s", f.tensors[i].name);
        remove_tensor(&f, name);
        if (!strcmp(name, "output.weight")) {
            struct model *m = open_good(&f);
            ck_assert_ptr_eq(m->weights->output.data, m->weights->token_embd.data);
            struct names names = {0};
            ck_assert(m->n_parameters > 0 && !m->weights->rope_factors[0].data);
            weights_visit(m, m->weights, note, &names, NULL);
            model_close(m);
        } else {
            refused(&f, name);
            ck_assert_msg(strstr(e.message, "is missing") != NULL, "%s", e.message);
        }
    }
}
END_TEST

START_TEST(each_wrong_shape_is_refused_with_both)
{
    struct file whole = complete(architectures[_i]);
    uint32_t n_tensors = whole.n_tensors;
    free(whole.keys.bytes);
    for (uint32_t i = 1; i < n_tensors; i++) { /* the first one's rows are the vocabulary */
        struct file f = complete(architectures[_i]);
        char says[160];
        struct tensor *t = &f.tensors[i];
        snprintf(says, sizeof says,
                 "tensor '%s' has shape [%u, %u, 1, 1]; this model needs [%u, %u]", t->name,
                 (unsigned)t->shape[0], (unsigned)t->shape[1] + 1, (unsigned)t->shape[0],
                 (unsigned)t->shape[1]);
        t->shape[1]++;
        t->n_dims = 2;
        refused(&f, says);
    }
    struct file f = complete("llama");
    tensor(&f, "blk.0.attn_q.weight")->shape[2] = 2;
    tensor(&f, "blk.0.attn_q.weight")->n_dims = 3;
    refused(&f, "tensor 'blk.0.attn_q.weight' has shape [16, 16, 2, 1]");
}
END_TEST

START_TEST(optional_biases_are_bound_where_they_are)
{
    struct file f = complete("llama");
    add_biases(&f, 1);
    add_layer_tensor(&f, 1, "attn_output.bias", EMBD, 0);
    struct model *m = open_good(&f);
    const struct layer_weights *l = m->weights->layers;
    ck_assert(!l[0].bq.data && !l[0].bk.data && !l[0].bv.data && !l[0].bo.data);
    ck_assert(l[1].bq.data && l[1].bk.data && l[1].bv.data && l[1].bo.data);
    ck_assert(!l[0].q_norm.data && !l[1].k_norm.data);
    model_close(m);
}
END_TEST

/* Each of them changes what the model computes, so leaving one out would answer wrongly. */
static const struct {
    const char *name;
    uint64_t cols, rows;
} unread[] = {
    {"output.bias", VOCAB, 0},
    {"output_norm.bias", EMBD, 0},
    {"rope_factors_long.weight", DIM / 2, 0},
    {"rope_factors_short.weight", DIM / 2, 0},
    {"token_types.weight", EMBD, 2},
    {"blk.0.ffn_up.bias", FF, 0},
    {"blk.1.attn_q_norm.weight", DIM, 0},
    {"blk.1.post_attention_norm.weight", EMBD, 0},
    {"blk.1.ffn_gate_inp.weight", EMBD, 8},
    {"blk.2.attn_norm.weight", EMBD, 0},
};

START_TEST(a_tensor_that_nothing_reads_is_refused_by_its_name)
{
    struct file f = complete("llama");
    add_tensor(&f, unread[_i].name, unread[_i].cols, unread[_i].rows);
    refused(&f, unread[_i].name);
    ck_assert_str_eq(e.where, unread[_i].name);
}
END_TEST

START_TEST(the_first_of_many_unread_tensors_is_named_with_their_number)
{
    struct file f = complete("llama");
    add_head_norms(&f, 0);
    add_tensor(&f, "blk.7.attn_q.weight", EMBD, EMBD);
    refused(&f, "'blk.0.attn_q_norm.weight' and 2 more");
}
END_TEST

START_TEST(a_harmless_tensor_is_told_and_not_counted)
{
    struct file f = complete("llama");
    struct model *m = open_good(&f);
    uint64_t n_parameters = m->n_parameters, size_bytes = m->size_bytes;
    model_close(m);
    f = complete("llama");
    add_tensor(&f, "blk.0.attn_rot_embd.weight", DIM / 2, 0);
    uint32_t n = f.n_tensors;
    m = open_good(&f);
    ck_assert_uint_eq(m->n_parameters, n_parameters);
    ck_assert_uint_eq(m->size_bytes, size_bytes);
    for (uint32_t i = 0; i < n; i++)
        ck_assert_int_eq(m->tensor_used[i], i + 1 < n);
    model_close(m);
}
END_TEST

START_TEST(vectors_come_in_three_types_and_are_finite)
{
    static const uint32_t types[] = {TENSOR_F32, TENSOR_F16, TENSOR_BF16};
    for (size_t i = 0; i < 3; i++) {
        struct file f = complete("qwen3");
        tensor(&f, "blk.1.ffn_norm.weight")->type = types[i];
        uint32_t index = (uint32_t)(tensor(&f, "blk.1.ffn_norm.weight") - f.tensors);
        struct model *m = open_good(&f);
        const struct weight *w = &m->weights->layers[1].ffn_norm;
        ck_assert_int_eq(w->type, TENSOR_F32);
        for (uint32_t k = 0; k < EMBD; k++) {
            float right = value_of(index, k);
            uint32_t bits;
            memcpy(&bits, &right, 4);
            bits &= i == 2 ? 0xFFFF0000u : 0xFFFFFFFFu; /* what put_values writes as BF16 */
            memcpy(&right, &bits, 4);
            ck_assert_float_eq(((const float *)w->data)[k], right);
        }
        model_close(m);
    }
    struct file f = complete("llama");
    tensor(&f, "output_norm.weight")->type = TENSOR_Q8_0;
    tensor(&f, "output_norm.weight")->shape[0] = 32;
    refused(&f, "tensor 'output_norm.weight' has shape [32, 1, 1, 1]; this model needs [16, 1]");
    f = complete("llama");
    f.not_finite = true;
    refused(&f, "tensor 'output_norm.weight' holds a number that is not finite at index 0");
}
END_TEST

START_TEST(a_copy_of_the_weights_leaves_the_models_own_alone)
{
    struct file f = complete("llama");
    struct model *m = open_good(&f);
    struct weights *copy = weights_copy(m->weights, m->n_layers, &e);
    ck_assert_ptr_nonnull(copy);
    copy->layers[1].w_down.prepared = copy;
    ck_assert_ptr_eq(copy->layers[1].w_down.data, m->weights->layers[1].w_down.data);
    ck_assert_ptr_null(m->weights->layers[1].w_down.prepared);
    ck_assert_ptr_null(weight_vector(&copy->output_norm));
    free(copy);
    model_close(m);
}
END_TEST

/* ---- sources */

START_TEST(a_key_with_a_dot_is_of_the_files_architecture)
{
    struct file f = complete("qwen3");
    add_word(&f, "word", "x");
    struct model_source *s = build(&f);
    char out[SOURCE_KEY_BYTES];
    uint32_t value = 9;
    bool flag = true;
    struct source_text text = {"default", 7};
    double number = 0.5;
    ck_assert_str_eq(source_spell(s, ".block_count", out), "qwen3.block_count");
    ck_assert_str_eq(source_spell(s, "general.name", out), "general.name");
    ck_assert(source_has(s, ".block_count") && source_has(s, "qwen3.block_count"));
    ck_assert(!source_has(s, "block_count") && !source_has(s, "llama.block_count"));
    ck_assert(source_optional_u32(s, ".absent", 0, 10, &value, &e) && value == 9);
    ck_assert(source_optional_layer_u32(s, ".absent", 5, 0, 10, &value, &e) && value == 9);
    ck_assert(source_optional_bool(s, ".absent", &flag, &e) && flag);
    ck_assert(source_optional_double(s, ".absent", 0, 1, &number, &e));
    ck_assert_double_eq(number, 0.5);
    ck_assert(source_optional_text(s, ".absent", &text, &e) && source_text_is(text, "default"));
    ck_assert(source_optional_text(s, ".word", &text, &e) && source_text_is(text, "x"));
    ck_assert(!source_text_is(text, "xx") && !source_text_is(text, ""));
    ck_assert(!source_optional_bool(s, ".word", &flag, &e));
    ck_assert_str_eq(e.message, "the metadata key 'qwen3.word' does not hold a boolean");
    ck_assert(!source_optional_double(s, ".block_count", 0, 9, &number, &e));
    ck_assert_ptr_eq(arch_find(s), arch_to_run(s, &e));
    source_close(s);
}
END_TEST

static void count_calls(void *context, double share)
{
    double *last = context;
    ck_assert(share >= *last && share <= 1);
    *last = share;
}

START_TEST(a_file_on_disk_is_touched_to_its_end)
{
    double last = 0;
    struct model *m = model_open("tests/data/stories260K.gguf", count_calls, &last, &e);
    ck_assert_msg(m != NULL, "%s", e.message);
    ck_assert_double_eq(last, 1);
    char hash[65];
    ck_assert_uint_eq(strlen(model_hash(m, hash)), 64);
    ck_assert_uint_eq(strlen(m->fingerprint), 16);
    model_close(m);
    ck_assert_ptr_null(model_open("/nonexistent/model.gguf", NULL, NULL, &e));
    ck_assert_str_eq(e.code, "file_not_found");
    model_close(NULL);
}
END_TEST

START_TEST(the_hash_tells_values_types_and_shapes_apart)
{
    char first[65], other[65];
    struct file f = complete("llama");
    struct model *m = open_good(&f);
    model_hash(m, first);
    model_close(m);
    for (int i = 0; i < 4; i++) {
        f = complete("llama");
        if (i == 0)
            tensor(&f, "output_norm.weight")->type = TENSOR_F16;
        else if (i == 1)
            add_number(&f, "rope.freq_base", 10000);
        else if (i == 2)
            put_key(&f.keys, "general.flag", SOURCE_BOOL), put_u8(&f.keys, 1), f.n_keys++;
        m = open_good(&f);
        model_hash(m, other);
        model_close(m);
        ck_assert_int_eq(strcmp(first, other) == 0, i == 3);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("model");
    TCase *t = suite_case(suite, "model", 60);
    tcase_add_checked_fixture(t, NULL, teardown);
    tcase_add_loop_test(t, a_row_reads_the_facts_of_its_architecture, 0, 3);
    tcase_add_test(t, absent_facts_have_their_defaults);
    tcase_add_test(t, a_fact_may_be_given_for_each_layer);
    tcase_add_test(t, layers_with_other_heads_are_refused_with_both_shapes);
    tcase_add_test(t, what_the_file_recommends_is_a_fact_within_limits);
    tcase_add_test(t, rope_scalings_are_read_or_refused);
    tcase_add_loop_test(t, a_key_that_changes_the_computation_is_refused_unless_it_is_neutral, 0,
                        sizeof changing / sizeof *changing);
    tcase_add_test(t, a_part_of_a_split_model_is_told_as_such);
    tcase_add_test(t, flags_and_counts_that_change_the_computation_are_refused);
    tcase_add_test(t, a_window_is_refused_unless_it_holds_the_whole_context);
    tcase_add_test(t, a_scaling_factor_without_a_type_scales_linearly);
    tcase_add_test(t, what_cannot_be_run_is_refused_by_key_and_value);
    tcase_add_loop_test(t, every_tensor_is_visited_once_and_bound_to_its_own_data, 0, 3);
    tcase_add_test(t, a_walk_ends_where_a_visit_fails);
    tcase_add_loop_test(t, each_missing_tensor_is_named_or_optional, 0, 3);
    tcase_add_loop_test(t, each_wrong_shape_is_refused_with_both, 0, 3);
    tcase_add_test(t, optional_biases_are_bound_where_they_are);
    tcase_add_loop_test(t, a_tensor_that_nothing_reads_is_refused_by_its_name, 0,
                        sizeof unread / sizeof *unread);
    tcase_add_test(t, the_first_of_many_unread_tensors_is_named_with_their_number);
    tcase_add_test(t, a_harmless_tensor_is_told_and_not_counted);
    tcase_add_test(t, vectors_come_in_three_types_and_are_finite);
    tcase_add_test(t, a_copy_of_the_weights_leaves_the_models_own_alone);
    tcase_add_test(t, a_key_with_a_dot_is_of_the_files_architecture);
    tcase_add_test(t, a_file_on_disk_is_touched_to_its_end);
    tcase_add_test(t, the_hash_tells_values_types_and_shapes_apart);
    return suite_run(suite);
}
