"""Sockets, signals and doors: descriptors that run out, requests that do not arrive, bodies that fill the memory, a log
that nobody reads, SIGHUP, keys, host names and origins."""
import json
import os
import re
import resource
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

import winnow_server
from winnow_server import BINARY, PATIENCE, ROOT, STORIES, Checks, Server, wait_for


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), 30 * PATIENCE)


def read_to_end(s):
    text = b""
    try:
        while piece := s.recv(65536):
            text += piece
    except ConnectionError:
        pass
    return text


def ask(server, method, path, **headers):
    """(status, headers, body)"""
    request = urllib.request.Request(server.url + path, method=method, headers={k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=30 * PATIENCE) as r:
            return r.status, r.headers, r.read()
    except urllib.error.HTTPError as e:
        return e.code, e.headers, e.read()


def metric(server, name):
    return float(re.search(rf"^winnow_{name} (\S+)$", server.get("/metrics"), re.M).group(1))


class Limited:
    """Servers started inside have these limits of open files."""

    def __init__(self, soft, hard):
        self.script = tempfile.NamedTemporaryFile("w", suffix=".sh", delete=False)
        self.script.write(f'#!/bin/sh\nulimit -Sn {soft}\nulimit -Hn {hard}\nexec "{BINARY}" "$@"\n')
        self.script.close()
        os.chmod(self.script.name, 0o755)

    def __enter__(self):
        winnow_server.BINARY = self.script.name

    def __exit__(self, *_):
        winnow_server.BINARY = BINARY
        os.unlink(self.script.name)


def soft_limit(server):
    with open(f"/proc/{server.process.pid}/limits") as f:
        return int(re.search(r"Max open files +(\d+)", f.read()).group(1))


def check_descriptors(check):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard >= 2048:
        with Limited(128, 2048), Server() as server:
            check("the soft limit is raised for --max-connections", soft_limit(server) >= 1024 + 16, soft_limit(server))
            check("and nothing is said", "ulimit" not in server.log())
    with Limited(200, 200), Server() as server:
        check("fewer connections than asked for are told", "at most 136 connections instead of the 1024" in server.log(),
              server.log()[:600])
        for _ in range(3):
            many = [connect(server) for _ in range(300)]
            for s in many:
                s.close()
        check("connections are taken again", server.get("/health")["status"] == "ok")
        check("and counted", wait_for(lambda: metric(server, "connections") <= 2), metric(server, "connections"))
    # Descriptors can be gone before --max-connections is reached: here the limit is lowered later.
    with Server("--max-connections", "500") as server:
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (50, 50))
        many = [connect(server) for _ in range(200)]
        time.sleep(0.3)
        for s in many:
            s.close()
        check("also after descriptors ran out", server.get("/health")["status"] == "ok")


