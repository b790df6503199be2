#!/bin/sh
# The command line and the first example of the README, with curl.
set -u
BUILD=${BUILD:-build}
winnow=$BUILD/winnow
model=tests/data/stories260K.gguf
passed=0 failed=0
work=$(mktemp -d) || exit 1
server=
trap '[ -n "$server" ] && kill "$server" 2>/dev/null; rm -rf "$work"' EXIT

check() { # name, status of the condition
    if [ "$2" -eq 0 ]; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAILED $1"
        [ -n "${3:-}" ] && cat "$3"
    fi
}
# name, wanted exit status, text that stderr must hold, command...
refused() {
    name=$1 wanted=$2 text=$3
    shift 3
    "$@" >"$work/out" 2>"$work/err" </dev/null
    status=$?
    [ "$status" -eq "$wanted" ] && grep -qF -- "$text" "$work/err"
    check "$name (status $status)" $? "$work/err"
}

"$winnow" --version | grep -q '^winnow [0-9]'
check "--version" $?
"$winnow" --help | grep -q 'serve'
check "--help" $?
"$winnow" serve --help | grep -q -- '--kv-policy'
check "serve --help" $?
if [ -e /dev/full ]; then
    for call in --help --version "serve --help" "completions bash" "inspect $model" "run $model -p Once -n 3"; do
        # shellcheck disable=SC2016,SC2086 # the inner shell expands; $call is several words
        refused "a full disk: $call" 1 "the output could not be written" sh -c '"$@" >/dev/full' _ "$winnow" $call
    done
fi
refused "no subcommand" 2 "serve" "$winnow"
refused "unknown subcommand" 2 "sevre" "$winnow" sevre
refused "unknown flag" 2 "--kv-policy" "$winnow" serve "$model" --kv-polcy sink
refused "no such file" 1 "/nonexistent.gguf" "$winnow" serve /nonexistent.gguf --port 0
refused "a directory" 1 "tests" "$winnow" serve tests --port 0
printf 'GGUF\003\000\000\000\377\377\377\377\377\377\377\177' >"$work/bad.gguf"
refused "a hostile file" 1 "bad.gguf" "$winnow" serve "$work/bad.gguf" --port 0
head -c 100000 "$model" >"$work/cut.gguf"
refused "a file cut short" 1 "cut.gguf" "$winnow" inspect "$work/cut.gguf"
refused "a bad policy" 1 "snapvk" "$winnow" serve "$model" --port 0 --kv-policy snapvk
refused "a negative budget" 1 "budget" "$winnow" serve "$model" --port 0 --kv-policy '{"name":"sink","budget":-1}'
if "$winnow" run "$model" -p x -n 1 --device cuda >/dev/null 2>&1; then
    echo "SKIPPED: --device cuda is refused only where there is no GPU"
else
    refused "there is no GPU" 1 "no GPU can be used" "$winnow" serve "$model" --port 0 --device cuda
fi

"$winnow" inspect "$model" >"$work/out" 2>&1 && grep -q 'blk.4.ffn_down.weight' "$work/out"
check "inspect" $? "$work/out"
[ "$("$winnow" tokenize "$model" -p 'Once upon a time' --bos --ids)" = "1 403 407 261 378" ]
check "tokenize: $("$winnow" tokenize "$model" -p 'Once upon a time' --bos --ids)" $?

for name in "a model.gguf" blob; do
    make -n --no-print-directory CUDA=none BUILD="$BUILD" MODEL="$name" run >"$work/out" 2>&1
    grep -qF "serve \"$name\"" "$work/out" && ! grep -q -- --head-profile "$work/out"
    check "make run MODEL=\"$name\" serves that file" $? "$work/out"
done

# No network: apt's line for every package and mirror becomes a sentence.
mkdir "$work/bin"
cat >"$work/bin/apt-get" <<'A'
#!/bin/sh
case "$*" in
*update*)
    for i in 1 2 3 4 5 6 7 8 9; do echo "W: Failed to fetch http://deb.debian.org/$i  Temporary failure resolving 'deb.debian.org'" >&2; done ;;
