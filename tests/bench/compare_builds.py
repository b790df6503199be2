#!/usr/bin/env python3
"""Compares the answers of two builds of winnow byte for byte, and their speed.

    compare_builds.py OLD NEW [MODEL.gguf]                 the same requests to both, answers compared
    compare_builds.py --speed OLD NEW [MODEL.gguf]         `winnow bench` in pairs (A B, B A, ...), medians and ratios

OLD and NEW are winnow binaries. The requests cover every preset and storage, streams and whole answers, seeds and
temperatures, several choices, sessions, logprobs, chat, tokens, the cache's endpoints, errors and the metrics. They go
to a server of each build one after the other, then eight at a time. Only what must differ is left out: ids, times,
the version. Texts of errors and help are compared separately and fail only with --words.
--expect NAME lets the answers of one case differ, for an intended change. With MODEL a short list of requests goes
to that model too. Exit status 0: nothing differs. Standard library only."""
import argparse
import concurrent.futures
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import winnow_server  # noqa: E402
from winnow_server import ROOT, STORIES, Server  # noqa: E402

DEMO = os.path.join(ROOT, "models", "demo.gguf")
DEMO_HEADS = os.path.join(ROOT, "models", "demo.heads.json")
SHORT = "Once upon a time"
STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a "
    "big, red ball. She wanted to play with it, but it was too high. Lily's mom said, \"Lily, let's go to the park.\" "
    "Tom was a boy who had a small dog named Max. Max liked to run and jump in the grass. One day Max saw a cat. The "
    "cat was on a tree. Max barked at the cat, but the cat did not come down. Tom said, \"Max, stop! The cat is "
    "scared.\"")
POLICIES = [
    {"name": "full"}, {"name": "sink", "budget": 64}, {"name": "sink", "budget": 40, "positions": "original"},
    {"name": "h2o", "budget": 64}, {"name": "h2o", "budget": 0.3, "sinks": 2, "recent": 20, "remnant": "mean"},
    {"name": "h2o", "budget": 80, "scorer": "attention_mean", "interval": 8},
    {"name": "snapkv", "budget": 64}, {"name": "snapkv", "budget": 64, "decode": "evict", "pool": "max", "kernel": 5},
    {"name": "tova", "budget": 48}, {"name": "tova", "budget": 48, "share": "head"},
    {"name": "scissorhands", "budget": 64}, {"name": "pyramidkv", "budget": 64}, {"name": "adakv", "budget": 64},
    {"name": "adakv", "budget": 64, "decode": "evict"}, {"name": "knorm", "budget": 64},
    {"name": "keydiff", "budget": 64}, {"name": "random", "budget": 64, "seed": 5},
    {"name": "razor", "min_window": 40}, {"name": "razor", "budget": 0.6}, {"name": "duo", "sinks": 4, "recent": 40},
    {"name": "duo", "sinks": 4, "recent": 40, "prefill": "full", "scorer": "attention_sum"},
    {"name": "compresskv", "budget": 64}, {"name": "compresskv", "budget": 64, "decode": "evict"},
    {"name": "snapkv", "budget": 0.3, "window": 16, "allocation": "profile"},
]


class Case:
    """One request. `body` may be a function of the answers so far, by the cases' names (a second turn)."""

    def __init__(self, name, method, path, body=None, headers=None):
        self.name, self.method, self.path, self.body, self.headers = name, method, path, body, headers or {}


def completion(name, prompt=SHORT, policy=None, n_tokens=40, headers=None, **more):
    body = {"prompt": prompt, "max_tokens": n_tokens, "ignore_eos": True, "temperature": 0, "seed": 1, **more}
    if policy:
        body["kv_policy"] = {**policy, "trace": True}
    return Case(name, "POST", "/v1/completions", body, headers)


def chat(name, *contents, policy=None, n_tokens=32, **more):
    roles = ("user", "assistant")
    body = {"messages": [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)],
            "max_tokens": n_tokens, "temperature": 0, "seed": 1, **more}
    if policy:
        body["kv_policy"] = policy
    return Case(name, "POST", "/v1/chat/completions", body)


