#!/bin/sh
# Runs every test and adds up: the last line is "N passed, N failed". Check programs print
# "P%: Checks: C, Failures: F, Errors: E"; the scripts in tests/e2e print "N passed, N failed" as their last line.
# A program that ends in any other way counts as one failure. Skips are printed as "SKIPPED: why".
# The parts, in this order: lint, programs, emulated, asan, tsan, e2e. PARTS="programs e2e" runs only these.
set -u
BUILD=${BUILD:-build}
export BUILD
# A build that is itself sanitized has no need of sanitized parts.
case "$BUILD" in
*asan* | *tsan*) PARTS=${PARTS:-programs emulated e2e} ;;
*) PARTS=${PARTS:-lint programs emulated asan tsan e2e} ;;
esac
passed=0 failed=0 times=
logs=$(mktemp -d) || exit 1
log=$logs/log
trap 'rm -rf "$logs"' EXIT

count() { # status, counts what stands in $log
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

# A command that has no result line: one check, which holds when the command succeeds.
check() { # name, command...
    echo "$1"
    shift
    "$@" >"$log" 2>&1
    status=$?
    [ "$status" -eq 0 ] && echo "1 passed, 0 failed" >>"$log" || echo "0 passed, 1 failed" >>"$log"
    count "$status"
}

is_program() {
    case "$1" in *.o | *.d | *.log | *'*') return 1 ;; esac
    [ -f "$1" ] && [ -x "$1" ]
}

# Programs on all cores, each with its log; they are counted in the given order.
run_beside() { # what it is called, programs...
    how=$1
    shift
    # shellcheck disable=SC2016 # the inner shell expands
    printf '%s\n' "$@" | xargs -P "$(nproc)" -I{} sh -c '"$1" >"$2/$(basename "$1").log" 2>&1; echo $? >"$2/$(basename "$1").status"' _ {} "$logs"
    for program in "$@"; do
        name=$(basename "$program")
        echo "$name under $how"
        cp "$logs/$name.log" "$log"
        count "$(cat "$logs/$name.status")"
    done
}

lint() {
    for step in format arrows shell cppcheck; do
        check "lint: $step" make --no-print-directory "lint-$step"
    done
    check "lint: clang-tidy" make --no-print-directory -j"$(nproc)" lint-tidy
}

programs() {
    for program in "$BUILD"/tests/unit/test_* "$BUILD"/tests/kernels/test_* "$BUILD"/tests/cuda_emu/test_*; do
        is_program "$program" || continue
        source=tests/${program#"$BUILD"/tests/}.c
        [ -f "$source" ] || source=${source}pp
        [ -f "$source" ] || continue
        echo "$source"
        "$program" >"$log" 2>&1
        count $?
    done
}

# The properties of every policy once more on the emulated GPU: where the heads of a real model keep the reference's
# slots for every plan, of everything else every 12th case. WINNOW_TEST_DEVICE=cuda alone runs all of it (an hour).
emulated() {
    for name in test_policies test_policy_properties; do
        echo "tests/unit/$name.c on the emulated GPU, a part"
        WINNOW_TEST_DEVICE=cuda WINNOW_TEST_PART=12 "$BUILD/tests/unit/$name" >"$log" 2>&1
        count $?
        grep -a '^a part: ' "$log" | sed 's/^/  /'
    done
    echo "tests/unit/test_reference.c on the emulated GPU: a whole answer, token by token; the long streams are left out"
    WINNOW_TEST_DEVICE=cuda CK_RUN_CASE=reference "$BUILD/tests/unit/test_reference" >"$log" 2>&1
    count $?
}

sanitized() { # asan or tsan, what it is called
    check "building the tests for $2" make --no-print-directory -j"$(nproc)" "tests-$1"
    chosen=
    for program in "$BUILD/$1"/tests/unit/test_* "$BUILD/$1"/tests/kernels/test_*; do
        is_program "$program" && chosen="$chosen $program"
    done
    # shellcheck disable=SC2086 # names without blanks, see the Makefile
    CK_TIMEOUT_MULTIPLIER=10 WINNOW_TEST_PART=12 run_beside "$2" $chosen
}
asan() { sanitized asan "AddressSanitizer and UndefinedBehaviorSanitizer"; }
tsan() { sanitized tsan ThreadSanitizer; }

e2e() {
    for script in tests/e2e/test_*.sh tests/e2e/test_*.py; do
        [ -f "$script" ] || continue
        echo "$script"
        case "$script" in
        *.sh) sh "$script" >"$log" 2>&1 ;;
        *.py) python3 "$script" >"$log" 2>&1 ;;
        esac
        count $?
    done
}

for part in $PARTS; do
    began=$(date +%s)
    $part
    times="$times $part $(($(date +%s) - began)) s,"
done
echo "time:${times%,}"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
