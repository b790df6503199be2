"""The cache seen from outside: what a request holds, flushing prefixes, every axis of a policy, where a policy comes
from, sessions' policies, the operator's rules, and the metrics of section 10 of the contract."""
import concurrent.futures
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from winnow_server import PATIENCE, Checks, Server, http_ask, wait_for  # noqa: E402

check = Checks()
HEADS = 20  # 5 layers of 4
STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a "
    "big, red ball. She wanted to play with it, but it was too high. Lily's mom said, \"Lily, let's go to the park.\" "
    "Tom was a boy who had a small dog named Max. Max liked to run and jump in the grass. One day Max saw a cat. The "
    "cat was on a tree. Max barked at the cat, but the cat did not come down.")
ENDLESS = {"prompt": STORY, "max_tokens": 10_000_000, "ignore_eos": True, "kv_policy": {"name": "sink", "budget": 64}}


def ask(server, method, path, body=None, headers=None):
    status, answered, text = http_ask(server.port, method, path, json.dumps(body) if body is not None else None, headers)
    return status, answered, json.loads(text) if "json" in answered["Content-Type"] else text.decode()


def complete(server, policy=None, prompt=STORY, n=20, headers=None, **more):
    body = {"prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": True, **more}
    if policy is not None:
        body["kv_policy"] = policy
    return ask(server, "POST", "/v1/completions", body, headers)


def flush(server, headers=None):
    return ask(server, "POST", "/v1/kv/flush", headers=headers)


def code(answer):
    return answer[2]["error"]["code"] if isinstance(answer[2], dict) and "error" in answer[2] else answer[2]


def bearer(key):
    return {"Authorization": "Bearer " + key}


def open_stream(server, body, headers=""):
    """A socket on which the stream has begun, and the id of its answer."""
    text = json.dumps(dict(body, stream=True)).encode()
    s = socket.create_connection(("127.0.0.1", server.port), timeout=60 * PATIENCE)
    s.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {len(text)}\r\n\r\n".encode()
              + text)
    got = b""
    while not re.search(rb'data: .*"id":"([^"]+)"', got):
        got += s.recv(4096)
    return s, re.search(rb'"id":"([^"]+)"', got).group(1).decode()


def samples(server, path="/metrics"):
    """{'name{labels}': value}"""
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in server.get(path).splitlines()
            if line and line[0] != "#"}


def heads_of(detail):
    return [head for layer in detail["layers"] for head in layer]


