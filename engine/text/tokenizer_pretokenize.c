/* Pre-tokenizer patterns: see tokenizer_pretokenize.h.
 *
 * A pre-tokenizer is one or more patterns, applied in turn: each cuts the pieces of the one before
 * into its matches and the gaps between them. The patterns are those of the models' published
 * tokenizer.json, with two changes that keep their meaning: white space is written as Unicode's
 * White_Space (PCRE2's \s also has U+180E), and the one pattern that could backtrack quadratically
 * is anchored.
 *
 * All patterns are linear in practice, but PCRE2 has limits. Where it gives up on a piece (a limit,
 * no memory for the JIT's stack), the rest of the piece is cut before every space instead, so that
 * no text is lost or refused. */
#include "engine/text/tokenizer_pretokenize.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/base/utf8.h"
#include "engine/text/tokenizer_vocab.h"

#define MAX_STAGES 6

/* Unicode's White_Space, for use inside brackets. */
#define SPACES                                                                                     \
    "\\t-\\r "                                                                                     \
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* GPT-2: contractions, words, numbers, other runs, white space except the last one before a
 * word. */
#define GPT2                                                                                       \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" SPACES "\\p{L}\\p{N}]+|[" SPACES            \
    "]+(?![^" SPACES "])|[" SPACES "]+"

/* Llama 3 and Qwen 2 differ in how many digits make a word. */
#define CL100K(digits)                                                                             \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" digits "| ?[^" SPACES      \
    "\\p{L}\\p{N}]+[\\r\\n]*|[" SPACES "]*[\\r\\n]+|[" SPACES "]+(?![^" SPACES "])|[" SPACES "]+"

/* The cased letters as DeepSeek LLM's tokenizer lists them: of one Unicode version, so not
 * \p{L&}. */
#define DEEPSEEK_LETTERS                                                                           \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{"    \
    "293}\\x{295}-"                                                                                \
    "\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}"  \
    "\\x{38c}"                                                                                     \
    "\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{"    \
    "10a0}-\\x{10c5}"                                                                              \
    "\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{"   \
    "1d2b}\\x{1d6b}-"                                                                              \
    "\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{"    \
    "1f48}-\\x{1f4d}"                                                                              \
    "\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{"     \
    "1fb6}-\\x{1fbc}"                                                                              \
    "\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{"    \
    "1fe0}-\\x{1fec}"                                                                              \
    "\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{"     \
    "2119}-\\x{211d}"                                                                              \
    "\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{"     \
    "213f}\\x{2145}-"                                                                              \
    "\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{"     \
    "2cee}\\x{2cf2}"                                                                               \
    "\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}\\x{"    \
    "a78b}-\\x{a78e}"                                                                              \
    "\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{"   \
    "ff5a}\\x{10400}-"                                                                             \
    "\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{"     \
    "10cf2}\\x{118a0}-"                                                                            \
    "\\x{118df}\\x{1e900}-\\x{1e943}"

/* What the newer families end with: the white space before a word stays with the word. */
#define WHITE_SPACE "[" SPACES "]*[\\r\\n]+|[" SPACES "]+(?![^" SPACES "])|[" SPACES "]+"

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"

/* o200k and its kin: a word is capitals, then small letters. */
#define CAPITALS "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define SMALL    "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
#define O200K(contractions, digits)                                                                \
    "[^\\r\\n\\p{L}\\p{N}]?[" CAPITALS "]*[" SMALL "]+" contractions                               \
    "|[^\\r\\n\\p{L}\\p{N}]?[" CAPITALS "]+[" SMALL "]*" contractions "|\\p{N}" digits             \
    "| ?[^" SPACES "\\p{L}\\p{N}]+[\\r\\n/]*|" WHITE_SPACE

/* Kimi K2: the same, with Chinese characters as words of their own. */
#define NOT_HAN(set) "(?:(?!\\p{Han})[" set "])"
#define KIMI_K2                                                                                    \
    "\\p{Han}+|[^\\r\\n\\p{L}\\p{N}]?" NOT_HAN(CAPITALS) "*" NOT_HAN(                              \
        SMALL) "+" CONTRACTIONS                                                                    \
               "?|[^\\r\\n\\p{L}\\p{N}]?" NOT_HAN(CAPITALS) "+" NOT_HAN(                           \
                   SMALL) "*" CONTRACTIONS "?|\\p{N}{1,3}| ?[^" SPACES                             \
                          "\\p{L}\\p{N}]+[\\r\\n]*|" WHITE_SPACE

#define DEEPSEEK3                                                                                  \
    "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"                        \
    "| ?[\\p{P}\\p{S}]+[\\r\\n]*|" WHITE_SPACE
