#!/usr/bin/env python3
"""Load for any server that speaks the OpenAI API (winnow, llama-server, vLLM), with its latencies and throughput.

    load.py --url http://127.0.0.1:8080 --clients 8 --prompt-tokens 1000 --max-tokens 128
    load.py --url ... --rate 2 --duration 60 --slo-ttft 2 --slo-itl 0.1       Poisson arrivals, goodput

--clients: N clients start together, each with one request after the other until --requests are sent (default: one
each). --rate: requests begin at random moments, R a second on average, whether or not earlier ones are answered.
Every prompt is another part of the text, so that no server has one in its prefix cache.

Reported: time to first token (from opening the connection to the first text), inter-token latency (gaps between the
pieces of one answer), end to end; tokens and requests a second from the first start to the last end; goodput: answers a
second whose first token and mean inter-token latency are within the limits. While load runs, received bytes are only stored
with their time; they are read afterwards (tests/bench/load_cost.py measures what the generator costs). Standard library only."""
import argparse
import asyncio
import json
import math
import os
import random
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

clock = time.monotonic


# ---- one request


class Exchange(asyncio.Protocol):
    """One request on a connection of its own; pieces of the answer with the moments they came."""

    def __init__(self, request, done):
        self.request, self.done, self.pieces = request, done, []

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data):
        self.pieces.append((clock(), data))

    def connection_lost(self, failure):
        if not self.done.done():
            self.done.set_result(failure)


class Answer:
    """The result of a request."""

    def __init__(self, prompt_tokens):
        self.status, self.started, self.ended, self.late = "none", 0.0, 0.0, 0.0
        self.prompt_tokens, self.completion_tokens, self.counted_by = prompt_tokens, 0, "pieces"
        self.texts = []  # moments of pieces with text
        self.message = ""

    def ok(self):
        return self.status == "200"

    def ttft(self):
        return self.texts[0] - self.started

    def gaps(self):
        return [b - a for a, b in zip(self.texts, self.texts[1:])]

    def mean_itl(self):
        return (self.texts[-1] - self.texts[0]) / (self.completion_tokens - 1) if self.completion_tokens > 1 else 0.0

    def e2e(self):
        return self.ended - self.started


def unchunk(pieces, chunked):
    """(moment, body bytes) of (moment, bytes) behind the header, chunked or not."""
    if not chunked:
        yield from pieces
        return
    rest, want = b"", 0  # want: bytes of the chunk at hand, its CRLF included
    for moment, data in pieces:
        rest += data
        while True:
            if want == 0:
                line, found, behind = rest.partition(b"\r\n")
                if not found:
                    break
                size = int(line.split(b";")[0], 16)
                if size == 0:
                    return
                rest, want = behind, size + 2
            if len(rest) < want:
                break  # only whole chunks count: an event is not read before its end
            yield moment, rest[:want - 2]
            rest, want = rest[want:], 0


def events(body):
    """(moment, data) of the server-sent events."""
    rest = b""
    for moment, data in body:
        rest += data
        *lines, rest = rest.split(b"\n")
        for line in lines:
            line = line.rstrip(b"\r")
            if line.startswith(b"data:"):
                yield moment, line[5:].strip()


def text_of(choice):
    delta = choice.get("delta") or {}
    return choice.get("text") or delta.get("content") or delta.get("reasoning_content") or ""


def read_stream(answer, body):
    finished = False
    for moment, data in events(body):
        answer.ended = moment
        if data == b"[DONE]":
            finished = True
            continue
        event = json.loads(data)
        if "error" in event:
            answer.status, answer.message = "error in stream", json.dumps(event["error"])
            return
        if any(text_of(choice) for choice in event.get("choices") or []):
            answer.texts.append(moment)
        usage, timings = event.get("usage"), event.get("timings")
        if usage:
            answer.prompt_tokens, answer.completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]
            answer.counted_by = "usage"
        elif timings and answer.counted_by != "usage" and timings.get("predicted_n"):
            answer.completion_tokens, answer.counted_by = timings["predicted_n"], "timings"
    if answer.counted_by == "pieces":
        answer.completion_tokens = len(answer.texts)
    if not finished:
        answer.status = "broken off"
    elif not answer.texts:
        answer.status = "no text"


def read_answer(answer, pieces):
    """Fills the answer from what was received."""
    head, at = b"", 0
    while b"\r\n\r\n" not in head:
        if at == len(pieces):
            answer.status = "broken off"
            return
        head += pieces[at][1]
        at += 1
    head, _, behind = head.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    answer.status = lines[0].split(" ")[1]
    body = unchunk([(pieces[at - 1][0], behind), *pieces[at:]],
                   any(line.startswith("transfer-encoding:") and "chunked" in line for line in lines))
    if answer.ok():
        read_stream(answer, body)
    else:
        answer.ended = pieces[-1][0]
        answer.message = b"".join(data for _, data in body).decode("utf-8", "replace")[:300]