def label(policy):
    return policy["name"] + "".join(f",{k}={v}" for k, v in policy.items() if k != "name")


def policy_cases(some=POLICIES, streams=True):
    for i, p in enumerate(some):
        yield completion(f"{label(p)}", STORY, p)
        if streams:
            yield completion(f"{label(p)} stream, seed {i}", STORY, p, stream=True, temperature=0.8, seed=i,
                             stream_options={"include_usage": True})


def sampling_cases():
    for t in (0.3, 0.7, 1.0, 1.5):
        for seed in (1, 2**40 + 7):
            yield completion(f"temperature {t}, seed {seed}", temperature=t, seed=seed)
    for more in ({"top_p": 0.7}, {"top_k": 5}, {"min_p": 0.1}, {"typical_p": 0.8}, {"presence_penalty": 1.5},
                 {"frequency_penalty": 1.0}, {"repetition_penalty": 1.3}, {"logit_bias": {"300": 5, "301": -100}},
                 {"min_tokens": 20, "ignore_eos": False}, {"stop": ["park", "."]}, {"stop_token_ids": [300, 400]},
                 {"stop": "Lily", "include_stop_str_in_output": True}, {"return_token_ids": True},
                 {"return_progress": True, "stream": True}, {"timings_per_token": True, "stream": True},
                 {"skip_special_tokens": False, "ignore_eos": False, "max_tokens": 200}):
        yield completion(f"with {json.dumps(more)}", **{"temperature": 0.9, "seed": 11, "n_tokens": more.pop("max_tokens", 40),
                                                        **more})
    for n in (2, 4):
        for stream in (False, True):
            yield completion(f"n = {n}, stream {stream}", n=n, temperature=1.0, seed=3, stream=stream)
    yield completion("n = 3 under h2o", STORY, {"name": "h2o", "budget": 64}, n=3, temperature=0.9, seed=4)
    yield completion("two prompts", ["Once", "Lily and Tom"], n=2, temperature=0.8, seed=5)
    yield completion("tokens as prompt", [1, 403, 407, 261, 378])
    for stream in (False, True):
        yield completion(f"logprobs, stream {stream}", logprobs=5, stream=stream)
        yield completion(f"logprobs at temperature 1, stream {stream}", logprobs=3, temperature=1, seed=8, stream=stream)
    yield completion("echo with logprobs", STORY, logprobs=1, echo=True, n_tokens=1)
    yield completion("echo with logprobs under snapkv", STORY, {"name": "snapkv", "budget": 64}, logprobs=2, echo=True)
    yield completion("echo alone", STORY, echo=True, n_tokens=0)
    yield completion("the same prompt again, from the cache", STORY)
    yield completion("without the cached prefix", STORY, cache_prompt=False)
    yield completion("a salt", STORY, cache_salt="a")
    yield completion("policy by header", STORY, headers={"X-KV-Policy": '{"name": "h2o", "budget": 64}'})
    yield completion("policy by model name", STORY, model="stories260K@tova:48")
    yield completion("an answer of 300 tokens under sink", STORY, {"name": "sink", "budget": 64}, n_tokens=300)
    yield completion("an answer of 300 tokens under h2o", STORY, {"name": "h2o", "budget": 64}, n_tokens=300)
    yield completion("an answer up to the end of the context", STORY, n_tokens=1000)


def chat_cases():
    for stream in (False, True):
        yield chat(f"chat, stream {stream}", "Tell me a story.", stream=stream)
        yield chat(f"chat of three turns, stream {stream}", "Hello.", "Hi!", "Tell me about Lily.", stream=stream)
        yield chat(f"chat with logprobs, stream {stream}", "Tell me a story.", logprobs=True, top_logprobs=4, stream=stream)
        yield chat(f"chat, n = 2, stream {stream}", "Tell me a story.", n=2, temperature=1, seed=6, stream=stream,
                   stream_options={"include_usage": True} if stream else None)
    yield chat("chat under h2o", STORY, policy={"name": "h2o", "budget": 64})
    yield chat("chat with a stop", "Tell me a story.", stop=["the"])
    yield chat("chat that goes on with its last message", "Tell me a story.", "Once upon", continue_final_message=True,
               add_generation_prompt=False)