def details():
    with Server("--audit", "--max-num-seqs", "4") as s:
        for policy in ({"name": "full"}, {"name": "h2o", "budget": 64}, {"name": "sink", "budget": 64},
                       {"name": "adakv", "budget": 64}):
            status, _, value = complete(s, {**policy, "trace": True})
            kv = value["usage"]["kv_cache"]
            status, _, detail = ask(s, "GET", "/v1/kv/requests/" + value["id"])
            if not check(f"{policy}: an ended request is still known by its answer's id", status == 200 and
                         detail["id"] == value["id"] and detail["state"] == "done", detail):
                continue
            heads = heads_of(detail)
            check(f"{policy}: numbers are those of the answer",
                  all(detail[k] == kv[k] for k in ("policy", "budget", "tokens_seen", "slots_kept", "evicted", "pages")),
                  (detail, kv))
            check(f"{policy}: heads add up", len(heads) == HEADS and sum(h["pages"] for h in heads) == kv["pages"] and
                  abs(sum(h["slots"] for h in heads) / HEADS - kv["slots_kept"]) < 1e-9 and
                  all(h["slots"] + h["evicted"] == kv["tokens_seen"] for h in heads), detail)
            check(f"{policy}: each head's slots are those of the trace", [h["slots"] for h in heads] == [
                sum(b - a + 1 for a, b in ranges) for layer in value["kv_trace"]["kept"] for ranges in layer], detail)
            check(f"{policy}: compression is of pages held", abs(kv["compression"] - kv["bytes_full"] / kv["bytes"]) < 1e-9,
                  kv)
        check("the adaptive policy's heads differ", len({h["slots"] for h in heads}) > 1, heads)
        chat = ask(s, "POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2})[2]
        check("a chat's id too", ask(s, "GET", "/kv/requests/" + chat["id"])[0] == 200, chat["id"])
        two = complete(s, prompt=["Once", "The cat and the dog"], n=2)[2]["id"]
        lengths = [ask(s, "GET", f"/v1/kv/requests/{two}{end}")[2].get("prompt_tokens") for end in ("", ".1")]
        check("each prompt of a request has its own", lengths[0] and lengths[1] and lengths[0] < lengths[1], lengths)

        streams = [open_stream(s, ENDLESS) for _ in range(4)]
        for _, id in streams:
            detail = ask(s, "GET", "/v1/kv/requests/" + id)[2]
            check("a running request is told", detail["state"] == "decode" and detail["ended_ms_ago"] is None and
                  detail["policy"] == "sink" and heads_of(detail)[0]["slots"] <= 64 and detail["pages"] >= HEADS, detail)
        listed = {q["id"] for q in s.get("/v1/kv/stats")["sequences"]}
        check("stats list the ids of the answers", listed == {id for _, id in streams}, listed)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            late = pool.submit(complete, s, None, "Once", 1)
            check("a fifth waits", wait_for(lambda: len(s.get("/v1/kv/stats")["sequences"]) == 5))
            queued = [q["id"] for q in s.get("/v1/kv/stats")["sequences"] if q["state"] == "queued"]
            detail = ask(s, "GET", "/v1/kv/requests/" + queued[0])[2]
            check("a queued request holds nothing", detail["state"] == "queued" and detail["pages"] == 0 and
                  {h["slots"] for h in heads_of(detail)} == {0}, detail)
            for stream, _ in streams:
                stream.close()
            check("and is served", late.result()[0] == 200)
        check("who left is known too", ask(s, "GET", "/v1/kv/requests/" + streams[0][1])[2]["state"] == "done")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            failing = pool.submit(ask, s, "POST", "/v1/completions", dict(ENDLESS, timeout_ms=300 * PATIENCE))
            check("it runs", wait_for(lambda: s.get("/v1/kv/stats")["sequences"]))
            id = s.get("/v1/kv/stats")["sequences"][0]["id"]
            check("it fails", failing.result()[0] == 504)
        detail = ask(s, "GET", "/v1/kv/requests/" + id)[2]
        check("what a failed request held is told", detail["state"] == "done" and detail["pages"] >= HEADS, detail)

        first = complete(s, n=1)[2]["id"]
        for i in range(255):
            complete(s, prompt="a", n=1)
        check("256 ended requests are kept", ask(s, "GET", "/v1/kv/requests/" + first)[0] == 200)
        complete(s, prompt="a", n=1)
        gone = ask(s, "GET", "/v1/kv/requests/" + first)
        check("and not more", gone[0] == 404 and code(gone) == "not_found", gone)
        for id in ("nothing", "x" * 300, "%2500", ""):
            check(f"no such request: {id[:10]}", code(ask(s, "GET", "/v1/kv/requests/" + id)) == "not_found")
    with Server("--api-key", "one,two", "--admin-api-key", "boss") as s:
        stream, id = open_stream(s, ENDLESS, "Authorization: Bearer one\r\n")
        for when in ("running", "ended"):
            seen = [ask(s, "GET", "/v1/kv/requests/" + id, headers=bearer(k))[0] for k in ("one", "two", "boss")]
            check(f"{when}: its own key and the admin's see it", seen == [200, 404, 200], seen)
            stream.close()
            wait_for(lambda: s.get("/v1/kv/stats", key="boss")["sequences"] == [])
        check("a key is needed", ask(s, "GET", "/v1/kv/requests/" + id)[0] == 401)


def flushes():
    with Server("--audit") as s:
        alone = complete(s, "full", n=200)[2]["choices"][0]["text"]
        complete(s, "full", prompt="The dog " + STORY)
        cached = s.get("/v1/kv/stats")["pool"]["pages_cached"]
        check("prefixes are cached", cached > 0 and
              complete(s, "full", n=1)[2]["usage"]["prompt_tokens_details"]["cached_tokens"] > 0)
        status, _, value = flush(s)
        check("flush tells the pages that it freed", status == 200 and value == {"pages_freed": cached}, (cached, value))
        pool = s.get("/v1/kv/stats")["pool"]
        check("the pool agrees at once", pool["pages_cached"] == 0 and pool["pages_free"] == pool["pages_total"], pool)
        check("a second one finds nothing", flush(s)[2] == {"pages_freed": 0})
        check("prompts are computed anew",
              complete(s, "full", n=1)[2]["usage"]["prompt_tokens_details"]["cached_tokens"] == 0)
        check("GET does not flush", ask(s, "GET", "/v1/kv/flush")[0] == 405)
        # While others use prefixes: nothing of theirs goes, whatever is asked at once, and whoever hangs up.
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            answers = [pool.submit(complete, s, "full", STORY, 200) for _ in range(8)]
            wait_for(lambda: s.pages_used() > 0)
            for _ in range(10):
                quitter = socket.create_connection(("127.0.0.1", s.port))
                quitter.sendall(b"POST /v1/kv/flush HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
                quitter.close()
            flushed = list(pool.map(lambda _: flush(s)[0], range(40)))
            texts = {a.result()[2]["choices"][0]["text"] for a in answers}
        check("forty flushes beside eight requests", set(flushed) == {200} and texts == {alone}, (flushed, texts))
        # The pages that the quitters' flushes freed are told to nobody; the rest is.
        check("all comes back", flush(s)[0] == 200 and s.get("/v1/kv/stats")["pool"]["pages_free"] == pool_total(s))
        stream, _ = open_stream(s, ENDLESS)
        for _ in range(20):
            flush(s)
        s.process.terminate()
        stream.close()
        check("ends well", s.stop() == 0, s.log()[-2000:])
    for flags, who, wanted in ((("--api-key", "k"), "k", 200), (("--api-key", "k"), None, 401),
                               (("--api-key", "k", "--admin-api-key", "boss"), "k", 403),
                               (("--api-key", "k", "--admin-api-key", "boss"), "boss", 200),
                               (("--admin-api-key", "boss"), None, 403), (("--admin-api-key", "boss"), "boss", 200)):
        with Server(*flags) as s:
            answer = flush(s, bearer(who) if who else None)
            check(f"flush by {who} under {flags}", answer[0] == wanted, answer)
            if wanted == 403:
                check("it says what is missing", code(answer) == "admin_key_required", answer)


def pool_total(s):
    return s.get("/v1/kv/stats")["pool"]["pages_total"]


KNOBS = {  # axis: two policies that differ in it alone
    "name": ({"name": "h2o", "budget": 64}, {"name": "tova", "budget": 64}),
    "budget": ({"name": "h2o", "budget": 64}, {"name": "h2o", "budget": 0.5}),
    "sinks": ({"name": "sink", "budget": 64}, {"name": "sink", "budget": 64, "sinks": 9}),
    "recent": ({"name": "h2o", "budget": 64, "recent": 10}, {"name": "h2o", "budget": 64, "recent": 50}),
    "min_window": ({"name": "razor", "min_window": 40}, {"name": "razor", "min_window": 70}),
    "window": ({"name": "snapkv", "budget": 64, "window": 8}, {"name": "snapkv", "budget": 64, "window": 24}),
    "kernel": ({"name": "snapkv", "budget": 64, "kernel": 1}, {"name": "snapkv", "budget": 64, "kernel": 13}),
    "pool": ({"name": "snapkv", "budget": 64}, {"name": "snapkv", "budget": 64, "pool": "avg"}),
    "share": ({"name": "tova", "budget": 48}, {"name": "tova", "budget": 48, "share": "head"}),
    "scorer": ({"name": "h2o", "budget": 64}, {"name": "h2o", "budget": 64, "scorer": "attention_mean"}),
    "allocation": ({"name": "snapkv", "budget": 64}, {"name": "snapkv", "budget": 64, "allocation": "adaptive"}),
    "prefill": ({"name": "duo", "sinks": 4, "recent": 40}, {"name": "duo", "sinks": 4, "recent": 40, "prefill": "full"}),
    "decode": ({"name": "snapkv", "budget": 64}, {"name": "snapkv", "budget": 64, "decode": "evict"}),
    "interval": ({"name": "h2o", "budget": 64}, {"name": "h2o", "budget": 64, "interval": 8}),
    "remnant": ({"name": "h2o", "budget": 64}, {"name": "h2o", "budget": 64, "remnant": "mean"}),
    "positions": ({"name": "sink", "budget": 64}, {"name": "sink", "budget": 64, "positions": "original"}),
    "sparsity": ({"name": "duo", "sinks": 4, "recent": 40}, {"name": "duo", "sinks": 4, "recent": 40, "sparsity": 0.2}),
    "seed": ({"name": "random", "budget": 64}, {"name": "random", "budget": 64, "seed": 7}),
}
READ_DIFFERENTLY = {"remnant", "positions"}  # the same slots are held, and attended to in another way


def knobs():
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as f:
        for layer in range(5):
            f.write("\t".join("0.9" if (layer + head) % 4 == 0 else f"0.{layer}{head + 1}" for head in range(4)) + "\n")
        f.flush()
        with Server("--audit", "--head-profile", f.name, "--no-prefix-cache") as s:
            axes = s.get("/v1/kv/policies")["schema"]["$defs"]["plan"]["properties"]
            check("every axis of the schema is tried", set(KNOBS) | {"storage", "trace"} == set(axes),
                  set(KNOBS) ^ set(axes))

            def outcome(policy):
                status, _, value = complete(s, {**policy, "trace": True}, n=60, logprobs=0)
                check(f"{policy} is served", status == 200, value)
                kv = value["usage"]["kv_cache"]
                return (value["kv_trace"], kv["bytes_peak"], kv["pages"]), value["choices"][0]["logprobs"]["token_logprobs"]

            for axis, (a, b) in KNOBS.items():
                (kept_a, read_a), (kept_b, read_b) = outcome(a), outcome(b)
                if axis in READ_DIFFERENTLY:
                    check(f"{axis} acts: other probabilities", read_a != read_b, (a, b))
                else:
                    check(f"{axis} acts: other slots or pages", kept_a != kept_b, (a, b, kept_a))
                check(f"{axis}: the same twice", outcome(b) == (kept_b, read_b), b)
            check("storage that the pool has", complete(s, {"name": "full", "storage": "f16"})[0] == 200)
            check("storage that it has not", code(complete(s, {"name": "full", "storage": "q8"})) == "invalid_kv_policy")
            for wanted in (True, False):
                check(f"trace {wanted}", ("kv_trace" in complete(s, {"name": "full", "trace": wanted})[2]) == wanted)


def names():
    with Server() as s:
        for spelling, canonical in (("none", "full"), ("off", "full"), ("streamingllm", "sink"), ("streaming_llm", "sink"),
                                    ("snap_kv", "snapkv"), ("ada_kv", "adakv"), ("pyramid_kv", "pyramidkv")):
            status, head, value = complete(s, spelling, n=1)
            check(f"{spelling} is {canonical}", status == 200 and value["usage"]["kv_cache"]["policy"] == canonical and
                  head["X-KV-Policy"].startswith(canonical), value)
        for spelling in ("razorattention", "duoattention"):
            answer = complete(s, spelling, n=1)
            check(f"{spelling} is known, and needs a profile", "profile" in answer[2]["error"]["message"], answer)
        for key, word in (("max_kv_size", "budget"), ("max_capacity_prompt", "budget"), ("compression_ratio", "1 - ratio"),
                          ("sink_token_length", "sinks"), ("num_keep", "sinks"), ("n_keep", "sinks"),
                          ("start_size", "sinks"), ("recent_size", "recent"), ("window_size", "window"),
                          ("kernel_size", "kernel"), ("max_attention_window_size", "budget"), ("budgt", "budget")):
            answer = complete(s, {"name": "h2o", key: 9})
            check(f"{key}: a hint", code(answer) == "invalid_kv_policy" and word in answer[2]["error"]["message"] and
                  answer[2]["error"]["param"] == "kv_policy." + key, answer)
        check("a slip in a name", "did you mean snapkv" in complete(s, "snapvk")[2]["error"]["message"])
        for field in ("kvPolicy", "kv-policy", "kv_cache_policy"):
            for path, body in (("/v1/completions", {"prompt": "a"}),
                               ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]})):
                answer = ask(s, "POST", path, {**body, "max_tokens": 1, field: "sink"})
                check(f"{path} {field}: not ignored", code(answer) == "unknown_parameter" and
                      "kv_policy" in answer[2]["error"]["message"], answer)
        answer = ask(s, "POST", "/v1/completions", {"prompt": "a", "extra_body": {"kv_policy": "sink"}})
        check("extra_body in the body", code(answer) == "unknown_parameter" and answer[2]["error"]["param"] == "extra_body",
              answer)
        check("a policy of more than 2 KiB in the header",
              code(complete(s, headers={"X-KV-Policy": '{"name":"sink"' + " " * 2100 + "}"})) == "invalid_kv_policy")
        check("the last @ splits", "source=model" in complete(s, model="a@b@sink:64")[1]["X-KV-Policy"])
        dry = ask(s, "GET", "/v1/kv/policies?dry_run=" + "%7B%22name%22%3A%22h2o%22%2C%22budget%22%3A0.5%7D"
                  "&prompt_tokens=200&total_tokens=300")[2]
        check("a dry run resolves", dry["plan"]["budget"] == 100 and dry["prompt_tokens"] == 200 and
              dry["bound"]["pages"] >= HEADS * 7 and dry["bound"]["bytes"] ==
              dry["bound"]["pages"] * s.get("/v1/kv/stats")["pool"]["page_bytes"], dry)
        check("a dry run refuses", code(ask(s, "GET", "/v1/kv/policies?dry_run=nope")) == "invalid_kv_policy")


