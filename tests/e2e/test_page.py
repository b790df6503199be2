"""The built-in page. Its files over HTTP: headers, no inline code, no address elsewhere, tags. In Chromium, where there is
one: chat, stop, errors, policies, the picture against the server's own trace, keyboard alone, small screens.

    python3 tests/e2e/test_page.py                             the tests
    python3 tests/e2e/test_page.py --screenshots DIR MODEL     page.png, phone.png and others into DIR
"""
import contextlib
import html.parser
import http.client
import http.server
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from browser import Browser, find_chromium, shrink_png  # noqa: E402
from winnow_server import BINARY, PATIENCE, ROOT, STORIES, Checks, Server, http_ask, wait_for  # noqa: E402

check = Checks()
FOLDER = os.path.join(ROOT, "server", "page")
TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8",
         "svg": "image/svg+xml"}
# What browsers get; the sources that serve it lie beside it.
NAMES = sorted(n for n in os.listdir(FOLDER) if n.rpartition(".")[2] in TYPES)
DEMO = os.path.join(ROOT, "models", "demo.gguf")


def ask(server, method, path, headers=None):
    return http_ask(server.port, method, path, None, headers)


def read(name):
    with open(os.path.join(FOLDER, name), "rb") as f:
        return f.read()


def address(name):
    return "/" if name == "index.html" else "/page/" + name


# ---- over HTTP


def files(server):
    for name in NAMES:
        status, head, body = ask(server, "GET", address(name))
        check(f"{name} is in the binary", status == 200 and body == read(name), (status, len(body)))
        check(f"{name}: type", head["Content-Type"] == TYPES[name.split(".")[1]], head["Content-Type"])
        policy = dict(rule.strip().split(" ", 1) for rule in (head["Content-Security-Policy"] or "").split(";"))
        wanted = {"default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self'",
                  "connect-src": "'self'", "form-action": "'none'", "frame-ancestors": "'none'", "base-uri": "'none'"}
        check(f"{name}: policy", policy == wanted, policy)
        check(f"{name}: other headers", (head["X-Content-Type-Options"], head["Referrer-Policy"], head["Cache-Control"]) ==
              ("nosniff", "no-referrer", "no-cache"), str(head))
        tag = head["ETag"]
        check(f"{name}: tag", re.fullmatch(r'"[0-9a-f]{16}"', tag or ""), tag)
        for held in (tag, f'"other", W/{tag}', "*"):
            status, again, body = ask(server, "GET", address(name), {"If-None-Match": held})
            check(f"{name}: 304 for {held}", status == 304 and body == b"" and again["ETag"] == tag, (status, body[:50]))
        status, _, body = ask(server, "GET", address(name), {"If-None-Match": '"0123456789abcdef"'})
        check(f"{name}: another tag gets the file", status == 200 and body == read(name), status)
        status, again, body = ask(server, "HEAD", address(name))
        check(f"{name}: HEAD", status == 200 and body == b"" and again["Content-Length"] == str(len(read(name))) and
              again["ETag"] == tag, str(again))
    tags = {ask(server, "HEAD", address(name))[1]["ETag"] for name in NAMES}
    check("tags differ", len(tags) == len(NAMES), tags)
    for path in ("/page", "/page/", "/page/none.js", "/page/../page.js", "/page/%2e%2e/LICENSE", "/v1/page/page.js",
                 "/page.js", "/page/screenshots/page.png"):
        check(f"no {path}", ask(server, "GET", path)[0] == 404, ask(server, "GET", path)[0])
    status, head, _ = ask(server, "POST", "/page/page.js")
    check("only to be read", status == 405 and head["Allow"] == "GET, HEAD, OPTIONS", (status, head["Allow"]))


class Markup(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.inline, self.links, self.ids, self.inside = [], [], [], None

    def handle_starttag(self, tag, attributes):
        self.inside = tag
        for name, value in attributes:
            if name == "style" or name.startswith("on"):
                self.inline.append((tag, name))
            if name in ("src", "href", "action", "data", "srcset", "formaction"):
                self.links.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_data(self, text):
        if self.inside in ("script", "style") and text.strip():
            self.inline.append((self.inside, text))

    def handle_endtag(self, tag):
        self.inside = None


def sources():
    markup = Markup()
    markup.feed(read("index.html").decode())
    check("nothing inline", markup.inline == [], markup.inline)
    links = [link for link in markup.links if not link.startswith("#")]
    check("links are relative files of ours", links and all(link.startswith("page/") and link[5:] in NAMES for link in links), links)
    check("ids are unique", len(markup.ids) == len(set(markup.ids)))
    for name in NAMES:
        text = read(name).decode().replace('xmlns="http://www.w3.org/2000/svg"', "")
        check(f"{name} names no address elsewhere", not re.search(r"""https?://|["'(]//|\bwss?:""", text), name)
        check(f"{name} asks for no font, import or image elsewhere", not re.search(r"@import|@font-face|url\(", text), name)
        if name.endswith(".js"):
            check(f"{name} writes no markup", not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|"
                                                            r"new Function|localStorage|document\.cookie", text), name)
            imports = re.findall(r'from "\./([^"]+)"', text)
            check(f"{name} imports files of ours", all(i in NAMES for i in imports), imports)
            ids = set(re.findall(r'\$\("([a-z-]+)"\)', text))
            check(f"{name} knows the ids", ids <= set(markup.ids), ids - set(markup.ids))
        check(f"{name} is short enough to read", text.count("\n") <= 500, text.count("\n"))


def below_a_prefix():
    for prefix in ("/x", "/a/b"):
        with Server("--api-prefix", prefix, "--api-key", "k", prefix=prefix) as s:
            status, head, _ = ask(s, "GET", prefix)
            check(f"{prefix} without a slash leads to the one with", status == 308 and
                  head["Location"] == prefix.split("/")[-1] + "/", (status, head["Location"]))
            with urllib.request.urlopen(s.url + prefix) as r:
                check(f"{prefix}: there the page is", r.url == s.url + prefix + "/" and r.read() == read("index.html"), r.url)
            check(f"{prefix}: no key is asked for", ask(s, "GET", prefix + "/page/page.js")[2] == read("page.js"))
            check(f"{prefix}: not outside", ask(s, "GET", "/page/page.js")[0] == 404)


