#!/usr/bin/env python3
"""What the same card does through PyTorch with the shapes of Llama-3-8B in bfloat16: a copy, products, attention, and a whole
decode step as a CUDA graph. Times are medians; a part that fails says so and the next one runs."""
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

LAYERS, WIDTH, HEADS, KV_HEADS, HEAD_DIM, FEED_FORWARD, TOKENS = 32, 4096, 32, 8, 128, 14336, 128256
HOW = {"device": "cuda", "dtype": torch.bfloat16}


def median_ms(call, n=15, graph=False):
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    if graph:
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            call()
        call = recorded.replay
        call()
    times = []
    for _ in range(n):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[n // 2]


def copy():
    source = torch.randn(1 << 30, **HOW)
    target = torch.empty_like(source)
    ms = median_ms(lambda: target.copy_(source))
    return f"{2 * source.nbytes / ms / 1e6:.0f} GB/s read and written"


def product(n_rows):
    """Eight weights in turn, more than the cache holds."""
    weights = [torch.randn(FEED_FORWARD, WIDTH, **HOW) * 0.02 for _ in range(8)]
    x = torch.randn(n_rows, WIDTH, **HOW)

    def call():
        for w in weights:
            functional.linear(x, w)

    ms = median_ms(call, graph=True) / 8
    flops = 2 * FEED_FORWARD * WIDTH * n_rows
    return f"{ms * 1e3:.1f} us, weights at {weights[0].nbytes / ms / 1e6:.0f} GB/s, {flops / ms / 1e9:.0f} TFLOP/s"


def attention(n_sequences, n_queries, n_slots, backend=None):
    q = torch.randn(n_sequences, HEADS, n_queries, HEAD_DIM, **HOW)
    k = torch.randn(n_sequences, KV_HEADS, n_slots, HEAD_DIM, **HOW)
    v = torch.randn_like(k)
    causal = n_queries > 1

    def call():
        return functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

    if backend is None:
        ms = median_ms(call, graph=True)
    else:
        with sdpa_kernel(backend):
            ms = median_ms(call, graph=True)
    flops = 4 * n_sequences * HEADS * HEAD_DIM * n_queries * n_slots * (0.5 if causal else 1)
    return f"{ms * 1e3:.0f} us, K and V at {(k.nbytes + v.nbytes) / ms / 1e6:.0f} GB/s, {flops / ms / 1e9:.0f} TFLOP/s"


class Model:
    """All layers, without the rotation of positions and without sampling: what every implementation must at least do."""

    def __init__(self, n_sequences, n_slots, n_queries):
        def weight(*shape):
            return torch.randn(*shape, **HOW) * 0.011

        qkv = (HEADS + 2 * KV_HEADS) * HEAD_DIM
        self.layers = [(weight(qkv, WIDTH), weight(WIDTH, WIDTH), weight(2 * FEED_FORWARD, WIDTH), weight(WIDTH, FEED_FORWARD))
                       for _ in range(LAYERS)]
        self.output = weight(TOKENS, WIDTH)
        self.gain = torch.ones(WIDTH, **HOW)
        self.n_sequences, self.n_queries = n_sequences, n_queries
        self.x = torch.randn(n_sequences * n_queries, WIDTH, **HOW)
        shape = (n_sequences, KV_HEADS, n_slots, HEAD_DIM)
        self.cache = [(torch.randn(*shape, **HOW), torch.randn(*shape, **HOW)) for _ in range(LAYERS if n_queries == 1 else 0)]

    def norm(self, x):
        return functional.rms_norm(x, (WIDTH,), self.gain)

    def step(self):
        x, b, n = self.x, self.n_sequences, self.n_queries
        for i, (qkv, out, gate_up, down) in enumerate(self.layers):
            parts = functional.linear(self.norm(x), qkv).split((WIDTH, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM), 1)
            q, k, v = (p.reshape(b, n, -1, HEAD_DIM).transpose(1, 2) for p in parts)
            if self.cache:
                all_k, all_v = self.cache[i]
                all_k[:, :, -1:].copy_(k)
                all_v[:, :, -1:].copy_(v)
                k, v = all_k, all_v
            a = functional.scaled_dot_product_attention(q, k, v, is_causal=n > 1, enable_gqa=True)
            x = x + functional.linear(a.transpose(1, 2).reshape(b * n, WIDTH), out)
            gate, up = functional.linear(self.norm(x), gate_up).chunk(2, 1)
            x = x + functional.linear(functional.silu(gate) * up, down)
        return functional.linear(self.norm(x[-b:]), self.output)


def model(n_sequences, n_slots, n_queries=1):
    with torch.no_grad():
        one = Model(n_sequences, n_slots, n_queries)
        ms = median_ms(one.step, n=7, graph=n_queries == 1)
    return f"{ms:.2f} ms, {n_sequences * n_queries / ms * 1e3:.0f} tokens/s"


def flex(n_sequences, n_queries, n_slots):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    compiled = torch.compile(flex_attention, dynamic=False)
    q = torch.randn(n_sequences, HEADS, n_queries, HEAD_DIM, **HOW)
    k = torch.randn(n_sequences, KV_HEADS, n_slots, HEAD_DIM, **HOW)
    v = torch.randn_like(k)
    mask = None
    if n_queries > 1:
        mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, n_queries, n_slots, device="cuda")
    ms = median_ms(lambda: compiled(q, k, v, block_mask=mask, enable_gqa=True))
    return f"{ms * 1e3:.0f} us, K and V at {(k.nbytes + v.nbytes) / ms / 1e6:.0f} GB/s"


def part(name, call, *arguments):
    try:
        print(f"torch {torch.__version__} {name}: {call(*arguments)}", flush=True)
    except Exception as e:  # whatever it is, the others still run
        print(f"torch {name}: failed, {type(e).__name__}: {str(e)[:200]}", flush=True)
    torch.cuda.empty_cache()


part("copy", copy)
for rows in (1, 16, 32, 2048):
    part(f"product {FEED_FORWARD} x {WIDTH}, {rows} rows", product, rows)
for way in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
    part(f"attention {way.name}, decode 32 x 8192", attention, 32, 1, 8192, way)
    part(f"attention {way.name}, prompt of 8192", attention, 1, 8192, 8192, way)
part("attention, decode 1 x 8192", attention, 1, 1, 8192)
part("model, prompt of 8192", model, 1, 8192, 8192)
part("model, decode 1 x 8192 (graph)", model, 1, 8192)
part("model, decode 32 x 8192 (graph)", model, 32, 8192)
part("flex attention, decode 32 x 8192", flex, 32, 1, 8192)
part("flex attention, prompt of 8192", flex, 1, 8192, 8192)