*) echo "E: Unable to locate package nosuch" >&2; exit 100 ;;
esac
A
chmod +x "$work/bin/apt-get"
if [ "$(id -u)" = 0 ]; then
    PATH="$work/bin:$PATH" refused "no network" 1 "which this machine cannot reach" sh config/deps.sh nosuchcommand "" nosuch
    [ "$(wc -l <"$work/err")" -le 3 ] && grep -q "Install it by hand: nosuch" "$work/err"
    check "no network is said in three lines" $? "$work/err"
else
    echo "SKIPPED: deps.sh without a network needs root"
fi

answer=', there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball.'
"$winnow" run "$model" -p 'Once upon a time' -n 60 --temp 0 >"$work/out" 2>"$work/err"
grep -qF "$answer" "$work/out"
check "run gives the known answer" $? "$work/out"
grep -q 'tokens/s\|tokens per second' "$work/err"
check "run says tokens per second" $? "$work/err"

"$winnow" serve "$model" --port 0 2>"$work/log" &
server=$!
url=
for _ in $(seq 1 200); do
    url=$(grep -ao 'http://127.0.0.1:[0-9]*' "$work/log" | head -n 1)
    [ -n "$url" ] && curl -fs "$url/readyz" >/dev/null && break
    sleep 0.05
done
curl -fs "$url/v1/completions" -d '{"prompt":"Once upon a time","max_tokens":60,"temperature":0}' >"$work/out"
grep -qF "$answer" "$work/out"
check "curl without a content type" $? "$work/out"
curl -fsN "$url/v1/completions" -H 'Content-Type: application/json' \
    -d '{"prompt":"Once upon a time","max_tokens":60,"temperature":0,"stream":true}' >"$work/out"
tail -n 2 "$work/out" | grep -q '^data: \[DONE\]$'
check "a stream ends with [DONE]" $? "$work/out"
python3 - "$work/out" "$answer" <<'P'
import json, sys
text = "".join(json.loads(l[6:])["choices"][0]["text"] for l in open(sys.argv[1]) if l.startswith("data: {") and json.loads(l[6:])["choices"])
sys.exit(0 if text.startswith(sys.argv[2]) else 1)
P
check "the stream is the known answer" $? "$work/out"
status=$(curl -s -o "$work/out" -w '%{http_code}' "$url/v1/chat/completions" -d '{"messages":')
[ "$status" = 400 ] && grep -q invalid_json "$work/out"
check "bad JSON" $? "$work/out"
status=$(curl -s -o "$work/out" -w '%{http_code}' -H 'Origin: http://evil.example' -H 'Content-Type: text/plain' \
    "$url/v1/completions" -d '{"prompt":"x"}')
[ "$status" = 403 ]
check "another web page's POST is refused" $? "$work/out"
curl -fs "$url/metrics" | grep -q '^winnow_generation_tokens_total 120$'
check "metrics count tokens, and none for the refused" $?
# It used to wait for ever for handles that nobody closed.
refused "a taken metrics port" 1 "choose another with --metrics-port" \
    timeout 60 "$winnow" serve "$model" --port 0 --metrics-port "${url##*:}"
refused "a taken port" 1 "choose another with --port" timeout 60 "$winnow" serve "$model" --port "${url##*:}"
kill "$server"
wait "$server"
check "SIGTERM ends it with status 0" $? "$work/log"
server=
# Every address of a name is listened on, and named.
"$winnow" serve "$model" --host localhost --port 0 2>"$work/log" &
server=$!
for _ in $(seq 1 200); do grep -q 'ready at' "$work/log" && break; sleep 0.05; done
for address in $(getent ahosts localhost | awk '$2 == "STREAM" {print $1}' | sort -u); do
    case $address in *:*) [ -e /proc/net/if_inet6 ] || continue; address="[$address]" ;; esac
    url=$(grep -ao "http://$address:[0-9]*" "$work/log" | head -n 1)
    curl -fs --globoff "$url/readyz" >/dev/null
    check "localhost is served at $address" $? "$work/log"
done
kill "$server"
wait "$server"
server=
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
