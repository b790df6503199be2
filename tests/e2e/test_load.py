"""tests/bench/load.py against the server: its numbers add up with each other and with the server's own count."""
import json
import os
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from winnow_server import PATIENCE, ROOT, Checks, Server  # noqa: E402

LOAD = os.path.join(ROOT, "tests", "bench", "load.py")
check = Checks()


def load(url, *flags):
    """(exit status, printed, JSON)"""
    with tempfile.NamedTemporaryFile(suffix=".json") as f:
        done = subprocess.run([sys.executable, LOAD, "--url", url, "--json", f.name, *flags], capture_output=True, text=True,
                              timeout=120 * PATIENCE)
        text = f.read()
    return done.returncode, done.stdout + done.stderr, json.loads(text) if text else None


def counters(server):
    text = server.get("/metrics")
    return {name: sum(float(v) for v in re.findall(rf"^winnow_{name}(?:{{[^}}]*}})? (\S+)", text, re.M))
            for name in ("prompt_tokens_total", "generation_tokens_total")}


with Server() as s:
    before = counters(s)
    status, out, r = load(s.url, "--clients", "8", "--requests", "12", "--prompt-tokens", "40", "--max-tokens", "24")
    check("8 clients are answered", status == 0, out)
    t, rows = r["summary"], r["requests"]
    check("all requests", t["requests"] == t["answered"] == len(rows) == 12 and not t["errors"], t)
    check("every answer has its tokens", all(x["completion_tokens"] == 24 and x["status"] == "200" for x in rows), rows)
    check("prompts are as long as asked", all(abs(x["prompt_tokens"] - 40) <= 4 for x in rows), rows)
    check("tokens add up", t["completion_tokens"] == 12 * 24 and t["prompt_tokens"] == sum(x["prompt_tokens"] for x in rows), t)
    check("counted by the server", t["counted_by"] == ["usage"], t)
    after = counters(s)
    check("as the server counts", after["generation_tokens_total"] - before["generation_tokens_total"] == t["completion_tokens"]
          and after["prompt_tokens_total"] - before["prompt_tokens_total"] == t["prompt_tokens"], (before, after, t))
    check("rates are tokens by time", abs(t["completion_tokens_per_second"] * t["seconds"] - t["completion_tokens"]) < 1e-6
          and abs(t["requests_per_second"] * t["seconds"] - 12) < 1e-6, t)
    check("moments are in order", all(0 < x["ttft"] <= x["e2e"] for x in rows), rows)
    check("inter-token time is what lies between", all(
        x["ttft"] + x["mean_itl"] * 23 <= x["e2e"] + 1e-6 for x in rows), rows)
    check("quantiles rise", all(t[k]["median"] <= t[k]["p90"] <= t[k]["p99"] for k in ("ttft", "itl", "e2e")), t)
    check("one gap less than pieces", t["itl"]["n"] == sum(x["pieces"] - 1 for x in rows), t["itl"])
    starts = sorted(x["started"] for x in rows)
    ends = sorted(x["started"] + x["e2e"] for x in rows)
    check("8 begin before the first is answered, and no ninth", starts[7] <= ends[0] <= starts[8], (starts, ends))

    status, out, r = load(s.url, "--rate", "20", "--duration", "1", "--prompt-tokens", "20", "--max-tokens", "4", "--seed", "3",
                          "--slo-ttft", "1000", "--slo-itl", "1000")
    t = r["summary"]
    check("an open loop", status == 0 and 5 < t["requests"] < 45 and t["within_slo"] == t["requests"], out)
    check("goodput is answers by time", abs(t["goodput"] * t["seconds"] - t["requests"]) < 1e-6, t)
    status, again, r2 = load(s.url, "--rate", "20", "--duration", "1", "--prompt-tokens", "20", "--max-tokens", "4", "--seed", "3",
                             "--slo-ttft", "0.0000001")
    check("a seed gives the same requests", r2["summary"]["requests"] == t["requests"], again)
    check("a limit that nothing keeps", r2["summary"]["goodput"] == 0 and r2["summary"]["answered"] == t["requests"], again)

    status, out, r = load(s.url, "--clients", "2", "--chat", "--prompt-tokens", "20", "--max-tokens", "4",
                          "--body", '{"kv_policy":{"name":"sink","budget":64},"ignore_eos":null}')
    check("chat, and more fields of the body", status == 0 and r["summary"]["answered"] == 2, out)
    status, out, r = load(s.url, "--clients", "3", "--prompt-tokens", "20", "--max-tokens", "4", "--body", '{"kv_policy":"nonsense"}')
    check("refusals are counted by status", status == 1 and r["summary"]["errors"] == {"400": 3} and "nonsense" in out, out)
    status, out, r = load(s.url, "--clients", "2", "--prompt-tokens", "20", "--max-tokens", "400", "--timeout", "0.000001")
    check("so are requests that took too long", status == 1 and r["summary"]["errors"] == {"timeout": 2}, out)
with Server("--max-num-seqs", "1", "--max-queue", "1") as s:
    status, out, r = load(s.url, "--clients", "8", "--prompt-tokens", "100", "--max-tokens", "200")
    t = r["summary"]
    check("a full queue is 429", status == 1 and t["errors"].get("429", 0) + t["answered"] == 8 and t["errors"].get("429", 0) > 0, out)
    dead = s.url
status, out, r = load(dead, "--clients", "1")
check("a server that is gone", status == 1 and "cannot be reached" in out, out)
done = subprocess.run([sys.executable, LOAD, "--url", dead], capture_output=True, text=True)
check("neither clients nor a rate", done.returncode == 2 and "--rate" in done.stderr, done.stderr)
check.end()
