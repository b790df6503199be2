#!/bin/sh
# Carries out docker/Dockerfile without Docker: every FROM is a fresh Debian from debootstrap, RUN, COPY, ENV, USER and
# the others do there what they say. Then the finished stage is run like a container: as its user, on a read-only root,
# with ports of its own, and is asked what a user would ask.
# usage: docker/check_chroot.sh FOLDER    as root; needs debootstrap, unshare, ip and curl; some minutes and 1 GB.
# FOLDER keeps the Debian base between runs (FOLDER/base); delete it afterwards. The last line is "N passed, N failed".
set -eu
cd "$(dirname "$0")/.."
folder=${1:?usage: docker/check_chroot.sh FOLDER}
path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# ---- the image, in mounts of its own, so that nothing stays mounted

# One instruction a line, no comments.
instructions() {
    sed -e '/^#/d' docker/Dockerfile | sed -e ':a' -e '/\\$/N; s/\\\n *//; ta'
}
# What .dockerignore lets through.
context() {
    git ls-files -co --exclude-standard | sort >"$folder/all"
    git -c core.excludesFile=.dockerignore check-ignore --no-index --stdin <"$folder/all" | sort >"$folder/ignored" || true
    comm -23 "$folder/all" "$folder/ignored"
}
# ["a", "b"] as words
words() {
    echo "$*" | tr -d '[]",'
}
in_stage() { # command for a shell
    # shellcheck disable=SC2086 # one word each
    chroot "$stage" /usr/bin/env -i PATH="$path" DEBIAN_FRONTEND=noninteractive $arguments $environment \
        sh -c "cd '$directory' && $*"
}
begin_stage() { # image [AS name]
    case "$1" in debian:bookworm*) ;; *)
        echo "only stages FROM debian:bookworm can be made here, not $1" >&2
        exit 1
        ;;
    esac
    n_stages=$((n_stages + 1)) directory=/ environment='' arguments=''
    stage=$folder/stage$n_stages
    [ -z "${3:-}" ] || eval "stage_$3=\$stage"
    rm -rf "$stage"
    cp -a "$folder/base" "$stage"
    cp /etc/resolv.conf "$stage/etc/resolv.conf"
    mount -t proc proc "$stage/proc"
    : >"$folder/user"
    echo "== $stage: FROM $1"
}
copy() {
    case "$1" in
    --from=*)
        eval "from=\$stage_${1#--from=}"
        mkdir -p "$stage$(dirname "$3")"
        # shellcheck disable=SC2154 # eval sets it
        cp -a "$from$2" "$stage$3"
        ;;
    .)
        context | tar -cf - -T - | tar -xf - -C "$stage$directory"
        demo "$stage$directory"
        ;;
    *)
        context | grep -qxF "$1" || { echo "COPY $1: not in the build context" >&2; exit 1; }
        cp -a "$1" "$stage$2"
        ;;
    esac
}
# A checkout without the demo model is checked with the tests' model in its place.
demo() {
    [ -f "$1/models/demo.gguf" ] && return
    echo "   no models/demo.gguf in this checkout: tests/data/stories260K.gguf stands in for it"
    mkdir -p "$1/models"
    cp tests/data/stories260K.gguf "$1/models/demo.gguf"
    stand_in=$1/models
}
build() {
    n_stages=0 stand_in=
    [ -d "$folder/base" ] || debootstrap --variant=minbase bookworm "$folder/base" http://deb.debian.org/debian
    instructions >"$folder/instructions"
    while read -r word rest; do
        [ -z "$word" ] || echo "   $word $(echo "$rest" | cut -c 1-100)"
        # shellcheck disable=SC2086 # instructions are words
        case "$word" in
        FROM) begin_stage $rest ;;
        ARG) arguments="$arguments $rest" ;;
        ENV) environment="$environment $rest" ;;
        WORKDIR) directory=$rest && mkdir -p "$stage$rest" ;;
        COPY) copy $rest ;;
        RUN) in_stage "$rest" >"$folder/log" 2>&1 </dev/null || { cat "$folder/log"; exit 1; } ;;
        USER) echo "$rest" >"$folder/user" ;;
        VOLUME) mkdir -p "$stage$rest" ;;
        ENTRYPOINT) words "$rest" >"$folder/entrypoint" ;;
        CMD) words "$rest" >"$folder/cmd" ;;
        HEALTHCHECK) words "${rest#*CMD }" >"$folder/healthcheck" ;;
        STOPSIGNAL) echo "$rest" | sed 's/^SIG//' >"$folder/stopsignal" ;;
        EXPOSE) echo "$rest" >"$folder/port" ;;
        "") ;;
        *) echo "$word is not known here" >&2 && exit 1 ;;
        esac
        if [ "$word" = RUN ] && [ -n "$stand_in" ]; then
            echo "   (its head profile comes from winnow calibrate)"
            chroot "$stage" /src/build/winnow calibrate /src/models/demo.gguf -o /src/models/demo.heads.json >/dev/null 2>&1
            in_stage "make CUDA=none COMMIT=unknown PREFIX=/usr DESTDIR=/out install" >/dev/null
            stand_in=
        fi
    done <"$folder/instructions"
    echo "$environment" >"$folder/environment"
    ln -sfn "stage$n_stages" "$folder/image"
}

