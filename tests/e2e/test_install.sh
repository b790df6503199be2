#!/bin/sh
# make install and uninstall: what is put where, whether the manual page and the completions know every flag that the
# program's own help knows, whether they work in the shells that are here, and whether the systemd unit is sound.
set -u
BUILD=${BUILD:-build}
winnow=$BUILD/winnow
passed=0 failed=0
work=$(mktemp -d) || exit 1
server=
trap '[ -n "$server" ] && kill "$server" 2>/dev/null; rm -rf "$work"' EXIT
# The build folder as it is: no nvcc where it was built without.
cuda=none
for object in "$BUILD"/cuda/kernels/*.cu.o; do [ -f "$object" ] && cuda=auto; done

check() { # name, status of the condition, file to show
    if [ "$2" -eq 0 ]; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAILED $1"
        [ -n "${3:-}" ] && cat "$3"
    fi
}
here() { # program; says what is left out where it is not
    command -v "$1" >/dev/null 2>&1 && return
    echo "SKIPPED: $2: there is no $1"
    return 1
}
make_target() {
    make --no-print-directory CUDA="$cuda" BUILD="$BUILD" "$@" >"$work/make.log" 2>&1
}

root=$work/root
make_target DESTDIR="$root" PREFIX=/usr install
check "make install DESTDIR=... PREFIX=/usr" $? "$work/make.log"
for file in bin/winnow share/man/man1/winnow.1 share/bash-completion/completions/winnow share/zsh/site-functions/_winnow \
    share/fish/vendor_completions.d/winnow.fish lib/systemd/system/winnow.service share/winnow/winnow.json \
    share/doc/winnow/LICENSE share/doc/winnow/README.md; do
    [ -s "$root/usr/$file" ]
    check "installed: $file" $?
done
"$root/usr/bin/winnow" --version | grep -q '^winnow [0-9]'
check "the installed program runs" $?
! grep -rIl --exclude-dir=doc '@[A-Z]*@' "$root" >"$work/left"
check "no place is left unfilled" $? "$work/left"
! grep -rIl "$work" "$root" >"$work/left"
check "DESTDIR is in no file" $? "$work/left"

page=$root/usr/share/man/man1/winnow.1
shells="bash-completion/completions/winnow zsh/site-functions/_winnow fish/vendor_completions.d/winnow.fish"
# Every flag of every command's help, as winnow prints it, is in the manual page and in each completion.
: >"$work/missing"
n_flags=0
for command in $("$winnow" --help | awk '/^  [a-z]/ {print $1}'); do
    for flag in $("$winnow" "$command" --help | grep -E '^ +-' | grep -oE -- '(^|[ ,(])--[a-z][a-z-]+' | grep -oE -- '--[a-z-]+' | sort -u); do
        n_flags=$((n_flags + 1))
        [ "$command $flag" = "serve --model-path" ] && n_aliases=1
        sed 's/\\-/-/g' "$page" | grep -qF -- "$flag" || echo "$command $flag: manual page" >>"$work/missing"
        for shell in $shells; do
            case "$shell" in
            bash*) grep -F "    $command:-*)" "$root/usr/share/$shell" | grep -qE -- "[ \"]${flag}[ \"]" ;;
            zsh*) sed -n "/^        $command) _arguments/,/;;\$/p;" "$root/usr/share/$shell" | grep -qE -- "^ *'${flag}[=[]" ;;
            fish*) grep -F "__fish_seen_subcommand_from $command'" "$root/usr/share/$shell" | grep -qF -- "-l ${flag#--} " ;;
            esac || echo "$command $flag: $shell" >>"$work/missing"
        done
    done
done
[ ! -s "$work/missing" ] && [ "$n_flags" -gt 80 ] && [ -n "${n_aliases:-}" ]
check "every flag of every --help ($n_flags) is in the manual page and the completions" $? "$work/missing"

if here man "manual page"; then
    LC_ALL=C.UTF-8 MANWIDTH=80 man --warnings -l "$page" >"$work/page" 2>"$work/warnings"
    [ ! -s "$work/warnings" ] && grep -q 'kv-policy-max-budget' "$work/page"
    check "man has no warning" $? "$work/warnings"
fi
if here groff "manual page"; then
    groff -man -ww -z -Tutf8 "$page" 2>"$work/warnings" && [ ! -s "$work/warnings" ]
    check "groff has no warning" $? "$work/warnings"
fi
if here mandoc "manual page"; then
    mandoc -Tlint -Wwarning "$page" >"$work/warnings" 2>&1
    [ ! -s "$work/warnings" ]
    check "mandoc has no warning" $? "$work/warnings"
fi

# words of a command line, the last one being completed -> candidates on one line
bash_completes() {
    bash -c '. "$1" && shift && COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) && _winnow && echo "${COMPREPLY[*]}"' \
        bash "$root/usr/share/bash-completion/completions/winnow" winnow "$@"
}
expect() { # name, wanted, got
    [ "$2" = "$3" ]
    check "$1: '$3' and not '$2'" $?
}
policies=$(sed -n 's/.*serve:--kv-policy) _winnow_words "\(.*\)"; .*/\1/p' "$root/usr/share/bash-completion/completions/winnow")
if here bash "bash completion"; then
    expect "bash: winnow ser<TAB>" serve "$(bash_completes ser)"
    expect "bash: --kv-p<TAB>" "--kv-policy --kv-policy-max-budget --kv-policy-allow --kv-policy-lock" "$(bash_completes serve --kv-p)"
    expect "bash: --kv-policy <TAB>" "$policies" "$(bash_completes serve m.gguf --kv-policy '')"
    expect "bash: --kv-policy=sn<TAB>" snapkv "$(bash_completes serve --kv-policy = sn)"
    expect "bash: --kv-policy-allow sink,h2<TAB>" sink,h2o "$(bash_completes serve --kv-policy-allow sink,h2)"
    expect "bash: run --device c<TAB>" "cpu cuda" "$(bash_completes run m.gguf --device c)"
    expect "bash: a number is not guessed" "" "$(bash_completes serve --port '')"
    expect "bash: models are files" tests/data/stories260K.gguf "$(bash_completes serve tests/data/sto)"
    expect "bash: completions <TAB>" "bash zsh fish man" "$(bash_completes completions '')"
