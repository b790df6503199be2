#!/bin/sh
# Builds every fuzzer with clang, ASan and UBSan and runs each for the given number of seconds, starting from
# tests/fuzz/corpus/<name>. usage: run.sh SECONDS [NAME...]
set -eu
seconds=${1:-600}
[ $# -gt 0 ] && shift
BUILD=${BUILD:-build/fuzz}
${MAKE:-make} --no-print-directory CC=clang BUILD="$BUILD" OPTIMISE=-O1 \
    SANITIZE="-fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=undefined -fno-omit-frame-pointer" fuzzers
for fuzzer in "$BUILD"/tests/fuzz/fuzz_*; do
    case "$fuzzer" in *.o | *.d) continue ;; esac
    name=$(basename "$fuzzer")
    name=${name#fuzz_}
    if [ $# -gt 0 ]; then
        case " $* " in *" $name "*) ;; *) continue ;; esac
    fi
    mkdir -p "$BUILD/corpus/$name"
    dictionary=
    [ -f "tests/fuzz/$name.dict" ] && dictionary="-dict=tests/fuzz/$name.dict"
    echo "== $name, $seconds s"
    # shellcheck disable=SC2086 # empty when there is no dictionary
    "$fuzzer" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 \
        -artifact_prefix="$BUILD/$name-" $dictionary "$BUILD/corpus/$name" "tests/fuzz/corpus/$name"
done
