#!/usr/bin/env python3
"""The same work on winnow and on a build of llama.cpp: one model file, the same threads, runs of the two in turn,
medians.

    compare_llama.py MODEL.gguf --llama-bench BIN --llama-batched-bench BIN --llama-server BIN [--rows decode,prefill]

    decode    tokens/s of one sequence behind 0, 2,048 and 8,160 tokens
    policies  the same behind the longest of these contexts: winnow under snapkv and h2o with a budget of 1,024 against
              llama.cpp's whole cache; and winnow's whole cache of 1,024, which is about the best they can do
    prefill   tokens/s of reading prompts of 512 and 8,192 tokens
    batch     tokens/s of 8 sequences decoding together behind 512 tokens
    clients   8 clients at once, prompts of 1,000 tokens, 128 tokens each, over HTTP (tests/bench/load.py)
    sink      milliseconds for the next token of an endless text with a window of 1,024 tokens: winnow's sink policy
              behind 4,096 tokens against reading the window again, which is what llama.cpp can do instead
    start     milliseconds from the start of the process to the first token, over HTTP

winnow's tokens are sampled and fed back, llama-bench's are random. A share is the work that a decoding run must read, or
a prompt must multiply, divided by the rate that winnow bench measured on this machine; for llama.cpp from the same bytes."""
import argparse
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
ROWS = ("decode", "policies", "prefill", "batch", "clients", "sink", "start")
WINDOW, BEHIND = 1024, 4096
POLICIES, BUDGET = ("snapkv", "h2o"), 1024
BATCH, BATCH_CONTEXT = 8, 512
ELSEWHERE = tempfile.gettempdir()  # programs of llama.cpp leave log files where they run


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--winnow", default=os.path.join(ROOT, "build", "winnow"))
    p.add_argument("--llama-bench")
    p.add_argument("--llama-batched-bench")
    p.add_argument("--llama-server")
    p.add_argument("--bench-args", default="", help="more flags for llama-bench, e.g. '-rtr 1'")
    p.add_argument("--server-args", default="", help="more flags for llama-server and llama-batched-bench, e.g. '-rtr'")
    p.add_argument("--rows", default=",".join(ROWS), help="which of them (default: all)")
    p.add_argument("--contexts", default="0,2048,8160", help="of decode; with --tokens they fit what the model was trained for")
    p.add_argument("--prompts", default="512,8192", help="of prefill")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--repeats", type=int, default=3, help="runs of each side")
    p.add_argument("--tokens", type=int, default=32, help="decoded in a run")
    p.add_argument("--clients", type=int, default=8)
    p.add_argument("--prompt-tokens", type=int, default=1000)
    p.add_argument("--max-tokens", type=int, default=128)
    p.add_argument("--text", help="prompts of clients are cut from it")
    p.add_argument("--json", help="a file for all runs")
    a = p.parse_args()
    for name in ("model", "winnow", "llama_bench", "llama_batched_bench", "llama_server", "text"):
        if getattr(a, name):
            setattr(a, name, os.path.abspath(getattr(a, name)))
    a.rows = a.rows.split(",")
    if unknown := [r for r in a.rows if r not in ROWS]:
        p.error(f"--rows: {unknown[0]} is not one of {', '.join(ROWS)}")
    if a.repeats < 1 or a.threads < 1:
        p.error("--repeats and --threads are at least 1")
    a.contexts, a.prompts = ([int(x) for x in text.split(",")] for text in (a.contexts, a.prompts))
    return a


