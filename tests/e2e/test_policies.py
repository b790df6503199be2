"""Policies over HTTP: each keeps in a crowd, in small chunks and behind a cached prefix exactly what it keeps alone;
memory comes back and is used by those who wait. The server audits its cache after every step."""
import concurrent.futures
import json
import os
import re
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from winnow_server import Checks, Server  # noqa: E402

check = Checks()

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a "
    "big, red ball. She wanted to play with it, but it was too high. Lily's mom said, \"Lily, let's go to the park.\" "
    "Tom was a boy who had a small dog named Max. Max liked to run and jump in the grass. One day Max saw a cat. The "
    "cat was on a tree. Max barked at the cat, but the cat did not come down. Tom said, \"Max, stop! The cat is "
    "scared.\" Then Lily came to the park. She saw Tom and Max and the cat. \"Can I help you?\" she said.")

POLICIES = [
    {"name": "full"}, {"name": "sink", "budget": 64}, {"name": "h2o", "budget": 64},
    {"name": "h2o", "budget": 0.3, "sinks": 2, "recent": 20, "remnant": "mean"},
    {"name": "snapkv", "budget": 64}, {"name": "snapkv", "budget": 64, "decode": "evict", "pool": "max", "kernel": 5},
    {"name": "tova", "budget": 48}, {"name": "tova", "budget": 48, "share": "head"},
    {"name": "scissorhands", "budget": 64}, {"name": "pyramidkv", "budget": 64}, {"name": "adakv", "budget": 64},
    {"name": "adakv", "budget": 64, "decode": "evict"}, {"name": "knorm", "budget": 64},
    {"name": "keydiff", "budget": 64}, {"name": "random", "budget": 64, "seed": 5},
    {"name": "h2o", "budget": 80, "scorer": "attention_mean", "interval": 8},
    {"name": "razor", "min_window": 40}, {"name": "razor", "budget": 0.6}, {"name": "duo", "sinks": 4, "recent": 40},
    {"name": "duo", "sinks": 4, "recent": 40, "prefill": "full", "scorer": "attention_sum"},
    {"name": "compresskv", "budget": 64}, {"name": "compresskv", "budget": 64, "decode": "evict"},
    {"name": "snapkv", "budget": 0.3, "window": 16, "allocation": "profile"},
]


def profile():
    """A pattern as DuoAttention publishes them: 5 layers of 4 KV heads, every fourth head high."""
    f = tempfile.NamedTemporaryFile("w", suffix=".tsv", delete=False)
    for layer in range(5):
        f.write("\t".join("0.9" if (layer + head) % 4 == 0 else f"0.{layer}{head + 1}" for head in range(4)) + "\n")
    f.close()
    return f.name


def body(policy, prompt=STORY, n=40, **more):
    return {"prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": True,
            "kv_policy": {**policy, "trace": True}, **more}


def outcome(answer):
    """What must not depend on anything but the request."""
    status, _, value = answer
    if status != 200:
        return status, json.dumps(value)
    kv = value["usage"]["kv_cache"]
    return value["choices"][0]["text"], json.dumps(value["kv_trace"]), kv["slots_kept"], kv["evicted"]


def kept_counts(trace):
    return [[sum(b - a + 1 for a, b in head) for head in layer] for layer in trace["kept"]]


