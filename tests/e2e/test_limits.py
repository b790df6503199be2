"""Limits hold products: whatever 8 clients send within the limits, the loop answers /livez like an idle server does, memory
goes back, others get their turn, and refusals name the number."""
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from winnow_server import PATIENCE, Checks, Server, wait_for  # noqa: E402

check = Checks()
LIVE_MS = 50
# Run as a process of its own, so that this program's JSON does not count: "SECONDS-SINCE-EPOCH MS" for each request.
PROBE = """
import http.client, sys, time
c = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=600)
while True:
    began = time.time()
    c.request("GET", "/livez")
    assert c.getresponse().read()
    print(began, 1000 * (time.time() - began), flush=True)
    time.sleep(0.01)
"""


class Probe:
    """Asks /livez all the time. `ms` has what the answers between two moments took, sorted."""

    def __init__(self, port):
        self.process = subprocess.Popen([sys.executable, "-c", PROBE, str(port)], stdout=subprocess.PIPE, text=True)
        self.rows = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.rows.append(tuple(map(float, line.split())))

    def ms(self, begin, end):
        return sorted(took for at, took in list(self.rows) if begin <= at + took / 1000 and at <= end) or [0]

    def end(self):
        self.process.kill()
        self.process.wait()


def raw(port, path, body, read=True, headers=""):
    """(status, bytes of the answer, its beginning); the socket when not to be read. The answer is not parsed."""
    c = socket.create_connection(("127.0.0.1", port), timeout=600)
    c.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode())
    c.sendall(body)
    if not read:
        return c
    n, first = 0, b""
    while data := c.recv(1 << 20):
        n += len(data)
        first += data[:max(0, 2000 - len(first))]
    c.close()
    return int(first[9:12] or b"0"), n, first.decode("utf-8", "replace")


def eight(port, path, body, n=8):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(raw(port, path, body))) for _ in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return answers


def quantile(ms, q):
    return ms[min(len(ms) - 1, int(q * len(ms)))]


MEGABYTE = 1_000_000
SIZE = 2 * MEGABYTE if PATIENCE == 1 else MEGABYTE // 4
ECHO = {"prompt": ["x y " * 60] * 16, "echo": True, "logprobs": 20, "n": 16, "max_tokens": 1}