def sources():
    """Where a policy came from: in the answer, in the header, in the counters."""
    def tell(answer):
        kv = answer[2]["usage"]["kv_cache"]
        return answer[1]["X-KV-Policy"], f'{kv["policy"]} {kv["source"]}'

    with Server("--kv-policy", '{"name":"tova","budget":100}') as s:
        before = samples(s)
        ways = [({"policy": {"name": "h2o", "budget": 64}}, "h2o; budget=64; source=request"),
                ({"headers": {"X-KV-Policy": "sink"}}, "sink; budget=512; source=header"),
                ({"model": "m@snapkv:80"}, "snapkv; budget=80; source=model"),
                ({}, "tova; budget=100; source=default")]
        for arguments, wanted in ways:
            header, used = tell(complete(s, **arguments))
            check(f"{arguments}: the header tells", header == wanted and used == f"{wanted.split(';')[0]} {wanted[wanted.rindex('=') + 1:]}",
                  (header, used))
        complete(s, {"name": "keydiff", "budget": 70}, session_id="talk")
        header, used = tell(complete(s, session_id="talk"))
        check("a session's policy, known before the first token", header == "keydiff; budget=70; source=session" and
              used == "keydiff session", (header, used))
        # The turn before still runs: its session is not there yet, its policy is.
        stream, _ = open_stream(s, {"prompt": STORY, "max_tokens": 300, "ignore_eos": True, "session_id": "next",
                                    "kv_policy": {"name": "h2o", "budget": 66}})
        header, used = tell(complete(s, session_id="next"))
        stream.close()
        check("of the turn before", header == "h2o; budget=66; source=session" and used == "h2o session", (header, used))
        after = samples(s)
        for policy, source, n in (("h2o", "request", 2), ("sink", "header", 1), ("snapkv", "model", 1),
                                  ("tova", "default", 1), ("keydiff", "session", 1), ("h2o", "session", 1)):
            key = f'winnow_kv_policy_requests_total{{policy="{policy}",source="{source}"}}'
            check(key, after.get(key, 0) - before.get(key, 0) == n, after.get(key))

        first = complete(s, {"name": "h2o", "budget": 64}, session_id="slots")[2]
        kv = complete(s, prompt=STORY + first["choices"][0]["text"] + " And then", session_id="slots")[2]["usage"]
        check("reused: the slots of the session, and the tokens that they stand for", kv["kv_cache"]["reuse"] == "session" and
              kv["kv_cache"]["reused_slots"] == first["usage"]["kv_cache"]["slots_kept"] == 64 and
              kv["prompt_tokens_details"]["cached_tokens"] == first["usage"]["kv_cache"]["tokens_seen"], kv)
        kv = complete(s, prompt="No. " + STORY, session_id="slots")[2]["usage"]["kv_cache"]
        check("a rewritten history", kv["session_miss"] == "history_changed" and kv["reused_slots"] == 0, kv)
        answer = complete(s, "sink", session_id="slots")
        check("another policy for a live session", code(answer) == "invalid_kv_policy", answer)
        full = complete(s, "full", session_id="deleted")[2]["usage"]["kv_cache"]
        status, _, value = ask(s, "DELETE", "/v1/kv/sessions/deleted")
        check("deletion tells the pages", value == {"id": "deleted", "deleted": True, "pages_returned": full["pages"]}, value)


