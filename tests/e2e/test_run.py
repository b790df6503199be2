"""`winnow run`: the template, sampling and length of one prompt, and the chat on a terminal, whose turns are one session."""
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from winnow_server import BUILD, Checks  # noqa: E402

check = Checks()
WINNOW = os.path.join(BUILD, "winnow")
DEMO, STORIES = "models/demo.gguf", "tests/data/stories260K.gguf"
FACTS = "The code of Anna is 48213. The room of Boris is 417."


def run(*arguments, text=None):
    p = subprocess.run([WINNOW, "run", *arguments], input=text, capture_output=True, text=True, timeout=120)
    return p.returncode, p.stdout, p.stderr


class Terminal:
    """A chat on a terminal of its own."""

    def __init__(self, *arguments):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(WINNOW, [WINNOW, "run", *arguments])
        self.seen = ""

    def wait_for(self, text, timeout=60):
        """What was shown until `text`, which must come."""
        end = time.time() + timeout
        while text not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.time()))
            try:
                part = os.read(self.fd, 65536) if ready else b""
            except OSError:  # the program has ended
                part = b""
            if not part:
                raise AssertionError(f"no {text!r} in {self.seen!r}")
            self.seen += re.sub(r"\x1b\[K", "", part.decode(errors="replace")).replace("\r", "")
        shown, self.seen = self.seen.split(text, 1)
        return shown

    def say(self, line):
        os.write(self.fd, line.encode() + b"\n")

    def ask(self, line):
        """The answer to a line, without the line itself."""
        self.say(line)
        shown = self.wait_for("\n> ")
        return shown.split("\n", 1)[1] if "\n" in shown else ""

    def close(self):
        os.write(self.fd, b"\x04")
        while True:
            try:
                if not os.read(self.fd, 65536):
                    break
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def one_prompt():
    code, out, err = run(DEMO, "-p", f"{FACTS} What is the code of Anna?", "--temp", "0")
    check("a model with a template is asked, not continued", (code, out.strip()) == (0, "The code of Anna is 48213."), out)
    code, out, err = run(DEMO, "-p", "Hello")
    tokens = int(re.search(r"decode: (\d+) tokens", err)[1])
    check("Hello is answered in a sensible length", code == 0 and tokens <= 512, (tokens, out))
    raw = run(DEMO, "-p", "Hello", "--raw", "--temp", "0", "-n", "5")
    check("--raw continues", raw[0] == 0 and "5 tokens" in raw[2] and raw[1] != out, raw)
    check("a cut answer is said to be cut", "cut after 5 tokens; -n" in raw[2], raw[2])
    code, out, err = run(STORIES, "-p", "Once upon a time", "--temp", "0", "-n", "20")
    check("a model without a template continues", code == 0 and out.startswith(", there was a little girl"), out)
    check("--system without a template is refused", run(STORIES, "-p", "x", "--system", "y")[0] == 2)
    check("--raw and --chat are refused", run(DEMO, "-p", "x", "--raw", "--chat")[0] == 2)
    piped = run(DEMO, "--temp", "0", text=f"{FACTS} What is the room of Boris?")
    check("a piped prompt is a message too", piped[1].strip() == "The room of Boris is 417.", piped)
    razor = run(DEMO, "-p", f"{FACTS} What is the code of Anna?", "--temp", "0", "--kv-policy", "razor")
    check("the head profile beside the model is found", "48213" in razor[1], razor)


    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "a model.gguf")
        shutil.copy(STORIES, model)
        shutil.copy(DEMO.replace(".gguf", ".heads.json"), os.path.join(folder, "a model.heads.json"))
        other = run(model, "-p", "Once", "-n", "1")
        check("a profile of another model beside it is left out, with a warning",
              other[0] == 0 and "a model.heads.json is not used" in other[2], other)
        check("--head-profile '' looks for none", "not used" not in run(model, "-p", "x", "-n", "1", "--head-profile", "")[2])


def chat():
    t = Terminal(DEMO, "--temp", "0")
    t.wait_for("> ")
    answer = t.ask(f"{FACTS} What is the code of Anna?")
    check("the first message is answered", "The code of Anna is 48213." in answer, answer)
    answer = t.ask("What is the room of Boris?")
    check("the chat remembers", "The room of Boris is 417." in answer, answer)
    stats = t.ask("/stats")
    n, computed = map(int, re.search(r"prompt: (\d+) tokens, (\d+) of them computed", stats).groups())
    check("a turn computes its own tokens only", computed < n / 2 and "went on with the cache" in stats, stats)
    check("a wrong policy is explained", "snapkv" in t.ask("/policy snapvk"))
    check("policies are listed", "policy full. There are full, sink," in t.ask("/policy"))
    check("a policy is taken", "policy razor" in t.ask('/policy {"name":"razor","min_window":16}'))
    answer = t.ask("What is the code of Anna?")
    check("the chat goes on under another policy", "The code of Anna is 48213." in answer, answer)
    stats = t.ask("/stats")
    check("the new policy drops", "policy: razor" in stats and "computed the whole chat" in stats, stats)
    low, high, seen = map(int, re.search(r"heads hold (\d+) to (\d+) of (\d+) tokens", stats).groups())
    check("some heads hold less", low < high == seen, stats)
    t.ask("What is the room of Boris?")
    check("the session goes on under the policy", "went on with the cache" in t.ask("/stats"))
    check("an unknown command is not a message", "no command /polcy" in t.ask("/polcy"))
    check("help", "/clear" in t.ask("/help"))
    t.ask("/clear")
    answer = t.ask("What is the code of Anna?")
    check("/clear forgets", "48213" not in answer, answer)
    check("a missing file is named", "/nonexistent" in t.ask("/file /nonexistent"))
    check("Ctrl-D ends it with status 0", t.close() == 0)

    t = Terminal(DEMO, "--temp", "0", "--system", "Be brief.")
    t.wait_for("> ")
    t.say("The code of Anna is 48213.\\")
    t.wait_for(". ")
    check("a line that ends in \\ goes on", "48213" in t.ask("What is the code of Anna?"))
    t.say("/exit")
    t.seen = ""
    check("/exit ends it", os.waitstatus_to_exitcode(os.waitpid(t.pid, 0)[1]) == 0)

    t = Terminal(DEMO, "--raw", "-n", "5")
    shown = t.wait_for("Ctrl-D on an empty line ends it.")
    check("without a template it says what to type", "Type the beginning" in shown, shown)
    os.kill(t.pid, signal.SIGKILL)
    os.waitpid(t.pid, 0)

    t = Terminal(DEMO, "--ignore-eos", "-n", "-1")
    t.wait_for("> ")
    t.say("Tell me a story.")
    t.wait_for("\n")
    time.sleep(0.3)
    os.write(t.fd, b"\x03")
    t.wait_for("> ")
    check("Ctrl-C stops an answer, not the chat", "no command" in t.ask("/nothing"))
    check("and Ctrl-D ends it", t.close() == 0)


one_prompt()
chat()
check.end()