#define CHINESE_JAPANESE "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{30ff}]+"

/* Jais 2: CL100K with runs of white space in powers of two. */
#define JAIS2                                                                                      \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^" SPACES                          \
                 "\\p{L}\\p{N}]+[\\r\\n]*|[" SPACES "]*[\\r\\n]+|" RUN("512") RUN("256")           \
                     RUN("128") RUN("64") RUN("32") RUN("16") RUN("8") RUN("4")                    \
                         RUN("1,2") "[" SPACES "]"
#define RUN(n) "[" SPACES "]{" n "}(?![^" SPACES "])|"

/* BLOOM: everything up to a space, a bar or one of these marks. */
#define BLOOM " ?[^(" SPACES "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"

/* A pattern with this before it: its matches are cut into threes from their end. (A lookahead for
 * "a multiple of three to the end" reads the rest of a number at each of its digits.) */
#define THREES             '\1'
#define IN_THREES(pattern) "\1" pattern

struct recipe {
    const char *names; /* each with a space after it; the first is the usual one */
    bool ignores_merges, adds_bos;
    const char *patterns[MAX_STAGES];
};

static const struct recipe recipes[] = {
    {"default ", false, false, {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {"gpt-2 gpt2 phi-2 mpt olmo jais trillion granite-docling gigachat a.x-4.0 mellum modern-bert "
     "exaone4 jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe ",
     false,
     false,
     {GPT2}},
    {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano ",
     true,
     true,
     {CL100K("{1,3}")}},
    {"dbrx smaug-bpe chatglm-bpe ", false, false, {CL100K("{1,3}")}},
    {"glm4 glm5 ", true, false, {CL100K("{1,3}")}},
    {"jais-2 ", false, false, {JAIS2}},
    {"smollm starcoder refact command-r codeshell exaone minerva-7b mellum2 ",
     false,
     false,
     {"\\p{N}", GPT2}},
    {"qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2 ",
     false,
     false,
     {CL100K("")}},
    {"qwen35 ",
     false,
     false,
     {CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^" SPACES
                   "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" WHITE_SPACE}},
    {"falcon ", false, false, {"[\\p{P}$+<=>^~|`]+", GPT2, "[0-9]+", "[0-9][0-9][0-9]"}},
    {"deepseek-llm ",
     false,
     false,
     {"[\\r\\n]", "[" SPACES "]?[" DEEPSEEK_LETTERS "]+",
      "[" SPACES
      "]?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
      "(?<![" SPACES "])[" SPACES "]++\\z",
      "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+", "\\p{N}"}},
    {"deepseek-coder ",
     false,
     false,
     {"[\\r\\n]", "[" SPACES "]?\\p{L}+", "[" SPACES "]?\\p{P}+",
      "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+", "\\p{N}"}},
    {"deepseek-v3 hunyuan-dense joyai-llm hy_v4 ",
     false,
     false,
     {"\\p{N}{1,3}", CHINESE_JAPANESE, DEEPSEEK3}},
    {"youtu ",
     true,
     false,
     {"[\\x{ac00}-\\x{d7a3}\\x{3131}-\\x{318e}]+|[\\x{ff01}\\x{2026}\\x{201c}\\x{201d}\\x{2018}"
      "\\x{2019}\\x{2014}\\x{ff1a}\\x{ff1b}\\x{ff0c}\\x{3001}-\\x{303f}\\x{fe30}-\\x{fe4f}]+"
      "|[\\x{3105}-\\x{312f}]+|" CHINESE_JAPANESE,
      O200K(CONTRACTIONS "?", "")}},
    {"bloom poro-chat gpt3-finnish ", false, false, {BLOOM}},
    {"viking ", false, false, {BLOOM, "\\p{N}"}},
    {"tekken ", true, true, {O200K("", "")}},
    {"chameleon ",
     false,
     true,
     {"<sentinel:[0-9]+>", "IMGIMG[A-I]{1,4}Z", "[\\t\\n]|    |  ", "\\p{N}",
      "[\\p{P}!-/:-@\\[-`{-~]", GPT2}},
    {"gpt-4o llama4 kanana2 talkie minimax-m2 ", false, false, {O200K(CONTRACTIONS "?", "{1,3}")}},
    {"tiny_aya cohere2moe ",
     false,
     false,
     {IN_THREES("(?<!\\d)\\d++\\b"), O200K(CONTRACTIONS "?", "{1,3}")}},
    {"granite-embed-multi-97m ", true, false, {O200K(CONTRACTIONS "?", "{1,3}")}},
    {"minicpm5 ", true, false, {"\\p{N}{1,3}", CL100K("+")}},
    {"laguna ", false, false, {"[^\\n]+|\\n+", CL100K("")}},
    {"ufakzeka ",
     false,
     false,
     {"[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" SPACES "\\p{L}\\p{N}]+[\\r\\n]*|" WHITE_SPACE}},
    {"spark2_5 ",
     false,
     false,
     {"\\p{N}", CHINESE_JAPANESE,
      "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+"
      "|[\\r\\n]|[" SPACES "]+(?![^" SPACES "])|[" SPACES "]+"}},
    {"kimi-k2 ", false, false, {KIMI_K2}},
    {"superbpe ", false, false, {"\\p{N}+", IN_THREES("(?<!\\d)\\d++")}},
    {"bailingmoe bailingmoe2 llada-moe ",
     false,
     false,
     {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^" SPACES
      "\\p{L}\\p{N}]++[\\r\\n]*|[" SPACES "]*[\\r\\n]|[" SPACES "]+(?![^" SPACES "])|[" SPACES
      "]+"}},
    {"seed-coder ",
     false,
     false,
     {CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" SPACES
                   "\\p{L}\\p{N}\\r\\n]+|" WHITE_SPACE}},
    {"exaone-moe ",
     false,
     false,
     {CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}| ?[^" SPACES
                   "\\p{L}\\p{N}]+[\\r\\n/]?|[" SPACES "]*[\\r\\n]|[" SPACES "]+(?![^" SPACES
                   "])|[" SPACES "]+"}},
    {"afmoe ",
     false,
     false,
     {IN_THREES("\\p{N}+"),
      "[\\x{4e00}-\\x{9fff}\\x{3400}-\\x{4dbf}\\x{f900}-\\x{faff}\\x{3040}-\\x{30ff}\\x{ff65}-"
      "\\x{ff9f}\\x{2f00}-\\x{2fdf}\\x{e40}-\\x{e7f}\\x{e80}-\\x{eff}\\x{1780}-\\x{17ff}\\x{1000}-"
      "\\x{109f}\\x{aa60}-\\x{aa7f}\\x{a9e0}-\\x{a9ff}\\x{ac00}-\\x{d7af}\\x{1100}-\\x{11ff}]+",
      DEEPSEEK3}},
};

/* Those whose tokenizer.json normalises the text to form C first. */
static const char normalising[] = "qwen2 stablelm2 mpt olmo command-r ";

static bool is_in(const char *names, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = names; *at; at = strchr(at, ' ') + 1)
        if (strncmp(at, name, length) == 0 && at[length] == ' ')
            return true;
    return false;
}

struct pretokenizer {
    bool ignores_merges, normalises;
    int n_stages;
    pcre2_code *stages[MAX_STAGES];
    bool in_threes[MAX_STAGES]; /* the stage's matches are cut into threes */
    pcre2_match_context *limits;
};

static const struct recipe *find_recipe(const char *name)
{
    if (!*name || strchr(name, ' '))
        return NULL;
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        if (is_in(recipes[i].names, name))
            return &recipes[i];
    return NULL;
}

static bool refuse_name(const char *name, struct error *e)
{
    char known[1200];
    size_t used = 0;
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s", recipes[i].names);
    known[used - 1] = 0;
    char excerpt[80];
    return error_set(e, "invalid_model", "tokenizer.ggml.pre",
                     "the pre-tokenizer \"%s\" is not supported; winnow has: %s",
                     error_excerpt(excerpt, name, strlen(name)), known);
}

static bool compile(struct pretokenizer *p, const char *pattern, struct error *e)
{
    int code;
    PCRE2_SIZE offset;
    p->in_threes[p->n_stages] = pattern[0] == THREES;
    pattern += pattern[0] == THREES;
    pcre2_code *compiled = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                         PCRE2_UTF | PCRE2_UCP, &code, &offset, NULL);
    if (!compiled)
        return error_set(e, "out_of_memory", "",
                         "PCRE2 cannot compile a pre-tokenizer: error %d at %zu", code,
                         (size_t)offset);
    /* Without a JIT (a hardened kernel, another processor) PCRE2 interprets the pattern. */
    (void)pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
    p->stages[p->n_stages++] = compiled;
    return true;
}

