"""Speed and cache memory of the served policies on one long prompt: measure_policies.py MODEL.gguf TEXT_FILE.
Prints medians of three runs over HTTP; the prompt is 6,500 bytes of the text, the answer 100 tokens, greedy."""
import os
import statistics
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from winnow_server import Server  # noqa: E402

if len(sys.argv) != 3:
    raise SystemExit(__doc__)
with open(sys.argv[2], encoding="utf-8") as f:
    prompt = f.read()[5000:11500]
with Server(model=os.path.abspath(sys.argv[1])) as server:
    print("policy, prompt tokens, prefill tokens/s, decode tokens/s, cache MiB (peak), slots kept, tokens seen")
    for policy in ("full", {"name": "sink", "budget": 1024}, {"name": "sink", "budget": 256}):
        runs = []
        for _ in range(3):
            status, _, answer = server.post("/v1/completions", {
                "prompt": prompt, "max_tokens": 100, "ignore_eos": True, "temperature": 0, "kv_policy": policy})
            if status != 200:
                raise SystemExit(answer["error"]["message"])
            runs.append(answer)
        cache = runs[0]["usage"]["kv_cache"]
        print(policy if isinstance(policy, str) else f"{policy['name']}:{policy['budget']}",
              runs[0]["usage"]["prompt_tokens"],
              round(statistics.median(r["timings"]["prompt_per_second"] for r in runs)),
              round(statistics.median(r["timings"]["predicted_per_second"] for r in runs)),
              round(cache["bytes_peak"] / 2**20, 1), cache["slots_kept_max"], cache["tokens_seen"], sep=", ")