def bytes_of(pieces):
    return b"".join(p.encode() if isinstance(p, str) else bytes(p) for p in pieces)


def pieces(server):
    words = "é 日本 🎉 \t x\n\ny <s> [INST]"
    messages = [{"role": "user", "content": words}]
    status, _, made = server.post("/tokenize", {"messages": messages, "with_pieces": True})
    answer = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 1})[2]
    template = server.post("/apply-template", {"messages": messages})[2]["prompt"]
    check("a piece for each token", status == 200 and len(made["pieces"]) == made["count"] == len(made["tokens"]), made)
    check("of exactly the prompt", answer["usage"]["prompt_tokens"] == made["count"], (answer["usage"], made["count"]))
    check("parts of characters are bytes", any(isinstance(p, list) for p in made["pieces"]), made["pieces"])
    # SentencePiece puts a space before the text behind <s>
    check("together they are the text", bytes_of(made["pieces"]).decode() == template.replace("<s>", "<s> ", 1),
          (bytes_of(made["pieces"]), template))
    plain = server.post("/tokenize", {"content": words, "parse_special": False, "with_pieces": True})[2]["tokens"]
    check("llama-server's form too", bytes_of(t["piece"] for t in plain).decode().strip() == words.strip(), plain)
    without = server.post("/tokenize", {"messages": messages})[2]
    check("only when asked for", "pieces" not in without and without["tokens"] == made["tokens"], without)
    check("its type is checked", server.post("/tokenize", {"messages": messages, "with_pieces": 1})[0] == 400)


def reasons():
    with Server("--kv-policy-allow", "full,sink,razor") as s:
        rows = {row["name"]: row for row in s.get("/v1/kv/policies")["data"]}
        check("no reason where there is no need", rows["sink"]["available"] and rows["sink"]["reason"] is None, rows["sink"])
        check("a missing profile is one", not rows["razor"]["available"] and "head profile" in rows["razor"]["reason"], rows["razor"])
        check("the operator's list is one", not rows["h2o"]["available"] and "does not offer" in rows["h2o"]["reason"], rows["h2o"])
        for name in ("razor", "h2o"):
            refusal = s.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "kv_policy": name})[2]["error"]["message"]
            check(f"{name}: the reason is what a request gets", rows[name]["reason"] == refusal, refusal)
    with Server("--kv-policy-lock", "--kv-policy", "sink") as s:
        rows = s.get("/v1/kv/policies")["data"]
        check("a lock is one for all", all("fixed to 'sink'" in row["reason"] for row in rows), rows[0])


# ---- in a browser

READY = "document.getElementById('state').dataset.state === 'ready' && document.querySelectorAll('#policy-names input').length"
IDLE = "document.getElementById('stop').disabled"
LAST = "[...document.querySelectorAll('.turn')].at(-1)"


def runs(page):
    return page.js(f"[...({LAST}?.querySelectorAll('.run') ?? [])].map((r) => ({{state: r.dataset.state, text: r.querySelector('.text').textContent,"
                   "label: r.querySelector('b').textContent, told: r.querySelector('.head .hint').textContent,"
                   "note: r.querySelector(':scope > .hint').textContent, error: r.querySelector('.error').textContent,"
                   "foot: r.querySelector('.foot').textContent}))")


def value(page, id, text):
    """Sets a field as a person would leave it."""
    page.js(f"(() => {{ const e = document.getElementById({json.dumps(id)}); e.value = {json.dumps(text)};"
            "e.dispatchEvent(new Event('input', {bubbles: true})); e.dispatchEvent(new Event('change', {bubbles: true})); })()")


def policy(page, name, unit="share", budget=None):
    page.js(f"document.querySelector('#policy-names input[value={name}]').click()")
    if budget is not None:
        value(page, "budget-unit", unit)
        value(page, "budget-number", str(budget))


def put(page, question, compare=False, wait=True):
    page.js(f"document.getElementById('question').value = {json.dumps(question)}")
    page.click("#compare" if compare else "#ask")
    return page.wait(f"{LAST} && {IDLE}", 120) if wait else None


def opened(browser, server, path="/", **look):
    page = browser.page()
    page.look(**{"width": 1280, "height": 800, **look})
    page.open(server.url + path)
    check("the page gets ready", page.wait(READY), page.js("document.body.innerText"))
    check("no sampling of the page's own", page.js("document.getElementById('temperature').value") == "")
    value(page, "temperature", "0")  # answers are compared with the API's
    return page


def clean(name, page, origin):
    check(f"{name}: no error in the console", page.errors == [], page.errors)
    elsewhere = [url for url in page.requests if not url.startswith(origin + "/")]
    check(f"{name}: no request elsewhere", page.requests and elsewhere == [], elsewhere)
    page.close()