class Table:
    """Samples of both sides by row, in the order of appearance."""

    def __init__(self):
        self.rows, self.read, self.multiply = {}, 0.0, 0.0

    def add(self, label, side, value, work=None, more_is_better=True):
        """work: ("reading" | "multiplying", bytes or operations for one unit of value), where shares make sense."""
        row = self.rows.setdefault(label, {"ours": [], "theirs": [], "work": None, "more": more_is_better})
        row[side].append(value)
        row["work"] = work or row["work"]

    def machine(self, result):
        m = result["machine"]
        if m:
            self.read = max(self.read, m["read_bytes_per_second"], m["read_bytes_per_second_after"])
            self.multiply = max(self.multiply, m["operations_per_second"], m["operations_per_second_after"])

    def share(self, row, side):
        if not row["work"] or not row[side]:
            return "-"
        what, work = row["work"]
        value = statistics.median(row[side])
        if not row["more"]:
            value = 1e3 / value
        most = self.read if what == "reading" else self.multiply
        return f"{100 * value * work / most:.0f}% {what}" if most else "-"

    def show(self):
        print(f"\n{'':44} {'ours':>18} {'theirs':>18} {'ratio':>7}  {'our share':18} their share")
        for label, row in self.rows.items():
            cells = []
            for side in ("ours", "theirs"):
                values = row[side]
                spread = 50 * (max(values) - min(values)) / statistics.median(values) if values else 0
                cells.append(f"{statistics.median(values):10.2f} +-{spread:4.1f}%" if values else f"{'-':>18}")
            ratio = "-"
            if row["ours"] and row["theirs"]:
                r = statistics.median(row["ours"]) / statistics.median(row["theirs"])
                ratio = f"{r if row['more'] else 1 / r:.2f}x"
            print(f"{label:44} {cells[0]:>18} {cells[1]:>18} {ratio:>7}  {self.share(row, 'ours'):18} {self.share(row, 'theirs')}")
        print(f"\nratio: above 1 winnow is better. This machine reads {self.read / 1e9:.1f} GB/s and makes "
              f"{self.multiply / 1e9:.0f} GFLOP/s." if self.read else "")