def session_cases():
    """Two turns each; the second sends what the first answered."""
    for p in ({"name": "full"}, {"name": "snapkv", "budget": 64}, {"name": "h2o", "budget": 64}, {"name": "sink", "budget": 64},
              {"name": "razor", "min_window": 40}):
        first, session = f"session of {label(p)}, turn 1", "s-" + p["name"]

        def second(answers, first=first, session=session, p=p):
            text = json.loads(answers[first][2])["choices"][0]["text"]
            return {"prompt": STORY + text + " Then Max saw a cat.", "max_tokens": 20, "ignore_eos": True, "temperature": 0,
                    "seed": 1, "session_id": session, "kv_policy": {**p, "trace": True}}
        yield completion(first, STORY, p, n_tokens=20, session_id=session)
        yield Case(f"session of {label(p)}, listed", "GET", "/v1/kv/sessions/" + session)
        yield Case(f"session of {label(p)}, turn 2", "POST", "/v1/completions", second)
        yield completion(f"session of {label(p)}, another history", "Tom was a boy.", p, n_tokens=20, session_id=session)
        yield Case(f"session of {label(p)}, deleted", "DELETE", "/v1/kv/sessions/" + session)
    yield Case("all sessions", "GET", "/v1/kv/sessions")
    yield Case("a session that is not there", "GET", "/v1/kv/sessions/none")


def token_cases():
    for path, body in (
            ("/tokenize", {"content": STORY}), ("/tokenize", {"content": "héllo wörld \U0001f600 \x00a", "with_pieces": True}),
            ("/tokenize", {"prompt": "test", "add_special_tokens": False, "return_token_strs": True}),
            ("/tokenize", {"messages": [{"role": "user", "content": "Hello."}]}),
            ("/detokenize", {"tokens": [1, 403, 407, 261, 378]}), ("/detokenize", {"tokens": [511]}),
            ("/apply-template", {"messages": [{"role": "user", "content": "Hello."}]}),
            ("/v1/chat/completions/input_tokens", {"messages": [{"role": "user", "content": "Hello."}]})):
        yield Case(f"{path} {json.dumps(body)[:40]}", "POST", path, body)
    yield Case("/tokenizer_info", "GET", "/tokenizer_info")


def kv_cases():
    yield Case("the policies", "GET", "/v1/kv/policies")
    for p in POLICIES:
        yield Case(f"resolve {label(p)}", "POST", "/v1/kv/policies/resolve", {"kv_policy": p, "prompt_tokens": 300})
    yield Case("resolve a name", "POST", "/v1/kv/policies/resolve", {"kv_policy": "snapkv", "prompt_tokens": 5000})
    yield Case("flush", "POST", "/v1/kv/flush")
    yield Case("stats", "GET", "/v1/kv/stats")
    yield Case("a request that is not there", "GET", "/v1/kv/requests/none")