def rules():
    with Server("--kv-policy", "sink", "--kv-policy-lock", "--list-policy-models") as s:
        for arguments in ({"policy": "full"}, {"headers": {"X-KV-Policy": "full"}}, {"model": "m@full"}):
            answer = complete(s, n=1, **arguments)
            check(f"locked: {arguments}", answer[0] == 403 and code(answer) == "kv_policy_not_allowed", answer)
        check("locked: the server's own", complete(s, session_id="x")[0] == 200 and complete(s, session_id="x")[0] == 200)
        check("locked: no policy is offered", len(s.get("/v1/models")["data"]) == 1, s.get("/v1/models"))
        check("locked: none is available", not any(p["available"] for p in s.get("/v1/kv/policies")["data"]))
    with Server("--kv-policy-allow", "sink,h2o,razor", "--list-policy-models") as s:
        listed = [m["id"].split("@")[-1] for m in s.get("/v1/models")["data"]]
        check("models are listed with what they may be asked for", listed == ["stories260K", "sink", "h2o"], listed)
        check("each of them works", all(complete(s, model="stories260K@" + n, n=1)[0] == 200 for n in listed[1:]))
    with Server("--kv-policy-max-budget", "100") as s:
        for budget, wanted in ((100, 200), (101, 400)):
            answer = complete(s, {"name": "h2o", "budget": budget})
            check(f"a cap of 100: {budget}", answer[0] == wanted, answer)
        check("the cap is told", code(answer) == "kv_budget_exceeds_limit" and answer[2]["error"]["max_budget"] == 100, answer)
        answer = ask(s, "POST", "/v1/kv/policies/resolve", {"kv_policy": {"name": "sink", "budget": 200}})
        check("to those who ask first, too", code(answer) == "kv_budget_exceeds_limit", answer)
    with Server("--api-key", "one,two", "--prefix-scope", "server") as s:
        cached = [complete(s, "full", n=1, headers=bearer(k))[2]["usage"]["prompt_tokens_details"]["cached_tokens"]
                  for k in ("one", "two")]
        check("prefixes shared by the whole server", cached[0] == 0 < cached[1], cached)
    with Server() as s:
        page = s.get("/v1/kv/stats")["pool"]["page_bytes"]
    with Server("--kv-memory", str(page * HEADS * 5), "--max-batched-tokens", "64") as s:
        for policy in ("full", {"name": "sink", "budget": 400}):
            answer = complete(s, policy, prompt=STORY, n=400)
            error = answer[2]["error"]
            most = error["largest_budget_that_fits"]
            check(f"{policy}: too much for the pool", error["code"] == "kv_memory_exceeded" and error["param"] == "kv_policy" and
                  error["needed_pages"] > error["pool_pages"] == HEADS * 5 and 64 <= most < 160, error)
            check("the budget that is said to fit does", complete(s, {"name": "sink", "budget": most}, n=400)[0] == 200, most)
            check("and is the largest", code(complete(s, {"name": "sink", "budget": most + 1}, n=400)) ==
                  "kv_memory_exceeded", most)