class Server:
    """The server's address, and how requests to it are written."""

    def __init__(self, url, api_key, path):
        parts = urllib.parse.urlsplit(url)
        self.host, self.tls = parts.hostname, parts.scheme == "https"
        self.port = parts.port or (443 if self.tls else 80)
        self.base, self.path, self.api_key = url.rstrip("/"), parts.path.rstrip("/") + path, api_key

    def headers(self):
        return {"Content-Type": "application/json", **({"Authorization": "Bearer " + self.api_key} if self.api_key else {})}

    def ask(self, path, value=None):
        """A small request before the load; None where the server does not know it."""
        body = None if value is None else json.dumps(value).encode()
        request = urllib.request.Request(self.base + path, body, self.headers())
        try:
            with urllib.request.urlopen(request, timeout=60) as r:
                return json.load(r)
        except (urllib.error.HTTPError, ValueError):
            return None

    def request(self, value):
        body = json.dumps(value).encode()
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {self.host}:{self.port}", "Connection: close",
                 f"Content-Length: {len(body)}", *(f"{k}: {v}" for k, v in self.headers().items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    async def exchange(self, request, timeout):
        """(started, pieces, status): status "" when the connection opened and closed without an error."""
        loop = asyncio.get_running_loop()
        done, started = loop.create_future(), clock()
        tls = ssl.create_default_context() if self.tls else None
        try:
            transport, exchange = await loop.create_connection(lambda: Exchange(request, done), self.host, self.port, ssl=tls)
        except OSError:
            return started, [], "no connection"
        try:
            failure = await asyncio.wait_for(asyncio.shield(done), timeout)
        except asyncio.TimeoutError:
            transport.abort()
            return started, exchange.pieces, "timeout"
        return started, exchange.pieces, "broken off" if failure else ""


# ---- prompts


SYLLABLES = ["ba", "ke", "ri", "mo", "tu", "len", "sar", "vi", "dor", "na", "pel", "os", "mi", "gra", "th", "und"]


def words_of(path, rng):
    """The text of a file, or an invented one where none is named."""
    if path:
        with open(path, encoding="utf-8") as f:
            words = f.read().split()
        if len(words) < 100:
            raise SystemExit(f"load.py: {path} has only {len(words)} words")
        return words
    return ["".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 4))) for _ in range(20000)]


class Counter:
    """Tokens of a text as the server counts them; words where it does not say."""

    def __init__(self, server, model):
        self.server, self.form = server, None
        for form in ({"content": ""}, {"model": model, "prompt": ""}):
            key = "content" if "content" in form else "prompt"
            answer = server.ask("/tokenize", {**form, key: "one two three"})
            if isinstance(answer, dict) and isinstance(answer.get("tokens"), list):
                self.form, self.key = form, key
                break

    def count(self, text):
        if not self.form:
            return len(text.split())
        return len(self.server.ask("/tokenize", {**self.form, self.key: text})["tokens"])


def make_prompt(words, n_tokens, counter, rng):
    """(text, its tokens): from its own place in the text, cut where eight tries come nearest to n_tokens."""
    start = rng.randrange(len(words))
    some = [words[(start + i) % len(words)] for i in range(n_tokens + 1)]
    if not counter.form:
        return " ".join(some[:n_tokens]), n_tokens
    text, best = " ".join(some), None
    low, high, n = 0, len(text), len(text)  # a word has one token at least: the whole text has enough
    for _ in range(8):
        tokens = counter.count(text[:n])
        if best is None or abs(tokens - n_tokens) < abs(best[1] - n_tokens):
            best = n, tokens
        if tokens == n_tokens:
            break
        low, high = (n, high) if tokens < n_tokens else (low, n)
        n = min(max(round(n * n_tokens / max(tokens, 1)), low + 1), high - 1)
        if n <= low:
            break
    return text[:best[0]], best[1]


# ---- load


