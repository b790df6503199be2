"""The demo model in PyTorch: the llama architecture as GGUF means it (interleaved RoPE, RMSNorm, SwiGLU, tied embeddings).

Two things are unusual, and are why two CPU cores are enough:

* It starts with the circuit that looks things up (an "induction head") half made, instead of waiting for it to form:
  heads of layer 0 look 1, 2, .. tokens back, and one KV head of layer LOOKUP compares what the current token follows
  with what every earlier token follows. Trained from there, everything moves; nothing is frozen.
* In most steps all KV heads but that one see only the first tokens and a window. So looking up stays in one head, as it
  does in large models, where a few heads of many do it; that is what RazorAttention is about.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

N_LAYERS, WIDTH, N_HEADS, N_KV, HEAD, HIDDEN = 4, 192, 6, 3, 64, 512
THETA, EPSILON = 10000000.0, 1e-5
LOOKUP_GAIN, COPY_GAIN = 1.5, 2.0
LOOKUP = (2, 0)  # layer and KV head
GROUP = N_HEADS // N_KV


def frequencies():
    return THETA ** (-torch.arange(0, HEAD, 2, dtype=torch.float64) / HEAD)


def rope_table(n):
    angle = torch.outer(torch.arange(n, dtype=torch.float64), frequencies())
    return torch.cos(angle).float(), torch.sin(angle).float()


def rotate(x, cos, sin):  # x: [batch, heads, tokens, HEAD]
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


class Block(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.attn_norm, self.ffn_norm = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.ones(WIDTH))

        def weight(rows, columns, gain=1.0):
            return nn.Parameter(torch.randn(rows, columns) * gain / math.sqrt(columns))
        self.q, self.k = weight(N_HEADS * HEAD, WIDTH, 0.5), weight(N_KV * HEAD, WIDTH, 0.5)
        self.v, self.o = weight(N_KV * HEAD, WIDTH, 0.5), weight(WIDTH, N_HEADS * HEAD, 0.1)
        self.gate, self.up, self.down = weight(HIDDEN, WIDTH), weight(HIDDEN, WIDTH), weight(WIDTH, HIDDEN, 0.1)

    def forward(self, x, table, window):
        b, t, _ = x.shape
        h = F.rms_norm(x, (WIDTH,), self.attn_norm, EPSILON)
        q = rotate(F.linear(h, self.q).view(b, t, N_HEADS, HEAD).transpose(1, 2), *table)
        k = rotate(F.linear(h, self.k).view(b, t, N_KV, HEAD).transpose(1, 2), *table)
        v = F.linear(h, self.v).view(b, t, N_KV, HEAD).transpose(1, 2)
        k, v = k.repeat_interleave(GROUP, 1), v.repeat_interleave(GROUP, 1)
        if window is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        elif self.layer != LOOKUP[0]:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=window)
        else:
            a = LOOKUP[1] * GROUP
            whole = F.scaled_dot_product_attention(q[:, a:a + GROUP], k[:, a:a + GROUP], v[:, a:a + GROUP], is_causal=True)
            rest = [i for i in range(N_HEADS) if not a <= i < a + GROUP]
            near = F.scaled_dot_product_attention(q[:, rest], k[:, rest], v[:, rest], attn_mask=window)
            y = torch.cat((near[:, :a], whole, near[:, a:]), 1)
        x = x + F.linear(y.transpose(1, 2).reshape(b, t, N_HEADS * HEAD), self.o)
        h = F.rms_norm(x, (WIDTH,), self.ffn_norm, EPSILON)
        return x + F.linear(F.silu(F.linear(h, self.gate)) * F.linear(h, self.up), self.down)


class Model(nn.Module):
    def __init__(self, n_vocab):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(n_vocab, WIDTH) * 0.25)
        self.blocks = nn.ModuleList(Block(i) for i in range(N_LAYERS))
        self.norm = nn.Parameter(torch.full((WIDTH,), 0.4))
        with torch.no_grad():
            self.prepare()

    def prepare(self):
        """Looking back in layer 0, looking up in layer LOOKUP. The first coordinate of every embedding is one constant: the
        query and key that depend on distance alone are made of it."""
        half, size, ages = WIDTH // 2, WIDTH // 8, 4  # tokens in one half of the width, what came before them in the other
        self.embedding[:, half:] = 0
        self.embedding[:, 0] = 0
        self.embedding *= 0.25 * math.sqrt(half - 1) / self.embedding.norm(dim=1, keepdim=True)
        self.embedding[:, 0] = 1.0
        first, lookup = self.blocks[0], self.blocks[LOOKUP[0]]
        omega = frequencies().float()
        content = torch.zeros(size, WIDTH)
        content[:, 1:half] = torch.linalg.qr(torch.randn(half - 1, size))[0].T
        history = [torch.zeros(size, WIDTH) for _ in range(ages)]
        for age, rows in enumerate(history):
            rows[:, half + age * size:half + (age + 1) * size] = torch.eye(size)
        # A token in the norm of layer 0: a constant and half - 1 coordinates of 0.25.
        token_gain = math.sqrt(WIDTH / (1.0 + (half - 1) * 0.25 ** 2))
        fast = (omega > 0.03).float()  # turns that tell one token from the next
        strength = math.sqrt(8 * 10.0) / token_gain
        for head in range(N_HEADS):
            q = self.rows(first.q, head)
            q *= 0.1
            q[0::2, 0] = strength * fast * torch.cos(omega * (head + 1))
            q[1::2, 0] = -strength * fast * torch.sin(omega * (head + 1))
        for kv in range(N_KV):
            k = self.rows(first.k, kv)
            k *= 0.1
            k[0::2, 0], k[1::2, 0] = strength * fast, 0.0
            self.rows(first.v, kv)[:size] = content
        for age in range(ages):
            first.o[:, age * HEAD:age * HEAD + size] = history[age].T / token_gain
        # What is compared lies in the slow part of the rotations, which distance hardly turns.
        slow = torch.nonzero(omega < 5e-4).flatten()
        slots = torch.stack((2 * slow, 2 * slow + 1), 1).flatten()
        key, queries = torch.zeros(HEAD, WIDTH), [torch.zeros(HEAD, WIDTH) for _ in range(GROUP)]
        for age in range(ages):
            mix = torch.zeros(HEAD, size)
            mix[slots] = torch.linalg.qr(torch.randn(len(slots), size))[0]
            key += mix @ history[age]
            seen = mix @ (content if age == 0 else history[age - 1])
            queries[0] += seen
            queries[1] += seen * (1.5 if age < 2 else 0.0)
        kv = LOOKUP[1]
        self.rows(lookup.k, kv)[:] = key * LOOKUP_GAIN
        for g in range(GROUP):
            self.rows(lookup.q, kv * GROUP + g)[:] = queries[g] * LOOKUP_GAIN
        copied = torch.zeros(HEAD, WIDTH)
        copied[:, 1:half] = torch.linalg.qr(torch.randn(half - 1, HEAD))[0].T
        self.rows(lookup.v, kv)[:] = copied
        for g in range(GROUP):
            at = (kv * GROUP + g) * HEAD
            lookup.o[:, at:at + HEAD] = copied.T * COPY_GAIN

    @staticmethod
    def rows(weight, head):
        return weight[head * HEAD:(head + 1) * HEAD]

    def forward(self, tokens, window=None):
        table = rope_table(tokens.shape[1])
        x = F.embedding(tokens, self.embedding)
        for block in self.blocks:
            x = block(x, table, window)
        return F.rms_norm(x, (WIDTH,), self.norm, EPSILON)

    def logits(self, x):
        return F.linear(x, self.embedding)


def window_mask(n, recent, sinks=4):
    i = torch.arange(n)
    near = (i[:, None] >= i[None, :]) & ((i[:, None] - i[None, :] < recent) | (i[None, :] < sinks))
    return near[None, None]