def check_slow(check):
    with Server("--http-timeout", "2") as server:
        first = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"

        def kept(then):
            s = connect(server)
            s.sendall(first)
            s.recv(65536)
            s.sendall(then)
            return s
        slow = [kept(b""), kept(b"GET /version HTTP/1.1\r\nHost: local"),
                kept(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"),
                kept(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")]
        drips = kept(b"GET /ver")

        def drip():
            try:
                while True:
                    drips.sendall(b"s")
                    time.sleep(0.3)
            except OSError:
                pass
        threading.Thread(target=drip, daemon=True).start()
        start = time.time()
        texts = [read_to_end(s) for s in slow]
        check("a kept connection without a request ends in silence", texts[0] == b"", texts[0])
        for text, what in zip(texts[1:], ("header", "body", "rest of a body")):
            check(f"the {what} of a second request that does not come gets 408",
                  text.startswith(b"HTTP/1.1 408 ") and b"request_read_timeout" in text, text)
        read_to_end(drips)
        check("a first line that comes byte by byte ends too", time.time() - start < 20 * PATIENCE)


def check_body_memory(check):
    with Server("--max-body-memory", "1M", "--max-body", "4M") as server:
        head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000\r\n\r\n"
        held = []
        for _ in range(2):
            s = connect(server)
            s.sendall(head + b'{"content":"' + b"a" * 500000)
            held.append(s)
        check("unfinished bodies are counted", wait_for(lambda: metric(server, "body_bytes") > 800000), metric(server, "body_bytes"))
        check("their limit too", metric(server, "body_bytes_max") == 1 << 20)
        status, headers, value = server.post("/tokenize", {"content": "a" * 400000})
        check("a body past the limit gets 503", status == 503 and value["error"]["code"] == "body_memory_full", value)
        check("with the number and when to come again", "1048576" in value["error"]["message"] and int(headers["Retry-After"]) >= 1,
              (value, headers.items()))
        check("a short body passes", server.post("/tokenize", {"content": "a"})[0] == 200)
        for s in held:
            s.close()
        check("the bytes come back", wait_for(lambda: metric(server, "body_bytes") == 0), metric(server, "body_bytes"))
        check("then long bodies pass again", server.post("/detokenize", {"tokens": [1] * 200000})[0] != 503)
        check("and are given back", wait_for(lambda: metric(server, "body_bytes") == 0), metric(server, "body_bytes"))


def check_signals(check):
    with Server() as server:
        for number, said in ((signal.SIGHUP, "SIGHUP: there is no --tls-cert"), (signal.SIGUSR1, "SIGUSR1 does nothing"),
                             (signal.SIGUSR2, "SIGUSR2 does nothing")):
            server.process.send_signal(number)
            check(f"{number.name} is logged", wait_for(lambda s=said: s in server.log()), server.log()[-300:])
            check(f"{number.name} ends nothing", server.get("/health")["status"] == "ok")
        check("SIGTERM still drains", server.stop() == 0)


def check_unread_log(check):
    """stderr is a pipe whose reader sleeps."""
    reads, writes = os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        path = folder + "/socket"
        process = subprocess.Popen([BINARY, "serve", STORIES, "--host", "unix:" + path, "--log-format", "json"],
                                   stdout=subprocess.DEVNULL, stderr=writes, cwd=ROOT)
        os.close(writes)

        def version():
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(30 * PATIENCE)
                s.connect(path)
                s.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: " + b"i" * 100 +
                          b"\r\nConnection: close\r\n\r\n")
                return read_to_end(s)
        wait_for(lambda: os.path.exists(path))
        good = sum(version().startswith(b"HTTP/1.1 200") for _ in range(1500))
        check("a log that nobody reads stops no answer", good == 1500, good)
        lines = []
        reader = threading.Thread(target=lambda: lines.extend(os.fdopen(reads, "rb")))
        reader.start()
        time.sleep(0.2)
        version()
        process.terminate()
        check("nor the end", process.wait(60 * PATIENCE) == 0)
        reader.join()
        values = [json.loads(line) for line in lines]
        check("lost lines are counted", any("are lost" in v["message"] for v in values), values[-3:])


def check_hosts(check):
    with Server("--host", "0.0.0.0", "--allowed-hosts", "llm.example") as server:
        for host, status in (("llm.example", 200), ("llm.example:8000", 200), ("localhost", 200), ("10.1.2.3:80", 200),
                             ("evil.example", 403), ("llm.example.evil.example", 403)):
            check(f"on 0.0.0.0 with --allowed-hosts, Host {host}", ask(server, "GET", "/version", Host=host)[0] == status)
    with Server() as server:
        for origin, status in (("http://localhost:3000", 200), ("http://127.0.0.1:9", 200), ("https://evil.example", 403),
                               ("http://localhost.evil.example", 403)):
            got, headers, _ = ask(server, "GET", "/v1/models", Origin=origin)
            check(f"Origin {origin}", got == status, got)
            check(f"Origin {origin}: CORS", headers.get("Access-Control-Allow-Origin") == (origin if status == 200 else None),
                  headers.items())
        status, headers, _ = ask(server, "OPTIONS", "/v1/kv/sessions/a", Origin="http://localhost:3000",
                                 Access_Control_Request_Method="DELETE")
        check("the preflight of DELETE", status == 204 and "DELETE" in headers["Access-Control-Allow-Methods"], headers.items())
        check("the log says that pages of localhost may call", "web pages of localhost" in server.log())
    with Server("--cors-origins", "https://chat.example") as server:
        check("given origins replace those of localhost", ask(server, "GET", "/v1/models", Origin="http://localhost:3000")[0] == 403)


def check_keys(check):
    for flags, env in ((["--api-key", ""], {}), (["--api-key", ","], {}), ([], {"WINNOW_API_KEY": ""}),
                       (["--admin-api-key", " "], {})):
        result = subprocess.run([BINARY, "serve", STORIES, "--port", "0", *flags], env={**os.environ, **env}, capture_output=True,
                                text=True, cwd=ROOT, timeout=60 * PATIENCE)
        check(f"an empty key ends the start {flags} {env}", result.returncode == 2 and "key" in result.stderr, result)


def check_wrong_keys(check):
    with Server("--api-key", "right") as server:
        start = time.time()
        good = server.get("/v1/models", key="right")["object"]
        missing = ask(server, "GET", "/v1/models")[0]
        quick = time.time() - start
        start = time.time()
        many = [threading.Thread(target=lambda: results.append(ask(server, "GET", "/v1/models", Authorization="Bearer wrong")[0]))
                for _ in range(20)]
        results = []
        for t in many:
            t.start()
        for t in many:
            t.join()
        check("a wrong key's answer comes later", time.time() - start >= 0.5 and results == [401] * 20, (time.time() - start, results))
        check("others' do not", good == "list" and missing == 401, (good, missing, quick))
        s = connect(server)
        s.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer wrong\r\n\r\n")
        time.sleep(0.1)
        s.close()
        check("a client that does not wait is let go", wait_for(lambda: metric(server, "connections") <= 1))


def main():
    check = Checks()
    check_keys(check)
    check_wrong_keys(check)
    check_hosts(check)
    check_descriptors(check)
    check_slow(check)
    check_body_memory(check)
    check_signals(check)
    check_unread_log(check)
    check.end()


if __name__ == "__main__":
    main()