class Run:
    """Requests that are ready to be sent, and their answers as they arrive."""

    def __init__(self, server, requests, timeout):
        self.server, self.requests, self.timeout = server, requests, timeout
        self.received, self.lags, self.at = [], [], 0

    async def send(self, due=None):
        request, prompt_tokens = self.requests[self.at]
        self.at += 1
        answer = Answer(prompt_tokens)
        started, pieces, status = await self.server.exchange(request, self.timeout)
        answer.started, answer.ended = started, clock()
        answer.late = started - due if due is not None else 0.0
        self.received.append((answer, pieces, status))

    async def client(self):
        while self.at < len(self.requests):
            await self.send()

    async def burst(self, n_clients):
        await asyncio.gather(*(self.client() for _ in range(n_clients)))

    async def arrivals(self, moments):
        start, tasks = clock(), []
        for moment in moments:
            await asyncio.sleep(max(0.0, start + moment - clock()))
            tasks.append(asyncio.create_task(self.send(start + moment)))
        await asyncio.gather(*tasks)

    async def watch(self):
        """How late the loop runs what is due: the generator's own delay."""
        while True:
            due = clock() + 0.01
            await asyncio.sleep(0.01)
            self.lags.append(clock() - due)

    async def measured(self, load):
        watcher = asyncio.create_task(self.watch())
        cpu, wall = time.process_time(), clock()
        await load
        self.cpu_share = (time.process_time() - cpu) / max(clock() - wall, 1e-9)
        watcher.cancel()

    def answers(self):
        for answer, pieces, status in self.received:
            if status != "broken off" or not pieces:
                answer.status = status or answer.status
            if pieces and status != "timeout":
                try:
                    read_answer(answer, pieces)
                except (ValueError, KeyError, IndexError, TypeError, AttributeError) as failure:
                    answer.status, answer.message = "not understood", repr(failure)
            elif not status:
                answer.status = "broken off"
        return [answer for answer, _, _ in self.received]


def poisson(rate, duration, rng):
    moments, t = [], rng.expovariate(rate)
    while t < duration:
        moments.append(t)
        t += rng.expovariate(rate)
    return moments


# ---- results


def quantile(values, q):
    """Between the two nearest ranks, linearly."""
    if not values:
        return None
    ordered, place = sorted(values), q * (len(values) - 1)
    low = math.floor(place)
    return ordered[low] + (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]) * (place - low)


def spread(values):
    return {"median": quantile(values, 0.5), "p90": quantile(values, 0.9), "p99": quantile(values, 0.99), "n": len(values)}


def summarise(answers, run, slo_ttft, slo_itl):
    good = [a for a in answers if a.ok()]
    elapsed = max((a.ended for a in answers), default=0) - min((a.started for a in answers), default=0)
    errors = {}
    for a in answers:
        if not a.ok():
            errors[a.status] = errors.get(a.status, 0) + 1
    kept = [a for a in good if (slo_ttft is None or a.ttft() <= slo_ttft) and (slo_itl is None or a.mean_itl() <= slo_itl)]
    prompt, completion = sum(a.prompt_tokens for a in good), sum(a.completion_tokens for a in good)
    rate = lambda n: n / elapsed if elapsed > 0 else 0.0
    return {
        "requests": len(answers), "answered": len(good), "errors": errors, "seconds": elapsed,
        "prompt_tokens": prompt, "completion_tokens": completion,
        "counted_by": sorted({a.counted_by for a in good}),
        "requests_per_second": rate(len(good)), "completion_tokens_per_second": rate(completion),
        "total_tokens_per_second": rate(prompt + completion),
        "ttft": spread([a.ttft() for a in good]), "itl": spread([gap for a in good for gap in a.gaps()]),
        "mean_itl": spread([a.mean_itl() for a in good if a.completion_tokens > 1]),
        "e2e": spread([a.e2e() for a in good]),
        "slo": {"ttft": slo_ttft, "itl": slo_itl}, "within_slo": len(kept), "goodput": rate(len(kept)),
        "generator": {"cpu_share": run.cpu_share, "lag_p99": quantile(run.lags, 0.99), "lag_max": max(run.lags, default=0.0),
                      "late_max": max((a.late for a in answers), default=0.0)}}


def show(s, out=sys.stdout):
    row = lambda name, v: print(f"{name:24} {shown(v['median'])} {shown(v['p90'])} {shown(v['p99'])}", file=out)
    shown = lambda x: f"{'-':>10}" if x is None else f"{1e3 * x:10.1f}"
    print(f"{s['answered']} of {s['requests']} requests answered in {s['seconds']:.2f} s: "
          f"{s['prompt_tokens']} prompt tokens, {s['completion_tokens']} generated (counted by {', '.join(s['counted_by']) or '-'})",
          file=out)
    for status, n in sorted(s["errors"].items()):
        print(f"  {n} failed: {status}", file=out)
    print(f"{'milliseconds':24} {'median':>10} {'p90':>10} {'p99':>10}", file=out)
    row("time to first token", s["ttft"])
    row("inter-token, gaps", s["itl"])
    row("inter-token, means", s["mean_itl"])
    row("end to end", s["e2e"])
    print(f"{s['completion_tokens_per_second']:.2f} generated tokens/s, {s['total_tokens_per_second']:.2f} with prompts, "
          f"{s['requests_per_second']:.3f} requests/s", file=out)
    if s["slo"]["ttft"] is not None or s["slo"]["itl"] is not None:
        print(f"goodput {s['goodput']:.3f} requests/s: {s['within_slo']} of {s['requests']} within "
              + " and ".join(f"{name} {limit:g} s" for name, limit in s["slo"].items() if limit is not None), file=out)
    g = s["generator"]
    print(f"generator: {100 * g['cpu_share']:.1f} % of a core; its loop was late by {1e3 * (g['lag_p99'] or 0):.2f} ms (p99), "
          f"{1e3 * g['lag_max']:.2f} ms at most", file=out)