SECTION_10 = """requests_running gauge
requests_waiting gauge
requests_paused gauge
sessions gauge
session_pages gauge
requests_total counter endpoint code
request_finished_total counter reason policy
rejected_total counter reason
client_disconnects_total counter phase
prompt_tokens_total counter
generation_tokens_total counter
prefix_query_tokens_total counter
prefix_hit_tokens_total counter
preemptions_total counter
kv_pages gauge
kv_pages_used gauge
kv_pages_cached gauge
kv_usage_ratio gauge
kv_bytes gauge
kv_bytes_used gauge
kv_cache_info gauge page_slots pages blocks layers kv_heads storage
kv_evicted_slots_total counter policy
kv_pages_returned_total counter policy
kv_tokens_seen_total counter policy
kv_slots_kept_total counter policy
kv_policy_requests_total counter policy source
time_to_first_token_seconds histogram
inter_token_latency_seconds histogram
request_duration_seconds histogram
queue_time_seconds histogram
prefill_time_seconds histogram
decode_time_seconds histogram
step_time_seconds histogram
policy_time_seconds histogram
request_prompt_tokens histogram
request_generation_tokens histogram
step_batch_tokens histogram
page_lifetime_seconds histogram policy
build_info gauge version commit backend
model_info gauge model_name arch quant"""
TWINS = """num_requests_running num_requests_waiting request_success_total prompt_tokens_total generation_tokens_total
prefix_cache_queries_total prefix_cache_hits_total num_preemptions_total kv_cache_usage_perc cache_config_info
time_to_first_token_seconds inter_token_latency_seconds e2e_request_latency_seconds request_queue_time_seconds
request_prefill_time_seconds request_decode_time_seconds request_prompt_tokens request_generation_tokens
iteration_tokens_total kv_block_lifetime_seconds lora_requests_info""".split()