def check_shape(policy, value):
    """Budgets hold, protected tokens are there, the report adds up."""
    name, kv = policy["name"], value["usage"]["kv_cache"]
    counts = [c for layer in kept_counts(value["kv_trace"]) for c in layer]
    seen = kv["tokens_seen"]
    check(f"{policy}: seen = kept + evicted", abs(kv["slots_kept"] + kv["evicted"] - seen) < 1e-6, kv)
    check(f"{policy}: trace agrees with the counts",
          (min(counts), max(counts)) == (kv["slots_kept_min"], kv["slots_kept_max"]) and
          abs(sum(counts) / len(counts) - kv["slots_kept"]) < 1e-6, (kv, counts))
    check(f"{policy}: exact says whether anything went", kv["exact"] == (kv["evicted"] == 0), kv)
    check(f"{policy}: the newest token is held", all(head[-1][1] == seen - 1 for layer in value["kv_trace"]["kept"]
                                                     for head in layer), value["kv_trace"])
    if name == "full":
        check("full keeps all", min(counts) == seen, counts)
        return
    check(f"{policy}: something went, and fewer pages are held", kv["evicted"] > 0 and kv["bytes"] < kv["bytes_full"], kv)
    if name in ("razor", "duo"):
        check(f"{policy}: whole heads beside windows", max(counts) == seen and min(counts) < seen, counts)
    elif policy.get("decode") != "evict" and name in ("snapkv", "pyramidkv", "adakv", "compresskv"):
        generated = value["usage"]["completion_tokens"] - 1
        check(f"{policy}: mean budget and what was generated", abs(kv["slots_kept"] - kv["budget"] - generated) < 1e-6, kv)
    elif name not in ("adakv", "compresskv"):
        check(f"{policy}: never more than its budget", max(counts) <= kv["budget"], (kv, counts))
    if name in ("pyramidkv", "adakv", "compresskv"):
        check(f"{policy}: heads differ", kv["slots_kept_min"] < kv["slots_kept_max"], kv)
    if name == "compresskv" or policy.get("allocation") == "profile":
        check(f"{policy}: the heads of a layer keep the same",
              all(head == layer[0] for layer in value["kv_trace"]["kept"] for head in layer), value["kv_trace"])
    if name == "compresskv" and policy.get("decode") == "evict":
        layers = [layer[0] for layer in kept_counts(value["kv_trace"])]
        check(f"{policy}: the layers' budgets add up", sum(layers) == kv["budget"] * len(layers), layers)


def crowd_and_chunks(path):
    flags = ("--audit", "--head-profile", path, "--no-prefix-cache")
    alone = {}
    with Server(*flags) as s:
        for i, policy in enumerate(POLICIES):
            answer = s.post("/v1/completions", body(policy))
            alone[i] = outcome(answer)
            if check(f"{policy} is served", answer[0] == 200, answer[2]):
                check_shape(policy, answer[2])
        distinct = len({o[1] for o in alone.values()})
        check("policies keep different things", distinct >= len(POLICIES) - 1, distinct)
        with concurrent.futures.ThreadPoolExecutor(len(POLICIES)) as pool:
            crowd = list(pool.map(lambda p: outcome(s.post("/v1/completions", body(p))), POLICIES))
        for i, policy in enumerate(POLICIES):
            check(f"{policy}: the same in a crowd of {len(POLICIES)}", crowd[i] == alone[i], (crowd[i], alone[i]))
        three = s.post("/v1/completions", {**body(POLICIES[2], n=30), "n": 3})[2]
        check("n = 3 under h2o: three equal greedy choices",
              len({c["text"] for c in three["choices"]}) == 1 and alone[2][0].startswith(three["choices"][0]["text"]),
              three)
        check("all pages come back", s.pages_used() == 0, s.pages_used())
        metrics = s.get("/metrics")
        for name in ("h2o", "snapkv", "razor"):
            n = re.search(r'winnow_kv_evicted_slots_total\{policy="%s"\} (\S+)' % name, metrics)
            check(f"metrics count what {name} evicted", n and float(n.group(1)) > 0, n)
        n = re.search(r'winnow_kv_pages_returned_total\{policy="snapkv"\} (\S+)', metrics)
        check("metrics count the pages that compression gave back", n and float(n.group(1)) > 0, n)
    for chunk in ("7", "64"):
        with Server(*flags, "--max-batched-tokens", chunk, "--max-num-seqs", "4") as s:
            for i, policy in enumerate(POLICIES):
                got = outcome(s.post("/v1/completions", body(policy)))
                check(f"{policy}: the same in chunks of {chunk}", got == alone[i], (got, alone[i]))
    return alone