# ---- the command line


def parse(argv):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--url", required=True)
    p.add_argument("--model", help="default: the first of /v1/models")
    p.add_argument("--api-key", default=os.environ.get("OPENAI_API_KEY"))
    p.add_argument("--chat", action="store_true", help="/v1/chat/completions instead of /v1/completions")
    p.add_argument("--clients", type=int)
    p.add_argument("--requests", type=int, help="with --clients; default: one each")
    p.add_argument("--rate", type=float, help="requests a second, with --duration")
    p.add_argument("--duration", type=float, default=60, help="seconds in which requests begin")
    p.add_argument("--prompt-tokens", type=int, default=256)
    p.add_argument("--text", help="a file that prompts are cut from; default: made-up words")
    p.add_argument("--max-tokens", type=int, default=128)
    p.add_argument("--body", default="{}", help='more fields, e.g. \'{"kv_policy":"sink"}\'; null takes one away')
    p.add_argument("--slo-ttft", type=float, help="seconds")
    p.add_argument("--slo-itl", type=float, help="seconds, of an answer's mean")
    p.add_argument("--timeout", type=float, default=600, help="seconds for one answer")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--json", help="a file for the summary and every request")
    a = p.parse_args(argv)
    if (a.clients is None) == (a.rate is None):
        p.error("one of --clients and --rate is needed")
    if a.rate is not None and (a.rate <= 0 or a.duration <= 0):
        p.error("--rate and --duration are more than 0")
    if a.clients is not None and a.clients < 1 or a.requests is not None and a.requests < 1:
        p.error("--clients and --requests are at least 1")
    if a.prompt_tokens < 1 or a.max_tokens < 1:
        p.error("--prompt-tokens and --max-tokens are at least 1")
    try:
        a.body = json.loads(a.body)
    except ValueError:
        a.body = None
    if not isinstance(a.body, dict):
        p.error("--body is not a JSON object")
    return a


def body_of(a, model, prompt):
    value = {"model": model, "max_tokens": a.max_tokens, "stream": True, "stream_options": {"include_usage": True},
             "temperature": 0, "ignore_eos": True, **a.body}
    value.update({"messages": [{"role": "user", "content": prompt}]} if a.chat else {"prompt": prompt})
    return {k: v for k, v in value.items() if v is not None}


def main(argv):
    a = parse(argv)
    rng = random.Random(a.seed)
    server = Server(a.url, a.api_key, "/v1/chat/completions" if a.chat else "/v1/completions")
    try:
        model = a.model or ((server.ask("/v1/models") or {}).get("data") or [{"id": "default"}])[0]["id"]
    except urllib.error.URLError as failure:
        raise SystemExit(f"load.py: {a.url} cannot be reached: {failure.reason}")
    words, counter = words_of(a.text, rng), Counter(server, model)
    if not counter.form:
        print("note: the server has no /tokenize; prompts are counted in words", file=sys.stderr)
    moments = poisson(a.rate, a.duration, rng) if a.rate is not None else None
    n = len(moments) if moments is not None else a.requests or a.clients
    requests = []
    for _ in range(n):
        prompt, tokens = make_prompt(words, a.prompt_tokens, counter, rng)
        requests.append((server.request(body_of(a, model, prompt)), tokens))
    run = Run(server, requests, a.timeout)
    asyncio.run(run.measured(run.arrivals(moments) if moments is not None else run.burst(a.clients)))
    answers = run.answers()
    summary = summarise(answers, run, a.slo_ttft, a.slo_itl)
    show(summary)
    for message in sorted({x.message for x in answers if x.message})[:5]:
        print("  said:", message)
    if a.json:
        rows = [{"status": x.status, "started": x.started, "prompt_tokens": x.prompt_tokens,
                 "completion_tokens": x.completion_tokens, "pieces": len(x.texts),
                 **({"ttft": x.ttft(), "mean_itl": x.mean_itl(), "e2e": x.e2e()} if x.ok() else {"message": x.message})}
                for x in answers]
        settings = {k: v for k, v in vars(a).items() if k != "api_key"}
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump({"settings": settings, "summary": summary, "requests": rows}, f, indent=1)
    return 0 if summary["answered"] == summary["requests"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
