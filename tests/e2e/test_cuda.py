"""The CUDA backend over HTTP, on the emulated device ($BUILD/winnow-emulated): the answers, what is kept and what is
reported are those of the CPU, for every preset, alone and several at once. The server audits its cache after every step.

Texts, counts of slots and bytes must be equal. Kept positions may differ where two scores nearly tie: the GPU rounds
queries to halves before it multiplies them with keys (2^-11 of a logit), the CPU does not. SWAPS of the 20 heads'
slots in a request may thus have gone to the runner-up; any one head that chose wrongly would be more."""
import concurrent.futures
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import winnow_server  # noqa: E402
from winnow_server import BUILD, KNOWN_ANSWER, STORIES, Checks, Server  # noqa: E402

check = Checks()

SWAPS = 3
EMULATED = os.path.join(BUILD, "winnow-emulated")
FLAGS = ("--audit", "--max-batched-tokens", "64", "--max-num-seqs", "4", "--kv-memory", "16M", "--no-prefix-cache")
STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a "
    "big, red ball. She wanted to play with it, but it was too high. Lily's mom said, \"Lily, let's go to the park.\" "
    "Tom was a boy who had a small dog named Max. Max liked to run and jump in the grass. One day Max saw a cat.")
# What a preset needs beyond its defaults to drop something of STORY; every other one gets a budget of 48.
ARGUMENTS = {"full": {}, "razor": {"min_window": 40}, "duo": {"sinks": 4, "recent": 40}, "random": {"budget": 48, "seed": 5}}
# Ways to choose that no preset takes by itself.
MORE = [{"name": "h2o", "budget": 0.3, "sinks": 2, "recent": 20, "remnant": "mean"},
        {"name": "tova", "budget": 40, "share": "head"},
        {"name": "snapkv", "budget": 48, "decode": "evict", "pool": "max", "kernel": 5}]


def start(binary, device, *flags):
    winnow_server.BINARY = binary
    return Server("--device", device, *flags)


def body(policy, n=12):
    return {"prompt": STORY, "max_tokens": n, "temperature": 0, "ignore_eos": True, "kv_policy": {**policy, "trace": True}}


def outcome(answer):
    status, _, value = answer
    if status != 200:
        return status, json.dumps(value)
    kv = value["usage"]["kv_cache"]
    return (value["choices"][0]["text"], json.dumps(value["kv_trace"]), kv["slots_kept"], kv["evicted"], kv["bytes"],
            kv["exact"])


def places(trace):
    return {(layer, head, p) for layer, heads in enumerate(json.loads(trace)["kept"]) for head, ranges in enumerate(heads)
            for first, last in ranges for p in range(first, last + 1)}


def compare(name, got, want):
    if not check(f"{name}: is served", len(got) == len(want) == 6, (got, want)):
        return
    check(f"{name}: text and report of the CPU", got[:1] + got[2:] == want[:1] + want[2:], (got, want))
    swaps = len(places(got[1]) - places(want[1]))
    check(f"{name}: kept positions of the CPU", swaps <= SWAPS, (swaps, got, want))


def crowd(server, policies):
    with concurrent.futures.ThreadPoolExecutor(len(policies)) as pool:
        return list(pool.map(lambda p: outcome(server.post("/v1/completions", body(p))), policies))


with tempfile.TemporaryDirectory() as folder:
    profile = os.path.join(folder, "heads.json")
    made = subprocess.run([os.path.join(BUILD, "winnow"), "calibrate", STORIES, "-o", profile], capture_output=True, text=True)
    check("calibrate makes a profile", made.returncode == 0, made.stderr)
    flags = (*FLAGS, "--head-profile", profile)
    with start(os.path.join(BUILD, "winnow"), "cpu", *flags) as s:
        names = [row["name"] for row in s.get("/v1/kv/policies")["data"] if row["available"]]
        policies = [{"name": n, **ARGUMENTS.get(n, {"budget": 48})} for n in names] + MORE
        check("every preset is there", len(names) >= 13 and {"razor", "duo", "compresskv"} <= set(names), names)
        wanted = [outcome(s.post("/v1/completions", body(p))) for p in policies]
    with start(EMULATED, "cuda", *flags) as s:
        check("the device is the GPU", s.get("/v1/kv/stats").get("device", "cuda").startswith("cuda") and "emulated" in s.log(),
              s.log())
        _, _, value = s.post("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 40, "temperature": 0})
        text = value["choices"][0]["text"]
        check("the known answer", len(text) > 60 and KNOWN_ANSWER.startswith(text), value)
        for policy, want in zip(policies, wanted):
            check(f"{policy} on the CPU drops something", len(want) == 6 and want[3] > 0 or policy["name"] == "full", want)
            got = outcome(s.post("/v1/completions", body(policy)))
            compare(policy, got, want)
        # Four run at once (--max-num-seqs), the others come in between.
        some = policies[::2]
        for policy, got, want in zip(some, crowd(s, some), wanted[::2]):
            compare(f"{policy} among {len(some)}", got, want)
        check("all pages come back", s.all_pages_back(), s.pages_used())
        check("the server ends well", s.stop() == 0 and "audit" not in s.log().lower(), s.log())
check.end()
