#!/usr/bin/env python3
"""How many long requests run at once in a pool that has room for four whole ones.

    python3 tests/bench/measure_concurrency.py MODEL.gguf TEXT_FILE [--tokens 8000] [--requests 12]
                                               [--policy '{"name":"snapkv","budget":1024}']

Starts a server with KV memory for four whole sequences, sends all requests at once, each with another part of the
text, and watches /v1/kv/stats. Then sends some of them alone to check the answers."""
import argparse
import concurrent.futures
import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import winnow_server  # noqa: E402
from winnow_server import Server  # noqa: E402

winnow_server.PATIENCE = 20  # prompts of 8k one after another take minutes

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("text")
parser.add_argument("--tokens", type=int, default=8000)
parser.add_argument("--answer", type=int, default=400)
parser.add_argument("--requests", type=int, default=12)
parser.add_argument("--check", type=int, default=2)
parser.add_argument("--policy", default='{"name":"snapkv","budget":1024}')
a = parser.parse_args()

with Server(model=a.model) as s:
    stats = s.get("/v1/kv/stats")
    heads, page = stats["layers"] * stats["kv_heads"], stats["pool"]["page_bytes"]
    with open(a.text) as f:
        text = f.read(a.tokens * 8 * 12)
    tokens = s.post("/tokenize", {"content": text})[2]["tokens"]
whole = -(-(a.tokens + a.answer) // 32) * heads
with Server("--kv-memory", str(4 * whole * page), "--no-prefix-cache", model=a.model) as s:
    def ask(i):
        start = i * (len(tokens) - a.tokens) // max(a.requests - 1, 1)
        status, _, value = s.post("/v1/completions", {
            "prompt": tokens[start:start + a.tokens], "max_tokens": a.answer, "temperature": 0, "ignore_eos": True,
            "kv_policy": json.loads(a.policy)})
        assert status == 200, value
        return value["choices"][0]["text"], value["usage"]["kv_cache"]

    began = time.time()
    with concurrent.futures.ThreadPoolExecutor(a.requests) as pool:
        futures = [pool.submit(ask, i) for i in range(a.requests)]
        most_running = most_decoding = most_pages = 0
        while not all(f.done() for f in futures):
            stats = s.get("/v1/kv/stats")
            states = [q["state"] for q in stats["sequences"]]
            most_running = max(most_running, states.count("prefill") + states.count("decode"))
            most_decoding = max(most_decoding, states.count("decode"))
            most_pages = max(most_pages, stats["pool"]["pages_used"])
            time.sleep(0.2)
    took = time.time() - began
    results = [f.result() for f in futures]
    right = all(ask(i)[0] == results[i][0] for i in range(a.check))
    totals = s.get("/v1/kv/stats")["totals"]
print(f"{a.requests} requests of {a.tokens} + {a.answer} tokens under {a.policy}, a pool of 4 whole ones "
      f"({4 * whole} pages):\n  at most {most_running} ran at once ({most_decoding} of them answering), "
      f"{most_pages} pages used, {totals['preemptions']} preemptions, {took:.0f} s; "
      f"answers equal those given alone: {right}; a cache kept {results[0][1]['slots_kept']:.0f} of "
      f"{results[0][1]['tokens_seen']} slots")