fi
if here zsh "zsh completion"; then
    cat >"$work/ask.zsh" <<'Z'
# A terminal of its own: what the line becomes after TAB.
zmodload zsh/zpty
zpty shell "TERM=dumb zsh -f -i"
zpty -w shell "PS1='> '; cd $2; fpath=(${1:h} \$fpath); autoload -Uz compinit; compinit -u -D; unsetopt list_beep; print rea\dy"
zpty -r -m shell line $'*ready[\r\n]*> *'
zpty -w -n shell "$3"$'\t'
repeat 100; do
    sleep 0.05
    zpty -r -t shell part 2>/dev/null && answer+=$part
    [[ $answer == *$4* ]] && print found && exit 0
done
print -r -- "$answer"
exit 1
Z
    for case in "winnow ser|serve" "winnow serve --kv-policy=sn|snapkv" "winnow run --kv-storage b|bf16"; do
        timeout 30 zsh -f "$work/ask.zsh" "$root/usr/share/zsh/site-functions/_winnow" "$PWD" "${case%|*}" "${case#*|}" >"$work/zsh.log" 2>&1
        check "zsh: $case" $? "$work/zsh.log"
    done
fi
if here fish "fish completion"; then
    fish_completes() {
        HOME=$work fish --no-config -c "source '$root/usr/share/fish/vendor_completions.d/winnow.fish'; complete -C '$1'" | cut -f 1 | tr '\n' ' ' | sed 's/ $//'
    }
    expect "fish: winnow ser<TAB>" serve "$(fish_completes 'winnow ser')"
    expect "fish: --kv-policy-l<TAB>" --kv-policy-lock "$(fish_completes 'winnow serve --kv-policy-l')"
    expect "fish: --kv-policy sn<TAB>" snapkv "$(fish_completes 'winnow serve --kv-policy sn')"
fi
"$winnow" completions tcsh >"$work/out" 2>"$work/err"
[ $? -eq 2 ] && grep -q 'bash|zsh|fish' "$work/err"
check "a shell that is not known is refused with status 2" $?
if [ -w /dev/full ]; then
    "$winnow" completions bash >/dev/full 2>"$work/err"
    [ $? -eq 1 ] && grep -q 'cannot write' "$work/err"
    check "a full disk is noticed" $? "$work/err"
fi