def error_cases():
    bad = [{"max_tokens": -1}, {"max_tokens": "x"}, {"temperature": 3}, {"temprature": 1}, {"top_k": 1.5}, {"n": 0}, {"n": 17},
           {"stop": 7}, {"logit_bias": {"a": 1}}, {"seed": 1.5}, {"tools": [{"type": "function"}]}, {"stream": "yes"},
           {"logprobs": 21}, {"session_id": "s", "n": 2}, {"prompt": 5}, {"prompt": []}, {"prompt": [99999]},
           {"kv_policy": "nothing"}, {"kv_policy": {"name": "h2o", "budgett": 3}}, {"kv_policy": {"name": "h2o", "budget": 1}},
           {"kv_policy": {"name": "h2o", "budget": 0}}, {"kv_policy": {"name": "h2o", "budget": 10, "recent": 10}},
           {"kv_policy": {"name": "snapkv", "budget": 20, "window": 32}}, {"kv_policy": {"name": "sink", "storage": "q8"}},
           {"kv_policy": {"scorer": "none"}}, {"kv_policy": 4}, {"kvPolicy": "h2o"}, {"timeout_ms": 0}, {"best_of": 3}]
    for more in bad:
        yield completion(f"refused: {json.dumps(more)}", **{"n_tokens": 4, **more})
    yield completion("refused: a prompt longer than the context", STORY * 40)
    yield Case("refused: no JSON", "POST", "/v1/completions", b"{\"prompt\": ")
    yield Case("refused: not UTF-8", "POST", "/v1/completions", b"{\"prompt\": \"\xff\"}")
    yield Case("refused: an array", "POST", "/v1/completions", b"[]")
    yield Case("refused: a body of nothing", "POST", "/v1/completions", b"")
    yield Case("refused: multipart", "POST", "/v1/completions", b"x", {"Content-Type": "multipart/form-data; boundary=x"})
    yield Case("refused: compressed", "POST", "/v1/completions", b"x", {"Content-Encoding": "gzip"})
    yield Case("refused: another site's page", "POST", "/v1/completions", {"prompt": "a"}, {"Origin": "http://evil.example"})
    yield Case("refused: another host's name", "GET", "/v1/models", None, {"Host": "evil.example"})
    for method, path in (("GET", "/v1/nothing"), ("GET", "/v1/completions"), ("PUT", "/v1/models"), ("POST", "/v1/responses"),
                         ("GET", "/api/tags"), ("OPTIONS", "/v1/completions"), ("HEAD", "/v1/models"), ("GET", "/v1/models/"),
                         ("GET", "/v1/models/stories260K"), ("GET", "/v1/models/other"), ("GET", "/health"), ("GET", "/livez"),
                         ("GET", "/readyz"), ("GET", "/props"), ("GET", "/version"), ("GET", "/"), ("POST", "/v1/embeddings"),
                         ("GET", "/models?x=1"), ("DELETE", "/v1/kv/stats")):
        yield Case(f"{method} {path}", method, path, {"input": "a"} if path.endswith("embeddings") else None)


def key_cases():
    k1, k2, admin = ({"Authorization": "Bearer " + k} for k in ("one", "two", "boss"))
    yield completion("no key")
    yield completion("a wrong key", headers={"Authorization": "Bearer none"})
    yield completion("a session of key one", STORY, n_tokens=8, session_id="mine", headers=k1)
    yield completion("by X-Api-Key", n_tokens=4, headers={"X-Api-Key": "two"})
    yield completion("another origin that may call", n_tokens=4, headers={**k1, "Origin": "http://page.example"})
    for who, headers in (("one", k1), ("two", k2), ("the operator", admin)):
        yield Case(f"the sessions of {who}", "GET", "/p/v1/kv/sessions", None, headers)
        yield Case(f"the session as {who}", "GET", "/p/v1/kv/sessions/mine", None, headers)
    yield Case("flush by key two", "POST", "/p/v1/kv/flush", None, k2)
    yield Case("flush by the operator", "POST", "/p/v1/kv/flush", None, admin)
    yield completion("a policy that is not allowed", policy={"name": "tova", "budget": 40}, headers=k1)
    yield completion("a budget above the most", policy={"name": "h2o", "budget": 400}, headers=k1)
    yield Case("OPTIONS with an origin", "OPTIONS", "/p/v1/completions", None, {"Origin": "http://page.example"})
    yield Case("a path without the prefix", "GET", "/v1/models", None, k1)


METRICS = Case("metrics", "GET", "/metrics")


