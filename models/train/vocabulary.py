"""The demo model's tokenizer: byte-level BPE whose numbers come in groups of three digits.

Letters: merges learned from the novel and from generated chats, so that frequent nouns and every name and value
of the chats are whole tokens. Digits: merges written by hand. " 482" is one token, " 48213" is " 482" and "13":
a small model copies two tokens well and five badly. Pre-tokenizer "gpt-2", so a number keeps its leading space.
"""
import json
import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPACE = "\u0120"  # how byte-level BPE writes a leading space


def number_merges():
    """Merges that build " d", " dd", " ddd" first and then "dd" out of what is left."""
    digits = "0123456789"
    merges = [(SPACE, a) for a in digits]
    merges += [(SPACE + a, b) for a in digits for b in digits]
    merges += [(SPACE + a + b, c) for a in digits for b in digits for c in digits]
    merges += [(a, b) for a in digits for b in digits]
    return merges


def train(text, chats, n_vocab):
    """Tokenizer of n_vocab tokens. `text`: the novel; `chats`: strings whose words must become whole."""
    letters = str.maketrans("", "", "0123456789")
    numbers = number_merges()
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab - len(numbers), special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.train_from_iterator([text.translate(letters)] + [c.translate(letters) for c in chats], trainer)
    state = json.loads(learned.to_str())["model"]
    vocab = state["vocab"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["merges"]] + numbers
    for a, b in numbers:
        vocab.setdefault(a + b, len(vocab))
    return build(vocab, merges), vocab, merges


def build(vocab, merges):
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens(SPECIAL)
    return t


if __name__ == "__main__":
    import sys
    import chats
    text = open(sys.argv[1], encoding="utf-8").read()
    t, vocab, _ = train(text, chats.vocabulary_sample(random.Random(0)), 3072)
    print(len(vocab), t.encode("The code of Anna is 48213.").tokens)
    words = [w for group in chats.ALL_WORDS for w in group]
    print("not whole:", [w for w in words if len(t.encode(" " + w).ids) > 1])
