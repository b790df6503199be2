"""The HTTP contract, byte by byte where it matters: transport, streams, policies, disconnects, deadlines, metrics."""
import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from winnow_server import BINARY, KNOWN_ANSWER, PATIENCE, ROOT, STORIES, Checks, Server, http_ask, wait_for  # noqa: E402

check = Checks()
ENDLESS = {"prompt": "Once upon a time", "max_tokens": 10_000_000, "ignore_eos": True,
           "kv_policy": {"name": "sink", "budget": 64}}


def raw(server, data, timeout=60):
    """Sends bytes, returns what comes until the connection ends or nothing comes for a while."""
    s = socket.create_connection(("127.0.0.1", server.port), timeout=timeout * PATIENCE)
    s.sendall(data)
    got = b""
    while True:
        try:
            piece = s.recv(65536)
        except ConnectionResetError:
            break
        if not piece:
            break
        got += piece
    s.close()
    return got


def ask(server, method, path, body=None, headers=None):
    return http_ask(server.port, method, path, body, headers)


def code_of(text):
    try:
        return json.loads(text)["error"]["code"]
    except (ValueError, KeyError):
        return text


def open_stream(server, body):
    """A socket on which the stream has begun (headers and the first event are there)."""
    text = json.dumps(dict(body, stream=True)).encode()
    s = socket.create_connection(("127.0.0.1", server.port), timeout=60 * PATIENCE)
    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
    got = b""
    while b"data: " not in got:
        got += s.recv(4096)
    return s, got


def metric(server, name):
    found = re.search(r"^" + re.escape(name) + r" (\S+)$", server.get("/metrics"), re.M)
    return float(found.group(1)) if found else None


