/* Reading a model, its vocabulary, its chat template and a head profile while memory, files and
 * threads fail: an error that says so, or the result, and nothing is left behind. */
#include <check.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/measure/profile_file.h"
#include "engine/compute/backend.h"
#include "engine/jinja/jinja.h"
#include "engine/model/model.h"
#include "engine/text/chat.h"
#include "engine/text/tokenizer.h"
#include "tests/suite.h"
#include "tests/unit/allocation_faults.h"

#define STORIES "tests/data/stories260K.gguf"

static char *file_text(const char *path, size_t *length)
{
    FILE *f = fopen(path, "rb");
    ck_assert_msg(f != NULL, "%s", path);
    char *text = malloc(1 << 20);
    *length = fread(text, 1, (1 << 20) - 1, f);
    text[*length] = 0;
    fclose(f);
    return text;
}

/* ---- files of models */

static bool open_model(void *context, struct error *e)
{
    struct model *m = model_open(context, NULL, NULL, e);
    if (m) {
        fault_require(m->n_layers == 5, "%u layers", m->n_layers);
        model_close(m);
    }
    return m != NULL;
}

START_TEST(opening_a_model)
{
    faults_in_every_call("model_open", FAULT_MEMORY, "out_of_memory", open_model, STORIES, 0);
    faults_in_every_call("model_open", FAULT_FILE, "file_error file_not_found", open_model, STORIES,
                         0);
}
END_TEST

/* ---- vocabularies */

struct vocabulary {
    const char *path;
    struct model_source *file;
    struct tokenizer *tokenizer;
    size_t n_tokens; /* of the text, as told the first time */
};

static const char some_text[] =
    "Once upon a time there was Zo\xc3\xab, 1234567 don't \xf0\x9f\x98\x80 <s>[INST] "
    "<|im_start|>user\n\n  x = y;\t\xff\xfe aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

static bool make_tokenizer(void *context, struct error *e)
{
    struct vocabulary *v = context;
    struct tokenizer *t = tokenizer_new(v->file, e);
    if (t)
        fault_require(tokenizer_n_vocab(t) > 0, "no vocabulary");
    tokenizer_free(t);
    return t != NULL;
}

static bool encode(void *context, struct error *e)
{
    struct vocabulary *v = context;
    struct tokens tokens = {0};
    size_t length = 0;
    bool done = tokenizer_encode_text(v->tokenizer, some_text, sizeof some_text - 1, true, true,
                                      &tokens, e);
    if (done) {
        fault_require(v->n_tokens == 0 || v->n_tokens == tokens.count, "%zu tokens, not %zu",
                      tokens.count, v->n_tokens);
        v->n_tokens = tokens.count;
        char *text = tokenizer_decode(v->tokenizer, tokens.data, tokens.count, true, true, &length);
        if (!text)
            done = error_set_memory(e, "the text", 0);
        free(text);
    }
    tokens_free(&tokens);
    return done;
}

START_TEST(vocabularies)
{
    static const char *const paths[] = {"tests/data/vocab-llama-spm.gguf",
                                        "tests/data/vocab-bpe-small.gguf", STORIES};
    struct error e;
    for (int i = 0; i < 3; i++) {
        struct vocabulary v = {.path = paths[i], .file = source_open(paths[i], &e)};
        ck_assert(v.file);
        faults_in_every_call("tokenizer_new", FAULT_MEMORY, "out_of_memory", make_tokenizer, &v,
                             150);
        v.tokenizer = tokenizer_new(v.file, &e);
        ck_assert(v.tokenizer);
        faults_in_every_call("tokenizer_encode", FAULT_MEMORY, "out_of_memory", encode, &v, 200);
        tokenizer_free(v.tokenizer);
        source_close(v.file);
    }
}
END_TEST

/* ---- templates */

struct chat {
    struct chat_template *made;
    char *source;
    size_t length;
    struct chat_render_input input;
    char *expected;
};