struct pretokenizer *pretokenizer_new(const char *name, struct error *e)
{
    const struct recipe *recipe = find_recipe(name);
    if (!recipe) {
        refuse_name(name, e);
        return NULL;
    }
    struct pretokenizer *p = calloc(1, sizeof *p);
    if (!p || !(p->limits = pcre2_match_context_create(NULL))) {
        error_set_memory(e, "a pre-tokenizer", sizeof *p);
        goto fail;
    }
    p->ignores_merges = recipe->ignores_merges;
    p->normalises = is_in(normalising, name);
    /* Match steps and KiB of heap: far more than ordinary text needs, and too few for a stall. */
    pcre2_set_match_limit(p->limits, 50 * 1000 * 1000);
    pcre2_set_heap_limit(p->limits, 64 * 1024);
    for (int i = 0; i < MAX_STAGES && recipe->patterns[i]; i++)
        if (!compile(p, recipe->patterns[i], e))
            goto fail;
    return p;
fail:
    pretokenizer_free(p);
    return NULL;
}

void pretokenizer_free(struct pretokenizer *p)
{
    if (!p)
        return;
    for (int i = 0; i < p->n_stages; i++)
        pcre2_code_free(p->stages[i]);
    pcre2_match_context_free(p->limits);
    free(p);
}