def transport(server):
    status, head, text = ask(server, "HEAD", "/v1/models")
    check("HEAD", status == 200 and text == b"" and int(head["Content-Length"]) > 0, (status, text))
    status, head, text = ask(server, "OPTIONS", "/v1/chat/completions")
    check("OPTIONS", status == 204 and "POST" in head["Allow"], (status, dict(head)))
    status, head, text = ask(server, "GET", "/v1/chat/completions")
    check("405 with Allow", status == 405 and "POST" in head["Allow"] and code_of(text) == "method_not_allowed", text)
    check("trailing slash and query", ask(server, "GET", "/v1/models/?x=1")[0] == 200)
    check("without /v1", ask(server, "GET", "/models")[0] == 200)
    status, _, text = ask(server, "POST", "/v1/audio/speech", "{}")
    check("a hint for what is not offered", status == 404 and b"text models" in text, text)
    for headers, wanted in (({"Content-Type": "multipart/form-data; boundary=x"}, "unsupported_media_type"),
                            ({"Content-Encoding": "gzip"}, "unsupported_media_type"),
                            ({"Origin": "http://evil.example"}, "origin_not_allowed"),
                            ({"Host": "evil.example"}, "origin_not_allowed")):
        before = metric(server, "winnow_prompt_tokens_total")
        _, _, text = ask(server, "POST", "/v1/completions", '{"prompt":"a","max_tokens":1}', headers)
        check(f"{wanted} {headers}", code_of(text) == wanted, text)
        check("no tokens spent", metric(server, "winnow_prompt_tokens_total") == before)
    status, head, _ = ask(server, "GET", "/health", headers={"X-Request-Id": "abc.1:2-3_4"})
    check("request id is echoed", head["X-Request-Id"] == "abc.1:2-3_4")
    status, head, _ = ask(server, "GET", "/nothing", headers={"X-Request-Id": "bad id <>"})
    check("a bad request id is replaced", status == 404 and re.fullmatch(r"req-[0-9a-f]{24}", head["X-Request-Id"]))
    got = raw(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 20000 + b"\r\n\r\n")
    check("431", b" 431 " in got.split(b"\r\n")[0], got[:200])
    got = raw(server, b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
                      b"Content-Length: 999999999\r\n\r\n")
    check("413 before the body", b" 413 " in got.split(b"\r\n")[0] and b"body_too_large" in got, got[:300])
    got = raw(server, b"GET /health HTTP/1.0\r\n\r\n")
    check("HTTP/1.0", b" 200 " in got.split(b"\r\n")[0] and got.endswith(b'{"status":"ok"}'), got)
    raw(server, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 not http \r\n\r\n")
    check("garbage is survived", ask(server, "GET", "/livez")[0] == 200)
    big = json.dumps({"prompt": "a" * 2_000_000, "max_tokens": 1})
    status, _, text = ask(server, "POST", "/v1/completions", big, {"Expect": "100-continue"})
    check("two megabytes are read, and too long", code_of(text) == "context_length_exceeded", text[:300])


def overflow_wording(server):
    _, _, text = ask(server, "POST", "/v1/completions", json.dumps({"prompt": "word " * 600}))
    error = json.loads(text)["error"]
    n, room = error["n_prompt_tokens"], error["n_ctx"]
    for words in (f"request ({n} tokens)", f"exceeds the available context size ({room} tokens)",
                  f"maximum context length is {room} tokens", "reduce the length of the messages"):
        check("overflow says: " + words, words in error["message"], error)
    check("a hint that would take it", error["kv_hint"] == {"name": "sink"}, error)
    status, _, text = ask(server, "POST", "/v1/completions",
                          json.dumps({"prompt": "word " * 600, "max_tokens": 4, "kv_policy": "sink"}))
    check("and it does", status == 200, text[:300])


def check_stream(name, data):
    """The rules of section 5 on the bytes of a body; returns the parsed events."""
    text = data.decode("utf-8")  # strict
    check(name + ": ends in a blank line", text.endswith("\n\n"))
    events, roles = [], {}
    for block in text[:-2].split("\n\n"):
        if block.startswith(":"):
            check(name + ": a comment is one line", "\n" not in block, block)
            continue
        check(name + ": one data line", block.startswith("data: ") and "\n" not in block and len(block) > 6, block)
        if block != "data: [DONE]":
            events.append(json.loads(block[6:]))
            for choice in events[-1]["choices"]:
                if "role" in choice.get("delta", {}):
                    roles[choice["index"]] = roles.get(choice["index"], 0) + 1
    check(name + ": [DONE] is last", text.endswith("data: [DONE]\n\n"))
    check(name + ": one role a choice", all(n == 1 for n in roles.values()), roles)
    check(name + ": one id, one time", len({(e["id"], e["created"], e["system_fingerprint"]) for e in events}) == 1)
    seen = []
    for e in events:
        for choice in e["choices"]:
            if choice["index"] not in seen:
                seen.append(choice["index"])
    check(name + ": indexes rise", seen == sorted(seen), seen)
    return events


def streams(server):
    chat = {"messages": [{"role": "user", "content": "Say \U0001F408"}], "max_tokens": 60, "stream": True, "n": 3,
            "temperature": 2, "seed": 5, "stop": [f"stop{i}" for i in range(16)]}
    status, head, data = ask(server, "POST", "/v1/chat/completions",
                             json.dumps(dict(chat, stream_options={"include_usage": True}, return_progress=True)))
    events = check_stream("chat n=3", data)
    check("event stream", head["Content-Type"] == "text/event-stream; charset=utf-8" and
          head["Cache-Control"] == "no-cache" and head["X-Accel-Buffering"] == "no", dict(head))
    check("usage is null, then real", all(e["usage"] is None for e in events[:-1]) and
          events[-1]["choices"] == [] and events[-1]["usage"]["completion_tokens"] > 0, events[-1])
    check("every choice finishes once", sorted(c["index"] for e in events for c in e["choices"] if c["finish_reason"]) ==
          [0, 1, 2])
    whole = json.loads(ask(server, "POST", "/v1/chat/completions", json.dumps(dict(chat, stream=False)))[2])
    texts = ["".join(c["delta"].get("content", "") for e in events for c in e["choices"] if c["index"] == i)
             for i in range(3)]
    check("seeded: the stream is the whole", texts == [c["message"]["content"] for c in whole["choices"]], texts)
    check("choices differ", len(set(texts)) == 3)
    # byte tokens only: every event must still be whole characters
    body = {"prompt": "A", "max_tokens": 40, "stream": True, "temperature": 2, "seed": 1,
            "logit_bias": {str(3 + b): 30 for b in range(128, 256)}}
    events = check_stream("bytes", ask(server, "POST", "/v1/completions", json.dumps(body))[2])
    check("no event is cut inside of a character", len(events) > 1)
    body = {"prompt": ["Once upon a time", "The"], "max_tokens": 8, "stream": True, "temperature": 0, "n": 2}
    events = check_stream("completions 2x2", ask(server, "POST", "/v1/completions", json.dumps(body))[2])
    check("prompt-major indexes", {c["index"] for e in events for c in e["choices"]} == {0, 1, 2, 3})
    check("timings at the end", "predicted_per_second" in events[-1]["timings"], events[-1])


def echo(server):
    body = {"prompt": "Once upon a time", "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
    answer = json.loads(ask(server, "POST", "/v1/completions", json.dumps(body))[2])["choices"][0]
    probs = answer["logprobs"]
    check("echo", answer["text"] == "Once upon a time,", answer["text"])
    check("first has none", probs["token_logprobs"][0] is None and probs["top_logprobs"][0] is None, probs)
    check("lengths agree", len({len(v) for v in probs.values()}) == 1 and len(probs["tokens"]) == 6, probs)
    check("the sampled token is in its map", all(p in t.values() for p, t in
                                                 zip(probs["token_logprobs"][1:], probs["top_logprobs"][1:])), probs)
    body["max_tokens"] = 0
    answer = json.loads(ask(server, "POST", "/v1/completions", json.dumps(body))[2])["choices"][0]
    check("max_tokens 0", answer["text"] == "Once upon a time" and answer["logprobs"]["token_logprobs"] ==
          probs["token_logprobs"][:-1], answer)
    ids = json.loads(ask(server, "POST", "/tokenize", '{"prompt":"Once upon a time"}')[2])
    check("tokenize counts what a completion counts", ids["count"] == 5 and len(ids["tokens"]) == 5, ids)
    back = json.loads(ask(server, "POST", "/detokenize", json.dumps({"tokens": ids["tokens"][1:]}))[2])
    check("detokenize", "Once upon a time" in back["content"] and back["content"] == back["prompt"], back)
    both = ask(server, "POST", "/tokenize", '{"prompt":"a","content":"b"}')
    check("not both forms", both[0] == 400, both)
    shown = json.loads(ask(server, "POST", "/apply-template", '{"messages":[{"role":"user","content":"hi"}]}')[2])
    check("apply-template", "hi" in shown["prompt"] and shown["tokens"] > 1, shown)


def policies(server):
    def used(body=None, header=None, model="m"):
        value = {"prompt": "Once upon a time", "max_tokens": 2, "model": model}
        if body:
            value["kv_policy"] = body
        return ask(server, "POST", "/v1/completions", json.dumps(value), {"X-KV-Policy": header} if header else {})

    check("default", used()[1]["X-KV-Policy"].startswith("full"), used()[1]["X-KV-Policy"])
    for name, arguments, wanted in (("body", {"body": "sink"}, "source=request"),
                                    ("header", {"header": '{"name":"sink","budget":70}'}, "budget=70; source=header"),
                                    ("suffix", {"model": "x@sink:128"}, "budget=128; source=model"),
                                    ("body wins", {"body": {"name": "sink", "budget": 99}, "header": "full"}, "budget=99")):
        status, head, text = used(**arguments)
        check(name, status == 200 and wanted in head["X-KV-Policy"], (head["X-KV-Policy"], text[:200]))
    for arguments, code in (({"body": {"name": "sink", "budget": -1}}, "invalid_kv_policy"),
                            ({"header": "snapvk"}, "invalid_kv_policy"), ({"model": "x@snapvk"}, "invalid_kv_policy"),
                            ({"body": {"name": "sink", "budget": 4}}, "invalid_kv_policy"),
                            ({"body": {"name": "sink", "budget": 513}}, "invalid_kv_policy"),
                            ({"body": {"name": "sink", "max_kv_size": 9}}, "invalid_kv_policy")):
        check(f"{arguments}", code_of(used(**arguments)[2]) == code, used(**arguments)[2])

    def kept(policy):
        body = {"prompt": "Once upon a time", "max_tokens": 200, "ignore_eos": True, "temperature": 0,
                "kv_policy": dict(policy, trace=True)}
        answer = json.loads(ask(server, "POST", "/v1/completions", json.dumps(body))[2])
        return answer["kv_trace"]["kept"], answer["usage"]["kv_cache"], answer["choices"][0]["text"]

    full, cache, text = kept({"name": "full"})
    check("full keeps all", full[0][0] == [[0, cache["tokens_seen"] - 1]] and cache["exact"], full[0][0])
    wide, cache, same = kept({"name": "sink", "budget": 512})
    check("nothing to do, nothing done", same == text and wide == full and cache["exact"], (same, text))
    narrow, cache, _ = kept({"name": "sink", "budget": 64})
    n = cache["tokens_seen"]
    check("budget acts", narrow[4][3] == [[0, 3], [n - 60, n - 1]] and not cache["exact"], narrow[4][3])
    check("slots add up", cache["slots_kept"] + cache["evicted"] == n and cache["slots_kept_max"] == 64, cache)
    check("bytes are less", cache["bytes_peak"] < cache["bytes_full"] and cache["pages_returned"] >= 0, cache)
    more, cache, _ = kept({"name": "sink", "budget": 64, "sinks": 10})
    check("sinks act", more[0][0] == [[0, 9], [n - 54, n - 1]], more[0][0])
    share, cache, _ = kept({"name": "sink", "budget": 0.99, "sinks": 1})
    check("a share is of the prompt", cache["budget"] == 5, cache)
    listed = json.loads(ask(server, "GET", "/v1/kv/policies")[2])
    check("policies are listed", {p["name"] for p in listed["data"] if p["available"]} >= {"full", "sink"} and
          listed["schema"]["title"] == "kv_policy")
    resolved = json.loads(ask(server, "POST", "/v1/kv/policies/resolve",
                              '{"kv_policy":{"name":"sink","budget":64},"prompt_tokens":400}')[2])
    check("resolve tells the bound", resolved["bound"]["pages"] <= 3 * 20 and resolved["plan"]["budget"] == 64, resolved)


def crowd_of_greedy(server):
    body = {"prompt": "Once upon a time", "max_tokens": 120, "temperature": 0}
    alone = json.loads(ask(server, "POST", "/v1/completions", json.dumps(body))[2])["choices"][0]["text"]
    check("the known answer", KNOWN_ANSWER.startswith(alone) or alone.startswith(KNOWN_ANSWER), alone)
    results = {}

    def one(i):
        mate = dict(body) if i == 7 else dict(body, prompt=f"The {i} " * (1 + 5 * i), temperature=1, seed=i,
                                              kv_policy="sink" if i % 2 else "full")
        results[i] = json.loads(ask(server, "POST", "/v1/completions", json.dumps(mate))[2])["choices"][0]["text"]

    threads = [threading.Thread(target=one, args=(i,)) for i in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check("greedy beside 15 others", results[7] == alone, (results[7], alone))


def disconnects(server):
    def gone():
        return server.pages_used() == 0 and metric(server, "winnow_requests_running") == 0

    def left(phase):
        return metric(server, f'winnow_client_disconnects_total{{phase="{phase}"}}')

    before = left("decode")
    s, _ = open_stream(server, ENDLESS)
    check("pages are in use", server.pages_used() > 0)
    s.close()
    check("hang-up in a stream", wait_for(gone) and left("decode") == before + 1, left("decode"))
    # not streamed: nothing would ever be written that could fail
    text = json.dumps(ENDLESS).encode()
    request = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(text) + text
    s = socket.create_connection(("127.0.0.1", server.port))
    s.sendall(request)
    check("it runs", wait_for(lambda: server.pages_used() > 0))
    s.close()
    check("hang-up without a stream", wait_for(gone))
    s = socket.create_connection(("127.0.0.1", server.port))
    s.sendall(request)
    wait_for(lambda: server.pages_used() > 0)
    s.shutdown(socket.SHUT_WR)
    check("a half-closed client counts as gone", wait_for(gone))
    s.close()
    # during a long prefill: a prompt of many thousand tokens under sink
    text = json.dumps(dict(ENDLESS, prompt="word and " * 60000)).encode()
    s = socket.create_connection(("127.0.0.1", server.port))
    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
    before = left("prefill")
    check("prefill runs", wait_for(lambda: server.pages_used() > 0))
    s.close()
    check("hang-up in a prefill", wait_for(gone) and left("prefill") == before + 1, left("prefill"))
    before = sum(left(p) for p in ("queued", "prefill", "decode", "paused"))
    body = json.dumps({"prompt": "a", "max_tokens": 2, "stream": True}).encode()
    s = socket.create_connection(("127.0.0.1", server.port))
    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    got = b""
    while b"[DONE]" not in got:
        got += s.recv(4096)
    s.close()
    time.sleep(0.1)
    check("leaving after [DONE] counts nothing",
          sum(left(p) for p in ("queued", "prefill", "decode", "paused")) == before)


def deadlines(server):
    status, head, text = ask(server, "POST", "/v1/completions", json.dumps(dict(ENDLESS, timeout_ms=150)))
    check("504", status == 504 and code_of(text) == "deadline_exceeded" and head["X-Should-Retry"] == "false", text)
    _, _, data = ask(server, "POST", "/v1/completions", json.dumps(dict(ENDLESS, timeout_ms=300, stream=True)))
    last = data.decode().strip().split("\n\n")[-1]
    check("an error event, and no [DONE]", '"deadline_exceeded"' in last and b"[DONE]" not in data, last)
    s, _ = open_stream(server, dict(ENDLESS, timeout_ms=60000))
    check("a reader that does not read is paused", wait_for(lambda: metric(server, "winnow_requests_paused") == 1, 60))
    others = ask(server, "POST", "/v1/completions", '{"prompt":"a","max_tokens":3}')
    check("others go on meanwhile", others[0] == 200)
    s.close()
    check("and is noticed when it leaves", server.all_pages_back())


def metrics(server):
    first, second = server.get("/metrics"), server.get("/metrics")
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", first, re.M))
    helps = set(re.findall(r"^# HELP (\S+) ", first, re.M))
    check("every type has help", set(types) == helps, set(types) ^ helps)
    for line in first.splitlines():
        if line.startswith("#"):
            continue
        found = re.fullmatch(r'([a-zA-Z_][a-zA-Z0-9_]*)(\{[^}]*\})? ([0-9.eE+-]+)', line)
        check("a sample line", found, line)
        family = re.sub(r"_(bucket|sum|count)$", "", found.group(1)) if found.group(1) not in types else found.group(1)
        check("its family is declared", family in types, line)
        check("_total is for counters only", found.group(1).endswith("_total") == (types.get(family) == "counter"), line)

    def counters(text):
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if "_total" in
                line.split(" ")[0].split("{")[0] and not line.startswith("#")}

    old, new = counters(first), counters(second)
    check("counters never fall", all(new.get(k, -1) >= v for k, v in old.items()))
    check("small", len(first) < 65536 - 1024, len(first))
    stats = server.get("/v1/kv/stats")["pool"]
    check("pool adds up", stats["pages_used"] + stats["pages_cached"] + stats["pages_free"] == stats["pages_total"], stats)


def operators():
    with Server("--kv-policy", "sink", "--kv-policy-max-budget", "100", "--kv-policy-allow", "sink", "--metrics-compat",
                "vllm", "--api-prefix", "/llm", "--kv-memory", "200K", "--cors-origins", "http://app.example",
                "--list-policy-models", prefix="/llm") as server:
        pass_body = {"prompt": "a", "max_tokens": 2}
        text = ask(server, "POST", "/llm/v1/completions", json.dumps(dict(pass_body, kv_policy={"name": "sink", "budget": 101})))[2]
        check("over the cap", code_of(text) == "kv_budget_exceeds_limit" and json.loads(text)["error"]["max_budget"] == 100, text)
        text = ask(server, "POST", "/llm/v1/completions", json.dumps(dict(pass_body, kv_policy="full")))[2]
        check("not allowed", code_of(text) == "kv_policy_not_allowed", text)
        status, head, text = ask(server, "POST", "/llm/v1/completions", json.dumps(pass_body), {"Origin": "http://app.example"})
        check("CORS", head["Access-Control-Allow-Origin"] == "http://app.example", dict(head))
        text = ask(server, "GET", "/llm/metrics")[2].decode()
        for family in ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"):
            check("one sample: " + family, len(re.findall("^" + family + r"\{", text, re.M)) == 1)
        names = [m["id"] for m in json.loads(ask(server, "GET", "/llm/v1/models")[2])["data"]]
        check("models with policies", "stories260K@sink" in names, names)
        check("outside of the prefix", ask(server, "GET", "/v1/models")[0] == 404)


def memory():
    with Server("--kv-memory", "64K", "--max-batched-tokens", "16", "--max-num-seqs", "8", "--audit") as server:
        text = ask(server, "POST", "/v1/completions", json.dumps({"prompt": "word " * 90, "max_tokens": 50}))[2]
        error = json.loads(text).get("error", {})
        check("what can never fit is refused at once", error.get("code") == "kv_memory_exceeded" and
              error["needed_pages"] > error["pool_pages"], text)
        # two that fit alone and not together: one is put back and both are right in the end
        body = {"prompt": "Once upon a time", "max_tokens": 50, "temperature": 0}
        want = json.loads(ask(server, "POST", "/v1/completions", json.dumps(body))[2])["choices"][0]["text"]
        results = []
        threads = [threading.Thread(target=lambda: results.append(
            json.loads(ask(server, "POST", "/v1/completions", json.dumps(body))[2])["choices"][0]["text"])) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        check("preempted requests give the same tokens", results == [want] * 4, results)
        check("nothing is left", server.all_pages_back())


def defaults():
    """What a request leaves out, and values that mean "leave it out"."""
    openai = {"temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0}
    good = {"temperature": 0.8, "top_p": 0.95, "top_k": 40, "min_p": 0.05}
    for flags, wanted in (((), good), (("--sampling-defaults", "model"), good), (("--sampling-defaults", "openai"), openai)):
        with Server(*flags) as s:
            shown = s.get("/props")["default_generation_settings"]["params"]
            check(f"sampling defaults {flags}", shown == wanted, shown)
            body = {"prompt": "Once upon", "max_tokens": 40, "seed": 7}
            left_out, written = (s.post("/v1/completions", b)[2]["choices"][0]["text"] for b in (body, {**body, **wanted}))
            check(f"they are what a request without them gets {flags}", left_out == written, (left_out, written))
    with Server("--alias", "house@h2o") as s:
        def post(path="/v1/completions", **fields):
            body = {"messages": [{"role": "user", "content": "Once"}]} if "chat" in path else {"prompt": "Once"}
            return s.post(path, {**body, "max_tokens": 8, "temperature": 0, **fields})

        seeds = {post(seed=-1, temperature=2)[2]["seed"] for _ in range(4)}
        check("seed -1 is random", len(seeds) == 4 and -1 not in seeds, seeds)
        chat = "/v1/chat/completions"
        for path, fields in ((chat, {"max_tokens": -1}), (chat, {"max_completion_tokens": -1}), ("/v1/completions", {"max_tokens": -1})):
            status, _, answer = post(path, ignore_eos=True, **fields)
            check(f"{path} {fields}: the rest of the context", status == 200 and answer["usage"]["total_tokens"] == 512, answer)
        status, _, answer = post(chat, max_tokens=0)
        check("max_tokens 0", status == 400 and answer["error"]["param"] == "max_tokens", answer)
        plain = post(chat)[2]["choices"][0]["message"]["content"]
        tool = [{"type": "function", "function": {"name": "f"}}]
        for fields in ({"tools": []}, {"tools": [], "tool_choice": "none"}, {"tools": tool, "tool_choice": "none"},
                       {"tool_choice": "none"}, {"functions": tool, "function_call": "none"}, {"tools": None},
                       {"prediction": {"type": "content", "content": "Once"}}, {"parallel_tool_calls": False}):
            status, _, answer = post(chat, **fields)
            check(f"{fields} changes nothing", status == 200 and answer["choices"][0]["message"]["content"] == plain, answer)
        check("tools that may be called are refused", post(chat, tools=tool)[0] == 400)
        for name in ("qwen2.5-7b-instruct@q4_k_m", "@cf/meta/llama-3-8b-instruct", "a@", "model@latest", "house@h2o", "x@q8_0"):
            status, head, answer = post(model=name)
            check(f"a model named {name}", status == 200 and head["X-KV-Policy"].startswith("full") and answer["model"] == name, answer)
        for name in ("x@h2", "x@snapvk", "x@sink:0", "x@sink:many"):
            status, _, answer = post(model=name)
            check(f"nearly a policy: {name}", status == 400 and answer["error"]["code"] == "invalid_kv_policy", answer)
        post(chat, top_p=3)
        check("the log has code and param", wait_for(lambda: "error=invalid_value param=top_p" in s.log()), s.log()[-600:])
    with tempfile.TemporaryDirectory() as folder, open(STORIES, "rb") as f:
        path, data = os.path.join(folder, "small-one.v1.gguf"), f.read()
        name = data.index(b"general.name") + len(b"general.name") + 4  # the type of the value, then its length
        length = int.from_bytes(data[name:name + 8], "little")
        with open(path, "wb") as copy:
            copy.write(data[:name + 8] + b"a b".ljust(length, b"c") + data[name + 8 + length:])
        with Server(model=path) as s:
            names = [m["id"] for m in s.get("/v1/models")["data"]]
            check("a name with blanks gives way to the file's", names == ["small-one.v1"], names)
            check("the backend is a word", 'backend="cpu"' in s.get("/metrics"), s.get("/metrics")[:300])
    with Server("--kv-policy", '{"name":"snapkv","budget":0.15}') as s:
        status, head, answer = s.post("/v1/completions", {"prompt": "Hi", "max_tokens": 4})
        check("a default share and a short prompt", status == 200 and head["X-KV-Policy"].startswith("snapkv"), answer)
        status, _, answer = s.post("/v1/completions", {"prompt": "Hi", "max_tokens": 4, "kv_policy": {"name": "snapkv", "budget": 9}})
        check("a number stays an error", status == 400, answer)


def keyless_callers():
    with Server("--admin-api-key", "boss") as s:
        said = s.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "session_id": "mine"})
        check("a session without keys", said[0] == 200, said)
        identity = said[2]["id"]
        for method, path in (("GET", "/v1/kv/sessions"), ("GET", "/v1/kv/sessions/mine"), ("DELETE", "/v1/kv/sessions/mine"),
                             ("GET", "/v1/kv/requests/" + identity)):
            status, _, text = ask(s, method, path)
            check(f"{method} {path} needs the admin's key", status == 403 and code_of(text) == "admin_key_required", text)
        stream, _ = open_stream(s, dict(ENDLESS, timeout_ms=60000))
        check("others' requests are not listed", wait_for(lambda: s.pages_used() > 0) and s.get("/v1/kv/stats")["sequences"] == [])
        check("the admin sees them", len(s.get("/v1/kv/stats", key="boss")["sequences"]) == 1)
        stream.close()
        check("and the sessions", [x["id"] for x in s.get("/v1/kv/sessions", key="boss")["data"]] == ["mine"])
        status, _, text = ask(s, "DELETE", "/v1/kv/sessions/mine", headers={"Authorization": "Bearer boss"})
        check("and deletes them", status == 200, text)


def lifecycle():
    with Server() as server:
        s, _ = open_stream(server, ENDLESS)
        server.process.send_signal(signal.SIGTERM)
        check("draining is told", wait_for(lambda: ask(server, "GET", "/readyz")[0] == 503))
        status, head, text = ask(server, "POST", "/v1/completions", '{"prompt":"a"}')
        check("new work is refused", status == 503 and code_of(text) == "draining" and head["Retry-After"], text)
        server.process.send_signal(signal.SIGTERM)
        got = b""
        while True:
            try:
                piece = s.recv(65536)
            except ConnectionResetError:
                break
            if not piece:
                break
            got = (got + piece)[-2000:]
        check("a stream that is ended says so", b'"draining"' in got and b"[DONE]" not in got, got[-300:])
        check("exit status after a second signal", server.stop() == 0, server.log()[-1000:])
    with Server() as server:
        s, _ = open_stream(server, ENDLESS)
        server.process.kill()
        got = b""
        while True:
            try:
                piece = s.recv(65536)
            except ConnectionResetError:
                break
            if not piece:
                break
            got = (got + piece)[-200:]
        check("a killed server ends no stream cleanly", not got.endswith(b"0\r\n\r\n") and b"[DONE]" not in got)
    path = os.path.join("/tmp", f"winnow-test-{os.getpid()}.sock")
    import subprocess
    p = subprocess.Popen([BINARY, "serve", STORIES, "--host", "unix:" + path], stderr=subprocess.DEVNULL, cwd=ROOT)
    wait_for(lambda: os.path.exists(path))

    def answers():
        try:
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(10)
            s.connect(path)
            s.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            return b" 200 " in s.recv(4096)
        except OSError:
            return False

    check("a Unix socket", wait_for(answers))
    p.terminate()
    check("is removed at the end", p.wait(30 * PATIENCE) == 0 and not os.path.exists(path))


def slow_request():
    with Server("--http-timeout", "1") as server:
        got = raw(server, b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{", timeout=30)
        check("408 for a body that does not come", b" 408 " in got.split(b"\r\n")[0] and b"request_read_timeout" in got, got[:200])
    with Server("--sse-ping-interval", "0.1", "--max-num-seqs", "1") as server:
        busy, _ = open_stream(server, ENDLESS)
        body = json.dumps({"prompt": "a", "max_tokens": 1, "stream": True}).encode()
        s = socket.create_connection(("127.0.0.1", server.port), timeout=30 * PATIENCE)
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        got = b""
        while b": ping\n\n" not in got:
            got += s.recv(4096)
        check("a ping while it waits", b" 200 " in got.split(b"\r\n")[0])
        busy.close()
        while b"[DONE]" not in got:
            piece = s.recv(4096)
            if not piece:
                break
            got += piece
        check("and then the answer", b"[DONE]" in got, got[-300:])
        s.close()


with Server("--audit") as main:
    for part in (transport, overflow_wording, streams, echo, policies, crowd_of_greedy, disconnects, deadlines, metrics):
        part(main)
    check("no page is left in use", main.all_pages_back())
    check("ends well", main.stop() == 0, main.log()[-2000:])
operators()
memory()
defaults()
keyless_callers()
lifecycle()
slow_request()
check.end()
