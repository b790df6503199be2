"""64 clients at once, streaming, of random lengths, half of them hanging up half-way: no error but the intended, no
page left, no memory kept. The server audits its cache after every step."""
import json
import os
import random
import socket
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from winnow_server import PATIENCE, Checks, Server, wait_for  # noqa: E402

check = Checks()
CLIENTS = 64


def read_stream(server, body, hang_up_after):
    """Streams one completion over a raw socket. Returns (events, finished); hangs up after so many events."""
    text = json.dumps(body).encode()
    s = socket.create_connection(("127.0.0.1", server.port), timeout=120 * PATIENCE)
    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
              b"Content-Length: %d\r\n\r\n" % len(text) + text)
    data, events = b"", 0
    while True:
        piece = s.recv(65536)
        if not piece:
            break
        data += piece
        events = data.count(b"\ndata: ") + data.startswith(b"data: ")
        if hang_up_after and events >= hang_up_after:
            s.close()
            return events, None, data
        if data.endswith(b"\r\n0\r\n\r\n"):
            break
    s.close()
    return events, b"data: [DONE]" in data and data.endswith(b"0\r\n\r\n"), data


def crowd(server, seed):
    """One round. Returns the failures as text."""
    random.seed(seed)
    failures, threads = [], []

    def one(index, length, budget, leave):
        body = {"model": "m", "prompt": "Once upon a time " * (1 + index % 20), "max_tokens": length, "stream": True,
                "ignore_eos": True, "seed": index, "temperature": 0.8}
        if budget:
            body["kv_policy"] = {"name": "sink", "budget": budget}
        try:
            events, finished, data = read_stream(server, body, leave)
        except OSError as failure:
            failures.append(f"client {index}: {failure!r}")
            return
        if not leave and not finished:
            failures.append(f"client {index} got a broken stream of {events} events: {data[-400:]!r}")
        if b'"error"' in data or not data.startswith(b"HTTP/1.1 200"):
            failures.append(f"client {index}: {data[:600]!r}")

    for i in range(CLIENTS):
        length = random.randint(20, 200)
        budget = random.choice([0, 0, 32, 64, 128])
        leave = max(1, length // 2 - random.randint(0, 9)) if i % 2 else 0
        threads.append(threading.Thread(target=one, args=(i, length, budget, leave)))
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return failures


def until_empty(server):
    """The last statistics, of an empty server unless it does not become one."""
    stats = {}

    def is_empty():
        stats.update(server.get("/v1/kv/stats"))
        return stats["pool"]["pages_used"] == 0 and not stats["sequences"]

    wait_for(is_empty)
    return stats


def metric(server, name):
    return sum(float(line.split()[-1]) for line in server.get("/metrics").splitlines()
               if line.startswith(name) and not line.startswith("#"))


with Server("--audit", "--max-connections", "256") as server:
    for warm_up in range(2):
        failures = crowd(server, warm_up)
        check("warm-up round", not failures, failures[:3])
    until_empty(server)
    before = server.rss_bytes()
    for turn in range(3):
        failures = crowd(server, 10 + turn)
        check(f"round {turn}: every stream that was not cut is whole", not failures, failures[:3])
        stats = until_empty(server)
        pool = stats["pool"]
        check(f"round {turn}: no page is used", pool["pages_used"] == 0, pool)
        check(f"round {turn}: pages add up",
              pool["pages_used"] + pool["pages_cached"] + pool["pages_free"] == pool["pages_total"], pool)
    grown = server.rss_bytes() - before
    # 64 threads' worth of allocator arenas and socket buffers may move by pages; a leak of one 256 KiB buffer a
    # client would be 48 MiB over three rounds. Sanitizers keep freed memory on purpose.
    if PATIENCE == 1:
        check("RSS is back where it was", grown < 8 << 20, f"{grown / 1e6:.1f} MB more")
    print(f"RSS {before / 1e6:.1f} MB before, {grown / 1e6:+.1f} MB after three rounds of {CLIENTS} clients")
    check("disconnects were counted", metric(server, "winnow_client_disconnects_total") > 0)
    check("nothing is running", metric(server, "winnow_requests_running") == 0)
    check("ends well", server.stop() == 0, server.log()[-3000:])
    check("the log has no error", " error " not in server.log() and "ThreadSanitizer" not in server.log(),
          server.log()[-3000:])
check.end()