# ---- programs that measure themselves


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=ELSEWHERE)
    if done.returncode != 0:
        raise SystemExit(f"compare_llama.py: {' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done


def winnow_bench(a, table, *flags):
    with tempfile.NamedTemporaryFile(suffix=".json") as f:
        run([a.winnow, "bench", a.model, "--repeats", "1", "--device", "cpu", "--threads", str(a.threads), "--json", f.name,
             *flags])
        result = json.load(f)
    table.machine(result)
    bad = [p["skipped"] for p in result["points"] if "skipped" in p]
    if bad:
        raise SystemExit(f"compare_llama.py: winnow bench {' '.join(flags)}: {bad[0]}")
    return result["points"]


def llama_bench(a, *flags):
    command = [a.llama_bench, "-m", a.model, "-t", str(a.threads), "-r", "1", "-ngl", "0", "-fa", "1", "-o", "json", *flags,
               *a.bench_args.split()]
    out = run(command).stdout
    return json.loads(out[out.index("["):])


def decode_behind(a, context):
    """llama-bench flags: ik_llama.cpp names a depth by -gp, llama.cpp by -d."""
    if context == 0:
        return ["-p", "0", "-n", str(a.tokens)]
    if not hasattr(a, "has_gp"):
        help_text = subprocess.run([a.llama_bench, "--help"], capture_output=True, text=True)
        a.has_gp = "-gp " in help_text.stdout + help_text.stderr
    return ["-p", "0", "-n", "0", "-gp", f"{context},{a.tokens}"] if a.has_gp else [
        "-p", "0", "-n", str(a.tokens), "-d", str(context)]


def decode(a, table, side):
    if side == "ours":
        for p in winnow_bench(a, table, "--contexts", ",".join(map(str, a.contexts)), "--prompt", "none", "--batch", "1",
                              "--tokens", str(a.tokens)):
            table.add(f"decode behind {p['context']}, tokens/s", side, p["tokens_per_second"],
                      ("reading", p["bytes_per_token"]))
        return
    for context in a.contexts:
        [result] = llama_bench(a, *decode_behind(a, context))
        table.add(f"decode behind {context}, tokens/s", side, result["avg_ts"])


def policies(a, table, side):
    """Needs the samples of `decode` for the peer's side: its cache is the whole one."""
    longest = max(a.contexts)
    if side == "theirs":
        whole = table.rows.get(f"decode behind {longest}, tokens/s", {}).get("theirs") if "decode" in a.rows else None
        value = whole[-1] if whole else llama_bench(a, *decode_behind(a, longest))[0]["avg_ts"]
        for policy in POLICIES:
            table.add(f"{policy}:{BUDGET} behind {longest}, tokens/s", side, value)
        return
    flags = ["--prompt", "none", "--batch", "1", "--tokens", str(a.tokens)]
    for p in winnow_bench(a, table, "--contexts", str(longest), "--policies",
                          ",".join(f"{policy}:{BUDGET}" for policy in POLICIES), *flags):
        table.add(f"{p['policy']} behind {longest}, tokens/s", side, p["tokens_per_second"],
                  ("reading", p["bytes_per_token"]))
    [p] = winnow_bench(a, table, "--contexts", str(BUDGET), *flags)
    table.add(f"decode behind {BUDGET}, tokens/s", side, p["tokens_per_second"], ("reading", p["bytes_per_token"]))


def prefill(a, table, side):
    if side == "ours":
        for p in winnow_bench(a, table, "--contexts", "none", "--prompt", ",".join(map(str, a.prompts)), "--batch", "1"):
            table.add(f"prompt of {p['context']}, tokens/s", side, p["tokens_per_second"],
                      ("multiplying", p["operations_per_token"]))
        return
    for n in a.prompts:
        [result] = llama_bench(a, "-p", str(n), "-n", "0")
        table.add(f"prompt of {n}, tokens/s", side, result["avg_ts"])


def batch(a, table, side):
    label = f"{BATCH} sequences behind {BATCH_CONTEXT}, tokens/s"
    if side == "ours":
        [p] = winnow_bench(a, table, "--contexts", str(BATCH_CONTEXT), "--prompt", "none", "--batch", str(BATCH),
                           "--tokens", str(a.tokens))
        table.add(label, side, p["tokens_per_second"], ("reading", p["bytes_per_token"]))
        return
    done = run([a.llama_batched_bench, "-m", a.model, "-t", str(a.threads), "-c", str(BATCH * (BATCH_CONTEXT + a.tokens)), "-b",
               "2048", "-ub", "512", "-npp", str(BATCH_CONTEXT), "-ntg", str(a.tokens), "-npl", str(BATCH), "-ngl", "0", "-fa", "on",
               *a.server_args.split()])
    out = done.stdout + done.stderr
    found = re.search(rf"\|\s*{BATCH_CONTEXT}\s*\|\s*{a.tokens}\s*\|\s*{BATCH}\s*\|(.*)\|", out)
    if not found:
        raise SystemExit("compare_llama.py: no line of results from llama-batched-bench:\n" + out[-2000:])
    columns = [float(x) for x in found.group(1).split("|")]  # N_KV, T_PP, S_PP, T_TG, S_TG, ...
    table.add(label, side, columns[4])


def sink(a, table, side):
    label = f"next token, window of {WINDOW}, ms"
    if side == "ours":
        [p] = winnow_bench(a, table, "--contexts", str(BEHIND), "--prompt", "none", "--batch", "1", "--policies",
                           f"sink:{WINDOW}", "--tokens", str(a.tokens))
        table.add(label, side, p["ms_per_step"], ("reading", p["bytes_per_token"]), more_is_better=False)
        return
    [result] = llama_bench(a, "-p", str(WINDOW), "-n", "0")
    table.add(label, side, 1e3 * WINDOW / result["avg_ts"], more_is_better=False)


# ---- servers


class Serving:
    """A server of either side on a free port; stopped at the end."""

    def __init__(self, a, side, n_clients, n_tokens):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        shared = [a.model, "--port", str(self.port), "--threads", str(a.threads)]
        self.command = [a.winnow, "serve", *shared, "--device", "cpu"] if side == "ours" else [
            a.llama_server, "-m", *shared, "-np", str(n_clients), "-c", str(n_clients * n_tokens), "-ngl", "0", "-fa", "on",
            *a.server_args.split()]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        self.log = tempfile.TemporaryFile(mode="w+")
        self.started = time.monotonic()
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=subprocess.STDOUT, cwd=ELSEWHERE)
        return self

    def first_token(self, patience=300):
        """Seconds from the start to the first token; asks every few milliseconds."""
        body = json.dumps({"model": "m", "prompt": "Once", "max_tokens": 1, "temperature": 0}).encode()
        request = urllib.request.Request(self.url + "/v1/completions", body, {"Content-Type": "application/json"})
        while time.monotonic() - self.started < patience and self.process.poll() is None:
            try:
                with urllib.request.urlopen(request, timeout=patience) as r:
                    json.load(r)["choices"]
                    return time.monotonic() - self.started
            except (urllib.error.URLError, OSError):
                time.sleep(0.005)
        self.log.seek(0)
        raise SystemExit(f"compare_llama.py: {' '.join(self.command)} does not answer:\n{self.log.read()[-2000:]}")

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def clients(a, table, side):
    with Serving(a, side, a.clients, a.prompt_tokens + a.max_tokens + 64) as server, \
            tempfile.NamedTemporaryFile(suffix=".json") as f:
        server.first_token()
        run([sys.executable, os.path.join(HERE, "load.py"), "--url", server.url, "--clients", str(a.clients),
             "--prompt-tokens", str(a.prompt_tokens), "--max-tokens", str(a.max_tokens), "--json", f.name,
             *(["--text", a.text] if a.text else [])])
        summary = json.load(f)["summary"]
    name = f"{a.clients} clients, {a.prompt_tokens} in, {a.max_tokens} out"
    table.add(f"{name}: tokens/s", side, summary["completion_tokens_per_second"])
    table.add(f"{name}: first token, ms", side, 1e3 * summary["ttft"]["median"], more_is_better=False)
    table.add(f"{name}: inter-token, ms", side, 1e3 * summary["mean_itl"]["median"], more_is_better=False)
    table.add(f"{name}: inter-token p99, ms", side, 1e3 * summary["itl"]["p99"], more_is_better=False)