static bool make_template(void *context, struct error *e)
{
    struct chat *c = context;
    struct chat_template *t = chat_template_new(c->source, c->length, e);
    chat_template_free(t);
    return t != NULL;
}

static bool render(void *context, struct error *e)
{
    struct chat *c = context;
    struct chat_text out = {0};
    bool done = chat_render(c->made, &c->input, &out, e);
    if (done) {
        if (c->expected)
            fault_require(!strcmp(out.text, c->expected), "\"%s\"", out.text);
        else
            c->expected = memcpy(fault_free_malloc(out.length + 1), out.text, out.length + 1);
    }
    chat_text_free(&out);
    return done;
}

START_TEST(chat_templates)
{
    static const char *const names[] = {"gemma3", "llama31", "mistral", "phi3",
                                        "qwen25", "qwen3",   "smollm2", "macros"};
    char path[128];
    struct error e;
    snprintf(path, sizeof path, "tests/data/templates/%s.jinja", names[_i]);
    struct chat c = {.source = file_text(path, &c.length)};
    c.input = (struct chat_render_input){
        .messages = json_pack("[{s:s, s:s}, {s:s, s:s}, {s:s, s:s}]", "role", "user", "content",
                              "Hello <|im_end|>", "role", "assistant", "content", "Hi!", "role",
                              "user", "content", "Tell me a story."),
        .kwargs = json_pack("{s:b, s:[i,i,i]}", "enable_thinking", 1, "numbers", 1, 2, 3),
        .add_generation_prompt = true,
        .bos_token = "<s>",
        .eos_token = "</s>"};
    faults_in_every_call(names[_i], FAULT_MEMORY, "out_of_memory", make_template, &c, 300);
    c.made = chat_template_new(c.source, c.length, &e);
    ck_assert_msg(c.made != NULL, "%s", e.message);
    c.expected = NULL;
    struct chat_text out = {0};
    if (chat_render(c.made, &c.input, &out, &e)) { /* without failures, so that all must agree */
        c.expected = memcpy(fault_free_malloc(out.length + 1), out.text, out.length + 1);
        chat_text_free(&out);
        faults_in_every_call("its rendering", FAULT_MEMORY, "out_of_memory", render, &c, 300);
    }
    free(c.expected);
    chat_template_free(c.made);
    json_decref((json_t *)c.input.messages);
    json_decref((json_t *)c.input.kwargs);
    free(c.source);
}
END_TEST

struct program {
    const char *source;
    char *expected;
};

static bool run_program(void *context, struct error *e)
{
    struct program *p = context;
    struct jinja_program *program = jinja_compile(p->source, strlen(p->source), e);
    if (!program)
        return false;
    struct jinja_variable variables[] = {{"name", NULL, "Lily"}};
    struct jinja_input in = {.variables = variables, .n_variables = 1};
    struct jinja_output out = {0};
    bool done = jinja_render(program, &in, &out, e);
    if (done && p->expected)
        fault_require(!strcmp(out.text, p->expected), "\"%s\", not \"%s\"", out.text, p->expected);
    else if (done)
        p->expected = memcpy(fault_free_malloc(out.length + 1), out.text, out.length + 1);
    free(out.text);
    free(out.marks);
    jinja_free(program);
    return done;
}