# ---- the container, with a network of its own

passed=0 failed=0 container=
check() { # name, status
    if [ "$2" -eq 0 ]; then passed=$((passed + 1)) && echo "   ok: $1"; else
        failed=$((failed + 1))
        echo "FAILED $1"
        cat "$folder/container.log"
    fi
}
enter() { # as the image's user, with its environment; the shell that calls becomes the program
    # shellcheck disable=SC2046 # one word each
    exec chroot --userspec="$(cat "$folder/user")" "$folder/root" /usr/bin/env -i PATH="$path" $(cat "$folder/environment") "$@"
}
inside() {
    (enter "$@")
}
start() { # arguments instead of CMD
    # shellcheck disable=SC2046 # words
    [ $# -gt 0 ] || set -- $(cat "$folder/cmd")
    enter "$(cat "$folder/entrypoint")" "$@" >"$folder/container.log" 2>&1 &
    container=$!
    for _ in $(seq 1 300); do
        curl -fs "$url/readyz" >/dev/null && return 0
        kill -0 "$container" 2>/dev/null || return 1
        sleep 0.1
    done
    return 1
}
stop() {
    kill -s "$(cat "$folder/stopsignal")" "$container"
    status=0
    wait "$container" || status=$?
    container=
}
healthy() {
    # shellcheck disable=SC2046 # one word each
    inside $(cat "$folder/healthcheck")
}

contain() {
    trap '[ -z "$container" ] || kill "$container" 2>/dev/null' EXIT
    ip link set lo up
    url=http://127.0.0.1:$(cat "$folder/port")
    mkdir -p "$folder/root" "$folder/models"
    mount --bind "$folder/image" "$folder/root"
    mount -o remount,bind,ro "$folder/root"
    mount -t proc proc "$folder/root/proc"
    cp tests/data/stories260K.gguf "$folder/models/other.gguf"
    echo '{"model": "/models/other.gguf", "alias": "other", "host": "127.0.0.1"}' >"$folder/models/winnow.json"
    mount --bind "$folder/models" "$folder/root/models"
    : >"$folder/container.log"

    [ "$(inside ldd /usr/bin/winnow 2>&1 | grep -c 'not found')" = 0 ]
    check "ldd finds every library" $?
    [ ! -e "$folder/root/usr/bin/gcc" ] && [ ! -e "$folder/root/usr/bin/make" ] && [ ! -e "$folder/root/src" ]
    check "no compiler and no source in the image" $?
    if healthy 2>/dev/null; then false; else true; fi
    check "the health check fails while nothing runs" $?

    start
    check "starts with its CMD, on a read-only root" $?
    [ "$(awk '/^Uid:/ {print $2 ":" $3}' "/proc/$container/status")" = 10001:10001 ]
    check "runs as uid 10001" $?
    healthy
    check "the health check passes" $?
    curl -fs "$url/v1/completions" -d '{"prompt":"Once upon a time","max_tokens":16,"temperature":0,"kv_policy":{"name":"razor","budget":0.9}}' |
        grep -q '"text"'
    check "answers, also under a policy that needs the head profile" $?

    curl -sN "$url/v1/completions" -d '{"prompt":"Once","max_tokens":4000,"temperature":0,"ignore_eos":true,"stream":true,"kv_policy":{"name":"sink","budget":64}}' \
        >"$folder/stream" &
    client=$!
    for _ in $(seq 1 100); do
        [ -s "$folder/stream" ] && break
        sleep 0.02
    done
    kill -s "$(cat "$folder/stopsignal")" "$container"
    sleep 0.2
    [ "$(curl -s -o /dev/null -w '%{http_code}' "$url/readyz")" = 503 ]
    check "while it drains it is not ready" $?
    healthy
    check "while it drains it is healthy" $?
    wait "$client"
    tail -n 2 "$folder/stream" | grep -q '^data: \[DONE\]$'
    check "the running answer ends whole" $?
    status=0
    wait "$container" || status=$?
    [ "$status" -eq 0 ]
    check "SIGTERM ends with status 0 (got $status)" $?

    start serve /models/other.gguf --kv-policy sink
    check "starts with a model of the volume" $?
    stop
    [ "$status" -eq 0 ]
    check "stops with status 0" $?
    start serve --config /models/winnow.json
    curl -fs "$url/v1/models" | grep -q '"other"'
    check "a configuration file of the volume names another model" $?
    grep -q 'listens at http://0.0.0.0:8080' "$folder/container.log"
    check "and is reachable from outside all the same" $?
    stop
    start serve
    check "starts without a model or a profile: the demo model" $?
    stop
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}

case "${2:-}" in
"")
    mkdir -p "$folder"
    folder=$(cd "$folder" && pwd)
    unshare --mount "$0" "$folder" build
    unshare --mount --net "$0" "$folder" contain
    ;;
build) build ;;
contain) set +e && contain ;;
esac