def start(a, table, side):
    with Serving(a, side, 1, 1024) as server:
        table.add("start to first token, ms", side, 1e3 * server.first_token(), more_is_better=False)


NEEDS = {"decode": "llama_bench", "policies": "llama_bench", "prefill": "llama_bench", "sink": "llama_bench",
         "batch": "llama_batched_bench", "clients": "llama_server", "start": "llama_server"}
MEASURES = {"decode": decode, "policies": policies, "prefill": prefill, "batch": batch, "clients": clients, "sink": sink,
            "start": start}


def is_there(a, row):
    path = getattr(a, NEEDS[row])
    if path and os.access(path, os.X_OK):
        return True
    flag = "--" + NEEDS[row].replace("_", "-")
    print(f"SKIPPED {row}: {path + ' cannot be run' if path else flag + ' was not given'}", flush=True)
    return False


def main():
    a = parse()
    if not os.access(a.winnow, os.X_OK):
        raise SystemExit(f"compare_llama.py: {a.winnow} cannot be run; build it with make, or name another with --winnow")
    rows, table = [r for r in a.rows if is_there(a, r)], Table()
    for r in range(a.repeats):
        for row in rows:
            for side in ("ours", "theirs") if r % 2 == 0 else ("theirs", "ours"):
                began = time.monotonic()
                MEASURES[row](a, table, side)
                print(f"[round {r + 1} of {a.repeats}] {row}, {side}: {time.monotonic() - began:.1f} s", file=sys.stderr,
                      flush=True)
    print(f"{os.path.basename(a.model)}, {a.threads} threads, {a.repeats} runs of each side in turn, medians")
    table.show()
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump({"model": a.model, "threads": a.threads, "winnow": a.winnow, "read_bytes_per_second": table.read,
                       "operations_per_second": table.multiply, "rows": table.rows}, f, indent=1)
    return 0 if rows == a.rows else 1


if __name__ == "__main__":
    sys.exit(main())
