# Counts for scripts that read this file with `.`: passed, failed, and how to check. $dir is a scratch folder of the script's.
# shellcheck shell=sh disable=SC2034,SC2154
passed=0 failed=0
check() { # name, status of what was tested
    if [ "$2" -eq 0 ]; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAILED $1"
    fi
}
refused() { # name, words, command...
    name=$1 words=$2
    shift 2
    "$@" >"$dir/out" 2>"$dir/err"
    status=$?
    [ "$status" -ne 0 ] && [ "$status" -lt 100 ] && grep -q -- "$words" "$dir/err"
    check "$name" $?
}
