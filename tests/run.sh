#!/bin/sh
# Runs every test and adds up: the last line is "N passed, N failed". Check programs print
# "P%: Checks: C, Failures: F, Errors: E"; the scripts in tests/e2e print "N passed, N failed" as their last line.
# A program that ends in any other way counts as one failure. Skips are printed as "SKIPPED: why".
set -u
BUILD=${BUILD:-build}
export BUILD
passed=0 failed=0
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT

count() { # status
    line=$(grep -aE '^[0-9]+%: Checks: [0-9]+, Failures: [0-9]+, Errors: [0-9]+' "$log" | tail -n 1)
    if [ -n "$line" ]; then
        checks=$(echo "$line" | sed 's/.*Checks: \([0-9]*\).*/\1/')
        failures=$(echo "$line" | sed 's/.*Failures: \([0-9]*\).*/\1/')
        errors=$(echo "$line" | sed 's/.*Errors: \([0-9]*\).*/\1/')
        bad=$((failures + errors)) good=$((checks - failures - errors))
    else
        line=$(grep -aE '^[0-9]+ passed, [0-9]+ failed$' "$log" | tail -n 1)
        good=${line%% *} bad=$(echo "$line" | sed 's/.*, \([0-9]*\) failed/\1/')
        [ -n "$line" ] || { good=0 bad=1; echo "  (ended with status $1 and without a result line)"; }
    fi
    [ "$1" -ne 0 ] && [ "$bad" -eq 0 ] && { bad=1; echo "  (exit status $1)"; }
    passed=$((passed + good)) failed=$((failed + bad))
    if [ "$bad" -ne 0 ]; then cat "$log"; fi
    grep -a '^SKIPPED' "$log"
    echo "  $good passed, $bad failed"
}

for program in "$BUILD"/tests/unit/test_* "$BUILD"/tests/kernels/test_* "$BUILD"/tests/cuda_emu/test_*; do
    case "$program" in *.o | *.d | *'*') continue ;; esac
    source=tests/${program#"$BUILD"/tests/}.c
    [ -f "$source" ] || source=${source}pp
    [ -f "$source" ] || continue
    echo "$source"
    "$program" >"$log" 2>&1
    count $?
done
# The properties of every policy once more on the emulated GPU: where the heads of a real model keep the reference's
# slots for every plan, of everything else every 12th case. WINNOW_TEST_DEVICE=cuda alone runs all of it (an hour).
for name in test_policies test_policy_properties; do
    echo "tests/unit/$name.c on the emulated GPU, a part"
    WINNOW_TEST_DEVICE=cuda WINNOW_TEST_PART=12 "$BUILD/tests/unit/$name" >"$log" 2>&1
    count $?
    grep -a '^a part: ' "$log" | sed 's/^/  /'
done
echo "tests/unit/test_reference.c on the emulated GPU: a whole answer, token by token; the long streams are left out"
WINNOW_TEST_DEVICE=cuda CK_RUN_CASE=reference "$BUILD/tests/unit/test_reference" >"$log" 2>&1
count $?
# A build that is itself sanitized has no need of this one.
case "$BUILD" in *asan* | *tsan*) ;;
*)
    for name in test_cuda_select test_cuda_rows; do
        echo "tests/kernels/$name.cpp under AddressSanitizer and UndefinedBehaviorSanitizer"
        make --no-print-directory CUDA=none emulated-asan ONLY="$name" >"$log" 2>&1
        count $?
    done
    ;;
esac
for script in tests/e2e/test_*.sh tests/e2e/test_*.py; do
    [ -f "$script" ] || continue
    echo "$script"
    case "$script" in
    *.sh) sh "$script" >"$log" 2>&1 ;;
    *.py) python3 "$script" >"$log" 2>&1 ;;
    esac
    count $?
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