def chat(browser, server):
    page = opened(browser, server)
    names = [row["name"] for row in server.get("/v1/kv/policies")["data"]]
    shown = page.js("[...document.querySelectorAll('#policy-names input')].map((i) => [i.value, i.disabled])")
    available = {row["name"]: row["available"] for row in server.get("/v1/kv/policies")["data"]}
    check("every policy is offered, or shown as not to be had", shown == [[n, not available[n]] for n in names], shown)
    why = page.js("document.getElementById('policy-missing').textContent")
    check("and why", all(n in why for n in names if not available[n]) and "head profile" in why, why)
    check("the server's default is chosen", page.js("document.querySelector('#policy-names input:checked').value") == "full")
    check("full has no budget", page.js("document.getElementById('budget').hidden"))
    policy(page, "snapkv")
    axes = page.js("[...document.querySelectorAll('#axes-fields label')].map((l) => [l.firstChild.textContent, l.lastChild.min, l.lastChild.max])")
    check("axes and ranges are the schema's", ["window", "1", "1024"] in axes and ["kernel", "1", "63"] in axes, axes)
    check("what it takes is told", page.wait("/tokens a head/.test(document.getElementById('policy-bound').textContent)"),
          page.js("document.getElementById('policy-bound').textContent"))
    value(page, "budget-unit", "slots")
    value(page, "budget-number", "8")
    check("and what cannot be", page.wait("/window 32 is above budget 8/.test(document.getElementById('policy-bound').textContent)"),
          page.js("document.getElementById('policy-bound').textContent"))

    policy(page, "sink", "slots", 64)
    value(page, "max-tokens", "400")
    put(page, "Once upon a time", wait=False)
    check("the answer streams", page.wait(f"{LAST}?.querySelector('.run').dataset.state === 'answering' && "
                                          f"{LAST}.querySelector('.text').textContent.length > 20"), runs(page))
    check("to its end", page.wait(IDLE, 120) and runs(page)[0]["state"] == "done" and len(runs(page)[0]["text"]) > 400, runs(page))
    alone = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Once upon a time"}], "temperature": 0,
                                                 "max_tokens": 400, "kv_policy": {"name": "sink", "budget": 64}})[2]
    check("it is the server's", runs(page)[0]["text"] == alone["choices"][0]["message"]["content"], runs(page)[0]["text"][:200])
    facts = page.js("document.getElementById('facts').textContent + document.getElementById('memory-text').textContent")
    kv = alone["usage"]["kv_cache"]
    check("numbers are told", "64 tokens a head" in facts and "400 tokens" in facts and "/s" in facts and
          f"{round(100 * kv['bytes'] / kv['bytes_full'])} %" in facts, (facts, kv))
    check("it is spoken", page.js("document.getElementById('spoken').textContent") == runs(page)[0]["text"])
    page.command("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"], origin=server.url)
    page.click(".run .small")
    check("it can be copied", page.wait("document.querySelector('.run .small').textContent === 'Copied'") and
          page.js("navigator.clipboard.readText()") == runs(page)[0]["text"])
    first = runs(page)[0]["text"]
    put(page, "And then?")
    history = [{"role": "user", "content": "Once upon a time"}, {"role": "assistant", "content": first}, {"role": "user", "content": "And then?"}]
    count = server.post("/tokenize", {"messages": history})[2]["count"]
    check("a second question knows the first", page.js("document.querySelectorAll('#tokens span').length") == count, count)

    value(page, "max-tokens", "10000000")
    put(page, "Tell more", wait=False)
    page.wait(f"{LAST}.querySelector('.text').textContent.length > 1000")
    detail = page.wait("[...document.querySelectorAll('#grid [role=gridcell]')].every((c) => /keeps \\d+ of/.test(c.ariaLabel))")
    check("heads are told while it runs", detail, page.js("document.querySelector('#grid [role=gridcell]').ariaLabel"))
    page.click("#stop")
    check("stop stops", page.wait(IDLE) and runs(page)[0]["state"] == "stopped" and len(runs(page)[0]["text"]) > 1000)
    check("on the server too", wait_for(lambda: server.get("/v1/kv/stats")["sequences"] == []))
    check("and says so", "Stopped" in page.js("document.getElementById('inspector').textContent"),
          page.js("document.getElementById('inspector').textContent"))
    page.click("#new-chat")
    check("a new chat is empty", page.js("document.querySelectorAll('.turn').length") == 0 and
          page.js("!document.getElementById('welcome').hidden && document.getElementById('cache-shown').hidden"))
    clean("chat", page, server.url)
    check("no answer was refused but the one that had to be", all("/kv/policies/resolve" in r for r in page.refusals), page.refusals)


def documents(browser, server):
    page = opened(browser, server)
    words = "The code of Anna is 48213. Tom has a dog."
    value(page, "document-text", words)
    count = len(server.post("/tokenize", {"content": words})[2]["tokens"])
    check("a document's tokens are told", page.wait(f"document.getElementById('document-facts').textContent === '{count} tokens'"),
          page.js("document.getElementById('document-facts').textContent"))
    policy(page, "sink", "slots", 200)
    value(page, "max-tokens", "8")
    put(page, "What is the code of Anna?", compare=True)
    got = runs(page)
    check("compare asks under both", [r["label"] for r in got] == ["full", "sink, 200 tokens"] and
          all(r["state"] == "done" and r["text"] for r in got), got)
    prompt = page.js("[...document.querySelectorAll('#tokens span')].map((s) => s.textContent).join('')")
    check("the document stands before the question", f"{words}↵↵What is the code of Anna?" in prompt, prompt)
    check("and is held for this chat", page.js("document.getElementById('document-text').readOnly && document.getElementById('document-clear').disabled"))
    put(page, "And of Tom?")
    prompt = page.js("[...document.querySelectorAll('#tokens span')].map((s) => s.textContent).join('')")
    check("once only", prompt.count(words) == 1 and "And of Tom?" in prompt, prompt)
    page.click("#new-chat")
    page.click("#examples button:nth-child(2)")
    check("an example fills in a text and a question", page.js("document.getElementById('question').value") == "What is the city of David?" and
          "The city of David is Geneva." in page.js("document.getElementById('document-text').value"))
    length = page.js("document.getElementById('document-text').value.length")
    check("of a size for 2,048 tokens", 4000 < length < 5000, length)
    page.wait("/tokens/.test(document.getElementById('document-facts').textContent)")
    policy(page, "full")
    page.click("#ask")
    page.wait(f"{LAST} && {IDLE}", 120)
    got = runs(page)[0]
    check("what does not fit is told in the server's words", got["state"] == "failed" and "exceeds the available context size" in got["error"], got)
    page.js("[...document.querySelectorAll('.run .error button')].find((b) => b.textContent === 'Ask under sink').click()")
    check("with a way out", page.wait(f"{IDLE} && {LAST}.querySelector('.run').dataset.state === 'done'", 120), runs(page))
    sight = ("(() => { const box = document.getElementById('tokens').getBoundingClientRect(); return [...document.querySelectorAll("
                   "'#tokens .found')].map((s) => [s.textContent, s.getBoundingClientRect().top > box.top && s.getBoundingClientRect().bottom < box.bottom]); })()")
    check("the example's fact is marked and in sight", page.wait(sight + ".every((s) => s[1])") and
          "".join(t for t, _ in page.js(sight)) == "Geneva", page.js(sight))
    clean("documents", page, server.url)


