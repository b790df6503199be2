"""Sessions: a compressed cache goes on with the next turn, is told apart, gives way, expires, and is its owner's alone."""
import concurrent.futures
import json
import os
import sys
import time
import urllib.error
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from winnow_server import PATIENCE, Checks, Server  # noqa: E402

check = Checks()
TEXT = ("Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw "
        "a big, red ball. She wanted to play with it, but it was too high. Tom was a boy who had a small dog named Max.")


def ask(s, prompt, session=None, policy=None, n=20, headers=None, **more):
    body = {"prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": True, **more}
    if session:
        body["session_id"] = session
    if policy:
        body["kv_policy"] = {**policy, "trace": True}
    return s.post("/v1/completions", body, headers)


def delete(s, path, key=None):
    request = urllib.request.Request(s.url + path, method="DELETE")
    if key:
        request.add_header("Authorization", "Bearer " + key)
    try:
        with urllib.request.urlopen(request, timeout=30) as r:
            return r.status, json.loads(r.read())
    except urllib.error.HTTPError as failure:
        return failure.code, json.loads(failure.read())


def turns(s, policy):
    """Two turns under a session; the second goes on in what the first kept."""
    first = ask(s, TEXT, "talk", policy)[2]
    kv = first["usage"]["kv_cache"]
    check(f"{policy}: the first turn reuses nothing of a session", kv["reuse"] in ("none", "prefix"), kv)
    check(f"{policy}: it is kept and says until when", kv["session"]["id"] == "talk" and
          kv["session"]["expires_at"] > time.time(), kv)
    shown = s.get("/v1/kv/sessions/talk")
    check(f"{policy}: it is listed with what it holds", shown["policy"] == policy["name"] and
          shown["tokens"] == kv["tokens_seen"] and shown["slots_kept"] == kv["slots_kept"] and shown["pages"] > 0, shown)
    second = ask(s, TEXT + first["choices"][0]["text"] + " Then Max saw a cat on a tree.", "talk", policy)[2]
    again = second["usage"]["kv_cache"]
    check(f"{policy}: the second turn goes on", again["reuse"] == "session" and
          second["usage"]["prompt_tokens_details"]["cached_tokens"] == kv["tokens_seen"] and again["reused_slots"] == kv["slots_kept"], again)
    check(f"{policy}: what was dropped stays dropped",
          all(set(range(b[0], b[1] + 1)) & set(range(kv["tokens_seen"])) <=
              {p for r in old for p in range(r[0], r[1] + 1)}
              for old_layer, layer in zip(first["kv_trace"]["kept"], second["kv_trace"]["kept"])
              for old, new in zip(old_layer, layer) for b in new), (first["kv_trace"], second["kv_trace"]))
    check(f"{policy}: budgets hold", policy["name"] == "full" or again["slots_kept_max"] <= 64 + 20, again)
    return second["choices"][0]["text"]


