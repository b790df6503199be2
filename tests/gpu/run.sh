#!/bin/sh
# What the GPU of this machine makes of winnow: right or wrong, and how fast, in at most 9 minutes. Comes with what
# `make gpu-bundle` packs and needs a driver; PyTorch and compute-sanitizer are used where they are.
#   sh run.sh [FOLDER]    leaves FOLDER/summary.txt and FOLDER/logs.tar.gz (default: $OUT, or gpu-results)
# PARTS="kernels engine" runs only these. Each part has its own limit and none stops the others.
set -u
here=$(cd "$(dirname "$0")" && pwd)
back=${1:-${OUT:-gpu-results}}
mkdir -p "$back" || exit 1
back=$(cd "$back" && pwd)
parts=${PARTS:-kernels engine sanitizers speed peer}
logs=$(mktemp -d) || exit 1
models=$(mktemp -d -p "$( [ -w /dev/shm ] && echo /dev/shm || echo /tmp )") || exit 1
trap 'rm -rf "$logs" "$models"' EXIT
began=$(date +%s)
bin=$here/bin
failed=0

say() { echo "[$(($(date +%s) - began)) s] $*" | tee -a "$logs/summary.txt"; }
keep() { cp "$logs/summary.txt" "$back/" && tar -czf "$back/logs.tar.gz" -C "$logs" .; }

# cuBLAS comes with PyTorch where it is not installed for itself.
cublas=$(python3 -c "import glob, os, site
print(':'.join({os.path.dirname(p) for s in site.getsitepackages() for p in glob.glob(s + '/nvidia/**/libcublas.so.1[23]', recursive=True)}))" 2>/dev/null)
export LD_LIBRARY_PATH="$here/lib:$cublas:/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export CK_VERBOSITY=normal

say "winnow $(cat "$here/commit" 2>/dev/null)"
card=$(nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader 2>/dev/null) || {
    say "no NVIDIA driver answers here (nvidia-smi failed): nothing was run"
    keep
    exit 0
}
say "$card"
ldd "$bin/winnow" | grep 'not found' && say "libraries are missing, see above"
cd "$here" || exit 1 # tests read tests/data

result() { # name, its log: one line of the summary, and the first failures
    line=$(grep -aE '%: Checks' "$logs/$1.log" | tail -n 1)
    case "$line" in 100%*) ;; *) failed=1 ;; esac
    say "$1: ${line:-no result} $(grep -aE 'ERROR SUMMARY|RACECHECK SUMMARY' "$logs/$1.log" | tr '\n' ' ')$(tail -n 1 "$logs/$1.log")"
    grep -aE ':[FE]:' "$logs/$1.log" | head -n 6 | cut -c1-250
}
run() { # limit in seconds, name of the log, command...
    run_limit=$1 run_log=$logs/$2.log
    shift 2
    timeout "$run_limit" "$@" >"$run_log" 2>&1
    echo "status $?" >>"$run_log"
}

# One process a program, because CUDA takes a second to start; all at once, because they wait for the host.
kernels() {
    for program in "$bin"/test_cuda_*; do
        CK_FORK=no run 40 "$(basename "$program")" "$program" &
    done
    wait
    for program in "$bin"/test_cuda_*; do result "$(basename "$program")"; done
}

engine() {
    export WINNOW_TEST_DEVICE=cuda
    for name in test_device_sampling test_reference test_engine; do run 90 "$name" "$bin/$name" & done
    for name in test_policies test_policy_properties; do WINNOW_TEST_PART=8 run 90 "$name" "$bin/$name" & done
    wait
    for name in test_device_sampling test_reference test_engine test_policies test_policy_properties; do result "$name"; done
}

# The sanitizers look at the first launches of each program; they do not follow libcheck's processes.
sanitizers() {
    command -v compute-sanitizer >/dev/null || {
        say "sanitizers: skipped, compute-sanitizer is not installed"
        return
    }
    for tool in memcheck racecheck synccheck; do
        for program in "$bin"/test_cuda_*; do
            name=$tool-$(basename "$program")
            CK_FORK=no run 40 "$name" compute-sanitizer --tool "$tool" --print-limit 20 --error-exitcode 9 --launch-count 300 "$program" &
        done
        wait
    done
    for log in "$logs"/memcheck-* "$logs"/racecheck-* "$logs"/synccheck-*; do result "$(basename "$log" .log)"; done
}

bench() { # name, model, limit, arguments...
    bench=bench-$1 model=$2 limit=$3
    shift 3
    run "$limit" "$bench" "$bin/winnow" bench "$model" --device cuda --tokens 32 --repeats 3 --json "$logs/$bench.json" "$@"
    grep -E '^(decode|prefill)|error' "$logs/$bench.log" | tee -a "$logs/summary.txt"
    say "$bench: $(tail -n 1 "$logs/$bench.log")"
}

# Alone on the card: kernels, then whole steps of a model of Llama-3-8B's shape.
speed() {
    run 30 bench_cuda "$bin/bench_cuda"
    tee -a "$logs/summary.txt" <"$logs/bench_cuda.log"
    for type in bf16 q4_k; do run 40 "model-$type" python3 "$here/model_8b.py" "$models/$type.gguf" "$type" & done
    wait
    bench bf16 "$models/bf16.gguf" 45 --contexts 1024,8192 --prompt 8192 --batch 1,8,32 --policies full --kv-storage f16,q8,q4
    bench bf16-policies "$models/bf16.gguf" 30 --contexts 8192 --prompt 8192 --batch 1,8,32 --policies snapkv:1024,h2o:1024
    bench q4_k "$models/q4_k.gguf" 60 --contexts 1024,8192 --prompt 8192 --batch 1,8,32 --policies full,snapkv:1024,h2o:1024
    rm -f "$models"/*.gguf
}

peer() {
    run 50 torch_peer python3 "$here/torch_peer.py"
    tee -a "$logs/summary.txt" <"$logs/torch_peer.log"
}

for part in $parts; do
    case "$part" in
    kernels) kernels ;;
    engine) engine ;;
    sanitizers) sanitizers ;;
    speed) speed ;;
    peer) peer ;;
    *) say "there is no part $part" ;;
    esac
    say "$part: done"
    keep
done
if [ "$failed" -eq 0 ]; then say "everything that ran passed"; else say "something failed, see above"; fi
keep
exit "$failed"
