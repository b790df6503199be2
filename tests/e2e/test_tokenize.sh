#!/bin/sh
# `winnow tokenize` as a person uses it: output forms, exit statuses, and standard input.
# WINNOW_TEST_SMOLLM2 names a SmolLM2 model file, whose ids are then checked too.
set -u
winnow=${BUILD:-build}/winnow
vocab=tests/data/vocab-llama-spm.gguf
small=tests/data/vocab-bpe-small.gguf
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

check() { # name, wanted status, wanted output, command...
    name=$1 status=$2 wanted=$3
    shift 3
    got=$("$@" 2>"$work/stderr")
    code=$?
    if [ "$code" -eq "$status" ] && [ "$got" = "$wanted" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$name: status $code (wanted $status), output: $got (wanted: $wanted)"
        cat "$work/stderr"
    fi
}

said() { # name, pattern that the last command's stderr must have
    if grep -q "$2" "$work/stderr"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$1: stderr does not say \"$2\":"
        cat "$work/stderr"
    fi
}

check ids 0 "15043 3186" "$winnow" tokenize "$vocab" -p "Hello world" --ids
check bos 0 "1 15043" "$winnow" tokenize "$vocab" -p "Hello" --ids --bos
check empty 0 "" "$winnow" tokenize "$vocab" -p "" --ids
check lines 0 "$(printf '15043\t" Hello"\n13\t"\\n"\n29948\t"é"\n162\t"\\x9f"')" \
    "$winnow" tokenize "$vocab" -p "$(printf 'Hello\né\237')"
printf 'Hello world' >"$work/text"
check file 0 "15043 3186" "$winnow" tokenize "$vocab" -f "$work/text" --ids
check stdin 0 "15043 3186" sh -c "\"$winnow\" tokenize \"$vocab\" --ids -f - <\"$work/text\""
check special 0 "3257" "$winnow" tokenize "$small" -p "<|im_start|>" --ids --special
check plain 0 "27 91 320 62 301 433 91 29" "$winnow" tokenize "$small" -p "<|im_start|>" --ids
check no-model 2 "" "$winnow" tokenize -p x
said no-model "winnow tokenize: the model file is missing"
check no-text 2 "" "$winnow" tokenize "$vocab"
check two-texts 2 "" "$winnow" tokenize "$vocab" -p x -f "$work/text"
check unknown-option 2 "" "$winnow" tokenize "$vocab" -p x --nonsense
said unknown-option "unknown flag --nonsense"
check missing-value 2 "" "$winnow" tokenize "$vocab" -p
check missing-model 1 "" "$winnow" tokenize "$work/none.gguf" -p x
said missing-model "^winnow tokenize: "
check missing-file 1 "" "$winnow" tokenize "$vocab" -f "$work/none"
said missing-file "cannot be opened"
check not-a-model 1 "" "$winnow" tokenize "$work/text" -p x
said not-a-model "^winnow tokenize: "
if [ -n "${WINNOW_TEST_SMOLLM2:-}" ] && [ -f "$WINNOW_TEST_SMOLLM2" ]; then
    check smollm2 0 "1 4093 198 19556 2" "$winnow" tokenize "$WINNOW_TEST_SMOLLM2" --special --ids \
        -p "$(printf '<|im_start|>user\nHello<|im_end|>')"
else
    echo "SKIPPED: SmolLM2's ids (set WINNOW_TEST_SMOLLM2 to its file)"
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
