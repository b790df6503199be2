"""Writes small GGUF models for tests: a model that says a fixed text. Each of its tokens is followed by the next
one, whatever came before, because attention and feed-forward add nothing. Standard library only."""
import array
import struct

U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value)) + value


def value_bytes(kind, value):
    if kind == STRING:
        return text(value)
    if kind == ARRAY:
        element, items = value
        return struct.pack("<IQ", element, len(items)) + b"".join(value_bytes(element, i) for i in items)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], value)


def write_gguf(path, keys, tensors):
    """keys {name: (kind, value)}, tensors {name: (shape with the contiguous dimension first, floats)}."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for name, (kind, value) in keys.items():
        head += text(name) + struct.pack("<I", kind) + value_bytes(kind, value)
    data = bytearray()
    for name, (shape, values) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        data += values.tobytes() + b"\0" * (-len(values) * 4 % 32)
    with open(path, "wb") as f:
        f.write(head + b"\0" * (-len(head) % 32) + data)


def alphabet():
    """GPT-2's letters for the 256 bytes."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters, n = {}, 0
    for byte in range(256):
        if byte in own:
            letters[byte] = chr(byte)
        else:
            letters[byte], n = chr(256 + n), n + 1
    return letters


LETTERS = alphabet()


def zeros(n):
    return array.array("f", bytes(4 * n))


def matrix(rows, cols, ones=()):
    values = zeros(rows * cols)
    for row, col in ones:
        values[row * cols + col] = 2.0
    return (cols, rows), values


def write_script(path, pieces, specials=(), template=None, keys=None, tensors=None, end=0, context=512,
                 padding=0):
    """A model that says `pieces` (strings, or names of `specials`) after any prompt, then the token `end`.
    specials: [(text, kind)], the first tokens behind "<eos>". keys and tensors are added to the file's; padding: rows without a token."""
    names = [name for name, _ in specials]
    tokens = ["<eos>", *names, *(LETTERS[b] for b in range(256))]
    kinds = [CONTROL, *(kind for _, kind in specials)] + [NORMAL] * 256
    said = []
    for piece in pieces:
        if piece in names:
            said.append(1 + names.index(piece))
            continue
        said.append(len(tokens))
        tokens.append("".join(LETTERS[b] for b in piece.encode()))
        kinds.append(NORMAL)
    n = len(tokens) + padding
    width, heads = (n + 31) // 32 * 32, 4
    follows = {i: said[0] for i in range(n)}
    follows.update(zip(said, said[1:] + [end]))
    vector = lambda: ((width,), array.array("f", [1.0] * width))
    weights = {"token_embd.weight": matrix(n, width, [(i, i) for i in range(n)]), "output_norm.weight": vector(),
               "output.weight": matrix(n, width, [(to, at) for at, to in follows.items()])}
    for name, rows, cols in (("attn_q", width, width), ("attn_k", width, width), ("attn_v", width, width),
                             ("attn_output", width, width), ("ffn_gate", 32, width), ("ffn_up", 32, width),
                             ("ffn_down", width, 32)):
        weights[f"blk.0.{name}.weight"] = matrix(rows, cols)
    weights["blk.0.attn_norm.weight"] = weights["blk.0.ffn_norm.weight"] = vector()
    facts = {
        "general.architecture": (STRING, "llama"), "general.name": (STRING, "script"),
        "llama.context_length": (U32, context), "llama.embedding_length": (U32, width), "llama.block_count": (U32, 1),
        "llama.feed_forward_length": (U32, 32), "llama.attention.head_count": (U32, heads),
        "tokenizer.ggml.model": (STRING, "gpt2"), "tokenizer.ggml.pre": (STRING, "gpt-2"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)), "tokenizer.ggml.token_type": (ARRAY, (I32, kinds)),
        "tokenizer.ggml.merges": (ARRAY, (STRING, [])), "tokenizer.ggml.eos_token_id": (U32, 0),
        "tokenizer.ggml.add_bos_token": (BOOL, False), **(keys or {})}
    if template is not None:
        facts["tokenizer.chat_template"] = (STRING, template)
    write_gguf(path, facts, {**weights, **(tensors or {})})
    return path
