#!/usr/bin/env python3
"""What the unit tests ran of the product, by room: coverage.py BUILD [--files] [--memory]

BUILD is a folder of objects made with --coverage whose programs have run (`make coverage`). --files lists every source
too; --memory lists the lines that report a lack of memory, those that no test reached last."""
import collections
import glob
import json
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ROOMS = r"(config|cache|engine|server|cuda/host)(/|$)"
REPORT = re.compile(r'\berror_set_memory\(|"out_of_memory"')


def measured(build):
    """{file: {line: times}} summed over all programs that have it."""
    lines = collections.defaultdict(lambda: collections.defaultdict(int))
    notes = [n for n in glob.glob(f"{build}/**/*.gcno", recursive=True) if not n.startswith(f"{build}/tests/")]
    for note in notes:
        done = subprocess.run(["gcov", "--json-format", "--stdout", note], cwd=ROOT, capture_output=True, check=False)
        for text in done.stdout.splitlines():
            for file in json.loads(text)["files"]:
                name = os.path.relpath(os.path.join(ROOT, file["file"]), ROOT)
                if re.match(ROOMS, name):
                    for line in file["lines"]:
                        lines[name][line["line_number"]] += line["count"]
    return lines


def memory_lines(name):
    """[first, last] lines of the statements of a file that report a lack of memory."""
    with open(os.path.join(ROOT, name), encoding="utf-8") as f:
        text = f.read().split("\n")
    for i, line in enumerate(text):
        if REPORT.search(line) and not re.match(r"\s*(\*|/\*|//|#)|bool\W", line):
            last = i
            while last + 1 < len(text) and ";" not in text[last]:
                last += 1
            yield i + 1, last + 1


def main():
    build = next(a for a in sys.argv[1:] if not a.startswith("--"))
    lines = measured(build)
    rooms = collections.defaultdict(lambda: [0, 0])
    for name, counts in lines.items():
        for key in (os.path.dirname(name), "all"):
            rooms[key][0] += len(counts)
            rooms[key][1] += sum(n > 0 for n in counts.values())
    for top in ("cache", "engine without jinja", "server"):
        parts = [v for k, v in rooms.items() if k.startswith(top.split()[0] + "/") and k != "engine/jinja" or k == top]
        rooms[f"= {top}"] = [sum(p[0] for p in parts), sum(p[1] for p in parts)]
    print(f"{'room':<24} {'lines':>7} {'run':>7} {'share':>7}")
    for room in sorted(rooms, key=lambda r: (r == "all", r.startswith("="), r)):
        total, run = rooms[room]
        print(f"{room:<24} {total:>7} {run:>7} {100 * run / max(1, total):>6.1f}%")
    if "--files" in sys.argv:
        for name in sorted(lines):
            total, run = len(lines[name]), sum(n > 0 for n in lines[name].values())
            print(f"{name:<44} {total:>5} {run:>5} {100 * run / total:>6.1f}%")
    sources = subprocess.run(["git", "ls-files", "config", "cache", "engine", "server"], cwd=ROOT, capture_output=True, text=True,
                             check=True).stdout.split()
    reached, missed = [], []
    for name in sources:
        if name.endswith((".c", ".h")) and os.path.exists(os.path.join(ROOT, name)) and not name.endswith("base/error.h"):
            for first, last in memory_lines(name):
                ran = any(lines[name].get(at, 0) > 0 for at in range(first, last + 1)) if name in lines else False
                (reached if ran else missed).append(f"{name}:{first}")
    print(f"{len(reached) + len(missed)} lines report a lack of memory; tests reach {len(reached)}")
    if "--memory" in sys.argv:
        print("\n".join(["reached: " + r for r in reached] + ["missed:  " + m for m in missed]))


main()
