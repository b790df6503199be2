"""docker/proxy/haproxy.cfg with a real HAProxy before three and four servers: who goes where, what is found again there,
how callers with one key are spread, what happens when a server is killed or drains, which names and paths pass, and that
streams and disconnects pass through. SKIPPED where there is no haproxy."""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse

from winnow_server import PATIENCE, ROOT, Checks, Server, http_ask, wait_for

CONFIG = os.path.join(ROOT, "docker", "proxy", "haproxy.cfg")
# More than two pages, so that there is something to find again.
LONG = "Once upon a time there was a little girl named Lily. She had a dog and a red ball. " * 6


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Proxy:
    """haproxy with the shipped file; only the ports differ, and there are more servers."""

    def __init__(self, servers):
        self.port = free_port()
        with open(CONFIG) as f:
            text = f.read()
        for track in ("", " track servers/winnow{i}"):
            lines = "".join(f"    server winnow{i} 127.0.0.1:{s.port}{track.format(i=i)}\n" for i, s in enumerate(servers, 1))
            text, n = re.subn(r"(^    server winnow\d 127.0.0.1:808\d%s\n){2}" % track.format(i=r"\d"), lines, text, flags=re.M)
            assert n == 1, "two backends name two servers each"
        text, n = re.subn(r"bind :8000$", f"bind 127.0.0.1:{self.port}", text, flags=re.M)
        assert n == 1, "the file listens at one port"
        self.file = tempfile.NamedTemporaryFile("w", suffix=".cfg")
        self.file.write(text)
        self.file.flush()
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(["haproxy", "-db", "-f", self.file.name], stdout=self.log, stderr=self.log)
        end = time.time() + 10 * PATIENCE
        while time.time() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("haproxy does not listen:\n" + self.output())

    def output(self):
        self.log.seek(0)
        return self.log.read().decode("utf-8", "replace")

    def ask(self, key=None, headers=None, **body):
        """(status, value) of a completion; HAProxy's own errors are text."""
        headers = {"Content-Type": "application/json", **(headers or {})}
        if key:
            headers["Authorization"] = "Bearer " + key
        body = {"prompt": "Once", "max_tokens": 2, "temperature": 0, **body}
        status, answered, text = http_ask(self.port, "POST", "/v1/completions", json.dumps(body), headers)
        return status, json.loads(text) if "json" in answered.get("Content-Type", "") else text

    def stream(self, key, n_tokens):
        """A response whose first event has been read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60 * PATIENCE)
        body = {"prompt": "Once", "max_tokens": n_tokens, "temperature": 0, "ignore_eos": True, "stream": True,
                "kv_policy": {"name": "sink", "budget": 64}}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Authorization": "Bearer " + key})
        answer = connection.getresponse()
        return connection, answer, answer.readline()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()


def metric(server, name):
    return sum(float(line.rsplit(" ", 1)[1]) for line in server.get("/metrics").splitlines()
               if re.match(rf"winnow_{name}(\{{|\s)", line))


def who_served(servers, act):
    """(result of act, the index of the server that took prompt tokens in meanwhile)."""
    before = [metric(s, "prompt_tokens_total") for s in servers]
    result = act()
    after = [metric(s, "prompt_tokens_total") for s in servers]
    grew = [i for i in range(len(servers)) if after[i] > before[i]]
    return result, grew[0] if len(grew) == 1 else grew


def homes(check, proxy, servers, callers, name):
    """Where each caller goes; three requests each must go to one place."""
    found = {}
    for caller in callers:
        seen = set()
        for _ in range(3):
            (status, value), home = who_served(servers, lambda c=caller: proxy.ask(**c))
            check(f"{name}: status", status == 200, (caller, status, value))
            seen.add(str(home))
        check(f"{name}: {caller} always goes to one server", len(seen) == 1, seen)
        found[json.dumps(caller)] = home
    return found


def check_spread(check, proxy, servers):
    keys = [{"key": f"sk-{i}"} for i in range(18)]
    by_key = homes(check, proxy, servers, keys, "API key")
    check("keys are spread over all servers", set(by_key.values()) == {0, 1, 2}, by_key)
    by_user = homes(check, proxy, servers, [{"user": f"user {i}"} for i in range(12)], "body's user")
    check("users are spread over all servers", set(by_user.values()) == {0, 1, 2}, by_user)
    nobody = homes(check, proxy, servers, [{}, {"max_tokens": 3}], "neither key nor user")
    check("one address goes to one server", len(set(nobody.values())) == 1, nobody)
    both = homes(check, proxy, servers, [{"key": "sk-0", "user": f"user {i}"} for i in range(12)], "key and user")
    check("users who share a key are spread over all servers", set(both.values()) == {0, 1, 2}, both)
    other = homes(check, proxy, servers, [{"key": "sk-1", "user": f"user {i}"} for i in range(12)], "another key's users")
    check("users of another key are others", list(both.values()) != list(other.values()), (both, other))
    return by_key


def check_prefixes(check, proxy, servers, by_key):
    key = "sk-0"
    home = by_key[json.dumps({"key": key})]
    before = [metric(s, "prefix_hit_tokens_total") for s in servers]
    cached = [proxy.ask(key=key, prompt=LONG)[1]["usage"]["prompt_tokens_details"]["cached_tokens"] for _ in range(2)]
    rises = [metric(s, "prefix_hit_tokens_total") - b for s, b in zip(servers, before)]
    check("a prompt is found again by its key", cached[0] == 0 and cached[1] >= 64, cached)
    check("prefix hits rise on that key's server", rises[home] == cached[1], rises)
    check("and on no other", sum(rises) == rises[home], rises)


def request(proxy, method, path, headers=None):
    status, _, text = http_ask(proxy.port, method, path, None, headers)
    return status, text


def check_sessions(check, proxy, servers):
    """A session's POST, GET and DELETE go to one server, whoever asks, and sessions are spread."""
    found = set()
    for i in range(8):
        id = f"s {i}/x" if i == 0 else f"session-{i}"
        path = "/v1/kv/sessions/" + urllib.parse.quote(id, safe="" if i % 2 else "/")
        (status, value), home = who_served(servers, lambda: proxy.ask(session_id=id, key=f"sk-{i}", user=f"u{i}", prompt=LONG))
        check("a session's first turn", status == 200, value)
        (status, value), again = who_served(servers, lambda: proxy.ask(session_id=id, prompt=LONG + " And"))
        check("a session's next turn goes to the same server", status == 200 and again == home, (home, again))
        check("and continues there", value["usage"]["prompt_tokens_details"]["cached_tokens"] > 0, value["usage"])
        long = {"prompt": LONG, "logit_bias": {str(n): 0 for n in range(3, 400)}, "stop": ["x" * 200] * 16}
        (status, value), header = who_served(servers, lambda: proxy.ask(headers={"X-Session-Id": id}, **long))
        check("X-Session-Id goes there too", status == 200 and header == home, (status, home, header))
        status, text = request(proxy, "GET", path if i % 3 else path + "/")
        check("GET of a session", status == 200 and json.loads(text)["id"] == id, (status, text))
        status, text = request(proxy, "DELETE", path.replace("/v1", "") if i % 3 else path)
        check("DELETE of a session", status == 200, (status, text))
        found.add(home)
    check("sessions are spread over all servers", found == {0, 1, 2}, found)