def check_families(text):
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    for row in SECTION_10.splitlines():
        name, kind, *labels = row.split()
        check(f"winnow_{name} is a {kind}", types.get("winnow_" + name) == kind, types.get("winnow_" + name))
        one = re.search(rf"^winnow_{name}(?:_count)?(?:\{{(.*)\}})? \S+$", text, re.M)
        check(f"winnow_{name} has a sample with {labels}", one and
              re.findall(r'(\w+)="', one.group(1) or "") == labels, one and one.group(0))
    for name in ("cpu_seconds_total", "resident_memory_bytes", "virtual_memory_bytes", "open_fds", "max_fds",
                 "start_time_seconds"):
        value = re.search(rf"^process_{name} (\S+)$", text, re.M)
        check(f"process_{name}", value and float(value.group(1)) > 0, value)


def lint(text):
    if not shutil.which("promtool"):
        print("SKIPPED: promtool is not on the PATH (Debian: prometheus); /metrics is not linted")
        return
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    check("promtool finds nothing", done.returncode == 0 and not done.stdout + done.stderr, done.stdout + done.stderr)


def metrics():
    with Server("--metrics-compat", "vllm", "--alias", "m" * 250) as s:
        for policy in ("full", "sink", "h2o", "snapkv", "pyramidkv", "adakv", "tova", "scissorhands", "knorm", "keydiff",
                       "random"):
            complete(s, policy, n=2)
        complete(s, "nope")
        text = s.get("/metrics")
        types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
        check("nothing is cut off, however long the name", re.search(r"\nprocess_start_time_seconds \S+\n$", text),
              text[-200:])
        for name in TWINS:
            check("vllm:" + name, "vllm:" + name in types, sorted(types))
        found = samples(s)
        label = 'model_name="%s",engine="0"' % ("m" * 250)
        check("the twin counts what all policies gave back", found[f"vllm:kv_block_lifetime_seconds_count{{{label}}}"] ==
              sum(v for k, v in found.items() if k.startswith("winnow_page_lifetime_seconds_count")) > 0)
        finished = found[f'vllm:request_success_total{{{label},finished_reason="length"}}']
        check("finished requests", finished == 11, finished)
    with Server() as s:
        page = s.get("/v1/kv/stats")["pool"]["page_bytes"]
    with Server("--kv-memory", str(page * (HEADS * 12 + 19))) as s:
        # of one request: all its pages come back, each after at most the time that passed
        status, _, value = complete(s, {"name": "snapkv", "budget": 64}, cache_prompt=False)
        kv = value["usage"]["kv_cache"]
        found = samples(s)
        count = found['winnow_page_lifetime_seconds_count{policy="snapkv"}']
        check("a lifetime for every page that was taken", count == kv["pages"] + kv["pages_returned"], (count, kv))
        seen = found['winnow_kv_tokens_seen_total{policy="snapkv"}']
        kept = found['winnow_kv_slots_kept_total{policy="snapkv"}']
        check("tokens seen and slots kept", seen == kv["tokens_seen"] and kept == round(kv["slots_kept"]), (seen, kept, kv))
        # A session's pages live until it is deleted; they are h2o's. Cached ones belong to who let go of them last.
        complete(s, {"name": "h2o", "budget": 64}, session_id="x", cache_prompt=False)
        before = samples(s)
        time.sleep(0.6)
        pages = ask(s, "DELETE", "/v1/kv/sessions/x")[2]["pages_returned"]
        key = 'winnow_page_lifetime_seconds_%s{policy="h2o"%s}'
        check("a session's pages come back", wait_for(lambda: samples(s)[key % ("count", "")] ==
                                                      before[key % ("count", "")] + pages), pages)
        after = samples(s)
        short = after[key % ("bucket", ',le="0.5"')] - before[key % ("bucket", ',le="0.5"')]
        total = after[key % ("sum", "")] - before[key % ("sum", "")]
        check("after the time that it waited", short == 0 and 0.6 * pages <= total < 30 * PATIENCE * pages, (short, total))
        complete(s, "full")
        complete(s, "tova", n=1)
        cached = s.get("/v1/kv/stats")["pool"]["pages_cached"]
        before = samples(s)
        freed = flush(s)[2]["pages_freed"]
        gained = {k: v - before.get(k, 0) for k, v in samples(s).items() if "page_lifetime_seconds_count" in k}
        check("cached pages are counted when they go, for who used them last",
              freed == cached > 0 and gained['winnow_page_lifetime_seconds_count{policy="tova"}'] > 0 and
              sum(gained.values()) == freed, (freed, cached, gained))
        complete(s, "nope")
        stream, _ = open_stream(s, ENDLESS)
        stream.close()
        wait_for(lambda: s.pages_used() == 0)
        text = s.get("/metrics")
        check_families(text)
        info = dict(re.findall(r'(\w+)="([^"]*)"', re.search(r"winnow_kv_cache_info\{(.*)\}", text).group(1)))
        check("blocks are whole", info == {"page_slots": "32", "pages": str(HEADS * 12 + 19), "blocks": "12", "layers": "5",
                                           "kv_heads": "4", "storage": "f16"}, info)
        check("small", len(text) < 65536, len(text))
        lint(text)
        lint(s.get("/metrics"))


for part in (details, flushes, knobs, names, sources, rules, metrics):
    part()
check.end()