def groups(profile, model):
    """(name, flags, model, cases, how many at once)"""
    heads = ("--head-profile", profile)
    sequential = [*policy_cases(), *sampling_cases(), *chat_cases(), *session_cases(), *token_cases(), *kv_cases(),
                  *error_cases(), METRICS]
    yield "f16", heads, STORIES, sequential, 1
    for storage in ("q8", "q4", "bf16"):
        yield (storage, (*heads, "--kv-storage", storage), STORIES,
               [*policy_cases(POLICIES[:1] + POLICIES[3::2]), *session_cases(), METRICS], 1)
    keyed = list(key_cases())
    for c in keyed:
        if c.path == "/v1/completions":
            c.path = "/p/v1/completions"
    yield ("keys and rules", (*heads, "--api-key", "one,two", "--admin-api-key", "boss", "--cors-origins", "http://page.example",
                              "--kv-policy", '{"name": "sink", "budget": 64}', "--kv-policy-allow", "sink,h2o", "--kv-policy-max-budget", "128",
                              "--api-prefix", "/p", "--strict-model"), STORIES, keyed, 1)
    yield "plain instructions", (*heads, "--isa", "plain"), STORIES, list(policy_cases(POLICIES[::3])), 1
    crowd = [*policy_cases(), *(c for c in sampling_cases() if "return_progress" not in c.name)]
    yield "eight at once", (*heads, "--no-prefix-cache"), STORIES, crowd, 8
    yield ("eight at once in small steps and little memory",
           (*heads, "--no-prefix-cache", "--max-batched-tokens", "48", "--kv-memory", "250K", "--max-num-seqs", "6"), STORIES,
           [c for c in crowd if "n =" not in c.name], 8)
    demo = [*policy_cases(POLICIES[::2]), *chat_cases(), *token_cases(), *session_cases(), METRICS]
    yield "the demo model", ("--head-profile", DEMO_HEADS), DEMO, demo, 1
    if model:
        long = STORY * 4
        some = [completion(f"{label(p)}, four stories", long, p, n_tokens=24)
                for p in ({"name": "full"}, {"name": "h2o", "budget": 128}, {"name": "snapkv", "budget": 128},
                          {"name": "sink", "budget": 128}, {"name": "keydiff", "budget": 128})]
        yield "the given model", (), os.path.abspath(model), [*some, *chat_cases(), *token_cases()], 1


# ---- what must differ

TIMES = re.compile(r'"(\w*_ms|\w*_ms_ago|\w*_per_second|\w*_per_token_ms|expires_at|created|uptime\w*)": ?-?[0-9.e+-]+')
NAMES = re.compile(r'"(system_fingerprint|version|commit|build|build_info|compiler)": ?"[^"]*"')
IDS = re.compile(r'"(id|request_id)": ?"(chatcmpl|cmpl|req|kv)-?[0-9a-zA-Z_-]+"')
WORDS = re.compile(r'"(message|help|description|hint|title)": ?"(?:\\.|[^"\\])*"')
LEFT_OUT = {"date", "x-request-id", "openai-processing-ms", "keep-alive", "etag", "last-modified"}
COUNTERS = re.compile(r"_total(\{[^}]*\})? [0-9.e+]+$")


def normal(text):
    text = TIMES.sub(r'"\1":0', text)
    text = NAMES.sub(r'"\1":""', text)
    return IDS.sub(r'"\1":""', text)


def normal_metrics(text):
    """Names and labels of all samples, and the values of counters of work that was done."""
    lines = []
    for line in text.splitlines():
        if 'endpoint="readyz"' in line:  # asked until the server is up, some more often than others
            continue
        if line.startswith("# HELP"):
            line = " ".join(line.split()[:3])
        elif not line.startswith("#") and not (COUNTERS.search(line) and "process_" not in line and "_seconds" not in line):
            line = line.rsplit(" ", 1)[0]
        lines.append(re.sub(r'(version|commit)="[^"]*"', r'\1=""', line))
    return "\n".join(lines)