def prefixes(path, alone):
    with Server("--audit", "--head-profile", path) as s:
        hits = {}
        s.post("/v1/completions", body({"name": "full"}, prompt=STORY + " And then", n=4))
        for turn in ("cold or warm by others", "warm"):
            for i, policy in enumerate(POLICIES):
                answer = s.post("/v1/completions", body(policy))
                check(f"{policy}, {turn} prefix: the very answer", outcome(answer) == alone[i],
                      (outcome(answer), alone[i]))
                hits[i] = answer[2]["usage"]["prompt_tokens_details"]["cached_tokens"]
                check(f"{policy}: reuse tells", answer[2]["usage"]["kv_cache"]["reuse"] ==
                      ("prefix" if hits[i] else "none"), answer[2]["usage"])
        for i, policy in enumerate(POLICIES):
            scorer = policy.get("scorer", policy["name"])
            none = scorer in ("h2o", "attention_mean", "attention_sum", "keydiff", "scissorhands")
            check(f"{policy}: a cached prefix is used where it changes nothing", (hits[i] == 0) == none, hits[i])
        stats = s.get("/v1/kv/stats")["pool"]
        check("cached pages are told apart", stats["pages_used"] == 0 and stats["pages_cached"] > 0 and
              stats["pages_used"] + stats["pages_cached"] + stats["pages_free"] == stats["pages_total"], stats)

        def cached(**more):
            return s.post("/v1/completions", body({"name": "full"}, n=2, **more))[2]["usage"][
                "prompt_tokens_details"]["cached_tokens"]
        check("another salt shares nothing", cached(cache_salt="a") == 0)
        check("the same salt does", cached(cache_salt="a") > 0)
        check("cache_prompt false reads nothing", cached(cache_prompt=False) == 0)
        first = s.post("/v1/completions", body({"name": "full"}, prompt="One day, a", n=90))[2]
        longer = "One day, a" + first["choices"][0]["text"] + " The end"
        again = s.post("/v1/completions", body({"name": "full"}, prompt=longer, n=2))[2]
        check("an answer is part of the next prompt", again["usage"]["prompt_tokens_details"]["cached_tokens"] >= 64,
              again["usage"])
        metrics = s.get("/metrics")
        hit = float(re.search(r"\nwinnow_prefix_hit_tokens_total (\S+)", metrics).group(1))
        asked = float(re.search(r"\nwinnow_prefix_query_tokens_total (\S+)", metrics).group(1))
        check("metrics count queries and hits", 0 < hit < asked, (hit, asked))
    stream = {"name": "sink", "sinks": 4, "budget": 40}  # its ring goes round within the first step
    with Server("--audit") as s:
        def logprobs(policy):
            choice = s.post("/v1/completions", body(policy, n=8, logprobs=1))[2]["choices"][0]
            return choice["text"], choice["logprobs"]["token_logprobs"]
        s.post("/v1/completions", body(stream, n=8))
        behind = logprobs({"name": "full"})
    with Server("--audit") as s:
        check("pages that a stream has overwritten are no prefix", logprobs({"name": "full"}) == behind, behind)
    with Server("--api-key", "one,two") as s:
        def by(key):
            return s.post("/v1/completions", body({"name": "full"}, n=2), {"Authorization": "Bearer " + key})[2][
                "usage"]["prompt_tokens_details"]["cached_tokens"]
        check("another key shares nothing", (by("one"), by("two")) == (0, 0))
        check("the same key does", by("one") > 0)


