#!/bin/sh
# winnow bench from the command line: points that agree with the model's sizes, files, errors. No test asserts a speed.
set -u
cd "$(dirname "$0")/../.." || exit 1
W=${BUILD:-build}/winnow
MODEL=tests/data/stories260K.gguf
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
# shellcheck source=tests/e2e/checks.sh
. tests/e2e/checks.sh

"$W" bench "$MODEL" --contexts 0,100,300 --prompt 200 --batch 1,3 --policies full,sink,h2o:0.5 --budgets 64 \
    --kv-storage f16,q8 --tokens 8 --repeats 3 --threads 2 --json "$dir/a.json" --svg "$dir/a.svg" >"$dir/table"
check "bench runs" $?
python3 - "$dir" <<'EOF'
import json, sys, xml.dom.minidom
d = sys.argv[1]
r = json.load(open(d + "/a.json"))
points = r["points"]
find = lambda **want: [p for p in points if all(p[k] == v for k, v in want.items())]
done = [p for p in points if "skipped" not in p]
assert r["model"]["name"] == "stories260K" and r["backend"]["threads"] == 2, r
assert r["machine"]["read_bytes_per_second"] > 1e8 and r["machine"]["operations_per_second"] > 1e8, r["machine"]
assert len(find(test="decode", policy="full")) == 3 * 2 * 2 and len(find(test="prefill", policy="full")) == 2, points
assert {p["policy"] for p in points} == {"full", "sink:64", "h2o:0.5"} and {p["kv_storage"] for p in points} == {"f16", "q8"}
# Half of an empty context is raised to what h2o always keeps.
assert done == points, [p for p in points if "skipped" in p]
for p in done:
    assert len(p["seconds"]) == 3 and sorted(p["seconds"])[1] == p["median"] and p["best"] <= p["median"] <= p["worst"], p
    n = p["context"] if p["test"] == "prefill" else 8 * p["batch"]
    assert abs(p["tokens_per_second"] * p["median"] - n) < 1e-6 * n, p
    if p["test"] == "decode":
        moved = p["bytes_per_token"] * p["batch"]
        assert abs(moved - p["weight_bytes_per_step"] - p["kv_bytes_per_step"]) < 1, p
        assert abs(p["share_of_read"] - moved * 8 / p["median"] / r["machine"]["read_bytes_per_second"]) < 1e-6 * p["share_of_read"], p
# 5 layers of 4 KV heads of 8 dimensions: an f16 slot is 2 * 8 * 2 bytes and a position of 4. A step sees its own token,
# and one step runs before the 8 that are timed: they see 302 to 309 tokens.
full = find(test="decode", policy="full", kv_storage="f16", batch=1, context=300)[0]
assert full["kv_bytes_per_step"] == (300 + 5.5) * 5 * 4 * 36, full
three = find(test="decode", policy="full", kv_storage="f16", batch=3, context=300)[0]
assert three["kv_bytes_per_step"] == 3 * full["kv_bytes_per_step"], (full, three)
assert abs(three["weight_bytes_per_step"] - full["weight_bytes_per_step"] - 2 * 64 * 4) < 1  # two rows of embeddings more
sink = find(test="decode", policy="sink:64", kv_storage="f16", batch=1, context=300)[0]
assert full["kv_bytes_per_step"] > 4 * sink["kv_bytes_per_step"] and sink["kv_held_bytes"] < full["kv_held_bytes"], sink
q8 = find(test="decode", policy="full", kv_storage="q8", batch=1, context=300)[0]
assert q8["kv_bytes_per_step"] < full["kv_bytes_per_step"], q8
picture = xml.dom.minidom.parse(d + "/a.svg")
assert len(picture.getElementsByTagName("polyline")) == 2 * (2 * 3 + 3), picture.toxml()[:300]
lines = open(d + "/table").read().splitlines()
assert sum(line.startswith(("decode ", "prefill ")) for line in lines) == len(points), lines
EOF
check "points, files and table hold together" $?
"$W" bench "$MODEL" --contexts none --prompt 64 --repeats 1 --json "$dir/b.json" >"$dir/out" 2>"$dir/err" &&
    python3 -c "import json, sys; p = json.load(open(sys.argv[1]))['points']; assert [x['test'] for x in p] == ['prefill']" "$dir/b.json"
check "prompts alone" $?
"$W" bench "$MODEL" --prompt none --contexts 0 --batch 2 --repeats 1 --tokens 4 --isa plain >"$dir/out" 2>"$dir/err" &&
    grep -q "multiply-adds (plain)" "$dir/out"
check "an instruction set is chosen for the model and the machine" $?
"$W" bench --help | grep -q -- "--max-seconds"
check "help" $?

refused "no model" "the model file is missing" "$W" bench
refused "a model that is not there" "none.gguf" "$W" bench "$dir/none.gguf"
refused "an unknown policy" "snapkv" "$W" bench "$MODEL" --policies snapvk
refused "a bad budget" "not a budget" "$W" bench "$MODEL" --policies sink:x
refused "a context beyond the model" "--contexts" "$W" bench "$MODEL" --contexts 4096
refused "half a token" "whole number" "$W" bench "$MODEL" --contexts 1.5
refused "nothing to do" "neither contexts nor prompts" "$W" bench "$MODEL" --contexts none --prompt none
refused "an empty name" "list of names" "$W" bench "$MODEL" --policies full,,sink
refused "an unknown storage" "q4" "$W" bench "$MODEL" --kv-storage f17
refused "no runs" "--repeats" "$W" bench "$MODEL" --repeats 0
refused "a file that cannot be written" "--json" "$W" bench "$MODEL" --json "$dir/no/a.json"
refused "an unknown flag" "unknown flag --frobnicate" "$W" bench "$MODEL" --frobnicate
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
