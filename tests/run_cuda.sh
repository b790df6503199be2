#!/bin/sh
# Runs the tests of kernels and of the engine's lower half on the GPU of this machine (make test-cuda): the last line is
# "N passed, N failed". A machine without a GPU is an error here: `make test` runs them emulated.
set -u
BUILD=${BUILD:-build/cuda}
passed=0 failed=0
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
export WINNOW_TEST_DEVICE=cuda
for program in "$BUILD"/real/tests/kernels/test_cuda_* "$BUILD"/tests/unit/test_policies \
    "$BUILD"/tests/unit/test_policy_properties "$BUILD"/tests/unit/test_engine "$BUILD"/tests/unit/test_reference; do
    case "$program" in *.o | *.d | *'*') continue ;; esac
    echo "$program"
    "$program" >"$log" 2>&1
    status=$?
    line=$(grep -aE '^[0-9]+%: Checks: [0-9]+, Failures: [0-9]+, Errors: [0-9]+' "$log" | tail -n 1)
    checks=$(echo "$line" | sed -n 's/.*Checks: \([0-9]*\).*/\1/p')
    bad=$(echo "$line" | sed -n 's/.*Failures: \([0-9]*\), Errors: \([0-9]*\).*/\1 + \2/p')
    bad=$((${bad:-1})) checks=$((${checks:-1}))
    [ "$status" -ne 0 ] && [ "$bad" -eq 0 ] && bad=1
    [ "$bad" -eq 0 ] || cat "$log"
    passed=$((passed + checks - bad)) failed=$((failed + bad))
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
