"""What the bundled model is for: facts in a long text are found with a small cache under the right policy, and lost under the
wrong one. Texts are the last pages of the novel, which the model was not trained on.

usage: test_demo.py                                    the checks
       test_demo.py QUESTIONS BUDGET,... POLICY,...    a table: right answers at every depth"""
import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from winnow_server import ROOT, Checks, Server  # noqa: E402

MODEL = os.path.join(ROOT, "models", "demo.gguf")
HEADS = os.path.join(ROOT, "models", "demo.heads.json")
NOVEL = open(os.path.join(ROOT, "tests", "data", "war-and-peace-end.txt"), encoding="utf-8").read()
POLICIES = ("full", "snapkv", "razor", "sink", "random")
BUDGET = 0.15
N_QUESTIONS = int(sys.argv[1]) if len(sys.argv) > 1 else 40
DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
N_TOKENS = 1500
NAMES = "Anna Boris Natasha Pierre Sonya Nicholas Vera Julie Olga Clara Hugo Felix Alice Henry Nora Simon".split()
KINDS = {
    "code": lambda r: str(r.randrange(10000, 100000)),
    "room": lambda r: str(r.randrange(100, 1000)),
    "password": lambda r: r.choice("marigold penguin volcano avocado dolphin lantern rocket anchor kettle orchid".split()),
    "colour": lambda r: r.choice("red blue green yellow black white brown purple orange silver".split()),
    "city": lambda r: r.choice("Lisbon Oslo Cairo Lima Kyoto Dublin Prague Athens Vienna Paris".split()),
}


def question(r, server, asked_depth):
    """A text of about N_TOKENS tokens with five facts, and the question for the one at `asked_depth`: (prompt, subject, value)."""
    subjects = [(kind, name) for name in r.sample(NAMES, 3) for kind in KINDS]
    facts = [(f"{kind} of {name}", KINDS[kind](r)) for kind, name in r.sample(subjects, 5)]
    depths = [asked_depth] + [r.random() for _ in facts[1:]]
    first = r.randrange(len(NOVEL) - 6000)
    first = NOVEL.index(". ", first) + 2
    text = NOVEL[first:first + int(server.characters)]
    for (subject, value), depth in sorted(zip(facts, depths), key=lambda f: -f[1]):
        at = text.find(". ", int(depth * len(text) * 0.97))
        at = at + 2 if at >= 0 else len(text)
        text = f"{text[:at]}The {subject} is {value}. {text[at:]}"
    return f"{text}\n\nWhat is the {facts[0][0]}?", facts[0][0], facts[0][1]


def ask(server, prompt, policy, budget):
    chosen = "full" if policy == "full" else {"name": policy, "budget": budget}
    body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": 24, "kv_policy": chosen}
    status, _, answer = server.post("/v1/chat/completions", body)
    if status != 200:
        raise ValueError(answer["error"]["message"])
    return answer["choices"][0]["message"]["content"], answer["usage"]


def measure(server, policy, budget):
    """Right answers, of N_QUESTIONS, by the fact's depth; the mean share of the cache that was kept."""
    r = random.Random(5)
    right, kept, wrong, lengths = {}, [], [], []
    for i in range(N_QUESTIONS):
        depth = DEPTHS[i % len(DEPTHS)]
        prompt, subject, value = question(r, server, depth)
        said, usage = ask(server, prompt, policy, budget)
        good = said.strip() == f"The {subject} is {value}."
        right[depth] = right.get(depth, 0) + good
        if not good:
            wrong.append((f"The {subject} is {value}.", said))
        cache = usage["kv_cache"]
        kept.append(cache["slots_kept"] / cache["tokens_seen"])
        lengths.append(usage["prompt_tokens"])
    return right, sum(kept) / len(kept), wrong, lengths


def set_length(server):
    """Characters of the novel that, with five facts and a question, make N_TOKENS."""
    _, _, counted = server.post("/tokenize", {"content": NOVEL[:6000]})
    server.characters = 6000 * (N_TOKENS - 70) / len(counted["tokens"])


def table(server, budgets, policies):
    each = N_QUESTIONS // len(DEPTHS)
    print("| policy | budget | right | " + " | ".join(f"at {d:.0%}" for d in DEPTHS) + " |\n|---|---|---|" + "---|" * len(DEPTHS))
    for policy in policies:
        for budget in budgets if policy != "full" else [1]:
            try:
                right, _, _, _ = measure(server, policy, budget)
            except ValueError as refused:
                print(f"| `{policy}` | {budget:.0%} | - |  {refused}")
                continue
            share = sum(right.values()) / N_QUESTIONS
            cells = " | ".join(f"{right[d] / each:.0%}" for d in DEPTHS)
            print(f"| `{policy}` | {budget:.0%} | {share:.0%} | {cells} |", flush=True)


if len(sys.argv) > 3:
    with Server("--no-prefix-cache", "--head-profile", HEADS, model=MODEL) as server:
        set_length(server)
        table(server, [float(b) for b in sys.argv[2].split(",")], sys.argv[3].split(","))
    raise SystemExit(0)
if not os.path.exists(MODEL):
    print("0 passed, 1 failed")
    raise SystemExit("models/demo.gguf is missing")
check = Checks()
with Server("--audit", "--no-prefix-cache", "--head-profile", HEADS, model=MODEL) as server:
    for said in ("Hello!", "Thank you!", "Who are you?"):
        answer, _ = ask(server, said, "full", 0)
        wanted = {"H": "Hello", "T": "welcome", "W": "winnow"}[said[0]]
        check(f"it answers \"{said}\"", wanted in answer, answer)
    told = "The code of Anna is 48213. The room of Boris is 417. "
    for asked, wanted in (("code of Anna", "48213"), ("room of Boris", "417")):
        answer, _ = ask(server, f"{told}What is the {asked}?", "full", 0)
        check(f"it finds the {asked} in a sentence", answer == f"The {asked} is {wanted}.", answer)

    set_length(server)
    found, shares = {}, {}
    for policy in POLICIES:
        right, kept, wrong, lengths = measure(server, policy, BUDGET)
        found[policy], shares[policy] = sum(right.values()), kept
        by_depth = ", ".join(f"{d:.0%}: {right[d]}" for d in DEPTHS)
        print(f"  {policy} at {1 if policy == 'full' else BUDGET:.0%}: {found[policy]} of {N_QUESTIONS} right (depth {by_depth}), "
              f"{kept:.0%} of the slots kept, {min(lengths)} to {max(lengths)} tokens")
        for wanted, said in wrong[:2]:
            print(f"    wanted {wanted!r}, said {said[:60]!r}")
    whole = found["full"]
    check("the full cache answers 95 %", whole >= 0.95 * N_QUESTIONS, found)
    for policy in ("snapkv", "razor"):
        check(f"{policy} keeps 90 % of that", found[policy] >= 0.9 * whole, found)
    for policy in ("sink", "random"):
        check(f"{policy} loses most", found[policy] < 0.5 * whole, found)
    for policy in POLICIES[1:]:
        check(f"{policy} holds its budget", shares[policy] < BUDGET + 0.03, shares)
    check("no page is left", server.all_pages_back())
    check("ends well", server.stop() == 0, server.log()[-2000:])
check.end()
