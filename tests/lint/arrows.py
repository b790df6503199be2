#!/usr/bin/env python3
"""Fails on an #include that points up between the rooms, on one that a rule forbids, and on headers that
include each other in a circle.

Usage: arrows.py [--list], from anywhere. known_arrows.txt beside this file holds what is still to be mended: a line
there that is no longer needed fails too, so the list can only shrink. --list prints what the list would have to be."""
import collections
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KNOWN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "known_arrows.txt")

# From top to bottom. A file may include its own room and rooms on lower lines, nothing on its own line or above.
ORDER = [
    ["server/cli"],
    ["server/report"],
    ["server"],
    ["server/api", "server/page"],
    ["server/http"],
    ["engine/serve"],
    ["engine/measure"],
    ["engine/cpu", "cuda/host"],
    ["cuda/kernels"],
    ["cuda/emulated"],
    ["engine/compute"],
    ["engine/text"],
    ["engine/jinja"],
    ["engine/model"],
    ["cache/pages"],
    ["cache/policy"],
    ["config"],
    ["config/base"],
]
LINE = {room: line for line, rooms in enumerate(ORDER) for room in rooms}

# (rooms it is about, what they may not include, why); both are regular expressions.
RULES = [
    (r"(?!cuda/|server$|server/cli$)", r"cuda/", "only the program's start names the CUDA backend; others take a struct backend"),
    (r"(cache|config/base)\b", r"jansson\.h", "this room knows no JSON library; JSON is read in server/api"),
    (r"(cache|config|cuda|engine)\b", r"microhttpd\.h", "only server/http speaks HTTP"),
    (r"", r"tests/", "the product includes nothing of the tests"),
]
INCLUDE = re.compile(r'\s*#\s*include\s+["<]([^">]+)[">]')


def sources():
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", *sorted({r.split("/")[0] for r in LINE})],
                            cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return sorted(f for f in listed if re.search(r"\.(c|h|cu|cpp)$", f) and os.path.exists(os.path.join(ROOT, f)))


def includes(files):
    """[(file, line, included)]; a name without a folder is beside its file."""
    found = []
    for file in files:
        with open(os.path.join(ROOT, file), encoding="utf-8") as text:
            for number, line in enumerate(text, 1):
                match = INCLUDE.match(line)
                if match:
                    target = match.group(1)
                    beside = os.path.join(os.path.dirname(file), target)
                    if not os.path.exists(os.path.join(ROOT, target)) and os.path.exists(os.path.join(ROOT, beside)):
                        target = beside
                    found.append((file, number, target))
    return found


def upward(files, found):
    for file in files:
        room = os.path.dirname(file)
        if room not in LINE:
            yield (file, room), f"{file}: the room {room} is not in ORDER of tests/lint/arrows.py: say what lies above and below it"
    for file, number, target in found:
        room, other = os.path.dirname(file), os.path.dirname(target)
        rule = next((why for who, what, why in RULES if re.match(who, room) and re.match(what, target)), None)
        if rule:
            yield (file, target), f"{file}:{number}: includes {target}: {rule}"
        elif room in LINE and other in LINE and room != other and LINE[other] <= LINE[room]:
            beside = "lies beside" if LINE[other] == LINE[room] else "lies above"
            yield (file, target), f"{file}:{number}: includes {target}: {other} {beside} {room}, and arrows point down"


def circles(found):
    """Each circle once, from its first file in the alphabet."""
    graph = collections.defaultdict(dict)
    for file, number, target in found:
        graph[file].setdefault(target, f"{file}:{number}: includes {target}")
    seen = set()

    def walk(path):
        for target in graph.get(path[-1], ()):
            if target in path:
                circle = path[path.index(target):]
                first = circle.index(min(circle))
                seen.add(tuple(circle[first:] + circle[:first]))
            elif target not in done:
                walk([*path, target])
        done.add(path[-1])

    done = set()
    for file in sorted(graph):
        walk([file])
    for circle in sorted(seen):
        edges = [graph[a][b] for a, b in zip(circle, circle[1:] + circle[:1])]
        yield ("circle", " ".join(circle)), "headers that include each other in a circle:\n    " + "\n    ".join(edges)


def main():
    files = sources()
    found = includes(files)
    faults = [*upward(files, found), *circles(found)]
    if sys.argv[1:] == ["--list"]:
        print("\n".join(sorted({" ".join(key) for key, _ in faults})))
        return 0
    with open(KNOWN, encoding="utf-8") as text:
        known = {line.strip() for line in text if line.strip() and not line.startswith("#")}
    present = {" ".join(key) for key, _ in faults}
    new = [why for key, why in faults if " ".join(key) not in known]
    gone = sorted(known - present)
    for why in new:
        print(why)
    for line in gone:
        print(f"tests/lint/known_arrows.txt: mended, take this line out: {line}")
    print(f"arrows: {len(found)} includes of {len(files)} files, {len(new)} wrong, {len(known & present)} known and still to be mended")
    return 1 if new or gone else 0


sys.exit(main())
