"""Trains models/demo.gguf's weights. See README.md in this folder for how to run it and what came out.

usage: train.py NOVEL.txt OUT_FOLDER [--minutes M] [--seed N] [--continue WEIGHTS.pt]

--continue goes on from weights of an earlier run: all lengths by turns, at a quarter of the rate, falling to nothing.
"""
import argparse
import bisect
import json
import math
import os
import random
import time

import numpy as np
import torch
import torch.nn.functional as F

import chats
import vocabulary
from model import Model, window_mask

N_VOCAB = 3072
# share of the time, tokens of a sequence, sequences of a step
PHASES = [(0.15, 256, 10), (0.20, 512, 5), (0.25, 1024, 3), (0.40, 2048, 2)]


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal (Keller Jordan's Muon), with the step size of Moonlight
    (arXiv 2502.16982): 0.2 sqrt(longer side), so that it moves weights as far as AdamW does."""

    def __init__(self, params, lr, momentum=0.95, decay=0.01):
        super().__init__(params, dict(lr=lr, momentum=momentum, decay=decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.mul_(group["momentum"]).add_(p.grad)
                x = p.grad + group["momentum"] * m
                tall = x.shape[0] > x.shape[1]
                x = x.T if tall else x
                x = x / (x.norm() + 1e-7)
                for _ in range(5):
                    a = x @ x.T
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                x = x.T if tall else x
                p.mul_(1 - group["lr"] * group["decay"])
                p.add_(x, alpha=-group["lr"] * 0.2 * math.sqrt(max(x.shape)))


def load_novel(path, out):
    """Token ids of the novel, its sentence ends, and the tokenizer, whose vocabulary lands in OUT_FOLDER."""
    text = open(path, encoding="utf-8").read()
    t, vocab, merges = vocabulary.train(text, chats.vocabulary_sample(random.Random(0)), N_VOCAB)
    json.dump({"vocab": vocab, "merges": merges}, open(os.path.join(out, "vocabulary.json"), "w"))
    ids = t.encode(text).ids
    stops = {i for s, i in vocab.items() if s in (".", "!", "?", '."', '!"', '?"')}
    return t, ids, [i + 1 for i, token in enumerate(ids) if token in stops]


def sequence(r, writer, n):
    """n + 1 tokens and what each of the last n counts as a target."""
    dice = r.random()
    if dice < 0.78:
        pieces = writer.chat(r, n + 1)[:n + 1]
    elif dice < 0.90:
        first = r.randrange(len(writer.novel) - n - 1)
        pieces = [(i, 0.3) for i in writer.novel[first:first + n + 1]]
    else:
        length = r.randint(n // 8, n // 2)
        once = [r.randrange(3, N_VOCAB) for _ in range(length)]
        pieces = [(i, 0.0) for i in once] + [(i, 0.5) for i in once * (n // length + 1)]
        pieces = pieces[:n + 1]
    return [p[0] for p in pieces], [p[1] for p in pieces[1:]]


def batch(r, writer, n, rows):
    made = [sequence(r, writer, n) for _ in range(rows)]
    tokens = torch.tensor([m[0] for m in made])
    return tokens[:, :-1], tokens[:, 1:], torch.tensor([m[1] for m in made])


def measure(model, writer, n, trials, seed, kinds=("number", "word", "short")):
    """Exact match of the answer's value by kind of value: five digits, words, other. Question asked once, at the end."""
    r = random.Random(seed)
    right, asked = {}, {}
    model.eval()
    for _ in range(trials):
        facts = chats.Facts(r, 6)
        fact = r.choice(facts.known)
        prompt = []
        writer.role(prompt, "user")
        prompt += writer.document(r, facts.known, n - 60)
        writer.put(prompt, f"\n\nWhat is the {fact[0]}?", 0)
        writer.end(prompt, 0)
        writer.role(prompt, "assistant")
        writer.put(prompt, f"The {fact[0]} is", 0)
        value = writer.ids(" " + fact[1])
        tokens = [p[0] for p in prompt] + value
        with torch.no_grad():
            x = model(torch.tensor([tokens[:-1]]))
            guess = model.logits(x[0, -len(value):]).argmax(-1).tolist()
        kind = "words" if not fact[1].isdigit() else "five digits" if len(fact[1]) == 5 else "short numbers"
        asked[kind] = asked.get(kind, 0) + 1
        right[kind] = right.get(kind, 0) + (guess == value)
    model.train()
    total = sum(right.values()) / trials
    return total, {k: f"{right[k]}/{asked[k]}" for k in sorted(asked)}


def main():
    a = argparse.ArgumentParser()
    a.add_argument("novel"), a.add_argument("out")
    a.add_argument("--minutes", type=float, default=70), a.add_argument("--seed", type=int, default=1)
    a.add_argument("--threads", type=int, default=2), a.add_argument("--continue", dest="weights")
    a = a.parse_args()
    os.makedirs(a.out, exist_ok=True)
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    r = random.Random(a.seed)
    tokenizer, novel, ends = load_novel(a.novel, a.out)
    held_out = len(novel) * 95 // 100  # the end of the novel is for measuring
    cut = bisect.bisect_left(ends, held_out)
    writer = chats.Writer(tokenizer, novel[:held_out], ends[:cut])
    unseen = chats.Writer(tokenizer, novel[held_out:], [e - held_out for e in ends[cut:]])
    model = Model(N_VOCAB)
    if a.weights:
        model.load_state_dict(torch.load(a.weights))
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and n != "embedding"]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimisers = [Muon([dict(params=matrices, lr=2e-3)], lr=2e-3),
                  torch.optim.AdamW([dict(params=[model.embedding], lr=3e-3), dict(params=vectors, lr=2e-3)],
                                    betas=(0.9, 0.98), weight_decay=0.0)]
    base = [[g["lr"] for g in o.param_groups] for o in optimisers]
    print(sum(p.numel() for p in model.parameters()), "parameters,", len(novel), "tokens of novel", flush=True)
    print("before training:", measure(model, unseen, 200, 100, 7), flush=True)
    start, n_tokens, step, shown = time.time(), 0, 0, time.time()
    sums = np.zeros(4)
    while True:
        done = (time.time() - start) / (60 * a.minutes)
        if done >= 1:
            break
        share, at = 0.0, 0
        for at, phase in enumerate(PHASES):
            share += phase[0]
            if done < share:
                break
        _, n, rows = PHASES[at]
        if a.weights:
            _, n, rows = r.choice(PHASES)
        elif at and r.random() < 0.2:  # the shorter ones are not forgotten
            _, n, rows = PHASES[r.randrange(at)]
        rate = min(1.0, step / 50) * (1.0 if done < 0.5 else max(0.02, 2 * (1 - done)))
        if a.weights:
            rate = min(1.0, step / 50) * max(0.01, 0.25 * (1 - done))
        for o, lrs in zip(optimisers, base):
            for g, lr in zip(o.param_groups, lrs):
                g["lr"] = lr * rate
        tokens, targets, weights = batch(r, writer, n, rows)
        window = window_mask(n, r.choice((32, 48, 64, 96, 128, 192))) if r.random() < 0.7 else None
        x = model(tokens, window)
        counted = weights > 0
        ce = F.cross_entropy(model.logits(x[counted]), targets[counted], reduction="none")
        w = weights[counted]
        loss = (ce * w).sum() / w.sum()
        for o in optimisers:
            o.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in optimisers:
            o.step()
        with torch.no_grad():
            value, text = w == 3.0, w == 0.3
            sums += [ce[value].sum().item(), value.sum().item(), ce[text].sum().item(), text.sum().item()]
        step += 1
        n_tokens += tokens.numel()
        if step % 50 == 0:
            print(f"{(time.time() - start) / 60:.1f} min, step {step}, {n_tokens / 1e6:.2f} M tokens, length {n}: values "
                  f"{sums[0] / max(sums[1], 1):.3f} nats, novel {sums[2] / max(sums[3], 1):.3f}, "
                  f"{n_tokens / (time.time() - start):.0f} tokens/s", flush=True)
            sums[:] = 0
        if time.time() - shown > 400:
            shown = time.time()
            for length in (200, 800, 1500):
                print(f"  looked up at {length}:", measure(model, unseen, length, 30, step), flush=True)
            torch.save(model.state_dict(), os.path.join(a.out, "weights.pt"))
    torch.save(model.state_dict(), os.path.join(a.out, "weights.pt"))
    for length in (200, 800, 1500, 1900):
        print(f"finally, looked up at {length}:", measure(model, unseen, length, 100, 1), flush=True)
    print(f"{step} steps, {n_tokens} tokens, {(time.time() - start) / 60:.1f} minutes, seed {a.seed}", flush=True)


if __name__ == "__main__":
    main()
