"""Writes trained weights as GGUF: matrices in Q8_0, vectors in F32, the tokenizer and the ChatML template with them.

usage: export.py FOLDER OUT.gguf      FOLDER: where train.py left weights.pt and vocabulary.json
"""
import json
import struct
import sys

import numpy as np
import torch

import model as m
import vocabulary

U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5
TENSOR_F32, TENSOR_Q8_0 = 0, 8
ALIGNMENT = 32
CONTEXT = 2048
TEMPLATE = ("{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def text(value):
    value = value.encode()
    return struct.pack("<Q", len(value)) + value


def entry(key, kind, value):
    if kind == STRING:
        packed = text(value)
    elif kind == ARRAY:
        of, items = value
        packed = struct.pack("<IQ", of, len(items))
        packed += b"".join(map(text, items)) if of == STRING else np.asarray(items, "<i4").tobytes()
    else:
        packed = struct.pack({U32: "<I", F32: "<f", BOOL: "<?"}[kind], value)
    return text(key) + struct.pack("<I", kind) + packed


def q8_0(matrix):
    """Blocks of 32: a half scale and 32 signed bytes."""
    blocks = matrix.astype(np.float32).reshape(-1, 32)
    scale = (np.abs(blocks).max(1) / 127).astype(np.float16)
    divisor = scale.astype(np.float32)
    numbers = np.where(divisor[:, None] > 0, np.rint(blocks / np.maximum(divisor, 1e-30)[:, None]), 0)
    out = np.zeros(len(blocks), dtype=[("d", "<f2"), ("q", "i1", 32)])
    out["d"], out["q"] = scale, np.clip(numbers, -127, 127)
    return out.tobytes()


def main():
    folder, out = sys.argv[1:3]
    weights = torch.load(f"{folder}/weights.pt")
    saved = json.load(open(f"{folder}/vocabulary.json"))
    vocab, merges = saved["vocab"], saved["merges"]
    tokens = sorted(vocab, key=vocab.get)
    kinds = [3 if t in vocabulary.SPECIAL else 1 for t in tokens]
    meta = [
        entry("general.architecture", STRING, "llama"), entry("general.name", STRING, "winnow demo"),
        entry("general.description", STRING, "finds facts in a text; trained by models/train in winnow's repository"),
        entry("general.license", STRING, "apache-2.0"), entry("general.file_type", U32, 7),
        entry("llama.context_length", U32, CONTEXT), entry("llama.embedding_length", U32, m.WIDTH),
        entry("llama.block_count", U32, m.N_LAYERS), entry("llama.feed_forward_length", U32, m.HIDDEN),
        entry("llama.attention.head_count", U32, m.N_HEADS), entry("llama.attention.head_count_kv", U32, m.N_KV),
        entry("llama.attention.key_length", U32, m.HEAD), entry("llama.attention.value_length", U32, m.HEAD),
        entry("llama.attention.layer_norm_rms_epsilon", F32, m.EPSILON),
        entry("llama.rope.dimension_count", U32, m.HEAD), entry("llama.rope.freq_base", F32, m.THETA),
        entry("llama.vocab_size", U32, len(tokens)),
        entry("tokenizer.ggml.model", STRING, "gpt2"), entry("tokenizer.ggml.pre", STRING, "gpt-2"),
        entry("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)), entry("tokenizer.ggml.token_type", ARRAY, (I32, kinds)),
        entry("tokenizer.ggml.merges", ARRAY, (STRING, [" ".join(pair) for pair in merges])),
        entry("tokenizer.ggml.bos_token_id", U32, vocab["<|endoftext|>"]),
        entry("tokenizer.ggml.eos_token_id", U32, vocab["<|im_end|>"]),
        entry("tokenizer.ggml.padding_token_id", U32, vocab["<|endoftext|>"]),
        entry("tokenizer.ggml.add_bos_token", BOOL, False), entry("tokenizer.chat_template", STRING, TEMPLATE)]
    names = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate", "up": "ffn_up",
             "down": "ffn_down", "attn_norm": "attn_norm", "ffn_norm": "ffn_norm"}
    tensors = [("token_embd.weight", weights["embedding"]), ("output_norm.weight", weights["norm"])]
    for layer in range(m.N_LAYERS):
        tensors += [(f"blk.{layer}.{name}.weight", weights[f"blocks.{layer}.{ours}"]) for ours, name in names.items()]
    header, data = b"", b""
    for name, tensor in tensors:
        values = tensor.float().numpy()
        kind = TENSOR_Q8_0 if values.ndim == 2 else TENSOR_F32
        packed = q8_0(values) if kind == TENSOR_Q8_0 else values.astype("<f4").tobytes()
        header += text(name) + struct.pack("<I", values.ndim) + struct.pack(f"<{values.ndim}Q", *values.shape[::-1])
        header += struct.pack("<IQ", kind, len(data))
        data += packed + bytes(-len(packed) % ALIGNMENT)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(meta)) + b"".join(meta) + header
    with open(out, "wb") as f:
        f.write(head + bytes(-len(head) % ALIGNMENT) + data)


if __name__ == "__main__":
    main()