serve() { # arguments; url is where
    "$root/usr/bin/winnow" serve "$@" --port 0 2>"$work/log" &
    server=$!
    url=
    for _ in $(seq 1 600); do
        url=$(grep -ao 'http://127.0.0.1:[0-9]*' "$work/log" | head -n 1)
        [ -n "$url" ] && curl -fs "$url/readyz" >/dev/null && return 0
        kill -0 "$server" 2>/dev/null || return 1
        sleep 0.1
    done
    return 1
}

unit=$root/usr/lib/systemd/system/winnow.service
stop_after=$(sed -n 's/^TimeoutStopSec=//p' "$unit")
drain=$("$winnow" serve --help | sed -n 's/.*--shutdown-timeout .*\[\([0-9]*\)\].*/\1/p')
[ "$stop_after" -gt "$drain" ]
check "systemd waits longer ($stop_after s) than running requests get ($drain s)" $?
if here systemd-analyze "systemd unit"; then
    # It looks for the program and for the manual page where they will be, which is not here.
    sed "s|^ExecStart=/usr/bin|ExecStart=$root/usr/bin|" "$unit" >"$work/winnow.service"
    MANPATH=$root/usr/share/man systemd-analyze verify "$work/winnow.service" >"$work/verify" 2>&1
    check "systemd-analyze verify" $? "$work/verify"
    if systemd-analyze security --offline=true --threshold=20 "$work/winnow.service" >"$work/security" 2>&1; then true; else
        grep -q 'Unknown\|unrecognized' "$work/security" && echo "SKIPPED: this systemd-analyze cannot judge a unit offline"
    fi
    check "systemd-analyze security finds an exposure of 2.0 at most" $? "$work/security"
fi

if [ -f models/demo.gguf ] && [ -f models/demo.heads.json ]; then
    # The example configuration as it is, from the place it is installed to.
    sed "s|/usr/share|$root/usr/share|" "$root/usr/share/winnow/winnow.json" >"$work/winnow.json"
    serve --config "$work/winnow.json"
    check "the example configuration serves the demo model" $? "$work/log"
else
    echo "SKIPPED: the example configuration: models/demo.gguf or its head profile is not in this checkout"
    serve tests/data/stories260K.gguf
    check "the installed program serves" $? "$work/log"
fi
served=$(curl -fs "$url/v1/kv/policies" | python3 -c 'import json, sys; print(*sorted(p["name"] for p in json.load(sys.stdin)["data"]))')
expect "the completions know the policies that are served" "$served" "$(echo "$policies" | tr ' ' '\n' | sort | tr '\n' ' ' | sed 's/ $//')"
kill "$server"
wait "$server"
server=

make_target DESTDIR="$root" PREFIX=/usr uninstall
check "make uninstall" $? "$work/make.log"
find "$root" ! -type d >"$work/left"
[ ! -s "$work/left" ] && [ ! -e "$root/usr" ]
check "make uninstall leaves nothing, no empty folder either" $? "$work/left"
# Folders that were there stay, empty or not, also when it was installed twice.
mkdir -p "$root/usr/bin" "$root/usr/share/man"
make_target DESTDIR="$root" PREFIX=/usr install && make_target DESTDIR="$root" PREFIX=/usr install &&
    make_target DESTDIR="$root" PREFIX=/usr uninstall
[ "$(cd "$root" && find usr | sort | tr '\n' ' ')" = "usr usr/bin usr/share usr/share/man " ]
check "make uninstall keeps the folders that were there" $? "$work/make.log"

# Into a home, as anybody; what others put there stays.
make_target PREFIX="$work/home/.local" install
check "make install PREFIX=~/.local" $? "$work/make.log"
unit=$work/home/.local/share/systemd/user/winnow.service
grep -qxF "ExecStart=$work/home/.local/bin/winnow serve --config %h/.config/winnow/winnow.json" "$unit" &&
    grep -q '^WantedBy=default.target' "$unit" && ! grep -q DynamicUser "$unit"
check "in a home the unit is one of the user's services" $?
if here docker-compose "compose.yaml"; then
    docker-compose -p winnow -f docker/compose.yaml config >"$work/compose" 2>&1
    check "docker-compose reads compose.yaml" $? "$work/compose"
fi
echo mine >"$work/home/.local/share/winnow/mine.gguf"
make_target PREFIX="$work/home/.local" uninstall
check "make uninstall beside somebody's file" $? "$work/make.log"
[ "$(find "$work/home" ! -type d)" = "$work/home/.local/share/winnow/mine.gguf" ]
check "uninstall keeps what others put there" $?
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