START_TEST(jinja_programs)
{
    static const char *const sources[] = {
        "{% macro twice(x, y=2) %}{{ x * y }}{% endmacro %}{{ twice(3) }}{{ twice('a', y=3) }}",
        "{% set ns = namespace(n=0) %}{% for i in range(20) %}{% set ns.n = ns.n + i %}{{ "
        "loop.index }}"
        "{% if i is odd %}{% continue %}{% endif %}{{ i }},{% else %}none{% endfor %}{{ ns.n }}",
        "{{ {'a': [1, 2.5, none, true], 'b': {'c': 'd'}} | tojson(indent=2) }}",
        "{{ ['b', 'a', 'c'] | sort | join('-') | upper }} {{ 'a,b,c'.split(',') | reverse | list "
        "}}",
        "{{ 'Hello World'.replace('o', '0').lower().title() ~ name[1:3] ~ name | length }}",
        "{% filter upper %}text{% endfilter %}{{ 'x' if name is defined else 'y' }}{{ '%s-%d' % "
        "('a', 3) }}",
        "{{ [{'n': 1}, {'n': 2}, {'n': 1}] | groupby('n') | list | length }}"
        "{{ [{'n': 1}, {'n': 2}] | selectattr('n', 'equalto', 2) | map(attribute='n') | list }}",
        "{% set x %}block {{ name }}{% endset %}{{ x | trim | indent(2) }}{{ x.items is defined }}",
        "{% call(a) (twice)() %}{{ a }}{% endcall %}",
        "{{ range(5) | list | batch(2) | list }}{{ dict(a=1).items() | list }}{{ [3,1,2] | max }}"};
    enum { N = sizeof sources / sizeof *sources };
    for (int i = 0; i < N; i++) {
        struct program p = {sources[i], NULL};
        struct error e = {.code = ""};
        if (!run_program(&p, &e)) { /* what this Jinja does not have is no matter here */
            ck_assert_str_eq(e.code, "template_error");
            continue;
        }
        faults_in_every_call(sources[i], FAULT_MEMORY, "out_of_memory", run_program, &p, 200);
        free(p.expected);
    }
}
END_TEST

/* ---- head profiles */

static bool load_profile(void *context, struct error *e)
{
    struct head_profile *p = profile_file_load(context, e);
    if (p)
        fault_require(p->n_layers > 0, "no layers");
    head_profile_free(p);
    return p != NULL;
}

START_TEST(head_profiles)
{
    char path[] = "/tmp/winnow-faults-XXXXXX";
    int fd = mkstemp(path);
    static const char pattern[] = "0.1\t0.9\n0.5\t0.25\n";
    ck_assert_int_eq(write(fd, pattern, sizeof pattern - 1), sizeof pattern - 1);
    close(fd);
    char *const paths[] = {"models/demo.heads.json", path};
    for (int i = 0; i < 2; i++) {
        faults_in_every_call(paths[i], FAULT_MEMORY, "out_of_memory", load_profile, paths[i], 0);
        faults_in_every_call(paths[i], FAULT_FILE, "file_error file_not_found invalid_head_profile",
                             load_profile, paths[i], 0);
    }
    unlink(path);
}
END_TEST

/* ---- the backend and its threads */

struct machine {
    struct model *model;
};

static bool open_backend(void *context, struct error *e)
{
    const struct machine *m = context;
    struct backend b = {0};
    if (!backend_cpu_open(&b, 3, NULL, e))
        return false;
    struct weight w = m->model->weights->layers[0].wq;
    bool done = b.weight_prepare(b.self, &w, true, e);
    if (done)
        b.weight_release(b.self, &w);
    float *x = done ? b.alloc(b.self, 100, e) : NULL;
    done = done && x && b.kv_alloc(b.self, 50, m->model->head_dim, e);
    if (done)
        b.kv_free(b.self);
    if (x)
        b.free(b.self, x);
    b.close(b.self);
    return done;
}

START_TEST(opening_the_backend)
{
    struct error e;
    struct machine m = {model_open(STORIES, NULL, NULL, &e)};
    ck_assert(m.model);
    faults_in_every_call("backend_cpu_open", FAULT_MEMORY, "out_of_memory", open_backend, &m, 0);
    faults_in_every_call("backend_cpu_open", FAULT_THREAD,
                         "out_of_memory device_unavailable engine_fault", open_backend, &m, 0);
    model_close(m.model);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("model, while memory and files fail");
    TCase *t = suite_case(s, "all", 300);
    tcase_add_test(t, opening_a_model);
    tcase_add_test(t, vocabularies);
    tcase_add_loop_test(t, chat_templates, 0, 8);
    tcase_add_test(t, jinja_programs);
    tcase_add_test(t, head_profiles);
    tcase_add_test(t, opening_the_backend);
    return suite_run(s);
}