with Server("--audit") as s:
    for policy in ({"name": "full"}, {"name": "h2o", "budget": 64}, {"name": "snapkv", "budget": 64},
                   {"name": "sink", "budget": 64}, {"name": "tova", "budget": 64}, {"name": "keydiff", "budget": 64}):
        one = turns(s, policy)
        status, value = delete(s, "/v1/kv/sessions/talk")
        check(f"{policy}: deleted with its pages", status == 200 and value["deleted"] and value["pages_returned"] > 0,
              value)
        check(f"{policy}: they are free again", s.all_pages_back(), s.pages_used())
        check(f"{policy}: the same conversation gives the same answers", turns(s, policy) == one)
        delete(s, "/v1/kv/sessions/talk")
    check("a deleted session is not found", delete(s, "/v1/kv/sessions/talk")[0] == 404)
    plain = ask(s, TEXT, policy={"name": "full"})[2]["choices"][0]["text"]
    check("full under a session answers as without", ask(s, TEXT, "f", {"name": "full"})[2]["choices"][0]["text"] == plain)

    ask(s, TEXT, "rewritten", {"name": "h2o", "budget": 64})
    kv = ask(s, "Another story. " + TEXT, "rewritten", {"name": "h2o", "budget": 64})[2]["usage"]["kv_cache"]
    check("a rewritten history is told and computed anew", kv["session_miss"] == "history_changed" and
          kv["reuse"] == "none", kv)
    status, _, value = ask(s, "Another story. " + TEXT + " x", "rewritten", {"name": "snapkv", "budget": 64})
    check("another policy is refused", status == 400 and value["error"]["code"] == "invalid_kv_policy", value)
    kv = ask(s, "Another story. " + TEXT, "rewritten")[2]["usage"]["kv_cache"]
    check("without a policy the session's own holds", kv["policy"] == "h2o" and kv["source"] == "session", kv)
    for more, name in (({"n": 2}, "n"), ):
        status, _, value = ask(s, TEXT, "two", **more) if "n" not in more else s.post(
            "/v1/completions", {"prompt": TEXT, "session_id": "two", "n": 2})
        check(f"a session with {name} > 1 is refused", status == 400 and value["error"]["param"] == "session_id", value)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: ask(s, TEXT, "busy", {"name": "h2o", "budget": 64}, n=30), range(8)))
    check("eight at once on one session: all are answered", all(a[0] == 200 for a in answers), answers)
    check("they came one after another", sum("session_miss" in a[2]["usage"]["kv_cache"] for a in answers) == 7,
          [a[2]["usage"]["kv_cache"] for a in answers])
    stats = s.get("/v1/kv/stats")
    check("stats count sessions", stats["sessions"]["count"] >= 2 and stats["sessions"]["pages"] > 0, stats["sessions"])
    check("metrics too", f"winnow_sessions {stats['sessions']['count']}\n" in s.get("/metrics"))

with Server("--session-ttl", "0.3", "--audit") as s:
    ask(s, TEXT, "short", {"name": "h2o", "budget": 64})
    check("it is there", len(s.get("/v1/kv/sessions")["data"]) == 1)
    time.sleep(0.6 * PATIENCE)
    check("it expires by itself, and its pages come back", s.get("/v1/kv/sessions")["data"] == [] and s.pages_used() == 0,
          s.pages_used())

with Server("--api-key", "one,two", "--admin-api-key", "boss") as s:
    one, two = {"Authorization": "Bearer one"}, {"Authorization": "Bearer two"}
    ask(s, TEXT, "mine", {"name": "h2o", "budget": 64}, headers=one)
    check("another key does not see it", s.get("/v1/kv/sessions", key="two")["data"] == [])
    check("nor delete it", delete(s, "/v1/kv/sessions/mine", key="two")[0] == 404)
    kv = ask(s, TEXT + " And so", "mine", {"name": "h2o", "budget": 64}, headers=two)[2]["usage"]["kv_cache"]
    check("nor go on in it", kv["reuse"] == "none", kv)
    check("the admin sees both", len(s.get("/v1/kv/sessions", key="boss")["data"]) == 2)
    check("and deletes", delete(s, "/v1/kv/sessions/mine", key="boss")[0] == 200)

with Server() as s:
    page, heads = s.get("/v1/kv/stats")["pool"]["page_bytes"], 20
with Server("--audit", "--kv-memory", str(page * heads * 14)) as s:
    for i in range(5):
        ask(s, TEXT, f"s{i}", {"name": "h2o", "budget": 64})
    n = s.get("/v1/kv/stats")["sessions"]["count"]
    answer = ask(s, TEXT + " " + TEXT, policy={"name": "full"}, n=40)
    after = s.get("/v1/kv/stats")
    check("sessions give way to running work", answer[0] == 200 and 0 < n and after["sessions"]["count"] < n,
          (n, after, answer))
    check("and nobody was preempted for them", after["totals"]["preemptions"] == 0, after)
check.end()