def modules(browser, server):
    """Of the scripts, what is pure: token texts, traces and event streams, on random input against the obvious way."""
    page = opened(browser, server)
    draw = random.Random(7)
    cases = []
    for _ in range(60):
        text = "".join(draw.choice(["a", " ", "\n", "é", "日", "🎉", "ß", "z", "\u200d"]) for _ in range(draw.randrange(1, 30)))
        data, cuts = text.encode(), []
        if draw.random() < 0.2:  # and some that are no UTF-8
            data = data[:-1] + bytes([draw.choice([0xff, 0xc0, 0xe6, 0x80])]) + b"x"
        while sum(cuts) < len(data):
            cuts.append(draw.randrange(1, 4))
        pieces, at = [], 0
        for size in cuts:
            piece = data[at:at + size]
            try:
                pieces.append(piece.decode())
            except UnicodeDecodeError:
                pieces.append(list(piece))
            at += size
        cases.append((pieces, data.decode("utf-8", "replace") if data == text.encode() else None))
    got = page.js("import(new URL('page/tokens.js', location)).then((m) => " + json.dumps([p for p, _ in cases]) + ".map(m.readPieces))")
    for (pieces, whole), read in zip(cases, got):
        shown = "".join(t["text"] for t in read["tokens"])
        units = read["text"].encode("utf-16-le")
        check("token texts are the text, whole characters each", shown == read["text"] and whole in (None, shown), (pieces, read))
        check("a token of text shows it", all(t["text"] == p for t, p in zip(read["tokens"], pieces) if isinstance(p, str)), (pieces, read))
        for t, p in zip(read["tokens"], pieces):
            share = units[2 * t["start"]:2 * t["end"]].decode("utf-16-le")
            check("a part belongs to its character", share and share.endswith(t["text"]) and t["whole"] in share, (p, t, share))
    traces = []
    for _ in range(30):
        n, kept = draw.randrange(1, 40), []
        for _ in range(6):
            marks, ranges = [draw.random() < 0.6 for _ in range(n + 10)], []
            for i, mark in enumerate(marks):
                if mark and i and marks[i - 1]:
                    ranges[-1][1] = i
                elif mark:
                    ranges.append([i, i])
            kept.append(ranges)
        slots = [sum(b - a + 1 for a, b in ranges) for ranges in kept]
        short = draw.randrange(6) if draw.random() < 0.5 else None
        if short is not None:
            slots[short] += 3
        traces.append((n, kept, slots, short))
    got = page.js("import(new URL('page/tokens.js', location)).then((m) => " + json.dumps([t[:3] for t in traces]) + ".map(([n, kept, slots]) => {"
                  "const t = m.readTrace([kept.slice(0, 3), kept.slice(3)], n, slots); return { by: [...t.by], counts: t.counts, complete: t.complete,"
                  "holds: kept.map((_, h) => [...Array(n).keys()].map((p) => t.holds(h, p))) }; }))")
    for (n, kept, slots, short), read in zip(traces, got):
        whole = [h for h in range(6) if h != short]
        check("a trace's sums leave out heads that were cut short", read["by"] == [sum(held(kept[h], p) for h in whole) for p in range(n)] and
              read["complete"] == [h != short for h in range(6)], (n, kept, slots, read))
        check("and what each head holds is the list's", all(read["holds"][h] == [held(kept[h], p) for p in range(n)] for h in range(6)) and
              all(read["counts"][h] == sum(held(kept[h], p) for p in range(n)) for h in whole), read)
    stream = ": ping\n\ndata: {\"a\": 1}\r\n\r\nevent: x\ndata: one\ndata:two\n\n: c\n\ndata: [DONE]\n\ndata: half"
    for _ in range(20):
        parts, at = [], 0
        while at < len(stream):
            size = draw.randrange(1, 9)
            parts.append(stream[at:at + size])
            at += size
        got = page.js("import(new URL('page/api.js', location)).then((m) => { const p = new m.EventParser(); return " + json.dumps(parts) +
                      ".flatMap((part) => p.feed(part)); })")
        check("events do not depend on how a stream is cut", got == ['{"a": 1}', "one\ntwo", "[DONE]"], (parts, got))
    clean("modules", page, server.url)


def held(ranges, position):
    return any(first <= position <= last for first, last in ranges)


