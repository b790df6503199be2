"""Starts the built server for end-to-end tests and takes it down again. Standard library only."""
import http.client
import json
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
BINARY = os.path.join(BUILD, "winnow")
STORIES = os.path.join(ROOT, "tests", "data", "stories260K.gguf")
# A sanitizer slows everything; only the waiting is stretched, no test asserts a speed.
PATIENCE = 10 if "san" in os.environ.get("BUILD", "") else 1


class Server:
    """`with Server("--api-key", "k") as s:` gives s.url, s.log() and s.process."""

    def __init__(self, *flags, model=STORIES, env=None, wait_ready=True, prefix=""):
        self.flags, self.model, self.env, self.wait_ready, self.prefix = flags, model, env, wait_ready, prefix

    def __enter__(self):
        self.log_file = tempfile.NamedTemporaryFile(mode="w+b", suffix=".log")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WINNOW_")}
        environment.update(self.env or {})
        self.process = subprocess.Popen(
            [BINARY, "serve", self.model, "--port", "0", *self.flags],
            stdout=self.log_file, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)
        self.port = self._port()
        self.url = f"http://127.0.0.1:{self.port}"
        if self.wait_ready:
            self._ready()
        return self

    def log(self):
        with open(self.log_file.name, "rb") as f:
            return f.read().decode("utf-8", "replace")

    def _port(self):
        end = time.time() + 30 * PATIENCE
        while time.time() < end:
            found = re.search(r"http://(?:127\.0\.0\.1|\[::1\]|0\.0\.0\.0):(\d+)", self.log())
            if found:
                return int(found.group(1))
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        self.process.kill()
        raise RuntimeError("the server did not come up:\n" + self.log())

    def _ready(self):
        end = time.time() + 120 * PATIENCE
        while time.time() < end:
            try:
                with urllib.request.urlopen(self.url + self.prefix + "/readyz", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                if self.process.poll() is not None:
                    break
                time.sleep(0.05)
        raise RuntimeError("the server did not get ready:\n" + self.log())

    def get(self, path, key=None):
        request = urllib.request.Request(self.url + path)
        if key:
            request.add_header("Authorization", "Bearer " + key)
        with urllib.request.urlopen(request, timeout=30 * PATIENCE) as r:
            body = r.read()
            return json.loads(body) if "json" in r.headers["Content-Type"] else body.decode()

    def post(self, path, value, headers=None):
        """(status, headers, value); value is parsed when it is JSON. `value` may be bytes."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json", **(headers or {})})
        try:
            with urllib.request.urlopen(request, timeout=300 * PATIENCE) as r:
                status, head, text = r.status, r.headers, r.read()
        except urllib.error.HTTPError as failure:
            status, head, text = failure.code, failure.headers, failure.read()
        try:
            return status, head, json.loads(text)
        except ValueError:
            return status, head, text.decode("utf-8", "replace")

    def pages_used(self):
        return self.get("/v1/kv/stats")["pool"]["pages_used"]

    def all_pages_back(self):
        """An answer may end a moment before the engine tells that its pages are free."""
        return wait_for(lambda: self.pages_used() == 0)

    def rss_bytes(self):
        with open(f"/proc/{self.process.pid}/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self):
        """SIGTERM; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60 * PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                return -9
        return self.process.returncode

    def __exit__(self, *_):
        self.stop()
        self.log_file.close()


def http_ask(port, method, path, body=None, headers=None):
    """(status, headers, bytes) of one request on a connection of its own; the target is sent as it is written."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60 * PATIENCE)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, answer.headers, text


def wait_for(condition, seconds=20):
    end = time.time() + seconds * PATIENCE
    while time.time() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


class Checks:
    """Counts: `c = Checks(); c("name", condition, detail); c.end()`."""

    def __init__(self):
        self.passed = self.failed = 0

    def __call__(self, name, condition, detail=""):
        if condition:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED {name}: {detail}", flush=True)
        return bool(condition)

    def end(self):
        print(f"{self.passed} passed, {self.failed} failed")
        raise SystemExit(1 if self.failed else 0)


KNOWN_ANSWER = (
    ", there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball. "
    "She wanted to play with it, but it was too high.\nLily's mom said, \"Lily, let's go to the park.\" Lily was sad "
    "and didn't know what to do. She said, \"I want to play with your ball, but I can't find it.\"\nLily was sad and "
    "didn't know what to do.")