def ask(server, case, answers, prefix):
    body = case.body(answers) if callable(case.body) else case.body
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    c.request(case.method, case.path, body, {"Content-Type": "application/json", "X-Request-Id": "compare", **case.headers})
    r = c.getresponse()
    text = r.read().decode("utf-8", "surrogateescape")
    head = "\n".join(sorted(f"{k.lower()}: {v}" for k, v in r.getheaders()
                            if k.lower() not in LEFT_OUT and not (k.lower() == "content-length")))
    c.close()
    page = "text/html" in head
    return r.status, head, "(the page)" if page else normal_metrics(text) if case is METRICS else normal(text)


def answers_of(binary, flags, model, cases, at_once):
    winnow_server.BINARY = binary
    prefix = "/p" if "--api-prefix" in flags else ""
    answers = {}
    with Server(*flags, "--device", "cpu", model=model, prefix=prefix) as server:
        if at_once == 1:
            for c in cases:
                answers[c.name] = ask(server, c, answers, prefix)
        else:
            with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
                for c, answer in zip(cases, pool.map(lambda c: ask(server, c, answers, prefix), cases)):
                    answers[c.name] = answer
        if server.stop() != 0:
            raise SystemExit(f"{binary} ended badly:\n{server.log()}")
    return answers


# ---- answers whose pieces and memory depend on other requests: only text and kept slots are compared

def outcome(answer):
    status, _, text = answer
    if status != 200:
        return answer
    events = [text] if not text.startswith("data:") else [
        e[5:].strip() for e in text.split("\n\n") if e.startswith("data:") and "[DONE]" not in e]
    said, rest = {}, []
    for event in map(json.loads, events):
        for choice in event.get("choices", []):
            at = said.setdefault(choice["index"], [[], None, []])
            at[0].append(choice.get("text") or (choice.get("delta") or choice.get("message") or {}).get("content") or "")
            at[1] = choice["finish_reason"] or at[1]
            if choice.get("logprobs"):
                at[2].append(json.dumps(choice["logprobs"]))
        usage = event.get("usage") or {}
        kv = usage.get("kv_cache") or {}
        rest += [(usage["completion_tokens"], {k: kv.get(k) for k in ("slots_kept", "slots_kept_max", "slots_kept_min", "evicted")},
                  json.dumps(event.get("kv_trace")))] if usage else []
    return status, {i: ("".join(t), f, "".join(lp)) for i, (t, f, lp) in said.items()}, rest


def first_difference(a, b):
    a, b = (repr(x) if not isinstance(x, str) else x for x in (a, b))
    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return f"...{a[max(0, at - 60):at + 100]!r}\n      ...{b[max(0, at - 60):at + 100]!r}"


def compare(old, new, at_once):
    """'same', 'words' (only sentences for people differ) or 'differs'."""
    if at_once > 1:
        old, new = outcome(old), outcome(new)
    if old == new:
        return "same", ""
    if old[:2] == new[:2] and isinstance(old[2], str) and isinstance(new[2], str) and \
            WORDS.sub("", old[2]) == WORDS.sub("", new[2]):
        return "words", first_difference(old[2], new[2])
    return "differs", first_difference(*((old[2], new[2]) if old[:2] == new[:2] else (old, new)))


def compare_answers(a):
    n_words = n_differ = total = 0
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as profile:
        for layer in range(5):  # as DuoAttention publishes them: 5 layers of 4 KV heads, every fourth head high
            profile.write("\t".join("0.9" if (layer + h) % 4 == 0 else f"0.{layer}{h + 1}" for h in range(4)) + "\n")
        profile.flush()
        print(f"{'server':<48} {'requests':>8} {'same':>6} {'words':>6} {'differ':>6} {'status 200':>11}")
        for name, flags, model, cases, at_once in groups(profile.name, a.model):
            if a.only and a.only not in name:
                continue
            assert len({c.name for c in cases}) == len(cases), "two cases of one name"
            old, new = (answers_of(b, flags, model, cases, at_once) for b in (a.old, a.new))
            found = [(c.name, *compare(old[c.name], new[c.name], at_once)) for c in cases]
            found = [(c, "same" if how == "differs" and c in a.expect else how, where) for c, how, where in found]
            words, differ = ([f for f in found if f[1] == kind] for kind in ("words", "differs"))
            print(f"{name:<48} {len(cases):>8} {len(cases) - len(words) - len(differ):>6} {len(words):>6} {len(differ):>6} "
                  f"{sum(a[0] == 200 for a in new.values()):>11}", flush=True)
            for case, how, where in differ + (words if a.verbose or a.words else []):
                print(f"  {how}: {case}\n      {where}", flush=True)
            n_words, n_differ, total = n_words + len(words), n_differ + len(differ), total + len(cases)
    print(f"{total} requests to both: {total - n_words - n_differ} answered the same, {n_words} with other words for people, "
          f"{n_differ} differ")
    return 1 if n_differ or (a.words and n_words) else 0


