#!/usr/bin/env python3
"""The cost of load.py itself: a trivial server streams 2,000 pieces a second to 8 clients, each piece with the time it
was sent. Reports how much of a core the generator needs, and how late it notes a piece.

    load_cost.py [--clients 8] [--rate 250] [--seconds 10]"""
import argparse
import asyncio
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from load import Run, Server, clock, events, quantile, unchunk  # noqa: E402


async def trivial_server(rate, n_chunks):
    """Streams n_chunks to every client, `rate` a second to each, with the time of sending as text."""
    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        await reader.readexactly(length)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
        start = clock()
        for i in range(n_chunks + 1):
            await asyncio.sleep(max(0.0, start + i / rate - clock()))
            event = b"data: [DONE]\n\n" if i == n_chunks else (
                b'data: {"choices":[{"index":0,"text":"%.9f","finish_reason":null}],"usage":null}\n\n' % clock())
            writer.write(b"%x\r\n%s\r\n" % (len(event), event) + (b"0\r\n\r\n" if i == n_chunks else b""))
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await listener.serve_forever()


def measure(n_clients, rate, seconds):
    n_chunks = int(rate * seconds)
    child = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--serve", str(n_chunks), "--rate", str(rate)],
                             stdout=subprocess.PIPE, text=True)
    try:
        server = Server(f"http://127.0.0.1:{child.stdout.readline().strip()}", None, "/v1/completions")
        run = Run(server, [(server.request({"prompt": "x"}), 1)] * n_clients, 60)
        asyncio.run(run.measured(run.burst(n_clients)))
    finally:
        child.terminate()
        child.wait()
    delays = []
    for _, pieces, _ in run.received:
        head = b"".join(data for _, data in pieces).index(b"\r\n\r\n") + 4
        behind = []
        for moment, data in pieces:
            behind.append((moment, data[head:]))
            head = max(0, head - len(data))
        delays += [moment - float(json.loads(data)["choices"][0]["text"])
                   for moment, data in events(unchunk(behind, True)) if data != b"[DONE]"]
    answers = run.answers()
    assert all(a.ok() and a.completion_tokens == n_chunks for a in answers), [(a.status, a.completion_tokens) for a in answers]
    took = max(a.ended for a in answers) - min(a.started for a in answers)
    print(f"{len(delays)} pieces of {n_clients} streams in {took:.2f} s, {len(delays) / took:.0f} a second: "
          f"{100 * run.cpu_share:.1f} % of a core; a piece is noted {1e3 * quantile(delays, 0.5):.3f} ms after it was sent "
          f"(median), {1e3 * quantile(delays, 0.99):.3f} ms (p99)")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--clients", type=int, default=8)
parser.add_argument("--rate", type=float, default=250, help="pieces a second for each client")
parser.add_argument("--seconds", type=float, default=10)
parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
a = parser.parse_args()
if a.serve:
    asyncio.run(trivial_server(a.rate, a.serve))
else:
    measure(a.clients, a.rate, a.seconds)
