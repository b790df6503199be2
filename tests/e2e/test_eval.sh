#!/bin/sh
# winnow eval and calibrate from the command line: results, resumption after an interrupt, errors.
set -u
cd "$(dirname "$0")/../.." || exit 1
W=${BUILD:-build}/winnow
MODEL=tests/data/stories260K.gguf
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
# shellcheck source=tests/e2e/checks.sh
. tests/e2e/checks.sh
cat tests/unit/test_tokenizer.c tests/unit/test_engine.c >"$dir/text"
run() { # folder, options...
    folder=$1
    shift
    "$W" eval "$MODEL" --text "$dir/text" --contexts 300,400 --steps 16 --trials 1 --budgets 64,0.5 \
        --out "$folder" "$@"
}

run "$dir/a" >"$dir/table" 2>"$dir/log"
check "eval runs" $?
python3 - "$dir" <<'EOF'
import json, math, sys
d = sys.argv[1]
r = json.load(open(d + "/a/results.json"))
rows = r["summary"]
full = [x for x in rows if x["policy"] == "full" and x["task"] == "text"]
assert len(full) == 2 and all(x["agreement"] == 1 and x["kl"] == 0 and x["memory"] == 1 for x in full), full
names = {x["policy"] for x in rows}
assert names >= {"full", "sink", "h2o", "snapkv", "tova", "scissorhands", "pyramidkv", "adakv", "knorm", "keydiff", "random"}, names
assert all(x["memory"] < 1 for x in rows if x["policy"] != "full"), rows
assert all(math.isfinite(x["perplexity"]) and x["kl"] >= 0 for x in rows if x["task"] == "text"), rows
assert len({x["kl"] for x in rows if x["task"] == "text"}) > 10
asked = [x for x in r["runs"] if x["task"] == "retrieval"]
assert {x["fact"] for x in asked} == {"number", "word"} and len(asked) == 2 * 3 * 2 * (len(names) * 2 - 1), len(asked)
assert all(x["held"] == 1 for x in asked if x["policy"] == "full"), asked
held = [x["held"] for x in asked if x["policy"] == "random" and x["budget"] == 0.5]
assert 0 < sum(held) / len(held) < 0.5, held  # all pieces of a fact, of which each stays with one half
held = {x["depth"]: x["held"] for x in asked
        if x["policy"] == "sink" and x["budget"] == 0.5 and x["context"] == 400}
assert held[0.1] == 0 and held[0.9] == 1, held  # a window holds the end of the text, and all of it
page = open(d + "/a/report.html").read()
assert page.count("<svg") == 2 * 5 and "</html>" in page and "http" not in page.replace("http-equiv", ""), page[:200]
EOF
check "results and report hold together" $?
lines=$(wc -l <"$dir/a/results.jsonl")
run "$dir/a" >"$dir/table2" 2>"$dir/log2"
[ ! -s "$dir/log2" ] && [ "$(wc -l <"$dir/a/results.jsonl")" -eq "$lines" ] && cmp -s "$dir/table" "$dir/table2"
check "a second run has nothing left to do" $?
mkdir "$dir/b"
head -n 30 "$dir/a/results.jsonl" | head -c -9 >"$dir/b/results.jsonl" # the last line cut short
run "$dir/b" >"$dir/table3" 2>"$dir/log3"
[ "$(wc -l <"$dir/b/results.jsonl")" -eq "$lines" ] && cmp -s "$dir/table" "$dir/table3"
check "an interrupted run goes on and comes to the same" $?

run "$dir/d" --no-sharing >"$dir/table4" 2>"$dir/log4"
sort "$dir/a/results.jsonl" >"$dir/shared" && sort "$dir/d/results.jsonl" >"$dir/anew"
[ -s "$dir/anew" ] && cmp "$dir/shared" "$dir/anew"
check "what runs share changes no digit" $?
run "$dir/e" --policies '{"name":"h2o","remnant":"mean"},h2o,{"name":"keydiff","sinks":0},keydiff,sink,full' >"$dir/out" 2>"$dir/err"
run "$dir/f" --no-sharing --policies 'full,{"name":"keydiff","sinks":0},{"name":"h2o","remnant":"mean"},sink,keydiff,h2o' \
    >"$dir/out" 2>"$dir/err"
sort "$dir/e/results.jsonl" >"$dir/shared" && sort "$dir/f/results.jsonl" >"$dir/anew"
[ -s "$dir/anew" ] && cmp "$dir/shared" "$dir/anew"
check "nor does the order of policies, or what they took over from each other" $?

run "$dir/c" --tasks stream --stream-tokens 5000 --policies sink --budgets 64 >"$dir/stream" 2>"$dir/log"
check "a stream runs" $?
grep -q '^stream .* sink' "$dir/stream"
check "a stream is reported" $?

refused "other settings" "other settings" run "$dir/a" --seed 5
refused "no text" "no text" "$W" eval "$MODEL"
refused "a text that is not there" "cannot be opened" "$W" eval "$MODEL" --text "$dir/none" --out "$dir/x"
refused "an unknown policy" "snapvk" run "$dir/x" --policies snapvk
refused "a bad budget" "--budgets" run "$dir/x" --budgets 0.5,x
refused "a context beyond the model" "--contexts" "$W" eval "$MODEL" --text "$dir/text" --contexts 4000 --out "$dir/x"
refused "razor without a profile is skipped, not run" "skipped" sh -c \
    "$W eval $MODEL --text $dir/text --contexts 300 --steps 8 --tasks text --policies razor --budgets 64 --out $dir/y; exit 1"

"$W" calibrate "$MODEL" -o "$dir/profile.json" >"$dir/out" 2>"$dir/err"
check "calibrate writes a profile" $?
python3 -c "import json,sys; json.load(open(sys.argv[1]))" "$dir/profile.json"
check "the profile is JSON" $?
"$W" calibrate "$MODEL" -o "$dir/fewer.json" --induction-percent 5 --echo-percent 0 >"$dir/out" 2>"$dir/err" &&
    grep -q "^1 of 20 KV heads are retrieval heads" "$dir/out"
check "calibrate chooses as many heads as asked" $?
grep -q "this model has no heads that look things up" "$dir/out"
check "calibrate says when all scores are chance" $? "$dir/out"
"$W" calibrate models/demo.gguf -o "$dir/demo.json" >"$dir/out" 2>"$dir/err" &&
    grep -q "^1 of 12 KV heads are retrieval heads" "$dir/out" && grep -q "^Left out: 1 more" "$dir/out"
check "calibrate finds the demo model's one head without settings" $? "$dir/out"
refused "calibrate that would choose none" "--induction-percent" \
    "$W" calibrate "$MODEL" -o "$dir/none.json" --induction-percent 0 --echo-percent 0
"$W" run "$MODEL" -p "Once upon a time" -n 5 --temp 0 --head-profile "$dir/profile.json" --kv-policy razor \
    >"$dir/out" 2>"$dir/err" && grep -q "little" "$dir/out"
check "razor runs with it" $?
sed 's/"model_hash": *"./"model_hash": "f/; s/"model_hash":"./"model_hash":"f/' "$dir/profile.json" >"$dir/other.json"
if cmp -s "$dir/profile.json" "$dir/other.json"; then
    sed 's/"model_hash": *"./"model_hash": "0/; s/"model_hash":"./"model_hash":"0/' "$dir/profile.json" >"$dir/other.json"
fi
refused "a profile of another model" "other.json\|profile" "$W" run "$MODEL" -p x --head-profile "$dir/other.json"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