def memory():
    """A pool for three whole prompts; twelve that compress to a fifth share it, none is sent back."""
    with Server() as s:
        page = s.get("/v1/kv/stats")["pool"]["page_bytes"]
        prompts = [(STORY + " " + STORY)[i:] for i in range(12)]
        tokens = len(s.post("/tokenize", {"prompt": prompts[0]})[2]["tokens"])
    pages = 3 * 20 * (tokens // 32 + 1)
    for policy in ({"name": "snapkv", "budget": 64}, {"name": "h2o", "budget": 64}):
        with Server("--audit", "--kv-memory", str(pages * page), "--max-batched-tokens", "64") as s:
            def ask(prompt):
                return outcome(s.post("/v1/completions", body(policy, prompt=prompt, n=30)))
            alone = [ask(p) for p in prompts]
            with concurrent.futures.ThreadPoolExecutor(12) as pool:
                futures = [pool.submit(ask, p) for p in prompts]
                most = 0
                while not all(f.done() for f in futures):
                    states = [q["state"] for q in s.get("/v1/kv/stats")["sequences"]]
                    most = max(most, sum(state in ("prefill", "decode") for state in states))
                    time.sleep(0.0005)
            check(f"{policy}: right answers under pressure", [f.result() for f in futures] == alone)
            check(f"{policy}: more run at once than whole prompts fit", most >= 4, (most, tokens))
            check(f"{policy}: nobody was preempted", s.get("/v1/kv/stats")["totals"]["preemptions"] == 0)
            check(f"{policy}: pages come back", s.pages_used() == 0)


def storage():
    for kind in ("bf16", "q8", "q4"):
        with Server("--audit", "--kv-storage", kind) as s:
            a = s.post("/v1/completions", body({"name": "h2o", "budget": 64}))
            b = s.post("/v1/completions", body({"name": "h2o", "budget": 64}))
            check(f"{kind}: served, and the same twice", a[0] == 200 and outcome(a) == outcome(b), a)
            check(f"{kind}: told", s.get("/v1/kv/stats")["storage"] == kind)
            wrong = s.post("/v1/completions", body({"name": "full", "storage": "f16"}))
            check(f"{kind}: another storage is refused", wrong[0] == 400 and
                  wrong[2]["error"]["param"] == "kv_policy.storage", wrong)


def refusals(path):
    cases = [({"name": "razor"}, "profile"), ({"name": "h2o", "budget": 8, "recent": 10}, "budget 8"),
             ({"name": "sink", "scorer": "attention_sum"}, "recency"), ({"name": "sink", "remnant": "mean"}, "remnant"),
             ({"name": "h2o", "positions": "cache"}, "positions"), ({"name": "h2o", "window": 8}, "window"),
             ({"name": "snapkv", "budget": 64, "window": 65}, "window"), ({"name": "snapkv", "kernel": 4}, "odd"),
             ({"name": "h2o", "interval": 4000}, "interval"), ({"name": "tova", "share": "layer", "allocation": "adaptive"},
                                                               "share"),
             ({"name": "sink", "allocation": "pyramid"}, "same window"), ({"name": "full", "recent": 3}, "full"),
             ({"name": "compresskv"}, "profile")]
    profiled = [({"name": "compresskv", "share": "head"}, "share"), ({"name": "compresskv", "budget": 32}, "budget 32"),
                ({"name": "compresskv", "min_window": 40}, "min_window"),
                ({"name": "razor", "scorer": "window_attention"}, "budget is missing"),
                ({"name": "duo", "scorer": "window_attention", "budget": 64}, "recency")]
    def refused(s, cases):
        for policy, word in cases:
            status, _, value = s.post("/v1/completions", body(policy))
            message = value["error"]["message"] if "error" in value else str(value)
            check(f"{policy} is refused with a reason", status == 400 and word in message and
                  value["error"]["code"] == "invalid_kv_policy", (status, value))
    with Server() as s:
        refused(s, cases)
    with Server("--head-profile", path) as s:
        refused(s, profiled)
        for policy in ({"name": "compresskv", "budget": 64}, {"name": "compresskv", "budget": 64, "decode": "evict"}):
            plan = s.post("/v1/kv/policies/resolve", {"kv_policy": policy, "prompt_tokens": 320,
                                                      "total_tokens": 360})[2]
            check(f"{policy} resolves", plan["plan"]["window"] == 32 and plan["plan"]["recent"] == 32 and
                  "window_budget" not in plan["plan"] and plan["bound"]["pages"] == 200, plan)
        rows = {row["name"]: row for row in s.get("/v1/kv/policies")["data"]}
        check("the list of policies has it", rows["compresskv"]["available"] is True, rows.get("compresskv"))
    with Server("--head-profile", "/nonexistent", wait_ready=False) as s:
        s.process.wait(30)
        check("a missing profile ends the start with its name", s.process.returncode == 1 and "/nonexistent" in s.log(),
              s.log())
    with open(path, "a") as f:
        f.write("0.1\t0.2\n")
    with Server("--head-profile", path, wait_ready=False) as s:
        s.process.wait(30)
        check("a broken profile ends the start with a reason", s.process.returncode == 1 and "layer 5 has 2" in s.log(),
              s.log())


path = profile()
alone = crowd_and_chunks(path)
prefixes(path, alone)
memory()
storage()
refusals(path)
os.unlink(path)
check.end()