# ---- speed

def bench(binary, model, arguments):
    with tempfile.NamedTemporaryFile("r", suffix=".json") as out:
        done = subprocess.run([binary, "bench", model, "--device", "cpu", "--json", out.name, *arguments], cwd=ROOT,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{binary} bench: {done.stderr}")
        return {(p["test"], p["policy"], p["kv_storage"], p["context"], p["batch"]):
                (p["tokens_per_second"], p["tokens_per_second"] * p["median"] / p["best"])
                for p in json.load(out)["points"] if "skipped" not in p}


def compare_speed(a):
    model = os.path.abspath(a.model or DEMO)
    runs = {"old": [], "new": []}
    for pair in range(a.pairs):
        for which in ("old", "new") if pair % 2 == 0 else ("new", "old"):
            runs[which].append(bench(a.old if which == "old" else a.new, model, a.bench.split()))
            print(f"pair {pair + 1} of {a.pairs}: {which}", file=sys.stderr, flush=True)
    print(f"{'test':<8} {'policy':<18} {'kv':<4} {'context':>7} {'batch':>5} {'old tok/s':>10} {'new tok/s':>10} "
          f"{'new/old':>8} {'pairs from':>10} {'to':>6} {'best/best':>9}")
    ratios, bests = [], []
    for point in runs["old"][0]:
        pairs = [n[point][0] / o[point][0] for o, n in zip(runs["old"], runs["new"])]
        old, new = (statistics.median(r[point][0] for r in runs[which]) for which in ("old", "new"))
        ratios.append(statistics.median(pairs))
        bests.append(max(r[point][1] for r in runs["new"]) / max(r[point][1] for r in runs["old"]))
        print(f"{point[0]:<8} {point[1]:<18} {point[2]:<4} {point[3]:>7} {point[4]:>5} {old:>10.1f} {new:>10.1f} "
              f"{ratios[-1]:>8.3f} {min(pairs):>10.3f} {max(pairs):>6.3f} {bests[-1]:>9.3f}")
    print(f"{a.pairs} pairs in both orders. new/old: median of the pairs' ratios, over all points "
          f"{statistics.geometric_mean(ratios):.3f}; best/best: the fastest run of each, which other work on the machine "
          f"disturbs least, {statistics.geometric_mean(bests):.3f}")
    return 0


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("old")
parser.add_argument("new")
parser.add_argument("model", nargs="?")
parser.add_argument("--speed", action="store_true", help="measure instead of comparing answers")
parser.add_argument("--pairs", type=int, default=6, help="runs of each build (default 6)")
parser.add_argument("--bench", default="--contexts 0,256 --prompt 256 --batch 1,8 --policies full,sink:64,h2o:64,snapkv:64 --repeats 3",
                    help="further arguments of winnow bench")
parser.add_argument("--words", action="store_true", help="other words in errors and help fail too")
parser.add_argument("--verbose", action="store_true", help="show other words")
parser.add_argument("--only", help="only servers whose name holds this text")
parser.add_argument("--expect", action="append", default=[], metavar="NAME", help="a case whose answers may differ")
arguments = parser.parse_args()
arguments.old, arguments.new = os.path.abspath(arguments.old), os.path.abspath(arguments.new)
raise SystemExit(compare_speed(arguments) if arguments.speed else compare_answers(arguments))
