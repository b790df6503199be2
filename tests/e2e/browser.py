"""Headless Chromium over the DevTools protocol, for tests of the built-in page. Standard library only: the protocol is
JSON over a websocket, and the little of a websocket client that it takes is here."""
import base64
import collections
import json
import os
import re
import secrets
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import urllib.request
import zlib

from winnow_server import PATIENCE


def find_chromium():
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if shutil.which(name):
            return shutil.which(name)
    return None


class WebSocket:
    """RFC 6455, client side, text messages."""

    def __init__(self, url):
        host, port, path = re.fullmatch(r"ws://([^:/]+):(\d+)(/.*)", url).groups()
        self.socket = socket.create_connection((host, int(port)), timeout=60 * PATIENCE)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self.buffer += self._more()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise ConnectionError(head)

    def _more(self):
        got = self.socket.recv(1 << 16)
        if not got:
            raise ConnectionError("the browser closed the connection")
        return got

    def _take(self, n):
        while len(self.buffer) < n:
            self.buffer += self._more()
        taken, self.buffer = self.buffer[:n], self.buffer[n:]
        return taken

    def _frame(self, kind, body):
        size = len(body)
        head = bytes([0x80 | kind])
        if size < 126:
            head += bytes([0x80 | size])
        elif size < 65536:
            head += bytes([0x80 | 126]) + struct.pack(">H", size)
        else:
            head += bytes([0x80 | 127]) + struct.pack(">Q", size)
        mask = secrets.token_bytes(4)
        key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
        self.socket.sendall(head + mask + (int.from_bytes(body, "big") ^ key).to_bytes(size, "big"))

    def send(self, text):
        self._frame(1, text.encode())

    def receive(self, timeout):
        """The next message, or None when none has begun within `timeout` seconds."""
        message = b""
        if not self.buffer:
            self.socket.settimeout(timeout)
            try:
                self.buffer = self._more()
            except TimeoutError:
                return None
            finally:
                self.socket.settimeout(60 * PATIENCE)
        while True:
            first, second = self._take(2)
            size = second & 127
            if size > 125:
                size = struct.unpack(*((">H", self._take(2)) if size == 126 else (">Q", self._take(8))))[0]
            body = self._take(size)
            if first & 15 == 9:
                self._frame(10, body)
            elif first & 15 == 8:
                raise ConnectionError("the browser closed the websocket")
            elif first & 15 in (0, 1):
                message += body
                if first & 0x80:
                    return message.decode()


KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36,
        "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class Page:
    """One tab. Collects what went wrong in `errors` and every address that was asked for in `requests`."""

    def __init__(self, address):
        self.socket = WebSocket(address)
        self.number = 0
        self.answers, self.events = {}, collections.deque()
        self.errors, self.requests, self.refusals = [], [], []
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.command(domain + ".enable")

    def _sort(self, message):
        if "id" in message:
            self.answers[message["id"]] = message
            return
        method, more = message["method"], message["params"]
        if method == "Runtime.exceptionThrown":
            self.errors.append(more["exceptionDetails"].get("exception", {}).get("description") or str(more))
        elif method == "Runtime.consoleAPICalled" and more["type"] in ("error", "warning", "assert"):
            self.errors.append(str([a.get("value") or a.get("description") for a in more["args"]]))
        elif method == "Log.entryAdded" and more["entry"]["level"] in ("error", "warning"):
            # that an answer had status 4xx, or did not come, is for the test to judge
            to = self.refusals if more["entry"]["source"] == "network" else self.errors
            to.append(more["entry"]["text"] + " " + more["entry"].get("url", ""))
        elif method == "Network.requestWillBeSent":
            self.requests.append(more["request"]["url"])
        self.events.append(message)

    def command(self, method, **params):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        end = time.time() + 60 * PATIENCE
        while self.number not in self.answers:
            text = self.socket.receive(max(0.1, end - time.time()))
            if text is None:
                raise TimeoutError(method)
            self._sort(json.loads(text))
        answer = self.answers.pop(self.number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def close(self):
        try:
            self.command("Page.close")
        except OSError:
            pass  # the browser may close the connection before it answers
        self.socket.socket.close()

    def js(self, expression):
        """The value of an expression (promises are awaited), as JSON."""
        result = self.command("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails'].get('exception', {}).get('description')}")
        return result["result"].get("value")

    def wait(self, expression, seconds=90):
        """Whether the expression became true in time."""
        end = time.time() + seconds * PATIENCE
        while True:
            if self.js(expression):
                return True
            if time.time() > end:
                return False
            time.sleep(0.03)

    def open(self, url):
        self.command("Page.navigate", url=url)
        return self.wait("document.readyState === 'complete'")

    def press(self, key, shift=False):
        code = KEYS[key]
        more = {"text": {"Enter": "\r", " ": " "}[key]} if key in ("Enter", " ") else {}
        common = dict(key=key, windowsVirtualKeyCode=code, nativeVirtualKeyCode=code, modifiers=8 if shift else 0,
                      code="Space" if key == " " else key)
        self.command("Input.dispatchKeyEvent", type="keyDown" if more else "rawKeyDown", **common, **more)
        self.command("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text):
        self.command("Input.insertText", text=text)

    def click(self, selector):
        """A real click in the middle of the element."""
        x, y = self.js(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
                       "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect(); "
                       "return [r.x + r.width / 2, r.y + r.height / 2]; })()")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left" if kind != "mouseMoved" else "none",
                         clickCount=1)

    def look(self, width, height, mobile=False, dark=False, reduced=False, scale=1):
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile)
        self.command("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if reduced else "no-preference"}])

    def shoot(self, path):
        self.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        with open(path, "wb") as f:
            f.write(base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"]))


class Browser:
    """`with Browser() as b: page = b.page()`"""

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="winnow-browser-")
        # No sandbox, as tests run as root in containers; nothing but our own page is opened.
        self.process = subprocess.Popen(
            [find_chromium(), "--headless=new", "--remote-debugging-port=0", "--user-data-dir=" + self.folder, "--no-sandbox",
             "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--hide-scrollbars", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.time() + 60 * PATIENCE
        name = os.path.join(self.folder, "DevToolsActivePort")
        while time.time() < end and self.process.poll() is None:
            if os.path.exists(name) and "\n" in open(name).read():
                self.port = int(open(name).read().split()[0])
                return self
            time.sleep(0.05)
        self.__exit__()
        raise RuntimeError("chromium did not start")

    def page(self):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=60 * PATIENCE) as answer:
            return Page(json.load(answer)["webSocketDebuggerUrl"])

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def shrink_png(path):
    """Rewrites a screenshot with a palette of at most 256 colours that lie as far apart as it takes: a page has few."""
    with open(path, "rb") as f:
        data = f.read()
    at, compressed = 8, b""
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + size]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
        elif kind == b"IDAT":
            compressed += body
        at += size + 12
    if depth != 8 or colour not in (2, 6):
        raise ValueError(f"{path}: depth {depth}, colour type {colour}")
    step = 3 if colour == 2 else 4
    raw, row, rows = zlib.decompress(compressed), bytearray(width * step), []
    for y in range(height):
        start = y * (width * step + 1)
        row = unfilter(raw[start], raw[start + 1:start + 1 + width * step], row, step)
        rows.append([tuple(row[i:i + 3]) for i in range(0, len(row), step)])
    counts = collections.Counter(c for line in rows for c in line)
    apart, palette, index = 0, range(257), {}
    while len(palette) > 256:
        apart, palette, index = apart * 2 + 3, [], {}
        for c, _ in counts.most_common():
            near = min(range(len(palette)), key=lambda i: distance(c, palette[i]), default=None)
            if near is None or distance(c, palette[near]) > apart:
                near = len(palette)
                palette.append(c)
            index[c] = near
            if len(palette) > 256:
                break
    pixels = b"".join(b"\0" + bytes(index[c] for c in line) for line in rows)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    with open(path, "wb") as f:
        f.write(data[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)) +
                chunk(b"PLTE", b"".join(bytes(c) for c in palette)) + chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b""))


def distance(a, b):
    return (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2


def unfilter(kind, line, above, step):
    """One row of a PNG without its filter (PNG specification, section 9)."""
    row = bytearray(line)
    for i in range(len(row) if kind else 0):
        left = row[i - step] if i >= step else 0
        corner = above[i - step] if i >= step else 0
        if kind == 1:
            add = left
        elif kind == 2:
            add = above[i]
        elif kind == 3:
            add = (left + above[i]) // 2
        else:
            guess = left + above[i] - corner
            add = min((left, above[i], corner), key=lambda v: abs(guess - v))
        row[i] = (row[i] + add) & 255
    return row