bool pretokenizer_adds_bos(const char *name)
{
    const struct recipe *recipe = find_recipe(name);
    return recipe && recipe->adds_bos;
}

bool pretokenizer_ignores_merges(const struct pretokenizer *p)
{
    return p->ignores_merges;
}

bool pretokenizer_normalises(const struct pretokenizer *p)
{
    return p->normalises;
}

/* One call of pretokenizer_split. */
struct splitting {
    const struct pretokenizer *p;
    pcre2_match_data
        *match; /* one for all stages: none has groups, and a match is read before the next */
    pretokenizer_take take;
    void *context;
};

static bool cut_at_spaces(struct splitting *s, const char *text, size_t length)
{
    while (length > 0) {
        const char *space = memchr(text + 1, ' ', length - 1);
        size_t n = space ? (size_t)(space - text) : length;
        if (!s->take(s->context, text, n))
            return false;
        text += n;
        length -= n;
    }
    return true;
}

static bool cut(struct splitting *s, int stage, const char *text, size_t length);

/* Cuts a match into pieces of three characters; the first has one to three. */
static bool cut_threes(struct splitting *s, int stage, const char *text, size_t length)
{
    size_t n = 0, at = 0;
    for (size_t i = 0; i < length; i++)
        n += ((uint8_t)text[i] & 0xC0) != 0x80;
    for (size_t left = n; left > 0;) {
        size_t start = at, take = left % 3 ? left % 3 : 3;
        for (size_t k = 0; k < take; k++)
            at += utf8_length(text + at, length - at);
        if (!cut(s, stage, text + start, at - start))
            return false;
        left -= take;
    }
    return true;
}

/* Cuts valid UTF-8 by the stages from `stage` on. The recursion is as deep as there are stages. */
static bool cut(struct splitting *s, int stage, const char *text, size_t length)
{
    bool (*cut_match)(struct splitting *, int, const char *, size_t) =
        stage < s->p->n_stages && s->p->in_threes[stage] ? cut_threes : cut;
    if (length == 0)
        return true;
    if (stage == s->p->n_stages)
        return s->take(s->context, text, length);
    size_t at = 0, gap = 0; /* text[gap..at) has no match */
    while (at < length) {
        int rc = pcre2_match(s->p->stages[stage], (PCRE2_SPTR)text, length, at, PCRE2_NO_UTF_CHECK,
                             s->match, s->p->limits);
        if (rc == PCRE2_ERROR_NOMATCH)
            break;
        if (rc < 0)
            return cut_at_spaces(s, text + gap, length - gap);
        const PCRE2_SIZE *range = pcre2_get_ovector_pointer(s->match);
        size_t start = range[0], end = range[1];
        if (!cut(s, stage + 1, text + gap, start - gap) ||
            !cut_match(s, stage + 1, text + start, end - start))
            return false;
        at = gap = end;
    }
    return cut(s, stage + 1, text + gap, length - gap);
}

bool pretokenizer_split(const struct pretokenizer *p, const char *text, size_t length,
                        pretokenizer_take take, void *context)
{
    struct splitting s = {p, pcre2_match_data_create(1, NULL), take, context};
    if (!s.match)
        return false;
    bool ok = true;
    size_t at = 0;
    while (ok && at < length) {
        size_t end = at, step;
        while (end < length && (step = utf8_length(text + end, length - end)) > 0)
            end += step;
        ok = cut(&s, 0, text + at, end - at);
        for (; ok && end < length && utf8_length(text + end, length - end) == 0; end++)
            ok = take(context, text + end, 1);
        at = end;
    }
    pcre2_match_data_free(s.match);
    return ok;
}
