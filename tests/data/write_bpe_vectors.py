#!/usr/bin/env python3
"""Writes vocab-bpe-small.NAME.out: the ids that Hugging Face's tokenizers give for the texts of
vocab-bpe-small.inp with the pre-tokenizer NAME, whose patterns are those of the models' tokenizer.json.

    pip install tokenizers gguf
    python3 tests/data/write_bpe_vectors.py [NAME...]          all names without one"""
import os
import sys

from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

HERE = os.path.dirname(os.path.abspath(__file__))
SMALL = os.path.join(HERE, "vocab-bpe-small")
S = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
END = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UP, LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
HAN_UP, HAN_LOW = UP[:-1] + r"&&[^\p{Han}]]", LOW[:-1] + r"&&[^\p{Han}]]"
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
CJK = "[一-龥぀-ゟ゠-ヿ]+"
DEEPSEEK3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
             r"| ?[\p{P}\p{S}]+[\r\n]*|" + END)


def o200k(contractions, digits, up=UP, low=LOW, slash="/"):
    head = r"[^\r\n\p{L}\p{N}]?"
    return (f"{head}{up}*{low}+{contractions}|{head}{up}+{low}*{contractions}|\\p{{N}}{digits}"
            f"| ?[^\\s\\p{{L}}\\p{{N}}]+[\\r\\n{slash}]*|{END}")


def cl100k(digits):
    return S + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|" + END


GPT2 = None  # ByteLevel's own pattern
RECIPES = {
    "gpt-2": [GPT2],
    "llama-bpe": [cl100k("{1,3}")],
    "qwen2": [cl100k("")],
    "smollm": [Digits(individual_digits=True), GPT2],
    "mpt": [GPT2],
    "command-r": [Digits(individual_digits=True), GPT2],
    "deepseek-r1-qwen": [cl100k("")],
    "qwen35": [S + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + END],
    "jais-2": [S + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
               + "".join(r"\s{%s}(?!\S)|" % n for n in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2"))
               + r"\s{1}"],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", Digits(individual_digits=True)],
    "deepseek-v3": [r"\p{N}{1,3}", CJK, DEEPSEEK3],
    "youtu": ["[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|" + CJK, o200k(S + "?", "")],
    "bloom": [BLOOM],
    "viking": [BLOOM, Digits(individual_digits=True)],
    "tekken": [o200k("", "")],
    "gpt-4o": [o200k(S + "?", "{1,3}")],
    "tiny_aya": [r"\d{1,3}(?=(?:\d{3})*\b)", o200k(S + "?", "{1,3}")],
    "kimi-k2": [r"[\p{Han}]+|" + o200k(S + "?", "{1,3}", HAN_UP, HAN_LOW, "")],
    "superbpe": [r"\p{N}+", r"(?=(\d{3})+(?!\d))"],
    "bailingmoe": [r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
                   r"|\s*[\r\n]|\s+(?!\S)|\s+"],
    "seed-coder": [S + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|" + END],
    "exaone-moe": [S + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?"
                   r"|\s*[\r\n]|\s+(?!\S)|\s+"],
    "afmoe": [r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
              "[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+", DEEPSEEK3],
    "minicpm5": [r"\p{N}{1,3}", cl100k("+")],
    "laguna": [r"[^\n]+|[\n]+", cl100k("")],
    "ufakzeka": [r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + END],
    "spark2_5": [r"\p{N}{1,3}", CJK, DEEPSEEK3.replace(r"[\r\n]*|\s*[\r\n]+", r"|[\r\n]"), r"\p{N}"],
}
NORMALISED = {"qwen2", "mpt", "command-r"}
IGNORE_MERGES = {"llama-bpe", "tekken", "youtu", "minicpm5"}


def read_small():
    fields = GGUFReader(SMALL + ".gguf").fields
    texts = {name: fields["tokenizer.ggml." + name].contents() for name in ("tokens", "merges", "token_type")}
    return texts["tokens"], [tuple(m.split(" ")) for m in texts["merges"]], texts["token_type"]


def make(name):
    tokens, merges, kinds = read_small()
    t = Tokenizer(BPE({text: i for i, text in enumerate(tokens)}, merges, ignore_merges=name in IGNORE_MERGES))
    steps = []
    for step in RECIPES[name]:
        if step is GPT2:
            steps.append(ByteLevel(add_prefix_space=False, use_regex=True))
        else:
            steps.append(Split(Regex(step), "isolated") if isinstance(step, str) else step)
    if RECIPES[name][-1] is not GPT2:
        steps.append(ByteLevel(add_prefix_space=False, use_regex=False))
    t.pre_tokenizer = Sequence(steps)
    if name in NORMALISED:
        t.normalizer = NFC()
    t.add_tokens([AddedToken(text, normalized=False) for text, kind in zip(tokens, kinds) if kind == 4])
    return t


def main():
    with open(SMALL + ".inp", encoding="utf-8", newline="") as f:
        texts = f.read().split("\n__ggml_vocab_test__\n")
    for name in sys.argv[1:] or RECIPES:
        t = make(name)
        with open(f"{SMALL}.{name}.out", "w", encoding="ascii") as f:
            for text in texts:
                f.write(" ".join(str(i) for i in t.encode(text, add_special_tokens=False).ids) + "\n")


main()