def picture(browser, server):
    page = opened(browser, server)
    question = "Tom has a dog. é 日本 🎉. " + "The dog is big and red. " * 12
    policy(page, "adakv", "share", 40)
    value(page, "max-tokens", "5")
    put(page, question)
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 5, "return_token_ids": True,
            "kv_policy": {"name": "adakv", "budget": 0.4, "trace": True}}
    answer = server.post("/v1/chat/completions", body)[2]
    kept = [ranges for layer in answer["kv_trace"]["kept"] for ranges in layer]
    n = answer["usage"]["prompt_tokens"]
    shown = page.js("[...document.querySelectorAll('#tokens span')].map((s) => [s.textContent, Number(/k(\\d)/.exec(s.className)?.[1])])")
    check("a mark for each token of the prompt", len(shown) == n, (len(shown), n))
    by = [sum(held(ranges, p) for ranges in kept) for p in range(n)]
    check("shaded by how many heads hold it", [level for _, level in shown] == [-(-8 * b // len(kept)) for b in by],
          list(zip(by, shown)))
    check("more than one shade", len(set(by)) > 2, by)
    text = "".join(t for t, _ in shown)
    check("characters of several tokens are whole, once", text.count("日") == text.count("本") == text.count("🎉") == 1 and "�" not in text, text)
    check("their other tokens have a mark too", [t for t, _ in shown].count("·") == 2 + 2 + 3, shown)
    labels = page.js("[...document.querySelectorAll('#grid [role=gridcell]')].sort((a, b) => a.dataset.index - b.dataset.index).map((c) => c.ariaLabel)")
    counts = [sum(held(ranges, p) for p in range(n)) for ranges in kept]
    check("each head's count is the trace's", labels == [f"layer {i // 4}, head {i % 4}: keeps {c} of {n} tokens" for i, c in enumerate(counts)],
          labels[:3])
    same = True
    for index, ranges in enumerate(kept):
        page.click(f"#grid [data-index='{index}']")
        strong = page.js("[...document.querySelectorAll('#tokens span')].map((s) => /k8/.test(s.className))")
        same = check(f"head {index} shows what it holds", strong == [held(ranges, p) for p in range(n)]) and same
    page.click("#all-heads")
    check("and all heads again", page.js("[...document.querySelectorAll('#tokens span')].map((s) => Number(/k(\\d)/.exec(s.className)[1]))") ==
          [level for _, level in shown])
    # pointing at a token tells of it, and changes no other token
    page.js("window.changes = 0; new MutationObserver((m) => window.changes += m.length)"
            ".observe(document.getElementById('tokens'), {subtree: true, attributes: true, childList: true})")
    for p in (0, n // 3, n - 1):
        page.js(f"document.getElementById('t{p}').dispatchEvent(new PointerEvent('pointerover', {{bubbles: true}}))")
        told = page.js("document.getElementById('inspector').textContent")
        dots = page.js("[...document.querySelectorAll('#grid .holds')].map((c) => Number(c.dataset.index)).sort((a, b) => a - b)")
        check(f"token {p} is told", f"Token {p + 1} of {n}:" in told and f"held by {by[p]} of {len(kept)} heads" in told, told)
        check(f"token {p}: its holders have a dot", dots == [i for i, ranges in enumerate(kept) if held(ranges, p)], dots)
    check("without touching the tokens", page.js("window.changes") == 0, page.js("window.changes"))
    part = [t for t, _ in shown].index("·")
    page.js(f"document.getElementById('t{part}').dispatchEvent(new PointerEvent('pointerover', {{bubbles: true}}))")
    check("a part of a character tells its byte", re.search(r"a part of “.”, bytes [0-9a-f]{2}", page.js("document.getElementById('inspector').textContent")),
          page.js("document.getElementById('inspector').textContent"))
    page.js("document.getElementById('tokens').dispatchEvent(new PointerEvent('pointerleave'))")
    value(page, "find", "日本")
    check("find marks the tokens", page.js("[...document.querySelectorAll('#tokens .found')].map((s) => s.textContent).join('')") == "日··本··",
          page.js("[...document.querySelectorAll('#tokens .found')].map((s) => s.textContent)"))
    clean("picture", page, server.url)


def keyboard(browser, server):
    page = opened(browser, server, width=1280, height=900)
    seen = []

    def tab_to(id, limit=60):
        for _ in range(limit):
            page.press("Tab")
            where = page.js("(() => { const e = document.activeElement, box = e.matches('.chip input') ? e.nextElementSibling : e,"
                            "s = getComputedStyle(box), r = box.getBoundingClientRect(); return {id: e.id || e.value || e.textContent.slice(0, 20),"
                            "cell: e.dataset.index ?? null, ring: s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2,"
                            "inside: r.right > 0 && r.bottom > 0 && r.left < innerWidth && r.top < innerHeight}; })()")
            seen.append(where)
            if where["id"] == id or (id == "grid" and where["cell"] is not None):
                return True
        return False

    check("first comes the way to the question", tab_to("open-settings") and len(seen) == 2, seen)
    check("the policy's group is one stop", tab_to("full") and tab_to("new-chat"), seen)
    before = len(seen)
    check("the question comes after the examples", tab_to("question") and len(seen) - before <= 6, seen[before:])
    page.type("Tom has a dog.")
    page.press("Enter", shift=True)
    page.type("What is it?")
    check("Shift+Enter starts a line", page.js("document.getElementById('question').value") == "Tom has a dog.\nWhat is it?")
    page.press("Enter")
    check("Enter asks", page.wait(f"{LAST} && {IDLE} && {LAST}.querySelector('.run').dataset.state === 'done'"), runs(page))
    check("the question keeps the focus", page.js("document.activeElement.id") == "question")
    check("the grid is one stop", tab_to("grid"), seen)
    for key, index in (("ArrowRight", 4), ("ArrowDown", 5), ("End", 17), ("ArrowRight", 17), ("Home", 1), ("ArrowUp", 0), ("ArrowLeft", 0)):
        page.press(key)
        at = page.js("document.activeElement.dataset.index")
        check(f"{key} moves in the grid", at == str(index), at)
    page.press("ArrowRight")
    page.press("Enter")
    check("Enter chooses a head", page.js("[...document.querySelectorAll('#grid [aria-selected=true]')].map((c) => c.dataset.index)") == ["4"])
    check("and the list tells it", "Layer 1, head 0 holds" in page.js("document.getElementById('inspector').textContent"),
          page.js("document.getElementById('inspector').textContent"))
    page.press("Escape")
    check("Escape goes back", page.js("document.querySelectorAll('#grid [aria-selected=true]').length") == 0)
    check("the tokens are one stop", tab_to("tokens"), seen[-3:])
    page.press("ArrowRight")
    page.press("ArrowRight")
    page.press("ArrowDown")
    page.press("ArrowUp")
    check("arrows move in the tokens", page.js("document.getElementById('tokens').getAttribute('aria-activedescendant')") == "t2" and
          "Token 3 of" in page.js("document.getElementById('inspector').textContent"), page.js("document.getElementById('inspector').textContent"))
    page.press("End")
    check("to the end", page.js("document.querySelector('#tokens .current') === [...document.querySelectorAll('#tokens span')].at(-1)"))
    unseen = [s for s in seen if not s["ring"] or not s["inside"]]
    check("the focus is always seen", unseen == [], unseen)
    nodes = page.command("Accessibility.getFullAXTree")["nodes"]
    nameless = [n["role"]["value"] for n in nodes if not n.get("ignored") and not n.get("name", {}).get("value") and
                any(p["name"] == "focusable" and p["value"].get("value") for p in n.get("properties", [])) and
                n["role"]["value"] not in ("RootWebArea", "generic")]
    check("everything that takes the focus has a name", nameless == [], nameless)
    page.js("document.getElementById('open-settings').focus()")
    page.press("Enter")
    check("settings open", page.js("document.getElementById('settings').open"))
    page.press("Escape")
    check("and close, and the focus is where it was", not page.js("document.getElementById('settings').open") and
          page.js("document.activeElement.id") == "open-settings")
    clean("keyboard", page, server.url)


def small(browser, server):
    for width, dark in ((360, False), (320, True), (760, False)):
        page = opened(browser, server, width=width, height=740, mobile=True, dark=dark, reduced=True)
        fits = "document.documentElement.scrollWidth <= innerWidth && document.body.scrollWidth <= innerWidth"
        check(f"{width} px: fits when empty", page.js(fits), page.js("document.documentElement.scrollWidth"))
        page.js("for (const d of document.querySelectorAll('details')) d.open = true")
        policy(page, "adakv", "slots", 40)
        check(f"{width} px: fits with all open", page.js(fits), page.js("document.documentElement.scrollWidth"))
        page.js("document.getElementById('with-sink').checked = true")
        value(page, "max-tokens", "300")
        put(page, "W" * 60 + " a long word, and " * 10, compare=True)
        check(f"{width} px: three answers", [r["state"] for r in runs(page)] == ["done"] * 3, runs(page))
        check(f"{width} px: fits with answers", page.js(fits), page.js("document.documentElement.scrollWidth"))
        page.click("#open-settings")
        check(f"{width} px: fits with settings", page.js(fits + " && document.getElementById('settings').getBoundingClientRect().right <= innerWidth"))
        ground = page.js("getComputedStyle(document.body).backgroundColor")
        check(f"{width} px: the scheme is the reader's", (int(re.findall(r"\d+", ground)[0]) < 60) == dark, ground)
        check(f"{width} px: nothing moves for who does not want it", page.js("[...document.querySelectorAll('*')].every((e) => "
              "getComputedStyle(e).transitionDuration.split(', ').every((t) => parseFloat(t) === 0))"))
        clean(f"{width} px", page, server.url)


def contrast(browser, server):
    """WCAG's ratio of every shade with its text, and of the greys, in both schemes."""
    ratio = """(() => { const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map((v) => { v /= 255;
      return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
      const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
        if (!/, 0\\)$|transparent/.test(c)) return c; } return 'rgb(255,255,255)'; };
      const least = []; const box = document.getElementById('tokens'); document.getElementById('cache-shown').hidden = false;
      for (let k = 0; k < 9; k++) { const s = document.createElement('span'); s.className = 'k' + k; s.textContent = 'x'; box.append(s); }
      for (const e of [...box.querySelectorAll('span'), ...document.querySelectorAll('.hint, .label, button.primary, .chip span, #model, #state, h1')]) {
        const a = light(getComputedStyle(e).color), b = light(ground(e));
        least.push([(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.className || e.id || e.tagName]); }
      return least.sort((x, y) => x[0] - y[0])[0]; })()"""
    shades = "[1,2,3,4,5,6,7,8].map((k) => getComputedStyle(document.querySelector('#tokens .k' + k)).backgroundColor)"
    for dark in (False, True):
        page = opened(browser, server, dark=dark)
        least = page.js(ratio)
        check(f"{'dark' if dark else 'light'}: text stands out by 4.5 and more", least[0] >= 4.5, least)
        luma = [sum(w * int(v) for w, v in zip((2126, 7152, 722), re.findall(r"\d+", c))) for c in page.js(shades)]
        check(f"{'dark' if dark else 'light'}: shades differ by lightness alone", luma == sorted(luma, reverse=not dark) and
              all(abs(a - b) > 60000 for a, b in zip(luma, luma[1:])), luma)


class Between(http.server.BaseHTTPRequestHandler):
    """Stands before a real server and plays the faults that it cannot be asked for: `faults` holds, by path, what happens
    to the next requests."""
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def forward(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        waiting = self.server.faults.get(self.path, [])
        if waiting:
            waiting.pop(0)(self)
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60 * PATIENCE)
        headers = {k: v for k, v in self.headers.items() if k.lower() in ("authorization", "content-type", "if-none-match")}
        try:
            upstream.request(self.command, self.path, body or None, headers)
            r = upstream.getresponse()
            self.answer(r.status, r.read(), dict(r.headers))
        except OSError:
            self.close_connection = True

    do_GET = do_POST = forward

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, text in dict(headers).items():
            if name.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def refuse(status, code, message, **headers):
    text = json.dumps({"error": {"message": message, "type": "x", "param": None, "code": code}}).encode()
    return lambda h: h.answer(status, text, {"Content-Type": "application/json", **headers})


def cut(*events):
    """A stream that ends after these events without [DONE]."""
    def play(h):
        h.send_response(200)
        h.send_header("Content-Type", "text/event-stream")
        h.send_header("Connection", "close")
        h.end_headers()
        for event in events:
            h.wfile.write(b"data: " + json.dumps(event).encode() + b"\r\n\r\n: ping\n\n")
        h.close_connection = True
    return play


def delta(text):
    return {"id": "x", "choices": [{"index": 0, "delta": {"content": text}, "token_ids": [1]}]}


@contextlib.contextmanager
def between(server):
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Between)
    proxy.daemon_threads = True
    proxy.upstream, proxy.faults = server.port, {}
    proxy.url = f"http://127.0.0.1:{proxy.server_address[1]}"
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()


def faults(browser, server):
    chat_path = "/v1/chat/completions"
    with between(server) as proxy:
        page = opened(browser, proxy)
        value(page, "max-tokens", "4")
        proxy.faults[chat_path] = [refuse(429, "queue_full", "full", **{"Retry-After": "2"})]
        put(page, "One", wait=False)
        check("a busy server is asked again after its seconds", page.wait(f"/busy; asking again in [12] s/.test({LAST}?.textContent)"), runs(page))
        check("and answers", page.wait(f"{IDLE} && {LAST}.querySelector('.run').dataset.state === 'done'"), runs(page))
        proxy.faults[chat_path] = [refuse(429, "queue_full", "full", **{"Retry-After": "60"})]
        put(page, "Two", wait=False)
        page.wait(f"/asking again in \\d+ s/.test({LAST}?.textContent)")
        page.click("#stop")
        check("stop ends the waiting", page.wait(IDLE) and runs(page)[0]["state"] == "stopped", runs(page))
        proxy.faults[chat_path] = [refuse(503, "model_loading", "loading", **{"Retry-After": "1"})]
        put(page, "Three")
        check("a loading model is waited for", runs(page)[0]["state"] == "done", runs(page))
        proxy.faults[chat_path] = [refuse(503, "draining", "the server is shutting down", **{"Retry-After": "5"})]
        put(page, "Four")
        check("a server that shuts down is not", runs(page)[0]["state"] == "failed" and "shutting down" in runs(page)[0]["error"], runs(page))
        proxy.faults[chat_path] = [lambda h: h.answer(502, b"<html>bad gateway</html>", {"Content-Type": "text/html"})]
        put(page, "Five")
        check("a proxy's page is no answer", "The server answered 502." in runs(page)[0]["error"], runs(page))
        page.wait(READY)
        proxy.faults[chat_path] = [cut(delta("One "), delta("two"), {"error": {"message": "the device has failed", "code": "engine_fault"}})]
        put(page, "Six")
        got = runs(page)[0]
        check("an error in the stream is told, and what came is kept", got["text"] == "One two" and "the device has failed" in got["error"] and
              got["told"] == "incomplete", got)
        page.wait(READY)
        proxy.faults[chat_path] = [cut(delta("Half"))]
        put(page, "Seven")
        check("a stream without its end is not taken for whole", "broke off" in runs(page)[0]["error"] and runs(page)[0]["text"] == "Half", runs(page))
        page.wait(READY)
        page.js(f"[...{LAST}.querySelectorAll('.error button')].find((b) => b.textContent === 'Try again').click()")
        check("try again tries again", page.wait(f"{IDLE} && {LAST}.querySelector('.run').dataset.state === 'done'"), runs(page))
        check("in the same place", page.js("document.querySelectorAll('.turn').length") == 7)
        loading = json.dumps({"error": {"message": "loading", "code": "model_loading", "progress": 0.42}, "status": "loading"}).encode()
        proxy.faults["/health"] = [lambda h: h.answer(503, loading, {"Content-Type": "application/json"})]
        page.open(proxy.url)
        check("a loading server is told with its progress", page.wait("/loading, 42 %/.test(document.getElementById('state').textContent)"))
        check("and waited for", page.wait(READY))
        clean("faults", page, proxy.url)


def keys(browser):
    with Server("--api-key", "secret") as s:
        page = browser.page()
        page.look(1280, 800)
        page.open(s.url)
        check("a key is asked for", page.wait("document.getElementById('settings').open && document.activeElement.id === 'key'"),
              page.js("document.body.innerText"))
        page.type("wrong")
        page.press("Enter")
        check("a wrong one is told", page.wait("/does not know this API key/.test(document.getElementById('settings-why').textContent)"))
        page.js("document.getElementById('key').value = ''")
        page.js("document.getElementById('key').focus()")
        page.type("secret")
        page.press("Enter")
        check("the right one opens", page.wait(READY), page.js("document.getElementById('state').textContent"))
        value(page, "max-tokens", "4")
        put(page, "Once")
        check("and is sent", runs(page)[0]["state"] == "done", runs(page))
        check("it is kept for the tab only", page.js("[sessionStorage.getItem('key'), localStorage.length, document.cookie]") == ["secret", 0, ""])
        page.js("sessionStorage.setItem('key', 'old')")
        put(page, "Twice")
        check("a key that stops working is told where it is missed", "API key is wrong" in runs(page)[0]["error"] and
              "Enter the key" in runs(page)[0]["error"], runs(page))
        clean("keys", page, s.url)


def killed(browser):
    with Server() as s:
        page = opened(browser, s)
        policy(page, "sink", "slots", 64)
        value(page, "max-tokens", "10000000")
        put(page, "Once", wait=False)
        page.wait(f"{LAST}?.querySelector('.text').textContent.length > 500")
        s.process.kill()
        s.process.wait()
        check("a server that dies is told", page.wait(f"{IDLE} && /broke off/.test({LAST}.querySelector('.error').textContent)"), runs(page))
        check("what came is kept", len(runs(page)[0]["text"]) > 500 and runs(page)[0]["told"] == "incomplete", runs(page)[0]["told"])
        check("the page says that nobody answers", page.wait("document.getElementById('state').dataset.state === 'gone' && "
              "!document.getElementById('notice').hidden"), page.js("document.getElementById('notice').textContent"))
        with Server("--port", str(s.port)):
            check("and finds the server when it is back", page.wait(READY))
            value(page, "max-tokens", "4")
            put(page, "Again")
            check("and goes on", runs(page)[0]["state"] == "done", runs(page))
        clean("killed", page, s.url)


def fixed(browser):
    with Server("--kv-policy-lock", "--kv-policy", "sink") as s:
        page = opened(browser, s)
        value(page, "max-tokens", "4")
        put(page, "Once")
        check("where the policy is fixed, none is named", runs(page)[0]["state"] == "done" and runs(page)[0]["label"] == "sink", runs(page))
        check("and the picture says so", "fixes the policy" in page.js("document.getElementById('inspector').textContent"),
              page.js("document.getElementById('inspector').textContent"))
        clean("fixed", page, s.url)


def profiled(browser):
    """Policies that need a head profile, with one: heads that keep all beside heads that keep little."""
    with tempfile.TemporaryDirectory() as folder:
        profile = os.path.join(folder, "heads.json")
        subprocess.run([BINARY, "calibrate", STORIES, "-o", profile], check=True, capture_output=True)
        with Server("--head-profile", profile) as s:
            page = opened(browser, s)
            check("with a profile all can be had", page.js("!document.querySelector('#policy-names input:disabled') && "
                  "!document.getElementById('policy-missing').textContent"))
            policy(page, "duo")
            check("the profile sets the budget", page.js("document.getElementById('budget-unit').value") == "default")
            value(page, "max-tokens", "4")
            for axis, amount in (("sinks", "2"), ("recent", "30")):
                page.js(f"(() => {{ const i = [...document.querySelectorAll('#axes-fields label')].find((l) => l.firstChild.textContent === '{axis}')"
                        f".lastChild; i.value = {amount}; i.dispatchEvent(new Event('change')); }})()")
            put(page, "The dog is big and red. " * 14)
            check("it answers", runs(page)[0]["state"] == "done", runs(page))
            labels = page.js("[...document.querySelectorAll('#grid [role=gridcell]')].map((c) => /keeps (\\d+) of (\\d+)/.exec(c.ariaLabel).slice(1).map(Number))")
            check("heads differ, some keep all", {n == of for n, of in labels} == {True, False}, labels)
            policy(page, "snapkv")
            check("others go back to a share", page.js("document.getElementById('budget-unit').value") == "share")
            followed(s, page)
            clean("profiled", page, s.url)


def followed(server, page):
    """Axes that follow from others, as GET /v1/kv/policies tells in `follows`."""
    for row in server.get("/v1/kv/policies")["data"]:
        name, follows = row["name"], row["follows"]
        policy(page, name)
        shown = dict(page.js("[...document.querySelectorAll('#axes-fields label')].map((l) => [l.firstChild.textContent.replaceAll(' ', '_'), "
                             "l.lastChild.tagName === 'INPUT' ? [l.lastChild.value, l.lastChild.placeholder] : l.lastChild.value])"))
        for axis in set(follows) & set(shown):
            own = row["defaults"][axis]
            hint = follows[axis] if own is None else str(own)
            check(f"{name}: {axis} is not sent unless it is set", shown[axis] in (["", hint], own), (shown[axis], hint))
        plan = page.js(f"import(new URL('page/policy.js', location)).then((m) => {{ m.choose('{name}', 1); return m.planFor('{name}', 100); }})")
        budget = plan["policy"].get("budget")
        check(f"{name}: only what was chosen is sent", set(plan["policy"]) <= {"name", "trace", "budget"}, plan)
        if budget is None or "budget" in follows:
            check(f"{name}: a share that follows the profile is left to the server", budget in (None, 0.01) and not plan["note"], plan)
            continue
        told = [server.post("/v1/kv/policies/resolve", {"kv_policy": {**plan["policy"], "budget": b}, "prompt_tokens": 100})[0]
                for b in (budget, budget - 1)]
        check(f"{name}: 1 % of a short prompt becomes the least budget that the server takes", told == [200, 400] and plan["note"], (plan, told))


def prefixed(browser):
    with Server("--api-prefix", "/a/b", prefix="/a/b") as s:
        page = opened(browser, s, "/a/b")
        value(page, "max-tokens", "4")
        put(page, "Once")
        check("below a prefix it works too", runs(page)[0]["state"] == "done", runs(page))
        check("and asks nothing outside", all(u.startswith(s.url + "/a/b") for u in page.requests), page.requests)
        clean("prefixed", page, s.url)


def demo(browser):
    """The bundled model finds the examples' facts under full."""
    with Server("--head-profile", DEMO.replace(".gguf", ".heads.json"), model=DEMO) as s:
        for number, words in ((1, "48213"), (2, "Geneva"), (3, "184")):
            page = opened(browser, s)
            page.click(f"#examples button:nth-child({number})")
            page.wait("/tokens/.test(document.getElementById('document-facts').textContent)")
            page.click("#compare")
            page.wait(f"{LAST} && {IDLE}", 120)
            check(f"full knows {words}", words in runs(page)[0]["text"], runs(page))
            clean("demo", page, s.url)


def screenshots(folder, model):
    os.makedirs(folder, exist_ok=True)
    heads = os.path.splitext(model)[0] + ".heads.json"
    flags = ("--head-profile", heads) if os.path.exists(heads) else ()
    with Server(*flags, model=model) as s, Browser() as browser:
        def shoot(page, name):
            path = os.path.join(folder, name)
            page.shoot(path)
            shrink_png(path)
            print(path, os.path.getsize(path), "bytes")

        page = opened(browser, s, width=1280, height=800)
        page.click("#examples button:first-child")
        page.wait("/tokens/.test(document.getElementById('document-facts').textContent)")
        policy(page, "snapkv", "share", 15)
        value(page, "max-tokens", "40")
        page.click("#with-sink")
        page.click("#compare")
        page.wait(f"{LAST} && {IDLE}", 300)
        page.click("#runs button:nth-child(2)")
        page.js("document.activeElement.blur()")
        page.command("Input.dispatchMouseEvent", type="mouseMoved", x=640, y=5)
        shoot(page, "page.png")
        page.look(1280, 800, dark=True)
        shoot(page, "dark.png")
        page.look(360, 740, mobile=True, scale=2)
        page.js("document.getElementById('policy').open = false; document.getElementById('cache').scrollIntoView()")
        shoot(page, "phone.png")
        page.look(1280, 800)
        page.js("document.getElementById('policy').open = true; document.getElementById('axes').open = true; scrollTo(0, 0)")
        page.click("#grid [data-index='6']")
        shoot(page, "policies.png")
        page.click("#new-chat")
        value(page, "document-text", page.js("document.getElementById('document-text').value.repeat(12)"))
        policy(page, "full")
        put(page, "What is the code of Anna?")
        s.stop()
        put(page, "And of Alice?")
        page.wait("document.getElementById('state').dataset.state === 'gone'")
        shoot(page, "error.png")


def main():
    with Server() as server:
        files(server)
        sources()
        pieces(server)
    below_a_prefix()
    reasons()
    if not find_chromium():
        print("SKIPPED: chromium is not on the PATH (Debian: chromium); the page was not opened in a browser")
        check.end()
    with Browser() as browser:
        with Server("--ctx-size", "512") as server:
            for part in (modules, chat, documents, picture, keyboard, small, contrast, faults):
                part(browser, server)
        for part in (keys, killed, fixed, profiled, prefixed):
            part(browser)
        if os.path.exists(DEMO):
            demo(browser)
    check.end()


if len(sys.argv) == 4 and sys.argv[1] == "--screenshots":
    screenshots(sys.argv[2], sys.argv[3])
else:
    main()