def check_one_key(check):
    """40 programs with one key, four servers: the load is bound, although all have the same home."""
    flags = ("--max-num-seqs", "64")
    with Server(*flags) as a, Server(*flags) as b, Server(*flags) as c, Server(*flags) as d:
        servers = [a, b, c, d]
        with Proxy(servers) as proxy:
            wait_for(lambda: proxy.ask(key="x")[0] == 200)
            before = [metric(s, "prompt_tokens_total") for s in servers]
            results = []
            go = threading.Barrier(40)

            def caller(i):
                go.wait()
                for k in range(3):
                    results.append(proxy.ask(key="shared", prompt=f"{i} {k}", max_tokens=40, ignore_eos=True)[0])
            threads = [threading.Thread(target=caller, args=(i,)) for i in range(40)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            check("all are answered", results == [200] * 120, results)
            grew = [metric(s, "prompt_tokens_total") - n for s, n in zip(servers, before)]
            check("none has more than twice its share", max(grew) <= 2 * sum(grew) / 4, grew)


def check_doors(check, proxy):
    """Names and paths, as they are sent."""
    for host, status in (("llm.example", b"200"), ("llm.example:8000", b"200"), ("localhost", b"200"), ("evil.example", b"403")):
        check(f"the proxy's name {host}", status in raw(proxy, "/version", host), raw(proxy, "/version", host))
    for path in ("/metrics", "/metrics/", "/metrics//", "/%6detrics", "/%6Detrics%2f", "/metrics?x", "/p/metrics", "/metrics?/x",
                 "http://llm.example/metrics", "http://llm.example/%6detrics/"):
        check(f"metrics of one server are not given out as everybody's: {path}", b" 404 " in raw(proxy, path), raw(proxy, path))
    for path in ("/metrics%00x", "/metrics%00", "/%00metrics"):
        check(f"no path with a NUL: {path}", b" 400 " in raw(proxy, path), raw(proxy, path))
    for path in ("/%256detrics", "/Metrics", "//metrics", "/./metrics", "/metrics;x", "/metrics%3Fx"):
        check(f"nothing else is metrics: {path}", b" 404 " in raw(proxy, path), raw(proxy, path))


def raw(proxy, path, host="llm.example"):
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as s:
        s.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return s.recv(4096).split(b"\r\n")[0]


def check_streams(check, proxy, servers, by_key):
    key = "sk-1"
    server = servers[by_key[json.dumps({"key": key})]]
    connection, answer, first = proxy.stream(key, 6000)
    unfinished = metric(server, "requests_running") + metric(server, "requests_paused")
    check("the first event is here while the answer is still computed", first.startswith(b"data: ") and unfinished == 1,
          (first, unfinished))
    check("a stream is not cut or changed", answer.read().endswith(b"data: [DONE]\n\n"))
    check("and has its type", answer.getheader("Content-Type", "").startswith("text/event-stream"), answer.getheaders())
    connection.close()
    left = metric(server, "client_disconnects_total")
    connection, answer, first = proxy.stream(key, 200000)
    answer.close()
    connection.close()
    check("a client that leaves is told to the server",
          wait_for(lambda: metric(server, "client_disconnects_total") == left + 1), metric(server, "client_disconnects_total"))
    check("whose pages are free again", wait_for(lambda: server.pages_used() == 0), server.pages_used())


def check_kill(check, proxy, servers, by_key):
    victim = by_key['{"key": "sk-2"}']
    servers[victim].process.send_signal(signal.SIGKILL)
    servers[victim].process.wait()
    alive = [s for i, s in enumerate(servers) if i != victim]
    index = [i for i in range(len(servers)) if i != victim]
    # At once, when connections fail, and when the health checks have taken the server off the ring.
    for when in ("before", "after"):
        if when == "after":
            check("the health checks notice", wait_for(lambda: f"winnow{victim + 1} is DOWN" in proxy.output()))
        after = {}
        for caller in by_key:
            (status, value), home = who_served(alive, lambda c=caller: proxy.ask(**json.loads(c)))
            check(f"no request fails {when} the health checks notice", status == 200, (caller, status, value))
            after[caller] = index[home] if isinstance(home, int) else home
        moved = [c for c in by_key if after[c] != by_key[c]]
        check(f"{when} they notice, the killed server's callers move, all others stay",
              sorted(moved) == sorted(c for c in by_key if by_key[c] == victim), (moved, by_key))
        check(f"{when} they notice, they move to more than one server", len({str(after[c]) for c in moved}) == 2, after)
    port = servers[victim].port
    with Server("--port", str(port), "--shutdown-timeout", "600") as again:
        back = [again if i == victim else s for i, s in enumerate(servers)]
        caller = moved[0]

        def is_home():
            return who_served(back, lambda: proxy.ask(**json.loads(caller)))[1] == victim
        check("they come back when it does", wait_for(is_home))
        connection, answer, first = proxy.stream(json.loads(caller)["key"], 3000)
        again.process.send_signal(signal.SIGTERM)
        text = first + answer.read()
        check("a stream of a server that drains ends whole", text.endswith(b"data: [DONE]\n\n"), text[-200:])
        check("and the server ends with status 0", again.process.wait(60 * PATIENCE) == 0, again.log()[-500:])
        check("its callers are served by others at once", proxy.ask(**json.loads(caller))[0] == 200)


def main():
    if not shutil.which("haproxy"):
        print("SKIPPED: docker/proxy/haproxy.cfg: there is no haproxy")
        Checks().end()
    check = Checks()
    result = subprocess.run(["haproxy", "-c", "-f", CONFIG], capture_output=True, text=True)
    check("haproxy -c", result.returncode == 0, result.stdout + result.stderr)
    check("haproxy has no warning", "WARNING" not in result.stderr, result.stderr)
    named = ("--allowed-hosts", "llm.example")
    with Server(*named) as a, Server(*named) as b, Server(*named) as c:
        servers = [a, b, c]
        with Proxy(servers) as proxy:
            check_doors(check, proxy)
            by_key = check_spread(check, proxy, servers)
            check_prefixes(check, proxy, servers, by_key)
            check_streams(check, proxy, servers, by_key)
            check_sessions(check, proxy, servers)
            check_kill(check, proxy, servers, by_key)
            if check.failed:
                print(proxy.output()[-3000:])
    check_one_key(check)
    check.end()


if __name__ == "__main__":
    main()
