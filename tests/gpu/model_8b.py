#!/usr/bin/env python3
"""model_8b.py OUT.gguf TYPE [LAYERS [VOCABULARY]]: a GGUF file of Llama-3-8B's shape with random weights, for measuring.

TYPE is bf16, f16, q8_0 or q4_k. Weights are finite, not zero, and small enough that activations stay in range. One pool of
random blocks is read again and again from odd offsets, so that writing is as fast as the disk."""
import struct
import sys

import numpy as np

WIDTH, HEADS, KV_HEADS, FEED_FORWARD, CONTEXT, ROPE_BASE = 4096, 32, 8, 14336, 131072, 500000.0
UINT32, INT32, FLOAT32, STRING, ARRAY = 4, 5, 6, 8, 9
# GGUF's number of the type, values and bytes of a block
TYPES = {"f16": (1, 1, 2), "q8_0": (8, 32, 34), "q4_k": (12, 256, 144), "bf16": (30, 1, 2)}
BLOCKS = 1 << 20


def random_pool(kind):
    """Bytes of many blocks of a type."""
    rng = np.random.default_rng(7)
    if kind in ("f16", "bf16"):
        values = rng.standard_normal(64 * BLOCKS, dtype=np.float32) * 0.011
        if kind == "f16":
            return values.astype(np.float16).view(np.uint8)
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    blocks = rng.integers(0, 256, (BLOCKS, TYPES[kind][2]), dtype=np.uint8)
    scale = rng.random(BLOCKS, dtype=np.float32) * 0.5 + 0.75
    halves = [1.0e-4, 7.5e-4] if kind == "q4_k" else [1.5e-4]
    for i, factor in enumerate(halves):
        blocks[:, 2 * i:2 * i + 2] = (scale * factor).astype("<f2").view(np.uint8).reshape(BLOCKS, 2)
    return blocks.reshape(-1)


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def key(name, kind, value):
    out = text(name) + struct.pack("<I", kind)
    if kind == UINT32:
        return out + struct.pack("<I", value)
    if kind == FLOAT32:
        return out + struct.pack("<f", value)
    if kind == STRING:
        return out + text(value)
    item, items = value
    out += struct.pack("<IQ", item, len(items))
    if item == STRING:
        return out + b"".join(text(i) for i in items)
    return out + np.asarray(items, {FLOAT32: "<f4", INT32: "<i4"}[item]).tobytes()


def metadata(kind, n_layers, n_tokens):
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    types = [2, 3, 3] + [6] * 256
    tokens += [f"\u2581w{i}" for i in range(n_tokens - len(tokens))]
    types += [1] * (n_tokens - len(types))
    return [
        key("general.architecture", STRING, "llama"),
        key("general.name", STRING, "8b-random-" + kind),
        key("llama.context_length", UINT32, CONTEXT),
        key("llama.embedding_length", UINT32, WIDTH),
        key("llama.block_count", UINT32, n_layers),
        key("llama.feed_forward_length", UINT32, FEED_FORWARD),
        key("llama.attention.head_count", UINT32, HEADS),
        key("llama.attention.head_count_kv", UINT32, KV_HEADS),
        key("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        key("llama.rope.dimension_count", UINT32, WIDTH // HEADS),
        key("llama.rope.freq_base", FLOAT32, ROPE_BASE),
        key("llama.vocab_size", UINT32, n_tokens),
        key("tokenizer.ggml.model", STRING, "llama"),
        key("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        key("tokenizer.ggml.scores", ARRAY, (FLOAT32, [-float(i) for i in range(n_tokens)])),
        key("tokenizer.ggml.token_type", ARRAY, (INT32, types)),
        key("tokenizer.ggml.bos_token_id", UINT32, 1),
        key("tokenizer.ggml.eos_token_id", UINT32, 2),
    ]


def tensors(n_layers, n_tokens):
    yield "token_embd.weight", (n_tokens, WIDTH)
    yield "output_norm.weight", (WIDTH,)
    yield "output.weight", (n_tokens, WIDTH)
    kv_width = KV_HEADS * WIDTH // HEADS
    for layer in range(n_layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (WIDTH,)
        yield block + "attn_q.weight", (WIDTH, WIDTH)
        yield block + "attn_k.weight", (kv_width, WIDTH)
        yield block + "attn_v.weight", (kv_width, WIDTH)
        yield block + "attn_output.weight", (WIDTH, WIDTH)
        yield block + "ffn_norm.weight", (WIDTH,)
        yield block + "ffn_gate.weight", (FEED_FORWARD, WIDTH)
        yield block + "ffn_down.weight", (WIDTH, FEED_FORWARD)
        yield block + "ffn_up.weight", (FEED_FORWARD, WIDTH)


def main():
    out, kind = sys.argv[1:3]
    n_layers = int(sys.argv[3]) if len(sys.argv) > 3 else 32
    n_tokens = int(sys.argv[4]) if len(sys.argv) > 4 else 128256
    number, block_values, block_bytes = TYPES[kind]

    def size(shape):
        return shape[0] * 4 if len(shape) == 1 else shape[0] * shape[1] // block_values * block_bytes

    keys = metadata(kind, n_layers, n_tokens)
    every = list(tensors(n_layers, n_tokens))
    infos, offset = b"", 0
    for name, shape in every:
        infos += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", d) for d in reversed(shape))
        infos += struct.pack("<IQ", number if len(shape) == 2 else 0, offset)
        offset += size(shape) + -size(shape) % 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(every), len(keys)) + b"".join(keys) + infos
    pool = memoryview(random_pool(kind))
    at = 0
    with open(out, "wb", buffering=0) as file:
        file.write(head + bytes(-len(head) % 32))
        for _, shape in every:
            if len(shape) == 1:
                file.write(np.ones(shape, "<f4").tobytes())
                continue
            left = size(shape)
            while left:
                n = min(left, len(pool) - at)
                file.write(pool[at:at + n])
                left -= n
                at = (at + n) % len(pool)
            at = (at + 4099 * block_bytes) % len(pool)
            file.write(bytes(-size(shape) % 32))
    print(out, offset)


main()