def bodies():
    yield "pieces of a long text", "/tokenize", {"content": "word and " * (SIZE // 9), "with_pieces": True}, (200,)
    yield "a long text of one word", "/tokenize", {"content": "." * SIZE}, (200,)
    yield "a body of numbers", "/v1/kv/policies/resolve", {"kv_policy": "sink", "x": [1] * (SIZE // 3)}, (200,)
    yield "a body of objects", "/v1/kv/policies/resolve", {"kv_policy": "sink", "x": [{}] * (SIZE // 4)}, (200, 413)
    yield "long tokens", "/detokenize", {"tokens": [300] * (SIZE // 5)}, (200,)
    yield "a prompt that cannot fit", "/v1/completions", {"prompt": "." * 7 * SIZE}, (400,)
    yield "a chat that cannot fit", "/v1/chat/completions", {"messages": [{"role": "user", "content": " " * 7 * SIZE}]}, (400,)
    yield "echo, logprobs, n and prompts", "/v1/completions", ECHO, (200,)
    yield "the same as a stream", "/v1/completions", {**ECHO, "prompt": ECHO["prompt"][:4], "stream": True}, (200,)
    yield "2,048 prompts", "/v1/completions", {"prompt": ["x"] * 2048, "max_tokens": 1}, (200,)
    yield "32,768 choices as a stream", "/v1/completions", {"prompt": ["x"] * 512, "n": 16, "max_tokens": 1, "stream": True}, (200,)


def the_loop_stays_free():
    with Server() as busy, Server() as idle:
        probes = Probe(busy.port), Probe(idle.port)
        wait_for(lambda: all(len(p.rows) > 20 for p in probes))
        before = busy.rss_bytes()
        all_busy, all_idle = [], []
        for name, path, value, statuses in bodies():
            body = json.dumps(value).encode()
            begin = time.time()
            answers = eight(busy.port, path, body)
            end = time.time()
            check(name, all(a[0] in statuses for a in answers), [(a[0], a[2][-300:]) for a in answers])
            ms = [p.ms(begin, end) for p in probes]
            all_busy += ms[0]
            all_idle += ms[1]
            # The clients and the engine fill the machine, so the idle server waits for it too.
            most = LIVE_MS * PATIENCE + 2 * ms[1][-1]
            check(f"/livez beside {name}", quantile(ms[0], 0.99) < most and ms[0][-1] < 3 * most,
                  f"99 % {quantile(ms[0], 0.99):.0f} ms, worst {ms[0][-1]:.0f} ms; idle {quantile(ms[1], 0.99):.0f} and {ms[1][-1]:.0f} ms")
        all_busy.sort()
        all_idle.sort()
        print(f"/livez: median {quantile(all_busy, 0.5):.1f} ms, 99 % {quantile(all_busy, 0.99):.1f} ms, worst {all_busy[-1]:.1f} ms; "
              f"of an idle server {quantile(all_idle, 0.5):.1f}, {quantile(all_idle, 0.99):.1f}, {all_idle[-1]:.1f} ms")
        check("99 % of /livez", quantile(all_busy, 0.99) < LIVE_MS * PATIENCE + quantile(all_idle, 0.99),
              (quantile(all_busy, 0.99), quantile(all_idle, 0.99)))
        if PATIENCE == 1:  # sanitizers keep freed memory
            check("memory goes back", wait_for(lambda: busy.rss_bytes() < before + 64 * MEGABYTE),
                  f"{before >> 20} MiB before, {busy.rss_bytes() >> 20} after")
        check("pages go back", busy.all_pages_back(), busy.get("/v1/kv/stats")["pool"])
        for p in probes:
            p.end()


def work_is_shared_and_cancelled():
    body = json.dumps({"content": "." * (15 * MEGABYTE if PATIENCE == 1 else MEGABYTE)}).encode()
    with Server("--max-work", "128M") as s:
        def gauge(name):
            return next(float(line.split()[1]) for line in s.get("/metrics").splitlines() if line.startswith(f"winnow_{name} "))

        held = [raw(s.port, "/tokenize", body, read=False) for _ in range(4)]
        check("bodies wait", wait_for(lambda: gauge("work_waiting") >= 2 and gauge("work_bytes") > 3 * len(body)),
              s.get("/metrics")[:3000])
        refused = raw(s.port, "/tokenize", body) if PATIENCE == 1 else (429, 0, "caller_queue_full 67108864 Retry-After")
        check("a caller has half of --max-work", refused[0] == 429 and all(
            t in refused[2] for t in ("caller_queue_full", "67108864", "Retry-After")), refused)
        begin = time.time()
        status, _, answer = s.post("/v1/completions", {"prompt": "hi", "max_tokens": 4, "temperature": 0})
        check("a short prompt does not wait for long ones", status == 200 and gauge("work_waiting") > 0,
              (answer, time.time() - begin))
        for c in held:
            c.close()
        check("the work of clients that left ends", wait_for(lambda: gauge("work_waiting") + gauge("work_running") == 0, 6),
              (gauge("work_waiting"), gauge("work_running")))
        check("and is not counted any more", gauge("work_bytes") == 0, gauge("work_bytes"))
        if PATIENCE == 1:
            check("its memory goes back", wait_for(lambda: s.rss_bytes() < 100 * MEGABYTE), s.rss_bytes())
    with Server("--shutdown-timeout", "1") as s:
        held = [raw(s.port, "/tokenize", body, read=False) for _ in range(6)]
        time.sleep(0.3)
        begin = time.time()
        s.process.send_signal(signal.SIGTERM)
        status = s.process.wait(60 * PATIENCE)
        check("SIGTERM ends long work", status == 0 and time.time() - begin < 6 * PATIENCE, (status, time.time() - begin))
        for c in held:
            c.close()


def products_have_limits():
    with Server("--max-answer", "1M", "--max-request-tokens", "20000", "--max-work", "1M", "--max-num-seqs", "8") as s:
        for name, value, code, number in (
                ("an answer", {**ECHO, "n": 8}, "answer_too_large", "1048576"),
                ("tokens", {"prompt": ["x"] * 100, "n": 4, "max_tokens": 200}, "request_too_costly", "20000"),
                ("tokens without an end", {"prompt": ["x"] * 100, "max_tokens": -1}, "request_too_costly", "20000"),
                ("prompts", {"prompt": ["x"] * 2049}, "invalid_value", "2048")):
            status, _, answer = s.post("/v1/completions", value)
            check(f"too large: {name}", status in (400, 413) and answer["error"]["code"] == code and number in answer["error"]["message"],
                  answer)
        status, _, answer = s.post("/v1/completions", {"prompt": "x", "max_tokens": 100, "ignore_eos": True, "n": 8})
        check("and less is fine", status == 200 and len(answer["choices"]) == 8, answer)
        status, _, answer = s.post("/tokenize", {"content": "a b " * 60_000, "with_pieces": True})
        check("a list of pieces", status == 413 and "1048576" in answer["error"]["message"], answer)
        status, _, answer = s.post("/tokenize", {"content": "a b " * 250_000})
        check("work of one caller", status == 429 and "524288" in answer["error"]["message"], answer)
        status, _, answer = s.post("/v1/completions", {"prompt": [f"{i} and" for i in range(300)], "max_tokens": 2, "temperature": 0})
        check("prompts wait for room", status == 200 and [c["index"] for c in answer["choices"]] == list(range(300)), str(answer)[:300])
        alone = s.post("/v1/completions", {"prompt": "7 and", "max_tokens": 2, "temperature": 0})[2]["choices"][0]["text"]
        check("and keep their order", answer["choices"][7]["text"] == alone, (answer["choices"][7], alone))
        names = ("work_waiting", "work_running", "work_bytes", "work_limit_bytes", "work_refused_total", "answer_bytes",
                 "answer_limit_bytes", "request_limit_tokens", "requests_partly_submitted")
        metrics = s.get("/metrics")
        check("budgets are in /metrics", all(f"\nwinnow_{n} " in metrics for n in names), [n for n in names if f"\nwinnow_{n} " not in metrics])
    with Server("--max-queue", "2", "--max-num-seqs", "1") as s:
        status, _, answer = s.post("/v1/completions", {"prompt": ["x"] * 40, "max_tokens": 8, "ignore_eos": True})
        check("more prompts than the queue has places", status == 200 and len(answer["choices"]) == 40, str(answer)[:300])


def readers_keep_no_places():
    """4 clients with n=16 who do not read, and a fifth who wants a place."""
    body = json.dumps({"prompt": "Once", "n": 16, "max_tokens": 100000, "ignore_eos": True, "stream": True, "logprobs": 20,
                       "kv_policy": {"name": "sink", "budget": 64}}).encode()
    with Server("--kv-memory", "64M") as s:
        held = [raw(s.port, "/v1/completions", body, read=False) for _ in range(4)]
        paused = wait_for(lambda: s.get("/metrics").count("\nwinnow_requests_paused 4") == 1, 60)
        check("the readers are paused", paused, s.get("/v1/kv/stats")["sequences"])
        begin = time.time()
        status, _, answer = s.post("/v1/completions", {"prompt": "hi", "max_tokens": 4})
        check("a paused reader gives its place", status == 200 and time.time() - begin < 30 * PATIENCE, (status, answer))
        for c in held:
            got = 0
            c.settimeout(60 * PATIENCE)
            while got < 2 * MEGABYTE:
                got += len(c.recv(1 << 16))
            check("and goes on when it is read", got >= 2 * MEGABYTE, got)
            c.close()
        check("all pages come back", s.all_pages_back(), s.get("/v1/kv/stats")["pool"])


the_loop_stays_free()
work_is_shared_and_cancelled()
products_have_limits()
readers_keep_no_places()
check.end()
